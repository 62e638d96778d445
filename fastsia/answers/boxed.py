"""Reads the content of a \\boxed{...}. Part of the Python reference; csrc/boxed.cc implements the same rules.

Works on UTF-8 bytes. A box contains an option's letter, a number, or an expression, which spelling.py normalizes.
Nothing is evaluated.
"""

from __future__ import annotations

import re

from fastsia.answers.choice import Options, choice_after_marker
from fastsia.answers.number import SPACE, TEXT_COMMAND, number_after_marker, pattern, whole_number
from fastsia.answers.spelling import FUNCTIONS, KNOWN_SIGNS, UNITS, spelled
from fastsia.answers.tables import word_set
from fastsia.config import AnswerFormat

MAX_BOX = 512  # bytes between the braces of \boxed{...}

_ESCAPE_OR_BRACE = re.compile(rb"\\.|[{}]", re.DOTALL)


def balanced(text: bytes, begin: int) -> bytes | None:
    """Return the text between the opening brace before `begin` and its closing brace; None if it is not closed."""
    depth = 1
    for found in _ESCAPE_OR_BRACE.finditer(text, begin, begin + MAX_BOX + 1):
        depth += {b"{": 1, b"}": -1}.get(found[0], 0)
        if depth == 0:
            return text[begin : found.start()]
    return None


def boxed_value(content: bytes, answer_format: AnswerFormat, options: Options) -> str | None:
    """Return the answer in a box: an option's letter, a canonical number, or (boxed format) a normalized expression."""
    if answer_format == "choice" or (answer_format == "boxed" and options is not None):
        return choice_after_marker(content, 0, options)
    value, is_number = whole_number(content, is_formula=answer_format == "boxed")
    if answer_format == "boxed" and _OPENED.match(content) and _NEXT_IN_LIST.search(content) and b",0" not in content:
        return _expression(content)
    if answer_format == "boxed" and value is None and _RAISED.search(content):
        is_number = False  # 3² was written as a formula, not typed as arithmetic
    return value if is_number or answer_format == "number" else _expression(content)


# (100,200) is a point or an interval; (1,000) is a number.
_OPENED = pattern(rf"(?: {SPACE} | \$ | \\[,;:!\ (] )*+ (?: \\left )?+ [(\[]")
_NEXT_IN_LIST = pattern(r",[1-9]")
_RAISED = pattern(r"\xc2[\xb2\xb3\xb9] | \xe2\x81[\xb0-\xbf]")
_PLAIN_NUMBER = pattern(r"-?+ (?: [0-9.,]++ | [0-9]*+ \\frac\{[0-9.]++\}\{[0-9.]++\} ) (?: \^\\circ )?+")
_CALCULATION = pattern(r"(?: [-0-9.+*/^(){}=\ ] | \\cdot | \\times | \\div | \\frac )*+")


_REPEATING = pattern(r"(-?+) ([0-9]{0,6}+) \. ([0-9]{0,6}+) \\overline\{([0-9]{1,6}+)\}")


_LIST_COMMA = pattern(rf", (?: {SPACE} | ~ | \\(?: [;:\ ] | quad | qquad ) )")  # 100, 200 is a list, 100,200 a number
# Placeholders copied from the instruction.
_PLACEHOLDER_MARKS = b"[](){}<>?._ \\"
_PLACEHOLDERS = frozenset(
    (b"", b"dots", b"answer", b"your answer", b"final answer", b"the answer", b"insert answer", b"your final answer")
)


def _expression(content: bytes) -> str | None:
    """Normalize a content that is not yet a number: \\bf 7 becomes 7, 2 + 3 = 5 becomes 5."""
    text = spelled(content)
    if text is None:
        return None
    if b"=" in text and _CALCULATION.fullmatch(text):
        return whole_number(text.rpartition(b"=")[2], is_formula=True)[0]
    if repeating := _REPEATING.fullmatch(text):
        sign, whole, fixed, again = repeating.groups()
        over = int(whole + fixed + again) - int(whole + fixed or b"0")
        return whole_number(b"%b%d/%d%b" % (sign, over, 10 ** len(again) - 1, b"0" * len(fixed)), is_formula=True)[0]
    if text.lower().strip(_PLACEHOLDER_MARKS).removesuffix(b" here") in _PLACEHOLDERS:
        return None
    if _PLAIN_NUMBER.fullmatch(text):
        value, is_number = whole_number(text, is_formula=True)
        if is_number and b"," in text and _LIST_COMMA.search(content):
            text = text.replace(b",", b", ")
        elif is_number:
            return value
    return text.decode(errors="replace")


# After other markers -----------------------------------------------------------------------------------------------

_MAX_BACK = 32  # bytes examined before a value
_OPENING = b" \t([{$\\"
_TEXT_NAMES = (b"\\textbf", b"\\textit", b"\\text", b"\\mathrm", b"\\mathbf", b"\\mathit", b"\\mbox")
_MATH_PAIRS = ((b"$$", b"$$"), (b"$", b"$"), (b"\\(", b"\\)"), (b"\\[", b"\\]"))
_MARK_PAIRS = ((b"**", b"**"), (b"*", b"*"), (b"`", b"`"), (b'"', b'"'), ("“".encode(), "”".encode()))
_END_MARKS = pattern(r"""(?: [\ \t\r\n\f\v.,;:*_`"] | ” | 。 )++ \Z""")


def expression_after_marker(line: bytes, at: int) -> str | None:
    """Read the answer after another marker ("Answer:") in the boxed format.

    If the rest of the line is one expression, or contains one in $...$ or \\(...\\), it is read like the content of a
    box. Otherwise the answer is the number at the beginning of the line, unless it begins a list or a formula.

    Args:
        line: text up to the end of the window that may contain the value.
        at: position after the marker.
    """
    rest, is_math = _without_marks(line[_value_begin(line, at) :])
    if _is_formula(rest) if is_math else _is_expression(rest):
        return boxed_value(rest, "boxed", None)
    return None if is_math else _number_in_prose(line, at, rest)


def _value_begin(line: bytes, at: int) -> int:
    """Return where the value begins: brackets and marks skipped before `at` belong to it."""
    begin = at
    while begin > 0 and at - begin < _MAX_BACK:
        names = [name for name in _TEXT_NAMES if line.endswith(name, 0, begin) and line[begin : begin + 1] == b"{"]
        if names:
            begin -= len(names[0])
        elif line[begin - 1] in _OPENING:
            begin -= 1
        elif line.endswith((b"*", b"`", b'"', "“".encode()), 0, begin) and line[begin : begin + 1] not in (b" ", b"\t"):
            begin -= 3 if line[begin - 1] >= 0x80 else 1
        else:
            break
    return begin


def _without_marks(rest: bytes) -> tuple[bytes, bool]:
    """(content, whether it is marked as mathematics) after removing $...$, **...** and text that may follow them."""
    is_math = False
    rest = rest.partition(b"</")[0].strip(b" \t\r\n\f\v")
    for _ in range(4):
        pair = next((pair for pair in (*_MATH_PAIRS, *_MARK_PAIRS) if rest.startswith(pair[0])), None)
        if pair is None:
            break
        inside, closing, after = rest[len(pair[0]) :].partition(pair[1])
        if not closing or not (pair[1] == b'"' or _may_follow(after)):
            break
        rest = inside.strip(b" \t\r\n\f\v")
        is_math |= pair in _MATH_PAIRS
    rest = _END_MARKS.sub(b"", rest)
    return (rest[:-1] if rest[-1:] == b")" and _count(rest, b")]}") == _count(rest, b"([{") + 1 else rest), is_math


_REASON = pattern(
    rf"{SPACE}*+ [,;(]?+ {SPACE}*+ (?: because | since | as | by | so | which | for | when )\b", re.IGNORECASE
)
_UNIT_WORDS = pattern(r"(?: [\ \t\r\n\f\v.,;:*_`\"')/^23-] | ” | 。 | ² | ³ | [A-Za-z]++ )*+")


def _may_follow(after: bytes) -> bool:
    """Whether the text after marked mathematics is not part of the answer: it is empty, a unit, or a reason."""
    are_units = _UNIT_WORDS.fullmatch(after) and all(word in UNITS for word in re.findall(rb"[A-Za-z]+", after))
    return bool(are_units) or _REASON.match(after) is not None


_COMMAND = pattern(rf"{TEXT_COMMAND}[^{{}}]*+\}} | \\[A-Za-z]++ (?: \{{ [A-Za-z]*+ \}} )?+ | \\.", re.DOTALL)
_RUN = pattern(r"[A-Za-z]++")
_SHORT_WORDS = word_set("short_words")
_NO_ANSWER = word_set("no_answer")
_REMARK = pattern(r"-?+ [0-9]++ (?: [.,][0-9]++ )*+ (?: !+ \Z | [\ \t]++ [(0-9] )")  # "42!", "42 (6 times 7)", "10 000"
_STRANGE = pattern(r"[?:#@\"`;$]")
_OPEN_END = pattern(r"(?: [-+*/^_=<>,(\[\\] | \\(?: cdot | times | le | ge | pm ) )\Z")


def _is_formula(rest: bytes) -> bool:
    """Whether marked mathematics can be an answer: it is complete and not a sentence."""
    runs = [run for run in _RUN.findall(_COMMAND.sub(b" ", rest)) if len(run) >= 3 and run not in FUNCTIONS]
    return rest != b"" and not _OPEN_END.search(rest) and len(runs) <= 1


def _is_expression(rest: bytes) -> bool:
    """Whether the rest of a line is one expression: a formula without words, or a single word."""
    bare = _COMMAND.sub(b" ", rest)
    if not rest or _STRANGE.search(bare) or _OPEN_END.search(rest) or rest[:1] in b",)]}" or not _is_closed(rest):
        return False
    if bare.isalpha():
        return bare.lower() not in _NO_ANSWER
    if _REMARK.match(rest):
        return False
    for found in _RUN.finditer(bare):
        run, begin, end = found[0], *found.span()
        if len(run) == 1 or run in FUNCTIONS:
            continue
        joined = bare[max(begin - 1, 0) : begin] + bare[end : end + 1]
        if len(run) > 3 or run.lower() in _SHORT_WORDS or not joined.strip(b" \t,.'"):
            return False
    signs = re.findall(rb"[\xc0-\xff][\x80-\xbf]*|[\x80-\xbf]", bare)
    if not all(sign in KNOWN_SIGNS for sign in signs):
        return False
    symbols = _RUN.sub(lambda run: b"0" if run[0] in FUNCTIONS else run[0], bare)
    return bool(re.search(rb"[0-9A-Za-z]", rest) or signs) and not re.search(rb"[A-Za-z][ \t]+[A-Za-z]", symbols)


def _is_closed(rest: bytes) -> bool:
    """Whether as many brackets open as close. Their shapes may differ, as in an interval."""
    return _count(rest, b"([{") == _count(rest, b")]}")


def _count(text: bytes, of: bytes) -> int:
    return sum(byte in of for byte in text)


_HEAD = pattern(r"""(?: [-+*_"`] | \\[(\[] | − | \\?\$ | £ | € | ¥ | ₹ | ≈ | = | [\ \t] ){0,8}+ \.?[0-9][^\ \t]*+
    (?: [\ \t][0-9]++/[0-9]++ | (?: [\ \t][0-9]{3}(?![0-9]) )++ )?+""")
_OPERATORS = frozenset(b"+ * / ^ _ \\ < > [ $ & |".split())
_NEXT = pattern(r"[\ \t]*+ ([A-Za-z]++)?+")
_GOES_ON = _SHORT_WORDS & frozenset(b"or and to".split()) | frozenset(b"x times plus minus over divided".split())


def _number_in_prose(line: bytes, at: int, rest: bytes) -> str | None:
    """The number at the beginning of prose ("42 apples", "16 - 3 = 13"), unless a list or formula continues."""
    if b"=" in rest:
        value, is_number = whole_number(rest.rpartition(b"=")[2], is_formula=True)
        return value if is_number and rest[:1].isdigit() else None
    head = _HEAD.match(rest)
    if head is None or not whole_number(head[0], is_formula=True)[1]:
        return None
    following = _NEXT.match(rest, head.end())
    word = following[1] if following else None
    if word is not None:
        if word.lower() in _GOES_ON or (len(word) == 1 and word not in UNITS):
            return None
    elif rest[head.end() :].strip(b" \t")[:1] in _OPERATORS:
        return None
    if re.match(rb"[-\xe2]?[ \t]*[-.0-9$\\]", rest[head.end() :].strip(b" \t")) and word is None:
        return None
    return number_after_marker(line, at)[0]
