"""Device memory: what a measurement needed, and how it is returned."""

from __future__ import annotations

import gc

import torch

from benchmarks.machine import peak_rss


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
