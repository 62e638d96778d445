"""Whether a backend answers as the engine does: rollouts of the same trajectories of demo:sft, compared as answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

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


def p_value(one: Answers, other: Answers, seed: int = 0, num_permutations: int = 1999) -> float:
    """Permutation test on the total variation between the answers of both, summed over checkpoints.

    Under one distribution the draws of a checkpoint can be dealt to the two in any way.
    """
    rng = np.random.default_rng(seed)
    totals = np.zeros(num_permutations + 1)
    for mine, others in zip(one, other, strict=True):
        assert len(mine) == len(others)
        _, codes = np.unique([str(answer) for answer in [*mine, *others]], return_inverse=True)
        for i in range(num_permutations + 1):
            dealt = codes if i == 0 else rng.permutation(codes)
            counts = [np.bincount(part, minlength=codes.max() + 1) for part in np.split(dealt, 2)]
            totals[i] += np.abs(counts[0] - counts[1]).sum()
    return float((totals >= totals[0]).mean())
