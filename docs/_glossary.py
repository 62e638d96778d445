"""The terms of the report's glossary, taken from glossary.md. `python docs/_glossary.py` writes them."""

from __future__ import annotations

import html
import re
from pathlib import Path

SOURCE = Path(__file__).parent / "glossary.md"
PAGE = SOURCE.parents[1] / "fastsia" / "report" / "terms.html"

SHOWN = (
    "trajectory, y",
    "checkpoint, t",
    "rollout",
    "null",
    "H_t, answer entropy",
    "s_t, gold surprisal",
    "G_t, cumulative gain",
    "ρ",
    "cross-fitted ρ",
    "decoupled ρ",
    "change-point ρ",
    "recommended ρ",
    "ρ₀",
    "undefined ρ",
    "settles",
    "2·accuracy − 1",
    "decomposition",
    "change-point estimates",
    "moves",
    "AUC at a relative position",
    "misaligned",
    "explored mass",
    "Miller–Madow, Chao–Shen, NSB",
    "lock-in",
    "relative position, q",
    "token entropy",
    "forking token",
    "alternative",
    "step",
    "total variation",
    "by chance",
    "q value",
    "decisive step",
    "importance",
)
"""Terms that the report uses, as glossary.md spells them."""


def terms() -> str:
    """A list item for each shown term and its definition, as HTML."""
    rows = re.findall(r"^\| (.+?) \| (.+?)(?<!\\) \|", SOURCE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    definitions = dict(rows)
    return "".join(f"<dt>{_html(term)}</dt>\n<dd>{_html(definitions[term])}</dd>\n" for term in SHOWN)


def _html(text: str) -> str:
    """A table cell of Markdown as HTML: escaped, with code and emphasis, and links as their texts."""
    text = html.escape(text.replace("\\|", "|"), quote=False)
    text = re.sub(r"\*(.+?)\*", r"<em>\1</em>", text)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", re.sub(r"\[(.+?)\]\(.+?\)", r"\1", text))


if __name__ == "__main__":
    PAGE.write_text(terms(), encoding="utf-8")
