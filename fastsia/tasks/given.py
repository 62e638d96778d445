"""Inputs for the problems of a task: given trajectories, and positions of checkpoints."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fastsia.answers.placement import BOUNDARIES, CheckpointFunction, Placement
from fastsia.answers.think import closing_mark
from fastsia.answers.vocabulary import Vocabulary
from fastsia.config import Problem, integer, is_text
from fastsia.errors import FastsiaError, did_you_mean
from fastsia.tasks.prompt import render_answer
from fastsia.tasks.records import FORMATS, Record, format_of, read_records
from fastsia.tasks.task import Task

GOLD = "gold"
"""The value of `trajectories` that means the problems' own solutions."""

_IDS = ("problem_id", "id")
_STRIDE = "stride:"


# --- trajectories ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GivenTrajectory:
    """One given trajectory: a text, token ids, or both.

    Attributes:
        where: begins the error about it.
        is_solution: the text is a problem's solution; its answer's line is missing.
    """

    where: str
    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    is_solution: bool = False

    def encode(self, tokenizer: Any, vocabulary: Vocabulary, eos: Sequence[int]) -> tuple[int, ...]:
        """Its token ids, without an EOS at the end.

        Raises:
            FastsiaError: ids outside the vocabulary; a text that its tokens do not decode to; an EOS inside.
        """
        ids = self.token_ids
        if ids is None:
            ids = tuple(tokenizer.encode(self.text, add_special_tokens=False))
            if (decoded := vocabulary.decode(ids)) != self.text:
                raise FastsiaError(
                    f"{self.where}: the tokens of the text decode to another one ({_difference(self.text, decoded)}); "
                    "give token_ids."
                )
        wrong = next((i for i in ids if not 0 <= i < len(vocabulary)), None)
        if wrong is not None:
            raise FastsiaError(
                f"{self.where}: token id {wrong} is outside the model's vocabulary (0 to {len(vocabulary) - 1})."
            )
        while ids and ids[-1] in eos:
            ids = ids[:-1]
        if any(i in eos for i in ids):
            place = next(t for t, i in enumerate(ids) if i in eos)
            raise FastsiaError(f"{self.where}: token {place} of {len(ids)} is an end-of-sequence token.")
        if self.token_ids is not None and self.text and (decoded := vocabulary.decode(ids)) != self.text:
            raise FastsiaError(
                f"{self.where}: token_ids decode to another text than the given one "
                f"({_difference(self.text, decoded)}); they may be those of another tokenizer: leave them out."
            )
        return ids


@dataclass(frozen=True)
class GivenTrajectories:
    """Given trajectories by the id of their problem.

    Attributes:
        name: of the file or the argument, with a digest of the content; stored with the run.
        rows: for each problem, in their order.
        are_solutions: they are the problems' own solutions.
    """

    name: str
    rows: Mapping[str, tuple[GivenTrajectory, ...]]
    are_solutions: bool = False

    def restrict(self, task: Task) -> Task:
        """The task with only the problems that have a trajectory."""
        problems = tuple(problem for problem in task.problems if problem.id in self.rows)
        return replace(task, problems=problems, limit=len(problems))


def read_trajectories(source: Any, task: Task) -> GivenTrajectories:
    """Read given trajectories.

    Args:
        source: a file in one of `FORMATS`, a DataFrame, an iterable of records, or "gold". A record has `problem_id`
            (or `id`) and `text` or `token_ids`; several records of a problem are several trajectories of it.
        task: its problems. Records of problems that its `limit` left out are ignored.

    Raises:
        FastsiaError: a missing column, an unknown problem or a wrong value; it names file and row.
    """
    if isinstance(source, str) and source == GOLD:
        return _solutions(task)
    found: dict[str, list[GivenTrajectory]] = {}
    known = {problem.id for problem in task.problems}
    name = ""
    for record in _records(source, "trajectories"):
        name, problem = record.source, _problem_of(record, known, task)
        text, ids = record.fields.get("text"), _missing_as_none(record.fields.get("token_ids"))
        if not {"text", "token_ids"} & record.fields.keys():
            raise record.error("field 'text' or 'token_ids' is missing")
        if text is not None and not is_text(text):
            raise record.error(f"field 'text' must be a text, got {text!r:.60}")
        if not text and ids is None:
            raise record.error("the trajectory is empty")
        if problem is not None:
            token_ids = None if ids is None else _integers(record, "token_ids", ids)
            found.setdefault(problem, []).append(GivenTrajectory(record.where, text, token_ids))
    if not found:
        raise FastsiaError(f"{name or 'trajectories'} contains no trajectory of a problem of the task {task.name}.")
    rows = {problem: tuple(found[problem]) for problem in sorted(found)}
    content = [(problem, row.text, row.token_ids) for problem, several in rows.items() for row in several]
    return GivenTrajectories(_named(name, content), rows)


def _solutions(task: Task) -> GivenTrajectories:
    rows = {
        problem.id: (GivenTrajectory(f"the solution of problem {problem.id!r}", problem.solution, is_solution=True),)
        for problem in task.problems
        if problem.solution is not None
    }
    if not rows:
        raise FastsiaError(f"trajectories={GOLD!r}: the task {task.name} has no solutions.")
    return GivenTrajectories(GOLD, rows, are_solutions=True)


def with_answer(
    given: GivenTrajectory, task: Task, problem: Problem, prompt: str, starts_in_think: bool
) -> GivenTrajectory:
    """A solution as a response to a prompt: with the line of its answer, after the think block that the prompt opened,
    and with a space before it where a plain prompt ends with "Answer:"."""
    if not given.is_solution:
        return given
    text = given.text or ""
    answer_format = task.format_of(problem)
    line = render_answer(problem.gold, answer_format)
    if starts_in_think:
        text = f"{text}\n{closing_mark(prompt)}\n\n{line}"
    elif answer_format != "boxed" or "\\boxed" not in text:
        text = f"{text}\n{line}"
    return replace(given, text=f" {text}" if prompt.endswith(":") else text)


# --- checkpoints -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunPlacement:
    """The placement of the checkpoints of all trajectories of a run.

    Attributes:
        name: what is stored with the run.
        base: the placement of all trajectories.
        rows: (where, positions) by problem and trajectory, or by problem and None for all of its trajectories.
    """

    name: str | None
    base: Placement
    rows: Mapping[tuple[str, int | None], tuple[str, tuple[int, ...]]] | None = None

    def placement(self, problem: str, trajectory: int) -> Placement:
        """The placement of one trajectory.

        Raises:
            FastsiaError: the file has no row for it.
        """
        if self.rows is None:
            return self.base
        row = self.rows.get((problem, trajectory)) or self.rows.get((problem, None))
        if row is None:
            raise FastsiaError(f"{self.base.where} has no row for trajectory {trajectory} of problem {problem!r}.")
        where, positions = row
        return replace(self.base, fixed=positions, where=where)


def read_run_placement(
    checkpoints: str | os.PathLike[str] | CheckpointFunction | None,
    task: Task,
    *,
    stride: int,
    most: int | None,
    name_of: Callable[[Any], str],
) -> RunPlacement:
    """Read a setting of checkpoints.

    Args:
        checkpoints: "stride:N", a name in `BOUNDARIES`, a file, a function, or None for every `stride` tokens.
        task: its problems.
        most: see `Placement`.
        name_of: the name of a function.

    Raises:
        FastsiaError: no such setting or file; a row of it with an unknown problem or with positions that do not ascend.
    """
    base = Placement(stride, most=most)
    if checkpoints is None:
        return RunPlacement(None, base)
    if callable(checkpoints):
        return RunPlacement(name_of(checkpoints), replace(base, function=checkpoints))
    if not isinstance(checkpoints, (str, os.PathLike)):
        raise FastsiaError(f"checkpoints must be a text, a file or a function, got {type(checkpoints).__name__}.")
    text = os.fspath(checkpoints)
    if text.startswith(_STRIDE):
        number = text.removeprefix(_STRIDE)
        if not number.isdecimal() or int(number) < 1:
            raise FastsiaError(f"checkpoints must be {_STRIDE}N with an integer N >= 1, got {text!r}.")
        return RunPlacement(None, replace(base, stride=int(number)))
    if text in BOUNDARIES:
        return RunPlacement(text, replace(base, boundary=text))
    if not Path(text).is_file():
        words = (*BOUNDARIES, _STRIDE + "N")
        hint = did_you_mean(text, words, otherwise=f"; there are {', '.join(words)}, or a file.")
        raise FastsiaError(f"checkpoints {text!r} is no kind of checkpoints and no file{hint}")
    rows: dict[tuple[str, int | None], tuple[str, tuple[int, ...]]] = {}
    known = {problem.id for problem in task.problems}
    for record in _records(text, "checkpoints"):
        problem = _problem_of(record, known, task)
        positions = _integers(record, "checkpoints", record.value("checkpoints"))
        falls = next((i for i in range(1, len(positions)) if positions[i] <= positions[i - 1]), None)
        if falls is not None:
            raise record.error(f"checkpoints must ascend, but {positions[falls]} follows {positions[falls - 1]}")
        if positions and positions[0] < 0:
            raise record.error(f"checkpoints must be >= 0, got {positions[0]}")
        number = _missing_as_none(record.fields.get("trajectory"))
        trajectory = None if number is None else integer(number)
        if number is not None and (trajectory is None or trajectory < 0):
            raise record.error(f"field 'trajectory' must be an integer >= 0, got {number!r:.60}")
        if problem is None:
            continue
        if (problem, trajectory) in rows:
            what = "" if trajectory is None else f"trajectory {trajectory} of "
            raise record.error(f"{what}problem {problem!r} has checkpoints already")
        rows[problem, trajectory] = record.where, positions
    content = sorted((problem, -1 if n is None else n, positions) for (problem, n), (_, positions) in rows.items())
    return RunPlacement(_named(text, content), replace(base, where=text), rows)


# --- records ---------------------------------------------------------------------------------------------------


def _records(source: Any, setting: str) -> Iterator[Record]:
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.is_file():
            siblings = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
            raise FastsiaError(
                f"{setting} {str(source)!r} is not a file{did_you_mean(path.name, siblings, otherwise='.')}"
            )
        if format_of(path) in (".csv", ".tsv"):
            raise FastsiaError(f"{setting} {path} must be JSON lines, JSON or parquet; a table of texts has no lists.")
        return read_records(path)
    if isinstance(source, pd.DataFrame):
        source = source.to_dict("records")
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise FastsiaError(
            f"{setting} must be a file ({', '.join(FORMATS)}), a DataFrame or records with problem_id and text or "
            f"token_ids, got {type(source).__name__}."
        )
    return _mappings(source, setting)


def _mappings(source: Iterable[Any], setting: str) -> Iterator[Record]:
    for number, fields in enumerate(source, start=1):
        if not isinstance(fields, Mapping):
            raise FastsiaError(f"{setting}, row {number}: expected a mapping of fields, got {fields!r:.60}.")
        yield Record(setting, number, fields)


def _problem_of(record: Record, known: set[str], task: Task) -> str | None:
    """The id of a record's problem; None where the task's limit left the problem out."""
    field = next((name for name in _IDS if name in record.fields), None)
    if field is None:
        raise record.error("field 'problem_id' is missing")
    problem = record.text_or_number(field)
    if problem in known:
        return problem
    if task.limit is not None and task.limit <= len(task):
        return None
    raise record.error(f"the task {task.name} has no problem {problem!r:.80}")


def _missing_as_none(value: Any) -> Any:
    return None if value is None or (isinstance(value, float) and np.isnan(value)) else value


def _integers(record: Record, field: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise record.error(f"field {field!r} must be a list of integers, got {value!r:.60}")
    items = list(value)
    found = [integer(item) for item in items]
    if None in found:
        raise record.error(f"field {field!r} must contain only integers, got {items[found.index(None)]!r:.60}")
    return tuple(number for number in found if number is not None)


def _named(name: str, content: Any) -> str:
    """A file's name with a digest of its content."""
    digest = hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()
    return f"{Path(name).name} sha256:{digest[:16]}"


def _difference(text: str | None, decoded: str) -> str:
    text = text or ""
    place = next(
        (i for i, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b), min(len(text), len(decoded))
    )
    return f"character {place}: {text[place : place + 20]!r} becomes {decoded[place : place + 20]!r}"
