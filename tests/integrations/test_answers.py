"""What every tool is given: answers, their entropies, curves along a response. Needs none of the tools."""

from __future__ import annotations

import math
import re
import tomllib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from fastsia import Engine, FastsiaError, SamplingParams, answer_entropy, extract_answers
from fastsia.engine.seeding import request_seed
from fastsia.integrations.answers import PromptFacts, ResponseReader, check_drawn, content, special_stops, summary

ROOT = Path(__file__).resolve().parents[2]


@cache
def demo() -> Engine:
    return Engine.from_pretrained("demo:sft", num_kv_blocks=1024)


def prompt_ids(question: str = "Ada has 5 apples and buys 7 more. How many apples does Ada have now?") -> list[int]:
    tokenizer = demo().tokenizer
    assert tokenizer is not None
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer.encode(text, add_special_tokens=False))


def test_a_summary_says_what_the_answers_amount_to() -> None:
    found = summary(["4", None, "4", "5"])
    assert found["num_answers"] == 4
    assert found["entropy"] == pytest.approx(answer_entropy(["4", None, "4", "5"]))
    assert found["entropy_chao_shen"] == pytest.approx(answer_entropy(["4", None, "4", "5"], "chao_shen"))
    assert (found["null_rate"], found["num_distinct"], found["mode"]) == (0.25, 3, "4")
    assert summary([None, None, "4"])["mode"] is None


def test_one_answer_has_no_entropy() -> None:
    """A 0 there would read as certainty."""
    found = summary(["4"])
    assert found["entropy"] is None
    assert found["mode"] == "4"


def test_a_curve_is_the_entropy_of_rollouts_from_each_checkpoint() -> None:
    engine = demo()
    assert engine.vocabulary is not None
    response = engine.rollout(prompt_ids(), 1, SamplingParams(temperature=0, max_tokens=80))[0].token_ids
    ids = content(engine.vocabulary, response, (), engine.eos_token_ids)
    assert ids == response[:-1]
    reader = ResponseReader.of(num_rollouts=8, stride=5, temperature=1.0, top_p=1.0, max_tokens=80)
    request = reader.curve_request("it", prompt_ids(), ids, 3, context_length=engine.context_length)
    (trajectory,) = engine.run([request])
    curve = reader.curve(trajectory, engine.vocabulary, "it")
    assert curve["checkpoints"] == [*range(0, len(ids), 5), len(ids)]
    sampling = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=80)
    rollouts = engine.rollout_checkpoints(
        prompt_ids(), ids, curve["checkpoints"], 8, sampling, seed=request_seed(3, "curve", 0)
    )
    for t, entropy in zip(curve["checkpoints"], curve["entropy"], strict=True):
        texts = [engine.vocabulary.decode([*ids[:t], *rollout.token_ids]) for rollout in rollouts[t]]
        assert entropy == pytest.approx(answer_entropy(extract_answers(texts)))
    assert curve["num_rollouts"] == 8


def test_a_response_that_fills_the_context_leaves_room_for_its_rollouts() -> None:
    engine = demo()
    prompt = prompt_ids()
    context = len(prompt) + 10
    reader = ResponseReader.of(num_rollouts=2, stride=5)
    request = reader.curve_request(0, prompt, [5] * 10, 0, context_length=context)
    assert request.trajectory_ids == (5,) * 9
    assert len(prompt) + 9 + request.sampling.max_tokens == context
    (trajectory,) = engine.run([request])
    check_drawn(trajectory, "it")


def test_what_ended_a_response_is_not_of_its_content() -> None:
    engine = demo()
    assert engine.vocabulary is not None
    assert engine.tokenizer is not None
    ids = engine.tokenizer.encode("She has 12 apples.\n#### 12", add_special_tokens=False)
    eos = engine.eos_token_ids
    assert content(engine.vocabulary, [*ids, eos[0]], (), eos) == ids
    assert content(engine.vocabulary, [*ids, eos[0], eos[1], eos[1]], (), eos) == ids
    cut = content(engine.vocabulary, ids, ("####",), eos)
    assert "####" not in engine.vocabulary.decode(cut)
    assert cut == ids[: len(cut)]
    assert content(engine.vocabulary, [eos[0]], (), eos) == []


def test_special_tokens_among_stop_texts_end_by_their_id() -> None:
    """They are never written out, so no text can match them."""
    tokenizer = demo().tokenizer
    assert tokenizer is not None
    texts, ids = special_stops(tokenizer, ["\n\n", tokenizer.eos_token, "\n\n", ""])
    assert texts == ("\n\n",)
    assert ids == (tokenizer.eos_token_id,)


@pytest.mark.parametrize(
    ("prompt", "starts", "expects"),
    [
        ("<|assistant|>\n<think>\n", True, True),
        ("<|assistant|>[THINK]", True, True),
        ("What does <think> mean?<|assistant|>\n", False, True),
        ("<|assistant|>\n<think>\n\n</think>\n\n", False, False),
        ("What is 2 + 3?<|assistant|>\n", False, False),
    ],
)
def test_what_a_prompt_says_of_think_blocks(prompt: str, starts: bool, expects: bool) -> None:
    vocabulary = demo().vocabulary
    assert vocabulary is not None
    assert not vocabulary.has_think_marks
    assert PromptFacts.of(prompt, vocabulary, is_chat=True) == PromptFacts(starts, True, expects)


def test_a_chat_model_that_repeats_the_question_is_read_on() -> None:
    """Stop texts of plain prompts cut its texts, and every answer after them was lost."""
    text = "I think of 3.\nQuestion: What is 2 + 3?\n\n2 + 3 = 5\n#### 5"
    reader = ResponseReader.of(num_rollouts=2, stride=5)
    assert reader.read([text], PromptFacts(is_chat=True)) == ["5"]
    assert reader.read([text]) == ["3"]
    asked = PromptFacts(starts_in_think=True, is_chat=True, expects_think=True)
    stop = reader.curve_request(0, [1], [], 0, asked, context_length=100).answer_stop
    assert stop is not None
    assert (stop.starts_in_think, stop.stop_texts, stop.expects_think) == (True, False, True)


def test_options_without_rollouts_are_refused() -> None:
    assert ResponseReader.of().config is None
    with pytest.raises(FastsiaError, match="stride applies to curves only"):
        ResponseReader.of(stride=5)
    with pytest.raises(FastsiaError, match="answer_format must be one of"):
        ResponseReader.of(answer_format="numbers")  # type: ignore[arg-type]
    with pytest.raises(FastsiaError, match="answer_reading must be"):
        ResponseReader.of(answer_reading="loose")  # type: ignore[arg-type]
    with pytest.raises(FastsiaError, match="num_rollouts must be"):
        ResponseReader.of(num_rollouts=0)


def test_a_failed_rollout_is_named() -> None:
    engine = Engine.from_pretrained("demo:sft", num_kv_blocks=1024)
    engine.model.get_input_embeddings().weight.data[prompt_ids()[3]] = math.nan
    reader = ResponseReader.of(num_rollouts=2, stride=5)
    (trajectory,) = engine.run([reader.curve_request(0, prompt_ids(), [], 0, context_length=2048)])
    with pytest.raises(FastsiaError, match=r"question 3: .*NaN or infinite"):
        check_drawn(trajectory, "question 3")


def test_every_entry_point_names_a_module_that_is_there() -> None:
    """The tools import it by this name; without them it cannot be imported here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    entries = {group: dict(found) for group, found in project["entry-points"].items()}
    assert entries == {
        "lm_eval.models": {"fastsia": "fastsia.integrations.lm_eval:FastsiaLM"},
        "inspect_ai": {"fastsia": "fastsia.integrations.inspect_ai"},
    }
    for group in entries.values():
        for value in group.values():
            name, _, member = value.partition(":")
            spec = find_spec(name)
            assert spec is not None
            assert spec.origin is not None
            assert not member or re.search(rf"^class {member}\b", Path(spec.origin).read_text(encoding="utf-8"), re.M)
    extras = project["optional-dependencies"]
    assert {"lm-eval", "inspect-ai", "lm-polygraph"} <= extras.keys()


def test_curves_of_one_response_do_not_depend_on_what_else_runs() -> None:
    engine = demo()
    assert engine.vocabulary is not None
    reader = ResponseReader.of(num_rollouts=4, stride=10, temperature=1.0, max_tokens=40)
    requests = [reader.curve_request(i, prompt_ids(), [5, 6, 7 + i] * 7, 11 + i, context_length=2048) for i in range(3)]
    together = {trajectory.key: trajectory for trajectory in engine.run(requests)}
    (alone,) = engine.run(requests[1:2])
    other = together[1].rollouts
    assert alone.rollouts is not None
    assert other is not None
    np.testing.assert_array_equal(alone.rollouts.token_ids, other.token_ids)
