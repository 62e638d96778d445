"""The suite's results: JSON lines, written as things end, to one file or to several alike.

A machine may take a process away at any moment. So each row says that it begins, and what began twice without an end is
recorded as out of time and passed over; a line that was cut in two is read as if it were not there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.frame import emit

_ATTEMPTS = 2


class Ledger:
    """Rows by key.

    Args:
        paths: files alike; lines that one lacks are copied from the others.
        again: statuses of rows that count as not there, and so are measured again.
    """

    def __init__(self, paths: Sequence[Path], again: Sequence[str] = ()) -> None:
        self.paths = list(paths)
        self._again = set(again)
        self._rows: dict[str, dict[str, Any]] = {}
        self._begun: Counter[str] = Counter()
        held = [_lines(path) for path in self.paths]
        # Lines may be equal: a row that began twice.
        every = list(max(held, key=len, default=[]))
        for lines in held:
            every += _without(lines, every)
        for path, lines in zip(self.paths, held, strict=True):
            for line in _without(every, lines):
                _append(path, line)
        for line in every:
            self._note(json.loads(line))

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
        row = {"key": head["key"], "status": "began"}
        self._note(row)
        for path in self.paths:
            _append(path, json.dumps(row))
        return True

    def end(self, row: dict[str, Any]) -> None:
        """Write a row with its provenance."""
        self._note(row)
        line = emit(row, None)
        for path in self.paths:
            _append(path, line)

    def _note(self, row: dict[str, Any]) -> None:
        if row["status"] == "began":
            self._begun[row["key"]] += 1
        else:
            # A row with cases has got further with each of them.
            for key in (row["key"], row["key"].rpartition("/")[0]):
                del self._begun[key]
            self._rows[row["key"]] = row


def _lines(path: Path) -> list[str]:
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            json.loads(line)
        except ValueError:  # the process that wrote it was ended
            continue
        found.append(line)
    return found


def _without(lines: list[str], others: list[str]) -> list[str]:
    """The lines, in order, that others lack; each as often as they lack it."""
    there, found = Counter(others), []
    for line in lines:
        if there[line]:
            there[line] -= 1
        else:
            found.append(line)
    return found


def _append(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        # After a line that was cut in two.
        file.seek(max(file.tell() - 1, 0))
        torn = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * torn + line.encode() + b"\n")
