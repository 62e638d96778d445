"""Settings and inputs, frozen and checked. Every setting is declared once: default, range, help and what it changes."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from numbers import Real
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

import pydantic.dataclasses
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError

from fastsia.errors import FastsiaError, did_you_mean, one_line
from fastsia.renamed import accept, renamed

Share = Literal["trajectory", "checkpoint", "none"]
AnswerReading = Literal["strict", "lenient"]
Equivalence = Literal["spelling", "math_verify"]
RolloutBudget = Literal["new", "total"]
AnswerFormat = Literal["number", "choice", "boxed"]
BackendName = Literal["native", "hf", "openai", "vllm"]
Executor = Literal["local", "ray"]
TargetOf = Literal["entropy", "gold"]
Changes = Literal["draws", "reading", "statistics", "nothing"]

ANSWER_FORMATS: tuple[AnswerFormat, ...] = get_args(AnswerFormat)
EQUIVALENCES: tuple[Equivalence, ...] = get_args(Equivalence)
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
EXECUTORS: tuple[Executor, ...] = get_args(Executor)
MAX_CHOICES = 26  # one letter each
MAX_INTEGER = 2**31 - 1  # the largest int32
MAX_COUNT = 1_000_000  # upper bound for per-checkpoint and per-problem counts; larger values are almost certainly typos


# --- numbers and texts -----------------------------------------------------------------------------------------


def integer(value: Any) -> int | None:
    """An integer of Python, numpy or torch as an int; None for anything else, booleans included."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def integer_from(least: int, field: str, value: Any, most: int = MAX_INTEGER) -> int:
    """An integer in [least, most] as an int.

    Raises:
        FastsiaError: it is not one; the message names `field`.
    """
    number = integer(value)
    if number is None or number < least:
        raise FastsiaError(f"{field} must be an integer >= {least}, got {_as_text(value)}.")
    if number > most:
        raise FastsiaError(f"{field} must be an integer <= {most:,}, got {_as_text(value)}.")
    return number


def real(value: Any) -> float:
    """A real number of Python or numpy as a float; NaN for anything else, booleans included."""
    try:
        return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.inf


def integers(field: str, values: Any) -> tuple[int, ...]:
    """A collection of integers as ints.

    Raises:
        FastsiaError: it is not one; the message names `field`.
    """
    try:
        items = list(values)
    except TypeError as error:
        raise FastsiaError(f"{field} must be a sequence of integers, got {values!r}.") from error
    found = [integer(item) for item in items]
    if None in found:
        raise FastsiaError(f"{field} must contain only integers, got {items[found.index(None)]!r}.")
    return tuple(number for number in found if number is not None)


def is_text(value: Any) -> bool:
    """Whether a value is a string that UTF-8 can encode: one without unpaired surrogates."""
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value))


def _as_text(value: Any) -> str:
    try:
        return f"{value!r:.200}"
    except ValueError:
        return "a number of thousands of digits"


# --- checked dataclasses ---------------------------------------------------------------------------------------

T = TypeVar("T")


def _as_integer(value: Any) -> Any:
    number = integer(value)
    return value if number is None else number


def _as_number(value: Any) -> Any:
    number = real(value)
    return value if math.isnan(number) else number


# The text of an annotation words its range in error messages.
Positive = Annotated[int, BeforeValidator(_as_integer), Field(ge=1, le=MAX_INTEGER), "an integer >= 1"]
Natural = Annotated[int, BeforeValidator(_as_integer), Field(ge=0, le=MAX_INTEGER), "an integer >= 0"]
AtLeastTwo = Annotated[int, BeforeValidator(_as_integer), Field(ge=2, le=MAX_COUNT), "an integer >= 2"]
PositiveCount = Annotated[int, BeforeValidator(_as_integer), Field(ge=1, le=MAX_COUNT), "an integer >= 1"]
NaturalCount = Annotated[int, BeforeValidator(_as_integer), Field(ge=0, le=MAX_COUNT), "an integer >= 0"]
Seed = Annotated[int, BeforeValidator(_as_integer), Field(ge=0, lt=2**63), "an integer in [0, 2^63)"]
Fraction = Annotated[float, BeforeValidator(_as_number), Field(gt=0, le=1), "in (0, 1]"]
Temperature = Annotated[float, BeforeValidator(_as_number), Field(ge=0, allow_inf_nan=False), "a finite number >= 0"]
Smoothing = Annotated[float, BeforeValidator(_as_number), Field(gt=0, allow_inf_nan=False), "a finite number > 0"]
StandardError = Annotated[float, BeforeValidator(_as_number), Field(gt=0, allow_inf_nan=False), "a finite number > 0"]
Seconds = Annotated[float, BeforeValidator(_as_number), Field(gt=0), "a number of seconds > 0"]


def allowed(annotation: Any) -> str:
    """The values that a field of this type accepts, as error messages and the tables of settings word it."""
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return next(part for part in parts if isinstance(part, str))
    if get_origin(annotation) is Literal:
        *words, last = (f'"{word}"' for word in parts)
        return f"{', '.join(words)} or {last}"
    if type(None) in parts:
        return "true, false or null" if bool in parts else allowed(parts[0])
    if get_origin(annotation) is Mapping:
        return "a mapping of names to values"
    return "true or false" if annotation is bool else "a text"


_STRICT = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)


@dataclass_transform(frozen_default=True)
def checked(cls: type[T]) -> type[T]:
    """A frozen dataclass whose fields pydantic checks. A refused value raises FastsiaError, in one sentence."""
    made: Any = pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)(cls)
    check = made.__init__

    @functools.wraps(check)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            check(self, *args, **kwargs)
        except ValidationError as error:
            raise FastsiaError(_sentence(made, error)) from None

    made.__init__ = __init__
    helps = {name: field.description for name, field in made.__pydantic_fields__.items() if field.description}
    if helps:  # for help(); IDEs and the site read the texts below the fields
        lines = (f"    {name}: {one_line(text)}" for name, text in helps.items())
        made.__doc__ = "\n".join([f"{cls.__doc__}\n\nAttributes:", *lines])
    return made


def _sentence(cls: type, error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    context = first.get("ctx", {})
    if isinstance(raised := context.get("error"), FastsiaError):
        return str(raised)
    fields, name = get_type_hints(cls, include_extras=True), str(first["loc"][0])
    if name not in fields:
        return f"{cls.__name__} has no field {name!r}{did_you_mean(name, fields)}"
    if first["type"] == "missing":
        return f"{cls.__name__} needs {name}."
    most = context.get("le")
    rule = allowed(fields[name])
    if isinstance(most, int) and rule.startswith("an integer"):
        rule = f"an integer <= {most:,}"
    return f"{name} must be {rule}, got {_as_text(first['input'])}."


def _require(condition: bool) -> None:
    """Refuse a value in a validator: pydantic turns the ValueError into the field's own message."""
    if not condition:
        raise ValueError


# --- questions and draws ---------------------------------------------------------------------------------------


def _filled(text: str) -> str:
    _require(is_text(text) and text.strip() != "")
    return text


def _texts(values: Any) -> tuple[str, ...]:
    """A collection of non-empty texts. A single text is not a collection."""
    _require(isinstance(values, Iterable) and not isinstance(values, str))
    found = tuple(values)
    _require(all(is_text(text) and text for text in found))
    return found


def _choices(values: Any) -> tuple[str, ...] | None:
    if values is None:
        return None
    found = _texts(values)
    _require(2 <= len(found) <= MAX_CHOICES and all(text.strip() for text in found))
    return found


def _stops(values: Any) -> tuple[str, ...]:
    return _texts((values,) if isinstance(values, str) else values)


def _token_ids(value: Any) -> int | tuple[int, ...] | None:
    if value is None:
        return None
    single = integer(value)
    return integers("eos_token_id", value) if single is None else single


_UNPAIRED = "without unpaired surrogates"
Text = Annotated[str, AfterValidator(_filled), f"a non-empty text {_UNPAIRED}"]
Choices = Annotated[tuple[str, ...] | None, PlainValidator(_choices), f"2 to {MAX_CHOICES} non-empty texts {_UNPAIRED}"]
Stops = Annotated[tuple[str, ...], PlainValidator(_stops), "a non-empty text or several of them"]
TokenIds = Annotated[int | tuple[int, ...] | None, PlainValidator(_token_ids), "an integer or several of them"]


@renamed(format="answer_format")
@checked
class Problem:
    """One question with its gold answer.

    Attributes:
        id: unique within a task; every draw for the problem depends on it.
        question: the question as the prompt asks it.
        gold: the correct answer in the canonical form that extraction returns ("1234", "B").
        choices: the texts of the options in order, named A, B, ...; None where there are no options.
        answer_format: how answers are read; None uses the task's own format.
        solution: a worked solution without the answer's line, for `trajectories="gold"`; it is not stored.
    """

    id: Text
    question: Text
    gold: Text
    choices: Choices = None
    answer_format: AnswerFormat | None = None
    solution: Text | None = None


@checked
class SamplingParams:
    """How tokens are drawn.

    Attributes:
        temperature: 0 is greedy.
        top_p: draw from the smallest set of most probable tokens whose probabilities add up to this.
        max_tokens: maximum number of new tokens.
        stop: texts that end a sequence as soon as they appear in its decoded text.
        eos_token_id: ids that end a sequence; None uses the model's own, an empty tuple none.
    """

    temperature: Temperature = 0.7
    top_p: Fraction = 0.95
    max_tokens: Positive = 600
    stop: Stops = ()
    eos_token_id: TokenIds = None


# --- settings --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One setting, as its field declares it.

    Attributes:
        name: of the field, the keyword argument of `evaluate` and the option of the command line.
        help: what it does, one or two sentences.
        default: the value where it is not given.
        type: of its value, without None: bool, int, float, str, Path, tuple or Mapping.
        words: the values it may have, where it is one of some words.
        allowed: the values it accepts, in words.
        group: the heading under which the command line lists it.
        changes: what another value changes: "draws" (and all that follows), "reading" (which answers are read from the
            drawn texts), "statistics" (what is computed from the answers) or "nothing".
        compared: whether `compare` notes that runs differ in it.
        unset: in words, what applies where the default is None.
        aliases: further spellings on the command line.
        backends: the backends that accept it; empty where it is not passed to a backend.
    """

    name: str
    help: str
    default: Any
    type: type
    words: tuple[str, ...]
    allowed: str
    group: str
    changes: Changes = "nothing"
    compared: bool = False
    unset: str = ""
    aliases: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()

    @property
    def default_text(self) -> str:
        """The default as help and tables show it."""
        if self.default is None or isinstance(self.default, bool):
            return {None: self.unset, True: "on", False: "off"}[self.default]
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)


def setting(default: Any, **facts: Any) -> Any:
    """A field of a checked dataclass that is a `Setting` with these facts; the text below the field is its help."""
    return dataclasses.field(default=default, metadata=facts)


_sampling = functools.partial(setting, group="Sampling", changes="draws", compared=True)
_prompt = functools.partial(setting, group="Prompt", changes="draws", compared=True)
_answers = functools.partial(setting, group="Answers", changes="reading", compared=True)
_statistics = functools.partial(setting, group="Statistics", changes="statistics")
_data = functools.partial(setting, group="Data", changes="draws")
_weights = functools.partial(setting, group="Weights", changes="draws", backends=("native", "hf"))
_engine = functools.partial(setting, group="Engine", backends=("native",))
_server = functools.partial(setting, group="Server (--backend openai)", backends=("openai",))
_vllm = functools.partial(setting, group="vLLM (--backend vllm)", changes="draws", backends=("vllm",))
_ray = functools.partial(setting, group="Ray (--executor ray)")


# Arguments of `apply_chat_template` itself, and those that fastsia passes to it.
_NOT_OF_A_TEMPLATE = {
    *("conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize", "self"),
    *("continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
    *("return_assistant_tokens_mask", "tokenizer_kwargs", "strftime_now", "raise_exception", "fastsia_date"),
}


def _template_args(given: Any) -> str | None:
    """Variables of a chat template as JSON text; None where there are none."""
    try:
        found = json.loads(given) if isinstance(given, str) else dict(given or {})
        text = json.dumps(found, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, RecursionError) as error:
        raise ValueError from error
    _require(isinstance(found, dict) and is_text(text) and all(isinstance(name, str) for name in found))
    for name in found:
        if not name.isidentifier() or name in _NOT_OF_A_TEMPLATE:
            raise FastsiaError(f"chat_template_args cannot set {name!r}: it is not a variable of a template.")
    return text if found else None


def _pattern(text: str) -> str:
    _require(is_text(text) and text != "")
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise FastsiaError(f"answer_regex {text!r:.200} is not a regular expression: {one_line(error)}.") from error
    return text


def _date(text: str) -> str:
    _require(re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) is not None and date.fromisoformat(text).year >= 1000)
    return text


def is_tag_pair(given: Any) -> bool:
    """Whether a value is two different marks without white space, as `think_tags` are."""
    is_pair = isinstance(given, (tuple, list)) and len(given) == 2 and given[0] != given[1]
    return is_pair and all(is_text(mark) and mark.split() == [mark] for mark in given)


def _tags(given: Any) -> tuple[str, str] | None:
    if given is None:
        return None
    _require(is_tag_pair(given))
    return given[0], given[1]


Pattern = Annotated[str, AfterValidator(_pattern), "a regular expression"]
Date = Annotated[str, AfterValidator(_date), "a date as YYYY-MM-DD"]
ThinkTags = Annotated[
    tuple[str, str] | None,
    PlainValidator(_tags),
    "two different marks without white space, an opening and a closing one",
]
TemplateArgs = Annotated[
    str | Mapping[str, Any] | None,
    PlainValidator(_template_args),
    "a mapping of names to values that JSON can write",
]


@renamed(think="answer_reading")
@checked
class SIAConfig:
    """The settings of one evaluation. Where the paper states no value, the default is ours (see docs/method.md)."""

    temperature: Temperature = _sampling(0.7)
    """Sampling temperature of trajectories and rollouts. At 0 all rollouts of a checkpoint are
    the same and H is 0."""
    top_p: Fraction = _sampling(0.95)
    """Threshold of nucleus sampling (top-p) of trajectories and rollouts: the smallest set of most probable tokens
    whose probabilities add up to it. 1 samples from all tokens; there is no top-k."""
    num_rollouts: PositiveCount = _sampling(20)
    """N, rollouts drawn at each checkpoint. With target_se or max_total_tokens: those drawn at each checkpoint before
    more are allocated."""
    target_se: StandardError | None = _sampling(None, unset="no target")
    """Error to reach: the estimated root mean square error over the checkpoints, that of H with its bias. After
    num_rollouts at every checkpoint, more are drawn where each token lowers the error most."""
    target_of: TargetOf = _sampling("entropy")
    """Quantity whose error target_se sets and max_total_tokens lowers: H (entropy, in nats) or the probability of the
    gold answer (gold)."""
    max_total_tokens: Positive | None = _sampling(None, unset="no limit")
    """Budget over all problems: tokens of trajectories, and of rollouts after they diverge. What num_rollouts at every
    checkpoint leaves is spent where it lowers the error most. A budget too small for them lowers that number, to 2 at
    least."""
    stride: Positive | None = _sampling(None, unset="the task's own: 20, or 4 for the demo task")
    """Tokens between checkpoints."""
    checkpoints: Text | None = _sampling(None, unset="at the stride")
    """Where checkpoints are: stride:N (every N tokens), sentence, line or step (their ends), thinking (ends of
    sentences before the answer), or a FILE of token positions. 0 and the end are always checkpoints."""
    max_checkpoints: AtLeastTwo | None = _sampling(None, unset="no limit")
    """Maximum checkpoints per trajectory. More are thinned evenly; the first and the last stay."""
    trajectories: Text | None = _sampling(None, unset="the model draws them")
    """Trajectories to roll out from instead of drawn ones: FILE with problem_id and text or token_ids, or gold for the
    data set's own solutions."""
    num_trajectories: PositiveCount = _sampling(1, compared=False)
    """Reasoning trajectories per problem."""
    max_tokens: Positive = _sampling(600, aliases=("--max_gen_toks",))
    """Maximum new tokens per trajectory and per rollout."""
    rollout_budget: RolloutBudget = _sampling("new")
    """Whether max_tokens limits the new tokens of a rollout, or the trajectory's tokens before it and its new tokens
    together (total)."""
    seed: Seed = _sampling(0, compared=False)
    """Seed of all draws, together with the problem's id, and of half-splits and resamples."""
    share: Share = _sampling("trajectory", changes="nothing", compared=False)
    """Which rollouts share computation while they are on the same tokens: all of a trajectory, those of a checkpoint,
    or none."""
    answer_reading: AnswerReading = _answers("strict")
    """Whether an unclosed <think> block, or a text that the token limit cut, has no answer (strict) or is read like any
    other text (lenient). A complete final statement counts in both."""
    equivalence: Equivalence = _answers("spelling")
    """Which answers are equal: those of one spelling, or those that Math-Verify finds equal (boxed answers only)."""
    answer_regex: Pattern | None = _answers(None, unset="the rules of the format")
    """Regular expression that reads the answers: the group `answer`, else group 1, else all of its last match. While
    drawing it switches stop_at_answer off, which changes the draws."""
    stop_at_answer: bool = _sampling(True, compared=False)
    """End a rollout once no continuation can change its answer."""
    shuffle_prefix: bool = _sampling(False, compared=False)
    """The paper's ablation (Table 2): permute the tokens before each checkpoint, then draw its rollouts."""
    num_fewshot: NaturalCount = _prompt(0, aliases=("-f",))
    """Solved examples before the question."""
    apply_chat_template: bool | None = _prompt(None, unset="on if the model was trained with one", compared=False)
    """Whether to ask the question in the model's chat template."""
    system_instruction: Text | None = _prompt(None)
    """System turn before the question; in plain text it comes first."""
    enable_thinking: bool | None = _prompt(None, unset="the template's own")
    """Passed to the chat template as `enable_thinking`: whether the prompt asks for a think block."""
    chat_template_args: TemplateArgs = _prompt(None)
    """More variables of the chat template: name=value,name=value or JSON."""
    template_date: Date | None = _prompt(None, unset="the day on which the run begins, if the template writes a date")
    """Date in the prompts, YYYY-MM-DD, for chat templates that write one. A resumed run keeps its date."""
    think_tags: ThinkTags = _prompt(None, unset="none besides <think>")
    """OPEN,CLOSE: extra opening and closing tags that delimit a think block, besides <think>...</think>. No answer is
    read inside a think block."""
    truncate_prompt: bool = _prompt(False, compared=False)
    """Truncate a prompt that is too long from the left, and count it in the summary, instead of refusing it."""
    smoothing: Smoothing = _statistics(0.5, compared=True)
    """Alpha of the additive smoothing of the gold surprisal."""
    num_bootstrap: NaturalCount = _statistics(2000)
    """Bootstrap resamples over problems for the intervals."""
    num_splits: PositiveCount = _statistics(20)
    """Half-splits of the rollouts that the cross-fitted rho averages."""
    save_interval: Seconds = setting(20.0, group="Engine")
    """Seconds between saves of the draws of unfinished problems. A killed run loses at most this much."""

    def __post_init__(self) -> None:
        arguments = self.chat_template_args
        if (
            self.enable_thinking is not None
            and isinstance(arguments, str)
            and "enable_thinking" in json.loads(arguments)
        ):
            raise FastsiaError("enable_thinking is given twice: by itself and among chat_template_args.")
        if self.checkpoints is not None and self.stride is not None:
            raise FastsiaError(f"stride={self.stride} and checkpoints={self.checkpoints!r} exclude each other.")
        if self.allocates_rollouts:
            name = "target_se" if self.target_se is not None else "max_total_tokens"
            if self.num_rollouts < 2:
                raise FastsiaError(f"{name} needs num_rollouts >= 2, got {self.num_rollouts}.")
            if self.temperature == 0:
                raise FastsiaError(
                    f"{name} needs a temperature above 0: at 0 all rollouts of a checkpoint are the same."
                )
        if self.trajectories is not None and self.num_trajectories != 1:
            raise FastsiaError(
                f"num_trajectories={self.num_trajectories} does not apply to given trajectories: all of them count."
            )

    @property
    def allocates_rollouts(self) -> bool:
        """Whether checkpoints get further rollouts, allocated by the first `num_rollouts` of every checkpoint."""
        return self.target_se is not None or self.max_total_tokens is not None


@checked
class DataOptions:
    """Which problems are asked, and how the data is read."""

    limit: Positive | None = setting(None, group="Model and task", unset="all", aliases=("-L",))
    """Only the first N problems."""
    data_dir: str | Path | None = _data(None, unset="files from the Hub")
    """Folder with the files of the named tasks."""
    answer_format: AnswerFormat | None = _data(None, unset="the task's own")
    """Format of the answers."""
    columns: Mapping[str, Any] | None = _data(None)
    """Other names for the fields of the data: question=problem,answer=solution; options in several columns:
    choices=sol1+sol2."""
    answer_base: Annotated[int, BeforeValidator(_as_integer), Field(ge=0, le=1), "0 or 1"] | None = _data(None)
    """For data whose answers are numbers of options: the number of the first option, 0 or 1."""


@checked
class ExecutionOptions:
    """Which backend draws, and in which processes."""

    backend: BackendName = setting("native", group="Model and task", changes="draws")
    """Who draws: this package's engine (native), transformers' generate (hf), a completions server (openai) or vLLM in
    this process (vllm)."""
    executor: Executor = _ray("local")
    """Where the backend runs: in this process (local) or in the workers of a Ray cluster (ray)."""
    num_workers: Positive | None = _ray(None, unset="one per GPU, else one per machine")
    """Workers on Ray, each with the model."""
    worker_timeout: Seconds = _ray(3600.0)
    """Seconds without a response after which a worker on Ray is replaced."""


@checked
class ModelOptions:
    """How the model is loaded."""

    device: Any = _weights(None, unset="cuda if available, else cpu")
    """Device of the model: cpu, cuda, cuda:1, ..."""
    dtype: Any = _weights(
        None,
        unset="bfloat16 on a GPU; on a CPU float32, or bfloat16 for large 16-bit weights where that is faster",
        backends=("native", "hf", "vllm"),
    )
    """Data type of the weights; auto: as they are stored."""
    revision: str | None = _weights(None, backends=BACKENDS)
    """Revision of the model on the Hub."""
    trust_remote_code: bool = _weights(False, changes="nothing", backends=BACKENDS)
    """Run code that the model's repository contains."""
    peft: Any = _weights(None)
    """LoRA adapter, a folder or Hub id, that is merged into the weights."""


@checked
class EngineOptions:
    """Sizes and kernels of the engine.

    The draws do not depend on them where products are exact (docs/exactness.md); elsewhere rounding can change a draw.
    """

    max_num_seqs: Positive | None = _engine(
        None,
        unset="512; on a GPU 1,024 if memory allows; on a CPU as many as it computes in half a second, but at least 64",
        aliases=("--batch_size", "-b"),
        backends=("native", "vllm"),
    )
    """Maximum sequences in one decode step."""
    max_num_batched_tokens: Positive = _engine(1024)
    """Maximum prefill tokens per step (prompts, given trajectories, recomputed tokens); decoded tokens do not count."""
    max_concurrent_trajectories: Positive = _engine(64)
    """Maximum trajectories that are drawn at a time."""
    num_kv_blocks: Positive | None = _engine(
        None, unset="as many as fit in half of the available memory; on a GPU as gpu_memory_utilization allows"
    )
    """Blocks of the KV cache."""
    block_size: Positive = _engine(16)
    """Tokens per block of the KV cache."""
    gpu_memory_utilization: Fraction = _engine(0.9, backends=("native", "vllm"))
    """Share of a GPU's memory for weights, KV cache and steps together."""
    kernels: Literal["auto", "triton", "native", "reference"] = _engine("auto")
    """Triton kernels, the C++ core (native) or plain PyTorch (reference); auto: Triton on CUDA, else the C++ core."""
    compile: Literal["auto", "on", "graphs", "off"] = _engine("auto")
    """torch.compile and CUDA graphs (on), only CUDA graphs (graphs) or neither (off); auto: on for CUDA, else off."""
    quantization: Literal["none", "fp8"] = _engine("none", changes="draws")
    """Matrix products of the layers in 8 bits (fp8) or in the model's dtype (none). fp8 needs compute capability 9.0 on
    CUDA and is emulated on a CPU."""
    deterministic: bool = _engine(False)
    """Make rollouts on a GPU bit-identical for any batch size and order. Small steps are slower."""
    overlap: Literal["auto", "on", "off"] = _engine("auto")
    """Launch a second step before the draws of the first are read, if there are sequences for two; auto: on for CUDA,
    else off."""
    num_threads: Positive | None = _engine(None, unset="OMP_NUM_THREADS if set, else the fastest number")
    """CPU threads. The fastest number is measured with the model's largest matrix."""


@checked
class ServerOptions:
    """How a completions server is reached."""

    base_url: str | None = _server(None)
    """The server, such as http://localhost:8000/v1."""
    api_key_env: str | None = _server(None)
    """The environment variable that contains the key."""
    served_model: str | None = _server(None, unset="as --model")
    """The model's name on the server."""
    send_seed: bool = _server(True)
    """Send a seed with every call."""
    num_concurrent: Positive = _server(16)
    """Concurrent calls."""
    max_retries: Natural = _server(8)
    """Retries of a failed call."""
    timeout: Seconds = _server(600.0)
    """Seconds without a response after which a call fails."""


@checked
class VLLMOptions:
    """How vLLM is started in this process."""

    tensor_parallel_size: Positive = _vllm(1)
    """GPUs that share the model."""
    model_args: Mapping[str, Any] | None = _vllm(None)
    """Further arguments of vllm.LLM: name=value,name=value or JSON."""


@functools.cache
def declared(owner: Any) -> dict[str, Setting]:
    """The settings that a checked dataclass declares, by name."""
    annotations = get_type_hints(owner, include_extras=True)
    found = {}
    for field in dataclasses.fields(owner):
        help = one_line(owner.__pydantic_fields__[field.name].description or "")
        kind, words = _kind(annotations[field.name])
        found[field.name] = Setting(
            field.name, help, field.default, kind, words, allowed(annotations[field.name]), **field.metadata
        )
    return found


def _kind(annotation: Any) -> tuple[type, tuple[str, ...]]:
    """(type of a field's values without None, the words that it may be)."""
    while get_origin(annotation) in (Annotated, Union, UnionType):
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        return str, get_args(annotation)
    return get_origin(annotation) or annotation, ()


BACKEND_OWNERS = (ModelOptions, EngineOptions, ServerOptions, VLLMOptions)
SETTINGS: Mapping[str, Setting] = {
    name: setting
    for owner in (SIAConfig, DataOptions, ExecutionOptions, *BACKEND_OWNERS)
    for name, setting in declared(owner).items()
}
"""Every setting by name. The command line, its help, the table in docs/cli.md, the resume check and the settings that
`compare` looks at follow from it."""


def fields_of(*owners: type, changes: Changes | None = None) -> tuple[str, ...]:
    """The settings that some classes declare; with `changes`, only those that change this."""
    found = [setting for owner in owners for setting in declared(owner).values()]
    return tuple(setting.name for setting in found if changes in (None, setting.changes))


def options_of(owner: type[T], options: Mapping[str, Any]) -> T:
    """An instance of a class of settings, from options that may belong to other classes too; None is the default."""
    names = fields_of(owner)
    return owner(**{name: value for name, value in options.items() if name in names and value is not None})


def as_config(config: SIAConfig | Mapping[str, Any] | None, changes: Mapping[str, Any] | None = None) -> SIAConfig:
    """Settings from a mapping, or the defaults, with some fields replaced.

    Raises:
        FastsiaError: neither settings nor a mapping; a field that does not exist; a value that it does not accept.
    """
    if config is None or isinstance(config, Mapping):
        return SIAConfig(**accept(config or {}) | dict(changes or {}))
    if not isinstance(config, SIAConfig):
        raise FastsiaError(f"config must be a SIAConfig or a mapping, got {type(config).__name__}.")
    return dataclasses.replace(config, **(changes or {}))


def split(values: Mapping[str, Any], *groups: tuple[type, ...]) -> list[dict[str, Any]]:
    """Values of settings by the group of classes that declares them.

    Raises:
        FastsiaError: a name that none of the classes declares.
    """
    values = accept(values)
    known = fields_of(*(owner for group in groups for owner in group))
    for name in values:
        if name not in known:
            raise FastsiaError(f"evaluate has no setting {name!r}{did_you_mean(name, known)}")
    return [{name: values[name] for name in fields_of(*group) if name in values} for group in groups]


def split_settings(
    config: SIAConfig | Mapping[str, Any] | None, overrides: Mapping[str, Any]
) -> tuple[SIAConfig, dict[str, Any], dict[str, Any]]:
    """(config, how to load or reach the model, which data) of the arguments of `evaluate`."""
    fields, options, data = split(overrides, (SIAConfig,), BACKEND_OWNERS, (DataOptions,))
    return as_config(config, fields), options, data


READING_FIELDS = fields_of(SIAConfig, changes="reading")
"""Settings of how drawn texts are read. The draws do not depend on them, except that answer_regex switches
stop_at_answer off."""
MAY_DIFFER = (*READING_FIELDS, *fields_of(SIAConfig, changes="nothing"))
"""Settings in which a run may differ from the one that it resumes."""
