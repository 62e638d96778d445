"""The options of a multiple-choice row, and the letter of the right one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase

from fastsia.answers.extraction import canonical_gold
from fastsia.config import is_text
from fastsia.tasks.rows import Row


def letters(count: int) -> str:
    """The letters of `count` options: "ABC" for three."""
    return ascii_uppercase[:count]


def read_options(row: Row) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """The texts in the field `choices`, and the labels they came with, if any.

    `choices` is a list of texts, or ARC's mapping of the lists "text" and "label".
    """
    value, labels = row.value("choices"), None
    if isinstance(value, Mapping):
        if "text" not in value:
            raise row.error("field 'choices' has no list 'text'")
        given = value.get("label")
        if given is not None:
            if isinstance(given, str) or not isinstance(given, Sequence):
                raise row.error(f"field 'choices' must give its labels as a list, got {given!r:.60}")
            labels = tuple(str(label).strip() for label in given)
        value = value["text"]
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise row.error(f"field 'choices' must be a list of texts, got {value!r:.60}")
    texts = tuple(str(text).strip() for text in value if isinstance(text, (str, int, float)))
    if len(texts) != len(value) or not all(texts):
        raise row.error("field 'choices' holds an option that is empty or not a text")
    if not all(map(is_text, texts)):
        raise row.error("field 'choices' holds half of a surrogate pair, which is no character")
    if not 2 <= len(texts) <= len(ascii_uppercase):
        raise row.error(f"field 'choices' must hold 2 to {len(ascii_uppercase)} options, got {len(texts)}")
    if len(set(texts)) < len(texts):
        raise row.error("field 'choices' holds the same option twice")
    if labels is not None and (len(labels) != len(texts) or len(set(labels)) < len(labels)):
        raise row.error("field 'choices' needs one label of its own for each option")
    return texts, labels


def labelled_answer(row: Row, field: str, labels: Sequence[str]) -> str:
    """The letter of the option whose label stands in `field`."""
    label = row.text_or_number(field)
    if label not in labels:
        raise row.error(f"field {field!r} is {label!r}, which is not one of the labels {', '.join(labels)}")
    return letters(len(labels))[labels.index(label)]


def answer_letter(row: Row, field: str, texts: Sequence[str]) -> str:
    """The letter of the option that `field` names: by its letter, its text, or (as a text) its number from "1".

    Tried in this order, so with the options 2, 4, 6, 8 the answer "4" is B. A bare number that is no option's text is
    refused, because some count options from 0 and some from 1.
    """
    answer = row.text_or_number(field)
    if not isinstance(row.value(field), str) and answer not in texts:
        raise row.error(f"field {field!r} is the bare number {answer}; give the option's letter or its text")
    gold = canonical_gold(answer, "choice", tuple(texts))
    if gold is None:
        raise row.error(f"field {field!r} is {answer!r}, which is none of the {len(texts)} options")
    return gold
