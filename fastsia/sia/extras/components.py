"""Variance components: how much of an answer the problem, the trajectory and the rollout decide."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fastsia.sia import registry
from fastsia.sia.estimate import Resampled
from fastsia.sia.extras.failure import PLACES, POSITIONS
from fastsia.sia.scored import Scored

COMPONENTS = ("problem", "trajectory", "rollout")


def variance_components(share: np.ndarray, count: np.ndarray, starts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Unbiased estimates of the variances of "the rollout's answer is gold" between problems, between the trajectories
    of a problem, and between the rollouts of a trajectory; float64 [B, Q, 3].

    Every problem has the same weight, whatever the number of its trajectories.

    Args:
        share: float64 [T, Q], share of the rollouts that are gold.
        count: int64 [T, Q], rollouts, at least 2.
        starts: int64 [P], the first trajectory of each problem, which has at least 2.
        weights: float64 [B, P], how often each problem is drawn.
    """
    number = np.diff(np.append(starts, len(share)))[:, None]
    noise = share * (1 - share) / (count - 1)  # unbiased for the variance of a share
    rollout = np.add.reduceat(noise * count, starts, axis=0) / number
    noise = np.add.reduceat(noise, starts, axis=0) / number
    mean = np.add.reduceat(share, starts, axis=0) / number
    squares = np.add.reduceat((share - np.repeat(mean, number[:, 0], axis=0)) ** 2, starts, axis=0)
    between = squares / (number - 1)
    total = weights.sum(axis=1)[:, None]
    center = weights @ mean / total
    problem = (weights @ mean**2 / total - center**2) * total / (total - 1) - weights @ (between / number) / total
    return np.stack([problem, weights @ (between - noise) / total, weights @ rollout / total], axis=2)


@registry.table(
    "variance_components", columns="position num_problems problem trajectory rollout problem_share", place=76
)
def components_table(scored: Scored) -> pd.DataFrame | None:
    """Variance components.

    Whether a rollout gives the gold answer depends on the problem, on the trajectory that was written so far, and on
    the rollout itself: the three variances add up to that of a rollout of any problem. At position 0 no trajectory is
    written yet, so the variance of trajectories is 0 apart from sampling error; as a model's own reasoning goes on,
    variance passes from the rollouts to the trajectories in expectation. “problem share” and “trajectory share” are
    parts of the sum of the three. The variances are estimated without bias, so a small one may come out below 0.

    Returns:
        One row per position of `POSITIONS`: position, num_problems; problem, trajectory, rollout (variances) and
        problem_share, trajectory_share with _low and _high. None unless two problems have two trajectories with two
        rollouts at every checkpoint.
    """
    table = scored.table
    trajectories = np.diff(table.problem_offsets)
    enough = np.minimum.reduceat(table.count, table.trajectory_offsets[:-1]) >= 2
    usable = (trajectories >= 2) & np.logical_and.reduceat(enough, table.problem_offsets[:-1])
    if usable.sum() < 2:
        return None
    rows = scored.at_grid[usable[table.problem_of_trajectory]][:, PLACES]
    share = scored.stats.gold_count[rows] / scored.stats.count[rows]
    starts = np.concatenate([[0], np.cumsum(trajectories[usable])[:-1]])

    def components(weights: np.ndarray) -> np.ndarray:
        return variance_components(share, scored.stats.count[rows], starts, weights)

    value = components(np.ones((1, int(usable.sum()))))[0]
    weights = scored.bootstrap.weights[:, usable].astype(np.float64)
    few = (weights > 0).sum(axis=1) < 2
    with np.errstate(divide="ignore", invalid="ignore"):
        samples = components(weights)
    samples[few] = np.nan
    found = {"position": np.array(POSITIONS), "num_problems": np.full(len(POSITIONS), int(usable.sum()))}
    for k, name in enumerate(COMPONENTS):
        found |= Resampled(value[:, k], samples[:, :, k]).columns(name)
    for k, name in enumerate(COMPONENTS[:2]):
        with np.errstate(divide="ignore", invalid="ignore"):
            part = Resampled(value[:, k] / value.sum(axis=1), samples[:, :, k] / samples.sum(axis=2))
        part = Resampled(*(np.where(np.isfinite(x), x, np.nan) for x in (part.value, part.samples)))
        found |= part.columns(f"{name}_share")
    return pd.DataFrame(found)
