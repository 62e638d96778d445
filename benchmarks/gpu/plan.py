"""The rows of the suite in order of worth, since GPU time is short, and what each kind of them measures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import checks, kernels, peers, steady
from benchmarks.gpu.ledger import Ledger
from benchmarks.gpu.models import ARCHITECTURES, load
from benchmarks.gpu.runner import LOGS, Row
from benchmarks.gpu.work import FULL, TOY, prepare

KINDS = ("tests", "kernels", "engine", "steady", "peer")
_STEPS, _TOY_STEPS = ("512", "1024", "256"), ("8", "16", "4")
# A model with a key head for each query head; one whose trajectories are long.
_HEADS, _LONG = "deepseek-llm-7b", "r1-distill-qwen-7b"
# What the question turns on, then what explains it; the others fill the table.
_FIRST, _SHARING = ("naive", "fastsia", "continuous"), ("fastsia-none", "fastsia-checkpoint")


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


def measure(row: Row, outputs: Sequence[Path], limit_s: float) -> dict[str, Any]:
    """What a row's kind measures."""
    if row.kind == "tests":
        return checks.measure(row.name, row.device, limit_s)
    assert row.model is not None
    if row.kind == "kernels":
        return kernels.measure(row.head, Ledger(outputs))
    model, shape = load(row.model, row.device), TOY if row.device == "cpu" else FULL
    if row.kind == "engine":
        return model.head | steady.profile(model, shape, int(row.name))
    work = None if row.name == "long" else prepare(model, shape, LOGS.parent)
    if row.kind == "steady":
        return model.head | steady.measure(model, shape, row.name, work)
    assert work is not None
    return model.head | {"work": work.describe()} | peers.measure(row.name, model, work)
