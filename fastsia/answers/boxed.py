"""What the content of a \\boxed{...} says. Part of the reference; csrc/boxed.cc does the same.

Works on UTF-8 bytes. A box holds an option's letter, a number, or an expression, which gets one spelling for what LaTeX
writes in several ways. Nothing is evaluated.
"""

from __future__ import annotations

import re

from fastsia.answers.choice import Options, choice_after_marker
from fastsia.answers.number import SPACE, TEXT_COMMAND, number_after_marker, pattern, whole_number
from fastsia.config import AnswerFormat

MAX_BOX = 512  # bytes between the braces of \boxed{...}
MAX_TEXT = 256  # bytes of a boxed answer that is no number

_ESCAPE_OR_BRACE = re.compile(rb"\\.|[{}]", re.DOTALL)
_NO_INK = pattern(r"\\left(?![a-z]) | \\right(?![a-z]) | \\displaystyle(?![a-z]) | \\[!,;:] | \\?\$")
_WIDE = pattern(r"\\\ | ~")
_SIZED_FRACTION = pattern(r"\\[dt]frac")
_WRAPPED = pattern(rf"{TEXT_COMMAND}([^{{}}]*+)\}}")
_SPACES = pattern(rf"{SPACE}++")
_PROSE = pattern(r"""[A-Za-z\x80-\xff'",.;:!?&\ -]*+""")
_ARITHMETIC = pattern(r"[-0-9.+*/^(){}]*+")
_OPERATION = pattern(r"[0-9)}][-+*/^]")


def balanced(text: bytes, begin: int) -> bytes | None:
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
        return choice_after_marker(content, 0, options)
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


def expression_after_marker(line: bytes, at: int) -> str | None:
    """The answer that follows another marker ("Answer:") at `at` in the boxed format; `line` ends where it may end."""
    return number_after_marker(line, at)[0]
