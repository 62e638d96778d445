"""The rows of the suite in order of worth, since GPU time is short; each runs in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu import checks, kernels, peers, steady
from benchmarks.gpu.ledger import Ledger
from benchmarks.gpu.models import ARCHITECTURES, load
from benchmarks.gpu.work import FULL, TOY, prepare
from benchmarks.machine import REPOSITORY

WORK = REPOSITORY / "benchmarks" / ".work" / "gpu"
KINDS = ("tests", "kernels", "engine", "steady", "peer")
_ROWS, _TOY_ROWS = (512, 1024, 256), (8, 16, 4)
# A model with a key head for each query head; one whose trajectories are long.
_HEADS, _LONG = "deepseek-llm-7b", "r1-distill-qwen-7b"
# What the question turns on, then what explains it; the others fill the table.
_FIRST, _SHARING = ("naive", "fastsia", "continuous"), ("fastsia-none", "fastsia-checkpoint")
# With less time left than this, no row is started: loading a model alone takes some of it.
_LEAST_SECONDS = 60.0
_GRACE_SECONDS = 20.0


class CannotRunError(RuntimeError):
    """A row has no way to run on this machine: it is skipped, and says why."""


@dataclass(frozen=True)
class Row:
    """kind: one of KINDS. model: a name or a folder, None for tests. name: the part, kernel, rows per step or peer."""

    kind: str
    model: str | None
    name: str

    @property
    def key(self) -> str:
        return "/".join(part for part in (self.kind, self.model and Path(self.model).name, self.name) if part)

    @property
    def head(self) -> dict[str, Any]:
        return {"key": self.key, "kind": self.kind, "model": self.model, "name": self.name}


@dataclass(frozen=True)
class Options:
    """outputs: files alike. row_seconds: the limit of one row. budget_seconds: of all together, None for no limit.

    retry: run failed rows again, and those that ran out of time.
    """

    outputs: Sequence[Path]
    device: str
    toy: bool
    row_seconds: float = 240.0
    budget_seconds: float | None = None
    retry: bool = False


def plan(models: Sequence[str] = (), chosen_peers: Sequence[str] = (), *, toy: bool = False) -> list[Row]:
    """Every row, the worthiest first. With peers named, only theirs."""
    named = list(models) or list(ARCHITECTURES)
    first, *others = named
    second = _HEADS if _HEADS in others else first
    long = _LONG if _LONG in others else first

    def of(kind: str, model: str, *names: str) -> list[Row]:
        return [Row(kind, model, name) for name in names]

    steps = [str(rows) for rows in (_TOY_ROWS if toy else _ROWS)]
    rows = [Row("tests", None, "ops"), *of("kernels", first, "products", "attention", "sampling")]
    rows += of("kernels", second, "attention", "sampling") + of("engine", first, steps[0])
    rows += of("steady", first, *steps[:2]) + of("peer", first, *_FIRST)
    rows += of("kernels", long, "attention-long") + of("steady", long, "long") + of("peer", first, *_SHARING)
    rows += [*of("kernels", second, "products"), Row("tests", None, "engine"), *of("kernels", first, "kv")]
    for model in others:
        rows += of("peer", model, *_FIRST[1:], *_SHARING) + of("steady", model, *steps[:2])
    rows += of("peer", first, *peers.PEERS)
    for model in named:
        rows += (
            of("steady", model, steps[2]) + of("kernels", model, "attention", "sampling") + of("peer", model, "naive")
        )
    once = list(dict.fromkeys(rows))
    return [row for row in once if row.kind == "peer" and row.name in chosen_peers] if chosen_peers else once


def measure(row: Row, options: Options, limit_s: float) -> dict[str, Any]:
    """What a row's kind measures."""
    device, toy, shape = options.device, options.toy, TOY if options.toy else FULL
    if row.kind == "tests":
        return checks.measure(row.name, device, limit_s)
    assert row.model is not None
    if row.kind == "kernels":
        return kernels.measure(row.head | {"device": device, "toy": toy}, Ledger(options.outputs))
    model = load(row.model, device, toy)
    head = {"weights": model.weights, "head_entropy": model.entropy}
    if row.kind == "engine":
        return head | steady.profile(model, shape, int(row.name), toy)
    if row.kind == "steady":
        return head | steady.measure(model, shape, row.name, toy)
    if (reason := peers.PEERS[row.name].missing(model)) is not None:
        raise CannotRunError(reason)
    work = prepare(model, shape, WORK)
    return head | {"work": work.describe()} | peers.measure(row.name, model, work)


def run(rows: Iterable[Row], options: Options) -> int:
    """Measure every row that the output does not hold yet; gives how many are left."""
    began = time.monotonic()
    known = Ledger(options.outputs, ("failed", "timeout") if options.retry else ())
    waiting = [row for row in rows if not known.has(row.key)]
    number = 0
    while number < len(waiting):
        row = waiting[number]
        left = float("inf")
        if options.budget_seconds is not None:
            left = options.budget_seconds - (time.monotonic() - began)
        # The first row runs whatever the budget: else a small one would never get anywhere.
        if left < _LEAST_SECONDS and number:
            print(f"the budget is spent; {len(waiting) - number} rows are left, the next is {row.key}", flush=True)
            return len(waiting) - number
        head = row.head | {"device": options.device, "toy": options.toy}
        ledger = Ledger(options.outputs)  # with the cases that the row before it has written
        if ledger.begin(head):
            limit = min(options.row_seconds, max(left, _LEAST_SECONDS))
            before = len(ledger.cases(row.key))
            found = _one(row, options, limit)
            if found["status"] == "timeout":
                # Its cases are kept and not measured again, so with some more of them it has got further.
                if len(Ledger(options.outputs).cases(row.key)) > before and left > limit:
                    continue
                # Unless it had all of the budget: it would then be the first row of every further call.
                if limit < options.row_seconds and number:
                    print(f"{row.key} did not end within what was left of the budget", flush=True)
                    return len(waiting) - number
            ledger.end(head | found)
        number += 1
    return 0


def _one(row: Row, options: Options, limit: float) -> dict[str, Any]:
    log = WORK / "logs" / f"{row.key.replace('/', '-')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fastsia-row-") as folder, log.open("a") as output:
        path = Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks.gpu", "--measure", json.dumps([row.kind, row.model, row.name])]
        command += ["--result", str(path), "--device", options.device, "--row_s", str(limit)]
        command += ["--output", *map(str, options.outputs), *(["--toy"] if options.toy else [])]
        interpreted = {"TRITON_INTERPRET": "1"} if row.kind == "kernels" and options.device == "cpu" else {}
        process = subprocess.Popen(
            command,
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
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
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
