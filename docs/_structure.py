"""The map of the package, made from the module docstrings and the import-linter contract.

`python docs/_structure.py` writes docs/structure.md and the list of layers in CONTRIBUTING.md. Nothing is imported from
the package: the sources are parsed.
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "structure.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- layers -->\n", "<!-- /layers -->"

_INTRODUCTION = """# Structure

One line per module: the first sentence of its docstring. Layers are listed from top to bottom; a module imports only
from layers below its own, and layers in one heading do not import each other (`make check` enforces it). `python
docs/_structure.py` writes this page. Terms are defined in the [glossary](glossary.md).
"""


def layers() -> list[list[str]]:
    """The layers of the import-linter contract, top first; each a list of names without the leading "fastsia."."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    (declared,) = (
        contract["layers"] for contract in tools["importlinter"]["contracts"] if contract["type"] == "layers"
    )
    return [[name.strip().removeprefix("fastsia.") for name in layer.split("|")] for layer in declared]


def first_sentence(text: str) -> str:
    """The text up to the first full stop that ends a sentence."""
    return re.split(r"(?<=[.?!])(?<!e\.g\.)(?<!i\.e\.)\s", " ".join(text.split()), maxsplit=1)[0]


def modules(name: str) -> list[Path]:
    """The modules of a layer: one file, or a package with its subpackages, `__init__` first."""
    path = ROOT / "fastsia" / name
    if path.is_dir():
        return sorted(path.rglob("*.py"), key=lambda file: (file.parent, file.name != "__init__.py", file.name))
    return [path.with_suffix(".py")]


def summary(path: Path) -> str:
    """The first sentence of a module's docstring, or of the comment at the top of a C++ file; else an empty text."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return first_sentence(ast.get_docstring(ast.parse(source)) or "")
    comment = re.match(r"(?:(?:#.*)?\n)*((?://.*\n)+)", source)
    return first_sentence(re.sub(r"^// ?", "", comment[1], flags=re.MULTILINE)) if comment else ""


def _table(paths: list[Path]) -> str:
    rows = []
    for path in paths:
        text = summary(path).replace("|", "\\|").replace("<", "&lt;")
        if text:
            rows.append(f"| `{path.relative_to(ROOT).as_posix()}` | {text} |")
    return "\n".join(["| module | |", "| --- | --- |", *rows, ""])


def page() -> str:
    """The text of docs/structure.md."""
    parts = [_INTRODUCTION]
    for layer in layers():
        parts.append(f"## {' | '.join(layer)}\n".replace("|", "·"))
        parts.append(_table([path for name in layer for path in modules(name)]))
    parts += ["## The C++ core\n", _table(sorted((ROOT / "csrc").glob("*.[ch]*")))]
    return "\n".join(parts)


def contributing() -> str:
    """The text of CONTRIBUTING.md with the current layers."""
    before, _, rest = CONTRIBUTING.read_text(encoding="utf-8").partition(BEGIN)
    lines = "\n".join(f"    {' | '.join(layer)}" for layer in layers())
    return f"{before}{BEGIN}\n{lines}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    CONTRIBUTING.write_text(contributing(), encoding="utf-8")
