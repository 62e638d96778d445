"""Evaluations of the demo task: what they use must not grow with the number of problems.

    python -m benchmarks.soak                       one long run
    python -m benchmarks.soak --compare 50 500      several runs in this order, the largest last

The long run looks at its own process while it draws, and exits with 1 where memory, open files, threads or pools of KV
blocks grow after the first tenth, in which pools and tables reach their size. Scoring at the end reads the whole run;
--compare includes it: it shows the peak resident size after each whole evaluation.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fastsia
from benchmarks.frame import emit, parse, show
from benchmarks.machine import peak_rss
from fastsia.backends.native import NativeBackend
from fastsia.engine.block_manager import BlockManager
from fastsia.engine.sequence import Request, Trajectory

POINTS = 10
# Allowed maximum relative to the first tenth.
LIMITS = {"memory_bytes": 1.10, "open_files": 1.0, "threads": 1.0, "os_threads": 1.0, "pools": 1.0}


class Watched(NativeBackend):
    """The native backend; records what its process uses as trajectories end."""

    def __init__(self, engine: fastsia.Engine, every: int) -> None:
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


def main() -> None:
    options = parse(__doc__, model="demo:sft", problems=2000, num_rollouts=10, stride=8, num_kv_blocks=int, compare=[0])
    settings: dict[str, Any] = {"num_rollouts": options.num_rollouts, "stride": options.stride}
    engine = fastsia.Engine.from_pretrained(options.model, num_kv_blocks=options.num_kv_blocks)
    watched = Watched(engine, max(options.problems // POINTS, 1))
    compared = []
    for problems in options.compare if any(options.compare) else [options.problems]:
        with tempfile.TemporaryDirectory(prefix="fastsia-soak-") as folder:
            summary = fastsia.evaluate(watched, "demo", limit=problems, output=folder, **settings).summary
        used = {"problems": problems, "seconds": summary["seconds"], "peak_rss_mib": peak_rss() >> 20}
        compared.append(used | {name: summary["counters"][name] for name in ("generated_tokens", "peak_kv_blocks")})
    row = {"model": options.model, **settings, "runs": compared}
    show(compared)
    if any(options.compare):
        emit({"benchmark": "memory", **row})
        return
    show(watched.points)
    first, *later = watched.points
    grown = [name for name, times in LIMITS.items() if max(point[name] for point in later) > times * first[name]]
    emit({"benchmark": "soak", **row, "points": watched.points, "grown": grown})
    sys.exit(f"grown with the number of problems: {', '.join(grown)}" if grown else 0)


if __name__ == "__main__":
    main()
