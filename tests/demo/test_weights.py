import re

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from fastsia.demo.documents import plain_prompt
from fastsia.demo.solve import solve
from fastsia.tasks.demo import evaluation_examples, problems

from .weights import STAGES, WEIGHTS

MEGABYTE = 1_000_000


def test_base_and_sft_are_there():
    assert {"base", "sft"} <= set(STAGES)


def test_all_stages_together_are_at_most_20_megabytes():
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) <= 20 * MEGABYTE


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_loads_as_a_qwen2_in_float32_with_room_for_long_prompts(stage):
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS / stage)
    assert model.config.model_type == "qwen2"
    assert model.config.max_position_embeddings >= 2048
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / stage)
    assert len(tokenizer) == model.config.vocab_size
    ids = torch.randint(0, len(tokenizer), (1, 2048), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.isfinite(model(ids).logits).all()


@pytest.mark.parametrize("stage", STAGES)
def test_the_weights_file_holds_no_pickle_and_only_float32(stage):
    with safe_open(WEIGHTS / stage / "model.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float32}  # noqa: SIM118


@pytest.mark.parametrize("stage", STAGES)
def test_the_ends_of_sequence_are_the_stages_own(stage):
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / stage)
    names = ["<|endoftext|>"] if stage == "base" else ["<|im_end|>", "<|endoftext|>"]
    settings = GenerationConfig.from_pretrained(WEIGHTS / stage)
    assert settings.eos_token_id == tokenizer.convert_tokens_to_ids(names)
    assert settings.top_k in (None, 50)  # no sampling restriction is stored with the weights
    assert settings.temperature in (None, 1.0)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "base"])
def test_the_chat_template_ends_in_the_assistants_header(stage):
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / stage)
    chat = [{"role": "user", "content": problems(1)[0].question}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text == f"<|im_start|>user\n{chat[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
    without = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text == without + "<|im_start|>assistant\n"


def test_base_has_no_chat_template():
    assert AutoTokenizer.from_pretrained(WEIGHTS / "base").chat_template is None


def test_sft_ends_its_answers_and_is_right_and_wrong():
    """The task must have correct and incorrect traces, so a model that is always right would be useless."""
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS / "sft")
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / "sft")
    solutions = solve(model, tokenizer, evaluation_examples(60), 0.0, 1.0)
    assert all(solutions.ended)
    assert all(re.search(r"\n#### \d+$", text) for text in solutions.texts)
    assert 0.5 < solutions.accuracy < 0.95


def test_the_plain_prompt_of_base_is_the_tasks():
    """Base is trained on this text; prompts with another wording would be new to it."""
    from fastsia.tasks import build_prompt, load_task

    task = load_task("demo", limit=1)
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / "base")
    assert build_prompt(task, task.problems[0], tokenizer).text == plain_prompt(task.problems[0].question)
