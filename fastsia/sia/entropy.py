"""The answer distribution at every checkpoint: conditional answer entropy, gold surprisal, gain (all in nats)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fastsia.answers.distribution import summarize
from fastsia.sia.table import NULL, RolloutTable


@dataclass(frozen=True)
class CheckpointStats:
    """The answers of the rollouts at each checkpoint, in columns [G].

    Attributes:
        entropy: Plug-in H = -Σ p̂ ln p̂, null a class like any other; float64, nats.
        entropy_miller_madow: The same with less bias from few draws.
        entropy_chao_shen: The same with less bias from few draws.
        gold_surprisal: s = -ln (c + alpha) / (N + alpha V), nats.
        count: int64, rollouts.
        gold_count: int64, rollouts with the gold answer.
        null_count: int64, rollouts without an answer.
        num_distinct: int64, distinct answers.
        mode: int64, code of the most frequent answer, the first drawn among ties; NULL where it is the null class.
        majority_right: bool, whether that answer is gold.
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

    def with_surprisal(self, surprisal: np.ndarray) -> CheckpointStats:
        """The same rollouts under another rule for the gold surprisal, float64 [G], nats."""
        return replace(self, gold_surprisal=surprisal)


def gains(table: RolloutTable, stats: CheckpointStats) -> tuple[np.ndarray, np.ndarray]:
    """(gain since the checkpoint before, s_{k-1} - s_k, NaN at the first; cumulative gain, s_0 - s_k), nats [G]."""
    surprisal = stats.gold_surprisal
    step = np.full(len(surprisal), np.nan)
    step[1:] = surprisal[:-1] - surprisal[1:]
    step[table.first] = np.nan
    return step, surprisal[table.first][table.trajectory_of_checkpoint] - surprisal


def measure(table: RolloutTable, alpha: float) -> CheckpointStats:
    """Entropy and gold surprisal at every checkpoint. alpha > 0 is the additive smoothing of the surprisal."""
    owner = table.trajectory_of_checkpoint
    gold, num_answers = table.gold[owner], table.num_answers[owner]
    summary = summarize(table.code, table.checkpoint_offsets, gold, num_answers, alpha)
    mode = summary.mode.astype(np.int64)
    return CheckpointStats(**vars(summary) | {"mode": mode, "majority_right": mode == gold})


def gold_surprisal(
    gold_count: np.ndarray, count: np.ndarray, num_answers: np.ndarray | float, alpha: float
) -> np.ndarray:
    """-ln((c + alpha) / (N + alpha V)), nats."""
    return np.log(count + alpha * num_answers) - np.log(gold_count + alpha)


def ends_correct(table: RolloutTable, stats: CheckpointStats) -> np.ndarray:
    """bool [T]: `correct` as given with the table, else whether the last checkpoint's mode is the gold answer."""
    if table.correct_given:
        return table.correct
    return stats.mode[table.last] == table.gold


def share_null(table: RolloutTable, by_checkpoint: bool = False) -> np.ndarray:
    """float64 [P, 2]: null rollouts and rollouts of each problem.

    Args:
        by_checkpoint: every checkpoint counts alike, however many rollouts it has.
    """
    owner = np.repeat(table.problem_of_trajectory[table.trajectory_of_checkpoint], table.count)
    weight = np.repeat(table.count.mean() / table.count, table.count) if by_checkpoint else np.ones(table.num_rollouts)
    null = np.bincount(owner, weights=np.where(table.code == NULL, weight, 0.0), minlength=table.num_problems)
    return np.stack([null, np.bincount(owner, weights=weight, minlength=table.num_problems)], axis=1)
