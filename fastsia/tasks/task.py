"""A task: problems of one kind and how prompts ask them."""

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
    """A solved question for a few-shot prompt. `answer` is canonical, as `Problem.gold` is."""

    question: str
    reasoning: str
    answer: str
    choices: tuple[str, ...] | None = None


@renamed(format="answer_format")
@dataclass(frozen=True)
class Task:
    """Problems of one kind.

    Attributes:
        name: also the name of the results folder.
        problems: in evaluation order, with distinct ids and canonical golds.
        answer_format: how answers are read, unless a problem has its own format.
        stride: tokens between checkpoints, unless the configuration sets it.
        instruction: text of the prompt besides the question; None is that of the answer format, "" none.
        exemplars: few-shot examples, used from the first on; None are those of the answer format.
        limit: the number of problems that was asked for, where the task may have more; else None.
    """

    name: str
    problems: tuple[Problem, ...]
    answer_format: AnswerFormat = "number"
    stride: int = DEFAULT_STRIDE
    instruction: str | None = None
    exemplars: tuple[Exemplar, ...] | None = None
    limit: int | None = None

    def __len__(self) -> int:
        return len(self.problems)

    def format_of(self, problem: Problem) -> AnswerFormat:
        """Return the answer format of one of the task's problems."""
        return problem.answer_format or self.answer_format

    def head(self, limit: int | None) -> Task:
        """Return the task with its first `limit` problems (None: all of them)."""
        limit = check_limit(limit)
        return self if limit is None else replace(self, problems=self.problems[:limit], limit=limit)


def check_limit(limit: int | None) -> int | None:
    """Return the limit as an int; refuse anything but None and positive integers."""
    return None if limit is None else integer_from(1, "limit", limit)


def check_format(answer_format: str | None) -> None:
    """Refuse an answer format that does not exist."""
    if answer_format is not None and not (isinstance(answer_format, str) and answer_format in ANSWER_FORMATS):
        raise FastsiaError(f"answer_format must be one of {', '.join(ANSWER_FORMATS)}, got {answer_format!r}.")


def gold_answer(text: str, answer_format: AnswerFormat, choices: tuple[str, ...] | None, where: str) -> str:
    """Return the canonical form of a gold answer; `where` begins the error message."""
    gold = canonical_gold(text, answer_format, choices)
    if gold is None:
        wanted = {
            "number": "a number; an answer that is a text needs choices, or answer_format='boxed'",
            "choice": f"one of the {len(choices or ())} options or an option's letter",
            "boxed": "an answer",
        }[answer_format]
        raise FastsiaError(f"{where}: the gold answer {text!r:.80} is not {wanted}.")
    return gold


def with_distinct_ids(problems: Iterable[Problem]) -> Iterator[Problem]:
    """Yield the problems; a repeated id gets the suffix "-2", "-3", ...

    An id depends only on the problems before it, so a larger limit does not rename any.
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
    """Return the first `limit` problems with distinct ids; `source` names them in the error if there are none."""
    found = tuple(with_distinct_ids(islice(problems, limit)))
    if not found:
        raise FastsiaError(f"{source} contains no problems.")
    return found
