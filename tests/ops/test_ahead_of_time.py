"""Every kernel, as production launches it, compiles for sm_80 and sm_90, fits them, and loads ahead of its use.

No GPU is needed for that.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import triton

from tests.ops import ahead_of_time
from tests.ops.device import INTERPRETED

# Shared memory that one program can have, bytes (CUDA C++ Programming Guide, compute capabilities).
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}


@pytest.mark.skipif(INTERPRETED, reason="this process is the interpreter's")
@pytest.mark.skipif(platform.system() != "Linux", reason="triton is a dependency on Linux only")
@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.slow), 90])
def test_every_kernel_compiles_and_fits(capability: int) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    compiled = subprocess.run(
        [sys.executable, "-m", "tests.ops.ahead_of_time", str(capability)],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert compiled.returncode == 0, compiled.stderr[-4000:]
    rows = [json.loads(line) for line in compiled.stdout.splitlines()]
    print(f"\n{'launch':52} {'sm':>3} {'warps':>5} {'registers':>9} {'stack':>5} {'shared':>7} waits, buffers")
    for row in rows:
        print("{launch:52} {sm:3} {warps:5} {registers:9} {stack:5} {shared:7} {waits} {buffers}".format(**row))
    assert len(rows) >= 21
    for row in rows:
        assert row["shared"] <= SHARED_LIMIT[row["sm"]], row
        # float32 attention is for comparisons: it may spill a little, and its waits are for the last copy.
        most = 16 if row["launch"].startswith("attention f32") else 0
        assert row["sm"] != 90 or row["stack"] <= most, f"spills: {row}"
        if row["launch"].startswith(("attention bf16", "sampling bf16")):
            # A wait for the last copy asked for would leave a program idle for as long as memory takes to answer.
            assert row["waits"], row
            assert min(row["waits"]) > 0, row
            assert row["wide_copies"] > 0, f"narrow loads: {row}"
        if row["launch"].startswith("attention bf16"):
            is_one_kind = "prefill" in row["launch"] or "long" in row["launch"]
            assert len(row["buffers"]) == (2 if is_one_kind else 4), f"keys and values of trunks, of suffixes: {row}"
            assert min(row["buffers"]) >= 2, row
    page = ahead_of_time.PAGE.read_text(encoding="utf-8")
    if f"triton {triton.__version__}:" in page:
        own = [row for row in rows if row["sm"] == 90]
        assert ahead_of_time.table(own) in page, "run: python -m tests.ops.ahead_of_time 90 --table"
