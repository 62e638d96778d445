"""`fastsia plan` and `run --profile`, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastsia.cli import _run
from tests.tiny import save_tiny

SETTINGS = ("--num_rollouts", "3", "--stride", "8", "--max_tokens", "24")
QUICK = ("--num_bootstrap", "20", "--num_splits", "2", "--no_report")


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    questions = tmp_path / "sums.jsonl"
    rows = [{"question": f"What is {i} plus 1?", "answer": str(i + 1)} for i in range(6)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--model", str(save_tiny(tmp_path / "model")), "--tasks", str(questions)]


def test_a_plan_and_the_run_that_follows_it(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert _run(["plan", *inputs, *SETTINGS, "-o", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "tokens of rollouts" in out
    assert json.loads((folder / "plan.json").read_text())["num_problems"] == 6
    assert _run(["run", *inputs, *SETTINGS, *QUICK, "-o", str(folder)]) == 0
    assert "The forecast was off by: tokens " in capsys.readouterr().out
    # Of another number of problems it says nothing.
    assert _run(["run", *inputs, *SETTINGS, *QUICK, "--limit", "3", "-o", str(tmp_path / "other")]) == 0
    assert "The forecast was" not in capsys.readouterr().out


def test_a_profile_says_where_the_time_went(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert _run(["run", *inputs, *SETTINGS, *QUICK, "-o", str(folder), "--profile"]) == 0
    out = capsys.readouterr().out
    assert "Profile: " in out
    assert "model " in out
    assert "host " in out
    assert json.loads((folder / "trace.json").read_text())["traceEvents"]


def test_what_they_refuse(inputs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["run", *inputs, *SETTINGS, "--backend", "hf", "--profile"]) == 2
    assert "--profile needs the native backend in this process, got hf." in capsys.readouterr().err
    assert _run(["plan", "--model", inputs[1], "--tasks", "demo,gsm8k"]) == 2
    assert "one task at a time" in capsys.readouterr().err
