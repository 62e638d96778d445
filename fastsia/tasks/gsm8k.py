"""GSM8K: grade-school word problems. The gold number follows the last "####" of a worked solution."""

from __future__ import annotations

import re

from fastsia.config import AnswerFormat, Problem
from fastsia.tasks.hub import HubData
from fastsia.tasks.records import Record
from fastsia.tasks.task import gold_answer

FILE = "gsm8k/test.jsonl"
HUB = HubData("openai/gsm8k", "main")
MARKER = "####"
_ANNOTATION = re.compile(r"<<[^<>]*>>")
"""A calculation for a calculator, after the text that states it: `9 * 2 = $<<9*2=18>>18`."""


def to_problem(record: Record, answer_format: AnswerFormat) -> Problem:
    """Convert a record with the fields question and answer."""
    question, solution = record.text("question"), record.text("answer")
    working, marker, gold = solution.rpartition(MARKER)
    if not marker:
        raise record.error(f"field 'answer' has no {MARKER!r} before its result")
    key = record.identifier("id") if "id" in record.fields else f"gsm8k-{record.number}"
    working = _ANNOTATION.sub("", working).strip()
    return Problem(
        key, question, gold_answer(gold.strip(), answer_format, None, record.where), solution=working or None
    )
