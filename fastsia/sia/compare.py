"""Several runs side by side: one row per run, and the differences between runs with intervals over problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from fastsia.sia import registry
from fastsia.sia.bootstrap import Bootstrap
from fastsia.sia.estimate import Estimate, Resampled, problem_sums
from fastsia.sia.registry import QUANTITIES, TABLES

AUC_AT = (0.25, 0.5, 0.75)
"""Relative positions of the AUC in the table of runs."""

SWEPT = ("accuracy", "token_entropy", "entropy_mean", "entropy_final", "gain")
"""Quantities of the temperature sweep."""

ENTROPIES = ("token_entropy", "entropy_mean")
"""Quantities on which accuracy is regressed."""


@registry.table("runs", columns="run model task num_problems", place=10, exported=False, computed=False)
def tabulate(summaries: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Runs.

    One row per run, with 95 % intervals over problems.

    Args:
        summaries: By label, as in summary.json.

    Returns:
        One row per run: the headline numbers as columns name, name_low, name_high.
    """
    rows = []
    for label, summary in summaries.items():
        row: dict[str, Any] = {"run": label} | {name: summary.get(name) for name in ("model", "task", "num_problems")}
        for name, quantity in QUANTITIES.items():
            if quantity.compared and quantity.key is not None:
                row |= Estimate.of_summary(summary, quantity.key or name).columns(name)
        for name in ("pearson", "decoupled", "smoothed"):
            for group in ("correct", "incorrect"):
                found = Estimate.of_summary(summary, f"rho.{name}_{group}")
                row |= {} if found.value is None else found.columns(f"rho_{name}_{group}")
        for name, key in (("rho_baseline", "rho.baseline"), ("cut_rate", "cut_rate")):
            if (extra := Estimate.of_summary(summary, key)).value is not None:
                row |= extra.columns(name)
        row["undefined_fraction"] = Estimate.of_summary(summary, "rho.undefined_fraction").value
        for position in AUC_AT:
            if (auc := auc_at(summary, position)) is not None:
                row |= auc.columns(f"auc_{round(100 * position)}")
        rows.append(row)
    return pd.DataFrame(rows)


def auc_at(summary: Mapping[str, Any], position: float) -> Estimate | None:
    """The AUC of a summary at a relative position; None where it has none there."""
    points, intervals = summary.get("auc") or [], (summary.get("ci") or {}).get("auc")
    for point, bounds in zip(points, intervals or [None] * len(points), strict=True):
        if point["position"] == position:
            return Estimate.bounded(point["auc"], bounds, point["num_correct"] + point["num_incorrect"])
    return None


def outcome_baseline(trajectories: pd.DataFrame) -> float | None:
    """2 P(ends correct) - 1 among the trajectories (columns rho, correct) that have a rho; None where none has.

    The mean rho of trajectories that settle: each has a rho near +1 if it ends correct and near -1 if not.
    """
    settled = trajectories.loc[trajectories["rho"].notna(), "correct"]
    return None if settled.empty else float(2 * settled.astype(bool).mean() - 1)


def side_by_side(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Concatenate the same table of several runs; a first column `run` has their labels."""
    return pd.concat([table.assign(run=label) for label, table in tables.items()], ignore_index=True)[
        ["run", *next(iter(tables.values())).columns]
    ]


@registry.table(
    "differences",
    columns="run minus quantity difference low high num_problems paired",
    place=20,
    exported=False,
    computed=False,
)
def differences(runs: Mapping[str, pd.DataFrame], *, num_resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Differences between runs.

    “run” minus “minus”, with 95 % intervals over problems. Paired: on the problems that both have, resampled together.
    If an interval contains 0, these problems do not separate the two runs. Each interval is for one difference: of many
    between equal runs about one in twenty excludes 0.

    Args:
        runs: Trajectories of each run, by label. Runs that share no problem ids are resampled apart. Undefined values
            are left out of each run's own mean.
        num_resamples: Bootstrap resamples.
        seed: Of the resamples.

    Returns:
        One row per pair of runs, each later one minus each earlier one, and quantity: run, minus, quantity, difference,
        low, high, num_problems, paired.
    """
    rows = [
        row
        for (first, a), (second, b) in combinations(runs.items(), 2)
        for row in _pair(first, a, second, b, num_resamples, seed)
    ]
    return pd.DataFrame(rows, columns=list(TABLES["differences"].columns))


def _pair(
    first: str, a: pd.DataFrame, second: str, b: pd.DataFrame, num_resamples: int, seed: int
) -> Iterator[dict[str, Any]]:
    own = [pd.Index(frame["problem_id"].unique()) for frame in (a, b)]
    shared = own[0].intersection(own[1], sort=False)
    paired = len(shared) > 0
    ids = [shared, shared] if paired else own
    draws = [Bootstrap.draw(len(ids[0]), num_resamples, seed)]
    draws.append(draws[0] if paired else Bootstrap.draw(len(ids[1]), num_resamples, seed + 1))
    for quantity in QUANTITIES.values():
        column = quantity.column
        if column is None or column not in a or column not in b:
            continue
        of_a, of_b = (_mean(*each, column) for each in zip((a, b), ids, draws, strict=True))
        if not np.isnan(of_a.value + of_b.value):
            change = (of_b - of_a).estimate()
            yield {
                "run": second,
                "minus": first,
                "quantity": quantity.name,
                "difference": change.value,
                "low": change.low,
                "high": change.high,
                "num_problems": min(map(len, ids)),
                "paired": paired,
            }


def _mean(frame: pd.DataFrame, ids: pd.Index, draws: Bootstrap, column: str) -> Resampled:
    """Mean of a column over the trajectories of some problems, where it is defined."""
    values, problem = frame[column].astype(np.float64).to_numpy(), ids.get_indexer(pd.Index(frame["problem_id"]))
    return Resampled.ratio(*problem_sums(values, problem, len(ids)), draws)


@registry.table(
    "temperature_sweep",
    columns="temperature run num_problems accuracy entropy_mean entropy_final gain",
    place=22,
    exported=False,
    computed=False,
)
def temperature_sweep(
    runs: Mapping[str, pd.DataFrame], temperatures: Mapping[str, float], *, num_resamples: int = 2000, seed: int = 0
) -> pd.DataFrame | None:
    """Temperature sweep.

    The runs in the order of their temperature, each on its own problems, with 95 % intervals over problems. The same
    temperature draws trajectories and rollouts.

    Args:
        runs: Trajectories of each run, by label.
        temperatures: Of each run, by label.
        num_resamples: Bootstrap resamples.
        seed: Of the resamples.

    Returns:
        One row per run: temperature, run, num_problems, and the means of `SWEPT` that the run has with _low and _high.
        None where all temperatures are the same.
    """
    if len(set(temperatures.values())) < 2:
        return None
    rows = []
    for label in sorted(runs, key=lambda label: temperatures[label]):
        ids = pd.Index(runs[label]["problem_id"].unique())
        draws = Bootstrap.draw(len(ids), num_resamples, seed)
        row: dict[str, Any] = {"temperature": temperatures[label], "run": label, "num_problems": len(ids)}
        for name in SWEPT:
            column = str(QUANTITIES[name].column)
            if column in runs[label]:
                row |= _mean(runs[label], ids, draws, column).estimate().columns(name)
        rows.append(row)
    return pd.DataFrame(rows)


@registry.table(
    "entropy_performance",
    columns="quantity num_runs num_problems a b r_squared",
    place=24,
    exported=False,
    computed=False,
)
def entropy_performance(
    runs: Mapping[str, pd.DataFrame], *, num_resamples: int = 2000, seed: int = 0
) -> pd.DataFrame | None:
    """Accuracy against entropy.

    Least squares of R = −a e^H + b over the runs, R the accuracy and H the mean token entropy or answer entropy, on the
    problems that all runs have. Along one training run in which entropy is spent for reward, a > 0 and the fit is
    close (Cui et al. 2025); −a + b is then the accuracy that is left at H = 0. Runs that are no such series give a
    line too: look at “r squared” and at the number of runs. Intervals resample the problems.

    Args:
        runs: Trajectories of each run, by label.
        num_resamples: Bootstrap resamples.
        seed: Of the resamples.

    Returns:
        One row per quantity of `ENTROPIES` that all runs have: quantity, num_runs, num_problems, a, b and r_squared
        with _low and _high. None with fewer than 3 runs or 2 shared problems.
    """
    shared = [pd.Index(frame["problem_id"].unique()) for frame in runs.values()]
    ids = shared[0]
    for other in shared[1:]:
        ids = ids.intersection(other, sort=False)
    if len(runs) < 3 or len(ids) < 2:
        return None
    draws = Bootstrap.draw(len(ids), num_resamples, seed)

    def means(column: str) -> Resampled:
        """Of each run, [runs]."""
        each = [_mean(frame, ids, draws, column) for frame in runs.values()]
        return Resampled(np.stack([x.value for x in each]), np.stack([x.samples for x in each], axis=1))

    accuracy, rows = means("correct"), []
    for name in ENTROPIES:
        column = str(QUANTITIES[name].column)
        if all(column in frame for frame in runs.values()):
            entropy = means(column)
            value = _line(np.exp(entropy.value[None]), accuracy.value[None])[0]
            fit = Resampled(value, _line(np.exp(entropy.samples), accuracy.samples))
            row: dict[str, Any] = {"quantity": name, "num_runs": len(runs), "num_problems": len(ids)}
            for k, part in enumerate(("a", "b", "r_squared")):
                row |= fit[k].estimate().columns(part)
            rows.append(row)
    return pd.DataFrame(rows) if rows else None


def _line(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least squares y = -a x + b over the last axis: float64 [..., 3], a, b and the share of variance explained; NaN
    where x does not vary."""
    dx, dy = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    varies = np.ptp(x, axis=-1) > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(varies, (dx * dy).sum(axis=-1) / (dx**2).sum(axis=-1), np.nan)
        explained = slope * (dx * dy).sum(axis=-1) / (dy**2).sum(axis=-1)
    explained = np.where(np.ptp(y, axis=-1) > 0, explained, np.nan)
    return np.stack([-slope, y.mean(axis=-1) - slope * x.mean(axis=-1), explained], axis=-1)


@registry.table(
    "shuffled_prefix", columns="quantity num_problems original shuffled difference", place=30, computed=False
)
def shuffled_table(
    original: pd.DataFrame, shuffled: pd.DataFrame, *, num_resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Shuffled prefix (the paper's Table 2).

    Does the order of the reasoning matter, or only its words? At each checkpoint the tokens written so far were
    shuffled after the unchanged question, and new rollouts were drawn from there. “original” is this run, “shuffled”
    that one, “difference” shuffled minus original, all on the problems that both have; “undefined” is the share of
    trajectories without a ρ. Where ρ falls to about 0, H and s no longer go together along shuffled text, so the order
    mattered. Where ρ stays, the words alone suffice. Where the original ρ is near 0, which it is also where as many
    trajectories end correct as incorrect, the comparison says nothing. No row decides alone: where the true answer
    distribution does not change along the trajectory, the cross-fitted ρ has mean 0 and the others have not; where it
    does, the cross-fitted ρ is mostly too close to 0.

    Args:
        original: Trajectories of the run.
        shuffled: Trajectories of the run with shuffled prefixes.
        num_resamples: Bootstrap resamples.
        seed: Of the resamples.

    Returns:
        One row per form of rho: quantity, num_problems; original, shuffled, difference with _low and _high;
        original_undefined and shuffled_undefined, the shares of trajectories without a rho.
    """
    ids = pd.Index(original["problem_id"].unique())
    ids = ids.intersection(pd.Index(shuffled["problem_id"].unique()), sort=False)
    draws = Bootstrap.draw(len(ids), num_resamples, seed)
    frames = {"original": original, "shuffled": shuffled}
    rows = []
    for quantity in ("rho_pearson", "rho_spearman", "rho_cross_fitted"):
        column = str(QUANTITIES[quantity].column)
        row: dict[str, Any] = {"quantity": quantity, "num_problems": len(ids)}
        means = {name: _mean(frame, ids, draws, column) for name, frame in frames.items()}
        for name, frame in frames.items():
            row |= means[name].estimate().columns(name)
            row[f"{name}_undefined"] = float(frame.loc[frame["problem_id"].isin(ids), column].isna().mean())
        row |= (means["shuffled"] - means["original"]).estimate().columns("difference")
        rows.append(row)
    return pd.DataFrame(rows)
