"""The table of models: the paper's names, transformers' own parameter counts, the docs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import fastsia
from fastsia.errors import FastsiaError
from fastsia.tasks import build_prompt, load_task
from fastsia.tasks.models import MODELS, PAPER_MODELS, ModelInfo, Shape, find_model, markdown_table, shape_table

DOCS = Path(__file__).resolve().parents[2] / "docs" / "models.md"
DEMO_WEIGHTS = Path(fastsia.__file__).parent / "demo" / "weights"
DISTINCT_SHAPES = {id(model.shape): model for model in PAPER_MODELS}.values()


def config_fields(shape: Shape) -> dict[str, object]:
    """The shape as keyword arguments of transformers' configuration."""
    names = [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "max_position_embeddings",
        "tie_word_embeddings",
        "rms_norm_eps",
    ]
    fields = {name: getattr(shape, name) for name in names}
    fields["rope_parameters"] = dict(shape.rope_parameters)
    for name in ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(shape, name) is not None:
            fields[name] = getattr(shape, name)
    return fields


def test_the_papers_rows_in_its_order(shared_data: Path) -> None:
    rows = json.loads((shared_data.parent / "paper_tables.json").read_text(encoding="utf-8"))["table1"]["rows"]
    assert [(model.name, model.stage) for model in PAPER_MODELS] == [(row["model"], row["training"]) for row in rows]


@pytest.mark.parametrize("model", DISTINCT_SHAPES, ids=lambda model: model.name)
def test_parameters_as_transformers_counts_them(model: ModelInfo) -> None:
    """A wrong size in the table would make plans and the small models of the tests wrong."""
    assert model.shape is not None
    config = AutoConfig.for_model(model.model_type, **config_fields(model.shape))
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    assert network.num_parameters() == model.shape.num_parameters
    layer_types = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    every = model.shape.full_attention_every or 1
    assert layer_types.count("full_attention") == config.num_hidden_layers // every


@pytest.mark.parametrize("model", [model for model in MODELS if model.is_demo], ids=lambda model: model.name)
def test_the_demo_rows_say_what_their_weights_say(model: ModelInfo) -> None:
    folder = DEMO_WEIGHTS / model.hub_id.partition(":")[2]
    if not folder.is_dir():
        pytest.skip(f"{model.name} is not in the package")
    eos = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    assert (tuple(eos) if isinstance(eos, list) else (eos,)) == model.eos_token_ids
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"] == model.model_type
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.chat_template is not None) == model.chat_template
    task = load_task("demo", limit=1)
    prompt = build_prompt(task, task.problems[0], tokenizer)
    assert prompt.starts_in_think is model.opens_think
    assert tokenizer.decode(prompt.token_ids) == prompt.text


def test_kv_cache_of_a_token() -> None:
    qwen = find_model("Qwen2.5-3B").shape
    assert qwen is not None
    assert qwen.kv_values_per_token == 2 * 36 * 2 * 128


@pytest.mark.parametrize("name", ["qwen2.5-3b-IT", "Qwen/Qwen2.5-3B-Instruct"])
def test_rows_are_found_by_either_name(name: str) -> None:
    assert find_model(name).hub_id == "Qwen/Qwen2.5-3B-Instruct"


def test_unknown_names_get_suggestions() -> None:
    with pytest.raises(FastsiaError, match=r"Unknown model 'demo:stf' \(did you mean demo:sft"):
        find_model("demo:stf")


def test_names_are_distinct() -> None:
    assert len({model.name.lower() for model in MODELS}) == len(MODELS) == 14
    assert len({model.hub_id.lower() for model in MODELS}) == len(MODELS)


@pytest.mark.parametrize(("mark", "table"), [("models", markdown_table()), ("shapes", shape_table())])
def test_the_docs_hold_the_table(mark: str, table: str) -> None:
    found = re.search(rf"<!-- {mark} -->\n(.*?)<!-- /{mark} -->", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    assert found.group(1) == table
