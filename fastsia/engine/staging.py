"""Copies between host and device: several arrays at once, through pinned memory so that the host does not wait."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_ALIGNMENT = 16
_TORCH = {np.dtype(name): getattr(torch, name) for name in ("int32", "int64", "float32")}
Field = tuple[np.dtype, tuple[int, ...]]
"""Type and shape of an array."""


def size_of(fields: Sequence[Field]) -> int:
    """Bytes that arrays of these fields need side by side."""
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


@dataclass
class _Guard:
    """An event after the copies of all bytes up to `end`, and the results that the last of them brings."""

    end: int
    event: torch.cuda.Event | None
    memory: Tensor
    arrived: np.ndarray | None = None

    def wait(self) -> None:
        if self.event is not None:
            self.event.synchronize()
        self.arrived = self.memory.numpy().copy()


class Staging:
    """Host memory (pinned where the device is CUDA) from which arrays are copied to the device, and back, in order.

    It is a ring. An event is recorded after each copy to the host, and a byte is written again only after an event
    that was recorded after its copy. So the host waits for results, and else only where the ring is full.

    Attributes:
        waits: how often the host has waited for the device.
    """

    def __init__(self, device: torch.device, size: int = 1 << 22) -> None:
        self._device = device
        self._memory = self._allocate(size)
        self._guards: deque[_Guard] = deque()
        # Bytes since the beginning, those left out at the ring's end included: given out, and free again.
        self._given = self._free = 0
        self.waits = 0

    def reserve(self, size: int) -> Tensor:
        """Return memory to write to, uint8 [size or a few more]."""
        size = -(-size // _ALIGNMENT) * _ALIGNMENT
        if size > len(self._memory):
            self._wait(self._given)
            self._memory = self._allocate(1 << (size - 1).bit_length())
            self._given = self._free = 0
        at = self._given % len(self._memory)
        if at + size > len(self._memory):
            self._given, at = self._given + len(self._memory) - at, 0
        self._wait(self._given + size - len(self._memory))
        self._given += size
        return self._memory[at : at + size]

    def put(self, *arrays: np.ndarray) -> list[Tensor]:
        """The arrays (int32, int64, float32) on the device, by one copy."""
        fields = [(array.dtype, array.shape) for array in arrays]
        memory = self.reserve(size_of(fields))
        for place, array in zip(arrays_in(memory, fields), arrays, strict=True):
            place[...] = array
        return tensors_in(memory.to(self._device, non_blocking=True), fields)

    def fetch(self, *tensors: Tensor) -> list[np.ndarray]:
        """One-dimensional tensors (of 4- or 8-byte numbers) on the host, by one copy; waits for it."""
        return self.begin_fetch(*tensors)()

    def begin_fetch(self, *tensors: Tensor) -> Callable[[], list[np.ndarray]]:
        """Begin the copy of `fetch`; the returned call waits for it."""
        packed = torch.cat([tensor.view(torch.int32) for tensor in tensors])
        memory = self.reserve(4 * len(packed))[: 4 * len(packed)]
        memory.view(torch.int32).copy_(packed, non_blocking=True)
        guard = self._guard(memory)
        dtypes = [np.dtype(str(tensor.dtype).removeprefix("torch.")) for tensor in tensors]
        ends = np.cumsum([len(tensor) * dtype.itemsize for tensor, dtype in zip(tensors, dtypes, strict=True)])

        def fetched() -> list[np.ndarray]:
            if guard.arrived is None:
                self._wait(guard.end)
            assert guard.arrived is not None
            parts = np.split(guard.arrived, ends[:-1])
            return [part.view(dtype) for part, dtype in zip(parts, dtypes, strict=True)]

        return fetched

    def _guard(self, memory: Tensor) -> _Guard:
        self._guards.append(_Guard(self._given, self._record(), memory))
        return self._guards[-1]

    def _wait(self, end: int) -> None:
        """Wait until what was given out before byte `end` has been copied."""
        if self._free >= end:
            return
        if not self._guards or self._guards[-1].end < end:
            self._guard(self._memory[:0])
        while self._free < end:
            guard = self._guards.popleft()
            guard.wait()
            self._free = guard.end
        self.waits += 1

    def _record(self) -> torch.cuda.Event | None:
        """An event after all that the device has been given; None where copies are done when they return."""
        if self._device.type != "cuda":
            return None
        # Waiting for the stream itself would count as an unwanted wait in `torch.cuda.set_sync_debug_mode`.
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _allocate(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=self._device.type == "cuda")


class HostStaging(Staging):
    """Staging for the CPU as device: an array and its tensor share memory, and nothing is copied."""

    def put(self, *arrays: np.ndarray) -> list[Tensor]:
        return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]

    def begin_fetch(self, *tensors: Tensor) -> Callable[[], list[np.ndarray]]:
        self._given = self._free = 0
        self.waits += 1
        return lambda: [tensor.numpy() for tensor in tensors]
