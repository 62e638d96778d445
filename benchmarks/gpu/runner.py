"""Runs the rows of the suite, each in a process of its own; knows nothing of what they measure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.frame import WORK
from benchmarks.gpu.ledger import Ledger
from benchmarks.machine import REPOSITORY

LOGS = WORK / "gpu" / "logs"
# With less time left than this, no row is started: loading a model alone takes some of it.
_LEAST_SECONDS = 60.0
_GRACE_SECONDS = 20.0


@dataclass(frozen=True)
class Row:
    """model: a name or a folder, None for tests. name: the part, kernel, rows per step or peer."""

    kind: str
    model: str | None
    name: str
    device: str = "cuda"

    @property
    def key(self) -> str:
        return "/".join(part for part in (self.kind, self.model and Path(self.model).name, self.name) if part)

    @property
    def head(self) -> dict[str, Any]:
        return {"key": self.key, **asdict(self), "toy": self.device == "cpu"}


def run(
    rows: Sequence[Row],
    outputs: Sequence[Path],
    row_seconds: float = 240.0,
    budget_seconds: float = float("inf"),
    again: Sequence[str] = (),
) -> int:
    """Measure every row that the outputs do not hold yet; gives how many are left.

    Args:
        outputs: files alike.
        row_seconds: the limit of one row.
        budget_seconds: of all together.
        again: statuses of rows that are measured again.
    """
    began = time.monotonic()
    known = Ledger(outputs, again)
    waiting = [row for row in rows if not known.has(row.key)]
    number = 0
    while number < len(waiting):
        row, left = waiting[number], budget_seconds - (time.monotonic() - began)
        # The first row runs whatever the budget: else a small one would never get anywhere.
        if left < _LEAST_SECONDS and number:
            break
        ledger = Ledger(outputs)  # with the cases that the row before it has written
        if ledger.begin(row.head):
            limit = min(row_seconds, max(left, _LEAST_SECONDS))
            before = len(ledger.cases(row.key))
            found = measure_apart(row, outputs, limit)
            if found["status"] == "timeout":
                # Its cases are kept and not measured again, so with some more of them it has got further.
                if len(Ledger(outputs).cases(row.key)) > before and left > limit:
                    continue
                # Unless it had all of the budget: it would then be the first row of every further call.
                if limit < row_seconds and number:
                    break
            ledger.end(row.head | found)
        number += 1
    if number < len(waiting):
        print(f"the budget is spent; {len(waiting) - number} rows are left, the next is {waiting[number].key}")
    return len(waiting) - number


def measure_apart(row: Row, outputs: Sequence[Path], limit: float) -> dict[str, Any]:
    """What came of a row, from a process that is ended after `limit` seconds with all that it started."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{row.key.replace('/', '-')}.log"
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fastsia-row-") as folder, log.open("a") as output:
        result = Path(folder) / "result.json"
        asked = {"row": asdict(row), "outputs": [*map(str, outputs)], "limit_s": limit, "result": str(result)}
        interpreted = {"TRITON_INTERPRET": "1"} if row.kind == "kernels" and row.device == "cpu" else {}
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu", "--measure", json.dumps(asked)],
            cwd=REPOSITORY,
            env=os.environ | interpreted,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        found: dict[str, Any] = {"status": "timeout", "reason": f"not done after {limit:.0f} s", "result": None}
        try:
            code = process.wait(timeout=limit)
            found = {"status": "failed", "reason": f"it ended with code {code}; see {log.name}", "result": None}
        except subprocess.TimeoutExpired:
            pass
        finally:
            _end(process)
        if result.is_file():
            found = json.loads(result.read_text(encoding="utf-8"))
    return found | {"wall_seconds": time.monotonic() - begin}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Of the row's process and of all that it started; a card's memory is free again only then."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sent)
        except ProcessLookupError:
            break
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_GRACE_SECONDS if sent == signal.SIGTERM else None)
    process.wait()
