from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fastsia.errors import FastsiaError
from fastsia.sia.table import NULL, encode
from tests.sia.simulate import draw, frame, moving


def small() -> pd.DataFrame:
    """Two problems; the second has two trajectories."""
    rows = [
        ("a", 0, 0, 0, "1", "1"),
        ("a", 0, 0, 1, None, "1"),
        ("a", 0, 5, 0, "1", "1"),
        ("a", 0, 5, 1, "2", "1"),
        ("b", 0, 0, 0, "7", "9"),
        ("b", 0, 0, 1, "7", "9"),
        ("b", 1, 0, 0, "9", "9"),
        ("b", 1, 0, 1, "8", "9"),
    ]
    return pd.DataFrame(rows, columns=["problem_id", "trajectory", "checkpoint", "rollout", "answer", "gold"])


def test_structure() -> None:
    table = encode(small())
    assert table.problem_ids.tolist() == ["a", "b"]
    assert table.problem_offsets.tolist() == [0, 1, 3]
    assert table.trajectory.tolist() == [0, 0, 1]
    assert table.trajectory_offsets.tolist() == [0, 2, 3, 4]
    assert table.checkpoint.tolist() == [0, 5, 0, 0]
    assert table.checkpoint_offsets.tolist() == [0, 2, 4, 6, 8]
    assert table.code[1] == NULL
    assert [table.answers[i] for i in table.gold] == ["1", "9", "9"]
    # {1, 2} with gold 1 and null; {7} with gold 9 and null; {9, 8} with null.
    assert table.num_answers.tolist() == [3, 3, 3]


def test_row_order_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    rollouts = frame(draw(moving(6, 5, rng), 4, rng), null=4)
    plain = encode(rollouts)
    mixed = encode(rollouts.sample(frac=1, random_state=1))
    place = {problem: i for i, problem in enumerate(mixed.problem_ids)}
    for p, problem in enumerate(plain.problem_ids):
        q = place[problem]
        one = plain.code.reshape(6, 5, 4)[p]
        other = mixed.code.reshape(6, 5, 4)[q]
        assert [plain.answers[c] if c >= 0 else None for c in one.ravel()] == [
            mixed.answers[c] if c >= 0 else None for c in other.ravel()
        ]


def test_numbers_are_compared_as_text() -> None:
    """A CSV reader gives 42.0 for an answer column with gaps and 42 for the gold."""
    rollouts = small().assign(answer=[1.0, np.nan, 1.0, 2.0, 7.0, 7.0, 9.0, 8.0], gold=[1, 1, 1, 1, 9, 9, 9, 9])
    table = encode(rollouts)
    assert table.answers[table.gold[0]] == "1"
    assert (table.code[:4] == table.gold[0]).tolist() == [True, False, True, False]
    assert table.num_answers.tolist() == [3, 3, 3]


def test_empty_text_is_no_answer() -> None:
    rollouts = small()
    rollouts.loc[0, "answer"] = "  "
    assert encode(rollouts).code[0] == NULL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="gold"), "lacks column 'gold'"),
        (lambda t: t.iloc[:0], "empty"),
        (lambda t: t.assign(gold=[*t["gold"][:-1], None]), "row 7 .* has no gold"),
        (lambda t: t.assign(problem_id=[None, *t["problem_id"][1:]]), "row 0 .* has no problem_id"),
        (lambda t: t.assign(checkpoint=[0.5, *t["checkpoint"][1:]]), "row 0: checkpoint must be an integer, got 0.5"),
        (lambda t: t.assign(rollout=[-1, *t["rollout"][1:]]), "row 0: rollout must be at least 0"),
        (lambda t: t.assign(checkpoint=["x", *t["checkpoint"][1:]]), "row 0: checkpoint must be an integer"),
        (lambda t: pd.concat([t, t.iloc[[2]]], ignore_index=True), "row 8 repeats rollout 0 at checkpoint 5"),
        (lambda t: t.assign(gold=["1", "1", "1", "2", *t["gold"][4:]]), "row 3: gold differs"),
        (lambda t: t.assign(correct=[True, True, False, *[True] * 5]), "row 2: correct differs"),
        (lambda t: t.assign(correct=[None, *[True] * 7]), "row 0: correct must be true or false"),
        (lambda t: t.assign(correct=[[True]] * 8), r"row 0: correct must be true or false, got \[True\]"),
        (lambda t: t.assign(answer=[["1"], *t["answer"][1:]]), "row 0: answer must be a text or a number"),
        (lambda t: t.assign(trajectory=[10**400, *t["trajectory"][1:]]), "row 0: trajectory must be an integer"),
        (lambda t: t.assign(finish_reason="error"), "every rollout of the table failed"),
    ],
)
def test_bad_tables_are_named(change: object, message: str) -> None:
    with pytest.raises(FastsiaError, match=message):
        encode(change(small()))  # type: ignore[operator]


def test_rows_are_named_as_given_though_failed_ones_were_dropped() -> None:
    rollouts = small().assign(finish_reason=["error", *["eos"] * 7])
    rollouts.loc[4, "gold"] = None
    with pytest.raises(FastsiaError, match="row 4"):
        encode(rollouts)


def test_failed_rollouts_are_dropped_and_counted() -> None:
    table = encode(small().assign(finish_reason=["eos", "eos", "error", "eos", *["eos"] * 4]))
    assert table.num_errors == 1
    assert table.count.tolist() == [2, 1, 2, 2]


def test_checkpoints_without_a_token_left_are_left_out() -> None:
    """With rollout_budget "total" a cut trajectory's last rollouts are empty: a false H of 0."""
    rollouts = small().assign(
        finish_reason=["eos", "eos", "length", "length", *["eos"] * 4], num_tokens=[3, 3, 0, 0, *[3] * 4]
    )
    table = encode(rollouts)
    assert table.num_left_out.tolist() == [1, 0, 0]
    assert table.keep(table.rollout == 0).num_left_out.tolist() == [1, 0, 0]
    assert table.checkpoint.tolist() == [0, 0, 0]


def test_correct_is_read_in_the_spellings_of_files() -> None:
    table = encode(small().assign(correct=["True"] * 4 + ["false"] * 2 + ["1"] * 2))
    assert table.correct.tolist() == [True, False, True]
    assert table.correct_given


def test_keep_counts_answers_anew() -> None:
    table = encode(small())
    part = table.keep(table.rollout == 0)
    assert part.count.tolist() == [1, 1, 1, 1]
    assert part.num_answers.tolist() == [2, 3, 2]
    first = table.keep(table.checkpoint_of_rollout < 2)
    assert first.problem_ids.tolist() == ["a"]
    assert first.problem_offsets.tolist() == [0, 1]
    assert first.trajectory_offsets.tolist() == [0, 2]


def test_slots_fall_back_to_the_place_in_the_checkpoint() -> None:
    rollouts = small()
    rollouts["rollout"] += 100
    assert encode(rollouts).index_in_checkpoint().tolist() == [0, 1] * 4


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"1", r"row 1: answer must be a text or a number, got b'1' of type bytes\."),
        (date(2026, 1, 2), r"row 1: answer must be a text or a number, got datetime\.date\(.* of type date\."),
        (pd.Timestamp("2026-01-02"), "row 1: answer must be a text or a number, got Timestamp.* of type Timestamp"),
    ],
)
def test_bytes_and_dates_are_no_answers(value: Any, said: str) -> None:
    """Spelled out they equal no gold answer: the accuracy was 0 without a word. A missing one is null."""
    whole = pd.DataFrame({"problem_id": "p", "trajectory": 0, "checkpoint": 0, "rollout": [0, 1, 2], "gold": "1"})
    for answers in ([None, value, value], ["1", value, None]):
        with pytest.raises(FastsiaError, match=said):
            encode(whole.assign(answer=answers))
    assert encode(whole.assign(answer=pd.to_datetime([None, None, None]))).answers.tolist() == ["1"]


def test_two_columns_of_one_name_are_refused() -> None:
    columns = ["problem_id", "trajectory", "checkpoint", "rollout", "answer", "answer", "gold"]
    with pytest.raises(FastsiaError, match="the table of rollouts has 2 columns named 'answer'"):
        encode(pd.DataFrame([["p", 0, 0, 0, "1", "2", "1"]], columns=columns))
