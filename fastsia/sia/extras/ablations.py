"""What rho depends on: the same rollouts scored with fewer of them, a coarser stride, another smoothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from fastsia.sia import registry
from fastsia.sia.curves import stride
from fastsia.sia.entropy import gold_surprisal, share_null
from fastsia.sia.rarefaction import rarefied_surprisal
from fastsia.sia.registry import FACTS
from fastsia.sia.scored import Scored
from fastsia.sia.table import NULL, RolloutTable

Rule = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""The gold surprisal by gold count, number of rollouts and number of answers."""

SMOOTHINGS = (0.1, 0.5, 1.0)
"""Values of alpha that the sensitivity table scores beside the run's own. Chosen by fastsia."""


def fewer_rollouts(table: RolloutTable, number: int) -> RolloutTable:
    """Only the first `number` rollouts of every checkpoint."""
    return table.keep(table.index_in_checkpoint() < number)


def coarser_stride(table: RolloutTable, factor: int) -> RolloutTable:
    """Every `factor`-th checkpoint of each trajectory, and its last one."""
    place = np.arange(table.num_checkpoints) - table.first[table.trajectory_of_checkpoint]
    chosen = place % factor == 0
    chosen[table.last] = True
    return table.keep(np.repeat(chosen, table.count))


def null_ways(table: RolloutTable) -> Iterator[tuple[str, RolloutTable]]:
    """Other ways to treat rollouts without an answer, which otherwise are one class: (name, table).

    Checkpoints at which no rollout has an answer have H = 0 as the run has it. Without these rollouts there is no such
    checkpoint; with each as its own answer, H is largest there. Nothing where all rollouts, or none, have an answer.
    """
    null = table.code == NULL
    if not null.any() or null.all():
        return
    yield "left out", table.keep(~null)
    code = table.code.copy()
    code[null] = len(table.answers) + np.arange(null.sum())
    apart = np.concatenate([table.answers, np.full(null.sum(), None, dtype=object)])
    yield "each its own", replace(table, code=code, answers=apart)  # V and so the surprisal stay


def coarse(table: RolloutTable, number: int | None = None) -> RolloutTable:
    """The paper's ablation (its Table 3) from stored rollouts, as we read it: half of them at every second checkpoint.

    Args:
        number: of rollouts of a checkpoint; None: the most that one has.
    """
    return coarser_stride(fewer_rollouts(table, max((number or int(table.count.max())) // 2, 1)), 2)


_COLUMNS = "factor value num_rollouts stride alpha num_trajectories rho_pearson rho_spearman rho_cross_fitted"


@registry.table("sensitivity", columns=_COLUMNS, place=90)
def sensitivity(scored: Scored) -> pd.DataFrame:
    """What ρ depends on.

    The same rollouts scored again with another smoothing, fewer of them, fewer checkpoints, or another treatment of
    rollouts without an answer. “trajectories” counts those that have the paper's ρ.

    Returns:
        Columns factor and value (what was changed), num_rollouts, stride, alpha; num_trajectories that have the paper's
        rho; rho_pearson, rho_spearman and rho_cross_fitted with _low and _high; undefined_fraction.
    """
    table, stats, config = scored.table, scored.stats, scored.config
    rows = [_row("as run", "", scored)]
    classes = table.num_answers[table.trajectory_of_checkpoint]
    rules: list[tuple[str, float | None, Rule]] = [
        (f"alpha = {alpha:g}", alpha, _additive(alpha)) for alpha in SMOOTHINGS if alpha != config.smoothing
    ]
    rules.append(("none (0 counts as ½)", None, _floor))
    for name, alpha, rule in rules:
        halves = scored.halves.with_surprisal(rule(scored.halves.gold_count.T, scored.halves.count.T, classes).T)
        if scored.is_rarefied:
            surprisal = rarefied_surprisal(table, stats, scored.rarefaction_depth, rule)
        else:
            surprisal = rule(stats.gold_count, stats.count, classes)
        changed = replace(scored, stats=stats.with_surprisal(surprisal), halves=halves, origin=scored)
        rows.append(_row("smoothing", name, changed) | {"alpha": alpha})
    most = scored.rarefaction_depth
    for number in sorted({most // 4, most // 2}, reverse=True):
        if 4 <= number < most:
            part = fewer_rollouts(table, number)
            rows.append(_row("rollouts", f"first {number}", Scored.of(part, config, origin=scored)))
    for factor, name in ((2, "every 2nd checkpoint"), (4, "every 4th checkpoint")):
        if int(np.diff(table.trajectory_offsets).max()) > 2 * factor:
            part = coarser_stride(table, factor)
            rows.append(_row("stride", name, Scored.of(part, config, origin=scored)))
    even = replace(config, target_se=None, max_total_tokens=None)  # the next parts are not rarefied to a single rollout
    rows += [_row("answer_reading", name, other) for name, other in scored.readings.items()]
    rows += [
        _row("no answer", name, Scored.of(part, even, origin=scored)) for name, part in null_ways(_compared(scored))
    ]
    return pd.DataFrame(rows)


@registry.table("coarse_ablation", columns=_COLUMNS, place=40)
def coarse_ablation(scored: Scored) -> pd.DataFrame:
    """Coarser estimate (the paper's Table 3).

    Would a cheaper run have given the same result? “as run” is this run; “coarse” scores the same rollouts as if only
    half of them had been drawn, at every second checkpoint. Nothing is drawn again. If ρ hardly changes, the finding
    does not depend on the resolution. Where the distribution changes, expect each trajectory's ρ closer to 0, the
    cross-fitted one most, since it splits even fewer rollouts; the mean of both signs can move either way.
    “trajectories” counts those that have the paper's ρ; with two or three of them the means and intervals say little.
    """
    part = Scored.of(coarse(scored.table, scored.rarefaction_depth), scored.config, origin=scored)
    return pd.DataFrame([_row("estimate", "as run", scored), _row("estimate", "coarse", part)])


def reading_numbers(scored: Scored) -> dict[str, float | None]:
    """Accuracy, null rate, H (nats, mean over trajectories of their means over checkpoints) and mean rho (Pearson) of
    one reading of the answers; None where undefined."""
    null = share_null(scored.table, scored.is_rarefied).sum(axis=0)
    rho = scored.rho["rho"]
    defined = rho[~np.isnan(rho)]
    return {
        "accuracy": float(scored.correct.mean()),
        "null_rate": float(null[0] / null[1]),
        "entropy": float(scored.mean_entropy.mean()),
        "rho": float(defined.mean()) if len(defined) else None,
    }


def _compared(scored: Scored) -> RolloutTable:
    """The rollouts of a table with as many at every checkpoint, where the run has allocated them."""
    return fewer_rollouts(scored.table, scored.rarefaction_depth) if scored.is_rarefied else scored.table


def _additive(alpha: float) -> Rule:
    return lambda gold, count, classes: gold_surprisal(gold, count, classes, alpha)


def _floor(gold: np.ndarray, count: np.ndarray, _: np.ndarray) -> np.ndarray:
    """-ln(max(c, 1/2) / N): no smoothing but for a gold answer that was never drawn."""
    return np.log(np.maximum(count, 1)) - np.log(np.maximum(gold, 0.5))


def _row(factor: str, value: str, scored: Scored) -> dict[str, Any]:
    row: dict[str, Any] = {
        "factor": factor,
        "value": value,
        "num_rollouts": scored.rarefaction_depth,
        "stride": stride(scored.table),
        "alpha": scored.config.smoothing,
    }
    is_undefined = np.isnan(scored.rho["rho"])
    row["num_trajectories"] = int((~is_undefined).sum())
    for name, values in zip(("rho_pearson", "rho_spearman", "rho_cross_fitted"), scored.rho.values(), strict=True):
        row |= scored.mean(values).estimate().columns(name)
    row["undefined_fraction"] = float(is_undefined.mean())
    return row


def _readings(scored: Scored) -> dict[str, Any]:
    numbers = {name: reading_numbers(scored.readings.get(name, scored)) for name in ("strict", "lenient")}
    return {"readings": numbers}


FACTS.append(_readings)
