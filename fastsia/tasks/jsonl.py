"""Problems of one's own: rows with question, answer, and optionally choices and id; or a well-known layout."""

from __future__ import annotations

from dataclasses import replace

from fastsia.config import AnswerFormat, Problem
from fastsia.tasks import arc, gsm8k, svamp
from fastsia.tasks.options import answer_letter, read_options
from fastsia.tasks.rows import Row
from fastsia.tasks.task import gold_answer


def to_problem(row: Row, format: AnswerFormat | None) -> Problem:
    """One problem from a row of any known layout.

    A row with choices is a multiple-choice problem and says so in its `format`; any other is read by `format`
    (None: a number).
    """
    if row.fields.get("choices") is not None:
        return _choice_problem(row, format)
    if format == "choice":
        raise row.error("field 'choices' is missing, and format='choice' needs it")
    format = format or "number"
    if {"Body", "Question", "Answer"} <= row.fields.keys():
        return svamp.to_problem(row, format)
    if gsm8k.MARKER in str(row.fields.get("answer")):
        return gsm8k.to_problem(row, format)
    gold = gold_answer(row.text_or_number("answer"), format, None, row.where)
    return Problem(row.identifier("id"), row.text("question"), gold)


def _choice_problem(row: Row, format: AnswerFormat | None) -> Problem:
    if format not in (None, "choice"):
        raise row.error(f"field 'choices' and format={format!r} exclude each other")
    if "answerKey" in row.fields:
        return replace(arc.to_problem(row, "choice"), format="choice")
    texts, _ = read_options(row)
    gold = answer_letter(row, "answer", texts)
    return Problem(row.identifier("id"), row.text("question"), gold, choices=texts, format="choice")
