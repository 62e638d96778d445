"""Frozen settings and inputs. They hold values and refuse bad ones; nothing here computes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

Share = Literal["trajectory", "checkpoint", "none"]
Think = Literal["strict", "lenient"]
RolloutBudget = Literal["new", "total"]
AnswerFormat = Literal["number", "choice", "boxed"]

ANSWER_FORMATS: tuple[AnswerFormat, ...] = ("number", "choice", "boxed")


class FastsiaError(ValueError):
    """A mistake in what the user gave: one sentence that names the field, file, row or nearest name.

    The CLI prints it without a traceback and exits with code 2.
    """


def _require(condition: bool, field: str, rule: str, value: Any) -> None:
    if not condition:
        raise FastsiaError(f"{field} must be {rule}, got {value!r}.")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Problem:
    """One question with its gold answer.

    `gold` is in the canonical form that extraction gives ("1234", "B"). `choices` are the options'
    texts in order, letters A, B, ... `format` is None where the task's own applies.
    """

    id: str
    question: str
    gold: str
    choices: tuple[str, ...] | None = None
    format: AnswerFormat | None = None

    def __post_init__(self) -> None:
        for field in ("id", "question", "gold"):
            value = getattr(self, field)
            _require(isinstance(value, str) and value.strip() != "", field, "a non-empty string", value)
        if self.choices is not None:
            object.__setattr__(self, "choices", tuple(self.choices))
        _require(
            self.format is None or self.format in ANSWER_FORMATS, "format", f"one of {ANSWER_FORMATS}", self.format
        )


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn. `max_tokens` counts new tokens. Temperature 0 is greedy.

    `stop` are texts that end a sequence as soon as they appear in its decoded text. `eos_token_id` None means the
    model's own end-of-sequence ids; an empty tuple means none.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 600
    stop: tuple[str, ...] = ()
    eos_token_id: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _require(
            _is_real(self.temperature) and self.temperature >= 0,
            "temperature",
            "a finite number >= 0",
            self.temperature,
        )
        _require(_is_real(self.top_p) and 0 < self.top_p <= 1, "top_p", "in (0, 1]", self.top_p)
        _require(_is_int(self.max_tokens) and self.max_tokens >= 1, "max_tokens", "an integer >= 1", self.max_tokens)
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        _require(all(isinstance(s, str) and s for s in stop), "stop", "non-empty texts", self.stop)
        object.__setattr__(self, "stop", stop)
        if self.eos_token_id is not None and not isinstance(self.eos_token_id, int):
            object.__setattr__(self, "eos_token_id", tuple(self.eos_token_id))


@dataclass(frozen=True)
class SIAConfig:
    """One evaluation. The defaults are ours where the paper's text is silent (see docs/method.md).

    Attributes:
        temperature, top_p: of the trajectory and of its rollouts; no top-k.
        num_rollouts: N, continuations drawn at each checkpoint.
        stride: s, tokens between checkpoints; None takes the task's own (20; the demo task 4).
        num_trajectories: reasoning trajectories a problem.
        max_tokens: generated tokens a trajectory, and new tokens a rollout (`rollout_budget="new"`) or prefix and new
            ones together ("total").
        seed: of the whole run; every draw follows from it and from the problem's id.
        share: what rollouts share: "trajectory" merges every rollout of a trajectory that is on the same token path,
            "checkpoint" only those of one checkpoint, "none" merges nothing. The draws are the same.
        think: how a <think> block that never closes is read: "strict" (no answer) or "lenient".
        stop_at_answer: end a rollout once no continuation can change its answer (lossless for the answer).
        shuffle_prefix: the ablation: each checkpoint's prefix tokens permuted before its rollouts are drawn.
        num_fewshot: exemplars before the question.
        apply_chat_template: None uses the tokenizer's template where it has one.
        truncate_prompt: cut a prompt that is too long from the left (recorded) instead of refusing it.
        smoothing: alpha of the gold surprisal's additive smoothing.
        num_bootstrap: resamples over problems of the percentile bootstrap.
        num_splits: seeded half-splits of the rollouts that the cross-fitted rho averages.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    num_rollouts: int = 20
    stride: int | None = None
    num_trajectories: int = 1
    max_tokens: int = 600
    rollout_budget: RolloutBudget = "new"
    seed: int = 0
    share: Share = "trajectory"
    think: Think = "strict"
    stop_at_answer: bool = True
    shuffle_prefix: bool = False
    num_fewshot: int = 0
    apply_chat_template: bool | None = None
    truncate_prompt: bool = False
    smoothing: float = 0.5
    num_bootstrap: int = 2000
    num_splits: int = 20

    def __post_init__(self) -> None:
        _require(
            _is_real(self.temperature) and self.temperature >= 0,
            "temperature",
            "a finite number >= 0",
            self.temperature,
        )
        _require(_is_real(self.top_p) and 0 < self.top_p <= 1, "top_p", "in (0, 1]", self.top_p)
        for field in ("num_rollouts", "num_trajectories", "max_tokens", "num_splits"):
            value = getattr(self, field)
            _require(_is_int(value) and value >= 1, field, "an integer >= 1", value)
        _require(
            self.stride is None or (_is_int(self.stride) and self.stride >= 1), "stride", "an integer >= 1", self.stride
        )
        for field in ("num_fewshot", "num_bootstrap"):
            value = getattr(self, field)
            _require(_is_int(value) and value >= 0, field, "an integer >= 0", value)
        _require(_is_int(self.seed) and 0 <= self.seed < 2**63, "seed", "an integer in [0, 2^63)", self.seed)
        _require(self.rollout_budget in ("new", "total"), "rollout_budget", '"new" or "total"', self.rollout_budget)
        _require(
            self.share in ("trajectory", "checkpoint", "none"),
            "share",
            '"trajectory", "checkpoint" or "none"',
            self.share,
        )
        _require(self.think in ("strict", "lenient"), "think", '"strict" or "lenient"', self.think)
        for field in ("stop_at_answer", "shuffle_prefix", "truncate_prompt"):
            value = getattr(self, field)
            _require(isinstance(value, bool), field, "true or false", value)
        _require(
            self.apply_chat_template in (None, True, False),
            "apply_chat_template",
            "true, false or null",
            self.apply_chat_template,
        )
        _require(_is_real(self.smoothing) and self.smoothing > 0, "smoothing", "a finite number > 0", self.smoothing)
