"""From a table of rollouts to every number: the one pass that `fastsia.analyze`, `evaluate` and the report share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from fastsia.config import AnswerReading, SIAConfig
from fastsia.errors import FastsiaError
from fastsia.sia.ablations import Scored, coarse_ablation, reading_numbers, sensitivity
from fastsia.sia.alignment import (
    MIN_RELIABILITY,
    Halves,
    attenuation,
    cross_fitted,
    pearson,
    repairing_test,
    spearman,
)
from fastsia.sia.bootstrap import Bootstrap, interval, standard_error
from fastsia.sia.curves import (
    GRID,
    GROUPS,
    AucCurve,
    Curve,
    GroupMeans,
    auc_curve,
    curve_frame,
    grid_rows,
    group_means,
    token_rows,
)
from fastsia.sia.cut import Ends, cut_notes
from fastsia.sia.early_stop import early_stop_table
from fastsia.sia.entropy import Checkpoints, ends_correct, gains, share_null
from fastsia.sia.failure import failure_table
from fastsia.sia.signatures import (
    RISE_TOLERANCES,
    change_points,
    fano_bound,
    largest_rise,
    lock_in,
    misaligned,
    pooled,
    saturation,
)
from fastsia.sia.table import NULL, RolloutTable, encode, finish_reasons
from fastsia.sia.token_level import FORKING_NATS, TokenTraces, token_level_table


@dataclass(frozen=True)
class Analysis:
    """What a table of rollouts says. Entropies and surprisals are in nats; undefined numbers are None in `summary`
    and null in the frames, never NaN in JSON.

    summary: the headline numbers (docs/method.md says what each is).
    trajectories: one row a trajectory; checkpoints: one row a checkpoint; curves: one row a point of a curve
        (curve, axis, group, position, value, low, high, se, count).
    tables: further tables by name (early_stop, failure_detection, token_level, sensitivity, ...).
    """

    summary: dict[str, Any]
    trajectories: pd.DataFrame
    checkpoints: pd.DataFrame
    curves: pd.DataFrame
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)


def analyze_rollouts(rollouts: pd.DataFrame, *, config: SIAConfig | None = None, detail: bool = True) -> Analysis:
    """Scores a table of rollouts (columns: see `sia.table.encode`).

    Of the config it reads think, smoothing, num_bootstrap, num_splits and seed. Columns `answer_strict` and
    `answer_lenient`, where both are there and differ, are scored too (`readings` of the summary, the sensitivity
    table). Where they are not there, a rollout of finish_reason "length" has no answer in the strict reading, the given
    one in the lenient reading, and `answer_reading` says which of them is scored. `detail=False` leaves out what takes
    a second
    look at the rollouts: readings, sensitivity, coarse ablation, re-pairing test, change points, pooled estimates,
    early stopping, failure detection.
    """
    config = config or SIAConfig()
    rollouts = with_readings(rollouts, config.answer_reading)
    readings = encode_readings(rollouts) if detail else {}
    return analyze_table(encode(rollouts), config, detail=detail, readings=readings)


def with_readings(rollouts: pd.DataFrame, answer_reading: AnswerReading) -> pd.DataFrame:
    """A table with `answer_strict` and `answer_lenient`, and `answer` as `answer_reading` has it. As it is where it
    does not say
    which rollouts were cut, or where it has both already and `answer` is another than both."""
    names = list(rollouts.columns)
    both = {"answer_strict", "answer_lenient"} & set(names)
    if len(both) == 1:
        raise FastsiaError(
            f"the table of rollouts has column {both.pop()!r} alone; give both answer_strict and answer_lenient."
        )
    if both:
        if (scored := reading_of(rollouts)) is None or scored == answer_reading:
            return rollouts
        own = {"answer": rollouts[f"answer_{answer_reading}"]}
        if f"correct_{answer_reading}" in names:
            own["correct"] = rollouts[f"correct_{answer_reading}"]
        return rollouts.assign(**own)
    if any(names.count(name) != 1 for name in ("answer", "finish_reason")):
        return rollouts
    given = rollouts["answer"].astype(object)
    strict = given.where(finish_reasons(rollouts["finish_reason"]) != "length", None)
    return rollouts.assign(
        answer=strict if answer_reading == "strict" else given, answer_strict=strict, answer_lenient=given
    )


def reading_of(rollouts: pd.DataFrame) -> AnswerReading | None:
    """Which of its two readings a table's `answer` is; None where it is neither, or both, or where it has no two."""
    names = list(rollouts.columns)
    if any(names.count(name) != 1 for name in ("answer", "answer_strict", "answer_lenient")):
        return None
    answer, strict, lenient = (
        column.astype(object).where(column.notna(), None)
        for column in (rollouts["answer"], rollouts["answer_strict"], rollouts["answer_lenient"])
    )
    is_strict, is_lenient = answer.equals(strict), answer.equals(lenient)
    return None if is_strict == is_lenient else "strict" if is_strict else "lenient"


def encode_readings(rollouts: pd.DataFrame) -> dict[str, RolloutTable]:
    """The same rollouts with their strict and with their lenient answers, where both are there and differ. Columns
    correct_strict and correct_lenient say which trajectories end correct by each; without them `correct` does."""
    if not {"answer_strict", "answer_lenient"} <= set(rollouts.columns) or rollouts["answer_strict"].equals(
        rollouts["answer_lenient"]
    ):
        return {}
    found = {}
    for answer_reading in ("strict", "lenient"):
        own = {"answer": rollouts[f"answer_{answer_reading}"]}
        if f"correct_{answer_reading}" in rollouts.columns:
            own["correct"] = rollouts[f"correct_{answer_reading}"]
        found[answer_reading] = encode(rollouts.assign(**own))
    return found


def analyze_table(
    table: RolloutTable,
    config: SIAConfig,
    *,
    detail: bool = True,
    readings: Mapping[str, RolloutTable] | None = None,
    traces: TokenTraces | None = None,
    ends: Ends | None = None,
) -> Analysis:
    """`analyze_rollouts` for a table that is already encoded. readings: the same rollouts with the answers of each
    reading, empty where they do not differ. traces: the token entropies of its trajectories; without them, what is made
    of them is left out. ends: how its trajectories ended, where that is known."""
    scored = Scored.of(table, config)
    points, halves = scored.points, scored.halves
    correct = ends_correct(table, points)
    bootstrap = Bootstrap.draw(table.num_problems, config.num_bootstrap, config.seed)
    trajectories = _trajectory_frame(table, points, halves, correct)
    checkpoints = _checkpoint_frame(table, points)

    at_grid = grid_rows(table)
    pool = pooled(table, config.smoothing) if detail else None
    means = group_means(table, _at_positions(table, points, at_grid), correct, bootstrap)
    by_position = auc_curve(table, points, correct, GRID, at_grid, bootstrap)
    tokens, at_tokens = token_rows(table)
    by_token = auc_curve(table, points, correct, tokens, at_tokens, bootstrap)
    curves = [
        *_mean_curves(means, int(table.num_answers.max())),
        _token_curve(table, points, tokens, at_tokens, bootstrap),
        _auc(by_position, "relative"),
        _auc(by_token, "tokens"),
    ]
    summary = _summarize(table, points, correct, trajectories, halves, means, by_position, bootstrap, ends)
    if (uneven := uneven_counts(checkpoints)) is not None:
        summary["warnings"].append(uneven)
    tables: dict[str, pd.DataFrame] = {}
    if traces is not None:
        trajectories = trajectories.assign(**traces.columns())
        summary["forking_threshold"] = {"run": traces.threshold(), "fixed": FORKING_NATS}
        tables["token_level"] = token_level_table(table, trajectories, correct, bootstrap)
    if detail:
        tables["early_stop"] = early_stop_table(table, points, bootstrap)
        tables["failure_detection"] = failure_table(table, points, correct, at_grid, by_position, traces, bootstrap)
        changes = change_points(table)
        length = np.maximum(table.checkpoint[table.last], 1)
        where = np.where(changes.largest >= 0, table.checkpoint[changes.largest], -1)
        trajectories["num_change_points"] = changes.count
        trajectories["change_point"] = pd.array(np.where(where < 0, 0, where), dtype="Int64")
        trajectories.loc[where < 0, "change_point"] = pd.NA
        summary["change_points"] = {
            "mean_number": number(changes.count.mean()),
            "share_without": number((changes.count == 0).mean()),
            "mean_relative_position": number(_mean((where / length)[where >= 0])),
        }
        one_each = table.problem_offsets[:-1]
        test = repairing_test(halves, at_grid[one_each], num_permutations=NUM_PERMUTATIONS, seed=config.seed)
        summary["repairing_test"] = None if test is None else asdict(test)
        others = {
            name: scored if _is_same(other, table) else Scored.of(other, config)
            for name, other in (readings or {}).items()
        }
        summary["readings"] = {name: reading_numbers(others.get(name, scored)) for name in ("strict", "lenient")}
        tables["sensitivity"] = sensitivity(scored, config, others, bootstrap)
        tables["coarse_ablation"] = coarse_ablation(scored, config, bootstrap)
        if pool is not None:
            checkpoints["entropy_pooled"] = pool.entropy
            checkpoints["num_pooled"] = pool.count
            checkpoints["pooled_cut_share"] = pool.cut
            at_pool = group_means(table, pool.entropy[at_grid][:, None], correct, bootstrap)
            curves += [
                Curve("entropy_pooled", "relative", group, GRID, at_pool.value[g, 0], at_pool.samples[:, g, 0], count)
                for g, (group, count) in enumerate(zip(GROUPS, at_pool.count.tolist(), strict=True))
            ]
            summary["pooled"] = {
                "mean_draws": number(pool.count.mean()),
                "entropy_difference": number((pool.entropy - points.entropy).mean()),
                "cut_share": number(pool.cut.mean()),
            }
    return Analysis(summary, trajectories, checkpoints, curve_frame(curves), tables)


NUM_PERMUTATIONS = 1000
"""Re-pairings of the permutation test. Ours."""

QUANTITIES = (
    "entropy",
    "gold_surprisal",
    "gain",
    "null_rate",
    "majority_error",
    "entropy_miller_madow",
    "entropy_chao_shen",
)
"""Curves that are plain means over trajectories."""


def _is_same(one: RolloutTable, other: RolloutTable) -> bool:
    """Of two tables of the same rollouts: codes go by first appearance, so equal answers have equal ones."""
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("code", "answers", "gold", "correct")
    )


def _at_positions(table: RolloutTable, points: Checkpoints, rows: np.ndarray) -> np.ndarray:
    """float64 [T, quantities, positions] in the order of `QUANTITIES`."""
    columns = (
        points.entropy,
        points.gold_surprisal,
        gains(table, points)[1],
        points.null_rate,
        1.0 - points.majority_right,
        points.entropy_miller_madow,
        points.entropy_chao_shen,
    )
    return np.stack([column[rows] for column in columns], axis=1)


def _trajectory_frame(table: RolloutTable, points: Checkpoints, halves: Halves, correct: np.ndarray) -> pd.DataFrame:
    mean, undefined = cross_fitted(halves)
    mode = points.mode[table.last]
    locked = table.checkpoint[lock_in(table, points)]
    length = np.maximum(table.checkpoint[table.last], 1)
    return pd.DataFrame(
        {
            "problem_id": table.problem_ids[table.problem_of_trajectory],
            "trajectory": table.trajectory,
            "gold": table.answers[table.gold],
            "correct": correct,
            "num_checkpoints": np.diff(table.trajectory_offsets),
            "num_left_out_checkpoints": table.num_left_out,
            "last_checkpoint": table.checkpoint[table.last],
            "num_answers": table.num_answers,
            "final_mode": _texts(table, mode),
            "rho": pearson(points.entropy, points.gold_surprisal, table.trajectory_offsets),
            "rho_spearman": spearman(points.entropy, points.gold_surprisal, table.trajectory_offsets),
            "rho_cross_fitted": mean,
            "undefined_halves": undefined,
            "first_entropy": points.entropy[table.first],
            "final_entropy": points.entropy[table.last],
            "mean_entropy": np.add.reduceat(points.entropy, table.first) / np.diff(table.trajectory_offsets),
            "first_gold_surprisal": points.gold_surprisal[table.first],
            "final_gold_surprisal": points.gold_surprisal[table.last],
            "gain": points.gold_surprisal[table.first] - points.gold_surprisal[table.last],
            "lock_in": locked,
            "lock_in_relative": locked / length,
            "largest_rise": largest_rise(table, points),
            "misaligned": misaligned(table, points),
        }
    )


def _checkpoint_frame(table: RolloutTable, points: Checkpoints) -> pd.DataFrame:
    owner = table.trajectory_of_checkpoint
    length = np.maximum(table.checkpoint[table.last], 1)[owner]
    step, cumulative = gains(table, points)
    return pd.DataFrame(
        {
            "problem_id": table.problem_ids[table.problem_of_trajectory[owner]],
            "trajectory": table.trajectory[owner],
            "checkpoint": table.checkpoint,
            "relative_position": table.checkpoint / length,
            "num_rollouts": points.count,
            "entropy": points.entropy,
            "entropy_miller_madow": points.entropy_miller_madow,
            "entropy_chao_shen": points.entropy_chao_shen,
            "gold_surprisal": points.gold_surprisal,
            "gain": step,
            "cumulative_gain": cumulative,
            "gold_count": points.gold_count,
            "null_rate": points.null_rate,
            "num_distinct": points.num_distinct,
            "mode": _texts(table, points.mode),
        }
    )


def _texts(table: RolloutTable, codes: np.ndarray) -> np.ndarray:
    """Answers of codes, None for the null class."""
    texts = np.array([*table.answers, None], dtype=object)
    return texts[np.where(codes == NULL, len(table.answers), codes)]


def _mean_curves(means: GroupMeans, num_answers: int) -> list[Curve]:
    curves = []
    gain, entropy = QUANTITIES.index("gain"), QUANTITIES.index("entropy")
    for g, group in enumerate(GROUPS):
        count = int(means.count[g])
        for i, name in enumerate(QUANTITIES):
            curves.append(Curve(name, "relative", group, GRID, means.value[g, i], means.samples[:, g, i], count))
        # Ratios of means: ratios of single traces blow up where a trace gains about nothing.
        with np.errstate(divide="ignore", invalid="ignore"):
            share = means.value[g, gain] / means.value[g, gain, -1]
            shares = means.samples[:, g, gain] / means.samples[:, g, gain, -1:]
            drop = 1 - means.value[g, entropy] / means.value[g, entropy, 0]
            drops = 1 - means.samples[:, g, entropy] / means.samples[:, g, entropy, :1]
        for name, value, samples in (("gain_share", share, shares), ("entropy_drop", drop, drops)):
            curves.append(Curve(name, "relative", group, GRID, _finite(value), _finite(samples), count))
    bound = fano_bound(means.value[0, entropy], num_answers)
    bounds = fano_bound(means.samples[:, 0, entropy], num_answers)
    curves.append(Curve("fano_bound", "relative", "all", GRID, bound, bounds, int(means.count[0])))
    return curves


def _token_curve(
    table: RolloutTable, points: Checkpoints, positions: np.ndarray, rows: np.ndarray, bootstrap: Bootstrap
) -> Curve:
    """Mean entropy over the traces that are still going at each absolute position."""
    there = (rows >= 0).astype(np.float64)
    values = np.where(rows >= 0, points.entropy[rows], 0.0)
    starts = table.problem_offsets[:-1]
    sums, counts = np.add.reduceat(values, starts, axis=0), np.add.reduceat(there, starts, axis=0)
    total = counts.sum(axis=0)
    value = sums.sum(axis=0) / np.maximum(total, 1)
    return Curve("entropy", "tokens", "all", positions, value, bootstrap.ratio(sums, counts), total)


def _auc(curve: AucCurve, axis: str) -> Curve:
    count = curve.num_correct + curve.num_incorrect
    return Curve("auc", axis, "all", curve.positions, curve.value, curve.samples, count)


def _summarize(
    table: RolloutTable,
    points: Checkpoints,
    correct: np.ndarray,
    trajectories: pd.DataFrame,
    halves: Halves,
    means: GroupMeans,
    auc: AucCurve,
    bootstrap: Bootstrap,
    ends: Ends | None,
) -> dict[str, Any]:
    starts = table.problem_offsets[:-1]
    counts = np.diff(table.problem_offsets).astype(np.float64)
    value: dict[str, Any] = {}
    bounds: dict[str, Any] = {}

    def mean(x: np.ndarray) -> tuple[float, np.ndarray]:
        """Mean over trajectories where x [T] is defined, and its resamples."""
        defined = ~np.isnan(x)
        above = np.add.reduceat(np.where(defined, x, 0.0), starts)
        below = np.add.reduceat(defined.astype(np.float64), starts)
        total = below.sum()
        return (above.sum() / total if total else np.nan), bootstrap.ratio(above, below)

    accuracy, accuracies = mean(correct.astype(np.float64))
    null = share_null(table)
    null_rates = bootstrap.ratio(null[:, 0], null[:, 1])
    value["accuracy"], bounds["accuracy"] = number(accuracy), limits(accuracies)
    value["null_rate"], bounds["null_rate"] = number(null[:, 0].sum() / null[:, 1].sum()), limits(null_rates)

    rho: dict[str, Any] = {}
    rho_bounds: dict[str, Any] = {}
    samples: dict[str, np.ndarray] = {}
    for name, column in (("pearson", "rho"), ("spearman", "rho_spearman"), ("cross_fitted", "rho_cross_fitted")):
        point, samples[name] = mean(trajectories[column].to_numpy())
        rho[name], rho_bounds[name] = number(point), limits(samples[name])
    undefined, undefineds = mean(np.isnan(trajectories["rho"].to_numpy()).astype(np.float64))
    halves_undefined, _ = mean(trajectories["undefined_halves"].to_numpy())

    parts = np.add.reduceat(halves.reliability_parts(), starts, axis=0)
    total = parts.sum(axis=0)
    reliability = np.divide(total[:, 0], total[:, 1], out=np.full(2, np.nan), where=total[:, 1] > 0)
    reliabilities = bootstrap.ratio(parts[:, :, 0], parts[:, :, 1])
    lowest, highest = interval(reliabilities)
    corrected, corrected_bounds = None, None
    if rho["cross_fitted"] is not None and bool((lowest >= MIN_RELIABILITY).all()):
        corrected = number(min(1.0, max(-1.0, rho["cross_fitted"] * float(attenuation(reliability)))))
        factor = attenuation(np.maximum(reliabilities, 0.0))
        corrected_bounds = limits(np.clip(samples["cross_fitted"] * factor, -1, 1))
    rho["cross_fitted_corrected"], rho_bounds["cross_fitted_corrected"] = corrected, corrected_bounds
    rho["undefined_fraction"], rho_bounds["undefined_fraction"] = number(undefined), limits(undefineds)
    rho["undefined_halves_fraction"] = number(halves_undefined)
    for name, column in (("pearson", "rho"), ("cross_fitted", "rho_cross_fitted")):
        for group, member in (("correct", correct), ("incorrect", ~correct)):
            point, resamples = mean(np.where(member, trajectories[column].to_numpy(), np.nan))
            rho[f"{name}_{group}"], rho_bounds[f"{name}_{group}"] = number(point), limits(resamples)
    rho["reliability"] = {
        name: {"value": number(reliability[i]), "ci": bound(lowest[i], highest[i])}
        for i, name in enumerate(("entropy", "gold_surprisal"))
    }
    value["rho"], bounds["rho"] = rho, rho_bounds

    low, high = interval(auc.samples)
    error = standard_error(auc.samples)
    value["auc"] = [
        {
            "position": round(float(auc.positions[k]), 4),
            "auc": number(auc.value[k]),
            "se": number(error[k]),
            "num_correct": int(auc.num_correct[k]),
            "num_incorrect": int(auc.num_incorrect[k]),
        }
        for k in range(len(auc.positions))
    ]
    bounds["auc"] = [bound(low[k], high[k]) for k in range(len(auc.positions))]
    gain, entropy = QUANTITIES.index("gain"), QUANTITIES.index("entropy")
    for name, i, g, position in (
        ("entropy_first", entropy, 0, 0),
        ("entropy_final", entropy, 0, -1),
        ("gain", gain, 0, -1),
        ("gain_correct", gain, 1, -1),
        ("gain_incorrect", gain, 2, -1),
    ):
        value[name] = number(means.value[g, i, position])
        bounds[name] = limits(means.samples[:, g, i, position])

    flat, flats = saturation(means.value[0, entropy]), saturation(means.samples[:, 0, entropy])
    value["saturation"] = {"level": number(flat.level), "onset": number(flat.onset), "rebound": number(flat.rebound)}
    bounds["saturation"] = {
        "level": limits(flats.level),
        "onset": limits(flats.onset),
        "rebound": limits(flats.rebound),
    }
    shares = {"misalignment": trajectories["misaligned"], "lock_in": trajectories["lock_in_relative"]}
    for name, share in shares.items():
        point, resamples = mean(share.to_numpy(np.float64))
        value[name], bounds[name] = number(point), limits(resamples)
    rise = trajectories["largest_rise"].to_numpy()
    monotone = [mean((rise <= tolerance + 1e-12).astype(np.float64)) for tolerance in RISE_TOLERANCES]
    value["monotone"] = [
        {"tolerance": tolerance, "share": number(monotone[i][0])} for i, tolerance in enumerate(RISE_TOLERANCES)
    ]
    bounds["monotone"] = [limits(resamples) for _, resamples in monotone]
    value["fano_num_answers"] = int(table.num_answers.max())
    return {
        "num_problems": table.num_problems,
        "num_trajectories": table.num_trajectories,
        "num_checkpoints": table.num_checkpoints,
        "num_rollouts": table.num_rollouts,
        "num_failed_rollouts": table.num_errors,
        "num_left_out_checkpoints": int(table.num_left_out.sum()),
        "num_cut_rollouts": None if table.cut is None else int(table.cut.sum()),
        "cut_rate": None if table.cut is None else number(table.cut.mean()),
        **value,
        "ci": bounds,
        "warnings": _warnings(table, points, counts, correct, ends),
    }


def _warnings(
    table: RolloutTable, points: Checkpoints, counts: np.ndarray, correct: np.ndarray, ends: Ends | None
) -> list[str]:
    found = [] if table.cut is None else cut_notes(Ends("rollouts", table.cut, table.tokens), ends)
    if table.num_errors:
        found.append(f"Failed rollouts, left out: {table.num_errors:,}.")
    if left_out := int(table.num_left_out.sum()):
        found.append(f"Checkpoints without a token left to draw, left out: {left_out:,}.")
    all_null = int((points.null_count == points.count).sum())
    if all_null:
        found.append(
            f"At {all_null} of {table.num_checkpoints} checkpoints no rollout has an answer: entropy is 0 there "
            "because all are null, not because the model is sure."
        )
    if correct.all() or not correct.any():
        found.append(f"Every trajectory ends {'correct' if correct.all() else 'incorrect'}: the AUC is undefined.")
    if table.num_problems < 30:
        found.append(f"Intervals over so few problems ({table.num_problems}) are rough; 64 or more are better.")
    if (points.count < 2).any():
        found.append("Some checkpoints have a single rollout: their entropy is 0 by construction.")
    if bool((table.checkpoint[table.first] != 0).any()):
        found.append("Some trajectories have no checkpoint at 0: their gain starts at their first checkpoint.")
    return found


def uneven_counts(checkpoints: pd.DataFrame) -> str | None:
    """The warning that checkpoints have unequal numbers of rollouts; None where all have the same number.

    Columns read: problem_id, trajectory, num_rollouts."""
    count = checkpoints["num_rollouts"]
    fewest, most, fewer = int(count.min()), int(count.max()), int((count < count.max()).sum())
    if fewest == most:
        return None
    inside = count.groupby([checkpoints["problem_id"], checkpoints["trajectory"]], sort=False)
    within, num_trajectories = int((inside.max() > inside.min()).sum()), inside.ngroups
    told = (
        f"Unequal numbers of rollouts: {fewest} to {most} a checkpoint, fewer than {most} at {fewer:,} of "
        f"{len(count):,} checkpoints. Fewer rollouts give a lower entropy and a lower cap of the gold surprisal"
    )
    if within:
        return (
            f"{told}, so in the {within:,} of {num_trajectories:,} trajectories whose checkpoints differ a "
            "shortage at one checkpoint looks like information."
        )
    return f"{told}, so trajectories with fewer look surer than those with more."


def _mean(x: np.ndarray) -> float:
    return float(x.mean()) if len(x) else float("nan")


def number(x: float | np.ndarray) -> float | None:
    """A JSON number, None where undefined."""
    return float(x) if np.isfinite(x) else None


def bound(low: float, high: float) -> list[float] | None:
    """An interval for JSON, None where undefined."""
    return [float(low), float(high)] if np.isfinite(low) and np.isfinite(high) else None


def limits(samples: np.ndarray) -> list[float] | None:
    """The percentile interval of resamples [B] for JSON."""
    low, high = interval(samples)
    return bound(float(low), float(high))


def _finite(x: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(x), x, np.nan)
