"""A number with its interval: `Estimate` for one, `Resampled` for arrays of them before the interval is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fastsia.sia.bootstrap import Bootstrap, interval

FIELDS = ("quantity", "group", "position", "value", "low", "high", "n")
"""Columns of `Analysis.estimates`."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % percentile-bootstrap interval over problems.

    Attributes:
        value: The number; None where it is undefined.
        low: Lower end of the interval; None where there is no interval.
        high: Upper end of the interval; None where there is no interval.
        n: How many values the number summarizes: trajectories, unless the quantity says otherwise.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0

    @property
    def bounds(self) -> list[float] | None:
        """[low, high] as in the `ci` tree of summary.json; None where there is no interval."""
        return None if self.low is None or self.high is None else [self.low, self.high]

    def columns(self, name: str) -> dict[str, float | None]:
        """The cells name, name_low and name_high of a wide table."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}

    @classmethod
    def bounded(cls, value: float | None, bounds: Sequence[float] | None, n: int = 0) -> Estimate:
        """An estimate from its value and [low, high]."""
        low, high = bounds or (None, None)
        return cls(value, low, high, n)

    @classmethod
    def of_summary(cls, summary: Mapping[str, Any] | None, key: str) -> Estimate:
        """Read a number and its interval from a summary; undefined where the summary lacks it.

        Args:
            summary: As in summary.json, of any version; None for a missing run.
            key: The place of the number, with dots between levels: "rho.pearson".
        """
        tree = summary or {}
        return cls.bounded(_find(tree, key), _find(tree.get("ci") or {}, key))

    @classmethod
    def of_point(cls, point: pd.DataFrame) -> Estimate:
        """Read the single row of a part of `Analysis.curves`; undefined where the part is empty."""
        if point.empty:
            return cls(None)
        value, low, high = (_number(point[name].iloc[0]) for name in ("value", "low", "high"))
        return cls(value, low, high, int(point["count"].iloc[0]))


@dataclass(frozen=True)
class Resampled:
    """Numbers of any shape with their bootstrap resamples, before intervals are taken.

    Attributes:
        value: float64 [...], NaN where undefined.
        samples: float64 [B, ...], NaN where undefined.
        n: How many values each number summarizes, int64 [...] or one number for all.
    """

    value: np.ndarray
    samples: np.ndarray
    n: Any = 0

    @classmethod
    def ratio(cls, above: np.ndarray, below: np.ndarray, bootstrap: Bootstrap) -> Resampled:
        """Sum of `above` over sum of `below`, both float64 [P, ...]; NaN where the latter is 0. n is that sum."""
        total = below.sum(axis=0)
        value = np.divide(above.sum(axis=0), total, out=np.full(np.shape(total), np.nan), where=total > 0)
        return cls(value, bootstrap.ratio(above, below), total.astype(np.int64))

    @classmethod
    def mean(cls, values: np.ndarray, problem: np.ndarray, bootstrap: Bootstrap) -> Resampled:
        """Means of the values [T, ...] that are not NaN. problem: int [T], the problem (0..P-1) of each value."""
        return cls.ratio(*problem_sums(values, problem, bootstrap.weights.shape[1]), bootstrap)

    def __getitem__(self, place: Any) -> Resampled:
        along = place if isinstance(place, tuple) else (place,)
        n = self.n if np.ndim(self.n) == 0 else self.n[place]
        return Resampled(self.value[place], self.samples[:, *along], n)

    def __sub__(self, other: Resampled) -> Resampled:
        """The difference, resampled in pairs."""
        return Resampled(self.value - other.value, self.samples - other.samples, self.n)

    def columns(self, name: str) -> dict[str, np.ndarray]:
        """The columns name, name_low and name_high of a wide table; values [K], NaN where undefined."""
        low, high = interval(self.samples)
        return {name: self.value, f"{name}_low": low, f"{name}_high": high}

    def estimates(self) -> list[Estimate]:
        """One estimate a number, in C order."""
        value, low, high = (np.ravel(x).tolist() for x in (self.value, *interval(self.samples)))
        n = np.broadcast_to(self.n, np.shape(self.value)).ravel().tolist()
        return [
            Estimate.bounded(_number(x), bounds if np.isfinite(bounds).all() else None, count)
            for x, bounds, count in zip(value, zip(low, high, strict=True), n, strict=True)
        ]

    def estimate(self) -> Estimate:
        """The only number."""
        (found,) = self.estimates()
        return found


def problem_sums(values: np.ndarray, problem: np.ndarray, num_problems: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the values [T, ...] that are not NaN, and how many there are; float64 [P, ...] each.

    Args:
        values: float64 [T, ...].
        problem: Int [T], the problem of each value; values of problem -1 are left out.
        num_problems: P.
    """
    there = (problem >= 0).reshape(-1, *[1] * (values.ndim - 1)) & ~np.isnan(values)
    above, count = np.zeros((num_problems, *values.shape[1:])), np.zeros((num_problems, *values.shape[1:]))
    np.add.at(above, problem, np.where(there, values, 0.0))  # problem -1 adds 0 to the last
    np.add.at(count, problem, there.astype(np.float64))
    return above, count


def spread(frame: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, lower and upper ends of a quantity of a wide table (columns name, name_low, name_high); float64 [K]."""
    value, low, high = (
        pd.to_numeric(frame[name + end], errors="coerce").to_numpy(np.float64) for end in ("", "_low", "_high")
    )
    return value, low, high


def _number(value: float) -> float | None:
    """A JSON number, None where undefined."""
    return float(value) if np.isfinite(value) else None


def _find(tree: Any, key: str) -> Any:
    """The value of a nested mapping at a dotted key; None if there is none."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree
