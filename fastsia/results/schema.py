"""The tables of `run.sqlite`: each row type declares its columns once. Conversion from and to objects, checksums."""

from __future__ import annotations

import json
import marshal
import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import numpy as np

from fastsia import renamed
from fastsia.answers.equivalence import Classes
from fastsia.config import AnswerFormat, Problem
from fastsia.engine.sequence import FINISH_REASONS, Drawn, Rollouts, Trajectory
from fastsia.errors import FastsiaError

DATABASE = "run.sqlite"
SCHEMA_VERSION = 3
"""Version 1 was written by fastsia 0.1.0. It had other checksums, and one column by another name: see `OLD_NAMES`.
Version 2 had no table `parts`."""
OLD_NAMES = {"matched_tokens": "ride_tokens"}
"""Columns of `rollouts` that version 1 has by another name."""

PER_PROBLEM = 1 << 24
"""The id of a trajectory's or rollout's row is its problem's position times this, plus its number in the problem."""

HEAD = ("schema_version", "identity", "vocabulary")
"""Keys of `meta` that a reader needs."""
READING = ("reading", "equivalents", "reading_checksum")
"""Keys of `meta` for how answers were read, and which are equal. If they are damaged, the texts are read again."""
ROUNDS = "rounds"
"""Key of `meta` for how many rollouts the checkpoints get, where rounds decide it; see `rounds_meta`."""
REPAIRS = "repairs"
"""Key of `meta` for the notes of damaged databases that were set aside: a JSON list."""


class ProblemRow(NamedTuple):
    """A row of `problems`. position: the place in the dataset. checksum: over all rows of the problem but itself."""

    position: int
    problem_id: str
    question: str
    gold: str
    choices: str | None
    format: str
    prompt: str
    starts_in_think: int
    cut_prompt_tokens: int
    num_trajectories: int
    num_rollouts: int
    checksum: int


class TrajectoryRow(NamedTuple):
    """A row of `trajectories`. Token ids are packed by `pack_ids`; log-probabilities and entropies are float32."""

    id: int
    problem_id: str
    trajectory: int
    seed: int
    finish_reason: str
    error: str | None
    text: str
    answer: str | None
    answer_strict: str | None
    answer_lenient: str | None
    correct: int
    num_tokens: int
    prompt_token_ids: bytes
    token_ids: bytes
    logprobs: bytes
    token_entropies: bytes


class RolloutRow(NamedTuple):
    """A row of `rollouts`. logprob: the sum over its tokens in nats, null if it is not known."""

    id: int
    problem_id: str
    trajectory: int
    checkpoint: int
    rollout: int
    seed: int
    finish_reason: str
    answer: str | None
    answer_strict: str | None
    answer_lenient: str | None
    num_tokens: int
    matched_tokens: int
    logprob: float | None
    token_ids: bytes


class PartRow(NamedTuple):
    """A row of `parts`: the draws of one trajectory of an unfinished problem since its previous row.

    The fields of a `Drawn`, ids and numbers packed by `pack_ids`, reasons as int8. They are kept until the problem is
    finished.

    Attributes:
        number: 0, 1, ... within the trajectory.
        asked: the trajectory's `request_checksum`. Stored databases have this column's name.
        num_ended: rollouts that ended.
        checksum: over the other fields.
    """

    id: int
    position: int
    problem_id: str
    trajectory: int
    number: int
    asked: int
    num_ended: int
    num_tokens: int
    finish_reason: str
    token_ids: bytes
    logprobs: bytes
    token_entropies: bytes
    checkpoints: bytes
    indices: bytes
    lengths: bytes
    reasons: bytes
    rollout_token_ids: bytes
    rollout_logprobs: bytes
    checksum: int

    def sealed(self) -> PartRow:
        """The same row with its checksum."""
        return self._replace(checksum=checksum(self[:-1]))


ROWS: dict[str, Any] = {
    "problems": ProblemRow,
    "trajectories": TrajectoryRow,
    "rollouts": RolloutRow,
    "parts": PartRow,
}
_TYPES: dict[Any, tuple[str, Any]] = {
    int: ("INTEGER NOT NULL", np.int64),
    float | None: ("REAL", np.float64),
    str: ("TEXT NOT NULL", object),
    str | None: ("TEXT", object),
    bytes: ("BLOB NOT NULL", object),
}
"""By a field's annotation: a column's SQL type, and its dtype in a frame."""


class ProblemRows(NamedTuple):
    """All rows of a problem. trajectories, rollouts: in the order of their ids."""

    problem: ProblemRow
    trajectories: Sequence[TrajectoryRow]
    rollouts: Iterable[RolloutRow]

    def checksum(self, version: int = SCHEMA_VERSION) -> int:
        """The correct value of `problem.checksum`."""
        return checksum((self.problem[:-1], self.trajectories, self.rollouts), version)

    def by_table(self) -> dict[str, Iterable[Any]]:
        """The rows by the names of their tables. The problem's comes last: no reader looks for rows without it."""
        return {"trajectories": self.trajectories, "rollouts": self.rollouts, "problems": [self.problem]}

    def sealed(self) -> ProblemRows:
        """The same rows with the checksum of the installed version."""
        return self._replace(problem=self.problem._replace(checksum=self.checksum()))


class RolloutAnswers(NamedTuple):
    """The answers of a trajectory's rollouts, one entry each, as the run, strict and lenient reading have them."""

    chosen: list[str | None]
    strict: list[str | None]
    lenient: list[str | None]


@dataclass(frozen=True)
class AnsweredTrajectory:
    """A finished trajectory with the answers read from it and from its rollouts.

    Attributes:
        text: the decoded trajectory.
        answer: as the run's `answer_reading` reads it; None if it states none.
        rollout_answers: empty if the trajectory failed.
    """

    number: int
    trajectory: Trajectory
    text: str
    answer: str | None
    answer_strict: str | None
    answer_lenient: str | None
    correct: bool
    rollout_answers: RolloutAnswers = field(default_factory=lambda: RolloutAnswers([], [], []))


@dataclass(frozen=True)
class FinishedProblem:
    """Everything about one problem, written in one transaction. `position` is its place in the dataset."""

    position: int
    problem: Problem
    answer_format: str
    prompt: str
    starts_in_think: bool
    cut_prompt_tokens: int
    trajectories: Sequence[AnsweredTrajectory] = field(default_factory=tuple)


@dataclass(frozen=True)
class Part:
    """Draws of one trajectory of an unfinished problem: those since the part before, or all.

    Attributes:
        request_checksum: see the function of this name.
        is_whole: it replaces the parts before.
    """

    position: int
    problem_id: str
    trajectory: int
    request_checksum: int
    drawn: Drawn
    is_whole: bool = False


NumberedTrajectories = Sequence[tuple[int, Trajectory]]
"""A problem's finished trajectories, each with its number."""


@dataclass(frozen=True)
class DrawnProblem:
    """A problem as it was drawn, before its answers are read.

    Attributes:
        trajectories: From a database, their rollouts have no log-probabilities.
    """

    position: int
    problem: Problem
    answer_format: AnswerFormat
    starts_in_think: bool
    trajectories: NumberedTrajectories


# --- SQL -------------------------------------------------------------------------------------------------------


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the empty tables."""
    connection.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID")
    for table in ROWS:
        _create_table(connection, table)
    connection.execute("CREATE UNIQUE INDEX problem_ids ON problems (problem_id)")


def _create_table(connection: sqlite3.Connection, table: str) -> None:
    key, *columns = ((name, _TYPES[kind][0]) for name, kind in get_type_hints(ROWS[table]).items())
    others = ", ".join(f"{name} {kind}" for name, kind in columns)
    connection.execute(f"CREATE TABLE {table} ({key[0]} INTEGER PRIMARY KEY, {others})")


def dtype_of(table: str, column: str) -> Any:
    """The dtype of a column in a frame."""
    return _TYPES[get_type_hints(ROWS[table])[column]][1]


def select(connection: sqlite3.Connection, table: str, where: str = "", parameters: Sequence[Any] = ()) -> list[Any]:
    """Rows of a table, in the order of their ids."""
    names = ROWS[table]._fields
    found = connection.execute(f"SELECT {', '.join(names)} FROM {table} {where} ORDER BY {names[0]}", parameters)
    return list(map(ROWS[table]._make, found))


def insert(connection: sqlite3.Connection, rows: ProblemRows) -> None:
    """Store a problem and delete its parts, in one transaction."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        for table, values in rows.by_table().items():
            _write(connection, "INSERT", table, values)
        connection.execute("DELETE FROM parts WHERE position = ?", (rows.problem.position,))


def insert_parts(connection: sqlite3.Connection, rows: Iterable[PartRow]) -> None:
    """Store parts in one transaction. One with number 0 replaces all of its trajectory."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        for row in rows:
            if row.number == 0:
                where = "position = ? AND trajectory = ?"
                connection.execute(f"DELETE FROM parts WHERE {where}", (row.position, row.trajectory))
            _write(connection, "INSERT", "parts", [row])


def has_parts(connection: sqlite3.Connection) -> bool:
    """Whether a database has the table `parts`."""
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'parts'").fetchone() is not None


def select_parts(connection: sqlite3.Connection, position: int | None = None) -> list[PartRow]:
    """The parts of a problem, or of all, in the order in which they were stored; none in older databases."""
    if not has_parts(connection):
        return []
    return select(connection, "parts", *(() if position is None else ("WHERE position = ?", (position,))))


def replace(connection: sqlite3.Connection, before: ProblemRows, after: ProblemRows) -> None:
    """Store the rows of a problem that changed."""
    stored = before.by_table()
    for table, values in after.by_table().items():
        _write(
            connection, "REPLACE", table, (new for new, old in zip(values, stored[table], strict=True) if new != old)
        )


def _write(connection: sqlite3.Connection, verb: str, table: str, rows: Iterable[Any]) -> None:
    names = ROWS[table]._fields
    statement = f"{verb} INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
    connection.executemany(statement, rows)


def select_rows(connection: sqlite3.Connection, position: int) -> ProblemRows:
    """All rows of a problem, whether they match their checksum or not."""
    (problem,) = select(connection, "problems", "WHERE position = ?", (position,))
    between = (position * PER_PROBLEM, (position + 1) * PER_PROBLEM)
    drawn = (select(connection, table, "WHERE id >= ? AND id < ?", between) for table in ("trajectories", "rollouts"))
    return ProblemRows(problem, *drawn)


def read_rows(connection: sqlite3.Connection, position: int) -> ProblemRows | None:
    """All rows of a problem; None if they do not match their checksum."""
    rows = select_rows(connection, position)
    return rows if rows.checksum(version_of(connection)) == rows.problem.checksum else None


def read_meta(connection: sqlite3.Connection, *, with_vocabulary: bool = True) -> dict[str, Any]:
    """The values of `meta` by key; optionally without the vocabulary, which is megabytes."""
    where = "" if with_vocabulary else "WHERE key != 'vocabulary'"
    return dict(connection.execute(f"SELECT key, value FROM meta {where}").fetchall())


def write_meta(connection: sqlite3.Connection, values: Mapping[str, Any]) -> None:
    """Replace values of `meta`."""
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())


def version_of(connection: sqlite3.Connection) -> Any:
    """The schema version that a database says it has."""
    found = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    return None if found is None else found[0]


class OtherVersionError(FastsiaError):
    """The database has a schema version that this fastsia does not know."""


def check_version(path: Path, version: Any) -> None:
    """Raise OtherVersionError for an unknown schema version. A version that is no integer means damage."""
    if version not in range(1, SCHEMA_VERSION + 1):
        error = OtherVersionError if isinstance(version, int) else FastsiaError
        raise error(f"{path} has schema version {version}; this fastsia reads versions 1 to {SCHEMA_VERSION}.")


def show_current_names(connection: sqlite3.Connection) -> None:
    """Let a database of version 1 be read by the current column names, by a temporary view."""
    if version_of(connection) == 1:
        names = (f"{OLD_NAMES[name]} AS {name}" if name in OLD_NAMES else name for name in RolloutRow._fields)
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"CREATE TEMP VIEW IF NOT EXISTS rollouts AS SELECT {', '.join(names)} FROM main.rollouts")


def migrate(connection: sqlite3.Connection) -> None:
    """Make a database of an older version one of the current version, in one transaction."""
    version = version_of(connection)
    if version == SCHEMA_VERSION:
        return
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        meta = read_meta(connection)
        if version == 1:
            for name, old in OLD_NAMES.items():
                connection.execute(f"ALTER TABLE rollouts RENAME COLUMN {old} TO {name}")
            for (position,) in connection.execute("SELECT position FROM problems").fetchall():
                rows = read_rows(connection, position)
                assert rows is not None, "checked as the database was opened"
                replace(connection, rows, rows.sealed())
            if "reading" in meta:
                reading, classes = parse_reading(meta)
                meta |= reading_meta(reading or {}, classes) if reading is not None else {}
        _create_table(connection, "parts")
        meta["schema_version"] = SCHEMA_VERSION
        write_meta(connection, meta | {"checksum": head_checksum(meta)})


# --- checksums -------------------------------------------------------------------------------------------------


def checksum(values: Any, version: int = SCHEMA_VERSION) -> int:
    """CRC-32 over nested lists of numbers, texts, None and bytes: over their JSON, with the CRC-32 of bytes in it.

    Args:
        version: Schema version of the database; 1 takes Python's marshal format 2 instead, as fastsia 0.1.0 did.
    """
    if version == 1:
        return zlib.crc32(marshal.dumps(_plain(values), 2))
    return zlib.crc32(json.dumps(values, default=zlib.crc32).encode())


def _plain(values: Any) -> Any:
    """Named tuples, which marshal refuses, as tuples."""
    if isinstance(values, tuple):
        return tuple(map(_plain, values))
    return list(map(_plain, values)) if isinstance(values, list) else values


def head_checksum(meta: Mapping[str, Any]) -> int:
    """The checksum over the keys that a reader needs, in the format of the database's version."""
    return checksum([meta.get(key) for key in HEAD], meta.get("schema_version", SCHEMA_VERSION))


# --- rounds of rollouts ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoundState:
    """What earlier rounds have decided.

    Attributes:
        first: rollouts per checkpoint after the uniform rounds, while the final numbers are not decided; else None.
        counts: the final number of rollouts of each checkpoint, by (position, trajectory).
    """

    first: int | None = None
    counts: Mapping[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)


def rounds_meta(rounds: RoundState) -> dict[str, Any]:
    """The value of `meta`: JSON with the counts under "POSITION,TRAJECTORY", and `first` under its name."""
    stored: dict[str, Any] = {f"{position},{number}": counts for (position, number), counts in rounds.counts.items()}
    if rounds.first is not None:
        stored["first"] = rounds.first
    text = json.dumps(stored, sort_keys=True)
    return {ROUNDS: json.dumps([text, checksum([text])])}


def parse_rounds(meta: Mapping[str, Any]) -> RoundState | None:
    """The inverse of `rounds_meta`; None where nothing is stored, or the value is damaged."""
    try:
        text, stored = json.loads(meta[ROUNDS])
        if checksum([text]) != stored:
            return None
        counts = json.loads(text)
        first = counts.pop("first", None)
        return RoundState(first, {_trajectory_of(key): tuple(own) for key, own in counts.items()})
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def _trajectory_of(key: str) -> tuple[int, int]:
    position, number = key.split(",")
    return int(position), int(number)


# --- how answers were read -------------------------------------------------------------------------------------

ClassesByTrajectory = dict[int, Classes]
"""By the id of a trajectory: its classes of equal answers, without the answers that represent themselves."""

# Databases that do not say how their answers were read are older than every other way of reading.
_FIRST_READING = {
    "rules": 1,
    "answer_reading": "strict",
    "equivalence": "spelling",
    "answer_regex": None,
    "answer_reader": None,
}


def reading_meta(reading: Mapping[str, Any], classes: ClassesByTrajectory) -> dict[str, Any]:
    """The values of `meta` for how answers were read and which of them are equal."""
    grouped = {row: [dict(found.representative), found.num_timeouts] for row, found in sorted(classes.items())}
    values = [json.dumps(reading, sort_keys=True), json.dumps(grouped)]
    return dict(zip(READING, [*values, checksum(values)], strict=True))


def parse_reading(meta: Mapping[str, Any]) -> tuple[dict[str, Any] | None, ClassesByTrajectory]:
    """(how the answers were read, which of them are equal); (None, {}) if that is damaged."""
    try:
        if "reading" not in meta:
            config = renamed.current(json.loads(meta["identity"])["config"])
            return _FIRST_READING | {"answer_reading": config.get("answer_reading", "strict")}, {}
        *values, stored = (meta[key] for key in READING)
        if checksum(values, meta["schema_version"]) != stored:
            return None, {}
        reading, classes = map(json.loads, values)
        grouped = {int(row): Classes(dict(names), int(late)) for row, (names, late) in classes.items()}
        return renamed.current(reading), grouped
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return None, {}


def without_identical(found: Classes) -> Classes:
    """Classes without the answers that represent themselves."""
    others = {answer: name for answer, name in found.representative.items() if answer != name}
    return Classes(others, found.num_timeouts)


def names_of(classes: ClassesByTrajectory, row: int) -> Mapping[str, str]:
    """The representatives of a trajectory's answers that do not represent themselves."""
    return classes[row].representative if row in classes else {}


# --- rows and objects ------------------------------------------------------------------------------------------


def pack_ids(token_ids: np.ndarray) -> bytes:
    """Token ids as 3 bytes each, little-endian.

    Raises:
        FastsiaError: an id is not in 0 to 2^24 - 1.
    """
    ids = np.ascontiguousarray(token_ids, dtype="<i4")
    if ids.size and (ids.min() < 0 or ids.max() >= 1 << 24):
        wrong = ids[(ids < 0) | (ids >= 1 << 24)]
        raise FastsiaError(f"token id {int(wrong[0])} cannot be stored: ids go from 0 to {(1 << 24) - 1}.")
    return ids.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()


def unpack_ids(blob: bytes) -> np.ndarray:
    """The inverse of `pack_ids`: int32."""
    padded = np.zeros((len(blob) // 3, 4), dtype=np.uint8)
    padded[:, :3] = np.frombuffer(blob, dtype=np.uint8).reshape(-1, 3)
    return padded.view("<i4").reshape(-1).astype(np.int32, copy=False)


def pack_floats(values: np.ndarray) -> bytes:
    """Numbers as float32, little-endian."""
    return np.asarray(values, dtype="<f4").tobytes()


def unpack_floats(blob: bytes) -> np.ndarray:
    """The inverse of `pack_floats`: float32."""
    return np.frombuffer(blob, dtype="<f4").astype(np.float32)


def matched_tokens(
    trajectory_ids: np.ndarray, checkpoint: np.ndarray, offsets: np.ndarray, ids: np.ndarray
) -> np.ndarray:
    """How many tokens of each rollout agree with its trajectory from the checkpoint on.

    Args:
        trajectory_ids: int32 [T].
        checkpoint: int [R], where each rollout starts.
        offsets: int64 [R + 1]; rollout r owns ids[offsets[r]:offsets[r + 1]].
        ids: int32, the rollouts' tokens.

    Returns:
        int64 [R].
    """
    lengths = np.diff(offsets)
    matched = lengths.astype(np.int64).copy()
    if len(ids) == 0:
        return matched
    row = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(ids)) - np.repeat(offsets[:-1], lengths)
    at = checkpoint[row] + place
    padded = np.append(trajectory_ids, -1)
    differs = np.flatnonzero(padded[np.minimum(at, len(trajectory_ids))] != ids)
    first_rows, first = np.unique(row[differs], return_index=True)
    matched[first_rows] = place[differs[first]]
    return matched


def request_checksum(problem: Problem, prompt_ids: Sequence[int], seed: int) -> int:
    """The checksum of the inputs of a trajectory's draws: question, prompt and seed."""
    return checksum([problem.id, problem.question, choices_text(problem), list(prompt_ids), seed])


def to_part_row(part: Part, row_id: int, number: int) -> PartRow:
    """The row of a part."""
    drawn, rollouts = part.drawn, part.drawn.rollouts
    return PartRow(
        id=row_id,
        position=part.position,
        problem_id=part.problem_id,
        trajectory=part.trajectory,
        number=number,
        asked=part.request_checksum,
        num_ended=int((rollouts.finish_reason >= 0).sum()),
        num_tokens=drawn.num_tokens,
        finish_reason=drawn.finish_reason,
        token_ids=pack_ids(drawn.token_ids),
        logprobs=pack_floats(drawn.logprobs),
        token_entropies=pack_floats(drawn.token_entropies),
        checkpoints=pack_ids(rollouts.checkpoint),
        indices=pack_ids(rollouts.index),
        lengths=pack_ids(np.diff(rollouts.offsets)),
        reasons=rollouts.finish_reason.astype(np.int8).tobytes(),
        rollout_token_ids=pack_ids(rollouts.token_ids),
        rollout_logprobs=pack_floats(rollouts.logprobs),
        checksum=0,
    ).sealed()


def to_drawn(row: PartRow) -> Drawn:
    """The inverse of `to_part_row`."""
    lengths = unpack_ids(row.lengths)
    rollouts = Rollouts(
        checkpoint=unpack_ids(row.checkpoints),
        index=unpack_ids(row.indices),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        token_ids=unpack_ids(row.rollout_token_ids),
        logprobs=unpack_floats(row.rollout_logprobs),
        finish_reason=np.frombuffer(row.reasons, dtype=np.int8),
    )
    return Drawn(
        row.num_tokens,
        unpack_ids(row.token_ids),
        unpack_floats(row.logprobs),
        unpack_floats(row.token_entropies),
        row.finish_reason,
        rollouts,
    )


def whole_parts(rows: Iterable[PartRow]) -> list[PartRow]:
    """The parts up to the first of their trajectory that is missing or does not match its checksum."""
    wanted: dict[tuple[int, int], int] = {}
    whole = []
    for row in rows:
        key = row.position, row.trajectory
        if row.number == wanted.get(key, 0) and row.sealed() == row:
            wanted[key] = row.number + 1
            whole.append(row)
    return whole


def choices_text(problem: Problem) -> str | None:
    """A problem's choices as they are stored."""
    return None if problem.choices is None else json.dumps(problem.choices, ensure_ascii=False)


def to_rows(finished: FinishedProblem) -> ProblemRows:
    """The rows of a finished problem."""
    problem, base = finished.problem, finished.position * PER_PROBLEM
    trajectories: list[TrajectoryRow] = []
    rollouts: list[RolloutRow] = []
    for answered in finished.trajectories:
        drawn = answered.trajectory
        row = TrajectoryRow(
            id=base + answered.number,
            problem_id=problem.id,
            trajectory=answered.number,
            seed=int(np.int64(np.uint64(drawn.seed & (2**64 - 1)))),
            finish_reason=drawn.finish_reason,
            error=drawn.error,
            # A faulty tokenizer may decode to lone surrogates, which sqlite refuses.
            text=answered.text.encode("utf-8", "replace").decode("utf-8"),
            answer=answered.answer,
            answer_strict=answered.answer_strict,
            answer_lenient=answered.answer_lenient,
            correct=int(answered.correct),
            num_tokens=len(drawn.token_ids),
            prompt_token_ids=pack_ids(drawn.prompt_ids),
            token_ids=pack_ids(drawn.token_ids),
            logprobs=pack_floats(drawn.logprobs),
            token_entropies=pack_floats(drawn.token_entropies),
        )
        trajectories.append(row)
        rollouts += _rollout_rows(answered, row, base + len(rollouts))
    head = ProblemRow(
        position=finished.position,
        problem_id=problem.id,
        question=problem.question,
        gold=problem.gold,
        choices=choices_text(problem),
        format=finished.answer_format,
        prompt=finished.prompt,
        starts_in_think=int(finished.starts_in_think),
        cut_prompt_tokens=finished.cut_prompt_tokens,
        num_trajectories=len(trajectories),
        num_rollouts=len(rollouts),
        checksum=0,
    )
    return ProblemRows(head, trajectories, rollouts).sealed()


def _rollout_rows(answered: AnsweredTrajectory, row: TrajectoryRow, first_id: int) -> Iterable[RolloutRow]:
    rollouts = answered.trajectory.rollouts
    if rollouts is None:
        return []
    count, offsets = len(rollouts), rollouts.offsets
    blob = pack_ids(rollouts.token_ids)
    # Differences of a cumulative sum also work for empty rollouts. An unknown log-probability makes the sum null.
    is_known = np.isfinite(rollouts.logprobs)
    totals = np.concatenate([[0.0], np.cumsum(np.where(is_known, rollouts.logprobs, 0.0), dtype=np.float64)])
    unknown = np.concatenate([[0], np.cumsum(~is_known)])
    # sqlite stores -0.0 as 0.0, which would not match the checksum.
    logprobs = (totals[offsets[1:]] - totals[offsets[:-1]] + 0.0).astype(object)
    logprobs[unknown[offsets[1:]] > unknown[offsets[:-1]]] = None
    matched = matched_tokens(answered.trajectory.token_ids, rollouts.checkpoint, offsets, rollouts.token_ids)
    columns = (
        range(first_id, first_id + count),
        [row.problem_id] * count,
        [row.trajectory] * count,
        rollouts.checkpoint.tolist(),
        rollouts.index.tolist(),
        [row.seed] * count,
        [FINISH_REASONS[code] for code in rollouts.finish_reason.tolist()],
        *answered.rollout_answers,
        np.diff(offsets).tolist(),
        matched.tolist(),
        logprobs.tolist(),
        [blob[begin:end] for begin, end in pairwise((offsets * 3).tolist())],
    )
    return map(RolloutRow._make, zip(*columns, strict=True))


def by_trajectory(rows: ProblemRows) -> list[tuple[TrajectoryRow, list[RolloutRow]]]:
    """Each trajectory's row with its rollouts'."""
    mine: dict[int, list[RolloutRow]] = {}
    for number, group in groupby(rows.rollouts, lambda row: row.trajectory):
        mine.setdefault(number, []).extend(group)
    return [(row, mine.get(row.trajectory, [])) for row in rows.trajectories]


def to_stored(rows: ProblemRows) -> DrawnProblem:
    """A problem as it was drawn, from its rows."""
    row = rows.problem
    choices = None if row.choices is None else tuple(json.loads(row.choices))
    answer_format: Any = row.format
    return DrawnProblem(
        row.position,
        Problem(row.problem_id, row.question, row.gold, choices, answer_format),
        answer_format,
        bool(row.starts_in_think),
        [(own.trajectory, _to_trajectory(own, rollouts)) for own, rollouts in by_trajectory(rows)],
    )


def _to_trajectory(row: TrajectoryRow, rollouts: Sequence[RolloutRow]) -> Trajectory:
    checkpoint = np.array([r.checkpoint for r in rollouts], dtype=np.int32)
    ids = unpack_ids(b"".join(r.token_ids for r in rollouts))
    drawn = Rollouts(
        checkpoint=checkpoint,
        index=np.array([r.rollout for r in rollouts], dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum([r.num_tokens for r in rollouts])]).astype(np.int64),
        token_ids=ids,
        logprobs=np.full(len(ids), np.nan, dtype=np.float32),
        finish_reason=np.array([FINISH_REASONS.index(r.finish_reason) for r in rollouts], dtype=np.int8),
    )
    reason: Any = row.finish_reason
    return Trajectory(
        key=(row.id // PER_PROBLEM, row.trajectory),
        prompt_ids=unpack_ids(row.prompt_token_ids),
        token_ids=unpack_ids(row.token_ids),
        logprobs=unpack_floats(row.logprobs),
        token_entropies=unpack_floats(row.token_entropies),
        finish_reason=reason,
        seed=row.seed,
        checkpoints=np.unique(checkpoint),
        rollouts=None if row.finish_reason == "error" else drawn,
        error=row.error,
    )


def __getattr__(name: str) -> Any:
    if name == "ScoredTrajectory":
        renamed.warn(name, "AnsweredTrajectory")
        return AnsweredTrajectory
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
