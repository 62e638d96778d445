"""The draws are from exactly the model's distribution: shared paths change what is computed, not what is drawn."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import LlamaConfig, LlamaForCausalLM

from fastsia import Engine
from fastsia.config import SamplingParams

VOCAB, EOS, LENGTH, N = 6, 0, 3, 4000
PROMPT, CHECKPOINTS = [1, 2], (0, 1, 2)
SETTINGS = list(product((0, 1, 2), (1.0, 0.9, 0.5), (0.5, 1.0, 1.5)))
# All chi-square tests of this file together reject a right engine with probability at most 1e-3 (Bonferroni).
LEVEL = 1e-3 / (len(SETTINGS) * (len(CHECKPOINTS) + 2))


def enumerable_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.5,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=EOS,
    )
    return LlamaForCausalLM(config).eval()


def next_token(model: LlamaForCausalLM, prefix: list[int], temperature: float, top_p: float) -> np.ndarray:
    """The sampling distribution after a prefix, written out in float64 with no code of the engine's."""
    with torch.no_grad():
        logits = model(torch.tensor([prefix])).logits[0, -1].double().numpy() / temperature
    probs = np.exp(logits - logits.max())
    probs /= probs.sum()
    order = np.argsort(-probs, kind="stable")
    size = int(np.argmax(np.cumsum(probs[order]) >= top_p - 1e-12)) + 1 if top_p < 1 else VOCAB
    kept = np.zeros(VOCAB)
    kept[order[:size]] = probs[order[:size]]
    return kept / kept.sum()


def exact(model: LlamaForCausalLM, prefix: list[int], temperature: float, top_p: float) -> dict[tuple[int, ...], float]:
    """Probability of every continuation of at most LENGTH tokens that ends in EOS or at the limit."""
    found: dict[tuple[int, ...], float] = {}
    open_paths: dict[tuple[int, ...], float] = {(): 1.0}
    for step in range(LENGTH):
        longer: dict[tuple[int, ...], float] = {}
        for path, mass in open_paths.items():
            for token, p in enumerate(next_token(model, prefix + list(path), temperature, top_p)):
                if p > 0:
                    ends = token == EOS or step == LENGTH - 1
                    (found if ends else longer)[(*path, token)] = mass * p
        open_paths = longer
    return found


def p_value(counts: Counter[tuple[int, ...]], distribution: dict[tuple[int, ...], float]) -> float:
    """Chi-square of the counts, outcomes expected under 5 times pooled; 0 for an outcome that cannot happen."""
    if any(outcome not in distribution for outcome in counts):
        return 0.0
    expected = np.array([mass * N for mass in distribution.values()])
    observed = np.array([counts[outcome] for outcome in distribution])
    rare = expected < 5
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    observed, expected = observed[expected > 0], expected[expected > 0]
    return (
        float(stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)
        if len(observed) > 1
        else 1.0
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rollouts_fit_the_exact_distribution_and_are_independent(seed: int) -> None:
    """Riding the trunk must neither over- nor under-weight it, and one checkpoint's draws say nothing of another's."""
    model = enumerable_model(seed)
    engine = Engine(model, num_kv_blocks=20_000, block_size=4)
    for _, top_p, temperature in (setting for setting in SETTINGS if setting[0] == seed):
        trajectory = likely_trajectory(model, temperature, top_p)
        sampling = SamplingParams(temperature=temperature, top_p=top_p, max_tokens=LENGTH, eos_token_id=EOS)
        drawn = engine.rollout_checkpoints(PROMPT, trajectory, CHECKPOINTS, N, sampling, seed=9)
        for checkpoint in CHECKPOINTS:
            counts = Counter(tuple(rollout.token_ids) for rollout in drawn[checkpoint])
            prefix = PROMPT + trajectory[:checkpoint]
            p = p_value(counts, exact(model, prefix, temperature, top_p))
            assert p > LEVEL, f"checkpoint {checkpoint}, temperature {temperature}, top_p {top_p}: p = {p:.2e}"
        for first, second in ((0, 1), (1, 2)):
            pairs = zip(drawn[first], drawn[second], strict=True)
            table = np.zeros((VOCAB, VOCAB))
            for a, b in pairs:
                # The second checkpoint's first token against the token that the first's rollout has at that place.
                table[a.token_ids[1] if len(a.token_ids) > 1 else EOS, b.token_ids[0]] += 1
            table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
            if min(table.shape) > 1:
                assert stats.chi2_contingency(table).pvalue > LEVEL
    assert engine.counters.matched_tokens > 0, "no rollout rode the trunk: the test would not see a fault in it"


def likely_trajectory(model: LlamaForCausalLM, temperature: float, top_p: float) -> list[int]:
    """The most probable tokens but EOS, so that many rollouts match."""
    trajectory: list[int] = []
    for _ in range(max(CHECKPOINTS)):
        probs = next_token(model, PROMPT + trajectory, temperature, top_p)
        probs[EOS] = 0
        trajectory.append(int(np.argmax(probs)) if probs.sum() else 1)
    return trajectory


def test_a_wrong_distribution_is_noticed() -> None:
    """The chi-square above must be able to fail: counts from temperature 1.1 against the law of 1.0."""
    model = enumerable_model(0)
    engine = Engine(model, num_kv_blocks=20_000, block_size=4)
    sampling = SamplingParams(temperature=1.1, top_p=1.0, max_tokens=LENGTH, eos_token_id=EOS)
    counts = Counter(tuple(r.token_ids) for r in engine.rollout(PROMPT, N, sampling, seed=9))
    assert p_value(counts, exact(model, PROMPT, 1.0, 1.0)) < LEVEL
