"""The place that an answer was read from is the one whose change changes the answer."""

from __future__ import annotations

import pytest

from fastsia.answers.extraction import extract_answers
from fastsia.report.spans import AnswerPlaces, units


@pytest.mark.parametrize(
    ("kind", "text", "place"),
    [
        ("number", "2 + 10 = 12. The answer is 12. That took 3 steps.", "12"),
        ("number", "First 4, then 5.\n#### 1,204\n", "1,204"),
        ("boxed", r"so \boxed{\frac{1}{2}} and 7 more", r"\frac{1}{2}"),
        ("choice", "A is wrong. The answer is B.", "B"),
        ("number", "nothing here", None),
    ],
)
def test_the_answers_place(kind: str, text: str, place: str | None) -> None:
    """A number after the answer, or an earlier one of the same value, must not be marked."""
    answers = extract_answers([text], kind)  # type: ignore[arg-type]
    (found,) = AnswerPlaces(kind).find([text], answers, [False])
    assert (None if found is None else text[slice(*found)]) == place
    if place == "12":
        assert found == (27, 29)


def test_a_run_with_its_own_expression_marks_its_group() -> None:
    text = "x=1 y=2 x=3"
    assert AnswerPlaces("number", regex=r"x=(\d)").find([text], ["3"], [False]) == [(10, 11)]


def test_units_are_those_of_a_browser() -> None:
    assert units("a😀") == 3
