"""By how much H and rho move with the dtype: the trajectories of a float32 run rolled out again in another one.

    fastsia run --model DIR --tasks svamp --data_dir DATA --limit 4 --num_rollouts 10 --stride 40 --max_tokens 200 \
        --dtype float32 -o RUN
    python -m benchmarks.bench_dtype --model DIR --run RUN --dtype bfloat16
    python -m benchmarks.bench_dtype --model DIR --run RUN --dtype float32 --seed 1

Seed 0 draws with the run's own numbers, so that a rollout differs only where a probability moved across its number.
Another seed in float32 shows the sampling noise of H at this number of rollouts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

import fastsia
from benchmarks.frame import emit, parse, show
from fastsia import Engine, SamplingParams
from fastsia.engine.sequence import Request


def roll_out(engine: Engine, trajectories: pd.DataFrame, config: dict[str, Any], seed: int) -> pd.DataFrame:
    """Roll the trajectories of a run out again: a table for `fastsia.analyze`, with each rollout's tokens."""
    sampling = SamplingParams(config["temperature"], config["top_p"], max_tokens=config["max_tokens"])
    requests = [
        Request(
            row["problem_id"],
            tuple(int(token) for token in row["prompt_token_ids"]),
            sampling,
            config["num_rollouts"],
            seed=int(row["seed"]) ^ seed,
            stride=config["stride"],
            trajectory_ids=tuple(int(token) for token in row["token_ids"]),
            rollout_budget=config["rollout_budget"],
        )
        for row in trajectories.to_dict("records")
    ]
    gold = dict(zip(trajectories["problem_id"], trajectories["gold"], strict=True))
    rows = []
    for drawn in engine.run(requests):
        assert drawn.rollouts is not None
        for i in range(len(drawn.rollouts)):
            checkpoint, tokens = int(drawn.rollouts.checkpoint[i]), drawn.rollouts.row(i).token_ids
            text = engine.tokenizer.decode([*drawn.token_ids[:checkpoint].tolist(), *tokens], skip_special_tokens=True)  # type: ignore[union-attr]
            rows.append((drawn.key, 0, checkpoint, int(drawn.rollouts.index[i]), text, tuple(tokens)))
    table = pd.DataFrame(rows, columns=["problem_id", "trajectory", "checkpoint", "rollout", "text", "tokens"])
    table["answer"] = fastsia.extract_answers(table["text"].tolist(), config.get("answer_format") or "number")
    table["gold"] = table["problem_id"].map(gold)
    return table


def main() -> None:
    options = parse(__doc__, model=str, run=str, dtype="bfloat16", seed=0)
    run = fastsia.load(options.run)
    trajectories, config = run.trajectories, run.summary["config"]
    trajectories = trajectories[(trajectories["finish_reason"] != "error") & (trajectories["trajectory"] == 0)]
    keys = ["problem_id", "trajectory", "checkpoint"]
    engines = [("float32", 0), (options.dtype, options.seed)]
    tables = []
    for dtype, seed in engines:
        engine = Engine.from_pretrained(options.model, device="cpu", dtype=dtype)
        tables.append(roll_out(engine, trajectories, config, seed).sort_values([*keys, "rollout"], ignore_index=True))
        del engine
    same = np.mean([a == b for a, b in zip(tables[0]["tokens"], tables[1]["tokens"], strict=True)])
    results = [fastsia.analyze(table.drop(columns=["text", "tokens"])) for table in tables]
    entropy = [result.checkpoints.set_index(keys)["entropy"] for result in results]
    rho = [result.trajectories.set_index(keys[:2])["rho"] for result in results]
    moved, rho_moved = entropy[1] - entropy[0], (rho[1] - rho[0]).dropna()
    row = {
        "model": options.model,
        "dtype": options.dtype,
        "seed": options.seed,
        "trajectories": len(trajectories),
        "checkpoints": len(moved),
        "rollouts": len(tables[0]),
        "same_rollouts": float(same),
        "same_answers": float((tables[0]["answer"] == tables[1]["answer"]).mean()),
        "mean_H": float(entropy[0].mean()),
        "mean_H_moved": float(moved.mean()),
        "mean_abs_H_moved": float(moved.abs().mean()),
        "max_abs_H_moved": float(moved.abs().max()),
        "rho": float(rho[0].mean()),
        "mean_rho_moved": float(rho_moved.mean()),
        "mean_abs_rho_moved": float(rho_moved.abs().mean()),
    }
    show([{"quantity": name, "value": value} for name, value in row.items()])
    emit({"benchmark": "dtype", **row})


if __name__ == "__main__":
    main()
