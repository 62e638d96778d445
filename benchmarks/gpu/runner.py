"""Runs the rows of the suite, each in a process of its own; knows nothing of what they measure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.ledger import Ledger
from benchmarks.harness import REPOSITORY, WORK

LOGS = WORK / "gpu" / "logs"
# With less time left than this, no row is started: loading a model alone takes some of it.
_LEAST_SECONDS = 60.0
_GRACE_SECONDS = 20.0


class CannotRunError(RuntimeError):
    """This machine cannot measure a row, which is skipped and says why."""


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
    output: Path,
    row_seconds: float = 240.0,
    budget_seconds: float = float("inf"),
    again: Sequence[str] = (),
) -> int:
    """Measure every row that the output does not hold, or with a status to measure again; gives how many are left."""
    began = time.monotonic()
    known = Ledger(output, again)
    waiting = [row for row in rows if not known.has(row.key)]
    number = 0
    while number < len(waiting):
        row, left = waiting[number], budget_seconds - (time.monotonic() - began)
        # The first row runs whatever the budget: else a small one would never get anywhere.
        if left < _LEAST_SECONDS and number:
            break
        ledger = Ledger(output)  # with the cases that the row before it has written
        if ledger.begin(row.head):
            limit = min(row_seconds, max(left, _LEAST_SECONDS))
            before = len(ledger.cases(row.key))
            found = measure_apart(row, output, limit)
            if found["status"] == "timeout":
                # Its cases are kept and not measured again, so with some more of them it has got further.
                if len(Ledger(output).cases(row.key)) > before and left > limit:
                    continue
                # Unless it had all of the budget: it would then be the first row of every further call.
                if limit < row_seconds and number:
                    break
            ledger.end(row.head | found)
        number += 1
    if number < len(waiting):
        print(f"the budget is spent; {len(waiting) - number} rows are left, the next is {waiting[number].key}")
    return len(waiting) - number


def outcome(measure: Callable[[], Any]) -> dict[str, Any]:
    """What came of measuring something in this process."""
    found: dict[str, Any] = {"status": "ok", "reason": None, "result": None}
    try:
        found["result"] = measure()
    except CannotRunError as error:
        found |= {"status": "skipped", "reason": str(error)}
    except Exception as error:
        traceback.print_exc()
        found |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:1000]}
    return found


def measure_apart(row: Row, output: Path, limit: float) -> dict[str, Any]:
    """What came of a row, from a process that is ended after `limit` seconds with all that it started."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{row.key.replace('/', '-')}.log"
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fastsia-row-") as folder, log.open("a") as said:
        result = Path(folder) / "result.json"
        asked = {"row": asdict(row), "output": str(output), "limit_s": limit, "result": str(result)}
        interpreted = {"TRITON_INTERPRET": "1"} if row.kind == "kernels" and row.device == "cpu" else {}
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu", "--measure", json.dumps(asked)],
            cwd=REPOSITORY,
            env=os.environ | interpreted,
            stdout=said,
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
    for sent, grace in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, sent)
            process.wait(timeout=grace)
