"""Reinforcement learning on a verifiable answer, with rollouts that fastsia's engine draws from the live weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch

from fastsia import Engine, SamplingParams, extract_answers
from fastsia.engine.sequence import Request

SEQUENCES_AT_ONCE = 64


def reinforce(
    model: Any,
    tokenizer: Any,
    problems: Iterator[tuple[tuple[int, ...], str]],
    steps: int,
    *,
    prompts: int = 64,
    samples: int = 16,
    max_tokens: int = 160,
    learning_rate: float = 3e-4,
    seed: int = 0,
) -> Iterator[float]:
    """Train by policy gradient with a leave-one-out baseline (RLOO; Ahmadian et al., 2024). Yield mean rewards.

    A step draws `samples` solutions of each of `prompts` problems at temperature 1, rewards a right answer with 1 and
    others with 0, and takes one step of AdamW on these samples.

    Args:
        problems: (prompt ids, gold answer).
    """
    engine = Engine(model, tokenizer)  # the engine shares the model's weights, so it sees every update
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    sampling = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=max_tokens)
    for step in range(steps):
        requests = (  # the given trajectory is empty, so every sample starts at the prompt
            Request(gold, prompt, sampling, samples, seed + step * prompts + i, trajectory_ids=(), checkpoints=(0,))
            for i, (prompt, gold) in enumerate(islice(problems, prompts))
        )
        rewards: list[float] = []
        weights: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = defaultdict(float)
        for drawn in engine.run(requests):
            rollouts = [drawn.rollouts.row(r).token_ids for r in range(samples)]  # type: ignore[union-attr]
            answers = extract_answers(tokenizer.batch_decode(rollouts, skip_special_tokens=True))
            right = [float(answer == drawn.key) for answer in answers]
            rewards += right
            for token_ids, reward in zip(rollouts, right, strict=True):
                # Equal samples, which are common, are one sequence with a larger weight.
                others = (sum(right) - reward) / (samples - 1)
                weights[tuple(drawn.prompt_ids.tolist()), tuple(token_ids)] += (reward - others) / samples / prompts
        learn(model, [(prompt, drawn, weight) for (prompt, drawn), weight in weights.items() if weight])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield sum(rewards) / len(rewards)


def learn(model: Any, sequences: Sequence[tuple[Sequence[int], Sequence[int], float]]) -> None:
    """Accumulate the gradients of -weight * log p(drawn | prompt) over all sequences, clipped to norm 1."""
    ordered = sorted(sequences, key=lambda sequence: len(sequence[0]) + len(sequence[1]))
    for begin in range(0, len(ordered), SEQUENCES_AT_ONCE):
        chunk = ordered[begin : begin + SEQUENCES_AT_ONCE]
        longest = max(len(prompt) + len(drawn) for prompt, drawn, _ in chunk)
        inputs, weights = torch.zeros(len(chunk), longest, dtype=torch.int64), torch.zeros(len(chunk), longest)
        for row, (prompt, drawn, weight) in enumerate(chunk):
            inputs[row, : len(prompt) + len(drawn)] = torch.tensor([*prompt, *drawn])
            weights[row, len(prompt) : len(prompt) + len(drawn)] = weight
        # Padding is on the right, where a causal model cannot attend to it, so no mask is needed.
        logits = model(input_ids=inputs[:, :-1], use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs[:, 1:].flatten(), reduction="none")
        (weights[:, 1:].flatten() * losses).sum().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
