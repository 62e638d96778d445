"""The host's share of a decode step: scheduling, metadata, forks, endings; everything but the model and the sampler.

Rolls out demo problems at a temperature at which few rollouts merge, so that steps are full, and takes the time that
each full step spends outside of the model. First beside the model, whose matrices push the tables out of a CPU's
caches; then again with the same draws and no model, which is the case where the model runs on another device.

    python -m benchmarks.bench_scheduler --problems 64
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.harness import emit, parse, percentiles, show
from fastsia import Engine, SIAConfig, load_task
from fastsia.backends.native import NativeBackend
from fastsia.evaluation import make_requests


def replaying(runner: Any, drawn: list[Any]) -> Any:
    """`ModelRunner`'s interface without a model: returns the draws of another runner in the same order."""
    draws = iter(drawn)
    return SimpleNamespace(
        **dict.fromkeys(("reset", "check_weights", "copy_blocks", "drop_hidden"), lambda *_: None),
        **dict.fromkeys(("forward", "logits", "hidden"), lambda given: given),
        device=torch.device("cpu"),
        ops=runner.ops,
        vocab_size=runner.vocab_size,
        num_out_of_memory=0,
        take=lambda hidden, rows: rows,
        begin_draw=lambda *_: lambda: next(draws),
        keep_hidden=lambda hidden: np.arange(len(hidden)),
    )


def main() -> None:
    options = parse(__doc__, problems=64, max_num_seqs=512, temperature=1.5)
    engine = Engine.from_pretrained("demo:sft", max_num_seqs=options.max_num_seqs)
    config = SIAConfig(temperature=options.temperature, top_p=1.0, max_tokens=300, stop_at_answer=False)
    requests = list(make_requests(NativeBackend(engine), load_task("demo", limit=options.problems), config)[1])
    runner: Any = engine.runner
    begin_draw, drawn = runner.begin_draw, []

    def record(*inputs: Any) -> Any:
        waiting = begin_draw(*inputs)

        def wait() -> Any:
            drawn.append(waiting())
            return drawn[-1]

        return wait

    runner.begin_draw = record
    rows: list[dict[str, Any]] = []
    for name in ("beside the model", "without a model"):
        with engine.profile() as profile:
            list(engine.run(requests))
        full = [1e3 * step.own for step in profile.steps() if step.rows >= 0.95 * options.max_num_seqs]
        rows.append({"": name, "full_steps": len(full)} | {f"host_ms_{p}": ms for p, ms in percentiles(full).items()})
        engine.runner = replaying(runner, drawn)
    show(rows)
    emit({"benchmark": "scheduler", **vars(options), "rows": rows})


if __name__ == "__main__":
    main()
