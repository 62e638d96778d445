"""Results of a run that is still being written: every read is of one state of its database."""

from __future__ import annotations

import dataclasses
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import fastsia
from fastsia import FastsiaError, Problem, SIAConfig
from fastsia.answers.equivalence import Classes
from fastsia.answers.vocabulary import Vocabulary
from fastsia.results.manifest import read_manifest
from fastsia.results.reader import Store
from fastsia.results.writer import StoreWriter
from tests.test_store import IDENTITY, finished
from tests.tiny import tiny_tokenizer

CONFIG = dataclasses.asdict(SIAConfig(num_bootstrap=0, num_splits=1, num_rollouts=2))
RUN: dict[str, Any] = IDENTITY | {"config": CONFIG}
NUM_READS = 60


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.from_tokenizer(tiny_tokenizer())


def to_first(answers: Sequence[str], gold: str, answer_format: str) -> Classes:
    """All answers count as one."""
    return Classes(dict.fromkeys(answers, answers[0]))


@contextmanager
def written(folder: Path, vocabulary: Vocabulary, reads: list[int]) -> Iterator[None]:
    """A folder to which another thread adds problems, in no order, and whose answers it groups, as fast as it can.

    It is never far ahead of the reads, which would take longer and longer.
    """
    stop = threading.Event()

    def write(writer: StoreWriter) -> None:
        while not stop.is_set():
            if len(writer.done) < len(reads) // 2 + 5:
                writer.add(finished(len(writer.done) * 7919 % 100_003, num_rollouts=2))
                writer.store_classes(to_first)
            stop.wait(0.001)

    with StoreWriter(folder, RUN, vocabulary) as writer, ThreadPoolExecutor(1) as pool:
        writer.add(finished(0, num_rollouts=2))
        writing = pool.submit(write, writer)
        try:
            yield
        finally:
            stop.set()
        writing.result()


def test_reads_beside_a_fast_writer_never_fail(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """Trajectories read a moment after the rollouts were others: loading and reporting ended in a KeyError."""
    sizes: list[int] = []
    with written(tmp_path / "run", vocabulary, sizes):
        for read in range(NUM_READS):
            result = fastsia.load(tmp_path / "run")
            ids = set(result.trajectories["problem_id"])
            assert len(ids) == result.summary["num_problems"]
            assert set(result.rollouts["problem_id"]) == ids, "of the problems that were scored"
            assert len(result.rollouts) == result.summary["num_rollouts"]
            assert {view.problem_id for view in result.report_data().views} == ids
            if read % 6 == 0:
                result.save(tmp_path / "run")
                result.save(tmp_path / f"copy{read}")
                for name in ("problems", "rollouts"):
                    saved = pd.read_parquet(tmp_path / "run" / f"{name}.parquet")
                    assert set(saved["problem_id"]) == ids
            sizes.append(len(ids))
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 10, "the writer was at work"


def test_a_snapshot_keeps_its_groups_of_equal_answers(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """What a report shows must be what was scored, also if the run has grouped its answers in between."""
    with StoreWriter(tmp_path, RUN, vocabulary) as writer:
        writer.add(finished(0))
        with Store(tmp_path / "run.sqlite").snapshot() as store:
            before = pd.concat(store.rollouts())["answer"]
        writer.store_classes(to_first)
        after = pd.concat(Store(tmp_path / "run.sqlite").rollouts())["answer"]
        writer.add(finished(1))
        again = pd.concat(store.rollouts())["answer"]
    assert after.nunique() == 1 < before.nunique()
    pd.testing.assert_series_equal(before, again)
    assert len(store.problems()) == len(store.trajectories()) == 1


def test_exports_are_read_only_if_they_are_of_this_database_and_version(tmp_path: Path, vocabulary: Vocabulary) -> None:
    def mark(folder: Path) -> None:
        """Exports that anybody could tell from what is scored."""
        result = fastsia.load(folder)
        dataclasses.replace(result, summary=result.summary | {"model": "exported"}).save(folder)

    with StoreWriter(tmp_path, RUN, vocabulary) as writer:
        writer.add(finished(0))
    mark(tmp_path)
    assert fastsia.load(tmp_path).summary["model"] == "exported"
    (tmp_path / "run.sqlite").touch()
    assert fastsia.load(tmp_path).summary["model"] == "exported", "times of files say nothing"
    with StoreWriter(tmp_path, RUN, vocabulary) as writer:
        writer.add(finished(1))
    assert fastsia.load(tmp_path).summary["model"] == "a/model"
    mark(tmp_path)
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    dataclasses.replace(manifest, version="0.0.1").write(tmp_path)
    assert fastsia.load(tmp_path).summary["model"] == "a/model"


# --- the check before the model is loaded ----------------------------------------------------------------------


def test_an_output_folder_is_checked_before_the_model_is_loaded(
    tmp_path: Path, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading may take minutes."""

    def loading(*_: object, **__: object) -> None:
        raise FastsiaError("the model is loaded.")

    monkeypatch.setattr("fastsia.evaluation.open_executor", loading)
    (tmp_path / "file").write_text("")
    with StoreWriter(tmp_path / "run", RUN | {"task": "demo"}, vocabulary) as writer:
        for output, said in (
            (tmp_path / "file", "is a file"),
            (tmp_path / "file" / "below", "cannot be used: Not a directory"),
            (tmp_path / "run", "is locked"),
        ):
            with pytest.raises(FastsiaError, match=said):
                fastsia.evaluate("demo:sft", "demo", output=output)
        writer.add(finished(0))
    with pytest.raises(FastsiaError, match=r"contains another run: .*config\.seed was 0, is now 3"):
        fastsia.evaluate("demo:sft", "demo", output=tmp_path / "run", config=CONFIG, seed=3)
    with pytest.raises(FastsiaError, match=r'contains another run: task was "demo", is now "problems"'):
        fastsia.evaluate("demo:sft", [Problem("p", "?", "1")], output=tmp_path / "run", config=CONFIG)
    with closing(sqlite3.connect(tmp_path / "run" / "run.sqlite")) as connection, connection:
        connection.execute("UPDATE meta SET value = 99 WHERE key = 'schema_version'")
    with pytest.raises(FastsiaError, match="has schema version 99; this fastsia reads versions 1 to"):
        fastsia.evaluate("demo:sft", "demo", output=tmp_path / "run", config=CONFIG)
    with pytest.raises(FastsiaError, match="the model is loaded"):
        fastsia.evaluate("demo:sft", "demo", output=tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()
