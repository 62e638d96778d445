"""The suite's results: a file of JSON lines, written as things end.

A machine may take a process away at any moment. So each row says that it begins, and what began twice without an end is
recorded as out of time and passed over; a line that was cut in two is read as if it were not there.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import emit

_ATTEMPTS = 2


class Ledger:
    """Rows by key. Those with a status of `again` count as not there, and so are measured again."""

    def __init__(self, path: Path, again: Collection[str] = ()) -> None:
        self._path, self._again = path, set(again)
        self._rows: dict[str, dict[str, Any]] = {}
        self._begun: Counter[str] = Counter()
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                row = json.loads(line)
            except ValueError:  # the process that wrote it was ended
                continue
            self._note(row)

    def rows(self) -> list[dict[str, Any]]:
        """What has ended; of those with one key the last one counts, in the place of the first."""
        return list(self._rows.values())

    def cases(self, key: str) -> list[dict[str, Any]]:
        """The cases of a row that have ended."""
        return [row for row in self._rows.values() if row["key"].startswith(f"{key}/")]

    def has(self, key: str) -> bool:
        """Whether a row has ended, and is not to be measured again."""
        return key in self._rows and self._rows[key]["status"] not in self._again

    def begin(self, head: Mapping[str, Any]) -> bool:
        """Write that a row begins; False where it has begun twice before, which is then its result."""
        if self._begun[head["key"]] >= _ATTEMPTS:
            reason = f"it began {_ATTEMPTS} times and did not end"
            self.end({**head, "status": "timeout", "reason": reason, "result": None, "wall_seconds": 0.0})
            return False
        # A line like no other: where files are merged, equal lines are one.
        self._write({"key": head["key"], "status": "began", "time": time.time()})
        return True

    def end(self, row: Mapping[str, Any]) -> None:
        """Write a row with its provenance."""
        self._write(json.loads(emit(row, None)))

    def _write(self, row: dict[str, Any]) -> None:
        self._note(row)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            # After a line that was cut in two.
            file.seek(max(file.tell() - 1, 0))
            torn = file.read(1) not in (b"", b"\n")
            file.write(b"\n" * torn + json.dumps(row).encode() + b"\n")

    def _note(self, row: dict[str, Any]) -> None:
        if row["status"] == "began":
            self._begun[row["key"]] += 1
        else:
            # A row with cases has got further with each of them.
            for key in (row["key"], row["key"].rpartition("/")[0]):
                del self._begun[key]
            self._rows[row["key"]] = row
