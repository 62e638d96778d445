"""Distinct texts with their known probabilities: what a set of rollouts proves about p, without statistics.

A rollout's text is a leaf of the tree of all texts, and its probability is known. After a checkpoint the distinct
texts with answer a have together the probability L_a, so p(a) is at least L_a, and at most L_a + u with u = 1 - sum of
L the probability of all texts that were not drawn. docs/method.md states the conditions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fastsia.config import SIAConfig
from fastsia.sia.decomposition import SAME_TEXT, Divergences, Recursion, check, chunks, entropy_of, log_prefixes
from fastsia.sia.table import NULL, RolloutTable
from fastsia.sia.token_traces import TokenLogprobs


@dataclass(frozen=True)
class Texts:
    """The distinct texts of a table's rollouts, L in number, by trajectory and point of divergence.

    Attributes:
        rollout: int64 [L], one rollout that is this text (row of the table).
        number: int64 [L], how many rollouts are.
        segment: int64 [L], row of the last checkpoint that the text runs through.
        uncensored_from: int64 [L], row of the first checkpoint after which it is a whole text: token limits may differ.
        logprob: float64 [L], nats, its probability after the checkpoint `segment`.
    """

    rollout: np.ndarray
    number: np.ndarray
    segment: np.ndarray
    uncensored_from: np.ndarray
    logprob: np.ndarray


def find_texts(table: RolloutTable, divergences: Divergences, logprobs: TokenLogprobs, config: SIAConfig) -> Texts:
    """Find the distinct texts among rollouts whose log-probability is known.

    Rollouts that diverge at one token, end at one token and have one answer count as one text where their
    log-probabilities after the divergence differ by at most `SAME_TEXT`: the least probable of them.

    Rollouts of trajectories with unknown token probabilities are left out, and so are those that diverge where the
    trajectory's answer is decided already: nothing is left to bound there.

    Args:
        table: must have matched, tokens and logprob.
        divergences: those of the table.
        logprobs: Log-probabilities of the trajectories' tokens.
        config: rollout_budget is read.
    """
    matched, tokens, cut, logprob = table.matched, table.tokens, table.cut, table.logprob
    assert matched is not None
    assert tokens is not None
    assert cut is not None
    assert logprob is not None
    row = table.checkpoint_of_rollout
    owner = table.trajectory_of_checkpoint[row]
    start = table.checkpoint[row]
    leave, end = start + matched, start + tokens
    to_row = log_prefixes(table, logprobs, table.checkpoint)
    tail = logprob - (log_prefixes(table, logprobs, leave, owner) - to_row[row])

    decided = divergences.decided[owner] & (divergences.segment == table.last[owner])
    kept = np.flatnonzero(divergences.known[owner] & ~decided & np.isfinite(logprob))
    # Under "new", what a limit cut is a whole text after its own checkpoint only.
    own_only = cut & (config.rollout_budget == "new")
    segment = np.where(own_only, row, divergences.segment)
    uncensored_from = np.where(own_only, row, divergences.uncensored_from)
    only = np.where(own_only, row, -1)

    order = kept[np.lexsort((tail[kept], only[kept], table.code[kept], end[kept], leave[kept], owner[kept]))]
    keys = np.stack([owner, leave, end, table.code, only])[:, order]
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0) | (np.diff(tail[order]) > SAME_TEXT)
    first = order[fresh]
    return Texts(
        rollout=first,
        number=np.diff(np.append(np.flatnonzero(fresh), len(order))),
        segment=segment[first],
        uncensored_from=uncensored_from[first],
        logprob=np.minimum(logprob[first] + to_row[row[first]] - to_row[segment[first]], 0.0),
    )


@dataclass(frozen=True)
class Leaves:
    """Bounds on p from the distinct texts at every checkpoint, [G] each; NaN where tokens' probabilities are unknown.

    Attributes:
        texts: The distinct texts.
        explored: float64, probability of all of them together after the checkpoint.
        gold_low: float64, the least that p(gold) can be; the most is this plus 1 - explored.
        mode: int32, code of the answer with the largest lower bound.
        mode_is_certain: bool, whether no other answer can be as probable as that one.
        entropy_low: float64, nats, the least that H can be.
        entropy_high: float64, nats, the most that H can be if all answers that the trajectory's rollouts never gave
            count as one (`num_classes`).
    """

    texts: Texts
    explored: np.ndarray
    gold_low: np.ndarray
    mode: np.ndarray
    mode_is_certain: np.ndarray
    entropy_low: np.ndarray
    entropy_high: np.ndarray


def explore(
    table: RolloutTable,
    divergences: Divergences,
    logprobs: TokenLogprobs,
    config: SIAConfig,
    num_options: int | None = None,
) -> Leaves | str:
    """The bounds at every checkpoint, or why there are none.

    Args:
        table: The rollouts.
        divergences: those of the table.
        logprobs: Log-probabilities of the trajectories' tokens.
        config: rollout_budget is read.
        num_options: The most options of a problem where all have options: no other answers exist but none.
    """
    if table.logprob is None or not np.isfinite(table.logprob).any():
        return "the log-probabilities of the rollouts are not known"
    texts = find_texts(table, divergences, logprobs, config)
    local, owner = table.local_answers(), table.trajectory_of_checkpoint
    to_row = log_prefixes(table, logprobs, table.checkpoint)
    probability = np.exp(texts.logprob)
    is_censored = texts.uncensored_from > table.first[owner[texts.segment]]
    before = np.where(is_censored, texts.uncensored_from - 1, 0)
    gone = np.where(is_censored, np.exp(np.minimum(texts.logprob + to_row[texts.segment] - to_row[before], 0.0)), 0.0)

    columns: list[list[np.ndarray]] = []
    for chunk in chunks(table, local, 1):
        begin, number = chunk.rows.start, chunk.rows.stop - chunk.rows.start
        mine = np.flatnonzero((texts.segment >= begin) & (texts.segment < chunk.rows.stop))
        code = local.code[texts.rollout[mine]]
        low = _sum(texts.segment[mine] - begin, code, probability[mine], number, chunk.width)
        left = mine[is_censored[mine]]
        lost = _sum(before[left] - begin, local.code[texts.rollout[left]], gone[left], number, chunk.width)
        recursion = Recursion.of(table, divergences, chunk)
        stay = np.exp(recursion.log_stay)
        _add_decided(low, table, divergences, chunk.trajectories, local.code, begin)
        for rows in recursion.steps[1:]:
            low[rows] += stay[rows][:, None] * low[rows + 1] - lost[rows]
        low = np.maximum(low, 0.0)

        trajectory = owner[chunk.rows]
        num_answers = local.number[trajectory]
        possible = np.arange(chunk.width) < num_answers[:, None]
        unexplored = np.maximum(1.0 - low.sum(axis=1), 0.0)
        ranked = np.sort(low, axis=1)
        classes = num_answers + 1 if num_options is None else np.minimum(num_answers + 1, num_options + 1)
        columns.append(
            [
                1.0 - unexplored,
                low[np.arange(number), local.gold[trajectory]],
                local.global_code[local.offsets[trajectory] + low.argmax(axis=1)].astype(np.float64),
                (ranked[:, -1] > (ranked[:, -2] if chunk.width > 1 else 0.0) + unexplored).astype(np.float64),
                least_entropy(low, unexplored),
                most_entropy(np.where(possible, low, np.nan), unexplored, np.maximum(classes, num_answers)),
            ]
        )
    explored, gold_low, mode, certain, entropy_low, entropy_high = (
        np.concatenate(part) for part in zip(*columns, strict=True)
    )
    unknown = ~divergences.known[owner]
    for values in (explored, gold_low, entropy_low, entropy_high):
        values[unknown] = np.nan
    return Leaves(texts, explored, gold_low, mode.astype(np.int32), (certain > 0) & ~unknown, entropy_low, entropy_high)


def _sum(row: np.ndarray, code: np.ndarray, weight: np.ndarray, rows: int, width: int) -> np.ndarray:
    """float64 [rows, width]."""
    return np.bincount(row * width + code, weights=weight, minlength=rows * width).reshape(rows, width)


def _add_decided(
    low: np.ndarray, table: RolloutTable, divergences: Divergences, trajectories: slice, code: np.ndarray, begin: int
) -> None:
    """Set the answers of trajectories that their own tokens decide: they are certain at the last checkpoint."""
    row = table.checkpoint_of_rollout
    for_last = np.flatnonzero(divergences.segment == table.last[table.trajectory_of_checkpoint[row]])
    which = table.trajectory_of_checkpoint[row[for_last]]
    for_last, which = (part[divergences.decided[which]] for part in (for_last, which))
    inside = (which >= trajectories.start) & (which < trajectories.stop)
    for_last, which = for_last[inside], which[inside]
    smallest, largest = np.full(table.num_trajectories, np.iinfo(np.int64).max), np.full(table.num_trajectories, -1)
    np.minimum.at(smallest, which, code[for_last])
    np.maximum.at(largest, which, code[for_last])
    agreed = np.flatnonzero(smallest == largest)  # another reading of the texts may disagree
    low[table.last[agreed] - begin, largest[agreed]] = 1.0


def least_entropy(low: np.ndarray, unexplored: np.ndarray) -> np.ndarray:
    """The least entropy of distributions p >= low, nats; float64 [M].

    The entropy is concave, so it is least where one answer gets all that is unexplored, and of all answers the one that
    is largest already, since x ln x is convex.

    Args:
        low: float64 [M, K].
        unexplored: float64 [M], 1 minus the sum of low.
    """
    p = low.copy()
    p[np.arange(len(p)), p.argmax(axis=1)] += unexplored
    return entropy_of(p)


def most_entropy(low: np.ndarray, unexplored: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The largest entropy of distributions p >= low over a number of classes, nats; float64 [M].

    It is reached by filling up the smallest answers to one level.

    Args:
        low: float64 [M, K], NaN for an answer that does not exist.
        unexplored: float64 [M], 1 minus the sum of low.
        classes: int64 [M], at least the answers that exist; the others have a lower bound of 0.
    """
    number = (~np.isnan(low)).sum(axis=1)
    extra = classes - number
    width = int((number + extra).max())
    padded = np.full((len(low), width), np.inf)
    padded[:, : low.shape[1]] = np.where(np.isnan(low), np.inf, low)[:, :width]
    padded.sort(axis=1)
    for k in range(int(extra.max(initial=0))):
        rows = extra > k
        padded[rows, number[rows] + k] = 0.0
    padded.sort(axis=1)
    exists = np.isfinite(padded)
    values = np.where(exists, padded, 0.0)
    level = (np.cumsum(values, axis=1) + unexplored[:, None]) / np.arange(1, width + 1)  # of the k + 1 smallest
    level = np.where(exists & (level >= values), level, -np.inf)
    # Filling k answers is possible as long as the level is above the k-th; the last such k is the level reached.
    last = width - 1 - np.argmax(np.isfinite(level[:, ::-1]), axis=1)
    reached = level[np.arange(len(low)), last]
    return entropy_of(np.where(exists, np.maximum(values, reached[:, None]), 0.0))


def distinct_texts(table: RolloutTable, logprobs: TokenLogprobs, config: SIAConfig) -> pd.DataFrame | None:
    """The distinct texts among a run's rollouts with their probabilities.

    Args:
        table: The rollouts.
        logprobs: Log-probabilities of the trajectories' tokens.
        config: max_tokens and rollout_budget are read.

    Returns:
        One row per text, or None where probabilities are not known or not those of the sampling distribution:
        problem_id, trajectory; diverges and ends (positions: the first token that differs from the trajectory's, and
        the text's end); answer, None for none; num_rollouts, how many rollouts are this text; logprob (nats) of the
        text after the trajectory's first checkpoint; cut, whether the token limit ended it.
    """
    divergences = Divergences.of(table, logprobs, config)
    if divergences is None or check(table, divergences) is not None or table.logprob is None:
        return None
    texts = find_texts(table, divergences, logprobs, config)
    row, to_row = table.checkpoint_of_rollout[texts.rollout], log_prefixes(table, logprobs, table.checkpoint)
    owner = table.trajectory_of_checkpoint[row]
    assert table.matched is not None
    assert table.tokens is not None
    assert table.cut is not None
    answers, code = np.array([*table.answers, None], dtype=object), table.code[texts.rollout]
    return pd.DataFrame(
        {
            "problem_id": table.problem_ids[table.problem_of_trajectory[owner]],
            "trajectory": table.trajectory[owner],
            "diverges": table.checkpoint[row] + table.matched[texts.rollout],
            "ends": table.checkpoint[row] + table.tokens[texts.rollout],
            "answer": answers[np.where(code == NULL, len(table.answers), code)],
            "num_rollouts": texts.number,
            "logprob": texts.logprob + to_row[texts.segment] - to_row[table.first[owner]],
            "cut": table.cut[texts.rollout],
        }
    )
