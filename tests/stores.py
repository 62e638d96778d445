"""Databases of runs that were never made."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fastsia import store


@contextmanager
def rewritten(path: Path) -> Iterator[sqlite3.Connection]:
    """A database to change; its checksums are then those of its rows, as its writer would have made them."""
    with closing(sqlite3.connect(path)) as connection, connection:
        yield connection
        head = store._read_head(connection)
        connection.execute("UPDATE meta SET value = ? WHERE key = 'checksum'", (store._head_checksum(head),))
        for row in connection.execute("SELECT * FROM problems").fetchall():
            sealed = (store._checksum(row[:-1], *store._read_drawn(connection, row[0])), row[0])
            connection.execute("UPDATE problems SET checksum = ? WHERE position = ?", sealed)
