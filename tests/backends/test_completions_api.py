"""What is asked of a server, and which of its answers count as answers."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from fastsia.backends.completions_api import DIALECTS, Dialect, body, num_prompt_tokens, read_choices
from fastsia.backends.completions_client import Unsound
from fastsia.config import SamplingParams

SAMPLING = SamplingParams(0.7, 0.95, 20, ("Question:",))


def asked(dialect: Dialect, sampling: SamplingParams = SAMPLING) -> dict[str, Any]:
    return body(dialect, "m", [5, 6], sampling, n=3, max_tokens=9, seed=11, eos=(2, 0))


def choice(**changes: Any) -> dict[str, Any]:
    return {"index": 0, "text": "a", "finish_reason": "stop"} | changes


def test_every_dialect_says_the_whole_distribution() -> None:
    """A server's own top-k, min-p or penalty would draw from another distribution, unseen."""
    for dialect in DIALECTS:
        found = asked(dialect)
        assert (found["n"], found["max_tokens"], found["seed"]) == (3, 9, 11)
        assert (found["temperature"], found["top_p"]) == (0.7, 0.95)
        assert found["stop"] == ["Question:"]
        assert found["presence_penalty"] == found["frequency_penalty"] == 0
    sampler = asked(Dialect("sampler", True))
    assert (sampler["top_k"], sampler["min_p"], sampler["repetition_penalty"]) == (-1, 0.0, 1.0)
    assert sampler["samplers"] == ["temperature", "top_p"], "llama.cpp would cut the nucleus before the temperature"
    assert sampler["stop_token_ids"] == [2, 0]
    own = json.loads(asked(Dialect("generation_config", False))["generation_config"])
    assert (own["do_sample"], own["top_k"], own["repetition_penalty"], own["eos_token_id"]) == (True, 0, 1.0, [2, 0])
    greedy = asked(Dialect("generation_config", False), SamplingParams(temperature=0))
    assert json.loads(greedy["generation_config"])["do_sample"] is False
    assert "stop" not in greedy


def test_choices_come_by_index_with_what_each_server_tells() -> None:
    vllm = choice(
        index=1, token_ids=[7, 2], logprobs={"token_logprobs": [-0.5, None]}, finish_reason="length", stop_reason=None
    )
    sglang = choice(token_ids=[8], matched_stop="Question:")
    first, second = read_choices({"choices": [vllm, sglang]}, 2)
    assert (first.token_ids, first.stop_text, first.is_stopped, first.logprobs) == ([8], "Question:", True, None)
    assert (second.token_ids, second.is_stopped) == ([7, 2], False)
    assert second.logprobs is not None
    assert second.logprobs[0] == -0.5
    assert math.isnan(second.logprobs[1])
    llama = choice(logprobs={"content": [{"id": 4, "logprob": -1.0}, {"id": 2, "logprob": -2.0}]})
    (found,) = read_choices({"choices": [llama]}, 1)
    assert (found.token_ids, found.logprobs) == ([4, 2], [-1.0, -2.0])
    (text,) = read_choices({"choices": [{"text": "b", "finish_reason": "stop", "stop_reason": 2}]}, 1)
    assert (text.text, text.token_ids, text.logprobs, text.stop_text) == ("b", None, None, None)
    assert num_prompt_tokens({"usage": {"prompt_tokens": 4}}) == 4
    assert num_prompt_tokens({}) is None


@pytest.mark.parametrize(
    "value", [math.inf, -math.inf, math.nan, -1e308, 1e39, 10**400, -(10**400), True, "-1", None, [-1.0]]
)
def test_a_logprob_that_is_no_float32_is_not_known(value: Any) -> None:
    """As a number it would be stored as -3.4e38, or end the run."""
    (found,) = read_choices({"choices": [choice(token_ids=[4, 5], logprobs={"token_logprobs": [value, -1]})]}, 1)
    assert found.logprobs is not None
    assert math.isnan(found.logprobs[0])
    assert found.logprobs[1] == -1.0


def test_minus_zero_is_zero() -> None:
    """SQLite keeps no sign of zero: the checksum of what was read back would differ."""
    (found,) = read_choices({"choices": [choice(token_ids=[4], logprobs={"token_logprobs": [-0.0]})]}, 1)
    assert found.logprobs is not None
    assert math.copysign(1, found.logprobs[0]) == 1


def test_half_a_character_beside_token_ids_is_no_fault() -> None:
    """The ids are what was drawn."""
    (found,) = read_choices({"choices": [choice(text="\ud83d", token_ids=[4])]}, 1)
    assert found.token_ids == [4]


@pytest.mark.parametrize(
    ("answer", "n", "sentence"),
    [
        ([], 1, "without choices"),
        ({"error": "x"}, 1, "without choices"),
        ({"choices": ["a"]}, 1, "without choices"),
        ({"choices": [choice()]}, 2, "1 choices where 2 were asked for"),
        ({"choices": [choice(), choice(index=1)]}, 1, "2 choices where 1 were asked for"),
        ({"choices": [choice(), choice()]}, 2, r"choices numbered \[0, 0\]"),
        ({"choices": [choice(text=None)]}, 1, "without text"),
        ({"choices": [choice(finish_reason=None)]}, 1, "ended by None"),
        ({"choices": [choice(finish_reason="content_filter")]}, 1, "ended by 'content_filter'"),
        ({"choices": [choice(token_ids=[1, "2"])]}, 1, "token ids that are not integers"),
        ({"choices": [choice(token_ids=[1, 2**40])]}, 1, "token ids that are not integers"),
        ({"choices": [choice(token_ids=[2**24])]}, 1, "token ids that are not integers"),
        ({"choices": [choice(token_ids=[-1])]}, 1, "token ids that are not integers"),
        (
            {"choices": [choice(logprobs={"content": [{"id": 10**400, "logprob": -1}]})]},
            1,
            "token ids that are not integers",
        ),
        ({"choices": [choice(text="4 \ud800")]}, 1, "an unpaired surrogate"),
    ],
)
def test_what_is_no_whole_answer_is_none(answer: Any, n: int, sentence: str) -> None:
    """An answer that was cut, filtered or doubled must not become a sample."""
    with pytest.raises(Unsound, match=sentence):
        read_choices(answer, n)
