"""Problems from a user's file: records with question, answer and optionally choices and id, or in a known layout."""

from __future__ import annotations

from dataclasses import replace

from fastsia.config import AnswerFormat, Problem
from fastsia.tasks import arc, competition, gsm8k, svamp
from fastsia.tasks.options import read_choices
from fastsia.tasks.rows import Row, is_blank
from fastsia.tasks.task import gold_answer


def to_problem(row: Row, answer_format: AnswerFormat | None, answer_base: int | None = None) -> Problem:
    """Convert a record of any known layout to a problem.

    A row with choices is a multiple-choice problem and says so in its `answer_format`; any other is read by
    `answer_format`
    (None: a number). answer_base: of answers that are an option's index, what the first option is.
    """
    row = arc.unnested(row)
    if not is_blank(row.fields.get("choices")):
        return _choice_problem(row, answer_format, answer_base)
    if answer_format == "choice":
        raise row.error(f"{row.named('choices')} is missing, and answer_format='choice' needs it")
    answer_format = answer_format or "number"
    if {"Body", "Question", "Answer"} <= row.fields.keys():
        return svamp.to_problem(row, answer_format)
    if "problem" in row.fields and "question" not in row.fields:
        return competition.to_problem(row, answer_format)
    if gsm8k.MARKER in str(row.fields.get("answer")):
        return gsm8k.to_problem(row, answer_format)
    gold = gold_answer(row.text_or_number("answer"), answer_format, None, row.where)
    return Problem(row.identifier("id"), row.text("question"), gold)


def _choice_problem(row: Row, answer_format: AnswerFormat | None, answer_base: int | None) -> Problem:
    if answer_format not in (None, "choice"):
        raise row.error(f"{row.named('choices')} and answer_format={answer_format!r} exclude each other")
    if not is_blank(row.fields.get("answerKey")):
        return replace(arc.to_problem(row, "choice", answer_base), answer_format="choice")
    texts, gold = read_choices(row, "answer", answer_base)
    return Problem(row.identifier("id"), row.text("question"), gold, choices=texts, answer_format="choice")
