"""Settings and inputs: what is refused, in one sentence that names the field, and what is taken as a number."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from pydantic import Field

from fastsia.backends.openai_server import OpenAIServerBackend
from fastsia.config import (
    BACKEND_OWNERS,
    MAY_DIFFER,
    READING_FIELDS,
    SETTINGS,
    DataOptions,
    Problem,
    SamplingParams,
    SIAConfig,
    VLLMOptions,
    allowed,
    checked,
    declared,
    fields_of,
    setting,
    split_settings,
)
from fastsia.engine.engine import Engine
from fastsia.errors import FastsiaError

ANY_INTEGER_FIELD = ("num_rollouts", "num_trajectories", "max_tokens", "stride", "seed", "num_fewshot", "num_bootstrap")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, value) for field in (*ANY_INTEGER_FIELD, "num_splits") for value in (True, 2.5, "3", -1, [2])),
        *((field, value) for field in ("temperature", "top_p", "smoothing") for value in (True, "1", [1.0], 10**400)),
        *((field, 10**30) for field in (*ANY_INTEGER_FIELD, "num_splits")),
        *((field, 2_000_000) for field in ("num_rollouts", "num_trajectories", "num_bootstrap", "num_splits")),
        ("temperature", float("inf")),
        ("temperature", None),
        ("smoothing", 0),
        ("seed", 2**63),
        ("rollout_budget", "old"),
        ("share", ["trajectory"]),
        ("answer_reading", None),
        ("stop_at_answer", 1),
        ("shuffle_prefix", "no"),
        ("truncate_prompt", None),
        ("apply_chat_template", 1),
        ("enable_thinking", "no"),
        *(("system_instruction", value) for value in ("", " \n", 3, b"x", "\ud800")),
        *(
            ("template_date", value)
            for value in ("", "today", "2026-02-30", "2026-2-3", "20260203", "0026-02-03", 20260203)
        ),
        *(
            ("think_tags", value)
            for value in ("<a>", ("<a>",), ("<a>", "<a>"), ("<a>", ""), ("<a >", "</a>"), ("a", 1), 5)
        ),
        *(("chat_template_args", value) for value in ("x", "[]", "null", 5, {1: 2}, {"a": {3}}, {"a": float("nan")})),
    ],
)
def test_a_config_names_the_bad_field(field: str, value: Any) -> None:
    with pytest.raises(FastsiaError, match=f"^{field} must be ") as error:
        SIAConfig(**{field: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", ["num_rollouts", "stride", "max_tokens", "seed"])
def test_a_number_too_long_to_be_printed_is_refused_too(field: str) -> None:
    with pytest.raises(FastsiaError, match=f"^{field} must be .* got a number of thousands of digits"):
        SIAConfig(**{field: 10**5000})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_p", None),
        ("max_tokens", 0),
        ("max_tokens", None),
        ("max_tokens", 2**31),
        ("stop", 5),
        ("stop", None),
        ("stop", ""),
        ("stop", ("x", "")),
        ("stop", b"x"),
        ("stop", [5]),
        ("eos_token_id", "a"),
        ("eos_token_id", [2.5]),
        ("eos_token_id", 2.5),
        ("eos_token_id", True),
        ("eos_token_id", [3, None]),
    ],
)
def test_sampling_params_name_the_bad_field(field: str, value: Any) -> None:
    with pytest.raises(FastsiaError, match=f"^{field} must "):
        SamplingParams(**{field: value})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"choices": "xyz"}, "choices"),
        ({"choices": ("only one",)}, "choices"),
        ({"choices": (1, 2)}, "choices"),
        ({"choices": ("a", " ")}, "choices"),
        ({"choices": tuple(f"option {i}" for i in range(27))}, "choices"),
        ({"choices": 5}, "choices"),
        ({"id": ""}, "id"),
        ({"question": None}, "question"),
        ({"gold": 7}, "gold"),
        ({"answer_format": "text"}, "answer_format"),
        ({"id": "a\ud800"}, "id"),
        ({"question": "\udfff?"}, "question"),
        ({"gold": "\ud83d"}, "gold"),
        ({"choices": ("a", "\ud800x")}, "choices"),
    ],
)
def test_a_problem_names_the_bad_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(FastsiaError, match=f"^{field} must be "):
        Problem(**({"id": "a", "question": "?", "gold": "A"} | change))


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    """And become Python's, so that what is written down is the same."""
    config = SIAConfig(
        **dict.fromkeys(ANY_INTEGER_FIELD, np.int32(3)),
        num_splits=torch.tensor(5),
        temperature=np.float32(0.5),
        top_p=np.float64(0.25),
        smoothing=1,
    )
    plain = SIAConfig(**dict.fromkeys(ANY_INTEGER_FIELD, 3), num_splits=5, temperature=0.5, top_p=0.25, smoothing=1.0)
    assert config == plain
    assert json.dumps(asdict(config)) == json.dumps(asdict(plain))
    sampling = SamplingParams(max_tokens=np.int64(4), eos_token_id=np.array([2, 7]))
    assert sampling == SamplingParams(max_tokens=4, eos_token_id=(2, 7))
    assert SamplingParams(eos_token_id=np.int64(2)) == SamplingParams(eos_token_id=2)


def test_stop_texts_may_be_one_text_or_blank() -> None:
    assert SamplingParams(stop="\n\n").stop == ("\n\n",)
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")


def test_variables_of_a_template_are_kept_as_json_text() -> None:
    """So that settings stay hashable, and are the same whether they are given, stored or read back."""
    config = SIAConfig(chat_template_args={"b": [1], "a": "é"}, think_tags=["<a>", "</a>"])  # type: ignore[arg-type]
    assert config.chat_template_args == '{"a": "é", "b": [1]}'
    assert config == SIAConfig(**json.loads(json.dumps(asdict(config))))
    assert hash(config) == hash(replace(config, seed=0))
    assert SIAConfig(chat_template_args={}).chat_template_args is None


@pytest.mark.parametrize(
    "name", ["tokenize", "messages", "chat_template", "add_generation_prompt", "strftime_now", "a b"]
)
def test_what_is_no_variable_of_a_template_is_refused(name: str) -> None:
    with pytest.raises(FastsiaError, match=f"chat_template_args cannot set '{name}'"):
        SIAConfig(chat_template_args={name: True})


def test_thinking_is_not_said_twice() -> None:
    with pytest.raises(FastsiaError, match="enable_thinking is given twice"):
        SIAConfig(enable_thinking=True, chat_template_args={"enable_thinking": True})


# --- what a field declares -------------------------------------------------------------------------------------


@checked
class Example:
    """A class of settings as any other."""

    count: Annotated[int, Field(ge=2, le=5), "an integer >= 2"] | None = setting(
        None, group="Sampling", changes="draws", unset="as many as there are", aliases=("-c",)
    )
    """How many
    there are."""
    way: Literal["a", "b", "c"] = setting("b", group="Engine")
    """Which way."""


def test_a_setting_is_what_its_field_declares() -> None:
    count, way = declared(Example).values()
    assert (count.name, count.help, count.type, count.default_text) == (
        *("count", "How many there are.", int, "as many as there are"),
    )
    assert (count.allowed, count.changes, count.aliases) == ("an integer >= 2", "draws", ("-c",))
    assert (way.words, way.allowed, way.default_text, way.changes) == (
        *(("a", "b", "c"), '"a", "b" or "c"', "b", "nothing"),
    )
    assert fields_of(Example, changes="draws") == ("count",)
    for values, sentence in (
        ({"count": 1}, "count must be an integer >= 2, got 1."),
        ({"count": 6}, "count must be an integer <= 5, got 6."),
        ({"way": "d"}, 'way must be "a", "b" or "c", got \'d\'.'),
        ({"wy": "a"}, "Example has no field 'wy'; did you mean way?"),
        ({"count": 10**5000}, "count must be an integer <= 5, got a number of thousands of digits."),
    ):
        with pytest.raises(FastsiaError) as error:
            Example(**values)
        assert str(error.value) == sentence
        assert error.value.__cause__ is None


def test_every_setting_says_what_it_is() -> None:
    for name, found in SETTINGS.items():
        assert found.name == name
        assert found.help.endswith("."), name
        assert found.changes in ("draws", "reading", "statistics", "nothing")
    assert len(SETTINGS) == len(fields_of(SIAConfig, *BACKEND_OWNERS)) + 9
    assert READING_FIELDS == ("answer_reading", "equivalence", "answer_regex")
    assert (*READING_FIELDS, "share", "save_interval") == MAY_DIFFER


@pytest.mark.parametrize("function", [Engine, Engine.from_pretrained, OpenAIServerBackend])
def test_defaults_are_those_of_the_functions(function: Any) -> None:
    """A signature repeats a default for its readers; it is the declared one."""
    found = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if name in SETTINGS and parameter.default is not inspect.Parameter.empty
    }
    assert found
    assert found == {name: SETTINGS[name].default for name in found}


def test_old_names_are_accepted_for_a_release() -> None:
    with pytest.warns(DeprecationWarning, match="think is now called answer_reading"):
        config = SIAConfig(think="lenient")  # type: ignore[call-arg]
    assert config.answer_reading == "lenient"
    with pytest.warns(DeprecationWarning, match="format is now called answer_format"):
        assert Problem("a", "?", "1", format="boxed").answer_format == "boxed"  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="think is the old name of answer_reading"):
        SIAConfig(think="lenient", answer_reading="strict")  # type: ignore[call-arg]
    with pytest.warns(DeprecationWarning, match="max_rows is now called max_num_seqs"):
        _, options, data = split_settings({"seed": 3}, {"max_rows": 4, "limit": 2, "top_p": 0.5})
    assert (options, data) == ({"max_num_seqs": 4}, {"limit": 2})


def test_help_has_the_texts_of_the_fields() -> None:
    assert "    stride: Tokens between checkpoints." in (SIAConfig.__doc__ or "").splitlines()


def test_a_field_that_is_left_out_is_named() -> None:
    with pytest.raises(FastsiaError, match=r"^Problem needs gold\.$"):
        Problem("a", "?")  # type: ignore[call-arg]


def test_optional_booleans_may_be_null() -> None:
    assert allowed(bool | None) == "true, false or null"
    assert allowed(bool) == "true or false"


@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if setting.type is Mapping])
def test_a_mapping_is_not_called_a_text(name: str) -> None:
    owner: Any = next(owner for owner in (DataOptions, VLLMOptions) if name in fields_of(owner))
    with pytest.raises(FastsiaError, match=f"^{name} must be a mapping of names to values, got 'question'"):
        owner(**{name: "question"})
    owner(**{name: {"question": "problem"}})
