"""Entropy of the next token along the text, beside entropy of the answer: how unsure about the word, about the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fastsia.sia.bootstrap import Bootstrap, interval
from fastsia.sia.curves import GROUPS
from fastsia.sia.table import RolloutTable

FORKING_SHARE = 0.2
"""A run's forking tokens are the share of its tokens with the highest entropy: the top fifth, as in Wang et al. 2025,
"Beyond the 80/20 Rule" (arXiv 2506.01939)."""

FORKING_NATS = 0.672
"""Their 80th percentile, over the reasoning of Qwen3-8B: the same for every run, so that runs can be compared."""

MEANS = {
    "token_entropy": "token_entropy",
    "forking_share": "forking_share",
    "forking_share_fixed": "forking_share_fixed",
    "token_entropy_thinking": "token_entropy_thinking",
    "token_entropy_answer_part": "token_entropy_answer_part",
    "answer_entropy_first": "first_entropy",
    "answer_entropy_mean": "mean_entropy",
    "answer_entropy_final": "final_entropy",
}
"""What `token_level_table` averages, and the column of the trajectories table that holds it."""


@dataclass(frozen=True)
class TokenTraces:
    """Token entropies of the trajectories of a table of rollouts, in its order.

    entropy: float32 [N], nats, of the model's own distribution before each token. offsets: int64 [T + 1]; trajectory i
    owns entropy[offsets[i]:offsets[i + 1]], nothing where they were not recorded. answer: int64 [T], the first token of
    its answer part, -1 where it has none: then all of it counts as thinking.
    """

    entropy: np.ndarray
    offsets: np.ndarray
    answer: np.ndarray

    def threshold(self) -> float:
        """Nats that the forking tokens of this run exceed; NaN without any token."""
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


def _means(values: np.ndarray, begin: np.ndarray, end: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Means of values[begin:min(end, last)], any shape; NaN where that is empty."""
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    end = np.minimum(end, last)
    count = end - begin
    return np.divide(total[end] - total[begin], count, out=np.full(count.shape, np.nan), where=count > 0)


def token_level_table(
    table: RolloutTable, trajectories: pd.DataFrame, correct: np.ndarray, bootstrap: Bootstrap
) -> pd.DataFrame:
    """One row a group (all, ends correct, ends incorrect): group, num_trajectories, num_answer_parts, accuracy (of
    all), and the means over trajectories of `MEANS` (nats), as name, name_low, name_high with 95 % over problems."""
    member = np.stack([np.ones_like(correct), correct, ~correct], axis=1)
    stated = ~np.isnan(trajectories["token_entropy_answer_part"].to_numpy(np.float64))
    columns = {name: trajectories[column].to_numpy(np.float64) for name, column in MEANS.items()}
    columns = {"accuracy": correct.astype(np.float64), **columns}
    values = np.stack(list(columns.values()), axis=1)
    there = member[:, :, None] & ~np.isnan(values)[:, None]
    starts = table.problem_offsets[:-1]
    sums = np.add.reduceat(np.where(there, values[:, None], 0.0), starts, axis=0)
    counts = np.add.reduceat(there.astype(np.float64), starts, axis=0)
    total = counts.sum(axis=0)
    mean = np.divide(sums.sum(axis=0), total, out=np.full(total.shape, np.nan), where=total > 0)
    low, high = interval(bootstrap.ratio(sums, counts))
    found: dict[str, object] = {
        "group": list(GROUPS),
        "num_trajectories": member.sum(axis=0),
        "num_answer_parts": (member & stated[:, None]).sum(axis=0),
    }
    for place, name in enumerate(columns):
        of_all = np.array(GROUPS) == "all" if name == "accuracy" else np.ones(len(GROUPS), dtype=bool)
        for suffix, numbers in (("", mean), ("_low", low), ("_high", high)):
            found[name + suffix] = np.where(of_all, numbers[:, place], np.nan)
    return pd.DataFrame(found)
