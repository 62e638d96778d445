"""Read access to a run's database: its tables as frames, the texts, and the run's identity and reading."""

from __future__ import annotations

import copy
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fastsia import renamed
from fastsia.answers.vocabulary import Vocabulary
from fastsia.config import AnswerFormat, Problem
from fastsia.errors import FastsiaError, one_line
from fastsia.results import repair, schema
from fastsia.results.manifest import database_digest
from fastsia.results.schema import DATABASE, PER_PROBLEM, ClassesByTrajectory

_IDENTITY = {"model", "task", "backend", "config"}


class Store:
    """A run's database, read only; needs no model. Each read opens it again, from any thread; see `snapshot`.

    Attributes:
        digest: of the database's files before the snapshot was taken; None outside of a snapshot.

    Raises:
        FastsiaError: the database does not exist, cannot be read, or is of a later version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.digest: str | None = None
        self._connection: sqlite3.Connection | None = None
        self._positions: list[int] | None = None
        self._classes: ClassesByTrajectory | None = None
        if not self.path.is_file():
            raise FastsiaError(f"{self.path} does not exist.")
        with self._reading() as connection:
            version = schema.version_of(connection)
        schema.check_version(self.path, version)

    @contextmanager
    def snapshot(self) -> Iterator[Store]:
        """A view of the database that later writes do not change.

        Within the block, every read is from one transaction. After it, the store that was given still shows only the
        problems and the classes of equal answers of that state.
        """
        now = copy.copy(self)
        now.digest = self.digest or database_digest(self.path)
        with self._reading() as connection:
            now._connection = connection
            now._positions, now._classes = self._positions_in(connection), self._classes_in(connection)
            try:
                yield now
            finally:
                now._connection = None

    @contextmanager
    def of_problem(self, problem_id: str) -> Iterator[Store]:
        """A snapshot with this problem only, so that the others are not read."""
        now = copy.copy(self)
        with self._reading() as connection:
            found = connection.execute("SELECT position FROM problems WHERE problem_id = ?", (problem_id,)).fetchone()
            if found is None:
                raise FastsiaError(f"{self.path} has no problem {problem_id!r}.")
            now._connection, now._positions, now._classes = connection, [found[0]], self._classes_in(connection)
            try:
                yield now
            finally:
                now._connection = None

    def identity(self) -> dict[str, Any]:
        """Model, task and config of the run, as it was started. Settings have their current names."""
        with self._reading() as connection:
            found: dict[str, Any] = json.loads(schema.read_meta(connection, with_vocabulary=False)["identity"])
            if not isinstance(found, dict) or not found.keys() >= _IDENTITY:
                raise ValueError(f"its identity does not say {', '.join(sorted(_IDENTITY))}")
            if isinstance(found["config"], dict):
                found["config"] = renamed.current(found["config"])
        return found

    def vocabulary(self) -> Vocabulary:
        """The bytes of every token, from which texts and answers can be read again."""
        with self._reading() as connection:
            return Vocabulary.from_bytes(schema.read_meta(connection)["vocabulary"])

    def reading(self) -> dict[str, Any] | None:
        """How the stored answers were read: the rules' version, `answer_reading`, `equivalence`, `answer_regex`,
        `answer_reader` (a function's name and hash). None if it is not known."""
        with self._reading() as connection:
            return schema.parse_reading(schema.read_meta(connection, with_vocabulary=False))[0]

    def repairs(self) -> list[str]:
        """The notes of damaged databases that were set aside."""
        with self._reading() as connection:
            return repair.repairs(schema.read_meta(connection, with_vocabulary=False))

    def num_without_classes(self) -> int:
        """Number of trajectories without stored classes of equal answers."""
        with self._reading() as connection:
            known, ids = self._classes_in(connection), connection.execute("SELECT id FROM trajectories").fetchall()
        return sum(row[0] not in known for row in ids)

    def has_format(self, answer_format: AnswerFormat) -> bool:
        """Whether the answers to any problem are read in this format."""
        return bool(self._one("SELECT EXISTS (SELECT 1 FROM problems WHERE format = ?)", answer_format)[0])

    def num_late_comparisons(self) -> int:
        """Comparisons of two answers that took too long; such answers count as different."""
        with self._reading() as connection:
            return sum(found.num_timeouts for found in self._classes_in(connection).values())

    def check(self) -> None:
        """Read everything.

        Raises:
            FastsiaError: pages, the metadata or a problem's rows are damaged.
        """
        with self._reading() as connection:
            damage = repair.damage_of(connection)
        if damage is not None:
            raise FastsiaError(f"{self.path} is damaged ({damage}); the same `fastsia run` command repairs it.")

    def num_problems(self) -> int:
        """Number of finished problems."""
        return int(self._one("SELECT count(*) FROM problems")[0])

    def problems(self) -> pd.DataFrame:
        """One row per finished problem, in the dataset's order."""
        with self._reading() as connection:
            frame = self._shown(read_frame(connection, "problems", _PROBLEM, self._span()))
            frame["choices"] = _objects([None if text is None else json.loads(text) for text in frame["choices"]])
            frame["starts_in_think"] = frame["starts_in_think"].astype(bool)
        return frame

    def trajectories(self) -> pd.DataFrame:
        """One row per trajectory, in the dataset's order; token ids int32, log-probabilities and entropies float32."""
        with self._reading() as connection:
            frame = self._joined(connection, "trajectories", schema.TrajectoryRow._fields, ("question", "gold"))
            for name, unpack in _UNPACK.items():
                frame[name] = _objects(list(map(unpack, frame[name])))
            frame["correct"] = frame["correct"].astype(bool)
            rows = _name_by_class(frame, frame["id"], self._classes_in(connection))
            frame.loc[rows, "correct"] = frame["answer"][rows] == frame["gold"][rows]
        return frame.drop(columns=["id", "position"])

    def rollout_columns(self) -> pd.DataFrame:
        """One row per rollout with what the statistics read, in the dataset's order: no tokens.

        correct, correct_strict, correct_lenient: whether its trajectory ends correct, as the run and as each reading
        has it.
        """
        with self._reading() as connection:
            classes = self._classes_in(connection)
            frame = self._joined(connection, "rollouts", ("id", *_SCORED))
            ends = self._joined(connection, "trajectories", ("id", *_ANSWERS))
            _name_by_class(ends, ends["id"], classes)
            own = _trajectory_ids(frame)
            mine = np.searchsorted(ends["id"], own)
            for name in _ANSWERS:
                frame[name.replace("answer", "correct")] = (ends[name] == ends["gold"]).to_numpy(bool)[mine]
            _name_by_class(frame, own, classes)
        return frame.drop(columns=["id", "position"])

    def rollouts(self, problems_at_once: int = 64) -> Iterator[pd.DataFrame]:
        """All columns of the rollouts, a chunk of problems at a time; token_ids int32 arrays."""
        with self._reading() as connection:
            classes, positions = self._classes_in(connection), self._positions_in(connection)
            for begin in range(0, len(positions), problems_at_once):
                chunk = positions[begin : begin + problems_at_once]
                between = (chunk[0] * PER_PROBLEM, (chunk[-1] + 1) * PER_PROBLEM)
                frame = self._joined(connection, "rollouts", schema.RolloutRow._fields, between=between)
                ids = schema.unpack_ids(b"".join(frame["token_ids"]))
                ends = np.cumsum(frame["num_tokens"].to_numpy(np.int64))
                if ends[-1:].sum() != len(ids):
                    raise ValueError(f"rollouts say {ends[-1:].sum()} tokens and hold {len(ids)}")
                frame["token_ids"] = _objects(np.split(ids, ends)[:-1])
                _name_by_class(frame, _trajectory_ids(frame), classes)
                yield frame[list(_ROLLOUT)]

    def same_answers(self) -> dict[tuple[str, int], dict[str, str]]:
        """By (problem id, trajectory), the spelling that represents each of its answers that equals another one."""
        with self._reading() as connection:
            classes, found = self._classes_in(connection), dict[tuple[str, int], dict[str, str]]()
            for row, problem_id, trajectory in connection.execute(
                "SELECT id, problem_id, trajectory FROM trajectories"
            ):
                if names := schema.names_of(classes, row):
                    found[problem_id, trajectory] = dict(names)
        return found

    def generated_tokens(self) -> int:
        """Tokens of all stored rollouts."""
        return int(self._one("SELECT coalesce(sum(num_tokens), 0) FROM rollouts")[0])

    def num_begun(self) -> tuple[int, int]:
        """(unfinished problems of which something is stored, their rollouts that have ended)."""
        with self._reading() as connection:
            if not schema.has_parts(connection):
                return 0, 0
            found = connection.execute("SELECT count(DISTINCT position), coalesce(sum(num_ended), 0) FROM parts")
            problems, rollouts = found.fetchone()
        return problems, rollouts

    def num_stopped_at_answer(self) -> int:
        """Rollouts that stopped early because their answer could not change any more."""
        return int(self._one("SELECT count(*) FROM rollouts WHERE finish_reason = 'answer'")[0])

    def null_rates(self) -> dict[str, float | None]:
        """Share of the rollouts without an answer, in the strict and in the lenient reading."""
        rates = self._one(
            "SELECT avg(answer_strict IS NULL), avg(answer_lenient IS NULL) FROM rollouts "
            "WHERE finish_reason != 'error'"
        )
        return {"null_rate_strict": rates[0], "null_rate_lenient": rates[1]}

    def copy_to(self, path: str | os.PathLike[str]) -> None:
        """A consistent copy of the database."""
        with self._reading() as connection, closing(sqlite3.connect(path)) as target:
            connection.backup(target)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """The snapshot's connection, or a new one with a transaction of its own. Columns have their current names."""
        with _readable(self.path):
            if self._connection is not None:
                yield self._connection
                return
            with closing(_open_read_only(self.path)) as connection:
                connection.execute("BEGIN")
                schema.show_current_names(connection)
                yield connection

    def _one(self, query: str, *parameters: Any) -> Any:
        with self._reading() as connection:
            return connection.execute(query, parameters).fetchone()

    def _classes_in(self, connection: sqlite3.Connection) -> ClassesByTrajectory:
        if self._classes is not None:
            return self._classes
        return schema.parse_reading(schema.read_meta(connection, with_vocabulary=False))[1]

    def _positions_in(self, connection: sqlite3.Connection) -> list[int]:
        if self._positions is not None:
            return self._positions
        return [row[0] for row in connection.execute("SELECT position FROM problems ORDER BY position")]

    def _joined(
        self,
        connection: sqlite3.Connection,
        table: str,
        columns: Sequence[str],
        joined: Sequence[str] = ("gold",),
        between: tuple[int, int] | None = None,
    ) -> pd.DataFrame:
        """Rows of trajectories or rollouts, their problem's position, and the joined columns of their problem."""
        first, last = self._span()
        problems = read_frame(connection, "problems", ("position", *joined), (first, last))
        between = between or (first * PER_PROBLEM, last * PER_PROBLEM)
        frame = read_frame(connection, table, columns, between)
        frame["position"] = frame["id"] // PER_PROBLEM
        at = np.searchsorted(problems["position"], frame["position"])
        for name in joined:
            frame[name] = _objects(problems[name].to_numpy(object)[at])
        return self._shown(frame)

    def _span(self) -> tuple[int, int]:
        """The positions of the problems are from the first of these up to, but not, the second."""
        if not self._positions:
            return 0, 1 << 38
        return self._positions[0], self._positions[-1] + 1

    def _shown(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of the problems of a snapshot, or all."""
        if self._positions is None or np.isin(frame["position"], self._positions).all():
            return frame
        return frame[np.isin(frame["position"], self._positions)].reset_index(drop=True)


# --- frames ----------------------------------------------------------------------------------------------------

_KEYS = ("problem_id", "trajectory", "checkpoint", "rollout")
_READINGS = ("answer_strict", "answer_lenient")
_ANSWERS = ("answer", *_READINGS)
_SCORED = (*_KEYS, "finish_reason", "num_tokens", "matched_tokens", "logprob", *_ANSWERS)
_COUNTS = ("finish_reason", "num_tokens", "matched_tokens", "logprob", "seed")
_ROLLOUT = (*_KEYS, "answer", "gold", *_COUNTS, *_READINGS, "token_ids")
_PROBLEM = schema.ProblemRow._fields[:9]
_UNPACK = {
    "prompt_token_ids": schema.unpack_ids,
    "token_ids": schema.unpack_ids,
    "logprobs": schema.unpack_floats,
    "token_entropies": schema.unpack_floats,
}


def open_run(directory: str | os.PathLike[str]) -> Store:
    """The database of a results folder.

    Raises:
        FastsiaError: the folder has none.
    """
    path = Path(directory) / DATABASE
    if not path.is_file():
        raise no_run(path.parent, f"contains no run ({DATABASE})")
    return Store(path)


def no_run(folder: Path, what: str) -> FastsiaError:
    """The error that a results folder does not exist or, in the words of `what`, has no run; it names runs inside."""
    if not folder.is_dir():
        return FastsiaError(f"results folder {str(folder)!r} does not exist.")
    inside = sorted(str(found.parent) for found in folder.glob(f"*/{DATABASE}"))
    more = f" and {len(inside) - 5} more" if len(inside) > 5 else ""
    hint = f"; there are runs in {', '.join(inside[:5])}{more}" if inside else ""
    return FastsiaError(f"results folder {str(folder)!r} {what}{hint}.")


def problem_of(row: Mapping[Any, Any]) -> Problem:
    """A row of `Store.problems` as a problem."""
    choices = None if row["choices"] is None else tuple(row["choices"])
    return Problem(row["problem_id"], row["question"], row["gold"], choices, row["format"])


def read_frame(
    connection: sqlite3.Connection,
    table: str,
    columns: Sequence[str],
    between: tuple[int, int] = (0, 1 << 62),
    rows_at_once: int = 8192,
) -> pd.DataFrame:
    """Columns of a table, in the order of the ids from between[0] up to, but not, between[1].

    Equal texts are one object, and rows are read in pieces: of millions of rollouts, a text a row would be gigabytes.
    """
    key = schema.ROWS[table]._fields[0]
    cursor = connection.execute(
        f"SELECT {', '.join(columns)} FROM {table} WHERE {key} >= ? AND {key} < ? ORDER BY {key}", between
    )
    texts: dict[Any, Any] = {}
    types = [schema.dtype_of(table, name) for name in columns]
    parts: list[list[np.ndarray]] = [[np.zeros(0, dtype=dtype)] for dtype in types]
    while rows := cursor.fetchmany(rows_at_once):
        for part, dtype, column in zip(parts, types, zip(*rows, strict=True), strict=True):
            shared = (texts.setdefault(x, x) if type(x) is str else x for x in column) if dtype is object else column
            part.append(np.array(list(shared), dtype=dtype))
    whole = ((name, np.concatenate(part)) for name, part in zip(columns, parts, strict=True))
    return pd.DataFrame({name: pd.Series(values, dtype=values.dtype) for name, values in whole})


def _trajectory_ids(rollouts: pd.DataFrame) -> np.ndarray:
    """int64 [R]: the id of each rollout's trajectory."""
    return (rollouts["position"] * PER_PROBLEM + rollouts["trajectory"]).to_numpy(np.int64)


def _objects(values: Any) -> pd.Series:
    """A column of dtype object, in which None stays None and an array is one entry."""
    column = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        column[i] = value
    return pd.Series(column, dtype=object)


def _name_by_class(frame: pd.DataFrame, owner: Any, classes: ClassesByTrajectory) -> np.ndarray:
    """Replace each answer by the spelling that represents its class.

    Args:
        owner: the id of each row's trajectory.

    Returns:
        The rows of the trajectories in which some answer is replaced.
    """
    ids = np.asarray(owner, dtype=np.int64)
    rows = np.flatnonzero(np.isin(ids, [row for row in classes if schema.names_of(classes, row)]))
    if len(rows):
        for name in _ANSWERS:
            column = frame[name].to_numpy(object).copy()
            for row in rows.tolist():
                column[row] = schema.names_of(classes, ids[row]).get(column[row], column[row])
            frame[name] = pd.Series(column, index=frame.index, dtype=object)
    return rows


# --- opening ---------------------------------------------------------------------------------------------------


def _open_read_only(path: Path) -> sqlite3.Connection:
    uri = path.resolve().as_uri()
    connection = sqlite3.connect(f"{uri}?mode=ro", uri=True)
    try:
        connection.execute("SELECT 1 FROM meta LIMIT 1")
        return connection
    except sqlite3.OperationalError:
        connection.close()
        # WAL needs to create shared memory in the folder. In a read-only folder without a log, nothing can change.
        if os.access(path.parent, os.W_OK) or path.with_name(path.name + "-wal").exists():
            raise
        return sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Re-raise errors of reading and decoding a damaged or foreign database as FastsiaError."""
    try:
        yield
    except FastsiaError:
        raise
    except (sqlite3.Error, ValueError, TypeError, LookupError, RecursionError) as error:
        raise FastsiaError(f"{path} cannot be read ({one_line(error)}).") from error
