"""The tables of options in cli.md, made from the declared settings. `python docs/_settings.py` writes them."""

from __future__ import annotations

import html
from pathlib import Path

from fastsia.cli.options import GROUPS, OPTIONS
from fastsia.config import Setting

PAGE = Path(__file__).parent / "cli.md"
BEGIN, END = "<!-- settings -->\n", "<!-- end of settings -->\n"


def tables() -> str:
    """One table per heading of `fastsia run --help`."""
    lines = []
    for group in GROUPS:
        rows = [_row(option) for option in OPTIONS.values() if option.group == group]
        if rows:
            lines += [
                f"**{group}**",
                "",
                "| option | values | default | changes | |",
                "| --- | --- | --- | --- | --- |",
                *rows,
                "",
            ]
    return "\n".join(lines)


def _row(option: Setting) -> str:
    switch = [f"--no_{option.name}"] if option.type is bool and option.default is not False else []
    names = ", ".join(f"`{name}`" for name in (f"--{option.name}", *switch, *option.aliases))
    values = ", ".join(f"`{word}`" for word in option.words)
    if option.type in (int, float):
        values = option.allowed.replace("an ", "")
    facts = (names, values, option.default_text, option.changes, html.escape(option.help, quote=False))
    return f"| {' | '.join(facts)} |"


def updated(page: str) -> str:
    """A page with the tables between its marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{tables()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
