"""Percentile bootstrap over problems. Problems are the clusters: their trajectories and checkpoints move together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
"""Coverage of every interval fastsia prints."""


@dataclass(frozen=True)
class Bootstrap:
    """Resamples of P problems, as weights: weights[b, p] is how often resample b contains problem p (float64 [B, P]).

    Percentile and not BCa: BCa is undefined on constant data, which small runs have.
    """

    weights: np.ndarray

    @classmethod
    def draw(cls, num_problems: int, num_resamples: int, seed: int) -> Bootstrap:
        """The same seed and sizes give the same resamples."""
        generator = np.random.Generator(np.random.Philox(key=seed))
        weights = np.empty((num_resamples, num_problems))
        step = max(1, 4_000_000 // max(num_problems, 1))
        for begin in range(0, num_resamples, step):
            rows = min(step, num_resamples - begin)
            picks = generator.integers(num_problems, size=(rows, num_problems))
            picks += np.arange(rows)[:, None] * num_problems
            weights[begin : begin + rows] = np.bincount(picks.ravel(), minlength=rows * num_problems).reshape(rows, -1)
        return cls(weights)

    def __len__(self) -> int:
        return len(self.weights)

    def ratio(self, numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
        """Resampled Σ numerator / Σ denominator of per-problem sums [P, ...]; NaN where the denominator is 0.

        A mean over trajectories is such a ratio: sums of the value over sums of the count. What a single problem
        defines is NaN in every resample: resampling that problem can say nothing about how it varies.
        """
        shape = np.broadcast_shapes(numerator.shape, denominator.shape)
        above = (self.weights @ numerator.reshape(len(numerator), -1)).reshape(len(self), *numerator.shape[1:])
        below = (self.weights @ denominator.reshape(len(denominator), -1)).reshape(len(self), *denominator.shape[1:])
        out = np.full((len(self), *shape[1:]), np.nan)
        several = np.count_nonzero(denominator, axis=0) > 1
        np.divide(above, below, out=out, where=np.broadcast_to((below > 0) & several, out.shape))
        return out


def interval(samples: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval along the first axis. NaN resamples are left out; NaN where half or more of them are."""
    if len(samples) == 0:
        empty = np.full(samples.shape[1:], np.nan)
        return empty, empty.copy()
    columns = np.ascontiguousarray(samples.reshape(len(samples), math.prod(samples.shape[1:])).T)
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    undefined = np.isnan(columns).sum(axis=1)
    bounds = np.full((2, len(columns)), np.nan)
    whole = undefined == 0
    bounds[:, whole] = _quantiles(columns if whole.all() else columns[whole], tails)
    for index in np.flatnonzero((undefined > 0) & (undefined * 2 < len(samples))):
        column = columns[index]
        bounds[:, index] = _quantiles(column[~np.isnan(column)][None], tails)[:, 0]
    low, high = bounds.reshape(2, *samples.shape[1:])
    return low, high


def _quantiles(rows: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Linear quantiles of each row [n, B], as numpy's, but sorting along contiguous memory; [shares, n]."""
    place = shares * (rows.shape[1] - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, rows.shape[1] - 1)
    parted = np.partition(rows, np.unique([below, above]), axis=1)
    return (parted[:, below] + (parted[:, above] - parted[:, below]) * (place - below)).T


def standard_error(samples: np.ndarray) -> np.ndarray:
    """Standard deviation of the resamples along the first axis, NaN where fewer than two are defined."""
    if len(samples) > 1 and not np.isnan(samples.sum()):
        return samples.std(axis=0, ddof=1)
    defined = ~np.isnan(samples)
    count = defined.sum(axis=0)
    mean = np.where(defined, samples, 0.0).sum(axis=0) / np.maximum(count, 1)
    squares = (np.where(defined, samples - mean, 0.0) ** 2).sum(axis=0)
    return np.where(count >= 2, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)
