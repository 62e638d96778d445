"""The machine a benchmark runs on: provenance, wall times, memory, and the best rates it reaches."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastsia import processor

REPOSITORY = Path(__file__).resolve().parents[1]
_PACKAGES = ("torch", "triton", "transformers", "vllm", "numpy")


@cache
def provenance() -> dict[str, Any]:
    """Machine, versions and commit."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "commit": _git("rev-parse", "--short=12", "HEAD") or os.environ.get("COMMIT"),
        "modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "cpu": processor.name(),
        "cpu_flags": processor.flags(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda,
        "versions": versions,
    }


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


def _git(*arguments: str) -> str | None:
    with suppress(OSError, subprocess.CalledProcessError):
        done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True)
        return done.stdout.strip()
    return None
