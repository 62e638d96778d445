"""Whether two sets of answers can come from one distribution: the exact permutation test of their total variation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

_MOST_CELLS = 300_000
"""The largest table of the exact test; beyond it the permutations are drawn."""
_MOST_ANSWERS = 500
"""With more answers in both sets the number of divisions is too large for a float."""
_NUM_DRAWS = 9_999


def total_variation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Half the sum of absolute differences of the shares, float64 [n]; NaN where a set is empty.

    Args:
        first: Counts by answer, [n, K].
        second: Of the other sets.
    """
    with np.errstate(invalid="ignore"):
        shares = [counts / counts.sum(axis=1, keepdims=True) for counts in (first, second)]
    return 0.5 * np.abs(shares[0] - shares[1]).sum(axis=1)


def compare_counts(first: np.ndarray, second: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The exact permutation test of n pairs of sets of answers.

    If both sets come from one distribution, any division of all their answers into sets of these sizes is equally
    likely. The p-value is the share of the divisions whose total variation is at least that of the data. It is exact
    at any number of answers; of very large sets 9,999 divisions are drawn.

    Args:
        first: Counts by answer, int64 [n, K].
        second: Of the other sets.
        seed: Of the divisions that are drawn.

    Returns:
        p-values, and the mean total variation over the divisions, the value expected by chance; float64 [n]. NaN
        where a set is empty.
    """
    p_value, chance = np.full(len(first), np.nan), np.full(len(first), np.nan)
    sizes = first.sum(axis=1), second.sum(axis=1)
    for i in np.flatnonzero((sizes[0] > 0) & (sizes[1] > 0)).tolist():
        size, other = int(sizes[0][i]), int(sizes[1][i])
        pooled = first[i] + second[i]
        there = pooled > 0
        if there.sum() == 1:
            p_value[i], chance[i] = 1.0, 0.0
            continue
        tail, mean = _distribution(tuple(sorted(pooled[there].tolist())), size, other, seed)
        units = _units(first[i][there], pooled[there], size, other)
        p_value[i], chance[i] = tail[int(units)], mean
    return p_value, chance


def _scale(size: int, other: int) -> tuple[int, int]:
    """The set's share of all answers as a fraction in lowest terms."""
    divisor = math.gcd(size, size + other)
    return size // divisor, (size + other) // divisor


def _units(counts: np.ndarray, pooled: np.ndarray, size: int, other: int) -> np.ndarray:
    """Total variation in whole numbers, summed over the last axis: |x W - c w| for the fraction w / W of `_scale`."""
    part, whole = _scale(size, other)
    return np.abs(counts * whole - pooled * part).sum(axis=-1)


@lru_cache(maxsize=20_000)
def _distribution(pooled: tuple[int, ...], size: int, other: int, seed: int) -> tuple[np.ndarray, float]:
    """P(units >= u) for each u, and the mean total variation, over all divisions of the pooled counts."""
    part, whole = _scale(size, other)
    largest = sum(max(count * part, abs(min(count, size) * whole - count * part)) for count in pooled)
    if (size + 1) * (largest + 1) <= _MOST_CELLS and size + other <= _MOST_ANSWERS:
        mass = _exact(pooled, size, largest, part, whole)
        tail = np.cumsum(mass[::-1])[::-1]
    else:
        rng = np.random.default_rng(seed)
        drawn = rng.multivariate_hypergeometric(pooled, size, size=_NUM_DRAWS, method="marginals")
        counts = np.bincount(_units(drawn, np.array(pooled), size, other), minlength=largest + 1)
        mass = counts / _NUM_DRAWS
        # The data count as one of the divisions, so that a p-value is never 0.
        tail = (np.cumsum(counts[::-1])[::-1] + 1) / (_NUM_DRAWS + 1)
    mean = float(mass @ np.arange(len(mass))) * (size + other) / whole / (2 * size * other)
    return np.minimum(tail, 1.0), mean


def _exact(pooled: Iterable[int], size: int, largest: int, part: int, whole: int) -> np.ndarray:
    """The probability of each sum of units, by adding one answer after the other."""
    ways = np.zeros((size + 1, largest + 1))
    ways[0, 0] = 1.0
    total = 0
    for count in pooled:
        added = np.zeros_like(ways)
        for taken in range(min(count, size) + 1):
            units = abs(taken * whole - count * part)
            added[taken:, units:] += math.comb(count, taken) * ways[: size + 1 - taken, : largest + 1 - units]
        ways, total = added, total + count
    return ways[size] / math.comb(total, size)
