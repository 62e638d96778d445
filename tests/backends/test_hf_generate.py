"""The naive baseline must draw from the right distribution and report it as the engine does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import GenerationConfig

from fastsia import SamplingParams
from fastsia.backends.hf_generate import HFGenerateBackend
from fastsia.engine.sequence import Request, Trajectory
from tests.tiny import shared_model, tiny_model

SAMPLING = SamplingParams(temperature=0.8, top_p=0.9, max_tokens=24)


@pytest.fixture(scope="module")
def backend() -> HFGenerateBackend:
    return HFGenerateBackend(*shared_model())


def request(backend: HFGenerateBackend, key: Any = "k", text: str = "1 + 1 = ", **changes: Any) -> Request:
    ids = tuple(backend.tokenizer(text)["input_ids"])
    return replace(Request(key, ids, SAMPLING, num_rollouts=5, seed=7, stride=4), **changes)


def run(backend: HFGenerateBackend, **changes: Any) -> Trajectory:
    (trajectory,) = backend.generate([request(backend, **changes)])
    return trajectory


def nucleus(logits: torch.Tensor, sampling: SamplingParams) -> torch.Tensor:
    """log p of every token under temperature and top-p, float64, written without transformers."""
    p = torch.softmax(logits.double() / sampling.temperature, dim=-1)
    ranked, order = p.sort(descending=True, stable=True)
    kept = ranked.cumsum(-1) - ranked < sampling.top_p
    q = torch.zeros_like(p).scatter(-1, order, torch.where(kept, ranked, 0.0))
    return (q / q.sum(-1, keepdim=True)).log()


def test_columns_have_the_contracts_shape(backend: HFGenerateBackend) -> None:
    trajectory = run(backend)
    assert trajectory.key == "k"
    assert trajectory.finish_reason in ("eos", "length")
    length = len(trajectory.token_ids)
    assert trajectory.checkpoints.tolist() == sorted({*range(0, length, 4), length})
    assert len(trajectory.logprobs) == len(trajectory.token_entropies) == length
    assert backend.tokenizer.eos_token_id not in trajectory.token_ids
    rollouts = trajectory.rollouts
    assert rollouts is not None
    assert rollouts.checkpoint.tolist() == np.repeat(trajectory.checkpoints, 5).tolist()
    assert rollouts.index.tolist() == [0, 1, 2, 3, 4] * len(trajectory.checkpoints)
    assert rollouts.offsets[-1] == len(rollouts.token_ids) == len(rollouts.logprobs)
    for r in range(len(rollouts)):
        row = rollouts.row(r)
        ends = row.token_ids[-1] == backend.tokenizer.eos_token_id
        assert row.finish_reason == ("eos" if ends else "length")
        assert ends or len(row.token_ids) == SAMPLING.max_tokens
        assert backend.tokenizer.eos_token_id not in row.token_ids[:-1], "padding after the EOS was cut"


def test_logprobs_and_entropies_are_those_of_the_sampling_distribution(backend: HFGenerateBackend) -> None:
    trajectory = run(backend)
    prompt = trajectory.prompt_ids.tolist()

    def logits(prefix: list[int], tokens: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            return backend.model(torch.tensor([prefix + tokens])).logits[0, len(prefix) - 1 : -1]

    own = logits(prompt, trajectory.token_ids.tolist())
    entropy = torch.distributions.Categorical(logits=own.double()).entropy()
    np.testing.assert_allclose(trajectory.token_entropies, entropy, atol=1e-4)
    expected = nucleus(own, SAMPLING).gather(1, torch.tensor(trajectory.token_ids.astype(np.int64))[:, None])[:, 0]
    np.testing.assert_allclose(trajectory.logprobs, expected, atol=1e-4)
    rollouts = trajectory.rollouts
    assert rollouts is not None
    for r in range(0, len(rollouts), 3):
        row = rollouts.row(r)
        prefix = prompt + trajectory.token_ids[: rollouts.checkpoint[r]].tolist()
        table = nucleus(logits(prefix, row.token_ids), SAMPLING)
        expected = table.gather(1, torch.tensor(row.token_ids)[:, None])[:, 0]
        assert torch.isfinite(expected).all(), "every draw lies in the nucleus"
        np.testing.assert_allclose(row.logprobs, expected, atol=1e-4)


def test_first_tokens_fit_the_exact_distribution(backend: HFGenerateBackend) -> None:
    """generate() defaults to top_k = 50, which no argument of ours may leave in place. Level 1e-4."""
    for temperature, top_p in ((1.5, 1.0), (0.7, 0.6)):
        sampling = SamplingParams(temperature, top_p, max_tokens=1, eos_token_id=())
        rollouts = run(backend, sampling=sampling, num_rollouts=3000, checkpoints=(0,)).rollouts
        assert rollouts is not None
        prompt = torch.tensor([request(backend).prompt_ids])
        with torch.inference_mode():
            p = nucleus(backend.model(prompt).logits[0, -1], sampling).exp().numpy()
        counts = np.bincount(rollouts.token_ids, minlength=len(p))
        assert counts[p == 0].sum() == 0
        common = p * 3000 >= 5
        observed, expected = counts[common], 3000 * p[common]
        rest = 3000 - expected.sum()
        if rest > 1:
            observed, expected = np.append(observed, 3000 - observed.sum()), np.append(expected, rest)
        assert len(expected) > 2
        assert chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4


def test_draws_depend_on_the_request_alone(backend: HFGenerateBackend) -> None:
    """A resumed run meets other requests in another order, and must draw the same."""
    a, b = request(backend, "a"), request(backend, "b", "2 + 2 = ", seed=8)
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    one = {t.key: t for t in backend.generate([a, b])}
    assert torch.equal(state, torch.random.get_rng_state()), "the caller's generator is left alone"
    torch.manual_seed(1)
    other = {t.key: t for t in backend.generate([b, a])}
    for key in "ab":
        np.testing.assert_array_equal(one[key].token_ids, other[key].token_ids)
        np.testing.assert_array_equal(one[key].rollouts.token_ids, other[key].rollouts.token_ids)
    assert one["a"].rollouts is not None
    again = run(backend, seed=9)
    assert again.rollouts is not None
    assert not np.array_equal(one["a"].rollouts.token_ids, again.rollouts.token_ids)


def test_the_models_own_generation_settings_do_not_leak_in() -> None:
    """generate() fills open fields from generation_config.json: a penalty there would change the distribution."""
    model, tokenizer = tiny_model()
    plain = run(HFGenerateBackend(model, tokenizer))
    own = GenerationConfig(top_k=1, repetition_penalty=5.0, eos_token_id=tokenizer.eos_token_id)
    model.generation_config = own
    with_settings = run(HFGenerateBackend(model, tokenizer))
    assert model.generation_config is own
    np.testing.assert_array_equal(plain.token_ids, with_settings.token_ids)
    np.testing.assert_array_equal(plain.rollouts.token_ids, with_settings.rollouts.token_ids)


def test_stop_texts_end_sequences(backend: HFGenerateBackend) -> None:
    sampling = replace(SAMPLING, stop=("8", "9"), max_tokens=40, eos_token_id=())
    reasons = set()
    for seed in range(6):
        trajectory = run(backend, sampling=sampling, seed=seed)
        text = backend.tokenizer.decode(trajectory.token_ids)
        assert not set("89") & set(text), "nothing of a stop text is the trajectory's"
        reasons.add(trajectory.finish_reason)
        rollouts = trajectory.rollouts
        assert rollouts is not None
        for r in range(len(rollouts)):
            row = rollouts.row(r)
            said = backend.tokenizer.decode(row.token_ids)
            stopped = said.endswith(("8", "9"))
            assert row.finish_reason == ("stop" if stopped else "length")
            assert not set("89") & set(said[: -1 if stopped else None])
    assert "stop" in reasons


def test_a_total_budget_counts_the_prefix(backend: HFGenerateBackend) -> None:
    sampling = replace(SAMPLING, max_tokens=9, eos_token_id=())
    trajectory = run(backend, sampling=sampling, rollout_budget="total")
    assert len(trajectory.token_ids) == 9
    assert trajectory.finish_reason == "length"
    rollouts = trajectory.rollouts
    assert rollouts is not None
    assert np.diff(rollouts.offsets).tolist() == (9 - rollouts.checkpoint).tolist()


def test_temperature_zero_is_greedy(backend: HFGenerateBackend) -> None:
    trajectory = run(backend, sampling=SamplingParams(temperature=0.0, max_tokens=10))
    rollouts = trajectory.rollouts
    assert rollouts is not None
    assert not rollouts.logprobs.any()
    assert not trajectory.logprobs.any()
    first = [rollouts.row(r).token_ids for r in range(5)]
    assert all(row == first[0] for row in first)


def test_a_given_trajectory_is_taken_as_it_is(backend: HFGenerateBackend) -> None:
    trajectory = run(backend, trajectory_ids=(20, 21, 22), checkpoints=(1, 3))
    assert trajectory.token_ids.tolist() == [20, 21, 22]
    assert np.isnan(trajectory.logprobs).all()
    assert trajectory.rollouts is not None
    assert set(trajectory.rollouts.checkpoint.tolist()) == {1, 3}


@contextmanager
def broken_after(model: Any, token: int) -> Iterator[None]:
    """Logits are NaN right after one token, as a numerical fault would have it."""

    def spoil(_: Any, args: Any, kwargs: Any, output: Any) -> Any:
        ids = kwargs.get("input_ids", args[0] if args else None)
        output.logits[ids[:, -output.logits.shape[1] :] == token] = float("nan")
        return output

    handle = model.register_forward_hook(spoil, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def test_bad_logits_fail_their_rollout_alone(backend: HFGenerateBackend) -> None:
    token = backend.tokenizer.convert_tokens_to_ids("8")
    sampling = replace(SAMPLING, temperature=1.2, top_p=1.0)
    with broken_after(backend.model, token):
        reasons = set()
        for seed in range(4):
            trajectory = run(backend, sampling=sampling, seed=seed, trajectory_ids=(20,), checkpoints=(0,))
            rollouts = trajectory.rollouts
            assert rollouts is not None
            for r in range(len(rollouts)):
                row = rollouts.row(r)
                reasons.add(row.finish_reason)
                broken = token in row.token_ids[:-1] or (row.finish_reason == "error")
                assert (row.finish_reason == "error") == broken
                if broken:
                    assert row.token_ids[-1] == token
                    assert row.token_ids.count(token) == 1
                    assert row.error is not None
                    assert f"position {len(row.token_ids)}" in row.error
        assert {"error", "eos"} <= reasons
        failed = run(backend, text="8", sampling=sampling)
        assert failed.finish_reason == "error"
        assert failed.rollouts is None
        assert failed.error is not None
        assert "position 0" in failed.error


def test_the_shuffled_prefix_is_the_engines_permutation(backend: HFGenerateBackend) -> None:
    """Both backends must permute alike, so that the ablation compares generators and not permutations."""
    from fastsia.engine.engine import Engine

    seen: list[list[int]] = []
    handle = backend.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"][0].tolist()) if seen is not None else None,
        with_kwargs=True,
    )
    try:
        given = tuple(range(30, 46))
        changes = {"trajectory_ids": given, "checkpoints": (16,), "shuffle_prefix": True, "num_rollouts": 1}
        run(backend, **changes)
    finally:
        handle.remove()
    prompt = len(request(backend).prompt_ids)
    permuted = seen[0][prompt:]
    assert sorted(permuted) == list(given)
    assert permuted != list(given)
    greedy = replace(SAMPLING, temperature=0.0)
    engine = Engine(*shared_model())
    (native,) = engine.run([request(backend, sampling=greedy, **changes)])
    naive = run(backend, sampling=greedy, **changes)
    assert native.rollouts is not None
    assert naive.rollouts is not None
    assert native.rollouts.token_ids.tolist() == naive.rollouts.token_ids.tolist()


def test_costs_are_counted(backend: HFGenerateBackend) -> None:
    before = replace(backend.counters)
    trajectory = run(backend)
    assert trajectory.rollouts is not None
    drawn = backend.counters.generated_tokens - before.generated_tokens
    assert drawn == len(trajectory.rollouts.token_ids)
    assert backend.counters.computed_tokens - before.computed_tokens >= drawn - len(trajectory.rollouts)
    assert backend.counters.prefill_tokens > before.prefill_tokens
