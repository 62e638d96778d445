"""From a problem to the token ids of its prompt: a chat turn where the tokenizer has a template, else plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastsia.config import AnswerFormat, FastsiaError, Problem
from fastsia.tasks.exemplars import EXEMPLARS
from fastsia.tasks.options import letters
from fastsia.tasks.task import Exemplar, Task

INSTRUCTIONS: dict[AnswerFormat, str] = {
    "number": 'Reason step by step, then give the result on a last line of its own: "####" and the number.',
    "choice": 'Reason step by step, then name the right option on a last line of its own: "Answer:" and its letter.',
    "boxed": "Reason step by step, then give the final answer inside \\boxed{}.",
}
"""What a prompt asks for besides its question. The marker in it is the one that extraction looks for first."""

PLAIN_STOP = ("\nQuestion:", "\nQ:")
"""Where a model that goes on with a question of its own has left the problem."""


@dataclass(frozen=True)
class Prompt:
    """What the model reads.

    token_ids: with exactly one BOS where the tokenizer or the template puts one, with none otherwise.
    text: what was encoded (for a chat the rendered template).
    starts_in_think: the template ends inside a <think> block, so the completion begins in one.
    stop: texts that end a sequence; empty for a chat, whose turns end in an EOS.
    """

    token_ids: tuple[int, ...]
    text: str
    starts_in_think: bool
    stop: tuple[str, ...]


def build_prompt(
    task: Task,
    problem: Problem,
    tokenizer: Any,
    *,
    num_fewshot: int = 0,
    apply_chat_template: bool | None = None,
) -> Prompt:
    """The prompt of one problem of a task.

    tokenizer: of transformers. num_fewshot: exemplars before the question, never the question itself.
    apply_chat_template: None uses the template where there is one, False asks in plain text.

    Raises FastsiaError: no tokenizer, a template asked for but absent, more exemplars than there are.
    """
    if tokenizer is None:
        raise FastsiaError("A prompt needs a tokenizer; give (model, tokenizer) or Engine(model, tokenizer).")
    template = bool(getattr(tokenizer, "chat_template", None))
    if apply_chat_template and not template:
        raise FastsiaError("apply_chat_template is true, but the tokenizer has no chat template.")
    format = task.format_of(problem)
    instruction = INSTRUCTIONS[format] if task.instruction is None else task.instruction
    exemplars = _exemplars(task, problem, format, num_fewshot)
    if template if apply_chat_template is None else apply_chat_template:
        return _chat(problem, tokenizer, instruction, exemplars, format)
    text = _plain_text(problem, instruction, exemplars, format)
    return Prompt(_encode(tokenizer, text), text, False, PLAIN_STOP)


def render_question(question: str, choices: Sequence[str] | None) -> str:
    """The question, with its options lettered on lines of their own."""
    if choices is None:
        return question
    return "\n".join([question, *(f"{a}. {text}" for a, text in zip(letters(len(choices)), choices, strict=True))])


def render_answer(answer: str, format: AnswerFormat) -> str:
    """An answer behind the marker of its format."""
    return {"number": f"#### {answer}", "choice": f"Answer: {answer}", "boxed": f"\\boxed{{{answer}}}"}[format]


def _exemplars(task: Task, problem: Problem, format: AnswerFormat, count: int) -> tuple[Exemplar, ...]:
    """The first `count` exemplars that are not the problem itself."""
    pool = EXEMPLARS[format] if task.exemplars is None else task.exemplars
    asked = _normal(problem.question)
    usable = tuple(exemplar for exemplar in pool if _normal(exemplar.question) != asked)
    if count > len(usable):
        raise FastsiaError(f"num_fewshot must be at most {len(usable)} for the task {task.name}, got {count}.")
    return usable[:count]


def _normal(question: str) -> str:
    return " ".join(question.split()).casefold()


def _solution(exemplar: Exemplar, format: AnswerFormat) -> str:
    return f"{exemplar.reasoning}\n{render_answer(exemplar.answer, format)}"


def _plain_text(problem: Problem, instruction: str, exemplars: Sequence[Exemplar], format: AnswerFormat) -> str:
    parts = [instruction] if instruction else []
    parts += [
        f"Question: {render_question(shot.question, shot.choices)}\nAnswer: {_solution(shot, format)}"
        for shot in exemplars
    ]
    # No space after the colon: tokenizers put it in front of the next word.
    parts.append(f"Question: {render_question(problem.question, problem.choices)}\nAnswer:")
    return "\n\n".join(parts)


def _chat(
    problem: Problem, tokenizer: Any, instruction: str, exemplars: Sequence[Exemplar], format: AnswerFormat
) -> Prompt:
    def ask(question: str, choices: Sequence[str] | None) -> dict[str, str]:
        # In the user's turn, because some templates (Gemma's) refuse a system turn.
        content = render_question(question, choices)
        return {"role": "user", "content": f"{content}\n\n{instruction}" if instruction else content}

    turns: list[dict[str, str]] = []
    for shot in exemplars:
        turns += [ask(shot.question, shot.choices), {"role": "assistant", "content": _solution(shot, format)}]
    turns.append(ask(problem.question, problem.choices))
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program of the model's authors: it may raise anything
        raise FastsiaError(f"The tokenizer's chat template failed: {error}") from error
    # What the template adds behind the question; a <think> that stands in the question itself opens nothing.
    opening = text.rpartition(turns[-1]["content"].strip())[2]
    in_think = opening.rfind("<think>") > opening.rfind("</think>")
    return Prompt(_encode(tokenizer, text), text, in_think, ())


def _encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Token ids with exactly one BOS where the tokenizer puts one or the text opens with it; no EOS added."""
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None:
        return tuple(ids)
    start = 0
    while start < len(ids) and ids[start] == bos:
        start += 1
    puts_bos = tokenizer.encode("a", add_special_tokens=True)[:1] == [bos]
    return (*([bos] if puts_bos or start else []), *ids[start:])
