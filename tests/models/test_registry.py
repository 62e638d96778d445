"""The table of models: the paper's names, transformers' own parameter counts, the docs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import fastsia
from fastsia.models.registry import MODELS, PAPER_MODELS, ModelInfo, known_model
from fastsia.tasks import build_prompt, load_task
from tests.models.architectures import architecture_of

DOCS = Path(__file__).resolve().parents[2] / "docs" / "models.md"
DEMO_WEIGHTS = Path(fastsia.__file__).parent / "demo" / "weights"


def models_table() -> str:
    """docs/models.md's table of models."""
    head = (
        "| name | Hub id | architecture | stage | parameters | asked by | opens `<think>` | EOS ids | gated |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    )
    rows = (
        f"| {m.name} | `{m.hub_id}` | {m.model_type} | {m.stage} "
        f"| {f'{m.num_parameters / 1e9:.2f} B' if m.num_parameters else 'in the package'} "
        f"| {'chat template' if m.chat_template else 'plain text'} | {'yes' if m.opens_think else 'no'} "
        f"| {', '.join(map(str, m.eos_token_ids))} | {'yes' if m.gated else 'no'} |"
        for m in MODELS
    )
    return "\n".join((*head, *rows)) + "\n"


def sizes_table() -> str:
    """docs/models.md's table of sizes."""
    head = (
        "| name | layers | hidden | heads | KV heads | head size | vocabulary | context | window | softcaps "
        "| KV cache a token (bf16) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    )
    return "\n".join((*head, *(sizes_row(model.name, architecture_of(model)) for model in PAPER_MODELS))) + "\n"


def sizes_row(name: str, config: dict[str, Any]) -> str:
    layers, kv_heads, head_dim = (config[field] for field in ("num_hidden_layers", "num_key_value_heads", "head_dim"))
    window, caps = "none", "none"
    if "sliding_window" in config:
        kinds = AutoConfig.for_model(**config).layer_types
        window = f"{config['sliding_window']:,}; 1 layer in {kinds.index('full_attention') + 1} full"
    if "attn_logit_softcapping" in config:
        caps = f"{config['attn_logit_softcapping']:g} (attention), {config['final_logit_softcapping']:g} (logits)"
    return (
        f"| {name} | {layers} | {config['hidden_size']} | {config['num_attention_heads']} | {kv_heads} | {head_dim} "
        f"| {config['vocab_size']:,} | {config['max_position_embeddings']:,} | {window} | {caps} "
        f"| {2 * 2 * layers * kv_heads * head_dim / 1024:.0f} KiB |"
    )


def test_the_papers_rows_in_its_order(shared_data: Path) -> None:
    rows = json.loads((shared_data.parent / "paper_tables.json").read_text(encoding="utf-8"))["table1"]["rows"]
    assert [(model.name, model.stage) for model in PAPER_MODELS] == [(row["model"], row["training"]) for row in rows]


@pytest.mark.parametrize("model", PAPER_MODELS, ids=lambda model: model.name)
def test_parameters_as_transformers_counts_them(model: ModelInfo) -> None:
    """A wrong size would make the stated downloads and the small models of the tests wrong."""
    config = AutoConfig.for_model(**architecture_of(model))
    assert config.model_type == model.model_type
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    assert network.num_parameters() == model.num_parameters


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


@pytest.mark.parametrize("name", ["qwen2.5-3b-IT", "Qwen/Qwen2.5-3B-Instruct"])
def test_rows_are_found_by_either_name(name: str) -> None:
    found = known_model(name)
    assert found is not None
    assert found.hub_id == "Qwen/Qwen2.5-3B-Instruct"
    assert known_model("demo:stf") is None


def test_names_are_distinct() -> None:
    assert len({model.name.lower() for model in MODELS}) == len(MODELS) == 14
    assert len({model.hub_id.lower() for model in MODELS}) == len(MODELS)


@pytest.mark.parametrize(("mark", "table"), [("models", models_table()), ("shapes", sizes_table())])
def test_the_docs_hold_the_table(mark: str, table: str) -> None:
    found = re.search(rf"<!-- {mark} -->\n(.*?)<!-- /{mark} -->", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    assert found.group(1) == table
