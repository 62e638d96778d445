"""Problems, and the prompts that ask them. `load_task` takes a name, a file, a list or a `datasets.Dataset`."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastsia.config import AnswerFormat, FastsiaError, Problem
from fastsia.tasks import arc, demo, gsm8k, jsonl, svamp
from fastsia.tasks.hub import PREFIX, HubData, hub_rows
from fastsia.tasks.prompt import Prompt, build_prompt
from fastsia.tasks.rows import PROBLEM_FIELDS, Row, dataset_rows, read_rows
from fastsia.tasks.task import Exemplar, Task, check_format, check_limit, collect, gold_answer

__all__ = ["TASKS", "Exemplar", "Prompt", "Task", "build_prompt", "load_task", "stored_task"]


@dataclass(frozen=True)
class _Source:
    """Where a named task's rows are: below data_dir, or on the Hub."""

    description: str
    file: str
    hub: HubData
    to_problem: Callable[[Row, AnswerFormat], Problem]
    format: AnswerFormat = "number"
    order: Callable[[Row], Any] | None = None


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?<!\.jsonl)(?<!\.json)")

_SOURCES = {
    "gsm8k": _Source("grade-school word problems, 1,319 test rows", gsm8k.FILE, gsm8k.HUB, gsm8k.to_problem),
    "svamp": _Source("short arithmetic stories, the usual 300 test rows", svamp.FILE, svamp.HUB, svamp.to_problem),
    "svamp_full": _Source(
        "all 1,000 SVAMP stories", svamp.FULL_FILE, svamp.FULL_HUB, svamp.to_problem, order=svamp.original_order
    ),
    "arc_challenge": _Source(
        "the harder science questions, 1,172 test rows", arc.CHALLENGE_FILE, arc.CHALLENGE_HUB, arc.to_problem, "choice"
    ),
    "arc_easy": _Source(
        "the easier science questions, 2,376 test rows", arc.EASY_FILE, arc.EASY_HUB, arc.to_problem, "choice"
    ),
}

TASKS: dict[str, str] = {
    "demo": f"word problems made from a seed, {demo.NUM_PROBLEMS:,} of them, no download",
    **{name: source.description for name, source in _SOURCES.items()},
}
"""The named tasks, each with one line about it."""


def load_task(
    dataset: str | os.PathLike[str] | Task | Sequence[Problem] | Any,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    format: AnswerFormat | None = None,
    columns: Mapping[str, str] | None = None,
) -> Task:
    """The problems of a data set, checked, with distinct ids and canonical golds.

    dataset: a name of `TASKS`; the path of a .jsonl (or .json) file; "hub:OWNER/NAME[@REVISION][:CONFIG[:SPLIT]]" (the
        split is "test" otherwise) or a `datasets.Dataset`, with the columns question, answer and optionally choices and
        id, or as openai/gsm8k, ChilleD/SVAMP and allenai/ai2_arc have them; a list of `Problem`; or a `Task`.
    data_dir: where named tasks find their files (gsm8k/test.jsonl, svamp/test.jsonl, svamp/SVAMP.json,
        arc/ARC-Challenge-Test.jsonl, arc/ARC-Easy-Test.jsonl); None asks the Hub.
    limit: take the first problems only. Ids, and with them seeds, do not depend on it.
    format: read answers in this format instead of the task's own; problems with options stay "choice".
    columns: of a file or data set, where it calls question, answer, choices or id something else: {"answer": "target"}.

    Raises FastsiaError: unknown name (with the nearest one), no problems, limit < 1, or a bad row (file and row named).
    """
    limit = check_limit(limit)
    check_format(format)
    columns = _check_columns(columns, dataset)
    if isinstance(dataset, Task):
        return dataset.head(limit)
    if isinstance(dataset, (str, os.PathLike)):
        if dataset == "demo":
            return _demo(limit, format)
        if isinstance(dataset, str) and dataset in _SOURCES:
            return _named(dataset, _SOURCES[dataset], data_dir, limit, format)
        if isinstance(dataset, str) and dataset.startswith(PREFIX):
            source = HubData.parse(dataset)
            return _own(source.name, _problems(hub_rows(source), columns, format), limit, format, dataset)
        path = _file(dataset)
        return _own(path.stem, _problems(read_rows(path), columns, format), limit, format, str(path))
    if isinstance(dataset, Sequence):
        return _own("problems", _checked(dataset, format), limit, format, "The list of problems")
    if hasattr(dataset, "column_names") and not isinstance(dataset, dict):
        name = str(getattr(getattr(dataset, "info", None), "dataset_name", None) or "dataset")
        problems = _problems(dataset_rows(dataset, name), columns, format)
        return _own(name, problems, limit, format, f"The data set {name!r}")
    if isinstance(dataset, dict):
        raise FastsiaError(f"dataset holds several splits ({', '.join(map(str, dataset))}); give one of them.")
    raise FastsiaError(
        "dataset must be a task's name, the path of a .jsonl file, a list of Problem or a datasets.Dataset, "
        f"got {type(dataset).__name__}."
    )


def stored_task(name: str, problems: Iterable[Problem]) -> Task:
    """A task of problems read back from results, asked as the task of that name is."""
    return Task(name, tuple(problems), instruction=demo.INSTRUCTION if name == "demo" else None)


def _demo(limit: int | None, format: AnswerFormat | None) -> Task:
    if format not in (None, "number"):
        raise FastsiaError(f"format must be number for the task demo, got {format!r}.")
    problems = tuple(demo.problems(min(limit or demo.NUM_PROBLEMS, demo.NUM_PROBLEMS)))
    return Task("demo", problems, stride=demo.STRIDE, instruction=demo.INSTRUCTION)


def _named(
    name: str, source: _Source, data_dir: str | os.PathLike[str] | None, limit: int | None, format: AnswerFormat | None
) -> Task:
    if format is not None and (format == "choice") != (source.format == "choice"):
        raise FastsiaError(f"format={format!r} does not fit the task {name}, whose own is {source.format!r}.")
    format = format or source.format
    if data_dir is None:
        rows = hub_rows(source.hub, "Without a network give data_dir, a folder with the files.")
    else:
        rows = read_rows(_below(Path(data_dir), source.file, name))
    if source.order is not None:
        rows = iter(sorted(rows, key=source.order))
    problems = collect((source.to_problem(row, format) for row in rows), limit, f"The task {name}")
    return Task(name, problems, format)


def _below(data_dir: Path, file: str, name: str) -> Path:
    path = data_dir / file
    if not path.is_file():
        what = f"has no file {file}, which the task {name} needs" if data_dir.is_dir() else "is not a folder"
        raise FastsiaError(f"data_dir {data_dir} {what}.")
    return path


def _file(dataset: str | os.PathLike[str]) -> Path:
    """The file that `dataset` names, or the error that says what it may have meant."""
    path = Path(dataset)
    if path.is_file():
        return path
    if path.suffix in (".jsonl", ".json") or path.is_dir() or len(path.parts) > 1:
        siblings = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, siblings, n=1)
        hint = f" (did you mean {path.parent / near[0]}?)" if near else ""
        if _HUB_ID.fullmatch(str(dataset)) and not (path.is_dir() or path.parent.is_dir()):
            hint = f"; a data set of the Hub is {PREFIX}{path}"
        raise FastsiaError(f"dataset {path} is not a file{hint}.")
    near = difflib.get_close_matches(str(dataset).lower(), TASKS, n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(TASKS)}, or the path of a .jsonl file."
    )
    raise FastsiaError(f"Unknown task {str(dataset)!r}: {hint}")


def _check_columns(columns: Mapping[str, str] | None, dataset: Any) -> Mapping[str, str]:
    if not columns:
        return {}
    if not isinstance(columns, Mapping) or not all(isinstance(name, str) for pair in columns.items() for name in pair):
        raise FastsiaError(f"columns must map names of fields to names of columns, got {columns!r:.80}.")
    unknown = next((name for name in columns if name not in PROBLEM_FIELDS), None)
    if unknown is not None:
        raise FastsiaError(f"columns may have {', '.join(PROBLEM_FIELDS)}, got {unknown!r}.")
    named = isinstance(dataset, str) and dataset in TASKS
    if named or (isinstance(dataset, (Task, Sequence)) and not isinstance(dataset, str)):
        what = f"the task {dataset}" if named else "problems that are read already"
        raise FastsiaError(f"columns has no meaning for {what}.")
    return columns


def _problems(rows: Iterable[Row], columns: Mapping[str, str], format: AnswerFormat | None) -> Iterator[Problem]:
    for row in rows:
        yield jsonl.to_problem(row.renamed(columns) if columns else row, format)


def _checked(problems: Iterable[Any], format: AnswerFormat | None) -> Iterator[Problem]:
    """A caller's own Problem objects with canonical golds."""
    for number, problem in enumerate(problems):
        if not isinstance(problem, Problem):
            raise FastsiaError(f"dataset[{number}] must be a Problem, got {type(problem).__name__}.")
        choices = problem.choices
        where = f"dataset[{number}] (id {problem.id!r})"
        own = problem.format or ("choice" if choices is not None else format or "number")
        if (own == "choice") != (choices is not None):
            raise FastsiaError(f"{where}: the format {own!r} and choices={choices!r} do not fit together.")
        yield replace(problem, gold=gold_answer(problem.gold, own, choices, where), format=own)


def _own(name: str, problems: Iterable[Problem], limit: int | None, format: AnswerFormat | None, source: str) -> Task:
    found = collect(problems, limit, source)
    formats = {problem.format or format or "number" for problem in found}
    return Task(name, found, formats.pop() if len(formats) == 1 else format or "number")
