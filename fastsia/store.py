"""A run on disk: `run.sqlite`, one transaction a finished problem, and its exports as parquet.

What is committed survives a kill; what is damaged is set aside, never trusted. Row ids follow from a problem's place
in its dataset, so a resumed run's tables equal an uninterrupted one's.
"""

from __future__ import annotations

import errno
import fcntl
import json
import marshal
import os
import sqlite3
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fastsia import renamed
from fastsia.answers.equivalence import Classes
from fastsia.answers.vocabulary import Vocabulary
from fastsia.config import MAY_DIFFER, AnswerFormat, Problem, SIAConfig
from fastsia.engine.sequence import FINISH_REASONS, Rollouts, Trajectory
from fastsia.errors import FastsiaError
from fastsia.files import replacing

DATABASE = "run.sqlite"
LOCK = ".lock"
SCHEMA_VERSION = 1
SET_ASIDE = "was set aside as"
"""In every note of a damaged database."""

# A row's id is its problem's place in the dataset times this, plus a number within the problem.
_PER_PROBLEM = 1 << 24

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE problems (
    position INTEGER PRIMARY KEY, problem_id TEXT NOT NULL UNIQUE, question TEXT NOT NULL, gold TEXT NOT NULL,
    choices TEXT, format TEXT NOT NULL, prompt TEXT NOT NULL, starts_in_think INTEGER NOT NULL,
    cut_prompt_tokens INTEGER NOT NULL, num_trajectories INTEGER NOT NULL, num_rollouts INTEGER NOT NULL,
    checksum INTEGER NOT NULL
);
CREATE TABLE trajectories (
    id INTEGER PRIMARY KEY, problem_id TEXT NOT NULL, trajectory INTEGER NOT NULL, seed INTEGER NOT NULL,
    finish_reason TEXT NOT NULL, error TEXT, text TEXT NOT NULL, answer TEXT, answer_strict TEXT, answer_lenient TEXT,
    correct INTEGER NOT NULL, num_tokens INTEGER NOT NULL, prompt_token_ids BLOB NOT NULL, token_ids BLOB NOT NULL,
    logprobs BLOB NOT NULL, token_entropies BLOB NOT NULL
);
CREATE TABLE rollouts (
    id INTEGER PRIMARY KEY, problem_id TEXT NOT NULL, trajectory INTEGER NOT NULL, checkpoint INTEGER NOT NULL,
    rollout INTEGER NOT NULL, seed INTEGER NOT NULL, finish_reason TEXT NOT NULL, answer TEXT, answer_strict TEXT,
    answer_lenient TEXT, num_tokens INTEGER NOT NULL, ride_tokens INTEGER NOT NULL, logprob REAL,
    token_ids BLOB NOT NULL
);
"""
_HEAD = ("schema_version", "identity", "vocabulary")
# How the stored answers were read, which of them count as equal, and the checksum of both. Apart from the head: where
# these are damaged, the texts are read again.
_READING = ("reading", "equivalents", "reading_checksum")
_IDENTITY = {"model", "task", "backend", "config"}
# A database's files by what is added to its name.
_PARTS = ("", "-wal", "-shm", "-journal")
# What comes up where a database is read that is not what it should be.
_UNREADABLE = (sqlite3.DatabaseError, ValueError, TypeError, RecursionError)
# What sqlite says of a database that it could not get at, whatever it holds.
_OUTER_ERRORS = {
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}
_TABLES = {"problems": 12, "trajectories": 16, "rollouts": 14}


@dataclass(frozen=True)
class ScoredTrajectory:
    """A finished trajectory with the answers read from it and from its rollouts.

    text: the decoded trajectory. answer: as the run's `answer_reading` reads it. rollout_answers: (answer, strict,
    lenient)
    lists, one entry a rollout; empty where the trajectory failed.
    """

    number: int
    trajectory: Trajectory
    text: str
    answer: str | None
    answer_strict: str | None
    answer_lenient: str | None
    correct: bool
    rollout_answers: tuple[list[str | None], list[str | None], list[str | None]] = ([], [], [])


@dataclass(frozen=True)
class FinishedProblem:
    """Everything of one problem, written in one transaction. `position` is its place in the dataset."""

    position: int
    problem: Problem
    answer_format: str
    prompt: str
    starts_in_think: bool
    cut_prompt_tokens: int
    trajectories: Sequence[ScoredTrajectory] = field(default_factory=tuple)


@dataclass(frozen=True)
class StoredProblem:
    """A finished problem as it was drawn, to be read again. trajectories: (number, trajectory); their rollouts have no
    log-probabilities."""

    position: int
    problem: Problem
    answer_format: AnswerFormat
    starts_in_think: bool
    trajectories: Sequence[tuple[int, Trajectory]]


@dataclass(frozen=True)
class Reread:
    """What came of reading stored texts again: how many answers of trajectories and rollouts there are, how many are
    others now, and how many of those are of rollouts that were stopped early, whose rest was never drawn.

    before, after: the readings, as `Store.reading`; before is None where it is not known.
    """

    num_answers: int
    num_changed: int
    num_stopped_changed: int
    before: Mapping[str, Any] | None
    after: Mapping[str, Any]

    def __str__(self) -> str:
        if self.before is None:
            changes = "how they had been read is not known"
        else:
            changes = ", ".join(
                f"{name} {_said(self.before.get(name))} → {_said(value)}"
                for name, value in self.after.items()
                if self.before.get(name) != value
            )
        text = f"{self.num_changed:,} of {self.num_answers:,} answers changed{changes and f': {changes}'}."
        if self.num_stopped_changed:
            text += (
                f" {self.num_stopped_changed:,} of them are of rollouts that were stopped early at the answer read "
                "before; what would have come after it was never drawn."
            )
        return text


def _said(value: Any) -> str:
    return "none" if value is None else str(value)


Grouping = Callable[[Sequence[str], str, AnswerFormat], Classes]
"""From the distinct answers of a trajectory, its gold answer and their format to which of them are equal."""

Grouped = dict[int, Classes]
"""By the id of a trajectory; without the answers that stand for themselves."""


class StoreWriter:
    """The one writer of a results folder, which stays locked until `close`.

    Opening resumes: `done` are the positions of finished problems. `notes` says what was found and done on opening.
    durable=False is for a database that dies with its process.

    reading: how the answers that will be added are read, as `Store.reading`; the attribute is how those in the database
    are. A database whose answers were read in another way opens all the same: `reread` them before adding any.

    Raises FastsiaError: another writer holds the folder; the folder holds a run of another identity (each difference
    is named); the database cannot be written.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        identity: Mapping[str, Any],
        vocabulary: Vocabulary,
        *,
        reading: Mapping[str, Any] | None = None,
        durable: bool = True,
    ) -> None:
        self.directory = Path(directory)
        self.path = self.directory / DATABASE
        self._repaired = self.directory / f"{DATABASE}.repaired"
        self.notes: list[str] = []
        self._writing = threading.Lock()
        self._is_closed = False
        # Also where an interrupt comes before somebody holds this object who would close it.
        self._unlock = weakref.finalize(self, _unlock, _lock(self.directory), os.getpid())
        self._unlock.atexit = False
        try:
            self._connection = self._open(dict(identity), vocabulary, reading)
            self.reading, self._equivalents = _read_about_answers(self._connection)
            if not durable:
                self._connection.execute("PRAGMA synchronous = OFF")
            self.done: set[int] = {row[0] for row in self._connection.execute("SELECT position FROM problems")}
        except BaseException:
            self._unlock()
            raise

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check_problem(self, position: int, problem: Problem, prompt_ids: Sequence[int], prompt: str) -> bool:
        """Refuse to go on where a finished problem is no longer the same one, or is asked differently.

        Returns: whether its gold answer is the stored one. The draws do not depend on it; see `reread`.
        """
        *stored, gold, asked = self._connection.execute(
            "SELECT problem_id, question, choices, gold, prompt FROM problems WHERE position = ?", (position,)
        ).fetchone()
        now = (problem.id, problem.question, _choices(problem))
        for name, before, after in zip(("id", "question", "choices"), stored, now, strict=True):
            if before != after:
                raise FastsiaError(
                    f"{self.directory} holds another dataset: {name} of problem {position + 1} was {_short(before)}, "
                    f"is now {_short(after)}; use another output folder."
                )
        before_ids = self._connection.execute(
            "SELECT prompt_token_ids FROM trajectories WHERE id = ?", (position * _PER_PROBLEM,)
        ).fetchone()
        if before_ids is not None and not np.array_equal(unpack_ids(before_ids[0]), np.array(prompt_ids)):
            raise FastsiaError(
                f"{self.directory} holds a run with another prompt (first seen at problem {problem.id!r}): "
                f"{_difference(asked, prompt)}; use another output folder."
            )
        return bool(gold == problem.gold)

    def reread(
        self,
        read: Callable[[StoredProblem], Sequence[ScoredTrajectory]],
        identity: Mapping[str, Any],
        reading: Mapping[str, Any],
        *,
        group: Grouping | None = None,
        golds: Mapping[int, str] | None = None,
        positions: Iterable[int] | None = None,
    ) -> Reread:
        """Read the answers of finished problems again, and store them in one transaction: all of them or none.

        read: the answers of a problem. identity: its settings of reading become the run's. reading: what `read` does.
        group: which answers are equal; None where that is their spelling. golds: gold answers that were corrected, by
        position. positions: None means all.
        """
        found = (0, 0, 0)
        golds = golds or {}
        equivalents: Grouped = {} if positions is None else dict(self._equivalents)
        with self._writing, self._changing():
            for position in sorted(self.done if positions is None else positions):
                counts = self._reread_problem(position, read, group, golds.get(position), equivalents)
                found = (found[0] + counts[0], found[1] + counts[1], found[2] + counts[2])
            self._write_reading(reading, equivalents)
            head = _read_head(self._connection)
            settings = dict(identity["config"])
            head["identity"] = json.dumps(json.loads(head["identity"]) | {"config": settings}, sort_keys=True)
            self._set_meta({"identity": head["identity"], "checksum": _head_checksum(head)})
        before, self.reading, self._equivalents = self.reading, dict(reading), equivalents
        return Reread(*found, before, reading)

    def group(self, group: Grouping) -> None:
        """Store which answers are equal for the trajectories where that is not known yet."""
        missing: Grouped = {}
        ids = [row[0] for row in self._connection.execute("SELECT id FROM trajectories ORDER BY id")]
        for position in dict.fromkeys(row // _PER_PROBLEM for row in ids if row not in self._equivalents):
            gold, answer_format = self._connection.execute(
                "SELECT gold, format FROM problems WHERE position = ?", (position,)
            ).fetchone()
            trajectories, rollouts = _read_drawn(self._connection, position)
            for row in trajectories:
                if row[0] not in self._equivalents:
                    answers = _distinct([row, *(r for r in rollouts if r[2] == row[2])])
                    missing[row[0]] = _unequal(group(answers, gold, answer_format))
        if missing:
            equivalents = self._equivalents | missing
            with self._writing, self._changing():
                self._write_reading(self.reading or {}, equivalents)
            self._equivalents = equivalents

    def _reread_problem(
        self,
        position: int,
        read: Callable[[StoredProblem], Sequence[ScoredTrajectory]],
        group: Grouping | None,
        gold: str | None,
        equivalents: Grouped,
    ) -> tuple[int, int, int]:
        """(answers, those that changed, those among them whose rollouts were stopped early) of one problem."""
        rows = _read_problem(self._connection, position)
        if rows is None:
            raise FastsiaError(
                f"{self.path} is damaged (the rows of problem {position + 1} do not match their checksum)."
            )
        head, trajectories, rollouts = rows
        if gold is not None:
            head = (*head[:3], gold, *head[4:])
        num_changed = num_stopped = 0
        new_trajectories: list[Any] = []
        new_rollouts: list[Any] = []
        for row, scored in zip(trajectories, read(_stored_problem(head, trajectories, rollouts)), strict=True):
            mine = [r for r in rollouts if r[2] == row[2]]
            answers = zip(*scored.rollout_answers, strict=True)
            row_now = (
                *row[:7],
                scored.answer,
                scored.answer_strict,
                scored.answer_lenient,
                int(scored.correct),
                *row[11:],
            )
            mine_now = [(*r[:7], *new, *r[10:]) for r, new in zip(mine, answers, strict=True)]
            before = _names(self._equivalents, row[0])
            after: Mapping[str, str] = {}
            if group is not None:
                equivalents[row[0]] = _unequal(group(_distinct([row_now, *mine_now]), head[3], head[5]))
                after = _names(equivalents, row[0])
            for old, new in zip([row, *mine], [row_now, *mine_now], strict=True):
                if before.get(old[7], old[7]) != after.get(new[7], new[7]):
                    num_changed += 1
                    num_stopped += old is not row and old[6] == "answer"
            new_trajectories.append(row_now)
            new_rollouts += mine_now
        changed = [row for row, old in zip(new_trajectories, trajectories, strict=True) if row != old]
        self._connection.executemany(
            "UPDATE trajectories SET answer = ?, answer_strict = ?, answer_lenient = ?, correct = ? WHERE id = ?",
            [(*row[7:11], row[0]) for row in changed],
        )
        new_rollouts.sort(key=lambda row: row[0])
        self._connection.executemany(
            "UPDATE rollouts SET answer = ?, answer_strict = ?, answer_lenient = ? WHERE id = ?",
            [(*row[7:10], row[0]) for row, old in zip(new_rollouts, rollouts, strict=True) if row != old],
        )
        self._connection.execute(
            "UPDATE problems SET gold = ?, checksum = ? WHERE position = ?",
            (head[3], _checksum(head[:-1], new_trajectories, new_rollouts), position),
        )
        return len(trajectories) + len(rollouts), num_changed, num_stopped

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One transaction over what is stored."""
        if self._is_closed:
            raise FastsiaError(f"{self.path} is closed.")
        with _opening(self.path), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield

    def _write_reading(self, reading: Mapping[str, Any], equivalents: Grouped) -> None:
        self._set_meta(_reading_rows(reading, equivalents))

    def _set_meta(self, rows: Mapping[str, Any]) -> None:
        self._connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows.items())

    def add(self, finished: FinishedProblem) -> None:
        """Commit one finished problem: all of it or nothing. From any thread."""
        rows = _rows(finished)
        with self._writing:
            if self._is_closed:
                raise FastsiaError(f"{self.path} is closed; problem {finished.problem.id!r} was not stored.")
            try:
                _insert(self._connection, rows)
            except sqlite3.Error as error:
                raise FastsiaError(
                    f"{self.path} cannot be written ({error}); the {len(self.done)} problems finished before are kept, "
                    "and the same command resumes once there is room."
                ) from error
            self.done.add(finished.position)

    def close(self) -> None:
        """Fold the log into the database, which is one plain file then, and release the folder.

        Another thread's `add` is waited for: sqlite crashes where a connection is closed under a write.
        """
        self._is_closed = True  # who waits for his turn is refused
        try:
            with self._writing:
                with suppress(sqlite3.Error):  # a reader is at it, or the disk is full: the log stays, and is as good
                    self._connection.execute("PRAGMA journal_mode = DELETE")
                self._connection.close()
        finally:  # also where the wait is interrupted
            self._unlock()

    def _open(
        self, identity: dict[str, Any], vocabulary: Vocabulary, reading: Mapping[str, Any] | None
    ) -> sqlite3.Connection:
        refuse_links(self.directory, (DATABASE + suffix for suffix in _PARTS))
        head = {
            "schema_version": SCHEMA_VERSION,
            "identity": json.dumps(identity, sort_keys=True),
            "vocabulary": vocabulary.to_bytes(),
        }
        head["checksum"] = _head_checksum(head)
        if reading is not None:
            head |= _reading_rows(reading, {})
        with _opening(self.path):
            if not self.path.exists() and self._repaired.exists():  # a kill between the two renamings of a repair
                self._repaired.rename(self.path)
            damage = _damage(self.path)
            if damage is not None:
                self._repair(damage, head, identity, vocabulary)
            elif not _has_tables(self.path):
                _create(self.path, head)
            connection = _connect(self.path)
            try:
                self._check_identity(_read_head(connection), identity, vocabulary)
            except BaseException:
                connection.close()
                raise
        return connection

    def _repair(
        self, damage: str, head: Mapping[str, Any], identity: Mapping[str, Any], vocabulary: Vocabulary
    ) -> None:
        """Set the database aside; a new one with all that is whole of it takes its place once it is complete."""
        found, salvaged = _salvage(self.path)
        if found:
            self._check_identity(found, identity, vocabulary)
            # What is read back was read as it was read.
            head = {key: value for key, value in head.items() if key not in _READING}
            head |= {key: found[key] for key in _READING if key in found}
        try:
            _remove(self._repaired)
            _create(self._repaired, head, salvaged)
            _fold(self._repaired)
        except BaseException:
            _remove(self._repaired)
            raise
        aside = _set_aside(self.path)
        self._repaired.rename(self.path)
        self.notes.append(
            f"{self.path} is damaged ({damage}); it {SET_ASIDE} {aside.name}, and "
            f"{len(salvaged)} finished problems were read back from it."
        )

    def _check_identity(self, meta: Mapping[str, Any], identity: Mapping[str, Any], vocabulary: Vocabulary) -> None:
        if meta.get("schema_version") != SCHEMA_VERSION:
            raise FastsiaError(
                f"{self.path} has schema version {meta.get('schema_version')}, this fastsia writes {SCHEMA_VERSION}; "
                "use another output folder."
            )
        after = flatten(json.loads(json.dumps(identity)))  # what is stored has lists for tuples
        before = with_defaults(flatten(json.loads(meta["identity"])), after)
        before |= {key: after.get(key) for key in _MAY_DIFFER}
        if before.get(_DATE) is None:  # it is not known of the runs of older versions; the prompts are compared
            before[_DATE] = after.get(_DATE)
        if before.get("model.fingerprint") == after.get("model.fingerprint"):
            for key in ("model.name", "model.peft", "model.quantization"):  # the same weights may lie elsewhere
                before[key] = after.get(key)
        changed = [
            f"{key} was {json.dumps(before.get(key))}, is now {json.dumps(after.get(key))}"
            for key in dict.fromkeys([*before, *after])
            if before.get(key) != after.get(key)
        ]
        if meta["vocabulary"] != vocabulary.to_bytes():
            changed.append(_vocabulary_change(meta["vocabulary"], vocabulary))
        if changed:
            raise FastsiaError(f"{self.directory} holds another run: {'; '.join(changed)}. Use another output folder.")


class Store:
    """A run's database, read only; needs no model. Each read opens it anew, so it may be used from any thread."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FastsiaError(f"{self.path} does not exist.")
        with self._reading() as connection:
            version = dict(connection.execute("SELECT key, value FROM meta WHERE key = 'schema_version'"))
        if version.get("schema_version") != SCHEMA_VERSION:
            raise FastsiaError(
                f"{self.path} has schema version {version.get('schema_version')}, this fastsia reads {SCHEMA_VERSION}."
            )

    def identity(self) -> dict[str, Any]:
        """Model, task and config of the run, as it was started."""
        with self._reading() as connection:
            (text,) = connection.execute("SELECT value FROM meta WHERE key = 'identity'").fetchone()
            found: dict[str, Any] = json.loads(text)
            if not isinstance(found, dict) or not found.keys() >= _IDENTITY:
                raise ValueError(f"its identity does not say {', '.join(sorted(_IDENTITY))}")
        return found

    def vocabulary(self) -> Vocabulary:
        """The bytes of every token, so that texts and answers can be read again."""
        with self._reading() as connection:
            (blob,) = connection.execute("SELECT value FROM meta WHERE key = 'vocabulary'").fetchone()
            return Vocabulary.from_bytes(blob)

    def reading(self) -> dict[str, Any] | None:
        """How the stored answers were read: the rules' version, `answer_reading`, `equivalence`, `answer_regex`,
        `answer_reader`
        (a function's name and hash). None where that is not known."""
        with self._reading() as connection:
            return _read_about_answers(connection)[0]

    def num_ungrouped(self) -> int:
        """Trajectories for which is not stored which of their answers are equal."""
        with self._reading() as connection:
            known = _read_about_answers(connection)[1]
            ids = connection.execute("SELECT id FROM trajectories").fetchall()
        return sum(row[0] not in known for row in ids)

    def has_format(self, answer_format: AnswerFormat) -> bool:
        """Whether the answers to any problem are read in this format."""
        with self._reading() as connection:
            query = "SELECT EXISTS (SELECT 1 FROM problems WHERE format = ?)"
            return bool(connection.execute(query, (answer_format,)).fetchone()[0])

    def num_late_comparisons(self) -> int:
        """Comparisons of two answers that took too long; such answers count as different."""
        return sum(found.num_timeouts for found in self._equivalents().values())

    def check(self) -> None:
        """Read everything: FastsiaError where pages, the head or a problem's rows are damaged."""
        with self._reading() as connection:
            damage = _damage_of(connection)
        if damage is not None:
            raise FastsiaError(f"{self.path} is damaged ({damage}); the same `fastsia run` command repairs it.")

    def num_problems(self) -> int:
        """How many problems are finished."""
        with self._reading() as connection:
            (count,) = connection.execute("SELECT count(*) FROM problems").fetchone()
        return int(count)

    def problems(self) -> pd.DataFrame:
        """One row a finished problem, in the dataset's order."""
        columns = "position, problem_id, question, gold, choices, format, prompt, starts_in_think, cut_prompt_tokens"
        frame = self._frame(f"SELECT {columns} FROM problems ORDER BY position")
        with _readable(self.path):
            frame["choices"] = [None if text is None else json.loads(text) for text in frame["choices"]]
            frame["starts_in_think"] = frame["starts_in_think"].astype(bool)
        return frame

    def trajectories(self) -> pd.DataFrame:
        """One row a trajectory, in the dataset's order; token ids int32, log-probabilities and entropies float32."""
        frame = self._frame(
            "SELECT t.problem_id, trajectory, question, gold, answer, correct, finish_reason, num_tokens, text, "
            "answer_strict, answer_lenient, t.seed, error, prompt_token_ids, token_ids, logprobs, token_entropies, "
            "t.id FROM trajectories t JOIN problems p ON p.position = t.id / ? ORDER BY t.id",
            (_PER_PROBLEM,),
        )
        with _readable(self.path):
            for name in ("prompt_token_ids", "token_ids"):
                frame[name] = _column([unpack_ids(blob) for blob in frame[name]])
            for name in ("logprobs", "token_entropies"):
                frame[name] = _column([np.frombuffer(blob, dtype="<f4").astype(np.float32) for blob in frame[name]])
            frame["correct"] = frame["correct"].astype(bool)
            rows = _name_by_class(frame, frame.pop("id"), self._equivalents())
            frame.loc[rows, "correct"] = frame["answer"][rows] == frame["gold"][rows]
        return frame

    def rollout_columns(self) -> pd.DataFrame:
        """One row a rollout with what the statistics read: no tokens. In the dataset's order. correct, correct_strict,
        correct_lenient: whether its trajectory ends correct, as the run and as each reading has it."""
        with self._reading() as connection:
            problems = connection.execute(
                "SELECT position, problem_id, gold FROM problems ORDER BY position"
            ).fetchall()
            trajectories = connection.execute(
                "SELECT id, answer, answer_strict, answer_lenient FROM trajectories ORDER BY id"
            ).fetchall()
            equivalents = _read_about_answers(connection)[1]
            frame = _to_compact_frame(
                connection.execute(
                    "SELECT id / ? AS position, trajectory, checkpoint, rollout, answer, finish_reason, num_tokens, "
                    "ride_tokens, answer_strict, answer_lenient FROM rollouts ORDER BY id",
                    (_PER_PROBLEM,),
                )
            )
            # Joined here: sqlite would look up two rows for each of these.
            position = frame.pop("position").to_numpy(np.int64)
            at = np.searchsorted([row[0] for row in problems], position)
            own = position * _PER_PROBLEM + frame["trajectory"].to_numpy(np.int64)
            ids, golds = (np.array([row[i] for row in problems], dtype=object)[at] for i in (1, 2))
            frame.insert(0, "problem_id", pd.Series(ids, dtype=object))
            frame["gold"] = pd.Series(golds, dtype=object)
            gold_of = {row[0]: row[2] for row in problems}
            mine = np.searchsorted([row[0] for row in trajectories], own)
            for place, name in enumerate(("correct", "correct_strict", "correct_lenient"), start=1):
                ends = [
                    _names(equivalents, row[0]).get(row[place], row[place]) == gold_of.get(row[0] // _PER_PROBLEM)
                    for row in trajectories
                ]
                frame[name] = np.array(ends, dtype=bool)[mine]
            _name_by_class(frame, own, equivalents)
        return frame

    def rollouts(self, problems_at_once: int = 64) -> Iterator[pd.DataFrame]:
        """All columns of the rollouts, a chunk of problems at a time; token_ids int32 arrays."""
        with self._reading() as connection:
            equivalents = _read_about_answers(connection)[1]
            positions = [row[0] for row in connection.execute("SELECT position FROM problems ORDER BY position")]
            for begin in range(0, len(positions), problems_at_once):
                chunk = positions[begin : begin + problems_at_once]
                cursor = connection.execute(
                    "SELECT r.problem_id, trajectory, checkpoint, rollout, answer, gold, finish_reason, num_tokens, "
                    "ride_tokens, logprob, seed, answer_strict, answer_lenient, token_ids, position "
                    "FROM rollouts r JOIN problems p ON p.position = r.id / ? "
                    "WHERE r.id >= ? AND r.id < ? ORDER BY r.id",
                    (_PER_PROBLEM, chunk[0] * _PER_PROBLEM, (chunk[-1] + 1) * _PER_PROBLEM),
                )
                frame = _to_frame(cursor)
                ids = unpack_ids(b"".join(frame["token_ids"]))
                ends = np.cumsum(frame["num_tokens"].to_numpy(np.int64))
                if ends[-1:].sum() != len(ids):
                    raise ValueError(f"rollouts say {ends[-1:].sum()} tokens and hold {len(ids)}")
                frame["token_ids"] = _column(np.split(ids, ends)[:-1])
                owner = frame.pop("position").to_numpy(np.int64) * _PER_PROBLEM
                _name_by_class(frame, owner + frame["trajectory"].to_numpy(np.int64), equivalents)
                yield frame

    def generated_tokens(self) -> int:
        """Tokens of all stored rollouts."""
        with self._reading() as connection:
            (total,) = connection.execute("SELECT coalesce(sum(num_tokens), 0) FROM rollouts").fetchone()
        return int(total)

    def num_stopped_at_answer(self) -> int:
        """Rollouts that the streaming stop ended: their answer could change no more."""
        with self._reading() as connection:
            (count,) = connection.execute("SELECT count(*) FROM rollouts WHERE finish_reason = 'answer'").fetchone()
        return int(count)

    def null_rates(self) -> dict[str, float | None]:
        """Share of the rollouts without an answer, by each reading of an unclosed thinking block."""
        with self._reading() as connection:
            rates = connection.execute(
                "SELECT avg(answer_strict IS NULL), avg(answer_lenient IS NULL) FROM rollouts "
                "WHERE finish_reason != 'error'"
            ).fetchone()
        return {"null_rate_strict": rates[0], "null_rate_lenient": rates[1]}

    def _equivalents(self) -> Grouped:
        with self._reading() as connection:
            return _read_about_answers(connection)[1]

    def copy_to(self, path: str | os.PathLike[str]) -> None:
        """A consistent copy of the database."""
        with self._reading() as connection, closing(sqlite3.connect(path)) as target:
            connection.backup(target)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with _readable(self.path), closing(_open_read_only(self.path)) as connection:
            yield connection

    def _frame(self, query: str, parameters: tuple[Any, ...] = ()) -> pd.DataFrame:
        with self._reading() as connection:
            return _to_frame(connection.execute(query, parameters))


def pack_ids(token_ids: np.ndarray) -> bytes:
    """Token ids as 3 bytes each, little-endian."""
    ids = np.ascontiguousarray(token_ids, dtype="<i4")
    if ids.size and (ids.min() < 0 or ids.max() >= 1 << 24):
        raise FastsiaError(f"token id {int(ids.max())} cannot be stored: ids go from 0 to {(1 << 24) - 1}.")
    return ids.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()


def unpack_ids(blob: bytes) -> np.ndarray:
    """The inverse of `pack_ids`: int32."""
    padded = np.zeros((len(blob) // 3, 4), dtype=np.uint8)
    padded[:, :3] = np.frombuffer(blob, dtype=np.uint8).reshape(-1, 3)
    return padded.view("<i4").reshape(-1).astype(np.int32, copy=False)


def ride_tokens(trajectory_ids: np.ndarray, checkpoint: np.ndarray, offsets: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """How many tokens of each rollout agree with its trajectory from the checkpoint on, int64 [R]."""
    lengths = np.diff(offsets)
    rides = lengths.astype(np.int64).copy()
    if len(ids) == 0:
        return rides
    row = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(ids)) - np.repeat(offsets[:-1], lengths)
    at = checkpoint[row] + place
    padded = np.append(trajectory_ids, -1)
    differs = np.flatnonzero(padded[np.minimum(at, len(trajectory_ids))] != ids)
    first_rows, first = np.unique(row[differs], return_index=True)
    rides[first_rows] = place[differs[first]]
    return rides


def write_json(path: Path, value: Any) -> None:
    """A JSON file in one step; NaN is refused, undefined numbers must be null."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """A text file in one step."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def write_parquet(path: Path, frames: pd.DataFrame | Iterable[pd.DataFrame]) -> None:
    """A parquet file in one step, from one frame or from chunks of one."""
    chunks = [frames] if isinstance(frames, pd.DataFrame) else frames
    with replacing(path) as temporary:
        writer: pq.ParquetWriter | None = None
        try:
            for chunk in chunks:
                table = pa.Table.from_pandas(
                    chunk, schema=None if writer is None else writer.schema, preserve_index=False
                )
                if writer is None:
                    writer = pq.ParquetWriter(temporary, _typed(table.schema))
                writer.write_table(table.cast(writer.schema))
        except FastsiaError:
            raise
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            reason = " ".join(" ".join(map(str, error.args)).split())
            raise FastsiaError(f"{path} cannot be written: {reason}.") from error
        finally:
            if writer is not None:
                writer.close()


def refuse_links(directory: Path, names: Iterable[str]) -> None:
    """A link in a results folder could lead a write out of it."""
    for name in names:
        if (directory / name).is_symlink():
            raise FastsiaError(f"{directory / name} is a symbolic link; results are not written through links.")


_MAY_DIFFER = tuple(f"config.{name}" for name in MAY_DIFFER)
_DATE = "config.template_date"


def with_defaults(before: dict[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """A flat identity with the defaults of the settings that it lacks and a later one has, as an older version's do."""
    defaults = flatten({"config": vars(SIAConfig())})
    before = renamed.current(before, {f"config.{old}": f"config.{new}" for old, new in renamed.SETTINGS.items()})
    return {key: value for key, value in defaults.items() if key in now} | before


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= flatten(item, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = item
    return found


# --- rows ------------------------------------------------------------------------------------------------------


def _rows(finished: FinishedProblem) -> tuple[Any, list[Any], list[Any]]:
    """(the problem's row with its checksum, trajectories' rows, rollouts' rows)."""
    problem, base = finished.problem, finished.position * _PER_PROBLEM
    trajectories: list[Any] = []
    rollouts: list[Any] = []
    for scored in finished.trajectories:
        drawn = scored.trajectory
        seed = int(np.int64(np.uint64(drawn.seed & (2**64 - 1))))
        trajectories.append(
            (
                base + scored.number,
                problem.id,
                scored.number,
                seed,
                drawn.finish_reason,
                drawn.error,
                # Text of a model may hold lone surrogates only through a faulty tokenizer; sqlite takes none.
                scored.text.encode("utf-8", "replace").decode("utf-8"),
                scored.answer,
                scored.answer_strict,
                scored.answer_lenient,
                int(scored.correct),
                len(drawn.token_ids),
                pack_ids(drawn.prompt_ids),
                pack_ids(drawn.token_ids),
                np.asarray(drawn.logprobs, dtype="<f4").tobytes(),
                np.asarray(drawn.token_entropies, dtype="<f4").tobytes(),
            )
        )
        rollouts += _rollout_rows(scored, problem.id, seed, base + len(rollouts))
    head = (
        finished.position,
        problem.id,
        problem.question,
        problem.gold,
        _choices(problem),
        finished.answer_format,
        finished.prompt,
        int(finished.starts_in_think),
        finished.cut_prompt_tokens,
        len(trajectories),
        len(rollouts),
    )
    return (*head, _checksum(head, trajectories, rollouts)), trajectories, rollouts


def _choices(problem: Problem) -> str | None:
    return None if problem.choices is None else json.dumps(problem.choices, ensure_ascii=False)


def _stored_problem(head: tuple[Any, ...], trajectories: Sequence[Any], rollouts: Sequence[Any]) -> StoredProblem:
    position, name, question, gold, choices, answer_format, _, starts_in_think = head[:8]
    problem = Problem(name, question, gold, None if choices is None else tuple(json.loads(choices)), answer_format)
    return StoredProblem(
        position,
        problem,
        answer_format,
        bool(starts_in_think),
        [(row[2], _stored_trajectory(row, [r for r in rollouts if r[2] == row[2]])) for row in trajectories],
    )


def _stored_trajectory(row: tuple[Any, ...], rollouts: Sequence[Any]) -> Trajectory:
    checkpoint = np.array([r[3] for r in rollouts], dtype=np.int32)
    ids = unpack_ids(b"".join(r[13] for r in rollouts))
    drawn = Rollouts(
        checkpoint=checkpoint,
        index=np.array([r[4] for r in rollouts], dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum([r[10] for r in rollouts])]).astype(np.int64),
        token_ids=ids,
        logprobs=np.full(len(ids), np.nan, dtype=np.float32),
        finish_reason=np.array([FINISH_REASONS.index(r[6]) for r in rollouts], dtype=np.int8),
    )
    return Trajectory(
        key=(row[0] // _PER_PROBLEM, row[2]),
        prompt_ids=unpack_ids(row[12]),
        token_ids=unpack_ids(row[13]),
        logprobs=np.frombuffer(row[14], dtype="<f4"),
        token_entropies=np.frombuffer(row[15], dtype="<f4"),
        finish_reason=row[4],
        seed=row[3],
        checkpoints=np.unique(checkpoint),
        rollouts=None if row[4] == "error" else drawn,
        error=row[5],
    )


# --- how answers were read -------------------------------------------------------------------------------------


def _reading_rows(reading: Mapping[str, Any], equivalents: Grouped) -> dict[str, Any]:
    grouped = {row: [dict(found.representative), found.num_timeouts] for row, found in sorted(equivalents.items())}
    rows = {"reading": json.dumps(reading, sort_keys=True), "equivalents": json.dumps(grouped)}
    return rows | {"reading_checksum": zlib.crc32(marshal.dumps(list(rows.values()), 2))}


def _read_reading(head: Mapping[str, Any]) -> tuple[dict[str, Any] | None, Grouped]:
    """(how the answers were read, for each trajectory's id which of its answers stands for which others)."""
    try:
        if "reading" not in head:
            return _FIRST_READING | {
                "answer_reading": renamed.current(json.loads(head["identity"])["config"]).get(
                    "answer_reading", "strict"
                )
            }, {}
        stored = [head[key] for key in _READING]
        if zlib.crc32(marshal.dumps(stored[:2], 2)) != stored[2]:
            return None, {}
        reading, equivalents = map(json.loads, stored[:2])
        return renamed.current(reading), {
            int(row): Classes(dict(names), int(late)) for row, (names, late) in equivalents.items()
        }
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return None, {}


# The first databases do not say it.
_FIRST_READING = {
    "rules": 1,
    "answer_reading": "strict",
    "equivalence": "spelling",
    "answer_regex": None,
    "answer_reader": None,
}
# Where a row has its answers.
_ANSWERS = slice(7, 10)


def _distinct(rows: Iterable[Sequence[Any]]) -> list[str]:
    """The distinct answers of a trajectory and its rollouts, of both readings, sorted."""
    return sorted({answer for row in rows for answer in row[_ANSWERS] if answer is not None})


def _unequal(found: Classes) -> Classes:
    """Without the answers that stand for themselves."""
    others = {answer: name for answer, name in found.representative.items() if answer != name}
    return Classes(others, found.num_timeouts)


def _names(equivalents: Grouped, row: int) -> Mapping[str, str]:
    """What each answer of a trajectory is called that does not stand for itself."""
    return equivalents[row].representative if row in equivalents else {}


def _name_by_class(frame: pd.DataFrame, owner: Any, equivalents: Grouped) -> np.ndarray:
    """Each answer by the spelling that stands for its class; `owner` is the id of each row's trajectory.

    Returns: the rows of the trajectories where some answer has another name.
    """
    ids = np.asarray(owner, dtype=np.int64)
    rows = np.flatnonzero(np.isin(ids, [row for row in equivalents if _names(equivalents, row)]))
    if len(rows):
        for name in ("answer", "answer_strict", "answer_lenient"):
            column = frame[name].to_numpy(object).copy()
            for row in rows.tolist():
                column[row] = _names(equivalents, ids[row]).get(column[row], column[row])
            frame[name] = pd.Series(column, index=frame.index, dtype=object)
    return rows


def _rollout_rows(scored: ScoredTrajectory, problem_id: str, seed: int, first_id: int) -> Iterable[Any]:
    rollouts = scored.trajectory.rollouts
    if rollouts is None:
        return []
    count = len(rollouts)
    offsets = rollouts.offsets
    blob = pack_ids(rollouts.token_ids)
    ends = (offsets * 3).tolist()
    # A cumulative sum handles empty rollouts; a log-probability that is not known makes its rollout's sum null.
    is_known = np.isfinite(rollouts.logprobs)
    totals = np.concatenate([[0.0], np.cumsum(np.where(is_known, rollouts.logprobs, 0.0), dtype=np.float64)])
    unknown = np.concatenate([[0], np.cumsum(~is_known)])
    # sqlite has no -0.0: what is read back would not match its checksum.
    logprobs = (totals[offsets[1:]] - totals[offsets[:-1]] + 0.0).astype(object)
    logprobs[unknown[offsets[1:]] > unknown[offsets[:-1]]] = None
    rides = ride_tokens(scored.trajectory.token_ids, rollouts.checkpoint, offsets, rollouts.token_ids)
    return zip(
        range(first_id, first_id + count),
        [problem_id] * count,
        [scored.number] * count,
        rollouts.checkpoint.tolist(),
        rollouts.index.tolist(),
        [seed] * count,
        [FINISH_REASONS[code] for code in rollouts.finish_reason.tolist()],
        *scored.rollout_answers,
        np.diff(offsets).tolist(),
        rides.tolist(),
        logprobs.tolist(),
        [blob[begin:end] for begin, end in pairwise(ends)],
        strict=True,
    )


def _checksum(head: Any, trajectories: list[Any], rollouts: list[Any]) -> int:
    """CRC-32 over a problem's rows. marshal's version 2 has one spelling for each value and is made of C loops."""
    return zlib.crc32(marshal.dumps((head, trajectories, rollouts), 2))


def _insert(connection: sqlite3.Connection, rows: tuple[Any, ...]) -> None:
    head, trajectories, rollouts = rows
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        for table, values in (("trajectories", trajectories), ("rollouts", rollouts), ("problems", [head])):
            connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * _TABLES[table])})", values)


def _difference(before: str, after: str) -> str:
    """The first piece in which two prompts differ, with a little of what stands before it."""
    if before == after:
        return "its text is the same, its token ids are not"
    same = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), None)
    at = max(0, (min(len(before), len(after)) if same is None else same) - 12)
    return f"it was {_short(before[at:])}, is now {_short(after[at:])}"


def _vocabulary_change(before: bytes, after: Vocabulary) -> str:
    """What the stored vocabulary says otherwise."""
    with suppress(FastsiaError):
        stored = Vocabulary.from_bytes(before)
        if len(stored) == len(after):
            differs = [i for i in range(len(after)) if stored.token_bytes(i) != after.token_bytes(i)]
            marks = [after.token_bytes(i).decode("utf-8", "replace") for i in differs if not stored.token_bytes(i)]
            if marks and len(marks) == len(differs):
                return f"the texts of an older version, or of other think_tags, were stored without {', '.join(marks)}"
    return "the tokenizer's vocabulary is another"


def _short(text: str | None) -> str:
    return repr(text if text is None or len(text) <= 60 else text[:57] + "...")


# --- opening, damage -------------------------------------------------------------------------------------------


def _connect(path: Path) -> sqlite3.Connection:
    # Another thread may write than the one that opened; never two at a time.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    # In WAL mode NORMAL survives a kill of the process; a power cut may lose the last problems, never tear one.
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _open_read_only(path: Path) -> sqlite3.Connection:
    uri = path.resolve().as_uri()
    connection = sqlite3.connect(f"{uri}?mode=ro", uri=True)
    try:
        connection.execute("SELECT 1 FROM meta LIMIT 1")
        return connection
    except sqlite3.OperationalError:
        connection.close()
        # A folder that cannot be written has no place for WAL's shared memory; without a log nothing can change.
        if os.access(path.parent, os.W_OK) or path.with_name(path.name + "-wal").exists():
            raise
        return sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True)


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    """What says nothing about a database's content (no room, no permission, another program at it) is no damage."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise FastsiaError(f"{path} cannot be written ({_one_line(error)}); nothing in it was changed.") from error


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever a damaged or foreign database holds where it is read and decoded is one sentence."""
    try:
        yield
    except FastsiaError:
        raise
    except (sqlite3.Error, ValueError, TypeError, LookupError, RecursionError) as error:
        raise FastsiaError(f"{path} cannot be read ({_one_line(error)}).") from error


def _as_damage(error: Exception) -> str:
    """What an error in reading says of what is stored; raised again where it says nothing of that."""
    if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _OUTER_ERRORS:
        raise error
    return _one_line(error)


def _one_line(said: object) -> str:
    return " ".join(str(said).split())


def _create(path: Path, head: Mapping[str, Any], problems: Iterable[tuple[Any, ...]] = ()) -> None:
    """A database that holds these."""
    with closing(_connect(path)) as connection:
        connection.executescript(f"BEGIN; {_SCHEMA}")
        connection.executemany("INSERT INTO meta VALUES (?, ?)", head.items())
        connection.commit()
        for rows in problems:
            _insert(connection, rows)


def _fold(path: Path) -> None:
    """Make one plain file of a database that nobody else has open: sqlite says nothing of a log that it cannot fold in
    as it closes."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")


def _read_head(connection: sqlite3.Connection) -> dict[str, Any]:
    return dict(connection.execute("SELECT key, value FROM meta").fetchall())


def _read_about_answers(connection: sqlite3.Connection) -> tuple[dict[str, Any] | None, Grouped]:
    """As `_read_reading`, without reading the vocabulary for it."""
    return _read_reading(dict(connection.execute("SELECT key, value FROM meta WHERE key != 'vocabulary'").fetchall()))


def _head_checksum(head: Mapping[str, Any]) -> int:
    return zlib.crc32(marshal.dumps([head.get(key) for key in _HEAD], 2))


def _is_whole(head: Mapping[str, Any]) -> bool:
    """Of a head as it was read; the first databases had no checksum there."""
    if not head.keys() >= set(_HEAD) or head.get("checksum", _head_checksum(head)) != _head_checksum(head):
        return False
    return isinstance(json.loads(head["identity"]), dict)


def _has_tables(path: Path) -> bool:
    """False for a database that a killed run left before its first commit."""
    if not path.exists():
        return False
    with closing(sqlite3.connect(path)) as connection:
        return bool(connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone())


def _damage(path: Path) -> str | None:
    """What is wrong with a database, or None. Reads all of it: pages by sqlite, problems by their checksums."""
    try:
        if not _has_tables(path):
            return None
    except sqlite3.DatabaseError as error:
        return _as_damage(error)
    with closing(sqlite3.connect(path)) as connection:
        return _damage_of(connection)


def _damage_of(connection: sqlite3.Connection) -> str | None:
    try:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            return _one_line(verdict)
        head = _read_head(connection)
        if isinstance(version := head.get("schema_version"), int) and version != SCHEMA_VERSION:
            return None  # what is whole there, another version knows
        if not _is_whole(head):
            return "its head is incomplete or does not match its checksum"
        for (position,) in connection.execute("SELECT position FROM problems ORDER BY position").fetchall():
            if _read_problem(connection, position) is None:
                return f"the rows of problem {position + 1} do not match their checksum"
    except _UNREADABLE as error:
        return _as_damage(error)
    return None


def _read_problem(connection: sqlite3.Connection, position: int) -> tuple[Any, ...] | None:
    """A problem's rows, None where they do not match their checksum."""
    head = connection.execute("SELECT * FROM problems WHERE position = ?", (position,)).fetchone()
    parts = _read_drawn(connection, position)
    if head is None or _checksum(head[:-1], *parts) != head[-1]:
        return None
    return head, *parts


def _read_drawn(connection: sqlite3.Connection, position: int) -> tuple[list[Any], list[Any]]:
    """(the rows of a problem's trajectories, those of its rollouts)."""
    between = (position * _PER_PROBLEM, (position + 1) * _PER_PROBLEM)
    trajectories, rollouts = (
        connection.execute(f"SELECT * FROM {table} WHERE id >= ? AND id < ? ORDER BY id", between).fetchall()
        for table in ("trajectories", "rollouts")
    )
    return trajectories, rollouts


def _set_aside(path: Path) -> Path:
    """Rename a database and its log out of the way; the first free name is returned."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    for suffix in _PARTS:
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside


def _remove(path: Path) -> None:
    for suffix in _PARTS:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _salvage(path: Path) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
    """(the head, the problems whose rows can be read and match their checksums); both empty where nothing can."""
    found: dict[int, tuple[Any, ...]] = {}
    try:
        with closing(sqlite3.connect(path)) as connection:
            head = _read_head(connection)
            if not _is_whole(head):
                return {}, []
            for order in ("ASC", "DESC"):  # from both ends up to a page that cannot be read
                cursor = connection.execute(f"SELECT position FROM problems ORDER BY position {order}")
                while (position := _next(cursor)) is not None:
                    try:
                        rows = _read_problem(connection, position)
                    except _UNREADABLE as error:
                        _as_damage(error)
                        continue
                    if rows is not None:
                        found[position] = rows
    except _UNREADABLE as error:
        _as_damage(error)
        return {}, []
    return head, [found[position] for position in sorted(found)]


def _next(cursor: sqlite3.Cursor) -> int | None:
    try:
        row = cursor.fetchone()
    except sqlite3.DatabaseError as error:
        _as_damage(error)
        return None
    return None if row is None else int(row[0])


def _lock(directory: Path) -> int:
    """Hold the folder until the descriptor is closed; the kernel lets go of it when the process dies."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except FileExistsError as error:
        raise FastsiaError(f"output folder {str(directory)!r} is a file.") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FastsiaError(
                f"{directory / LOCK} is a symbolic link; results are not written through links."
            ) from error
        raise FastsiaError(f"output folder {str(directory)!r} cannot be used: {error.strerror}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise FastsiaError(
            f"output folder {str(directory)!r} is locked: process {holder or '(unknown)'} is writing to it."
        ) from error
    with suppress(OSError):  # the number only serves the message; a full disk is reported where results are written
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _unlock(descriptor: int, process: int) -> None:
    """Let the folder go: for a child that was forked meanwhile too, which holds the same lock and may not do so."""
    if os.getpid() == process:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


# --- frames ----------------------------------------------------------------------------------------------------


def _to_frame(cursor: sqlite3.Cursor) -> pd.DataFrame:
    names = [column[0] for column in cursor.description]
    rows = cursor.fetchall()
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return pd.DataFrame({name: _values(column) for name, column in zip(names, columns, strict=True)}, columns=names)


def _to_compact_frame(cursor: sqlite3.Cursor, rows_at_once: int = 8192) -> pd.DataFrame:
    """As `_to_frame`, for many rows of numbers and texts that repeat: equal texts are one object, rows never are."""
    names = [column[0] for column in cursor.description]
    texts: dict[Any, Any] = {}
    chunks: list[pd.DataFrame] = []
    while rows := cursor.fetchmany(rows_at_once):
        columns = (
            [texts.setdefault(x, x) if type(x) is str else x for x in column] for column in zip(*rows, strict=True)
        )
        chunks.append(pd.DataFrame({name: _values(column) for name, column in zip(names, columns, strict=True)}))
    return pd.concat(chunks, ignore_index=True) if chunks else pd.DataFrame(columns=names)


def _values(column: Sequence[Any]) -> Any:
    kinds = set(map(type, column))
    if kinds == {int}:
        return np.array(column, dtype=np.int64)
    if kinds and kinds <= {float, type(None)} and float in kinds:
        return np.array(column, dtype=np.float64)
    return _column(column)


def _column(values: Sequence[Any]) -> pd.Series:
    """One entry a value, whatever the values are; of object dtype, in which None stays None."""
    if values and isinstance(values[0], np.ndarray):
        column = np.empty(len(values), dtype=object)
        for i, value in enumerate(values):
            column[i] = value
    else:
        column = np.array(values, dtype=object)
    return pd.Series(column, dtype=object)


def _typed(schema: pa.Schema) -> pa.Schema:
    """A column that is all null in the first chunk is text in later ones."""
    return pa.schema([pa.field(f.name, pa.string() if pa.types.is_null(f.type) else f.type) for f in schema])
