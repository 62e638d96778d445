"""manifest.json: which files fastsia exported to a folder, from which state of the database, and the run's costs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastsia import __version__
from fastsia.config import integer, real
from fastsia.files import write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """The exported files.

    Attributes:
        database: the digest of the database's files; None without a database.
        files: the digest of each exported file, by its path in the folder.
        costs: of the run, as in its summary: only the summary knows them, not the database.
        version: of fastsia.
    """

    database: str | None
    files: Mapping[str, str]
    costs: Mapping[str, Any] = field(default_factory=dict)
    version: str = __version__

    def write(self, directory: Path) -> None:
        """Write manifest.json."""
        write_json(directory / MANIFEST, asdict(self))


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of a folder; None if there is none that can be read."""
    found = read_object(directory / MANIFEST)
    try:
        return Manifest(found["database"], dict(found["files"]), known_costs(found["costs"]), str(found["version"]))
    except (KeyError, TypeError, ValueError):
        return None


def costs_of(directory: Path) -> tuple[dict[str, Any], list[str]]:
    """(the costs of the run in a folder as far as they are known, notes of repairs that its database does not have).

    Folders of fastsia 0.1.0 have no manifest; there, summary.json is the only place for both.
    """
    manifest = read_manifest(directory)
    if manifest is not None:
        return dict(manifest.costs), []
    summary = read_object(directory / "summary.json")
    notes = summary.get("warnings")
    notes = notes if isinstance(notes, list) else []
    return known_costs(summary), [note for note in notes if isinstance(note, str) and "was set aside as" in note]


def known_costs(values: Any) -> dict[str, Any]:
    """The costs in a summary or manifest that have a value of the right type."""
    if not isinstance(values, Mapping):
        return {}
    return {name: values[name] for name, fits in _COSTS.items() if values.get(name) is not None and fits(values[name])}


def is_count(value: Any) -> bool:
    """Whether a value from JSON is a whole number of things."""
    number = integer(value)
    return number is not None and 0 <= number < 1 << 63


def _is_number(value: Any) -> bool:
    return math.isfinite(real(value))


def _are_counters(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    rows, merge = value.get("row_steps"), value.get("merge_factor")
    return (rows is None or is_count(rows)) and (merge is None or _is_number(merge))


_COSTS: dict[str, Callable[[Any], bool]] = {
    "seconds": _is_number,
    "num_computed_problems": is_count,
    "num_cut_prompts": is_count,
    "row_steps": is_count,
    "counters": _are_counters,
    "machine": lambda value: isinstance(value, Mapping),
    "provenance": lambda value: isinstance(value, Mapping),
}


def digest(path: Path) -> str:
    """SHA-256 of a file's content. A file that does not exist counts as empty."""
    if not path.is_file():
        return hashlib.sha256().hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def database_digest(path: Path) -> str:
    """Of a database and its log: it changes with every commit."""
    return f"{digest(path)} {digest(path.with_name(f'{path.name}-wal'))}"


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty if the file cannot be read as one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
