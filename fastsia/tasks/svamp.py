"""SVAMP: short arithmetic stories with a question of their own. 300 test rows of 1,000, or all of them."""

from __future__ import annotations

import re

from fastsia.config import AnswerFormat, Problem
from fastsia.tasks.hub import HubData
from fastsia.tasks.rows import Row
from fastsia.tasks.task import gold_answer

FILE = "svamp/test.jsonl"
FULL_FILE = "svamp/SVAMP.json"
HUB = HubData("ChilleD/SVAMP")
FULL_HUB = HubData("ChilleD/SVAMP", splits=("train", "test"))

_QUESTION_WORDS = ("How", "What", "When", "Where", "Which", "Who")


def to_problem(row: Row, answer_format: AnswerFormat) -> Problem:
    """A row with the fields ID, Body, Question and Answer."""
    question = join(row.text("Body"), row.text("Question"))
    gold = gold_answer(row.text_or_number("Answer"), answer_format, None, row.where)
    return Problem(row.identifier("ID"), question, gold)


def join(body: str, question: str) -> str:
    """Story and question as one text.

    A third of the stories stop without a full stop, nearly all of them inside a sentence that the question completes
    ("If she sold 3" + "How many are left?"): that sentence goes on behind a comma, any other is closed.
    """
    if not (body[-1].isalnum() or body[-1] in ")%\"'"):
        return f"{body} {question}"
    last_sentence = re.split(r"[.?!]\s+", body)[-1]
    first_word, space, rest = question.partition(" ")
    if last_sentence.startswith("If ") and first_word in _QUESTION_WORDS:
        return f"{body}, {first_word.lower()}{space}{rest}"
    return f"{body}. {question}"


def original_order(row: Row) -> tuple[int, int]:
    """A key that puts the rows of both Hub splits into the order of the authors' file (chal-1 ... chal-1000)."""
    _, _, number = row.text("ID").rpartition("-")
    return (int(number), 0) if number.isdecimal() else (0, row.number)
