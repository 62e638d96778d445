"""Several runs side by side: one row a run, and the differences between runs with intervals over problems."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from fastsia.sia.bootstrap import Bootstrap, interval

QUANTITIES = {
    "rho_pearson": "rho",
    "rho_spearman": "rho_spearman",
    "rho_cross_fitted": "rho_cross_fitted",
    "accuracy": "correct",
    "gain": "gain",
    "entropy_mean": "mean_entropy",
    "entropy_final": "final_entropy",
    "token_entropy": "token_entropy",
    "token_entropy_thinking": "token_entropy_thinking",
    "token_entropy_answer_part": "token_entropy_answer_part",
    "forking_share_fixed": "forking_share_fixed",
}
"""What is compared, and the column of the trajectories table that holds it, where the run has it."""


def tabulate(summaries: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row a run, by label: the headline numbers with their intervals (columns name, name_low, name_high)."""
    rows = []
    for label, summary in summaries.items():
        ci = summary.get("ci") or {}
        row: dict[str, Any] = {
            "run": label,
            "model": summary.get("model"),
            "task": summary.get("task"),
            "num_problems": summary.get("num_problems"),
        }
        for name in ("accuracy", "null_rate", "entropy_first", "entropy_final", "gain"):
            row |= _with_limits(name, summary.get(name), ci.get(name))
        rho, rho_ci = summary.get("rho") or {}, ci.get("rho") or {}
        for name in ("pearson", "spearman", "cross_fitted", "cross_fitted_corrected"):
            row |= _with_limits(f"rho_{name}", rho.get(name), rho_ci.get(name))
        row["undefined_fraction"] = rho.get("undefined_fraction")
        for place, point in enumerate(summary.get("auc") or []):
            if point["position"] in (0.25, 0.5, 0.75):
                limits = (ci.get("auc") or [None] * (place + 1))[place]
                row |= _with_limits(f"auc_{round(100 * point['position'])}", point["auc"], limits)
        rows.append(row)
    return pd.DataFrame(rows)


def outcome_baseline(trajectories: pd.DataFrame) -> float | None:
    """2 P(ends correct) - 1 among the trajectories (columns rho, correct) that have a rho; None where none has.

    The mean rho of trajectories that settle: each has a rho near +1 if it ends correct and near -1 if not.
    """
    settled = trajectories.loc[trajectories["rho"].notna(), "correct"]
    return None if settled.empty else float(2 * settled.astype(bool).mean() - 1)


def side_by_side(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The same table of several runs, one under the other: a column `run` with their labels, and theirs."""
    return pd.concat([table.assign(run=label) for label, table in tables.items()], ignore_index=True)[
        ["run", *next(iter(tables.values())).columns]
    ]


def _with_limits(name: str, value: float | None, limits: list[float] | None) -> dict[str, float | None]:
    low, high = limits or (None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def differences(runs: Mapping[str, pd.DataFrame], *, num_resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Every later run minus every earlier one, from their trajectories tables.

    Runs that share problem ids are compared on the shared problems, resampled together (paired); runs that share none
    are resampled apart. One row a pair and quantity: run, minus, quantity, difference, low, high, num_problems, paired.
    Undefined values are left out of each run's own mean.
    """
    rows = [
        row
        for (first, a), (second, b) in combinations(runs.items(), 2)
        for row in _pair(first, a, second, b, num_resamples, seed)
    ]
    return pd.DataFrame(
        rows, columns=["run", "minus", "quantity", "difference", "low", "high", "num_problems", "paired"]
    )


def _pair(
    first: str, a: pd.DataFrame, second: str, b: pd.DataFrame, num_resamples: int, seed: int
) -> list[dict[str, Any]]:
    shared = pd.Index(a["problem_id"].unique()).intersection(pd.Index(b["problem_id"].unique()), sort=False)
    paired = len(shared) > 0
    ids_a = shared if paired else pd.Index(a["problem_id"].unique())
    ids_b = shared if paired else pd.Index(b["problem_id"].unique())
    draws_a = Bootstrap.draw(len(ids_a), num_resamples, seed)
    draws_b = draws_a if paired else Bootstrap.draw(len(ids_b), num_resamples, seed + 1)
    rows = []
    for quantity, column in QUANTITIES.items():
        if column not in a or column not in b:
            continue
        above_a, below_a = _sums(a, ids_a, column)
        above_b, below_b = _sums(b, ids_b, column)
        if not below_a.sum() or not below_b.sum():
            continue
        value = above_b.sum() / below_b.sum() - above_a.sum() / below_a.sum()
        low, high = interval(draws_b.ratio(above_b, below_b) - draws_a.ratio(above_a, below_a))
        rows.append(
            {
                "run": second,
                "minus": first,
                "quantity": quantity,
                "difference": float(value),
                "low": float(low) if np.isfinite(low) else None,
                "high": float(high) if np.isfinite(high) else None,
                "num_problems": min(len(ids_a), len(ids_b)),
                "paired": paired,
            }
        )
    return rows


def _sums(frame: pd.DataFrame, ids: pd.Index, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Per problem of ids: the sum of the defined values and their number, float64 [P]."""
    place = ids.get_indexer(pd.Index(frame["problem_id"]))
    values = frame[column].astype(np.float64).to_numpy()
    kept = (place >= 0) & ~np.isnan(values)
    above = np.bincount(place[kept], weights=values[kept], minlength=len(ids))
    return above, np.bincount(place[kept], minlength=len(ids)).astype(np.float64)


def shuffled_table(
    original: pd.DataFrame, shuffled: pd.DataFrame, *, num_resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Table 2, from the trajectories tables of two analyses: rho with prefixes as written and permuted, and the
    difference, each with its 95 % interval over the problems that both have."""
    ids = pd.Index(original["problem_id"].unique())
    ids = ids.intersection(pd.Index(shuffled["problem_id"].unique()), sort=False)
    draws = Bootstrap.draw(len(ids), num_resamples, seed)
    rows = []
    for quantity in ("rho_pearson", "rho_spearman", "rho_cross_fitted"):
        column = QUANTITIES[quantity]
        row: dict[str, Any] = {"quantity": quantity, "num_problems": len(ids)}
        values, samples = [], []
        for name, frame in (("original", original), ("shuffled", shuffled)):
            above, below = _sums(frame, ids, column)
            values.append(above.sum() / below.sum() if below.sum() else np.nan)
            samples.append(draws.ratio(above, below))
            row |= _limited(name, values[-1], samples[-1])
            row[f"{name}_undefined"] = float(frame.loc[frame["problem_id"].isin(ids), column].isna().mean())
        row |= _limited("difference", values[1] - values[0], samples[1] - samples[0])
        rows.append(row)
    return pd.DataFrame(rows)


def _limited(name: str, value: float, samples: np.ndarray) -> dict[str, float | None]:
    low, high = interval(samples)
    numbers = {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}
    return {key: float(number) if np.isfinite(number) else None for key, number in numbers.items()}
