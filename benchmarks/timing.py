"""How a kernel is timed, and what it is judged by: the time the device needs to move the bytes it must move."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import emit, percentiles
from machine import bandwidth, synchronize
from pytest_benchmark.fixture import BenchmarkFixture

Call = Callable[[], object]


def measure(benchmark: BenchmarkFixture, calls: Sequence[Call], device: str, graph: bool = True) -> list[float]:
    """Seconds a call, one number a round.

    On CUDA a round replays a graph of at least 2 ms of calls (or makes them one by one where `graph` is off). The
    calls should touch different memory in turn, so that none finds its input in the cache.
    """
    if device != "cuda":
        benchmark.pedantic(calls[0], rounds=3)
        return list(benchmark.stats.stats.data)
    for call in calls:
        call()
    synchronize(device)
    begin = time.perf_counter()
    for call in calls:
        call()
    synchronize(device)
    cycles = min(200, max(1, int(2e-3 * len(calls) / (time.perf_counter() - begin)) // len(calls) + 1))
    todo = [call for _ in range(cycles) for call in calls]
    run: Call
    if graph:
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            for call in todo:
                call()
        run = captured.replay
    else:

        def run() -> None:
            for call in todo:
                call()

    def round_() -> None:
        run()
        torch.cuda.synchronize()

    benchmark.pedantic(round_, rounds=40, warmup_rounds=5)
    return [seconds / len(todo) for seconds in benchmark.stats.stats.data]


def report(
    op: str, path: str, shape: dict[str, Any], seconds: list[float], floor_bytes: int, device: str, **more: Any
) -> None:
    """Emit a row: microseconds, achieved bandwidth over the bytes that must move, and the multiple of their floor."""
    floor = floor_bytes / bandwidth(device)
    microseconds = percentiles([1e6 * s for s in seconds])
    row = {
        "benchmark": op,
        "path": path,
        "device": device,
        "shape": shape,
        "us": microseconds,
        "floor_bytes": floor_bytes,
        "gb_per_s": round(floor_bytes / microseconds["p50"] / 1e3, 1),
        "floor_us": round(1e6 * floor, 2),
        "times_floor": round(microseconds["p50"] / 1e6 / floor, 3),
        "copy_gb_per_s": round(bandwidth(device) / 1e9, 1),
    }
    emit(row | more)
