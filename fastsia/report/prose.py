"""Markdown and LaTeX of models' texts as trees of harmless elements, which the page builds without parsing markup."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any
from xml.etree import ElementTree

from markdown_it import MarkdownIt

Tree = list[Any]
"""[name, child, ...] with texts and further trees as children."""

_HTML = {
    *("p", "ul", "ol", "li", "strong", "em", "s", "code", "pre", "blockquote", "hr", "br", "div"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}
_MATH = {
    *("math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "mfrac", "msqrt", "mroot", "msub", "msup", "msubsup"),
    *("munder", "mover", "munderover", "mtable", "mtr", "mtd", "menclose", "mstyle", "mpadded", "mphantom"),
}
"""The elements that a tree may contain; none has an attribute."""

_MARKED = re.compile(r"[*_`#|\\$~]|^\s*(?:[-+>]|\d+[.)])\s", re.MULTILINE)
_FORMULA = re.compile(
    r"\$\$(?P<display>.+?)\$\$|\\\[(?P<bracket>.+?)\\\]|\\\((?P<paren>.+?)\\\)"
    r"|(?<![\\$\w])\$(?P<dollar>[^\s$](?:[^$\n]*[^\s$])?)\$(?![\d$])",
    re.DOTALL,
)
_MATHEMATICAL = re.compile(r"[\\^_={}<>+*/]|^[A-Za-z]$")
_PLACE = re.compile("\ue000(\\d+)\ue001")
_INVALID = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff\ue000\ue001]")
_LONGEST_FORMULA = 2000

# No raw HTML, links or images: a text must not lead out of the page.
_markdown = MarkdownIt("commonmark", {"html": False, "xhtmlOut": True}).enable(["table", "strikethrough"])
_markdown.disable(["link", "image", "autolink", "html_inline", "html_block", "reference", "entity"])


def render(text: str) -> Tree | None:
    """A text's Markdown and LaTeX as a tree; None where it has none, or cannot be rendered."""
    if not _MARKED.search(text):
        return None
    formulas: list[str] = []

    def keep(match: re.Match[str]) -> str:
        inner = next(filter(None, match.groups()))
        if match["dollar"] and not _MATHEMATICAL.search(inner):
            return match[0]  # an amount of money
        formulas.append(match[0])
        return f"\ue000{len(formulas) - 1}\ue001"

    marked = _FORMULA.sub(keep, _INVALID.sub("\ufffd", text))
    try:
        root = ElementTree.fromstring(f"<div>{_markdown.render(marked)}</div>")
        return _tree(root, formulas)
    except (ElementTree.ParseError, ValueError, RecursionError):
        return None


def _tree(element: ElementTree.Element, formulas: list[str], *, code: bool = False) -> Tree:
    if element.tag not in _HTML:
        raise ValueError(element.tag)
    code = code or element.tag in ("code", "pre")
    children = _text(element.text, formulas, code)
    for child in element:
        children += [_tree(child, formulas, code=code), *_text(child.tail, formulas, code)]
    return [element.tag, *children]


def _text(text: str | None, formulas: list[str], code: bool) -> list[Any]:
    """A text with its formulas at their places; in code they stay as they were written."""
    parts: list[Any] = []
    for number, part in enumerate(_PLACE.split(text or "")):
        if number % 2 == 0:
            parts.append(part)
            continue
        source = formulas[int(part)]
        parts.append(source if code else _math(source) or source)
    return [part for part in parts if part]


@lru_cache(4096)
def _math(source: str) -> Tree | None:
    """A formula with its delimiters as MathML; None where it cannot be read."""
    from latex2mathml.converter import convert

    inner = source[1:-1] if source.startswith("$") and not source.startswith("$$") else source[2:-2]
    if len(inner) > _LONGEST_FORMULA:
        return None
    try:
        root = ElementTree.fromstring(convert(inner.strip()))
        tree = _harmless(root)
    except Exception:  # the package has no common class for what it cannot read
        return None
    return ["math-block", *tree[1:]] if source.startswith(("$$", "\\[")) else tree


def _harmless(element: ElementTree.Element) -> Tree:
    name = element.tag.rpartition("}")[2]
    if name not in _MATH:
        raise ValueError(name)
    tree: Tree = [name, *filter(None, [element.text])]
    for child in element:
        tree += [_harmless(child), *filter(None, [(child.tail or "").strip()])]
    return tree
