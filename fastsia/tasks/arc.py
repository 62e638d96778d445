"""ARC: science questions with three to five options, which are lettered A, B, ... whatever their labels are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fastsia.config import AnswerFormat, Problem
from fastsia.tasks.hub import HubData
from fastsia.tasks.options import read_choices
from fastsia.tasks.records import Record

CHALLENGE_FILES = ("arc/ARC-Challenge-Test.jsonl", "ARC-Challenge/ARC-Challenge-Test.jsonl")
EASY_FILES = ("arc/ARC-Easy-Test.jsonl", "ARC-Easy/ARC-Easy-Test.jsonl")
CHALLENGE_HUB = HubData("allenai/ai2_arc", "ARC-Challenge")
EASY_HUB = HubData("allenai/ai2_arc", "ARC-Easy")


def to_problem(record: Record, answer_format: AnswerFormat, answer_base: int | None = None) -> Problem:
    """Convert a record with the fields id, question, choices {"text", "label"} and answerKey, or in AI2's own
    layout."""
    record = unnested(record)
    texts, gold = read_choices(record, "answerKey", answer_base)
    return Problem(record.identifier("id"), record.text("question"), gold, choices=texts)


def is_nested(record: Record) -> bool:
    """Whether the record has AI2's own layout, question {"stem", "choices" [{"text", "label"}, ...]}."""
    question = record.fields.get("question")
    return isinstance(question, Mapping) and "stem" in question


def unnested(record: Record) -> Record:
    """Return a record of AI2's own layout with question and choices as fields; any other record unchanged."""
    if not is_nested(record):
        return record
    question = record.fields["question"]
    fields = {**record.fields, "question": question["stem"], "choices": question.get("choices")}
    return replace(record, fields=fields)
