"""What every peer rolls out: the same prompts, trajectories and checkpoints, to rollouts of one fixed length."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from benchmarks.gpu.models import Model
from fastsia.backends.base import model_fingerprint
from fastsia.config import SamplingParams, Share
from fastsia.engine.sequence import Request
from fastsia.tasks.exemplars import NUMBER

# Of each of the oracle's rollouts. What their draws are compared by, among few classes, is the first half of these.
ORACLE_TOKENS = 16


@dataclass(frozen=True)
class Shape:
    """How much work. Every length is in tokens and fixed: nothing ends early."""

    num_problems: int
    prompt_tokens: int
    trajectory_tokens: int
    stride: int  # a checkpoint every so many tokens, and at the end
    num_rollouts: int
    rollout_tokens: int
    temperature: float = 0.7
    top_p: float = 0.95

    @property
    def checkpoints(self) -> tuple[int, ...]:
        return (*range(0, self.trajectory_tokens, self.stride), self.trajectory_tokens)

    def generation(self, tokens: int, **settings: Any) -> GenerationConfig:
        """For transformers."""
        same = {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0, "do_sample": True, "pad_token_id": 0}
        return GenerationConfig(max_new_tokens=tokens, **same | settings)


FULL = Shape(8, 300, 300, 20, 20, 300)
TOY = Shape(2, 12, 12, 4, 6, 20)


@dataclass(frozen=True)
class Work:
    """prompts: int32 [P, prompt_tokens]. trajectories: int32 [P, trajectory_tokens], drawn by the model.

    checkpoints: those that are rolled out. oracle: int32 [checkpoints of the shape, N, ORACLE_TOKENS], the first tokens
    that transformers' `generate` draws from each checkpoint of the first problem; None where nothing is compared.
    """

    shape: Shape
    prompts: np.ndarray
    trajectories: np.ndarray
    checkpoints: tuple[int, ...]
    oracle: np.ndarray | None = None

    @property
    def num_tokens(self) -> int:
        """Drawn in all rollouts."""
        return len(self.prompts) * len(self.checkpoints) * self.shape.num_rollouts * self.shape.rollout_tokens

    def prefix(self, problem: int, checkpoint: int) -> list[int]:
        return [*self.prompts[problem].tolist(), *self.trajectories[problem, :checkpoint].tolist()]

    def prefixes(self) -> list[list[int]]:
        """In the order (problem, checkpoint)."""
        return [self.prefix(p, t) for p in range(len(self.prompts)) for t in self.checkpoints]

    def part(self, num_problems: int, num_checkpoints: int) -> Work:
        """The first problems, at evenly spaced checkpoints, the first and the last among them."""
        places = np.linspace(0, len(self.checkpoints) - 1, min(num_checkpoints, len(self.checkpoints))).round()
        return replace(
            self,
            prompts=self.prompts[:num_problems],
            trajectories=self.trajectories[:num_problems],
            checkpoints=tuple(self.checkpoints[int(i)] for i in places),
        )

    def requests(self, share: Share, seed: int) -> list[Request]:
        """For the engine of this package, in the order of the problems."""
        shape = self.shape
        sampling = SamplingParams(shape.temperature, shape.top_p, shape.rollout_tokens, eos_token_id=())
        return [
            Request(
                p,
                tuple(prompt.tolist()),
                sampling,
                shape.num_rollouts,
                1000 * seed + p,
                trajectory_ids=tuple(trajectory.tolist()),
                checkpoints=self.checkpoints,
                share=share,
            )
            for p, (prompt, trajectory) in enumerate(zip(self.prompts, self.trajectories, strict=True))
        ]

    def describe(self) -> dict[str, Any]:
        """The shape, and a digest that is the same where the tokens are."""
        digest = hashlib.blake2b(self.prompts.tobytes() + self.trajectories.tobytes(), digest_size=8).hexdigest()
        return {**asdict(self.shape), "checkpoints": len(self.checkpoints), "digest": digest}


def prepare(model: Model, shape: Shape, folder: Path, seed: int = 0) -> Work:
    """The work of a model; its draws are made once per folder, by transformers' `generate`."""
    name = hashlib.blake2b(repr((model_fingerprint(model.module), model.device, shape, seed)).encode(), digest_size=8)
    path = folder / f"{model.name}-{name.hexdigest()}.npz"
    prompts = make_prompts(model, shape.num_problems, shape.prompt_tokens, seed)
    if not path.is_file():
        torch.manual_seed(seed)
        trajectories = generate(model, prompts, shape.trajectory_tokens, shape)
        work = Work(shape, prompts, trajectories, shape.checkpoints)
        copies = [np.array([work.prefix(0, t)] * shape.num_rollouts) for t in shape.checkpoints]
        oracle = [generate(model, batch, min(ORACLE_TOKENS, shape.rollout_tokens), shape) for batch in copies]
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(path, trajectories=trajectories, oracle=np.stack(oracle))
    with np.load(path) as kept:
        return Work(shape, prompts, kept["trajectories"], shape.checkpoints, kept["oracle"])


def make_prompts(model: Model, number: int, length: int, seed: int) -> np.ndarray:
    """int32 [number, length]: random tokens, or for real weights the solved problems of a few-shot prompt."""
    rng = np.random.default_rng(seed)
    if model.tokenizer is None:
        return rng.integers(model.module.config.vocab_size, size=(number, length), dtype=np.int32)
    texts = [f"Question: {one.question}\nAnswer: {one.reasoning} #### {one.answer}\n\n" for one in NUMBER]
    orders = [rng.permutation(len(texts)) for _ in range(number)]
    ids = [model.tokenizer("".join(texts[i] for i in order) * 20)["input_ids"][:length] for order in orders]
    return np.array(ids, dtype=np.int32)


def generate(model: Model, prefixes: np.ndarray, new_tokens: int, shape: Shape, **settings: Any) -> np.ndarray:
    """transformers' `generate` on prefixes of one length, [b, s]: what it draws, int32 [b, new_tokens]."""
    batch = torch.from_numpy(prefixes).long().to(model.module.device)
    config = shape.generation(new_tokens, eos_token_id=None, **settings)
    with torch.inference_mode():
        output = model.module.generate(batch, attention_mask=torch.ones_like(batch), generation_config=config)
    drawn = output[:, batch.shape[1] :].cpu().numpy().astype(np.int32)
    if drawn.shape[1] != new_tokens:
        raise RuntimeError(f"generate drew {drawn.shape[1]} of {new_tokens} tokens.")
    return drawn
