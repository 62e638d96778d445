"""The `hf` backend: transformers' `generate` with N copies of one checkpoint's prefix in a batch.

It is the naive baseline that the engine is compared with. Checkpoints share no computation, and no rollout ends early
when its answer is complete. Sampling is that of `generate` with temperature, top_p and top_k=0.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
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
from fastsia.backends.base import LocalModel, model_name
from fastsia.backends.continuations import Continuation, DrawnSequence, PendingRequest
from fastsia.config import SamplingParams
from fastsia.engine.sequence import Counters, Request, Trajectory
from fastsia.errors import FastsiaError
from fastsia.models.loading import context_length, eos_ids, load_model, origin_of
from fastsia.models.resolve import ModelRef, resolve_model
from fastsia.ops.reference import score


class HFGenerateBackend(LocalModel):
    """transformers' `generate` as a backend. It ignores `share` and `answer_stop`.

    Draws come from torch's generator, seeded by request and checkpoint, so a resumed run repeats them. They differ from
    the engine's draws and have the same distribution.
    """

    name = "hf"
    warnings: Sequence[str] = ()

    def __init__(self, model: Any, tokenizer: Any = None) -> None:
        self.model = model
        self.model_name = model_name(model, tokenizer)
        self.tokenizer = tokenizer
        self.vocabulary = Vocabulary.from_tokenizer(tokenizer) if tokenizer is not None else None
        self.context_length = context_length(model)
        self.eos_token_ids = eos_ids(model, tokenizer)
        self.counters = Counters()

    @classmethod
    def load(cls, model: str | os.PathLike[str] | ModelRef, **options: Any) -> HFGenerateBackend:
        """Load a model by name; options as in `load_model`."""
        ref = resolve_model(model)
        backend = cls(*load_model(ref, **options))
        backend.model_name = ref.name
        return backend

    def describe(self) -> dict[str, Any]:
        parameter = next(self.model.parameters())
        return {
            "device": str(parameter.device),
            "dtype": str(parameter.dtype).removeprefix("torch."),
            **origin_of(self.model).describe(),
            "kernels": "transformers generate",
        }

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        """One request after the other."""
        for request in requests:
            pending = PendingRequest(request, self.eos_token_ids, self.vocabulary)
            if pending.start is not None:
                self._draw_trajectory(pending, pending.start)
            if pending.to_score is not None:
                pending.take_scores(*self._score(*pending.to_score, request.sampling))
            parts = [self._rollouts(start) for start in pending.starts()]
            self.counters.generated_tokens += sum(len(sequence.token_ids) for part in parts for sequence in part)
            yield pending.finish(parts)

    def _draw_trajectory(self, pending: PendingRequest, start: Continuation) -> None:
        entropies = _TokenEntropies()
        (trajectory,) = self._generate(start, [entropies])
        self.counters.prefill_tokens += len(start.prefix)
        self.counters.trajectory_tokens += max(len(trajectory.token_ids) - 1, 0)
        pending.take(trajectory, entropies.values)

    def _score(
        self, prompt: list[int], token_ids: np.ndarray, sampling: SamplingParams
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities of given tokens under the sampling distribution, and the entropies there."""
        tokens = torch.tensor([*prompt, *token_ids.tolist()], device=next(self.model.parameters()).device)
        with torch.inference_mode():
            logits = self.model(tokens[None]).logits[0, len(prompt) - 1 : -1]
            logprobs, entropies = score(logits, tokens[len(prompt) :], sampling.temperature, sampling.top_p)
        self.counters.prefill_tokens += len(tokens)
        return logprobs.cpu().numpy(), entropies.cpu().numpy()

    def _rollouts(self, start: Continuation) -> list[DrawnSequence]:
        drawn = self._generate(start, [])
        # The prefix of every copy is prefilled; every drawn token but the first needs a decode step of all copies.
        self.counters.prefill_tokens += start.count * len(start.prefix)
        self.counters.computed_tokens += start.count * (max(len(sequence.token_ids) for sequence in drawn) - 1)
        return drawn

    def _generate(self, start: Continuation, recorders: list[LogitsProcessor]) -> list[DrawnSequence]:
        sampling, copies = start.sampling, start.count
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
            max_new_tokens=start.max_tokens,
            eos_token_id=list(start.eos) or None,
            pad_token_id=start.eos[0] if start.eos else 0,
            use_cache=True,
        )
        device = next(self.model.parameters()).device
        batch = torch.tensor([start.prefix] * copies, dtype=torch.long, device=device)
        own = self.model.generation_config
        # generate() takes settings that are not given from the model's own (penalties, min_p, ...); these are cleared.
        self.model.generation_config = GenerationConfig()
        devices = [device] if device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=devices), torch.inference_mode():
                torch.manual_seed(start.number())
                output = self.model.generate(
                    batch,
                    attention_mask=torch.ones_like(batch),
                    generation_config=settings,
                    logits_processor=LogitsProcessorList([guard, *recorders, *warpers, draws]),
                    stopping_criteria=stops,
                )
        finally:
            self.model.generation_config = own
        drawn = output[:, len(start.prefix) :]
        logprobs = draws.finish(drawn)
        if greedy:
            logprobs = np.zeros_like(logprobs)
        tokens = drawn.cpu().numpy().astype(np.int32)
        return [
            DrawnSequence.cut(tokens[i], logprobs[i], start.eos, ended.length[i] if ended else None, guard.position(i))
            for i in range(copies)
        ]


class _Guard(LogitsProcessor):
    """Records where each sequence's logits were first NaN or infinite; the other sequences of the batch continue."""

    def __init__(self) -> None:
        self._bad: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        bad = ~torch.isfinite(scores.amax(dim=-1))
        self._bad.append(bad)
        return torch.where(bad[:, None], torch.zeros_like(scores), scores) if bool(bad.any()) else scores

    def position(self, index: int) -> int | None:
        """Tokens that a sequence had drawn at its first bad logits; None if its logits were always finite."""
        return next((step for step, bad in enumerate(self._bad) if bool(bad[index])), None)


class _TokenEntropies(LogitsProcessor):
    """Entropy in nats of the model's own next-token distribution at each step, for a batch of one sequence."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.values.append(float(torch.special.entr(torch.softmax(scores[0].float(), dim=-1)).sum()))
        return scores


class _Draws(LogitsProcessor):
    """Log-probability of each drawn token under the warped distribution; scores of past steps are not kept."""

    def __init__(self) -> None:
        self._logprobs: list[torch.Tensor] = []
        self._last: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._record(input_ids[:, -1])
        self._last = torch.log_softmax(scores.float(), dim=-1)
        return scores

    def finish(self, drawn: torch.Tensor) -> np.ndarray:
        """Log-probabilities, float32 [sequences, steps]."""
        self._record(drawn[:, -1])
        return torch.stack(self._logprobs, dim=1).cpu().numpy()

    def _record(self, tokens: torch.Tensor) -> None:
        if self._last is not None:
            self._logprobs.append(self._last.gather(1, tokens[:, None])[:, 0])


class _StopTexts(StopStringCriteria):
    """transformers' stop strings; records after how many drawn tokens each sequence had one."""

    def __init__(self, tokenizer: Any, texts: list[str]) -> None:
        super().__init__(tokenizer, texts)
        self._steps = 0
        self.length: dict[int, int | None] = defaultdict(lambda: None)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        done = super().__call__(input_ids, scores, **kwargs)
        self._steps += 1
        for index in torch.nonzero(done).flatten().tolist():
            if self.length[index] is None:
                self.length[index] = self._steps
        return done
