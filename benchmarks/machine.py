"""The machine a benchmark runs on: provenance, memory in use, and the best rates it reaches."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import seconds

REPOSITORY = Path(__file__).resolve().parents[1]
_PACKAGES = ("torch", "triton", "transformers", "flashinfer-python", "vllm", "numpy")


@cache
def provenance() -> dict[str, Any]:
    """Machine, versions and commit."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda,
        "versions": versions,
    }


def peak_rss() -> int:
    """Peak resident bytes of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory(device: str) -> dict[str, int]:
    """Peak bytes: of torch's allocator on a GPU (the whole KV pool is included), else of the resident process."""
    if device == "cuda":
        return {"peak_bytes": torch.cuda.max_memory_allocated(), "reserved_bytes": torch.cuda.max_memory_reserved()}
    return {"peak_bytes": peak_rss()}


def free_memory(device: str) -> None:
    """Return unreferenced memory to the driver."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


@cache
def bandwidth(device: str) -> float:
    """Bytes read and written per second, from the best of several large copies."""
    source = torch.ones(1 << (29 if device == "cuda" else 25), dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(seconds(lambda: target.copy_(source), 9, device))


@cache
def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Operations per second, from the best of several square matrix products (a multiply-add counts as two)."""
    size, repeats = (8192, 20) if device == "cuda" else (512, 3)
    left, right = torch.randn(2, size, size, device=device).to(dtype).unbind()
    return 2 * size**3 / min(seconds(lambda: left @ right, repeats, device))


def _git(*arguments: str) -> str | None:
    with suppress(OSError, subprocess.CalledProcessError):
        done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True)
        return done.stdout.strip()
    return None


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
