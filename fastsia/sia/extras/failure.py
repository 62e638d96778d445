"""Failure prediction: how well signals without a gold answer predict which trajectories will end incorrect."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fastsia.sia import registry
from fastsia.sia.curves import GRID, score_auc
from fastsia.sia.estimate import Resampled
from fastsia.sia.scored import Scored
from fastsia.sia.table import NULL, RolloutTable

POSITIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Relative positions at which the signals are compared."""

PLACES = np.array([int(np.argmin(np.abs(GRID - q))) for q in POSITIONS])
"""Indices of `POSITIONS` in `GRID`."""


def answer_margin(table: RolloutTable) -> np.ndarray:
    """float64 [G]: share of the most frequent answer minus that of the second; 1 where all rollouts agree. Null is a
    class like any other."""
    width = len(table.answers) + 1
    key = table.checkpoint_of_rollout * width + (table.code.astype(np.int64) - NULL)
    distinct, number = np.unique(key, return_counts=True)
    checkpoint = distinct // width
    order = np.lexsort((-number, checkpoint))
    first = np.searchsorted(checkpoint, np.arange(table.num_checkpoints))
    ends = np.append(first[1:], len(checkpoint))
    ranked = np.append(number[order], 0)
    second = np.where(ends - first > 1, ranked[first + 1], 0)
    return (ranked[first] - second) / table.count


@registry.table(
    "failure_detection",
    columns="position num_correct num_incorrect auc_entropy auc_margin margin_minus_entropy",
    place=70,
)
def failure_table(scored: Scored) -> pd.DataFrame | None:
    """Failure prediction.

    AUC for “this trajectory will end incorrect” of three signals that do not use the gold answer: answer entropy H;
    the mean entropy of the tokens written so far; and the margin, the share of the most frequent answer minus that of
    the second. ½ is chance. Differences are to H, paired: on the same trajectories and the same resamples.

    Returns:
        One row per position of `POSITIONS`: position, num_correct, num_incorrect; auc_SIGNAL, the AUC for "ends
        incorrect"; SIGNAL_minus_entropy, the difference to H. Each with _low and _high. Signals: entropy; token_entropy
        (undefined before the first token, left out where they are not known); margin, minus the `answer_margin`. None
        where all trajectories have one outcome.
    """
    table, correct = scored.table, scored.correct
    if correct.all() or not correct.any():
        return None
    positions = np.array(POSITIONS)
    rows = scored.at_grid[:, PLACES]
    entropy = Resampled(scored.auc.value, scored.auc.samples)[PLACES]

    def auc(score: np.ndarray, at_positions: np.ndarray) -> Resampled:
        found = score_auc(table, score, correct, at_positions, scored.bootstrap)
        return Resampled(found.value, found.samples)

    certainty = {}
    if scored.traces is not None:
        certainty["token_entropy"] = -scored.traces.so_far(table.checkpoint[rows])
    certainty["margin"] = answer_margin(table)[rows]
    found = {
        "position": positions,
        "num_correct": scored.auc.num_correct[PLACES],
        "num_incorrect": scored.auc.num_incorrect[PLACES],
        **entropy.columns("auc_entropy"),
    }
    differences: dict[str, np.ndarray] = {}
    for name, score in certainty.items():
        signal = auc(score, positions)
        same = Resampled(entropy.value.copy(), entropy.samples.copy())
        partly = np.flatnonzero(np.isnan(score).any(axis=0))
        if len(partly):  # H on those trajectories only that have the signal
            restricted = np.where(np.isnan(score[:, partly]), np.nan, -scored.stats.entropy[rows[:, partly]])
            again = auc(restricted, positions[partly])
            same.value[partly], same.samples[:, partly] = again.value, again.samples
        found |= signal.columns(f"auc_{name}")
        differences |= (signal - same).columns(f"{name}_minus_entropy")
    return pd.DataFrame(found | differences)
