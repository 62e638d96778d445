"""Reads the letters of multiple-choice options. Part of the Python reference; csrc/choice.cc implements the same rules.

fold.py first normalizes a text (quotes, dashes, accents, LaTeX, emphasis) and splits it into words. Three functions
then look for an option: after a marker (`choice_after_marker`), in a sentence that calls it correct (`stated_choice`),
and at the end of the text (`last_choice`). They return None where a careful reader would not be sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from string import ascii_uppercase

from fastsia.answers.fold import CLOSE, Words, is_digits, is_number, is_word, words_of
from fastsia.answers.tables import word_set

DEFAULT_NUM_OPTIONS = 5  # letters A to E if a problem's options are unknown

Options = Sequence[bytes] | None


def _set(words: str) -> frozenset[bytes]:
    return frozenset(words.encode().split())


# Words -------------------------------------------------------------------------------------------------------------

_BE = word_set("be")
_MODALS = word_set("modals")
_VERBS = word_set("verbs")
_NOT_AFTER_ARTICLE = word_set("not_after_article")
_NOT_AFTER_I = word_set("not_after_i")
_FOLLOW = word_set("follow")
_ARTICLES = word_set("articles")
_KINDS = word_set("kinds")
_FILLERS = word_set("fillers")
_NO_LABEL_AFTER = word_set("no_label_after")
_ADVERBS = word_set("adverbs")
_NEGATIVE = word_set("negative")
_BEFORE_NEGATIVE = word_set("before_negative")
_CROSSES = word_set("crosses")
_GOOD = word_set("good")
_POSITIVE = word_set("positive")
_NOUNS = word_set("nouns")
_AFTER_VERDICT = word_set("after_verdict")
_JOIN_WORDS = word_set("join_words")
_JOIN_MARKS = word_set("join_marks")
_AFTER_OR = word_set("after_or")
_SOFT = word_set("soft")
_DOUBT = word_set("doubt")
_CHOOSE = word_set("choose")
_CHOOSE_WITH = word_set("choose_with")
_WITH = word_set("with")
_SUBJECTS = word_set("subjects")
_AUXILIARIES = word_set("auxiliaries")
_CONNECTIVES = word_set("connectives")
_REASONS = word_set("reasons")
_BEFORE_IT = word_set("before_it")
_MINE = word_set("mine")
_CHOSEN = word_set("chosen")
_NEGATORS = word_set("negators")
_TURNS = word_set("turns")
_ABBREVIATIONS = word_set("abbreviations")
_OTHER_MEANING = word_set("other_meaning")
_OTHER_NOUN = word_set("other_noun")
_OPERATORS = word_set("operators")
_OPENERS = word_set("openers")
_CLOSERS = word_set("closers")
_MARKS = word_set("marks")
_DELIMITERS = word_set("delimiters")
_STOPS = word_set("stops")
_NOT_AFTER_TEXT = word_set("not_after_text")
_AFTER_NUMBER = word_set("after_number")
_LED = word_set("led")
_UNREAD = word_set("unread")
_TRAILING = word_set("trailing")
_OF_ONE = word_set("of_one")

# Options -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Own:
    """A problem's options, prepared for matching.

    Attributes:
        texts: the words of each option in lower case, without a leading article and the marks around it.
        cased: the same words in their own case.
        numbers: the number at the beginning of each option, b"" if there is none.
        digits_are_labels: a digit may name an option; false if two or more options begin with a number.
    """

    num_letters: int
    texts: tuple[tuple[bytes, ...], ...]
    cased: tuple[tuple[bytes, ...], ...]
    numbers: tuple[bytes, ...]
    digits_are_labels: bool


def num_letters(options: Options) -> int:
    """Return the number of letters that can be answers."""
    return DEFAULT_NUM_OPTIONS if options is None else min(len(options), len(ascii_uppercase))


def _own(options: Options) -> _Own:
    return _own_of(None if options is None else tuple(options))


@lru_cache(maxsize=256)
def _own_of(options: tuple[bytes, ...] | None) -> _Own:
    n = num_letters(options)
    if options is None:
        return _Own(n, (), (), (), True)
    cased = tuple(_bare(option) for option in options[:n])
    texts = tuple(tuple(word.lower() for word in words) for words in cased)
    numbers = tuple(_first_number(words) for words in texts)
    return _Own(n, texts, cased, numbers, sum(number != b"" for number in numbers) < 2)


def _bare(option: bytes) -> tuple[bytes, ...]:
    """The words of an option without quotes, a leading article and the marks around them."""
    t = words_of(option, one_line=True)
    begin, end = _skip_marks(t, 0), len(t)
    while end > begin and t.text(end - 1) in _TRAILING:
        end -= 1
    if end - begin > 1 and _is_article(t, begin):
        begin += 1
    return tuple(word for word in t.texts[begin:end] if word not in _UNREAD)


def _first_number(words: Sequence[bytes]) -> bytes:
    sign = b"-" if words[:1] == (b"-",) else b""
    number = words[len(sign)] if len(words) > len(sign) else b""
    return sign + number if _is_value(number) else b""


def _is_value(word: bytes) -> bool:
    """Whether a word is a number in the spelling of fold.py."""
    return is_number(word) and word.replace(b".", b"").replace(b"/", b"").isdigit()


def _is_article(t: Words, i: int) -> bool:
    """Whether word i is an article, and not the option A."""
    word = t.low(i)
    return word in (b"an", b"the") or (word == b"a" and _has_noun(t, i + 1, _NOT_AFTER_ARTICLE))


def _has_noun(t: Words, i: int, others: frozenset[bytes]) -> bool:
    """Whether word i continues the article or pronoun before it."""
    word = t.low(i)
    if t.is_adjacent(i) or not is_word(word) or len(word) < 2:
        return False
    if is_digits(word):
        return is_word(t.low(i + 1)) and t.low(i + 1) not in others
    return word not in others and word + b"-" + t.low(i + 1) not in others


def _skip_marks(t: Words, i: int) -> int:
    """Skip the marks before a value. A minus sign that belongs to a number is not skipped."""
    for _ in range(16):
        if t.text(i) not in _MARKS or (t.text(i) == b"-" and t.is_adjacent(i + 1) and is_number(t.text(i + 1))):
            break
        i += 1
    return i


# Values ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Value:
    """The index of the named option (-1: not one of the options) and the end of its name, including closing marks."""

    index: int
    end: int


@dataclass(frozen=True)
class _Label:
    """A single letter.

    Attributes:
        is_article: it is a label only if its option's text follows.
        is_closed: a closing mark follows.
    """

    index: int
    end: int
    is_article: bool
    is_closed: bool
    is_capital: bool


def _skip_closers(t: Words, i: int) -> int:
    end = i
    while end - i < 8 and t.text(end) in _CLOSERS:
        end += 1
    return end


def _label(t: Words, i: int) -> _Label | None:
    """The single letter at word i."""
    letter = t.text(i)
    if len(letter) != 1 or not letter.isalpha():
        return None
    if t.is_adjacent(i + 1) and t.text(i + 1) in (b"+", b"#", b"&"):
        return None
    end = _skip_closers(t, i + 1)
    is_article = False
    if end == i + 1 and letter in b"aAiI":
        is_article = _has_noun(t, end, _NOT_AFTER_ARTICLE if letter in b"aA" else _NOT_AFTER_I)
    return _Label(letter.upper()[0] - ord("A"), end, is_article, end > i + 1, letter.isupper())


def _matches(t: Words, i: int, words: tuple[bytes, ...]) -> int:
    """The end of the words of an option that begin at i; -1 if they are not there."""
    for word in words:
        for _ in range(4):
            i += t.text(i) in _UNREAD
        if t.low(i) != word:
            return -1
        i += 1
    return i if words else -1


def _is_joined(t: Words, end: int, words: tuple[bytes, ...], *, is_named: bool) -> bool:
    """Whether the word after an option's words changes their meaning: "water vapor", "5%", "red/green".

    With `is_named`, the option's letter precedes its words, so more words may follow.
    """
    follower = t.low(end)
    if is_number(words[-1]) and follower in (b"%", "°".encode(), b"^", b"="):
        return True
    if t.is_adjacent(end) and t.text(end) in _NOT_AFTER_TEXT:
        return True
    if is_named or not is_word(follower) or len(words) >= 4:
        return False
    return follower not in _FOLLOW or (follower == b"in" and is_number(words[-1]))


def _own_text(t: Words, i: int, own: _Own) -> _Value | None:
    """The option whose text begins at i. The longest match wins, then the one in the same case, then the first."""
    if _is_article(t, i) or (t.low(i) == b"a" and is_word(t.low(i + 1)) and len(t.low(i + 1)) > 1):
        after = _text_at(t, i + 1, own)
        if after is not None:
            return after
    return _text_at(t, i, own)


def _text_at(t: Words, i: int, own: _Own) -> _Value | None:
    best, best_rank = None, (0, False)
    for index, words in enumerate(own.texts):
        if not words or words[0] != t.low(i):  # texts do not begin with a mark that is not compared
            continue
        if len(words) == 1 and _is_letter_of(words[0], own):
            continue
        end = _matches(t, i, words)
        if end < 0 or _is_joined(t, end, words, is_named=False):
            continue
        rank = end, tuple(word for word in t.texts[i:end] if word not in _UNREAD) == own.cased[index]
        if rank > best_rank:
            best, best_rank = _Value(index, _skip_closers(t, end)), rank
    return best


def _is_letter_of(word: bytes, own: _Own) -> bool:
    """Whether a word is the letter of an option. The letter then takes precedence over an equal option text."""
    return len(word) == 1 and word.isalpha() and word.upper()[0] - ord("A") < own.num_letters


def _names_itself(t: Words, label: _Label, own: _Own) -> int:
    """The end of an option's text after its letter; -1 if it does not follow."""
    if label.index >= len(own.texts):
        return -1
    at = label.end
    for _ in range(4):
        words = own.texts[label.index]
        for begin in (at, at + 1) if t.low(at) in _ARTICLES else (at,):
            end = _matches(t, begin, words)
            if end >= 0 and not _is_joined(t, end, words, is_named=True):
                return end
        if t.text(at) not in _DELIMITERS:
            break
        at += 1
    return -1


def _read_at(t: Words, i: int, own: _Own, *, with_label: bool = True, with_digits: bool = True) -> _Value | None:
    """The option named at i. Its index is -1 if it is not one of the options or more than one is named."""
    label = _label(t, i)
    text = _own_text(t, i, own)
    if label is not None and (with_label or label.is_closed) and not label.is_article:
        end = _names_itself(t, label, own)
        if end >= 0 and (text is None or text.end <= end):
            value = _Value(label.index, _skip_closers(t, end))
            return _Value(-1, value.end) if _has_others(t, value, own, True, False) else value
    if text is not None:
        return _alone(t, text, own)
    if label is not None:
        if label.is_article:
            end = _names_itself(t, label, own) if with_label and label.is_capital else -1
            return _Value(label.index, _skip_closers(t, end)) if end >= 0 else None
        if not (with_label or label.is_closed):
            return None
        return _alone(t, _Value(label.index, label.end), own, is_capital=label.is_capital)
    return _digit(t, i, own) if with_digits else None


def _digit(t: Words, i: int, own: _Own) -> _Value | None:
    """A number at i: it names the option whose text begins with it, or is a label."""
    sign = t.text(i) == b"-" and t.is_adjacent(i + 1)
    number = t.text(i + sign)
    if not _is_value(number):
        return None
    end = i + sign + 1
    may_label = not sign and own.digits_are_labels and is_digits(number) and len(number) <= 2 and number[:1] != b"0"
    if may_label and int(number) <= own.num_letters:
        named = _names_itself(t, _Label(int(number) - 1, end, False, False, True), own)
        if named >= 0:
            return _Value(int(number) - 1, _skip_closers(t, named))
    follower = t.low(end)
    if follower in _AFTER_NUMBER or (follower == b"-" and t.is_adjacent(end)):
        return None
    if is_word(follower) and (follower not in _FOLLOW or follower == b"in"):
        return None
    end = _skip_closers(t, end)
    wanted = b"-" + number if sign else number
    same = [index for index, begin in enumerate(own.numbers) if begin == wanted]
    if len(same) == 1:
        return _alone(t, _Value(same[0], end), own, is_digit=True)
    if same or not may_label:
        return None
    return _alone(t, _Value(int(number) - 1, end), own, is_digit=True)


def _alone(t: Words, value: _Value, own: _Own, *, is_capital: bool = True, is_digit: bool = False) -> _Value:
    """The value, with index -1 if there is no such option, it is called wrong, or other options are named with it."""
    is_wrong = value.index >= own.num_letters or _is_called_wrong(t, value.end)
    return _Value(-1, value.end) if is_wrong or _has_others(t, value, own, is_capital, is_digit) else value


def _is_called_wrong(t: Words, i: int) -> bool:
    """Whether word i is a verb followed within a few words by a rejection ("is not correct"), or a cross."""
    i += t.text(i) == CLOSE
    if t.low(i) not in _VERBS:
        return t.low(i) in _CROSSES
    for k in range(i, i + 5):
        if t.low(k) in _NEGATIVE:
            return True
        if k > i and t.low(k) not in _BEFORE_NEGATIVE:
            return False
    return False


def _has_others(t: Words, value: _Value, own: _Own, is_capital: bool, is_digit: bool) -> bool:
    """Whether more options are named after the first: "A or B", "A, C", "(A)(C)". False for "B, C is wrong"."""
    at, first_joiner = value.end, b""
    found = False
    for _ in range(26):
        begin, joiner = _skip_joiner(t, at)
        other = _other(t, begin, own, joiner, is_capital, is_digit)
        if other is None:
            break
        first_joiner = first_joiner or joiner or b" "
        found = found or other.index != value.index
        at = other.end
    if found and first_joiner not in _JOIN_WORDS and t.low(at) in _NEGATIVE:
        return False
    if not found or t.low(at) not in _VERBS:
        return found
    if first_joiner in _JOIN_WORDS or first_joiner in (b"/", b"&", b"|"):
        return not (first_joiner == b"and" and t.low(at) in (b"is", b"isn't", b"was") and _is_called_wrong(t, at))
    return t.low(at) in _BE and (t.low(at + 1) in _GOOD or t.low(at + 1) in (b"both", b"true"))


def _skip_joiner(t: Words, i: int) -> tuple[int, bytes]:
    """Read a joiner of two options at i. Return its end and its word, else its mark, b"" if there is none."""
    joiner = b""
    i += t.text(i) == b"(" and t.low(i + 1) in _JOIN_WORDS  # "A (or B)"
    if t.text(i) in _JOIN_MARKS:
        joiner = t.text(i)
        i += 1
    long = b"-".join((t.low(i), t.low(i + 1), t.low(i + 2)))
    two = t.low(i) + b"-" + t.low(i + 1)
    if long in _JOIN_WORDS:
        joiner = long
        i += 3
    elif two in _JOIN_WORDS:
        joiner = two
        i += 2
    elif t.low(i) in _JOIN_WORDS and not (joiner and t.low(i) == b"then"):
        joiner = t.low(i)
        i += 3 if t.text(i + 1) == b"/" and t.low(i + 2) in _JOIN_WORDS else 1
        i += joiner == b"vs" and t.text(i) == b"."
    for _ in range(3):
        if (joiner and t.low(i) in _SOFT) or (joiner in _JOIN_WORDS and t.low(i) in _AFTER_OR):
            i += 1
    return i, joiner


def _other(t: Words, i: int, own: _Own, joiner: bytes, is_capital: bool, is_digit: bool) -> _Value | None:
    """A further option at i: a letter or, after a joiner, the text of another option."""
    begin = i
    while i - begin < 3 and t.text(i) in _OPENERS:
        i += 1
    label = _label(t, i)
    if label is not None and not label.is_article and (label.is_capital or not is_capital):
        is_lone_a = not label.is_capital and label.index == 0 and not label.is_closed and is_word(t.low(label.end))
        if not is_lone_a:
            return _Value(label.index, label.end)
    if is_digit and joiner and joiner not in (b"-", b"+") and _is_value(t.text(i)):
        return _Value(-1, _skip_closers(t, i + 1))
    return _own_text(t, i, own) if joiner and joiner != b"-" else None


def _skip_filler(t: Words, i: int) -> int:
    """Skip one filler word between a marker and its value ("it", "option")."""
    if t.low(i) == b"no" and t.text(i + 1) == b"." and is_digits(t.text(i + 2)):
        return i + 2
    return i + 1 if t.low(i) in _FILLERS else i


def _value(t: Words, i: int, own: _Own) -> _Value | None:
    """The option named at i, after filler words."""
    with_label = True
    for _ in range(9):
        i = _skip_marks(t, i)
        found = _read_at(t, i, own, with_label=with_label)
        if found is not None:
            return found
        after = _skip_filler(t, i)
        if after == i:
            return None
        with_label = t.low(i) not in _NO_LABEL_AFTER
        i = after
    return None


def _letter(value: _Value | None) -> str | None:
    return ascii_uppercase[value.index] if value is not None and value.index >= 0 else None


def choice_after_marker(line: bytes, at: int, options: Options) -> str | None:
    """Return the letter of the option that `line` names at `at`. `line` ends where the value after a marker may end."""
    return _letter(_value(words_of(line[at:], one_line=True), 0, _own(options)))


def whole_choice(text: bytes, options: Options) -> str | None:
    """Return the letter for a gold answer that is exactly an option's letter, text or digit label."""
    own = _own(options)
    cased = _bare(text)
    wanted = tuple(word.lower() for word in cased)
    if wanted and not (len(wanted) == 1 and _is_letter_of(wanted[0], own)):
        for texts, sought in ((own.cased, cased), (own.texts, wanted)):
            if sought in texts:
                return ascii_uppercase[texts.index(sought)]
    bare = text.strip(b"()[]*. ")
    if len(bare) > 2 or not bare.isalnum():
        return None
    if bare.isdigit():
        is_label = own.digits_are_labels and bare[:1] != b"0" and int(bare) <= own.num_letters
        return ascii_uppercase[int(bare) - 1] if is_label else None
    return _letter(_value(words_of(bare, one_line=True), 0, own)) if len(bare) == 1 else None


# Statements --------------------------------------------------------------------------------------------------------


def stated_choice(text: bytes, options: Options) -> str | None:
    """The letter of the last statement such as "B is correct", "I choose B", "so it is B"."""
    t, own = words_of(text), _own(options)
    last = None
    for i in range(len(t)):
        found = _verdict_at(t, i, own) or _chosen_at(t, i, own) or _concluded_at(t, i, own)
        if found is not None and found.index >= 0 and not _is_question(t, found.end):
            last = found
    return _letter(last)


def _is_question(t: Words, i: int) -> bool:
    for k in range(i, i + 40):
        if t.text(k) in _STOPS or k >= len(t):
            return t.text(k) == b"?"
    return False


def _skip_be(t: Words, i: int) -> int:
    """Skip "is", "must be", "seems to be" at i."""
    if t.low(i) in (b"is", b"was"):
        return i + 1
    if t.low(i) in _MODALS:
        end = i + 1
        while end - i < 3 and t.low(end) in (b"only", b"to", b"therefore", b"then"):
            end += 1
        if t.low(i) == b"can" and t.low(i + 1) != b"only":
            return i
        return end + 1 if t.low(end) == b"be" else i
    if t.low(i) in (b"seems", b"appears"):
        return i + 3 if t.low(i + 1) == b"to" and t.low(i + 2) == b"be" else i + 1
    return i


def _skip_adverbs(t: Words, i: int) -> int:
    end = i
    while end - i < 6 and t.low(end) != b"the" and (t.low(end) in _ADVERBS or t.low(end) == b","):
        end += 1
    return end


def _ends_clause(t: Words, i: int, allowed: frozenset[bytes]) -> bool:
    """Whether the clause ends before i: i is not a word, or a word that begins another clause."""
    return not is_word(t.low(i)) or t.low(i) in allowed


def _verdict_at(t: Words, i: int, own: _Own) -> _Value | None:
    """ "B is correct", with its verb at i."""
    end = _skip_be(t, i)
    if end == i:
        return None
    begin = _skip_adverbs(t, end)
    the = t.low(begin) == b"the"
    if the:
        begin = _skip_adverbs(t, begin + 1)
    is_good = t.low(begin) in _GOOD
    at = begin + is_good
    if t.low(at) in _NOUNS and (is_good or the or t.low(begin - 1) in _MINE) and (is_good or t.low(at) != b"one"):
        at += 1
    elif not is_good:
        return None
    if not _ends_clause(t, at, _AFTER_VERDICT) or (at == begin + is_good and t.low(at) in (b"of", b"to")):
        return None
    subject = _subject(t, i, own)
    is_shared = t.low(at) == b"and" and t.low(at + 1) == b"so"
    if subject is None or is_shared or not _is_asserted(t, subject.end):
        return None
    return _Value(subject.index, at)


def _subject(t: Words, i: int, own: _Own) -> _Value | None:
    """The option named directly before i. The `end` of the value is where the option begins."""
    at = i - 1
    while i - at < 8 and t.text(at) in _CLOSERS:
        at -= 1
    if at < 0:
        return None
    letter = t.text(at)
    if len(letter) == 1 and letter.isalpha():
        index, begin = letter.upper()[0] - ord("A"), at
        while at - begin < 4 and t.text(begin - 1) in _OPENERS:
            begin -= 1
        is_marked = at < i - 1
        while t.low(begin - 1) in _KINDS or t.low(begin - 1) == b"the":
            is_marked = is_marked or t.low(begin - 1) in _KINDS
            begin -= 1
        is_label = letter.isupper() or is_marked
        if index < own.num_letters:
            return _Value(index, begin) if is_label else None
    best = None
    for index, words in enumerate(own.texts):
        begin = _begin_of(t, i - 1, words)
        if begin < 0 or (len(words) == 1 and _is_letter_of(words[0], own)):
            continue
        if best is None or begin < best.end:
            best = _Value(index, begin)
    if best is None:
        return None
    begin = best.end
    while t.text(begin - 1) in _OPENERS or t.text(begin - 1) == CLOSE:
        begin -= 1
    is_whole = begin == 0 or not is_word(t.low(begin - 1)) or t.low(begin - 1) in _ARTICLES | _BEFORE_IT | _KINDS
    if t.low(begin - 1) in _ARTICLES:
        begin -= 1
        is_whole = not is_word(t.low(begin - 1)) or t.low(begin - 1) in _BEFORE_IT | _KINDS
    return _Value(best.index, begin) if is_whole else None


def _begin_of(t: Words, last: int, words: tuple[bytes, ...]) -> int:
    """The begin of the words of an option that end at `last`, ignoring marks; -1 if they are not there."""
    at = last
    for _ in range(8):
        if t.text(at) not in _CLOSERS and t.text(at) != b".":
            break
        at -= 1
    for word in reversed(words):
        for _ in range(4):
            at -= t.text(at) in _UNREAD
        if at < 0 or t.low(at) != word:
            return -1
        at -= 1
    return at + 1 if words else -1


def _is_asserted(t: Words, begin: int) -> bool:
    """Whether nothing before `begin` in the clause negates the statement or makes the option one of several."""
    if t.low(begin - 1) in (b"or", b"and", b"nor", b"/", b"&"):
        at = begin - 2
        while t.text(at) in _CLOSERS or t.text(at) == b",":
            at -= 1
        if t.low(begin - 1) == b"nor" or (len(t.text(at)) == 1 and t.text(at).isalpha()):
            return False
    for k in range(begin - 1, begin - 13, -1):
        if t.text(k) in _STOPS or t.text(k) in (b",", b";", b":", b"") or t.low(k) in _TURNS:
            return True
        if t.low(k) in _DOUBT:
            return False
    return True


def _chosen_at(t: Words, i: int, own: _Own) -> _Value | None:
    """ "I choose B" with its verb at i, or "my choice is B" with its noun at i."""
    if t.low(i) in _CHOOSE:
        begin = i + 1
    elif t.low(i) in _CHOOSE_WITH and t.low(i + 1) in _WITH:
        begin = i + 2
    elif t.low(i) in _CHOSEN and t.low(i - 1) in _MINE:
        begin = _skip_be(t, i + 1)
        return _named(t, begin, own) if begin > i + 1 or t.text(i + 1) in (b":", b"-") else None
    else:
        return None
    at = i - 1
    while i - at < 6 and (t.low(at) in _AUXILIARIES or t.text(at) == b","):
        at -= 1
    is_start = at < 0 or t.text(at) in _STOPS or t.text(at) == b":"
    if not is_start and (t.low(at) not in _SUBJECTS or not _is_asserted(t, at)):
        return None
    return _named(t, begin, own)


def _named(t: Words, i: int, own: _Own) -> _Value | None:
    """The option named at i in a statement. Only another clause may follow."""
    is_marked = False
    for _ in range(6):
        begin = _skip_marks(t, i)
        is_marked = is_marked or (begin > i and t.text(begin - 1) in _OPENERS)
        label = _label(t, begin)
        found = _read_at(t, begin, own, with_digits=False)
        if found is not None:
            is_label = label is not None and not label.is_article and found.index == label.index
            if is_label and label is not None and not (label.is_capital or is_marked or label.is_closed):
                return None
            return found if _ends_clause(t, found.end, _FOLLOW) else None
        if t.low(begin) not in _KINDS and t.low(begin) not in _ADVERBS and t.low(begin) not in (b"the", b"correct"):
            return None
        is_marked = t.low(begin) in _KINDS
        i = begin + 1
    return None


def _concluded_at(t: Words, i: int, own: _Own) -> _Value | None:
    """ "So it is B" and "it must be B" with "it" at i, or "thus B" with "thus" at i."""
    word = t.low(i)
    before = _word_before(t, i)
    is_start = before < 0 or t.text(before) in _STOPS
    if word in _CONNECTIVES:
        begin = i + 1 + (t.text(i + 1) in (b",", b":"))
        begin = _skip_marks(t, begin)
        label = _label(t, begin)
        is_led = is_start or t.low(before) in (b",", b"and")
        if label is None or label.is_article or not label.is_capital or not is_led:
            return None
        found = _read_at(t, begin, own, with_digits=False)
        is_end = found is not None and _ends_clause(t, found.end, _REASONS)
        return found if is_end else None
    if word in (b"it's", b"that's"):
        begin, is_strong = i + 1, False
    elif word in (b"it", b"that", b"this"):
        begin = _skip_be(t, i + 1)
        is_strong = t.low(i + 1) in _MODALS
        if begin == i + 1:
            return None
    else:
        return None
    is_led = t.low(before) in _BEFORE_IT or t.text(before) in _LED
    if not (is_start or is_led or is_strong) or not _is_asserted(t, i):
        return None
    found = _named(t, begin, own)
    if found is None or found.index < 0 or is_strong or t.low(before) in _CONNECTIVES:
        return found
    label = next((one for k in range(begin, found.end) if (one := _label(t, k)) is not None), None)
    if label is not None and label.index == found.index:
        return found
    return found if _is_last_sentence(t, found.end) else None


def _word_before(t: Words, i: int) -> int:
    at = i - 1
    while i - at < 4 and t.text(at) in _UNREAD:
        at -= 1
    return at


def _is_last_sentence(t: Words, i: int) -> bool:
    """Whether only marks follow i."""
    return all(not is_word(t.text(k)) for k in range(i, min(i + 8, len(t)))) and i + 8 >= len(t)


# The last letter ---------------------------------------------------------------------------------------------------


def last_choice(text: bytes, options: Options) -> str | None:
    """Return the option that a text without a statement is, begins with or ends with; None if it may be more than one.

    Lists of the options are ignored. If the first or last line is an option, or begins with a label and a mark, that
    option is the answer. Otherwise the last sentence with a letter decides, if all its letters are the same.
    """
    t, own = words_of(text), _own(options)
    lines = _without_lists(t, own)
    if not lines:
        return None
    named = [found for begin, end in (lines[0], lines[-1]) if (found := _line_value(t, begin, end, own)) is not None]
    if named:
        return ascii_uppercase[named[0]] if named[0] == named[-1] and named[0] >= 0 else None
    for begin, end in reversed(lines):
        sentences = _sentences(t, begin, end)
        for first, last in reversed(sentences):
            letters = _letters(t, first, last, own)
            if letters:
                return ascii_uppercase[letters.pop()] if len(letters) == 1 else None
    return None


def _lines(t: Words) -> list[tuple[int, int]]:
    """The lines that are not empty, as spans of words."""
    lines, begin = [], 0
    for i in range(len(t) + 1):
        if i == len(t) or t.text(i) == b"\n":
            if i > begin:
                lines.append((begin, i))
            begin = i + 1
    return lines


def _begin_of_label(t: Words, i: int) -> int:
    """Skip a bullet, the edge of a table, opening marks and "option" before a label."""
    for _ in range(2):
        i += t.text(i) == b"|"
    i = _skip_marks(t, i)
    if is_digits(t.text(i)) and t.text(i + 1) in (b".", b")", b"|") and _label(t, _skip_marks(t, i + 2)) is not None:
        i = _skip_marks(t, i + 2)
    for _ in range(2):
        if t.low(i) in _KINDS or (t.low(i) == b"the" and t.low(i + 1) in _KINDS):
            i = _skip_marks(t, i + 1)
    return i


def _line_label(t: Words, begin: int, end: int, own: _Own) -> _Label | None:
    """The label at the beginning of a line that has a mark ("B.", "(B)", "**B**") or is the whole line."""
    label = _label(t, _begin_of_label(t, begin))
    if label is None or label.end > end:
        return None
    if label.end == end:
        return label
    if (label.is_capital or label.is_closed) and 0 <= _names_itself(t, label, own) <= end:
        return label
    mark = t.text(label.end)
    is_row = mark == b"|" and t.text(begin) == b"|"  # of a table: "| A | red |"
    is_marked = is_row or mark in (b".", b":", b")", b"-", "→".encode())
    is_marked = is_marked and not (mark == b"-" and not label.is_capital)
    if not (label.is_closed or is_marked):
        return None
    at = label.end
    while at < end and t.text(at) in _DELIMITERS and at - label.end < 8:
        at += 1
    if t.low(at) in _NEGATIVE or (not is_marked and (t.low(at) in _FOLLOW or t.text(at) in _JOIN_MARKS)):
        return None
    return label


def _without_lists(t: Words, own: _Own) -> list[tuple[int, int]]:
    """The lines that remain after removing lists of the options, both one option a line and within a line."""
    lines = _lines(t)
    parts = [_without_list(t, begin, end, own) for begin, end in lines]
    labels = [_line_label(t, *line, own) if part == [line] else None for line, part in zip(lines, parts, strict=True)]
    kept: list[tuple[int, int]] = []
    i = 0
    while i < len(lines):
        last = i
        while last + 1 < len(lines):
            this, following = labels[last], labels[last + 1]
            if this is None or following is None or following.index <= this.index:
                break
            last += 1
        if last == i:
            kept += parts[i]
        i = last + 1
    return kept


def _without_list(t: Words, begin: int, end: int, own: _Own) -> list[tuple[int, int]]:
    """The parts of a line outside a list of options: "(A) red (B) green", or marked letters if none are known."""
    first, last, end_of_last, count = -1, -1, -1, 0
    i = begin
    while i < end:
        label = _label(t, i)
        after = -1
        if label is not None and label.end <= end:
            if own.texts:
                after = _names_itself(t, label, own)
            elif not label.is_article and (label.is_capital or label.is_closed):
                after = _listed(t, label)
        if label is None or after < 0:
            i += 1
            continue
        if count and label.index <= last:
            break
        first = i if not count else first
        last, end_of_last, count = label.index, min(after, end), count + 1
        i = max(i + 1, end_of_last)
    if count < 2:
        return [(begin, end)]
    rest = end_of_last if own.texts else end
    return [span for span in ((begin, first), (rest, end)) if _has_word(t, *span)]


def _listed(t: Words, label: _Label) -> int:
    """The begin of the text of a list entry, after a label and a mark; -1 if a verb or no word follows."""
    if not (label.is_closed or t.text(label.end) in (b".", b":")):
        return -1
    at = label.end + (t.text(label.end) in (b".", b":"))
    return at if is_word(t.low(at)) and t.low(at) not in _FOLLOW else -1


def _has_word(t: Words, begin: int, end: int) -> bool:
    return any(is_word(t.text(i)) for i in range(begin, end))


def _line_value(t: Words, begin: int, end: int, own: _Own) -> int | None:
    """The option that a line is or begins with; -1 for more than one, None for none."""
    whole = _own_text(t, _skip_marks(t, begin), own)
    if whole is not None and not _has_word(t, whole.end, end):
        return whole.index
    at = _begin_of_label(t, begin)
    if at >= end:
        return None
    label = _line_label(t, begin, end, own)
    if label is not None:
        named = _names_itself(t, label, own)
        if named >= 0:
            is_shared = _has_others(t, _Value(label.index, _skip_closers(t, named)), own, True, False)
            return -1 if is_shared else label.index
        if any(_is_entry(t, first) for first, _ in _sentences(t, begin, end)[1:]):
            return None  # "A: it is hot. B: it is cold."
        return _alone(t, _Value(label.index, label.end), own, is_capital=label.is_capital).index
    value = _read_at(t, at, own)
    return value.index if value is not None and value.index >= 0 and not _has_word(t, value.end, end) else None


def _is_entry(t: Words, i: int) -> bool:
    """Whether a capital letter and a colon begin at i."""
    label = _label(t, i)
    return label is not None and label.is_capital and t.text(label.end) == b":"


def _sentences(t: Words, begin: int, end: int) -> list[tuple[int, int]]:
    """The sentences of a line, without questions."""
    sentences, first = [], begin
    for i in range(begin, end):
        if t.text(i) in (b".", b"!", b"?") and not (t.is_adjacent(i + 1) and is_word(t.text(i + 1))):
            if t.text(i) != b"?":
                sentences.append((first, i))
            first = i + 1
    if first < end:
        sentences.append((first, end))
    return sentences


def _negator(t: Words, i: int) -> bytes:
    """The one or two words at i that reject the options after them; b"" if they do not."""
    word, two = t.low(i), t.low(i) + b"-" + t.low(i + 1)
    if two in _NEGATORS:
        return two
    if word == b"no" and t.text(i + 1) == b",":
        return b""
    return word if word in _NEGATORS or word.endswith(b"n't") else b""


def _letters(t: Words, begin: int, end: int, own: _Own) -> set[int]:
    """The options whose capital letters stand alone in a sentence and are not rejected; -1 for other letters."""
    letters: set[int] = set()
    negator, i = b"", begin
    while i < end:
        word = t.low(i)
        if found := _negator(t, i):
            negator = found
            i += found != word and b"-" in found  # two words
        elif (
            (word in _TURNS and word != b"and")
            or word == b";"
            or (word == b":" and not _negator(t, i - 1))
            or (word == b"," and not _goes_on(t, i + 1, negator))
        ):
            negator = b""
        label = _label(t, i)
        if label is None or not label.is_capital or (label.is_article and _names_itself(t, label, own) < 0):
            i += 1
            continue
        listed, after = _joined_labels(t, label, end)
        is_all = len(set(listed)) >= max(3, own.num_letters if own.texts else 4)
        is_entry = i == begin and t.text(after) == b":" and t.low(after + 1) not in _POSITIVE
        is_entry = is_entry and _names_itself(t, label, own) < 0  # "A: it is hot. B: it is cold."
        is_out = negator or is_all or is_entry or min(listed) >= own.num_letters
        if not (is_out or _means_other(t, i, label) or _is_rejected(t, after, label, own)):
            letters.update(index if index < own.num_letters else -1 for index in listed)
        i = max(after, i + 1)
    return letters


def _goes_on(t: Words, i: int, negator: bytes) -> bool:
    """Whether a list of letters continues after a comma."""
    if negator in _OF_ONE:
        return False
    i += t.low(i) in (b"and", b"or", b"nor")
    while t.low(i) in _KINDS:
        i += 1
    label = _label(t, i)
    if label is None or label.is_article:
        return False
    return negator in (b"not", b"none", b"neither", b"nor") or t.low(label.end) not in _VERBS


def _joined_labels(t: Words, label: _Label, end: int) -> tuple[list[int], int]:
    """The letters joined as in "A, C and D", beginning with `label`, and their end.

    The last letter is left out if it begins its own clause: "B, C is wrong".
    """
    listed, ends, joiners = [label.index], [label.end], [b""]
    for _ in range(26):
        begin, joiner = _skip_joiner(t, ends[-1])
        if joiner == b";":
            break
        while t.text(begin) in _OPENERS and begin < end:
            begin += 1
        other = _label(t, begin)
        if begin >= end or other is None or not other.is_capital or other.is_article:
            break
        if not joiner and begin == ends[-1] and not t.is_adjacent(begin) and other.index <= listed[-1]:
            break
        listed.append(other.index)
        ends.append(other.end)
        joiners.append(joiner)
    verb = t.low(ends[-1])
    is_clause = verb in _VERBS and (verb.endswith(b"s") or verb in (b"isn't", b"wasn't", b"doesn't"))
    if len(listed) > 1 and is_clause and joiners[-1] in (b",", b";", b"and", b"-"):
        return listed[:-1], ends[-2]
    return listed, ends[-1]


def _means_other(t: Words, i: int, label: _Label) -> bool:
    """Whether a letter does not name an option: vitamin C, 5 C, E = mc^2, carbon [C], an A, the pronoun I."""
    at = i - 1
    while i - at < 4 and t.text(at) in _OPENERS:
        at -= 1
    if t.low(at) in (b"was", b"is", b":", b"of") and t.low(at - 1) in (b"grade", b"grades"):
        return True
    before, is_option = t.low(at), t.low(at) in _KINDS
    if is_option:
        return False
    if (label.index == 8 and at == i - 1) or (before == b"." and t.low(at - 1) in _ABBREVIATIONS):
        return True
    if before in _OTHER_MEANING or is_number(before) or (t.text(i - 1) == b"[" and is_word(before)):
        return True
    if before in _OPERATORS or (before == b"&" and t.is_adjacent(i)) or t.low(label.end) in _OPERATORS:
        return True
    return t.low(label.end) in _OTHER_NOUN and not label.is_closed


def _is_rejected(t: Words, i: int, label: _Label, own: _Own) -> bool:
    """Whether the words at i call the letters before them wrong: "is wrong", ": incorrect", "(no)"."""
    if _is_called_wrong(t, i) or t.low(i) in (b"could", b"might", b"may"):
        return True
    if i == label.end and _names_itself(t, label, own) >= 0:
        return False
    mark = t.text(i) in (b":", b"(", b"-", b"=", b"|", "→".encode())
    return t.low(i + mark) in _NEGATIVE
