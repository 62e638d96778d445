"""Every kernel, as production launches it, compiles for sm_80 and sm_90 and fits them; no GPU is needed for that."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ops.device import INTERPRETED

# Shared memory that one program can have, bytes (CUDA C++ Programming Guide, compute capabilities).
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}


@pytest.mark.skipif(INTERPRETED, reason="this process is the interpreter's")
@pytest.mark.skipif(platform.system() != "Linux", reason="triton is a dependency on Linux only")
def test_every_kernel_compiles_and_fits() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    running = {
        capability: subprocess.Popen(
            [sys.executable, "-m", "tests.ops.ahead_of_time", str(capability)],
            cwd=Path(__file__).parents[2],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for capability in SHARED_LIMIT
    }
    rows = []
    for process in running.values():
        out, errors = process.communicate()
        assert process.returncode == 0, errors[-4000:]
        rows += [json.loads(line) for line in out.splitlines()]
    print(f"\n{'launch':52} {'sm':>3} {'warps':>5} {'registers':>9} {'stack':>5} {'shared':>7}")
    for row in rows:
        print("{launch:52} {sm:3} {warps:5} {registers:9} {stack:5} {shared:7}".format(**row))
    assert len(rows) >= 2 * 14
    for row in rows:
        assert row["shared"] <= SHARED_LIMIT[row["sm"]], row
        assert row["sm"] != 90 or row["stack"] == 0, f"spills: {row}"
