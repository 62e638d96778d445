"""The command line: what it prints, what it writes, and one sentence for every mistake."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

import fastsia
from fastsia import cli, provenance
from fastsia.callbacks import Callback, Progress
from fastsia.cli import _run
from fastsia.cli.options import GROUPS
from fastsia.cli.render import Shown, plain, say
from fastsia.cli.run import say_interrupted, task_folders
from fastsia.config import SETTINGS
from fastsia.results.reader import Store
from tests.core import needs_core
from tests.engine.damage import DAMAGES, damaged
from tests.programs import run_python
from tests.tiny import save_tiny

SMALL = ["--num_rollouts", "3", "--stride", "6", "--max_tokens", "12", "--num_bootstrap", "20", "--num_splits", "2"]
TASKS = ("gsm8k", "svamp", "svamp_full", "arc_challenge", "arc_easy", "math500")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("models") / "tiny", context=2048))


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    path.write_text("".join(json.dumps({"question": f"{i} + 1?", "answer": str(i + 1)}) + "\n" for i in range(8)))
    return path


def command(*arguments: Any) -> int:
    """The exit code of `fastsia ...`, in this process."""
    return _run([str(argument) for argument in arguments])


def complaint(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """What a failing command says: exactly one sentence, exit code 2, no traceback."""
    capsys.readouterr()
    assert command(*arguments) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert "Traceback" not in out
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1, err
    assert lines[0].startswith("fastsia: error: ")
    return lines[0]


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_weights_end_a_run(
    model: str, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Nothing was printed and the exit code was 0: the numbers were of random weights."""
    folder, says = damaged(Path(model), tmp_path / "damaged", kind)
    text = complaint(capsys, "run", "--model", folder, "--tasks", questions, "-o", tmp_path / "run", *SMALL)
    assert re.search(says, text)
    assert not (tmp_path / "run").exists()


def test_a_run_names_its_adapter(
    model: str, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.models.test_adapter import save_adapter  # skips where peft is not installed

    save_adapter(Path(model), tmp_path / "adapter")
    arguments = ["run", "--model", model, "--tasks", questions, "--limit", 2, *SMALL, "--no_report"]
    assert command(*arguments, "-o", tmp_path / "run", "--peft", tmp_path / "adapter") == 0
    assert "tiny + adapter · sums: 2 problems" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["model"] == f"{model} + {tmp_path / 'adapter'}"
    assert "model.peft was" in complaint(capsys, *arguments, "-o", tmp_path / "run")
    assert "does not exist" in complaint(capsys, *arguments, "--peft", tmp_path / "absent")


@pytest.mark.usefixtures("one_figure")
def test_a_run_writes_its_folder_and_prints_its_table(
    model: str, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert command("run", "--model", model, "--tasks", questions, "--limit", 4, "-o", folder, *SMALL) == 0
    out = capsys.readouterr().out
    shown = (": 4 problems", "accuracy", "no answer", "the paper's", "recommended ρ (change-point)", "ends incorrect")
    shown += ("undefined", "rollout tokens")
    for text in (*shown, "report.html"):
        assert text in out
    names = {path.name for path in folder.iterdir()}
    assert {"run.sqlite", "summary.json", "rollouts.parquet", "report.html", "figures"} <= names
    assert not {"run.sqlite-wal", "run.sqlite-shm"} & names, "a finished run's database is one file"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["model"] == model
    assert summary["task"] == "sums"
    assert (summary["num_problems"], summary["config"]["num_rollouts"]) == (4, 3)
    assert len(fastsia.load(folder).trajectories) == 4
    assert summary["provenance"]["date"] <= datetime.now(UTC).isoformat()
    assert summary["provenance"]["command"] is None, "pytest is no command of fastsia"

    drawn = (folder / "report.html").stat().st_mtime_ns
    assert command("show", folder) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("│", "┏", "┃", "└"))]
    assert table == [line for line in out.splitlines() if line.startswith(("│", "┏", "┃", "└"))]
    assert max(map(len, table)) <= 80
    assert command("show", folder, "--table", "json") == 0
    found = json.loads(capsys.readouterr().out)
    rows = {(row["name"], row["group"]): row for row in found["rows"]}
    assert rows["accuracy", None]["value"] == summary["accuracy"]
    assert rows["the paper's ρ", "ends incorrect"]["n"] == rows["the paper's ρ", None]["n"]
    assert command("show", folder, "--table", "markdown") == 0
    assert "| ↳ ends incorrect | " in capsys.readouterr().out
    assert (folder / "report.html").stat().st_mtime_ns == drawn

    assert (
        command("run", "--model", model, "--tasks", questions, "--limit", 6, "-o", folder, "--no-report", *SMALL) == 0
    )
    out, err = capsys.readouterr()
    assert "6 problems" in out
    assert "fastsia: sums: 6 problems, 4 of them stored already; cpu, float32" in err
    assert json.loads((folder / "summary.json").read_text())["num_computed_problems"] == 6
    arguments = ["run", "--model", model, "--tasks", questions, "--limit", 6, "-o", folder, "--no_report", *SMALL]
    assert command(*arguments, "--share", "none") == 0, "a setting that changes nothing"
    assert json.loads((folder / "summary.json").read_text())["num_computed_problems"] == 6, "nothing was drawn again"
    text = complaint(capsys, "run", "--model", model, "--tasks", questions, "-o", folder, *SMALL, "--seed", 1)
    assert "contains another run: config.seed was 0, is now 1." in text

    (folder / "report.html").unlink()
    assert command("report", folder) == 0
    assert (folder / "report.html").is_file()
    assert command("analyze", folder / "rollouts.parquet", "-o", tmp_path / "again", "--num_bootstrap", 20) == 0
    assert {"summary.json", "report.html", "checkpoints.parquet"} <= {p.name for p in (tmp_path / "again").iterdir()}


def test_dashes_and_underscores_are_the_same(model: str, questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [argument.replace("_", "-") if argument.startswith("--") else argument for argument in SMALL]
    assert command("run", "--model", model, "--tasks", questions, "--limit", 1, *arguments) == 0
    out = capsys.readouterr().out
    assert ": 1 problem\n" in out
    assert command("run", "--model", model, f"--tasks={questions}", "--top-p=0.5", "--limit=1", *arguments) == 0
    assert "Unknown task 'a-b'" in complaint(capsys, "run", "--model", model, "--tasks", "a-b")
    assert "'--a-b.csv'" in complaint(capsys, "analyze", "--", "--a-b.csv")
    assert "Results:" not in out, "nothing is kept without -o"


def test_several_tasks_have_a_folder_each(
    model: str, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"question": "Which?", "choices": ["x", "y"], "answer": "B"}\n')
    tasks = f"{questions},{other}"
    arguments = ["run", "--model", model, "--tasks", tasks, "--limit", 1, "--no_report", *SMALL]
    assert command(*arguments, "-o", tmp_path / "runs") == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["other", "sums"]
    assert "2 problems" not in capsys.readouterr().out
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "sums.jsonl").write_text(questions.read_text())
    arguments[4] = f"{questions},{copy / 'sums.jsonl'}"
    assert "'sums' and 'sums' would share the folder 'sums'" in complaint(capsys, *arguments, "-o", tmp_path / "twice")


def test_a_tasks_name_does_not_lead_out_of_the_folder(model: str, questions: Path, tmp_path: Path) -> None:
    """A data set's file without its ending is the task's name: of this one that is "..", the folder above."""
    evil = tmp_path / "data" / "...jsonl"
    evil.parent.mkdir()
    evil.write_text('{"question": "1 + 1?", "answer": "2"}\n')
    arguments = ["--model", model, "--tasks", f"{questions},{evil}", "--limit", 1, "--no_report", *SMALL]
    assert command("run", *arguments, "-o", tmp_path / "out" / "runs") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"data", "out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"runs"}
    folders = list((tmp_path / "out" / "runs").iterdir())
    assert len(folders) == 2
    assert all((folder / "run.sqlite").is_file() for folder in folders)
    assert task_folders(tmp_path, ["a/../../b", "ok"])[1] == tmp_path / "ok"
    assert [folder.parent for folder in task_folders(tmp_path, ["a/../../b", "ok"]) if folder] == [tmp_path] * 2


@pytest.mark.parametrize("task", TASKS)
def test_every_task_runs_from_its_real_file(task: str, model: str, shared_data: Path, tmp_path: Path) -> None:
    arguments = ["run", "--model", model, "--tasks", task, "--data_dir", shared_data, "--limit", 3, "-o", tmp_path]
    assert command(*arguments, "--no_report", *SMALL) == 0
    problems = pd.read_parquet(tmp_path / "problems.parquet")
    assert len(problems) == 3
    expected = "choice" if task.startswith("arc") else "boxed" if task == "math500" else "number"
    assert set(problems["format"]) == {expected}


BAD = [
    (["--model", "demo:stf", "--tasks", "demo"], "'demo:stf' is not a demo model; available: "),
    (["--model", "no/such/folder", "--tasks", "demo"], "does not exist: no such folder, and not a Hub id"),
    (["--model", "MODEL", "--tasks", "gsm8j"], "Unknown task 'gsm8j'; did you mean gsm8k?"),
    (["--model", "MODEL", "--tasks", ","], "--tasks names no task"),
    (["--model", "MODEL", "--tasks", "DIR/absent.jsonl"], "absent.jsonl is not a file"),
    (["--model", "MODEL", "--tasks", "DIR/empty.jsonl"], "contains no problems"),
    (["--model", "MODEL", "--tasks", "DIR/broken.jsonl"], "2"),
    (["--model", "MODEL", "--tasks", "DIR/short.jsonl"], "answer"),
    (["--model", "MODEL", "--tasks", "gsm8k", "--data_dir", "DIR"], "has no file gsm8k/test.jsonl"),
    (["--model", "MODEL", "--tasks", "TASK", "--limit", "0"], "limit must be an integer >= 1"),
    (["--model", "MODEL", "--tasks", "TASK", "--limit", "-2"], "limit must be an integer >= 1"),
    (["--model", "MODEL", "--tasks", "TASK", "--limit", "many"], "limit must be an integer >= 1, got 'many'"),
    (["--model", "MODEL", "--tasks", "TASK", "--limit", "1" + 30 * "0"], "limit must be an integer <= 2,147,483,647"),
    (["--model", "MODEL", "--tasks", "TASK", "--num_rollouts", "1" + 30 * "0"], "num_rollouts must be an integer <= "),
    (
        ["--model", "MODEL", "--tasks", "TASK", "--num_kv_blocks", "1" + 30 * "0"],
        "num_kv_blocks must be an integer <= ",
    ),
    (["--model", "MODEL", "--tasks", "TASK", "--model_args", '{"a":' + 9999 * "["], "--model_args is JSON nested too"),
    (["--model", "MODEL", "--tasks", "TASK", "--template_date", "today"], "template_date must be a date as YYYY-MM-DD"),
    (["--model", "MODEL", "--tasks", "TASK", "--think_tags", "<a>"], "--think_tags must be OPEN,CLOSE"),
    (["--model", "MODEL", "--tasks", "TASK", "--think_tags", "<a>,<b>,"], "--think_tags must be OPEN,CLOSE"),
    (["--model", "MODEL", "--tasks", "TASK", "--chat_template_args", "x"], "--chat_template_args must be name=value"),
    (["--model", "MODEL", "--tasks", "TASK", "--no_enable_thinking"], "enable_thinking is for a chat template, but"),
    (
        ["--model", "MODEL", "--tasks", "TASK", "--chat_template_args", "effort=low"],
        "effort is for a chat template, but",
    ),
    (["--model", "MODEL", "--tasks", "TASK", "--stride", "0"], "stride must be an integer >= 1, got 0"),
    (["--model", "MODEL", "--tasks", "TASK", "--num_rollouts", "0"], "num_rollouts must be an integer >= 1"),
    (["--model", "MODEL", "--tasks", "TASK", "--num_rollouts", "ten"], "must be an integer >= 1, got 'ten'"),
    (["--model", "MODEL", "--tasks", "TASK", "--temperature", "hot"], "must be a finite number >= 0, got 'hot'"),
    (["--model", "MODEL", "--tasks", "TASK", "--top_p", "0"], "top_p must be in (0, 1], got 0.0"),
    (["--model", "MODEL", "--tasks", "TASK", "--top_p", "1.5"], "top_p must be in (0, 1], got 1.5"),
    (["--model", "MODEL", "--tasks", "TASK", "--temperature", "nan"], "temperature must be a finite number >= 0"),
    (["--model", "MODEL", "--tasks", "TASK", "--max_tokens", "3000"], "positions, but the model's context is 2048"),
    (["--model", "MODEL", "--tasks", "TASK", "--share", "all"], 'share must be "trajectory", "checkpoint" or "none"'),
    (["--model", "MODEL", "--tasks", "TASK", "--backend", "nativ"], "did you mean native?"),
    (["--model", "MODEL", "--tasks", "TASK", "--dtype", "int3"], "dtype must be one of"),
    (["--model", "MODEL", "--tasks", "TASK", "--kernels", "fast"], "kernels"),
    (["--model", "MODEL", "--tasks", "TASK", "-o", "DIR/file"], "is a file"),
    (["--model", "MODEL", "--tasks", "TASK", "--num_rollout", "3"], "--num_rollout"),
    (["--model", "MODEL"], "--tasks"),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD, ids=[" ".join(arguments[2:])[:80] for arguments, _ in BAD])
def test_mistakes_are_one_sentence_with_exit_code_2(
    arguments: list[str], sentence: str, model: str, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text('{"question": "a", "answer": "1"}\n{"question": \n')
    (tmp_path / "short.jsonl").write_text('{"question": "a"}\n')
    (tmp_path / "file").write_text("")
    places = {"MODEL": model, "TASK": str(questions), "DIR": str(tmp_path)}

    def placed(argument: str) -> str:
        for name, place in places.items():
            argument = argument.replace(name, place)
        return argument

    assert sentence in complaint(
        capsys, "run", *map(placed, arguments), *(["--limit", "2"] * ("--limit" not in arguments))
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["report", "DIR/absent"], "does not exist"),
        (["report", "DIR"], "contains neither run.sqlite nor"),
        (["analyze", "DIR/absent.csv"], "is not a file"),
        (["analyze", "DIR/t.csv"], "lacks column"),
        (["rum"], "rum"),
        (["compare", "DIR/absent"], "compare needs two or more results folders, got 1"),
        (["compare", "DIR/absent", "DIR/other"], "'DIR/absent' does not exist"),
        (["compare", "DIR", "DIR"], "is given twice"),
        (["compare"], "DIR"),
        (["export", "DIR/absent", "--to", "datasets", "-o", "DIR/out"], "does not exist"),
        (["export", "DIR", "--to", "csv", "-o", "DIR/out"], "--to must be one of lm_eval, datasets, got 'csv'"),
        (["export", "DIR", "--to", "datasets"], "--output_path"),
    ],
)
def test_the_other_commands_complain_alike(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    sentence = sentence.replace("DIR/", f"{tmp_path}/")
    assert sentence in complaint(capsys, *(argument.replace("DIR", str(tmp_path)) for argument in arguments))


def test_lines_keep_their_indent(capsys: pytest.CaptureFixture[str]) -> None:
    """`fastsia steps` printed the lines of a step at the same margin as its heading."""
    say("a step", "  it says:\nso", "")
    assert capsys.readouterr().out == "a step\n  it says: so\n\n"


def test_export_writes_what_other_tools_read(
    model: str, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert (
        command("run", "--model", model, "--tasks", questions, "--limit", 3, "-o", folder, "--no_report", *SMALL) == 0
    )
    capsys.readouterr()
    assert command("export", folder, "--to", "lm_eval", "-o", tmp_path / "lm_eval") == 0
    (results,) = (tmp_path / "lm_eval").glob("*/results_*.json")
    (samples,) = (tmp_path / "lm_eval").glob("*/samples_sums_*.jsonl")
    assert capsys.readouterr().out == f"Written: {results}\n"
    assert len(samples.read_text().splitlines()) == 3
    assert command("export", folder, "--to", "datasets", "-o", tmp_path / "datasets") == 0
    assert capsys.readouterr().out == f"Written: {tmp_path / 'datasets'}\n"
    assert (tmp_path / "datasets" / "README.md").read_text().startswith("---\n")


def test_compare_prints_a_table_and_writes_a_page(
    model: str, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, seed in zip(folders, (0, 1), strict=True):
        arguments = ["run", "--model", model, "--tasks", questions, "--limit", 4, "-o", folder, "--no_report"]
        assert command(*arguments, *SMALL, "--seed", seed) == 0
    capsys.readouterr()
    assert command("compare", *folders, "-o", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines() if line.startswith(("│", "┏", "┃", "└"))) <= 80
    for text in (
        "Runs",
        "│ accuracy",
        "the paper's ρ undefined",
        "Token level",
        "Differences between runs",
        "comparison.html",
    ):
        assert text in out
    assert out.count("accuracy") == 2, "of each run, and the difference"
    assert (tmp_path / "out" / "comparison.html").is_file()
    assert set(pd.read_parquet(tmp_path / "out" / "tables" / "runs.parquet")["run"]) == {"a", "b"}
    assert command("compare", *folders, "--table", "markdown") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "|  | a | b |" in lines
    assert sum(line.startswith("| accuracy ") for line in lines) == 1
    assert any(line.startswith("| cut by the token limit | ") for line in lines)
    assert command("compare", *folders, "--table", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["run"] for run in found["runs"]] == ["a", "b"]
    assert {"minus", "quantity", "paired"} < set(found["differences"][0])


def test_reproduce_shows_ours_beside_the_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a machine that reaches no Hub: the paper's models are named with their cost, ours are run."""
    monkeypatch.setattr("fastsia.models.resolve._reach", lambda repo, revision: (False, None))
    small = [*SMALL, "-o", tmp_path / "runs"]
    arguments = ["reproduce", "table1", "--models", "demo:sft,Gemma-2-2B", "--tasks", "demo", "--limit", 2, *small]
    assert command(*arguments) == 0
    out = capsys.readouterr().out
    for text in ("Gemma-2-2B", "5.2 GB", "2 problems x 3 checkpoints x 3 rollouts (demo)", "upper bound", "demo:sft"):
        assert text in out
    assert "Problems drawn now: 2." in out
    assert command(*arguments) == 0
    assert "Problems drawn now: 0." in capsys.readouterr().out

    assert command("reproduce", "table3", *small) == 2
    out, err = capsys.readouterr()
    for name in ("Qwen2.5-3B-it", "DeepSeek-R1-Distilled"):
        assert name in out
    assert err == "fastsia: error: no weights are available for any model of table3; nothing was run.\n"
    assert "must be one of table1, table2, table3, fig1, fig2" in complaint(capsys, "reproduce", "fig11")
    assert "--models names no model" in complaint(capsys, "reproduce", "fig1", "--models", ",")


def test_reproduce_shows_a_figure_of_the_stages_that_it_is_about(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of one's own is called unknown until its stage is stated; the other figure's models are left out."""
    rest = ["--tasks", "demo", "--limit", 2, *SMALL, "-o", tmp_path / "runs"]
    assert command("reproduce", "fig1", "--models", f"{model},demo:base", *rest) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Figure 1: early accumulation of information, aligned models" in out
    assert "left out: demo:base (Base). fig4 shows them." in out
    assert "is unknown; state it with --stage MODEL=STAGE." in out
    assert not (tmp_path / "runs" / "demo_base").exists()
    assert command("reproduce", "fig4", "--models", model, "--stage", f"{model}=Base", *rest) == 0
    out = capsys.readouterr().out
    assert "Problems drawn now: 0." in out
    assert "Note: " not in out
    said = complaint(capsys, "reproduce", "fig1", "--models", model, "--stage", f"{model}=Base", *rest)
    assert "fig1 shows aligned models (SFT, SFT+RL), got" in said
    assert "--stage must be name=value" in complaint(capsys, "reproduce", "fig1", "--models", model, "--stage", "SFT")


def test_a_tracker_that_does_not_start_is_one_sentence(
    model: str, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No login, a setting that it does not have: said before anything is drawn."""
    pytest.importorskip("wandb", reason="the extra 'wandb' is not installed")
    arguments = ["run", "--model", model, "--tasks", questions, "-o", tmp_path, "--wandb_args", "mode=of", *SMALL]
    assert command(*arguments) == 2
    err = capsys.readouterr().err
    assert "fastsia: error: wandb could not be started: " in err
    assert "Traceback" not in err
    assert Store(tmp_path / "run.sqlite").num_problems() == 0


def test_what_is_said_to_the_template_is_kept(model: str, questions: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").write_text("{{ messages[-1].content }}{% if effort is defined %}{% endif %}")
    options = ["--no-enable-thinking", "--chat_template_args", '{"effort": "low", "n": 1}', "--think-tags", "[A],[/A]"]
    more = ["--template_date", "2026-11-26", "--limit", 1, "-o", tmp_path / "run", "--no_report", *SMALL]
    assert command("run", "--model", folder, "--tasks", questions, *options, *more) == 0
    config = fastsia.load(tmp_path / "run").summary["config"]
    assert (config["enable_thinking"], config["template_date"]) == (False, "2026-11-26")
    assert (config["chat_template_args"], config["think_tags"]) == ('{"effort": "low", "n": 1}', ["[A]", "[/A]"])


def test_what_an_interruption_left_is_said(
    model: str, questions: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Before the first problem was finished: "0 of 4 are kept" would promise a resume of nothing."""

    class Interrupting(Callback):
        def run_started(self, run: Any, progress: Progress) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fastsia.evaluate(model, str(questions), output=tmp_path / "none", callbacks=[Interrupting()])
    rest = ["--limit", 3, "-o", tmp_path / "some", "--no_report", *SMALL]
    assert command("run", "--model", model, "--tasks", questions, *rest) == 0
    capsys.readouterr()
    said = []
    for name, told in (("none", False), ("none", True), ("some", True)):
        shown = Shown("task")
        shown.last = Progress(0, 4, 0, 0, 0, 1.0) if told else None
        say_interrupted(shown, tmp_path / name)
        said.append(capsys.readouterr().err.strip())
    assert said[:2] == ["Interrupted: no problem was finished yet."] * 2
    assert said[2].startswith("Interrupted: 3 of 4 problems are finished and kept in "), "stored counts, not told of"
    assert said[2].endswith("; the same command continues from there.")


def test_a_bare_call_is_help_and_there_is_a_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert command() == 0
    out, err = capsys.readouterr()
    assert "Commands:\n  run " in out
    assert not err
    assert command("--version") == 0
    assert capsys.readouterr().out == f"fastsia {fastsia.__version__}\n"


def test_the_command_of_a_run_is_kept_without_secrets() -> None:
    argv = ["/bin/fastsia", "run", "--tasks", "a b", "--wandb_args", "key=x", "--trackio-args=key=y"]
    assert provenance._command(argv) == "fastsia run --tasks 'a b' --wandb_args ... --trackio-args=..."
    assert provenance._command(["/work/fastsia/__main__.py", "ls"]) == "fastsia ls"


def test_ls_and_doctor_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("ls") == 0
    out = capsys.readouterr().out
    for name in ("gsm8k", "arc_easy", "demo", "Qwen/Qwen2.5-3B-Instruct", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"):
        assert name in out
    assert command("doctor") == 0
    out = capsys.readouterr().out
    for name in ("torch", "transformers", "device", "kernels", "C++ core", "chromium", "Missing:"):
        assert name in out
    help_text = CliRunner().invoke(cli.app, ["run", "--help"]).output
    for option in ("--num_rollouts", "--stride", "--num_fewshot", "--apply_chat_template", "--output_path"):
        assert option in help_text


def test_hostile_text_does_not_reach_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file's name or a problem's id may hold escape sequences; they must not clear the screen or turn text round."""
    assert plain("a\x1b[2Jb\u202ec\x07\x9b") == "a\ufffd[2Jb\ufffdc\ufffd\ufffd"
    text = complaint(capsys, "analyze", f"{tmp_path}/\x1b[31mred.csv")
    assert "\x1b" not in text


def test_help_lists_options_under_headings_for_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = CliRunner().invoke(cli.app, ["run", "--help"]).output
    headings = re.findall(r"^(\w.*):$", text, flags=re.MULTILINE)
    assert headings[:3] == ["Model and task", "Sampling", "Answers"]
    assert {SETTINGS[name].group for name in SETTINGS} <= set(headings) <= set(GROUPS)
    assert max(map(len, text.splitlines())) <= 80
    said = " ".join(text.split())
    for setting in SETTINGS.values():
        assert f"--{setting.name}" in said.replace(",", "").split()
        assert setting.help, setting.name
        assert setting.help.split()[0] in said


def test_the_tables_of_the_page_are_those_of_the_settings() -> None:
    """`python docs/_settings.py` writes them."""
    path = Path(__file__).parents[1] / "docs" / "_settings.py"
    spec = importlib.util.spec_from_file_location("settings_page", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.PAGE.read_text(encoding="utf-8")
    assert page == module.updated(page)
    assert module.TYPES.read_text(encoding="utf-8") == module.types(), "of evaluate's keyword arguments"


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("--max_rows", "--max_num_seqs", "4"),
        ("--prefill-chunk", "--max_num_batched_tokens", "64"),
        ("--window", "--max_concurrent_trajectories", "2"),
        ("--num_blocks", "--num_kv_blocks", "64"),
        ("--format", "--answer_format", "number"),
        ("--think", "--answer_reading", "lenient"),
    ],
)
def test_old_options_are_accepted_with_one_line(
    old: str, new: str, value: str, model: str, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("run", "--model", model, "--tasks", questions, "--limit", 1, old, value, *SMALL) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "called" in line] == [
        f"fastsia: {old[2:].replace('-', '_')} is now called {new[2:]}; "
        "the old name will be removed in the next release."
    ]


def test_the_old_command_is_accepted_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("force", tmp_path) == 2
    assert capsys.readouterr().err.splitlines() == [
        "fastsia: force is now called loglikelihood; the old name will be removed in the next release.",
        f"fastsia: error: results folder {str(tmp_path)!r} contains no run (run.sqlite).",
    ]


@needs_core
def test_a_reader_that_stops_is_no_error(model: str, questions: Path, tmp_path: Path) -> None:
    """As `fastsia run ... | true`: the pipe is closed before the table is printed. What was written is kept."""
    arguments = ["run", "--model", model, "--tasks", questions, "--limit", 2, "-o", tmp_path / "run", *SMALL]
    arguments.append("--no_report")
    for parts in (arguments, ["ls"]):
        read, write = os.pipe()
        os.close(read)
        ended = run_python("-m", "fastsia", *parts, stdout=write)
        os.close(write)
        assert ended.returncode == 141
        assert re.fullmatch(r"fastsia: sums: 2 problems; .*\n" if parts is arguments else "", ended.stderr)
    assert len(fastsia.load(tmp_path / "run").trajectories) == 2


@needs_core
@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2)])
def test_streams_that_the_shell_closed(closed: tuple[int, ...], model: str, questions: Path, tmp_path: Path) -> None:
    """A file that is opened next would get the number of the closed stream, and be written to."""
    arguments = ["run", "--model", model, "--tasks", questions, "--limit", 2, "-o", tmp_path / "run", *SMALL]
    if len(closed) < 2:  # the report's files are opened once, with both streams closed
        arguments.append("--no_report")
    for parts in (arguments, ["ls"], ["doctor"]):
        ended = run_python("-m", "fastsia", *parts, closed=closed)
        is_said = parts is arguments and 2 not in closed
        assert ended.returncode == 0
        assert re.fullmatch(r"fastsia: sums: 2 problems; .*\n" if is_said else "", ended.stderr)
    assert len(fastsia.load(tmp_path / "run").trajectories) == 2
    assert Store(tmp_path / "run" / "run.sqlite").num_problems() == 2


def test_as_a_program(model: str, questions: Path, tmp_path: Path) -> None:
    """`python -m fastsia`, in a process of its own: no escape sequences off a terminal, and the exit code."""
    environment = os.environ | {"COLUMNS": "80"}
    base = [sys.executable, "-m", "fastsia"]
    done = subprocess.run([*base, "ls"], capture_output=True, text=True, env=environment, check=True)
    assert "\x1b" not in done.stdout
    timed = [sys.executable, "-X", "importtime", *base[1:], "run", "--model", model, "--tasks", "nope"]
    bad = subprocess.run(timed, capture_output=True, text=True)
    assert not re.search(r"\| +(torch|transformers)$", bad.stderr, re.MULTILINE), "a typing error should cost no import"
    bad.stderr = "".join(line for line in bad.stderr.splitlines(True) if not line.startswith("import time:"))
    assert bad.returncode == 2
    assert bad.stderr.startswith("fastsia: error: Unknown task 'nope'")
    line = f"{shlex.join([*base, 'ls'])} >&- 2>&-"
    assert subprocess.run(line, shell=True, capture_output=True, text=True, check=True).stderr == ""


def progress(done: int, seconds: float, **more: Any) -> Progress:
    return Progress(done, 20, 0, 1000 * done, 900 * done, seconds, rollouts=30 * done, **more)


def test_progress_is_lines_off_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    with Shown("task", "cpu, 1 thread") as shown:
        shown.run_started({}, progress(0, 0.0))
        for second in range(1, 100):
            clock[0] = float(second)
            more = {"expected_rollouts": 612.4, "seconds_left": 100.0 - second, "trajectory_tokens": 500}
            shown.progressed(progress(second // 10, float(second), **more))
    lines = capsys.readouterr().err.splitlines()
    assert 4 <= len(lines) <= 8, "a line every 15 seconds"
    assert lines.pop(0) == "fastsia: task: 20 problems; cpu, 1 thread."
    first = "task: 1/20 problems, 30 of about 612 rollouts, 1,500 tokens, 100/s, 01:25 left"
    assert lines[0] == first, lines[0]
    clock[0] = 0.0
    with Shown("task") as shown:
        shown.run_started({}, progress(0, 0.0))
        clock[0] = 1.5
        shown.problem_finished(None, progress(20, 1.5))
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "rollouts" in line] == [], "what is over in two seconds needs no progress"


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    clock = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    monkeypatch.setenv("COLUMNS", "200")
    with Shown("task[bold]\x1b[2J") as shown:
        shown.run_started({}, Progress(2, 4, 2, 0, 0, 0.0))
        assert screen.getvalue() == "fastsia: task[bold]\ufffd[2J: 4 problems, 2 of them stored already.\n"
        clock[0] = 3.0
        shown.progressed(Progress(2, 4, 2, 51, 5, 3.0, rollouts=7, expected_rollouts=10.0, seconds_left=60.0))
        assert "task[bold]" in screen.getvalue()
        assert "2/4 problems, 7 of about 10 rollouts, 51 tokens, 17/s, 01:00 left" in screen.getvalue()
        clock[0] = 8.0
        shown._show()  # what the clock's thread does while a step computes
        assert "00:55 left" in screen.getvalue()
    assert screen.getvalue().count("\n") == 1, "the bar leaves nothing behind"
    assert "\x1b" not in screen.getvalue()


def test_the_clock_moves_while_a_step_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a large model takes many seconds; nothing is reported meanwhile."""
    monkeypatch.setattr("fastsia.cli.render.SECONDS_BETWEEN_TICKS", 0.01)
    shown, ticks = Shown("task"), threading.Semaphore(0)
    monkeypatch.setattr(shown, "_show", ticks.release)
    with shown:
        shown.run_started({}, progress(0, 0.0))
        for _ in range(5):
            assert ticks.acquire(timeout=30)
    assert shown._ticker is not None
    assert not shown._ticker.is_alive()


def test_a_csv_file_with_two_columns_of_one_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first of them won in silence."""
    table = tmp_path / "rollouts.csv"
    table.write_text("problem_id,trajectory,checkpoint,rollout,answer,gold,answer\np,0,0,0,1,1,2\n")
    assert command("analyze", table) == 2
    assert capsys.readouterr().err == f"fastsia: error: table '{table}' has 2 columns named 'answer'.\n"


def test_a_full_disk_is_one_sentence_whoever_wrote(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An open file's error names no file; what is no fault of the disk keeps its traceback."""

    def write(*_: Any, **__: Any) -> None:
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")

    monkeypatch.setattr(cli, "app", write)
    assert _run([]) == 2
    assert capsys.readouterr().err == "fastsia: error: a file cannot be read or written: No space left on device.\n"

    def fail(*_: Any, **__: Any) -> None:
        os.close(-1)

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(OSError, match="Bad file descriptor"):
        _run([])


AT_THE_END = """
import atexit, sys
from fastsia import cli, provenance
def ending():
    print("ending", flush=True)
    sys.stdin.read()
atexit.register(ending)
sys.argv = ["fastsia", "report", "/nowhere"]
cli.main()
"""
WHILE_IT_COMPLAINS = """
import os, sys
from fastsia import cli, provenance
how = int(sys.argv.pop())
cli._complain = lambda sentence: os.kill(os.getpid(), how)
sys.argv = ["fastsia", "report", "/nowhere"]
cli.main()
"""


def test_signals_while_the_interpreter_ends_change_nothing() -> None:
    """Callbacks at exit were broken into with a traceback, and the code became another one."""
    process = subprocess.Popen(
        [sys.executable, "-c", AT_THE_END],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ending\n"
    for how in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.startswith("fastsia: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_an_error_is_said_ends_as_always(how: signal.Signals, code: int) -> None:
    command = [sys.executable, "-c", WHILE_IT_COMPLAINS, str(int(how))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (code, "")
