"""SVAMP: short arithmetic stories, each with a question. 300 test records of 1,000, or all of them."""

from __future__ import annotations

import re

from fastsia.config import AnswerFormat, Problem
from fastsia.tasks.hub import HubData
from fastsia.tasks.records import Record
from fastsia.tasks.task import gold_answer

FILE = "svamp/test.jsonl"
FULL_FILE = "svamp/SVAMP.json"
HUB = HubData("ChilleD/SVAMP")
FULL_HUB = HubData("ChilleD/SVAMP", splits=("train", "test"))

_QUESTION_WORDS = ("How", "What", "When", "Where", "Which", "Who")


def to_problem(record: Record, answer_format: AnswerFormat) -> Problem:
    """Convert a record with the fields ID, Body, Question and Answer."""
    question = join(record.text("Body"), record.text("Question"))
    gold = gold_answer(record.text_or_number("Answer"), answer_format, None, record.where)
    return Problem(record.identifier("ID"), question, gold)


def join(body: str, question: str) -> str:
    """Join story and question to one text.

    A third of the stories end without a full stop, nearly all of them inside a sentence that the question completes
    ("If she sold 3" + "How many are left?"). Such a sentence continues after a comma; any other is closed.
    """
    if not (body[-1].isalnum() or body[-1] in ")%\"'"):
        return f"{body} {question}"
    last_sentence = re.split(r"[.?!]\s+", body)[-1]
    first_word, space, rest = question.partition(" ")
    if last_sentence.startswith("If ") and first_word in _QUESTION_WORDS:
        return f"{body}, {first_word.lower()}{space}{rest}"
    return f"{body}. {question}"


def original_order(record: Record) -> tuple[int, int]:
    """A sort key that orders the records of both Hub splits as in the authors' file (chal-1 ... chal-1000)."""
    _, _, number = record.text("ID").rpartition("-")
    return (int(number), 0) if number.isdecimal() else (0, record.number)
