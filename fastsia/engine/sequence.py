"""Input and output of the engine: requests, trajectories and their rollouts. No tensors."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from fastsia.answers.placement import Placement
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


UNFINISHED = -1
"""In the place of a `FinishReason`, of a sequence that has not ended."""

FINISH_REASONS: tuple[str, ...] = tuple(reason.name.lower() for reason in FinishReason)


@dataclass(frozen=True)
class Rollout:
    """One continuation of a prefix.

    Attributes:
        token_ids: the drawn tokens, a drawn EOS included.
        logprobs: nats, under the sampling distribution (temperature and top-p applied).
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

    Attributes:
        checkpoint: int32 [R], the token position in the trajectory that the rollout continues.
        index: int32 [R], the rollout's number within its checkpoint.
        offsets: int64 [R + 1]; token_ids[offsets[r]:offsets[r + 1]] are those of rollout r.
        token_ids: int32 [sum of lengths], drawn EOS included.
        logprobs: float32 [sum of lengths], nats, under the sampling distribution.
        finish_reason: int8 [R], `FinishReason` codes; in a `Drawn`, UNFINISHED for those that have not ended.
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

    def take(self, rows: np.ndarray) -> Rollouts:
        """Some of the rollouts, by their numbers or a mask, in that order."""
        rows = np.arange(len(self))[rows]
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        at = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Rollouts(
            self.checkpoint[rows],
            self.index[rows],
            offsets,
            self.token_ids[at],
            self.logprobs[at],
            self.finish_reason[rows],
        )

    @classmethod
    def join(cls, parts: Sequence[Rollouts]) -> Rollouts:
        """All rollouts of the parts. A rollout in several parts gets the tokens of all, in order, and the finish
        reason of the last one."""
        lengths = np.concatenate([np.zeros(0, np.int64), *(np.diff(part.offsets) for part in parts)])
        whole = cls(
            np.concatenate([_NO_INTS, *(part.checkpoint for part in parts)]),
            np.concatenate([_NO_INTS, *(part.index for part in parts)]),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.concatenate([_NO_INTS, *(part.token_ids for part in parts)]),
            np.concatenate([_NO_FLOATS, *(part.logprobs for part in parts)]),
            np.concatenate([np.zeros(0, np.int8), *(part.finish_reason for part in parts)]),
        )
        ordered = whole.take(np.lexsort([whole.index, whole.checkpoint]))
        changes = (np.diff(ordered.checkpoint) != 0) | (np.diff(ordered.index) != 0)
        first = np.flatnonzero(np.append(True, changes)[: len(ordered)])
        last = np.append(first, len(ordered))[1:]
        offsets = np.append(ordered.offsets[first], ordered.offsets[-1])
        return cls(
            ordered.checkpoint[first],
            ordered.index[first],
            offsets,
            ordered.token_ids,
            ordered.logprobs,
            ordered.finish_reason[last - 1],
        )


_NO_INTS, _NO_FLOATS = np.zeros(0, np.int32), np.zeros(0, np.float32)


@dataclass(frozen=True)
class Drawn:
    """The draws of an unfinished request, or a part of them, from which a later run resumes it.

    Attributes:
        num_tokens: length of the trajectory at that time. It can shrink: a stop text removes its own tokens.
        token_ids, logprobs, token_entropies: of the trajectory's tokens, as in `Trajectory`.
        finish_reason: the trajectory's; "" while it is being drawn.
        rollouts: those that have drawn something or have ended.
    """

    num_tokens: int
    token_ids: np.ndarray
    logprobs: np.ndarray
    token_entropies: np.ndarray
    finish_reason: str
    rollouts: Rollouts

    @classmethod
    def join(cls, parts: Sequence[Drawn]) -> Drawn:
        """Join parts, given in the order in which they were drawn."""
        length = parts[-1].num_tokens
        return cls(
            length,
            np.concatenate([part.token_ids for part in parts])[:length],
            np.concatenate([part.logprobs for part in parts])[:length],
            np.concatenate([part.token_entropies for part in parts])[:length],
            parts[-1].finish_reason,
            Rollouts.join([part.rollouts for part in parts]),
        )


@dataclass(frozen=True)
class Request:
    """One trajectory to draw (or, with `trajectory_ids`, to take as given) and to roll out.

    Attributes:
        key: the caller's name for the request, returned with the result.
        seed: 64 bits; all draws follow from it (see `ops.reference.uniforms`).
        checkpoints: positions in the trajectory; None means those of `placement`, or every `stride` tokens and the end.
        given_logprobs: compute log-probabilities and entropies of the tokens of `trajectory_ids`.
        shuffle_prefix: roll out from a seeded permutation of y_1..y_t instead of y_1..y_t.
        drawn: the draws of an earlier run; only the rest is drawn. It also forces the first tokens of rollouts
            (`fastsia.forking`), which are then as if drawn before.
        allocation: rollouts of each checkpoint, in their order; None means `num_rollouts` of each. Where it is given,
            only the forecast reads `num_rollouts`.
        rollouts: (checkpoint, index) of the rollouts to draw; None means all that the above ask for.
    """

    key: Hashable
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    num_rollouts: int
    seed: int
    stride: int = 20
    trajectory_ids: tuple[int, ...] | None = None
    checkpoints: tuple[int, ...] | None = None
    placement: Placement | None = None
    given_logprobs: bool = False
    rollout_budget: RolloutBudget = "new"
    share: Share = "trajectory"
    shuffle_prefix: bool = False
    answer_stop: Spec | None = None
    drawn: Drawn | None = None
    allocation: tuple[int, ...] | None = None
    rollouts: tuple[tuple[int, int], ...] | None = None


def positions_needed(prompt: int, trajectory: int, max_tokens: int, rollout_budget: RolloutBudget) -> int:
    """Return the positions of the longest sequence of a request.

    Args:
        prompt, trajectory: their tokens.
        max_tokens: tokens of a rollout, those of its prefix included where the budget is "total".
    """
    return prompt + (trajectory + max_tokens if rollout_budget == "new" else max(trajectory, max_tokens))


@renamed(row_steps="computed_tokens", rides="matched_tokens")
@dataclass
class Counters:
    """The cost of a run. A row is one token computed by the transformer.

    Attributes:
        generated_tokens: tokens drawn in rollouts, the matched ones included. Counted as they are drawn.
        computed_tokens: rows computed for rollouts.
        trajectory_tokens: rows computed to draw trajectories.
        prefill_tokens: rows for prompts, given trajectories and shuffled prefixes.
        recomputed_tokens: rows computed again after a preemption, or of what an earlier run has drawn.
        matched_tokens: rollout tokens that equal the trajectory's and needed no row of their own.
        forced_tokens: rows for tokens read after a prefix by teacher forcing.
        preemptions: how often a sequence lost its blocks.
        out_of_memory: how often device memory did not suffice and something was tried again.
        peak_kv_blocks: the most KV blocks in use.
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

    Attributes:
        token_ids: int32 [T], without EOS and without any part of a stop text.
        logprobs, token_entropies: float32 [T], nats: each token's log-probability under the sampling distribution, and
            the entropy of the model's next-token distribution there (untruncated, temperature 1). NaN where the
            trajectory was given and `given_logprobs` is false; -inf: a token that top-p cuts off.
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
