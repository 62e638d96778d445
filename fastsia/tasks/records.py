"""Reads the records of data files; errors name the file and the row."""

from __future__ import annotations

import csv
import gzip
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, cast

from fastsia.config import is_text
from fastsia.errors import FastsiaError, did_you_mean

PROBLEM_FIELDS = ("question", "answer", "choices", "labels", "id")
"""Fields of a record in a user's file."""

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""Endings of data files; the text formats may be compressed (.jsonl.gz)."""

_BOM = b"\xef\xbb\xbf"
_GZIP = ".gz"


@dataclass(frozen=True)
class Record:
    """One record of a data file or data set.

    Attributes:
        number: counted from 1: the line of a JSON-lines file, the element of an array or a data set, the record of a
            table (without its header).
        columns: the column or columns that a field was read from, if they have other names.
    """

    source: str
    number: int
    fields: Mapping[str, Any]
    columns: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.source}, row {self.number}"

    def error(self, what: str) -> FastsiaError:
        """Return the exception (not raised) for a mistake in this record."""
        return FastsiaError(f"{self.where}: {what}.")

    def named(self, field: str) -> str:
        """Return the name of a field for an error, with its column if that has another name."""
        column = self.columns.get(field)
        if column is None:
            return f"field {field!r}"
        return (
            f"field {field!r} ({f'column {column!r}' if isinstance(column, str) else 'columns ' + ', '.join(column)})"
        )

    def value(self, field: str) -> Any:
        """Return a field that must exist and not be null."""
        value = self._there(field)
        if value is None:
            raise self.error(f"{self.named(field)} is null")
        return value

    def renamed(self, columns: Mapping[str, str | Sequence[str]]) -> Record:
        """Return a record with the fields of a problem only, read from the columns that `columns` maps them to.

        Several columns, given as a list or joined by "+", are the options in this order.
        """
        own = {name: self.fields[name] for name in PROBLEM_FIELDS if name in self.fields}
        sources: dict[str, str | tuple[str, ...]] = {}
        for name, column in columns.items():
            if isinstance(column, str) and not (name == "choices" and "+" in column and column not in self.fields):
                own[name] = self._there(column)
                sources[name] = column
                continue
            parts = tuple(part.strip() for part in (column.split("+") if isinstance(column, str) else column))
            values = [self._there(part) for part in parts]
            own[name] = None if all(map(is_blank, values)) else values
            sources[name] = parts
        return Record(self.source, self.number, own, sources)

    def _there(self, field: str) -> Any:
        if field not in self.fields:
            hint = did_you_mean(field, map(str, self.fields), otherwise=".")
            raise FastsiaError(f"{self.where}: {self.named(field)} is missing{hint}")
        return self.fields[field]

    def text(self, field: str) -> str:
        """Return a field that must be a non-blank text, without the space around it."""
        value = self.value(field)
        if not isinstance(value, str):
            raise self.error(f"{self.named(field)} must be a text, got {value!r:.60}")
        if not is_text(value):
            raise self.error(f"{self.named(field)} contains an unpaired surrogate, which is not a character")
        if not value.strip():
            raise self.error(f"{self.named(field)} is empty")
        return value.strip()

    def text_or_number(self, field: str) -> str:
        """Return a field that must be a text or a finite number; a number is returned as plain decimal digits."""
        value = self.value(field)
        if isinstance(value, Decimal):  # from a parquet file
            return f"{value:f}"
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise self.error(f"{self.named(field)} must be a text or a number, got {value!r:.60}")
        if isinstance(value, float):
            if not math.isfinite(value):
                raise self.error(f"{self.named(field)} is {value!r}, which is not a finite number")
            return f"{Decimal(repr(value)):f}"
        return str(value) if isinstance(value, int) else self.text(field)

    def identifier(self, field: str) -> str:
        """Return the optional field that names the record; "row-N" if there is none."""
        return f"row-{self.number}" if is_blank(self.fields.get(field)) else self.text_or_number(field)


def is_blank(value: Any) -> bool:
    """Return whether a value is null or (an empty cell of a table) a blank text."""
    return value is None or (isinstance(value, str) and not value.strip())


def plain_number(value: Any) -> str:
    """Return a value as text. A whole float becomes an integer: integer columns with gaps are often stored so."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def format_of(path: str | Path) -> str | None:
    """Return the ending in `FORMATS` of a file, compressed or not; None for any other file."""
    name = Path(path).name.lower()
    ending = next((ending for ending in FORMATS if name.removesuffix(_GZIP).endswith(ending)), None)
    return None if ending == ".parquet" and name.endswith(_GZIP) else ending


def stem_of(path: str | Path) -> str:
    """Return a file's name without its ending: "mine" for mine.jsonl.gz."""
    name = Path(path).name
    if format_of(name) is not None and name.lower().endswith(_GZIP):
        name = name[: -len(_GZIP)]
    return Path(name).stem


def read_records(path: str | Path) -> Iterator[Record]:
    """Yield the records of a JSON-lines file, a .json file with one array, or a table in .csv, .tsv or .parquet.

    Text is UTF-8, with or without a byte-order mark; lines end in LF or CRLF; blank lines are skipped but counted.
    Cells of .csv and .tsv remain texts. A text file may be compressed by gzip.

    Raises:
        FastsiaError: for a file or record that cannot be read. It names the file and the row.
    """
    path = Path(path)
    ending = format_of(path)
    try:
        match ending:
            case None:
                raise FastsiaError(
                    f"{path} must be a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file; all but the last may be "
                    "compressed (.jsonl.gz)."
                )
            case ".json":
                yield from _array_records(path)
            case ".csv" | ".tsv":
                yield from _table_records(path, "," if ending == ".csv" else "\t")
            case ".parquet":
                yield from _parquet_records(path)
            case _:
                yield from _line_records(path)
    except OSError as error:
        raise FastsiaError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (EOFError, zlib.error) as error:
        raise FastsiaError(f"{path} cannot be read: its compressed data is damaged or cut ({error}).") from error


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.name.lower().endswith(_GZIP) else path.open("rb")


def _line_records(path: Path) -> Iterator[Record]:
    # Split bytes, not text: U+2028 and similar characters may occur inside a JSON string.
    first = True
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                line = line.removeprefix(_BOM)
            if not line.strip():
                continue
            if first and line.lstrip().startswith(b"["):
                raise FastsiaError(
                    f"{path}, row {number}: a JSON array begins here; write one JSON object a line, or name the file "
                    ".json."
                )
            first = False
            yield _record(str(path), number, _parse(line, f"{path}, row {number}"))


def _array_records(path: Path) -> Iterator[Record]:
    with _open(path) as file:
        values = _parse(file.read().removeprefix(_BOM), str(path))
    if not isinstance(values, list):
        raise FastsiaError(f"{path} must contain one JSON array of objects; JSON lines belong in a .jsonl file.")
    for number, value in enumerate(values, start=1):
        yield _record(str(path), number, value)


def _table_records(path: Path, separator: str) -> Iterator[Record]:
    """Yield the records below a header. Not read with pandas, which pads short records and guesses nulls."""
    number = 0

    def text(lines: Iterable[bytes]) -> Iterator[str]:
        for i, line in enumerate(lines):
            try:
                decoded = (line if i else line.removeprefix(_BOM)).decode("utf-8")
            except UnicodeDecodeError as error:
                raise FastsiaError(f"{where()}: not valid UTF-8 (byte {error.start + 1} of line {i + 1}).") from error
            yield decoded

    def where() -> str:
        return f"{path}, row {number}" if number else f"{path}, header"

    with _open(path) as lines:
        records = csv.reader(text(lines), delimiter=separator, strict=True)
        header: list[str] | None = None
        while True:
            try:
                cells = next(records, None)
            except csv.Error as error:
                raise FastsiaError(f"{where()}: not valid {path.name.rpartition('.')[2]} ({error}).") from error
            if cells is None:
                return
            if header is None:
                if not cells:
                    continue
                header = _header([name.strip() for name in cells], path)
            elif cells:
                if len(cells) != len(header):
                    raise FastsiaError(f"{where()}: {len(cells)} cells, but the header has {len(header)}.")
                yield Record(str(path), number, dict(zip(header, cells, strict=True)))
            number += 1


def _distinct(names: Sequence[str], path: Path) -> None:
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise FastsiaError(f"{path} has {names.count(twice)} columns named {twice!r}.")


def _header(names: list[str], path: Path) -> list[str]:
    """Check the names of a text table's columns."""
    _distinct(names, path)
    if len(names) == 1 and any(mark in names[0] for mark in ";\t,"):
        raise FastsiaError(
            f"{path} has one column, {names[0]!r:.60}: cells must be separated by commas in .csv, by tabs in .tsv."
        )
    return names


def _parquet_records(path: Path) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _distinct(file.schema_arrow.names, path)
            for batch in file.iter_batches():
                for fields in batch.to_pylist():
                    number += 1
                    yield Record(str(path), number, fields)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise FastsiaError(f"{path} cannot be read as parquet: {first}.") from error


def _parse(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise FastsiaError(f"{where}: not valid UTF-8 (byte {error.start + 1}).") from error
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and ", row " not in where:
            raise FastsiaError(
                f"{where} must contain one JSON array of objects; JSON lines belong in a .jsonl file."
            ) from error
        raise FastsiaError(f"{where}: not valid JSON ({error.msg}, character {error.pos + 1}).") from error
    except RecursionError as error:
        raise FastsiaError(f"{where}: JSON nested too deeply.") from error
    except ValueError as error:  # thousands of digits
        raise FastsiaError(f"{where}: a number has more digits than Python reads.") from error


def _record(source: str, number: int, value: Any) -> Record:
    if not isinstance(value, dict):
        raise FastsiaError(f"{source}, row {number}: expected a JSON object with named fields, got {value!r:.60}.")
    return Record(source, number, value)


def dataset_records(dataset: Iterable[Mapping[str, Any]], source: str) -> Iterator[Record]:
    """Yield the records of a `datasets.Dataset`, or of any iterable of mappings."""
    for number, fields in enumerate(dataset, start=1):
        yield Record(source, number, fields)
