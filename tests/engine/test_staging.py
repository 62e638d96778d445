"""Staging memory: what goes in comes out, side by side, and nothing under way is overwritten."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastsia.engine.staging import HostStaging, Staging, arrays_in, size_of, tensors_in

CPU = torch.device("cpu")
SHAPES = [("int64", (3,)), ("int32", (2, 5)), ("float32", (0, 4)), ("int32", (1,))]


def test_arrays_lie_apart_and_aligned() -> None:
    fields = [(np.dtype(name), shape) for name, shape in SHAPES]
    memory = torch.zeros(size_of(fields), dtype=torch.uint8)
    arrays, tensors = arrays_in(memory, fields), tensors_in(memory, fields)
    assert [(array.dtype, array.shape) for array in arrays] == fields
    assert all(tensor.data_ptr() % 16 == memory.data_ptr() % 16 for tensor in tensors)
    assert all(tensor.storage_offset() > 1 for tensor in tensors)
    for i, array in enumerate(arrays):
        array.fill(i + 1)
    assert [tensor.unique().tolist() for tensor in tensors] == [[1], [2], [], [4]]


@pytest.mark.parametrize("kind", [Staging, HostStaging])
def test_arrays_come_back_as_they_were(kind: type[Staging]) -> None:
    staging = kind(CPU)
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(-(2**60), 2**60, 7),
        rng.standard_normal((4, 3)).astype(np.float32)[:, 1:],
        np.zeros((0, 2), dtype=np.int32),
        rng.integers(-9, 9, (5, 4)).astype(np.int32),
    ]
    tensors = staging.put(*arrays)
    for tensor, array in zip(tensors, arrays, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), array)
    for back, array in zip(staging.fetch(*(tensor.reshape(-1) for tensor in tensors)), arrays, strict=True):
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array.reshape(-1))


def test_memory_is_written_once_between_two_waits() -> None:
    """On a GPU an overwritten piece would still be on its way to the device."""
    staging = Staging(CPU, size=1 << 10)
    pieces = [staging.reserve(200) for _ in range(4)]
    assert staging.waits == 0
    assert len({piece.data_ptr() for piece in pieces}) == 4
    fresh = staging.reserve(300)
    assert staging.waits == 1, "no room: it has to wait before it starts over"
    assert fresh.data_ptr() == pieces[0].data_ptr()
    assert len(staging.reserve(5000)) >= 5000, "more than it has: it grows"


def test_what_was_fetched_stays() -> None:
    staging = Staging(CPU)
    (first,) = staging.fetch(torch.arange(5))
    staging.fetch(torch.zeros(5, dtype=torch.int64))
    assert first.tolist() == [0, 1, 2, 3, 4]
    assert staging.waits == 2


@pytest.mark.gpu
def test_on_a_gpu_copies_do_not_wait() -> None:
    device = torch.device("cuda")
    staging = Staging(device, size=1 << 16)
    torch.cuda.set_sync_debug_mode("error")
    try:
        tensors = [staging.put(np.full(1000, i), np.arange(i))[0] for i in range(500)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(bool((tensor == i).all()) for i, tensor in enumerate(tensors))
    assert staging.waits > 0, "500 pieces of 8 kB do not fit into 64 kB at once"
