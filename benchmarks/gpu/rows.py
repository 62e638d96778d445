"""The rows of the suite in order of worth, since GPU time is short; and how one is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu import growth, kernels, peers, steady
from benchmarks.gpu.models import ARCHITECTURES, load
from benchmarks.gpu.work import FULL, TOY, prepare

KINDS = ("peer", "steady", "kernels", "growth")
_STEADY_FULL, _STEADY_TOY = (512, 256, 1024), (8, 4, 16)
# What the question turns on, then what explains it; the others fill the table.
_FIRST = ("naive", "fastsia", "continuous")
_SHARING = ("fastsia-none", "fastsia-checkpoint")


class CannotRunError(RuntimeError):
    """A row has no way to run on this machine: it is skipped, and says why."""


@dataclass(frozen=True)
class Row:
    """kind: one of KINDS. model: a name or a folder, None for kernels. name: the peer, rows per step, file or axis."""

    kind: str
    model: str | None
    name: str

    @property
    def key(self) -> str:
        return "/".join(part for part in (self.kind, self.model and Path(self.model).name, self.name) if part)


def plan(models: Sequence[str] = (), chosen_peers: Sequence[str] = (), *, toy: bool = False) -> list[Row]:
    """Every row, the worthiest first. With peers named, only theirs.

    The order of models is that of ARCHITECTURES: the first decides, the second has a head of keys for each of queries,
    the third caps its logits.
    """
    named = list(models) or list(ARCHITECTURES)
    steps = _STEADY_TOY if toy else _STEADY_FULL

    def of(model: str, names: Sequence[str]) -> list[Row]:
        return [Row("peer", model, name) for name in names]

    def states(model: str) -> list[Row]:
        return [Row("steady", model, str(rows)) for rows in steps]

    first, others = named[0], named[1:]
    rows = of(first, _FIRST) + states(first) + of(first, [*_SHARING, "fastsia-eager"])
    for model in others[:2]:
        rows += of(model, ("fastsia", *_SHARING, "naive", "continuous")) + states(model)
    rows += of(first, list(peers.PEERS)) + [Row("kernels", None, name) for name in kernels.FILES]
    rows += [Row("growth", first, axis) for axis in growth.AXES]
    for model in others[2:]:
        rows += of(model, ("fastsia", "naive", "continuous")) + states(model)
    for model in others:
        rows += of(model, list(peers.PEERS))
    once = list(dict.fromkeys(rows))
    return [row for row in once if row.kind == "peer" and row.name in chosen_peers] if chosen_peers else once


def measure(row: Row, device: str, toy: bool, folder: Path, limit_s: float) -> dict[str, Any]:
    """What a row's kind measures. folder: where a model's work is kept from row to row."""
    if row.kind == "kernels":
        if (reason := kernels.missing()) is not None:
            raise CannotRunError(reason)
        return kernels.measure(row.name, device, limit_s)
    assert row.model is not None
    model = load(row.model, device, toy)
    shape = TOY if toy else FULL
    head = {"weights": model.weights, "head_entropy": model.entropy}
    if row.kind == "steady":
        return head | steady.measure(model, shape, int(row.name), toy)
    if row.kind == "growth":
        return head | growth.measure(model, shape, row.name, toy)
    if (reason := peers.PEERS[row.name].missing(model)) is not None:
        raise CannotRunError(reason)
    work = prepare(model, shape, folder)
    return head | {"work": work.describe()} | peers.measure(row.name, model, work)
