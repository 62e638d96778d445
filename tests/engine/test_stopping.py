"""Stop texts by table look-up must end a sequence exactly where its decoded text first holds one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsia import Engine
from fastsia.answers.vocabulary import Vocabulary
from fastsia.config import SamplingParams
from fastsia.engine.sequence import Request
from fastsia.engine.stopping import StopRules
from fastsia.errors import FastsiaError
from tests.engine.models import VOCAB, tiny_model
from tests.engine.tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
VOCABULARY = Vocabulary.from_tokenizer(TOKENIZER)
STOPS = [("\nQuestion:", "\nQ:"), ("aab",), ("abab", "ba"), ("é",), ("n:\n", "on:")]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(stop=st.sampled_from(STOPS), tokens=st.lists(st.integers(2, VOCAB - 1), max_size=30))
def test_the_automaton_agrees_with_a_search_in_the_text(stop: tuple[str, ...], tokens: list[int]) -> None:
    rules = StopRules((), stop, VOCABULARY, VOCAB)
    state, met = np.zeros(1, dtype=np.int32), None
    for i, token in enumerate(tokens):
        state, stopped = rules.advance(state, np.array([token]))
        if stopped[0] and met is None:
            met = i + 1
    found = [n for n in range(1, len(tokens) + 1) if any(s in VOCABULARY.decode(tokens[:n]) for s in stop)]
    assert met == (found[0] if found else None)
    assert rules.texts is not None
    kept = rules.texts.tokens_before(np.array(tokens, dtype=np.int64))
    text = VOCABULARY.decode(tokens)
    first = min((text.find(s) for s in stop if s in text), default=len(text))
    assert len(VOCABULARY.decode(tokens[:kept])) <= first
    assert kept == len(tokens) or len(VOCABULARY.decode(tokens[: kept + 1])) > first


def test_stop_texts_across_tokens_are_seen() -> None:
    """A random walk may never meet one: these do."""
    ids = {piece: i for i, piece in enumerate(VOCABULARY.decode([i]) for i in range(VOCAB))}
    rules = StopRules((), ("\nQuestion:",), VOCABULARY, VOCAB)
    for pieces in (
        ["\n", "Question", ":"],
        ["\nQ", "u", "e", "s", "t", "ion:"],
        ["\n", "\nQ", "u", "e", "s", "t", "i", "o", "n:"],
    ):
        state = np.zeros(1, dtype=np.int32)
        seen = []
        for piece in pieces:
            state, stopped = rules.advance(state, np.array([ids[piece]]))
            seen.append(bool(stopped[0]))
        assert seen == [False] * (len(pieces) - 1) + [True]


def test_given_tokens_may_hold_a_stop_text() -> None:
    """It was not drawn, so it ends nothing; what follows starts afresh."""
    rules = StopRules((), ("ab",), VOCABULARY, VOCAB)
    ids = {VOCABULARY.decode([i]): i for i in range(VOCAB)}
    states, completes = rules.states_along(np.array([ids["a"], ids["b"], ids["a"]]))
    assert states.tolist() == [0, 1, 0, 1]
    assert completes.tolist() == [False, True, False]


def test_a_rollout_that_draws_a_given_stop_text_ends_there_however_much_is_shared() -> None:
    """Riders once passed over a stop text in a given trajectory that rollouts alone end at."""
    model = tiny_model("qwen2")
    greedy = SamplingParams(0.0, 1.0, max_tokens=12, eos_token_id=())
    y = Engine(model, TOKENIZER, num_kv_blocks=500).rollout([5, 6], 1, greedy)[0].token_ids
    text = VOCABULARY.decode(y[5:7])
    assert text
    stopping = SamplingParams(0.0, 1.0, max_tokens=12, eos_token_id=(), stop=(text,))
    found = []
    for share in ("trajectory", "checkpoint", "none"):
        drawn = Engine(model, TOKENIZER, num_kv_blocks=500).rollout_checkpoints(
            [5, 6], y, [0, 3], 2, stopping, share=share
        )
        found.append({c: [(r.token_ids, r.finish_reason) for r in rollouts] for c, rollouts in drawn.items()})
    assert found[0] == found[1] == found[2]
    assert found[0][0][0][1] == "stop"


def test_eos_ids_and_missing_tokenizers_are_checked() -> None:
    assert np.flatnonzero(StopRules((3, 5), (), None, VOCAB).is_eos).tolist() == [3, 5]
    with pytest.raises(FastsiaError, match="stop texts need a tokenizer"):
        StopRules((), ("x",), None, VOCAB)


def test_sequences_end_at_stop_texts_and_trajectories_keep_nothing_of_them() -> None:
    engine = Engine(tiny_model("qwen2"), TOKENIZER, num_kv_blocks=2000)
    stop = ("a", "Q", "e", "5")
    sampling = SamplingParams(1.5, 1.0, max_tokens=60, stop=stop, eos_token_id=())
    ends = set()
    for rollout in engine.rollout([5, 6], 40, sampling, seed=1):
        text = VOCABULARY.decode(rollout.token_ids)
        assert any(s in text for s in stop) == (rollout.finish_reason == "stop")
        assert not any(s in VOCABULARY.decode(rollout.token_ids[:-1]) for s in stop)
        ends.add(rollout.finish_reason)
    assert "stop" in ends
    for trajectory in engine.run([Request(i, (5, 6), sampling, 2, seed=i, stride=3) for i in range(8)]):
        text = VOCABULARY.decode(trajectory.token_ids)
        assert not any(s in text for s in stop)
        assert trajectory.finish_reason in ("stop", "length")
