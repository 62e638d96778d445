"""The engine against the naive baseline (transformers' generate) on the same work, in one process.

Both evaluate the same problems and roll out the same trajectories, the engine's: the naive run draws its own as well,
so that it pays for them, and sets them aside. Before any time is believed, the answers of both are compared at every
checkpoint by a permutation test. Prints a table and one JSON line.

    python benchmarks/vs_hf.py --problems 64 --temperature 0.7 --top_p 0.95
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from agreement import LEVEL, disagreement
from common import emit
from rich.console import Console
from rich.table import Table

from fastsia.backends.hf_generate import HFGenerateBackend
from fastsia.engine.engine import Engine
from fastsia.engine.sequence import Request, Trajectory
from fastsia.errors import FastsiaError
from fastsia.evaluation import evaluate
from fastsia.results import SIAResult


class SameTrajectories(HFGenerateBackend):
    """The naive baseline on given trajectories: draws one for each request, as it would, then rolls out the given."""

    def __init__(self, model: Any, tokenizer: Any, given: dict[tuple[int, ...], tuple[int, ...]]) -> None:
        super().__init__(model, tokenizer)
        self._given = given

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        for request in requests:
            (own,) = super().generate([replace(request, num_rollouts=0)])
            given = self._given[request.prompt_ids]
            (trajectory,) = super().generate([replace(request, trajectory_ids=given)])
            yield replace(trajectory, finish_reason=own.finish_reason)


def answer_counts(one: SIAResult, other: SIAResult) -> list[np.ndarray]:
    """[2, answers] counts of each checkpoint's answers (null a class like any other) in both runs."""
    keys = ["problem_id", "trajectory", "checkpoint"]
    frames = [run.rollouts[[*keys, "answer"]].assign(run=i) for i, run in enumerate((one, other))]
    both = pd.concat(frames, ignore_index=True)
    both["answer"] = both["answer"].fillna("\0null")
    return [
        group.groupby(["run", "answer"]).size().unstack(fill_value=0).reindex([0, 1], fill_value=0).to_numpy()
        for _, group in both.groupby(keys, sort=False)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="demo:sft")
    parser.add_argument("--task", default="demo")
    parser.add_argument("--data_dir")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--top_p", type=float, default=0.95)
    parser.add_argument("--stride", type=int)
    parser.add_argument("--num_rollouts", type=int, default=20)
    parser.add_argument("--max_tokens", type=int, default=600)
    parser.add_argument("--share", default="trajectory", choices=("trajectory", "checkpoint", "none"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=3, help="of the engine's run; its median is reported")
    parser.add_argument("--naive_repeats", type=int, default=1)
    options = parser.parse_args()
    try:
        return compare(options)
    except FastsiaError as error:
        print(f"vs_hf: error: {error}", file=sys.stderr)
        return 2


def compare(options: argparse.Namespace) -> int:
    settings = {
        name: getattr(options, name)
        for name in ("temperature", "top_p", "stride", "num_rollouts", "max_tokens", "share", "seed", "data_dir")
    }
    engine = Engine.from_pretrained(options.model, device=options.device, dtype=options.dtype)
    evaluate(engine, options.task, limit=2, **settings)  # everything is imported and allocated once
    native = [evaluate(engine, options.task, limit=options.problems, **settings) for _ in range(options.repeats)]
    drawn = native[0].trajectories
    given = {
        tuple(prompt.tolist()): tuple(tokens.tolist())
        for prompt, tokens in zip(drawn["prompt_token_ids"], drawn["token_ids"], strict=True)
    }
    if len(given) != len(drawn):
        raise FastsiaError("two problems have the same prompt; the comparison needs distinct ones.")
    backend = SameTrajectories(engine.model, engine.tokenizer, given)
    naive = [
        evaluate(backend, options.task, limit=options.problems, backend="hf", **settings)
        for _ in range(options.naive_repeats)
    ]
    found = disagreement(answer_counts(native[0], naive[0]), options.seed)
    agrees = found["p_value"] > LEVEL

    rows = {name: _row(runs) for name, runs in (("naive generate", naive), ("fastsia", native))}
    ratio = rows["naive generate"]["seconds"] / rows["fastsia"]["seconds"]
    title = (
        f"{options.model} on {options.task}: {len(drawn)} problems, N = {options.num_rollouts}, temperature "
        f"{options.temperature}, top-p {options.top_p}, {engine.describe()['device']} {engine.describe()['dtype']}"
    )
    table = Table(title=title, title_justify="left")
    for column in ("", "seconds", "rollout tokens", "row steps", "tokens a row", "tokens/s", "mean H", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in rows.items():
        table.add_row(
            name,
            f"{row['seconds']:.2f}",
            f"{row['generated_tokens']:,}",
            f"{row['row_steps']:,}",
            f"{row['generated_tokens'] / max(row['row_steps'], 1):.2f}",
            f"{row['generated_tokens'] / row['seconds']:,.0f}",
            f"{row['mean_entropy']:.4f}",
            f"{ratio:.1f}x" if name == "fastsia" else "1x",
        )
    Console(width=140).print(table)
    verdict = "agree" if agrees else "DISAGREE"
    print(
        f"Answers {verdict}: permutation test over all checkpoints, p = {found['p_value']:.4f} "
        f"(level {LEVEL}); mean total variation {found['mean_tv']:.4f}, {found['mean_tv_expected']:.4f} expected of "
        "two samples of one distribution."
    )
    emit(
        {
            "benchmark": "vs_hf",
            **{name: getattr(options, name) for name in ("model", "task", "problems", "share", "temperature", "top_p")},
            "stride": native[0].summary["config"]["stride"],
            "num_rollouts": options.num_rollouts,
            "machine": engine.describe(),
            "naive": rows["naive generate"],
            "fastsia": rows["fastsia"],
            "ratio": round(ratio, 2),
            "agreement": found | {"level": LEVEL, "agrees": agrees},
        }
    )
    return 0 if agrees else 1


def _row(runs: list[SIAResult]) -> dict[str, Any]:
    """Median seconds of a whole evaluate, statistics included, model loading not."""
    seconds = [run.summary["seconds"] for run in runs]
    return {
        "seconds": round(statistics.median(seconds), 4),
        "all_seconds": [round(value, 4) for value in seconds],
        "generated_tokens": runs[0].summary["generated_tokens"],
        "row_steps": runs[0].summary["row_steps"],
        "mean_entropy": float(runs[0].checkpoints["entropy"].mean()),
    }


if __name__ == "__main__":
    sys.exit(main())
