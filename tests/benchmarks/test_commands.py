"""The benchmarks' commands run, in small, and each ends in one JSON line with provenance."""

from __future__ import annotations

import json

import pytest

from tests.core import needs_core
from tests.programs import run_python

# No row is kept.
PROGRAM = """
import runpy, sys
from benchmarks import harness
harness.emit.__defaults__ = (None,)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__")
"""


@needs_core
@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("bench_answers", "--rollouts 40 --tokens 40 --repeats 1"),
        ("bench_scheduler", "--problems 1 --max_num_seqs 8"),
        ("bench_store", "--problems 1 --trajectories 1 --length 40 --workers 0"),
        ("versus", "--peers hf unshared --problems 1 --num_rollouts 2 --stride 40 --max_tokens 60 --repeats 1"),
    ],
)
def test_a_command_runs_and_ends_in_a_row(module: str, options: str) -> None:
    """Renames in the package had broken some of them unseen."""
    done = run_python("-c", PROGRAM, f"benchmarks.{module}", *options.split())
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["benchmark"] == module.removeprefix("bench_")
    assert {"commit", "cpu", "versions"} <= row.keys()
