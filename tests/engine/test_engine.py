"""The engine's front door: what it promises, what it refuses, and that it leaves the model as it found it."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from fastsia import Engine
from fastsia.config import SamplingParams
from fastsia.engine.sequence import Request
from fastsia.errors import FastsiaError
from tests.engine.models import EOS, VOCAB, tiny_model

PROMPT = [5, 6, 7, 8, 9]
Y = [20, 21, 22, 23, 24, 25]
SAMPLING = SamplingParams(temperature=0.9, top_p=0.95, max_tokens=8, eos_token_id=EOS)


@pytest.fixture
def engine() -> Engine:
    return Engine(tiny_model("qwen2"), num_kv_blocks=500, block_size=4)


def test_the_first_k_of_n_rollouts_are_those_of_n_equal_k(engine: Engine) -> None:
    many = engine.rollout(PROMPT, 12, SAMPLING, seed=4)
    few = engine.rollout(PROMPT, 5, SAMPLING, seed=4)
    assert [r.token_ids for r in few] == [r.token_ids for r in many[:5]]


def test_rollout_is_rollout_checkpoints_of_an_empty_trajectory(engine: Engine) -> None:
    direct = engine.rollout(PROMPT, 6, SAMPLING, seed=4)
    assert direct == engine.rollout_checkpoints(PROMPT, [], [0], 6, SAMPLING, seed=4)[0]


def test_checkpoints_draw_apart_and_seeds_move_every_draw(engine: Engine) -> None:
    """A key without the checkpoint in it would give two checkpoints on one context the same rollouts."""
    drawn = engine.rollout_checkpoints(PROMPT, [3, 3], [0, 1, 2], 6, SAMPLING, seed=4)
    again = engine.rollout_checkpoints(PROMPT, [3, 3], [2, 0], 6, SAMPLING, seed=4)
    for checkpoint, rollouts in again.items():
        assert [r.token_ids for r in rollouts] == [r.token_ids for r in drawn[checkpoint]]
    assert engine.rollout(PROMPT, 6, SAMPLING, seed=5) != engine.rollout(PROMPT, 6, SAMPLING, seed=4)


def test_rows_of_an_odd_vocabulary_are_padded_for_the_sampling_kernel() -> None:
    """97 tokens: rows stored without a gap would start on every byte, and be read a value at a time."""
    runner = Engine(tiny_model("llama"), kernels="reference", num_kv_blocks=20).runner
    hidden = torch.randn(5, runner.hidden_size, generator=torch.Generator().manual_seed(0))
    plain = runner.logits(hidden)
    runner.ops = dataclasses.replace(runner.ops, name="triton")
    padded = runner.logits(hidden)
    assert (plain.stride(), padded.stride()) == ((97, 1), (112, 1))
    torch.testing.assert_close(padded, plain)


@pytest.mark.parametrize("seed", [-1, 2**63 - 1, 2**64 - 1, 0xFFFFFFFF])
def test_any_integer_is_a_seed(engine: Engine, seed: int) -> None:
    assert len(engine.rollout(PROMPT, 3, SAMPLING, seed=seed)) == 3


def test_less_sharing_costs_more_rows_and_gives_the_same_rollouts(engine: Engine) -> None:
    cold = SamplingParams(temperature=0.4, top_p=0.9, max_tokens=8, eos_token_id=EOS)
    y = engine.rollout(PROMPT, 1, cold, seed=1)[0].token_ids
    rows, found = [], []
    for share in ("trajectory", "checkpoint", "none"):
        fresh = Engine(tiny_model("qwen2"), num_kv_blocks=500, block_size=4)
        found.append(fresh.rollout_checkpoints(PROMPT, y, [0, 2, 4], 10, cold, seed=2, share=share))
        rows.append(fresh.counters.computed_tokens)
    assert found[0].keys() == found[1].keys() == found[2].keys()
    for other in found[1:]:
        for checkpoint, rollouts in found[0].items():
            assert [r.token_ids for r in rollouts] == [r.token_ids for r in other[checkpoint]]
    assert rows[0] < rows[1] < rows[2]


def test_counters_add_up(engine: Engine) -> None:
    (trajectory,) = engine.run([Request(0, tuple(PROMPT), SAMPLING, 6, seed=1, stride=2)])
    counters, rollouts = engine.counters, trajectory.rollouts
    assert rollouts is not None
    assert counters.generated_tokens == len(rollouts.token_ids) == rollouts.offsets[-1]
    assert counters.generated_tokens >= counters.computed_tokens + counters.matched_tokens
    assert counters.merge_factor == counters.generated_tokens / counters.computed_tokens
    assert counters.prefill_tokens + counters.trajectory_tokens == len(PROMPT) + len(trajectory.token_ids)
    assert counters.preemptions == counters.recomputed_tokens == 0
    assert 0 < counters.peak_kv_blocks <= 500


def test_streaming_gives_every_rollout_once_and_the_same(engine: Engine) -> None:
    expected = engine.rollout_checkpoints(PROMPT, Y, [0, 3, 6], 5, SAMPLING, seed=8)
    streamed = list(engine.stream(PROMPT, Y, [0, 3, 6], 5, SAMPLING, seed=8))
    assert len(streamed) == 15
    assert {(c, i): r for c, i, r in streamed} == {(c, i): r for c, rs in expected.items() for i, r in enumerate(rs)}


def test_streaming_is_early() -> None:
    """With one row per step, the first rollouts must come long before the last."""
    engine = Engine(tiny_model("qwen2"), num_kv_blocks=500, block_size=4, max_num_seqs=1)
    stream = engine.stream(PROMPT, Y, [0, 6], 5, SAMPLING, seed=8)
    next(stream)
    early = engine.counters.steps
    assert len(list(stream)) == 9
    assert early < engine.counters.steps


def test_several_eos_ids_any_of_them_ends_and_none_is_in_the_trajectory(engine: Engine) -> None:
    hot = SamplingParams(temperature=1.5, top_p=1.0, max_tokens=60, eos_token_id=tuple(range(40)))
    ends = {r.token_ids[-1] for r in engine.rollout(PROMPT, 40, hot, seed=1)}
    assert len(ends) > 2
    assert ends < set(range(40))
    (trajectory,) = engine.run([Request(0, tuple(PROMPT), hot, 2, seed=1)])
    assert trajectory.finish_reason == "eos"
    assert not set(trajectory.token_ids.tolist()) & set(range(40))


def test_the_models_own_eos_ids_are_the_default(engine: Engine) -> None:
    assert set(engine.eos_token_ids) == set(EOS)
    default = engine.rollout(PROMPT, 8, SamplingParams(0.9, 0.95, max_tokens=8), seed=4)
    assert default == engine.rollout(PROMPT, 8, SAMPLING, seed=4)


def test_an_empty_trajectory_has_one_checkpoint(engine: Engine) -> None:
    (trajectory,) = engine.run([Request(0, tuple(PROMPT), SAMPLING, 4, seed=1, trajectory_ids=(), stride=3)])
    assert trajectory.checkpoints.tolist() == [0]
    (short,) = engine.run([Request(0, tuple(PROMPT), SAMPLING, 4, seed=1, trajectory_ids=(7, 7), stride=3)])
    assert short.checkpoints.tolist() == [0, 2]


def test_a_spent_total_budget_gives_rollouts_without_tokens(engine: Engine) -> None:
    request = Request(
        0, tuple(PROMPT), SAMPLING, 3, seed=1, trajectory_ids=(*Y, 26, 27), stride=4, rollout_budget="total"
    )
    (trajectory,) = engine.run([request])
    assert trajectory.rollouts is not None
    last = [
        trajectory.rollouts.row(r) for r in range(len(trajectory.rollouts)) if trajectory.rollouts.checkpoint[r] == 8
    ]
    assert [(r.token_ids, r.finish_reason) for r in last] == [([], "length")] * 3


def test_live_weights_are_seen_and_the_model_is_left_as_it_was() -> None:
    """In an RL loop the same model trains between our calls, with its own attention and in training mode."""
    model = copy.deepcopy(tiny_model("qwen2")).train()
    model.set_attn_implementation("sdpa")
    engine = Engine(model, num_kv_blocks=100)
    before = engine.rollout(PROMPT, 4, SAMPLING, seed=4)
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    loss = model(input_ids=torch.tensor([PROMPT]), labels=torch.tensor([PROMPT])).loss
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    after = engine.rollout(PROMPT, 4, SAMPLING, seed=4)
    assert after != before
    assert after == Engine(model, num_kv_blocks=100).rollout(PROMPT, 4, SAMPLING, seed=4)


def test_bad_logits_fail_their_rollouts_with_the_position_and_no_others() -> None:
    """NaN must never be sampled, and must not reach others through blocks that are handed on."""
    model = copy.deepcopy(tiny_model("qwen2"))
    poison = 30
    with torch.no_grad():
        clean = Engine(model, num_kv_blocks=60, block_size=4).rollout(PROMPT, 40, SAMPLING, seed=4)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    model.config.tie_word_embeddings = False
    with torch.no_grad():
        model.model.embed_tokens.weight = torch.nn.Parameter(model.model.embed_tokens.weight.clone())
        model.model.embed_tokens.weight[poison] = torch.nan
    engine = Engine(model, num_kv_blocks=60, block_size=4)
    for _ in range(2):
        dirty = engine.rollout(PROMPT, 40, SAMPLING, seed=4)
        failed = 0
        for ours, theirs in zip(dirty, clean, strict=True):
            at = theirs.token_ids.index(poison) if poison in theirs.token_ids[:-1] else None
            if at is None:
                assert ours.token_ids == theirs.token_ids
                assert ours.finish_reason == theirs.finish_reason
            else:
                failed += 1
                assert ours.finish_reason == "error"
                assert ours.token_ids == theirs.token_ids[: at + 1]
                assert ours.error is not None
                assert f"position {at + 1} " in ours.error
        assert failed > 0, "the poisoned token was never drawn: the test saw nothing"


def test_a_trajectory_with_bad_logits_fails_alone() -> None:
    model = copy.deepcopy(tiny_model("qwen2"))
    model.model.embed_tokens.weight = torch.nn.Parameter(model.model.embed_tokens.weight.clone())
    with torch.no_grad():
        model.model.embed_tokens.weight[30] = torch.nan
    engine = Engine(model, num_kv_blocks=60)
    good, bad = (Request(i, prompt, SAMPLING, 3, seed=1) for i, prompt in enumerate([(5, 6), (5, 30)]))
    found = {t.key: t for t in engine.run([good, bad])}
    assert found[1].finish_reason == "error"
    assert found[1].rollouts is None
    assert "position 0 of the trajectory" in (found[1].error or "")
    assert found[0].finish_reason != "error"
    assert found[0].rollouts is not None


@pytest.mark.parametrize("kernels", ["auto", "reference"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_bad_logits_of_a_given_trajectory_stay_its_own(kernels: str, shuffle: bool) -> None:
    """Rows before the bad one are drawn as ever, and so are those that get the blocks it wrote."""
    model = copy.deepcopy(tiny_model("qwen2"))
    model.model.embed_tokens.weight = torch.nn.Parameter(model.model.embed_tokens.weight.clone())
    with torch.no_grad():
        model.model.embed_tokens.weight[30] = torch.nan
    engine = Engine(model, num_kv_blocks=60, block_size=4, kernels=kernels)
    clean = engine.rollout(PROMPT, 20, SAMPLING, seed=1)
    given = (5, 30, *[5] * 20)
    request = Request(
        0, tuple(PROMPT), SAMPLING, 3, 1, trajectory_ids=given, checkpoints=(0, 9), shuffle_prefix=shuffle
    )
    (trajectory,) = engine.run([request])
    assert trajectory.rollouts is not None
    rows = [trajectory.rollouts.row(r) for r in range(6)]
    assert [r.finish_reason for r in rows[3:]] == ["error"] * 3
    if not shuffle:
        assert [r.token_ids for r in rows[:3]] == [r.token_ids for r in clean[:3]]
    assert [r.token_ids for r in engine.rollout(PROMPT, 20, SAMPLING, seed=1)] == [r.token_ids for r in clean]


def test_a_run_left_in_the_middle_leaves_the_engine_usable(engine: Engine) -> None:
    expected = engine.rollout(PROMPT, 5, SAMPLING, seed=8)
    stream = engine.stream(PROMPT, Y, [0, 3], 5, SAMPLING, seed=8)
    next(stream)
    with pytest.raises(FastsiaError, match="already running"):
        engine.rollout(PROMPT, 1, SAMPLING)
    stream.close()
    assert engine.rollout(PROMPT, 5, SAMPLING, seed=8) == expected


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_any_block_size_gives_the_same_rollouts(kernels: str) -> None:
    """Down to blocks of one token and a pool of one block, which the check of a new model must fit into."""
    model = tiny_model("llama")
    expected = Engine(model, kernels=kernels).rollout([2, 5, 9], 4, SAMPLING)
    for block_size in (1, 2, 3):
        found = Engine(model, num_kv_blocks=256, block_size=block_size, kernels=kernels).rollout([2, 5, 9], 4, SAMPLING)
        assert [rollout.token_ids for rollout in found] == [rollout.token_ids for rollout in expected]
    assert Engine(model, num_kv_blocks=1, block_size=1, kernels=kernels).block_size == 1


def test_an_interrupt_in_reset_does_not_keep_the_engine(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ctrl-C there left the engine "already running", or rows of hidden states that nothing gives back."""
    expected = Engine(engine.model, num_kv_blocks=500, block_size=4).rollout(PROMPT, 5, SAMPLING, seed=8)
    run = engine.run([Request(0, tuple(PROMPT), SAMPLING, 3, 1)])
    next(run)

    def interrupted() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine.runner, "reset", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(run)
    engine.runner.keep_hidden(torch.ones(1, engine.runner.hidden_size))  # what it would have forgotten
    run = engine.run([Request(0, tuple(PROMPT), SAMPLING, 3, 1)])
    next(run)
    with pytest.raises(FastsiaError, match="already running"):
        engine.loglikelihood(PROMPT, Y, [])
    assert len(engine.runner.hidden_slots) == 0
    run.close()
    assert engine.rollout(PROMPT, 5, SAMPLING, seed=8) == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.rollout([], 1, SAMPLING), "the prompt has no tokens"),
        (lambda e: e.rollout([5, VOCAB], 1, SAMPLING), f"token id {VOCAB}, outside the model's vocabulary"),
        (lambda e: e.rollout([5], 0, SAMPLING), "n must be an integer >= 1"),
        (lambda e: e.rollout([5] * 510, 1, SAMPLING), "context is 512: lower max_tokens or shorten the prompt\\.$"),
        (
            lambda e: e.rollout_checkpoints([5], [6], [2], 1, SAMPLING),
            r"checkpoint 2 is outside the trajectory \(0 to 1\)",
        ),
        (lambda e: e.rollout_checkpoints([5], [6], [-1], 1, SAMPLING), "checkpoints must be >= 0, got -1"),
        (lambda e: e.rollout_checkpoints([5], [6], [0], 1, SAMPLING, share="all"), "share must be"),
        (lambda e: e.rollout([5], 1, SamplingParams(stop="x", max_tokens=3)), "stop texts need a tokenizer"),
        (
            lambda e: e.rollout([5], 1, SamplingParams(eos_token_id=VOCAB, max_tokens=3)),
            f"eos_token_id {VOCAB} is not an id",
        ),
        (
            lambda e: Engine(e.model, num_kv_blocks=3, block_size=4).rollout([5] * 9, 1, SAMPLING),
            "num_kv_blocks=3 is too small",
        ),
        (lambda e: Engine(e.model, max_num_seqs=0), "max_num_seqs must be an integer >= 1"),
        (
            lambda e: Engine(e.model, max_concurrent_trajectories=True),
            "max_concurrent_trajectories must be an integer >= 1, got True",
        ),
        (lambda e: Engine(e.model, max_num_batched_tokens="9"), "max_num_batched_tokens must be an integer >= 1"),
        (lambda e: Engine(e.model, block_size=2.0), "block_size must be an integer >= 1"),
        (lambda e: Engine(e.model, num_kv_blocks=2.5), r"num_kv_blocks must be an integer >= 1, got 2\.5"),
        (lambda e: Engine(e.model, num_kv_blocks=10**30), "num_kv_blocks must be an integer <= 2,147,483,647"),
        *(
            (
                lambda e, n=n: Engine(e.model, num_kv_blocks=n, block_size=n),
                f"num_kv_blocks must fit into memory, got {n:,}",
            )
            for n in (1 << 24, 2**31 - 1)
        ),
        (lambda e: e.rollout([5], 10**30, SAMPLING), "n must be an integer <= 1,000,000"),
        (lambda e: Engine(e.model, num_kv_blocks=0), "num_kv_blocks must be an integer >= 1"),
        (lambda e: Engine(e.model, gpu_memory_utilization="all"), "gpu_memory_utilization must be in"),
        (lambda e: Engine(e.model, kernels="cuda"), "kernels must be"),
        (lambda e: Engine("demo:sft"), "model must be a loaded model of transformers, got str"),
        (lambda e: Engine(e.model, "demo:sft"), "tokenizer str is not a fast tokenizer"),
        (lambda e: Engine.from_pretrained(5), "model must be a name or a path, got int"),
        (lambda e: e.rollout([5.5], 1, SAMPLING), r"prompt_ids must contain only integers, got 5\.5"),
        (lambda e: e.rollout(5, 1, SAMPLING), "prompt_ids must be a sequence of integers, got 5"),
        (lambda e: e.rollout([5], True, SAMPLING), "n must be an integer >= 1"),
        (lambda e: e.rollout([5], 1, {"top_p": 1.0}), "sampling must be a SamplingParams, got dict"),
        (lambda e: e.rollout([5], 1, SAMPLING, seed=0.5), r"seed must be an integer, got 0\.5"),
        (lambda e: e.rollout_checkpoints([5], [6], [0.5], 1, SAMPLING), "checkpoints must contain only integers"),
    ],
)
def test_what_cannot_run_is_refused_in_one_sentence(engine: Engine, call, message: str) -> None:
    with pytest.raises(FastsiaError, match=message):
        call(engine)


def test_models_with_more_than_a_weight_for_a_head_use_their_own(engine: Engine) -> None:
    assert engine.runner.fused_head
    assert Engine(tiny_model("gemma2"), num_kv_blocks=60).runner.fused_head
    assert not Engine(tiny_model("granite"), num_kv_blocks=60).runner.fused_head


def test_an_attention_we_do_not_reproduce_is_refused() -> None:
    """A model that ignores the interface must not be sampled as if it had obeyed it."""
    model = copy.deepcopy(tiny_model("llama"))
    layer = model.model.layers[0].self_attn
    forward = layer.forward
    layer.forward = lambda *args, **kwargs: tuple(
        out * 0.5 if i == 0 and kwargs.get("fastsia_context") is not None else out
        for i, out in enumerate(forward(*args, **kwargs))
    )
    with pytest.raises(FastsiaError, match="this architecture is not supported"):
        Engine(model, num_kv_blocks=60)


def test_unused_blocks_hold_zeros(engine: Engine) -> None:
    """Masked keys have weight 0, and 0 * NaN is NaN: the pool must not start as whatever memory held."""
    assert np.isfinite(engine.runner.kv_cache.numpy()).all()
