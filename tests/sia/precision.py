"""Tokens for the same error: rollouts allocated in rounds against as many at every checkpoint, by a stored run.

    python -m tests.sia.precision RUN/run.sqlite [RUN/run.sqlite ...] [--first 10] [--like 20] [--sets 100]

What a run has stored at a checkpoint, answers and tokens, is taken for all that can occur there, and drawn
from with replacement, so the truth is known. Rounds have as target the error of `--like` rollouts each,
and `--first` in their uniform round. One table per run, one row per target and estimate: root mean square error over
checkpoints with N = `--like` and with rounds; mean rollouts of the rounds; the equal number with the same error; tokens
of the rounds over those of that number; how often estimate +- 1.96 standard errors covers the truth. "plan" is the part
of tokens that the rule would take if it knew all variances and costs. One JSON line at the end.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fastsia.answers.distribution import summarize
from fastsia.config import TargetOf
from fastsia.results.reader import Store
from fastsia.results.score import stored_table
from fastsia.sia.allocation import Pilot, allocate, errors_of
from fastsia.sia.table import RolloutTable

TARGETS: tuple[TargetOf, ...] = ("entropy", "gold")
ESTIMATES = {"entropy": ("entropy", "entropy_miller_madow", "entropy_chao_shen"), "gold": ("gold",)}
NUMBERS = (5, 7, 10, 14, 20, 28, 40, 57, 80)


class Population:
    """What a run has stored at each checkpoint, to draw from.

    Attributes:
        cost: float64 [G], mean tokens of a rollout after it diverges.
        truth: of each estimate, float64 [G].
        variance: of each target, float64 [G], of one rollout.
    """

    def __init__(self, table: RolloutTable) -> None:
        assert table.tokens is not None
        assert table.matched is not None
        self.table, self.tokens = table, table.tokens - table.matched
        self.gold = table.gold[table.trajectory_of_checkpoint]
        self.cost = np.bincount(table.checkpoint_of_rollout, weights=self.tokens) / table.count
        row, width = table.checkpoint_of_rollout, len(table.answers) + 1
        shares = np.zeros((table.num_checkpoints, width))
        np.add.at(shares, (row, table.code + 1), 1.0)
        shares /= table.count[:, None]
        logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
        entropy = -(shares * logs).sum(axis=1)
        gold = shares[np.arange(len(shares)), self.gold + 1]
        self.truth = dict.fromkeys(ESTIMATES["entropy"], entropy) | {"gold": gold}
        self.variance = {"entropy": (shares * logs**2).sum(axis=1) - entropy**2, "gold": gold * (1 - gold)}

    def draw(self, number: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Rows of the table: number[g] of each checkpoint, with replacement."""
        table = self.table
        begin, count = np.repeat(table.checkpoint_offsets[:-1], number), np.repeat(table.count, number)
        return np.asarray(begin + (rng.random(len(begin)) * count).astype(np.int64))

    def estimate(self, rows: np.ndarray, number: np.ndarray) -> dict[str, np.ndarray]:
        """Each estimate, and the variance of one rollout by the same rows, float64 [G]."""
        offsets = np.concatenate([[0], np.cumsum(number)])
        code = self.table.code[rows]
        found = summarize(code, offsets, self.gold, np.full(len(number), 2), 0.5)
        estimates = {name: getattr(found, name) for name in ESTIMATES["entropy"]} | {"gold": found.gold_count / number}
        variances = {f"variance of {target}": errors_of(code, offsets, self.gold, target)[0] for target in TARGETS}
        return estimates | variances

    def pilots(self, rows: np.ndarray, first: int, target: TargetOf) -> list[Pilot]:
        """What a uniform round of `first` rollouts, rows of the table, says about each trajectory."""
        code, tokens = self.table.code[rows], self.tokens[rows].reshape(-1, first)
        variance, bias = errors_of(code, np.arange(0, len(code) + 1, first), self.gold, target)
        found = variance, np.maximum(tokens.mean(axis=1), 1.0), bias
        cuts = self.table.trajectory_offsets[1:-1]
        return [Pilot(*parts) for parts in zip(*(np.split(each, cuts) for each in found), strict=True)]


def best_cost(variance: np.ndarray, cost: np.ndarray, first: int, target_se: float) -> float:
    """Tokens of the numbers that reach a target with known variances."""
    shape = np.sqrt(variance / np.maximum(cost, 1.0))
    low, high = 1e-9, 1e9
    for _ in range(100):
        scale = np.sqrt(low * high)
        reached = (variance / np.maximum(scale * shape, first)).mean() <= target_se**2
        low, high = (low, scale) if reached else (scale, high)
    return float((np.maximum(high * shape, first) * cost).sum())


def score(path: Path, first: int, like: int, sets: int) -> pd.DataFrame:
    """The table of one run."""
    source, rng = Population(stored_table(Store(path))[0]), np.random.default_rng(0)
    size = source.table.num_checkpoints
    rows: list[dict[str, Any]] = []
    equal = {number: _errors(source, [np.full(size, number)] * max(sets // 4, 20), rng)[0] for number in NUMBERS}
    for target in TARGETS:
        variance = source.variance[target]
        target_se = _errors(source, [np.full(size, like)] * max(sets // 2, 20), rng)[0][ESTIMATES[target][0]]
        numbers, draws = [], []
        for _ in range(sets):
            pilot = source.draw(np.full(size, first), rng)
            number = np.concatenate(allocate(source.pilots(pilot, first, target), first, target_se=target_se))
            more = source.draw(number - first, rng)
            at = np.concatenate([np.repeat(np.arange(size), first), np.repeat(np.arange(size), number - first)])
            draws.append(np.concatenate([pilot, more])[np.argsort(at, kind="stable")])
            numbers.append(number)
        errors, covered, tokens = _errors(source, numbers, rng, draws)
        least = float(np.sqrt(variance.mean() / like))
        best = best_cost(variance, source.cost, first, least) / (like * source.cost.sum())
        for name in ESTIMATES[target]:
            curve = [equal[number][name] for number in NUMBERS]
            alike = float(np.exp(np.interp(-errors[name], -np.array(curve), np.log(NUMBERS))))
            rows.append(
                {
                    "target": target,
                    "estimate": name,
                    f"N = {like}": equal[like][name] if like in equal else np.nan,
                    "rounds": errors[name],
                    "rollouts": np.mean(numbers),
                    "equal N": alike,
                    "tokens": tokens / (alike * source.cost.sum()),
                    "plan": best,
                    "covered": covered[name],
                }
            )
    return pd.DataFrame(rows).round(3)


def _errors(
    source: Population, numbers: list[np.ndarray], rng: np.random.Generator, draws: list[np.ndarray] | None = None
) -> tuple[dict[str, float], dict[str, float], float]:
    """(root mean square error by estimate, share covered, mean tokens) of some numbers of rollouts."""
    squares: dict[str, list[float]] = {}
    covered: dict[str, list[float]] = {}
    tokens = []
    for k, number in enumerate(numbers):
        rows = source.draw(number, rng) if draws is None else draws[k]
        found = source.estimate(rows, number)
        tokens.append(source.tokens[rows].sum())
        for target, names in ESTIMATES.items():
            error = np.sqrt(found[f"variance of {target}"] / number)
            for name in names:
                off = found[name] - source.truth[name]
                squares.setdefault(name, []).append(float((off**2).mean()))
                covered.setdefault(name, []).append(float((np.abs(off) <= 1.96 * error + 1e-12).mean()))
    rmse = {name: float(np.sqrt(np.mean(values))) for name, values in squares.items()}
    return rmse, {name: float(np.mean(values)) for name, values in covered.items()}, float(np.mean(tokens))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--first", type=int, default=10)
    parser.add_argument("--like", type=int, default=20)
    parser.add_argument("--sets", type=int, default=100)
    given = parser.parse_args()
    found = {str(path): score(path, given.first, given.like, given.sets) for path in given.runs}
    for path, frame in found.items():
        print(path, frame.to_string(index=False), sep="\n")
    print(json.dumps({path: frame.to_dict("records") for path, frame in found.items()}))


if __name__ == "__main__":
    main()
