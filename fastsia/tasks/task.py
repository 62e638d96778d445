"""A task: problems of one kind and how they are asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from fastsia.answers.extraction import canonical_gold
from fastsia.config import ANSWER_FORMATS, AnswerFormat, Problem, integer_from
from fastsia.errors import FastsiaError
from fastsia.renamed import renamed

DEFAULT_STRIDE = 20


@dataclass(frozen=True)
class Exemplar:
    """A solved question that may stand before the test item. `answer` is canonical, as `Problem.gold` is."""

    question: str
    reasoning: str
    answer: str
    choices: tuple[str, ...] | None = None


@renamed(format="answer_format")
@dataclass(frozen=True)
class Task:
    """Problems of one kind.

    name: also the name of its results' folder.
    problems: in evaluation order, with distinct ids and canonical golds.
    format: how answers are read where a problem does not say.
    stride: tokens between checkpoints where the configuration does not say.
    instruction: what the prompt asks for besides the question; None is the answer format's own, "" nothing.
    exemplars: what few-shot prompts draw from, first to last; None is the answer format's own.
    """

    name: str
    problems: tuple[Problem, ...]
    answer_format: AnswerFormat = "number"
    stride: int = DEFAULT_STRIDE
    instruction: str | None = None
    exemplars: tuple[Exemplar, ...] | None = None

    def __len__(self) -> int:
        return len(self.problems)

    def format_of(self, problem: Problem) -> AnswerFormat:
        """The answer format of one of the task's problems."""
        return problem.answer_format or self.answer_format

    def head(self, limit: int | None) -> Task:
        """The task with its first `limit` problems (None: all of them)."""
        check_limit(limit)
        return replace(self, problems=self.problems[:limit])


def check_limit(limit: int | None) -> int | None:
    """The limit as an int; refuses what is not None or a positive integer."""
    return None if limit is None else integer_from(1, "limit", limit)


def check_format(answer_format: str | None) -> None:
    """Refuse an answer format that does not exist."""
    if answer_format is not None and not (isinstance(answer_format, str) and answer_format in ANSWER_FORMATS):
        raise FastsiaError(f"answer_format must be one of {', '.join(ANSWER_FORMATS)}, got {answer_format!r}.")


def gold_answer(text: str, answer_format: AnswerFormat, choices: tuple[str, ...] | None, where: str) -> str:
    """The canonical form of a gold answer; `where` opens the sentence of the error."""
    gold = canonical_gold(text, answer_format, choices)
    if gold is None:
        wanted = {
            "number": "a number",
            "choice": f"one of the {len(choices or ())} options or an option's letter",
            "boxed": "an answer",
        }[answer_format]
        raise FastsiaError(f"{where}: the gold answer {text!r:.80} is not {wanted}.")
    return gold


def with_distinct_ids(problems: Iterable[Problem]) -> Iterator[Problem]:
    """The same problems; an id that came before gets the suffix "-2", "-3", ...

    An id depends on the problems before it only, so a larger limit renames nothing.
    """
    seen: set[str] = set()
    for problem in problems:
        key, number = problem.id, 1
        while key in seen:
            number += 1
            key = f"{problem.id}-{number}"
        seen.add(key)
        yield problem if key == problem.id else replace(problem, id=key)


def collect(problems: Iterable[Problem], limit: int | None, source: str) -> tuple[Problem, ...]:
    """The first `limit` problems, with distinct ids; `source` names them where there are none."""
    found = tuple(with_distinct_ids(islice(problems, limit)))
    if not found:
        raise FastsiaError(f"{source} holds no problems.")
    return found
