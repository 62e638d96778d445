"""ARC: science questions with three to five options, which are lettered A, B, ... whatever their labels are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fastsia.config import AnswerFormat, Problem
from fastsia.tasks.hub import HubData
from fastsia.tasks.options import read_choices
from fastsia.tasks.rows import Row

CHALLENGE_FILES = ("arc/ARC-Challenge-Test.jsonl", "ARC-Challenge/ARC-Challenge-Test.jsonl")
EASY_FILES = ("arc/ARC-Easy-Test.jsonl", "ARC-Easy/ARC-Easy-Test.jsonl")
CHALLENGE_HUB = HubData("allenai/ai2_arc", "ARC-Challenge")
EASY_HUB = HubData("allenai/ai2_arc", "ARC-Easy")


def to_problem(row: Row, answer_format: AnswerFormat, answer_base: int | None = None) -> Problem:
    """Convert a record with the fields id, question, choices {"text", "label"} and answerKey, or in AI2's own
    layout."""
    row = unnested(row)
    texts, gold = read_choices(row, "answerKey", answer_base)
    return Problem(row.identifier("id"), row.text("question"), gold, choices=texts)


def is_nested(row: Row) -> bool:
    """Whether the record has AI2's own layout, question {"stem", "choices" [{"text", "label"}, ...]}."""
    question = row.fields.get("question")
    return isinstance(question, Mapping) and "stem" in question


def unnested(row: Row) -> Row:
    """Return a record of AI2's own layout with question and choices as fields; any other record unchanged."""
    if not is_nested(row):
        return row
    question = row.fields["question"]
    fields = {**row.fields, "question": question["stem"], "choices": question.get("choices")}
    return replace(row, fields=fields)
