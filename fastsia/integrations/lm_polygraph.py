"""Stat calculators and estimators for LM-Polygraph that use rollouts of fastsia's engine. See docs/lm_polygraph.md.

`calculators()` returns the calculators for `UEManager`. In a configuration of `polygraph_eval` this module
("fastsia.integrations.lm_polygraph") is the builder of a stat calculator and the name of an estimator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
from lm_polygraph.estimators import Estimator
from lm_polygraph.model_adapters import WhiteboxModel
from lm_polygraph.stat_calculators import StatCalculator
from lm_polygraph.utils.factory_stat_calculator import StatCalculatorContainer
from omegaconf import OmegaConf

from fastsia.answers.distribution import Estimator as EntropyEstimator
from fastsia.answers.distribution import answer_entropy
from fastsia.config import AnswerFormat, AnswerReading, SamplingParams
from fastsia.engine.engine import Engine
from fastsia.engine.forcing import Forced
from fastsia.engine.seeding import request_seed
from fastsia.engine.sequence import Rollouts
from fastsia.errors import FastsiaError
from fastsia.integrations.answers import (
    PromptFacts,
    ResponseReader,
    check_drawn,
    content,
    responses_request,
    special_stops,
)
from fastsia.renamed import renamed

MODULE = "fastsia.integrations.lm_polygraph"


class RolloutCalculator(StatCalculator):
    """Samples of the model, all samples of a prompt together, in place of LM-Polygraph's own loop over `generate`.

    Args:
        samples_n: rollouts per text.
        answer_format, answer_reading: how their answers are read.
        temperature, top_p: None uses the model's generation_parameters. There is no top-k.
        seed: of every draw.
        gpu_memory_utilization: fraction of GPU memory for weights and rollouts; LM-Polygraph's own generation uses the
            rest. The value of the calculator that is called first applies.
    """

    @renamed(think="answer_reading")
    def __init__(
        self,
        samples_n: int = 10,
        answer_format: AnswerFormat = "number",
        answer_reading: AnswerReading = "strict",
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int = 0,
        gpu_memory_utilization: float = 0.5,
    ) -> None:
        super().__init__()
        self.samples_n = samples_n
        self.reader = ResponseReader(answer_format, answer_reading)
        self.temperature, self.top_p, self.seed = temperature, top_p, seed
        self.gpu_memory_utilization = gpu_memory_utilization

    @staticmethod
    def meta_info() -> tuple[list[str], list[str]]:
        return [
            "sample_texts",
            "sample_tokens",
            "sample_log_probs",
            "sample_log_likelihoods",
            "sia_answers",
        ], []

    def __call__(
        self,
        dependencies: Mapping[str, Any],
        texts: Sequence[str],
        model: WhiteboxModel,
        max_new_tokens: int = 100,
        **kwargs: Any,
    ) -> dict[str, list[Any]]:
        """For each text, lists over its samples.

        Returns:
            sample_texts; sample_tokens, without EOS; sample_log_likelihoods, a token's log-probability in nats;
            sample_log_probs, their sum including the EOS. As in LM-Polygraph's calculator they are under the model's
            own distribution, at temperature 1 and untruncated, and empty samples are left out. sia_answers: of all
            samples; None for a sample without an answer.

        Raises:
            FastsiaError: an unsupported generation parameter, or a sample that failed.
        """
        engine = _engine(model, self.gpu_memory_utilization)
        stop, special = _stops(model)
        parameters = model.generation_parameters
        sampling = SamplingParams(
            temperature=parameters.temperature if self.temperature is None else self.temperature,
            top_p=parameters.top_p if self.top_p is None else self.top_p,
            max_tokens=max_new_tokens,
            stop=stop,
            eos_token_id=(*engine.eos_token_ids, *special),
        )
        prompts = _prompts(model, texts)
        requests = (
            responses_request(i, ids, sampling, self.samples_n, request_seed(self.seed, text, 0))
            for i, (ids, text) in enumerate(zip(prompts, texts, strict=True))
        )
        found: dict[int, dict[str, list[Any]]] = {}
        drawn = {cast(int, trajectory.key): trajectory for trajectory in engine.run(requests)}
        for i, ids in enumerate(prompts):
            rollouts = check_drawn(drawn[i], f"text {i}")
            found[i] = self._read(engine, ids, rollouts, sampling, model)
        return {name: [found[i][name] for i in range(len(texts))] for name in self.meta_info()[0]}

    def _read(
        self,
        engine: Engine,
        prompt_ids: tuple[int, ...],
        rollouts: Rollouts,
        sampling: SamplingParams,
        model: WhiteboxModel,
    ) -> dict[str, list[Any]]:
        eos = cast(tuple[int, ...], sampling.eos_token_id)
        samples = [tuple(rollouts.row(r).token_ids) for r in range(len(rollouts))]
        vocabulary = engine.vocabulary
        assert vocabulary is not None
        # The tokenizer's own decoding leaves out think marks that are special tokens.
        whole = [vocabulary.decode(ids) for ids in samples]
        read: dict[str, list[Any]] = {name: [] for name in self.meta_info()[0]}
        read["sia_answers"] = self.reader.read(whole, _facts_of(engine, model, prompt_ids), drawn=rollouts)
        # The rollouts' log-probabilities are under the sampling distribution; LM-Polygraph needs the model's own.
        scores = engine.loglikelihood(prompt_ids, (), [Forced(0, (), ids) for ids in samples])
        for ids, score in zip(samples, scores, strict=True):
            kept = list(ids[:-1] if ids[-1] in eos else ids)
            if kept:
                read["sample_tokens"].append(kept)
                read["sample_texts"].append(model.tokenizer.decode(kept))
                read["sample_log_likelihoods"].append(score.logprobs[: len(kept)].tolist())
                read["sample_log_probs"].append(float(score.logprobs.sum()))
        return read


class CurveCalculator(StatCalculator):
    """Answer entropy along the greedy generation: rollouts from every `stride`-th of its tokens.

    Args as in `ResponseReader.of`; seed and gpu_memory_utilization as in `RolloutCalculator`.
    """

    @renamed(think="answer_reading")
    def __init__(
        self,
        num_rollouts: int = 20,
        *,
        seed: int = 0,
        gpu_memory_utilization: float = 0.5,
        **reading: Any,
    ) -> None:
        super().__init__()
        self.reader = ResponseReader.of(num_rollouts=num_rollouts, **reading)
        self.seed = seed
        self.gpu_memory_utilization = gpu_memory_utilization

    @staticmethod
    def meta_info() -> tuple[list[str], list[str]]:
        return ["sia_curves"], ["greedy_tokens"]

    def __call__(
        self,
        dependencies: Mapping[str, Any],
        texts: Sequence[str],
        model: WhiteboxModel,
        max_new_tokens: int = 100,
        **kwargs: Any,
    ) -> dict[str, list[Any]]:
        """sia_curves: for each text a dict of lists over checkpoints: checkpoints, entropy, null_rate, mode, ..."""
        engine = _engine(model, self.gpu_memory_utilization)
        vocabulary = engine.vocabulary
        assert vocabulary is not None
        stop, special = _stops(model)
        eos = (*engine.eos_token_ids, *special)
        prompts = _prompts(model, texts)
        facts = [_facts_of(engine, model, ids) for ids in prompts]
        requests = (
            self.reader.curve_request(
                i,
                prompts[i],
                content(vocabulary, dependencies["greedy_tokens"][i], stop, eos),
                request_seed(self.seed, text, 0),
                facts[i],
                context_length=engine.context_length,
                stop=stop,
                eos_token_id=eos,
            )
            for i, text in enumerate(texts)
        )
        curves = {}
        for trajectory in engine.run(requests):
            i = cast(int, trajectory.key)
            curves[i] = self.reader.curve(trajectory, vocabulary, f"text {i}", facts[i])
        return {"sia_curves": [curves[i] for i in range(len(texts))]}


class AnswerEntropy(Estimator):
    """Entropy of the answers of a text's rollouts in nats; differently worded texts with equal answers count as equal.

    Args:
        estimator: "plugin", "miller_madow" or "chao_shen".
    """

    def __init__(self, estimator: EntropyEstimator = "plugin") -> None:
        super().__init__(["sia_answers"], "sequence")
        self.estimator = estimator

    def __str__(self) -> str:
        return "AnswerEntropy" if self.estimator == "plugin" else f"AnswerEntropy_{self.estimator}"

    def __call__(self, stats: Mapping[str, Any]) -> np.ndarray:
        return np.array([answer_entropy(answers, self.estimator) for answers in stats["sia_answers"]])


class CurveEntropy(Estimator):
    """Answer entropy along the greedy generation, in nats.

    Args:
        reading: "final", at the end; "mean", over the checkpoints; "change", from the beginning to the end.
    """

    def __init__(self, reading: Literal["final", "mean", "change"] = "final") -> None:
        super().__init__(["sia_curves"], "sequence")
        if reading not in ("final", "mean", "change"):
            raise FastsiaError(f'reading must be "final", "mean" or "change", got {reading!r}.')
        self.reading = reading

    def __str__(self) -> str:
        return f"CurveEntropy_{self.reading}"

    def __call__(self, stats: Mapping[str, Any]) -> np.ndarray:
        def read(entropy: Sequence[float]) -> float:
            if self.reading == "mean":
                return float(np.mean(entropy))
            return entropy[-1] - (entropy[0] if self.reading == "change" else 0.0)

        return np.array([read(curve["entropy"]) for curve in stats["sia_curves"]])


_CALCULATORS = {"RolloutCalculator": RolloutCalculator, "CurveCalculator": CurveCalculator}
_ESTIMATORS = {"AnswerEntropy": AnswerEntropy, "CurveEntropy": CurveEntropy}


def load_stat_calculator(config: Any, environment: Any) -> StatCalculator:
    """Build a calculator or estimator for LM-Polygraph from `obj`, the name of its class, and its arguments."""
    return _build(_CALCULATORS, "obj", config)


def load_estimator(config: Any) -> Estimator:
    """Build a calculator or estimator for LM-Polygraph from `obj`, the name of its class, and its arguments."""
    return _build(_ESTIMATORS, "obj", config)


def calculators(
    rollouts: Mapping[str, Any] | None = None, curves: Mapping[str, Any] | None = None
) -> list[StatCalculatorContainer]:
    """Both stat calculators with their arguments, for `UEManager`.

    Placed after LM-Polygraph's own calculators in its list, they replace those of the same statistics.
    """
    return [
        StatCalculatorContainer(
            name=kind.__name__,
            obj=kind,
            builder=MODULE,
            cfg=OmegaConf.create({"obj": kind.__name__, **(given or {})}),
            stats=kind.meta_info()[0],
            dependencies=kind.meta_info()[1],
        )
        for kind, given in ((RolloutCalculator, rollouts), (CurveCalculator, curves))
    ]


def _build(kinds: Mapping[str, Any], key: str, config: Any) -> Any:
    given = dict(OmegaConf.to_container(config) if OmegaConf.is_config(config) else config)
    name = given.pop(key, None)
    if name not in kinds:
        raise FastsiaError(f"{key} must be one of {', '.join(kinds)}, got {name!r}.")
    return kinds[name](**given)


def _engine(model: WhiteboxModel, gpu_memory_utilization: float) -> Engine:
    """The engine on LM-Polygraph's own weights; stored on the model and shared by both calculators."""
    if not isinstance(model, WhiteboxModel):
        raise FastsiaError(f"rollouts need a WhiteboxModel, got {type(model).__name__}.")
    engine: Engine | None = getattr(model, "fastsia_engine", None)
    if engine is None or engine.model is not model.model:
        engine = Engine(model.model, model.tokenizer, gpu_memory_utilization=gpu_memory_utilization)
        model.fastsia_engine = engine
    return engine


def _prompts(model: WhiteboxModel, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Each text's token ids as LM-Polygraph tokenizes it, without the padding of a batch."""
    return [tuple(model.tokenize([text])["input_ids"][0].tolist()) for text in texts]


def _facts_of(engine: Engine, model: WhiteboxModel, prompt_ids: Sequence[int]) -> PromptFacts:
    return PromptFacts.of(
        model.tokenizer.decode(prompt_ids), engine.vocabulary, is_chat=bool(getattr(model, "instruct", False))
    )


def _stops(model: WhiteboxModel) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The stop texts of the generation parameters, and the ids of the special tokens among them.

    Raises:
        FastsiaError: an unsupported generation parameter.
    """
    parameters = model.generation_parameters
    neutral = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "num_beams": 1, "allow_newlines": True}
    for name, value in neutral.items():
        if getattr(parameters, name) != value:
            raise FastsiaError(f"fastsia's engine does not support {name}={getattr(parameters, name)!r}.")
    return special_stops(model.tokenizer, parameters.stop_strings or ())
