"""ARC: science questions with three to five options. Options are lettered A, B, ... whatever their labels were."""

from __future__ import annotations

from fastsia.config import AnswerFormat, Problem
from fastsia.tasks.hub import HubData
from fastsia.tasks.options import labelled_answer, letters, read_options
from fastsia.tasks.rows import Row

CHALLENGE_FILE = "arc/ARC-Challenge-Test.jsonl"
EASY_FILE = "arc/ARC-Easy-Test.jsonl"
CHALLENGE_HUB = HubData("allenai/ai2_arc", "ARC-Challenge")
EASY_HUB = HubData("allenai/ai2_arc", "ARC-Easy")


def to_problem(row: Row, format: AnswerFormat) -> Problem:
    """A row with the fields id, question, choices {"text", "label"} and answerKey."""
    texts, labels = read_options(row)
    gold = labelled_answer(row, "answerKey", labels or tuple(letters(len(texts))))
    return Problem(row.identifier("id"), row.text("question"), gold, choices=texts)
