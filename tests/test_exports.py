"""A run as other tools' files: what lm-evaluation-harness would have written, and a folder for the real `datasets`."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import markdown_it
import numpy as np
import pytest
import yaml

import fastsia
from fastsia import FastsiaError, SIAResult
from tests.tiny import PROBLEMS, shared_model

SETTINGS: dict[str, Any] = {"num_rollouts": 4, "stride": 8, "max_tokens": 24, "num_bootstrap": 20, "num_splits": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trajectories a problem, from a model that nobody knows by name."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    fastsia.evaluate(shared_model(), PROBLEMS, output=folder, num_trajectories=2, **SETTINGS)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> SIAResult:
    return fastsia.load(folder)


def test_lm_evals_files(run: SIAResult, tmp_path: Path) -> None:
    results_file = run.to_lm_eval(tmp_path)
    results = json.loads(results_file.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    date = results_file.stem.removeprefix("results_")
    samples_file = results_file.with_name(f"samples_problems_{date}.jsonl")
    samples = [json.loads(line) for line in samples_file.read_text(encoding="utf-8").splitlines()]
    assert results_file.parent.parent == tmp_path
    assert results_file.parent.name == results["model_name_sanitized"]

    numbers = results["results"]["problems"]
    assert numbers["exact_match,fastsia"] == run.summary["accuracy"]
    assert numbers["rho_cross_fitted,fastsia"] == run.summary["rho"]["cross_fitted"]
    right = np.array([sample["exact_match"] for sample in samples])
    assert right.mean() == pytest.approx(run.summary["accuracy"])
    assert numbers["exact_match_stderr,fastsia"] == pytest.approx(right.std(ddof=1) / np.sqrt(len(right)))
    assert results["configs"]["problems"]["repeats"] == 2
    assert results["fastsia"] == json.loads(json.dumps(run.summary))

    assert [sample["doc_id"] for sample in samples] == list(range(len(PROBLEMS)))
    for problem, sample in zip(PROBLEMS, samples, strict=True):
        own = run.trajectories[run.trajectories["problem_id"] == problem.id]
        assert sample["doc"] == {"id": problem.id, "question": problem.question, "answer": problem.gold}
        assert problem.question in sample["arguments"]["gen_args_0"]["arg_0"]
        assert sample["resps"] == [own["text"].tolist()]
        assert sample["filtered_resps"] == [["[invalid]" if text is None else text for text in own["answer"]]]
        assert sample["exact_match"] == own["correct"].mean()
        defined = own["rho"].dropna()
        assert sample["rho_pearson"] == (pytest.approx(defined.mean()) if len(defined) else None)
        assert sample["target_hash"] == hashlib.sha256(problem.gold.encode()).hexdigest()
    assert any(answers == "[invalid]" for sample in samples for answers in sample["filtered_resps"][0])


def test_the_same_run_has_the_same_files(run: SIAResult, tmp_path: Path) -> None:
    first = run.to_lm_eval(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert run.to_lm_eval(tmp_path) == first
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert len(before) == 2


def test_names_of_models_lead_nowhere_else(folder: Path, run: SIAResult, tmp_path: Path) -> None:
    """A model's name is whatever was asked for, a path included."""
    for name in ("../../etc/model", "..", "/absolute/path", "a\nb:c"):
        named = SIAResult(run.summary | {"model": name}, run.trajectories, run.checkpoints, run.curves, {}, run._store)
        file = named.to_lm_eval(tmp_path / "out").resolve()
        assert file.parent.parent == (tmp_path / "out").resolve()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "tiny").symlink_to(tmp_path)
    linked = SIAResult(run.summary | {"model": "tiny"}, run.trajectories, run.checkpoints, run.curves, {}, run._store)
    with pytest.raises(FastsiaError, match="symbolic link"):
        linked.to_lm_eval(tmp_path / "linked")


def test_a_folder_that_datasets_loads(run: SIAResult, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra 'datasets' is not installed")

    def read(*configuration: str) -> Any:
        return datasets.load_dataset(str(tmp_path / "out"), *configuration, split="train", cache_dir=tmp_path / "cache")

    assert run.to_datasets(tmp_path / "out") == tmp_path / "out"
    names = datasets.get_dataset_config_names(str(tmp_path / "out"))
    assert set(names) == {"trajectories", "checkpoints", "rollouts", "curves", "problems"}
    assert read().column_names == list(run.trajectories.columns), "the default one"
    rollouts = read("rollouts")
    assert rollouts["answer"][:] == run.rollouts["answer"].tolist()
    assert rollouts[7]["token_ids"] == run.rollouts["token_ids"][7].tolist()
    np.testing.assert_allclose(read("checkpoints")["entropy"][:], run.checkpoints["entropy"])
    assert read("problems")["question"][:] == [problem.question for problem in PROBLEMS]
    run.to_datasets(tmp_path / "out")  # again, over its own


def test_somebodys_readme_is_not_written_over(run: SIAResult, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    with pytest.raises(FastsiaError, match=r"has a README\.md of something else"):
        run.to_datasets(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "mine"


def test_a_table_of_rollouts_is_a_data_set_too(run: SIAResult, tmp_path: Path) -> None:
    """It has no prompts and texts, so lm-eval's files cannot be made of it."""
    table = fastsia.analyze(run.rollouts, config={"num_bootstrap": 20, "num_splits": 2})
    card = (table.to_datasets(tmp_path / "out") / "README.md").read_text(encoding="utf-8")
    assert "config_name: problems" not in card
    assert "| rho_pearson |" in card
    with pytest.raises(FastsiaError, match=r"only run\.sqlite has"):
        table.to_lm_eval(tmp_path)


def test_a_killed_run_is_exported_too(folder: Path, tmp_path: Path) -> None:
    """What a run that never ended leaves is its database."""
    (tmp_path / "run").mkdir()
    shutil.copy(folder / "run.sqlite", tmp_path / "run")
    os.utime(tmp_path / "run" / "run.sqlite", (1e9, 1e9))
    results = json.loads(fastsia.load(tmp_path / "run").to_lm_eval(tmp_path / "out").read_text(encoding="utf-8"))
    assert results["date"] == 1e9
    assert "total_evaluation_time_seconds" not in results


def test_names_stay_text_in_the_card(run: SIAResult, tmp_path: Path) -> None:
    """A task is called after its file, and that may be called anything."""
    hostile = (
        "q\n\n## Owned\n\n<img src=x onerror=alert(1)> [click](https://evil.example) ![t](http:evil) `c` | *b* "
        "www.evil.example a@evil.example &lt; \x1b[31m\u202e\u2028"
    )
    summary = run.summary | {"task": hostile, "version": "1 <b>\n# x"}
    foreign = SIAResult(summary, run.trajectories, run.checkpoints, run.curves, {}, run._store)
    foreign.to_datasets(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert not set(card) & set("\x1b\u202e\u2028")
    head, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert "Owned" in yaml.safe_load(head)["pretty_name"]
    page = markdown_it.MarkdownIt("commonmark").enable("table").render(body)
    assert page.count("<h1>") == 1
    assert "Owned" in page[: page.index("</h1>")], "shown, as text"
    for made in ("<h2", "<img", "<a ", "<b>", "<em>", "<code>c<"):
        assert made not in page
    (heading,) = (line for line in body.splitlines() if line.startswith("# "))
    assert not re.search(r"[^\\]://|www\.|[^\\]@", heading), "what GitHub would make a link of by itself"
