"""The machine a benchmark runs on: provenance, wall times, memory, and how fast it copies."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from fastsia import processor
from fastsia.provenance import provenance as of_package

REPOSITORY = Path(__file__).resolve().parents[1]
_Result = TypeVar("_Result")


@cache
def provenance() -> dict[str, Any]:
    """Machine, versions and commit; $COMMIT where there is no repository."""
    package, versions = of_package(), {}
    for name in ("triton", "vllm"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    changes = ""
    with suppress(OSError):
        command = ["git", "status", "--porcelain", "--untracked-files=no"]
        changes = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True).stdout
    return {
        "commit": package["commit"] or os.environ.get("COMMIT"),
        "modified": bool(changes),
        "cpu": processor.name(),
        "cpu_flags": processor.flags(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda,
        "versions": package["versions"] | versions,
    }


def synchronize(device: str) -> None:
    """Wait until the device has finished; the CPU has nothing to wait for."""
    if device == "cuda":
        torch.cuda.synchronize()


def timed(work: Callable[[], _Result], device: str = "cpu") -> tuple[_Result, float]:
    """What `work` returns, and its wall seconds."""
    synchronize(device)
    begin = time.perf_counter()
    result = work()
    synchronize(device)
    return result, time.perf_counter() - begin


def seconds(work: Callable[[], object], repeats: int, device: str = "cpu") -> list[float]:
    """Wall time of each of `repeats` calls, after one warm-up call."""
    return [timed(work, device)[1] for _ in range(repeats + 1)][1:]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The 20th, 50th and 80th percentile."""
    return {f"p{share}": round(float(np.percentile(values, share)), 3) for share in (20, 50, 80)}


def peak_rss() -> int:
    """Peak resident bytes of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory(device: str) -> dict[str, int]:
    """Peak bytes: of torch's allocator on a GPU (the whole KV pool is included), else of the resident process."""
    if device == "cuda":
        return {"peak_bytes": torch.cuda.max_memory_allocated(), "reserved_bytes": torch.cuda.max_memory_reserved()}
    return {"peak_bytes": peak_rss()}


def free_memory(device: str) -> None:
    """Return unreferenced memory to the driver, and count peaks anew."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@cache
def bandwidth(device: str) -> float:
    """Bytes read and written per second, from the best of several large copies."""
    source = torch.ones(1 << (29 if device == "cuda" else 25), dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(seconds(lambda: target.copy_(source), 9, device))
