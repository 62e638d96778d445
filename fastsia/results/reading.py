"""How the answers of a run are read: while it is drawn, and again from the stored texts."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from fastsia.answers.equivalence import Classes, classes
from fastsia.answers.extraction import RULES_VERSION, Readings, canonical_gold, extract_rollouts
from fastsia.answers.reference import is_thinking
from fastsia.answers.spec import Spec
from fastsia.answers.vocabulary import Vocabulary
from fastsia.config import AnswerFormat, SIAConfig, is_text
from fastsia.engine.sequence import FinishReason, Trajectory
from fastsia.errors import FastsiaError, one_line
from fastsia.results.schema import AnsweredTrajectory, DrawnProblem, RolloutAnswers
from fastsia.results.writer import FindClasses, Reread, StoreWriter
from fastsia.tasks.prompt import reading_options

AnswerReader = Callable[[str], str | None]
"""From the text of a trajectory, or of a prefix with its continuation, to the answer; None if there is none."""


@dataclass(frozen=True)
class Reading:
    """The settings of a run that decide how its texts are read.

    Attributes:
        config: the run's settings.
        reader: a function in place of the rules.
    """

    config: SIAConfig
    reader: AnswerReader | None = None

    def __post_init__(self) -> None:
        if self.reader is not None and not callable(self.reader):
            raise FastsiaError(
                f"answer_reader must be a function from a text to a text or None, got {self.reader!r:.60}."
            )
        if self.reader is not None and self.config.answer_regex is not None:
            raise FastsiaError("answer_reader and answer_regex are two readers; give one of them.")

    @property
    def is_custom(self) -> bool:
        """Whether a function or a regular expression reads the answers, not the package's rules."""
        return self.reader is not None or self.config.answer_regex is not None

    def facts(self) -> dict[str, Any]:
        """The settings of reading that are stored with a run, to know whether a later reading would differ."""
        return {
            "rules": RULES_VERSION,
            "answer_reading": self.config.answer_reading,
            "equivalence": self.config.equivalence,
            "answer_regex": self.config.answer_regex,
            "answer_reader": None if self.reader is None else name_of(self.reader),
        }

    @property
    def find_classes(self) -> FindClasses | None:
        """The function that finds equal answers; None if only equal spellings are equal.

        It compares boxed answers only: numbers and letters have one spelling each. It is slow, so it is called after
        drawing.
        """
        method = self.config.equivalence
        if method == "spelling":
            return None

        def find(answers: Sequence[str], gold: str, answer_format: AnswerFormat) -> Classes:
            return classes(answers, gold, method=method) if answer_format == "boxed" else Classes({})

        return find

    def read(self, of: DrawnProblem, vocabulary: Vocabulary) -> list[AnsweredTrajectory]:
        """Read the answers of a problem's trajectories and of all their rollouts.

        A rollout's text is that of the trajectory's tokens before it and its own tokens, or only of its own where the
        prefix was shuffled.
        """
        return [self._read(number, drawn, of, vocabulary) for number, drawn in of.trajectories]

    def reread(
        self,
        writer: StoreWriter,
        vocabulary: Vocabulary,
        identity: Mapping[str, Any],
        golds: Mapping[int, str] | None = None,
    ) -> Reread:
        """Read stored texts again: with golds and an unchanged reading only those of corrected golds, else all.

        Args:
            writer: of the run's folder.
            vocabulary: of the run.
            identity: of the run; its config replaces the stored one.
            golds: corrected gold answers, by position.
        """
        facts = self.facts()
        return writer.reread(
            lambda stored: self.read(stored, vocabulary),
            identity,
            facts,
            find_classes=self.find_classes,
            golds=golds,
            positions=golds if golds and writer.stored_reading == facts else None,
        )

    def _read(self, number: int, drawn: Trajectory, of: DrawnProblem, vocabulary: Vocabulary) -> AnsweredTrajectory:
        text = vocabulary.decode(drawn.token_ids)
        if drawn.rollouts is None:
            return AnsweredTrajectory(number, drawn, text, None, None, None, False)
        read = self._by_reader if self.is_custom else self._by_rules
        strict, lenient = read(drawn, text, of, vocabulary)
        own = (strict.pop(), lenient.pop())
        chosen = 0 if self.config.answer_reading == "strict" else 1
        return AnsweredTrajectory(
            number=number,
            trajectory=drawn,
            text=text,
            answer=own[chosen],
            answer_strict=own[0],
            answer_lenient=own[1],
            correct=own[chosen] == of.problem.gold,
            rollout_answers=RolloutAnswers((strict, lenient)[chosen], strict, lenient),
        )

    def _by_reader(self, drawn: Trajectory, text: str, of: DrawnProblem, vocabulary: Vocabulary) -> Readings:
        """As `_by_rules`. Texts that the token limit ended have no answer in the strict reading."""
        rollouts = drawn.rollouts
        assert rollouts is not None
        read = self.reader or _regex_reader(self.config.answer_regex or "")
        known: dict[str, str | None] = {}
        lenient: list[str | None] = []
        for r in range(len(rollouts)):
            ids = rollouts.token_ids[rollouts.offsets[r] : rollouts.offsets[r + 1]]
            if not self.config.shuffle_prefix:
                ids = np.concatenate([drawn.token_ids[: rollouts.checkpoint[r]], ids])
            whole = vocabulary.decode(ids)
            if whole not in known:
                known[whole] = _read_one(read, whole, of)
            lenient.append(known[whole])
        lenient.append(_read_one(read, text, of))
        return Readings([None if cut else answer for cut, answer in zip(_cut(drawn), lenient, strict=True)], lenient)

    def _by_rules(self, drawn: Trajectory, text: str, of: DrawnProblem, vocabulary: Vocabulary) -> Readings:
        """(strict, lenient) answers of the rollouts and, last, of the trajectory."""
        rollouts = drawn.rollouts
        assert rollouts is not None
        whole = np.array([len(drawn.token_ids)], dtype=np.int32)
        ids, offsets, cut = rollouts.token_ids, rollouts.offsets, _cut(drawn)

        def extract(
            lens: np.ndarray, tokens: np.ndarray, ends: np.ndarray, in_think: bool, ended: np.ndarray
        ) -> Readings:
            return extract_rollouts(
                vocabulary,
                drawn.token_ids,
                lens,
                tokens,
                ends,
                of.answer_format,
                options=of.problem.choices,
                starts_in_think=in_think,
                cut=ended,
                **reading_options(self.config),
            )

        if not self.config.shuffle_prefix:
            # The trajectory is one more sequence: all of it is prefix, nothing is drawn.
            lens = np.concatenate([rollouts.checkpoint, whole]).astype(np.int32)
            return extract(lens, ids, np.append(offsets, offsets[-1]), of.starts_in_think, cut)
        spec = Spec.of(of.answer_format, of.problem.choices, of.starts_in_think, **reading_options(self.config))
        inside = _rows_in_think(drawn, text, vocabulary, spec)
        strict: list[str | None] = []
        lenient: list[str | None] = []
        for begin, end in pairwise([0, *(np.flatnonzero(np.diff(inside)) + 1), len(rollouts)]):
            if end > begin:
                ends = offsets[begin : end + 1]
                lens = np.zeros(end - begin, dtype=np.int32)
                one, other = extract(lens, ids[ends[0] : ends[-1]], ends - ends[0], bool(inside[begin]), cut[begin:end])
                strict, lenient = strict + one, lenient + other
        nothing = np.zeros(0, dtype=np.int32)
        one, other = extract(whole, nothing, np.zeros(2, dtype=np.int64), of.starts_in_think, cut[-1:])
        return Readings(strict + one, lenient + other)


def _cut(drawn: Trajectory) -> np.ndarray:
    """bool [R + 1]: whether the token limit ended each rollout and, last, the trajectory."""
    assert drawn.rollouts is not None
    return np.append(drawn.rollouts.finish_reason == FinishReason.LENGTH, drawn.finish_reason == "length")


def _rows_in_think(drawn: Trajectory, text: str, vocabulary: Vocabulary, spec: Spec) -> np.ndarray:
    """bool [R]: whether each rollout starts inside a think block of its trajectory, whose text is `text`."""
    assert drawn.rollouts is not None
    checkpoints, of_row = np.unique(drawn.rollouts.checkpoint, return_inverse=True)
    if not spec.starts_in_think and not any(mark in text.encode() for mark, _ in spec.think_tags):
        return np.zeros(len(of_row), dtype=bool)
    prefixes = (vocabulary.decode(drawn.token_ids[:t]).encode() for t in checkpoints.tolist())
    return np.array([is_thinking(prefix, spec) for prefix in prefixes], dtype=bool)[of_row]


# --- other readers than the rules ------------------------------------------------------------------------------


def _regex_reader(pattern: str) -> AnswerReader:
    compiled = re.compile(pattern)
    group: str | int = "answer" if "answer" in compiled.groupindex else 1 if compiled.groups else 0

    def read(text: str) -> str | None:
        last = deque(compiled.finditer(text), maxlen=1)
        return last[0].group(group) if last else None

    return read


def _read_one(read: AnswerReader, text: str, of: DrawnProblem) -> str | None:
    """The answer that a reader finds, stripped. Values of the format are spelled as gold answers are."""
    problem = of.problem
    try:
        found = read(text)
    except Exception as error:
        raise FastsiaError(
            f"answer_reader failed on a text of problem {problem.id!r}: {type(error).__name__}: {one_line(error)}"
        ) from error
    if found is not None and not is_text(found):
        raise FastsiaError(f"answer_reader must return a text or None, got {found!r:.60} for problem {problem.id!r}.")
    answer = (found or "").strip()
    return canonical_gold(answer, of.answer_format, problem.choices) or answer if answer else None


def name_of(function: Callable[..., Any]) -> str:
    """A function's name and the hash of its source, or of its byte code if there is no source."""
    while isinstance(function, functools.partial):
        function = function.func
    function = function if inspect.isroutine(function) else type(function)
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', function)}".strip(".")
    try:
        source = inspect.getsource(function).encode("utf-8", "replace")
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        if code is None:
            return name
        constants = [value for value in code.co_consts if not inspect.iscode(value)]
        source = code.co_code + repr((code.co_names, constants)).encode()
    return f"{name} sha256:{hashlib.sha256(source).hexdigest()[:16]}"
