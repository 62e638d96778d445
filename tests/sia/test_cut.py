"""What is said of texts that the token limit cut."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fastsia import analyze
from fastsia.config import SIAConfig
from fastsia.errors import FastsiaError
from fastsia.sia import analyze_rollouts
from fastsia.sia.cut import Ends, cut_notes
from tests.sia.simulate import draw, frame, moving

QUICK = {"num_bootstrap": 20, "num_splits": 2}


def table(cut: int = 3) -> pd.DataFrame:
    """The first `cut` rollouts of every checkpoint of 8 were cut."""
    rng = np.random.default_rng(0)
    rows = frame(draw(moving(6, 5, rng), 8, rng), null=4)
    ended = np.where(rows["rollout"] < cut, "length", "eos")
    return rows.assign(finish_reason=ended, num_tokens=np.where(ended == "length", 90, 10 * rows["rollout"]))


def test_a_cut_rollout_of_a_table_has_no_answer_unless_read_leniently() -> None:
    rows = table()
    strict, lenient = analyze(rows, config=QUICK), analyze(rows, config=QUICK | {"answer_reading": "lenient"})
    nulled = rows.assign(answer=rows["answer"].where(rows["rollout"] >= 3, None)).drop(columns="finish_reason")
    assert strict.checkpoints.equals(analyze(nulled, config=QUICK).checkpoints)
    assert lenient.checkpoints.equals(analyze(rows.drop(columns="finish_reason"), config=QUICK).checkpoints)
    assert strict.summary["readings"] == lenient.summary["readings"]
    assert strict.summary["readings"]["lenient"]["null_rate"] == lenient.summary["null_rate"]
    assert strict.summary["readings"]["strict"]["null_rate"] == strict.summary["null_rate"] >= 3 / 8
    assert (strict.summary["num_cut_rollouts"], strict.summary["cut_rate"]) == (90, 3 / 8)
    assert rows["answer"].equals(table()["answer"]), "the caller's table is as it was"


@pytest.mark.parametrize("kind", [float, "Int64", "string", object])
def test_answers_of_any_type_may_be_cut(kind: object) -> None:
    rows = table()
    numbers = rows["answer"].fillna("7").factorize()[0] + 10
    typed = rows.assign(answer=pd.Series(numbers, dtype="int64").astype(kind), gold="10")  # type: ignore[call-overload]
    found = analyze(typed, config=QUICK)
    assert found.summary["null_rate"] == 3 / 8
    text = analyze(rows.assign(answer=[str(number) for number in numbers], gold="10"), config=QUICK)
    pd.testing.assert_frame_equal(found.checkpoints, text.checkpoints)


def test_answers_that_were_read_both_ways_are_taken_as_they_are() -> None:
    rows = table()
    both = rows.assign(answer_strict=rows["answer"], answer_lenient=rows["answer"])
    found = analyze(both, config=QUICK)
    assert found.summary["null_rate"] == analyze(rows.drop(columns="finish_reason"), config=QUICK).summary["null_rate"]
    assert found.summary["num_cut_rollouts"] == 90
    own = analyze(both.assign(answer="x"), config=QUICK)
    assert set(own.checkpoints["mode"]) == {"x"}, "also where `answer` is another than both"


def test_a_table_without_reasons_says_nothing_of_cuts() -> None:
    found = analyze_rollouts(table().drop(columns="finish_reason"), config=SIAConfig(**QUICK)).summary
    assert found["num_cut_rollouts"] is found["cut_rate"] is None
    assert found["readings"]["strict"] == found["readings"]["lenient"]
    assert not any("cut" in note for note in found["warnings"])


def test_few_cut_rollouts_are_not_noted() -> None:
    rows = table(0)
    rows.loc[rows.index[:12], "finish_reason"] = "length"
    assert 12 / len(rows) == 0.05
    assert not any("cut" in note for note in analyze(rows, config=QUICK).summary["warnings"])
    rows.loc[rows.index[:13], "finish_reason"] = "length"
    assert any(
        "The token limit cut 13 of 240 rollouts (5.4 %). In the strict" in note
        for note in analyze(rows, config=QUICK).summary["warnings"]
    )


def test_mostly_cut_rollouts_say_that_the_limit_decides() -> None:
    """With the lengths by which the others had ended, and that no smaller limit will do."""
    cut = np.arange(100) >= 40
    rollouts = Ends("rollouts", cut, np.where(cut, 160, np.arange(100) + 1))
    whole = Ends("trajectories", np.ones(4, dtype=bool), np.full(4, 160))
    first, second = cut_notes(rollouts, whole)
    assert first.startswith("The token limit cut 60 of 100 rollouts (60.0 %) and 4 of 4 trajectories (100.0 %).")
    assert second == (
        "Most rollouts were cut: the token limit, not the model, decides these numbers. How many had ended by which "
        "length: of the rollouts, 10 % by 10 tokens, 25 % by 25 tokens, 40 % by the limit of 160 tokens; of the "
        "trajectories, none by the limit of 160 tokens. A limit that would suffice is longer than the present one "
        "(max_tokens)."
    )
    assert len(cut_notes(Ends("rollouts", cut[:80]))) == 1, "half and less are only counted"
    unknown = cut_notes(Ends("rollouts", cut))
    assert "length" not in unknown[1]
    assert "%" not in unknown[1]


def test_unequal_numbers_of_rollouts_are_noted() -> None:
    """A shortage at one checkpoint lowers H there, which looks like information."""
    rows = table(0)
    short = rows[(rows["checkpoint"] != 0) | (rows["rollout"] < 4)]
    note = "Unequal numbers of rollouts: 4 to 8 a checkpoint"
    noted = [said for said in analyze(short, config=QUICK).summary["warnings"] if "nequal" in said]
    assert len(noted) == 1, "once"
    assert note in noted[0]
    assert not any("nequal" in said for said in analyze(rows, config=QUICK).summary["warnings"])


@pytest.mark.parametrize(
    "name", ["LENGTH", "max_tokens", "MAX_TOKENS", "FinishReason.LENGTH", " length ", "max_new_tokens"]
)
def test_the_token_limit_goes_by_several_names(name: str) -> None:
    rows = table()
    other = rows.assign(finish_reason=rows["finish_reason"].replace({"length": name}))
    found, known = analyze(other, config=QUICK), analyze(rows, config=QUICK)
    assert found.summary["num_cut_rollouts"] == known.summary["num_cut_rollouts"] == 90
    pd.testing.assert_frame_equal(found.checkpoints, known.checkpoints)


def test_think_chooses_between_the_two_readings_of_a_table() -> None:
    """A run's own rollouts have both; `answer` is the run's, and an answer of one's own is scored as it is."""
    rows = table()
    strict = rows["answer"].where(rows["rollout"] >= 3, None)
    both = rows.assign(answer=strict, answer_strict=strict, answer_lenient=rows["answer"])
    for given in (both, both.assign(answer=both["answer_lenient"])):
        for answer_reading in ("strict", "lenient"):
            found = analyze(given, config=QUICK | {"answer_reading": answer_reading}).summary
            assert found["null_rate"] == found["readings"][answer_reading]["null_rate"]
    kept = analyze(both.assign(answer=both["answer_lenient"]), config=QUICK).summary
    assert kept["config"]["answer_reading"] == "lenient", "without a wish the table's own, and called so"
    assert kept["null_rate"] == kept["readings"]["lenient"]["null_rate"]
    assert analyze(both.assign(answer="x"), config=QUICK | {"answer_reading": "lenient"}).summary["null_rate"] == 0
    with pytest.raises(FastsiaError, match="'answer_strict' alone"):
        analyze(both.drop(columns="answer_lenient"))


def test_lengths_are_said_where_none_was_cut() -> None:
    whole = Ends("trajectories", np.zeros(2, dtype=bool), np.array([7, 9]))
    assert (
        whole.lengths() == "of the trajectories, 10 % by 7 tokens, 25 % by 7 tokens, 50 % by 7 tokens, all by 9 tokens"
    )
