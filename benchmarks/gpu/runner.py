"""Runs rows one after the other, each in a process of its own: what ends one badly is one row."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.frame import emit
from benchmarks.gpu import results
from benchmarks.gpu.rows import Row
from benchmarks.machine import REPOSITORY

WORK = REPOSITORY / "benchmarks" / ".work" / "gpu"
# With less time left than this, no row is started: loading a model alone takes some of it.
_LEAST_SECONDS = 60.0
_GRACE_SECONDS = 20.0


@dataclass(frozen=True)
class Options:
    """row_seconds: the limit of one row. budget_seconds: of all of them together, None for no limit.

    retry: run failed rows again, and those that ran out of time.
    """

    output: Path
    device: str
    toy: bool
    row_seconds: float = 240.0
    budget_seconds: float | None = None
    retry: bool = False


def run(rows: Iterable[Row], options: Options) -> int:
    """Measure every row that the output does not hold yet; gives how many are left."""
    began = time.monotonic()
    again = ("failed", "timeout") if options.retry else ()
    done = {row["key"] for row in results.read(options.output) if row["status"] not in again}
    waiting = [row for row in rows if row.key not in done]
    for number, row in enumerate(waiting):
        left = float("inf")
        if options.budget_seconds is not None:
            left = options.budget_seconds - (time.monotonic() - began)
        # The first row runs whatever the budget: else a small one would never get anywhere.
        if left < _LEAST_SECONDS and number:
            print(f"the budget is spent; {len(waiting) - number} rows are left, the next is {row.key}", flush=True)
            return len(waiting) - number
        limit = min(options.row_seconds, max(left, _LEAST_SECONDS))
        found = _one(row, options, limit)
        # Unless it had all of the budget: it would then be the first row of every further call, and end none of them.
        if found["status"] == "timeout" and limit < options.row_seconds and number:
            print(f"{row.key} did not end within what was left of the budget; it is not recorded", flush=True)
            return len(waiting) - number
        emit(found, options.output)
    return 0


def _one(row: Row, options: Options, limit: float) -> dict[str, Any]:
    head: dict[str, Any] = {"key": row.key, "kind": row.kind, "model": row.model, "name": row.name}
    head |= {"device": options.device, "toy": options.toy}
    log = WORK / "logs" / f"{row.key.replace('/', '-')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fastsia-row-") as folder, log.open("w") as output:
        path = Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks.gpu", "--measure", json.dumps([row.kind, row.model, row.name])]
        command += ["--result", str(path), "--device", options.device, "--row_s", str(limit)]
        command += ["--toy"] if options.toy else []
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        found: dict[str, Any] = {"status": "timeout", "reason": f"not done after {limit:.0f} s", "result": None}
        try:
            code = process.wait(timeout=limit)
            found = {"status": "failed", "reason": f"it ended with code {code}; see {log.name}", "result": None}
        except subprocess.TimeoutExpired:
            pass
        finally:
            _end(process)
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
    return head | found | {"wall_seconds": time.monotonic() - begin}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Of the row's process and of all that it started; a card's memory is free again only then."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sent)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=_GRACE_SECONDS if sent == signal.SIGTERM else None)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
