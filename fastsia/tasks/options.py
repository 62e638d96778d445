"""The options of a multiple-choice row, and which of them is the right one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from fastsia.answers.extraction import canonical_gold
from fastsia.config import FastsiaError, is_text
from fastsia.tasks.rows import Row, is_blank, plain_number

_BEFORE, _BEHIND = "([{*# ", ")]}*.: "
"""What may stand around a label: "(B)", "B.", "**B**", "#2"."""
_INDEX = re.compile(r"[+-]?\d{1,4}(?:\.0+)?")
_LABEL_AND_TEXT = re.compile(r"([(\[]?\w+[.):\]]+)\s*(\S.*)", re.DOTALL)
_TEXTS = ("text", "choices")
_LABELS = ("label", "labels")


@dataclass(frozen=True)
class Options:
    """What a row says of its options.

    texts: in the row's order. labels: one for each text, None where the row has none. columns: the columns that the
    texts came from, empty where one field has them all. marked: the option that labels of 0 and 1 mark as right.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    columns: tuple[str, ...] = ()
    marked: int | None = None


def letters(count: int) -> str:
    """The letters of `count` options: "ABC" for three."""
    return ascii_uppercase[:count]


def read_choices(row: Row, field: str, answer_base: int | None = None) -> tuple[tuple[str, ...], str]:
    """The options' texts, and the letter of the right one, which `field` (or marks beside the options) names.

    Data sets that mark the right option, or have a column for it, put it first in every row. There the options come in
    an order that depends only on the question and their texts, so that no letter is right more often.

    Raises:
        FastsiaError: naming the row, for options that are none, or an answer that names no option, or more than one.
    """
    options = read_options(row, has_answer=not is_blank(row.fields.get(field)))
    right = options.marked
    if right is None and len(options.columns) > 1 and row.columns.get(field) in options.columns:
        right = options.columns.index(str(row.columns[field]))
    if right is not None:
        right_text = options.texts[right]
        texts = _shuffled(options.texts, str(row.fields.get("question")))
        return texts, ascii_uppercase[texts.index(right_text)]

    def refuse(what: str) -> FastsiaError:
        return row.error(f"{row.named(field)} is {what}")

    index = right_option(_answer(row, field, options.texts), options, answer_base, refuse)
    return options.texts, ascii_uppercase[index]


def read_options(row: Row, *, has_answer: bool = True) -> Options:
    """What stands in the field `choices`, with the labels in it or in the field `labels`.

    `choices` is a list of texts, a list of {"text", "label"}, a mapping of the lists "text" and "label" (or "choices"
    and "labels"), or a mapping from labels to texts; in a text file it may be such a value's JSON.
    """
    value, labels = _json(row.value("choices")), _json(row.fields.get("labels"))
    if isinstance(value, Mapping):
        key = next((name for name in _TEXTS if name in value and not isinstance(value[name], str)), None)
        if key is not None:
            labels = next((value[name] for name in _LABELS if value.get(name) is not None), labels)
            value = value[key]
        else:  # labels with their texts; a table's struct has every label of the table, those of other rows as null
            value = {label: text for label, text in value.items() if not is_blank(text)}
            value, labels = list(value.values()), list(value)
    elif _is_list(value) and len(value) and all(isinstance(option, Mapping) and "text" in option for option in value):
        if any(option.get("label") is not None for option in value):
            labels = [option.get("label") for option in value]
        value = [option["text"] for option in value]
    columns = row.columns.get("choices", ())
    columns = () if isinstance(columns, str) else columns
    if columns:
        while value and is_blank(value[-1]):  # a row with fewer options than the table has columns
            value = value[:-1]
        columns = columns[: len(value)]
    what = row.named("choices")
    if not _is_list(value):
        raise row.error(f"{what} must be a list of texts, got {value!r:.60}")
    texts = tuple(str(text).strip() for text in value if isinstance(text, (str, int, float)))
    if len(texts) != len(value) or not all(texts):
        raise row.error(f"{what} holds an option that is empty or not a text")
    if not all(map(is_text, texts)):
        raise row.error(f"{what} holds half of a surrogate pair, which is no character")
    if not 2 <= len(texts) <= len(ascii_uppercase):
        raise row.error(f"{what} must hold 2 to {len(ascii_uppercase)} options, got {len(texts)}")
    if len(set(texts)) < len(texts):
        raise row.error(f"{what} holds the same option twice")
    if is_blank(labels) or labels == []:
        return Options(texts, columns=columns)
    if not _is_list(labels):
        raise row.error(f"{what} must give its labels as a list, got {labels!r:.60}")
    if not has_answer and all(label in (0, 1, "0", "1") for label in labels) and len(labels) == len(texts):
        right = [i for i, label in enumerate(labels) if int(label)]
        if len(right) != 1:
            raise row.error(f"{what} marks {len(right)} options as right, and one is needed")
        return Options(texts, columns=columns, marked=right[0])
    read = tuple(plain_number(label).strip() for label in labels if isinstance(label, (str, int, float)))
    if len(read) != len(texts) or len(set(read)) < len(labels) or not all(read) or not all(map(is_text, read)):
        raise row.error(f"{what} needs one label of its own for each option, got {_listed(labels)}")
    return Options(texts, read, columns)


def right_option(answer: str, options: Options, answer_base: int | None, refuse: Callable[[str], FastsiaError]) -> int:
    """The index of the option that `answer` names.

    With labels it is a label, else (answer_base given) an index, else an option's text. Without labels a number is an
    index where answer_base is given; else what is named is an option's text, its column, or its letter.

    Raises:
        FastsiaError: what `refuse` makes of "'4', which is ...", where no option is named, or more than one may be.
    """
    texts, count = options.texts, len(options.texts)
    bare = _bare(answer)
    number = int(float(bare)) if _INDEX.fullmatch(bare) else None
    same = (
        [texts.index(answer)] if answer in texts else [i for i in range(count) if _folded(texts[i]) == _folded(answer)]
    )
    own = same[0] if len(same) == 1 else None
    indexed = None
    if answer_base is not None and number is not None:
        indexed = number - answer_base if 0 <= number - answer_base < count else -1
    outside = f"{answer!r}, which with answer_base={answer_base} is none of the {count} options"
    if options.labels is not None:
        labelled = _label(answer, options.labels)
        if labelled is None and indexed == -1:
            raise refuse(f"{outside}, nor one of the labels {_listed(options.labels)}")
        if labelled is not None and indexed is not None and labelled != indexed:
            raise refuse(
                f"{answer!r}, which is the label of option {labelled + 1}, but not option {labelled + 1} by "
                f"answer_base={answer_base}; leave answer_base out where rows have labels"
            )
        found = next(
            (i for i in (labelled, indexed, own, _with_text(answer, texts, options.labels)) if i is not None), None
        )
        if found is None:
            hint = "" if number is None else "; an index is said by answer_base (0 or 1)"
            raise refuse(
                f"{answer!r:.80}, which is not one of the labels {_listed(options.labels)}, nor an option's text{hint}"
            )
        return found
    if indexed == -1:
        raise refuse(outside)
    if indexed is not None:
        return indexed
    column = options.columns.index(answer) if answer in options.columns else None
    letter = ascii_uppercase.index(bare.upper()) if len(bare) == 1 and bare.upper() in letters(count) else None
    readings = {
        what: i for what, i in (("the text", own), ("the column", column), ("the letter", letter)) if i is not None
    }
    if len(set(readings.values())) > 1:
        both = " and ".join(f"{what} of option {i + 1}" for what, i in readings.items())
        raise refuse(
            f"{answer!r}, which is {both}; give the options labels, or the answer as a text that is one option's"
        )
    if readings:
        return next(iter(readings.values()))
    if number is not None:
        raise refuse(
            f"the bare number {answer}, which may count options from 0 or from 1, or be a value; set answer_base "
            "(0 or 1), or give the option's letter or its whole text"
        )
    if same:
        raise refuse(f"{answer!r:.80}, which is the text of {len(same)} options in another case")
    spelled_out = _with_text(answer, texts, letters(count))
    if spelled_out is not None:
        return spelled_out
    gold = canonical_gold(answer, "choice", texts)
    if gold is None or gold not in letters(count):
        raise refuse(f"{answer!r:.80}, which is none of the {count} options")
    return ascii_uppercase.index(gold)


def _label(answer: str, labels: Sequence[str]) -> int | None:
    """The label that `answer` is: exactly, or alone in another case or without the marks around it."""
    if answer in labels:
        return labels.index(answer)
    wanted = _folded(_bare(answer))
    same = [i for i, label in enumerate(labels) if _folded(_bare(label)) == wanted]
    return same[0] if wanted and len(same) == 1 else None


def _with_text(answer: str, texts: Sequence[str], labels: Sequence[str]) -> int | None:
    """The option whose label and text `answer` is, as in "B. green" or "(B) green"."""
    parts = _LABEL_AND_TEXT.fullmatch(answer)
    index = None if parts is None else _label(parts[1], labels)
    return index if parts is not None and index is not None and _folded(parts[2]) == _folded(texts[index]) else None


def _answer(row: Row, field: str, texts: tuple[str, ...]) -> str:
    """The answer as a text; a number that is no option as it stands without a fraction of zero, as 1 for 1.0."""
    text, value = row.text_or_number(field), row.value(field)
    return text if text in texts or not isinstance(value, float) else plain_number(value)


def _bare(label: str) -> str:
    return label.lstrip(_BEFORE).rstrip(_BEHIND)


def _shuffled(texts: tuple[str, ...], question: str) -> tuple[str, ...]:
    """The texts in the order of a hash of each with the question: no place is the right one more often."""
    return tuple(
        sorted(texts, key=lambda text: hashlib.sha256(f"{question}\0{text}".encode("utf-8", "surrogatepass")).digest())
    )


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def _listed(labels: Sequence[Any]) -> str:
    return ", ".join(str(label) for label in labels)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _json(value: Any) -> Any:
    """A list or mapping written as JSON in a cell of a text file."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value
