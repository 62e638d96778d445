"""Entropy of the next token along the text, beside entropy of the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from fastsia.sia import registry
from fastsia.sia.curves import GROUPS
from fastsia.sia.estimate import Resampled
from fastsia.sia.registry import COLUMNS, FACTS, Quantity, add_quantity
from fastsia.sia.scored import Scored
from fastsia.sia.token_traces import FORKING_NATS

MEANS = {
    "accuracy": "correct",
    "token_entropy": "token_entropy",
    "forking_share": "forking_share",
    "forking_share_fixed": "forking_share_fixed",
    "token_entropy_thinking": "token_entropy_thinking",
    "token_entropy_answer_part": "token_entropy_answer_part",
    "answer_entropy_first": "first_entropy",
    "answer_entropy_mean": "mean_entropy",
    "answer_entropy_final": "final_entropy",
}
"""Means in the table, and the columns of the trajectories that they are the means of."""


@registry.table(
    "token_level",
    columns="group num_trajectories num_answer_parts accuracy token_entropy answer_entropy_mean",
    place=50,
)
def token_level_table(scored: Scored) -> pd.DataFrame | None:
    """Token level and answer level.

    Uncertainty about the next token beside uncertainty about the answer: means over trajectories, nats. “forking
    share” is the share of a trajectory's tokens that belong to the fifth of this run's tokens with the highest
    entropy; “forking share fixed” is the share above 0.672 nats, the 80th percentile that Wang et al. (2025)
    measured for Qwen3-8B. The answer part begins after a <think> block, or else at the marker after which the
    answer is read; “answer parts” counts the trajectories that have one. The others count as thinking throughout.
    “answer entropy” is H at the first checkpoint, averaged over all checkpoints, and at the last.

    Returns:
        One row per group (all, ends correct, ends incorrect): group, num_trajectories, num_answer_parts, and the means
        over trajectories of `MEANS` (nats) as name, name_low, name_high; accuracy of all trajectories only. None for a
        run without token entropies.
    """
    if scored.traces is None:
        return None
    frame, correct = scored.trajectories, scored.correct
    member = np.stack([np.ones_like(correct), correct, ~correct], axis=1)
    values = np.stack([frame[column].to_numpy(np.float64) for column in MEANS.values()], axis=1)
    there = member[:, :, None] & ~np.isnan(values)[:, None]
    starts = scored.table.problem_offsets[:-1]
    sums = np.add.reduceat(np.where(there, values[:, None], 0.0), starts, axis=0)
    means = Resampled.ratio(sums, np.add.reduceat(there.astype(np.float64), starts, axis=0), scored.bootstrap)
    stated = frame["token_entropy_answer_part"].notna().to_numpy()
    found = {
        "group": list(GROUPS),
        "num_trajectories": member.sum(axis=0),
        "num_answer_parts": (member & stated[:, None]).sum(axis=0),
    }
    for place, name in enumerate(MEANS):
        found |= means[:, place].columns(name)
    table = pd.DataFrame(found)
    table.loc[table["group"] != "all", ["accuracy", "accuracy_low", "accuracy_high"]] = np.nan
    return table


def _columns(scored: Scored) -> Mapping[str, Any]:
    return {} if scored.traces is None else scored.traces.columns()


def _threshold(scored: Scored) -> Mapping[str, Any]:
    """Nats above which tokens fork: of this run, and the same for every run."""
    if scored.traces is None:
        return {}
    return {"forking_threshold": {"run": scored.traces.threshold(), "fixed": FORKING_NATS}}


COLUMNS["trajectories"].append(_columns)
FACTS.append(_threshold)
for _name in ("token_entropy", "token_entropy_thinking", "token_entropy_answer_part", "forking_share_fixed"):
    add_quantity(Quantity(_name, column=_name, key=None, compared=False))
