"""The naive baseline: transformers' `generate`, one checkpoint at a time, N copies of its prefix in a batch.

This is what a researcher would write, and what the engine is measured against: nothing is shared between checkpoints,
nothing ends when an answer is complete. Sampling is what `generate` does with temperature, top_p and top_k=0.
"""

from __future__ import annotations

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
from fastsia.backends.base import model_fingerprint, model_name, recommended_sampling
from fastsia.backends.continuations import (
    NO_ROW,
    Continuation,
    Drawn,
    Row,
    assemble,
    checkpoint_start,
    cut,
    eos_of,
    given,
    trajectory_of,
    trajectory_start,
)
from fastsia.engine.run import checkpoints_of
from fastsia.engine.sequence import Counters, Request, Trajectory
from fastsia.errors import FastsiaError
from fastsia.models.loading import context_length, eos_ids, load_model, origin_of


class HFGenerateBackend:
    """`generate` behind the backend protocol. Ignores `share` and `answer_stop`: it has neither.

    Its draws come from torch's generator, seeded per (request, checkpoint), so a resumed run repeats them; they are
    other draws than the engine's, from the same distribution.
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
    def load(cls, name_or_path: str, **options: Any) -> HFGenerateBackend:
        """Load a model by name; options: device, dtype, trust_remote_code, revision, peft."""
        backend = cls(*load_model(name_or_path, **options))
        backend.model_name = name_or_path
        return backend

    @property
    def notes(self) -> Sequence[str]:
        return origin_of(self.model).notes

    @property
    def recommended(self) -> dict[str, Any]:
        return recommended_sampling(self.model)

    def describe(self) -> dict[str, Any]:
        parameter = next(self.model.parameters())
        return {
            "device": str(parameter.device),
            "dtype": str(parameter.dtype).removeprefix("torch."),
            **origin_of(self.model).describe(),
            "kernels": "transformers generate",
        }

    def fingerprint(self) -> str:
        return model_fingerprint(self.model)

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        """One request after the other."""
        for request in requests:
            yield self._run(request)

    def _run(self, request: Request) -> Trajectory:
        trajectory = given(request) or self._trajectory(request)
        checkpoints = checkpoints_of(request, len(trajectory.token_ids))
        parts = None
        if trajectory.finish_reason != "error":
            parts = [
                self._rollouts(checkpoint_start(request, trajectory.token_ids, int(checkpoint)))
                for checkpoint in checkpoints
            ]
            self.counters.generated_tokens += sum(len(row.token_ids) for part in parts for row in part)
        return assemble(request, trajectory, checkpoints, parts)

    def _trajectory(self, request: Request) -> Drawn:
        raw = _TokenEntropies()
        start = trajectory_start(request)
        (row,) = self._generate(start, [raw])
        self.counters.prefill_tokens += len(start.prefix)
        self.counters.trajectory_tokens += max(len(row.token_ids) - 1, 0)
        eos = eos_of(request.sampling, self.eos_token_ids)
        return trajectory_of(row, request.sampling.stop, eos, self.vocabulary, raw.values)

    def _rollouts(self, start: Continuation) -> list[Row]:
        if start.max_tokens == 0 or start.count == 0:
            return [NO_ROW] * start.count
        rows = self._generate(start, [])
        # The prefix of every copy is prefilled, and each draw but the first costs a row.
        self.counters.prefill_tokens += start.count * len(start.prefix)
        self.counters.computed_tokens += start.count * (max(len(row.token_ids) for row in rows) - 1)
        return rows

    def _generate(self, start: Continuation, recorders: list[LogitsProcessor]) -> list[Row]:
        sampling, copies = start.sampling, start.count
        ids = eos_of(sampling, self.eos_token_ids)
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
            eos_token_id=list(ids) or None,
            pad_token_id=ids[0] if ids else 0,
            use_cache=True,
        )
        device = next(self.model.parameters()).device
        batch = torch.tensor([start.prefix] * copies, dtype=torch.long, device=device)
        own = self.model.generation_config
        # generate() fills what its caller left open from the model's own settings (penalties, min_p ...): none here.
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
            cut(tokens[i], logprobs[i], ids, ended.length[i] if ended else None, guard.position(i))
            for i in range(copies)
        ]


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
