"""Rollouts after the likely tokens at forking positions: their database beside a run's, and the answers they reach."""

from __future__ import annotations

import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fastsia.answers.vocabulary import Vocabulary
from fastsia.engine.sequence import FINISH_REASONS, FinishReason, Rollouts, Trajectory
from fastsia.errors import FastsiaError, one_line
from fastsia.files import refuse_links
from fastsia.report.data import AlternativeView
from fastsia.report.tables import format_p
from fastsia.results.reader import Store, problem_of
from fastsia.results.reading import Reading
from fastsia.results.schema import DrawnProblem, pack_ids, unpack_ids
from fastsia.results.score import stored_config
from fastsia.results.steps import format_answer
from fastsia.sia.extras.alternatives import alternatives_table

ALTERNATIVES = "alternatives.sqlite"
"""The file of a run's folder with rollouts after tokens that were forced (`fastsia.forking`). If it is there, the
results have a table `alternatives`. The statistics of the checkpoints do not read it."""

MOST_FORCED = 16
"""The most tokens of one position that rollouts are drawn after, the trajectory's own among them."""

_SECONDS = 60.0
"""Seconds to wait for another process that writes."""

_TABLES = """
CREATE TABLE IF NOT EXISTS tokens (
    problem_id TEXT NOT NULL, trajectory INTEGER NOT NULL, position INTEGER NOT NULL, token INTEGER NOT NULL,
    slot INTEGER NOT NULL, logprob REAL NOT NULL, checksum INTEGER NOT NULL,
    PRIMARY KEY (problem_id, trajectory, position, token)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rollouts (
    problem_id TEXT NOT NULL, trajectory INTEGER NOT NULL, position INTEGER NOT NULL, token INTEGER NOT NULL,
    rollout INTEGER NOT NULL, finish_reason TEXT NOT NULL, token_ids BLOB NOT NULL,
    PRIMARY KEY (problem_id, trajectory, position, token, rollout)) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class ForcedToken:
    """A token at a position of a trajectory: the trajectory's own, or another one in its place.

    Attributes:
        token: Its id.
        place: 0, 1, ... in the order in which tokens were requested at this position; the seeds of the draws after the
            token depend on it. Column `slot` of the database.
        logprob: Nats, under the distribution that rollouts are drawn from.
    """

    position: int
    token: int
    place: int
    logprob: float


@dataclass(frozen=True)
class AnswersAfter:
    """The answers that rollouts after a token reached.

    Attributes:
        is_own: Whether the trajectory has this token.
        answers: One per rollout; None: no answer.
    """

    problem_id: str
    trajectory: int
    forced: ForcedToken
    is_own: bool
    gold: str
    answers: Sequence[str | None]


def checksum_of(trajectory: Mapping[Any, Any], fingerprint: str) -> int:
    """A checksum of a trajectory and of the weights; rollouts stored under another checksum are not used."""
    ids = np.concatenate([trajectory["prompt_token_ids"], [-1], trajectory["token_ids"]]).astype("<i4")
    return zlib.crc32(fingerprint.encode(), zlib.crc32(ids.tobytes()))


class AlternativeStore:
    """The database of one run's rollouts after forced tokens. Each call is a transaction of its own."""

    def __init__(self, directory: Path) -> None:
        refuse_links(directory, (ALTERNATIVES,))
        self.path = directory / ALTERNATIVES

    @property
    def exists(self) -> bool:
        return self.path.is_file() and not self.path.is_symlink()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=_SECONDS)) as connection:
                if self.path.stat().st_size == 0:
                    connection.executescript(_TABLES)
                with connection:
                    yield connection
        except sqlite3.OperationalError as error:  # a full disk, a read-only folder, another process that writes
            raise FastsiaError(f"{self.path} cannot be read or written: {one_line(error)}.") from error
        except sqlite3.DatabaseError as error:
            raise FastsiaError(f"{self.path} is damaged ({one_line(error)}); delete it to draw again.") from error

    def begin(
        self, problem_id: str, trajectory: int, checksum: int, wanted: Iterable[tuple[int, int, float]]
    ) -> list[ForcedToken]:
        """Store the tokens that are new, and return all of them with their places, in the order given.

        Args:
            problem_id: Of the trajectory.
            trajectory: Its number.
            checksum: See `checksum_of`; what is stored of this trajectory under another is removed.
            wanted: Position, token and its log-probability.

        Raises:
            FastsiaError: A position would have more than `MOST_FORCED` tokens.
        """
        key, found = (problem_id, trajectory), list[ForcedToken]()
        with self._open() as connection:
            stale = connection.execute(
                "SELECT count(*) FROM tokens WHERE problem_id = ? AND trajectory = ? AND checksum != ?",
                (*key, checksum),
            ).fetchone()[0]
            if stale:
                for table in ("tokens", "rollouts"):
                    connection.execute(f"DELETE FROM {table} WHERE problem_id = ? AND trajectory = ?", key)
            for position, token, logprob in wanted:
                where = "FROM tokens WHERE problem_id = ? AND trajectory = ? AND position = ?"
                row = connection.execute(f"SELECT slot {where} AND token = ?", (*key, position, token)).fetchone()
                found_or_next = row or connection.execute(f"SELECT count(*) {where}", (*key, position)).fetchone()
                place = found_or_next[0]
                if place >= MOST_FORCED:
                    raise FastsiaError(
                        f"problem {problem_id!r}, token {position}: rollouts after {MOST_FORCED} tokens are stored, "
                        f"which is the maximum; delete {self.path} to draw after others."
                    )
                if row is None:
                    values = (*key, position, token, place, logprob, checksum)
                    connection.execute("INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?)", values)
                found.append(ForcedToken(position, token, place, logprob))
        return found

    def finished(self, problem_id: str, trajectory: int) -> set[tuple[int, int, int]]:
        """Position, token and number of the rollouts that are stored."""
        with self._open() as connection:
            query = "SELECT position, token, rollout FROM rollouts WHERE problem_id = ? AND trajectory = ?"
            return set(connection.execute(query, (problem_id, trajectory)))

    def add(self, problem_id: str, trajectory: int, rows: Iterable[tuple[int, int, int, str, np.ndarray]]) -> int:
        """Store rollouts that have ended: position, forced token, number, finish reason, tokens from the forced one on.

        One that is stored already is left as it is.

        Returns:
            How many were new.
        """
        packed = [(problem_id, trajectory, *row[:4], pack_ids(row[4])) for row in rows]
        with self._open() as connection:
            before = connection.total_changes
            connection.executemany("INSERT OR IGNORE INTO rollouts VALUES (?, ?, ?, ?, ?, ?, ?)", packed)
            return connection.total_changes - before

    def read(self, problem_id: str, trajectory: int, checksum: int) -> list[tuple[ForcedToken, list[Any]]]:
        """Each token with its rollouts (number, finish reason, token ids), by position and place."""
        key = (problem_id, trajectory)
        with self._open() as connection:
            tokens = connection.execute(
                "SELECT position, token, slot, logprob FROM tokens WHERE problem_id = ? AND trajectory = ? "
                "AND checksum = ? ORDER BY position, slot",
                (*key, checksum),
            ).fetchall()
            rollouts: dict[tuple[int, int], list[Any]] = {}
            for position, token, *row in connection.execute(
                "SELECT position, token, rollout, finish_reason, token_ids FROM rollouts WHERE problem_id = ? AND "
                "trajectory = ? ORDER BY position, token, rollout",
                key,
            ):
                rollouts.setdefault((position, token), []).append(row)
        return [(ForcedToken(*row), rollouts.get(row[:2], [])) for row in tokens]


def answers_after(store: Store, problem_id: str | None = None) -> Iterator[AnswersAfter]:
    """The answers after every forced token of a run, read as the run's own, trajectory by trajectory.

    Args:
        store: A snapshot of the run.
        problem_id: Of this problem only; None: of all.
    """
    stored = AlternativeStore(store.path.parent)
    if not stored.exists:
        return
    identity, reading = store.identity(), Reading(stored_config(store))
    if (store.reading() or {}).get("answer_reader"):
        return  # `fastsia.forking` draws nothing for such a run
    fingerprint, vocabulary, same = identity["model"]["fingerprint"], store.vocabulary(), store.same_answers()
    problems: dict[Any, Any] = {row["problem_id"]: row for row in store.problems().to_dict("records")}
    for row in store.trajectories().to_dict("records"):
        key = (str(row["problem_id"]), int(row["trajectory"]))
        if problem_id not in (None, key[0]) or row["finish_reason"] == "error":
            continue
        found = stored.read(*key, checksum_of(row, str(fingerprint)))
        found = [(forced, rollouts) for forced, rollouts in found if rollouts]
        if not found:
            continue
        answers = _read(reading, problems[key[0]], row, found, vocabulary)
        names = same.get(key, {})
        begin = 0
        for forced, rollouts in found:
            mine = [None if a is None else names.get(a, a) for a in answers[begin : begin + len(rollouts)]]
            begin += len(rollouts)
            is_own = int(row["token_ids"][forced.position]) == forced.token
            yield AnswersAfter(*key, forced, is_own, str(row["gold"]), mine)


def _read(
    reading: Reading, problem: Mapping[Any, Any], row: Mapping[Any, Any], found: Any, vocabulary: Vocabulary
) -> list[str | None]:
    """The answers of the rollouts of one trajectory, in their order."""
    ids = [unpack_ids(blob) for _, rollouts in found for _, _, blob in rollouts]
    reasons = [FinishReason(FINISH_REASONS.index(reason)) for _, rollouts in found for _, reason, _ in rollouts]
    counts = [len(rollouts) for _, rollouts in found]
    rollouts = Rollouts(
        checkpoint=np.repeat([forced.position for forced, _ in found], counts).astype(np.int32),
        index=np.arange(len(ids), dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum([len(one) for one in ids])]).astype(np.int64),
        token_ids=np.concatenate(ids).astype(np.int32),
        logprobs=np.zeros(sum(map(len, ids)), np.float32),
        finish_reason=np.array(reasons, dtype=np.int8),
    )
    nothing = np.zeros(0, np.float32)
    trajectory = Trajectory(
        key=None,
        prompt_ids=row["prompt_token_ids"],
        token_ids=row["token_ids"],
        logprobs=nothing,
        token_entropies=nothing,
        finish_reason=str(row["finish_reason"]),
        seed=0,
        checkpoints=np.unique(rollouts.checkpoint),
        rollouts=rollouts,
    )
    drawn = DrawnProblem(0, problem_of(problem), problem["format"], bool(problem["starts_in_think"]), [(0, trajectory)])
    (answered,) = reading.read(drawn, vocabulary)
    return answered.rollout_answers.chosen


def read_alternatives(store: Store, problem_id: str | None = None) -> pd.DataFrame:
    """The table `alternatives` of a run; see `fastsia.sia.extras.alternatives`. No rows where none were drawn.

    Args:
        store: A snapshot of the run.
        problem_id: Of this problem only; None: of all.
    """
    return _table(store, answers_after(store, problem_id))


def alternative_views(store: Store) -> dict[tuple[str, int], dict[int, list[AlternativeView]]]:
    """A run's alternatives for the viewer, by problem id and trajectory, then by position."""
    found = list(answers_after(store))
    answers = {(one.problem_id, one.trajectory, one.forced.position, one.forced.token): one.answers for one in found}
    views: dict[tuple[str, int], dict[int, list[AlternativeView]]] = {}
    for row in _table(store, found).to_dict("records"):
        problem_id, trajectory, position = row["problem_id"], row["trajectory"], row["position"]
        q_value = None if np.isnan(row["q_value"]) else row["q_value"]
        ranked = Counter(answers[problem_id, trajectory, position, row["token_id"]]).most_common()
        view = AlternativeView(row["token"], row["probability"], row["is_own"], q_value, ranked)
        views.setdefault((problem_id, trajectory), {}).setdefault(position, []).append(view)
    return views


def _table(store: Store, found: Iterable[AnswersAfter]) -> pd.DataFrame:
    vocabulary = store.vocabulary()
    rows = [
        {
            "problem_id": one.problem_id,
            "trajectory": one.trajectory,
            "position": one.forced.position,
            "token": vocabulary.decode(np.array([one.forced.token], dtype=np.int32)),
            "token_id": one.forced.token,
            "is_own": one.is_own,
            "probability": float(np.exp(one.forced.logprob)),
            "gold": one.gold,
            "answers": one.answers,
        }
        for one in found
    ]
    return alternatives_table(pd.DataFrame(rows))


def describe_alternatives(table: pd.DataFrame) -> Iterator[list[str]]:
    """The rows of one position after the other as lines to read, the strongest difference first."""
    keys = ["problem_id", "trajectory", "position"]
    strongest = table.groupby(keys, sort=False)["q_value"].min()
    for key in strongest.sort_values(kind="stable").index.tolist():
        rows = table[(table[keys] == list(key)).all(axis=1)]
        lines = [f"{key[0]}, trajectory {key[1]}, token {key[2]}"]
        for row in rows.to_dict("records"):
            name = f"{row['token']!r}{' (its own)' if row['is_own'] else ''}"
            share = f"{100 * row['answer_share']:.0f} % {format_answer(row['answer'])}"
            gold = f"gold {100 * row['gold_share']:.0f} %"
            line = f"  {name}: p = {row['probability']:.2f}; {row['num_rollouts']} rollouts, {share}, {gold}"
            lines.append(line if row["is_own"] else f"{line}; q = {format_p(row['q_value'])}")
        yield lines
