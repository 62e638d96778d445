"""Other ways to write a LaTeX answer: some keep its meaning, some change it.

Each function maps the answer to another text, or to None if it does not apply.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

Respelling = Callable[[str], str | None]


def changed(pattern: str, to: str | Callable[[re.Match[str]], str], count: int = 0) -> Respelling:
    """Replace the matches of the pattern; None if there are none."""

    def respell(gold: str) -> str | None:
        text, num = re.subn(pattern, to, gold, count=count)
        return text if num and text != gold else None

    return respell


def where(applies: str, respell: Respelling) -> Respelling:
    return lambda gold: respell(gold) if re.search(applies, gold) else None


def unless(applies: str, respell: Respelling) -> Respelling:
    return lambda gold: None if re.search(applies, gold) else respell(gold)


def around(before: str, after: str = "") -> Respelling:
    return lambda gold: before + gold + after


_TEXT = r"\\(?:text|mbox)|begin"
_WHOLE_TERM = r"[,=+]|.-|\\(?:pm|cup|in\b|begin|text|mbox)"  # not a single term


def _with_thousands(gold: str) -> str | None:
    if not re.fullmatch(r"-?[0-9]{4,}", gold):
        return None
    return f"{int(gold):,}"


def _blanks(gold: str) -> str | None:
    """Insert blanks where LaTeX does not show them, except in 58,500: 58, 500 is a list."""
    if re.fullmatch(r"-?[0-9]{1,3}(,[0-9]{3})+", gold):
        return None
    return re.sub(r"(?<=[-+=,()\[\]])(?!\\[!,])|(?=[-+=,()\[\]])", " ", gold).replace("  ", " ")


def _tight(gold: str) -> str | None:
    text = re.sub(r"(?<![A-Za-z0-9]) +| +(?![A-Za-z0-9])", "", gold)
    return text if text != gold else None


SAME: dict[str, Respelling] = {
    "blanks around": around("  ", " "),
    "a line of its own": around("\n", "\n"),
    "$": around("$", "$"),
    "\\(": around("\\( ", " \\)"),
    "point": around("", "."),
    "point after $": around("$", "$."),
    "\\displaystyle": around("\\displaystyle "),
    "braces": around("{", "}"),
    "\\,": around("\\,", "\\,"),
    "\\!": around("\\!", "\\!"),
    "~": around("~", "~"),
    "\\ ": around("\\ ", "\\ "),
    "\\quad": around("\\quad ", "\\;"),
    "\\large": around("\\large "),
    "\\mathbf": unless(_TEXT, around("\\mathbf{", "}")),
    "\\boldsymbol": around("\\boldsymbol{", "}"),
    "\\mathrm": unless(_TEXT, around("\\mathrm{", "}")),
    "\\text": where(r"^[-0-9.]+$", around("\\text{", "}")),
    "\\boxed": around("\\boxed{", "}"),
    "x =": unless(r"=|\\in\b|text", around("x = ")),
    "a = without blanks": unless(r"=|\\in\b|text", around("a=")),
    "+": where(r"^[0-9\\(]", unless(r"[,=\[\]]|\\(?:cup|begin|text|\{|\$|pm)", around("+"))),
    "parentheses": unless(r"[,=]|\\(?:begin|in\b|text|mbox|\$|cup)", around("\\left( ", " \\right)")),
    "blanks": unless(_TEXT, _blanks),
    "no blanks": unless(r"\\text\{ |mbox", _tight),
    "no blanks in matrices": where("begin", changed(r" *(\\\\|&) *", r"\1")),
    "new lines in matrices": where("begin", changed(r" *(\\\\) *", "\\\\\\\\\n")),
    "\\dfrac": changed(r"\\d?frac", r"\\dfrac"),
    "\\tfrac": changed(r"\\d?frac", r"\\tfrac"),
    "\\cfrac": changed(r"\\d?frac", r"\\cfrac"),
    "blanks in fractions": changed(r"(\\d?frac)\{([^{}]*)\}\{([^{}]*)\}", r"\1 { \2 } { \3 }"),
    "short fractions": changed(r"frac\{(\d)\}\{(\d)\}", r"frac\1\2"),
    "half a short fraction": changed(r"frac\{(\d)\}", r"frac\1"),
    "braces in fractions": changed(r"frac *(\d) ?(\d)", r"frac{\1}{\2}"),
    "sign in the numerator": changed(r"^-\\frac\{", r"\\frac{-"),
    "sign in the denominator": changed(r"^-(\\frac\{[^{}]*\}\{)", r"\1-"),
    "slash": unless(r"[a-z0-9]\\frac|a\}|\\frac *\d|\{[^{}]*\{|pi\^",
                    changed(r"\\d?frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2")),
    "fractions in matrices": where("begin", changed(r"(\d+)/(\d+)", r"\\frac{\1}{\2}")),
    "\\left": changed(r"(?<!left)(?<!left )([(\[])(.*)([)\]])$", r"\\left\1\2\\right\3"),
    "\\bigl": changed(r"(?<!left)(?<!left )([(\[])(.*)([)\]])$", r"\\bigl\1\2\\bigr\3"),
    "no \\left": changed(r"\\(?:left|right) *", ""),
    "\\lbrace": changed(r"\\([{}])", lambda found: "\\lbrace " if found[1] == "{" else "\\rbrace "),
    "braces in roots": changed(r"sqrt(\d)", r"sqrt{\1}"),
    "blanks in roots": changed(r"sqrt\{([^{}]*)\}", r"sqrt{ \1 }"),
    "short roots": changed(r"sqrt\{(\d)\}", r"sqrt\1"),
    "√": changed(r"\\sqrt\{?(\d+)\}?", r"√\1"),
    "braces in exponents": changed(r"\^(\d)", r"^{\1}"),
    "blanks in exponents": changed(r"\^(\d)", r" ^ { \1 }"),
    "²": where(r"[a-zA-Z]\^2(?!\d)", unless(r"mbox", changed(r"(?<=[a-zA-Z])\^2", "²"))),
    "braces in bases": changed(r"_(\d)", r"_{\1}"),
    "no braces in bases": changed(r"_\{(\d)\}", r"_\1"),
    "\\text in bases": changed(r"_\{?(\d)\}?", r"_{\\text{\1}}"),
    "\\degree": changed(r"\^\\circ", r"\\degree"),
    "°": changed(r"\^\\circ", "°"),
    "^{\\circ}": changed(r"\^\\circ", r"^{\\circ}"),
    "no degrees": changed(r"\^\\circ", ""),
    "thousands": _with_thousands,
    "thousands in braces": lambda gold: (_with_thousands(gold) or "").replace(",", "{,}") or None,
    "thousands with \\!": lambda gold: (_with_thousands(gold) or "").replace(",", ",\\!") or None,
    "no thousands": where(r"^(?:\\\$)?\d+,", changed(r"(?<=\d),(?:\\! ?)?(?=\d{3})", "")),
    "decimals": where(r"^-?\d+$", around("", ".0")),
    "more decimals": where(r"^-?\d*\.\d+$", around("", "0")),
    "−": changed("-", "−"),
    "π": changed(r"\\pi *", "π"),
    "∞": changed(r"\\infty", "∞"),
    "∪": changed(r"\\cup", "∪"),
    "±": changed(r"\\pm", "±"),
    "∈": changed(r"\\in\b", "∈"),
    "\\cdot before roots": changed(r"(?<=\d) ?(?=\\sqrt)", r" \\cdot "),
    "* before letters": unless(r"text|mbox|i$", changed(r"(?<=\d)(?=[a-zA-Z])", "*")),
    "\\textbf": changed(r"\\text\{", r"\\textbf{"),
    "\\mathrm for \\text": changed(r"\\(?:text|mbox)\{", r"\\mathrm{"),
    "no \\text": changed(r"^\\text\{(.*)\}$", r"\1"),
    "no parentheses": changed(r"^\\text\{\((.)\)\}$", r"\1"),
    "without the name": changed(r"^[a-z] *(?:=|\\in) *", ""),
    "without units": changed(r" *\\(?:text|mbox)\{ *(?:cm|inches|degrees|cents)\}(?:\^2)?$", ""),
}  # fmt: skip

_GROUP = r"\{(?:[^{}]|\{[^{}]*\})*\}|\d"


def _next_digit(found: re.Match[str]) -> str:
    return str(int(found[0]) % 9 + 1)


DIFFERENT: dict[str, Respelling] = {
    "sign": unless(r"^-|text|^0$", around("-")),
    "no sign": changed(r"^-", ""),
    "sign inside": changed(r"(?<=[^-+,(\[ ^{]) *([-+]) *", lambda found: "+" if found[1] == "-" else "-", 1),
    "first digit": unless("^[A-Za-z\\\\]+ ?[a-z]?$", changed(r"\d", _next_digit, 1)),
    "last digit": unless("mbox", changed(r"\d(?=\D*$)", _next_digit, 1)),
    "a digit more": changed(r"(?<![.\d])(\d)", r"\g<1>7", 1),
    "fraction upside down": where(r"frac",
                                  unless(r"frac\{(.*)\}\{\1\}", changed(f"(frac)({_GROUP})({_GROUP})", r"\1\3\2", 1))),
    "no fraction": changed(r"\\d?frac *(?:\{((?:[^{}]|\{[^{}]*\})*)\}|(\d)) ?(?:\{[^{}]*\}|\d)", r"\1\2", 1),
    "no exponent": unless("mbox|circ", changed(r"\^\{?\d+\}?", "", 1)),
    "other exponent": unless("mbox|circ", changed(r"\^(\d)", r"^{\g<1>1}", 1)),
    "no base": changed(r"_\{?\d\}?", ""),
    "other base": changed(r"_\{?\d\}?", "_3"),
    "opening bracket": where(r"[(\[].*,.*[)\]]", changed(r"[(\[]", lambda found: "[" if found[0] == "(" else "(", 1)),
    "closing bracket": where(r"[(\[].*,.*[)\]]",
                             changed(r"[)\]](?=[^)\]]*$)", lambda found: "]" if found[0] == ")" else ")", 1)),
    "order": unless(r"\\!|\d,\d{3}$", changed(r"^([(\[]?)([^(),]*),([^(),]*)", r"\1\3,\2", 1)),
    "one entry less": unless(r"\\!|\d,\d{3}$", changed(r",[^,()\[\]]*(?=[)\]]?$)", "")),
    "variable": unless("text|begin|mbox", changed(r"(?<![a-zA-Z\\])[xyknarpRi](?![a-z]| *[=\\])", "z")),
    "rows": where("begin", changed(r"(?<=\}) (.*?) \\\\ ([^\\]*)", r" \2 \\\\ \1 ", 1)),
    "one row less": where("begin", changed(r"\\\\ [^\\]*(?=\\end)", "")),
    "a row, not a column": where("begin", changed(r"\\\\", "&")),
    "determinant": changed("pmatrix", "vmatrix"),
    "one term less": unless("[(\\[]|frac|begin", changed(r" *[-+] *[^-+]*$", "")),
    "no root": changed(r"\\sqrt\{?(\d+)\}?", r"\1", 1),
    "cube root": changed(r"\\sqrt", r"\\sqrt[3]", 1),
    "no \\pi": changed(r"\\pi", "", 1),
    "no \\pm": changed(r"\\pm", "+"),
    "intersection": changed(r"\\cup", r"\\cap"),
    "other word": changed(r"(\\text\{\(?)([A-Za-z]+)", r"\1\2s"),
    "other case": where(r"^\\text\{[A-Z]", lambda gold: gold.swapcase().replace("\\TEXT", "\\text")),
    "a letter less": changed(r"(\\text\{\(?)[A-Za-z]", r"\1"),
    "two words": changed(r"(\\text\{\(?)([A-Za-z]+)", r"\1not \2"),
    "two words with a blank": changed(r"(\\text\{[A-Za-z]{2})([A-Za-z]+)", r"\1 \2"),
    "plus a symbol": around("", "+q"),
    "times a symbol": unless(r"[=,]|text|mbox|circ", around("", " q")),
    "root": unless(r"^[01]$|text|mbox|[=,]", around("\\sqrt{", "}")),
    "over 7": unless(r"^0$|text|mbox|[=,]|circ", around("\\frac{", "}{7}")),
    "7 over": unless(r"text|mbox|[=,]|circ|\$", around("\\frac{7}{", "}")),
    "twice": around("", ", 123"),
    "set": unless(r"\\\{", around("\\{", "\\}")),
    "vector": around("(", ", q)"),
    "to the power": unless(r"text|mbox|circ", around("(", ")^{q}")),
    "\\pi": unless(r"text|mbox|circ|[=,]|^0$|pi", around("", "\\pi")),
    "inequality": unless("=", around("q > ")),
    "plus or minus": unless(r"pm|text|^0$", around("\\pm ")),
    "with an index": unless(r"_|mbox|circ|text", around("", "_7")),
    "function": around("f(", ")"),
    "infinity": around("\\infty - "),
}  # fmt: skip


FRAGMENTS = (
    *re.findall(
        r"\S+",
        r"""
        \frac \dfrac \sqrt \sqrt[ \sqrt[3] ^ _ ^{ _{ ^( { } ( ) [ ] \{ \} \left( \right) \, \! ,\!
        {,} ~ \\ \\[2pt] &
        \begin{pmatrix} \end{pmatrix} \begin{array}{cc} \end{array} \begin{ \end{matrix} \text{ \mathrm{ \textbf{
        \mathbf{ \operatorname{ \operatorname* \mathbb \mathbb{R} \overline{ \bar \phantom{ \pi \theta \infty \le ≤ <=
        >= != ≠ π ∞ √ ² ³ ⁻ ¹ ₂
        ° × · \cdot \times * ** + - − / = \in \pm \cup , ; . ... ' \prime x y ab abc sin pi sqrt
        and or cm inches units 12 1 234 1000 0.50 .5 3 7 $ \$
        \( \) % \% ! ? : " New York é 语 （ １ ｘ \displaystyle \bf
        \large \circ ^\circ \degree \quad | \| \mid \ldots \emptyset \lbrace \rbrace \color{red} \textcolor{red}{
        \hspace*{ \binom \nicefrac \pmod \0 because since in is =5 **Answer:**""",
    ),
    " ",
    "  ",
    "\\ ",
    "",
)


def content(rng: random.Random, known: Sequence[str]) -> str:
    """A sequence of LaTeX fragments, or a known content with some of them inserted."""
    if rng.random() < 0.5:
        return "".join(rng.choices(FRAGMENTS, k=rng.choice((1, 2, 3, 4, 6, 9, 14, 30))))
    text = rng.choice(known)
    for _ in range(rng.randint(0, 3)):
        begin = rng.randrange(len(text) + 1)
        end = min(len(text), begin + rng.choice((0, 0, 1, 2)))
        text = text[:begin] + rng.choice(FRAGMENTS) + text[end:]
    return text
