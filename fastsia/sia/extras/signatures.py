"""Signatures of trajectories and of mean curves: lock-in, monotonicity, change points, saturation, Fano, pooling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from fastsia.answers.distribution import summarize
from fastsia.sia.bootstrap import Bootstrap, standard_error
from fastsia.sia.curves import GRID, GROUPS, Curve, group_means, token_rows
from fastsia.sia.entropy import CheckpointStats
from fastsia.sia.estimate import Resampled
from fastsia.sia.quantities import mean_of
from fastsia.sia.registry import COLUMNS, CURVES, FACTS, GroupEstimate, Quantity, add_quantity
from fastsia.sia.scored import Scored
from fastsia.sia.smoother import MOVES, Smoothed
from fastsia.sia.table import NULL, RolloutTable

PLATEAU_BAND = 0.05
"""Nats around the plateau level within which a mean entropy curve counts as saturated. Chosen by fastsia."""

RISE_TOLERANCES = (0.0, 0.05, 0.1, 0.2, 0.5)
"""Largest rises of H (nats) between checkpoints at which a trajectory still counts as monotone. Chosen by fastsia."""


def lock_in(table: RolloutTable, mode: np.ndarray) -> np.ndarray:
    """int64 [T]: row of the first checkpoint from which the mode (int [G], codes) never changes again, the last one at
    the latest; -1 where the last mode is no answer."""
    final = mode[table.last]
    rows = np.where(mode != final[table.trajectory_of_checkpoint], np.arange(table.num_checkpoints), -1)
    first = np.maximum(np.maximum.reduceat(rows, table.trajectory_offsets[:-1]) + 1, table.first)
    return np.where(final == NULL, -1, first)


def largest_rise(table: RolloutTable, stats: CheckpointStats) -> np.ndarray:
    """float64 [T], nats: the largest rise of H from one checkpoint to the next, 0 where it never rises."""
    rise = np.zeros(table.num_checkpoints)
    rise[1:] = np.diff(stats.entropy)
    rise[table.first] = 0.0
    return np.maximum(np.maximum.reduceat(rise, table.trajectory_offsets[:-1]), 0.0)


def misaligned(table: RolloutTable, smoothed: Smoothed) -> np.ndarray:
    """bool [T]: by the change-point estimates H is lower and s higher at the last checkpoint than at the first, and the
    answer distribution probably changes. By plug-in H and s noise alone misaligns up to 40 % of the trajectories. False
    where no rollout gives the gold answer: s then rises or falls with the number of rollouts of a stretch."""
    more_certain = smoothed.entropy[table.last] < smoothed.entropy[table.first]
    further_off = smoothed.surprisal[table.last] > smoothed.surprisal[table.first]
    has_gold = smoothed.has_gold(slice(None), smoothed.offsets)
    return more_certain & further_off & (smoothed.moves > MOVES) & has_gold


@dataclass(frozen=True)
class Saturation:
    """Where a mean entropy curve over `GRID` flattens.

    Attributes:
        level: Mean of its last fifth, nats.
        onset: First q from which it stays within `PLATEAU_BAND` of that level; NaN where only the last point does.
    """

    level: np.ndarray
    onset: np.ndarray


def saturation(curves: np.ndarray) -> Saturation:
    """Of curves [..., Q]; each result [...]."""
    level = curves[..., GRID >= 0.8 - 1e-9].mean(axis=-1)
    outside = np.abs(curves - level[..., None]) > PLATEAU_BAND
    last_outside = np.where(outside, np.arange(len(GRID)), -1).max(axis=-1)
    none = np.isnan(level) | (last_outside >= len(GRID) - 2)
    return Saturation(level, np.where(none, np.nan, GRID[np.minimum(last_outside + 1, len(GRID) - 1)]))


def rebound(scored: Scored) -> Resampled:
    """By how much mean H rises again after its lowest point, nats.

    The lowest position is sought in the mean curve of one half of the rollouts and read in that of the other: last
    value minus value there, averaged over splits and directions. The minimum of a noisy curve would be too low. Given
    the trajectories, the expectation is at most 0 where their mean H does not rise. The curves are over tokens written,
    trajectories carried forward after their end.
    """
    halves = scored.halves.entropy[carried_rows(scored.table)]
    number, positions, columns = halves.shape
    sums = np.add.reduceat(np.nan_to_num(halves).reshape(number, -1), scored.table.problem_offsets[:-1], axis=0)
    count = np.diff(scored.table.problem_offsets)[:, None].astype(np.float64)

    def of_curves(curves: np.ndarray) -> np.ndarray:
        curves = curves.reshape(*curves.shape[:-1], positions, columns)
        lowest = curves.argmin(axis=-2)[..., np.arange(columns) ^ 1]
        there = np.take_along_axis(curves, lowest[..., None, :], axis=-2)[..., 0, :]
        return (curves[..., -1, :] - there).mean(axis=-1)

    value = of_curves(sums.sum(axis=0) / count.sum())
    samples = np.concatenate(
        [of_curves(Bootstrap(part).ratio(sums, count)) for part in np.array_split(scored.bootstrap.weights, 20)]
    )
    return Resampled(value, samples, number)


def carried_rows(table: RolloutTable) -> np.ndarray:
    """int64 [T, K]: each trajectory's row at positions on the stride's grid and at the largest last checkpoint; after
    its end, its last one."""
    positions = np.append(token_rows(table)[0], int(table.checkpoint[table.last].max()))
    span = int(positions[-1]) + 1
    key = table.trajectory_of_checkpoint * span + table.checkpoint
    wanted = np.arange(table.num_trajectories)[:, None] * span + positions
    return np.maximum(np.searchsorted(key, wanted, side="right") - 1, table.first[:, None])


def fano_bound(entropy: np.ndarray, num_answers: int) -> np.ndarray:
    """(H - ln 2) / ln |A|, at least 0: by Fano's inequality, the least error of any guess of the answer at entropies H
    [...] (nats), if the model's answers were calibrated. NaN for a single answer."""
    if num_answers < 2:
        return np.full(np.shape(entropy), np.nan)
    return np.maximum((entropy - np.log(2.0)) / np.log(num_answers), 0.0)


@dataclass(frozen=True)
class ChangePoints:
    """Where the answer distribution of a trajectory changes.

    Attributes:
        count: int64 [T], number of changes.
        first: int64 [T], row of the first change; -1 without changes.
        largest: int64 [T], row of the change across which the likelihood gains most; -1 without changes.
    """

    count: np.ndarray
    first: np.ndarray
    largest: np.ndarray


def change_points(table: RolloutTable) -> ChangePoints:
    """Split each trajectory into stretches of one answer distribution, as the BIC prefers.

    A stretch costs its multinomial negative log-likelihood (rollouts times the entropy of their pooled answers), and
    every further one (K - 1 + 1) / 2 ln n: the trajectory has K distinct answers and n rollouts, 1 for the place.
    Exact, by dynamic programming. A change is at the first checkpoint of the new stretch.
    """
    count = np.zeros(table.num_trajectories, dtype=np.int64)
    first = np.full(table.num_trajectories, -1, dtype=np.int64)
    largest = np.full(table.num_trajectories, -1, dtype=np.int64)
    lengths = np.diff(table.trajectory_offsets)
    local, num_local = _local_codes(table)
    order = np.lexsort((num_local, lengths))
    for begin, end in _runs(order, lengths, num_local):
        members = order[begin:end]
        found = _best_division(table, members, local, num_local)
        count[members], first[members], largest[members] = found
    return ChangePoints(count, first, largest)


def _local_codes(table: RolloutTable) -> tuple[np.ndarray, np.ndarray]:
    """Answers numbered within their trajectory: int64 [R], and how many each trajectory has, int64 [T]."""
    owner = np.repeat(table.trajectory_of_checkpoint, table.count)
    key = owner * (len(table.answers) + 1) + (table.code.astype(np.int64) - NULL)
    distinct, inverse = np.unique(key, return_inverse=True)
    of_trajectory = distinct // (len(table.answers) + 1)
    starts = np.searchsorted(of_trajectory, np.arange(table.num_trajectories))
    return inverse - starts[owner], np.bincount(of_trajectory, minlength=table.num_trajectories)


def _runs(order: np.ndarray, lengths: np.ndarray, widths: np.ndarray) -> list[tuple[int, int]]:
    """Cut trajectories, sorted by size, into batches whose dense arrays stay small."""
    size = (lengths[order] + 1) ** 2 * widths[order]
    edges, used = [0], 0
    for i, each in enumerate(size.tolist()):
        used += each
        if used > 4_000_000 and i > edges[-1]:
            edges.append(i)
            used = each
    edges.append(len(order))
    return list(pairwise(edges))


def _best_division(
    table: RolloutTable, members: np.ndarray, local: np.ndarray, num_local: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    lengths = np.diff(table.trajectory_offsets)[members]
    longest, widest = int(lengths.max()), int(num_local[members].max())
    number = len(members)
    cumulative = np.zeros((number, longest + 1, widest), dtype=np.int64)
    for i, trajectory in enumerate(members.tolist()):
        begin, end = table.trajectory_offsets[trajectory], table.trajectory_offsets[trajectory + 1]
        rows = slice(table.checkpoint_offsets[begin], table.checkpoint_offsets[end])
        place = np.repeat(np.arange(end - begin), table.count[begin:end])
        counts = np.bincount(place * widest + local[rows], minlength=(end - begin) * widest)
        cumulative[i, 1 : end - begin + 1] = np.cumsum(counts.reshape(-1, widest), axis=0)
        cumulative[i, end - begin + 1 :] = cumulative[i, end - begin]
    total = cumulative[:, -1].sum(axis=-1)
    numbers = np.arange(int(total.max()) + 1, dtype=np.float64)
    xlogx = np.zeros_like(numbers)
    xlogx[1:] = numbers[1:] * np.log(numbers[1:])
    penalty = num_local[members] / 2 * np.log(total)
    best = np.full((number, longest + 1), np.inf)
    best[:, 0] = -penalty
    back = np.zeros((number, longest + 1), dtype=np.int64)
    for end in range(1, longest + 1):
        inside = cumulative[:, end, None] - cumulative[:, :end]
        cost = xlogx[inside.sum(axis=-1)] - xlogx[inside].sum(axis=-1)
        value = best[:, :end] + cost + penalty[:, None]
        back[:, end] = np.argmin(value, axis=1)
        best[:, end] = np.take_along_axis(value, back[:, end, None], axis=1)[:, 0]
    count = np.zeros(number, dtype=np.int64)
    first, largest = np.full(number, -1, dtype=np.int64), np.full(number, -1, dtype=np.int64)
    for i, trajectory in enumerate(members.tolist()):
        edges = [int(lengths[i])]
        while edges[-1] > 0:
            edges.append(int(back[i, edges[-1]]))
        edges.reverse()
        inner = edges[1:-1]
        if inner:
            left, middle, right = (cumulative[i, np.array(part)] for part in (edges[:-2], inner, edges[2:]))
            joined, before, after = right - left, middle - left, right - middle
            gains = _cost(joined, xlogx) - _cost(before, xlogx) - _cost(after, xlogx)
            count[i] = len(inner)
            first[i] = table.trajectory_offsets[trajectory] + inner[0]
            largest[i] = table.trajectory_offsets[trajectory] + inner[int(np.argmax(gains))]
    return count, first, largest


def _cost(counts: np.ndarray, xlogx: np.ndarray) -> np.ndarray:
    return xlogx[counts.sum(axis=-1)] - xlogx[counts].sum(axis=-1)


@dataclass(frozen=True)
class Pooled:
    """Estimates from a checkpoint's own rollouts and all earlier ones that match the trajectory up to it, [G] each.

    Attributes:
        count: int64, pooled rollouts.
        entropy: float64, plug-in, nats.
        cut: float64, share of the earlier rollouts that the token limit ended; they had fewer tokens left than the
            checkpoint's own.
    """

    count: np.ndarray
    entropy: np.ndarray
    cut: np.ndarray


# Trajectories pooled at once: a borrowed draw is repeated for every checkpoint that it serves.
_TRAJECTORIES_AT_ONCE = 64


def pooled(table: RolloutTable, alpha: float) -> Pooled | None:
    """None where the table lacks the number of matched tokens of its rollouts (column `matched_tokens`)."""
    if table.matched is None:
        return None
    starts = range(0, table.num_trajectories, _TRAJECTORIES_AT_ONCE)
    ends = table.trajectory_offsets[np.append(starts, table.num_trajectories)]
    parts = [_pooled(table, table.matched, alpha, int(begin), int(end)) for begin, end in pairwise(ends)]
    return Pooled(
        np.concatenate([part.count for part in parts]),
        np.concatenate([part.entropy for part in parts]),
        np.concatenate([part.cut for part in parts]),
    )


def _pooled(table: RolloutTable, matched: np.ndarray, alpha: float, begin: int, end: int) -> Pooled:
    """Pool checkpoint rows begin..end - 1, which are all rows of some trajectories."""
    mine = slice(int(table.checkpoint_offsets[begin]), int(table.checkpoint_offsets[end]))
    checkpoint, count = table.checkpoint[begin:end], table.count[begin:end]
    owner = table.trajectory_of_checkpoint[begin:end]
    row = np.repeat(np.arange(end - begin), count)
    span = int(checkpoint.max()) + 2
    reach = np.minimum(checkpoint[row] + matched[mine], span - 1)
    last = np.searchsorted(owner * span + checkpoint, owner[row] * span + reach, side="right") - 1
    copies = last - row + 1
    source = np.repeat(np.arange(len(row)), copies)
    target = row[source] + np.arange(len(source)) - np.repeat(np.cumsum(copies) - copies, copies)
    order = np.argsort(target, kind="stable")
    source, target = source[order], target[order]
    num_draws = np.bincount(target, minlength=end - begin)
    summary = summarize(
        table.code[mine][source],
        np.concatenate([[0], np.cumsum(num_draws)]).astype(np.int64),
        table.gold[owner].astype(np.int32),
        table.num_answers[owner].astype(np.int32),
        alpha,
    )
    borrowed = row[source] != target
    num_borrowed = np.bincount(target, weights=borrowed, minlength=end - begin)
    ended = np.zeros(len(row), dtype=bool) if table.cut is None else table.cut[mine]
    num_cut = np.bincount(target, weights=borrowed & ended[source], minlength=end - begin)
    cut = np.divide(num_cut, num_borrowed, out=np.zeros(end - begin), where=num_borrowed > 0)
    return Pooled(num_draws, np.asarray(summary.entropy, dtype=np.float64), cut)


def _of_trajectories(scored: Scored) -> Mapping[str, Any]:
    table, stats = scored.table, scored.stats
    locked = lock_in(table, scored.smoothed.mode)
    position = np.where(locked < 0, np.nan, table.checkpoint[locked])
    changes = change_points(table)
    change = pd.array(np.where(changes.largest >= 0, table.checkpoint[changes.largest], 0), dtype="Int64")
    change[changes.largest < 0] = pd.NA
    return {
        "lock_in": pd.array(position, dtype="Int64"),
        "lock_in_relative": position / scored.length,
        "largest_rise": largest_rise(table, stats),
        "misaligned": misaligned(table, scored.smoothed),
        "num_change_points": changes.count,
        "change_point": change,
    }


def _of_checkpoints(scored: Scored) -> Mapping[str, Any]:
    found = pooled(scored.table, scored.config.smoothing)
    if found is None:
        return {}
    return {"entropy_pooled": found.entropy, "num_pooled": found.count, "pooled_cut_share": found.cut}


def _num_answers(scored: Scored) -> int:
    """|A| of the Fano bound: the options with no answer, or the largest V, which grows with the number of rollouts."""
    return int(scored.table.num_answers.max()) if scored.num_options is None else scored.num_options + 1


def _mean_gain(scored: Scored) -> Resampled:
    """The gain per step between checkpoints, of trajectories with more than one."""
    steps = scored.trajectories["num_checkpoints"].to_numpy() - 1
    gain = scored.trajectories["gain"].to_numpy(np.float64)
    return scored.mean(np.divide(gain, steps, out=np.full(len(gain), np.nan), where=steps > 0))


def _facts(scored: Scored) -> dict[str, Any]:
    frame = scored.trajectories
    count, place = frame["num_change_points"].to_numpy(), frame["change_point"]
    relative = (place.to_numpy(np.float64, na_value=np.nan) / scored.length)[place.notna().to_numpy()]
    error = float(standard_error(_mean_gain(scored).samples))
    found: dict[str, Any] = {
        "mean_step_gain_se": error if np.isfinite(error) else None,
        "fano_num_answers": _num_answers(scored),
        "change_points": {
            "mean_number": float(count.mean()),
            "share_without": float((count == 0).mean()),
            "mean_relative_position": float(relative.mean()) if len(relative) else None,
        },
    }
    if "entropy_pooled" in scored.checkpoints:
        entropy, draws, cut = (
            scored.checkpoints[name].to_numpy() for name in ("entropy_pooled", "num_pooled", "pooled_cut_share")
        )
        found["pooled"] = {
            "mean_draws": float(draws.mean()),
            "entropy_difference": float((entropy - scored.stats.entropy).mean()),
            "cut_share": float(cut.mean()),
        }
    return found


def _curves(scored: Scored) -> Iterator[Curve]:
    """The would-be Fano bound, and the mean pooled entropy of each group."""
    entropy, num_answers = scored.mean_curve("entropy"), _num_answers(scored)
    bound, bounds = fano_bound(entropy.value, num_answers), fano_bound(entropy.samples, num_answers)
    yield Curve("fano_bound", "relative", "all", GRID, bound, bounds, entropy.n)
    if "entropy_pooled" in scored.checkpoints:
        values = scored.checkpoints["entropy_pooled"].to_numpy()[scored.at_grid][:, None]
        means = group_means(scored.table, values, scored.correct, scored.bootstrap)
        for g, (group, count) in enumerate(zip(GROUPS, means.count.tolist(), strict=True)):
            yield Curve("entropy_pooled", "relative", group, GRID, means.value[g, 0], means.samples[:, g, 0], count)


def _saturation(part: str, scored: Scored) -> Iterator[GroupEstimate]:
    curve = scored.mean_curve("entropy")
    found, resampled = saturation(curve.value), saturation(curve.samples)
    yield GroupEstimate(Resampled(getattr(found, part), getattr(resampled, part), curve.n).estimate())


def _rebound(scored: Scored) -> Iterator[GroupEstimate]:
    yield GroupEstimate(rebound(scored).estimate())


def _step_gain(scored: Scored) -> Iterator[GroupEstimate]:
    yield GroupEstimate(_mean_gain(scored).estimate())


def _mean_of(column: str, scored: Scored) -> Iterator[GroupEstimate]:
    yield GroupEstimate(mean_of(column, scored).estimate())


def _monotone(scored: Scored) -> Iterator[GroupEstimate]:
    rise = scored.trajectories["largest_rise"].to_numpy()
    for tolerance in RISE_TOLERANCES:
        yield GroupEstimate(scored.mean(rise <= tolerance + 1e-12).estimate(), position=tolerance)


COLUMNS["trajectories"].append(_of_trajectories)
COLUMNS["checkpoints"].append(_of_checkpoints)
CURVES.append(_curves)
FACTS.append(_facts)
for _part in ("level", "onset"):
    add_quantity(
        Quantity(f"saturation_{_part}", make=partial(_saturation, _part), key=f"saturation.{_part}", compared=False)
    )
add_quantity(Quantity("saturation_rebound", make=_rebound, key="saturation.rebound", compared=False))
add_quantity(Quantity("mean_step_gain", make=_step_gain, compared=False))
for _name, _column in (("misalignment", "misaligned"), ("lock_in", "lock_in_relative")):
    add_quantity(Quantity(_name, make=partial(_mean_of, _column), compared=False))
add_quantity(Quantity("monotone", make=_monotone, item=("tolerance", "share"), compared=False))
