"""Answers after each likely token of a position: which token of a trajectory could have led elsewhere."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from fastsia.sia import registry
from fastsia.sia.extras.steps import discoveries, newcombe
from fastsia.sia.two_samples import compare_counts, total_variation

_KEY = ["problem_id", "trajectory", "position"]
_COLUMNS = (
    "problem_id trajectory position token token_id is_own probability num_rollouts answer answer_share gold_share "
    "total_variation by_chance p_value q_value gold_change gold_change_low gold_change_high"
)


@registry.table("alternatives", columns=_COLUMNS, computed=False, place=72)
def alternatives_table(drawn: pd.DataFrame) -> pd.DataFrame:
    """After each alternative at a forking token

    Rollouts after tokens that were put at a position of a trajectory: its own and the most probable others.
    probability: of the token there, under the run's temperature and top-p. answer, answer share: the most frequent
    answer after it. total variation: the least share of answers that differ from those after the trajectory's own
    token; by chance: what it is on average if the token makes no difference; p: exact permutation test; q: the same
    corrected for all alternatives of the run. gold change: share of the gold answer minus that after the own token.
    These rollouts count in no other number.

    Args:
        drawn: One row per position and token: problem_id, trajectory, position, token (text), token_id, is_own,
            probability, gold, answers (a list; None: no answer).

    Returns:
        One row per position and token, the own one first, then by falling probability; the columns above. NaN: of the
        own token, and where no rollout stands after it.
    """
    rows: list[dict[str, Any]] = []
    for _, group in [] if drawn.empty else list(drawn.groupby(_KEY, sort=False)):
        ordered = group.sort_values(["is_own", "probability"], ascending=False, kind="stable").to_dict("records")
        kept = ordered[0]["answers"] if ordered[0]["is_own"] else []
        rows += [_row(record, [] if record["is_own"] else kept) for record in ordered]
    table = pd.DataFrame(rows, columns=_COLUMNS.split())
    table["q_value"] = discoveries(table["p_value"].to_numpy(np.float64))
    return table


def _row(record: dict[Any, Any], kept: list[str | None]) -> dict[str, Any]:
    answers, gold = record["answers"], record["gold"]
    most, number = Counter(answers).most_common(1)[0]
    row = {name: record[name] for name in (*_KEY, "token", "token_id", "is_own", "probability")} | {
        "num_rollouts": len(answers),
        "answer": most,
        "answer_share": number / len(answers),
        "gold_share": answers.count(gold) / len(answers),
    }
    if not kept:
        return row
    names = sorted({*kept, *answers}, key=str)
    own, other = (np.array([[given.count(name) for name in names]]) for given in (kept, answers))
    p_value, by_chance = compare_counts(own, other)
    hits = [np.array([given.count(gold)]) for given in (kept, answers)]
    low, high = newcombe(hits[0], np.array([len(kept)]), hits[1], np.array([len(answers)]))
    return row | {
        "total_variation": total_variation(own, other)[0],
        "by_chance": by_chance[0],
        "p_value": p_value[0],
        "gold_change": row["gold_share"] - kept.count(gold) / len(kept),
        "gold_change_low": low[0],
        "gold_change_high": high[0],
    }
