"""What this machine can do at best, measured: bytes and operations a second."""

from __future__ import annotations

import time
from functools import cache

import torch


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@cache
def bandwidth(device: str) -> float:
    """Bytes a second, read and written, of the best of several large copies."""
    elements = 1 << (29 if device == "cuda" else 25)
    source = torch.ones(elements, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(10):
        synchronize(device)
        begin = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * source.nbytes / best


@cache
def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second (a multiplication and an addition are two) of the best of several square matrix products."""
    size, repeats = (8192, 20) if device == "cuda" else (512, 3)
    left, right = torch.randn(2, size, size, device=device).to(dtype).unbind()
    best = float("inf")
    for _ in range(repeats):
        synchronize(device)
        begin = time.perf_counter()
        left @ right
        synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best
