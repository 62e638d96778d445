"""Tokens of a stored run in whose place other rollouts wrote another one, and the answers after either."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from fastsia.answers.vocabulary import Vocabulary
from fastsia.report.tables import format_p
from fastsia.results.reader import Store
from fastsia.results.steps import continued, format_answer
from fastsia.sia.extras.steps import discoveries, newcombe
from fastsia.sia.two_samples import compare_counts, total_variation

FEWEST = 3
"""The fewest rollouts that wrote the alternative, and that kept the token. Chosen by fastsia."""


def read_forks(store: Store, problem_id: str | None = None) -> pd.DataFrame:
    """Find the tokens of trajectories in whose place at least `FEWEST` rollouts wrote one other token.

    The rollouts that come by a token are those of the checkpoint before it that have matched the trajectory up to it.
    Some keep the token, others write an alternative: two independent samples of what follows from either, so each
    permutation test of their answers is exact. Rows of one checkpoint share rollouts, so q-values are a guide.

    Args:
        store: A snapshot of the run.
        problem_id: Of this problem only; None: of all.

    Returns:
        One row per trajectory, token and alternative, the most certain difference first: problem_id, trajectory,
        checkpoint, position (of the token), token and alternative (texts), num_kept and num_alternative, kept_answer
        and alternative_answer (the most frequent; None: no answer), total_variation (between their answers) with
        by_chance, p_value and q_value (Benjamini and Hochberg over the rows), gold_change (share of the gold answer
        with the alternative minus that without) with _low and _high.

    Raises:
        FastsiaError: The run's prefixes are shuffled.
    """
    vocabulary = store.vocabulary()
    rows: list[dict[str, Any]] = []
    for trajectory, rollouts in continued(store):
        if problem_id in (None, trajectory["problem_id"]):
            rows += _forks_of(trajectory, rollouts, vocabulary)
    found = pd.DataFrame(rows, columns=_COLUMNS)
    found.insert(_COLUMNS.index("p_value") + 1, "q_value", discoveries(found["p_value"].to_numpy(np.float64)))
    order = ["q_value", "total_variation"]
    return found.sort_values(order, ascending=[True, False], kind="stable", ignore_index=True)


_COLUMNS = [
    *("problem_id", "trajectory", "checkpoint", "position", "token", "alternative", "num_kept", "num_alternative"),
    *("kept_answer", "alternative_answer", "total_variation", "by_chance", "p_value"),
    *("gold_change", "gold_change_low", "gold_change_high"),
]


def _forks_of(trajectory: Any, rollouts: pd.DataFrame, vocabulary: Vocabulary) -> Iterator[dict[str, Any]]:
    own, gold = trajectory["token_ids"], trajectory["gold"]
    starts = rollouts["checkpoint"].to_numpy(np.int64)
    checkpoints = np.unique(starts).tolist()
    for checkpoint, end in zip(checkpoints, [*checkpoints[1:], len(own)], strict=True):
        part = rollouts[starts == checkpoint]
        matched = part["matched_tokens"].to_numpy(np.int64)
        ids = part["token_ids"].tolist()
        answers = part["answer"].where(part["answer"].notna(), None).tolist()
        alternatives: dict[tuple[int, int], list[int]] = {}
        for row, number in enumerate(matched.tolist()):
            # Others ended on the trajectory's own tokens. After the next checkpoint its own rollouts say more.
            if number < len(ids[row]) and checkpoint + number < end:
                alternatives.setdefault((number, int(ids[row][number])), []).append(row)
        for (offset, token), rows in sorted(alternatives.items()):
            kept = np.flatnonzero(matched > offset).tolist()
            if min(len(rows), len(kept)) < FEWEST:
                continue
            sets = [answers[row] for row in kept], [answers[row] for row in rows]
            names = sorted({*sets[0], *sets[1]}, key=str)
            stayed, left = (np.array([[given.count(name) for name in names]]) for given in sets)
            p_value, by_chance = compare_counts(stayed, left)
            hits = [np.array([given.count(gold)]) for given in sets]
            low, high = newcombe(hits[0], np.array([len(kept)]), hits[1], np.array([len(rows)]))
            position = checkpoint + offset
            yield {
                "problem_id": trajectory["problem_id"],
                "trajectory": trajectory["trajectory"],
                "checkpoint": checkpoint,
                "position": position,
                "token": vocabulary.decode(own[position : position + 1]),
                "alternative": vocabulary.decode(np.array([token], dtype=np.int32)),
                "num_kept": len(kept),
                "num_alternative": len(rows),
                "kept_answer": Counter(sets[0]).most_common(1)[0][0],
                "alternative_answer": Counter(sets[1]).most_common(1)[0][0],
                "total_variation": total_variation(stayed, left)[0],
                "by_chance": by_chance[0],
                "p_value": p_value[0],
                "gold_change": hits[1][0] / len(rows) - hits[0][0] / len(kept),
                "gold_change_low": low[0],
                "gold_change_high": high[0],
            }


def describe_fork(fork: Mapping[Any, Any]) -> list[str]:
    """A row of `read_forks` as lines to read."""
    kept, other = (repr(fork[name]) for name in ("token", "alternative"))
    answers = [format_answer(fork[f"{name}_answer"]) for name in ("kept", "alternative")]
    change, low, high = (100 * fork[f"gold_change{end}"] for end in ("", "_low", "_high"))
    return [
        f"{fork['problem_id']}, trajectory {fork['trajectory']}, token {fork['position']}: {other} in place of {kept}",
        f"  {fork['num_kept']} rollouts kept the token, most with {answers[0]}; {fork['num_alternative']} wrote the "
        f"other, most with {answers[1]}",
        f"  answers differ by {100 * fork['total_variation']:.0f} % ({100 * fork['by_chance']:.0f} % by chance, q = "
        f"{format_p(fork['q_value'])}); gold {change:+.0f} points [{low:.0f}, {high:.0f}]",
    ]
