"""The host's share of a decode step: scheduling, metadata, forks, finishing; everything but the model and the sampler.

Rolls out demo problems at a temperature at which little merges, so that steps are full, and takes the time that each
step spends outside the model runner.

    python benchmarks/bench_scheduler.py --problems 64
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from common import emit, percentiles
from rich.console import Console
from rich.table import Table

from fastsia import Engine, Request, SamplingParams, load_task
from fastsia.tasks import build_prompt

DEVICE_WORK = ("forward", "logits", "sample", "copy_blocks", "take", "hidden", "keep_hidden")


class Outside:
    """Seconds spent in the runner's methods."""

    def __init__(self, runner: Any) -> None:
        self.seconds = 0.0
        self._depth = 0
        for name in DEVICE_WORK:
            setattr(runner, name, self._timed(getattr(runner, name)))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            self._depth += 1
            try:
                return method(*arguments, **named)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.seconds += time.perf_counter() - began

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--max_rows", type=int, default=512)
    parser.add_argument("--temperature", type=float, default=1.5)
    options = parser.parse_args()
    engine = Engine.from_pretrained("demo:sft", max_rows=options.max_rows)
    task = load_task("demo", limit=options.problems)
    sampling = SamplingParams(temperature=options.temperature, top_p=1.0, max_tokens=300)
    requests = [
        Request(i, build_prompt(task, problem, engine.tokenizer).token_ids, sampling, 20, i, stride=task.stride)
        for i, problem in enumerate(task.problems)
    ]
    outside = Outside(engine.runner)
    counters = engine.counters
    full: list[float] = []
    steps = engine._start(iter(requests), None, every_step=True)
    while True:
        rows, spent, began = counters.row_steps, outside.seconds, time.perf_counter()
        if next(steps, None) is None:
            break
        if counters.row_steps - rows >= 0.95 * options.max_rows:
            full.append(1e3 * (time.perf_counter() - began - (outside.seconds - spent)))
    row = {"benchmark": "scheduler", "max_rows": options.max_rows, "full_steps": len(full), "steps": counters.steps}
    row |= {f"host_ms_{name}": value for name, value in percentiles(full).items()}
    table = Table("rows a step", "full steps", "host ms, 20th", "median", "80th")
    table.add_row(
        str(options.max_rows), str(len(full)), *(f"{row[f'host_ms_{name}']:.3f}" for name in ("p20", "p50", "p80"))
    )
    Console().print(table)
    emit(row)


if __name__ == "__main__":
    main()
