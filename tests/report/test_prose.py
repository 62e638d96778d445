"""Markdown and LaTeX become trees of harmless elements; whatever else a text holds stays text."""

from __future__ import annotations

from typing import Any

import pytest

from fastsia.report import prose


def names(tree: Any) -> set[str]:
    return {tree[0]}.union(*(names(child) for child in tree[1:] if isinstance(child, list)))


def text(tree: Any) -> str:
    return "".join(child if isinstance(child, str) else text(child) for child in tree[1:])


def test_markdown_and_formulas_are_rendered() -> None:
    tree = prose.render("**Step 1**: \\[ \\frac{3}{4} \\] and $x^2$, `\\(a\\)`\n\n1. one\n2. two")
    assert {"p", "strong", "ol", "li", "math-block", "math", "mfrac", "msup", "code"} <= names(tree)
    assert "\\(a\\)" in text(tree), "code stays as it is"


@pytest.mark.parametrize("given", ["It costs $5 and $6.", "$18 - $3 = $15, so $15 # not a heading"])
def test_money_is_no_formula(given: str) -> None:
    assert text(prose.render(given)).strip() == given


@pytest.mark.parametrize(
    "given",
    [
        "**x** <script>alert(1)</script><img src=x onerror=1>",
        "*x* [a](javascript:alert(1)) ![b](http://a.b/c.png) <http://a.b>",
        r"\(\text{<img src='x'/>}\) and \(\href{javascript:alert(1)}{x}\) and \(\frac{1\)",
        "# \x00 \ue0000\ue001 &lt;b&gt;",
    ],
)
def test_only_harmless_elements(given: str) -> None:
    tree = prose.render(given)
    assert names(tree) <= prose._HTML | prose._MATH | {"math-block"}


def test_plain_text_is_not_rendered() -> None:
    assert prose.render("4 apples and 5 pears are 9.") is None
