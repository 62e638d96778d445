"""A run followed in a real experiment tracker, which writes to a folder instead of a server."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

import pytest

import fastsia
from fastsia import FastsiaError
from fastsia.callbacks import Callback, Progress, Tracker
from fastsia.cli import _run
from fastsia.results.schema import FinishedProblem
from tests.tiny import PROBLEMS, save_tiny, shared_model

SMALL: dict[str, Any] = {"num_rollouts": 3, "stride": 8, "max_tokens": 16, "num_bootstrap": 20, "num_splits": 2}

wandb = pytest.importorskip("wandb", reason="the extra 'wandb' is not installed")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of a server, and no settings of this machine are read."""
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true"), ("WANDB_ERROR_REPORTING", "false")):
        monkeypatch.setenv(name, value)


def written(folder: Path, last: bytes) -> bytes:
    """What the tracker wrote of the one run below a folder, once `last` is there: a process of its own writes it."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    end = time.monotonic() + 60
    while last not in (found := path.read_bytes()):
        assert time.monotonic() < end, f"{last!r} was never written"
        time.sleep(0.05)
    return found


class Watching(Callback):
    """Keeps what the tracker had been told by each of our calls."""

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}
        self.told: list[dict[str, Any]] = []
        self.correct: list[bool] = []

    def run_started(self, run: Any, progress: Progress) -> None:
        self.config = dict(wandb.run.config)

    def problem_finished(self, problem: FinishedProblem, progress: Progress) -> None:
        self.told.append(dict(wandb.run.summary))
        self.correct += [scored.correct for scored in problem.trajectories]


def test_a_run_is_followed_from_its_config_to_its_summary(tmp_path: Path) -> None:
    watching = Watching()
    tracker = Tracker("wandb", project="sums", dir=str(tmp_path))
    for run in (1, 2):  # a tracker serves as many runs as are given it, one after the other
        folder = tmp_path / str(run)
        folder.mkdir()
        tracker._options["dir"] = str(folder)
        watching.told, watching.correct = [], []
        result = fastsia.evaluate(shared_model(), PROBLEMS[:4], callbacks=[tracker, watching], **SMALL)
        assert watching.config["config.num_rollouts"] == 3
        assert watching.config["task"] == "problems"
        assert [told["progress/problems"] for told in watching.told] == [1, 2, 3, 4]
        shares = [sum(watching.correct[:n]) / n for n in (1, 2, 3, 4)]
        assert [told["progress/accuracy"] for told in watching.told] == pytest.approx(shares)
        assert watching.told[-1]["progress/generated_tokens"] == result.summary["generated_tokens"]
        assert wandb.run is None, "the run is closed"
        text = written(folder, b"summary/num_problems")
        assert b"summary/accuracy" in text
        assert b"summary/generated_tokens" in text
        assert b"summary/config" not in text


def test_the_command_line_passes_the_trackers_arguments_on(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    questions = tmp_path / "sums.jsonl"
    questions.write_text('{"question": "1 + 1?", "answer": "2"}\n')
    options = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]
    arguments = ["run", "--model", str(model), "--tasks", str(questions), *options]
    given = f'{{"project": "sums", "dir": "{tmp_path}", "tags": ["a", "b"]}}'
    assert _run([*arguments, "--wandb_args", given]) == 0
    written(tmp_path, b"summary/num_problems")
    other = tmp_path / "other"
    other.mkdir()
    assert _run([*arguments, "--wandb_args", f"name=first one,dir={other},reinit=True"]) == 0
    written(other, b"first one")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("project", "--wandb_args must be name=value,name=value, got 'project'."),
        ('{"project": ', "--wandb_args is not JSON: "),
    ],
)
def test_arguments_that_are_none_are_refused(given: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["run", "--model", "demo:sft", "--tasks", "demo", "--limit", "1", "--wandb_args", given]) == 2
    assert sentence in capsys.readouterr().err


def test_a_tracker_that_is_not_there_is_said() -> None:
    with pytest.raises(FastsiaError, match="the tracker must be one of trackio, wandb, got 'tensorboard'"):
        Tracker("tensorboard")
    if importlib.util.find_spec("trackio") is None:
        with pytest.raises(
            FastsiaError, match=r"the package trackio is not installed: pip install 'fastsia\[trackio\]'"
        ):
            Tracker("trackio")
