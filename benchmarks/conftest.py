"""Options of the kernel benchmarks: CUDA at full size where there is a GPU, else toy sizes on the CPU."""

from __future__ import annotations

import os

import pytest
import torch
from common import ROWS


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kernels")
    group.addoption("--device", choices=("auto", "cuda", "cpu"), default="auto")
    group.addoption("--toy", action="store_true", help="small shapes; always so on the CPU")


def pytest_configure(config: pytest.Config) -> None:
    if _device(config) == "cpu":
        # Before triton is imported: on the CPU its kernels run under the interpreter.
        os.environ["TRITON_INTERPRET"] = "1"
    ROWS.unlink(missing_ok=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if ROWS.exists():
        terminalreporter.section("rows (JSON)")
        terminalreporter.write(ROWS.read_text())
        terminalreporter.write_line(f"kept in {ROWS}; a run worth keeping goes to benchmarks/results")


def _device(config: pytest.Config) -> str:
    wanted = config.getoption("--device")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    return _device(request.config)


@pytest.fixture(scope="session")
def toy(request: pytest.FixtureRequest, device: str) -> bool:
    return device == "cpu" or request.config.getoption("--toy")
