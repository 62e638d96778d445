"""MATH-500 and AIME: problems of mathematics competitions, whose answers are formulas in a box."""

from __future__ import annotations

from typing import Any

from fastsia.config import AnswerFormat, Problem, is_text
from fastsia.tasks.hub import HubData
from fastsia.tasks.records import Record, is_blank
from fastsia.tasks.task import gold_answer

MATH500_FILES = ("math500/test.jsonl",)
AIME24_FILES = ("aime24/test.jsonl",)
AIME25_FILES = ("aime25/test.jsonl",)
MATH500_HUB = HubData("HuggingFaceH4/MATH-500")
AIME24_HUB = HubData("HuggingFaceH4/aime_2024", splits=("train",))
AIME25_HUB = HubData("math-ai/aime25")

_BOX = "\\boxed"


def to_problem(record: Record, answer_format: AnswerFormat) -> Problem:
    """Convert a record with the fields problem, answer (or a solution that ends in a box) and unique_id or id."""
    in_solution = is_blank(record.fields.get("answer")) and _BOX in str(record.fields.get("solution"))
    gold = record.text("solution") if in_solution else record.text_or_number("answer")
    key = "id" if is_blank(record.fields.get("unique_id")) else "unique_id"
    solution: Any = record.fields.get("solution")
    return Problem(
        record.identifier(key),
        record.text("problem"),
        gold_answer(gold, answer_format, None, record.where),
        solution=solution.strip() if is_text(solution) and solution.strip() else None,
    )
