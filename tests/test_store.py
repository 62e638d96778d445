"""The results' database: nothing lost, nothing torn, nothing mixed."""

from __future__ import annotations

import dataclasses
import gc
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import textwrap
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from fastsia import FastsiaError, Problem
from fastsia.answers.vocabulary import Vocabulary
from fastsia.engine.sequence import UNFINISHED, Drawn, FinishReason, Rollouts, Trajectory
from fastsia.files import write_json, write_parquet
from fastsia.results import schema
from fastsia.results.reader import Store
from fastsia.results.schema import (
    AnsweredTrajectory,
    FinishedProblem,
    Part,
    RolloutAnswers,
    matched_tokens,
    pack_ids,
    unpack_ids,
)
from fastsia.results.writer import StoreWriter
from tests.faults.disks import small_disk
from tests.programs import begin_python
from tests.tiny import tiny_tokenizer

IDENTITY: dict[str, Any] = {
    "model": {"name": "a/model", "dtype": "float32", "fingerprint": "f0"},
    "task": "t",
    "backend": "native",
    "config": {"seed": 0, "temperature": 0.7},
}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.from_tokenizer(tiny_tokenizer())


def finished(position: int, num_rollouts: int = 6, trajectories: int = 1, failed: bool = False) -> FinishedProblem:
    """A made-up finished problem: always the same one for the same arguments."""
    rng = np.random.default_rng(position)
    answered = []
    for number in range(trajectories):
        checkpoints = np.array([0, 4, 7], dtype=np.int32)
        lengths = rng.integers(0, 5, 3 * num_rollouts)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        rollouts = Rollouts(
            checkpoint=np.repeat(checkpoints, num_rollouts),
            index=np.tile(np.arange(num_rollouts, dtype=np.int32), 3),
            offsets=offsets,
            token_ids=rng.integers(0, 250, offsets[-1]).astype(np.int32),
            logprobs=-rng.random(offsets[-1]).astype(np.float32),
            finish_reason=np.full(3 * num_rollouts, FinishReason.EOS, dtype=np.int8),
        )
        answers: list[str | None] = [None if n == 0 else str(n) for n in lengths.tolist()]
        trajectory = Trajectory(
            key=(position, number),
            prompt_ids=np.arange(5, dtype=np.int32),
            token_ids=rng.integers(0, 250, 7).astype(np.int32),
            logprobs=-rng.random(7).astype(np.float32),
            token_entropies=rng.random(7).astype(np.float32),
            finish_reason="error" if failed else "eos",
            seed=(1 << 63) + position,
            checkpoints=checkpoints,
            rollouts=None if failed else rollouts,
            error="logits were NaN" if failed else None,
        )
        read = RolloutAnswers([], [], []) if failed else RolloutAnswers(answers, answers, answers)
        answered.append(AnsweredTrajectory(number, trajectory, "2 + 2", "4", "4", "4", True, read))
    problem = Problem(f"p{position}", "What?", "4", choices=("a", "b"))
    return FinishedProblem(position, problem, "number", "What?", False, 0, answered)


def write(folder: Path, vocabulary: Vocabulary, positions: range, **identity: Any) -> StoreWriter:
    with StoreWriter(folder, IDENTITY | identity, vocabulary) as writer:
        for position in positions:
            if position not in writer.done:
                writer.add(finished(position))
    return writer


def tables(folder: Path) -> dict[str, list[Any]]:
    connection = sqlite3.connect(folder / "run.sqlite")
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return {
            name: connection.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall()
            for name in ("problems", "trajectories", "rollouts")
        }
    finally:
        connection.close()


def test_ids_of_any_size_survive_packing() -> None:
    ids = np.array([0, 1, 255, 256, 65536, (1 << 24) - 1], dtype=np.int32)
    assert len(pack_ids(ids)) == 18
    np.testing.assert_array_equal(unpack_ids(pack_ids(ids)), ids)
    assert unpack_ids(b"").dtype == np.int32
    for bad in (-1, 1 << 24):
        with pytest.raises(FastsiaError, match=f"token id {bad} cannot be stored"):
            pack_ids(np.array([5, bad, 7]))


def test_rides_are_counted_from_each_checkpoint() -> None:
    """A rollout that runs past the trajectory's end rides no further; an empty one rides 0."""
    trajectory = np.array([5, 6, 7], dtype=np.int32)
    rollouts = [[5, 6, 7, 9], [5, 9], [], [7, 0], [6], [0], [5, 6, 7, 1]]
    checkpoint = np.array([0, 0, 0, 2, 1, 3, 0])
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in rollouts])])
    ids = np.array([token for rollout in rollouts for token in rollout], dtype=np.int32)
    assert matched_tokens(trajectory, checkpoint, offsets, ids).tolist() == [3, 1, 0, 1, 1, 0, 3]
    assert matched_tokens(trajectory, np.zeros(2), np.zeros(3, np.int64), np.zeros(0, np.int32)).tolist() == [0, 0]


def test_what_is_written_is_read_back(tmp_path: Path, vocabulary: Vocabulary) -> None:
    with StoreWriter(tmp_path, IDENTITY, vocabulary) as writer:
        for position in (2, 0):
            writer.add(finished(position, trajectories=2))
    store = Store(tmp_path / "run.sqlite")
    assert store.identity() == IDENTITY
    assert store.vocabulary().to_bytes() == vocabulary.to_bytes()
    assert store.num_problems() == 2
    assert store.problems()["problem_id"].tolist() == ["p0", "p2"], "the dataset's order, not the finishing order"
    assert store.problems()["choices"].tolist() == [["a", "b"]] * 2
    trajectories = store.trajectories()
    assert trajectories["trajectory"].tolist() == [0, 1, 0, 1]
    expected = finished(0, trajectories=2).trajectories[1].trajectory
    np.testing.assert_array_equal(trajectories["token_ids"][1], expected.token_ids)
    np.testing.assert_array_equal(trajectories["token_entropies"][1], expected.token_entropies)
    assert trajectories["seed"][1] == expected.seed - (1 << 64), "64 bits, signed as sqlite has them"

    (rollouts,) = store.rollouts()
    drawn = expected.rollouts
    assert drawn is not None
    mine = rollouts[(rollouts["problem_id"] == "p0") & (rollouts["trajectory"] == 1)].reset_index(drop=True)
    assert mine["checkpoint"].tolist() == drawn.checkpoint.tolist()
    assert mine["rollout"].tolist() == drawn.index.tolist()
    for r in range(len(drawn)):
        row = drawn.row(r)
        assert mine["token_ids"][r].tolist() == row.token_ids
        assert mine["logprob"][r] == pytest.approx(sum(row.logprobs), abs=1e-5)
        assert mine["answer"][r] == (str(len(row.token_ids)) if row.token_ids else None), "None stays None"
    assert rollouts["logprob"].dtype == np.float64
    columns = store.rollout_columns()
    pd.testing.assert_frame_equal(
        columns[["problem_id", "trajectory", "checkpoint", "rollout", "answer", "gold", "num_tokens"]],
        rollouts[["problem_id", "trajectory", "checkpoint", "rollout", "answer", "gold", "num_tokens"]],
    )
    assert columns["correct"].all()


def test_an_answer_too_few_is_an_error(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """And nothing of the problem is stored."""
    whole = finished(0)
    answered = whole.trajectories[0]
    answers = answered.rollout_answers
    short = dataclasses.replace(answered, rollout_answers=answers._replace(lenient=answers.lenient[:-1]))
    with StoreWriter(tmp_path, IDENTITY, vocabulary) as writer:
        with pytest.raises(ValueError, match="shorter"):
            writer.add(dataclasses.replace(whole, trajectories=[short]))
        assert writer.done == set()
    assert Store(tmp_path / "run.sqlite").num_problems() == 0


def test_many_rollouts_are_read_in_pieces(tmp_path: Path, vocabulary: Vocabulary) -> None:
    with StoreWriter(tmp_path, IDENTITY, vocabulary) as writer:
        for position in range(3):
            writer.add(finished(position, num_rollouts=1000))
    store = Store(tmp_path / "run.sqlite")
    columns, whole = store.rollout_columns(), pd.concat(store.rollouts(), ignore_index=True)
    assert len(columns) == 9000
    names = ["problem_id", "checkpoint", "rollout", "answer", "gold", "num_tokens"]
    pd.testing.assert_frame_equal(columns[names], whole[names])


def test_chunks_of_problems_make_the_same_rollouts(tmp_path: Path, vocabulary: Vocabulary) -> None:
    write(tmp_path, vocabulary, range(5))
    store = Store(tmp_path / "run.sqlite")
    (whole,) = store.rollouts()
    parts = pd.concat(store.rollouts(problems_at_once=2), ignore_index=True)
    pd.testing.assert_frame_equal(whole.drop(columns="token_ids"), parts.drop(columns="token_ids"))
    assert [t.tolist() for t in whole["token_ids"]] == [t.tolist() for t in parts["token_ids"]]


def test_columns_without_a_value_hold_none(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """Not NaN, which is a number."""
    write(tmp_path, vocabulary, range(2))
    assert Store(tmp_path / "run.sqlite").trajectories()["error"].tolist() == [None, None]


def test_a_finished_runs_database_is_one_plain_file(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """Bytes 18 and 19 are 2 where a reader needs a log and memory beside it (sqlite's file format)."""
    with StoreWriter(tmp_path, IDENTITY, vocabulary) as writer:
        writer.add(finished(0))
        assert (tmp_path / "run.sqlite-wal").stat().st_size > 0
    assert sorted(os.listdir(tmp_path)) == [".lock", "run.sqlite"]
    assert (tmp_path / "run.sqlite").read_bytes()[18:20] == b"\x01\x01"


@pytest.mark.parametrize(("durable", "level"), [(True, 1), (False, 0)])
def test_only_what_may_be_lost_is_not_synced(durable: bool, level: int, tmp_path: Path, vocabulary: Vocabulary) -> None:
    with StoreWriter(tmp_path, IDENTITY, vocabulary, durable=durable) as writer:
        assert writer._connection.execute("PRAGMA synchronous").fetchone() == (level,)


def test_equal_texts_are_one_object(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """Millions of rollouts have a few answers: a text a row would be gigabytes."""
    write(tmp_path, vocabulary, range(5))
    columns = Store(tmp_path / "run.sqlite").rollout_columns()
    for name in ("problem_id", "answer", "finish_reason", "gold"):
        assert len({id(text) for text in columns[name]}) == columns[name].nunique(dropna=False)


def test_a_failed_trajectory_is_kept_without_rollouts(tmp_path: Path, vocabulary: Vocabulary) -> None:
    with StoreWriter(tmp_path, IDENTITY, vocabulary) as writer:
        writer.add(finished(0, failed=True))
    store = Store(tmp_path / "run.sqlite")
    assert store.trajectories()["error"].tolist() == ["logits were NaN"]
    assert sum(map(len, store.rollouts())) == 0
    with StoreWriter(tmp_path, IDENTITY, vocabulary) as writer:
        assert writer.done == {0}
        assert writer.notes == []


def test_resuming_in_any_order_gives_the_same_tables(tmp_path: Path, vocabulary: Vocabulary) -> None:
    write(tmp_path / "whole", vocabulary, range(4))
    write(tmp_path / "parts", vocabulary, range(2, 3))
    write(tmp_path / "parts", vocabulary, range(0, 4))
    assert tables(tmp_path / "whole") == tables(tmp_path / "parts")


def test_another_run_is_refused_with_every_difference(tmp_path: Path, vocabulary: Vocabulary) -> None:
    write(tmp_path, vocabulary, range(1))
    changed = IDENTITY | {"task": "u", "config": {"seed": 1, "temperature": 0.7, "top_p": 0.5}}
    with pytest.raises(FastsiaError) as refusal:
        StoreWriter(tmp_path, changed, vocabulary)
    text = str(refusal.value)
    assert 'task was "t", is now "u"' in text
    assert "config.seed was 0, is now 1" in text
    assert "config.top_p was 0.95, is now 0.5" in text
    assert "temperature" not in text
    assert "model" not in text
    with pytest.raises(FastsiaError, match="vocabulary"):
        StoreWriter(tmp_path, IDENTITY, Vocabulary.from_bytes(_other_vocabulary()))
    write(tmp_path, vocabulary, range(2))  # and neither refusal left the folder locked


def _other_vocabulary() -> bytes:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["more"])
    return Vocabulary.from_tokenizer(tokenizer).to_bytes()


def test_the_same_weights_elsewhere_are_the_same_model(tmp_path: Path, vocabulary: Vocabulary) -> None:
    write(tmp_path, vocabulary, range(1))
    model = IDENTITY["model"]
    assert write(tmp_path, vocabulary, range(2), model=model | {"name": "/moved"}).done == {0, 1}
    with pytest.raises(FastsiaError, match=r"model\.fingerprint was"):
        write(tmp_path, vocabulary, range(2), model=model | {"fingerprint": "f1"})


def test_a_changed_dataset_or_prompt_is_refused(tmp_path: Path, vocabulary: Vocabulary) -> None:
    write(tmp_path, vocabulary, range(1))
    with StoreWriter(tmp_path, IDENTITY, vocabulary) as writer:
        same = finished(0).problem
        writer.check_problem(0, same, range(5), "Question")
        asked = finished(0).prompt
        for prompt, said in (
            (asked, "its text is the same, its token ids are not;"),
            (f"{asked} more", f"it was {asked[-12:]!r}, is now {asked[-12:] + ' more'!r};"),
            ("On Friday. " + 90 * "x", f"is now {'On Friday. ' + 46 * 'x' + '...'!r};"),
        ):
            with pytest.raises(FastsiaError, match=rf"another prompt \(.* problem 'p0'\): .*{re.escape(said)}"):
                writer.check_problem(0, same, range(6), prompt)
        with pytest.raises(FastsiaError, match=r"question of problem 1 was 'What\?', is now 'Why\?';"):
            writer.check_problem(0, Problem("p0", "Why?", "4"), range(5), "Question")
        for length, shown in ((60, "y" * 60), (61, "y" * 57 + "...")):
            with pytest.raises(FastsiaError, match=f"is now '{re.escape(shown)}';"):
                writer.check_problem(0, Problem("p0", "y" * length, "4"), range(5), "Question")


def test_a_second_writer_is_told_that_the_folder_is_locked(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """A real second process; and the lock of a killed one is free at once."""
    (tmp_path / "vocabulary").write_bytes(vocabulary.to_bytes())
    code = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        from fastsia.answers.vocabulary import Vocabulary
        from fastsia.results.writer import StoreWriter
        folder = Path({str(tmp_path)!r})
        vocabulary = Vocabulary.from_bytes((folder / "vocabulary").read_bytes())
        writer = StoreWriter(folder, {IDENTITY!r}, vocabulary)
        print("open", flush=True)
        time.sleep(60)
        """
    )
    other, line = begin_python("-c", code)
    try:
        assert line == "open\n"
        with pytest.raises(FastsiaError, match=f"locked: process {other.pid} is writing"):
            StoreWriter(tmp_path, IDENTITY, vocabulary)
    finally:
        other.kill()
        other.wait()
    write(tmp_path, vocabulary, range(1))


@pytest.mark.parametrize("where", ["header", "middle", "truncated", "blob"])
def test_a_damaged_database_is_set_aside_and_read_as_far_as_it_goes(
    tmp_path: Path, vocabulary: Vocabulary, where: str
) -> None:
    """Real damage: bytes overwritten, the file cut, and one flipped bit that sqlite itself does not see."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        write(folder, vocabulary, range(40))
    path = broken / "run.sqlite"
    data = bytearray(path.read_bytes())
    if where == "header":
        data[:100] = b"\xff" * 100
    elif where == "middle":
        at = len(data) // 2 // 4096 * 4096
        data[at : at + 8192] = b"\xa5" * 8192
    elif where == "truncated":
        del data[len(data) * 2 // 3 // 4096 * 4096 + 100 :]
    else:
        blob = pack_ids(finished(17).trajectories[0].trajectory.token_ids)
        assert data.count(blob) == 1
        data[data.index(blob)] ^= 1
    path.write_bytes(data)

    with StoreWriter(broken, IDENTITY, vocabulary) as writer:
        (note,) = writer.notes
        assert "run.sqlite.damaged-1" in note
        assert (broken / "run.sqlite.damaged-1").read_bytes() == bytes(data)
        kept = len(writer.done)
        if where == "header":
            assert kept == 0
        elif where == "blob":
            assert writer.done == set(range(40)) - {17}
        elif where == "middle":
            assert kept > 10
        for position in range(40):
            if position not in writer.done:
                writer.add(finished(position))
    assert tables(broken) == tables(whole)
    with StoreWriter(broken, IDENTITY, vocabulary) as writer:
        assert writer.notes == []


def test_each_damaged_database_is_kept(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """Under the first number that is free."""
    for number in (1, 2, 3):
        write(tmp_path, vocabulary, range(1))
        (tmp_path / "run.sqlite").write_bytes(b"damage %d" % number * 999)
        assert f"run.sqlite.damaged-{number}," in write(tmp_path, vocabulary, range(1)).notes[0]
    assert [(tmp_path / f"run.sqlite.damaged-{n}").read_bytes()[:8] for n in (1, 2, 3)] == [
        *(b"damage 1", b"damage 2", b"damage 3")
    ]


@pytest.mark.parametrize("key", ["schema_version", "identity", "vocabulary"])
def test_a_database_without_its_head_is_set_aside(key: str, tmp_path: Path, vocabulary: Vocabulary) -> None:
    """Whose problems they are is not known then, so none is read back."""
    write(tmp_path, vocabulary, range(3))
    with closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection, connection:
        connection.execute("DELETE FROM meta WHERE key = ?", (key,))
    writer = write(tmp_path, vocabulary, range(1))
    assert "is damaged (its metadata are incomplete" in writer.notes[0]
    assert "0 finished problems were read back" in writer.notes[0]
    assert writer.done == {0}


HEADS = {
    "no JSON": "UPDATE meta SET value = '{broken' WHERE key = 'identity'",
    "nothing": "UPDATE meta SET value = NULL WHERE key = 'identity'",
    "a list": "UPDATE meta SET value = '[]' WHERE key = 'identity'",
    "empty": "UPDATE meta SET value = '{}' WHERE key = 'identity'",
    "no vocabulary": "UPDATE meta SET value = substr(value, 9) WHERE key = 'vocabulary'",
    "no number": "UPDATE meta SET value = 'one' WHERE key = 'schema_version'",
}


@pytest.mark.parametrize("damage", HEADS)
def test_a_damaged_head_is_one_sentence(damage: str, tmp_path: Path, vocabulary: Vocabulary) -> None:
    """For readers; the writer sets the database aside."""
    write(tmp_path, vocabulary, range(2))
    with closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection, connection:
        connection.execute(HEADS[damage])
    with pytest.raises(FastsiaError, match=r"run\.sqlite (cannot be read|is damaged|has schema version)"):
        Store(tmp_path / "run.sqlite").check()
    if damage not in ("no vocabulary", "no number"):
        with pytest.raises(FastsiaError, match=r"run\.sqlite cannot be read"):
            Store(tmp_path / "run.sqlite").identity()
    (note,) = write(tmp_path, vocabulary, range(1)).notes
    assert "do not match their checksum); it was set aside as run.sqlite.damaged-1" in note
    Store(tmp_path / "run.sqlite").check()


def test_a_database_of_a_later_version_is_left_alone(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """What its head and its rows must be like is not known here, so nothing there is called damage."""
    write(tmp_path, vocabulary, range(2))
    with closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection, connection:
        connection.execute("UPDATE meta SET value = 4 WHERE key = 'schema_version'")
        connection.execute("UPDATE problems SET checksum = 0")
    for _ in range(2):
        with pytest.raises(FastsiaError, match="has schema version 4; this fastsia reads versions 1 to 3"):
            write(tmp_path, vocabulary, range(1))
    assert not list(tmp_path.glob("*damaged*"))


@pytest.mark.parametrize(
    ("table", "change", "read"),
    [
        ("problems", "choices = '{bad'", lambda store: store.problems()),
        ("trajectories", "token_ids = x'ff'", lambda store: store.trajectories()),
        ("trajectories", "token_ids = 'text'", lambda store: store.trajectories()),
        ("trajectories", "logprobs = x'00'", lambda store: store.trajectories()),
        ("rollouts", "trajectory = 77", lambda store: store.rollout_columns()),
        ("rollouts", "trajectory = 'one'", lambda store: store.rollout_columns()),
        ("rollouts", "token_ids = x'ff'", lambda store: list(store.rollouts())),
        ("rollouts", "num_tokens = 'many'", lambda store: list(store.rollouts())),
    ],
)
def test_rows_of_any_content_are_one_sentence(
    table: str, change: str, read: Any, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    write(tmp_path, vocabulary, range(2))
    with closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection, connection:
        connection.execute(f"UPDATE {table} SET {change}")
    store = Store(tmp_path / "run.sqlite")
    with pytest.raises(FastsiaError, match=r"run\.sqlite cannot be read \("):
        read(store)
    with pytest.raises(FastsiaError, match=r"run\.sqlite is damaged \(the rows of problem 1"):
        store.check()


def test_negative_zero_survives(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """Sure tokens of a server; sqlite stores no -0.0, and what it gives back must match the checksum."""
    problem = finished(0)
    rollouts = problem.trajectories[0].trajectory.rollouts
    assert rollouts is not None
    rollouts.logprobs[:] = -0.0
    rollouts.logprobs[-1] = -np.inf
    with StoreWriter(tmp_path, IDENTITY, vocabulary) as writer:
        writer.add(problem)
    again = write(tmp_path, vocabulary, range(1))
    assert again.notes == []
    assert again.done == {0}
    stored = pd.concat(Store(tmp_path / "run.sqlite").rollouts())["logprob"]
    assert stored.isna().sum() == 1, "what is not finite is not known"
    assert set(stored.dropna()) == {0.0}


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """What is inside is interrupted as by Ctrl-C, by a real signal."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_interrupted_close_frees_the_folder(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """Another thread is writing, and whoever closes does not wait for it."""
    writer = StoreWriter(tmp_path, IDENTITY, vocabulary)
    writer.add(finished(0))
    with writer._writing, interrupted_after(0.2):
        writer.close()
    with pytest.raises(FastsiaError, match="is closed; problem 'p1' was not stored"):
        writer.add(finished(1))
    assert write(tmp_path, vocabulary, range(3)).done == {0, 1, 2}


def test_a_writer_that_nobody_holds_frees_the_folder(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """An interrupt may come between its making and the `with` that would close it."""
    StoreWriter(tmp_path, IDENTITY, vocabulary)
    gc.collect()
    write(tmp_path, vocabulary, range(1))


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path, vocabulary: Vocabulary) -> None:
    writer = StoreWriter(tmp_path, IDENTITY, vocabulary)
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        writer.close()
        write(tmp_path, vocabulary, range(1))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@contextmanager
def files_up_to(num_bytes: int) -> Iterator[None]:
    """RLIMIT_FSIZE makes the kernel itself refuse to let a file grow further."""
    limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))


@pytest.mark.parametrize(("number", "num_rollouts", "room"), [(40, 6, 1 / 3), (18, 2000, 5 / 6)])
def test_a_repair_that_does_not_fit_changes_nothing(
    number: int, num_rollouts: int, room: float, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    """The new database is complete before the damaged one makes place for it: also where there is room for its log, but
    not for itself, of which sqlite says nothing as it closes."""
    with StoreWriter(tmp_path, IDENTITY, vocabulary) as writer:
        for position in range(number):
            writer.add(finished(position, num_rollouts))
    path = tmp_path / "run.sqlite"
    data = bytearray(path.read_bytes())
    assert num_rollouts == 6 or len(data) > 5_500_000, "more than sqlite lets a log grow to"
    data[data.index(pack_ids(finished(3, num_rollouts).trajectories[0].trajectory.token_ids))] ^= 1
    path.write_bytes(data)
    refused = pytest.raises(FastsiaError, match=r"run\.sqlite cannot be written .*nothing in it was changed")
    with files_up_to(int(room * len(data))), refused:
        write(tmp_path, vocabulary, range(1))
    assert path.read_bytes() == data
    assert sorted(os.listdir(tmp_path)) == [".lock", "run.sqlite"]
    assert f"{number - 1} finished problems were read back" in write(tmp_path, vocabulary, range(1)).notes[0]


def test_a_repair_that_was_killed_at_its_end_is_ended(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """Between the damaged database's new name and the new one's."""
    write(tmp_path, vocabulary, range(3))
    (tmp_path / "run.sqlite").rename(tmp_path / "run.sqlite.repaired")
    assert write(tmp_path, vocabulary, range(1)).done == {0, 1, 2}
    assert sorted(os.listdir(tmp_path)) == [".lock", "run.sqlite"]


def test_damage_does_not_let_another_run_in(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """Setting a damaged database aside must not mix its problems into a run with another seed."""
    write(tmp_path, vocabulary, range(10))
    path = tmp_path / "run.sqlite"
    data = bytearray(path.read_bytes())
    blob = pack_ids(finished(3).trajectories[0].trajectory.token_ids)
    data[data.index(blob)] ^= 1
    path.write_bytes(data)
    with pytest.raises(FastsiaError, match=r"config.seed was 0, is now 9"):
        write(tmp_path, vocabulary, range(1), config={"seed": 9, "temperature": 0.7})
    assert path.exists()


def test_a_database_without_its_first_commit_is_begun_again(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """A kill between creating the file and its schema leaves an empty database."""
    connection = sqlite3.connect(tmp_path / "run.sqlite")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    writer = write(tmp_path, vocabulary, range(1))
    assert writer.notes == []
    assert writer.done == {0}


def test_a_full_disk_is_said_and_what_was_stored_stays(tmp_path: Path, vocabulary: Vocabulary) -> None:
    def fill(writer: StoreWriter) -> None:
        for position in range(1000):
            writer.add(finished(position, num_rollouts=20))

    with StoreWriter(tmp_path, IDENTITY, vocabulary) as writer:
        refused = pytest.raises(FastsiaError, match=r"cannot be written .*Finished problems are kept")
        with files_up_to(200_000), refused as failure:
            fill(writer)
    written = len(writer.done)
    assert written > 3
    assert f"Finished problems are kept ({written} problems)" in str(failure.value)
    with StoreWriter(tmp_path, IDENTITY, vocabulary) as writer:
        assert writer.notes == []
        assert writer.done == set(range(written))
        writer.add(finished(written, num_rollouts=20))


def test_the_lock_names_its_holder_also_after_a_longer_number(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """The file keeps the number of the process before; none of its digits may be left."""
    (tmp_path / ".lock").write_text("1234567890123\n")
    with StoreWriter(tmp_path, IDENTITY, vocabulary) as writer:
        number = os.dup(0)
        os.close(number)
        with pytest.raises(FastsiaError, match=rf"locked: process {os.getpid()} is writing to it\.$"):
            StoreWriter(tmp_path, IDENTITY, vocabulary)
        again = os.dup(0)
        os.close(again)
        assert again == number, "the refused one left no file open"
        writer.add(finished(0))


def test_an_export_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_parquet(path, pd.DataFrame({"n": [1]}))

    def broken(good: int) -> Any:
        yield from [pd.DataFrame({"n": [2]})] * good
        raise KeyError("no more")

    for good in (0, 1):
        with pytest.raises(KeyError, match="no more"):
            write_parquet(path, broken(good))
        assert pd.read_parquet(path)["n"].tolist() == [1]
        assert os.listdir(tmp_path) == ["t.parquet"]
    write_json(tmp_path / "s.json", {"\u03c1": "\u00e9"})
    assert (tmp_path / "s.json").read_bytes() == '{\n  "\u03c1": "\u00e9"\n}\n'.encode()


def test_exports_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"x": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"x": float("nan")})
    assert path.read_text() == '{\n  "x": 1\n}\n'

    def chunks() -> Any:
        yield pd.DataFrame({"answer": pd.Series([None, None], dtype=object), "n": [1, 2]})
        yield pd.DataFrame({"answer": pd.Series(["7", None], dtype=object), "n": [3, 4]})

    seen: list[int] = []

    def replace(temporary: Path, path: Path) -> None:
        seen.append(len(pd.read_parquet(temporary)))
        rename(temporary, path)

    rename = os.replace
    monkeypatch.setattr(os, "replace", replace)
    write_parquet(tmp_path / "t.parquet", chunks())
    assert seen == [4], "whole before it takes its place"
    frame = pd.read_parquet(tmp_path / "t.parquet")
    assert frame["answer"].isna().tolist() == [True, True, False, True], "all null in the first chunk is still text"
    assert sorted(os.listdir(tmp_path)) == ["summary.json", "t.parquet"]
    write_parquet(tmp_path / "t.parquet", pd.DataFrame({"n": [1, 2, 3]}).iloc[1:])
    assert pd.read_parquet(tmp_path / "t.parquet").to_dict("list") == {"n": [2, 3]}
    assert pq.read_schema(tmp_path / "t.parquet").names == ["n"], "an index is no column"


def test_links_are_not_written_through(tmp_path: Path, vocabulary: Vocabulary) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    for name in ("run.sqlite", ".lock"):
        folder = tmp_path / name.strip(".")
        folder.mkdir()
        (folder / name).symlink_to(outside)
        with pytest.raises(FastsiaError, match="symbolic link"):
            StoreWriter(folder, IDENTITY, vocabulary)
    write_json(_linked(tmp_path / "export", outside), {"x": 1})
    assert outside.read_text() == "precious"


def _linked(folder: Path, target: Path) -> Path:
    folder.mkdir()
    (folder / "summary.json").symlink_to(target)
    return folder / "summary.json"


def test_an_output_that_cannot_be_a_folder_is_refused(tmp_path: Path, vocabulary: Vocabulary) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FastsiaError, match="is a file"):
        StoreWriter(tmp_path / "file", IDENTITY, vocabulary)
    with pytest.raises(FastsiaError, match="cannot be used"):
        StoreWriter(tmp_path / "file" / "below", IDENTITY, vocabulary)


def test_a_read_only_folder_is_readable(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """WAL wants to write beside the database even to read; a copy on read-only media must still open."""
    write(tmp_path, vocabulary, range(2))
    for extra in ("run.sqlite-wal", "run.sqlite-shm"):
        (tmp_path / extra).unlink(missing_ok=True)
    tmp_path.chmod(0o555)
    try:
        assert Store(tmp_path / "run.sqlite").num_problems() == 2
    finally:
        tmp_path.chmod(0o755)


def test_a_read_only_file_system_is_readable(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """As above where the user may write any folder. What is damaged there is said, not read as if it were whole."""
    with small_disk(tmp_path / "media", 4096) as disk:
        write(disk, vocabulary, range(2))
        with closing(sqlite3.connect(disk / "run.sqlite")) as connection:
            connection.execute("PRAGMA journal_mode = WAL")  # as a run leaves it that was killed, and copied
        shutil.copy(disk / "run.sqlite", disk / "logged.sqlite")
        (disk / "logged.sqlite-wal").write_bytes(b"")
        (disk / "bad.sqlite").write_bytes(b"not a database\n" * 500)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        store = Store(disk / "run.sqlite")
        assert store.num_problems() == 2
        assert len(store.trajectories()) == 2
        with pytest.raises(FastsiaError, match=r"bad.sqlite cannot be read"):
            Store(disk / "bad.sqlite")
        with pytest.raises(FastsiaError, match=r"logged.sqlite cannot be read"):
            Store(disk / "logged.sqlite")  # what its log holds cannot be known
        with pytest.raises(FastsiaError, match="cannot be used: Read-only file system"):
            StoreWriter(disk / "new", IDENTITY, vocabulary)


def test_a_newer_schema_is_refused(tmp_path: Path, vocabulary: Vocabulary) -> None:
    write(tmp_path, vocabulary, range(1))
    connection = sqlite3.connect(tmp_path / "run.sqlite")
    connection.execute("UPDATE meta SET value = 99 WHERE key = 'schema_version'")
    connection.commit()
    connection.close()
    with pytest.raises(FastsiaError, match="schema version 99"):
        Store(tmp_path / "run.sqlite")
    with pytest.raises(FastsiaError, match="schema version 99"):
        StoreWriter(tmp_path, IDENTITY, vocabulary)


def test_closing_waits_for_a_write_of_another_thread(
    tmp_path: Path, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sqlite crashes the process where a connection is closed under a write; and the folder stays locked until then."""
    insert, begun = schema.insert, threading.Event()

    def slowly(rows: Iterable[Any]) -> Iterator[Any]:
        for row in rows:
            begun.set()
            time.sleep(0.02)
            yield row

    def slow_insert(to: sqlite3.Connection, rows: schema.ProblemRows) -> None:
        insert(to, rows._replace(rollouts=slowly(rows.rollouts)))

    monkeypatch.setattr(schema, "insert", slow_insert)
    writer = StoreWriter(tmp_path, IDENTITY, vocabulary)
    thread = threading.Thread(target=writer.add, args=[finished(0)])
    thread.start()
    assert begun.wait(10)
    writer.close()
    thread.join(10)
    assert Store(tmp_path / "run.sqlite").num_problems() == 1
    with pytest.raises(FastsiaError, match="is closed; problem 'p1' was not stored"):
        writer.add(finished(1))


# --- parts: what was drawn of unfinished problems --------------------------------------------------------------


def drawn(number: int, ends: bool = False) -> Drawn:
    """The number-th part of a made-up trajectory: a token of it, and two of each of its rollouts."""
    reasons = np.array([FinishReason.EOS if ends else UNFINISHED] * 2, dtype=np.int8)
    rollouts = Rollouts(
        checkpoint=np.array([0, 4], dtype=np.int32),
        index=np.array([1, 0], dtype=np.int32),
        offsets=np.array([0, 2, 4], dtype=np.int64),
        token_ids=np.array([10, 11, 20, 21], dtype=np.int32) + number,
        logprobs=np.array([-0.1, -0.2, -0.3, -0.4], dtype=np.float32) - number,
        finish_reason=reasons,
    )
    one = np.array([number + 0.5], dtype=np.float32)
    return Drawn(number + 1, np.array([number], dtype=np.int32), one, -one, "eos" if ends else "", rollouts)


def part(position: int, number: int, trajectory: int = 0, **more: Any) -> Part:
    return Part(position, f"p{position}", trajectory, 77, drawn(number, more.pop("ends", False)), **more)


def test_parts_are_put_together_and_go_with_their_problem(tmp_path: Path, vocabulary: Vocabulary) -> None:
    with StoreWriter(tmp_path, IDENTITY, vocabulary) as writer:
        writer.add_parts([part(0, 0), part(1, 0)])
        writer.add_parts([part(0, 1)])
    with StoreWriter(tmp_path, IDENTITY, vocabulary) as writer:
        assert writer.begun == {0, 1}
        writer.add_parts([part(0, 2, ends=True), part(0, 0, trajectory=1)])
        assert writer.num_rollouts() == 2
        found = writer.drawn(0, 0, 77)
        assert found is not None
        assert (found.num_tokens, found.token_ids.tolist(), found.finish_reason) == (3, [0, 1, 2], "eos")
        assert found.logprobs.tolist() == [0.5, 1.5, 2.5]
        rollouts = found.rollouts
        assert [rollouts.row(r).token_ids for r in range(2)] == [[10, 11, 11, 12, 12, 13], [20, 21, 21, 22, 22, 23]]
        assert rollouts.finish_reason.tolist() == [FinishReason.EOS] * 2
        assert writer.drawn(2, 0, 77) is None
        with pytest.raises(FastsiaError, match=r"what is asked in problem 1 \('p0'\) has changed since it was begun"):
            writer.drawn(0, 0, 78)
        assert Store(writer.path).num_begun() == (2, 2)
        writer.add_parts([part(0, 7, is_whole=True)])
        again = writer.drawn(0, 0, 77)
        assert again is not None
        assert again.rollouts.token_ids[:2].tolist() == [17, 18], "the whole replaces what was there"
        writer.add(finished(0))
        writer.add_parts([part(0, 3)])
        assert Store(writer.path).num_begun() == (1, 0), "a finished problem has no parts"
        assert Store(writer.path).num_problems() == 1


def test_parts_up_to_a_damaged_one_are_read_back(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """What comes after a missing part does not fit to what is before it."""
    with StoreWriter(tmp_path, IDENTITY, vocabulary) as writer:
        for number in range(4):
            writer.add_parts([part(0, number), part(1, number)])
    with closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection, connection:
        connection.execute("UPDATE parts SET token_ids = x'090000' WHERE position = 1 AND number = 2")
    with pytest.raises(FastsiaError, match="what was drawn of an unfinished problem does not match its checksum"):
        Store(tmp_path / "run.sqlite").check()
    with StoreWriter(tmp_path, IDENTITY, vocabulary) as writer:
        assert "was set aside" in writer.notes[0]
        for position, number in ((0, 4), (1, 2)):
            found = writer.drawn(position, 0, 77)
            assert found is not None
            assert found.num_tokens == number
        writer.add_parts([part(1, 2)])
    with StoreWriter(tmp_path, IDENTITY, vocabulary) as writer:
        assert writer.notes == []


def test_a_database_of_version_2_gets_the_table_of_parts(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """Read as it is, and migrated when it is opened for writing."""
    write(tmp_path / "new", vocabulary, range(3))
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    with closing(sqlite3.connect(tmp_path / "old" / "run.sqlite")) as connection, connection:
        connection.execute("DROP TABLE parts")
        meta = schema.read_meta(connection) | {"schema_version": 2}
        schema.write_meta(connection, {"schema_version": 2, "checksum": schema.head_checksum(meta)})
    old = Store(tmp_path / "old" / "run.sqlite")
    old.check()
    assert old.num_begun() == (0, 0)
    assert len(old.trajectories()) == 3
    with StoreWriter(tmp_path / "old", IDENTITY, vocabulary) as writer:
        assert writer.notes == []
        writer.add_parts([part(7, 0)])
    assert tables(tmp_path / "old") == tables(tmp_path / "new")
    old.check()
    assert old.num_begun() == (1, 0)
