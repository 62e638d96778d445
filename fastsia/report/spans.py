"""The place in a text where its answer was read: the last place whose change changes the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastsia.answers.extraction import extract_answers

MOST_PLACES = 48
"""Places that are tried in a text, from its end."""

_NUMBER = re.compile(r"\d(?:[\d,.\u00a0 ]*\d)?(?:\s?/\s?\d+)?")
_BOX = re.compile(r"(?<=\\boxed\{)[^{}]*(?:\{[^{}]*\}[^{}]*)*(?=\})")
_LETTER = re.compile(r"(?<![A-Za-z])[A-Z](?![A-Za-z])")
_OTHER_NUMBER = "987654321"

Span = tuple[int, int]


@dataclass(frozen=True)
class AnswerPlaces:
    """Finds where the answers of one problem's texts were read.

    Attributes:
        answer_format: "number", "choice" or "boxed".
        choices: The options' texts, or None.
        regex: The run's own regular expression; None: the rules read the answers.
        reading: Further arguments of `extract_answers`, the same that the run was read with.
    """

    answer_format: Any
    choices: Sequence[str] | None = None
    regex: str | None = None
    reading: dict[str, Any] = field(default_factory=dict)

    def find(self, texts: Sequence[str], answers: Sequence[str | None], cut: Sequence[bool]) -> list[Span | None]:
        """The place of each text's answer, in characters; None where there is no answer or its place is not found.

        Args:
            texts: Whole texts, with the prefix that they continue.
            answers: As they were read.
            cut: Whether the token limit ended the text.
        """
        if self.regex is not None:
            return [
                None if answer is None else self._matched(text) for text, answer in zip(texts, answers, strict=True)
            ]
        changed: list[str] = []
        tried: list[tuple[int, Span]] = []
        for number, (text, answer) in enumerate(zip(texts, answers, strict=True)):
            for begin, end in () if answer is None else self._candidates(text):
                changed.append(text[:begin] + self._other(text[begin:end]) + text[end:])
                tried.append((number, (begin, end)))
        ends = [cut[number] for number, _ in tried]
        choices = None if self.choices is None else list(self.choices)
        read = (
            extract_answers(changed, self.answer_format, options=choices, cut=ends, **self.reading) if changed else []
        )
        found: list[Span | None] = [None] * len(texts)
        for (number, place), answer in zip(tried, read, strict=True):
            if found[number] is None and answer != answers[number]:
                found[number] = place
        return found

    def _candidates(self, text: str) -> list[Span]:
        """From the end of the text."""
        pattern = _LETTER if self.answer_format == "choice" else _NUMBER
        places = [match.span() for match in pattern.finditer(text)][-MOST_PLACES:]
        if self.answer_format == "boxed":
            boxes = [match.span() for match in _BOX.finditer(text)][-MOST_PLACES:]
            # The whole content of a box, rather than the numbers in it.
            places = [p for p in places if not any(begin <= p[0] < end for begin, end in boxes)] + boxes
        return sorted(places, reverse=True)

    def _other(self, value: str) -> str:
        if self.answer_format == "choice":
            return "B" if value == "A" else "A"
        return _OTHER_NUMBER

    def _matched(self, text: str) -> Span | None:
        matches = list(re.finditer(self.regex or "", text))
        if not matches:
            return None
        last = matches[-1]
        group: Any = "answer" if "answer" in last.re.groupindex else 1 if last.re.groups else 0
        begin, end = last.span(group)
        return None if begin < 0 else (begin, end)


def units(text: str) -> int:
    """The length of a text in a browser, which counts UTF-16 units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
