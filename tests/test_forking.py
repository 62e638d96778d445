"""Rollouts after forced tokens: against the model's own forward, resumed, and apart from all other numbers."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fastsia import Engine, FastsiaError, evaluate, load
from fastsia.answers.extraction import extract_answers
from fastsia.engine.loop import Run
from fastsia.forking import LEAST_PROBABILITY, draw_alternatives
from fastsia.results.alternatives import ALTERNATIVES, answers_after, describe_alternatives
from fastsia.results.reader import Store
from fastsia.results.schema import unpack_ids

FEW: dict[str, Any] = {
    "num_rollouts": 5,
    "stride": 20,
    "num_bootstrap": 2,
    "num_splits": 2,
    "temperature": 1.5,
    "top_p": 0.98,
}
ENGINE = Engine.from_pretrained("demo:sft")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    evaluate(ENGINE, "demo", limit=4, output=folder, **FEW)
    return folder


@pytest.fixture(scope="module")
def drawn(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    folder = shutil.copytree(run, tmp_path_factory.mktemp("drawn") / "run")
    return folder, draw_alternatives(folder, 2, model=ENGINE, positions=3)


def rows_of(folder: Path) -> list[Any]:
    with sqlite3.connect(folder / ALTERNATIVES) as connection:
        return connection.execute("SELECT * FROM rollouts").fetchall()


def test_tokens_and_probabilities_are_the_models(drawn: tuple[Path, pd.DataFrame]) -> None:
    """Against transformers' own forward, temperature and top-p applied by hand."""
    folder, table = drawn
    trajectories = load(folder).trajectories.set_index("problem_id")
    threshold = load(folder).summary["forking_threshold"]["run"]
    vocabulary = Store(folder / "run.sqlite").vocabulary()
    assert table.groupby("problem_id")["position"].nunique().max() <= 3
    for (problem, position), rows in table.groupby(["problem_id", "position"]):
        row = trajectories.loc[problem]
        assert row["token_entropies"][position] > threshold
        ids = [*row["prompt_token_ids"], *row["token_ids"][:position]]
        with torch.inference_mode():
            logits = ENGINE.model(input_ids=torch.tensor([ids])).logits[0, -1].double()
        probs, order = (logits / 1.5).softmax(0).sort(descending=True)
        kept = probs * ((probs.cumsum(0) - probs) < 0.98)
        kept = (kept / kept.sum()).tolist()
        own = int(row["token_ids"][position])
        ranked = [(i, p) for i, p in zip(order.tolist(), kept, strict=True) if i != own and p >= LEAST_PROBABILITY][:2]
        expected = [(own, kept[order.tolist().index(own)]), *ranked]
        assert rows["is_own"].tolist() == [True] + [False] * len(ranked)
        assert rows["token"].tolist() == [vocabulary.decode([i]) for i, _ in expected]
        assert rows["probability"].tolist() == pytest.approx([p for _, p in expected], abs=1e-4)
    assert (~table["is_own"]).sum() >= 6


def test_every_rollout_begins_with_its_token_and_is_read_with_its_prefix(drawn: tuple[Path, pd.DataFrame]) -> None:
    folder, table = drawn
    trajectories = load(folder).trajectories.set_index("problem_id")
    vocabulary = Store(folder / "run.sqlite").vocabulary()
    chat = load(folder).summary["config"]["apply_chat_template"]
    found: dict[Any, list[str | None]] = {}
    for problem, _, position, token, _, reason, blob in rows_of(folder):
        ids = unpack_ids(blob)
        assert ids[0] == token
        text = vocabulary.decode([*trajectories.loc[problem]["token_ids"][:position], *ids])
        read = extract_answers([text], "number", cut=[reason == "length"], stop_texts=not chat)[0]
        found.setdefault((problem, position, vocabulary.decode([token])), []).append(read)
    assert all(len(answers) == 5 for answers in found.values())
    assert len(found) == len(table)
    for row in table.to_dict("records"):
        answers = found[row["problem_id"], row["position"], row["token"]]
        gold = trajectories.loc[row["problem_id"]]["gold"]
        assert row["gold_share"] == pytest.approx(answers.count(gold) / 5)
        assert row["answer_share"] == pytest.approx(Counter(answers).most_common(1)[0][1] / 5)
        assert row["is_own"] == bool(np.isnan(row["p_value"]))
    views = {view.problem_id: view.alternatives for view in load(folder).report_data().views}
    shown = [
        (problem, position, each.text, each.is_own, sum(count for _, count in each.answers))
        for problem, positions in views.items()
        for position, tokens in positions.items()
        for each in tokens
    ]
    columns = ["problem_id", "position", "token", "is_own", "num_rollouts"]
    assert shown == list(table[columns].itertuples(index=False, name=None))
    lines = [line for position in describe_alternatives(table) for line in position]
    assert len(lines) == len(table) + table.groupby(["problem_id", "position"]).ngroups
    assert not any("nan" in line for line in lines)


def test_draws_depend_on_neither_interruptions_nor_how_many(
    run: Path, drawn: tuple[Path, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One alternative and fewer rollouts first, then Ctrl-C after some steps, then the rest: the rows of one call."""
    folder = shutil.copytree(run, tmp_path / "run")
    draw_alternatives(folder, 1, model=ENGINE, positions=2, num_rollouts=2)
    before = rows_of(folder)
    monkeypatch.setattr("fastsia.forking._SAVE_SECONDS", 0.0)
    steps = iter(range(12))
    kept = Run.step

    def step(self: Run) -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        kept(self)

    monkeypatch.setattr(Run, "step", step)
    with pytest.raises(KeyboardInterrupt):
        draw_alternatives(folder, 2, model=ENGINE, positions=3)
    monkeypatch.setattr(Run, "step", kept)
    assert len(before) < len(rows_of(folder)) < len(rows_of(drawn[0]))
    told: list[tuple[int, int]] = []
    again = draw_alternatives(folder, 2, model=ENGINE, positions=3, progress=lambda *now: told.append(now))
    assert told[0][0] == len(rows_of(folder)) - (told[-1][0] - told[0][0])
    assert told[-1] == (len(rows_of(folder)), len(rows_of(folder)))
    assert sorted(rows_of(folder)) == sorted(rows_of(drawn[0]))
    pd.testing.assert_frame_equal(again, drawn[1])
    tokens = ENGINE.counters.generated_tokens
    draw_alternatives(folder, 2, model=ENGINE, positions=3)
    assert ENGINE.counters.generated_tokens == tokens  # nothing is drawn twice


def given_rows() -> int:
    """Rows that the engine has computed of tokens that it did not draw."""
    return ENGINE.counters.prefill_tokens + ENGINE.counters.recomputed_tokens


def test_the_trajectory_is_computed_once(run: Path, tmp_path: Path) -> None:
    """All rollouts of a trajectory share its keys and values: no row of it is computed per position or token."""
    folder = shutil.copytree(run, tmp_path / "run")
    row = load(folder).trajectories.iloc[0]
    length, before = len(row["prompt_token_ids"]) + len(row["token_ids"]), given_rows()
    table = draw_alternatives(folder, 3, model=ENGINE, positions=6, problem_id=row["problem_id"])
    assert len(table) >= 12
    # Once to look for the tokens and once to draw, then a row per token that is put there.
    assert length < given_rows() - before <= 2 * length + len(table)


def test_the_runs_own_numbers_stay_as_they_were(run: Path, drawn: tuple[Path, pd.DataFrame]) -> None:
    before, after = load(run), load(drawn[0])
    assert after.summary == before.summary
    pd.testing.assert_frame_equal(after.checkpoints, before.checkpoints)
    pd.testing.assert_frame_equal(after.rollouts, before.rollouts)
    assert "alternatives" not in before.tables
    assert not any(view.alternatives for view in before.report_data().views)
    assert len(after.tables["alternatives"]) == len(drawn[1])


def test_what_was_drawn_of_another_trajectory_is_left_out(drawn: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    folder = shutil.copytree(drawn[0], tmp_path / "run")
    with sqlite3.connect(folder / ALTERNATIVES) as connection:
        connection.execute("UPDATE tokens SET checksum = checksum + 1 WHERE problem_id = 'demo-0000'")
    with Store(folder / "run.sqlite").snapshot() as store:
        assert {one.problem_id for one in answers_after(store)} == {"demo-0001", "demo-0002", "demo-0003"}
    table = draw_alternatives(folder, 2, model=ENGINE, positions=3)
    pd.testing.assert_frame_equal(table, drawn[1])


def test_what_cannot_be_forked_says_so(run: Path, drawn: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    for given, sentence in [
        ({"most": 16}, r"fork_top must be an integer <= 15, got 16"),
        ({"most": 1, "positions": 0}, r"fork_positions must be an integer >= 1, got 0"),
        ({"most": 1, "problem_id": "demo-001"}, r"has no problem 'demo-001'; did you mean"),
        ({"most": 1, "model": "demo:base"}, r"demo:base is not, or no longer, the model that wrote this run"),
    ]:
        with pytest.raises(FastsiaError, match=sentence):
            draw_alternatives(run, **given)
    with pytest.raises(FastsiaError, match="contains no run"):
        draw_alternatives(tmp_path, 1)
    for settings, sentence in [
        ({"temperature": 0.0}, "no token has an alternative"),
        ({"shuffle_prefix": True}, "shuff"),
    ]:
        folder = tmp_path / next(iter(settings))
        evaluate(ENGINE, "demo", limit=1, output=folder, **{**FEW, **settings})
        with pytest.raises(FastsiaError, match=sentence):
            draw_alternatives(folder, 1, model=ENGINE)
    own = tmp_path / "own"
    evaluate(ENGINE, "demo", limit=1, output=own, answer_reader=lambda text: text[-1:], **FEW)
    with pytest.raises(FastsiaError, match="were read by a function"):
        draw_alternatives(own, 1, model=ENGINE)
    damaged = shutil.copytree(drawn[0], tmp_path / "damaged")
    (damaged / ALTERNATIVES).write_bytes(b"no database, but long enough to be looked at as one" * 100)
    with pytest.raises(FastsiaError, match=r"is damaged .*; delete it to draw again"):
        load(damaged)
