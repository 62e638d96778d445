"""Runs the kernel tests on the CPU, under Triton's interpreter, in processes of their own (see device.py)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ops.device import INTERPRETED

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.skipif(INTERPRETED, reason="this process is the interpreter's")
@pytest.mark.parametrize("names", [("sampling", "kv_cache"), ("prefix_attention", "engine")], ids=" ".join)
def test_kernels_under_the_interpreter(names: tuple[str, ...]) -> None:
    files = [f"tests/ops/test_{name}.py" for name in names]
    command = [
        sys.executable,
        "-m",
        "pytest",
        *files,
        "-m",
        "not gpu and not slow",
        "-p",
        "no:cacheprovider",
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    print(done.stdout[-4000:])
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    for file in files:
        assert re.search(rf"^{re.escape(file)} s*\.", done.stdout, re.MULTILINE), f"{file} has no test that passed"
