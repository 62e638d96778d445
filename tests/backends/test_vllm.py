"""vLLM in process, run by the interpreter of vLLM's own environment (`make test-vllm`)."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastsia
from fastsia import FastsiaError, SamplingParams
from fastsia.backends import open_backend
from fastsia.backends.native import NativeBackend
from fastsia.engine.sequence import Request, Trajectory
from tests.backends.agreement import LEVEL, p_value_against_the_engine

HAS_VLLM = importlib.util.find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(not HAS_VLLM, reason="vLLM is not in this environment; make test-vllm sets one up")
SAMPLING = SamplingParams(temperature=0.8, top_p=0.9, max_tokens=40)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Any:
    patch = pytest.MonkeyPatch()
    for name, value in {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CACHE_ROOT": str(tmp_path_factory.mktemp("vllm")),
        "HF_HUB_OFFLINE": "1",
    }.items():
        patch.setenv(name, value)
    own = {"enforce_eager": True, "max_model_len": 1024, "block_size": 32}
    yield open_backend("demo:sft", "vllm", {"model_args": own, "dtype": "float32", "max_num_seqs": 64})
    patch.undo()


@pytest.mark.skipif(HAS_VLLM, reason="vLLM is here")
def test_without_vllm_it_says_what_to_install() -> None:
    with pytest.raises(FastsiaError, match=r"pip install 'fastsia\[vllm\]'"):
        open_backend("demo:sft", "vllm")


def request(backend: Any, **changes: Any) -> Request:
    ids = tuple(backend.tokenizer("Question: 3 + 4?\nAnswer:")["input_ids"])
    return dataclasses.replace(Request("k", ids, SAMPLING, num_rollouts=4, seed=7, stride=10), **changes)


def one(backend: Any, **changes: Any) -> Trajectory:
    (trajectory,) = backend.generate([request(backend, **changes)])
    return trajectory


@needs_vllm
@pytest.mark.slow
def test_its_answers_are_the_engines(backend: Any) -> None:
    sampling = SamplingParams(temperature=1.5, top_p=1.0, max_tokens=120)
    assert p_value_against_the_engine(backend, 8, 40, sampling) > LEVEL


@needs_vllm
@pytest.mark.slow
def test_columns_and_logprobs_are_the_contracts(backend: Any) -> None:
    trajectory = one(backend)
    eos = set(backend.eos_token_ids)
    assert not eos & set(trajectory.token_ids.tolist())
    assert len(trajectory.logprobs) == len(trajectory.token_entropies) == len(trajectory.token_ids)
    rollouts = trajectory.rollouts
    assert rollouts is not None
    assert rollouts.checkpoint.tolist() == np.repeat(trajectory.checkpoints, 4).tolist()
    native = NativeBackend.load("demo:sft", device="cpu")
    for r in range(0, len(rollouts), 3):
        row = rollouts.row(r)
        ends = row.token_ids[-1] in eos
        assert row.finish_reason == ("eos" if ends else "length")
        prefix = [*trajectory.prompt_ids.tolist(), *trajectory.token_ids[: rollouts.checkpoint[r]].tolist()]
        with torch.inference_mode():
            logits = native.engine.model(torch.tensor([prefix + row.token_ids])).logits[0, len(prefix) - 1 : -1]
        p = torch.softmax(logits.double() / SAMPLING.temperature, dim=-1)
        ranked, order = p.sort(descending=True, stable=True)
        kept = torch.where(ranked.cumsum(-1) - ranked < SAMPLING.top_p, ranked, 0.0)
        q = torch.zeros_like(p).scatter(-1, order, kept)
        expected = (q / q.sum(-1, keepdim=True)).log().gather(1, torch.tensor(row.token_ids)[:, None])[:, 0]
        np.testing.assert_allclose(row.logprobs, expected, atol=1e-3)


@needs_vllm
@pytest.mark.slow
def test_draws_follow_from_the_seed_and_settings_from_the_request(backend: Any) -> None:
    first, again, other = one(backend), one(backend), one(backend, seed=8)
    assert first.rollouts is not None
    assert again.rollouts is not None
    assert other.rollouts is not None
    np.testing.assert_array_equal(first.rollouts.token_ids, again.rollouts.token_ids)
    assert not np.array_equal(first.rollouts.token_ids, other.rollouts.token_ids)
    total = one(backend, trajectory_ids=tuple(range(30, 70)), checkpoints=(0, 30, 40), rollout_budget="total")
    assert total.rollouts is not None
    lengths = np.diff(total.rollouts.offsets).reshape(3, 4)
    assert (lengths[2] == 0).all()
    assert (lengths[1] <= 10).all()
    endless = dataclasses.replace(SAMPLING, max_tokens=30, stop=tuple("3456789"), eos_token_id=())
    reasons = set()
    for seed in range(4):
        stopped = one(backend, sampling=endless, seed=seed)
        assert not set("3456789") & set(backend.tokenizer.decode(stopped.token_ids))
        reasons.add(stopped.finish_reason)
    assert "stop" in reasons


@needs_vllm
@pytest.mark.slow
def test_a_run_is_recorded_and_resumes(backend: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"num_rollouts": 4, "stride": 20, "max_tokens": 100, "num_bootstrap": 10}
    fastsia.evaluate(backend, "demo", limit=2, output=tmp_path / "run", **settings)
    result = fastsia.evaluate(backend, "demo", limit=3, output=tmp_path / "run", **settings)
    assert result.summary["num_computed_problems"] == 3
    assert result.summary["backend"] == "vllm"
    assert result.summary["row_steps"] is None
    assert result.summary["machine"]["model_args"]["max_num_seqs"] == 64
    assert (result.rollouts.groupby(["problem_id", "checkpoint"]).size() == 4).all()


@needs_vllm
@pytest.mark.slow
def test_what_cannot_work_is_said(backend: Any) -> None:
    for options, sentence in (
        ({"model_args": {"model": "x"}}, "model_args must not contain model"),
        ({"model_args": {"no_such_argument": 1}}, "vLLM cannot load"),
        ({"tensor_parallel_size": 0}, "tensor_parallel_size must be an integer >= 1"),
        ({"max_concurrent_trajectories": 3}, "max_concurrent_trajectories does not apply to the vllm backend"),
    ):
        with pytest.raises(FastsiaError, match=sentence):
            open_backend("demo:sft", "vllm", options)
