"""Runs killed for real, and started again: nothing lost, nothing twice, the tables of an uninterrupted run."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastsia
from fastsia.callbacks import Callback, Progress
from fastsia.results import schema
from fastsia.results.reader import Store
from tests.programs import Running, run_python, start_python
from tests.tiny import NUM_PROBLEMS, tiny_model

# One trajectory in flight: then a row's company in a batch, and with it a logit's last bits, is the same in any run.
SETTINGS = {
    "num_rollouts": 12,
    "stride": 4,
    "max_tokens": 24,
    "top_p": 1.0,
    "max_concurrent_trajectories": 1,
    "num_bootstrap": 20,
    "num_splits": 2,
}
# Two sequences per step: a problem takes seconds, and what is drawn of it is stored several times.
SLOW = SETTINGS | {"max_num_seqs": 2, "num_rollouts": 24, "save_interval": 0.02}
FEW = 3
# Columns of floats that come from logits, packed or not.
FLOATS = {"logprobs", "token_entropies", "logprob"}


@pytest.fixture(scope="module")
def whole(model: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The tables of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    fastsia.evaluate(str(model), str(questions), output=folder, **SETTINGS)
    return tables(folder)


def tables(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows of a run's database, after sqlite has checked every page of it."""
    with contextlib.closing(sqlite3.connect(folder / "run.sqlite")) as connection:
        connection.row_factory = sqlite3.Row
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        return {
            name: [dict(row) for row in connection.execute(f"SELECT * FROM {name} ORDER BY 1")]
            for name in ("problems", "trajectories", "rollouts")
        }


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Ids, answers, counts exactly; what comes from logits within 1e-4 (and so not the checksum over both)."""
    for name, rows in expected.items():
        assert len(found[name]) == len(rows), name
        for mine, other in zip(found[name], rows, strict=True):
            for column, value in other.items():
                if column == "checksum":
                    continue
                if column not in FLOATS:
                    assert mine[column] == value, (name, column)
                elif isinstance(value, bytes):
                    one, two = (np.frombuffer(blob, dtype="<f4") for blob in (mine[column], value))
                    np.testing.assert_allclose(one, two, atol=1e-4)
                else:
                    assert mine[column] == pytest.approx(value, abs=1e-4)


def run_arguments(model: Path, questions: Path, folder: Path, settings: dict[str, Any] = SETTINGS) -> list[str]:
    """What follows `fastsia` on the command line of a run."""
    options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return ["run", "--model", str(model), "--tasks", str(questions), "-o", str(folder), "--no_report", *options]


def start(model: Path, questions: Path, folder: Path, settings: dict[str, Any] = SETTINGS) -> Running:
    return start_python("-m", "fastsia", *run_arguments(model, questions, folder, settings))


def finished(folder: Path) -> set[int]:
    """Positions of the problems that are committed, as a reader beside the running writer sees them."""
    if not (folder / "run.sqlite").exists():
        return set()
    with contextlib.closing(sqlite3.connect(folder / "run.sqlite", timeout=30)) as connection:
        try:
            return {row[0] for row in connection.execute("SELECT position FROM problems")}
        except sqlite3.OperationalError:
            return set()  # not yet any table


def stop_at(process: Running, folder: Path, done: int, how: signal.Signals) -> str:
    """Signal the run as soon as `done` problems are finished; its standard error."""
    while len(finished(folder)) < done:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    process.send_signal(how)
    return process.communicate(timeout=60)[1]


def begun(folder: Path) -> tuple[int, int]:
    """(problems begun, rollouts kept of them), as a reader beside the running writer sees them."""
    try:
        return Store(folder / "run.sqlite").num_begun()
    except fastsia.FastsiaError:
        return 0, 0  # not yet any table


@pytest.fixture(scope="module")
def few(model: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slow run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("few") / "run"
    fastsia.evaluate(str(model), str(questions), limit=FEW, output=folder, **SLOW)
    return folder


def costs(folder: Path) -> int:
    """Rows that the last process of a run computed to draw."""
    counters = json.loads((folder / "summary.json").read_text())["counters"]
    return int(counters["row_steps"] + counters["trajectory_tokens"])


@pytest.mark.parametrize(("how", "times"), [(signal.SIGKILL, 2), (signal.SIGTERM, 1)])
def test_what_was_drawn_of_an_unfinished_problem_is_kept(
    how: signal.Signals, times: int, model: Path, questions: Path, few: Path, tmp_path: Path
) -> None:
    """A run is killed in the middle of a problem, and again; the next draws only the rest of it."""
    folder = tmp_path / "run"
    least = 0
    for _ in range(times):
        process = start(model, questions, folder, SLOW | {"limit": FEW})
        while (kept := begun(folder)[1]) <= least + 40:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        process.send_signal(how)
        said = process.communicate(timeout=60)[1]
        problems, after = begun(folder)
        done = len(finished(folder))
        if how == signal.SIGKILL:
            assert after >= kept or done
        else:
            assert f"{done} of {FEW} problems are finished and kept in {folder}" in said
            if problems:
                assert f", and {after:,} rollouts of {problems} others; the same command continues from there" in said
        least = after
    fastsia.evaluate(str(model), str(questions), limit=FEW, output=folder, **SLOW)
    assert_equal(tables(folder), tables(few))
    assert begun(folder) == (0, 0)
    assert 0 < costs(folder) < costs(few), "what was kept is not drawn again"
    assert fastsia.load(folder).summary["row_steps"] is None, "the costs of the killed runs are not known"


class Stopping(Callback):
    """Ends a run once some rollouts have ended, as an error in the process would."""

    def __init__(self, rollouts: int) -> None:
        self.rollouts = rollouts

    def progressed(self, progress: Progress) -> None:
        if progress.rollouts >= self.rollouts:
            raise RuntimeError("stopped")


@pytest.fixture
def stopped(model: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run of `few` that ended in the middle of its first problem."""
    monkeypatch.setattr("fastsia.evaluation._REPORT_SECONDS", 0.0)
    with pytest.raises(RuntimeError, match="stopped"):
        fastsia.evaluate(
            str(model), str(questions), limit=FEW, output=tmp_path / "run", callbacks=[Stopping(20)], **SLOW
        )
    problems, rollouts = begun(tmp_path / "run")
    assert problems == 1
    assert rollouts >= 20
    return tmp_path / "run"


def test_several_trajectories_of_a_problem(
    model: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first ones are finished, the problem is not: they are kept whole."""
    settings = SLOW | {"num_trajectories": 3, "num_rollouts": 6, "max_concurrent_trajectories": 2}
    fastsia.evaluate(str(model), str(questions), limit=1, output=tmp_path / "whole", **settings)
    rollouts = len(tables(tmp_path / "whole")["rollouts"])
    monkeypatch.setattr("fastsia.evaluation._REPORT_SECONDS", 0.0)
    stopping = [Stopping(rollouts * 3 // 4)]
    with pytest.raises(RuntimeError, match="stopped"):
        fastsia.evaluate(str(model), str(questions), limit=1, output=tmp_path / "run", callbacks=stopping, **settings)
    with contextlib.closing(sqlite3.connect(tmp_path / "run" / "run.sqlite")) as connection:
        parts = schema.select_parts(connection)
    assert len({row.trajectory for row in parts}) >= 2
    fastsia.evaluate(str(model), str(questions), limit=1, output=tmp_path / "run", **settings)
    assert_equal(tables(tmp_path / "run"), tables(tmp_path / "whole"))


def test_a_damaged_part_is_drawn_again(
    stopped: Path, model: Path, questions: Path, few: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One bit: readers refuse the database, the next run sets it aside and keeps what was stored before the bit."""
    path = stopped / "run.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        parts = schema.select_parts(connection)
        assert len(parts) > 2
        last = next(part for part in reversed(parts) if part.rollout_token_ids)
        damaged = bytearray(last.rollout_token_ids)
        damaged[len(damaged) // 2] ^= 4
        connection.execute("UPDATE parts SET rollout_token_ids = ? WHERE id = ?", (bytes(damaged), last.id))
    with pytest.raises(
        fastsia.FastsiaError, match="what was drawn of an unfinished problem does not match its checksum"
    ):
        Store(path).check()
    fastsia.evaluate(str(model), str(questions), limit=FEW, output=stopped, **SLOW)
    assert "run.sqlite.damaged-1" in caplog.text
    assert_equal(tables(stopped), tables(few))
    assert costs(stopped) < costs(few)


def test_a_problem_that_was_begun_may_not_change(stopped: Path, model: Path, tmp_path: Path) -> None:
    """Its draws so far are of another question."""
    other = tmp_path / "other" / "sums.jsonl"
    other.parent.mkdir()
    other.write_text('{"question": "7 + 1?", "answer": "0"}\n')
    with pytest.raises(
        fastsia.FastsiaError, match=r"what is asked in problem 1 \('.*'\) has changed since it was begun"
    ):
        fastsia.evaluate(str(model), str(other), output=stopped, **SLOW)
    with pytest.raises(fastsia.FastsiaError, match=r"model\.dtype was"):
        fastsia.evaluate(str(model), str(other), output=stopped, dtype="bfloat16", **SLOW)


def test_a_report_while_the_run_goes_on(model: Path, questions: Path, tmp_path: Path) -> None:
    """`fastsia report` and `load` show what is finished so far; the run does not notice."""
    folder = tmp_path / "run"
    process = start(model, questions, folder, SLOW | {"max_num_seqs": 1, "num_rollouts": 8})
    while not finished(folder):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    shown = run_python("-m", "fastsia", "report", folder)
    assert shown.returncode == 0, shown.stderr
    assert (folder / "report.html").is_file()
    loaded = fastsia.load(folder).summary["num_problems"]
    before = len(finished(folder))
    while len(finished(folder)) == before:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    assert 1 <= loaded <= before < NUM_PROBLEMS
    process.kill()
    process.communicate(timeout=60)


def test_kills_between_10_and_90_percent_lose_nothing(
    model: Path, questions: Path, tmp_path: Path, whole: dict[str, Any]
) -> None:
    """SIGKILL, Ctrl-C and SIGTERM in one run; each start does only what is missing."""
    folder = tmp_path / "run"
    signals = {3: signal.SIGKILL, 9: signal.SIGINT, 14: signal.SIGTERM, 20: signal.SIGKILL}
    before: set[int] = set()
    for done, how in signals.items():
        process = start(model, questions, folder)
        said = stop_at(process, folder, done, how)
        after = finished(folder)
        assert before < after, "what was finished stays finished"
        assert len(after) < NUM_PROBLEMS
        if how == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == (130 if how == signal.SIGINT else 143), said
            assert f"{len(after)} of {NUM_PROBLEMS} problems are finished and kept in {folder}" in said
            assert "the same command continues from there" in said
            assert "Traceback" not in said
        before = after
    num_begun, _ = begun(folder)
    process = start(model, questions, folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert f"{NUM_PROBLEMS} problems" in out
    assert_equal(tables(folder), whole)
    computed = fastsia.load(folder).summary["num_computed_problems"]
    assert computed == NUM_PROBLEMS - len(before) - num_begun, "the costs of those that were begun are not known"


def test_a_run_extended_by_its_limit_equals_a_whole_one(
    model: Path, questions: Path, tmp_path: Path, whole: dict[str, Any]
) -> None:
    """The usual window: neighbours in a batch differ from the whole run's, the draws do not."""
    settings = SETTINGS | {"max_concurrent_trajectories": 64}
    for limit in (5, 11, None):
        fastsia.evaluate(str(model), str(questions), limit=limit, output=tmp_path, **settings)
    assert_equal(tables(tmp_path), whole)


def test_a_run_goes_on_in_the_dtype_that_it_began_with(
    tmp_path: Path, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default dtype depends on the processor; a run that another machine continues must not change it."""
    model, tokenizer = tiny_model()
    for part in (model.bfloat16(), tokenizer):
        part.save_pretrained(tmp_path / "model")
    monkeypatch.setattr("fastsia.models.loading._BFLOAT16_FROM", 0)
    settings = {"output": tmp_path / "run", "num_rollouts": 2, "stride": 8, "max_tokens": 8}
    for native, limit in ((True, 1), (False, 2)):
        monkeypatch.setattr("fastsia.processor.prefers_bfloat16", lambda native=native: native)
        result = fastsia.evaluate(str(tmp_path / "model"), str(questions), limit=limit, **settings)
        assert result.summary["machine"]["dtype"] == "bfloat16"
        assert result.summary["machine"]["processor"]["libraries"]["torch"]
    with pytest.raises(fastsia.FastsiaError, match="dtype"):
        fastsia.evaluate(str(tmp_path / "model"), str(questions), limit=3, dtype="float32", **settings)


def test_costs_after_a_repair(model: Path, questions: Path, tmp_path: Path) -> None:
    """What is drawn twice costs twice: rows of four problems are no measure of the tokens of three."""

    def run(limit: int = 3) -> dict[str, Any]:
        return fastsia.evaluate(str(model), str(questions), limit=limit, output=tmp_path, **SETTINGS).summary

    before = run()
    assert before["merge_factor"] == before["generated_tokens"] / before["row_steps"]
    with contextlib.closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection, connection:
        connection.execute("UPDATE rollouts SET answer = 'zz' WHERE id = 0")
    repaired = run()
    assert repaired["generated_tokens"] == before["generated_tokens"]
    assert repaired["counters"]["row_steps"] > before["row_steps"], "what it did cost is still said"
    assert (repaired["num_computed_problems"], repaired["num_problems"]) == (4, 3)
    again, more = run(), run(limit=5)
    (tmp_path / "curves.parquet").unlink()
    loaded = fastsia.load(tmp_path).summary
    for summary in (repaired, again, more, loaded):
        assert summary["row_steps"] is summary["merge_factor"] is None
        assert sum("was set aside as run.sqlite.damaged-1" in note for note in summary["warnings"]) == 1
    shown = run_python("-m", "fastsia", "show", tmp_path)
    assert " s, killed runs not counted." in " ".join(shown.stdout.split())


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"counters": {}, "seconds": "soon"},
        {"counters": {"generated_tokens": 1}, "num_computed_problems": [1], "warnings": 3},
        {"counters": {"generated_tokens": 10**400, "row_steps": True, "steps": -1}, "row_steps": 1},
    ],
)
def test_an_earlier_summary_of_any_content(odd: dict[str, Any], model: Path, questions: Path, tmp_path: Path) -> None:
    """It is read when all is drawn: nothing in it may cost that."""
    settings = SETTINGS | {"num_rollouts": 2}
    fastsia.evaluate(str(model), str(questions), limit=1, output=tmp_path, **settings)
    (tmp_path / "summary.json").write_text(json.dumps(odd))
    (tmp_path / "manifest.json").unlink()  # as in a folder of fastsia 0.1.0
    found = fastsia.evaluate(str(model), str(questions), limit=2, output=tmp_path, **settings).summary
    assert (found["num_problems"], found["num_computed_problems"], found["row_steps"]) == (2, 1, None)
    assert fastsia.load(tmp_path).summary == json.loads(json.dumps(found))


@pytest.mark.slow
def test_fifty_random_kills_lose_nothing(model: Path, questions: Path, tmp_path: Path, whole: dict[str, Any]) -> None:
    """At random moments, start-up and the writing of results included; the database is whole each time."""
    rng = random.Random(0)
    for number in range(50):
        folder = tmp_path / f"run{number // 5}"
        process = start(model, questions, folder)
        time.sleep(rng.uniform(0.0, 12.0))
        process.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        process.communicate(timeout=60)
        if finished(folder):
            tables(folder)
        if number % 5 == 4:
            process = start(model, questions, folder)
            _, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
            assert_equal(tables(folder), whole)


@pytest.mark.slow
def test_random_kills_in_the_middle_of_problems(model: Path, questions: Path, few: Path, tmp_path: Path) -> None:
    """Killed while it loads, draws, stores and writes its results, until it ends by itself."""
    rng, folder = random.Random(1), tmp_path / "run"
    drawn = []
    for _ in range(20):
        process = start(model, questions, folder, SLOW | {"limit": FEW})
        try:
            _, err = process.communicate(timeout=rng.uniform(3.0, 14.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate(timeout=60)
            drawn.append(len(finished(folder)) or begun(folder)[1])
        else:
            assert process.returncode == 0, err
            break
    fastsia.evaluate(str(model), str(questions), limit=FEW, output=folder, **SLOW)
    assert drawn, "it was killed at least once"
    assert_equal(tables(folder), tables(few))
