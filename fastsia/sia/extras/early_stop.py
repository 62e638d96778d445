"""Early stopping, simulated: stored trajectories are replayed up to the checkpoint at which a rule stops them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from fastsia.sia import registry
from fastsia.sia.entropy import Checkpoints
from fastsia.sia.estimate import Resampled
from fastsia.sia.scored import Scored
from fastsia.sia.table import NULL, RolloutTable

TAUS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.0)
"""Thresholds of the entropy rule, nats. Chosen by fastsia, as are all settings below."""

PLATEAU_BANDS = (0.0, 0.05, 0.1, 0.2)
"""Largest range of H on a plateau, nats."""

PLATEAU_LENGTHS = (2, 3, 5)
"""Lengths of a plateau, checkpoints."""

MODE_LENGTHS = (2, 3, 4, 6, 8)
"""Numbers of checkpoints over which the mode must be the same."""

BUDGETS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
"""Fixed lengths as multiples of the run's mean length: the control, a rule without a signal."""

_EXACT = 1e-9  # equal entropies are summed in different orders


@registry.table("early_stop", columns="rule threshold checkpoints saved lost accuracy stopped", place=60)
def early_stop_table(scored: Scored) -> pd.DataFrame:
    """Early stopping, simulated.

    Every trajectory is replayed up to the first checkpoint at which a rule stops it, and answers with its most
    frequent answer there. entropy: H is at most the threshold. plateau: H moved by at most the threshold over this
    many checkpoints. mode: the most frequent answer was the same over this many checkpoints. length: this many tokens
    are written; the control, which uses no signal. “saved” is the share of all trajectories' tokens, “lost” the fall
    in accuracy against never stopping (below 0: a gain). The tokens of the rollouts from which H and the mode are
    estimated are not counted. They are usually many times what is saved, so the table shows what the signal is worth,
    not what a run would cost. An early mode is a majority vote of many continuations that go on reasoning, while the
    last one is mostly a single text's own answer: a gain comes from the vote.

    Returns:
        rule: "never", "entropy" (H <= threshold), "plateau" (max H - min H <= threshold over the last `checkpoints`),
            "mode" (the same over the last `checkpoints`), "length" (at least threshold tokens). All but "length"
            continue where the mode is no answer.
        threshold: Nats, or tokens for "length"; null where a rule has none.
        checkpoints: Int; null where a rule has none.
        saved: Share of all trajectories' tokens that was not written.
        lost: Accuracy of the mode at the last checkpoint minus accuracy of the mode at the stop.
        accuracy: Accuracy of the mode at the stop. All three with _low and _high.
        stopped: Share of trajectories that stopped before their last checkpoint.
    """
    table, points = scored.table, scored.points
    last = table.last
    full = table.checkpoint[last].astype(np.float64)
    right = points.majority_right.astype(np.float64)
    settings = list(_rules(table, points))
    stop = np.stack([_first(table, holds) for _, _, _, holds in settings], axis=1)
    saved = full[:, None] - table.checkpoint[stop]
    starts = table.problem_offsets[:-1]
    tokens = np.add.reduceat(np.broadcast_to(full[:, None], saved.shape), starts, axis=0)
    count = np.broadcast_to(np.diff(table.problem_offsets)[:, None], tokens.shape).astype(np.float64)
    shares = {
        "saved": (saved, tokens),
        "lost": (right[last][:, None] - right[stop], count),
        "accuracy": (right[stop], count),
    }
    found: dict[str, Any] = {
        "rule": [name for name, _, _, _ in settings],
        "threshold": np.array([np.nan if level is None else level for _, level, _, _ in settings]),
        "checkpoints": pd.array([length for _, _, length, _ in settings], dtype="Int64"),
    }
    for name, (values, below) in shares.items():
        found |= Resampled.ratio(np.add.reduceat(values, starts, axis=0), below, scored.bootstrap).columns(name)
    found["stopped"] = (stop < last[:, None]).mean(axis=0)
    return pd.DataFrame(found)


def _first(table: RolloutTable, holds: np.ndarray) -> np.ndarray:
    """int64 [T]: row of each trajectory's first checkpoint where `holds` [G] is true, else of its last one."""
    rows = np.where(holds, np.arange(table.num_checkpoints), table.num_checkpoints)
    return np.minimum(np.minimum.reduceat(rows, table.first), table.last)


def _rules(table: RolloutTable, points: Checkpoints) -> Iterator[tuple[str, float | None, int | None, np.ndarray]]:
    """(rule, threshold, checkpoints, where it would stop: bool [G])."""
    answered = points.mode != NULL
    yield "never", None, None, np.zeros(table.num_checkpoints, dtype=bool)
    for tau in TAUS:
        yield "entropy", tau, None, answered & (points.entropy <= tau + _EXACT)
    for length in PLATEAU_LENGTHS:
        spread = _spread(table, points.entropy, length)
        for band in PLATEAU_BANDS:
            yield "plateau", band, length, answered & (spread <= band + _EXACT)
    for length in MODE_LENGTHS:
        yield "mode", None, length, answered & (_spread(table, points.mode.astype(np.float64), length) == 0)
    mean = table.checkpoint[table.last].mean()
    for budget in sorted({round(mean * part) for part in BUDGETS}):
        yield "length", float(budget), None, table.checkpoint >= budget


def _spread(table: RolloutTable, values: np.ndarray, length: int) -> np.ndarray:
    """Range of values [G] over each checkpoint and the length - 1 before it; infinite at checkpoints with fewer before
    them."""
    low, high = values.copy(), values.copy()
    for back in range(1, length):
        np.minimum(low[back:], values[:-back], out=low[back:])
        np.maximum(high[back:], values[:-back], out=high[back:])
    place = np.arange(table.num_checkpoints) - table.first[table.trajectory_of_checkpoint]
    return np.where(place >= length - 1, high - low, np.inf)
