"""From rollouts to the report: 1,319 problems x 16 checkpoints x 20 rollouts, scored with 2,000 resamples and drawn.

    python benchmarks/bench_report.py [--problems 1319] [--checkpoints 16] [--rollouts 20] [--repeats 3]

The rollouts are made up: answers that go, each trajectory at its own pace, from spread out over five to one, texts of
60 words, and an entropy for each token. Three steps: the analysis, all figures (PNG, SVG, parquet), and report.html
with every trajectory to read in it. The goal is 60 s and 2 GB on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import emit, percentiles

from fastsia.config import SIAConfig
from fastsia.report import (
    AnswerView,
    CheckpointView,
    ReportData,
    TrajectoryView,
    distinct_answers,
    draw_figures,
    write_report,
)
from fastsia.sia import Analysis, TokenTraces, analyze_table
from fastsia.sia.table import encode

ANSWERS = np.array(["10", "11", "12", "13", None], dtype=object)
STRIDE = 20
WORDS = ("she", "starts", "with", "the", "apples", "that", "are", "left", "and", "divides", "by", "half", "of", "them")


def make_table(problems: int, checkpoints: int, rollouts: int, rng: np.random.Generator) -> pd.DataFrame:
    """One row a rollout; the gold answer is "10", None is no answer. Some trajectories settle on a wrong one."""
    start = rng.dirichlet(np.full(len(ANSWERS), 2.0), size=problems)
    target = np.full((problems, len(ANSWERS)), 0.02)
    winner = np.where(rng.random(problems) < 0.7, 0, rng.integers(1, 4, problems))
    target[np.arange(problems), winner] = 0.92
    middle, pace = rng.uniform(0.2, 0.8, (problems, 1)), rng.uniform(5, 20, (problems, 1))
    mix = 1 / (1 + np.exp(-pace * (np.linspace(0, 1, checkpoints) - middle)))
    edges = np.cumsum(start[:, None] * (1 - mix[:, :, None]) + target[:, None] * mix[:, :, None], axis=-1)
    drawn = (rng.random((problems, checkpoints, rollouts))[..., None] > edges[:, :, None, :-1]).sum(axis=-1)
    p, c, n = np.meshgrid(*(np.arange(size) for size in drawn.shape), indexing="ij")
    return pd.DataFrame(
        {
            "problem_id": np.array([f"p{i}" for i in range(problems)], dtype=object)[p.ravel()],
            "trajectory": 0,
            "checkpoint": c.ravel() * STRIDE,
            "rollout": n.ravel(),
            "answer": ANSWERS[drawn.ravel()],
            "gold": "10",
        }
    )


def make_traces(table: pd.DataFrame, rng: np.random.Generator) -> TokenTraces:
    """A token entropy for every token; the last tenth of each trajectory is its answer part."""
    lengths = table.groupby("problem_id", sort=False)["checkpoint"].max().to_numpy()
    entropy = rng.exponential(1.0, lengths.sum()).astype(np.float32)
    return TokenTraces(entropy, np.concatenate([[0], np.cumsum(lengths)]), lengths * 9 // 10)


def make_views(
    table: pd.DataFrame, analysis: Analysis, traces: TokenTraces, rng: np.random.Generator
) -> Iterator[TrajectoryView]:
    """Every trajectory with a text for each distinct answer at a checkpoint, as a run's own views have them."""
    points = dict(iter(analysis.checkpoints.groupby("problem_id", sort=False)))
    correct = dict(zip(analysis.trajectories["problem_id"], analysis.trajectories["correct"], strict=True))
    for number, (key, rows) in enumerate(table.groupby("problem_id", sort=False)):
        point = points[key]
        shown = dict(distinct_answers(rows["checkpoint"].to_numpy(), rows["answer"].tolist()))
        length = int(point["checkpoint"].iloc[-1])
        yield TrajectoryView(
            problem_id=str(key),
            trajectory=0,
            question=_words(rng, 40),
            gold="10",
            answer="10" if correct[key] else "11",
            correct=correct[key],
            prompt=_words(rng, 60),
            tokens=[f" {word}" for word in _words(rng, length).split()],
            token_entropies=traces.entropy[traces.offsets[number] : traces.offsets[number + 1]].tolist(),
            finish_reason="eos",
            checkpoints=[
                CheckpointView(position, h, s, [AnswerView(a, n, _words(rng, 60)) for a, n, _ in shown[position]])
                for position, h, s in zip(
                    point["checkpoint"].tolist(),
                    point["entropy"].tolist(),
                    point["gold_surprisal"].tolist(),
                    strict=True,
                )
            ],
        )


def _words(rng: np.random.Generator, number: int) -> str:
    return " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), number).tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=1319)
    parser.add_argument("--checkpoints", type=int, default=16)
    parser.add_argument("--rollouts", type=int, default=20)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    table = make_table(arguments.problems, arguments.checkpoints, arguments.rollouts, rng)
    traces = make_traces(table, rng)
    times: dict[str, list[float]] = {"analysis": [], "figures": [], "report": []}
    size = 0
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory(prefix="fastsia-") as folder:
            marks = [time.perf_counter()]
            found = analyze_table(encode(table), SIAConfig(num_bootstrap=arguments.resamples), traces=traces)
            marks.append(time.perf_counter())
            views = make_views(table, found, traces, rng)
            data = ReportData(found.summary, found.trajectories, found.checkpoints, found.curves, found.tables, views)
            drawings = draw_figures(data, Path(folder) / "figures")
            marks.append(time.perf_counter())
            size = write_report(folder, data, drawings).stat().st_size
            marks.append(time.perf_counter())
        for name, begin, end in zip(times, marks, marks[1:], strict=False):
            times[name].append(end - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    row: dict[str, Any] = {
        "benchmark": "report",
        "rollouts": len(table),
        "resamples": arguments.resamples,
        **{f"{name}_seconds": percentiles(seconds) for name, seconds in times.items()},
        "total_seconds": percentiles([sum(parts) for parts in zip(*times.values(), strict=True)]),
        "peak_rss_mb": round(peak / 1e6),
        "report_mb": round(size / 1e6, 2),
    }
    print(json.dumps({name: row[name] for name in row if name.endswith(("seconds", "mb"))}, indent=2))
    emit(row)


if __name__ == "__main__":
    main()
