"""Write a results folder, one transaction per finished problem, and check a folder before a run."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastsia import renamed
from fastsia.answers.equivalence import Classes
from fastsia.answers.vocabulary import Vocabulary
from fastsia.config import MAY_DIFFER, AnswerFormat, Problem, SIAConfig
from fastsia.engine.sequence import Drawn
from fastsia.errors import FastsiaError, counted, one_line
from fastsia.files import flatten, refuse_links
from fastsia.results import repair, schema
from fastsia.results.reader import Store
from fastsia.results.schema import (
    DATABASE,
    AnsweredTrajectory,
    ClassesByTrajectory,
    DrawnProblem,
    FinishedProblem,
    Part,
    PartRow,
    ProblemRows,
)

LOCK = ".lock"

FindClasses = Callable[[Sequence[str], str, AnswerFormat], Classes]
"""From the distinct answers of a trajectory, its gold answer and their format to the classes of equal answers."""


@dataclass(frozen=True)
class Reread:
    """The changes when stored texts were read again.

    Attributes:
        num_answers: answers of trajectories and rollouts.
        num_changed: how many of them changed.
        num_stopped_changed: how many of the changed ones belong to rollouts that stopped early at the answer read
            before; what would have come after it was never drawn.
        before, after: the readings, as `Store.reading`; before is None if it is not known.
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
                f"{name} {_or_none(self.before.get(name))} → {_or_none(value)}"
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


def _or_none(value: Any) -> str:
    return "none" if value is None else str(value)


def check_output(directory: str | os.PathLike[str], identity: Mapping[str, Any]) -> None:
    """Check that a run can write to a folder, before its model is loaded.

    Args:
        directory: the folder; it may not exist yet.
        identity: what is known so far of the run's identity.

    Raises:
        FastsiaError: the folder is a file, cannot be written, is locked by another process, contains links where
            results are written, or contains another run or a database of another schema version.
    """
    path = Path(directory)
    if not path.is_dir():
        parent = next(parent for parent in path.absolute().parents if parent.exists())
        if path.exists():
            raise FastsiaError(f"output folder {str(path)!r} is a file.")
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            reason = os.strerror(errno.EACCES if parent.is_dir() else errno.ENOTDIR)
            raise FastsiaError(f"output folder {str(path)!r} cannot be used: {reason}.")
        return
    _unlock(_lock(path), os.getpid())
    refuse_links(path, (DATABASE + suffix for suffix in repair.SUFFIXES))
    if not (path / DATABASE).is_file():
        return
    try:
        stored = Store(path / DATABASE).identity()
    except schema.OtherVersionError:
        raise
    except FastsiaError:  # damaged: the writer repairs it
        return
    check_same_run(path, stored, identity)


class StoreWriter:
    """The one writer of a results folder, which stays locked until `close`.

    Opening an existing folder resumes it. If its answers were read with other settings, call `reread` before `add`.
    Here and in all of `fastsia.results`, the position of a problem is its index in the data set.

    Attributes:
        done: positions of finished problems.
        begun: positions of problems with stored parts.
        rounds: how many rollouts each checkpoint gets, where rounds decide it.
        stored_reading: how the stored answers were read.
        notes: what was repaired, a sentence each.

    Args:
        directory: the folder; it is created if it does not exist.
        identity: model, task, backend and config of the run.
        vocabulary: the bytes of every token.
        reading: how the answers that will be added are read, in the form of `Store.reading`.
        durable: False for a database that is not needed after its process ends; it is not synced to disk.

    Raises:
        FastsiaError: another writer has locked the folder, the folder contains a run of another identity (each
            difference is named), or the database cannot be written.
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
        self.is_durable = durable
        self._writing = threading.Lock()
        self._is_closed = False
        # Also unlocks if an interrupt comes before the caller has this object and could close it.
        self._unlock = weakref.finalize(self, _unlock, _lock(self.directory), os.getpid())
        self._unlock.atexit = False
        try:
            self._connection = self._open(dict(identity), vocabulary, reading)
            self.stored_reading, self._classes = schema.parse_reading(
                schema.read_meta(self._connection, with_vocabulary=False)
            )
            if not durable:
                self._connection.execute("PRAGMA synchronous = OFF")
            self.done: set[int] = {row[0] for row in self._connection.execute("SELECT position FROM problems")}
            parts = "SELECT position, trajectory, max(number) + 1, max(id) FROM parts GROUP BY position, trajectory"
            found = self._connection.execute(parts).fetchall()
            self._next_part = {(position, trajectory): number for position, trajectory, number, _ in found}
            self._last_part = max((row[3] for row in found), default=-1)
            self.begun = {row[0] for row in found}
            stored = schema.parse_rounds(schema.read_meta(self._connection, with_vocabulary=False))
            self.rounds = stored or schema.RoundState()
        except BaseException:
            self._unlock()
            raise

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check_problem(self, position: int, problem: Problem, prompt_ids: Sequence[int], prompt: str) -> bool:
        """Check that a finished problem and its prompt are the stored ones.

        Raises:
            FastsiaError: the id, question, choices or prompt has changed.

        Returns:
            Whether the gold answer is the stored one. The draws do not depend on it; see `reread`.
        """
        *stored, gold, before_prompt = self._connection.execute(
            "SELECT problem_id, question, choices, gold, prompt FROM problems WHERE position = ?", (position,)
        ).fetchone()
        now = (problem.id, problem.question, schema.choices_text(problem))
        for name, before, after in zip(("id", "question", "choices"), stored, now, strict=True):
            if before != after:
                raise FastsiaError(
                    f"{self.directory} contains another dataset: {name} of problem {position + 1} was "
                    f"{_short(before)}, is now {_short(after)}; use another output folder."
                )
        before_ids = self._connection.execute(
            "SELECT prompt_token_ids FROM trajectories WHERE id = ?", (position * schema.PER_PROBLEM,)
        ).fetchone()
        if before_ids is not None and not np.array_equal(schema.unpack_ids(before_ids[0]), np.array(prompt_ids)):
            raise FastsiaError(
                f"{self.directory} contains a run with another prompt (first seen at problem {problem.id!r}): "
                f"{_first_difference(before_prompt, prompt)}; use another output folder."
            )
        return bool(gold == problem.gold)

    def reread(
        self,
        read: Callable[[DrawnProblem], Sequence[AnsweredTrajectory]],
        identity: Mapping[str, Any],
        reading: Mapping[str, Any],
        *,
        find_classes: FindClasses | None = None,
        golds: Mapping[int, str] | None = None,
        positions: Iterable[int] | None = None,
    ) -> Reread:
        """Read the answers of finished problems again, and store all of them in one transaction.

        Args:
            read: reads the answers of a problem.
            identity: its whole config replaces the stored one.
            reading: how `read` reads.
            find_classes: finds equal answers; None if only equal spellings are equal.
            golds: corrected gold answers, by position.
            positions: the problems to read; None means all.
        """
        counts = np.zeros(3, dtype=np.int64)
        golds = golds or {}
        classes: ClassesByTrajectory = {} if positions is None else dict(self._classes)
        with self._writing, self._changing():
            for position in sorted(self.done if positions is None else positions):
                counts += self._reread_problem(position, read, find_classes, golds.get(position), classes)
            meta = schema.read_meta(self._connection)
            settings = dict(identity["config"])
            meta["identity"] = json.dumps(json.loads(meta["identity"]) | {"config": settings}, sort_keys=True)
            changed = {"identity": meta["identity"], "checksum": schema.head_checksum(meta)}
            schema.write_meta(self._connection, changed | schema.reading_meta(reading, classes))
        before, self.stored_reading, self._classes = self.stored_reading, dict(reading), classes
        num_answers, num_changed, num_stopped = counts.tolist()
        return Reread(num_answers, num_changed, num_stopped, before, reading)

    def store_classes(self, find_classes: FindClasses) -> None:
        """Find and store equal answers for the trajectories that have none stored yet."""
        missing: ClassesByTrajectory = {}
        ids = [row[0] for row in self._connection.execute("SELECT id FROM trajectories ORDER BY id")]
        for position in dict.fromkeys(row // schema.PER_PROBLEM for row in ids if row not in self._classes):
            rows = self._whole(position)
            for row, rollouts in schema.by_trajectory(rows):
                if row.id not in self._classes:
                    missing[row.id] = _classes_of(find_classes, rows, row, rollouts)
        if missing:
            classes = self._classes | missing
            with self._writing, self._changing():
                schema.write_meta(self._connection, schema.reading_meta(self.stored_reading or {}, classes))
            self._classes = classes

    def _whole(self, position: int) -> ProblemRows:
        rows = schema.read_rows(self._connection, position)
        if rows is None:
            raise FastsiaError(
                f"{self.path} is damaged (the rows of problem {position + 1} do not match their checksum)."
            )
        return rows

    def _reread_problem(
        self,
        position: int,
        read: Callable[[DrawnProblem], Sequence[AnsweredTrajectory]],
        find_classes: FindClasses | None,
        gold: str | None,
        classes: ClassesByTrajectory,
    ) -> np.ndarray:
        """Numbers of answers, changed answers, and changed answers of rollouts that stopped early, of one problem."""
        stored = self._whole(position)
        rows = stored if gold is None else stored._replace(problem=stored.problem._replace(gold=gold))
        counts = np.zeros(3, dtype=np.int64)
        trajectories: list[Any] = []
        rollouts: list[Any] = []
        for (row, mine), answered in zip(schema.by_trajectory(rows), read(schema.to_stored(rows)), strict=True):
            own = (answered.answer, answered.answer_strict, answered.answer_lenient)
            row_now = _with_answers(row, own)._replace(correct=int(answered.correct))
            mine_now = list(map(_with_answers, mine, zip(*answered.rollout_answers, strict=True)))
            before = schema.names_of(self._classes, row.id)
            if find_classes is not None:
                classes[row.id] = _classes_of(find_classes, rows, row_now, mine_now)
            after = schema.names_of(classes if find_classes is not None else {}, row.id)
            olds: list[Any] = [*mine, row]
            for old, new in zip(olds, [*mine_now, row_now], strict=True):
                differs = before.get(old.answer, old.answer) != after.get(new.answer, new.answer)
                counts += (1, differs, differs and old is not row and old.finish_reason == "answer")
            trajectories.append(row_now)
            rollouts += mine_now
        rollouts.sort(key=lambda row: row.id)
        schema.replace(self._connection, stored, ProblemRows(rows.problem, trajectories, rollouts).sealed())
        return counts

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One transaction over what is stored."""
        if self._is_closed:
            raise FastsiaError(f"{self.path} is closed.")
        with _io_errors(self.path), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield

    def store_rounds(self, rounds: schema.RoundState) -> None:
        """Store how many rollouts the checkpoints get."""
        with self._writing, self._changing():
            schema.write_meta(self._connection, schema.rounds_meta(rounds))
        self.rounds = rounds

    def add(self, finished: FinishedProblem) -> None:
        """Commit one finished problem, whole or not at all. May be called from any thread."""
        rows = schema.to_rows(finished)
        with self._storing(f"problem {finished.problem.id!r}"):
            schema.insert(self._connection, rows)
            self.done.add(finished.position)

    def add_parts(self, parts: Sequence[Part]) -> None:
        """Commit draws of unfinished problems, in one transaction. May be called from any thread."""
        with self._storing("the last draws"):
            rows: list[PartRow] = []
            following = dict(self._next_part)
            for part in parts:
                if part.position not in self.done:
                    key = part.position, part.trajectory
                    number = 0 if part.is_whole else following.get(key, 0)
                    rows.append(schema.to_part_row(part, self._last_part + 1 + len(rows), number))
                    following[key] = number + 1
            schema.insert_parts(self._connection, rows)
            self._next_part, self._last_part = following, self._last_part + len(rows)

    def num_rollouts(self) -> int:
        """Rollouts that are stored, those of unfinished problems included."""
        sums = "coalesce((SELECT sum(num_rollouts) FROM problems), 0), coalesce((SELECT sum(num_ended) FROM parts), 0)"
        with self._writing:
            return sum(self._connection.execute(f"SELECT {sums}").fetchone())

    def num_tokens(self) -> int:
        """Tokens of the finished problems: of trajectories, and of rollouts after they diverge."""
        sums = "(SELECT sum(num_tokens) FROM trajectories), (SELECT sum(num_tokens - matched_tokens) FROM rollouts)"
        with self._writing:
            return sum(number or 0 for number in self._connection.execute(f"SELECT {sums}").fetchone())

    def drawn(self, position: int, trajectory: int, request_checksum: int) -> Drawn | None:
        """The stored draws of a trajectory of an unfinished problem; None if there are none.

        Args:
            request_checksum: the result of `schema.request_checksum` for it.

        Raises:
            FastsiaError: the stored checksum differs.
        """
        if (position, trajectory) not in self._next_part:
            return None
        with self._writing:
            rows = [row for row in schema.select_parts(self._connection, position) if row.trajectory == trajectory]
        for row in rows:
            if row.asked != request_checksum:
                raise FastsiaError(
                    f"{self.directory} contains another dataset or prompt: what is asked in problem {position + 1} "
                    f"({row.problem_id!r}) has changed since it was begun; use another output folder."
                )
        return Drawn.join([schema.to_drawn(row) for row in rows])

    @contextmanager
    def _storing(self, what: str) -> Iterator[None]:
        """Hold the lock to store `what`, such as "problem 'x'"; errors say that it was not stored."""
        with self._writing:
            if self._is_closed:
                raise FastsiaError(f"{self.path} is closed; {what} was not stored.")
            try:
                yield
            except sqlite3.Error as error:
                raise FastsiaError(
                    f"{self.path} cannot be written ({error}); {what} was not stored. Finished problems are kept "
                    f"({counted(len(self.done), 'problem')}), and the same command resumes once the cause is removed."
                ) from error

    def close(self) -> None:
        """Fold the write-ahead log into the database file, which makes it one plain file, and unlock the folder.

        Waits for an `add` of another thread: sqlite crashes if a connection is closed during a write.
        """
        self._is_closed = True  # writers waiting for the lock will raise
        try:
            with self._writing:
                with suppress(sqlite3.Error):  # a reader is open or the disk is full: the log is kept and stays valid
                    self._connection.execute("PRAGMA journal_mode = DELETE")
                self._connection.close()
        finally:  # also if the wait is interrupted
            self._unlock()

    def _open(
        self, identity: dict[str, Any], vocabulary: Vocabulary, reading: Mapping[str, Any] | None
    ) -> sqlite3.Connection:
        refuse_links(self.directory, (DATABASE + suffix for suffix in repair.SUFFIXES))
        meta = {
            "schema_version": schema.SCHEMA_VERSION,
            "identity": json.dumps(identity, sort_keys=True),
            "vocabulary": vocabulary.to_bytes(),
        }
        meta["checksum"] = schema.head_checksum(meta)
        if reading is not None:
            meta |= schema.reading_meta(reading, {})
        with _io_errors(self.path):
            if not self.path.exists() and self._repaired.exists():  # killed between the two renames of a repair
                self._repaired.rename(self.path)
            damage = repair.damage(self.path)
            if damage is not None:
                self._repair(damage, meta, identity, vocabulary)
            connection = repair.connect(self.path)
            try:
                if not repair.has_tables(connection):
                    repair.create(connection, meta)
                self._check_identity(schema.read_meta(connection), identity, vocabulary)
                schema.migrate(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def _repair(self, damage: str, meta: dict[str, Any], identity: Mapping[str, Any], vocabulary: Vocabulary) -> None:
        found, salvaged, parts = repair.salvage(self.path)
        if found:
            self._check_identity(found, identity, vocabulary)
            # The salvaged answers keep their reading.
            stored, classes = schema.parse_reading(found)
            meta = {key: value for key, value in meta.items() if key not in schema.READING}
            meta |= schema.reading_meta(stored, classes) if stored is not None else {schema.READING[0]: None}
            rounds = schema.parse_rounds(found)
            meta |= {} if rounds is None else schema.rounds_meta(rounds)
        self.notes.append(repair.replace(self.path, self._repaired, damage, meta, found, salvaged, parts))

    def _check_identity(self, meta: Mapping[str, Any], identity: Mapping[str, Any], vocabulary: Vocabulary) -> None:
        schema.check_version(self.path, meta.get("schema_version"))
        changed = _differences(json.loads(meta["identity"]), identity)
        if meta["vocabulary"] != vocabulary.to_bytes():
            changed.append(_vocabulary_change(meta["vocabulary"], vocabulary))
        _raise_if_changed(self.directory, changed)


# --- which run it is -------------------------------------------------------------------------------------------

_ANSWERS = ("answer", "answer_strict", "answer_lenient")
_MAY_DIFFER = tuple(f"config.{name}" for name in MAY_DIFFER)
_DATE = "config.template_date"
_CAUSES = {"config.stop_at_answer": " (answer_regex and answer_reader switch it off)"}


def with_defaults(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """A flat identity, with current names of settings, and defaults for settings that it lacks because it is older."""
    before = renamed.current(before, {f"config.{old}": f"config.{new}" for old, new in renamed.SETTINGS.items()})
    defaults = flatten({"config": vars(SIAConfig())})
    return {key: value for key, value in defaults.items() if key in now} | before


def _differences(stored: Mapping[str, Any], identity: Mapping[str, Any], *, partly: bool = False) -> list[str]:
    """Each difference between a stored identity and a run's that keeps the run from resuming it.

    Args:
        partly: Whether the run's identity is incomplete; keys that it lacks are not compared.
    """
    after = flatten(json.loads(json.dumps(identity)))  # JSON has lists for tuples, as the stored one has
    before = with_defaults(flatten(stored), after)
    before |= {key: after.get(key) for key in _MAY_DIFFER}
    if before.get(_DATE) is None:  # older versions did not store it; the prompts are compared instead
        before[_DATE] = after.get(_DATE)
    if before.get("model.fingerprint") == after.get("model.fingerprint"):
        for key in ("model.name", "model.peft", "model.quantization"):  # the same weights may be stored elsewhere
            before[key] = after.get(key)
    return [
        f"{key} was {json.dumps(before.get(key))}, is now {json.dumps(after.get(key))}{_CAUSES.get(key, '')}"
        for key in (after if partly else dict.fromkeys([*before, *after]))
        if before.get(key) != after.get(key)
    ]


def check_same_run(directory: Path, stored: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Refuse a run that cannot resume the one in a folder, as far as its identity is known yet."""
    _raise_if_changed(directory, _differences(stored, identity, partly=True))


def _raise_if_changed(directory: Path, changed: Sequence[str]) -> None:
    if changed:
        raise FastsiaError(f"{directory} contains another run: {'; '.join(changed)}. Use another output folder.")


def _vocabulary_change(before: bytes, after: Vocabulary) -> str:
    """How the stored vocabulary differs."""
    with suppress(FastsiaError):
        stored = Vocabulary.from_bytes(before)
        if len(stored) == len(after):
            differs = [i for i in range(len(after)) if stored.token_bytes(i) != after.token_bytes(i)]
            marks = [after.token_bytes(i).decode("utf-8", "replace") for i in differs if not stored.token_bytes(i)]
            if marks and len(marks) == len(differs):
                return (
                    f"the stored token texts lack {', '.join(marks)}: the run was made by an older version or with "
                    "other think_tags"
                )
    return "the tokenizer's vocabulary differs"


def _first_difference(before: str, after: str) -> str:
    """Where two prompts first differ, with a little of the text before it."""
    if before == after:
        return "its text is the same, its token ids are not"
    same = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), None)
    at = max(0, (min(len(before), len(after)) if same is None else same) - 12)
    return f"it was {_short(before[at:])}, is now {_short(after[at:])}"


def _short(text: str | None) -> str:
    return repr(text if text is None or len(text) <= 60 else text[:57] + "...")


def _with_answers(row: Any, answers: Sequence[str | None]) -> Any:
    return row._replace(**dict(zip(_ANSWERS, answers, strict=True)))


def _classes_of(
    find_classes: FindClasses, rows: ProblemRows, row: schema.TrajectoryRow, rollouts: Sequence[schema.RolloutRow]
) -> Classes:
    """The classes of the distinct answers of a trajectory and its rollouts, of both readings."""
    answers = {getattr(each, name) for each in (row, *rollouts) for name in _ANSWERS} - {None}
    answer_format: Any = rows.problem.format
    return schema.without_identical(find_classes(sorted(answers), rows.problem.gold, answer_format))


# --- the folder ------------------------------------------------------------------------------------------------


@contextmanager
def _io_errors(path: Path) -> Iterator[None]:
    """Re-raise I/O errors (disk full, permission, lock) as FastsiaError; they do not mean corruption."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise FastsiaError(f"{path} cannot be written ({one_line(error)}); nothing in it was changed.") from error


def _lock(directory: Path) -> int:
    """Lock the folder until the descriptor is closed; the kernel unlocks it when the process dies."""
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
    with suppress(OSError):  # the number is only for the message; a full disk is reported when results are written
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _unlock(descriptor: int, process: int) -> None:
    """Unlock the folder. In a forked child, which shares the lock with its parent, only close the descriptor."""
    if os.getpid() == process:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)
