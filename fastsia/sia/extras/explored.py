"""The probability of the distinct texts among the rollouts, and the bounds on p and H that follow from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from fastsia.sia import registry
from fastsia.sia.curves import GRID, Curve
from fastsia.sia.estimate import Resampled
from fastsia.sia.extras.failure import PLACES, POSITIONS
from fastsia.sia.registry import COLUMNS, CURVES, FACTS, GroupEstimate, Quantity, add_quantity
from fastsia.sia.scored import Scored


def _of_checkpoints(scored: Scored) -> Mapping[str, Any]:
    found = scored.leaves
    if isinstance(found, str):
        return {}
    return {
        "explored_mass": found.explored,
        "gold_probability_at_least": found.gold_low,
        "gold_probability_at_most": np.minimum(found.gold_low + 1 - found.explored, 1.0),
        "entropy_at_least": found.entropy_low,
        "entropy_at_most": found.entropy_high,
        "mode_is_certain": found.mode_is_certain,
    }


def _means(scored: Scored, values: np.ndarray) -> Resampled:
    """Means over trajectories at `GRID`; values [G], NaN where unknown."""
    return scored.mean(values[scored.at_grid])


@registry.table(
    "explored",
    columns="position num_trajectories explored_mass entropy_at_least entropy_at_most mode_is_certain",
    place=75,
)
def explored_table(scored: Scored) -> pd.DataFrame | None:
    """Explored texts and what they prove.

    The distinct texts among the rollouts have known probabilities. “explored mass” is what they have together: the
    share of all continuations that has been seen. Whatever the rest is, H is at least “entropy at least”, and at most
    “entropy at most” if all answers that were never given count as one. “mode is certain” is the share of trajectories
    whose most likely answer is proven: no other can be as likely. No statistics are involved but in the 95 % intervals
    over problems.

    Returns:
        One row per position of `POSITIONS`: position, num_trajectories, and the means over trajectories explored_mass,
        entropy_at_least, entropy_at_most (nats) and mode_is_certain with _low and _high. None where probabilities are
        not known (`leaves` of the summary says why).
    """
    columns = _of_checkpoints(scored)
    if not columns:
        return None
    found: dict[str, Any] = {"position": np.array(POSITIONS)}
    known = ~np.isnan(columns["explored_mass"])
    for name in ("explored_mass", "entropy_at_least", "entropy_at_most", "mode_is_certain"):
        mean = _means(scored, np.where(known, columns[name], np.nan))[PLACES]
        found |= {"num_trajectories": mean.n} | mean.columns(name)
    return pd.DataFrame(found)


def _facts(scored: Scored) -> dict[str, Any]:
    """Whether the bounds are known, and how many of the rollouts are distinct texts."""
    found = scored.leaves
    if isinstance(found, str):
        return {"leaves.applies": False, "leaves.reason": found}
    return {
        "leaves.applies": True,
        "leaves.reason": None,
        "leaves.unknown_trajectories": int(np.isnan(found.explored[scored.table.last]).sum()),
        "leaves.num_distinct_texts": len(found.texts.rollout),
        "leaves.num_rollouts": int(found.texts.number.sum()),
    }


def _of_trajectories(scored: Scored) -> Mapping[str, Any]:
    found = scored.leaves
    if isinstance(found, str):
        return {}
    offsets = scored.table.trajectory_offsets
    known = ~np.isnan(found.explored[scored.table.last])
    certain = np.add.reduceat(found.mode_is_certain.astype(np.float64), offsets[:-1]) / np.diff(offsets)
    return {
        "explored_mass": np.add.reduceat(found.explored, offsets[:-1]) / np.diff(offsets),
        "mode_certain_share": np.where(known, certain, np.nan),
    }


def _mean_of(column: str, scored: Scored) -> Iterator[GroupEstimate]:
    if column in scored.trajectories:
        yield GroupEstimate(scored.mean(scored.trajectories[column].to_numpy(np.float64)).estimate())


def _curves(scored: Scored) -> Iterator[Curve]:
    columns = _of_checkpoints(scored)
    for name in ("explored_mass", "entropy_at_least", "entropy_at_most") if columns else ():
        mean = _means(scored, columns[name])
        yield Curve(name, "relative", "all", GRID, mean.value, mean.samples, mean.n)


for _name in ("explored_mass", "mode_certain_share"):
    _make = partial(_mean_of, _name)
    add_quantity(Quantity(_name, _name, _make, key=f"leaves.{_name}", compared=False))
COLUMNS["checkpoints"].append(_of_checkpoints)
COLUMNS["trajectories"].append(_of_trajectories)
CURVES.append(_curves)
FACTS.append(_facts)
