"""The answer distribution at every checkpoint: conditional answer entropy, gold surprisal, gain (all in nats)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fastsia.answers.distribution import summarize
from fastsia.sia.table import NULL, RolloutTable


@dataclass(frozen=True)
class Checkpoints:
    """What the rollouts of each checkpoint say, one entry a checkpoint row of the table ([G] each).

    entropy: plug-in H = -Σ p̂ ln p̂, null a class like any other; entropy_miller_madow, entropy_chao_shen: the same
        with the bias of few draws reduced. Float64, nats.
    gold_surprisal: s = -ln (c + alpha) / (N + alpha V), nats.
    count, gold_count, null_count, num_distinct: int64. mode: answer code of the most frequent answer, first drawn
        among ties, NULL where that is the null class. majority_right: whether that answer is gold.
    """

    entropy: np.ndarray
    entropy_miller_madow: np.ndarray
    entropy_chao_shen: np.ndarray
    gold_surprisal: np.ndarray
    count: np.ndarray
    gold_count: np.ndarray
    null_count: np.ndarray
    num_distinct: np.ndarray
    mode: np.ndarray
    majority_right: np.ndarray

    @property
    def null_rate(self) -> np.ndarray:
        return self.null_count / self.count

    def with_surprisal(self, surprisal: np.ndarray) -> Checkpoints:
        """The same rollouts under another rule for the gold surprisal, float64 [G], nats."""
        return replace(self, gold_surprisal=surprisal)


def gains(table: RolloutTable, points: Checkpoints) -> tuple[np.ndarray, np.ndarray]:
    """Information gains, nats: g_k = s_{k-1} - s_k (NaN at the first checkpoint) and G_k = s_0 - s_k; float64 [G]."""
    surprisal = points.gold_surprisal
    step = np.full(len(surprisal), np.nan)
    step[1:] = surprisal[:-1] - surprisal[1:]
    step[table.first] = np.nan
    return step, surprisal[table.first][table.trajectory_of_checkpoint] - surprisal


def measure(table: RolloutTable, alpha: float) -> Checkpoints:
    """Entropy and gold surprisal at every checkpoint. alpha > 0 is the additive smoothing of the surprisal."""
    owner = table.trajectory_of_checkpoint
    summary = summarize(
        np.ascontiguousarray(table.code, dtype=np.int32),
        np.ascontiguousarray(table.checkpoint_offsets, dtype=np.int64),
        np.ascontiguousarray(table.gold[owner], dtype=np.int32),
        np.ascontiguousarray(table.num_answers[owner], dtype=np.int32),
        float(alpha),
    )
    surprisal = np.asarray(summary.gold_surprisal, dtype=np.float64)
    mode = np.asarray(summary.mode, dtype=np.int64)
    return Checkpoints(
        entropy=np.asarray(summary.entropy, dtype=np.float64),
        entropy_miller_madow=np.asarray(summary.entropy_miller_madow, dtype=np.float64),
        entropy_chao_shen=np.asarray(summary.entropy_chao_shen, dtype=np.float64),
        gold_surprisal=surprisal,
        count=np.asarray(summary.count, dtype=np.int64),
        gold_count=np.asarray(summary.gold_count, dtype=np.int64),
        null_count=np.asarray(summary.null_count, dtype=np.int64),
        num_distinct=np.asarray(summary.num_distinct, dtype=np.int64),
        mode=mode,
        majority_right=mode == table.gold[owner],
    )


def gold_surprisal(
    gold_count: np.ndarray, count: np.ndarray, num_answers: np.ndarray | float, alpha: float
) -> np.ndarray:
    """-ln((c + alpha) / (N + alpha V)), nats."""
    return np.log(count + alpha * num_answers) - np.log(gold_count + alpha)


def ends_correct(table: RolloutTable, points: Checkpoints) -> np.ndarray:
    """bool [T]: `correct` as given with the table, else whether the last checkpoint's mode is the gold answer."""
    if table.correct_given:
        return table.correct
    return points.mode[table.last] == table.gold


def share_null(table: RolloutTable) -> np.ndarray:
    """float64 [P, 2]: null rollouts and rollouts of each problem."""
    owner = np.repeat(table.problem_of_trajectory[table.trajectory_of_checkpoint], table.count)
    null = np.bincount(owner, weights=table.code == NULL, minlength=table.num_problems)
    return np.stack([null, np.bincount(owner, minlength=table.num_problems)], axis=1)
