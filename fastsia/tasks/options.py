"""Reads the options of a multiple-choice record and finds the right one."""

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
from fastsia.config import is_text
from fastsia.errors import FastsiaError
from fastsia.tasks.records import Record, is_blank, plain_number

_BEFORE, _AFTER = "([{*# ", ")]}*.: "
"""Marks around a label: "(B)", "B.", "**B**", "#2"."""
_INDEX = re.compile(r"[+-]?\d{1,4}(?:\.0+)?")
_LABEL_AND_TEXT = re.compile(r"([(\[]?\w+[.):\]]+)\s*(\S.*)", re.DOTALL)
_LEADING_LABEL = re.compile(r"[(\[]?(?:([A-Za-z])[.):\]]|(\d{1,2})(?:[):\]](?!\d)|\.(?!\d)))\s*(\S.*)", re.DOTALL)
_TEXTS = ("text", "choices")
_LABELS = ("label", "labels")


@dataclass(frozen=True)
class Options:
    """The options of a record.

    Attributes:
        texts: in the order of the record.
        labels: one for each text; None if the record has none.
        columns: the columns that the texts were read from; empty if one field has them all.
        marked: the option that labels of 0 and 1 mark as right.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    columns: tuple[str, ...] = ()
    marked: int | None = None


def letters(count: int) -> str:
    """Return the letters of `count` options: "ABC" for three."""
    return ascii_uppercase[:count]


def read_choices(record: Record, field: str, answer_base: int | None = None) -> tuple[tuple[str, ...], str]:
    """Return the texts of the options and the letter of the right one, named by `field` or by marks of the options.

    Data sets that mark the right option, or have a column for it, put it first in every record. Their options are
    reordered by a hash of the question and the texts, so that no letter is right more often.

    Raises:
        FastsiaError: for invalid options, or an answer that names no option or more than one. It names the record.
    """
    options = read_options(record, has_answer=not is_blank(record.fields.get(field)))
    right = options.marked
    if right is None and len(options.columns) > 1 and record.columns.get(field) in options.columns:
        right = options.columns.index(str(record.columns[field]))
    if right is not None:
        right_text = options.texts[right]
        texts = _shuffled(options.texts, str(record.fields.get("question")))
        return texts, ascii_uppercase[texts.index(right_text)]

    def refuse(what: str) -> FastsiaError:
        return record.error(f"{record.named(field)} is {what}")

    index = right_option(_answer(record, field, options.texts), options, answer_base, refuse)
    return options.texts, ascii_uppercase[index]


def read_options(record: Record, *, has_answer: bool = True) -> Options:
    """Read the field `choices`, with labels from it or from the field `labels`.

    `choices` is a list of texts, a list of {"text", "label"}, a mapping of the lists "text" and "label" (or "choices"
    and "labels"), or a mapping from labels to texts; in a text file it may be JSON of one of these.
    """
    value, labels = _json(record.value("choices")), _json(record.fields.get("labels"))
    if isinstance(value, Mapping):
        key = next((name for name in _TEXTS if name in value and not isinstance(value[name], str)), None)
        if key is not None:
            labels = next((value[name] for name in _LABELS if value.get(name) is not None), labels)
            value = value[key]
        else:  # labels with their texts; a parquet struct has null for labels of other records
            value = {label: text for label, text in value.items() if not is_blank(text)}
            value, labels = list(value.values()), list(value)
    elif _is_list(value) and len(value) and all(isinstance(option, Mapping) and "text" in option for option in value):
        if any(option.get("label") is not None for option in value):
            labels = [option.get("label") for option in value]
        value = [option["text"] for option in value]
    columns = record.columns.get("choices", ())
    columns = () if isinstance(columns, str) else columns
    if columns:
        while value and is_blank(value[-1]):  # a record with fewer options than the table has columns
            value = value[:-1]
        columns = columns[: len(value)]
    what = record.named("choices")
    if not _is_list(value):
        raise record.error(f"{what} must be a list of texts, got {value!r:.60}")
    texts = tuple(str(text).strip() for text in value if isinstance(text, (str, int, float)))
    if len(texts) != len(value) or not all(texts):
        raise record.error(f"{what} contains an option that is empty or not a text")
    if not all(map(is_text, texts)):
        raise record.error(f"{what} contains an unpaired surrogate, which is not a character")
    if not 2 <= len(texts) <= len(ascii_uppercase):
        raise record.error(f"{what} must have 2 to {len(ascii_uppercase)} options, got {len(texts)}")
    if len(set(texts)) < len(texts):
        raise record.error(f"{what} contains the same option twice")
    if is_blank(labels) or labels == []:
        return Options(texts, columns=columns)
    if not _is_list(labels):
        raise record.error(f"{what} must have a list of labels, got {labels!r:.60}")
    if not has_answer and all(label in (0, 1, "0", "1") for label in labels) and len(labels) == len(texts):
        right = [i for i, label in enumerate(labels) if int(label)]
        if len(right) != 1:
            raise record.error(f"{what} marks {len(right)} options as right, and one is needed")
        return Options(texts, columns=columns, marked=right[0])
    read = tuple(plain_number(label).strip() for label in labels if isinstance(label, (str, int, float)))
    if len(read) != len(texts) or len(set(read)) < len(labels) or not all(read) or not all(map(is_text, read)):
        raise record.error(f"{what} needs one label of its own for each option, got {', '.join(map(str, labels))}")
    return Options(texts, read, columns)


def right_option(answer: str, options: Options, answer_base: int | None, refuse: Callable[[str], FastsiaError]) -> int:
    """Return the index of the option that `answer` names.

    With labels, in their own field or at the beginning of each text, `answer` is a label, else (with answer_base) an
    index, else an option's text. Without labels it is an index (a number, with answer_base), else an option's text,
    column or letter.

    Raises:
        FastsiaError: made by `refuse` from "'4', which is ...", if no option or more than one may be meant.
    """
    texts, labels = options.texts, options.labels
    if labels is None:
        texts, labels = _split_labels(texts)
    number = _number(answer)
    index = None if answer_base is None or number is None else number - answer_base
    labelled = None if labels is None else _label(answer, labels)
    if index is not None and labelled is not None and index != labelled:
        raise refuse(
            f"{answer!r}, which is the label of option {labelled + 1}, but not that option by answer_base="
            f"{answer_base}; omit answer_base if records have labels"
        )
    if labelled is not None:
        return labelled
    among = "" if labels is None else f", nor one of the labels {', '.join(labels)}"
    if index is not None:
        if not 0 <= index < len(texts):
            raise refuse(
                f"{answer!r}, which with answer_base={answer_base} is not one of the {len(texts)} options{among}"
            )
        return index
    same = [i for i, text in enumerate(texts) if answer in (text, options.texts[i])]
    same = same or [i for i, text in enumerate(texts) if _folded(answer) in (_folded(text), _folded(options.texts[i]))]
    own = same[0] if len(same) == 1 else None
    if labels is not None:
        found = _with_text(answer, texts, labels) if own is None else own
        if found is None:
            hint = "" if number is None else "; set answer_base (0 or 1) if it is an index"
            raise refuse(
                f"{answer!r:.80}, which is not one of the labels {', '.join(labels)}, nor an option's text{hint}"
            )
        return found
    column = options.columns.index(answer) if answer in options.columns else None
    readings = {"the text": own, "the column": column, "the letter": _label(answer, tuple(letters(len(texts))))}
    named = {what: i for what, i in readings.items() if i is not None}
    if len(set(named.values())) > 1:
        both = " and ".join(f"{what} of option {i + 1}" for what, i in named.items())
        raise refuse(
            f"{answer!r}, which is {both}; add labels to the options, or use the text of an option as the answer"
        )
    if named:
        return next(iter(named.values()))
    if number is not None:
        raise refuse(
            f"the bare number {answer}, which may be an index from 0 or from 1, or a value; set answer_base "
            "(0 or 1), or give the option's letter or its whole text"
        )
    if same:
        raise refuse(f"{answer!r:.80}, which is the text of {len(same)} options in another case")
    spelled_out = _with_text(answer, texts, tuple(letters(len(texts))))
    if spelled_out is not None:
        return spelled_out
    letter = canonical_gold(answer, "choice", texts)
    if letter is None:
        raise refuse(f"{answer!r:.80}, which is not one of the {len(texts)} options")
    return ascii_uppercase.index(letter)


def _number(answer: str) -> int | None:
    """The integer of an answer that is only a number and may be an option's index."""
    bare = _bare(answer)
    return int(float(bare)) if _INDEX.fullmatch(bare) else None


def _split_labels(texts: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Split the labels from texts that all begin with one ("B) green"); return the texts and the labels, or None.

    The labels must be the first letters or numbers, in any order, so that a single "3) x" remains a text.
    """
    parts = [_LEADING_LABEL.fullmatch(text) for text in texts]
    labels = tuple((part[1] or part[2]) for part in parts if part is not None)
    rests = tuple(part[3] for part in parts if part is not None)
    count = len(texts)
    sets = [list(letters(count)), [str(i) for i in range(count)], [str(i + 1) for i in range(count)]]
    known = len(labels) == count and sorted(label.upper() for label in labels) in [sorted(each) for each in sets]
    return (rests, labels) if known and len(set(rests)) == count else (texts, None)


def _label(answer: str, labels: Sequence[str]) -> int | None:
    """The index of the label equal to `answer`: exactly, or uniquely without regard to case and the marks around it."""
    if answer in labels:
        return labels.index(answer)
    wanted = _folded(_bare(answer))
    same = [i for i, label in enumerate(labels) if _folded(_bare(label)) == wanted]
    return same[0] if wanted and len(same) == 1 else None


def _with_text(answer: str, texts: Sequence[str], labels: Sequence[str]) -> int | None:
    """The option whose label and text are `answer`, as in "B. green" or "(B) green"."""
    parts = _LABEL_AND_TEXT.fullmatch(answer)
    index = None if parts is None else _label(parts[1], labels)
    return index if parts is not None and index is not None and _folded(parts[2]) == _folded(texts[index]) else None


def _answer(record: Record, field: str, texts: tuple[str, ...]) -> str:
    """The answer as a text. A float that is not the text of an option loses a zero fraction: 1 for 1.0."""
    text, value = record.text_or_number(field), record.value(field)
    return text if text in texts or not isinstance(value, float) else plain_number(value)


def _bare(label: str) -> str:
    return label.lstrip(_BEFORE).rstrip(_AFTER)


def _shuffled(texts: tuple[str, ...], question: str) -> tuple[str, ...]:
    """The texts ordered by a hash of each with the question, so that no position is right more often."""
    return tuple(
        sorted(texts, key=lambda text: hashlib.sha256(f"{question}\0{text}".encode("utf-8", "surrogatepass")).digest())
    )


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _json(value: Any) -> Any:
    """Parse a list or mapping that a cell of a text file contains as JSON."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value
