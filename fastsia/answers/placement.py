"""Placement of a trajectory's checkpoints: at a stride, at boundaries of its text, or at fixed positions."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastsia.answers.boundaries import line_ends, sentence_ends, step_ends
from fastsia.answers.parts import answer_token, token_pieces
from fastsia.answers.spec import Spec
from fastsia.answers.vocabulary import Vocabulary
from fastsia.config import integer
from fastsia.errors import FastsiaError, one_line

CheckpointFunction = Callable[[str, list[int]], Iterable[int]]
"""From a trajectory's text and offsets to the positions of its checkpoints, in tokens. offsets[t], 0 <= t <= T, is the
number of characters that the first t tokens have written."""

THINKING = "thinking"
BOUNDARIES: Mapping[str, Callable[[str], list[int]]] = {
    "sentence": sentence_ends,
    "line": line_ends,
    "step": step_ends,
    THINKING: sentence_ends,
}


@dataclass(frozen=True)
class Placement:
    """A rule for the checkpoints of one trajectory of T tokens. 0 and T are always among them.

    Attributes:
        stride: tokens between checkpoints; used where nothing else is set.
        boundary: a name in `BOUNDARIES`: at the ends of these parts of the text, "thinking" before the answer part.
        function: finds the positions.
        fixed: the positions, from a file; `where` names its row in errors.
        most: thin them evenly to at most so many, of which the first and the last stay; None: all.
        spec: how the trajectory is read; it says where the answer part begins.
        before_answer: leave out what is after the beginning of the answer part, which then takes the place of T.
    """

    stride: int = 20
    boundary: str | None = None
    function: CheckpointFunction | None = None
    fixed: tuple[int, ...] | None = None
    where: str = ""
    most: int | None = None
    spec: Spec | None = None
    before_answer: bool = False

    @property
    def is_regular(self) -> bool:
        """Whether only the stride places the checkpoints."""
        return self.boundary is None and self.function is None and self.fixed is None and self.most is None

    def positions(self, token_ids: ArrayLike, vocabulary: Vocabulary | None) -> np.ndarray:
        """The checkpoints of a trajectory; int32, ascending, distinct.

        Raises:
            FastsiaError: a fixed position is beyond the trajectory; the function fails or returns anything but such
                positions.
        """
        ids = np.asarray(token_ids, dtype=np.int64).reshape(-1)
        answer = self._answer(ids, vocabulary)
        last = answer if self.before_answer else len(ids)
        found = self._inner(ids, vocabulary, last, answer)
        found = np.unique(np.concatenate([[0], found[found < last], [last]])).astype(np.int32)
        if self.most is None or len(found) <= self.most:
            return found
        return found[np.linspace(0, len(found) - 1, self.most).round().astype(int)]

    def _answer(self, ids: np.ndarray, vocabulary: Vocabulary | None) -> int:
        """The first token of the answer part, T where there is none or where it does not matter."""
        matters = self.before_answer or self.boundary == THINKING
        if not matters or self.spec is None or vocabulary is None:
            return len(ids)
        found = answer_token(vocabulary, ids, self.spec)
        return len(ids) if found is None else found

    def _inner(self, ids: np.ndarray, vocabulary: Vocabulary | None, last: int, answer: int) -> np.ndarray:
        """The checkpoints between 0 and the last one; some may be after it."""
        if self.fixed is not None:
            beyond = next((position for position in self.fixed if position > len(ids)), None)
            if beyond is not None:
                raise FastsiaError(f"{self.where}: position {beyond} is beyond the trajectory's {len(ids)} tokens.")
            return np.array(self.fixed, dtype=np.int64)
        if self.function is None and self.boundary is None:
            return np.arange(0, len(ids), self.stride)
        if vocabulary is None:
            raise FastsiaError("checkpoints at boundaries of the text need the model's tokenizer; this model has none.")
        text, offsets = token_offsets(vocabulary, ids)
        if self.function is not None:
            return _checked(self.function, text, offsets)
        until = answer if self.boundary == THINKING else last
        text = text[: offsets[until]].rstrip()  # white space before the last checkpoint is no part of its own
        ends = [end for end in BOUNDARIES[self.boundary or ""](text) if end < len(text)]
        return np.append(np.searchsorted(offsets, ends), until)


def token_offsets(vocabulary: Vocabulary, token_ids: Sequence[int] | np.ndarray) -> tuple[str, list[int]]:
    """(the text of T tokens, how many of its characters the first 0, 1, ... T tokens have written).

    A character counts with the token that completes it. Bytes that are no character are U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    parts = [decoder.decode(piece) for piece in token_pieces(vocabulary, token_ids)]
    rest = decoder.decode(b"", final=True)
    if parts:
        parts[-1] += rest
    return "".join(parts), np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(int).tolist()


def _checked(function: CheckpointFunction, text: str, offsets: list[int]) -> np.ndarray:
    try:
        found: list[Any] = list(function(text, list(offsets)))
    except Exception as error:
        raise FastsiaError(f"the function of checkpoints failed: {type(error).__name__}: {one_line(error)}") from error
    positions = [integer(position) for position in found]
    most = len(offsets) - 1
    for position, value in zip(positions, found, strict=True):
        if position is None or not 0 <= position <= most:
            raise FastsiaError(
                f"the function of checkpoints must return positions from 0 to the number of tokens ({most}), got "
                f"{value!r:.60}."
            )
    return np.array(positions, dtype=np.int64)
