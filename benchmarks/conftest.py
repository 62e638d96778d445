"""The frame of the kernel benchmarks: full size on CUDA where there is a GPU, else toy sizes on the CPU.

A kernel is judged by its floor: the time the device needs to move the bytes that must move.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.frame import ROWS, emit
from benchmarks.machine import bandwidth, percentiles, seconds

Call = Callable[[], object]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kernels")
    group.addoption("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    group.addoption("--toy", action="store_true", help="small shapes; always so on the CPU")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--device") == "cpu":
        # Set before triton is imported: on the CPU its kernels run under the interpreter.
        os.environ["TRITON_INTERPRET"] = "1"
    ROWS.unlink(missing_ok=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if ROWS.exists():
        terminalreporter.section("rows (JSON)")
        terminalreporter.write(ROWS.read_text())
        terminalreporter.write_line(f"written to {ROWS}; a run worth keeping goes to benchmarks/results")


@dataclass(frozen=True)
class Kernels:
    """Times one path of one kernel and emits its row."""

    device: str
    toy: bool
    benchmark: BenchmarkFixture

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.toy else torch.bfloat16

    def sized(self, value: int, first: int, toy: int) -> int:
        """`value`, or `toy` in place of the first value of a list; toy runs skip the others."""
        if self.toy and value != first:
            pytest.skip("toy: one size")
        return toy if self.toy else value

    def need_flashinfer(self) -> Any:
        if self.device != "cuda":
            pytest.skip("FlashInfer needs a GPU")
        return pytest.importorskip("flashinfer")

    def measure(
        self, op: str, path: str, shape: dict[str, Any], calls: Sequence[Call], floor_bytes: int, graph: bool = True
    ) -> None:
        """Emit microseconds per call, the achieved bandwidth over the bytes that must move, and multiples of the floor.

        Args:
            op, path, shape: name the row; the path "fastsia" is our Triton kernel.
            calls: the same call on different memory, so that none finds its input in the cache.
            floor_bytes: bytes that one call must move.
            graph: replay the calls as a CUDA graph; else make them one by one.
        """
        us = percentiles([1e6 * call_s for call_s in self._seconds(calls, graph)])
        rate = bandwidth(self.device)
        floor_us = 1e6 * floor_bytes / rate
        ours = "fastsia-triton" if self.device == "cuda" else "fastsia-triton-interpreted"
        row = {"benchmark": op, "path": ours if path == "fastsia" else path, "device": self.device, "shape": shape}
        row |= {"us": us, "floor_bytes": floor_bytes, "gb_per_s": round(floor_bytes / us["p50"] / 1e3, 1)}
        row |= {"floor_us": round(floor_us, 2), "times_floor": round(us["p50"] / floor_us, 3)}
        emit(row | {"copy_gb_per_s": round(rate / 1e9, 1), "graph": graph and self.device == "cuda"})

    def _seconds(self, calls: Sequence[Call], graph: bool) -> list[float]:
        """Per call; on CUDA a round is at least 2 ms of calls."""
        if self.device != "cuda":
            self.benchmark.pedantic(calls[0], rounds=3)
            return list(self.benchmark.stats.stats.data)

        def once(repeats: int = 1) -> None:
            for _ in range(repeats):
                for call in calls:
                    call()

        (took,) = seconds(once, 1, "cuda")
        repeats = min(200, int(2e-3 / took) + 1)
        captured = torch.cuda.CUDAGraph()
        if graph:
            with torch.cuda.graph(captured):
                once(repeats)

        def round_() -> None:
            captured.replay() if graph else once(repeats)
            torch.cuda.synchronize()

        self.benchmark.pedantic(round_, rounds=40, warmup_rounds=5)
        return [round_s / (repeats * len(calls)) for round_s in self.benchmark.stats.stats.data]


@pytest.fixture
def kernels(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Kernels:
    device = request.config.getoption("--device")
    return Kernels(device, device == "cpu" or request.config.getoption("--toy"), benchmark)
