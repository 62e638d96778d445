"""The place that an answer was read from is the one whose change changes the answer."""

from __future__ import annotations

import pytest

from fastsia.answers.extraction import extract_answers
from fastsia.report.spans import AnswerPlaces, units


@pytest.mark.parametrize(
    ("kind", "text", "place", "rule"),
    [
        ("number", "2 + 10 = 12. The answer is 12. That took 3 steps.", "12", "stated"),
        ("number", "First 4, then 5.\n#### 1,204\n", "1,204", "asked"),
        ("number", "#### 92\nAnd 180 + 180 = 200.\n#### 200\nThe final answer is 200.", "92", "asked"),
        ("number", "The final answer is 7, of 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12 and 13.", "7", "strong"),
        ("number", "Eggs: 4. Then 5", "5", "end"),
        ("boxed", r"so \boxed{\frac{1}{2}} and 7 more", r"\frac{1}{2}", "asked"),
        ("choice", "A is wrong. The answer is B.", "B", "stated"),
        ("choice", "A is wrong. Answer: B, not D.", "B", "asked"),
        ("number", "nothing here", None, "none"),
    ],
)
def test_the_answers_place(kind: str, text: str, place: str | None, rule: str) -> None:
    """A number after the answer, or an earlier one of the same value, must not be marked."""
    answers = extract_answers([text], kind)  # type: ignore[arg-type]
    places = AnswerPlaces(kind)
    (found,) = places.find([text], answers, [False])
    assert (None if found is None else text[slice(*found)]) == place
    assert places.rule(text, found, answers[0], False) == rule
    assert rule in places.rules
    if place == "12":
        assert found == (27, 29)


def test_a_run_with_its_own_expression_marks_its_group() -> None:
    text = "x=1 y=2 x=3"
    places = AnswerPlaces("number", regex=r"x=(\d)")
    assert places.find([text], ["3"], [False]) == [(10, 11)]
    assert places.rule(text, (10, 11), "3", False) == "regex"


def test_a_cut_text_without_an_answer_is_said_to_be_cut() -> None:
    assert AnswerPlaces("number").rule("#### 4", None, None, True) == "cut"
    lenient = AnswerPlaces("number", reading={"answer_reading": "lenient"})
    assert lenient.rule("so", None, None, True) == "none"


def test_units_are_those_of_a_browser() -> None:
    assert units("a😀") == 3
