"""Which step mattered: how much each part of a trajectory changes the answers, and what is written in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri
from scipy.stats import false_discovery_control

from fastsia.sia import registry
from fastsia.sia.decomposition import Chunk, chunks
from fastsia.sia.registry import COLUMNS, FACTS
from fastsia.sia.scored import Scored
from fastsia.sia.table import LocalAnswers
from fastsia.sia.two_samples import compare_counts, total_variation

LEVEL = 0.05
"""The false discovery rate at which a step is called decisive. Chosen by fastsia."""

_KEYS = ("problem_id", "trajectory", "step_begin", "step_end", "total_variation", "by_chance", "q_value")
_INTERVAL = ("gold_change", "gold_change_low", "gold_change_high")
_REPLACED = ("importance", "importance_q_value", "num_replaced", "replaced_gold")

MOST_SHOWN = 20
"""Rows of the table of steps."""

FEWEST_REPLACED = 3
"""The fewest rollouts that write something else in a step's place for it to be compared with them. Chosen by
fastsia."""


def newcombe(
    first: np.ndarray, of_first: np.ndarray, second: np.ndarray, of_second: np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Interval of a difference of two shares, second minus first, of independent sets (Newcombe 1998, method 10).

    Args:
        first: Hits, [n].
        of_first: Of how many.
        second: Of the other set.
        of_second: Of how many.
        level: Nominal coverage.

    Returns:
        Low and high, float64 [n].
    """
    z = ndtri(0.5 + level / 2)

    def wilson(hits: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        share = hits / number
        middle = (share + z**2 / (2 * number)) / (1 + z**2 / number)
        half = z / (1 + z**2 / number) * np.sqrt(share * (1 - share) / number + z**2 / (4 * number**2))
        return share, middle - half, middle + half

    with np.errstate(invalid="ignore", divide="ignore"):
        a, a_low, a_high = wilson(np.asarray(first, np.float64), of_first)
        b, b_low, b_high = wilson(np.asarray(second, np.float64), of_second)
        low = b - a - np.sqrt((b - b_low) ** 2 + (a_high - a) ** 2)
        high = b - a + np.sqrt((b_high - b) ** 2 + (a - a_low) ** 2)
    return low, high


def discoveries(p_value: np.ndarray) -> np.ndarray:
    """Benjamini and Hochberg's q-values, float64 [n]; NaN where the p-value is."""
    found = np.full(len(p_value), np.nan)
    there = np.isfinite(p_value)
    if there.any():
        found[there] = false_discovery_control(np.minimum(p_value[there], 1.0))
    return found


def _replacing(scored: Scored) -> np.ndarray | None:
    """bool [R]: rollouts that write something else in place of the step in which they diverge from the trajectory.

    Where token limits differ, only those that were drawn where the step begins: an earlier limit would have cut others.
    """
    divergences = scored.divergences
    if isinstance(divergences, str):
        return None
    row = scored.table.checkpoint_of_rollout
    last = scored.table.last[scored.table.trajectory_of_checkpoint[row]]
    leaves = divergences.segment != last
    return leaves & (divergences.segment == row) if scored.config.rollout_budget == "new" else leaves


def _counts(local: LocalAnswers, row: np.ndarray, chunk: Chunk, included: np.ndarray) -> np.ndarray:
    """Answers of a chunk's rollouts by the row at which each counts, int64 [M, K]; included: bool [R]."""
    kept = np.flatnonzero(included[chunk.rollouts]) + chunk.rollouts.start
    number = chunk.rows.stop - chunk.rows.start
    cell = (row[kept] - chunk.rows.start) * chunk.width + local.code[kept]
    return np.bincount(cell, minlength=number * chunk.width).reshape(number, chunk.width)


def step_columns(scored: Scored) -> Mapping[str, Any]:
    """The columns of the step that begins at each checkpoint, [G]; NaN at a trajectory's last.

    step_total_variation compares the rollouts of the two checkpoints at its ends. Its p-value is
    `two_samples.compare_counts`, its q-value Benjamini and Hochberg's over all steps of the run. step_kl is
    KL(after || before) of smoothed shares, nats. Where divergences are known, step_importance compares the rollouts
    after the step with those that wrote something else in its place.
    """
    table, config = scored.table, scored.config
    if config.shuffle_prefix or len(table.last) == table.num_checkpoints:
        return {}
    local, owner = table.local_answers(), table.trajectory_of_checkpoint
    own, divergences, replacing = table.checkpoint_of_rollout, scored.divergences, _replacing(scored)
    everyone = np.ones(table.num_rollouts, dtype=bool)
    names = ["total_variation", "by_chance", "p_value", "kl"]
    if replacing is not None:
        names += ["importance", "importance_by_chance", "importance_p_value", "num_replaced", "replaced_gold"]
    found = {name: np.full(table.num_checkpoints, np.nan) for name in names}
    for chunk in chunks(table, local, 1):
        begins = np.setdiff1d(np.arange(chunk.rows.start, chunk.rows.stop), table.last)
        place = begins - chunk.rows.start
        counts = _counts(local, own, chunk, everyone)
        before, after = counts[place], counts[place + 1]
        found["total_variation"][begins] = total_variation(before, after)
        found["p_value"][begins], found["by_chance"][begins] = compare_counts(before, after, config.seed)
        number = local.number[owner[begins]][:, None]
        possible = np.arange(chunk.width) < number
        smooth = [
            (x + config.smoothing) / (x.sum(axis=1)[:, None] + config.smoothing * number) for x in (before, after)
        ]
        ratio = np.log(smooth[1] / smooth[0])
        found["kl"][begins] = np.where(possible, smooth[1] * ratio, 0.0).sum(axis=1)
        if replacing is None or isinstance(divergences, str):
            continue
        left = _counts(local, divergences.segment, chunk, replacing)
        instead = left[place]
        size = instead.sum(axis=1)
        found["num_replaced"][begins] = size
        enough = size >= FEWEST_REPLACED
        rows, kept, instead = begins[enough], after[enough], instead[enough]
        gold = local.gold[owner[rows]]
        found["replaced_gold"][rows] = instead[np.arange(len(rows)), gold] / instead.sum(axis=1)
        found["importance"][rows] = total_variation(kept, instead)
        found["importance_p_value"][rows], found["importance_by_chance"][rows] = compare_counts(
            kept, instead, config.seed
        )
    columns = {f"step_{name}": values for name, values in found.items()}
    for name in ("", "importance_"):
        if f"step_{name}p_value" in columns:
            columns[f"step_{name}q_value"] = discoveries(columns[f"step_{name}p_value"])
    return columns | _gold_change(scored) | _ends(scored)


def _gold_change(scored: Scored) -> dict[str, np.ndarray]:
    """Change of p(gold) over each step with its interval; float64 [G]."""
    stats, last = scored.stats, scored.table.last
    following = np.minimum(np.arange(len(stats.count)) + 1, len(stats.count) - 1)
    sets = stats.gold_count, stats.count, stats.gold_count[following], stats.count[following]
    change = sets[2] / sets[3] - sets[0] / sets[1]
    columns = {"step_gold_change": change}
    columns |= dict(zip(("step_gold_change_low", "step_gold_change_high"), newcombe(*sets), strict=True))
    for values in columns.values():
        values[last] = np.nan
    return columns


def _ends(scored: Scored) -> dict[str, np.ndarray]:
    """The position at which each step ends, and the probability that the model writes it; float64 [G]."""
    table = scored.table
    end = np.append(table.checkpoint[1:], 0).astype(np.float64)
    end[table.last] = np.nan
    if isinstance(scored.divergences, str):
        return {"step_end": end}
    probability = np.where(
        scored.divergences.known[table.trajectory_of_checkpoint], np.exp(scored.divergences.log_stay), np.nan
    )
    probability[table.last] = np.nan
    return {"step_end": end, "step_probability": probability}


def choose_steps(checkpoints: pd.DataFrame, most: int = MOST_SHOWN) -> pd.DataFrame:
    """The steps with the smallest q-values, and among equals those with the largest total variation.

    Args:
        checkpoints: As `Analysis.checkpoints`, of any run or part of one.
        most: How many.

    Returns:
        Rows of `checkpoints` with a step, mode_after, the most frequent answer after it (None: no answer),
        mode_share_after and null_rate_after.
    """
    if "step_q_value" not in checkpoints:
        return checkpoints.iloc[:0]
    steps = checkpoints.join(checkpoints[["mode", "mode_share", "null_rate"]].shift(-1).add_suffix("_after"))
    steps = steps[steps["step_q_value"].notna()]
    return steps.sort_values(["step_q_value", "step_total_variation"], ascending=[True, False], kind="stable").head(
        most
    )


@registry.table(
    "steps",
    columns="problem_id trajectory step_begin step_end total_variation by_chance q_value gold_change",
    place=76,
)
def steps_table(scored: Scored) -> pd.DataFrame | None:
    """Steps that changed the answers.

    A step is what the trajectory writes between two checkpoints. “total variation” is the least share of the answers
    that must change from those before to those after it; “by chance” is what it is on average if nothing changes. A
    step is decisive at a “q value” of at most 0.05: of such steps at most about one in twenty is a false alarm, on
    average over runs (Benjamini and Hochberg, over all steps of the run; exact permutation tests). “gold change” is
    the change of the gold answer's share; its 95 % interval is valid for a step chosen beforehand. “importance” is the
    total variation between the answers after the step and those of rollouts that wrote something else in its place;
    “replaced” is the number of these rollouts, “replaced gold” the share of them that give the gold answer, and
    “probability” how likely the model writes just this step.
    `fastsia steps` prints the texts.

    Returns:
        Up to `MOST_SHOWN` rows of `choose_steps`: problem_id, trajectory, step_begin, step_end (tokens),
        total_variation, by_chance, q_value, gold_change with _low and _high; where divergences are known also
        probability, importance, importance_q_value, num_replaced and replaced_gold. None without two checkpoints.
    """
    chosen = choose_steps(scored.checkpoints)
    if not len(chosen):
        return None
    frame = chosen.rename(columns={"checkpoint": "step_begin"})
    frame = frame.rename(columns={name: name.removeprefix("step_") for name in map(str, frame) if name not in _KEYS})
    wanted = (*_KEYS, *_INTERVAL, "probability", *_REPLACED)
    return frame[[name for name in wanted if name in frame]].astype({"step_end": np.int64}).reset_index(drop=True)


def _facts(scored: Scored) -> dict[str, Any]:
    """How many steps there are, and how many change the answers or the gold answer's share."""
    frame = scored.checkpoints
    if "step_q_value" not in frame:
        return {"steps": None}
    decisive = (frame["step_q_value"] <= LEVEL).to_numpy()
    low, high = frame["step_gold_change_low"].to_numpy(), frame["step_gold_change_high"].to_numpy()
    return {
        "steps.level": LEVEL,
        "steps.number": int(frame["step_q_value"].notna().sum()),
        "steps.decisive": int(decisive.sum()),
        "steps.decisive_towards_gold": int((decisive & (low > 0)).sum()),
        "steps.decisive_away_from_gold": int((decisive & (high < 0)).sum()),
    }


COLUMNS["checkpoints"].append(step_columns)
FACTS.append(_facts)
