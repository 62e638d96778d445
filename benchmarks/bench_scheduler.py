"""The host's share of a decode step: scheduling, metadata, forks, finishing; everything but the model and the sampler.

Rolls out demo problems at a temperature at which little merges, so that steps are full, and takes the time that each
full step spends outside of the engine's other parts.

    python benchmarks/bench_scheduler.py --problems 64
"""

from __future__ import annotations

import argparse

from common import emit, percentiles
from rich.console import Console
from rich.table import Table

from fastsia import Engine, Request, SamplingParams, load_task
from fastsia.tasks import build_prompt


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
    with engine.profile() as profile:
        for _ in engine.run(requests):
            pass
    full = [1e3 * step.own for step in profile.steps() if step.rows >= 0.95 * options.max_rows]
    row = {"benchmark": "scheduler", "max_rows": options.max_rows, "full_steps": len(full)}
    row |= {f"host_ms_{name}": value for name, value in percentiles(full).items()}
    table = Table("rows a step", "full steps", "host ms, 20th", "median", "80th")
    table.add_row(
        str(options.max_rows), str(len(full)), *(f"{row[f'host_ms_{name}']:.3f}" for name in ("p20", "p50", "p80"))
    )
    Console().print(table)
    emit(row)


if __name__ == "__main__":
    main()
