"""The naive baseline: transformers' `generate`, one checkpoint at a time, N copies of its prefix in a batch.

This is what a researcher would write, and what the engine is measured against: nothing is shared between checkpoints,
nothing ends when an answer is complete. Sampling is what `generate` does with temperature, top_p and top_k=0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteriaList,
    StopStringCriteria,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from fastsia.answers.vocabulary import Vocabulary
from fastsia.backends.base import model_fingerprint, model_name
from fastsia.config import FastsiaError
from fastsia.engine.checkpoint import context_length, eos_ids, load_model
from fastsia.engine.run import checkpoints_of
from fastsia.engine.seeding import Domain
from fastsia.engine.sequence import Counters, FinishReason, Request, Rollouts, Trajectory
from fastsia.engine.stopping import StopTexts


class HFGenerateBackend:
    """`generate` behind the backend protocol. Ignores `share` and `answer_stop`: it has neither.

    Its draws come from torch's generator, seeded per (request, checkpoint), so a resumed run repeats them; they are
    other draws than the engine's, from the same distribution.
    """

    name = "hf"

    def __init__(self, model: Any, tokenizer: Any = None) -> None:
        self.model = model
        self.model_name = model_name(model, tokenizer)
        self.tokenizer = tokenizer
        self.vocabulary = Vocabulary.from_tokenizer(tokenizer) if tokenizer is not None else None
        self.context_length = context_length(model)
        self.eos_token_ids = eos_ids(model, tokenizer)
        self.counters = Counters()

    @classmethod
    def load(cls, name_or_path: str, **options: Any) -> HFGenerateBackend:
        """Load a model by name; options: device, dtype, trust_remote_code, revision."""
        backend = cls(*load_model(name_or_path, **options))
        backend.model_name = name_or_path
        return backend

    def describe(self) -> dict[str, Any]:
        parameter = next(self.model.parameters())
        return {
            "device": str(parameter.device),
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "kernels": "transformers generate",
        }

    def fingerprint(self) -> str:
        return model_fingerprint(self.model)

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        """One request after the other."""
        for request in requests:
            yield self._run(request)

    def _run(self, request: Request) -> Trajectory:
        prompt = list(request.prompt_ids)
        if request.trajectory_ids is None:
            tokens, logprobs, entropies, reason = self._trajectory(request)
        else:
            tokens = np.array(request.trajectory_ids, dtype=np.int32)
            logprobs = entropies = np.full(len(tokens), np.nan, dtype=np.float32)
            reason = "given"
        checkpoints = checkpoints_of(request, len(tokens))
        rollouts = None
        if reason != "error":
            parts = [self._rollouts(request, prompt, tokens, int(checkpoint)) for checkpoint in checkpoints]
            rollouts = _columns(checkpoints, request.num_rollouts, parts)
            self.counters.generated_tokens += len(rollouts.token_ids)
        return Trajectory(
            key=request.key,
            prompt_ids=np.array(prompt, dtype=np.int32),
            token_ids=tokens,
            logprobs=logprobs,
            token_entropies=entropies,
            finish_reason=reason,
            seed=request.seed,
            checkpoints=checkpoints,
            rollouts=rollouts,
            error=f"logits were NaN or infinite at position {len(tokens)} of the trajectory"
            if reason == "error"
            else None,
        )

    def _trajectory(self, request: Request) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
        seed = (request.seed & (2**64 - 1), int(Domain.TRAJECTORY), 0)
        raw = _TokenEntropies()
        rows = self._generate(request, list(request.prompt_ids), 1, request.sampling.max_tokens, seed, [raw])
        row = rows[0]
        self.counters.prefill_tokens += len(request.prompt_ids)
        self.counters.trajectory_tokens += max(len(row.token_ids) - 1, 0)
        kept = len(row.token_ids)
        if row.reason is FinishReason.EOS:
            kept -= 1
        elif row.reason is FinishReason.STOP and self.vocabulary is not None:
            texts = StopTexts(request.sampling.stop, self.vocabulary, len(self.vocabulary))
            kept = texts.tokens_before(row.token_ids)
        entropies = np.array(raw.values[:kept], dtype=np.float32)
        return row.token_ids[:kept], row.logprobs[:kept], entropies, row.reason.name.lower()

    def _rollouts(self, request: Request, prompt: list[int], tokens: np.ndarray, checkpoint: int) -> list[_Row]:
        """N continuations of prompt + y_1..y_t (permuted for the shuffle ablation)."""
        budget = request.sampling.max_tokens
        if request.rollout_budget == "total":
            budget = max(budget - checkpoint, 0)
        if budget == 0 or request.num_rollouts == 0:
            nothing = _Row(np.zeros(0, np.int32), np.zeros(0, np.float32), FinishReason.LENGTH)
            return [nothing] * request.num_rollouts
        prefix = tokens[:checkpoint]
        seed = request.seed & (2**64 - 1)
        domain = Domain.ROLLOUT
        if request.shuffle_prefix:
            domain = Domain.SHUFFLED_ROLLOUT
            order = np.random.SeedSequence((seed, int(Domain.PERMUTATION), checkpoint))
            prefix = prefix[np.random.default_rng(order).permutation(checkpoint)]
        rows = self._generate(
            request, prompt + prefix.tolist(), request.num_rollouts, budget, (seed, int(domain), checkpoint), []
        )
        # The prefix of every copy is prefilled, and each draw but the first costs a row.
        self.counters.prefill_tokens += request.num_rollouts * (len(prompt) + checkpoint)
        self.counters.row_steps += request.num_rollouts * (max(len(row.token_ids) for row in rows) - 1)
        return rows

    def _generate(
        self,
        request: Request,
        prefix: list[int],
        copies: int,
        max_new_tokens: int,
        seed: tuple[int, int, int],
        recorders: list[LogitsProcessor],
    ) -> list[_Row]:
        sampling = request.sampling
        eos = sampling.eos_token_id
        ids = self.eos_token_ids if eos is None else (eos,) if isinstance(eos, int) else eos
        guard, draws = _Guard(), _Draws()
        greedy = sampling.temperature == 0
        warpers: list[LogitsProcessor] = []
        if not greedy and sampling.temperature != 1:
            warpers.append(TemperatureLogitsWarper(float(sampling.temperature)))
        if not greedy and sampling.top_p < 1:
            warpers.append(TopPLogitsWarper(sampling.top_p))
        stops = StoppingCriteriaList()
        ended: _StopTexts | None = None
        if sampling.stop:
            if self.tokenizer is None:
                raise FastsiaError("stop texts need a tokenizer: give (model, tokenizer).")
            ended = _StopTexts(self.tokenizer, list(sampling.stop))
            stops.append(ended)
        settings = GenerationConfig(
            do_sample=not greedy,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(ids) or None,
            pad_token_id=ids[0] if ids else 0,
            use_cache=True,
        )
        device = next(self.model.parameters()).device
        state = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> np.uint64(1))
        batch = torch.tensor([prefix] * copies, dtype=torch.long, device=device)
        own = self.model.generation_config
        # generate() fills what its caller left open from the model's own settings (penalties, min_p ...): none here.
        self.model.generation_config = GenerationConfig()
        devices = [device] if device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=devices), torch.inference_mode():
                torch.manual_seed(state)
                output = self.model.generate(
                    batch,
                    attention_mask=torch.ones_like(batch),
                    generation_config=settings,
                    logits_processor=LogitsProcessorList([guard, *recorders, *warpers, draws]),
                    stopping_criteria=stops,
                )
        finally:
            self.model.generation_config = own
        drawn = output[:, len(prefix) :]
        logprobs = draws.finish(drawn)
        if greedy:
            logprobs = np.zeros_like(logprobs)
        tokens = drawn.cpu().numpy().astype(np.int32)
        return [
            _row(tokens[i], logprobs[i], ids, ended.length[i] if ended else None, guard.position(i))
            for i in range(copies)
        ]


@dataclass(frozen=True)
class _Row:
    token_ids: np.ndarray
    logprobs: np.ndarray
    reason: FinishReason


def _row(tokens: np.ndarray, logprobs: np.ndarray, eos: tuple[int, ...], stop: int | None, bad: int | None) -> _Row:
    """Cut a padded row where it ended: at bad logits, an EOS (kept), a stop text, or the limit; the earliest."""
    found = np.flatnonzero(np.isin(tokens, eos))
    ends = [(len(tokens), FinishReason.LENGTH)]
    if stop is not None:
        ends.append((stop, FinishReason.STOP))
    if len(found):
        ends.append((int(found[0]) + 1, FinishReason.EOS))
    if bad is not None:
        ends.append((bad, FinishReason.ERROR))
    length, reason = min(reversed(ends), key=lambda end: end[0])
    return _Row(tokens[:length], logprobs[:length], reason)


def _columns(checkpoints: np.ndarray, num_rollouts: int, parts: list[list[_Row]]) -> Rollouts:
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


class _Guard(LogitsProcessor):
    """Remembers where each row's logits were first NaN or infinite, and lets the batch go on without it."""

    def __init__(self) -> None:
        self._bad: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        bad = ~torch.isfinite(scores.amax(dim=-1))
        self._bad.append(bad)
        return torch.where(bad[:, None], torch.zeros_like(scores), scores) if bool(bad.any()) else scores

    def position(self, row: int) -> int | None:
        """Number of tokens that the row had drawn by then; None where its logits were always good."""
        return next((step for step, bad in enumerate(self._bad) if bool(bad[row])), None)


class _TokenEntropies(LogitsProcessor):
    """Entropy in nats of the model's own next-token distribution, of the only row, at each step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.values.append(float(torch.special.entr(torch.softmax(scores[0].float(), dim=-1)).sum()))
        return scores


class _Draws(LogitsProcessor):
    """Log-probability of each drawn token under the warped distribution, without keeping every step's scores."""

    def __init__(self) -> None:
        self._logprobs: list[torch.Tensor] = []
        self._last: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._record(input_ids[:, -1])
        self._last = torch.log_softmax(scores.float(), dim=-1)
        return scores

    def finish(self, drawn: torch.Tensor) -> np.ndarray:
        """float32 [rows, steps]."""
        self._record(drawn[:, -1])
        return torch.stack(self._logprobs, dim=1).cpu().numpy()

    def _record(self, tokens: torch.Tensor) -> None:
        if self._last is not None:
            self._logprobs.append(self._last.gather(1, tokens[:, None])[:, 0])


class _StopTexts(StopStringCriteria):
    """transformers' stop strings, remembering after how many drawn tokens each row had one."""

    def __init__(self, tokenizer: Any, texts: list[str]) -> None:
        super().__init__(tokenizer, texts)
        self._steps = 0
        self.length: dict[int, int | None] = defaultdict(lambda: None)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        done = super().__call__(input_ids, scores, **kwargs)
        self._steps += 1
        for row in torch.nonzero(done).flatten().tolist():
            if self.length[row] is None:
                self.length[row] = self._steps
        return done
