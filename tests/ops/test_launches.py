"""What the ops launch, without launching it: how many variants are compiled, how contexts are cut, on which device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

from fastsia.engine import graphs, memory
from fastsia.engine.staging import Staging
from fastsia.errors import FastsiaError
from fastsia.ops.launch import Arrivals, Launch, empty_rows
from tests.ops import ahead_of_time


def test_batches_of_all_sizes_need_few_compilations() -> None:
    """Each value of a constexpr is a compilation, seconds long, in the middle of a run."""
    variants, rng = set(), np.random.default_rng(0)
    for _ in range(300):
        rows = int(rng.integers(1, 1500))
        trunks = int(rng.integers(1, min(rows, 120) + 1))
        suffix = int(rng.integers(1, 2000)) * bool(rng.random() < 0.5)
        prefix = int(rng.integers(1, 4000))
        for launch in ahead_of_time.attention("qwen2.5-3b", torch.bfloat16, rows, trunks, prefix, suffix):
            fixed = [launch.arguments[p.name] for p in launch.kernel.params if p.is_constexpr]
            integers = [
                (value == 1, value % 16 == 0)
                for p in launch.kernel.params
                if isinstance(value := launch.arguments[p.name], int) and not (p.is_constexpr or p.do_not_specialize)
            ]
            variants.add(str((fixed, integers, launch.num_warps, launch.num_stages)))
    # Up to 8 and up to 128 trunks, short or long: decode, of long ones in two launches, and prefill, cut or not.
    assert len(variants) <= 14


@pytest.mark.parametrize(
    ("rows", "tokens", "parts"),
    [(16, 1024, 4), (64, 1024, 4), (16, 200, 1), (256, 1024, 1), (8, 4096, 16), (8, 16_384, 16), (8, 40_000, 40)],
)
def test_contexts_are_cut_where_programs_are_few(rows: int, tokens: int, parts: int) -> None:
    """Two kv heads; one program a row and head leaves most of a GPU idle while it walks through a whole suffix."""
    arguments = ahead_of_time.attention("qwen2.5-3b", torch.bfloat16, rows, 1, 100, tokens)[0].arguments
    assert arguments["suffix_parts"] == parts
    assert arguments["suffix_part_tokens"] * parts >= tokens
    if 1 < parts <= 16 and tokens <= 4096:
        assert arguments["suffix_part_tokens"] == 256, "where a part begins does not depend on the longest context"


@pytest.mark.parametrize(("tokens", "suffix", "parts"), [(900, 600, 1), (4000, 600, 4), (900, 0, 4), (4000, 0, 16)])
def test_trunks_are_cut_less_where_suffixes_fill_the_gpu(tokens: int, suffix: int, parts: int) -> None:
    """Each part of a trunk is written and read again for every row of it."""
    arguments = ahead_of_time.attention("qwen2.5-3b", torch.bfloat16, 400, 4, tokens, suffix)[0].arguments
    assert arguments["prefix_parts"] == parts


@pytest.mark.parametrize(("rows", "bound", "part_tokens"), [(512, 1024, 1024), (512, 8192, 1024), (64, 1024, 256)])
def test_replays_cut_trunks_by_the_tiles_that_there_must_be(rows: int, bound: int, part_tokens: int) -> None:
    """A graph is captured for 128 trunks and more; if each had a tile, no trunk would ever be cut."""
    trunks, *rest = ahead_of_time.attention("qwen2.5-3b", torch.bfloat16, rows, 129, bound, 1024)
    assert trunks.arguments["prefix_part_tokens"] == part_tokens
    assert trunks.arguments["prefix_parts"] == bound // part_tokens
    assert len(rest) == (bound >= 2048)


def test_the_memory_of_parts_is_the_planned_one() -> None:
    """`engine/memory.py` cannot import the kernel, which needs Triton."""
    for rows, length in ((512, 40_000), (1024, 16_384), (2048, 100_000), (1024, 3000)):
        for suffix in (0, 1000):
            launch = ahead_of_time.attention("qwen2.5-3b", torch.bfloat16, rows, 4, length, suffix)[0]
            most = min(-(-length // memory._PART_TOKENS), memory._MOST_PREFIX_PARTS)
            assert launch.arguments["prefix_parts"] <= most
            assert launch.arguments["suffix_parts"] == (suffix > 0)


@pytest.mark.parametrize("model", ["qwen2.5-3b", "deepseek-7b", "llama-3.2-3b"])
def test_long_trunks_are_read_in_tiles_of_128_queries(model: str) -> None:
    trunks, suffixes = ahead_of_time.attention(model, torch.bfloat16, 512, 4, 16_000, 1000)
    assert (trunks.arguments["BLOCK_M"], trunks.num_warps) == (128, 8)
    assert (suffixes.arguments["HEADS"], suffixes.num_warps) == (16, 4)
    assert trunks.arguments["prefix_parts"] == 16
    # One program a processor; those of the tiles that there are fill a GPU of 132 several times over.
    tiles = 4 * -(-128 // trunks.arguments["ROWS"])
    assert tiles * 16 * trunks.grid[1] > 3 * 132


def test_rows_of_logits_start_where_loads_are_wide() -> None:
    logits = empty_rows(3, 100_278, torch.bfloat16, torch.device("cpu"))
    assert logits.shape == (3, 100_278)
    assert logits.stride() == (100_288, 1)


# --- a second device -------------------------------------------------------------------------------------------------


class FakeCuda:
    """Two devices that compute nothing; `used` has the current device at each call that goes to the current one."""

    def __init__(self) -> None:
        self.current = 0
        self.used: list[tuple[str, int]] = []

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.current = self.current, device.index
        try:
            yield
        finally:
            self.current = before

    def call(self, name: str, result: Any = None) -> Callable[..., Any]:
        def called(*_: Any, **__: Any) -> Any:
            self.used.append((name, self.current))
            return result

        return called


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(torch.cuda, "device", fake.device)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", fake.call("capturing", False))
    return fake


SECOND = torch.device("cuda:1")


def test_kernels_run_on_the_device_of_their_tensors(cuda: FakeCuda) -> None:
    """Triton launches on the current device, whatever its arguments are on: an illegal access, or a silent race."""

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return cuda.call("launch")

    with FakeTensorMode():
        tensor = torch.empty(4, device=SECOND)
    Launch(Kernel(), (1,), {"size": 4, "tensor": tensor}, 4, 2).run()
    with FakeTensorMode():
        Arrivals().counters(8, SECOND)
    assert cuda.used == [("launch", 1), ("capturing", 1)]
    assert cuda.current == 0


def test_a_capture_on_a_second_device_has_its_stream(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's default capture stream is on the first device that ever captured.

    And torch stays on the capture's stream where the end of a capture fails.
    """
    current = ["default"]

    @contextmanager
    def stream(entered: str) -> Iterator[None]:
        before, current[0] = current[0], entered
        try:
            yield
        finally:
            current[0] = before

    @contextmanager
    def graph(captured: SimpleNamespace, *, stream: str, **options: Any) -> Iterator[None]:
        before, current[0] = current[0], stream
        cuda.used.append((f"capture on {stream}", cuda.current))
        yield
        captured.end()
        current[0] = before

    def end() -> None:
        if len(cuda.used) > 2:
            raise RuntimeError("it was invalidated")

    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=cuda.call("replay"), end=end))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"a stream of {device}")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[0])
    monkeypatch.setattr(torch.cuda, "stream", stream)
    graphs._capture_stream.cache_clear()
    try:
        pool = graphs.CudaPool(SECOND)
    finally:
        graphs._capture_stream.cache_clear()
    replay = pool(cuda.call("step"))
    assert cuda.used == [("capture on a stream of cuda:1", 1), ("step", 1)]
    replay()
    assert cuda.used[-1][0] == "replay"
    with pytest.raises(RuntimeError, match="invalidated"):
        pool(cuda.call("step"))
    assert current == ["default"]


def test_the_host_waits_for_an_event_of_the_staged_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait for a stream is what `set_sync_debug_mode` reports as unwanted."""
    calls: list[Any] = []
    event = SimpleNamespace(record=calls.append, synchronize=lambda: calls.append("waited"))
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    monkeypatch.setattr(Staging, "_allocate", lambda self, size: torch.empty(size, dtype=torch.uint8))
    staging = Staging(SECOND, size=64)
    staging.reserve(48)
    assert calls == []
    staging.reserve(48)
    assert calls == ["the stream of cuda:1", "waited"]
    assert staging.waits == 1


def test_counters_are_not_made_inside_a_capture(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", cuda.call("capturing", True))
    with pytest.raises(FastsiaError, match="launch once with 8 counters"):
        Arrivals().counters(8, SECOND)
    assert cuda.used == [("capturing", 1)]
