"""What a request asks of a generator that knows no trees: prefixes to continue, and the drawn rows back in columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastsia.answers.vocabulary import Vocabulary
from fastsia.config import SamplingParams
from fastsia.engine.seeding import Domain
from fastsia.engine.sequence import FinishReason, Request, Rollouts, Trajectory
from fastsia.engine.stopping import StopTexts


@dataclass(frozen=True)
class Continuation:
    """`count` sequences to draw behind one prefix.

    max_tokens: 0 where the budget leaves nothing to draw.
    seed: what every draw follows from: (the request's, `Domain`, checkpoint).
    name: what an error calls it.
    """

    prefix: list[int]
    count: int
    max_tokens: int
    seed: tuple[int, int, int]
    sampling: SamplingParams
    name: str

    def number(self, index: int = 0, bits: int = 63) -> int:
        """An integer seed in [0, 2^bits) for sequence `index`; those of one continuation are distinct."""
        first = int(np.random.SeedSequence(self.seed).generate_state(1, np.uint64)[0] >> np.uint64(1))
        return (first + index) % 2**bits


@dataclass(frozen=True)
class Row:
    """One drawn sequence: int32 ids with a drawn EOS, float32 log-probabilities (NaN: not known)."""

    token_ids: np.ndarray
    logprobs: np.ndarray
    reason: FinishReason


NO_ROW = Row(np.zeros(0, np.int32), np.zeros(0, np.float32), FinishReason.LENGTH)


@dataclass(frozen=True)
class Drawn:
    """A trajectory before its rollouts; fields as `Trajectory` has them."""

    token_ids: np.ndarray
    logprobs: np.ndarray
    token_entropies: np.ndarray
    finish_reason: str


def eos_of(sampling: SamplingParams, own: tuple[int, ...]) -> tuple[int, ...]:
    """The ids that end a sequence: those asked for, else the model's `own`."""
    asked = sampling.eos_token_id
    return own if asked is None else (asked,) if isinstance(asked, int) else asked


def trajectory_start(request: Request) -> Continuation:
    """The trajectory itself."""
    seed = (request.seed & (2**64 - 1), int(Domain.TRAJECTORY), 0)
    prompt = list(request.prompt_ids)
    return Continuation(
        prompt, 1, request.sampling.max_tokens, seed, request.sampling, f"the trajectory of request {request.key}"
    )


def checkpoint_start(request: Request, token_ids: np.ndarray, checkpoint: int) -> Continuation:
    """N continuations of prompt + y_1..y_t; of its permutation, the engine's, for the shuffle ablation."""
    budget = request.sampling.max_tokens
    if request.rollout_budget == "total":
        budget = max(budget - checkpoint, 0)
    prefix = token_ids[:checkpoint]
    seed = request.seed & (2**64 - 1)
    domain = Domain.ROLLOUT
    if request.shuffle_prefix:
        domain = Domain.SHUFFLED_ROLLOUT
        order = np.random.SeedSequence((seed, int(Domain.PERMUTATION), checkpoint))
        prefix = prefix[np.random.default_rng(order).permutation(checkpoint)]
    return Continuation(
        list(request.prompt_ids) + prefix.tolist(),
        request.num_rollouts,
        budget,
        (seed, int(domain), checkpoint),
        request.sampling,
        f"checkpoint {checkpoint} of request {request.key}",
    )


def cut(
    tokens: np.ndarray, logprobs: np.ndarray, eos: tuple[int, ...], stop: int | None = None, bad: int | None = None
) -> Row:
    """A row that ends at bad logits, an EOS (kept), a stop text, or the limit; the earliest.

    stop, bad: how many tokens were drawn by then.
    """
    found = np.flatnonzero(np.isin(tokens, eos))
    ends = [(len(tokens), FinishReason.LENGTH)]
    if stop is not None:
        ends.append((stop, FinishReason.STOP))
    if len(found):
        ends.append((int(found[0]) + 1, FinishReason.EOS))
    if bad is not None:
        ends.append((bad, FinishReason.ERROR))
    length, reason = min(reversed(ends), key=lambda end: end[0])
    return Row(tokens[:length], logprobs[:length], reason)


def given(request: Request) -> Drawn | None:
    """The request's trajectory where it brings one."""
    if request.trajectory_ids is None:
        return None
    tokens = np.array(request.trajectory_ids, dtype=np.int32)
    unknown = np.full(len(tokens), np.nan, dtype=np.float32)
    return Drawn(tokens, unknown, unknown, "given")


def trajectory_of(
    row: Row,
    stop: tuple[str, ...],
    eos: tuple[int, ...],
    vocabulary: Vocabulary | None,
    token_entropies: Sequence[float] | None = None,
) -> Drawn:
    """A row as a trajectory: without its EOS, without anything of a stop text. No entropies: they are not known."""
    kept = len(row.token_ids)
    if row.reason is FinishReason.EOS and kept and row.token_ids[-1] in eos:
        kept -= 1
    elif row.reason is FinishReason.STOP and vocabulary is not None:
        kept = StopTexts(stop, vocabulary, len(vocabulary)).tokens_before(row.token_ids)
    if token_entropies is None:
        entropies = np.full(kept, np.nan, dtype=np.float32)
    else:
        entropies = np.array(token_entropies[:kept], dtype=np.float32)
    return Drawn(row.token_ids[:kept], row.logprobs[:kept], entropies, row.reason.name.lower())


def assemble(
    request: Request, trajectory: Drawn, checkpoints: np.ndarray, parts: Sequence[Sequence[Row]] | None
) -> Trajectory:
    """The finished request; `parts` are the rows of each checkpoint, None where the trajectory failed."""
    length = len(trajectory.token_ids)
    return Trajectory(
        key=request.key,
        prompt_ids=np.array(request.prompt_ids, dtype=np.int32),
        token_ids=trajectory.token_ids,
        logprobs=trajectory.logprobs,
        token_entropies=trajectory.token_entropies,
        finish_reason=trajectory.finish_reason,
        seed=request.seed,
        checkpoints=checkpoints,
        rollouts=None if parts is None else _columns(checkpoints, request.num_rollouts, parts),
        error=f"logits were NaN or infinite at position {length} of the trajectory" if parts is None else None,
    )


def _columns(checkpoints: np.ndarray, num_rollouts: int, parts: Sequence[Sequence[Row]]) -> Rollouts:
    rows = [row for part in parts for row in part]
    lengths = np.array([len(row.token_ids) for row in rows], dtype=np.int64)
    nothing: list[np.ndarray] = [np.zeros(0, dtype=np.int32)]
    return Rollouts(
        checkpoint=np.repeat(checkpoints.astype(np.int32), num_rollouts),
        index=np.tile(np.arange(num_rollouts, dtype=np.int32), len(checkpoints)),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        token_ids=np.concatenate(nothing + [row.token_ids for row in rows]).astype(np.int32),
        logprobs=np.concatenate(nothing + [row.logprobs for row in rows]).astype(np.float32),
        finish_reason=np.array([row.reason for row in rows], dtype=np.int8),
    )
