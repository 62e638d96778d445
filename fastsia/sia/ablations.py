"""What rho depends on: the same rollouts scored with fewer of them, a coarser stride, another smoothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fastsia.config import SIAConfig
from fastsia.sia.alignment import Halves, cross_fitted, halve, pearson, spearman
from fastsia.sia.bootstrap import Bootstrap, interval
from fastsia.sia.curves import stride
from fastsia.sia.entropy import Checkpoints, ends_correct, gold_surprisal, measure, share_null
from fastsia.sia.table import RolloutTable

SMOOTHINGS = (0.1, 0.5, 1.0)
"""Values of alpha that the sensitivity table scores beside the run's own. Ours."""


def fewer_rollouts(table: RolloutTable, number: int) -> RolloutTable:
    """Only the first `number` rollouts of every checkpoint."""
    return table.keep(table.slots() < number)


def coarser_stride(table: RolloutTable, factor: int) -> RolloutTable:
    """Every `factor`-th checkpoint of each trajectory, and its last one."""
    place = np.arange(table.num_checkpoints) - table.first[table.trajectory_of_checkpoint]
    chosen = place % factor == 0
    chosen[table.last] = True
    return table.keep(np.repeat(chosen, table.count))


def coarse(table: RolloutTable) -> RolloutTable:
    """The paper's ablation (its Table 3) from stored rollouts: half the rollouts at every second checkpoint."""
    return coarser_stride(fewer_rollouts(table, max(int(table.count.max()) // 2, 1)), 2)


@dataclass(frozen=True)
class Scored:
    """A table with what rho needs of it."""

    table: RolloutTable
    points: Checkpoints
    halves: Halves

    @classmethod
    def of(cls, table: RolloutTable, config: SIAConfig) -> Scored:
        points = measure(table, config.smoothing)
        return cls(table, points, halve(table, config.smoothing, config.num_splits, config.seed))


def sensitivity(scored: Scored, config: SIAConfig, others: Mapping[str, Scored], bootstrap: Bootstrap) -> pd.DataFrame:
    """One row a way of scoring the same run: what was changed (`factor`, `value`), N, stride, alpha, rho in its three
    forms with 95 % intervals over problems, and the undefined fraction.

    others: the same rollouts with the answers of each reading ("strict", "lenient").
    """
    table, points = scored.table, scored.points
    rows = [_row("as run", "", scored, config.smoothing, config, bootstrap)]
    owner = table.trajectory_of_checkpoint
    classes = table.num_answers[owner]
    rules: list[tuple[str, float, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = [
        (f"alpha = {alpha:g}", alpha, _additive(classes, alpha)) for alpha in SMOOTHINGS if alpha != config.smoothing
    ]
    rules.append(("floor of half a rollout", 0.0, _floor))
    for name, alpha, rule in rules:
        halves = scored.halves
        wide = rule(halves.gold_count.T, halves.count.T).T
        changed = Scored(table, points.with_surprisal(rule(points.gold_count, points.count)), halves.smoothed(wide))
        rows.append(_row("smoothing", name, changed, alpha, config, bootstrap))
    most = int(table.count.max())
    for number in sorted({most // 4, most // 2}, reverse=True):
        if 4 <= number < most:
            part = Scored.of(fewer_rollouts(table, number), config)
            rows.append(_row("rollouts", f"first {number}", part, config.smoothing, config, bootstrap))
    for factor in (2, 4):
        if int(np.diff(table.trajectory_offsets).max()) > 2 * factor:
            part = Scored.of(coarser_stride(table, factor), config)
            rows.append(_row("stride", f"every {factor}.", part, config.smoothing, config, bootstrap))
    for name, other in others.items():
        rows.append(_row("answer_reading", name, other, config.smoothing, config, bootstrap))
    return pd.DataFrame(rows)


def reading_numbers(scored: Scored) -> dict[str, float | None]:
    """What a reading of the answers comes to: accuracy, null rate, H (nats, the mean over trajectories of the mean over
    their checkpoints), and the mean ρ (Pearson). None where undefined."""
    table, points = scored.table, scored.points
    rho = pearson(points.entropy, points.gold_surprisal, table.trajectory_offsets)
    entropy = np.add.reduceat(points.entropy, table.first) / np.diff(table.trajectory_offsets)
    null = share_null(table).sum(axis=0)
    defined = rho[~np.isnan(rho)]
    return {
        "accuracy": float(ends_correct(table, points).mean()),
        "null_rate": float(null[0] / null[1]),
        "entropy": float(entropy.mean()),
        "rho": float(defined.mean()) if len(defined) else None,
    }


def coarse_ablation(scored: Scored, config: SIAConfig, bootstrap: Bootstrap) -> pd.DataFrame:
    """Table 3: the run as it is beside half its rollouts at twice its stride."""
    part = Scored.of(coarse(scored.table), config)
    return pd.DataFrame(
        [
            _row("estimate", "as run", scored, config.smoothing, config, bootstrap),
            _row("estimate", "coarse", part, config.smoothing, config, bootstrap),
        ]
    )


def _additive(num_answers: np.ndarray, alpha: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda gold, count: gold_surprisal(gold, count, num_answers, alpha)


def _floor(gold: np.ndarray, count: np.ndarray) -> np.ndarray:
    """-ln(max(c, 1/2) / N): no smoothing but for a gold answer that was never drawn."""
    return np.log(np.maximum(count, 1)) - np.log(np.maximum(gold, 0.5))


def _row(
    factor: str, value: str, scored: Scored, alpha: float, config: SIAConfig, bootstrap: Bootstrap
) -> dict[str, Any]:
    table, points = scored.table, scored.points
    if bootstrap.weights.shape[1] != table.num_problems:  # some problem lost all its rollouts
        bootstrap = Bootstrap.draw(table.num_problems, len(bootstrap), config.seed)
    starts = table.problem_offsets[:-1]
    rho = pearson(points.entropy, points.gold_surprisal, table.trajectory_offsets)
    row: dict[str, Any] = {
        "factor": factor,
        "value": value,
        "num_rollouts": int(table.count.max()),
        "stride": stride(table),
        "alpha": alpha or None,
    }
    columns = {
        "rho_pearson": rho,
        "rho_spearman": spearman(points.entropy, points.gold_surprisal, table.trajectory_offsets),
        "rho_cross_fitted": cross_fitted(scored.halves)[0],
    }
    for name, values in columns.items():
        defined = ~np.isnan(values)
        above = np.add.reduceat(np.where(defined, values, 0.0), starts)
        below = np.add.reduceat(defined.astype(np.float64), starts)
        low, high = interval(bootstrap.ratio(above, below))
        row[name] = float(values[defined].mean()) if defined.any() else None
        row[f"{name}_low"] = None if np.isnan(low) else float(low)
        row[f"{name}_high"] = None if np.isnan(high) else float(high)
    row["undefined_fraction"] = float(np.isnan(rho).mean())
    return row
