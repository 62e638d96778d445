"""Runs that allocate rollouts: the same ones however often they are killed, within a budget, over all problems."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastsia
from fastsia.callbacks import Callback, Progress
from fastsia.engine.sequence import Request
from fastsia.results import schema
from tests.test_resume import assert_equal, begun, finished, start, tables
from tests.tiny import shared_model

SETTINGS = {
    "num_rollouts": 6,
    "target_se": 0.25,
    "stride": 6,
    "max_tokens": 24,
    "top_p": 1.0,
    "limit": 5,
    "max_concurrent_trajectories": 1,
    "num_bootstrap": 20,
    "num_splits": 2,
}


def numbers(folder: Path) -> list[int]:
    """Rollouts of every checkpoint, in order."""
    rows = "SELECT count(*) FROM rollouts GROUP BY problem_id, trajectory, checkpoint ORDER BY min(id)"
    with contextlib.closing(sqlite3.connect(folder / "run.sqlite")) as connection:
        return [row[0] for row in connection.execute(rows)]


class Seen(Callback):
    """Keeps every progress."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []

    def progressed(self, progress: Progress) -> None:
        self.progress.append(progress)


@pytest.fixture(scope="module")
def whole(model: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastsia.evaluation._REPORT_SECONDS", 0.0)
        seen = Seen()
        fastsia.evaluate(str(model), str(questions), output=folder, callbacks=[seen], **SETTINGS)
    rounds = [progress.round for progress in seen.progress]
    assert rounds == sorted(rounds, reverse=True), "uniform, allocated"
    assert {"uniform round, ", "allocated round, "} == set(rounds)
    rollouts = [progress.rollouts for progress in seen.progress]
    assert rollouts == sorted(rollouts)
    assert sum(numbers(folder)) * 0.9 < rollouts[-1] <= sum(numbers(folder))
    last = [progress.expected_rollouts for progress in seen.progress if progress.round == "allocated round, "]
    assert {*last} <= {None, sum(numbers(folder))}
    assert last[-2] is not None
    return folder


def test_rollouts_are_placed_and_counted(whole: Path, model: Path, questions: Path, tmp_path: Path) -> None:
    """The first ones of a checkpoint are those of a run with equal numbers; the summary says what was reached."""
    found = numbers(whole)
    assert 6 <= min(found) < max(found)
    result = fastsia.load(whole)
    precision = result.summary["precision"]
    assert 0.1 < precision["se"] < 0.6, "near the target; 6 answers foretell little"
    assert precision["mean_rollouts"] == pytest.approx(np.mean(found))
    assert (result.checkpoints["num_rollouts"].to_numpy() == found).all()
    equal = {name: value for name, value in SETTINGS.items() if name != "target_se"}
    fastsia.evaluate(str(model), str(questions), output=tmp_path / "equal", **equal)
    key = "problem_id", "trajectory", "checkpoint", "rollout"
    allocated = {tuple(row[name] for name in key): row for row in tables(whole)["rollouts"]}
    for row in tables(tmp_path / "equal")["rollouts"]:
        assert allocated[tuple(row[name] for name in key)]["token_ids"] == row["token_ids"]
    with pytest.raises(fastsia.FastsiaError, match=r"config\.target_se was 0\.25, is now null"):
        fastsia.evaluate(str(model), str(questions), output=whole, **equal)


def test_a_killed_run_goes_on_to_the_same_numbers(whole: Path, model: Path, questions: Path, tmp_path: Path) -> None:
    """Killed in the uniform round, and in the allocated one."""
    folder = tmp_path / "run"
    slow = SETTINGS | {"max_num_seqs": 2, "save_interval": 0.02}
    for is_there in (lambda: begun(folder)[1] > 20, lambda: len(finished(folder)) >= 1):
        process = start(model, questions, folder, slow)
        while not is_there():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert len(finished(folder)) < 5
    fastsia.evaluate(str(model), str(questions), output=folder, **slow)
    assert_equal(tables(folder), tables(whole))


def test_a_budget_goes_to_all_problems(whole: Path, model: Path, questions: Path, tmp_path: Path) -> None:
    """Half of what the uniform round would take: fewer rollouts everywhere, none with 0. Twice of it: allocated."""
    settings = {name: value for name, value in SETTINGS.items() if name != "target_se"}
    with contextlib.closing(sqlite3.connect(whole / "run.sqlite")) as connection:
        text = "SELECT sum(num_tokens - matched_tokens) FROM rollouts WHERE rollout < 6"
        first = connection.execute(text).fetchone()[0]
        length = connection.execute("SELECT sum(num_tokens) FROM trajectories").fetchone()[0]
    for share in (0.5, 2.0):
        folder, budget = tmp_path / str(share), int(length + share * first)
        found = fastsia.evaluate(str(model), str(questions), output=folder, max_total_tokens=budget, **settings)
        precision = found.summary["precision"]
        assert precision["tokens"] == pytest.approx(budget, rel=0.2)
        assert 0 < precision["bias_bound"] < 0.2
        each = numbers(folder)
        assert (min(each) < 6) == (share < 1)
        assert min(each) >= 2
        with contextlib.closing(sqlite3.connect(folder / "run.sqlite")) as connection:
            per_problem = connection.execute("SELECT num_rollouts FROM problems").fetchall()
        assert len(per_problem) == 5


def test_decisions_are_stored_with_a_checksum() -> None:
    rounds = schema.RoundState(6, {(0, 0): (6, 9)})
    meta = schema.rounds_meta(rounds)
    assert schema.parse_rounds(meta) == rounds
    text, stored = json.loads(meta["rounds"])
    assert json.loads(text) == {"0,0": [6, 9], "first": 6}
    assert schema.parse_rounds({"rounds": json.dumps([text.replace("9", "8"), stored])}) is None
    assert schema.parse_rounds({}) is schema.parse_rounds({"rounds": "7"}) is None


def test_who_cannot_do_rounds_says_so() -> None:
    model: Any = shared_model()
    with pytest.raises(fastsia.FastsiaError, match=r"need the native backend, .* got 'hf'"):
        fastsia.evaluate(model, [fastsia.Problem("a", "1 + 1?", "2")], backend="hf", target_se=0.1)
    engine = fastsia.Engine(*model)
    asked = Request("a", (1, 2), fastsia.SamplingParams(max_tokens=4), 2, 0, trajectory_ids=(3, 4), allocation=(2,))
    with pytest.raises(fastsia.FastsiaError, match="allocation has 1 numbers of rollouts for 2 checkpoints"):
        list(engine.run([asked]))
