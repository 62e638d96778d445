"""Problems and their prompts. `load_task` accepts a name, a file, a list or a `datasets.Dataset`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastsia.config import AnswerFormat, Problem
from fastsia.errors import FastsiaError, did_you_mean
from fastsia.renamed import renamed
from fastsia.tasks import arc, competition, demo, gsm8k, jsonl, svamp
from fastsia.tasks.hub import PREFIX, HubData, hub_records
from fastsia.tasks.options import Options, letters, right_option
from fastsia.tasks.prompt import Prompt, build_prompt, prompt_options, reading_options
from fastsia.tasks.records import FORMATS, PROBLEM_FIELDS, Record, dataset_records, format_of, read_records, stem_of
from fastsia.tasks.task import Exemplar, Task, check_format, check_limit, collect, gold_answer

__all__ = [
    "TASKS",
    "Exemplar",
    "Prompt",
    "Task",
    "build_prompt",
    "load_task",
    "prompt_options",
    "reading_options",
    "stored_task",
]


@dataclass(frozen=True)
class _Source:
    """Where the records of a named task are: in the first existing file below data_dir, or on the Hub."""

    description: str
    files: tuple[str, ...]
    hub: HubData
    to_problem: Callable[[Record, AnswerFormat], Problem]
    answer_format: AnswerFormat = "number"
    order: Callable[[Record], Any] | None = None


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

Columns = Mapping[str, str | Sequence[str]]

_SOURCES = {
    "gsm8k": _Source("grade-school word problems, 1,319 test rows", (gsm8k.FILE,), gsm8k.HUB, gsm8k.to_problem),
    "svamp": _Source("short arithmetic stories, the usual 300 test rows", (svamp.FILE,), svamp.HUB, svamp.to_problem),
    "svamp_full": _Source(
        "all 1,000 SVAMP stories", (svamp.FULL_FILE,), svamp.FULL_HUB, svamp.to_problem, order=svamp.original_order
    ),
    "arc_challenge": _Source(
        "the harder science questions, 1,172 test rows",
        arc.CHALLENGE_FILES,
        arc.CHALLENGE_HUB,
        arc.to_problem,
        "choice",
    ),
    "arc_easy": _Source(
        "the easier science questions, 2,376 test rows", arc.EASY_FILES, arc.EASY_HUB, arc.to_problem, "choice"
    ),
    "math500": _Source(
        "500 test rows of MATH, answers are formulas",
        competition.MATH500_FILES,
        competition.MATH500_HUB,
        competition.to_problem,
        "boxed",
    ),
    "aime24": _Source(
        "the 30 problems of AIME 2024",
        competition.AIME24_FILES,
        competition.AIME24_HUB,
        competition.to_problem,
        "boxed",
    ),
    "aime25": _Source(
        "the 30 problems of AIME 2025",
        competition.AIME25_FILES,
        competition.AIME25_HUB,
        competition.to_problem,
        "boxed",
    ),
}

TASKS: dict[str, str] = {
    "demo": f"word problems made from a seed, {demo.NUM_PROBLEMS:,} of them, no download",
    **{name: source.description for name, source in _SOURCES.items()},
}
"""The named tasks, each with a one-line description."""


@renamed(format="answer_format")
def load_task(
    dataset: str | os.PathLike[str] | Task | Sequence[Problem] | Any,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    answer_format: AnswerFormat | None = None,
    columns: Columns | None = None,
    answer_base: int | None = None,
) -> Task:
    """Load the problems of a data set with distinct ids and canonical golds.

    Args:
        dataset: a name in `TASKS`; the path of a .jsonl, .json, .csv, .tsv or .parquet file (text formats also as .gz);
            "hub:OWNER/NAME[@REVISION][:CONFIG[:SPLIT]]" (SPLIT defaults to "test") or a `datasets.Dataset`; a list of
            `Problem`; or a `Task`. Files and data sets have the columns question, answer and optionally choices, labels
            and id, or the layout of openai/gsm8k, ChilleD/SVAMP, allenai/ai2_arc or HuggingFaceH4/MATH-500.
        data_dir: folder with the files of named tasks (gsm8k/test.jsonl, svamp/test.jsonl, svamp/SVAMP.json,
            arc/ARC-Challenge-Test.jsonl, arc/ARC-Easy-Test.jsonl, math500/test.jsonl, aime24/test.jsonl,
            aime25/test.jsonl); None loads them from the Hub.
        limit: load only the first problems. Ids, and therefore seeds, do not depend on it.
        answer_format: overrides the answer format of the task; problems with options remain "choice".
        columns: maps question, answer, choices, labels and id to columns of other names: {"answer": "target"}. Options
            in separate columns: {"choices": ["sol1", "sol2"]}, or "sol1+sol2".
        answer_base: for answers that are an option's index, the index of the first option: 0 or 1.

    Raises:
        FastsiaError: for an unknown name (with the nearest one), no problems, limit < 1, or an invalid record (with its
            file and row).
    """
    limit = check_limit(limit)
    task = _load(dataset, data_dir, limit, answer_format, columns, answer_base)
    return task if limit is None else replace(task, limit=limit)


def _load(
    dataset: str | os.PathLike[str] | Task | Sequence[Problem] | Any,
    data_dir: str | os.PathLike[str] | None,
    limit: int | None,
    answer_format: AnswerFormat | None,
    columns: Columns | None,
    answer_base: int | None,
) -> Task:
    check_format(answer_format)
    columns = _check_columns(columns, dataset)
    answer_base = _check_base(answer_base, dataset)
    read = _Reader(columns, answer_format, answer_base)
    if isinstance(dataset, Task):
        return dataset.head(limit)
    if isinstance(dataset, (str, os.PathLike)):
        if dataset == "demo":
            return _demo(limit, answer_format)
        if isinstance(dataset, str) and dataset in _SOURCES:
            return _named(dataset, _SOURCES[dataset], data_dir, limit, answer_format)
        if isinstance(dataset, str) and dataset.startswith(PREFIX):
            source = HubData.parse(dataset)
            return read.task(source.name, hub_records(source), limit, dataset)
        path = _file(dataset)
        return read.task(stem_of(path), read_records(path), limit, str(path))
    if isinstance(dataset, Sequence):
        return _own("problems", _checked(dataset, answer_format), limit, answer_format, "The list of problems")
    if hasattr(dataset, "column_names") and not isinstance(dataset, dict):
        name = str(getattr(getattr(dataset, "info", None), "dataset_name", None) or "dataset")
        return read.task(name, dataset_records(dataset, name), limit, f"The data set {name!r}")
    if isinstance(dataset, dict):
        raise FastsiaError(f"dataset has several splits ({', '.join(map(str, dataset))}); pass one of them.")
    raise FastsiaError(
        "dataset must be a task's name, the path of a file, a list of Problem or a datasets.Dataset, "
        f"got {type(dataset).__name__}."
    )


def stored_task(name: str, problems: Iterable[Problem]) -> Task:
    """Return a task of problems read from stored results, with the instruction of the task of that name."""
    return Task(name, tuple(problems), instruction=demo.INSTRUCTION if name == "demo" else None)


def _demo(limit: int | None, answer_format: AnswerFormat | None) -> Task:
    if answer_format not in (None, "number"):
        raise FastsiaError(f"answer_format must be number for the task demo, got {answer_format!r}.")
    problems = tuple(demo.problems(min(limit or demo.NUM_PROBLEMS, demo.NUM_PROBLEMS)))
    return Task("demo", problems, stride=demo.STRIDE, instruction=demo.INSTRUCTION)


def _named(
    name: str,
    source: _Source,
    data_dir: str | os.PathLike[str] | None,
    limit: int | None,
    answer_format: AnswerFormat | None,
) -> Task:
    if answer_format is not None and (answer_format == "choice") != (source.answer_format == "choice"):
        raise FastsiaError(
            f"answer_format={answer_format!r} does not fit the task {name}, whose own is {source.answer_format!r}."
        )
    answer_format = answer_format or source.answer_format
    if data_dir is None:
        records = hub_records(source.hub, "Without a network, set data_dir to a folder with the files.")
    else:
        records = read_records(_below(Path(data_dir), source.files, name))
    if source.order is not None:
        records = iter(sorted(records, key=source.order))
    problems = collect((source.to_problem(record, answer_format) for record in records), limit, f"The task {name}")
    return Task(name, problems, answer_format)


def _below(data_dir: Path, files: tuple[str, ...], name: str) -> Path:
    path = next((data_dir / file for file in files if (data_dir / file).is_file()), None)
    if path is None:
        wanted = " or ".join(files)
        what = f"has no file {wanted}, which the task {name} needs" if data_dir.is_dir() else "is not a folder"
        raise FastsiaError(f"data_dir {data_dir} {what}.")
    return path


def _file(dataset: str | os.PathLike[str]) -> Path:
    """The file that `dataset` names; the error otherwise suggests similar names."""
    path = Path(dataset)
    if path.is_file():
        return path
    if format_of(path) is not None or path.is_dir() or len(path.parts) > 1:
        siblings = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, siblings, otherwise=".")
        if _HUB_ID.fullmatch(str(dataset)) and format_of(path) is None and not (path.is_dir() or path.parent.is_dir()):
            hint = f"; a data set of the Hub is {PREFIX}{path}."
        raise FastsiaError(f"dataset {path} is not a file{hint}")
    otherwise = f"; there are {', '.join(TASKS)}, or the path of a file ({', '.join(FORMATS)})."
    raise FastsiaError(f"Unknown task {str(dataset)!r}{did_you_mean(str(dataset), TASKS, n=3, otherwise=otherwise)}")


def _check_columns(columns: Columns | None, dataset: Any) -> Columns:
    if not columns:
        return {}
    if not isinstance(columns, Mapping) or not all(isinstance(name, str) for name in columns):
        raise FastsiaError(f"columns must map names of fields to names of columns, got {columns!r:.80}.")
    unknown = next((name for name in columns if name not in PROBLEM_FIELDS), None)
    if unknown is not None:
        raise FastsiaError(f"columns may have {', '.join(PROBLEM_FIELDS)}, got {unknown!r}.")
    for name, column in columns.items():
        several = name == "choices" and isinstance(column, (list, tuple)) and len(column) > 1
        if not (isinstance(column, str) or (several and all(isinstance(part, str) for part in column))):
            raise FastsiaError(
                "columns must map names of fields to names of columns, and choices to one or to several of them, got "
                f"{name}={column!r:.80}."
            )
    _refuse_if_read(dataset, "columns")
    return columns


def _check_base(answer_base: int | None, dataset: Any) -> int | None:
    if answer_base is None:
        return None
    if isinstance(answer_base, bool) or answer_base not in (0, 1):
        raise FastsiaError(f"answer_base must be 0 or 1, got {answer_base!r:.80}.")
    _refuse_if_read(dataset, "answer_base")
    return int(answer_base)


def _refuse_if_read(dataset: Any, setting: str) -> None:
    """Refuse a setting for reading records where none are read: for a named task, or for Problem objects."""
    named = isinstance(dataset, str) and dataset in TASKS
    if named or (isinstance(dataset, (Task, Sequence)) and not isinstance(dataset, str)):
        what = f"the task {dataset}" if named else "Problem objects"
        raise FastsiaError(f"{setting} does not apply to {what}.")


@dataclass(frozen=True)
class _Reader:
    """Converts the records of a file or data set to problems."""

    columns: Columns
    answer_format: AnswerFormat | None
    answer_base: int | None

    def task(self, name: str, records: Iterable[Record], limit: int | None, source: str) -> Task:
        """The task of the first `limit` records; `source` names them in an error."""
        found = _own(name, map(self._problem, records), limit, self.answer_format, source)
        if self.answer_base is not None and all(problem.choices is None for problem in found.problems):
            raise FastsiaError(f"answer_base={self.answer_base} does not apply to {source}: no problem has options.")
        if self.answer_format in ("number", "boxed") and all(problem.choices for problem in found.problems):
            raise FastsiaError(
                f"answer_format={self.answer_format!r} does not apply to {source}: every problem has options."
            )
        return found

    def _problem(self, record: Record) -> Problem:
        return jsonl.to_problem(
            record.renamed(self.columns) if self.columns else record, self.answer_format, self.answer_base
        )


def _checked(problems: Iterable[Any], answer_format: AnswerFormat | None) -> Iterator[Problem]:
    """Check a caller's Problem objects and make their golds canonical."""
    for number, problem in enumerate(problems):
        if not isinstance(problem, Problem):
            raise FastsiaError(f"dataset[{number}] must be a Problem, got {type(problem).__name__}.")
        choices = problem.choices
        where = f"dataset[{number}] (id {problem.id!r})"
        own = problem.answer_format or ("choice" if choices is not None else answer_format or "number")
        if (own == "choice") != (choices is not None):
            raise FastsiaError(f"{where}: the format {own!r} and choices={choices!r} are incompatible.")
        yield replace(problem, gold=_gold(problem, own, where), answer_format=own)


def _gold(problem: Problem, answer_format: AnswerFormat, where: str) -> str:
    if problem.choices is None:
        return gold_answer(problem.gold, answer_format, None, where)
    if problem.gold in tuple(letters(len(problem.choices))):
        return problem.gold  # as documented in `Problem`
    index = right_option(
        problem.gold.strip(),
        Options(problem.choices),
        None,
        lambda what: FastsiaError(f"{where}: the gold answer is {what}."),
    )
    return letters(len(problem.choices))[index]


def _own(
    name: str, problems: Iterable[Problem], limit: int | None, answer_format: AnswerFormat | None, source: str
) -> Task:
    found = collect(problems, limit, source)
    formats = {problem.answer_format or answer_format or "number" for problem in found}
    return Task(name, found, formats.pop() if len(formats) == 1 else answer_format or "number")
