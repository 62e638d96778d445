"""Token entropies and log-probabilities of trajectories: how uncertain each next token was, and which tokens fork."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FORKING_SHARE = 0.2
"""Share of a run's tokens that count as forking tokens, those with the highest entropy: the top fifth, as in Wang et
al. 2025, "Beyond the 80/20 Rule" (arXiv 2506.01939)."""

FORKING_NATS = 0.672
"""The 80th percentile that Wang et al. measured on the reasoning of Qwen3-8B, in nats: a threshold for all runs."""


@dataclass(frozen=True)
class TokenTraces:
    """Token entropies of the trajectories of a table of rollouts, in its order.

    Attributes:
        entropy: float32 [N], nats, of the model's own distribution before each token.
        offsets: int64 [T + 1]; trajectory i owns entropy[offsets[i]:offsets[i + 1]], which is empty where its entropies
            were not recorded.
        answer: int64 [T], the first token of the answer part; -1: no answer part, all of it counts as thinking.
    """

    entropy: np.ndarray
    offsets: np.ndarray
    answer: np.ndarray

    def threshold(self) -> float:
        """Entropy (nats) that this run's forking tokens exceed; NaN without tokens."""
        return float(np.quantile(self.entropy, 1 - FORKING_SHARE)) if len(self.entropy) else float("nan")

    def so_far(self, positions: np.ndarray) -> np.ndarray:
        """Mean entropy of each trajectory's first positions [T, K] tokens, float64 nats; NaN before the first."""
        begin, end = self.offsets[:-1, None], self.offsets[1:, None]
        return _means(self.entropy, begin, begin + positions, end)

    def columns(self) -> dict[str, np.ndarray]:
        """The columns of the trajectories table, [T] each: means over a trajectory's tokens, NaN where it has none.

        token_entropy; forking_share, above the run's own threshold; forking_share_fixed, above `FORKING_NATS`;
        token_entropy_thinking, token_entropy_answer_part; num_thinking_tokens, int64.
        """
        begin, end = self.offsets[:-1], self.offsets[1:]
        turn = np.where(self.answer < 0, end, np.minimum(begin + self.answer, end))
        return {
            "token_entropy": _means(self.entropy, begin, end, end),
            "forking_share": _means(self.entropy > np.float64(self.threshold()), begin, end, end),
            "forking_share_fixed": _means(self.entropy > np.float64(FORKING_NATS), begin, end, end),
            "token_entropy_thinking": _means(self.entropy, begin, turn, end),
            "token_entropy_answer_part": _means(self.entropy, turn, end, end),
            "num_thinking_tokens": turn - begin,
        }


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities of the trajectories' tokens, in the order of a table of rollouts.

    Attributes:
        values: float32 [N], nats, of each token under the distribution that it was sampled from (temperature and top-p
            applied); -inf where top-p cuts a given token off, NaN where it is not known.
        offsets: int64 [T + 1]; trajectory i owns values[offsets[i]:offsets[i + 1]].
    """

    values: np.ndarray
    offsets: np.ndarray


def _means(values: np.ndarray, begin: np.ndarray, end: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Means of values[begin:min(end, last)], any shape; NaN where that is empty."""
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    end = np.minimum(end, last)
    count = end - begin
    return np.divide(total[end] - total[begin], count, out=np.full(count.shape, np.nan), where=count > 0)
