"""Whether two sets of rollouts are from one distribution; whether a backend answers as the engine does."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import TopPLogitsWarper

from fastsia import Engine, SamplingParams
from fastsia.answers.extraction import extract_rollouts
from fastsia.backends.base import Backend
from fastsia.backends.native import NativeBackend
from fastsia.engine.sequence import Request, Trajectory
from fastsia.tasks import build_prompt, load_task

Answers = list[list[str | None]]
LEVEL = 1e-3


def p_value_against_the_engine(
    backend: Backend, num_problems: int, num_rollouts: int, sampling: SamplingParams
) -> float:
    """Of equal answer distributions at the beginning and in the middle of the engine's own trajectories."""
    native = NativeBackend.load("demo:sft", device="cpu")
    requests = demo_requests(native.engine, num_problems, num_rollouts, sampling)
    return p_value(answers(native, requests), answers(backend, requests))


def demo_requests(engine: Engine, num_problems: int, num_rollouts: int, sampling: SamplingParams) -> list[Request]:
    """Rollouts of given trajectories: what two backends draw then has one distribution, checkpoint by checkpoint."""
    task = load_task("demo", limit=num_problems)
    drawn = engine.run(
        Request(
            key=i,
            prompt_ids=build_prompt(task, problem, engine.tokenizer, num_fewshot=0, apply_chat_template=True).token_ids,
            sampling=sampling,
            num_rollouts=num_rollouts,
            seed=1000 + i,
            checkpoints=(0,),
        )
        for i, problem in enumerate(task.problems)
    )
    return [
        Request(
            key=trajectory.key,
            prompt_ids=tuple(trajectory.prompt_ids.tolist()),
            sampling=sampling,
            num_rollouts=num_rollouts,
            seed=trajectory.seed,
            trajectory_ids=tuple(trajectory.token_ids.tolist()),
            checkpoints=(0, len(trajectory.token_ids) // 2),
        )
        for trajectory in sorted(drawn, key=lambda trajectory: str(trajectory.key))
    ]


def answers(backend: Backend, requests: Sequence[Request]) -> Answers:
    """Of every checkpoint in order. The seeds are other ones: equal draws would be no evidence."""
    own = [replace(request, seed=request.seed + 2**20 * (backend.name != "native")) for request in requests]
    drawn = {trajectory.key: trajectory for trajectory in backend.generate(own)}
    return [part for request in requests for part in _answers(backend, drawn[request.key], request.num_rollouts)]


def _answers(backend: Backend, trajectory: Trajectory, num_rollouts: int) -> Answers:
    rollouts = trajectory.rollouts
    assert rollouts is not None
    assert backend.vocabulary is not None
    found = extract_rollouts(
        backend.vocabulary,
        trajectory.token_ids,
        rollouts.checkpoint,
        rollouts.token_ids,
        rollouts.offsets,
        "number",
    ).strict
    return [list(found[i : i + num_rollouts]) for i in range(0, len(found), num_rollouts)]


def p_value(one: Answers, other: Answers, seed: int = 0) -> float:
    """Of equal distributions of the answers of both, checkpoint by checkpoint."""
    return disagreement(list(zip(one, other, strict=True)), seed)["p_value"]


def disagreement(
    samples: Sequence[tuple[Collection[object], Collection[object]]], seed: int, num_permutations: int = 1999
) -> dict[str, float]:
    """Test the null hypothesis that two runs draw from one distribution at every place, by permutations.

    The statistic is the sum over places and values of (c1 - c2)^2 / (c1 + c2), a value's counts in both runs. Under the
    null a place's draws are exchangeable between the runs, so they are dealt again (multivariate hypergeometric).

    Args:
        samples: per place what each run drew there; values are compared as they are printed.
        seed: of the permutations.

    Returns:
        p_value; mean_tv, the total variation between both runs averaged over places; mean_tv_expected, its mean under
        the null.
    """
    rng = np.random.default_rng(seed)
    # Of each permutation, and at the end of the runs themselves.
    statistic, distance = np.zeros((2, num_permutations + 1))
    for one, other in samples:
        codes = np.unique([repr(value) for value in [*one, *other]], return_inverse=True)[1]
        total, size = np.bincount(codes), len(one)
        dealt = rng.multivariate_hypergeometric(total, size, size=num_permutations, method="marginals")
        first = np.concatenate([dealt, [np.bincount(codes[:size], minlength=len(total))]])
        statistic += ((2 * first - total) ** 2 / total).sum(axis=1)
        distance += np.abs(first / size - (total - first) / len(other)).sum(axis=1) / 2
    return {
        "p_value": float((statistic >= statistic[-1]).mean()),
        "mean_tv": float(distance[-1]) / len(samples),
        "mean_tv_expected": float(distance[:-1].mean()) / len(samples),
    }


@torch.inference_mode()
def excess(
    model: Any, drawn: Iterable[tuple[list[int], np.ndarray]], temperature: float, top_p: float
) -> tuple[float, float, float]:
    """What drawn tokens cost more than they should, by the model's own forward pass on them.

    The excess of a token is its surprisal under the sampling distribution less that distribution's entropy. Its mean is
    0 on exact draws; another temperature, nucleus, prefix or mask moves it.

    Args:
        drawn: prefixes, each with sequences that were drawn after it, int [n, L].

    Returns:
        The mean excess (nats), its standard error, and the part of the tokens that is outside of the nucleus.
    """
    nucleus, parts = TopPLogitsWarper(top_p), []
    for prefix, sequences in drawn:
        ids = torch.tensor([[*prefix, *sequence] for sequence in sequences.tolist()], device=model.device)
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=sequences.shape[1] + 1).logits[:, :-1]
        logprobs = torch.log_softmax(nucleus(None, logits.flatten(0, 1).float() / temperature), dim=-1)
        entropy = torch.special.entr(logprobs.exp()).sum(dim=-1)
        parts.append(-logprobs.gather(1, ids[:, len(prefix) :].reshape(-1, 1))[:, 0] - entropy)
    found = torch.cat(parts)
    inside = found[found.isfinite()]
    return inside.mean().item(), (inside.var() / len(inside)).sqrt().item(), 1 - len(inside) / len(found)
