"""Which ops a device gets, and that the reference stands without triton."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from fastsia.errors import FastsiaError
from fastsia.ops import reference, select


def run(code: str, **environment: str) -> str:
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
    return done.stdout.strip() + done.stderr.strip()


def test_a_cpu_gets_a_path_without_triton() -> None:
    """The reference, but for what the C++ core does where it is built."""
    assert select("cpu").name in ("native", "reference")
    ops = select(torch.device("cpu"), "reference")
    assert ops.name == "reference"
    assert ops.sample is reference.sample
    assert ops.prefix_attention is reference.prefix_attention


def test_wrong_choices_name_the_field() -> None:
    with pytest.raises(FastsiaError, match='kernels must be "auto"'):
        select("cpu", "cuda")


def test_triton_on_a_cpu_needs_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(FastsiaError, match="TRITON_INTERPRET=1"):
        select("cpu", "triton")


def test_a_cpu_needs_no_triton() -> None:
    """Neither importing the ops nor choosing those of a CPU may import triton: it exists on Linux only."""
    code = (
        "import sys; sys.modules['triton'] = None; from fastsia.ops import select; print(select('cpu').name)\n"
        "try: select('cuda')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    lines = run(code).splitlines()
    assert lines[0] in ("native", "reference")
    assert lines[1].startswith("FastsiaError kernels='auto' on cuda needs triton")


def test_the_interpreter_gives_triton() -> None:
    pytest.importorskip("triton")
    code = "from fastsia.ops import select; print(select('cpu', 'triton').name)"
    assert run(code, TRITON_INTERPRET="1") == "triton"
