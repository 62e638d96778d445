"""Numbers of threads and of sequences of a step on a CPU, measured on a product of the model's own size,
once per process."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from fastsia.processor import time_in_turns, time_product

# Rows of the product that is timed.
_ROWS = 128
# Fewer threads are preferred if they take at most this much longer: others on the machine can use the rest.
_TOLERANCE = 1.05
# Sequences per step, and the seconds that it may take.
_LEAST_SEQS, _MOST_SEQS, _STEP_SECONDS = 64, 512, 0.5


def num_cores() -> int:
    """Physical cores that this process may use: of its CPU set, less the hyper-threads, within its control group's
    quota."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = set()
    for cpu in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(topology.read_text().strip() if topology.is_file() else str(cpu))
    return max(min(len(cores), _quota(Path("/sys/fs/cgroup"))), 1)


def _quota(mounted: Path) -> int:
    """CPUs that the control group may use at a time, rounded up."""
    try:
        if (mounted / "cpu.max").is_file():
            quota, period = (mounted / "cpu.max").read_text().split()
        else:
            quota, period = ((mounted / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return -(-int(quota) // int(period)) if int(quota) > 0 else 1 << 20
    except (OSError, ValueError):  # no such file, or "max"
        return 1 << 20


def choose_threads(weight: Tensor | None, asked: int | None = None) -> tuple[int, str]:
    """(the number of threads, why).

    Args:
        weight: the matrix of the product that is measured, see `largest_matrix`; None measures nothing.
        asked: this many, whatever is measured.
    """
    if asked is not None:
        return asked, "num_threads"
    if os.environ.get("OMP_NUM_THREADS"):
        return torch.get_num_threads(), "OMP_NUM_THREADS"
    most = min(num_cores(), torch.get_num_threads())
    if most == 1 or weight is None:
        return most, "the number of cores"
    seconds = _measure(tuple(weight.shape), weight.dtype, _counts(most))
    best = min(seconds.values())
    chosen = min(count for count, taken in seconds.items() if taken <= _TOLERANCE * best)
    shown = ", ".join(f"{1e3 * taken:.2f} ms with {count}" for count, taken in seconds.items())
    return chosen, f"a product of {_ROWS} rows took {shown}"


def largest_matrix(model: PreTrainedModel) -> Tensor | None:
    """The largest matrix of a layer; None if no layer has one in a floating-point type."""
    matrices = [
        weight
        for name, weight in model.named_parameters()
        if weight.ndim == 2 and "layers." in name and weight.is_floating_point()
    ]
    return max(matrices, key=Tensor.numel, default=None)


def default_num_seqs(model: PreTrainedModel, weight: Tensor | None, num_threads: int) -> int:
    """Sequences per step: a power of two from 64 to 512, so that a step takes about half a second at most.

    Beyond 64 rows the time per row hardly falls (docs/engine.md), and a killed run computes its last step again.
    """
    if weight is None:
        return _MOST_SEQS
    size = sum(value.numel() for value in model.parameters())
    product = _measure(tuple(weight.shape), weight.dtype, (num_threads,))[num_threads]
    seconds = product / _ROWS * size / weight.numel()
    return int(2 ** math.floor(math.log2(min(max(_STEP_SECONDS / seconds, _LEAST_SEQS), _MOST_SEQS))))


def _counts(most: int) -> tuple[int, ...]:
    """The numbers of threads to try."""
    larger = [count for count in (12, 16, 24, 32, 48, 64, 96, 128) if 8 < count < most]
    small = range(1, min(most, 8) + 1)
    return (*small, *larger, most) if most > 8 else tuple(small)


@cache
def _measure(shape: tuple[int, ...], dtype: torch.dtype, counts: tuple[int, ...]) -> dict[int, float]:
    """The seconds of a product of `_ROWS` rows, by the number of threads."""
    weight, rows = torch.zeros(shape, dtype=dtype), torch.zeros((_ROWS, shape[1]), dtype=dtype)

    def product(count: int) -> float:
        with using_threads(count):
            return time_product(rows, weight)

    return time_in_turns(counts, product)


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Let torch and the C++ core use this many threads inside the block."""
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
