"""Token identity: whatever is shared, however rows are limited, every rollout equals the one computed alone."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from fastsia import Engine
from fastsia.config import SamplingParams
from fastsia.engine.loop import checkpoints_of
from fastsia.engine.seeding import Domain
from fastsia.engine.sequence import Request, Rollout, Trajectory
from tests.engine.models import EOS, FAMILIES, tiny_model
from tests.engine.naive import Alone, Comparison, rollout_alone

PROMPT = [5, 6, 7, 8, 9]
SAMPLING = SamplingParams(temperature=0.8, top_p=0.9, max_tokens=10, eos_token_id=EOS)
SEED, N, STRIDE = 77, 4, 4


@cache
def trajectory_of(family: str) -> tuple[int, ...]:
    """A trajectory drawn alone, without EOS."""
    alone = rollout_alone(
        tiny_model(family), PROMPT, seed=3, checkpoint=0, rollout=0, temperature=0.8, top_p=0.9, limit=9, eos=()
    )
    return tuple(alone.token_ids)


@cache
def alone(family: str, budget: str) -> dict[tuple[int, int], Alone]:
    y = trajectory_of(family)
    found = {}
    for checkpoint in (0, 4, 8, 9):
        limit = SAMPLING.max_tokens - (checkpoint if budget == "total" else 0)
        for rollout in range(N):
            found[checkpoint, rollout] = rollout_alone(
                tiny_model(family),
                PROMPT + list(y[:checkpoint]),
                seed=SEED,
                checkpoint=checkpoint,
                rollout=rollout,
                temperature=0.8,
                top_p=0.9,
                limit=limit,
                eos=EOS,
            )
    return found


def request(family: str, **changes: object) -> Request:
    settings: dict = {
        "key": 0,
        "prompt_ids": tuple(PROMPT),
        "sampling": SAMPLING,
        "num_rollouts": N,
        "seed": SEED,
        "stride": STRIDE,
        "trajectory_ids": trajectory_of(family),
    }
    return Request(**{**settings, **changes})


def rows_of(trajectory: Trajectory) -> dict[tuple[int, int], Rollout]:
    rollouts = trajectory.rollouts
    assert rollouts is not None
    return {(int(rollouts.checkpoint[r]), int(rollouts.index[r])): rollouts.row(r) for r in range(len(rollouts))}


SHARES, BUDGETS, ROW_LIMITS = ("trajectory", "checkpoint", "none"), ("new", "total"), (1, 7, 64)
ROOMY, TIGHT = 500, 9
# Every value of every setting, each share under both pools; `make test-slow` runs the whole product.
COVERING = [
    ("trajectory", "new", 64, ROOMY),
    ("trajectory", "total", 7, TIGHT),
    ("trajectory", "new", 1, TIGHT),
    ("checkpoint", "total", 64, ROOMY),
    ("checkpoint", "new", 7, TIGHT),
    ("none", "total", 7, ROOMY),
    ("none", "new", 64, TIGHT),
]


def compare(family: str, share: str, budget: str, max_num_seqs: int, num_blocks: int, comparison: Comparison) -> int:
    """Run one setting against the rollouts computed alone; gives the number of preemptions."""
    engine = Engine(
        tiny_model(family), max_num_seqs=max_num_seqs, block_size=4, num_kv_blocks=num_blocks, max_num_batched_tokens=8
    )
    (trajectory,) = engine.run([request(family, share=share, rollout_budget=budget)])
    ours, expected = rows_of(trajectory), alone(family, budget)
    assert ours.keys() == expected.keys()
    for key, rollout in ours.items():
        comparison.add(rollout, expected[key])
    assert engine.counters.peak_kv_blocks <= num_blocks
    return engine.counters.preemptions


@pytest.mark.parametrize("family", FAMILIES)
def test_rollouts_equal_those_computed_alone(family: str) -> None:
    comparison = Comparison()
    preemptions = [compare(family, *setting, comparison) for setting in COVERING]
    comparison.check()
    assert sum(preemptions) > 0, "the small pool was meant to run out"


@pytest.mark.slow
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("family", FAMILIES)
def test_rollouts_equal_those_computed_alone_in_every_setting(family: str, share: str, budget: str) -> None:
    comparison = Comparison()
    for max_num_seqs in ROW_LIMITS:
        for num_blocks in (ROOMY, TIGHT):
            compare(family, share, budget, max_num_seqs, num_blocks, comparison)
    comparison.check()


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "olmo3"])
def test_a_sampled_trajectory_and_its_rollouts_equal_those_computed_alone(family: str) -> None:
    """Hidden states kept from generation, not a second prefill, must serve the trunk pass."""
    model = tiny_model(family)
    engine = Engine(model, block_size=4, num_kv_blocks=500)
    drawn = request(family, trajectory_ids=None, seed=5)
    (trajectory,) = engine.run([drawn])
    expected = rollout_alone(
        model,
        PROMPT,
        seed=5,
        checkpoint=0,
        rollout=0,
        temperature=0.8,
        top_p=0.9,
        limit=10,
        eos=EOS,
        domain=Domain.TRAJECTORY,
    )
    tokens = expected.token_ids[:-1] if expected.finish_reason == "eos" else expected.token_ids
    assert trajectory.token_ids.tolist() == tokens
    assert trajectory.finish_reason == expected.finish_reason
    assert trajectory.checkpoints.tolist() == checkpoints_of(drawn, trajectory.token_ids, None).tolist()
    comparison = Comparison()
    for (checkpoint, index), rollout in rows_of(trajectory).items():
        prefix = PROMPT + tokens[:checkpoint]
        comparison.add(
            rollout,
            rollout_alone(
                model,
                prefix,
                seed=5,
                checkpoint=checkpoint,
                rollout=index,
                temperature=0.8,
                top_p=0.9,
                limit=10,
                eos=EOS,
            ),
        )
    comparison.check()


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_greedy_and_hot_rollouts_equal_those_computed_alone(temperature: float) -> None:
    model = tiny_model("qwen2")
    sampling = SamplingParams(temperature=temperature, top_p=1.0, max_tokens=8, eos_token_id=EOS)
    engine = Engine(model, block_size=4, num_kv_blocks=500)
    (trajectory,) = engine.run([request("qwen2", sampling=sampling)])
    comparison = Comparison()
    for (checkpoint, index), rollout in rows_of(trajectory).items():
        prefix = PROMPT + list(trajectory_of("qwen2")[:checkpoint])
        comparison.add(
            rollout,
            rollout_alone(
                model,
                prefix,
                seed=SEED,
                checkpoint=checkpoint,
                rollout=index,
                temperature=temperature,
                top_p=1.0,
                limit=8,
                eos=EOS,
            ),
        )
    comparison.check()


def test_many_requests_at_once_equal_each_alone() -> None:
    """Draws must not move with company, order or window: the batch's last bits are the only difference."""
    requests = [
        request("qwen2", key=i, seed=100 + i, trajectory_ids=None, prompt_ids=tuple(PROMPT[: 2 + i % 3]), share=share)
        for i, share in enumerate(["trajectory", "none", "checkpoint"] * 3)
    ]

    def run(requests: list[Request], **settings: int) -> dict[int, Trajectory]:
        engine = Engine(tiny_model("qwen2"), block_size=4, **settings)
        return {trajectory.key: trajectory for trajectory in engine.run(requests)}

    together = run(requests, max_num_seqs=64, num_kv_blocks=1000, max_concurrent_trajectories=64)
    for other in (
        run(requests[::-1], max_num_seqs=7, num_kv_blocks=1000, max_concurrent_trajectories=2),
        run(requests, max_num_seqs=16, num_kv_blocks=20, max_concurrent_trajectories=3),
    ):
        for key, trajectory in together.items():
            assert other[key].token_ids.tolist() == trajectory.token_ids.tolist()
            ours, theirs = rows_of(trajectory), rows_of(other[key])
            assert {k: r.token_ids for k, r in ours.items()} == {k: r.token_ids for k, r in theirs.items()}


def test_shuffled_prefixes_equal_those_computed_alone() -> None:
    """Each checkpoint continues a permutation of its prefix, with draws of a domain of their own."""
    model = tiny_model("llama")
    engine = Engine(model, block_size=4, num_kv_blocks=500)
    (trajectory,) = engine.run([request("llama", shuffle_prefix=True)])
    comparison = Comparison()
    for (checkpoint, index), rollout in rows_of(trajectory).items():
        seed = (SEED, int(Domain.PERMUTATION), checkpoint)
        order = np.random.default_rng(np.random.SeedSequence(seed)).permutation(checkpoint)
        prefix = PROMPT + [trajectory_of("llama")[i] for i in order]
        comparison.add(
            rollout,
            rollout_alone(
                model,
                prefix,
                seed=SEED,
                checkpoint=checkpoint,
                rollout=index,
                temperature=0.8,
                top_p=0.9,
                limit=10,
                eos=EOS,
                domain=Domain.SHUFFLED_ROLLOUT,
            ),
        )
    comparison.check()
    assert engine.counters.matched_tokens == 0
