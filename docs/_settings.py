"""The tables of options in cli.md and the types of evaluate's keyword arguments (fastsia/overrides.py), made from the
declared settings. `python docs/_settings.py` writes both."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from fastsia.cli.options import GROUPS, OPTIONS
from fastsia.config import BACKEND_OWNERS, DataOptions, Setting, SIAConfig

TYPES = Path(__file__).parent.parent / "fastsia" / "overrides.py"
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


OWN = ("limit", "checkpoints", "trajectories")
"""Settings that are parameters of `evaluate`."""


def types() -> str:
    """The module `fastsia.overrides`."""
    fields: dict[str, str] = {}
    for owner in (SIAConfig, DataOptions, *BACKEND_OWNERS):
        # These are arguments of their own.
        hints = get_type_hints(owner, include_extras=True)
        fields |= {name: _type_text(hint) for name, hint in hints.items() if name not in OWN}
    lines = [
        '"""Types of the keyword arguments of `evaluate`, from the settings; `python docs/_settings.py` writes it."""',
        "",
        "from __future__ import annotations",
        "",
        "from collections.abc import Mapping",
        "from pathlib import Path",
        "from typing import Any, Literal, TypedDict",
        "",
        "",
        "class Overrides(TypedDict, total=False):",
        '    """Settings by name, each with the values that its declaration in `fastsia.config` allows."""',
        "",
        *(f"    {name}: {spelled}" for name, spelled in fields.items()),
    ]
    return "\n".join(lines) + "\n"


def _type_text(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _type_text(arguments[0])
    if origin in (Union, UnionType):
        return " | ".join(map(_type_text, arguments))
    if origin is Literal:
        return "Literal[" + ", ".join(f'"{word}"' for word in arguments) + "]"
    if origin is tuple and arguments[-1] is not ...:
        return f"tuple[{', '.join(map(_type_text, arguments))}]"
    if origin is Mapping:
        return f"Mapping[{', '.join(map(_type_text, arguments))}]"
    named = {NoneType: "None", Any: "Any", Path: "Path"}
    return named.get(hint) or hint.__name__


if __name__ == "__main__":
    TYPES.write_text(types(), encoding="utf-8")
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
