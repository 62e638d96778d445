"""The rules by which an answer is read from a text, in plain Python. csrc/answer.cc implements the same rules.

Works on UTF-8 bytes and ignores the case of ASCII letters only, so any bytes can be read. `_read` applies the rules in
order and `_window` limits the value after a marker; docs/answers.md explains both with examples. number.py, choice.py
and boxed.py read the values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from fastsia.answers.boxed import MAX_BOX, balanced, boxed_value, expression_after_marker
from fastsia.answers.choice import choice_after_marker, last_choice, stated_choice
from fastsia.answers.number import BEFORE, SPACE, WORD, is_word_before, last_number, number_after_marker, pattern, skip
from fastsia.answers.spec import Spec
from fastsia.answers.tables import word_set

WINDOW = 400  # bytes after a marker that may contain its value


class Marker(Enum):
    """A text that announces an answer. An occurrence is complete if a value follows it."""

    HASH = "####"
    BOX = "\\boxed{"
    ANSWER = "Answer:"  # at the beginning of a line or sentence, or "final answer:" and similar
    FINAL = "final answer is"
    STATED = "the answer is"  # every other statement


# Think blocks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Thought:
    """Where the text that counts begins, and whether it is inside a block that never closes."""

    begin: int
    is_open: bool


def _after_think(text: bytes, spec: Spec) -> _Thought:
    """Skip the think blocks at the beginning of the text. Later marks are text.

    A closing mark without an opening one also ends a block, unless a complete marked answer precedes it.
    """
    begin = 0
    if spec.starts_in_think:
        close = _first_close(text, spec)
        if close is None:
            return _Thought(0, True)
        begin = close[1]
    else:
        tags = _opening(text, 0, spec)
        if tags is None:
            close = _first_close(text, spec)
            if close is None or _announced(text[: close[0]], spec, is_open=True) is not None:
                return _Thought(0, False)
            begin = close[1]
    while (tags := _opening(text, begin, spec)) is not None:
        inside, closing = tags
        end = text.find(closing, inside)
        if end < 0:
            return _Thought(inside, True)
        begin = end + len(closing)
    return _Thought(begin, False)


def is_thinking(text: bytes, spec: Spec) -> bool:
    """Whether a completion ends inside a think block that it or its prompt opened."""
    return _after_think(text, spec).is_open


_SPACES = pattern(rf"{SPACE}*+")


def _opening(text: bytes, at: int, spec: Spec) -> tuple[int, bytes] | None:
    """(begin of the block, its closing mark) if white space and an opening mark begin at `at`."""
    begin = skip(_SPACES, text, at)
    found = [(begin + len(opening), closing) for opening, closing in spec.think_tags if text.startswith(opening, begin)]
    return found[0] if found else None


def _first_close(text: bytes, spec: Spec) -> tuple[int, int] | None:
    """(begin, end) of the first closing mark. The longer one wins at the same position."""
    found = [(at, at + len(closing)) for _, closing in spec.think_tags if (at := text.find(closing)) >= 0]
    return min(found, key=lambda span: (span[0], -span[1])) if found else None


def _without_partial_close(text: bytes, spec: Spec) -> bytes:
    """The text without an incomplete closing mark at its end."""
    sizes = [size for _, closing in spec.think_tags for size in range(1, len(closing)) if text.endswith(closing[:size])]
    return text[: len(text) - max(sizes)] if sizes else text


# Reading ------------------------------------------------------------------------------------------------------------


def read_answer(text: bytes, spec: Spec, *, cut: bool = False) -> tuple[str | None, str | None]:
    """Read the answer of a completion.

    Args:
        cut: the token limit ended the completion. The strict reading then accepts only a complete marked answer (rules
            1 to 3, with the end of the value in the text). The lenient one also reads the text without its last word,
            which may be incomplete.

    Returns:
        (strict, lenient). A think block that never closes has no strict answer; the lenient reading reads it like text.
    """
    thought = _after_think(text, spec)
    lenient = strict = _counted(text[thought.begin :], spec, cut)
    if cut and strict is None:
        lenient = _counted(_without_last_word(text[thought.begin :]), spec, False)
    return None if thought.is_open else strict, lenient


def _counted(text: bytes, spec: Spec, cut: bool) -> str | None:
    """Read the answer of the text after the think blocks.

    The text counts up to the first stop text or, if there is no answer before it, up to the second or the end.
    """
    stops = [found.start() for _, found in zip(range(2), _STOP.finditer(text), strict=False)] if spec.stop_texts else []
    for stop in stops:
        answer = _read(text[:stop], spec, False)
        if answer is not None:
            return answer
    return _read(text, spec, cut)


def _read(text: bytes, spec: Spec, cut: bool) -> str | None:
    """The answer of a text without think blocks and stop texts, by the first rule that finds one.

    1. The marker that the task's prompt asks for: its first complete occurrence (the last for \\boxed).
    2. The other strong markers: their first complete occurrence.
    3. Not for boxed: the last complete "the answer is" or similar statement; for choices also "B is correct".
    4. Not for boxed, and not for a cut text: the last number, or the option that the text ends with.
    """
    announced = _announced(text, spec, is_open=cut)
    if announced is not None:
        return announced[1]
    if cut or spec.answer_format == "boxed":
        return None
    if spec.answer_format == "choice":
        return stated_choice(text, spec.options) or last_choice(text, spec.options)
    return last_number(text, _passed_over(text, spec))


_ASKED_FOR = {"number": Marker.HASH, "choice": Marker.ANSWER, "boxed": Marker.BOX}
_STRONG = frozenset((Marker.HASH, Marker.BOX, Marker.ANSWER, Marker.FINAL))


def _announced(text: bytes, spec: Spec, *, is_open: bool) -> tuple[int, str] | None:
    """Apply rules 1 to 3. Return where the marker begins and the value after it.

    With `is_open` more text may follow, so a value counts only if its end has been read.
    """
    asked_for = _ASKED_FOR[spec.answer_format]
    asked = _values(text, frozenset((asked_for,)), spec, is_open)
    found = _last(asked) if spec.answer_format == "boxed" else next(asked, None)
    if found is None:
        found = next(_values(text, _STRONG - {asked_for}, spec, is_open), None)
    if found is None and spec.answer_format != "boxed":
        found = _last(_values(text, frozenset((Marker.STATED,)), spec, is_open))
    return found


def rank_of_marker(text: bytes, at: int, spec: Spec) -> int | None:
    """The rule, 1 to 3, of the marker whose value the byte `at` belongs to; None where no marker announces it."""
    begin = max(at - spec.window(WINDOW) - 64, 0)
    near = text[begin : at + spec.window(WINDOW)]
    found = []
    for occurrence in _occurrences(near, frozenset(Marker)):
        value = _value_of(near, occurrence, spec)
        if value.value is not None and value.span[0] <= at - begin < value.span[1]:
            asked_for = occurrence.marker is _ASKED_FOR[spec.answer_format]
            found.append(1 if asked_for else 2 if occurrence.marker in _STRONG else 3)
    return min(found, default=None)


def _last(values: Iterator[tuple[int, str]]) -> tuple[int, str] | None:
    last = None
    for last in values:  # noqa: B007 - the last one is what is wanted
        pass
    return last


def _values(text: bytes, markers: frozenset[Marker], spec: Spec, is_open: bool) -> Iterator[tuple[int, str]]:
    """Yield the begin and the value of each complete occurrence of the markers, in the order of the text."""
    for occurrence in _occurrences(text, markers):
        found = _value_of(text, occurrence, spec)
        if found.value is not None and (found.is_closed or not is_open):
            yield occurrence.first, found.value


def _passed_over(text: bytes, spec: Spec) -> list[tuple[int, int]]:
    """The spans without a last number: boxes, and statements of something else ("#### √2", "#### 3:45")."""
    found = [_value_of(text, occurrence, spec) for occurrence in _occurrences(text, frozenset(Marker))]
    return [value.span for value in found if value.is_formed and value.value is None]


def is_decided(text: bytes, spec: Spec) -> bool:
    """Whether no continuation of the text can change its answer.

    An answer is decided once the marker that the task asks for has a value whose end has been read, outside think
    blocks and before any stop text. A boxed answer is never decided, because the last box counts. With `expects_think`
    nothing is decided before a think block has closed.
    """
    if spec.answer_format == "boxed":
        return False
    opens = spec.starts_in_think or _opening(text, 0, spec) is not None
    if opens:
        thought = _after_think(text, spec)
        if thought.is_open:
            return False
        text = text[thought.begin :]
    elif spec.expects_think:
        return False
    else:
        close = _first_close(text, spec)
        text = _without_partial_close(text, spec) if close is None else text[: close[0]]
    stop = _STOP.search(text) if spec.stop_texts else None
    counted = text[: stop.start()] if stop else text
    return next(_values(counted, frozenset((_ASKED_FOR[spec.answer_format],)), spec, True), None) is not None


def answer_begin(text: bytes, spec: Spec) -> int | None:
    """Return the byte at which a completion stops thinking and states its answer.

    That is the end of the think block if one begins the completion (or the prompt opened one), else the marker of the
    answer (rules 1 to 3). None if the block never closes or no marker announces an answer.
    """
    thought = _after_think(text, spec)
    if thought.is_open or thought.begin:
        return None if thought.is_open else thought.begin
    stop = _STOP.search(text) if spec.stop_texts else None
    announced = _announced(text[: stop.start()] if stop else text, spec, is_open=False)
    return None if announced is None else announced[0]


_STOP = pattern(r"(?: \A | (?<=[\n\r]) ) [\ \t]{0,8}+ (?: Question | Q ) :")
_LAST_WORD = pattern(r"[^\ \t\n\r\f\v]")


def _without_last_word(text: bytes) -> bytes:
    """The text without the characters after its last white space, which may be an incomplete word."""
    end = len(text)
    while end > 0 and _LAST_WORD.match(text, end - 1):
        end -= 1
    return text[:end]


# Values -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Occurrence:
    """An occurrence of a marker; `first`: begin of the word before it ("the" of "the answer is"), else `begin`."""

    marker: Marker
    begin: int
    end: int
    first: int


@dataclass(frozen=True)
class _Found:
    """The value after an occurrence.

    Attributes:
        value: None if the occurrence is incomplete.
        is_closed: the end of the value has been read, so a continuation of the text cannot change it.
        is_formed: the text has the form of a value, even if it cannot be read.
        span: (begin, end) of that text.
    """

    value: str | None
    is_closed: bool
    is_formed: bool
    span: tuple[int, int]


def _value_of(text: bytes, occurrence: _Occurrence, spec: Spec) -> _Found:
    if occurrence.marker is Marker.BOX:
        content = balanced(text, occurrence.end)
        if content is None:
            return _Found(None, len(text) > occurrence.end + MAX_BOX, False, (0, 0))
        value = boxed_value(content, spec.answer_format, spec.options)
        return _Found(value, True, True, (occurrence.end, occurrence.end + len(content)))
    begin, end, is_closed = _window(text, occurrence, spec)
    line = text[:end]
    if spec.answer_format == "choice" or (spec.answer_format == "boxed" and spec.options is not None):
        return _Found(choice_after_marker(line, begin, spec.options), is_closed, False, (begin, end))
    if spec.answer_format == "boxed":
        return _Found(expression_after_marker(line, begin), is_closed, False, (begin, end))
    value, is_formed = number_after_marker(line, begin, is_heading=occurrence.marker is Marker.HASH)
    return _Found(value, is_closed, is_formed, (begin, end))


# The end of a sentence. The point of an abbreviation does not end one.
_SENTENCE_END = pattern(r"(?<! Rs ) (?<! No ) (?<! vs ) (?<! approx ) [.?] [*_\"')\]]{0,4}+ (?= [\ \t] )")
_TOKEN = pattern(r"[^\ \t]*+")


def _window(text: bytes, occurrence: _Occurrence, spec: Spec) -> tuple[int, int, bool]:
    """Return (begin, end, whether the end has been read) of the text that may be the value after a marker.

    It begins after white space and marks and ends with its sentence or line, or after WINDOW bytes. Nothing after the
    end is read, so a continuation of the text cannot change the value. The first token after "####" does not end the
    sentence ("#### 1. Count the apples"); no sentence end counts if an option's text contains one.
    """
    begin = skip(BEFORE, text, occurrence.end)
    limit = begin + spec.window(WINDOW)
    line_end = text.find(b"\n", begin, limit)
    end, is_closed = (line_end, True) if line_end >= 0 else (min(limit, len(text)), limit <= len(text))
    if spec.options_have_sentences:
        return begin, end, is_closed
    start = begin
    if occurrence.marker is Marker.HASH and (token := _TOKEN.match(text, begin, end)) is not None:
        start = token.end()
    sentence = _SENTENCE_END.search(text, start, end)
    return (begin, end, is_closed) if sentence is None else (begin, sentence.end(), True)


# Markers ------------------------------------------------------------------------------------------------------------

# A quoted marker does not count: I will end with "#### 5".
_HASH = pattern(r"""(?<! ["'`] ) (?<! “ ) (?<! ‘ ) (?: (?<! \# ) \#{4,}+ | (?<! \\\# ) (?: \\\# ){4,}+ )""")
_BOX = pattern(rf"\\ (?: boxed | fbox ) {SPACE}{{0,8}}+ \{{")
_WORD = pattern(rf"(answer | option | choice | ans) (?! {WORD} )", re.IGNORECASE)

_GOOD = word_set("marker_good")
_BAD = word_set("marker_bad")
_MARKS = b" \t*_\"'`([<>#-"
_COLON = pattern(r"""[\ \t*_"'`]{0,8}+ (?: : | ： | = (?!=) )""")
_DASH = pattern(r"[*_]{0,4}+ [\ \t]{1,4}+ (?: - | – | — ) (?= [\ \t] )")
# "The answer to this question must be", "the answer we want is".
_IS = pattern(
    rf"""(?: [\ \t]{{1,4}}+ (?: to | for | in | of | here | we | you | i )
             (?: [\ \t]{{1,4}}+ [A-Za-z0-9'-]{{1,15}}+ ){{0,4}}? )?
         {SPACE}{{1,4}}+
         (?: is | was | equals | (?: would | should | must | will | can | has\ to ) (?: \ only )?+ \ be )
         (?! {WORD} )""",
    re.IGNORECASE,
)
_HEADING_END = pattern(r"[\ \t*_]{0,8}+ \n")


def _occurrences(text: bytes, markers: frozenset[Marker]) -> list[_Occurrence]:
    """The occurrences of the markers in the order of the text."""
    found = (
        [_Occurrence(Marker.HASH, *hit.span(), hit.start()) for hit in _HASH.finditer(text)]
        if Marker.HASH in markers
        else []
    )
    if Marker.BOX in markers:
        found += [_Occurrence(Marker.BOX, *hit.span(), hit.start()) for hit in _BOX.finditer(text)]
    if markers & {Marker.ANSWER, Marker.FINAL, Marker.STATED}:
        said = (_statement(text, hit) for hit in _WORD.finditer(text))
        found += [one for one in said if one is not None and one.marker in markers]
    return sorted(found, key=lambda one: (one.begin, one.end))


def _statement(text: bytes, word: re.Match[bytes]) -> _Occurrence | None:
    """The marker that the word "answer", "option", "choice" or "ans" belongs to."""
    begin, end = word.span()
    name = word[1].lower()
    before, first = _word_before(text, begin)
    if before is None or before in _BAD:
        return None
    is_good, is_start = before in _GOOD, before == b""
    is_final = before == b"final" and first == begin - 6 and text[begin - 1 : begin] == b"_"
    tag = first if is_final else begin
    is_tag = text[tag - 1 : tag] == b"<" and text[end : end + 1] == b">"
    link = _COLON.match(text, end) or (_DASH.match(text, end) if is_good or is_start else None)
    if link is None and (is_good or is_start) and _is_heading(text, first):
        link = _HEADING_END.match(text, end)
    if is_tag or link is not None:
        stop = end + 1 if link is None else link.end()
        is_strong = name == b"answer" and (is_good or is_start)
        return _Occurrence(Marker.ANSWER if is_strong else Marker.STATED, begin, stop, first)
    said = _IS.match(text, end)
    if said is None:
        return None
    if before == b"final":
        return _Occurrence(Marker.FINAL if name == b"answer" else Marker.STATED, begin, said.end(), first)
    if name in (b"answer", b"ans") or is_good or before == b"likely":
        return _Occurrence(Marker.STATED, begin, said.end(), first)
    return None


def _word_before(text: bytes, at: int) -> tuple[bytes | None, int]:
    """The word before the one at `at` on its line, in lower case, and where it begins.

    Marks between the two are skipped. The word is b"" at the beginning of a line or sentence, None if no word begins at
    `at`, and b"?" if it is not a plain word.
    """
    begin = at
    while at - begin < 8 and begin > 0 and text[begin - 1] in _MARKS:
        begin -= 1
    if begin == at:
        if text[max(at - 6, 0) : at].lower() == b"final_":
            return b"final", at - 6
        is_inside = text[max(at - 1, 0) : at] in (b"/", b"\\") or is_word_before(text, at)
        return (None, at) if is_inside else (b"", at)
    end = begin
    while end - begin < 13 and text[max(begin - 1, 0) : begin].isalpha():
        begin -= 1
    if end - begin == 13 or is_word_before(text, begin):
        return b"?", begin
    return text[begin:end].lower(), begin if begin < end else at


def _is_heading(text: bytes, at: int) -> bool:
    """Whether only marks of a heading ("## ", "**") precede `at` on its line."""
    begin = at
    while at - begin < 16 and begin > 0 and text[begin - 1] in b" \t>#*_":
        begin -= 1
    marks = text[begin:at].strip(b" \t>")
    return marks != b"" and (begin == 0 or text[begin - 1] == ord("\n"))
