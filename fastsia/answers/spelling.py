"""Normalizes expressions that LaTeX writes in several ways. Part of the Python reference.

csrc/spelling.cc implements the same rules. Works on UTF-8 bytes. A content is split into tokens, parsed into atoms (a
symbol, a fraction with its arguments, an exponent), and written again. Anything that LaTeX does not show (sizes, fonts,
blanks in formulas) is dropped; names for one sign (≤, \\le, \\leq), braces around single arguments and signs of
fractions get one form. Nothing is evaluated or reordered. The result is LaTeX that renders as before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from fastsia.answers.number import SPACE, pattern
from fastsia.answers.tables import replacements, word_set

MAX_TEXT = 256  # bytes of a boxed answer that is not a number
MAX_CONTENT = 4096  # bytes of a content; longer ones are not normalized
MAX_DEPTH = 32  # nesting of arguments and groups

# Tables -------------------------------------------------------------------------------------------------------------

_DROPPED = word_set("dropped")
_BLANKS = word_set("blanks") | {b"\\ ", b"\\\t", b"\\\n", b"\\\r"}
_TEXT = word_set("text")
_ROMAN = word_set("roman")
_FONTS = word_set("fonts")
_FRACTIONS = frozenset((b"\\frac", b"\\binom"))
_ACCENTS = word_set("accents")
_WITH_DROPPED_ARGUMENT = word_set("with_dropped_argument")
FUNCTIONS = word_set("functions")
_APPLIED = frozenset(b"\\" + name for name in FUNCTIONS - {b"pi", b"sqrt", b"gcd", b"lcm"})
_GREEK = word_set("greek")
UNITS = word_set("units")
# Units that are not read as a product of letters, even outside of \text.
_BARE_UNITS = frozenset(unit for unit in UNITS if len(unit) >= 4) | {b"cm", b"km", b"mm", b"ft", b"kg"}
_ALIASES = replacements("aliases")
_RAISED = replacements("raised")
_LOWERED = replacements("lowered")
# The signs outside ASCII that occur in formulas.
KNOWN_SIGNS = frozenset(sign for sign in (*_ALIASES, *_RAISED, *_LOWERED, *_BLANKS, "°".encode()) if sign[0] >= 0x80)

_BOUNDARIES = word_set("boundaries")
_SIGNS = frozenset((b"+", b"-", b"\\pm", b"\\mp"))
_BEFORE_TERM = _BOUNDARIES | {b"(", b"[", b"\\{", b"\\langle"}
_AFTER_TERM = _BOUNDARIES | _SIGNS | {b")", b"]", b"\\}", b"\\rangle"}


# Tokens -------------------------------------------------------------------------------------------------------------

_HALF_WIDTH = replacements("half_width")
_FULL_WIDTH = re.compile(rb"\xef\xbc[\x81-\xbf]|\xef\xbd[\x80-\x9e]")
_TOKEN = pattern(
    rf"""\\[A-Za-z]++ | \\ [\xc0-\xff][\x80-\xbf]*+ | \\. | {SPACE}++ | [0-9]++ (?: \.[0-9]++ )?+ | \.[0-9]++
       | [A-Za-z]++ | <= | >= | != | == | => | -> | \+/- | \*\* | \.\.\. | [\xc0-\xff][\x80-\xbf]*+ | .""",
    re.DOTALL,
)
_PROSE_MARKS = word_set("prose_marks")
_FOREIGN = pattern(r"[\xc3-\xcd\xd0-\xdf] | [\xe0\xe1\xe3-\xee]")


def _tokens(content: bytes) -> list[bytes]:
    """Split a content into tokens. Each sign gets its normalized name; tokens without visible output are dropped."""
    tokens: list[bytes] = []
    script = b""
    for found in _TOKEN.finditer(_FULL_WIDTH.sub(lambda found: _HALF_WIDTH[found[0]], content)):
        token = found[0]
        raised = _RAISED.get(token)
        if raised is not None and not script and tokens and tokens[-1][-1:].isdigit():
            raised = None  # 3² was written as a formula, not typed as arithmetic
        lowered = _LOWERED.get(token)
        kind = b"^" if raised is not None else b"_" if lowered is not None else b""
        if script and script != kind:
            tokens.append(b"}")
        if kind and script != kind:
            tokens += [kind, b"{"]
        script = kind
        if kind:
            tokens.append(raised or lowered or b"")
        elif token in (b"\\degree", "°".encode()):
            tokens += [b"^", b"\\circ"]
        elif token == b"\\!" and tokens and tokens[-1] == b",":
            tokens[-1] = b"{,}"
        elif token in _DROPPED:
            pass
        elif token in _BLANKS or token[0] in b" \t\n\r\f\v":
            tokens.append(b" ")
        elif token in _ALIASES:
            tokens += _ALIASES[token].split(b" ")
        elif token == b"*" and tokens and tokens[-1] in (b"\\operatorname", b"\\hspace"):
            pass
        else:
            tokens.append(token)
    return [*tokens, b"}"] if script else tokens


def _prose(tokens: Sequence[bytes]) -> bytes | None:
    """The words with single blanks between them if all tokens are prose, else nothing. The case is kept."""
    shown = [token for token in tokens if token not in _FONTS and token not in b"{}"]
    shortest = 4 if b"-" in shown else 3  # abc - d is a formula
    if not any(
        _FOREIGN.match(token) or (token.isalpha() and token not in FUNCTIONS and len(token) >= shortest)
        for token in shown
    ):
        return None
    if not all(token == b" " or token in _PROSE_MARKS or token.isalpha() or token[0] >= 0xC3 for token in shown):
        return None
    text = b""
    for token in shown:
        if token == b"," or token == b" ":
            text = text.rstrip(b" ")
        text += token + b" " if token == b"," else token
    return re.sub(rb" ++", b" ", text).strip(b" ").rstrip(b". ,;:")


# Atoms --------------------------------------------------------------------------------------------------------------

_PLAIN, _UNIT, _NEGATIVE, _SHOWN = 0, 1, 2, 3


class _Atom(NamedTuple):
    """A unit of an expression: a symbol, digits, a command with its arguments, an exponent.

    Attributes:
        kind: _UNIT: may be a unit, inside \\text. _NEGATIVE: a fraction whose sign was removed from its text. _SHOWN: a
            blank inside \\text.
    """

    text: bytes
    kind: int = _PLAIN


_BLANK = _Atom(b" ")
_TEXT_BLANK = _Atom(b" ", _SHOWN)


class _TooDeep(Exception):
    """The content is nested more deeply than MAX_DEPTH."""


class _Reader:
    """Parses tokens into atoms."""

    def __init__(self, tokens: list[bytes]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.closing = _closing_brackets(tokens)

    def sequence(self, end: int, in_text: bool = False) -> list[_Atom]:
        """The atoms up to the token `end`, or up to a closing brace, which is skipped."""
        atoms: list[_Atom] = []
        while self.at < end:
            if self.tokens[self.at] == b"}":
                self.at += 1
                if self.depth:
                    break
                continue
            self.one(atoms, in_text)
        return atoms

    def one(self, atoms: list[_Atom], in_text: bool = False) -> None:
        """Read one token, with its arguments."""
        token = self.tokens[self.at]
        self.at += 1
        if token == b" ":
            atoms.append(_TEXT_BLANK if in_text else _BLANK)
        elif token == b"{":
            if self.tokens[self.at : self.at + 2] == [b",", b"}"]:
                self.at += 2
                atoms.append(_Atom(b"{,}"))
            else:
                atoms += self.group(in_text)
        elif token in (b"^", b"_"):
            self.script(token, atoms)
        elif token in _FONTS:
            if self.next_is(b"{"):
                inside = self.group(in_text or token in _TEXT)
                atoms += [_Atom(atom.text, atom.kind or _UNIT) for atom in inside] if token in _ROMAN else inside
        elif token in _FRACTIONS:
            atoms.append(self.fraction(token))
        elif token == b"\\sqrt" or token == b"sqrt":
            atoms.append(self.root())
        elif token in _ACCENTS:
            atoms.append(_Atom(token + b"{" + self.argument() + b"}"))
        elif token in _WITH_DROPPED_ARGUMENT:
            self.argument()
        elif token in (b"\\begin", b"\\end"):
            atoms.append(self.environment(token))
        elif token == b"\\\\":
            if self.next_is(b"[") and self.is_length(self.at):
                self.at = self.closing[self.at - 1] + 1
            atoms.append(_Atom(token))
        elif token in FUNCTIONS:
            atoms.append(_Atom(b"\\" + token))
        elif b"." in token and len(token) > 1 and token != b"\\.":
            atoms.append(_Atom(_decimal(token)))
        else:
            atoms.append(_Atom(token, _UNIT if in_text or token in _BARE_UNITS else _PLAIN))

    def next_is(self, wanted: bytes) -> bool:
        """Skip blanks and the token `wanted` if it is next. Returns whether it was."""
        at = self.at
        while at < len(self.tokens) and self.tokens[at] == b" ":
            at += 1
        if at == len(self.tokens) or self.tokens[at] != wanted:
            return False
        self.at = at + 1
        return True

    def group(self, in_text: bool = False) -> list[_Atom]:
        """The atoms of a group whose opening brace was just read."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _TooDeep
        atoms = self.sequence(len(self.tokens), in_text)
        self.depth -= 1
        return atoms

    def argument(
        self,
        *,
        whole_digits: bool = False,
        parentheses: bool = False,
        signs: bool = False,
        is_bracketed: bool = False,
    ) -> bytes:
        """A command's argument: a group, or one symbol.

        Args:
            whole_digits: read all digits of a number, as in x^10.
            parentheses: read a group in parentheses, as in x^(n+1).
            signs: read a sign, as in x^-1.
            is_bracketed: drop parentheses around the whole argument, as in \\frac{(x-1)}{2}; not for f^{(2)}.
        """
        while self.at < len(self.tokens) and self.tokens[self.at] == b" ":
            self.at += 1
        if self.at == len(self.tokens) or self.tokens[self.at] == b"}":
            return b""
        token = self.tokens[self.at]
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _TooDeep
        atoms: list[_Atom] = []
        if token == b"{":
            self.at += 1
            atoms = self.sequence(len(self.tokens))
        elif parentheses and token == b"(" and self.closing[self.at] > 0:
            end = self.closing[self.at]
            self.at += 1
            atoms = self.sequence(end)
            self.at = max(self.at, end + 1)  # a command at the end may have read past it
        elif signs and token in (b"-", b"+"):
            self.at += 1
            following = self.tokens[self.at] if self.at < len(self.tokens) else b" "
            atoms = [_Atom(token)]
            if following[:1].isdigit() or following.isalpha() or following in _GREEK:
                atoms.append(_Atom(self.symbol(whole_digits)))
        elif token[:1].isdigit() or (token.isalpha() and token not in FUNCTIONS):
            atoms = [_Atom(self.symbol(whole_digits))]
        else:
            self.one(atoms)
        self.depth -= 1
        return _written(_arranged(_without_parentheses(_without_blanks(atoms)) if is_bracketed else atoms))

    def symbol(self, whole_digits: bool) -> bytes:
        """The next token, or its first letter or digit. In that case the rest remains to be read."""
        token = self.tokens[self.at]
        if len(token) > 1 and (token.isalpha() or (token[:1].isdigit() and not whole_digits)):
            self.tokens[self.at] = token[1:]
            return token[:1]
        self.at += 1
        return _decimal(token) if b"." in token else token

    def script(self, token: bytes, atoms: list[_Atom]) -> None:
        """Append an exponent or a subscript. The subscript is written first."""
        text = self.argument(whole_digits=True, parentheses=token == b"^", signs=True)
        if not text:
            return
        if token == b"^" and not text.strip(b"'"):
            atoms.append(_Atom(text))
            return
        atom = _Atom(token + (text if _is_symbol(text) else b"{" + text + b"}"))
        if token == b"_" and atoms and atoms[-1].text[:1] == b"^":
            atoms.insert(len(atoms) - 1, atom)
        else:
            atoms.append(atom)

    def fraction(self, token: bytes) -> _Atom:
        over, under = self.argument(is_bracketed=True), self.argument(is_bracketed=True)
        negative = False
        if token == b"\\frac":
            for part in (over, under):
                negative ^= part[:1] == b"-" and _is_term(part[1:])
            over, under = (part[1:] if part[:1] == b"-" and _is_term(part[1:]) else part for part in (over, under))
        return _Atom(token + b"{" + over + b"}{" + under + b"}", _NEGATIVE if negative else _PLAIN)

    def root(self) -> _Atom:
        degree = b""
        if self.next_is(b"["):
            end = self.closing[self.at - 1]
            if end > 0:
                self.depth += 1
                if self.depth > MAX_DEPTH:
                    raise _TooDeep
                degree = _written(_arranged(self.sequence(end)))
                self.depth -= 1
                self.at = max(self.at, end + 1)
            else:
                self.at -= 1
        text = self.argument(whole_digits=True, parentheses=True, is_bracketed=True)
        return _Atom(b"\\sqrt" + (b"[" + degree + b"]" if degree not in (b"", b"2") else b"") + b"{" + text + b"}")

    def environment(self, token: bytes) -> _Atom:
        if not self.next_is(b"{"):
            return _Atom(token)
        name = b""
        while self.at < len(self.tokens) and self.tokens[self.at] != b"}":
            name += self.tokens[self.at].strip(b" ")
            self.at += 1
        self.at = min(self.at + 1, len(self.tokens))
        if token == b"\\begin" and name == b"array" and self.next_is(b"{"):
            self.group()
        return _Atom(token + b"{" + name + b"}")

    def is_length(self, begin: int) -> bool:
        """Whether the bracket that was just read contains a length such as 2pt."""
        end = self.closing[begin - 1]
        inside = b"".join(self.tokens[begin:end]) if 0 < end <= begin + 4 else b""
        return re.fullmatch(rb"-?[0-9.]+ ?(pt|em|ex|mm|cm|in)", inside) is not None


def _decimal(digits: bytes) -> bytes:
    """Digits with a point: with a zero before it and without trailing zeros."""
    return (b"0" + digits if digits[:1] == b"." else digits).rstrip(b"0").rstrip(b".")


def _closing_brackets(tokens: Sequence[bytes]) -> list[int]:
    """For each opening bracket the index of its closing one within the same braces, 0 for all other tokens."""
    closing = [0] * len(tokens)
    opened: list[int] = []
    for at, token in enumerate(tokens):
        if token in (b"(", b"[", b"{"):
            opened.append(at)
        elif token == b"}":
            while opened and tokens[opened[-1]] != b"{":
                opened.pop()
            if opened:
                opened.pop()
        elif token in (b")", b"]") and opened and tokens[opened[-1]] != b"{":
            begin = opened.pop()
            if (tokens[begin], token) in ((b"(", b")"), (b"[", b"]")):
                closing[begin] = at
    return closing


_SYMBOL = pattern(r"\\[A-Za-z]++ | \\. | [\xc0-\xff][\x80-\xbf]*+ | .", re.DOTALL)


def _is_symbol(text: bytes) -> bool:
    """Whether an argument needs no braces."""
    return _SYMBOL.fullmatch(text) is not None


def _is_term(text: bytes) -> bool:
    """Whether there is no sum outside brackets."""
    depth = 0
    for at, byte in enumerate(text):
        if byte in b"([{":
            depth += 1
        elif byte in b")]}":
            depth -= 1
        elif depth == 0 and (byte in b"+-," or text[at : at + 3] in (b"\\pm", b"\\mp")):
            return False
    return text != b""


# Writing ------------------------------------------------------------------------------------------------------------


def _is_digits(atom: _Atom) -> bool:
    return atom.text[:1].isdigit()


def _is_wordish(text: bytes, at: int) -> bool:
    return text[at : at + 1].isalnum() or text[at] >= 0x80


def _without_blanks(atoms: Sequence[_Atom]) -> list[_Atom]:
    """Keep one blank between words of a text, around "and" and "or", and between digits; drops all others."""
    kept: list[_Atom] = []
    blank: _Atom | None = None
    for atom in atoms:
        if atom.text == b" ":
            blank = atom if blank is None or blank.kind != _SHOWN else blank
            continue
        if blank is not None and kept:
            before = kept[-1]
            in_words = _is_wordish(before.text, len(before.text) - 1) and (
                _is_wordish(atom.text, 0) or (atom.text[:1] == b"\\" and atom.text[1:2].isalpha())
            )
            is_spoken = blank.kind == _SHOWN or before.text in (b"and", b"or") or atom.text in (b"and", b"or")
            if (in_words and is_spoken) or (_is_digits(before) and _is_digits(atom)):
                kept.append(_TEXT_BLANK)
        blank = None
        kept.append(atom)
    return kept


def _arranged(atoms: Sequence[_Atom]) -> list[_Atom]:
    """The atoms with one form for groups of thousands, products, signs and simple fractions."""
    atoms = _grouped(_without_blanks(atoms))
    out: list[_Atom] = []
    for at, atom in enumerate(atoms):
        following = atoms[at + 1] if at + 1 < len(atoms) else None
        if atom.text == b"+" and _may_begin(out) and following is not None:
            continue
        if atom.kind == _NEGATIVE:
            if _may_begin(out):
                out.append(_Atom(b"-"))
                out.append(_Atom(atom.text))
            else:
                out.append(_Atom(b"\\frac{-" + atom.text[6:]))
            continue
        if atom.text in (b"*", b"\\cdot", b"\\times") and out and following is not None:
            left, right = _is_digits(out[-1]), _is_digits(following)
            if left and not right and _is_factor(following):
                continue
            is_scalar = left or right if atom.text == b"\\times" else not (left and right)
            if is_scalar and atom.text != b"\\cdot":
                atom = _Atom(b"\\cdot")
        if atom.text == b"\\\\" and (following is None or following.text[:5] == b"\\end{"):
            continue
        if atom.text == b"\\}" and out and out[-1].text == b"\\{":
            out[-1] = _Atom(b"\\emptyset")
            continue
        out.append(atom)
    return _applied(_slashes(out))


def _grouped(atoms: Sequence[_Atom]) -> list[_Atom]:
    """Join digits that {,} or a thin blank separates into groups of three."""
    out: list[_Atom] = []
    is_group = False
    for at, atom in enumerate(atoms):
        if atom.text in (b"{,}", b"\\,"):
            following = atoms[at + 1].text if at + 1 < len(atoms) else b""
            is_after = bool(out) and out[-1].text.isdigit() and (is_group or len(out[-1].text) <= 3)
            is_group = is_after and following.partition(b".")[0].isdigit() and len(following.partition(b".")[0]) == 3
            if not is_group and atom.text == b"{,}":
                out.append(_Atom(b","))
            elif not is_group and out and _is_digits(out[-1]) and following[:1].isdigit():
                out.append(_TEXT_BLANK)
        elif is_group and atom.text[:3].isdigit() and out[-1].text.isdigit() and _is_separator(atoms[at - 1]):
            out[-1] = _Atom(out[-1].text + atom.text)
        else:
            is_group = False
            out.append(atom)
    return out


def _is_separator(atom: _Atom) -> bool:
    return atom.text in (b"{,}", b"\\,")


def _may_begin(out: Sequence[_Atom]) -> bool:
    """Whether a term begins after the atoms written so far."""
    return not out or out[-1].text in _BEFORE_TERM or out[-1].text[:6] == b"\\begin"


def _is_factor(atom: _Atom) -> bool:
    """Whether a number may directly precede the atom: 2x, 2\\pi, 2(x+1). Not a fraction: 2\\frac{1}{2} is 2.5."""
    return (
        atom.text == b"(" or atom.text.isalpha() or atom.text in _GREEK or atom.text[:5] == b"\\sqrt"
    ) and atom.text not in (b"and", b"or")


def _slashes(atoms: list[_Atom]) -> list[_Atom]:
    """Write a/b as \\frac{a}{b} if both are a number, a symbol or a root; a may also be a number times one of these."""
    out: list[_Atom] = []
    at = 0
    while at < len(atoms):
        under = atoms[at + 1] if at + 1 < len(atoms) else None
        begin = len(out)
        if atoms[at].text == b"/" and under is not None and _is_operand(under):
            ends = at + 2 == len(atoms) or atoms[at + 2].text in _AFTER_TERM or atoms[at + 2].text[:5] == b"\\end{"
            if ends and out and _is_operand(out[-1]):
                begin -= 1
                if not _is_digits(out[begin]) and begin > 0 and _is_digits(out[begin - 1]):
                    begin -= 1
                if not (_may_begin(out[:begin]) or out[begin - 1].text in _SIGNS):
                    begin = len(out)
        if begin < len(out) and under is not None:
            over = _written(out[begin:])
            out[begin:] = [_Atom(b"\\frac{" + over + b"}{" + under.text + b"}")]
            at += 2
        else:
            out.append(atoms[at])
            at += 1
    return out


def _is_operand(atom: _Atom) -> bool:
    text = atom.text
    return _is_digits(atom) or (len(text) == 1 and text.isalpha()) or text in _GREEK or text[:6] == b"\\sqrt{"


def _applied(atoms: list[_Atom]) -> list[_Atom]:
    """Write \\sin(x) as \\sin x if the parentheses contain one operand, perhaps times a number, and end a term."""
    out: list[_Atom] = []
    at = 0
    while at < len(atoms):
        name = out[-2 if len(out) > 1 and out[-1].text[:1] in (b"^", b"_") else -1].text if out else b""
        end = next((at + size for size in (2, 3) if at + size < len(atoms) and atoms[at + size].text == b")"), 0)
        inside = atoms[at + 1 : end]
        if (
            atoms[at].text == b"("
            and name in _APPLIED
            and inside
            and (_is_operand(inside[-1]) or inside[-1].text[:6] == b"\\frac{")
            and (
                len(inside) == 1
                or (_is_digits(inside[0]) and not _is_digits(inside[1]) and inside[1].text[:2] != b"\\f")
            )
            and (end + 1 == len(atoms) or atoms[end + 1].text in _AFTER_TERM or atoms[end + 1].text[:5] == b"\\end{")
        ):
            out += inside
            at = end + 1
        else:
            out.append(atoms[at])
            at += 1
    return out


_COMMAND_END = pattern(r"\\[A-Za-z]++")


def _written(atoms: Sequence[_Atom]) -> bytes:
    """The atoms as LaTeX, with a blank between a command and a letter and braces around an exponent before a digit."""
    parts: list[bytes] = []
    for at, atom in enumerate(atoms):
        text = atom.text
        following = atoms[at + 1].text[:1] if at + 1 < len(atoms) else b""
        if text[:1] in (b"^", b"_") and text[-1:].isdigit() and following.isdigit():
            text = text[:1] + b"{" + text[1:] + b"}"
        tail = text[1:] if text[:1] in (b"^", b"_") else text
        parts.append(text + b" " if following.isalpha() and _COMMAND_END.fullmatch(tail) else text)
    return b"".join(parts)


# Whole contents -----------------------------------------------------------------------------------------------------

_ARITHMETIC = pattern(r"[-0-9.+*/^(){}]*+")
_OPERATION = pattern(r"[0-9)}][-+*/^]")
_END_MARKS = frozenset((b".", b",", b";", b":", b"\\\\", b"\\,", b"{,}", b" "))
_ENVIRONMENTS = (b"array", b"matrix", b"smallmatrix")


def spelled(content: bytes) -> bytes | None:
    """Return the normalized content of a box; None if it is empty, too long, nested too deeply, or arithmetic."""
    if len(content) > MAX_CONTENT:
        return None
    tokens = _tokens(content)
    text = _prose(tokens)
    if text is None:
        try:
            atoms = _Reader(tokens).sequence(len(tokens))
            atoms = _without_name(_grouped(_without_blanks(_without_units(_without_end(atoms)))))
            text = _with_matrices(_written(_arranged(_without_parentheses(atoms))))
        except _TooDeep:
            return None
    if not text or len(text) > MAX_TEXT or (_ARITHMETIC.fullmatch(text) and _OPERATION.search(text)):
        return None
    return text


def _without_end(atoms: list[_Atom]) -> list[_Atom]:
    """The atoms without the points and commas at the end."""
    end = len(atoms)
    while end and atoms[end - 1].text in _END_MARKS:
        end -= 1
    return atoms[:end]


def _without_units(atoms: list[_Atom]) -> list[_Atom]:
    """The atoms without the units at the end."""
    end = len(atoms)
    if end and atoms[end - 1].text in (b"^2", b"^3", "²".encode(), "³".encode()):
        end -= 1
    begin = end
    while begin and (atoms[begin - 1].kind == _UNIT or atoms[begin - 1].text == b" "):
        begin -= 1
    words = re.split(rb"[ ./-]++", b"".join(atom.text for atom in atoms[begin:end]).strip(b" ./-"))
    if words == [b""] or not all(word in UNITS for word in words):
        return atoms
    return _without_end(atoms[:begin]) or atoms


def _without_name(atoms: list[_Atom]) -> list[_Atom]:
    """The atoms without a leading "x =" or "x \\in", if x is one symbol and no other such sign follows."""
    signs = [at for at, atom in enumerate(atoms) if atom.text in (b"=", b"\\in")]
    if len(signs) != 1 or signs[0] + 1 == len(atoms):
        return atoms
    name = [atom.text for atom in atoms[: signs[0]]]
    is_name = bool(name) and (
        (len(name[0]) == 1 and name[0].isalpha()) or (name[0] in _GREEK and name[0] != b"\\infty")
    )
    if is_name and (len(name) == 1 or (len(name) == 2 and name[1][:1] == b"_")):
        return atoms[signs[0] + 1 :]
    return atoms


_LISTS = frozenset((b",", b";", b"&", b"\\\\", b" "))


def _without_parentheses(atoms: list[_Atom]) -> list[_Atom]:
    """The atoms without parentheses around the whole, unless they enclose a list or a matrix."""
    for _ in range(4):
        if len(atoms) < 3 or atoms[0].text != b"(" or atoms[-1].text != b")":
            break
        depth = 0
        for at, atom in enumerate(atoms):
            depth += {b"(": 1, b"[": 1, b")": -1, b"]": -1}.get(atom.text, 0)
            is_list = atom.text in _LISTS or atom.text[:6] == b"\\begin"
            if is_list or (depth == 0 and at + 1 < len(atoms)):
                return atoms
        atoms = atoms[1:-1]
    return atoms


def _with_matrices(text: bytes) -> bytes:
    """Write a plain array in brackets as the matrix with these brackets."""
    for opening, closing, letter in ((b"(", b")", b"p"), (b"[", b"]", b"b")):
        for name in _ENVIRONMENTS:
            begin, end = opening + b"\\begin{" + name + b"}", b"\\end{" + name + b"}" + closing
            if text.count(begin) == text.count(end):
                text = text.replace(begin, b"\\begin{" + letter + b"matrix}")
                text = text.replace(end, b"\\end{" + letter + b"matrix}")
    return text
