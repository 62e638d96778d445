"""A kernel launch as a value, so that the ahead-of-time check compiles exactly what an op runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastsia.errors import FastsiaError


def current(device: torch.device) -> AbstractContextManager[None]:
    """Make a CUDA device the current one inside the block.

    Triton launches, and CUDA graphs capture, on the current device and its stream, wherever their tensors are; torch's
    own operators follow the tensors.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def empty_rows(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised [rows, columns] whose rows start on multiples of 16 values.

    Triton narrows its loads to single values where the stride of rows is no such multiple.
    """
    return torch.empty(rows, -(-columns // 16) * 16, dtype=dtype, device=device)[:, :columns]


@dataclass(frozen=True)
class Launch:
    """One launch of a Triton kernel: its grid, its arguments by name (constexprs too) and its compile options."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    num_warps: int
    num_stages: int

    def run(self) -> None:
        """Launch on the device of the arguments."""
        device = next(value.device for value in self.arguments.values() if isinstance(value, Tensor))
        with current(device):
            self.kernel[self.grid](**self.arguments, num_warps=self.num_warps, num_stages=self.num_stages)


class Arrivals:
    """Counters of arrived programs: int32, shared by all launches and zero between them.

    One instance serves one stream at a time. Smaller counters are kept when larger ones are allocated, because CUDA
    graphs captured with them still write to them.
    """

    def __init__(self) -> None:
        self._counters: list[Tensor] = []

    def counters(self, size: int, device: torch.device) -> Tensor:
        """At least `size` counters. Inside a CUDA graph they must exist already: launch once with as many before."""
        last = self._counters[-1] if self._counters else None
        if last is None or len(last) < size or last.device != device:
            with current(device):
                if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                    raise FastsiaError(f"launch once with {size} counters before a CUDA graph of it is captured.")
            last = torch.zeros(1 << (size - 1).bit_length(), dtype=torch.int32, device=device)
            self._counters.append(last)
        return last

    def all_zero(self) -> bool:
        """Whether all counters are zero, as every launch must leave them."""
        return not any(bool(counters.any()) for counters in self._counters)
