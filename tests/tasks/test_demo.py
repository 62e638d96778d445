import re
from fractions import Fraction
from itertools import islice

import pytest

from fastsia.config import Problem
from fastsia.errors import FastsiaError
from fastsia.tasks.demo import NUM_PROBLEMS, evaluation_examples, problems, training_examples

STEP = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")
NUMBER_WORDS = {"twice": 2, "half": 2, "third": 3, "quarter": 4, "fifth": 5}


def test_the_first_problems_do_not_depend_on_how_many_are_asked_for():
    everything = problems()
    assert len(everything) == NUM_PROBLEMS == 2000
    for limit in (1, 7, 64, 1999, 2000):
        assert problems(limit) == everything[:limit]


def test_problems_are_distinct_and_well_formed():
    everything = problems()
    assert all(isinstance(problem, Problem) for problem in everything)
    assert [problem.id for problem in everything[:2]] == ["demo-0000", "demo-0001"]
    assert len({problem.id for problem in everything}) == NUM_PROBLEMS
    assert len({problem.question for problem in everything}) == NUM_PROBLEMS


def test_the_generator_is_frozen():
    """Models are trained and results published on these problems, so a changed word or draw must be detected."""
    first = problems(2000)
    assert first[0].question.startswith("Tessa has 12 sacks of 6 eggs and 5 boxes of 8 spoons. 14 eggs go bad.")
    assert [first[index].gold for index in (0, 1, 2, 500, 1999)] == ["312", "11", "45", "17", "60"]


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "10"])
def test_a_bad_limit_is_refused(limit):
    with pytest.raises(FastsiaError, match="limit"):
        problems(limit)


def test_every_step_is_right_and_uses_only_what_is_known():
    """A number without a source would make the problem unanswerable; a wrong step would teach wrong sums."""
    for example in evaluation_examples():
        known = {Fraction(number) for number in re.findall(r"\d+", example.question)}
        known |= {
            Fraction(value) for word, value in NUMBER_WORDS.items() if re.search(rf"\b{word}\b", example.question)
        }
        *steps, last = example.solution.split("\n")
        assert 2 <= len(steps) <= 7, example
        for step in steps:
            arithmetic = STEP.findall(step)
            assert len(arithmetic) == 1, step
            left, operation, right, result = arithmetic[0]
            a, b, stated = Fraction(left), Fraction(right), Fraction(result)
            assert stated == {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[operation], step
            assert stated > 0
            assert {a, b} <= known, (example.question, step)
            assert re.findall(r"\d+", step) == [left, right, result], step
            known.add(stated)
        assert last == f"#### {example.gold}" == f"#### {result}"
        assert example.gold == str(int(example.gold))


def test_some_numbers_of_the_questions_are_not_needed():
    unused = 0
    for example in evaluation_examples():
        asked = re.findall(r"\d+", example.question)
        unused += any(number not in re.findall(r"\d+", example.solution) for number in asked)
    assert unused > NUM_PROBLEMS // 5


def test_training_never_asks_an_evaluation_question():
    held_out = {problem.question for problem in problems()}
    for seed in (0, 1):
        questions = [example.question for example in islice(training_examples(seed), 3000)]
        assert not held_out & set(questions)
        assert len(set(questions)) == len(questions)


def test_a_collision_with_the_evaluation_set_is_dropped(monkeypatch):
    """The stream must skip held-out questions, not only be unlikely to draw one."""
    from fastsia.tasks import demo

    draw = demo._draw
    held_out = demo.evaluation_examples()[5]
    monkeypatch.setattr(demo, "_draw", lambda key: held_out if key == "training/0/1" else draw(key))
    assert list(islice(demo.training_examples(0), 2)) == [draw("training/0/0"), draw("training/0/2")]


def test_training_streams_are_reproducible_and_differ_by_seed():
    assert list(islice(training_examples(3), 20)) == list(islice(training_examples(3), 20))
    assert list(islice(training_examples(3), 20)) != list(islice(training_examples(4), 20))
