"""LM-Polygraph itself, its manager and its command line, on the demo model: `make test-polygraph`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lm_polygraph", reason="lm-polygraph has an environment of its own: make test-polygraph")

import torch
from lm_polygraph.defaults.register_default_stat_calculators import register_default_stat_calculators
from lm_polygraph.estimators import (
    Estimator,
    LexicalSimilarity,
    MonteCarloNormalizedSequenceEntropy,
    MonteCarloSequenceEntropy,
)
from lm_polygraph.generation_metrics import AccuracyMetric
from lm_polygraph.ue_metrics import PredictionRejectionArea
from lm_polygraph.utils.builder_enviroment_stat_calculator import BuilderEnvironmentStatCalculator
from lm_polygraph.utils.dataset import Dataset
from lm_polygraph.utils.generation_parameters import GenerationParameters
from lm_polygraph.utils.manager import UEManager
from lm_polygraph.utils.model import WhiteboxModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastsia import FastsiaError, answer_entropy, extract_answers
from fastsia.integrations.lm_polygraph import (
    AnswerEntropy,
    CurveEntropy,
    RolloutCalculator,
    calculators,
    load_estimator,
    load_stat_calculator,
)

from ..pages import programs, run_shell
from .demo import WEIGHTS, problems

COUNT = 8
SAMPLED = ["sample_texts", "sample_tokens", "sample_log_probs", "sample_log_likelihoods", "sia_answers", "sia_curves"]


@cache
def loaded() -> tuple[Any, Any]:
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS, padding_side="left")
    return AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32).eval(), tokenizer


def whitebox(**parameters: Any) -> WhiteboxModel:
    model, tokenizer = loaded()
    return WhiteboxModel(
        model, tokenizer, "demo:sft", generation_parameters=GenerationParameters(**parameters), instruct=True
    )


def manager(model: WhiteboxModel, estimators: list[Estimator], count: int = COUNT, **more: Any) -> UEManager:
    """LM-Polygraph's own calculators, then ours."""
    chosen = problems(count)
    return UEManager(
        Dataset([p["question"] for p in chosen], [p["gold"] for p in chosen], batch_size=4),
        model,
        estimators,
        BuilderEnvironmentStatCalculator(model),
        [
            *register_default_stat_calculators("Whitebox", output_attentions=False, output_hidden_states=False),
            *calculators(rollouts={"samples_n": 6}, curves={"num_rollouts": 4, "stride": 16, "max_tokens": 120}),
        ],
        [AccuracyMetric(output_ignore_regex=r"(?s)^.*####\s*|<\|im_end\|>")],
        [PredictionRejectionArea()],
        [],
        ignore_exceptions=False,
        verbose=False,
        max_new_tokens=120,
        save_stats=SAMPLED,
        **more,
    )


@cache
def finished() -> UEManager:
    estimators = [
        AnswerEntropy(),
        AnswerEntropy("chao_shen"),
        CurveEntropy("final"),
        CurveEntropy("mean"),
        CurveEntropy("change"),
        LexicalSimilarity("rougeL"),
        MonteCarloSequenceEntropy(),
        MonteCarloNormalizedSequenceEntropy(),
    ]
    found = manager(whitebox(temperature=0.8), estimators)
    found()
    return found


def test_every_estimator_has_a_value_a_text_and_a_score() -> None:
    found = finished()
    assert len(found.estimations) == 8
    assert all(len(values) == COUNT and np.isfinite(values).all() for values in found.estimations.values())
    names = {name for _, name, _, metric in found.metrics if metric == "prr"}
    assert {"AnswerEntropy", "AnswerEntropy_chao_shen", "CurveEntropy_final", "LexicalSimilarity_rougeL"} <= names
    assert np.mean(found.gen_metrics["sequence", "Accuracy"]) > 0.5


def test_estimators_read_the_answers_of_the_rollouts() -> None:
    found = finished()
    answers = found.stats["sia_answers"]
    assert [len(one) for one in answers] == [6] * COUNT
    assert answers == [extract_answers(texts) for texts in found.stats["sample_texts"]]
    expected = [answer_entropy(one) for one in answers]
    assert found.estimations["sequence", "AnswerEntropy"] == pytest.approx(expected)
    assert max(expected) > 0
    for i, curve in enumerate(found.stats["sia_curves"]):
        assert curve["checkpoints"][:2] == [0, 16]
        assert found.estimations["sequence", "CurveEntropy_final"][i] == curve["entropy"][-1]
        assert found.estimations["sequence", "CurveEntropy_mean"][i] == pytest.approx(np.mean(curve["entropy"]))
        change = curve["entropy"][-1] - curve["entropy"][0]
        assert found.estimations["sequence", "CurveEntropy_change"][i] == pytest.approx(change)


def test_log_probabilities_are_the_models_own() -> None:
    """LM-Polygraph's estimators ask for them at temperature 1 and untruncated, whatever the samples were drawn at."""
    found, (model, tokenizer) = finished(), loaded()
    prompt = whitebox().tokenize([problems(1)[0]["question"]])["input_ids"][0].tolist()
    for tokens, likelihoods, total in zip(
        found.stats["sample_tokens"][0],
        found.stats["sample_log_likelihoods"][0],
        found.stats["sample_log_probs"][0],
        strict=True,
    ):
        ids = [*prompt, *tokens, tokenizer.convert_tokens_to_ids("<|im_end|>")]
        with torch.inference_mode():
            logprobs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(dim=1)
        expected = logprobs[range(len(prompt) - 1, len(ids) - 1), ids[len(prompt) :]].numpy()
        np.testing.assert_allclose(likelihoods, expected[:-1], atol=1e-4)
        # The EOS counts in the sum, where it was drawn.
        assert min(abs(total - expected.sum()), abs(total - expected[:-1].sum())) < 1e-3


def test_samples_are_drawn_as_lm_polygraph_draws_them() -> None:
    """The same expected log-probability from its own calculator, which loops over generate."""
    model = whitebox(temperature=1.0, top_k=0)
    text = [problems(3)[2]["question"]]
    ours = RolloutCalculator(samples_n=60)({}, text, model, 60)["sample_log_probs"][0]
    torch.manual_seed(0)
    own = next(c for c in register_default_stat_calculators("Whitebox") if "sample_log_probs" in c.stats).obj
    theirs = own(samples_n=60)({}, text, model, 60)["sample_log_probs"][0]
    spread = np.sqrt(np.var(ours) / len(ours) + np.var(theirs) / len(theirs))
    assert abs(np.mean(ours) - np.mean(theirs)) < 4 * spread


def test_draws_depend_on_the_seed_and_the_text_alone() -> None:
    model = whitebox(temperature=1.0)
    texts = [p["question"] for p in problems(3)]
    together = RolloutCalculator(samples_n=5)({}, texts, model, 60)["sample_tokens"]
    alone = RolloutCalculator(samples_n=5)({}, texts[1:2], model, 60)["sample_tokens"]
    assert alone[0] == together[1]
    assert RolloutCalculator(samples_n=5, seed=1)({}, texts, model, 60)["sample_tokens"] != together


def test_both_calculators_share_one_engine_on_live_weights() -> None:
    model = whitebox()
    assert not hasattr(model, "fastsia_engine")
    manager(model, [AnswerEntropy(), CurveEntropy()], count=2)()
    engine = model.fastsia_engine
    assert engine.model is model.model
    manager(model, [AnswerEntropy()], count=2)()
    assert model.fastsia_engine is engine


@pytest.mark.parametrize("parameters", [{"repetition_penalty": 1.2}, {"num_beams": 3}, {"allow_newlines": False}])
def test_a_generation_parameter_that_the_engine_does_not_have_is_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(FastsiaError, match=f"does not support {next(iter(parameters))}="):
        RolloutCalculator()({}, ["Ada has 5 apples."], whitebox(**parameters), 5)


def test_a_configuration_names_a_class() -> None:
    assert str(load_estimator({"obj": "CurveEntropy", "reading": "mean"})) == "CurveEntropy_mean"
    calculator = load_stat_calculator({"obj": "RolloutCalculator", "samples_n": 3}, None)
    assert isinstance(calculator, RolloutCalculator)
    assert calculator.samples_n == 3
    with pytest.raises(FastsiaError, match="obj must be one of AnswerEntropy, CurveEntropy, got 'Entropy'"):
        load_estimator({"obj": "Entropy"})


def test_the_pages_commands_run(tmp_path: Path) -> None:
    (text,) = programs("lm_polygraph.md", "sh")
    done = run_shell(text, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed.keys() >= {"AnswerEntropy", "CurveEntropy_final", "LexicalSimilarity_rougeL"}
