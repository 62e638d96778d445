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


@registry.table("runs", columns="run model task num_problems", place=10, of_run=False, from_run=False)
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
    """Concatenates the same table of several runs; a first column `run` has their labels."""
    return pd.concat([table.assign(run=label) for label, table in tables.items()], ignore_index=True)[
        ["run", *next(iter(tables.values())).columns]
    ]


@registry.table(
    "differences",
    columns="run minus quantity difference low high num_problems paired",
    place=20,
    of_run=False,
    from_run=False,
)
def differences(runs: Mapping[str, pd.DataFrame], *, num_resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Differences between runs.

    “run” minus “minus”, with 95 % intervals over problems. Paired: on the problems that both have, resampled together.
    If an interval contains 0, these problems do not separate the two runs.

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
    "shuffled_prefix", columns="quantity num_problems original shuffled difference", place=30, from_run=False
)
def shuffled_table(
    original: pd.DataFrame, shuffled: pd.DataFrame, *, num_resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Shuffled prefix (the paper's Table 2).

    Does the order of the reasoning matter, or only its words? At each checkpoint the tokens written so far were
    shuffled behind the unchanged question, and new rollouts were drawn from there. “original” is this run, “shuffled”
    that one, “difference” shuffled minus original, all on the problems that both have; “undefined” is the share of
    trajectories without a ρ. Where ρ falls to about 0, shuffled text no longer leads the model towards the right
    answer, so the order mattered. Where ρ stays, the words alone suffice. Where the original ρ is near 0, there was
    nothing to lose. No row decides alone: where the true answer distribution does not change along the trajectory,
    the cross-fitted ρ is 0 and the others are not; where it does, the cross-fitted ρ is too close to 0.

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
