"""Wall times of repeated calls, and their percentiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch


def synchronize(device: str) -> None:
    """Wait until the device has finished; the CPU has nothing to wait for."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], repeats: int, device: str = "cpu") -> list[float]:
    """Wall time of each of `repeats` calls, after one warm-up call."""
    times = []
    for _ in range(repeats + 1):
        synchronize(device)
        begin = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - begin)
    return times[1:]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The 20th, 50th and 80th percentile."""
    cuts = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64))
    return {name: round(float(cut), 3) for name, cut in zip(("p20", "p50", "p80"), cuts, strict=True)}
