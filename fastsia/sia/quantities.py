"""The headline numbers of the paper's method, and summary.json from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from fastsia.sia.bootstrap import standard_error
from fastsia.sia.entropy import share_null
from fastsia.sia.estimate import FIELDS, Estimate, Resampled
from fastsia.sia.registry import QUANTITIES, GroupEstimate, Quantity, add_quantity
from fastsia.sia.scored import Scored

Measured = dict[str, list[GroupEstimate]]
"""The estimates of each registered quantity, by its name."""


def measure_quantities(scored: Scored) -> Measured:
    """The estimates of every registered quantity that this run has."""
    found = {}
    for name, quantity in QUANTITIES.items():
        if quantity.make is not None:
            found[name] = list(quantity.make(scored))
        elif quantity.column is not None and quantity.column in scored.trajectories:
            found[name] = [GroupEstimate(mean_of(quantity.column, scored).estimate())]
    return found


def estimate_frame(measured: Measured) -> pd.DataFrame:
    """`Analysis.estimates`: one row per `GroupEstimate`; position is NaN where a quantity has none."""
    rows = [
        (name, each.group, each.position, *(getattr(each.estimate, field) for field in FIELDS[3:]))
        for name, found in measured.items()
        for each in found
    ]
    types = {"position": np.float64, "value": np.float64, "low": np.float64, "high": np.float64, "n": np.int64}
    return pd.DataFrame(rows, columns=list(FIELDS)).astype(types)


def summarize(measured: Measured, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers as summary.json has them: nested by their keys, with the intervals under `ci` by the same keys.

    Args:
        measured: The result of `measure_quantities`.
        facts: Further entries by their keys.
    """
    values: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    for name, found in measured.items():
        quantity = QUANTITIES[name]
        if quantity.key is None:
            continue
        for each in found:
            key = (quantity.key or name) + ("" if each.group == "all" else f"_{each.group}")
            estimate = each.estimate
            if quantity.inline:
                _put(values, key, {"value": estimate.value, "ci": estimate.bounds})
            elif each.position is None:
                _put(values, key, estimate.value)
                _put(intervals, key, estimate.bounds)
            else:
                item = dict(zip(quantity.item, (each.position, estimate.value), strict=True))
                _append(values, key, item | dict(each.facts))
                _append(intervals, key, estimate.bounds)
    for key, value in facts.items():
        _put(values, key, value)
    return values | {"ci": intervals}


def _innermost(tree: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The innermost mapping of a dotted key, made where it is missing, and the key in it."""
    *above, last = key.split(".")
    for part in above:
        tree = tree.setdefault(part, {})
    return tree, last


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    inner, last = _innermost(tree, key)
    inner[last] = value


def _append(tree: dict[str, Any], key: str, value: Any) -> None:
    inner, last = _innermost(tree, key)
    inner.setdefault(last, []).append(value)


def mean_of(column: str, scored: Scored) -> Resampled:
    """Mean of a column of the trajectories, where it is defined."""
    return scored.mean(scored.trajectories[column].to_numpy(np.float64))


def by_outcome(column: str) -> Callable[[Scored], Iterator[GroupEstimate]]:
    """Means of a column of the trajectories: of all, of those that end correct, of those that end incorrect."""

    def make(scored: Scored) -> Iterator[GroupEstimate]:
        values = scored.trajectories[column].to_numpy(np.float64)
        yield GroupEstimate(scored.mean(values).estimate())
        for group, member in (("correct", scored.correct), ("incorrect", ~scored.correct)):
            yield GroupEstimate(scored.mean(np.where(member, values, np.nan)).estimate(), group)

    return make


def at_position(curve: str, place: int, *groups: str) -> Callable[[Scored], Iterator[GroupEstimate]]:
    """A mean curve at one place of the grid."""

    def make(scored: Scored) -> Iterator[GroupEstimate]:
        for group in groups:
            yield GroupEstimate(scored.mean_curve(curve, group)[place].estimate(), group)

    return make


def _null_rate(scored: Scored) -> Iterator[GroupEstimate]:
    """Share of rollouts without an answer; n counts rollouts."""
    null = share_null(scored.table, scored.is_rarefied)
    yield GroupEstimate(Resampled.ratio(null[:, 0], null[:, 1], scored.bootstrap).estimate())


def _reliability(scored: Scored) -> Resampled:
    """Pooled reliability [2] of half the rollouts, of H and of s."""
    parts = np.add.reduceat(scored.halves.reliability_parts(), scored.table.problem_offsets[:-1], axis=0)
    found = Resampled.ratio(parts[:, :, 0], parts[:, :, 1], scored.bootstrap)
    return Resampled(found.value, found.samples, scored.table.num_trajectories)


def _half_reliability(place: int, scored: Scored) -> Iterator[GroupEstimate]:
    yield GroupEstimate(_reliability(scored)[place].estimate())


def _undefined(scored: Scored) -> Iterator[GroupEstimate]:
    yield GroupEstimate(scored.mean(np.isnan(scored.rho["rho"])).estimate())


def _withdrawn(scored: Scored) -> Iterator[GroupEstimate]:
    """Always null: it keeps the key rho.cross_fitted_corrected, which fastsia 0.1.0 wrote."""
    yield GroupEstimate(Estimate(None))


def _auc(scored: Scored) -> Iterator[GroupEstimate]:
    """AUC of -H at each relative position; n counts the trajectories of both outcomes."""
    auc = scored.auc
    found = Resampled(auc.value, auc.samples, auc.num_correct + auc.num_incorrect).estimates()
    for k, (estimate, error) in enumerate(zip(found, standard_error(auc.samples).tolist(), strict=True)):
        counts = {"num_correct": int(auc.num_correct[k]), "num_incorrect": int(auc.num_incorrect[k])}
        facts: Mapping[str, Any] = {"se": error if np.isfinite(error) else None, **counts}
        yield GroupEstimate(estimate, position=round(float(auc.positions[k]), 4), facts=facts)


def _auc_change(scored: Scored) -> Iterator[GroupEstimate]:
    """AUC at each relative position minus that at the first, paired: what the reasoning adds to the question."""
    change = scored.auc_change
    for k, estimate in enumerate(change.estimates()):
        yield GroupEstimate(estimate, position=round(float(scored.auc.positions[k]), 4))


add_quantity(Quantity("accuracy", column="correct"))
add_quantity(Quantity("null_rate", make=_null_rate))
add_quantity(Quantity("entropy_first", make=at_position("entropy", 0, "all")))
add_quantity(Quantity("entropy_mean", column="mean_entropy", key=None, compared=False))
add_quantity(Quantity("entropy_final", column="final_entropy", make=at_position("entropy", -1, "all")))
add_quantity(Quantity("gain", column="gain", make=at_position("gain", -1, "all", "correct", "incorrect")))
add_quantity(Quantity("rho_pearson", column="rho", make=by_outcome("rho"), key="rho.pearson"))
add_quantity(Quantity("rho_spearman", column="rho_spearman", make=by_outcome("rho_spearman"), key="rho.spearman"))
add_quantity(
    Quantity("rho_cross_fitted", "rho_cross_fitted", by_outcome("rho_cross_fitted"), key="rho.cross_fitted"),
)
add_quantity(Quantity("rho_cross_fitted_corrected", make=_withdrawn, key="rho.cross_fitted_corrected", compared=False))
add_quantity(Quantity("undefined_fraction", make=_undefined, key="rho.undefined_fraction", compared=False))
for _place, _series in enumerate(("entropy", "gold_surprisal")):
    _make = partial(_half_reliability, _place)
    add_quantity(
        Quantity(f"reliability_{_series}", make=_make, key=f"rho.reliability.{_series}", compared=False, inline=True)
    )
add_quantity(Quantity("auc", make=_auc, compared=False, item=("position", "auc")))
add_quantity(Quantity("auc_change", make=_auc_change, compared=False, item=("position", "auc_change")))
