"""Better estimates of p from the same rollouts: by the decomposition along the trajectory and by change points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from fastsia.sia.alignment import noise_rho
from fastsia.sia.curves import GRID, GROUPS, Curve, group_means
from fastsia.sia.quantities import by_outcome
from fastsia.sia.registry import COLUMNS, CURVES, FACTS, GroupEstimate, Quantity, add_quantity
from fastsia.sia.scored import Scored
from fastsia.sia.smoother import MOVES

MIN_EFFECTIVE = 100
"""Median effective rollouts a checkpoint from which on the decoupled rho is recommended; below, the change-point one.
Halves of fewer are too noisy (docs/estimators.md)."""

MOST_WITHHELD = 0.2
"""Largest share of trajectories without decomposition at which the decoupled rho is recommended. Chosen by fastsia."""


def recommended_rho(scored: Scored) -> str:
    """ "decoupled" where the decomposition estimates nearly all p_t almost without noise, else "smoothed"."""
    found = scored.decomposition
    if found is None or found.withheld.mean() > MOST_WITHHELD:
        return "smoothed"
    effective = np.delete(found.effective_rollouts, scored.table.last)
    effective = effective[np.isfinite(effective)]
    return "decoupled" if len(effective) and np.median(effective) >= MIN_EFFECTIVE else "smoothed"


def _of_trajectories(scored: Scored) -> Mapping[str, Any]:
    offsets = scored.table.trajectory_offsets
    found = {
        **scored.precise_rho(slice(None), offsets),
        "rho_expected_from_noise": np.where(np.isnan(scored.rho["rho"]), np.nan, noise_rho(scored.table)),
        "moves": scored.smoothed.moves,
    }
    if (rows := scored.before_answer) is not None:
        kept = np.concatenate([[0], np.cumsum(np.add.reduceat(rows.astype(np.int64), offsets[:-1]))])
        early = scored.plain_rho(rows, kept) | scored.precise_rho(rows, kept)
        found |= {f"{name}_before_answer": values for name, values in early.items()}
    return found


def _of_checkpoints(scored: Scored) -> Mapping[str, Any]:
    smoothed, found = scored.smoothed, scored.decomposition
    columns = {
        "entropy_nsb": scored.entropy_nsb,
        "entropy_smoothed": smoothed.entropy,
        "entropy_smoothed_sd": smoothed.entropy_sd,
        "gold_surprisal_smoothed": smoothed.surprisal,
        "entropy_best": scored.best.entropy,
        "entropy_best_low": scored.best.low,
        "entropy_best_high": scored.best.high,
    }
    if found is not None:
        columns |= {
            "entropy_decomposed": found.entropy,
            "entropy_decomposed_se": found.entropy_se,
            "gold_surprisal_decomposed": found.surprisal,
            "effective_rollouts": found.effective_rollouts,
        }
    return columns


def _decomposition(scored: Scored) -> dict[str, Any]:
    """Whether the decomposition applies, and what it leaves out."""
    found = scored.decomposition
    if found is None or isinstance(scored.divergences, str):
        return {"decomposition": {"applies": False, "reason": scored.divergences}}
    estimated = ~found.withheld[scored.table.trajectory_of_checkpoint]
    effective = found.effective_rollouts[estimated]
    return {
        "decomposition": {
            "applies": True,
            "reason": None,
            "withheld_trajectories": int(found.withheld.sum()),
            "cut_share": float(found.cut_share.mean()),
            "unseen_weight": float(found.unseen.mean()),
            "median_effective_rollouts": float(np.median(effective)) if len(effective) else None,
        }
    }


def _rho_facts(scored: Scored) -> dict[str, Any]:
    return {"rho.recommended": recommended_rho(scored), "smoother": {"hazard": scored.smoothed.hazard}}


def _share_moving(scored: Scored) -> Iterator[GroupEstimate]:
    yield GroupEstimate(scored.mean(scored.smoothed.moves > MOVES).estimate())


def _if_known(column: str, scored: Scored) -> Iterator[GroupEstimate]:
    """`by_outcome` of a column that some runs lack."""
    if column in scored.trajectories:
        yield from by_outcome(column)(scored)


def _baseline(column: str, scored: Scored) -> Iterator[GroupEstimate]:
    """2 P(ends correct) - 1 among the trajectories that have a rho; it says what to expect along a model's own text."""
    if column in scored.trajectories and not scored.off_policy:
        defined = scored.trajectories[column].notna().to_numpy()
        yield GroupEstimate(scored.mean(np.where(defined, 2.0 * scored.correct - 1, np.nan)).estimate())


def _undefined(column: str, scored: Scored) -> Iterator[GroupEstimate]:
    if column in scored.trajectories:
        yield GroupEstimate(scored.mean(scored.trajectories[column].isna().to_numpy()).estimate())


def _curves(scored: Scored) -> Iterator[Curve]:
    """Means of two estimates of H in each group."""
    estimates = {"entropy_best": scored.best.entropy, "entropy_nsb": scored.entropy_nsb}
    values = np.stack([entropy[scored.at_grid] for entropy in estimates.values()], axis=1)
    means = group_means(scored.table, values, scored.correct, scored.bootstrap)
    for g, (group, count) in enumerate(zip(GROUPS, means.count.tolist(), strict=True)):
        for k, name in enumerate(estimates):
            yield Curve(name, "relative", group, GRID, means.value[g, k], means.samples[:, g, k], count)


CURVES.append(_curves)
COLUMNS["trajectories"].append(_of_trajectories)
COLUMNS["checkpoints"].append(_of_checkpoints)
FACTS.extend([_decomposition, _rho_facts])
for _name in ("decoupled", "smoothed"):
    _column = f"rho_{_name}"
    add_quantity(Quantity(_column, _column, by_outcome(_column), key=f"rho.{_name}"))
    add_quantity(
        Quantity(f"undefined_{_name}", make=partial(_undefined, _column), key=f"rho.undefined_{_name}", compared=False)
    )
    add_quantity(
        Quantity(f"rho_baseline_{_name}", make=partial(_baseline, _column), key=f"rho.baseline_{_name}", compared=False)
    )
add_quantity(Quantity("rho_baseline", make=partial(_baseline, "rho"), key="rho.baseline", compared=False))
add_quantity(
    Quantity("rho_expected_from_noise", "rho_expected_from_noise", key="rho.expected_from_noise", compared=False)
)
add_quantity(Quantity("rho_share_moving", make=_share_moving, key="rho.share_moving", compared=False))
for _name in ("pearson", "spearman", "cross_fitted", "decoupled", "smoothed"):
    _column = ("rho" if _name == "pearson" else f"rho_{_name}") + "_before_answer"
    _make = partial(_if_known, _column)
    add_quantity(
        Quantity(f"rho_{_name}_before_answer", _column, _make, key=f"rho.before_answer.{_name}", compared=False)
    )
for _name, _of in (("baseline", _baseline), ("undefined_fraction", _undefined)):
    _make = partial(_of, "rho_before_answer")
    add_quantity(Quantity(f"{_name}_before_answer", make=_make, key=f"rho.before_answer.{_name}", compared=False))
