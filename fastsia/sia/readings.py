"""The two readings of a table's answers, strict and lenient."""

from __future__ import annotations

import pandas as pd

from fastsia.config import AnswerReading
from fastsia.errors import FastsiaError
from fastsia.sia.table import RolloutTable, encode, finish_reasons


def with_readings(rollouts: pd.DataFrame, answer_reading: AnswerReading) -> pd.DataFrame:
    """Add columns `answer_strict` and `answer_lenient` and make `answer` the one of `answer_reading`.

    Returns the table unchanged where it has no finish_reason, or where it has both readings and `answer` is neither.

    Raises:
        FastsiaError: The table has only one of the two columns.
    """
    names = list(rollouts.columns)
    both = {"answer_strict", "answer_lenient"} & set(names)
    if len(both) == 1:
        raise FastsiaError(
            f"the table of rollouts has column {both.pop()!r} alone; give both answer_strict and answer_lenient."
        )
    if both:
        if (scored := reading_of(rollouts)) is None or scored == answer_reading:
            return rollouts
        own = {"answer": rollouts[f"answer_{answer_reading}"]}
        if f"correct_{answer_reading}" in names:
            own["correct"] = rollouts[f"correct_{answer_reading}"]
        return rollouts.assign(**own)
    if any(names.count(name) != 1 for name in ("answer", "finish_reason")):
        return rollouts
    given = rollouts["answer"].astype(object)
    strict = given.where(finish_reasons(rollouts["finish_reason"]) != "length", None)
    return rollouts.assign(
        answer=strict if answer_reading == "strict" else given, answer_strict=strict, answer_lenient=given
    )


def reading_of(rollouts: pd.DataFrame) -> AnswerReading | None:
    """The reading that a table's `answer` is; None where it is neither, or both, or where the table lacks a reading."""
    names = list(rollouts.columns)
    if any(names.count(name) != 1 for name in ("answer", "answer_strict", "answer_lenient")):
        return None
    answer, strict, lenient = (
        column.astype(object).where(column.notna(), None)
        for column in (rollouts["answer"], rollouts["answer_strict"], rollouts["answer_lenient"])
    )
    is_strict, is_lenient = answer.equals(strict), answer.equals(lenient)
    return None if is_strict == is_lenient else "strict" if is_strict else "lenient"


def encode_readings(rollouts: pd.DataFrame) -> dict[str, RolloutTable]:
    """The same rollouts with their strict and with their lenient answers; empty where the two do not differ.

    Columns correct_strict and correct_lenient, where present, replace `correct`.
    """
    if not {"answer_strict", "answer_lenient"} <= set(rollouts.columns) or rollouts["answer_strict"].equals(
        rollouts["answer_lenient"]
    ):
        return {}
    found = {}
    for answer_reading in ("strict", "lenient"):
        own = {"answer": rollouts[f"answer_{answer_reading}"]}
        if f"correct_{answer_reading}" in rollouts.columns:
            own["correct"] = rollouts[f"correct_{answer_reading}"]
        found[answer_reading] = encode(rollouts.assign(**own))
    return found
