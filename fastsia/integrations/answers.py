"""Answers of several responses and their entropies, and curves along one response, for the tools' integrations."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastsia.answers.distribution import ABSENT_CODE, NULL_CODE, summarize
from fastsia.answers.extraction import extract_answers, extract_rollouts
from fastsia.answers.spec import Spec
from fastsia.answers.think import ends_with_opening, expects_think
from fastsia.answers.vocabulary import Vocabulary
from fastsia.config import AnswerFormat, AnswerReading, SamplingParams, SIAConfig
from fastsia.engine.seeding import request_seed
from fastsia.engine.sequence import FinishReason, Request, Rollouts, Trajectory
from fastsia.errors import FastsiaError
from fastsia.renamed import renamed


@dataclass(frozen=True)
class PromptFacts:
    """Facts about a rendered prompt that determine how its responses are read.

    Attributes:
        starts_in_think: the prompt ends inside a think block.
        is_chat: the prompt is a chat; "Question:" at the start of a line does not end its responses.
        expects_think: a think block may follow; no rollout is ended before the block has closed.
    """

    starts_in_think: bool = False
    is_chat: bool = False
    expects_think: bool = False

    @classmethod
    def of(cls, prompt: str, vocabulary: Vocabulary | None, *, is_chat: bool) -> PromptFacts:
        """The facts of a complete prompt, as the model gets it."""
        has_marks = vocabulary is not None and vocabulary.has_think_marks
        return cls(ends_with_opening(prompt), is_chat, expects_think(prompt, has_marks))


@renamed(think="answer_reading")
@dataclass(frozen=True)
class ResponseReader:
    """Reads the answers of responses, and describes the rollouts of the curve along a response.

    Attributes:
        answer_format, answer_reading: as in `extract_answers`.
        config: settings of a curve's rollouts (num_rollouts, stride, temperature, top_p, max_tokens); None draws no
            curve.
        options: texts of the options of a choice, if known.
    """

    answer_format: AnswerFormat = "number"
    answer_reading: AnswerReading = "strict"
    config: SIAConfig | None = None
    options: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        Spec.of(self.answer_format, self.options)
        if self.answer_reading not in ("strict", "lenient"):
            raise FastsiaError(f'answer_reading must be "strict" or "lenient", got {self.answer_reading!r}.')

    @classmethod
    def taken_from(cls, options: dict[str, Any], prefix: str = "") -> ResponseReader:
        """Build a reader from a tool's options, and remove its own from them: the arguments of `of`.

        Args:
            options: by their names.
            prefix: of the names of temperature, top_p and max_tokens, which also exist for responses.
        """
        names = ("answer_format", "answer_reading", "num_rollouts", "stride")
        own = {name: options.pop(name) for name in names if name in options}
        drawing = {name: options.pop(prefix + name, None) for name in ("temperature", "top_p", "max_tokens")}
        return cls.of(**own, **drawing)

    @classmethod
    @renamed(think="answer_reading")
    def of(
        cls,
        *,
        answer_format: AnswerFormat = "number",
        answer_reading: AnswerReading = "strict",
        num_rollouts: int | None = None,
        stride: int | None = None,
        **drawing: Any,
    ) -> ResponseReader:
        """Build a reader from the options that all tools share.

        Args:
            answer_format, answer_reading: as in `extract_answers`.
            num_rollouts: rollouts at each checkpoint of a curve; None draws no curve.
            stride: tokens between checkpoints; None is 20.
            **drawing: temperature, top_p, max_tokens of the rollouts, as in `SIAConfig`; None is the default.
        """
        given = {name: value for name, value in {"stride": stride, **drawing}.items() if value is not None}
        if num_rollouts is None:
            if given:
                raise FastsiaError(f"{next(iter(given))} applies to curves only, which need num_rollouts.")
            return cls(answer_format, answer_reading)
        given.setdefault("stride", 20)
        return cls(answer_format, answer_reading, SIAConfig(num_rollouts=num_rollouts, **given))

    def read(
        self, texts: Sequence[str], prompt: PromptFacts = PromptFacts(), *, drawn: Rollouts | None = None
    ) -> list[str | None]:
        """The answer of each text; None for a text without one.

        Args:
            texts: the responses.
            prompt: facts about their prompt.
            drawn: the rollouts of the texts; without them no text counts as cut off by the token limit.
        """
        return extract_answers(
            texts,
            self.answer_format,
            options=self.options,
            answer_reading=self.answer_reading,
            starts_in_think=prompt.starts_in_think,
            stop_texts=not prompt.is_chat,
            cut=False if drawn is None else (drawn.finish_reason == FinishReason.LENGTH).tolist(),
        )

    def curve_request(
        self,
        key: Hashable,
        prompt_ids: Sequence[int],
        response_ids: Sequence[int],
        seed: int,
        prompt: PromptFacts = PromptFacts(),
        *,
        context_length: int | None,
        stop: tuple[str, ...] = (),
        eos_token_id: tuple[int, ...] | None = None,
    ) -> Request:
        """Rollouts from every checkpoint of a response, within the context length.

        Args:
            key: the request's key.
            prompt_ids: token ids of the prompt.
            response_ids: token ids of the response, without the EOS or stop text that ended it.
            seed: the response's seed.
            prompt: facts about the prompt.
            context_length: positions of the model; None is unlimited.
            stop: texts that end a rollout.
            eos_token_id: ids that end a rollout; None is the model's own.
        """
        config = self.config
        assert config is not None
        assert config.stride is not None
        max_tokens = config.max_tokens
        if context_length is not None:
            room = context_length - len(prompt_ids)
            response_ids = response_ids[: room - 1]
            max_tokens = min(max_tokens, room - len(response_ids))
        return Request(
            key=key,
            prompt_ids=tuple(prompt_ids),
            sampling=SamplingParams(config.temperature, config.top_p, max_tokens, stop, eos_token_id),
            num_rollouts=config.num_rollouts,
            # Another seed than the response's, whose draws those of checkpoint 0 would repeat.
            seed=request_seed(seed, "curve", 0),
            stride=config.stride,
            trajectory_ids=tuple(response_ids),
            answer_stop=Spec.of(
                self.answer_format,
                self.options,
                prompt.starts_in_think,
                stop_texts=not prompt.is_chat,
                expects_think=prompt.expects_think,
            ),
        )

    def curve(
        self,
        drawn: Trajectory,
        vocabulary: Vocabulary,
        name: str,
        prompt: PromptFacts = PromptFacts(),
    ) -> dict[str, Any]:
        """The fields of `summary` at every checkpoint, as lists over the checkpoints.

        Args:
            drawn: the finished request of `curve_request`.
            vocabulary: the model's.
            name: the request's name in errors.
            prompt: facts about the prompt.
        """
        rollouts = check_drawn(drawn, name)
        readings = extract_rollouts(
            vocabulary,
            drawn.token_ids,
            rollouts.checkpoint,
            rollouts.token_ids,
            rollouts.offsets,
            self.answer_format,
            options=self.options,
            starts_in_think=prompt.starts_in_think,
            stop_texts=not prompt.is_chat,
            cut=rollouts.finish_reason == FinishReason.LENGTH,
        )
        answers = readings.strict if self.answer_reading == "strict" else readings.lenient
        checkpoints, starts = np.unique(rollouts.checkpoint, return_index=True)
        parts = [summary(answers[a:b]) for a, b in zip(starts, [*starts[1:], len(answers)], strict=True)]
        names = ("entropy", "entropy_miller_madow", "entropy_chao_shen", "null_rate", "mode")
        return {
            "num_rollouts": parts[0]["num_answers"],
            "checkpoints": checkpoints.tolist(),
            **{name: [part[name] for part in parts] for name in names},
        }


def summary(answers: Sequence[str | None]) -> dict[str, Any]:
    """num_answers, the entropies, null_rate, num_distinct and mode of several answers.

    The entropies are in nats, and None for a single answer. The mode is the most frequent answer, the first drawn among
    equals; None if "no answer" is the most frequent.
    """
    interned: dict[str, int] = {}
    codes = [NULL_CODE if a is None else interned.setdefault(a, len(interned)) for a in answers]
    found = summarize(codes, [0, len(codes)], [ABSENT_CODE], [1], 0.5)
    several = len(answers) > 1
    mode = int(found.mode[0])
    return {
        "num_answers": len(answers),
        **{
            name: float(getattr(found, name)[0]) if several else None
            for name in ("entropy", "entropy_miller_madow", "entropy_chao_shen")
        },
        "null_rate": float(found.null_count[0] / len(answers)),
        "num_distinct": int(found.num_distinct[0]),
        "mode": None if mode == NULL_CODE else list(interned)[mode],
    }


def responses_request(
    key: Hashable, prompt_ids: Sequence[int], sampling: SamplingParams, count: int, seed: int
) -> Request:
    """`count` responses to a prompt: rollouts at checkpoint 0 of an empty trajectory."""
    return Request(key, tuple(prompt_ids), sampling, count, seed, trajectory_ids=(), checkpoints=(0,))


def check_drawn(drawn: Trajectory, name: str) -> Rollouts:
    """The rollouts of a finished request.

    Args:
        drawn: the finished request.
        name: its name in errors.

    Raises:
        FastsiaError: a rollout failed because the model's logits were NaN or infinite.
    """
    rollouts = drawn.rollouts
    if rollouts is None:
        raise FastsiaError(f"{name}: {drawn.error}.")
    failed = np.flatnonzero(rollouts.finish_reason == FinishReason.ERROR)
    if len(failed):
        raise FastsiaError(f"{name}: {rollouts.row(int(failed[0])).error}.")
    return rollouts


def special_stops(tokenizer: Any, stop: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """(stop texts, ids of those stop texts that are special tokens, which do not appear in decoded text)."""
    special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    texts = tuple(dict.fromkeys(text for text in stop if text and text not in special))
    return texts, tuple(special[text] for text in stop if text in special)


def content(
    vocabulary: Vocabulary, token_ids: Sequence[int], stop: Sequence[str], eos_token_ids: Sequence[int]
) -> list[int]:
    """A response's tokens without the EOS and the padding after it, or without the stop text that ended it."""
    ends = (i for i, token in enumerate(token_ids) if token in eos_token_ids)
    ids = list(token_ids[: next(ends, len(token_ids))])
    while ids and any(text in vocabulary.decode(ids) for text in stop):
        ids.pop()
    return ids
