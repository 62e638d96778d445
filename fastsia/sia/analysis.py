"""From a table of rollouts to every number: the one pass that `fastsia.analyze`, `evaluate` and the report share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from fastsia.config import SIAConfig
from fastsia.sia.alignment import permutation_test
from fastsia.sia.curves import GRID, GROUPS, AucCurve, Curve, auc_curve, between_rows, curve_frame, token_rows
from fastsia.sia.cut import Ends
from fastsia.sia.estimate import Resampled
from fastsia.sia.notes import warnings
from fastsia.sia.quantities import estimate_frame, measure_quantities, summarize
from fastsia.sia.readings import encode_readings, with_readings
from fastsia.sia.registry import CURVES, FACTS, TABLES
from fastsia.sia.scored import MEAN_CURVES, Scored
from fastsia.sia.table import RolloutTable, encode
from fastsia.sia.token_traces import TokenLogprobs, TokenTraces

NUM_PERMUTATIONS = 1000
"""Permutations of the test that H and s of one trajectory belong together. Chosen by fastsia."""


@dataclass(frozen=True)
class Analysis:
    """The statistics of a table of rollouts, entropies and surprisals in nats.

    Undefined numbers are None in `summary` (null in JSON) and NaN in the frames.

    Attributes:
        summary: The headline numbers as in summary.json (docs/method.md defines them).
        trajectories: One row per trajectory.
        checkpoints: One row per checkpoint.
        curves: One row per point of a curve (curve, axis, group, position, value, low, high, se, count).
        tables: Further tables by name (early_stop, failure_detection, token_level, sensitivity, ...).
        estimates: Every headline number with its interval, one row each (quantity, group, position, value, low, high,
            n). `summary` is written from them.
    """

    summary: dict[str, Any]
    trajectories: pd.DataFrame
    checkpoints: pd.DataFrame
    curves: pd.DataFrame
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    estimates: pd.DataFrame = field(default_factory=pd.DataFrame)


def analyze_rollouts(rollouts: pd.DataFrame, *, config: SIAConfig | None = None) -> Analysis:
    """Score a table of rollouts.

    Columns `answer_strict` and `answer_lenient`, where they are there and differ, are scored too (`readings` of the
    summary, the sensitivity table). Without them, a rollout of finish_reason "length" has no answer in the strict
    reading and the given one in the lenient reading.

    Args:
        rollouts: Columns: see `sia.table.encode`.
        config: answer_reading, smoothing, num_bootstrap, num_splits and seed are read.
    """
    config = config or SIAConfig()
    rollouts = with_readings(rollouts, config.answer_reading)
    return analyze_table(encode(rollouts), config, readings=encode_readings(rollouts))


def analyze_table(
    table: RolloutTable,
    config: SIAConfig,
    *,
    readings: Mapping[str, RolloutTable] | None = None,
    traces: TokenTraces | None = None,
    logprobs: TokenLogprobs | None = None,
    ends: Ends | None = None,
    num_options: int | None = None,
    off_policy: bool = False,
) -> Analysis:
    """`analyze_rollouts` for a table that is already encoded.

    Args:
        table: The rollouts.
        config: See `analyze_rollouts`.
        readings: The same rollouts with the answers of each reading; empty where the readings do not differ.
        traces: Token entropies of the trajectories; without them, statistics of token entropies are left out.
        logprobs: Log-probabilities of the trajectories' tokens; without them, the decomposition is left out.
        ends: How the trajectories ended, where that is known.
        num_options: The most options of a problem, where all problems have options.
        off_policy: Whether the trajectories were given and not drawn from the model that drew the rollouts.
    """
    scored = replace(
        Scored.of(table, config),
        traces=traces,
        logprobs=logprobs,
        ends=ends,
        num_options=num_options,
        off_policy=off_policy,
    )
    for name, other in (readings or {}).items():
        scored.readings[name] = scored if _is_same(other, table) else Scored.of(other, config, origin=scored)
    measured = measure_quantities(scored)
    facts = {key: value for make in FACTS for key, value in make(scored).items()}
    made = ((name, entry.make(scored)) for name, entry in TABLES.items() if entry.make is not None)
    return Analysis(
        summarize(measured, facts) | {"warnings": warnings(scored, facts)},
        scored.trajectories,
        scored.checkpoints,
        curve_frame([curve for make in CURVES for curve in make(scored)]),
        {name: frame for name, frame in made if frame is not None},
        estimate_frame(measured),
    )


def _is_same(one: RolloutTable, other: RolloutTable) -> bool:
    """Whether two tables of the same rollouts have the same answers.

    Codes are numbered by first appearance, so comparing codes suffices.
    """
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("code", "answers", "gold", "correct")
    )


def _counts(scored: Scored) -> dict[str, Any]:
    table = scored.table
    return {
        "num_problems": table.num_problems,
        "num_trajectories": table.num_trajectories,
        "num_checkpoints": table.num_checkpoints,
        "num_rollouts": table.num_rollouts,
        "num_failed_rollouts": table.num_errors,
        "num_left_out_checkpoints": int(table.num_left_out.sum()),
        "num_cut_rollouts": None if table.cut is None else int(table.cut.sum()),
        "off_policy": scored.off_policy,
        "cut_rate": None if table.cut is None else float(table.cut.mean()),
        "rho.undefined_halves_fraction": scored.mean(scored.trajectories["undefined_halves"].to_numpy())
        .estimate()
        .value,
    }


def _permutation(scored: Scored) -> dict[str, Any]:
    one_each = scored.table.problem_offsets[:-1]
    rows, share = (values[one_each] for values in between_rows(scored.table))
    correct, seed = scored.correct[one_each], scored.config.seed
    test = permutation_test(scored.halves, rows, share, correct, num_permutations=NUM_PERMUTATIONS, seed=seed)
    return {"repairing_test": None if test is None else _with_old_names(asdict(test))}


_OLD_NAMES = {"num_traces": "num_trajectories", "null_mean": "permuted_mean", "null_bound": "permuted_bound"}
"""Keys of the permutation test that have been renamed; the summary has the old ones too for one release."""


def _with_old_names(facts: dict[str, Any]) -> dict[str, Any]:
    found = {key: _with_old_names(value) if isinstance(value, dict) else value for key, value in facts.items()}
    return found | {old: found[new] for old, new in _OLD_NAMES.items() if new in found}


def _mean_curves(scored: Scored) -> Iterator[Curve]:
    for group in GROUPS:
        for name in MEAN_CURVES:
            mean = scored.mean_curve(name, group)
            yield Curve(name, "relative", group, GRID, mean.value, mean.samples, mean.n)
        # Ratios of means: ratios of single trajectories diverge where one gains almost nothing.
        gain, entropy = scored.mean_curve("gain", group), scored.mean_curve("entropy", group)
        with np.errstate(divide="ignore", invalid="ignore"):
            share, shares = gain.value / gain.value[-1], gain.samples / gain.samples[:, -1:]
            drop, drops = 1 - entropy.value / entropy.value[0], 1 - entropy.samples / entropy.samples[:, :1]
        yield Curve("gain_share", "relative", group, GRID, _finite(share), _finite(shares), gain.n)
        yield Curve("entropy_drop", "relative", group, GRID, _finite(drop), _finite(drops), gain.n)


def _token_curves(scored: Scored) -> Iterator[Curve]:
    """By tokens written: mean entropy of the trajectories that have not ended there, and the AUC."""
    table, bootstrap = scored.table, scored.bootstrap
    positions, rows = token_rows(table)
    values = np.where(rows >= 0, scored.stats.entropy[rows], 0.0)
    starts = table.problem_offsets[:-1]
    sums = np.add.reduceat(values, starts, axis=0)
    mean = Resampled.ratio(sums, np.add.reduceat((rows >= 0).astype(np.float64), starts, axis=0), bootstrap)
    yield Curve("entropy", "tokens", "all", positions, mean.value, mean.samples, mean.n)
    yield _auc(scored.auc, "relative")
    change = scored.auc_change
    yield Curve("auc_change", "relative", "all", GRID, change.value, change.samples, change.n)
    yield _auc(auc_curve(table, scored.stats, scored.correct, positions, rows, bootstrap), "tokens")


def _auc(curve: AucCurve, axis: str) -> Curve:
    count = curve.num_correct + curve.num_incorrect
    return Curve("auc", axis, "all", curve.positions, curve.value, curve.samples, count)


def _finite(x: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(x), x, np.nan)


FACTS.extend([_counts, _permutation])
CURVES.extend([_mean_curves, _token_curves])
