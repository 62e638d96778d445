"""What every benchmark shares: command-line options, a table on the screen, and one JSON line with provenance."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.machine import REPOSITORY, provenance
from fastsia.config import SETTINGS

WORK = REPOSITORY / "benchmarks" / ".work"
ROWS = WORK / "rows.jsonl"


def parse(doc: str | None, *settings: str, **options: Any) -> argparse.Namespace:
    """Parse the command line.

    Args:
        doc: the help text; it explains the options that need explaining.
        settings: fields of `SIAConfig`, with their defaults there.
        options: each option's default, which also gives its type. A type stands for "not given" (None), a tuple lists
            the choices with the default first, a list takes several values, False is a flag. A list of a type is what
            comes without a name, once or more.
    """
    declared = [SETTINGS[name] for name in settings]
    options = {one.name: one.type if one.default is None else one.default for one in declared} | options
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in options.items():
        if default is False:
            parser.add_argument(f"--{name}", action="store_true")
        elif isinstance(default, type):
            parser.add_argument(f"--{name}", type=default)
        elif isinstance(default, tuple):
            parser.add_argument(f"--{name}", choices=default, default=default[0])
        elif isinstance(default, list) and isinstance(default[0], type):
            parser.add_argument(name, type=default[0], nargs="+")
        elif isinstance(default, list):
            parser.add_argument(f"--{name}", type=type(default[0]), nargs="+", default=default)
        else:
            parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default: {default}")
    return parser.parse_args()


def show(rows: Sequence[Mapping[str, Any]], formats: Mapping[str, str] | None = None, title: str = "") -> None:
    """Print rows as a table below a title; the first row names the columns.

    Args:
        rows: column to value; None is an empty cell.
        formats: format specification by column. Without one, numbers have ",.4g".
    """
    cells = {
        column.replace("_", " "): [_cell(row[column], (formats or {}).get(column)) for row in rows]
        for column in rows[0]
    }
    print(title, pd.DataFrame(cells).to_string(index=False), sep="\n")


def emit(row: Mapping[str, Any], path: Path | None = ROWS) -> str:
    """Print a row with its provenance as one JSON line, append it to a file, and return it."""
    line = json.dumps({**row, **provenance()})
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(line + "\n")
    print(line, flush=True)
    return line


def _cell(value: Any, spec: str | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return format(value, spec or ("," if isinstance(value, int) else ",.4g"))
