"""The host's share of a decode step: scheduling, metadata, forks, finishing; everything but the model and the sampler.

Rolls out demo problems at a temperature at which little merges, so that steps are full, and takes the time that each
full step spends outside of the engine's other parts: first beside the model, whose matrices on a CPU push the books out
of its caches, then once more with the same draws and no model, as it is where the model runs on another device.

    python benchmarks/bench_scheduler.py --problems 64
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from common import emit, percentiles
from rich.console import Console
from rich.table import Table

from fastsia import Engine, Request, SamplingParams, load_task
from fastsia.engine.block_manager import BlockManager
from fastsia.engine.profile import StepProfile
from fastsia.engine.run import Run
from fastsia.engine.sequence import Counters
from fastsia.engine.table import Table as Rows
from fastsia.tasks import build_prompt


class Replay:
    """`ModelRunner`'s interface without a model: it draws what another one has drawn, in the same order."""

    def __init__(self, vocab_size: int, drawn: list[Any]) -> None:
        self.vocab_size = vocab_size
        self.num_out_of_memory = 0
        self._drawn = iter(drawn)
        self._kept = Rows(256)

    def forward(self, batch: Any) -> Any:
        return batch

    def take(self, hidden: Any, rows: np.ndarray) -> np.ndarray:
        return rows

    def draw(self, *inputs: Any, **options: Any) -> Any:
        return next(self._drawn)

    def copy_blocks(self, src: np.ndarray, dst: np.ndarray) -> None:
        pass

    def keep_hidden(self, hidden: np.ndarray) -> np.ndarray:
        return self._kept.allocate(len(hidden))

    def hidden(self, rows: np.ndarray) -> np.ndarray:
        return rows

    def drop_hidden(self, rows: np.ndarray) -> None:
        self._kept.free(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--max_num_seqs", type=int, default=512)
    parser.add_argument("--temperature", type=float, default=1.5)
    options = parser.parse_args()
    engine = Engine.from_pretrained("demo:sft", max_num_seqs=options.max_num_seqs)
    task = load_task("demo", limit=options.problems)
    sampling = SamplingParams(temperature=options.temperature, top_p=1.0, max_tokens=300)
    requests = [
        Request(i, build_prompt(task, problem, engine.tokenizer).token_ids, sampling, 20, i, stride=task.stride)
        for i, problem in enumerate(task.problems)
    ]
    draw, drawn = engine.runner.draw, []

    def record(*inputs: Any, **settings: Any) -> Any:
        drawn.append(draw(*inputs, **settings))
        return drawn[-1]

    engine.runner.draw = record  # type: ignore[method-assign]
    with engine.profile() as beside:
        for _ in engine.run(requests):
            pass
    alone = StepProfile(torch.device("cpu"))
    run = Run(
        Replay(engine.runner.vocab_size, drawn),  # type: ignore[arg-type]
        iter(requests),
        counters=Counters(),
        blocks=BlockManager(engine.num_kv_blocks, engine.block_size),
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_concurrent_trajectories=engine.max_concurrent_trajectories,
        eos_token_ids=engine.eos_token_ids,
        context_length=engine.context_length,
        vocabulary=engine.vocabulary,
        profile=alone,
    )
    for _ in run:
        pass
    table = Table("rows a step", "full steps", "", "host ms, 20th", "median", "80th")
    row: dict[str, Any] = {"benchmark": "scheduler", "max_num_seqs": options.max_num_seqs}
    for name, profile in (("beside_model", beside), ("alone", alone)):
        full = [1e3 * step.own for step in profile.steps() if step.rows >= 0.95 * options.max_num_seqs]
        row["full_steps"] = len(full)
        found = percentiles(full)
        row |= {f"host_ms_{name}_{which}": value for which, value in found.items()}
        table.add_row(
            str(options.max_num_seqs),
            str(len(full)),
            name.replace("_", " "),
            *(f"{found[which]:.3f}" for which in ("p20", "p50", "p80")),
        )
    Console().print(table)
    emit(row)


if __name__ == "__main__":
    main()
