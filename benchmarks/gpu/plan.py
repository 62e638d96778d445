"""The rows of the suite in order of worth, since GPU time is short, and what each kind of them measures."""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import kernels, peers, steady
from benchmarks.gpu.ledger import Ledger
from benchmarks.gpu.models import load
from benchmarks.gpu.runner import LOGS, Row
from benchmarks.gpu.work import FULL, TOY, prepare
from benchmarks.harness import REPOSITORY
from tests.models.architectures import ARCHITECTURES

KINDS = ("tests", "kernels", "engine", "steady", "peer")
_STEPS, _TOY_STEPS = ("512", "1024", "256"), ("8", "16", "4")
# A model with a key head for each query head; one whose trajectories are long.
_HEADS, _LONG = "deepseek-llm-7b", "r1-distill-qwen-7b"
# What the question turns on, then what explains it; the others fill the table.
_FIRST, _SHARING = ("naive", "fastsia", "continuous"), ("fastsia-none", "fastsia-checkpoint")
# The kernels' tests first: they are quick, and everything hangs on them.
TESTS = {"ops": ["tests/ops"], "engine": ["tests", "--ignore=tests/ops"]}
_PROCESSES, _TEST_SECONDS, _RESERVE_SECONDS, _KEPT = 6, 120, 25.0, 12_000


def plan(models: Sequence[str] = (), chosen: Sequence[str] = (), device: str = "cuda") -> list[Row]:
    """Every row, the worthiest first; of peers that are chosen, only theirs."""
    named = list(models) or list(ARCHITECTURES)
    first, *others = named
    second = _HEADS if _HEADS in others else first
    long = _LONG if _LONG in others else first
    steps = _TOY_STEPS if device == "cpu" else _STEPS
    rows: list[Row] = []

    def add(kind: str, model: str | None, *names: str) -> None:
        rows.extend(Row(kind, model, name, device) for name in names)

    add("tests", None, "ops")
    add("kernels", first, "products", "attention", "sampling")
    add("kernels", second, "attention", "sampling")
    add("engine", first, steps[0])
    add("steady", first, *steps[:2])
    add("peer", first, *_FIRST)
    add("kernels", long, "attention-long")
    add("steady", long, "long")
    add("peer", first, *_SHARING)
    add("kernels", second, "products")
    add("tests", None, "engine")
    add("kernels", first, "kv")
    for model in others:
        add("peer", model, *_FIRST[1:], *_SHARING)
        add("steady", model, *steps[:2])
    add("peer", first, *peers.PEERS)
    for model in named:
        add("steady", model, steps[2])
        add("kernels", model, "attention", "sampling")
        add("peer", model, "naive")
    return [row for row in dict.fromkeys(rows) if not chosen or (row.kind == "peer" and row.name in chosen)]


def measure(row: Row, output: Path, limit_s: float) -> dict[str, Any]:
    """What a row's kind measures."""
    if row.model is None:
        return run_tests(row.name, row.device, limit_s)
    if row.kind == "kernels":
        return kernels.measure(row.head, Ledger(output))
    model, shape = load(row.model, row.device), TOY if row.device == "cpu" else FULL
    if row.kind == "engine":
        return model.head | steady.profile(model, shape, int(row.name))
    work = None if row.name == "long" else prepare(model, shape, LOGS.parent)
    if row.kind == "steady":
        return model.head | steady.measure(model, shape, row.name, work)
    assert work is not None
    return model.head | {"work": work.describe()} | peers.measure(row.name, model, work)


def run_tests(name: str, device: str, limit_s: float) -> dict[str, Any]:
    """Run GPU tests, in a process of their own, for a little less than `limit_s`; those that ended by then count."""
    within = max(limit_s - _RESERVE_SECONDS, limit_s / 2)
    options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", "-rfE", "--maxfail=15", "--continue-on-collection-errors"]
    if importlib.util.find_spec("xdist") is not None and device == "cuda":
        options += ["-n", str(_PROCESSES)]  # compiling is work of the CPU
    if importlib.util.find_spec("pytest_timeout") is not None:
        options += [f"--timeout={_TEST_SECONDS}", f"--session-timeout={within - 10:.0f}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *TESTS[name]],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A job in the background inherits that interrupts are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        output, cut = process.communicate(timeout=within)[0], False
    except subprocess.TimeoutExpired:  # interrupted, pytest shows what failed and where it is
        process.send_signal(signal.SIGINT)
        output, cut = process.communicate()[0], True
    print(output)
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|errors?|skipped)", output)}
    return {"counts": counts, "exit": process.returncode, "cut": cut, "output": output[-_KEPT:]}
