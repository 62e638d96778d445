"""By how much H and rho move with the dtype or with fp8 products: the trajectories of a float32 run, again.

    fastsia run --model DIR --tasks svamp --data_dir DATA --limit 4 --num_rollouts 10 --stride 40 --max_tokens 200 \
        --dtype float32 -o RUN
    python -m tests.engine.dtypes --model DIR --run RUN --against bfloat16 fp8 noise

Everything is paired with float32: the tokens of the trajectories are forced, so that each token's log-probability and
entropy are compared; and rollouts are drawn with the run's own numbers, so that one differs only where a probability
moved across its number. "noise" draws in float32 with other numbers: the sampling noise of H at this N.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

import fastsia
from benchmarks.harness import emit, parse, show
from fastsia import Engine, SamplingParams
from fastsia.engine.sequence import Request

KEYS = ["problem_id", "trajectory", "checkpoint"]
# A table for `fastsia.analyze` with each rollout's tokens; and by problem float32 [2, T], the log-probabilities and
# entropies of its trajectory's tokens.
Drawn = tuple[pd.DataFrame, dict[Any, np.ndarray]]


def compare(model: str, run: str | os.PathLike[str], against: Sequence[str]) -> list[dict[str, Any]]:
    """What moves from float32 to each of some dtypes, "fp8" and "noise"."""
    stored = fastsia.load(run)
    trajectories, config = stored.trajectories, stored.summary["config"]
    trajectories = trajectories[(trajectories["finish_reason"] != "error") & (trajectories["trajectory"] == 0)]
    ours, *others = (_draw(model, name, trajectories, config) for name in ("float32", *against))
    number = {"trajectories": len(trajectories)}
    return [
        {"model": model, "against": name, **number, **_moved(ours, other)}
        for name, other in zip(against, others, strict=True)
    ]


def _draw(model: str, name: str, trajectories: pd.DataFrame, config: dict[str, Any]) -> Drawn:
    dtype = "float32" if name in ("fp8", "noise") else name
    quantization = "fp8" if name == "fp8" else "none"
    engine = Engine.from_pretrained(model, device="cpu", dtype=dtype, quantization=quantization)
    sampling = SamplingParams(config["temperature"], config["top_p"], max_tokens=config["max_tokens"])
    requests = [
        Request(
            row["problem_id"],
            tuple(int(token) for token in row["prompt_token_ids"]),
            sampling,
            config["num_rollouts"],
            seed=int(row["seed"]) ^ int(name == "noise"),
            stride=config["stride"],
            trajectory_ids=tuple(int(token) for token in row["token_ids"]),
            rollout_budget=config["rollout_budget"],
            given_logprobs=True,
        )
        for row in trajectories.to_dict("records")
    ]
    rows, forced = [], {}
    for drawn in engine.run(requests):
        assert drawn.rollouts is not None
        forced[drawn.key] = np.stack([drawn.logprobs, drawn.token_entropies])
        for i in range(len(drawn.rollouts)):
            checkpoint, tokens = int(drawn.rollouts.checkpoint[i]), drawn.rollouts.row(i).token_ids
            text = engine.tokenizer.decode([*drawn.token_ids[:checkpoint].tolist(), *tokens], skip_special_tokens=True)
            rows.append((drawn.key, 0, checkpoint, int(drawn.rollouts.index[i]), text, tuple(tokens)))
    table = pd.DataFrame(rows, columns=[*KEYS, "rollout", "text", "tokens"])
    table["answer"] = fastsia.extract_answers(table["text"].tolist(), config.get("answer_format") or "number")
    table["gold"] = table["problem_id"].map(trajectories.set_index("problem_id")["gold"])
    return table.sort_values([*KEYS, "rollout"], ignore_index=True), forced


def _moved(ours: Drawn, theirs: Drawn) -> dict[str, Any]:
    tables = ours[0], theirs[0]
    same = np.mean([a == b for a, b in zip(tables[0]["tokens"], tables[1]["tokens"], strict=True)])
    results = [fastsia.analyze(table.drop(columns=["text", "tokens"])) for table in tables]
    entropy = [result.checkpoints.set_index(KEYS)["entropy"] for result in results]
    rho = [result.trajectories.set_index(KEYS[:2])["rho"] for result in results]
    moved, rho_moved = entropy[1] - entropy[0], (rho[1] - rho[0]).dropna()
    tokens = np.concatenate([theirs[1][key] - forced for key, forced in ours[1].items()], axis=1)
    inside = tokens[0][np.isfinite(tokens[0])]
    return {
        "tokens": tokens.shape[1],
        "left_the_nucleus": 1 - len(inside) / tokens.shape[1],
        "mean_logprob_moved": float(inside.mean()),
        "mean_abs_logprob_moved": float(np.abs(inside).mean()),
        "mean_token_entropy_moved": float(tokens[1].mean()),
        "mean_abs_token_entropy_moved": float(np.abs(tokens[1]).mean()),
        "checkpoints": len(moved),
        "rollouts": len(tables[0]),
        "same_rollouts": float(same),
        "same_answers": float((tables[0]["answer"] == tables[1]["answer"]).mean()),
        "mean_H": float(entropy[0].mean()),
        "mean_H_moved": float(moved.mean()),
        "mean_abs_H_moved": float(moved.abs().mean()),
        "max_abs_H_moved": float(moved.abs().max()),
        "rho": float(rho[0].mean()),
        "trajectories_with_rho": len(rho_moved),
        "mean_rho_moved": float(rho_moved.mean()),
        "mean_abs_rho_moved": float(rho_moved.abs().mean()),
    }


def main() -> None:
    options = parse(__doc__, model=str, run=str, against=["bfloat16"])
    rows = compare(options.model, options.run, options.against)
    show([{"quantity": name, **{row["against"]: row[name] for row in rows}} for name in list(rows[0])[3:]])
    for row in rows:
        emit({"benchmark": "dtype", **row})


if __name__ == "__main__":
    main()
