"""Frozen settings and inputs. They hold values and refuse bad ones; nothing here computes."""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from numbers import Real
from typing import Any, Literal

from fastsia.errors import FastsiaError
from fastsia.renamed import renamed

Share = Literal["trajectory", "checkpoint", "none"]
AnswerReading = Literal["strict", "lenient"]
Equivalence = Literal["spelling", "math_verify"]
RolloutBudget = Literal["new", "total"]
AnswerFormat = Literal["number", "choice", "boxed"]

ANSWER_FORMATS: tuple[AnswerFormat, ...] = ("number", "choice", "boxed")
EQUIVALENCES: tuple[Equivalence, ...] = ("spelling", "math_verify")
READING_FIELDS = ("answer_reading", "equivalence", "answer_regex")
"""Fields of `SIAConfig` that say how drawn texts are read; the draws do not depend on them."""
MAX_CHOICES = 26  # the letters that can name them
MAX_INTEGER = 2**31 - 1  # what an int32 column holds
MAX_COUNT = 1_000_000  # of what is an array's row at every checkpoint or problem: more is a slip of the finger

_NO_HALVES = "without half of a surrogate pair, which is no character"


def _require(condition: bool, field: str, rule: str, value: Any) -> None:
    if not condition:
        raise FastsiaError(f"{field} must be {rule}, got {_spelled(value)}.")


def _spelled(value: Any) -> str:
    try:
        return f"{value!r:.200}"
    except ValueError:
        return "a number of thousands of digits"


def integer(value: Any) -> int | None:
    """An integer of Python's, numpy's or torch's as an int; None for all else. True and False are no numbers."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def integer_from(least: int, field: str, value: Any, most: int = MAX_INTEGER) -> int:
    """An integer from least to most as an int; `field` is what a refusal names."""
    number = integer(value)
    if number is None or number < least:
        raise FastsiaError(f"{field} must be an integer >= {least}, got {_spelled(value)}.")
    if number > most:
        raise FastsiaError(f"{field} must be an integer <= {most:,}, got {_spelled(value)}.")
    return number


def real(value: Any) -> float:
    """A real number, numpy's included, as a float; NaN for all else. True and False are no numbers."""
    try:
        return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.inf


def integers(field: str, values: Any) -> tuple[int, ...]:
    """A collection of integers as ints; `field` is what a refusal names."""
    try:
        items = list(values)
    except TypeError as error:
        raise FastsiaError(f"{field} must be a sequence of integers, got {values!r}.") from error
    found: list[int] = []
    for item in items:
        number = integer(item)
        if number is None:
            raise FastsiaError(f"{field} must hold integers only, got {item!r}.")
        found.append(number)
    return tuple(found)


def is_text(value: Any) -> bool:
    """Whether a value is a string that UTF-8 can write: half of a surrogate pair is no character."""
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def _is_one_of(value: Any, words: tuple[str, ...]) -> bool:
    """Whether a value is one of some words; an array, say, is none, and has no single truth when compared."""
    return isinstance(value, str) and value in words


def _texts(value: Any) -> tuple[str, ...] | None:
    """A collection of texts with something in each; None for all else, a single text included."""
    try:
        found = (None,) if isinstance(value, str) else tuple(value)
    except TypeError:
        return None
    return found if all(isinstance(text, str) and text for text in found) else None


@renamed(format="answer_format")
@dataclass(frozen=True)
class Problem:
    """One question with its gold answer.

    `gold` is in the canonical form that extraction gives ("1234", "B"). `choices` are the options'
    texts in order, letters A, B, ... `answer_format` is None where the task's own applies.
    """

    id: str
    question: str
    gold: str
    choices: tuple[str, ...] | None = None
    answer_format: AnswerFormat | None = None

    def __post_init__(self) -> None:
        for field in ("id", "question", "gold"):
            value = getattr(self, field)
            _require(isinstance(value, str) and value.strip() != "", field, "a non-empty string", value)
            _require(is_text(value), field, _NO_HALVES, value)
        if self.choices is not None:
            choices = _texts(self.choices)
            if choices is None or not 2 <= len(choices) <= MAX_CHOICES or not all(text.strip() for text in choices):
                raise FastsiaError(f"choices must be 2 to {MAX_CHOICES} non-empty texts, got {self.choices!r:.200}.")
            _require(all(map(is_text, choices)), "choices", _NO_HALVES, choices)
            object.__setattr__(self, "choices", choices)
        _require(
            self.answer_format is None or _is_one_of(self.answer_format, ANSWER_FORMATS),
            "answer_format",
            f"one of {ANSWER_FORMATS}",
            self.answer_format,
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
        _check_drawing(self)
        stop = _texts((self.stop,) if isinstance(self.stop, str) else self.stop)
        if stop is None:
            raise FastsiaError(f"stop must be a non-empty text or several of them, got {self.stop!r}.")
        object.__setattr__(self, "stop", stop)
        if self.eos_token_id is not None:
            single = integer(self.eos_token_id)
            ids = integers("eos_token_id", self.eos_token_id) if single is None else single
            object.__setattr__(self, "eos_token_id", ids)


@renamed(think="answer_reading")
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
        think: how a text that is not finished is read: "strict" takes no answer from a <think> block that never closes,
            and from a text that the token limit cut only an answer that it had stated completely; "lenient" reads both
            like any text.
        equivalence: which answers are equal: those of one spelling, or ("math_verify") those that Math-Verify finds so.
        answer_regex: a Python regular expression that reads the answers in place of the format's rules: of its last
            match the group `answer`, else group 1, else all of it. No rollout is stopped early with it.
        stop_at_answer: end a rollout once no continuation can change its answer (lossless for the answer).
        shuffle_prefix: the ablation: each checkpoint's prefix tokens permuted before its rollouts are drawn.
        num_fewshot: exemplars before the question.
        apply_chat_template: None uses the tokenizer's template where it has one.
        system_instruction: a system turn before the question; in plain text it stands in front.
        enable_thinking: what the chat template is told by that name; None leaves it to the template.
        chat_template_args: more variables of the chat template: a mapping, kept as JSON text.
        template_date: "YYYY-MM-DD", the day that a chat template which asks for the date gets; None is the day on which
            the run begins, and a resumed run keeps it.
        think_tags: an opening and a closing mark of think blocks, known beside the usual ones.
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
    answer_reading: AnswerReading = "strict"
    equivalence: Equivalence = "spelling"
    answer_regex: str | None = None
    stop_at_answer: bool = True
    shuffle_prefix: bool = False
    num_fewshot: int = 0
    apply_chat_template: bool | None = None
    system_instruction: str | None = None
    enable_thinking: bool | None = None
    chat_template_args: str | Mapping[str, Any] | None = None
    template_date: str | None = None
    think_tags: tuple[str, str] | None = None
    truncate_prompt: bool = False
    smoothing: float = 0.5
    num_bootstrap: int = 2000
    num_splits: int = 20

    def __post_init__(self) -> None:
        _check_drawing(self)
        least = {"num_rollouts": 1, "num_trajectories": 1, "num_splits": 1, "num_fewshot": 0, "num_bootstrap": 0}
        for field, smallest in least.items():
            object.__setattr__(self, field, integer_from(smallest, field, getattr(self, field), MAX_COUNT))
        if self.stride is not None:
            object.__setattr__(self, "stride", integer_from(1, "stride", self.stride))
        seed = integer(self.seed)
        _require(seed is not None and 0 <= seed < 2**63, "seed", "an integer in [0, 2^63)", self.seed)
        object.__setattr__(self, "seed", seed)
        _require(
            _is_one_of(self.rollout_budget, ("new", "total")), "rollout_budget", '"new" or "total"', self.rollout_budget
        )
        _require(
            _is_one_of(self.share, ("trajectory", "checkpoint", "none")),
            "share",
            '"trajectory", "checkpoint" or "none"',
            self.share,
        )
        _require(
            _is_one_of(self.answer_reading, ("strict", "lenient")),
            "answer_reading",
            '"strict" or "lenient"',
            self.answer_reading,
        )
        _require(
            _is_one_of(self.equivalence, EQUIVALENCES), "equivalence", '"spelling" or "math_verify"', self.equivalence
        )
        if self.answer_regex is not None:
            _check_regex(self.answer_regex)
        for field in ("stop_at_answer", "shuffle_prefix", "truncate_prompt"):
            value = getattr(self, field)
            _require(isinstance(value, bool), field, "true or false", value)
        for field in ("apply_chat_template", "enable_thinking"):
            value = getattr(self, field)
            _require(value is None or isinstance(value, bool), field, "true, false or null", value)
        _check_prompting(self)
        smoothing = real(self.smoothing)
        _require(math.isfinite(smoothing) and smoothing > 0, "smoothing", "a finite number > 0", self.smoothing)
        object.__setattr__(self, "smoothing", smoothing)


def _check_regex(pattern: Any) -> None:
    _require(is_text(pattern) and pattern != "", "answer_regex", "a regular expression", pattern)
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise FastsiaError(f"answer_regex {pattern!r:.200} is no regular expression of Python's: {reason}.") from error


_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
# What apply_chat_template of transformers takes itself, or fastsia gives it.
_NOT_OF_A_TEMPLATE = {
    *("conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize", "self"),
    *("continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
    *("return_assistant_tokens_mask", "tokenizer_kwargs", "strftime_now", "raise_exception", "fastsia_date"),
}


def _check_prompting(settings: SIAConfig) -> None:
    """The fields of which prompts are made."""
    instruction, day, tags = settings.system_instruction, settings.template_date, settings.think_tags
    if instruction is not None:
        _require(is_text(instruction) and bool(instruction.strip()), "system_instruction", "a text", instruction)
    arguments = _template_args(settings.chat_template_args)
    object.__setattr__(settings, "chat_template_args", arguments)
    if settings.enable_thinking is not None and arguments is not None and "enable_thinking" in json.loads(arguments):
        raise FastsiaError("enable_thinking is given twice: by itself and among chat_template_args.")
    if day is not None:
        _require(isinstance(day, str) and _is_date(day), "template_date", "a date as YYYY-MM-DD", day)
    if tags is not None:
        pair = tuple(tags) if isinstance(tags, (tuple, list)) else ()
        are_marks = len(pair) == 2 and all(is_text(mark) and mark.split() == [mark] for mark in pair)
        rule = "two different marks without white space, an opening and a closing one"
        _require(are_marks and pair[0] != pair[1], "think_tags", rule, tags)
        object.__setattr__(settings, "think_tags", pair)


def _template_args(given: Any) -> str | None:
    """Variables of a template as JSON text, None where there are none."""
    rule = "a mapping of names to values that JSON can write"
    try:
        found = json.loads(given) if isinstance(given, str) else dict(given or {})
        text = json.dumps(found, sort_keys=True, ensure_ascii=False, allow_nan=False)
        is_plain = isinstance(found, dict) and is_text(text) and all(isinstance(name, str) for name in found)
        _require(is_plain, "chat_template_args", rule, given)
    except FastsiaError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise FastsiaError(f"chat_template_args must be {rule}, got {_spelled(given)}.") from error
    for name in found:
        if not name.isidentifier() or name in _NOT_OF_A_TEMPLATE:
            raise FastsiaError(f"chat_template_args cannot set {name!r}: it is no variable of a template.")
    return text if found else None


def _is_date(text: str) -> bool:
    try:
        return _DATE.fullmatch(text) is not None and date.fromisoformat(text).year >= 1000
    except ValueError:
        return False


def _check_drawing(settings: SamplingParams | SIAConfig) -> None:
    """The three fields that both have."""
    temperature, top_p = real(settings.temperature), real(settings.top_p)
    _require(
        math.isfinite(temperature) and temperature >= 0, "temperature", "a finite number >= 0", settings.temperature
    )
    _require(0 < top_p <= 1, "top_p", "in (0, 1]", settings.top_p)
    object.__setattr__(settings, "temperature", temperature)
    object.__setattr__(settings, "top_p", top_p)
    object.__setattr__(settings, "max_tokens", integer_from(1, "max_tokens", settings.max_tokens))
