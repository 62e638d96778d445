"""Log-probabilities of the answers (teacher forcing) beside the sampled answers of the same checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from fastsia.sia import registry
from fastsia.sia.alignment import pearson
from fastsia.sia.bootstrap import Bootstrap
from fastsia.sia.curves import weighted_auc
from fastsia.sia.estimate import Resampled

KEY = ["problem_id", "trajectory", "checkpoint"]

STEP_NATS = 0.1
"""Changes of the forced gold surprisal from one checkpoint to the next up to this count as none. Chosen by fastsia."""

SHAPES = ("decreasing", "rising", "flat", "mixed")
"""Shapes of the forced curve: it never rises, it never falls, neither, both (by more than `STEP_NATS`)."""


@registry.table("forced_answers", columns="scorer quantity value num_trajectories", place=80, computed=False)
def forced_table(
    forced: pd.DataFrame,
    checkpoints: pd.DataFrame,
    trajectories: pd.DataFrame,
    *,
    num_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Forced answers.

    Another quantity than the rest of this page: the answer that a model would give at once. After each prefix the cue
    that opens an answer is inserted and each candidate answer's probability is computed, without a rollout. The first
    two rows correlate these with the rollouts' H and s along each trajectory; “alignment” is ρ of the forced entropy
    and the forced gold surprisal, which share no sample; “reduction” is by how many nats the reasoning lowered the
    gold surprisal, and its AUC shows how well that separates trajectories that end correct. “slope” is that of a line
    through the forced gold surprisals, in nats over the whole trajectory; “shape” rows are the shares of trajectories
    whose forced gold surprisal never rises (decreasing), never falls (rising), does neither (flat) or both (mixed) by
    more than 0.1 nats from one checkpoint to the next.

    Args:
        forced: Columns problem_id, trajectory, checkpoint, scorer, gold_logprob, entropy.
        checkpoints: The run's table.
        trajectories: The run's table.
        num_resamples: Bootstrap resamples.
        seed: Of the resamples.

    Returns:
        One row a scorer and quantity: scorer, quantity, value, value_low, value_high, num_trajectories. Every quantity
        is a mean over the trajectories that define it, with a 95 % interval over problems. `entropy_with_rollouts`,
        `surprisal_with_rollouts`: correlation over a trajectory's checkpoints of the forced entropy with H_t, of the
        forced gold surprisal with s_t. `alignment`: of the forced entropy with the forced gold surprisal.
        `reduction_correct`, `reduction_incorrect`: forced gold surprisal at the first checkpoint minus that at the
        last, nats (the conditional-entropy reduction of "Measuring Reasoning Utility in LLMs via Conditional Entropy
        Reduction"). `auc_reduction`: AUC of that reduction for "ends correct". `slope_correct`, `slope_incorrect`:
        least-squares slope over the relative position, nats, of trajectories with 3 checkpoints. `shape_S` for S of
        `SHAPES`, of trajectories with 2 checkpoints.
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
    slope = slopes(both["checkpoint"].to_numpy(np.float64), surprisal, offsets)
    shape = shapes(surprisal, offsets)
    values = {
        "entropy_with_rollouts": pearson(columns["entropy_forced"], columns["entropy"], offsets),
        "surprisal_with_rollouts": pearson(surprisal, columns["gold_surprisal"], offsets),
        "alignment": pearson(columns["entropy_forced"], surprisal, offsets),
        "reduction_correct": np.where(correct, reduction, np.nan),
        "reduction_incorrect": np.where(correct, np.nan, reduction),
        "slope_correct": np.where(correct, slope, np.nan),
        "slope_incorrect": np.where(correct, np.nan, slope),
        **{f"shape_{name}": np.where(shape < 0, np.nan, shape == k) for k, name in enumerate(SHAPES)},
    }
    found = {name: Resampled.mean(value, problem, bootstrap) for name, value in values.items()}
    auc = weighted_auc(reduction, correct, np.ones((1, len(correct))))[0]
    aucs = weighted_auc(reduction, correct, bootstrap.weights[:, problem])
    found["auc_reduction"] = Resampled(auc, aucs, len(correct))
    return [
        {"quantity": name, **(estimate := each.estimate()).columns("value"), "num_trajectories": estimate.n}
        for name, each in found.items()
    ]


def slopes(position: np.ndarray, values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Least-squares slopes of values over the relative position; float64 [T], NaN with fewer than 3 points.

    Args:
        position: float64 [N], of each value; a trajectory's last is its end, relative position 1.
        values: float64 [N].
        offsets: int64 [T + 1], each trajectory's first value.
    """
    length = np.diff(offsets)
    owner = np.repeat(np.arange(len(length)), length)
    x = position / np.maximum(position[offsets[1:] - 1], 1.0)[owner]
    x = x - (np.add.reduceat(x, offsets[:-1]) / length)[owner]
    spread = np.add.reduceat(x**2, offsets[:-1])
    steep = np.add.reduceat(x * values, offsets[:-1])
    return np.divide(steep, spread, out=np.full(len(length), np.nan), where=(length >= 3) & (spread > 0))


def shapes(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """int64 [T]: the place in `SHAPES` of each trajectory's values [N]; -1 with fewer than 2."""
    step = np.diff(values, append=values[-1:])
    step[offsets[1:] - 1] = 0.0
    falls = np.minimum.reduceat(step, offsets[:-1]) < -STEP_NATS
    rises = np.maximum.reduceat(step, offsets[:-1]) > STEP_NATS
    found = np.select([falls & ~rises, rises & ~falls, ~rises & ~falls], [0, 1, 2], 3)
    return np.where(np.diff(offsets) < 2, -1, found)
