"""Raw records and where they stand, so that a mistake is reported by file and row."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from fastsia.config import FastsiaError, is_text

PROBLEM_FIELDS = ("question", "answer", "choices", "id")
"""What a row of one's own may hold."""

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Row:
    """One record. `number` counts from 1: the line of a JSON-lines file, the element of an array or a dataset."""

    source: str
    number: int
    fields: Mapping[str, Any]

    @property
    def where(self) -> str:
        return f"{self.source}, row {self.number}"

    def error(self, what: str) -> FastsiaError:
        """The exception (not raised) for a mistake in this row."""
        return FastsiaError(f"{self.where}: {what}.")

    def value(self, field: str) -> Any:
        """A field that must be there and not be null."""
        value = self._there(field)
        if value is None:
            raise self.error(f"field {field!r} is null")
        return value

    def renamed(self, columns: Mapping[str, str]) -> Row:
        """The fields of a problem alone, those that `columns` names from the columns it gives for them."""
        given = {name: self._there(column) for name, column in columns.items()}
        own = {name: self.fields[name] for name in PROBLEM_FIELDS if name in self.fields}
        return Row(self.source, self.number, own | given)

    def _there(self, field: str) -> Any:
        if field not in self.fields:
            near = difflib.get_close_matches(field, [str(name) for name in self.fields], n=1, cutoff=0.6)
            hint = f" (did you mean the field {near[0]!r}?)" if near else ""
            raise self.error(f"field {field!r} is missing{hint}")
        return self.fields[field]

    def text(self, field: str) -> str:
        """A field that must be a text with something in it, without the space around it."""
        value = self.value(field)
        if not isinstance(value, str):
            raise self.error(f"field {field!r} must be a text, got {value!r:.60}")
        if not is_text(value):
            raise self.error(f"field {field!r} holds half of a surrogate pair, which is no character")
        if not value.strip():
            raise self.error(f"field {field!r} is empty")
        return value.strip()

    def text_or_number(self, field: str) -> str:
        """A field that must be a text or a finite number; a number comes back as its plain decimal digits."""
        value = self.value(field)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise self.error(f"field {field!r} must be a text or a number, got {value!r:.60}")
        if isinstance(value, float):
            if not math.isfinite(value):
                raise self.error(f"field {field!r} is {value!r}, which is not a finite number")
            return f"{Decimal(repr(value)):f}"
        return str(value) if isinstance(value, int) else self.text(field)

    def identifier(self, field: str) -> str:
        """The optional field that names the record; "row-N" where there is none."""
        return self.text_or_number(field) if self.fields.get(field) is not None else f"row-{self.number}"


def read_rows(path: str | Path) -> Iterator[Row]:
    """The rows of a JSON-lines file, or of a .json file that holds one array.

    UTF-8, with or without a byte-order mark; lines end in LF or CRLF; blank lines are skipped but counted.
    """
    path = Path(path)
    try:
        if path.suffix == ".json":
            yield from _array_rows(path)
        else:
            yield from _line_rows(path)
    except OSError as error:
        raise FastsiaError(f"{path} cannot be read: {error.strerror or error}.") from error


def _line_rows(path: Path) -> Iterator[Row]:
    # Bytes are split, not text: U+2028 and its like may stand inside a JSON string.
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                line = line.removeprefix(_BOM)
            if line.strip():
                yield _row(str(path), number, _parse(line, f"{path}, row {number}"))


def _array_rows(path: Path) -> Iterator[Row]:
    values = _parse(path.read_bytes().removeprefix(_BOM), str(path))
    if not isinstance(values, list):
        raise FastsiaError(f"{path} must hold one JSON array of objects; JSON lines belong in a .jsonl file.")
    for number, value in enumerate(values, start=1):
        yield _row(str(path), number, value)


def _parse(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise FastsiaError(f"{where}: not valid UTF-8 (byte {error.start + 1}).") from error
    except json.JSONDecodeError as error:
        raise FastsiaError(f"{where}: not valid JSON ({error.msg}, character {error.pos + 1}).") from error
    except RecursionError as error:
        raise FastsiaError(f"{where}: JSON nested too deeply.") from error
    except ValueError as error:  # thousands of digits
        raise FastsiaError(f"{where}: a number has more digits than Python reads.") from error


def _row(source: str, number: int, value: Any) -> Row:
    if not isinstance(value, dict):
        raise FastsiaError(f"{source}, row {number}: expected a JSON object with named fields, got {value!r:.60}.")
    return Row(source, number, value)


def dataset_rows(dataset: Iterable[Mapping[str, Any]], source: str) -> Iterator[Row]:
    """The rows of a `datasets.Dataset`, or of any iterable of mappings."""
    for number, fields in enumerate(dataset, start=1):
        yield Row(source, number, fields)
