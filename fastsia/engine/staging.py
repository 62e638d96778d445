"""Numbers on their way between host and device: several arrays in one copy, through memory that needs no waiting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_ALIGNMENT = 16
Field = tuple[torch.dtype, tuple[int, ...]]


def size_of(fields: Sequence[Field]) -> int:
    """Bytes that `carve` needs."""
    return _ALIGNMENT + sum(_padded(field) for field in fields)


def carve(memory: Tensor, fields: Sequence[Field]) -> list[Tensor]:
    """Tensors of the given types and shapes, one after another in bytes of memory (uint8).

    None lies at its very beginning: torch.compile makes a case of its own of a tensor that does.
    """
    found, at = [], _ALIGNMENT
    for dtype, shape in fields:
        found.append(memory[at : at + int(np.prod(shape)) * dtype.itemsize].view(dtype).view(shape))
        at += _padded((dtype, shape))
    return found


def _padded(field: Field) -> int:
    return -(-int(np.prod(field[1])) * field[0].itemsize // _ALIGNMENT) * _ALIGNMENT


class Staging:
    """Host memory (pinned where the device is CUDA) that copies to the device start from, in their order.

    A piece of it is written once between two waits, so that no copy under way is overwritten: `fetch` waits anyway, and
    all that was staged before it has then arrived. What `put` gives on a CPU lies in this memory: use it at once.
    waits: how often the host has waited for the device.
    """

    def __init__(self, device: torch.device, size: int = 1 << 22) -> None:
        self._device = device
        self._memory = self._allocate(size)
        self._used = 0
        self.waits = 0

    def reserve(self, size: int) -> Tensor:
        """Bytes to write to, uint8 [size]."""
        size = -(-size // _ALIGNMENT) * _ALIGNMENT
        if self._used + size > len(self._memory):
            self._wait()
            if size > len(self._memory):
                self._memory = self._allocate(1 << (size - 1).bit_length())
        self._used += size
        return self._memory[self._used - size : self._used]

    def put(self, *arrays: np.ndarray) -> list[Tensor]:
        """The arrays on the device, by one copy."""
        sources = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
        fields = [(source.dtype, tuple(source.shape)) for source in sources]
        memory = self.reserve(size_of(fields))
        for place, source in zip(carve(memory, fields), sources, strict=True):
            place.copy_(source)
        return carve(memory.to(self._device, non_blocking=True), fields)

    def fetch(self, *tensors: Tensor) -> list[np.ndarray]:
        """The tensors (of 4- or 8-byte numbers) on the host, by one copy; waits for it."""
        packed = torch.cat([tensor.reshape(-1).view(torch.int32) for tensor in tensors])
        memory = self.reserve(4 * len(packed))[: 4 * len(packed)].view(torch.int32)
        memory.copy_(packed, non_blocking=True)
        self._wait()
        parts = memory.clone().split([tensor.numel() * tensor.element_size() // 4 for tensor in tensors])
        return [p.view(t.dtype).view(t.shape).numpy() for p, t in zip(parts, tensors, strict=True)]

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        self._used = 0
        self.waits += 1

    def _allocate(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
