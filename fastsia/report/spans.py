"""The place in a text where its answer was read, the last one whose change changes the answer, and by which rule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fastsia.answers.extraction import extract_answers
from fastsia.answers.reference import rank_of_marker
from fastsia.answers.spec import Spec, encode

MOST_PLACES = 48
"""Places that are tried in a text, from its end."""
_ROUNDS = (2, 8, MOST_PLACES)
"""Places that have been tried after each round: most answers are among the last."""

_ASKED = {"number": "“####”", "choice": "“Answer:”", "boxed": "“\\boxed{}”"}
_STRONG = ("“####”", "“\\boxed{}”", "“Answer:”", "“final answer is”")
_AT_THE_END = {"number": "its last number", "choice": "the option that it chooses or ends with"}

_NUMBER = re.compile(r"\d(?:[\d,.\u00a0 ]*\d)?(?:\s?/\s?\d+)?")
_BOX = re.compile(r"(?<=\\boxed\{)[^{}]*(?:\{[^{}]*\}[^{}]*)*(?=\})")
_LETTER = re.compile(r"(?<![A-Za-z])[A-Z](?![A-Za-z])")
_OTHER_NUMBER = "987654321"

Span = tuple[int, int]

_NOTHING = "nothing in this text reads as one."


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
        places = [[] if answer is None else self._candidates(text) for text, answer in zip(texts, answers, strict=True)]
        found: list[Span | None] = [None] * len(texts)
        for first, stop in zip((0, *_ROUNDS), _ROUNDS, strict=False):
            tried = [
                (number, place)
                for number, mine in enumerate(places)
                if found[number] is None
                for place in mine[first:stop]
            ]
            changed = [
                texts[number][:begin] + self._other(texts[number][begin:end]) + texts[number][end:]
                for number, (begin, end) in tried
            ]
            ends = [cut[number] for number, _ in tried]
            choices = None if self.choices is None else list(self.choices)
            read = extract_answers(changed, self.answer_format, options=choices, cut=ends, **self.reading)
            for (number, place), answer in zip(tried, read, strict=True):
                if found[number] is None and answer != answers[number]:
                    found[number] = place
        return found

    @property
    def rules(self) -> dict[str, str]:
        """Why an answer was read, or none, in words, by the names that `rule` returns."""
        if self.regex is not None:
            return {"regex": "the last match of the run's own expression (--answer_regex) decides.", "none": _NOTHING}
        asked = _ASKED[self.answer_format]
        which = "last" if self.answer_format == "boxed" else "first"
        others = ", ".join(name for name in _STRONG if name != asked)
        return {
            "asked": f"the {which} {asked} that has a value decides, whatever else the text says.",
            "strong": f"the first of {others} that has a value decides, since no {asked} has one.",
            "stated": "the last statement such as “the answer is” decides, since "
            f"none of {', '.join(_STRONG)} has a value.",
            "end": f"{_AT_THE_END.get(self.answer_format)} is read, since nothing in the text announces an answer.",
            "cut": "the token limit cut this text, and the strict reading takes only what was stated completely.",
            "none": _NOTHING,
        }

    def rule(self, text: str, place: Span | None, answer: str | None, cut: bool) -> str | None:
        """Why an answer was read at its place, a key of `rules`; None where its place was not found."""
        if answer is None:
            is_strict = self.regex is None and self.reading.get("answer_reading", "strict") == "strict"
            return "cut" if cut and is_strict else "none"
        if place is None:
            return None
        if self.regex is not None:
            return "regex"
        rank = rank_of_marker(encode(text, "text"), len(encode(text[: place[0]], "text")), self._spec)
        return "end" if rank is None else ("asked", "strong", "stated")[rank - 1]

    @cached_property
    def _spec(self) -> Spec:
        reading = {name: value for name, value in self.reading.items() if name != "answer_reading"}
        return Spec.of(self.answer_format, self.choices, **reading)

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
