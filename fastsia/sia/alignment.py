"""SIA alignment: how far the entropy of a trajectory's answers and its gold surprisal fall together.

The paper's rho correlates H_t with s_t, both from the same rollouts, so their sampling errors correlate too. Where the
true answer distribution p does not change, rho is near

    rho_0 = (H - s) / sqrt((sum_a p_a ln^2 p_a - H^2) (1 - p_gold) / p_gold),

to leading order (delta method); it does not depend on N. The cross-fitted rho takes H from one half of the rollouts and
s from the other, and has mean 0 there. Where p changes, halves are noisier than the whole and the cross-fitted rho is
mostly closer to 0 than the true one; the paper's is nearer to it in the scenarios of change that were simulated
(docs/method.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import sparse

from fastsia.sia.entropy import gold_surprisal
from fastsia.sia.table import NULL, RolloutTable

MIN_CHECKPOINTS = 3
"""A correlation over fewer checkpoints is undefined."""

MIN_RANGE = 1e-12
"""A series whose range is not above this is constant: its correlation is undefined."""

_ROLLOUTS_AT_ONCE = 60_000


def pearson(x: np.ndarray, y: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Correlation of x and y [G, ...] along each trajectory, whose checkpoints are offsets[i]:offsets[i + 1].

    Returns:
        float64 [T, ...]. NaN for a trajectory with fewer than `MIN_CHECKPOINTS` checkpoints or with a NaN, and where x
        or y is constant along it.
    """
    starts, lengths = offsets[:-1], np.diff(offsets)
    if not lengths.all():  # reduceat cannot sum over nothing
        out = np.full((len(lengths), *x.shape[1:]), np.nan)
        filled = lengths > 0
        if filled.any():
            out[filled] = pearson(x, y, np.concatenate([[0], np.cumsum(lengths[filled])]))
        return out
    x, x_varies = _center(x, starts, lengths)
    y, y_varies = _center(y, starts, lengths)
    covariance = np.add.reduceat(x * y, starts, axis=0)
    scale = np.sqrt(np.add.reduceat(x * x, starts, axis=0) * np.add.reduceat(y * y, starts, axis=0))
    long_enough = (lengths >= MIN_CHECKPOINTS).reshape(-1, *[1] * (x.ndim - 1))
    out = np.full(scale.shape, np.nan)
    np.divide(covariance, scale, out=out, where=x_varies & y_varies & long_enough & (scale > 0))
    return np.clip(out, -1.0, 1.0)


def _center(x: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    varies = np.maximum.reduceat(x, starts, axis=0) - np.minimum.reduceat(x, starts, axis=0) > MIN_RANGE
    count = lengths.reshape(-1, *[1] * (x.ndim - 1))
    mean = np.add.reduceat(x, starts, axis=0) / count
    return x - np.repeat(mean, lengths, axis=0), varies


def ranks(x: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Average ranks (from 1) of x [G] along each trajectory; values closer than `MIN_RANGE` are ties."""
    lengths = np.diff(offsets)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((x, owner))
    fresh = np.ones(len(x), dtype=bool)
    fresh[1:] = (owner[order][1:] != owner[order][:-1]) | (np.diff(x[order]) > MIN_RANGE)
    begin = np.flatnonzero(fresh)
    size = np.diff(np.append(begin, len(x)))
    place = np.arange(len(x)) - np.repeat(offsets[:-1], lengths)
    average = np.repeat(place[begin] + (size - 1) / 2 + 1, size)
    out = np.empty(len(x))
    out[order] = average
    return out


def spearman(x: np.ndarray, y: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Rank correlation of x and y [G] along each trajectory; float64 [T], NaN where `pearson` would be."""
    rho = pearson(ranks(x, offsets), ranks(y, offsets), offsets)
    return np.where(np.isnan(pearson(x, y, offsets)), np.nan, rho)


@dataclass(frozen=True)
class Halves:
    """Estimates from halves of the rollouts at G checkpoints of T trajectories.

    The two halves of split k (of K) are columns 2 k and 2 k + 1.

    Attributes:
        entropy: float64 [G, 2 K], plug-in, NaN where a half is empty.
        surprisal: float64 [G, 2 K], of the gold answer, NaN where a half is empty.
        gold_count: int32 [G, 2 K].
        count: int32 [G, 2 K].
        offsets: int64 [T + 1], the checkpoints of each trajectory.
        uncorrected: The same halves before a correction that differs between checkpoints. Where their H or s is
            constant, so that nothing seems to move, the correction alone must not give a correlation.
    """

    entropy: np.ndarray
    surprisal: np.ndarray
    gold_count: np.ndarray
    count: np.ndarray
    offsets: np.ndarray
    uncorrected: Halves | None = None

    @property
    def other_surprisal(self) -> np.ndarray:
        """`surprisal`, each column replaced by its split's other half."""
        return self.surprisal[:, np.arange(self.surprisal.shape[1]) ^ 1]

    @cached_property
    def rho(self) -> np.ndarray:
        """float64 [T, 2 K]: H from one half against s from the other, each split in both directions; NaN where the
        `uncorrected` ones have none."""
        found = pearson(self.entropy, self.other_surprisal, self.offsets)
        return found if self.uncorrected is None else np.where(np.isnan(self.uncorrected.rho), np.nan, found)

    def with_surprisal(self, surprisal: np.ndarray) -> Halves:
        """The same halves with the gold surprisal of another rule, float64 [G, 2 K]."""
        return replace(self, surprisal=np.where(self.count == 0, np.nan, surprisal))

    def at(self, rows: slice | np.ndarray, offsets: np.ndarray) -> Halves:
        """Some checkpoints only: rows as a slice or bool [G], offsets int64 [T + 1] among those that remain."""
        before = None if self.uncorrected is None else self.uncorrected.at(rows, offsets)
        return Halves(
            entropy=self.entropy[rows],
            surprisal=self.surprisal[rows],
            gold_count=self.gold_count[rows],
            count=self.count[rows],
            offsets=offsets,
            uncorrected=before,
        )

    def hide(self, rows: np.ndarray) -> Halves:
        """NaN at some checkpoints (bool [G])."""
        hidden = rows[:, None]
        return replace(
            self,
            entropy=np.where(hidden, np.nan, self.entropy),
            surprisal=np.where(hidden, np.nan, self.surprisal),
        )

    def reliability_parts(self) -> np.ndarray:
        """float64 [T, 2, 2]: within-trajectory (covariance of halves, variance) sums of H and of s, over all splits.

        Summed over trajectories their ratio is the pooled reliability of half the rollouts.
        """
        starts, lengths = self.offsets[:-1], np.diff(self.offsets)
        parts = np.zeros((len(lengths), 2, 2))
        for i, series in enumerate((self.entropy, self.surprisal)):
            centered, _ = _center(series, starts, lengths)
            left, right = centered[:, 0::2], centered[:, 1::2]
            parts[:, i, 0] = np.nansum(np.add.reduceat(left * right, starts, axis=0), axis=1)
            parts[:, i, 1] = np.nansum(np.add.reduceat((left**2 + right**2) / 2, starts, axis=0), axis=1)
        parts[lengths < MIN_CHECKPOINTS] = 0.0
        return parts


def split_halves(width: int, num_splits: int, seed: int) -> np.ndarray:
    """bool [width, 2 K]: which of `width` rollouts are in each half of each seeded split; an odd one is left out."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    member = np.zeros((width, 2 * num_splits), dtype=bool)
    half = width // 2
    for k in range(num_splits):
        order = generator.permutation(width)
        member[order[:half], 2 * k] = True
        member[order[half : 2 * half], 2 * k + 1] = True
    return member


def halve(table: RolloutTable, alpha: float, num_splits: int, seed: int) -> Halves:
    """Split the rollouts by index, the same way at every checkpoint, and measure both halves.

    Both halves smooth the surprisal with the number of distinct answers of the whole trajectory.
    """
    slots = table.index_in_checkpoint()
    widest = int(slots.max()) + 1
    member = split_halves(widest, num_splits, seed)
    columns = member.shape[1]
    entropy = np.empty((table.num_checkpoints, columns))
    gold = np.empty((table.num_checkpoints, columns), dtype=np.int32)
    total = np.empty((table.num_checkpoints, columns), dtype=np.int32)
    owner = table.trajectory_of_checkpoint
    counts = np.arange(widest + 1, dtype=np.float64)
    plogp = np.zeros(widest + 1)
    plogp[1:] = counts[1:] * np.log(counts[1:])
    log_count = np.log(np.maximum(counts, 1))
    weights = member.astype(np.float32)

    for begin, end in _chunks(table.checkpoint_offsets, _ROLLOUTS_AT_ONCE):
        first, last = table.checkpoint_offsets[begin], table.checkpoint_offsets[end]
        group = np.repeat(np.arange(end - begin), table.count[begin:end])
        slot = slots[first:last]
        cell, new_group = _cells(group, table.code[first:last])
        # [cells, rollouts] indicator times [rollouts, halves] gives the count of each answer in each half.
        indicator = sparse.csr_matrix(
            (np.ones(last - first, dtype=np.float32), (cell, slot)), shape=(int(cell.max()) + 1, widest)
        )
        drawn = (indicator @ weights).astype(np.intp)
        size = _sum_by(group, slot, weights, end - begin)
        gold_rows = table.code[first:last] == np.repeat(table.gold[owner[begin:end]], table.count[begin:end])
        gold[begin:end] = _sum_by(group[gold_rows], slot[gold_rows], weights, end - begin)
        total[begin:end] = size
        sums = np.add.reduceat(plogp[drawn], new_group, axis=0)
        filled = np.maximum(size, 1)
        entropy[begin:end] = np.where(size == 0, np.nan, np.maximum(log_count[filled] - sums / filled, 0.0))
    surprisal = gold_surprisal(gold, total, table.num_answers[owner][:, None], alpha)
    return Halves(
        entropy=entropy,
        surprisal=np.where(total == 0, np.nan, surprisal),
        gold_count=gold,
        count=total,
        offsets=table.trajectory_offsets,
    )


def noise_rho(table: RolloutTable) -> np.ndarray:
    """rho_0 of each trajectory at its pooled answers, float64 [T]: what its rho would be if p never moved.

    NaN where no rollout has the gold answer, or where all answers are equally frequent.
    """
    local = table.local_answers()
    owner = np.repeat(table.trajectory_of_checkpoint, table.count)
    weight = np.repeat(1.0 / table.count, table.count)  # every checkpoint counts alike
    counts = np.bincount(local.offsets[owner] + local.code, weights=weight, minlength=len(local.global_code))
    p = counts / np.repeat(np.add.reduceat(counts, local.offsets[:-1]), local.number)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    entropy = -np.add.reduceat(p * logs, local.offsets[:-1])
    spread = np.add.reduceat(p * logs**2, local.offsets[:-1]) - entropy**2
    gold = p[local.offsets[:-1] + local.gold]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (entropy + np.log(gold)) / np.sqrt(spread * (1 - gold) / gold)
    return np.where((gold > 0) & (spread > MIN_RANGE) & np.isfinite(found), np.clip(found, -1, 1), np.nan)


def _cells(group: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the distinct (group, answer) pairs in order: cell [R], and where each group's cells begin [G]."""
    key = group * (int(code.max(initial=0)) + 2) + (code.astype(np.int64) - NULL)
    order = np.argsort(key, kind="stable")
    fresh = np.ones(len(key), dtype=bool)
    fresh[1:] = key[order][1:] != key[order][:-1]
    cell = np.empty(len(key), dtype=np.int64)
    cell[order] = np.cumsum(fresh) - 1
    cell_group = group[order][fresh]
    return cell, np.searchsorted(cell_group, np.arange(int(group[-1]) + 1))


def _sum_by(group: np.ndarray, slot: np.ndarray, weights: np.ndarray, num_groups: int) -> np.ndarray:
    """int [groups, halves]: members of each half among a group's rollouts."""
    indicator = sparse.csr_matrix(
        (np.ones(len(group), dtype=np.float32), (group, slot)), shape=(num_groups, len(weights))
    )
    return (indicator @ weights).astype(np.intp)


def _chunks(offsets: np.ndarray, size: int) -> list[tuple[int, int]]:
    """Cut the groups into runs of about `size` rows."""
    cuts = np.searchsorted(offsets, np.arange(0, offsets[-1], size), side="left")
    edges = np.unique(np.append(cuts, len(offsets) - 1))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def cross_fitted(halves: Halves) -> tuple[np.ndarray, np.ndarray]:
    """Each trajectory's mean over splits and directions, float64 [T] (NaN if none is defined), and the share of
    (split, direction) pairs that are undefined, float64 [T]."""
    defined = ~np.isnan(halves.rho)
    count = defined.sum(axis=1)
    total = np.where(defined, halves.rho, 0.0).sum(axis=1)
    mean = np.full(len(count), np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean, 1 - count / max(halves.rho.shape[1], 1)


@dataclass(frozen=True)
class OutcomeTest:
    """The permutation test among trajectories of one outcome.

    Attributes:
        statistic: Mean cross-fitted rho on the common grid.
        permuted_mean: Mean of the statistic over the permutations of the surprisals.
        permuted_bound: 95th (correct) or 5th (incorrect) percentile of the statistic over the permutations.
        p_value: One-sided: upwards for trajectories that end correct, downwards for the others.
        num_trajectories: Those with a defined correlation.
    """

    statistic: float
    permuted_mean: float
    permuted_bound: float
    p_value: float
    num_trajectories: int


@dataclass(frozen=True)
class PermutationTest:
    """Whether H and s of one trajectory move together more than those of different trajectories.

    Attributes:
        p_value: Of both outcomes together (Bonferroni): the smaller p-value, doubled where there are two.
        num_trajectories: Those of both.
        num_permutations: Of each.
        correct: Among trajectories that end correct; None for fewer than two.
        incorrect: Among the others; None for fewer than two.
    """

    p_value: float
    num_trajectories: int
    num_permutations: int
    correct: OutcomeTest | None
    incorrect: OutcomeTest | None


def permutation_test(
    halves: Halves,
    rows: np.ndarray,
    share: np.ndarray,
    correct: np.ndarray,
    *,
    num_permutations: int,
    seed: int,
    max_trajectories: int = 2000,
) -> PermutationTest | None:
    """Permutation test: does H go with s of the same trajectory beyond a trend that all trajectories share?

    Among trajectories of one outcome the surprisals are permuted over the trajectories at equal relative positions. A
    common trend survives this, so the p-value, (1 + exceeding) / (1 + permutations), is small only where H and s of one
    trajectory move together beyond it. That is not exact, because H and s of one trajectory are known at the same
    places and those of two at others. Between checkpoints they are interpolated: as steps, they rejected a common trend
    in up to half of the simulated runs where the numbers of checkpoints differ; interpolated, in 3 to 17 % (level .05).

    Outcomes are tested apart, since correlations have the other sign where trajectories end incorrect and would cancel
    in a common mean. The statistic is the mean correlation in standard errors from the mean of all mismatched pairs:
    averaging over splits reduces the variance of mismatched correlations more than of matched ones, so the plain mean
    rejected twice as often as its level.

    Args:
        rows, share: int64 [T, Q, 2] and float64 [T, Q], where each trajectory is at Q common relative positions, as
            `between_rows` returns them; one trajectory per problem, at most `max_trajectories` of them (a seeded
            choice).
        correct: bool [T], which of them end correct.

    Returns:
        None where no outcome has two trajectories with a defined correlation.
    """
    generator = np.random.Generator(np.random.Philox(key=seed))
    if len(rows) > max_trajectories:
        chosen = np.sort(generator.permutation(len(rows))[:max_trajectories])
        rows, share, correct = rows[chosen], share[chosen], correct[chosen]
    entropy, surprisal = (_between(x, rows, share) for x in (halves.entropy, halves.other_surprisal))
    right = _permute(entropy[correct], surprisal[correct], num_permutations, generator, 1.0)
    wrong = _permute(entropy[~correct], surprisal[~correct], num_permutations, generator, -1.0)
    tests = [test for test in (right, wrong) if test is not None]
    if not tests:
        return None
    p_value = min(1.0, len(tests) * min(test.p_value for test in tests))
    return PermutationTest(
        p_value=p_value,
        num_trajectories=sum(test.num_trajectories for test in tests),
        num_permutations=num_permutations,
        correct=right,
        incorrect=wrong,
    )


def _permute(
    entropy: np.ndarray, surprisal: np.ndarray, num_permutations: int, generator: np.random.Generator, sign: float
) -> OutcomeTest | None:
    """The test among some trajectories, from H and s [T, Q, 2 K]; sign: +1 for correlations above, -1 for those below
    the mismatched ones."""
    if len(entropy) < 2:
        return None
    entropy, entropy_defined = _unit(entropy)
    surprisal, surprisal_defined = _unit(surprisal)
    varies = entropy_defined.any(axis=1) & surprisal_defined.any(axis=1)
    number = int(varies.sum())
    if number < 2:
        return None
    entropy, surprisal = entropy[varies].reshape(number, -1), surprisal[varies].reshape(number, -1)
    counts = entropy_defined[varies].astype(np.float32) @ surprisal_defined[varies].astype(np.float32).T
    rho = np.full((number, number), np.nan)
    np.divide(entropy @ surprisal.T, counts, out=rho, where=counts > 0)
    here = np.arange(number)
    apart = rho[~np.eye(number, dtype=bool)]
    if not np.isfinite(apart).any() or not np.isfinite(rho[here, here]).any():
        return None
    common = float(np.nanmean(apart))
    order = np.array([generator.permutation(number) for _ in range(num_permutations)]).reshape(num_permutations, number)
    own, own_scaled = _studentized(rho[here, here][None], common)
    permuted, permuted_scaled = _studentized(rho[here, order], common)
    exceeding = int((sign * permuted_scaled >= sign * own_scaled[0] - 1e-12).sum())
    return OutcomeTest(
        statistic=float(own[0]),
        permuted_mean=float(permuted.mean()),
        permuted_bound=float(np.quantile(permuted, 0.95 if sign > 0 else 0.05)),
        p_value=(1 + exceeding) / (1 + num_permutations),
        num_trajectories=number,
    )


def _between(x: np.ndarray, rows: np.ndarray, share: np.ndarray) -> np.ndarray:
    """x [G, 2 K] interpolated linearly to [T, Q, 2 K]."""
    before, after = x[rows[..., 0]], x[rows[..., 1]]
    found: np.ndarray = before + share[..., None] * (after - before)
    return found


def _studentized(rho: np.ndarray, center: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each row of rho [B, n], NaN left out, and its distance from `center` in standard errors."""
    defined = ~np.isnan(rho)
    count = np.maximum(defined.sum(axis=1), 1)
    mean = np.where(defined, rho, 0.0).sum(axis=1) / count
    variance = np.where(defined, rho - mean[:, None], 0.0) ** 2
    error = np.sqrt(variance.sum(axis=1)) / count
    return mean, (mean - center) / np.maximum(error, 1e-12)


def _unit(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Series x [T, Q, 2 K] centred and scaled to length 1 over Q (float32; 0 where constant), and where they vary."""
    defined = np.ptp(x, axis=1) > MIN_RANGE
    centered = x - x.mean(axis=1, keepdims=True)
    length = np.sqrt((centered**2).sum(axis=1, keepdims=True))
    scaled = np.zeros(x.shape, dtype=np.float32)
    np.divide(centered, length, out=scaled, where=defined[:, None], casting="same_kind")
    return scaled, defined
