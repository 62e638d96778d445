import re
from itertools import islice

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastsia.demo import reinforce, train
from fastsia.demo.documents import base_documents, sft_documents
from fastsia.demo.tokenizer import CHAT_TEMPLATE, learn_tokenizer
from fastsia.demo.train import Shape, batches, new_model, run_stage
from fastsia.tasks.demo import Example, training_examples

TINY = Shape(hidden_size=16, intermediate_size=16, num_layers=1, num_heads=2, num_kv_heads=1)


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = learn_tokenizer(500)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@pytest.fixture
def quick_tokenizer(monkeypatch):
    """Learning on the full text takes seconds and is not needed for these tests."""
    monkeypatch.setattr(train, "learn_tokenizer", lambda: learn_tokenizer(500))


def test_two_steps_of_both_stages(tmp_path, capsys, quick_tokenizer):
    run_stage("base", tmp_path, steps=2, held_out=2, shape=TINY, batch_size=2, max_new_tokens=8)
    run_stage("sft", tmp_path, steps=2, held_out=0, batch_size=2)
    printed = capsys.readouterr().out
    assert "step 2/2  loss" in printed
    assert "temperature 0.7, top-p 0.95: accuracy" in printed
    base, sft = (AutoModelForCausalLM.from_pretrained(tmp_path / stage) for stage in ("base", "sft"))
    assert base.num_parameters() == sft.num_parameters()
    assert not torch.equal(base.lm_head.weight, sft.lm_head.weight)
    assert isinstance(sft.generation_config.eos_token_id, list)
    assert AutoTokenizer.from_pretrained(tmp_path / "base").chat_template is None
    assert AutoTokenizer.from_pretrained(tmp_path / "sft").chat_template == CHAT_TEMPLATE


def test_reinforcement_goes_on_from_sft_and_moves_its_weights(tmp_path, capsys, quick_tokenizer, monkeypatch):
    run_stage("base", tmp_path, steps=1, held_out=0, shape=TINY, batch_size=2)
    run_stage("sft", tmp_path, steps=1, held_out=0, batch_size=2)
    # A model after one step is never right, so answers with an even number of tokens count as right to get a reward.
    monkeypatch.setattr(reinforce, "extract_answers", lambda texts: [None if len(text) % 2 else "7" for text in texts])
    monkeypatch.setattr(train, "training_examples", lambda *_: iter([Example("How many?", "#### 7", "7")] * 9))
    run_stage("rl", tmp_path, steps=2, held_out=0, batch_size=2)
    assert "step 2/2  reward 0." in capsys.readouterr().out
    sft, rl = (AutoModelForCausalLM.from_pretrained(tmp_path / stage) for stage in ("sft", "rl"))
    assert not torch.equal(sft.lm_head.weight, rl.lm_head.weight)
    assert AutoTokenizer.from_pretrained(tmp_path / "rl").chat_template == CHAT_TEMPLATE
    assert rl.generation_config.eos_token_id == sft.generation_config.eos_token_id


def test_training_follows_from_its_seed(tmp_path, quick_tokenizer):
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run_stage("base", tmp_path / name, seed=seed, steps=2, held_out=0, shape=TINY, batch_size=2)
        weights.append(AutoModelForCausalLM.from_pretrained(tmp_path / name / "base").lm_head.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_sft_learns_the_solution_and_its_end_only(tokenizer):
    documents = islice(sft_documents(tokenizer, 5), 50)
    for document, example in zip(documents, training_examples(5, "sft"), strict=False):
        learned = tokenizer.decode(document.token_ids[document.num_context :])
        assert learned == f"{example.solution}<|im_end|>"
        assert tokenizer.decode(document.token_ids[: document.num_context]).endswith("<|im_start|>assistant\n")


def test_the_answers_of_base_text_are_not_the_results_of_their_working(tokenizer):
    """The stage shows the case in which the stated answer does not follow from the reasoning."""
    right = stated = 0
    pairs = zip(base_documents(tokenizer, 5), islice(training_examples(5, "base"), 1, 1001), strict=False)
    for document, example in pairs:
        text = tokenizer.decode(document.token_ids)
        assert document.num_context == 0
        assert text.startswith(f"Question: {example.question}\nAnswer: ")
        assert text.endswith("<|endoftext|>")
        answer = re.search(r"#### (\d+)", text)
        stated += answer is not None
        right += answer is not None and answer[1] == example.gold
    assert stated == 1000
    assert right < 0.12 * stated


def test_a_batch_pads_on_the_right_and_learns_nothing_there(tokenizer):
    inputs, labels = next(batches(sft_documents(tokenizer, 0), 4, tokenizer.pad_token_id, seed=0))
    assert inputs.shape == labels.shape
    assert len(inputs) == 4
    for row, targets in zip(inputs, labels, strict=True):
        learned = (targets != -100).nonzero().flatten()
        assert torch.equal(row[learned], targets[learned])
        assert torch.equal(learned, torch.arange(learned[0], learned[-1] + 1))
        assert tokenizer.decode(row[learned[-1]]) == "<|im_end|>"
        assert (row[learned[-1] + 1 :] == tokenizer.pad_token_id).all()


def test_padding_does_not_reach_the_loss():
    """No mask is given in training; right padding must be invisible to a causal model."""
    torch.manual_seed(0)
    model = new_model(50, 0, TINY).eval()
    ids = torch.randint(1, 50, (1, 9))
    padded = torch.cat([ids, torch.zeros(1, 6, dtype=torch.long)], dim=1)
    with torch.inference_mode():
        torch.testing.assert_close(model(padded).logits[:, :9], model(ids).logits)
