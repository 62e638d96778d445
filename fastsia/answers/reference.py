"""The rules by which an answer is read from a text, in plain Python. csrc/answer.cc does the same, faster.

Works on UTF-8 bytes and gives a case to ASCII letters only, so that any bytes at all can be read. The order of the
rules stands in `_read`; docs/answers.md explains them with examples.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from string import ascii_uppercase

from fastsia.answers.number import (
    DECORATION,
    SPACE,
    TEXT_COMMAND,
    WORD,
    ends_with,
    last_number,
    line_end,
    number_after_marker,
    pattern,
    skip,
    whole_number,
)
from fastsia.config import AnswerFormat

MAX_BOX = 512  # bytes between the braces of \boxed{...}
MAX_TEXT = 256  # bytes of a boxed answer that is no number
DEFAULT_NUM_OPTIONS = 5  # letters A to E where a problem's options are not given

Options = Sequence[bytes] | None

_NOT_AFTER_WORD = r"(?<![0-9A-Za-z_]) (?<![\xc3-\xdf][\x80-\xbf])"
_HASH = pattern(r"\#{4,}+")
_BOX = pattern(rf"\\boxed {SPACE}{{0,8}}+ \{{")
_COLON = pattern(rf"{_NOT_AFTER_WORD} answer [\ \t*_]{{0,8}}+ :", re.IGNORECASE)  # "final answer:" too
_FINAL = pattern(rf"{_NOT_AFTER_WORD} final {SPACE}{{1,4}}+ answer {SPACE}{{1,4}}+ is (?!{WORD})", re.IGNORECASE)
_ANSWER_IS = pattern(
    rf"""{_NOT_AFTER_WORD} the {SPACE}{{1,4}}+ (?: (?: correct | best | right ) {SPACE}{{1,4}}+ )?+
         answer {SPACE}{{1,4}}+ is (?!{WORD})""",
    re.IGNORECASE,
)
_STRONG = (_HASH, _BOX, _COLON, _FINAL)
_ASKED_FOR = {"number": _HASH, "choice": _COLON, "boxed": _BOX}  # the marker that a task's prompt asks for

_THINK = pattern(rf"{SPACE}*+ <think>")
_END_THINK = b"</think>"
_STOP = pattern(r"(?: \A | (?<=[\n\r]) ) [\ \t]{0,8}+ (?: Question | Q ) :")


def read_answer(
    text: bytes, format: AnswerFormat, options: Options, starts_in_think: bool = False
) -> tuple[str | None, str | None]:
    """(strict, lenient) answer of a completion.

    They differ only where a think block that opens the completion (or that the prompt opened) never closes: strict then
    has no answer, lenient reads the block.
    """
    begin, is_open = _after_think(text, starts_in_think)
    answer = _read(_until_stop(text[begin:]), format, options)
    return None if is_open else answer, answer


def is_settled(text: bytes, format: AnswerFormat, options: Options, starts_in_think: bool = False) -> bool:
    """Whether no continuation of the text can change its answer, judged at the ends of lines only.

    That holds once the marker that the task asks for has its value on a line that is complete: no value is read past
    the end of the line that it begins on. Never for boxed, whose last occurrence counts.
    """
    begin, is_open = _after_think(text, starts_in_think)
    if is_open or format == "boxed":
        return False
    lines = _until_stop(text[begin : text.rfind(b"\n") + 1])
    return next(_values(lines, [_ASKED_FOR[format]], format, options), None) is not None


def _after_think(text: bytes, starts_in_think: bool) -> tuple[int, bool]:
    """(where the text that counts begins, whether that is inside of a think block that is still open)."""
    opening = _THINK.match(text)
    if not starts_in_think and opening is None:
        return 0, False
    begin = 0 if starts_in_think or opening is None else opening.end()
    close = text.find(_END_THINK, begin)
    return (begin, True) if close < 0 else (close + len(_END_THINK), False)


def _until_stop(text: bytes) -> bytes:
    stop = _STOP.search(text)
    return text[: stop.start()] if stop else text


def answer_begin(text: bytes, format: AnswerFormat, options: Options, starts_in_think: bool = False) -> int | None:
    """Where, in bytes, a completion stops to think and states its answer.

    Behind the think block, where one opens the completion (or the prompt opened it); else at the marker that the answer
    is read after (rules 1 to 3). None where the block never closes or no marker announces an answer.
    """
    begin, is_open = _after_think(text, starts_in_think)
    if is_open or begin:
        return None if is_open else begin
    announced = _announced(_until_stop(text), format, options)
    return None if announced is None else announced[0]


def _read(text: bytes, format: AnswerFormat, options: Options) -> str | None:
    """The answer of a text without think block and stop text, by the first rule that gives one.

    1. The marker that the task's prompt asks for: its first complete occurrence (of \\boxed the last).
    2. The other strong markers: the first complete occurrence of any.
    3. "the answer is": its last complete occurrence. Not for boxed.
    4. The last number, or the last option letter that stands alone. Not for boxed.

    An occurrence is complete if a value can be read from what comes right after it.
    """
    announced = _announced(text, format, options)
    if announced is not None:
        return announced[1]
    if format == "number":
        return last_number(text)
    return _last_letter(text, options) if format == "choice" else None


def _announced(text: bytes, format: AnswerFormat, options: Options) -> tuple[int, str] | None:
    """Rules 1 to 3: where the marker begins, and the value after it."""
    asked_for = _ASKED_FOR[format]
    others = [marker for marker in _STRONG if marker is not asked_for]
    asked = _values(text, [asked_for], format, options)
    found = _last(asked) if format == "boxed" else next(asked, None)
    if found is None:
        found = next(_values(text, others, format, options), None)
    if found is None and format != "boxed":
        found = _last(_values(text, [_ANSWER_IS], format, options, own_text=False))
    return found


def _last(values: Iterator[tuple[int, str]]) -> tuple[int, str] | None:
    last = None
    for last in values:  # noqa: B007 - the last one is what is wanted
        pass
    return last


def _values(
    text: bytes, markers: Sequence[re.Pattern[bytes]], format: AnswerFormat, options: Options, *, own_text: bool = True
) -> Iterator[tuple[int, str]]:
    """The complete occurrences of the markers, in the order of the text: where each begins, and the value after it."""
    places = sorted((*found.span(), marker is _BOX) for marker in markers for found in marker.finditer(text))
    for begin, end, is_box in places:
        if is_box:
            content = _balanced(text, end)
            value = None if content is None else boxed_value(content, format, options)
        elif format == "choice" or (format == "boxed" and options is not None):
            value = _choice_after_marker(text, end, options, own_text)
        else:
            value = number_after_marker(text, end)
        if value is not None:
            yield begin, value


# Boxes --------------------------------------------------------------------------------------------------------------

_ESCAPE_OR_BRACE = re.compile(rb"\\.|[{}]", re.DOTALL)
_NO_INK = pattern(r"\\left(?![a-z]) | \\right(?![a-z]) | \\displaystyle(?![a-z]) | \\[!,;:] | \\?\$")
_WIDE = pattern(r"\\\ | ~")
_SIZED_FRACTION = pattern(r"\\[dt]frac")
_WRAPPED = pattern(rf"{TEXT_COMMAND}([^{{}}]*+)\}}")
_SPACES = pattern(rf"{SPACE}++")
_PROSE = pattern(r"""[A-Za-z\x80-\xff'",.;:!?&\ -]*+""")
_ARITHMETIC = pattern(r"[-0-9.+*/^(){}]*+")
_OPERATION = pattern(r"[0-9)}][-+*/^]")


def _balanced(text: bytes, begin: int) -> bytes | None:
    """What stands between an opening brace, just before `begin`, and the one that closes it."""
    depth = 1
    for found in _ESCAPE_OR_BRACE.finditer(text, begin, begin + MAX_BOX + 1):
        depth += {b"{": 1, b"}": -1}.get(found[0], 0)
        if depth == 0:
            return text[begin : found.start()]
    return None


def boxed_value(content: bytes, format: AnswerFormat, options: Options) -> str | None:
    """What the content of a box says: an option's letter, a canonical number, or (format boxed) a tidied text."""
    if format == "choice" or (format == "boxed" and options is not None):
        return _choice_after_marker(content, 0, options, own_text=True)
    value, is_number = whole_number(content)
    return value if is_number or format == "number" else _tidy(content)


def _tidy(content: bytes) -> str | None:
    """One spelling for what LaTeX writes in several. Arithmetic is not evaluated: it is no answer."""
    text = _WIDE.sub(b" ", _NO_INK.sub(b"", content))
    text = _WRAPPED.sub(rb"\1", _SIZED_FRACTION.sub(rb"\\frac", text))
    text = _SPACES.sub(b" ", text).strip(b" ")
    if not _PROSE.fullmatch(text):
        text = text.replace(b" ", b"")
    text = text.rstrip(b". ")
    if not text or len(text) > MAX_TEXT or (_ARITHMETIC.fullmatch(text) and _OPERATION.search(text)):
        return None
    return text.decode(errors="replace")


# Choices ------------------------------------------------------------------------------------------------------------

_BEFORE = pattern(rf"(?: {DECORATION} ){{0,32}}+")
_KEYWORD = pattern(r"(?: option | choice | letter ) [\ \t:]{1,4}+", re.IGNORECASE)
_JOINED = pattern(rf"(?: {WORD} | (?: [-'] | ’ ) {WORD} )")  # the word goes on: "Bob", "B-12", "B's"
_AFTER_DIGIT = pattern(rf"(?: {WORD} | [.,/:][0-9] | % | ° )")
_NEXT_WORD = pattern(r"[\ \t]{1,4}+ ([A-Za-z]{2,}+)")
# What an article cannot stand before: "A is" means the option, "A rock" does not.
_NOT_AFTER_ARTICLE = frozenset(b"is was because since as and or has for from which would but not".split())
_LETTER = re.compile(rb"[A-Z]")
_WORD = pattern(WORD)
_JOINT = pattern(r"[-'.] | ’")
_DEGREE = ("°".encode(), "° ".encode())
_ABBREVIATION = pattern(rf"\.{WORD}")


def num_letters(options: Options) -> int:
    """How many letters can be answers."""
    return DEFAULT_NUM_OPTIONS if options is None else min(len(options), len(ascii_uppercase))


def normalize_option(option: bytes) -> bytes:
    """An option's own text as it is looked for: without what is skipped before a value, single spaces, no full stop."""
    return _SPACES.sub(b" ", option[skip(_BEFORE, option, 0) :]).lstrip(b" ").rstrip(b". \"'")


def _choice_after_marker(text: bytes, at: int, options: Options, own_text: bool) -> str | None:
    """The letter of the option that the text at `at`, right after a marker, names."""
    begin = skip(_BEFORE, text, at)
    line = text[: line_end(text, begin)]
    keyword = _KEYWORD.match(line, begin)
    if keyword is not None:
        begin = skip(_BEFORE, line, keyword.end())
    index = _option_text(line, begin, options) if own_text and options is not None else None
    if index is None:
        index = _label(line, begin)
    return ascii_uppercase[index] if index is not None and index < num_letters(options) else None


def whole_choice(text: bytes, options: Options) -> str | None:
    """The letter of a text that is an option's letter, own text or digit label, and nothing else."""
    wanted = normalize_option(text)
    texts = [normalize_option(option) for option in (options or ())[: len(ascii_uppercase)]]
    if wanted and not (len(wanted) == 1 and wanted.isalpha()):
        if wanted in texts:
            return ascii_uppercase[texts.index(wanted)]
        lower = [own.lower() for own in texts]
        if wanted.lower() in lower:
            return ascii_uppercase[lower.index(wanted.lower())]
    bare = text.strip(b"()[]*. ")
    return _choice_after_marker(bare, 0, options, own_text=False) if len(bare) == 1 else None


def _option_text(text: bytes, at: int, options: Sequence[bytes]) -> int | None:
    """The option whose own text stands at `at` in any case: the longest, or of such the one in the same case.

    A text of one letter is not looked for: labels have the precedence.
    """
    best, best_rank = None, (at, False)
    for index, option in enumerate(options[: len(ascii_uppercase)]):
        wanted = normalize_option(option)
        if not wanted or (len(wanted) == 1 and wanted.isalpha()):
            continue
        spaced = rb"[ \t]{1,4}+".join(re.escape(part) for part in wanted.split(b" "))
        found = re.compile(spaced, re.IGNORECASE).match(text, at)
        if found is None:
            continue
        rank = found.end(), _SPACES.sub(b" ", found[0]) == wanted
        joined = ends_with(_WORD, text, found.end()) and _WORD.match(text, found.end())
        inside_number = wanted[-1:].isdigit() and _AFTER_DIGIT.match(text, found.end())
        if rank > best_rank and not joined and not inside_number:
            best, best_rank = index, rank
    return best


def _label(text: bytes, at: int) -> int | None:
    """The option that a letter of either case, or a digit 1 to 5, stands for at `at`."""
    label, after = text[at : at + 1], at + 1
    if label.isalpha():
        return None if _goes_on(text, after, label) else ascii_uppercase.index(label.upper().decode())
    if label in (b"1", b"2", b"3", b"4", b"5"):
        return None if _AFTER_DIGIT.match(text, after) else int(label) - 1
    return None


def _goes_on(text: bytes, after: int, letter: bytes) -> bool:
    """Whether a letter is the beginning of a word, or an article (a pronoun, for I) with a word to come."""
    if _JOINED.match(text, after):
        return True
    word = _NEXT_WORD.match(text, after) if letter in b"aAiI" else None
    return word is not None and word[1].lower() not in _NOT_AFTER_ARTICLE


def _last_letter(text: bytes, options: Options) -> str | None:
    """The last capital option letter that stands alone: no article, no degree, no part of a word or abbreviation."""
    for found in reversed(list(_LETTER.finditer(text))):
        at, after = found.span()
        index = ascii_uppercase.index(found[0].decode())
        if index >= num_letters(options) or ends_with(_WORD, text, at) or text.endswith(_DEGREE, 0, at):
            continue
        joint = next((size for size in (1, 3) if at >= size and _JOINT.fullmatch(text, at - size, at)), None)
        if joint is not None and ends_with(_WORD, text, at - joint):
            continue
        if not _goes_on(text, after, found[0]) and not _ABBREVIATION.match(text, after):
            return ascii_uppercase[index]
    return None
