"""Warnings about a run: what makes its numbers uncertain or biased."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from fastsia.errors import counted
from fastsia.sia.cut import Ends, cut_notes
from fastsia.sia.registry import NOTES
from fastsia.sia.scored import Scored

FEW_OF_AN_OUTCOME = 5
"""Trajectories of an outcome below which the AUC is said to be rough."""


def warnings(scored: Scored, facts: Mapping[str, Any]) -> list[str]:
    """Notes on the numbers, one sentence each.

    Args:
        scored: The run.
        facts: Of `registry.FACTS`.
    """
    table, stats, correct = scored.table, scored.stats, scored.correct
    found = [] if table.cut is None else cut_notes(Ends("rollouts", table.cut, table.tokens), scored.ends)
    if scored.off_policy:
        found.append(
            "The trajectories were given, not drawn from this model (off-policy): what must hold along a model's own "
            "text is not checked, and a mean gain above 0 is possible."
        )
    if table.num_errors:
        found.append(f"Failed rollouts, left out: {table.num_errors:,}.")
    if left_out := int(table.num_left_out.sum()):
        found.append(f"Checkpoints without a token left to draw, left out: {left_out:,}.")
    all_null = int((stats.null_count == stats.count).sum())
    if all_null:
        found.append(
            f"At {all_null} of {table.num_checkpoints} checkpoints no rollout has an answer: entropy is 0 there "
            "because all are null, not because the model is sure."
        )
    if correct.all() or not correct.any():
        limit = 1 - 0.025 ** (1 / table.num_problems)  # Clopper and Pearson's
        found.append(
            f"Every trajectory ends {'correct' if correct.all() else 'incorrect'}: the AUC is undefined, and failure "
            "prediction, which rests on it, is left out. The interval of the accuracy has no width, but "
            f"{counted(table.num_problems, 'problem')} do not exclude that the other outcome has a share of up to "
            f"{100 * limit:.0f} %."
        )
    elif (fewest := min(int(correct.sum()), int((~correct).sum()))) < FEW_OF_AN_OUTCOME:
        which = "correct" if correct.sum() <= (~correct).sum() else "incorrect"
        end = "ends" if fewest == 1 else "end"
        found.append(f"The AUC rests on {counted(fewest, 'trajectory')} that {end} {which}; it is rough.")
    most = int(np.diff(np.append(table.first, table.num_checkpoints)).max(initial=0))
    if most < 3:
        found.append(
            f"No trajectory has more than {counted(most, 'checkpoint')}, so every ρ is undefined: it takes 3. "
            "A smaller stride gives more."
        )
    elif np.isnan(scored.rho["rho"]).all():
        reached = np.add.reduceat(stats.gold_count, table.first) > 0
        found.append(
            "The paper's ρ is undefined for every trajectory: H or s does not change along it, or it has fewer than 3 "
            f"checkpoints. {counted(int((~reached).sum()), 'trajectory')} of {len(reached)} have no rollout with the "
            "gold answer, so s does not change."
        )
    share = float((stats.null_count.sum()) / max(stats.count.sum(), 1))
    if share > 0.5:
        found.append(
            f"{100 * share:.0f} % of the rollouts have no readable answer: perhaps the model is not made for this "
            "prompt, or answers in another form. Read a few in the report; system_instruction, num_fewshot and "
            "answer_regex change prompt and reading."
        )
    if table.num_problems < 30:
        found.append(f"Intervals over so few problems ({table.num_problems}) are rough; 64 or more are better.")
    if (stats.count < 2).any():
        found.append("Some checkpoints have a single rollout: their entropy is 0 by construction.")
    if bool((table.checkpoint[table.first] != 0).any()):
        found.append("Some trajectories have no checkpoint at 0: their gain starts at their first checkpoint.")
    if not scored.config.allocates_rollouts and (uneven := uneven_counts(scored.checkpoints)) is not None:
        found.append(uneven)
    return found + [note for make in NOTES for note in make(scored, facts)]


def uneven_counts(checkpoints: pd.DataFrame) -> str | None:
    """The warning that checkpoints have unequal numbers of rollouts; None where all have the same number.

    Args:
        checkpoints: Columns problem_id, trajectory, num_rollouts are read.
    """
    count = checkpoints["num_rollouts"]
    fewest, most, fewer = int(count.min()), int(count.max()), int((count < count.max()).sum())
    if fewest == most:
        return None
    inside = count.groupby([checkpoints["problem_id"], checkpoints["trajectory"]], sort=False)
    within, num_trajectories = int((inside.max() > inside.min()).sum()), inside.ngroups
    warning = (
        f"Unequal numbers of rollouts: {fewest} to {most} a checkpoint, fewer than {most} at {fewer:,} of "
        f"{len(count):,} checkpoints. Fewer rollouts give a lower entropy and a lower cap of the gold surprisal"
    )
    if within:
        return (
            f"{warning}, so in the {within:,} of {num_trajectories:,} trajectories whose checkpoints differ a "
            "shortage at one checkpoint looks like information."
        )
    return f"{warning}, so trajectories with fewer look more certain than those with more."
