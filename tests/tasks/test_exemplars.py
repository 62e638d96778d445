"""The exemplars are correct and distinct, and extraction reads their answers."""

from __future__ import annotations

import re

import pytest

from fastsia.answers.extraction import extract_answers
from fastsia.tasks.exemplars import CHOICE, EXEMPLARS, NUMBER
from fastsia.tasks.prompt import render_answer


@pytest.mark.parametrize("pool", [NUMBER, CHOICE])
def test_enough_and_all_different(pool: tuple) -> None:
    assert len(pool) >= 5
    assert len({exemplar.question for exemplar in pool}) == len(pool)


def test_every_equation_holds_and_the_last_one_gives_the_answer() -> None:
    for exemplar in NUMBER:
        equations = re.findall(r"(\d[\d +\-*/]*) = (\d+)", exemplar.reasoning)
        assert equations
        for left, right in equations:
            terms = re.findall(r"\d+|[+\-*/]", left)
            assert eval("".join(terms)) == int(right), (left, right)
        assert equations[-1][1] == exemplar.answer


def test_choices_do_not_favour_a_letter() -> None:
    assert {exemplar.answer for exemplar in CHOICE} == set("ABCD")
    for exemplar in CHOICE:
        assert exemplar.choices is not None
        assert exemplar.answer in "ABCDE"[: len(exemplar.choices)]
        assert len(set(exemplar.choices)) == len(exemplar.choices)


@pytest.mark.parametrize("answer_format", ["number", "choice", "boxed"])
def test_extraction_reads_every_solution(answer_format: str) -> None:
    for exemplar in EXEMPLARS[answer_format]:
        solution = f"{exemplar.reasoning}\n{render_answer(exemplar.answer, answer_format)}"
        assert extract_answers([solution], answer_format, options=exemplar.choices) == [exemplar.answer]
