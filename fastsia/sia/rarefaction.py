"""Entropy and surprisal of N rollouts at checkpoints that have more: their means over all choices of N among them.

The plug-in entropy depends on the number of rollouts, so checkpoints with unequal numbers cannot be compared by it. Of
n >= N draws with c_a of answer a, N chosen at random have k of it with the hypergeometric probability
Hyp(k; n, c_a, N), so

    sum_a sum_k Hyp(k; n, c_a, N) (-k / N ln k / N)

is the mean plug-in entropy of N of them: unbiased for that of N rollouts, with less variance (rarefaction).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.special import xlogy
from scipy.stats import hypergeom

from fastsia.sia.entropy import CheckpointStats, gold_surprisal
from fastsia.sia.table import RolloutTable


def expected(
    count: np.ndarray, drawn: np.ndarray, number: int, value: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """float64 [n]: the mean of value(k), k how many of `number` draws chosen at random give one particular answer.

    No answer (null) counts as one.

    Args:
        count: int64 [n], draws in all, at least `number`.
        drawn: int64 [n], those of them that give it.
        number: of draws that are chosen.
        value: of k = 0 ... number, float64 [number + 1].
    """
    pairs, which = np.unique(np.stack([count, drawn], axis=1), axis=0, return_inverse=True)
    chances = hypergeom.pmf(np.arange(number + 1), pairs[:, :1], pairs[:, 1:], number)
    found: np.ndarray = (chances @ value(np.arange(number + 1)))[which.reshape(-1)]
    return found


def rarefied(table: RolloutTable, stats: CheckpointStats, alpha: float, number: int) -> CheckpointStats:
    """The same checkpoints with `entropy` and `gold_surprisal` of `number` rollouts each.

    `number` must not exceed the count of any checkpoint.
    """
    if number == int(table.count.max()):
        return stats
    row, code = table.checkpoint_of_rollout, table.code.astype(np.int64)
    width = len(table.answers) + 1
    cells, drawn = np.unique(row * width + code + 1, return_counts=True)
    at = cells // width
    share = np.arange(number + 1) / number
    parts = expected(table.count[at], drawn, number, lambda k: -xlogy(share, share))
    entropy = np.maximum(np.bincount(at, weights=parts, minlength=table.num_checkpoints), 0.0)
    surprisal = rarefied_surprisal(table, stats, number, lambda k, n, v: gold_surprisal(k, n, v, alpha))
    return replace(stats, entropy=entropy, gold_surprisal=surprisal)


def rarefied_surprisal(
    table: RolloutTable,
    stats: CheckpointStats,
    number: int,
    rule: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """float64 [G], nats: the mean surprisal of `number` rollouts by a rule of (gold count, number, V)."""
    classes = table.num_answers[table.trajectory_of_checkpoint]
    out = np.empty(table.num_checkpoints)
    for v in np.unique(classes):
        mine = classes == v
        of = lambda k, v=v: rule(k, np.full(len(k), number), np.full(len(k), v))  # noqa: E731
        out[mine] = expected(stats.count[mine], stats.gold_count[mine], number, of)
    return out
