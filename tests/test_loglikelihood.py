"""Forced answers of stored runs: against transformers' own forward, by other models, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import fastsia
from fastsia import Engine, FastsiaError, Problem, evaluate, load
from fastsia.loglikelihood import _fork, score_answers
from fastsia.results.reader import Store
from tests.tiny import PROBLEMS, shared_model, tiny_model

SMALL: dict[str, Any] = {"num_rollouts": 4, "stride": 16, "num_bootstrap": 20, "num_splits": 4}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Engine]:
    folder = tmp_path_factory.mktemp("forced")
    engine = Engine.from_pretrained("demo:sft")
    evaluate(engine, "demo", limit=5, output=folder, **SMALL)
    return folder, engine


def logprob(engine: Engine, prefix: list[int], text: str, answer: str, then: str | None) -> float:
    """ln p(answer | prefix, text), and that no character of `then` starts the next token; transformers' own forward."""
    tokenizer = engine.tokenizer
    assert tokenizer is not None
    cue, ids = (tokenizer.encode(part, add_special_tokens=False) for part in (text, text + answer))
    assert ids[: len(cue)] == cue
    with torch.inference_mode():
        logits = engine.model(input_ids=torch.tensor([prefix + ids])).logits[0].double()
    logprobs = logits.log_softmax(dim=1)
    begin = len(prefix) + len(cue) - 1
    value = sum(float(logprobs[begin + i, token]) for i, token in enumerate(ids[len(cue) :]))
    if then is not None:
        goes_on = [tokenizer.decode([i])[:1] in tuple(then) for i in range(logits.shape[1])]
        value += float(torch.log(1 - logprobs[-1].exp()[torch.tensor(goes_on)].sum()))
    return value


def test_gold_and_entropy_equal_the_models_own_forward(demo: tuple[Path, Engine]) -> None:
    folder, engine = demo
    forced = score_answers(folder, engine)
    run = load(folder)
    assert forced[["problem_id", "checkpoint"]].to_records(index=False).tolist() == (
        run.checkpoints[["problem_id", "checkpoint"]].to_records(index=False).tolist()
    )
    trajectories = run.trajectories.set_index("problem_id")
    for row in forced.iloc[::5].to_dict("records"):
        trajectory = trajectories.loc[row["problem_id"]]
        mine = run.rollouts[run.rollouts["problem_id"] == row["problem_id"]]
        candidates = {trajectory["gold"], *mine["answer"].dropna()}
        prefix = [*trajectory["prompt_token_ids"], *trajectory["token_ids"][: row["checkpoint"]]]
        values = {a: logprob(engine, prefix, "\n####", f" {a}", "0123456789") for a in candidates}
        assert row["gold_logprob"] == pytest.approx(values[trajectory["gold"]], abs=1e-4)
        probs = np.exp(list(values.values()))
        shares = probs / probs.sum()
        assert row["mass"] == pytest.approx(probs.sum(), abs=1e-6)
        assert row["entropy"] == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-4)
        assert row["mode"] == max(values, key=values.__getitem__)
        assert row["num_candidates"] == len(candidates)


@pytest.mark.usefixtures("one_figure")
def test_they_are_kept_beside_the_run_and_set_beside_its_rollouts(demo: tuple[Path, Engine], tmp_path: Path) -> None:
    run, engine = demo
    folder = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("forced.parquet"))
    score_answers(folder, engine)
    base = score_answers(folder, "demo:base")
    score_answers(folder)  # the run's own model again, by its name: replaced, not added
    stored = pd.read_parquet(folder / "forced.parquet")
    assert stored["scorer"].value_counts().to_dict() == {"demo:sft": len(base), "demo:base": len(base)}
    assert (stored["gold_logprob"] <= 0).all()
    assert set(load(folder).tables["forced_stop"]["scorer"]) == {"demo:sft", "demo:base"}
    table = load(folder).tables["forced_answers"]
    assert set(table["scorer"]) == {"demo:sft", "demo:base"}
    assert set(table["quantity"]) >= {"alignment", "auc_reduction", "entropy_with_rollouts"}
    assert "Forced answers" in load(folder).report(folder / "page.html").read_text(encoding="utf-8")


def test_another_models_tokens_are_those_of_the_text(demo: tuple[Path, Engine]) -> None:
    """A scorer reads the text with its own tokenizer, however the prefixes of it are cut."""
    folder, _ = demo
    model, tokenizer = tiny_model(context=2048)
    forced = score_answers(folder, (model, tokenizer))
    run = load(folder)
    row = forced.iloc[4].to_dict()
    trajectory = run.trajectories.set_index("problem_id").loc[row["problem_id"]]
    writer = fastsia.Engine.from_pretrained("demo:sft").tokenizer
    assert writer is not None
    text = f"Question: {run_question(folder, row['problem_id'])}\nAnswer:"
    text += writer.decode(trajectory["token_ids"][: row["checkpoint"]])
    expected = logprob(
        Engine(model, tokenizer), tokenizer.encode(text), "\n####", f" {trajectory['gold']}", "0123456789"
    )
    assert row["gold_logprob"] == pytest.approx(expected, abs=1e-4)


def run_question(folder: Path, problem_id: str) -> str:
    problems = pd.read_parquet(folder / "problems.parquet").set_index("problem_id")
    return str(problems.loc[problem_id, "question"])


def test_options_are_the_candidates_of_a_choice(tmp_path: Path) -> None:
    problems = [Problem("a", "Which?", "B", choices=("one", "two", "three"))]
    evaluate(shared_model(), problems, output=tmp_path, max_tokens=12, **SMALL)
    engine = Engine(*shared_model())
    forced = score_answers(tmp_path, engine)
    assert (forced["num_candidates"] == 3).all()
    run = load(tmp_path).trajectories.iloc[0]
    expected = logprob(engine, list(run["prompt_token_ids"]), "\nAnswer:", " B", None)
    assert forced["gold_logprob"].iloc[0] == pytest.approx(expected, abs=1e-4)


def test_a_model_that_has_changed_must_be_named(tmp_path: Path) -> None:
    model, tokenizer = tiny_model(seed=3)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    run = tmp_path / "run"
    evaluate(str(tmp_path / "model"), PROBLEMS[:1], output=run, max_tokens=12, **SMALL)
    other, _ = tiny_model(seed=4)
    other.save_pretrained(tmp_path / "model")
    with pytest.raises(FastsiaError, match="no longer the model that wrote this run"):
        score_answers(run)
    assert len(score_answers(run, str(tmp_path / "model"))) > 0


def test_answers_forced_before_are_looked_at_first(demo: tuple[Path, Engine], tmp_path: Path) -> None:
    """A damaged file, or somebody's own, is said before hours of scoring that could not be kept beside it."""
    Store(demo[0] / "run.sqlite").copy_to(tmp_path / "run.sqlite")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "forced.parquet")
    with pytest.raises(FastsiaError, match=r"forced\.parquet lacks column 'problem_id'"):
        score_answers(tmp_path, "no such model")
    with pytest.raises(FastsiaError, match=r"forced\.parquet lacks column 'problem_id'"):
        load(tmp_path)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FastsiaError, match="contains no run"):
        score_answers(tmp_path)


def test_a_prefix_forks_where_its_own_tokens_differ() -> None:
    assert _fork([1, 2, 3, 4], [1, 2, 9]) == (2, (9,))
    assert _fork([1, 2], [1, 2]) == (2, ())
