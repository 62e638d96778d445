"""Forced answers beside sampled ones: how far what a model would say now goes along with where it arrives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from fastsia.sia.alignment import pearson
from fastsia.sia.bootstrap import Bootstrap, interval
from fastsia.sia.curves import weighted_auc

KEY = ["problem_id", "trajectory", "checkpoint"]


def forced_table(
    forced: pd.DataFrame,
    checkpoints: pd.DataFrame,
    trajectories: pd.DataFrame,
    *,
    num_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a scorer and quantity: scorer, quantity, value, value_low, value_high, num_trajectories.

    forced: problem_id, trajectory, checkpoint, scorer, gold_logprob, entropy. The others: a run's tables.

    The quantities, means over the trajectories that define them, with 95 % intervals over problems:
    `entropy_with_rollouts`, `surprisal_with_rollouts`: correlation over a trajectory's checkpoints of the forced
    entropy with H_t, of the forced gold surprisal with s_t. `alignment`: of the forced entropy with the forced gold
    surprisal, which no sample is behind, so that none can be shared. `reduction_correct`, `reduction_incorrect`: nats
    of gold surprisal that the reasoning took away, first checkpoint minus last (the conditional-entropy reduction of
    "Measuring Reasoning Utility in LLMs via Conditional Entropy Reduction"). `auc_reduction`: how well that tells
    trajectories that end correct from others.
    """
    rows: list[dict[str, Any]] = []
    for scorer, own in forced.groupby("scorer", sort=False):
        rows += [{"scorer": scorer, **row} for row in _of_scorer(own, checkpoints, trajectories, num_resamples, seed)]
    return pd.DataFrame(rows, columns=["scorer", "quantity", "value", "value_low", "value_high", "num_trajectories"])


def _of_scorer(
    forced: pd.DataFrame, checkpoints: pd.DataFrame, trajectories: pd.DataFrame, num_resamples: int, seed: int
) -> list[dict[str, Any]]:
    both = checkpoints[[*KEY, "entropy", "gold_surprisal"]].merge(
        forced[[*KEY, "entropy", "gold_logprob"]], on=KEY, suffixes=("", "_forced")
    )
    both = both[np.isfinite(both["gold_logprob"]) & np.isfinite(both["entropy_forced"])]
    if both.empty:
        return []
    trace = both[KEY[:2]].apply(tuple, axis=1)
    starts = np.flatnonzero(np.r_[True, trace.to_numpy()[1:] != trace.to_numpy()[:-1]])
    offsets = np.append(starts, len(both))
    correct = (
        both.iloc[starts][KEY[:2]].merge(trajectories[[*KEY[:2], "correct"]], on=KEY[:2], how="left")["correct"]
    ).to_numpy(bool)
    problem = pd.factorize(both["problem_id"].to_numpy()[starts])[0]
    bootstrap = Bootstrap.draw(int(problem.max()) + 1, num_resamples, seed)
    columns = {name: both[name].to_numpy(np.float64) for name in ("entropy", "gold_surprisal", "entropy_forced")}
    surprisal = -both["gold_logprob"].to_numpy(np.float64)
    reduction = surprisal[starts] - surprisal[offsets[1:] - 1]
    values = {
        "entropy_with_rollouts": pearson(columns["entropy_forced"], columns["entropy"], offsets),
        "surprisal_with_rollouts": pearson(surprisal, columns["gold_surprisal"], offsets),
        "alignment": pearson(columns["entropy_forced"], surprisal, offsets),
        "reduction_correct": np.where(correct, reduction, np.nan),
        "reduction_incorrect": np.where(correct, np.nan, reduction),
    }
    rows = [_mean(name, value, problem, bootstrap) for name, value in values.items()]
    auc = float(weighted_auc(reduction, correct, np.ones((1, len(correct))))[0])
    low, high = interval(weighted_auc(reduction, correct, bootstrap.weights[:, problem]))
    return [*rows, _row("auc_reduction", auc, low, high, len(correct))]


def _mean(name: str, value: np.ndarray, problem: np.ndarray, bootstrap: Bootstrap) -> dict[str, Any]:
    defined = ~np.isnan(value)
    number = bootstrap.weights.shape[1]
    above = np.bincount(problem[defined], weights=value[defined], minlength=number)
    below = np.bincount(problem[defined], minlength=number).astype(np.float64)
    low, high = interval(bootstrap.ratio(above, below))
    mean = above.sum() / below.sum() if defined.any() else np.nan
    return _row(name, float(mean), low, high, int(defined.sum()))


def _row(name: str, value: float, low: Any, high: Any, count: int) -> dict[str, Any]:
    named = {"value": value, "value_low": low, "value_high": high}
    finite = {key: float(x) if np.isfinite(x) else None for key, x in named.items()}
    return {"quantity": name, **finite, "num_trajectories": count}
