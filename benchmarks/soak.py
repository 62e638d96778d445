"""A long run on the demo task: memory, open files, threads and KV blocks must not grow with the problems done.

`make soak`. Exits with 1 where one of them does. Memory is that of the process while it draws, after the first tenth,
in which pools and tables reach their size; scoring at the end holds the whole run's table and is measured by
`make bench-memory`.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import fastsia
from benchmarks.common import emit
from fastsia.backends.native import NativeBackend
from fastsia.engine.block_manager import BlockManager
from fastsia.engine.sequence import Request, Trajectory

_POINTS = 10
# Of what is in use after the first tenth.
_GROWTH = 1.10


class Watched(NativeBackend):
    """The native backend, which looks at its own process as trajectories end."""

    def __init__(self, engine: fastsia.Engine, every: int) -> None:
        super().__init__(engine)
        self.every = every
        self.points: list[dict[str, int]] = []

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        for number, trajectory in enumerate(super().generate(requests), start=1):
            yield trajectory
            if number % self.every == 0:
                self.points.append({"problems": number} | in_use())


def in_use() -> dict[str, int]:
    """What the process holds now; blocks of every pool that is alive."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo:sft")
    parser.add_argument("--problems", type=int, default=2000)
    parser.add_argument("--num_rollouts", type=int, default=10)
    parser.add_argument("--stride", type=int, default=8)
    options = parser.parse_args()
    watched = Watched(fastsia.Engine.from_pretrained(options.model), max(options.problems // _POINTS, 1))
    settings: dict[str, Any] = {"num_rollouts": options.num_rollouts, "stride": options.stride}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fastsia-soak-") as folder:
        result = fastsia.evaluate(watched, "demo", limit=options.problems, output=folder, num_bootstrap=200, **settings)
        counters = result.summary["counters"]
    seconds = time.perf_counter() - started
    table = Table(*watched.points[0])
    for point in watched.points:
        table.add_row(*(f"{value:,}" for value in point.values()))
    Console().print(table)
    first, last = watched.points[0], watched.points[1:]
    most = {"memory_bytes": _GROWTH} | dict.fromkeys(("open_files", "threads", "os_threads", "pools"), 1.0)
    grown = [name for name, times in most.items() if max(point[name] for point in last) > times * first[name]]
    peak = counters["peak_kv_blocks"]
    row = {"benchmark": "soak", "model": options.model, "seconds": round(seconds, 1), "points": watched.points}
    emit(row | settings | {"generated_tokens": counters["generated_tokens"], "peak_kv_blocks": peak, "grown": grown})
    sys.exit(f"grown with the problems done: {', '.join(grown)}" if grown else 0)


if __name__ == "__main__":
    main()
