"""Damaged databases: found, read as far as they can be, set aside and replaced."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from fastsia.errors import one_line
from fastsia.results import schema
from fastsia.results.schema import REPAIRS, SCHEMA_VERSION, PartRow, ProblemRows

SUFFIXES = ("", "-wal", "-shm", "-journal")
"""The files of a database, by what is appended to its name."""

# Raised by reading a database with damaged content.
_UNREADABLE = (sqlite3.DatabaseError, ValueError, TypeError, RecursionError)
# sqlite errors that do not depend on a database's content.
_OUTER = "AUTH BUSY CANTOPEN FULL INTERRUPT IOERR LOCKED NOMEM PERM PROTOCOL READONLY"
_OUTER_ERRORS = {getattr(sqlite3, f"SQLITE_{name}") for name in _OUTER.split()}


def connect(path: Path) -> sqlite3.Connection:
    """A connection for writing, from any thread but one at a time."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    # In WAL mode, NORMAL survives a kill of the process; a power cut may lose the last problems, never part of one.
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def create(
    connection: sqlite3.Connection,
    meta: Mapping[str, Any],
    problems: Iterable[ProblemRows] = (),
    parts: Iterable[PartRow] = (),
) -> None:
    """Fill an empty database."""
    with connection:
        connection.execute("BEGIN")
        schema.create_tables(connection)
        schema.write_meta(connection, meta)
    for rows in problems:
        schema.insert(connection, rows.sealed())
    schema.insert_parts(connection, parts)


def has_tables(connection: sqlite3.Connection) -> bool:
    """False for a database that a killed run left before its first commit."""
    return bool(connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone())


def damage(path: Path) -> str | None:
    """The damage of a database, or None. Reads all of it: sqlite checks the pages, checksums check the problems."""
    if not path.exists():
        return None
    with closing(sqlite3.connect(path)) as connection:
        return damage_of(connection)


def damage_of(connection: sqlite3.Connection) -> str | None:
    """As `damage`, of an open database."""
    try:
        if not has_tables(connection):
            return None
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            return one_line(verdict)
        meta = schema.read_meta(connection)
        if isinstance(version := meta.get("schema_version"), int) and not 1 <= version <= SCHEMA_VERSION:
            return None  # the content of a later version cannot be judged
        if not _is_whole(meta):
            return "its metadata are incomplete or do not match their checksum"
        schema.show_current_names(connection)
        for (position,) in connection.execute("SELECT position FROM problems ORDER BY position").fetchall():
            if schema.read_rows(connection, position) is None:
                return f"the rows of problem {position + 1} do not match their checksum"
        parts = schema.select_parts(connection)
        if len(schema.whole_parts(parts)) < len(parts):
            return "what was drawn of an unfinished problem does not match its checksum"
    except _UNREADABLE as error:
        return _as_damage(error)
    return None


def salvage(path: Path) -> tuple[dict[str, Any], list[ProblemRows], list[PartRow]]:
    """(the meta values, the problems and the parts of others that can be read and match their checksums); all empty if
    the metadata are damaged."""
    found: dict[int, ProblemRows] = {}
    parts: list[PartRow] = []
    with closing(sqlite3.connect(path)) as connection, _passing_over():
        meta = schema.read_meta(connection)
        if not _is_whole(meta):
            return {}, [], []
        schema.show_current_names(connection)
        for order in ("ASC", "DESC"):  # from both ends up to a page that cannot be read
            with _passing_over():
                for (position,) in connection.execute(f"SELECT position FROM problems ORDER BY position {order}"):
                    with _passing_over():
                        rows = schema.read_rows(connection, position)
                        if rows is not None:
                            found[position] = rows
        with _passing_over():
            parts = [row for row in schema.whole_parts(schema.select_parts(connection)) if row.position not in found]
        return meta, [found[position] for position in sorted(found)], parts
    return {}, [], []


@contextmanager
def _passing_over() -> Iterator[None]:
    """End the block at damage."""
    try:
        yield
    except _UNREADABLE as error:
        _as_damage(error)


def replace(
    path: Path,
    repaired: Path,
    reason: str,
    meta: Mapping[str, Any],
    found: Mapping[str, Any],
    problems: list[Any],
    parts: list[PartRow],
) -> str:
    """Set a damaged database aside. The new one replaces it once it is complete.

    Args:
        repaired: where the new one is written first.
        reason: what `damage` found.
        meta: the new one's values.
        found, problems, parts: as `salvage` returns them.

    Returns:
        A note, which is also stored with those of earlier repairs.
    """
    aside = _free_name(path)
    note = (
        f"{path} is damaged ({reason}); it was set aside as {aside.name}, and "
        f"{len(problems)} finished problems were read back from it."
    )
    meta = {**meta, REPAIRS: json.dumps([*repairs(found), note])}
    try:
        remove(repaired)
        with closing(connect(repaired)) as connection:
            create(connection, meta, problems, parts)
            # Raises if the log does not fit into the database file; closing the connection would not say so.
            connection.execute("PRAGMA journal_mode = DELETE")
    except BaseException:
        remove(repaired)
        raise
    for suffix in SUFFIXES:
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    repaired.rename(path)
    return note


def repairs(meta: Mapping[str, Any]) -> list[str]:
    """The notes of earlier repairs."""
    try:
        return [str(note) for note in json.loads(meta.get(REPAIRS, "[]"))]
    except (ValueError, TypeError, RecursionError):
        return []


def remove(path: Path) -> None:
    """Delete a database and its log."""
    for suffix in SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return aside


def _is_whole(meta: Mapping[str, Any]) -> bool:
    """Whether the metadata are complete and match their checksum. The first databases had no checksum of them."""
    if not meta.keys() >= set(schema.HEAD) or meta.get("checksum", schema.head_checksum(meta)) != schema.head_checksum(
        meta
    ):
        return False
    return isinstance(json.loads(meta["identity"]), dict)


def _as_damage(error: Exception) -> str:
    """Describe an error as damage. Errors that do not depend on the database's content are raised again."""
    if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _OUTER_ERRORS:
        raise error
    return one_line(error)
