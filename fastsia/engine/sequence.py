"""What goes into the engine and what comes out: requests, trajectories and their rollouts. No tensors."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from fastsia.answers.spec import Spec
from fastsia.config import RolloutBudget, SamplingParams, Share
from fastsia.renamed import renamed


class FinishReason(IntEnum):
    """Why a sequence ended; `.name.lower()` is the public spelling."""

    EOS = 0
    STOP = 1
    LENGTH = 2
    ANSWER = 3
    ERROR = 4


FINISH_REASONS: tuple[str, ...] = tuple(reason.name.lower() for reason in FinishReason)


@dataclass(frozen=True)
class Rollout:
    """One continuation of a prefix.

    token_ids: the drawn tokens, a drawn EOS included.
    logprobs: natural log-probability of each token under the sampling distribution (temperature and top-p applied).
    finish_reason: "eos" | "stop" | "length" | "answer" | "error".
    error: for "error", one sentence with the position of the bad logits.
    """

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str
    error: str | None = None


@dataclass(frozen=True)
class Rollouts:
    """All rollouts of one trajectory, in columns, ordered by (checkpoint, index).

    checkpoint: int32 [R], the token position in the trajectory that the rollout continues.
    index: int32 [R], the rollout's number within its checkpoint.
    offsets: int64 [R + 1]; rollout r owns token_ids[offsets[r]:offsets[r + 1]].
    token_ids: int32 [sum of lengths]; a drawn EOS included.
    logprobs: float32 [sum of lengths], nats, under the sampling distribution.
    finish_reason: int8 [R], `FinishReason` codes.
    """

    checkpoint: np.ndarray
    index: np.ndarray
    offsets: np.ndarray
    token_ids: np.ndarray
    logprobs: np.ndarray
    finish_reason: np.ndarray

    def __len__(self) -> int:
        return len(self.checkpoint)

    def row(self, r: int) -> Rollout:
        """The r-th rollout as an object."""
        begin, end = int(self.offsets[r]), int(self.offsets[r + 1])
        reason = FinishReason(int(self.finish_reason[r]))
        error = None
        if reason is FinishReason.ERROR:
            error = f"logits were NaN or infinite at position {int(self.checkpoint[r]) + end - begin} of the sequence"
        return Rollout(
            self.token_ids[begin:end].tolist(), self.logprobs[begin:end].tolist(), FINISH_REASONS[reason], error
        )


@dataclass(frozen=True)
class Request:
    """One trajectory to draw (or, with `trajectory_ids`, to take as given) and to roll out.

    key: the caller's name for it; comes back with the result.
    seed: 64-bit; all draws follow from it (see `ops.reference.sample`).
    checkpoints: positions in the trajectory; None means every `stride` tokens and the end.
    shuffle_prefix: roll out from a seeded permutation of y_1..y_t instead of y_1..y_t.
    """

    key: Hashable
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    num_rollouts: int
    seed: int
    stride: int = 20
    trajectory_ids: tuple[int, ...] | None = None
    checkpoints: tuple[int, ...] | None = None
    rollout_budget: RolloutBudget = "new"
    share: Share = "trajectory"
    shuffle_prefix: bool = False
    answer_stop: Spec | None = None


@renamed(row_steps="computed_tokens", rides="matched_tokens")
@dataclass
class Counters:
    """What a run cost. Rows are transformer rows; tokens are draws.

    generated_tokens: drawn in rollouts. computed_tokens: rows computed for rollouts. trajectory_tokens: rows computed
    to
    draw trajectories. prefill_tokens: rows for prompts, given trajectories and shuffled prefixes. recomputed_tokens:
    rows spent again after a preemption. rides: rollout tokens that the trunk pass drew without a row of their own.
    forced_tokens: rows for tokens read behind a prefix by teacher forcing. out_of_memory: how often the device's memory
    did not suffice for a step's rows or logits, and half of them were tried.
    """

    generated_tokens: int = 0
    computed_tokens: int = 0
    trajectory_tokens: int = 0
    prefill_tokens: int = 0
    recomputed_tokens: int = 0
    matched_tokens: int = 0
    forced_tokens: int = 0
    steps: int = 0
    preemptions: int = 0
    out_of_memory: int = 0
    peak_kv_blocks: int = 0

    @property
    def merge_factor(self) -> float:
        """Rollout tokens drawn per transformer row computed for rollouts."""
        return self.generated_tokens / max(self.computed_tokens, 1)


@dataclass
class Trajectory:
    """One finished request.

    token_ids: int32 [T], without EOS and without anything of a stop text.
    logprobs, token_entropies: float32 [T], nats: each token's log-probability under the sampling distribution and the
        entropy of the model's own next-token distribution there (untruncated, temperature 1). NaN where the
        trajectory was given, not drawn, and no row computed them.
    rollouts: None where the trajectory failed (`finish_reason == "error"`).
    """

    key: Hashable
    prompt_ids: np.ndarray
    token_ids: np.ndarray
    logprobs: np.ndarray
    token_entropies: np.ndarray
    finish_reason: str
    seed: int
    checkpoints: np.ndarray
    rollouts: Rollouts | None
    error: str | None = None
