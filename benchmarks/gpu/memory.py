"""What a measurement needed of the device's memory, and giving it back."""

from __future__ import annotations

import gc
import resource
import sys

import torch


def memory(device: str) -> dict[str, int]:
    """Peak bytes: on a GPU those of torch's allocator, with a whole KV pool in them; else of the resident process."""
    if device == "cuda":
        return {"peak_bytes": torch.cuda.max_memory_allocated(), "reserved_bytes": torch.cuda.max_memory_reserved()}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def free_memory(device: str) -> None:
    """Let go of what nothing holds any more, as far as to the driver."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
