"""The policy gradient: its value, and that it makes rewarded answers more likely on live weights."""

import itertools

import pytest
import torch

from fastsia.demo import reinforce
from tests.tiny import tiny_model


def test_gradients_are_those_of_the_weighted_log_probability(monkeypatch):
    monkeypatch.setattr(reinforce, "SEQUENCES_AT_ONCE", 2)
    model, _ = tiny_model()
    sequences = [((5, 6, 7), (8, 9), 0.5), ((5,), (6, 7, 8, 9), -0.25), ((9, 9), (3,), 1.0)]
    total = 0.0
    for prompt, drawn, weight in sequences:
        logits = model(input_ids=torch.tensor([[*prompt, *drawn]])).logits[0].log_softmax(dim=1)
        for i, token in enumerate(drawn):
            total = total - weight * logits[len(prompt) + i - 1, token]
    total.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad(set_to_none=True)
    reinforce.learn(model, sequences)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)


def test_the_rewarded_answer_becomes_more_likely(monkeypatch):
    """An answer counts as right if it starts with a 7: after some steps most do."""
    monkeypatch.setattr(
        reinforce, "extract_answers", lambda texts: ["7" if text.lstrip().startswith("7") else None for text in texts]
    )
    model, tokenizer = tiny_model(seed=1)
    prompt = tuple(tokenizer.encode("Say a number:"))
    rewards = list(
        reinforce.reinforce(
            model, tokenizer, itertools.repeat((prompt, "7")), 30,
            prompts=2, samples=16, max_tokens=3, learning_rate=3e-3,
        )
    )  # fmt: skip
    assert sum(rewards[:3]) / 3 < 0.5
    assert sum(rewards[-3:]) / 3 > 0.8
    assert not model.training


def test_where_all_or_none_are_right_nothing_is_learned(monkeypatch):
    model, tokenizer = tiny_model()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    monkeypatch.setattr(reinforce, "extract_answers", lambda texts: ["7"] * len(texts))
    problems = itertools.repeat((tuple(tokenizer.encode("a")), "7"))
    rewards = list(reinforce.reinforce(model, tokenizer, problems, 2, prompts=2, samples=4, max_tokens=3))
    assert rewards == [1.0, 1.0]
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)


@pytest.mark.parametrize("samples", [4, 5])
def test_equal_seeds_give_equal_steps(samples):
    """The seed determines everything, so a training run can be repeated."""
    rewards = []
    for _ in range(2):
        model, tokenizer = tiny_model()
        problems = ((tuple(tokenizer.encode(str(i))), str(i % 10)) for i in itertools.count())
        steps = reinforce.reinforce(model, tokenizer, problems, 2, prompts=3, samples=samples, max_tokens=4, seed=5)
        rewards.append((list(steps), float(model.lm_head.weight.detach().double().sum())))
    assert rewards[0] == rewards[1]
