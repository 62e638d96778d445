"""Long runs of the demo task: what they use does not grow with the problems. `make soak` prints the tables."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fastsia import Engine, evaluate
from fastsia.backends.native import NativeBackend
from fastsia.engine.block_manager import BlockManager
from fastsia.engine.sequence import Request, Trajectory
from tests.programs import run_python

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

PROBLEMS, POINTS = 2000, 10
SETTINGS: dict[str, Any] = {"num_rollouts": 10, "stride": 8}
# The largest value allowed, relative to that after a tenth of the problems, when pools and tables have their size.
LIMITS = {"memory_bytes": 1.10, "open_files": 1.0, "threads": 1.0, "os_threads": 1.0, "pools": 1.0}
PEAK = """
import resource, sys
import fastsia
fastsia.evaluate("demo:sft", "demo", limit=int(sys.argv[1]), output=sys.argv[2], num_rollouts=10, stride=8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


class Watched(NativeBackend):
    """The native backend; records what its process uses as trajectories end."""

    def __init__(self, engine: Engine, every: int) -> None:
        super().__init__(engine)
        self.every = every
        self.points: list[dict[str, int]] = []

    def generate(self, requests: Iterable[Request], watch: Any = None) -> Iterator[Trajectory]:
        for number, trajectory in enumerate(super().generate(requests, watch), start=1):
            yield trajectory
            if number % self.every == 0:
                self.points.append({"problems": number} | in_use())


def in_use() -> dict[str, int]:
    """What the process uses now; blocks are those of every live pool."""
    gc.collect()
    pools = [thing for thing in gc.get_objects() if type(thing) is BlockManager]
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        "open_files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "os_threads": len(os.listdir("/proc/self/task")),
        "pools": len(pools),
        "kv_blocks": sum(pool.num_blocks - pool.num_free for pool in pools),
    }


def test_nothing_grows_while_a_long_run_draws(tmp_path: Path) -> None:
    watched = Watched(Engine.from_pretrained("demo:sft"), PROBLEMS // POINTS)
    evaluate(watched, "demo", limit=PROBLEMS, output=tmp_path, **SETTINGS)
    print(pd.DataFrame(watched.points).to_string(index=False))
    first, *later = watched.points
    assert len(later) == POINTS - 1
    grown = [name for name, times in LIMITS.items() if max(point[name] for point in later) > times * first[name]]
    assert grown == []
    assert later[-1]["kv_blocks"] == 0


def test_the_peak_of_a_whole_evaluation_hardly_grows(tmp_path: Path) -> None:
    """Scoring at its end reads the whole run: ten times the problems, and hardly more memory."""
    peaks = {}
    for problems in (50, 500):
        done = run_python("-c", PEAK, problems, tmp_path / str(problems))
        assert done.returncode == 0, done.stderr
        peaks[problems] = int(done.stdout.split()[-1])
    print(f"peak resident MiB by problems: {peaks}")
    assert peaks[500] < 1.3 * peaks[50]
