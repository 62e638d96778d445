"""What stopping early would have saved and cost, by replaying stored trajectories up to where a rule says enough."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from fastsia.sia.bootstrap import Bootstrap, interval
from fastsia.sia.entropy import Checkpoints
from fastsia.sia.table import NULL, RolloutTable

TAUS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.0)
"""Nats of answer entropy at or under which a trajectory stops. Ours, as are all of these."""

PLATEAU_BANDS = (0.0, 0.05, 0.1, 0.2)
"""Nats within which H may move on a plateau."""

PLATEAU_LENGTHS = (2, 3, 5)
"""Checkpoints that make a plateau."""

MODE_LENGTHS = (2, 3, 4, 6, 8)
"""Checkpoints over which a mode must have been the same."""

BUDGETS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
"""Fixed lengths for comparison, as parts of the run's mean length: what a rule that looks at nothing achieves."""

_EXACT = 1e-9  # equal entropies are summed in different orders


def early_stop_table(table: RolloutTable, points: Checkpoints, bootstrap: Bootstrap) -> pd.DataFrame:
    """One row a rule and setting: every trajectory stops at the first checkpoint that satisfies the rule, and answers
    with the mode there; at its last checkpoint where none does. Needs no gold answer to stop.

    rule: "never", "entropy" (H <= threshold), "plateau" (max H - min H <= threshold over the last `checkpoints`),
        "mode" (the same over the last `checkpoints`), "length" (threshold tokens or more). All but "length" go on where
        the mode is no answer. threshold: nats, or tokens; checkpoints: int; null where a rule has none.
    saved: the share of all trajectories' tokens that was not written; lost: the fall of accuracy, of the mode at the
        last checkpoint against the mode where it stopped; accuracy: of the latter. Each with _low, _high, 95 % over
        problems. stopped: the share of trajectories that stopped before their last checkpoint.

    The tokens of the rollouts that H and the mode come from are not counted.
    """
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
        above = np.add.reduceat(values, starts, axis=0)
        total = below.sum(axis=0)
        found[name] = np.divide(above.sum(axis=0), total, out=np.full(len(total), np.nan), where=total > 0)
        found[f"{name}_low"], found[f"{name}_high"] = interval(bootstrap.ratio(above, below))
    found["stopped"] = (stop < last[:, None]).mean(axis=0)
    return pd.DataFrame(found)


def _first(table: RolloutTable, holds: np.ndarray) -> np.ndarray:
    """int64 [T]: row of each trajectory's first checkpoint where holds [G], its last one where none does."""
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
    """Largest minus smallest of values [G] over each checkpoint and the length - 1 before it; infinite where a
    trajectory has no so many yet."""
    low, high = values.copy(), values.copy()
    for back in range(1, length):
        np.minimum(low[back:], values[:-back], out=low[back:])
        np.maximum(high[back:], values[:-back], out=high[back:])
    place = np.arange(table.num_checkpoints) - table.first[table.trajectory_of_checkpoint]
    return np.where(place >= length - 1, high - low, np.inf)
