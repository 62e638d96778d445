"""Which estimate of p_t predicts rollouts that it has not seen? Log loss on stored runs with many rollouts.

    python -m tests.sia.estimators RUN/run.sqlite [RUN/run.sqlite ...] [--numbers 5,10,20]

Estimates are made from the first n rollouts of every checkpoint and scored on the second half of all of them: minus
the mean ln p of their answers, nats. The classes of every estimate are the answers of all rollouts of the trajectory,
those that are scored among them, and every estimate is a posterior mean under the smoother's prior. One table per run,
and one JSON line at the end.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import gammaln, softmax

from fastsia.results.reader import Store
from fastsia.results.score import stored_config, stored_table
from fastsia.sia.decomposition import Divergences, decompose, mix
from fastsia.sia.smoother import PRIOR_COUNTS, smooth
from fastsia.sia.table import RolloutTable


def log_losses(table: RolloutTable, divergences: Divergences | None, number: int) -> dict[str, np.ndarray]:
    """float64 [T] by estimator: each trajectory's mean log loss (nats) over its checkpoints' held-out rollouts."""
    slots, row = table.index_in_checkpoint(), table.checkpoint_of_rollout
    seen, held_out = slots < number, slots >= (int(slots.max()) + 1) // 2
    local, owner = table.local_answers(), table.trajectory_of_checkpoint
    width = local.number[owner]
    begin = np.concatenate([[0], np.cumsum(width)])

    def posterior_mean(counts: np.ndarray) -> np.ndarray:
        """Under the smoother's prior; of counts, whole or not, one row of V answers after another."""
        total = np.add.reduceat(counts, begin[:-1])
        evidence = np.stack(
            [
                gammaln(prior * width)
                - gammaln(prior * width + total)
                + np.add.reduceat(gammaln(counts + prior) - gammaln(prior), begin[:-1])
                for prior in PRIOR_COUNTS
            ]
        )
        probable = np.repeat(softmax(evidence, axis=0), width, axis=1)
        n, v = np.repeat(total, width), np.repeat(width, width)
        means = [(counts + prior) / (n + prior * v) for prior in PRIOR_COUNTS]
        return np.sum(probable * np.stack(means), axis=0)

    alpha = 0.5  # of the surprisal, which is not used
    counted = np.bincount(begin[row] + local.code, weights=seen, minlength=int(begin[-1]))
    smoothed = smooth(table, alpha, included=seen).probabilities
    found = {"plain counts": posterior_mean(counted), "smoother": smoothed}
    if divergences is not None:
        part = decompose(table, divergences, alpha, included=seen)
        found["decomposition"] = posterior_mean(part.probabilities * np.repeat(part.effective_rollouts, width))
        segments = smooth(table, alpha, at=divergences.segment, included=seen).probabilities
        found["both"] = mix(table, divergences, segments, begin)
    losses = {}
    for name, p in found.items():
        loss = np.where(held_out, -np.log(p[begin[row] + local.code]), 0.0)
        sums = np.bincount(owner[row], weights=loss, minlength=table.num_trajectories)
        losses[name] = sums / np.bincount(owner[row], weights=held_out, minlength=table.num_trajectories)
    return losses


def score(path: Path, numbers: list[int]) -> pd.DataFrame:
    """One row an estimator, one column a number of rollouts: log loss, and its difference from plain counts of the same
    number with a standard error over problems."""
    store = Store(path)
    table, logprobs = stored_table(store)
    divergences = None if logprobs is None else Divergences.of(table, logprobs, stored_config(store))
    rows: dict[str, dict[str, Any]] = {}
    for number in numbers:
        losses = log_losses(table, divergences, number)
        for name, loss in losses.items():
            difference = loss - losses["plain counts"]
            error = difference.std(ddof=1) / np.sqrt(len(difference))
            rows.setdefault(name, {})[f"N = {number}"] = round(float(loss.mean()), 3)
            rows[name][f"± {number}"] = f"{difference.mean():+.3f} ({error:.3f})"
    return pd.DataFrame(rows).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--numbers", default="5,10,20")
    given = parser.parse_args()
    numbers = [int(number) for number in given.numbers.split(",")]
    found = {str(path): score(path, numbers) for path in given.runs}
    for path, frame in found.items():
        print(path, frame.to_string(), sep="\n")
    print(json.dumps({path: frame.to_dict("index") for path, frame in found.items()}))


if __name__ == "__main__":
    main()
