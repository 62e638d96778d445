"""The GPU tests, as rows of the suite: pytest in a process of its own, whose tracebacks the row keeps."""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
from typing import Any

from benchmarks.machine import REPOSITORY

# The kernels' first: they are quick, and everything hangs on them. Compiling is work of the CPU, so several at once.
PARTS = {"ops": ["tests/ops"], "engine": ["tests", "--ignore=tests/ops"]}
_PROCESSES, _TEST_SECONDS, _RESERVE_SECONDS, _KEPT = 6, 120, 25.0, 12_000


def measure(name: str, device: str, limit_s: float) -> dict[str, Any]:
    """Run a part of the tests for a little less than `limit_s`; those that ended by then are counted."""
    within = max(limit_s - _RESERVE_SECONDS, limit_s / 2)
    options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", "-rfE", "--maxfail=15", "--continue-on-collection-errors"]
    if importlib.util.find_spec("xdist") is not None and device == "cuda":
        options += ["-n", str(_PROCESSES)]
    if importlib.util.find_spec("pytest_timeout") is not None:
        options += [f"--timeout={_TEST_SECONDS}", f"--session-timeout={within - 10:.0f}"]
    command = [sys.executable, "-m", "pytest", *options, *PARTS[name]]
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A job in the background inherits that interrupts are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        output, cut = process.communicate(timeout=within)[0], False
    except subprocess.TimeoutExpired:  # interrupted, pytest shows what failed and where it is
        process.send_signal(signal.SIGINT)
        output, cut = process.communicate()[0], True
    print(output)
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|errors?|skipped)", output)}
    return {"counts": counts, "exit": process.returncode, "cut": cut, "output": output[-_KEPT:]}
