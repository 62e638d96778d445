"""The kernel benchmarks, as rows of the suite."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

from benchmarks.frame import ROWS
from benchmarks.machine import REPOSITORY

# Of a row's limit, for reading what was measured: whoever started this process ends it at the limit.
_RESERVE_SECONDS = 45.0
FILES = ("bench_sampling", "bench_prefix_attention", "bench_kv")


def missing() -> str | None:
    found = importlib.util.find_spec("pytest_benchmark") is not None
    return None if found else "pytest-benchmark is not installed"


def measure(name: str, device: str, limit_s: float) -> dict[str, Any]:
    """Run one file for a little less than `limit_s`; return the cases that ended by then.

    Each case is written as it ends. Cases that fail are named, the others kept.
    """
    command = [sys.executable, "-m", "pytest", "-q", f"benchmarks/{name}.py", "--device", device]
    cut, output = False, ""
    try:
        output = subprocess.run(
            command,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=max(limit_s - _RESERVE_SECONDS, limit_s / 2),
        ).stdout
    except subprocess.TimeoutExpired:
        cut = True
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    if not rows:
        raise RuntimeError(f"{name} measured nothing:\n{output[-2000:]}")
    own = ("benchmark", "path", "shape", "us", "floor_us", "times_floor", "gb_per_s", "copy_gb_per_s", "graph")
    failures = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return {"cases": [{k: row[k] for k in own if k in row} for row in rows], "failures": failures, "cut": cut}
