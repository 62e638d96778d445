"""Models by revision and data sets by name and configuration, from a Hub of our own, by the clients that are used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import fastsia
from fastsia import FastsiaError, load_task
from fastsia.models.loading import load_model
from fastsia.tasks.hub import HubData
from tests.hub import serve
from tests.tiny import save_tiny

datasets = pytest.importorskip("datasets", reason="the extra 'datasets' is not installed")

COLUMNS = {"question": "problem", "answer": "solution"}
SMALL = ["--num_rollouts", "3", "--stride", "6", "--max_tokens", "12", "--num_bootstrap", "20", "--num_splits", "2"]


def data_set(folder: Path, text: str) -> Path:
    """Two configurations with two splits each, and columns of their own."""
    head = ["---", "configs:"]
    for config in ("plus", "minus"):
        head += [f"- config_name: {config}", "  data_files:"]
        for split in ("train", "test"):
            rows = [{"problem": f"{text} {config} {split} {i}", "solution": str(i)} for i in range(3)]
            file = folder / config / f"{split}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            head.append(f"  - {{split: {split}, path: {config}/{split}.jsonl}}")
    (folder / "README.md").write_text("\n".join([*head, "---", ""]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], Path]:
    root = tmp_path_factory.mktemp("repositories")
    return {
        ("models", "me/tiny", "main"): save_tiny(root / "tiny-main", seed=0),
        ("models", "me/tiny", "v2"): save_tiny(root / "tiny-v2", seed=1),
        ("datasets", "me/sums", "main"): data_set(root / "sums-main", "new"),
        ("datasets", "me/sums", "v1"): data_set(root / "sums-v1", "old"),
        **competitions(root),
    }


def competitions(root: Path) -> dict[tuple[str, str, str], Path]:
    """Data sets of three rows with the names, fields, splits and file types that the real ones have, by their cards."""
    names = {"HuggingFaceH4/MATH-500": "test.jsonl", "math-ai/aime25": "test.jsonl", "HuggingFaceH4/aime_2024": ""}
    folders = {("datasets", name, "main"): root / name.replace("/", "--") for name in names}
    for folder in folders.values():
        folder.mkdir()
    math, aime25, aime24 = folders.values()
    rows: list[dict[str, Any]] = [
        {"problem": f"Formula {i}?", "solution": "...", "answer": answer, "unique_id": f"test/algebra/{i}.json"}
        for i, answer in enumerate(("\\frac{14}{3}", "p - q", "9"))
    ]
    (math / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [
        {"problem": f"Year {i}?", "answer": answer, "id": str(i)}
        for i, answer in enumerate(("70", "336^\\circ", "016"))
    ]
    (aime25 / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [
        {"id": 60 + i, "problem": f"Day {i}?", "solution": "...", "answer": answer, "url": "https://", "year": "2024"}
        for i, answer in enumerate(("204", "025", "3"))
    ]
    (aime24 / "data").mkdir()
    pd.DataFrame(rows).to_parquet(aime24 / "data" / "train-00000-of-00001.parquet")
    head = "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: train, path: data/train-*}\n---\n"
    (aime24 / "README.md").write_text(head)
    return folders


# The clients read the Hub's address when they are imported.
PROGRAM = """
import json, sys
from fastsia import FastsiaError, load_task
from fastsia.models.loading import load_model

def questions(name, **settings):
    return [problem.question for problem in load_task(name, **settings).problems]

def problems(name):
    task = load_task(name)
    return [task.format, task.stride, [[p.id, p.question, p.gold] for p in task.problems]]

def weights(name, revision=None):
    model, tokenizer = load_model(name, device="cpu", revision=revision)
    return [float(model.lm_head.weight.detach().double().sum()), tokenizer is not None]

for what, arguments, settings in json.load(sys.stdin):
    try:
        answer = {"questions": questions, "problems": problems, "weights": weights}[what](*arguments, **settings)
    except FastsiaError as error:
        answer = str(error)
    print(json.dumps(answer))
"""
MISTAKES = {
    "me/nothing": "me/nothing (test) could not be loaded from the Hub: Dataset 'me/nothing' doesn't exist",
    "me/sums": "Config name is missing. Please pick one among the available configs: ['plus', 'minus'].",
    "me/sums:times": "BuilderConfig 'times' not found. Available: ['plus', 'minus'].",
    "me/sums:plus:validation": "Unknown split \"validation\". Should be one of ['train', 'test'].",
    "me/sums@v9:plus": "Revision 'v9' doesn't exist for dataset 'me/sums' on the Hub.",
    "nothing": "dataset 'hub:nothing' must be hub:OWNER/NAME[@REVISION][:CONFIG[:SPLIT]].",
    "": "dataset 'hub:' must be hub:OWNER/NAME[@REVISION][:CONFIG[:SPLIT]].",
}
PARTS = {
    "me/sums:plus": [f"new plus test {i}" for i in range(3)],
    "me/sums:minus:train": [f"new minus train {i}" for i in range(3)],
    "me/sums@v1:plus:train[1:]": ["old plus train 1", "old plus train 2"],
}
COMPETITIONS = {
    "math500": [
        ["test/algebra/0.json", "Formula 0?", "14/3"],
        ["test/algebra/1.json", "Formula 1?", "p-q"],
        ["test/algebra/2.json", "Formula 2?", "9"],
    ],
    "aime24": [["60", "Day 0?", "204"], ["61", "Day 1?", "25"], ["62", "Day 2?", "3"]],
    "aime25": [["0", "Year 0?", "70"], ["1", "Year 1?", "336"], ["2", "Year 2?", "16"]],
}
MODELS = [("me/tiny", None), ("me/tiny", "v2"), ("me/tiny", "v9"), ("me/nothing", None)]


def environment(home: Path, address: str) -> dict[str, str]:
    """Nothing of the Hub but its address and an empty place."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    places = {"HF_HOME": str(home), "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    return kept | places


@pytest.fixture(scope="module")
def answers(repositories: dict[tuple[str, str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """What one process that knows only the Hub's address gets for every name."""
    calls = [("questions", [f"hub:{name}"], {"columns": COLUMNS}) for name in (*PARTS, *MISTAKES)]
    calls += [("problems", [name], {}) for name in COMPETITIONS]
    calls += [("weights", list(model), {}) for model in MODELS]
    with serve(repositories) as hub:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            input=json.dumps(calls),
            env=environment(tmp_path_factory.mktemp("home"), hub.address),
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    names = [*PARTS, *MISTAKES, *COMPETITIONS, *MODELS]
    return dict(zip(names, map(json.loads, done.stdout.splitlines()), strict=True))


def test_a_run_from_nothing_but_names(repositories: dict[tuple[str, str, str], Path], tmp_path: Path) -> None:
    """The command line, twice: from the Hub, and then, with the Hub gone, from the caches that it filled."""
    command = ["run", "--model", "me/tiny", "--revision", "v2", "--tasks", "hub:me/sums:plus", "--no_report", *SMALL]
    command += ["--columns", "question=problem,answer=solution"]

    def run(folder: Path, address: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "fastsia", *command, "-o", str(folder)],
            env=environment(tmp_path / "home", address),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "%" not in done.stderr, "no bars in a file"
        return done.stdout

    with serve(repositories) as hub:
        assert run(tmp_path / "first", hub.address).startswith("me/tiny · me/sums:plus: 3 problems\n")
        address = hub.address
    run(tmp_path / "second", address)
    first, second = (fastsia.load(tmp_path / name) for name in ("first", "second"))
    assert first.rollouts.drop(columns="logprob").equals(second.rollouts.drop(columns="logprob"))
    alone = fastsia.evaluate(
        str(repositories["models", "me/tiny", "v2"]),
        [fastsia.Problem(f"row-{i + 1}", f"new plus test {i}", str(i)) for i in range(3)],
        num_rollouts=3,
        stride=6,
        max_tokens=12,
        num_bootstrap=20,
        num_splits=2,
    )
    assert first.trajectories["text"].tolist() == alone.trajectories["text"].tolist(), "it is the revision's weights"


@pytest.mark.parametrize("name", COMPETITIONS)
def test_the_tasks_with_boxed_answers(name: str, answers: dict[Any, Any]) -> None:
    answer_format, stride, problems = answers[name]
    assert (answer_format, stride) == ("boxed", 20)
    spaces = str.maketrans("", "", " ")
    assert [[key, text, gold.translate(spaces)] for key, text, gold in problems] == COMPETITIONS[name]


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_a_data_set(name: str, answers: dict[Any, Any]) -> None:
    assert answers[name] == PARTS[name]


def test_a_folder_that_is_laid_out_as_one(
    repositories: dict[tuple[str, str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    folder = repositories["datasets", "me/sums", "v1"]
    task = load_task(f"hub:{folder}:plus", columns=COLUMNS)
    assert task.name == "sums-v1:plus"
    assert task.problems[0].question == "old plus test 0"
    with pytest.raises(FastsiaError, match=rf"^{folder} \(dev\) could not be loaded: Unknown split"):
        load_task(f"hub:{folder}:plus:dev", columns=COLUMNS)


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_not_there_is_one_sentence(name: str, answers: dict[Any, Any]) -> None:
    assert MISTAKES[name] in answers[name]
    assert "\n" not in answers[name]
    assert "data_dir" not in answers[name], "that is for named tasks"


def test_models_by_revision(answers: dict[Any, Any], repositories: dict[tuple[str, str, str], Path]) -> None:
    folder = repositories["models", "me/tiny", "v2"]
    stored, _ = load_model(folder, device="cpu")
    assert answers["me/tiny", "v2"] == [float(stored.lm_head.weight.detach().double().sum()), True]
    assert answers["me/tiny", None] != answers["me/tiny", "v2"]
    assert answers["me/tiny", "v9"].startswith("model 'me/tiny': the Hub has no such model at revision 'v9'.")
    assert answers["me/nothing", None].startswith("model 'me/nothing': the Hub has no such public model")
    with pytest.raises(FastsiaError, match="revision 'v2' applies to Hub models only, not to the folder"):
        load_model(folder, device="cpu", revision="v2")


def test_columns(tmp_path: Path) -> None:
    """Of files and data sets; where they are given, no layout is guessed."""
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"problem": "1 + 1?", "solution": 2, "answer": "two", "key": "a"}) + "\n")
    assert load_task(file, columns={**COLUMNS, "id": "key"}).problems == (fastsia.Problem("a", "1 + 1?", "2"),)
    story = datasets.Dataset.from_list([{"Body": "He has 3.", "Question": "How many?", "Answer": "3"}])
    own = {"question": "Question", "answer": "Answer"}
    assert load_task(story).problems[0].question == "He has 3. How many?"
    assert load_task(story, columns=own).problems[0].question == "How many?"
    for dataset, columns, sentence in (
        (file, {"question": "problm"}, "row 1: field 'problm' is missing; did you mean problem?"),
        (file, {"gold": "solution"}, "columns may have question, answer, choices, labels, id, got 'gold'"),
        (file, {"question": 3}, "columns must map names of fields to names of columns"),
        ("gsm8k", COLUMNS, "columns does not apply to the task gsm8k"),
        ([fastsia.Problem("a", "?", "1")], COLUMNS, "columns does not apply to Problem objects"),
    ):
        with pytest.raises(FastsiaError) as error:
            load_task(dataset, columns=columns)  # type: ignore[arg-type]
        assert sentence in str(error.value)


def test_names_are_read() -> None:
    for name, path, config, splits, revision in (
        ("hub:a/b", "a/b", None, ("test",), None),
        ("hub:a/b:c", "a/b", "c", ("test",), None),
        ("hub:a/b::validation", "a/b", None, ("validation",), None),
        ("hub:a/b@refs/pr/1:c:train[:10%]", "a/b", "c", ("train[:10%]",), "refs/pr/1"),
    ):
        assert HubData.parse(name) == HubData(path, config, splits, revision)
    assert HubData.parse("hub:a/b@v1:c:train").name == "a/b:c:train"
    with pytest.raises(FastsiaError, match=r"openai/gsm8k is not a file; a data set of the Hub is hub:openai/gsm8k"):
        load_task("openai/gsm8k")
