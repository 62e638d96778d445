"""Curves over the reasoning: means over trajectories at relative and at absolute positions, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fastsia.sia.bootstrap import Bootstrap, interval, standard_error
from fastsia.sia.entropy import CheckpointStats
from fastsia.sia.table import RolloutTable

GRID = np.linspace(0.0, 1.0, 21)
"""Relative positions q at which trajectories of all lengths are evaluated."""

GROUPS = ("all", "correct", "incorrect")


def grid_rows(table: RolloutTable) -> np.ndarray:
    """int64 [T, Q]: each trajectory's last checkpoint at or before q T, T its last checkpoint. Never
    interpolated.

    Before its first checkpoint, a trajectory is evaluated at its first checkpoint.
    """
    owner = table.trajectory_of_checkpoint
    reach = GRID * table.checkpoint[table.last][:, None]
    passed = table.checkpoint[:, None] <= reach[owner] + 1e-9
    count = np.add.reduceat(passed.astype(np.int64), table.trajectory_offsets[:-1], axis=0)
    return table.first[:, None] + np.maximum(count - 1, 0)


def between_rows(table: RolloutTable) -> tuple[np.ndarray, np.ndarray]:
    """int64 [T, Q, 2] and float64 [T, Q]: the checkpoint rows before and after q T, and how far q T lies between them,
    from 0 to 1. Before a trajectory's first checkpoint both are that one.
    """
    before = grid_rows(table)
    after = np.minimum(before + 1, table.last[:, None])
    reach = GRID * table.checkpoint[table.last][:, None]
    gap = table.checkpoint[after] - table.checkpoint[before]
    share = np.clip((reach - table.checkpoint[before]) / np.maximum(gap, 1), 0.0, 1.0)
    return np.stack([before, np.where(share > 0, after, before)], axis=-1), share


def stride(table: RolloutTable) -> int | None:
    """The most frequent gap between the first two checkpoints of the trajectories that have three.

    None without any, and where checkpoints do not follow it: others than first and last ones are not at its multiples,
    or most of those trajectories end with more than twice its gap.
    """
    long_enough = np.diff(table.trajectory_offsets) >= 3
    if not long_enough.any():
        return None
    first = table.first[long_enough]
    gaps, counts = np.unique(table.checkpoint[first + 1] - table.checkpoint[first], return_counts=True)
    step = int(gaps[np.argmax(counts)])
    inner = np.ones(table.num_checkpoints, dtype=bool)
    inner[table.first] = inner[table.last] = False
    last = table.last[long_enough]
    ends = np.median(table.checkpoint[last] - table.checkpoint[last - 1]) <= 2 * step
    return step if ends and (table.checkpoint[inner] % step == 0).all() else None


def token_rows(table: RolloutTable) -> tuple[np.ndarray, np.ndarray]:
    """Absolute positions on the stride's grid (int64 [K]) and each trajectory's checkpoint row there (int64
    [T, K], -1 where it has ended).

    Checkpoints without a common stride have a grid of the median gap between them; a trajectory is read at its last
    checkpoint at or before a position.
    """
    step = stride(table)
    if step is None:
        return _irregular_rows(table)
    on_grid = np.flatnonzero(table.checkpoint % step == 0)
    positions, column = np.unique(table.checkpoint[on_grid], return_inverse=True)
    rows = np.full((table.num_trajectories, len(positions)), -1, dtype=np.int64)
    rows[table.trajectory_of_checkpoint[on_grid], column] = on_grid
    return positions, rows


MOST_POSITIONS = 2_000
"""The most positions of a grid for checkpoints without a common stride: a table may name positions far apart."""


def _irregular_rows(table: RolloutTable) -> tuple[np.ndarray, np.ndarray]:
    """`token_rows` of checkpoints without a common stride."""
    if not (np.diff(table.trajectory_offsets) >= 3).any():
        return np.zeros(0, dtype=np.int64), np.zeros((table.num_trajectories, 0), dtype=np.int64)
    gaps = np.delete(np.diff(table.checkpoint), table.last[:-1])
    end = int(table.checkpoint[table.last].max())
    positions = np.arange(0, end + 1, max(int(np.median(gaps)), -(-end // MOST_POSITIONS), 1))
    span = int(table.checkpoint.max()) + 1
    key = table.trajectory_of_checkpoint * span + table.checkpoint
    wanted = np.arange(table.num_trajectories)[:, None] * span + positions
    rows = np.maximum(np.searchsorted(key, wanted, side="right") - 1, table.first[:, None])
    reach = positions <= table.checkpoint[table.last][:, None]
    begun = positions >= table.checkpoint[table.first][:, None]
    return positions, np.where(reach & begun, rows, -1)


@dataclass(frozen=True)
class GroupMeans:
    """Means of several per-trajectory quantities in each of `GROUPS`, with their resamples; NaN where a group is empty.

    Attributes:
        value: float64 [groups, quantities, positions].
        samples: float64 [B, groups, quantities, positions].
        count: int64 [groups], trajectories.
    """

    value: np.ndarray
    samples: np.ndarray
    count: np.ndarray


def group_means(table: RolloutTable, values: np.ndarray, correct: np.ndarray, bootstrap: Bootstrap) -> GroupMeans:
    """Means over trajectories of values [T, quantities, positions], resampled over problems."""
    member = np.stack([np.ones_like(correct), correct, ~correct], axis=1).astype(np.float64)
    starts = table.problem_offsets[:-1]
    sums = np.add.reduceat(member[:, :, None, None] * values[:, None], starts, axis=0)
    count = np.add.reduceat(member, starts, axis=0)
    total = count.sum(axis=0)
    value = np.full(sums.shape[1:], np.nan)
    value[total > 0] = sums.sum(axis=0)[total > 0] / total[total > 0, None, None]
    samples = np.full((len(bootstrap), *sums.shape[1:]), np.nan)
    for g in range(len(GROUPS)):
        samples[:, g] = bootstrap.ratio(sums[:, g], count[:, g, None, None])
    return GroupMeans(value, samples, total.astype(np.int64))


def weighted_auc(score: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of score [n] for positive [n] (bool) under weights [B, n]; float64 [B].

    The weighted Mann-Whitney statistic, ties counting half: Σ w_i w_j [x_i > x_j] / (Σ w_i Σ w_j) over positive i and
    negative j. NaN where one class has no weight.
    """
    x_pos, x_neg = score[positive], score[~positive]
    levels, level_of_neg = np.unique(x_neg, return_inverse=True)
    w_pos, w_neg = weights[:, positive], weights[:, ~positive]
    total = w_pos.sum(axis=1) * w_neg.sum(axis=1)
    out = np.full(len(weights), np.nan)
    if len(levels) == 0 or len(x_pos) == 0:
        return out
    # Positives that share their place among the negatives' levels share one column.
    below, upto = np.searchsorted(levels, x_pos, "left"), np.searchsorted(levels, x_pos, "right")
    place, place_of_pos = np.unique(below + upto, return_inverse=True)
    cumulative = np.zeros((len(weights), len(levels) + 1))
    np.cumsum(_add_columns(w_neg, level_of_neg, len(levels)), axis=1, out=cumulative[:, 1:])
    wins = (cumulative[:, place // 2] + cumulative[:, (place + 1) // 2]) / 2
    np.divide((_add_columns(w_pos, place_of_pos, len(place)) * wins).sum(axis=1), total, out=out, where=total > 0)
    return out


def _add_columns(x: np.ndarray, to: np.ndarray, width: int) -> np.ndarray:
    """Sums the columns of x [B, n] that go to the same of `width` columns."""
    order = np.argsort(to, kind="stable")
    starts = np.searchsorted(to[order], np.arange(width))
    return np.add.reduceat(x[:, order], starts, axis=1)


@dataclass(frozen=True)
class AucCurve:
    """AUC of a score for "ends correct" at each position.

    Attributes:
        positions: [K].
        value: float64 [K].
        samples: float64 [B, K].
        num_correct: int64 [K], trajectories that end correct and have a score there.
        num_incorrect: int64 [K], trajectories that end incorrect and have a score there.
    """

    positions: np.ndarray
    value: np.ndarray
    samples: np.ndarray
    num_correct: np.ndarray
    num_incorrect: np.ndarray


def auc_curve(
    table: RolloutTable,
    stats: CheckpointStats,
    correct: np.ndarray,
    positions: np.ndarray,
    rows: np.ndarray,
    bootstrap: Bootstrap,
) -> AucCurve:
    """`score_auc` of -H at checkpoint rows [T, K]; -1 where a trajectory has no checkpoint."""
    return score_auc(table, np.where(rows >= 0, -stats.entropy[rows], np.nan), correct, positions, bootstrap)


def score_auc(
    table: RolloutTable, score: np.ndarray, correct: np.ndarray, positions: np.ndarray, bootstrap: Bootstrap
) -> AucCurve:
    """AUC of a high score [T, K] for "ends correct" at each position [K]; a trajectory whose score is NaN is absent
    there. NaN where one class is absent; no resamples where a single problem makes up a class."""
    there = ~np.isnan(score)
    num_correct, num_incorrect = there[correct].sum(axis=0), there[~correct].sum(axis=0)
    value = auc_at_positions(score, correct, np.ones((1, len(correct))))[0]
    samples = auc_at_positions(score, correct, bootstrap.weights[:, table.problem_of_trajectory])
    starts = table.problem_offsets[:-1]
    for member in (correct, ~correct):
        problems = np.logical_or.reduceat(there & member[:, None], starts, axis=0).sum(axis=0)
        samples[:, problems < 2] = np.nan
    return AucCurve(positions, value, samples, num_correct.astype(np.int64), num_incorrect.astype(np.int64))


def auc_at_positions(score: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`weighted_auc` of every column of score [n, K] under weights [B, n]; float64 [B, K]. NaN scores are absent."""
    out = np.full((len(weights), score.shape[1]), np.nan)
    pairs = int(positive.sum()) * int((~positive).sum())
    if pairs == 0 or len(weights) == 0:
        return out
    if pairs > _PAIRS_AT_ONCE:
        for k in range(score.shape[1]):
            there = ~np.isnan(score[:, k])
            held = weights if there.all() else weights[:, there]
            out[:, k] = weighted_auc(score[there, k], positive[there], held)
        return out
    # Few trajectories: all positions' comparisons in one product. Counts and halves are exact in float32.
    x_pos, x_neg = score[positive], score[~positive]
    w_pos, w_neg = weights[:, positive].astype(np.float32), weights[:, ~positive].astype(np.float32)
    wins = (x_pos[:, :, None] > x_neg.T[None]).astype(np.float32) + 0.5 * (x_pos[:, :, None] == x_neg.T[None])
    step = max(1, 4_000_000 // max(1, len(weights) * len(x_neg)))
    for k in range(0, score.shape[1], step):
        part = np.ascontiguousarray(wins[:, k : k + step], dtype=np.float32).reshape(len(x_pos), -1)
        won = (w_pos @ part).reshape(len(weights), -1, len(x_neg))
        above = np.einsum("bkj,bj->bk", won, w_neg, dtype=np.float64)
        total = (w_pos @ ~np.isnan(x_pos[:, k : k + step])) * (w_neg @ ~np.isnan(x_neg[:, k : k + step]))
        np.divide(above, total, out=out[:, k : k + step], where=total > 0)
    return out


_PAIRS_AT_ONCE = 40_000


@dataclass(frozen=True)
class Curve:
    """One curve.

    Attributes:
        name: As in column `curve` of `Analysis.curves`.
        axis: "relative" or "tokens".
        group: One of `GROUPS`.
        positions: [K].
        value: float64 [K].
        samples: float64 [B, K]; None for a curve without an interval.
        count: Number of trajectories of each point, or of all points.
    """

    name: str
    axis: str
    group: str
    positions: np.ndarray
    value: np.ndarray
    samples: np.ndarray | None
    count: np.ndarray | int


def curve_frame(curves: Sequence[Curve]) -> pd.DataFrame:
    """All curves in the long form that `Analysis.curves` has, one row per point."""
    curves = [curve for curve in curves if len(curve.positions)]
    sizes = [len(curve.positions) for curve in curves]
    widest = max((len(curve.samples) for curve in curves if curve.samples is not None), default=0)
    blank = np.full((widest, 1), np.nan)
    samples = np.concatenate(
        [
            np.broadcast_to(blank, (widest, n)) if c.samples is None else c.samples
            for c, n in zip(curves, sizes, strict=True)
        ],
        axis=1,
    )
    low, high = interval(samples)
    return pd.DataFrame(
        {
            "curve": np.repeat(np.array([curve.name for curve in curves], dtype=object), sizes),
            "axis": np.repeat(np.array([curve.axis for curve in curves], dtype=object), sizes),
            "group": np.repeat(np.array([curve.group for curve in curves], dtype=object), sizes),
            "position": np.concatenate([curve.positions for curve in curves]).astype(np.float64),
            "value": np.concatenate([curve.value for curve in curves]),
            "low": low,
            "high": high,
            "se": standard_error(samples),
            "count": np.concatenate(
                [np.broadcast_to(np.asarray(c.count, dtype=np.int64), n) for c, n in zip(curves, sizes, strict=True)]
            ),
        }
    )
