"""Teacher forcing on a shared trunk against transformers' own forward, for every architecture."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from fastsia import Engine, FastsiaError, SamplingParams
from fastsia.engine.forcing import Forced

from .models import FAMILIES, VOCAB, tiny_model

PROMPT = (2, 5, 9, 31, 8)
TRAJECTORY = tuple((7 * i + 3) % VOCAB for i in range(23))
# Positions 0 and T, blocks' edges, nothing read, several tokens read, one token scored and several.
FORCED = [
    Forced(position, read, scored)
    for position in (0, 4, 11, 12, 23)
    for read in ((), (17,), (17, 40, 3))
    for scored in ((6,), (6, 60), (44, 44, 44, 1))
]


def oracle(model: torch.nn.Module, one: Forced) -> tuple[np.ndarray, np.ndarray]:
    """(log-probabilities of the scored tokens, those of every token after them), from one eager forward of all."""
    ids = [*PROMPT, *TRAJECTORY[: one.position], *one.read_ids, *one.scored_ids]
    with torch.inference_mode():
        logprobs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(dim=1).numpy()
    first = len(ids) - len(one.scored_ids)
    return logprobs[np.arange(first - 1, len(ids) - 1), one.scored_ids], logprobs[-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_models_own_forward(family: str) -> None:
    model = tiny_model(family)
    continuing = np.zeros(VOCAB, dtype=bool)
    continuing[20:50] = True
    engine = Engine(model, num_kv_blocks=64, block_size=8, max_num_batched_tokens=10)
    scores = engine.loglikelihood(PROMPT, TRAJECTORY, FORCED, continuing=continuing)
    plain = engine.loglikelihood(PROMPT, TRAJECTORY, FORCED)
    for one, score, without in zip(FORCED, scores, plain, strict=True):
        expected, after = oracle(model, one)
        np.testing.assert_allclose(score.logprobs, expected, atol=1e-5)
        np.testing.assert_allclose(without.logprobs, expected, atol=1e-5)
        np.testing.assert_allclose(score.end, np.log(np.exp(after[~continuing]).sum()), atol=1e-5)
        assert without.end == 0


def test_a_prefix_costs_what_is_read_after_it_and_no_more() -> None:
    """All options of one token are read from one row a cue token; the trunk is computed once for all positions."""
    engine = Engine(tiny_model("llama"), num_kv_blocks=64)
    options = [Forced(position, (17, 40), (option,)) for position in (0, 10, 20) for option in range(5)]
    engine.loglikelihood(PROMPT, TRAJECTORY, options)
    assert engine.counters.forced_tokens == 3 * 2
    assert engine.counters.prefill_tokens == len(PROMPT) + 20


@pytest.mark.parametrize("rows", [1, 3, 1000])
@pytest.mark.parametrize("num_blocks", [8, 64])
def test_scores_do_not_move_with_the_size_of_passes_or_of_the_pool(rows: int, num_blocks: int) -> None:
    model = tiny_model("qwen2")
    usual = Engine(model, num_kv_blocks=64).loglikelihood(PROMPT, TRAJECTORY, FORCED)
    engine = Engine(model, num_kv_blocks=num_blocks, block_size=4, max_num_batched_tokens=rows)
    if num_blocks == 8:
        with pytest.raises(FastsiaError, match="raise num_kv_blocks"):
            engine.loglikelihood(PROMPT, TRAJECTORY, [Forced(23, (1,) * 10, (1,))])
        return
    for score, other in zip(engine.loglikelihood(PROMPT, TRAJECTORY, FORCED), usual, strict=True):
        np.testing.assert_allclose(score.logprobs, other.logprobs, atol=1e-5)


def test_the_trajectorys_own_tokens_cost_nothing_beyond_the_trunk() -> None:
    """A document is scored in one pass over it, though its logits are computed in slices."""
    engine = Engine(tiny_model("llama"), num_kv_blocks=64)
    whole = Forced(0, (), TRAJECTORY)
    for continuing in (None, np.arange(VOCAB) < 20):
        before = engine.counters.prefill_tokens
        (score,) = engine.loglikelihood(PROMPT, TRAJECTORY, [whole], continuing=continuing)
        expected, after = oracle(engine.model, whole)
        np.testing.assert_allclose(score.logprobs, expected, atol=1e-5)
        if continuing is not None:
            np.testing.assert_allclose(score.end, np.log(np.exp(after[~continuing]).sum()), atol=1e-5)
        read = len(TRAJECTORY) - (continuing is None)
        assert engine.counters.prefill_tokens - before == len(PROMPT) + read
    assert engine.counters.forced_tokens == 0


def test_slices_of_logits_are_seamless(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tiny_model("gemma2"), num_kv_blocks=64)
    usual = engine.loglikelihood(PROMPT, TRAJECTORY, FORCED)
    monkeypatch.setattr("fastsia.engine.forcing._LOGIT_ROWS", 2)
    for score, other in zip(engine.loglikelihood(PROMPT, TRAJECTORY, FORCED), usual, strict=True):
        np.testing.assert_allclose(score.logprobs, other.logprobs, atol=1e-6)
        assert score.is_greedy == other.is_greedy


def test_greedy_is_where_every_token_is_the_most_probable() -> None:
    model = tiny_model("llama")
    engine = Engine(model, num_kv_blocks=64)
    (rollout,) = engine.rollout(PROMPT, 1, SamplingParams(temperature=0, max_tokens=4, eos_token_id=()))
    greedy = tuple(rollout.token_ids)
    other = tuple((i + 1) % VOCAB for i in greedy)
    wanted = [greedy, greedy[:1], (greedy[0], other[1]), (other[0], *greedy[1:])]
    scores = engine.loglikelihood(PROMPT, (), [Forced(0, (), scored) for scored in wanted])
    assert [score.is_greedy for score in scores] == [True, True, False, False]


def test_the_last_token_needs_no_position_of_the_context() -> None:
    engine = Engine(tiny_model("llama"), num_kv_blocks=128)
    context = engine.context_length
    assert context is not None
    full = tuple(1 + i % (VOCAB - 1) for i in range(context))
    (score,) = engine.loglikelihood(full, (), [Forced(0, (), (1,))])
    assert np.isfinite(score.logprobs).all()
    with pytest.raises(FastsiaError, match="context is"):
        engine.loglikelihood(full, (), [Forced(0, (), (1, 1))])
    with pytest.raises(FastsiaError, match="context is"):
        engine.loglikelihood(full, (), [Forced(0, (), (1,))], continuing=np.zeros(VOCAB, dtype=bool))


def test_later_weights_are_seen() -> None:
    model = copy.deepcopy(tiny_model("llama"))
    engine = Engine(model, num_kv_blocks=64)
    before = engine.loglikelihood(PROMPT, (), [Forced(0, (), (6,))])[0].logprobs
    with torch.no_grad():
        model.get_input_embeddings().weight[6] += 1.0
    after = engine.loglikelihood(PROMPT, (), [Forced(0, (), (6,))])[0].logprobs
    assert abs(after - before) > 1e-3
    # In float32 the model's own forward is wrong by up to 8e-6 here, depending on the processor and its threads.
    exact = copy.deepcopy(model).double()(input_ids=torch.tensor([PROMPT]))
    expected = exact.logits[0, -1].log_softmax(0)[6].item()
    assert after == pytest.approx([expected], abs=1e-5)


@pytest.mark.parametrize(
    ("prompt", "forced", "message"),
    [
        ((), Forced(0, (), (1,)), "prompt_ids is empty"),
        (PROMPT, Forced(24, (), (1,)), r"forced\[0\].position is 24, but the trajectory has 23"),
        (PROMPT, Forced(0, (1,), ()), "scored_ids is empty"),
        (PROMPT, Forced(0, (), (VOCAB,)), f"token id {VOCAB} is outside"),
        (PROMPT, Forced(0, (1,) * 600, (1,)), "context is 512"),
    ],
)
def test_what_cannot_be_scored_is_refused(prompt: tuple[int, ...], forced: Forced, message: str) -> None:
    with pytest.raises(FastsiaError, match=message):
        Engine(tiny_model("llama"), num_kv_blocks=64).loglikelihood(prompt, TRAJECTORY, [forced])


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(FastsiaError, match="bool array of 97 entries"):
        Engine(tiny_model("llama"), num_kv_blocks=64).loglikelihood(
            PROMPT, (), [Forced(0, (), (1,))], continuing=np.zeros(5, dtype=bool)
        )
