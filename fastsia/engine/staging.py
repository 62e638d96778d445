"""Copies between host and device: several arrays at once, through pinned memory so that the host does not wait."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

_ALIGNMENT = 16
_TORCH = {np.dtype(name): getattr(torch, name) for name in ("int32", "int64", "float32")}
Field = tuple[np.dtype, tuple[int, ...]]
"""Type and shape of an array."""


def size_of(fields: Sequence[Field]) -> int:
    """Bytes that arrays of these fields need, one after another."""
    return _ALIGNMENT + sum(_padded(field) for field in fields)


def arrays_in(memory: Tensor, fields: Sequence[Field]) -> list[np.ndarray]:
    """The arrays inside host memory (uint8)."""
    host = memory.numpy()
    return [host[at : at + size].view(dtype).reshape(shape) for at, size, (dtype, shape) in _places(fields)]


def tensors_in(memory: Tensor, fields: Sequence[Field]) -> list[Tensor]:
    """The same as tensors, wherever the memory is."""
    return [memory[at : at + size].view(_TORCH[dtype]).view(shape) for at, size, (dtype, shape) in _places(fields)]


def _places(fields: Sequence[Field]) -> Iterator[tuple[int, int, Field]]:
    """(first byte, bytes, field). None is at the very beginning, which torch.compile would make a case of its own."""
    at = _ALIGNMENT
    for dtype, shape in fields:
        yield at, math.prod(shape) * dtype.itemsize, (dtype, shape)
        at += _padded((dtype, shape))


def _padded(field: Field) -> int:
    return -(-math.prod(field[1]) * field[0].itemsize // _ALIGNMENT) * _ALIGNMENT


class Staging:
    """Host memory (pinned where the device is CUDA) from which arrays are copied to the device, in order.

    Each byte is written once between two waits, so that no copy under way is overwritten. `fetch` waits in any case;
    everything staged before it has then arrived.

    Attributes:
        waits: how often the host has waited for the device.
    """

    def __init__(self, device: torch.device, size: int = 1 << 22) -> None:
        self._device = device
        self._memory = self._allocate(size)
        self._used = 0
        self._arrived = torch.cuda.Event() if device.type == "cuda" else None
        self.waits = 0

    def reserve(self, size: int) -> Tensor:
        """Return memory to write to, uint8 [size or a few more]."""
        size = -(-size // _ALIGNMENT) * _ALIGNMENT
        if self._used + size > len(self._memory):
            self._wait()
            if size > len(self._memory):
                self._memory = self._allocate(1 << (size - 1).bit_length())
        self._used += size
        return self._memory[self._used - size : self._used]

    def put(self, *arrays: np.ndarray) -> list[Tensor]:
        """The arrays (int32, int64, float32) on the device, by one copy."""
        fields = [(array.dtype, array.shape) for array in arrays]
        memory = self.reserve(size_of(fields))
        for place, array in zip(arrays_in(memory, fields), arrays, strict=True):
            place[...] = array
        return tensors_in(memory.to(self._device, non_blocking=True), fields)

    def fetch(self, *tensors: Tensor) -> list[np.ndarray]:
        """One-dimensional tensors (of 4- or 8-byte numbers) on the host, by one copy; waits for it."""
        packed = torch.cat([tensor.view(torch.int32) for tensor in tensors])
        size = 4 * len(packed)
        memory = self.reserve(size)[:size]
        memory.view(torch.int32).copy_(packed, non_blocking=True)
        self._wait()
        dtypes = [np.dtype(str(tensor.dtype).removeprefix("torch.")) for tensor in tensors]
        sizes = [len(tensor) * dtype.itemsize for tensor, dtype in zip(tensors, dtypes, strict=True)]
        parts = np.split(memory.numpy().copy(), np.cumsum(sizes)[:-1])
        return [part.view(dtype) for part, dtype in zip(parts, dtypes, strict=True)]

    def _wait(self) -> None:
        if self._arrived is not None:
            # Waiting for the stream itself would count as an unwanted wait in `torch.cuda.set_sync_debug_mode`.
            self._arrived.record(torch.cuda.current_stream(self._device))
            self._arrived.synchronize()
        self._used = 0
        self.waits += 1

    def _allocate(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=self._device.type == "cuda")


class HostStaging(Staging):
    """Staging for the CPU as device: an array and its tensor share memory, and nothing is copied."""

    def put(self, *arrays: np.ndarray) -> list[Tensor]:
        return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]

    def fetch(self, *tensors: Tensor) -> list[np.ndarray]:
        self._wait()
        return [tensor.numpy() for tensor in tensors]
