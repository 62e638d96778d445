from __future__ import annotations

import numpy as np
import pytest

import fastsia
from fastsia.errors import FastsiaError
from fastsia.results import forks
from fastsia.results.forks import describe_fork
from fastsia.results.steps import SAME_WORDS, _quoted, describe_step, overlap

FEW = fastsia.SIAConfig(num_bootstrap=2, num_splits=2)


@pytest.fixture(scope="module", params=["new", "total"])
def result(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> fastsia.SIAResult:
    folder = tmp_path_factory.mktemp("runs") / "run"
    given = {"num_rollouts": 8, "stride": 8, "num_bootstrap": 2, "num_splits": 2, "rollout_budget": request.param}
    return fastsia.evaluate("demo:sft", "demo", limit=4, output=folder, **given)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("So 3 + 4 = 7.", "so 3 + 4 = 7", 1.0),
        ("", " ... ", 1.0),
        ("the the", "the", 0.5),
        ("1,200 eggs", "1200 eggs", 1 / 3),
        ("Therefore 12", "hence 13", 0.0),
        ("ten eggs 3.5", "ten eggs 3.6", 0.5),
    ],
)
def test_overlap_is_of_words_and_numbers(one: str, other: str, shared: float) -> None:
    assert overlap(one, other) == pytest.approx(shared)
    assert overlap(other, one) == overlap(one, other)


def test_texts_are_those_of_the_tokens(result: fastsia.SIAResult) -> None:
    """Against rollouts and trajectories decoded one by one."""
    steps = result.steps()
    assert len(steps) == len(result.checkpoints) - len(result.trajectories)
    assert steps["step_q_value"].is_monotonic_increasing
    assert result._store is not None
    vocabulary, budget = result._store.vocabulary(), result.summary["config"]["rollout_budget"]
    ids = result.trajectories.set_index(["problem_id", "trajectory"])["token_ids"]
    of_trajectory = dict(iter(result.rollouts.groupby(["problem_id", "trajectory"])))
    for step in steps.to_dict("records"):
        key, begin, end = (step["problem_id"], step["trajectory"]), step["checkpoint"], int(step["step_end"])
        own = list(ids[key])
        assert step["text"] == vocabulary.decode(own[begin:end])
        assert step["text_before"] + step["text"] + step["text_after"] in vocabulary.decode(own)
        number = 0
        for row in of_trajectory[key].to_dict("records"):
            start, tokens = row["checkpoint"], list(row["token_ids"])
            stays = start == begin or (
                budget == "total" and start < begin and tokens[: begin - start] == own[start:begin]
            )
            stays &= row["finish_reason"] != "answer" or tokens != own[start : start + len(tokens)]
            written = tokens[begin - start : end - start] if stays else own[begin:end]
            number += written != own[begin:end] and overlap(step["text"], vocabulary.decode(written)) < SAME_WORDS
        assert step["num_different"] == number
        assert number <= step["step_num_replaced"]
    assert steps["num_different"].sum() > 0


def test_forks_are_counted_one_by_one(result: fastsia.SIAResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every alternative that a rollout wrote, against the tokens."""
    monkeypatch.setattr(forks, "FEWEST", 1)
    found = result.forks()
    assert result._store is not None
    vocabulary = result._store.vocabulary()
    ids = result.trajectories.set_index(["problem_id", "trajectory"])["token_ids"]
    expected = {}
    points = result.checkpoints.groupby(["problem_id", "trajectory"])["checkpoint"].apply(list)
    for key, part in result.rollouts.groupby(["problem_id", "trajectory", "checkpoint"]):
        later = [t for t in points[key[:2]] if t > key[2]]
        own = list(ids[key[:2]])[key[2] : min(later, default=None)]
        texts = [list(tokens) for tokens in part["token_ids"]]
        for offset in range(len(own)):
            passed = [k for k, text in enumerate(texts) if text[:offset] == own[:offset] and len(text) > offset]
            kept = [k for k in passed if texts[k][offset] == own[offset]]
            for token in {texts[k][offset] for k in passed} - {own[offset]}:
                number = sum(texts[k][offset] == token for k in passed)
                if kept:
                    expected[(*key, key[2] + offset, vocabulary.decode([token]))] = (len(kept), number)
    names = ["problem_id", "trajectory", "checkpoint", "position", "alternative"]
    rows = found[[*names, "num_kept", "num_alternative"]].itertuples(index=False, name=None)
    assert {row[:5]: row[5:] for row in rows} == expected
    assert len(expected) >= 2
    assert found["q_value"].is_monotonic_increasing
    for fork in found.head(3).to_dict("records"):
        lines = describe_fork(fork)
        assert len(lines) == 3
        assert not any("nan" in line for line in lines)
    with pytest.raises(FastsiaError, match=r"has no problem 'nothing'"):
        result.forks("nothing")
    with pytest.raises(FastsiaError, match="need a run's tokens"):
        fastsia.analyze(result.rollouts, config=FEW).forks()


def test_a_step_in_lines(result: fastsia.SIAResult) -> None:
    steps = result.steps()
    one = steps["problem_id"][0]
    assert result.steps(one, 1)["problem_id"].tolist() == [one]
    for step in steps.to_dict("records"):
        lines = describe_step(step)
        assert len(lines) == (5 if step["num_different"] else 3)
        assert not any("nan" in line for line in lines)
        assert max(map(len, lines)) < 230


def test_a_step_is_quoted_within_its_sentence() -> None:
    assert _quoted(" - 24\n= 92", "which is 1", "0. So") == "which is 1 “- 24 = 92”0. So"
    assert _quoted("80 - 24 = 9", "which is 1", "2 pencils.") == "which is 1“80 - 24 = 9”2 pencils."
    assert _quoted("So.", "", "") == "“So.”"
    assert len(_quoted("x " * 200, "long words " * 20, " and more" * 20)) < 220


def test_a_wrong_problem_and_a_table_without_steps_or_texts(result: fastsia.SIAResult) -> None:
    near = str(result.trajectories["problem_id"][0])
    with pytest.raises(FastsiaError, match=f"has no problem '{near}x'; did you mean {near}"):
        result.steps(f"{near}x")
    first = result.rollouts[result.rollouts["checkpoint"] == 0]
    with pytest.raises(FastsiaError, match="There is no step"):
        fastsia.analyze(first, config=FEW).steps()
    again = fastsia.analyze(result.rollouts, config=FEW).steps()
    assert "text" not in again
    assert np.isfinite(again["step_q_value"]).all()
    assert len(describe_step(again.iloc[0].to_dict())) == 2
