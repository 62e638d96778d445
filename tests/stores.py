"""Databases changed by hand, with the checksums that their writer would have made."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fastsia.results import schema


@contextmanager
def rewritten(path: Path) -> Iterator[sqlite3.Connection]:
    """A database to change. Afterwards its checksums are those of its rows, in the format of its version."""
    with closing(sqlite3.connect(path)) as connection, connection:
        yield connection
        meta, version = schema.read_meta(connection), schema.version_of(connection)
        schema.write_meta(connection, {"checksum": schema.head_checksum(meta)})
        schema.show_current_names(connection)
        for (position,) in connection.execute("SELECT position FROM problems").fetchall():
            rows = schema.select_rows(connection, position)
            sealed = (rows.checksum(version), position)
            connection.execute("UPDATE problems SET checksum = ? WHERE position = ?", sealed)
