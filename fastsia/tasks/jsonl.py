"""Problems from a user's file: records with question, answer and optionally choices and id, or in a known layout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastsia.config import AnswerFormat, Problem
from fastsia.tasks import arc, competition, gsm8k, svamp
from fastsia.tasks.options import read_choices
from fastsia.tasks.records import Record, is_blank
from fastsia.tasks.task import gold_answer


def to_problem(record: Record, answer_format: AnswerFormat | None, answer_base: int | None = None) -> Problem:
    """Convert a record of any known layout to a problem.

    A record with choices is a multiple-choice problem with its own `answer_format`; so is one without choices whose
    answer is yes, no, true or false, unless `answer_format` is "number" or "boxed". Its options are Yes and No, or True
    and False.

    Args:
        answer_format: how the answers of other records are read; None is "number".
        answer_base: for answers that are an option's index, the index of the first option.
    """
    record = arc.unnested(record)
    if not is_blank(record.fields.get("choices")):
        return _choice_problem(record, answer_base)
    if answer_format in (None, "choice"):
        two = _two_options(record.fields.get("answer"))
        if two is not None:
            texts, gold = two
            return Problem(
                record.identifier("id"), record.text("question"), gold, choices=texts, answer_format="choice"
            )
    if answer_format == "choice":
        raise record.error(f"{record.named('choices')} is missing, and answer_format='choice' needs it")
    answer_format = answer_format or "number"
    if {"Body", "Question", "Answer"} <= record.fields.keys():
        return svamp.to_problem(record, answer_format)
    if "problem" in record.fields and "question" not in record.fields:
        return competition.to_problem(record, answer_format)
    if gsm8k.MARKER in str(record.fields.get("answer")):
        return gsm8k.to_problem(record, answer_format)
    gold = gold_answer(record.text_or_number("answer"), answer_format, None, record.where)
    return Problem(record.identifier("id"), record.text("question"), gold)


def _two_options(answer: Any) -> tuple[tuple[str, str], str] | None:
    """The two options, and the letter of the right one, of an answer that is yes, no, true or false; else None."""
    word = str(answer).strip().rstrip(".").casefold() if isinstance(answer, (str, bool)) else None
    for texts in (("Yes", "No"), ("True", "False")):
        if word in (texts[0].casefold(), texts[1].casefold()):
            return texts, "A" if word == texts[0].casefold() else "B"
    return None


def _choice_problem(record: Record, answer_base: int | None) -> Problem:
    if not is_blank(record.fields.get("answerKey")):
        return replace(arc.to_problem(record, "choice", answer_base), answer_format="choice")
    texts, gold = read_choices(record, "answer", answer_base)
    return Problem(record.identifier("id"), record.text("question"), gold, choices=texts, answer_format="choice")
