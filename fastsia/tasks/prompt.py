"""Builds the token ids of a problem's prompt: a chat turn if the tokenizer has a template, else plain text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastsia.answers.think import closes_think, mentions_marks, opens_think
from fastsia.config import AnswerFormat, Problem, SIAConfig
from fastsia.errors import FastsiaError
from fastsia.tasks import template
from fastsia.tasks.exemplars import EXEMPLARS
from fastsia.tasks.options import letters
from fastsia.tasks.task import Exemplar, Task

INSTRUCTIONS: dict[AnswerFormat, str] = {
    "number": 'Reason step by step, then give the result on a last line of its own: "####" and the number.',
    "choice": 'Reason step by step, then name the right option on a last line of its own: "Answer:" and its letter.',
    "boxed": "Reason step by step, then give the final answer inside \\boxed{}.",
}
"""Instruction of a prompt for each answer format. It asks for the marker that extraction looks for first."""

PLAIN_STOP = ("\nQuestion:", "\nQ:")
"""Texts at which a model begins a question of its own."""


@dataclass(frozen=True)
class Prompt:
    """The prompt of a problem.

    Attributes:
        token_ids: with exactly one BOS if the tokenizer or the template adds one, else without.
        text: the encoded text (for a chat the rendered template).
        starts_in_think: the template ends inside a think block, so the completion begins in one.
        stop: texts that end a sequence; empty for a chat, whose turns end with an EOS. A completion counts
            up to a stop text if there are any.
        mentions_think: the prompt contains a mark of think blocks outside the question.
        closes_think: the template ends with a closed think block, so none follows.
    """

    token_ids: tuple[int, ...]
    text: str
    starts_in_think: bool
    stop: tuple[str, ...]
    mentions_think: bool = False
    closes_think: bool = False


def build_prompt(
    task: Task,
    problem: Problem,
    tokenizer: Any,
    *,
    num_fewshot: int = 0,
    apply_chat_template: bool | None = None,
    system_instruction: str | None = None,
    template_args: Mapping[str, Any] | None = None,
    template_date: str | None = None,
    think_tags: tuple[str, str] | None = None,
) -> Prompt:
    """Build the prompt of one problem of a task.

    Args:
        tokenizer: of transformers.
        num_fewshot: number of exemplars before the question; the question itself is not used as one.
        apply_chat_template: None uses the template if there is one, False writes plain text.
        system_instruction, template_date, think_tags: as in `SIAConfig`.
        template_args: variables for the template.

    Raises:
        FastsiaError: for a missing tokenizer or template, variables without a template, a template without a system
            turn, or more exemplars than exist.
    """
    request = _ask(task, problem, tokenizer, num_fewshot, apply_chat_template, system_instruction, template_args)
    if not request.is_chat:
        if template_date is not None:
            raise FastsiaError(f"template_date {_NEEDS_TEMPLATE}")
        text = _plain_text(problem, request, system_instruction)
        mentions = mentions_marks(f"{system_instruction} {request.instruction}", think_tags)
        return Prompt(_encode(tokenizer, text), text, False, PLAIN_STOP, mentions)
    text = _render_chat(tokenizer, request, template_date)
    # The text that the template adds after the question; a <think> in the question does not open a block.
    opening = text.rpartition(request.turns[-1]["content"].strip())[2]
    added = text
    for turn in request.turns:
        added = added if turn["role"] == "system" else added.replace(turn["content"].strip(), "")
    return Prompt(
        _encode(tokenizer, text),
        text,
        opens_think(opening, think_tags),
        (),
        mentions_marks(f"{added} {request.instruction}", think_tags),
        closes_think(opening, think_tags),
    )


def prompt_options(config: SIAConfig) -> dict[str, Any]:
    """Return the arguments of `build_prompt` that the settings of a run determine."""
    return {
        "num_fewshot": config.num_fewshot,
        "apply_chat_template": config.apply_chat_template,
        "system_instruction": config.system_instruction,
        "template_args": _template_args(config),
        "template_date": config.template_date,
        "think_tags": config.think_tags,
    }


def reading_options(config: SIAConfig) -> dict[str, Any]:
    """Return the reading arguments that the settings of a run determine. In a chat there are no stop texts."""
    return {"think_tags": config.think_tags, "stop_texts": not config.apply_chat_template}


def date_of_prompts(task: Task, tokenizer: Any, config: SIAConfig) -> str | None:
    """Return today's date if the prompts of a run contain it, else None."""
    request = _first(task, tokenizer, config)
    if not request.is_chat:
        return None
    _render_chat(tokenizer, request, None)  # raises if the template refuses the turns
    return template.today() if template.asks_for_date(tokenizer, request.turns, request.variables) else None


def unread_settings(task: Task, tokenizer: Any, config: SIAConfig) -> list[str]:
    """Return a warning for each setting of the chat template that the template does not read."""
    request = _first(task, tokenizer, config)
    if not request.is_chat:
        return []
    turns, variables, day = request.turns, request.variables, config.template_date
    unread = [name for name in variables if not template.reads(tokenizer, turns, variables, name, day)]
    if day is not None and not template.reads_date(tokenizer, turns, variables):
        unread.append("template_date")
    return [f"the chat template does not use {name}: the prompts are the same without it." for name in unread]


_NEEDS_TEMPLATE = "is for a chat template, but the prompts are plain text."


@dataclass(frozen=True)
class _Request:
    """The parts of a prompt: the turns of a chat, or (is_chat False) of a plain text."""

    is_chat: bool
    answer_format: AnswerFormat
    instruction: str
    exemplars: tuple[Exemplar, ...]
    variables: Mapping[str, Any]
    turns: list[dict[str, str]] = field(default_factory=list)


def _ask(
    task: Task,
    problem: Problem,
    tokenizer: Any,
    num_fewshot: int,
    apply_chat_template: bool | None,
    system_instruction: str | None,
    template_args: Mapping[str, Any] | None,
) -> _Request:
    if tokenizer is None:
        raise FastsiaError("A prompt needs a tokenizer; pass (model, tokenizer) or Engine(model, tokenizer).")
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if apply_chat_template and not has_template:
        raise FastsiaError("apply_chat_template is true, but the tokenizer has no chat template.")
    is_chat = has_template if apply_chat_template is None else apply_chat_template
    variables = dict(template_args or {})
    if variables and not is_chat:
        raise FastsiaError(f"{next(iter(variables))} {_NEEDS_TEMPLATE}")
    answer_format = task.format_of(problem)
    instruction = INSTRUCTIONS[answer_format] if task.instruction is None else task.instruction
    exemplars = _exemplars(task, problem, answer_format, num_fewshot)
    turns = _turns(problem, instruction, exemplars, answer_format, system_instruction) if is_chat else []
    return _Request(is_chat, answer_format, instruction, exemplars, variables, turns)


def _first(task: Task, tokenizer: Any, config: SIAConfig) -> _Request:
    """The parts of the first prompt of a run; all prompts use the template in the same way."""
    options = prompt_options(config)
    asked = {name: options[name] for name in options if name not in ("template_date", "think_tags")}
    return _ask(task, task.problems[0], tokenizer, **asked)


def _template_args(config: SIAConfig) -> dict[str, Any]:
    given = config.chat_template_args
    thinking = {} if config.enable_thinking is None else {"enable_thinking": config.enable_thinking}
    return thinking | (json.loads(given) if isinstance(given, str) else dict(given or {}))


def render_question(question: str, choices: Sequence[str] | None) -> str:
    """Return the question, followed by one line for each lettered option."""
    if choices is None:
        return question
    return "\n".join([question, *(f"{a}. {text}" for a, text in zip(letters(len(choices)), choices, strict=True))])


def render_answer(answer: str, answer_format: AnswerFormat) -> str:
    """Return an answer with the marker of its format."""
    return {"number": f"#### {answer}", "choice": f"Answer: {answer}", "boxed": f"\\boxed{{{answer}}}"}[answer_format]


def _exemplars(task: Task, problem: Problem, answer_format: AnswerFormat, count: int) -> tuple[Exemplar, ...]:
    """The first `count` exemplars that are not the problem itself."""
    pool = EXEMPLARS[answer_format] if task.exemplars is None else task.exemplars
    asked = _normal(problem.question)
    usable = tuple(exemplar for exemplar in pool if _normal(exemplar.question) != asked)
    if count > len(usable):
        raise FastsiaError(f"num_fewshot must be at most {len(usable)} for the task {task.name}, got {count}.")
    return usable[:count]


def _normal(question: str) -> str:
    return " ".join(question.split()).casefold()


def _solution(exemplar: Exemplar, answer_format: AnswerFormat) -> str:
    return f"{exemplar.reasoning}\n{render_answer(exemplar.answer, answer_format)}"


def _plain_text(problem: Problem, request: _Request, system_instruction: str | None) -> str:
    parts = [text for text in (system_instruction, request.instruction) if text]
    parts += [
        f"Question: {render_question(shot.question, shot.choices)}\nAnswer: {_solution(shot, request.answer_format)}"
        for shot in request.exemplars
    ]
    # No space after the colon: tokenizers attach it to the next word.
    parts.append(f"Question: {render_question(problem.question, problem.choices)}\nAnswer:")
    return "\n\n".join(parts)


def _turns(
    problem: Problem,
    instruction: str,
    exemplars: Sequence[Exemplar],
    answer_format: AnswerFormat,
    system_instruction: str | None,
) -> list[dict[str, str]]:
    def ask(question: str, choices: Sequence[str] | None) -> dict[str, str]:
        # The instruction is in the user turn, because some templates (Gemma's) refuse a system turn.
        content = render_question(question, choices)
        return {"role": "user", "content": f"{content}\n\n{instruction}" if instruction else content}

    turns = [] if system_instruction is None else [{"role": "system", "content": system_instruction}]
    for shot in exemplars:
        turns += [ask(shot.question, shot.choices), {"role": "assistant", "content": _solution(shot, answer_format)}]
    return [*turns, ask(problem.question, problem.choices)]


def _render_chat(tokenizer: Any, request: _Request, template_date: str | None) -> str:
    """Render the template; raise if it refuses or drops the system turn."""
    turns = request.turns
    has_system = turns[0]["role"] == "system"
    try:
        text = template.render(tokenizer, turns, request.variables, template_date)
    except FastsiaError as error:
        if has_system and _renders(tokenizer, turns[1:], request.variables, template_date):
            raise FastsiaError(
                f"system_instruction: the chat template has no system turn ({error.__cause__})."
            ) from error
        raise
    if has_system and "".join(turns[0]["content"].split()) not in "".join(text.split()):
        raise FastsiaError("system_instruction: the chat template drops the system turn.")
    return text


def _renders(tokenizer: Any, turns: template.Turns, variables: Mapping[str, Any], template_date: str | None) -> bool:
    try:
        template.render(tokenizer, turns, variables, template_date)
    except FastsiaError:
        return False
    return True


def _encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Encode with exactly one BOS if the tokenizer adds one or the text begins with it, and without EOS."""
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None:
        return tuple(ids)
    start = 0
    while start < len(ids) and ids[start] == bos:
        start += 1
    puts_bos = tokenizer.encode("a", add_special_tokens=True)[:1] == [bos]
    return (*([bos] if puts_bos or start else []), *ids[start:])
