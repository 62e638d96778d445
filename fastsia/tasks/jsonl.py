"""Problems of one's own: rows with question, answer, and optionally choices and id; or a well-known layout."""

from __future__ import annotations

from dataclasses import replace

from fastsia.config import AnswerFormat, Problem
from fastsia.tasks import arc, competition, gsm8k, svamp
from fastsia.tasks.options import read_choices
from fastsia.tasks.rows import Row, is_blank
from fastsia.tasks.task import gold_answer


def to_problem(row: Row, format: AnswerFormat | None, answer_base: int | None = None) -> Problem:
    """One problem from a row of any known layout.

    A row with choices is a multiple-choice problem and says so in its `format`; any other is read by `format`
    (None: a number). answer_base: of answers that are an option's index, what the first option is.
    """
    row = arc.unnested(row)
    if not is_blank(row.fields.get("choices")):
        return _choice_problem(row, format, answer_base)
    if format == "choice":
        raise row.error(f"{row.named('choices')} is missing, and format='choice' needs it")
    format = format or "number"
    if {"Body", "Question", "Answer"} <= row.fields.keys():
        return svamp.to_problem(row, format)
    if "problem" in row.fields and "question" not in row.fields:
        return competition.to_problem(row, format)
    if gsm8k.MARKER in str(row.fields.get("answer")):
        return gsm8k.to_problem(row, format)
    gold = gold_answer(row.text_or_number("answer"), format, None, row.where)
    return Problem(row.identifier("id"), row.text("question"), gold)


def _choice_problem(row: Row, format: AnswerFormat | None, answer_base: int | None) -> Problem:
    if format not in (None, "choice"):
        raise row.error(f"{row.named('choices')} and format={format!r} exclude each other")
    if not is_blank(row.fields.get("answerKey")):
        return replace(arc.to_problem(row, "choice", answer_base), format="choice")
    texts, gold = read_choices(row, "answer", answer_base)
    return Problem(row.identifier("id"), row.text("question"), gold, choices=texts, format="choice")
