"""Draws of a whole `evaluate` depend on model, problem and seed only, not on engine settings or on other problems."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch

import fastsia
from fastsia.ops import packed
from tests.tiny import PROBLEMS, tiny_model

SETTINGS: dict[str, Any] = {
    "num_rollouts": 5,
    "stride": 4,
    "max_tokens": 20,
    "num_trajectories": 2,
    "seed": 11,
    "num_bootstrap": 20,
    "num_splits": 2,
}
WAYS: dict[str, dict[str, Any]] = {
    "one sequence per step": {"max_num_seqs": 1, "max_num_batched_tokens": 1},
    "seven sequences per step": {"max_num_seqs": 7, "max_num_batched_tokens": 33},
    "a pool that must preempt": {"num_kv_blocks": 40, "max_concurrent_trajectories": 8},
    "one trajectory in flight": {"max_concurrent_trajectories": 1},
    "small blocks": {"block_size": 4},
    "shared within a checkpoint": {"share": "checkpoint"},
    "nothing shared": {"share": "none"},
    "reference kernels": {"kernels": "reference"},
}
# These compute with other code: log-probabilities agree within 1e-4, and draws in float32.
OTHER_CODE = ("small blocks", "reference kernels")
KEYS = ["problem_id", "trajectory", "checkpoint", "rollout"]
EXACT = [*KEYS, "answer", "finish_reason", "num_tokens", "matched_tokens", "seed"]


def run(problems: list[fastsia.Problem], **changes: Any) -> fastsia.SIAResult:
    engine = {name: changes.pop(name) for name in list(changes) if name not in ("share", "config")}
    model, tokenizer = tiny_model()
    model.to(getattr(torch, engine.pop("dtype", "float32")))
    return fastsia.evaluate(fastsia.Engine(model, tokenizer, **engine), problems, **(SETTINGS | changes))


@pytest.fixture(scope="module")
def usual() -> fastsia.SIAResult:
    return run(PROBLEMS[:6])


@pytest.fixture(scope="module")
def usual_in_bfloat16() -> fastsia.SIAResult:
    return run(PROBLEMS[:6], dtype="bfloat16")


def assert_same(found: fastsia.SIAResult, usual: fastsia.SIAResult) -> None:
    """Token ids, answers, counts and answer entropies are equal; log-probabilities too where both are exact."""
    mine, other = (result.rollouts.sort_values(KEYS).reset_index(drop=True) for result in (found, usual))
    pd.testing.assert_frame_equal(mine[EXACT], other[EXACT])
    assert [ids.tolist() for ids in mine["token_ids"]] == [ids.tolist() for ids in other["token_ids"]]
    machines = [result.summary["machine"] for result in (found, usual)]
    is_exact = all((m["products"], m["block_size"]) == ("exact", machines[0]["block_size"]) for m in machines)
    pd.testing.assert_series_equal(mine["logprob"], other["logprob"], atol=0 if is_exact else 1e-4, rtol=0)
    ordered = [result.checkpoints.sort_values(KEYS[:3]).reset_index(drop=True) for result in (found, usual)]
    for column in ("entropy", "gold_surprisal", "null_rate", "mode"):
        assert ordered[0][column].tolist() == ordered[1][column].tolist(), column


@pytest.mark.parametrize("way", WAYS)
def test_how_it_is_computed_changes_no_rollout(way: str, usual: fastsia.SIAResult) -> None:
    assert_same(run(PROBLEMS[:6], **WAYS[way]), usual)


@pytest.mark.skipif(not packed.is_available(torch.bfloat16), reason="this torch packs no bfloat16 weights")
@pytest.mark.parametrize("way", [way for way in WAYS if way not in OTHER_CODE])
def test_how_it_is_computed_changes_no_rollout_in_bfloat16(way: str, usual_in_bfloat16: fastsia.SIAResult) -> None:
    if usual_in_bfloat16.summary["machine"]["products"] != "exact":
        pytest.skip("the C++ core is not built")
    assert_same(run(PROBLEMS[:6], dtype="bfloat16", **WAYS[way]), usual_in_bfloat16)


def test_the_order_of_problems_changes_no_rollout(usual: fastsia.SIAResult) -> None:
    order = [4, 1, 5, 0, 3, 2]
    assert_same(run([PROBLEMS[i] for i in order]), usual)


def test_company_changes_no_rollout(usual: fastsia.SIAResult) -> None:
    """Each problem is drawn in a run of its own."""
    parts = [run([problem], max_num_seqs=3) for problem in PROBLEMS[:3]]
    mine = pd.concat([part.rollouts for part in parts], ignore_index=True)
    other = usual.rollouts[usual.rollouts["problem_id"].isin([p.id for p in PROBLEMS[:3]])].reset_index(drop=True)
    pd.testing.assert_frame_equal(mine[EXACT], other[EXACT])


def test_another_seed_is_another_run(usual: fastsia.SIAResult) -> None:
    other = fastsia.evaluate(tiny_model(), PROBLEMS[:6], **(SETTINGS | {"seed": 12}))
    assert other.rollouts["answer"].tolist() != usual.rollouts["answer"].tolist()
