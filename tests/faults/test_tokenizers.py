"""Tokenizers as they come: no BOS, a BOS twice, several EOS, no pad or pad = eos, a template with its own BOS."""

from __future__ import annotations

from typing import Any

import pytest

import fastsia
from fastsia import FastsiaError, Problem, evaluate
from fastsia.tasks import build_prompt, load_task
from tests.tasks.tokenizers import BOS, word_tokenizer
from tests.tiny import EOS, PROBLEMS, tiny_model

SETTINGS: dict[str, Any] = {
    "num_rollouts": 4,
    "stride": 6,
    "max_tokens": 18,
    "num_bootstrap": 20,
    "num_splits": 2,
    "temperature": 1.0,
}
TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"


@pytest.mark.parametrize("bos", [None, BOS])
@pytest.mark.parametrize("puts_bos", [False, True])
@pytest.mark.parametrize("template", [None, TEMPLATE, "{{ bos_token }}" + TEMPLATE, "{{ bos_token }}" * 2 + TEMPLATE])
def test_a_prompt_has_one_bos_or_none(bos: str | None, puts_bos: bool, template: str | None) -> None:
    tokenizer = word_tokenizer(bos=bos, puts_bos=puts_bos and bos is not None, chat_template=template)
    task = load_task([Problem("a", "a a", "1")])
    ids = build_prompt(task, task.problems[0], tokenizer).token_ids
    opens = bos is not None and (puts_bos or (template is not None and "bos_token" in template))
    number = tokenizer.convert_tokens_to_ids(BOS)
    assert ids.count(number) == int(opens)
    assert (ids[0] == number) == opens


@pytest.mark.parametrize("backend", ["native", "hf"])
@pytest.mark.parametrize("pad", [None, EOS])
def test_padding_changes_no_answer(backend: str, pad: str | None) -> None:
    """No pad token, or pad = eos: prompts of different lengths in one batch give what each gives alone."""
    model, tokenizer = tiny_model()
    tokenizer.pad_token = pad
    problems = [Problem(f"p{i}", "many words " * i + "what is 2 + 2?", "4") for i in range(3)]
    together = evaluate((model, tokenizer), problems, backend=backend, **SETTINGS)
    for problem in problems:
        alone = evaluate((model, tokenizer), [problem], backend=backend, **SETTINGS)
        mine = together.rollouts[together.rollouts["problem_id"] == problem.id]
        assert mine["answer"].tolist() == alone.rollouts["answer"].tolist()
        assert [ids.tolist() for ids in mine["token_ids"]] == [ids.tolist() for ids in alone.rollouts["token_ids"]]


@pytest.mark.parametrize("backend", ["native", "hf"])
def test_any_of_several_eos_ids_stops_and_none_is_counted(backend: str) -> None:
    model, tokenizer = tiny_model()
    ends = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(["3", "7"])]
    model.generation_config.eos_token_id = ends[:2]
    model.config.eos_token_id = ends[2]
    found = evaluate((model, tokenizer), PROBLEMS[:4], backend=backend, **SETTINGS)
    assert (found.trajectories["finish_reason"] == "eos").any()
    for ids, reason in zip(found.trajectories["token_ids"], found.trajectories["finish_reason"], strict=True):
        assert not set(ids.tolist()) & set(ends), "an EOS is no token of the trajectory"
        assert reason in ("eos", "length")
    last = found.checkpoints.groupby("problem_id")["checkpoint"].max()
    assert last.tolist() == found.trajectories.set_index("problem_id")["num_tokens"].loc[last.index].tolist()
    for ids in found.rollouts["token_ids"]:
        assert not set(ids.tolist()[:-1]) & set(ends)


def test_a_model_without_any_eos_runs_to_its_limit() -> None:
    model, tokenizer = tiny_model()
    tokenizer.eos_token = None
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    found = evaluate((model, tokenizer), PROBLEMS[:2], **SETTINGS)
    assert set(found.trajectories["finish_reason"]) <= {"length", "stop"}


def test_a_trajectory_below_the_stride_has_its_two_ends() -> None:
    """T = 0 has one checkpoint; 0 < T < stride has 0 and T, each once."""
    model, tokenizer = tiny_model()
    found = evaluate((model, tokenizer), PROBLEMS, **(SETTINGS | {"stride": 50}))
    lengths = found.trajectories.set_index("problem_id")["num_tokens"]
    assert lengths.min() == 0 < lengths.max() < 50
    for problem, points in found.checkpoints.groupby("problem_id")["checkpoint"]:
        assert points.tolist() == ([0] if lengths[problem] == 0 else [0, lengths[problem]])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"chat_template": "{{ raise_exception('no system role') }}"}, "chat template failed: no system role"),
        ({"chat_template": "{% for"}, "chat template failed"),
        ({"chat_template": "{{ ''.__class__.__mro__ }}"}, "chat template failed"),
    ],
)
def test_templates_that_fail_or_reach_out_are_refused(change: dict[str, str], sentence: str) -> None:
    """A template is a program of a stranger's: transformers runs it in a sandbox, and its error is one sentence."""
    model, tokenizer = tiny_model()
    tokenizer.chat_template = change["chat_template"]
    with pytest.raises(FastsiaError, match=sentence) as refusal:
        fastsia.evaluate((model, tokenizer), PROBLEMS[:1], **SETTINGS)
    assert "\n" not in str(refusal.value)
