"""A request drawn by a generator that continues prefixes: which prefixes to continue, and the finished trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastsia.answers.vocabulary import Vocabulary
from fastsia.config import SamplingParams
from fastsia.engine.loop import checkpoints_of
from fastsia.engine.seeding import Domain
from fastsia.engine.sequence import FinishReason, Request, Rollouts, Trajectory
from fastsia.engine.stopping import StopTexts


@dataclass(frozen=True)
class Continuation:
    """`count` sequences to draw after one prefix.

    Attributes:
        prefix: token ids.
        count: number of sequences.
        max_tokens: limit on the new tokens of a sequence.
        seed: (the request's seed, `Domain`, checkpoint), which determines every draw.
        sampling: temperature, top-p and stop texts.
        eos: ids that end a sequence.
        name: the name in error messages.
    """

    prefix: list[int]
    count: int
    max_tokens: int
    seed: tuple[int, int, int]
    sampling: SamplingParams
    eos: tuple[int, ...]
    name: str

    def number(self, index: int = 0, bits: int = 63) -> int:
        """An integer seed in [0, 2^bits) for sequence `index`; the seeds of one continuation are distinct."""
        first = int(np.random.SeedSequence(self.seed).generate_state(1, np.uint64)[0] >> np.uint64(1))
        return (first + index) % 2**bits


@dataclass(frozen=True)
class DrawnSequence:
    """One drawn sequence.

    Attributes:
        token_ids: int32, including a drawn EOS.
        logprobs: float32 log-probabilities of the tokens in nats; NaN means unknown.
        reason: why it ended.
    """

    token_ids: np.ndarray
    logprobs: np.ndarray
    reason: FinishReason

    @classmethod
    def cut(
        cls,
        tokens: np.ndarray,
        logprobs: np.ndarray,
        eos: tuple[int, ...],
        stop: int | None = None,
        bad: int | None = None,
    ) -> DrawnSequence:
        """The sequence up to the earliest of bad logits, an EOS (kept), a stop text and the length limit.

        Args:
            tokens, logprobs: what was drawn.
            eos: ids that end a sequence.
            stop: number of tokens drawn when a stop text appeared.
            bad: number of tokens drawn when the logits were NaN or infinite.
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
        return cls(tokens[:length], logprobs[:length], reason)


_EMPTY = DrawnSequence(np.zeros(0, np.int32), np.zeros(0, np.float32), FinishReason.LENGTH)


class PendingRequest:
    """A request on its way: its trajectory is drawn first, unless the request brings one, then all its rollouts.

    A backend draws `start` and passes the sequence to `take`; it then draws all of `starts()` and passes the sequences
    to `finish`.

    Args:
        request: the request.
        eos_token_ids: the model's own ids that end a sequence; the request's replace them.
        vocabulary: finds the tokens of a stop text, which are no part of a trajectory.

    Attributes:
        start: the trajectory to draw; None if the request brings one.
    """

    def __init__(self, request: Request, eos_token_ids: tuple[int, ...], vocabulary: Vocabulary | None) -> None:
        self._request, self._vocabulary = request, vocabulary
        asked = request.sampling.eos_token_id
        self._eos = eos_token_ids if asked is None else (asked,) if isinstance(asked, int) else asked
        self._seed = request.seed & (2**64 - 1)
        given = request.trajectory_ids
        self._token_ids = np.array(given or (), dtype=np.int32)
        self._logprobs = self._token_entropies = np.full(len(self._token_ids), np.nan, dtype=np.float32)
        self._finish_reason = "given"
        self.start: Continuation | None = None
        if given is None:
            self.start = Continuation(
                prefix=list(request.prompt_ids),
                count=1,
                max_tokens=request.sampling.max_tokens,
                seed=(self._seed, int(Domain.TRAJECTORY), 0),
                sampling=request.sampling,
                eos=self._eos,
                name=f"the trajectory of request {request.key}",
            )

    def take(self, drawn: DrawnSequence, token_entropies: Sequence[float] | None = None) -> None:
        """Set the trajectory: the drawn sequence without its EOS and without any token of a stop text.

        Args:
            drawn: the sequence drawn for `start`.
            token_entropies: entropy of the model's distribution at each token, in nats; None if unknown.
        """
        length = len(drawn.token_ids)
        if drawn.reason is FinishReason.EOS and length and drawn.token_ids[-1] in self._eos:
            length -= 1
        elif drawn.reason is FinishReason.STOP and self._vocabulary is not None:
            texts = StopTexts(self._request.sampling.stop, self._vocabulary, len(self._vocabulary))
            length = texts.tokens_before(drawn.token_ids)
        self._token_ids, self._logprobs = drawn.token_ids[:length], drawn.logprobs[:length]
        known = [np.nan] * length if token_entropies is None else token_entropies[:length]
        self._token_entropies = np.array(known, dtype=np.float32)
        self._finish_reason = drawn.reason.name.lower()

    @property
    def to_score(self) -> tuple[list[int], np.ndarray] | None:
        """(prompt, int32 tokens of the given trajectory) where their log-probabilities are asked for."""
        if self.start is not None or not self._request.given_logprobs or len(self._token_ids) == 0:
            return None
        return list(self._request.prompt_ids), self._token_ids

    def take_scores(self, logprobs: np.ndarray, token_entropies: np.ndarray) -> None:
        """Set log-probabilities and entropies of a given trajectory, float32 [T], nats."""
        self._logprobs, self._token_entropies = logprobs, token_entropies

    def starts(self) -> list[Continuation]:
        """The rollouts to draw at each checkpoint; none if the trajectory failed or the budget leaves no tokens."""
        if self._has_failed:
            return []
        return [self.at(int(t)) for t in self._checkpoints if self._budget(t) and self._request.num_rollouts]

    def at(self, checkpoint: int) -> Continuation:
        """The rollouts of checkpoint t, drawn after prompt + y_1..y_t; the shuffle ablation permutes y_1..y_t."""
        request = self._request
        prefix = self._token_ids[:checkpoint]
        domain = Domain.ROLLOUT
        if request.shuffle_prefix:
            domain = Domain.SHUFFLED_ROLLOUT
            order = np.random.SeedSequence((self._seed, int(Domain.PERMUTATION), checkpoint))
            prefix = prefix[np.random.default_rng(order).permutation(checkpoint)]
        return Continuation(
            prefix=list(request.prompt_ids) + prefix.tolist(),
            count=request.num_rollouts,
            max_tokens=self._budget(checkpoint),
            seed=(self._seed, int(domain), checkpoint),
            sampling=request.sampling,
            eos=self._eos,
            name=f"checkpoint {checkpoint} of request {request.key}",
        )

    def finish(self, parts: Sequence[Sequence[DrawnSequence]]) -> Trajectory:
        """The finished request.

        Args:
            parts: the sequences of each of `starts()`.
        """
        length = len(self._token_ids)
        return Trajectory(
            key=self._request.key,
            prompt_ids=np.array(self._request.prompt_ids, dtype=np.int32),
            token_ids=self._token_ids,
            logprobs=self._logprobs,
            token_entropies=self._token_entropies,
            finish_reason=self._finish_reason,
            seed=self._request.seed,
            checkpoints=self._checkpoints,
            rollouts=None if self._has_failed else self._rollouts(parts),
            error=f"logits were NaN or infinite at position {length} of the trajectory" if self._has_failed else None,
        )

    @property
    def _has_failed(self) -> bool:
        return self._finish_reason == "error"

    @property
    def _checkpoints(self) -> np.ndarray:
        return checkpoints_of(self._request, self._token_ids, self._vocabulary)

    def _budget(self, checkpoint: int) -> int:
        """Most new tokens of a rollout."""
        limit = self._request.sampling.max_tokens
        return max(limit - checkpoint, 0) if self._request.rollout_budget == "total" else limit

    def _rollouts(self, parts: Sequence[Sequence[DrawnSequence]]) -> Rollouts:
        """The sequences in columns; rollouts without a budget are empty."""
        checkpoints, count = self._checkpoints, self._request.num_rollouts
        drawn = iter(parts if count else ())
        each = [next(drawn) if count and self._budget(t) else [_EMPTY] * count for t in checkpoints]
        sequences = [sequence for part in each for sequence in part]
        lengths = np.array([len(sequence.token_ids) for sequence in sequences], dtype=np.int64)
        return Rollouts(
            checkpoint=np.repeat(checkpoints.astype(np.int32), count),
            index=np.tile(np.arange(count, dtype=np.int32), len(checkpoints)),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            token_ids=np.concatenate([_EMPTY.token_ids, *(s.token_ids for s in sequences)]).astype(np.int32),
            logprobs=np.concatenate([_EMPTY.logprobs, *(s.logprobs for s in sequences)]).astype(np.float32),
            finish_reason=np.array([sequence.reason for sequence in sequences], dtype=np.int8),
        )
