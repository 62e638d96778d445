"""Failure detection: how well signals that need no gold answer tell which trajectories will end incorrect."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from fastsia.sia.bootstrap import Bootstrap, interval
from fastsia.sia.curves import GRID, AucCurve, score_auc
from fastsia.sia.entropy import Checkpoints
from fastsia.sia.table import NULL, RolloutTable
from fastsia.sia.token_level import TokenTraces

POSITIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Relative positions at which the signals are compared."""


def answer_margin(table: RolloutTable) -> np.ndarray:
    """float64 [G]: share of the most frequent answer minus that of the second; null a class like any other, 1 where all
    rollouts agree."""
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


def failure_table(
    table: RolloutTable,
    points: Checkpoints,
    correct: np.ndarray,
    rows: np.ndarray,
    entropy: AucCurve,
    traces: TokenTraces | None,
    bootstrap: Bootstrap,
) -> pd.DataFrame:
    """One row a position of `POSITIONS`: position, num_correct, num_incorrect, the AUC for "ends incorrect" of each
    signal, and its difference from that of H on the same trajectories and resamples (x, x_low, x_high; 95 % over
    problems).

    Signals: auc_entropy, H_t; auc_token_entropy, the mean entropy of the tokens written so far (left out without
    traces, undefined before the first token); auc_margin, minus the `answer_margin`.

    rows: int64 [T, len(GRID)], the checkpoint at which each trajectory is read; entropy: the AUC of H there.
    """
    at = np.array([int(np.argmin(np.abs(GRID - q))) for q in POSITIONS])
    rows = rows[:, at]
    sure = {"token_entropy": -traces.so_far(table.checkpoint[rows])} if traces is not None else {}
    sure["margin"] = answer_margin(table)[rows]
    found: dict[str, Any] = {
        "position": np.array(POSITIONS),
        "num_correct": entropy.num_correct[at],
        "num_incorrect": entropy.num_incorrect[at],
        **_bounded("auc_entropy", entropy.value[at], entropy.samples[:, at]),
    }
    differences: dict[str, Any] = {}
    for name, score in sure.items():
        mine = score_auc(table, score, correct, np.array(POSITIONS), bootstrap)
        value, samples = entropy.value[at].copy(), entropy.samples[:, at]
        partly = np.flatnonzero(np.isnan(score).any(axis=0))
        if len(partly):  # H on no other trajectories than the signal
            same = np.where(np.isnan(score[:, partly]), np.nan, -points.entropy[rows[:, partly]])
            again = score_auc(table, same, correct, np.array(POSITIONS)[partly], bootstrap)
            value[partly], samples[:, partly] = again.value, again.samples
        found |= _bounded(f"auc_{name}", mine.value, mine.samples)
        differences |= _bounded(f"{name}_minus_entropy", mine.value - value, mine.samples - samples)
    return pd.DataFrame(found | differences)


def _bounded(name: str, value: np.ndarray, samples: np.ndarray) -> dict[str, np.ndarray]:
    low, high = interval(samples)
    return {name: value, f"{name}_low": low, f"{name}_high": high}
