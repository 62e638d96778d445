"""Detects, token by token, when no continuation can change a rollout's answer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsia.answers import reference
from fastsia.answers.spec import Spec
from fastsia.answers.vocabulary import TEXT, Vocabulary
from fastsia.config import AnswerFormat
from fastsia.core import extension
from fastsia.errors import FastsiaError


class AnswerStream:
    """Reads many growing texts ("slots") and reports when the answer of each is decided.

    A text is decided once the marker that its task's prompt asks for ("####" for numbers, "Answer:" for choices) has a
    value whose end has been read, outside any think block: "#### 42" may become 420, "#### 42\\n" may not. The boxed
    format is never decided, because the last box counts. The strict and lenient readings of a decided text agree.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._core = extension()
        self._machine: Any = (
            _ReferenceMachine(vocabulary) if self._core is None else self._core.AnswerStream(vocabulary.native)
        )
        self._num_specs = 0

    @property
    def native(self) -> Any:
        """The stream of the C++ core; None without the core."""
        return None if self._core is None else self._machine

    def open(self, spec: Spec | AnswerFormat, *args: Any, **reading: Any) -> int:
        """Add a spec for any number of slots and return its number.

        Args:
            spec: how the texts of these slots are read; or an answer format, with further arguments of `Spec.of`.
        """
        if not isinstance(spec, Spec):
            spec = Spec.of(spec, *args, **reading)
        self._machine.open(spec if self._core is None else spec.native(self._core))
        self._num_specs += 1
        return self._num_specs - 1

    def decided_at(self, spec: int, token_ids: ArrayLike) -> int | None:
        """Return the smallest length at which the text of token_ids[:length] is decided; None if there is none."""
        return self._machine.decided_at(self._known(spec), _int32(token_ids))

    def start(self, slots: ArrayLike, spec: int, prefix_ids: ArrayLike, prefix_lens: ArrayLike) -> NDArray[np.bool_]:
        """Restart slot slots[i] with the text of prefix_ids[:prefix_lens[i]]. Return which slots are decided, bool [k].

        Raises:
            FastsiaError: for a negative slot, or a length outside the prefix.
        """
        prefix, lens, slots = _int32(prefix_ids), _int32(prefix_lens), _slots(slots)
        if len(lens) != len(slots) or (len(lens) and (lens.min() < 0 or lens.max() > len(prefix))):
            raise FastsiaError(
                f"prefix_lens must have one length from 0 to {len(prefix)} for each of the {len(slots)} slots."
            )
        return self._machine.start(slots, self._known(spec), prefix, lens)

    def fork(self, src_slots: ArrayLike, dst_slots: ArrayLike) -> None:
        """Copy slot src_slots[i] to dst_slots[i], one pair after the other. A source must have been started."""
        src, dst = _slots(src_slots), _slots(dst_slots)
        if len(src) != len(dst):
            raise FastsiaError(f"fork needs as many dst_slots as src_slots, got {len(dst)} and {len(src)}.")
        try:
            self._machine.fork(src, dst)
        except ValueError as error:  # a slot that was not started
            raise FastsiaError(str(error)) from None

    def feed(self, slots: ArrayLike, tokens: ArrayLike) -> NDArray[np.bool_]:
        """Append tokens[i] to slot slots[i]. Return which slots are decided, bool [k]."""
        slots, tokens = _slots(slots), _int32(tokens)
        if len(slots) != len(tokens):
            raise FastsiaError(f"feed needs one token for each slot, got {len(tokens)} for {len(slots)}.")
        try:
            return self._machine.feed(slots, tokens)
        except ValueError as error:  # a slot that was not started
            raise FastsiaError(str(error)) from None

    def _known(self, spec: int) -> int:
        if not 0 <= spec < self._num_specs:
            raise FastsiaError(f"spec {spec} was not opened: there are {self._num_specs}.")
        return spec


def _int32(values: ArrayLike) -> NDArray[np.int32]:
    return np.ascontiguousarray(values, dtype=np.int32).reshape(-1)


def _slots(values: ArrayLike) -> NDArray[np.int32]:
    slots = _int32(values)
    if len(slots) and slots.min() < 0:
        raise FastsiaError(f"slots must not be negative, got {slots.min()}.")
    return slots


class _ReferenceMachine:
    """The stream without the C++ core: it reads each text again from its beginning."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._specs: list[Spec] = []
        self._texts: dict[int, tuple[int, list[int]]] = {}

    def open(self, spec: Spec) -> None:
        self._specs.append(spec)

    def decided_at(self, spec: int, token_ids: NDArray[np.int32]) -> int | None:
        ids = token_ids.tolist()
        if not self._is_decided(spec, ids):
            return None
        low, high = 0, len(ids)  # a decided text remains decided
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._is_decided(spec, ids[:middle]) else (middle + 1, high)
        return low

    def start(
        self, slots: NDArray[np.int32], spec: int, prefix_ids: NDArray[np.int32], prefix_lens: NDArray[np.int32]
    ) -> NDArray[np.bool_]:
        for slot, length in zip(slots.tolist(), prefix_lens.tolist(), strict=True):
            self._texts[slot] = spec, prefix_ids[:length].tolist()
        return np.array([self._is_decided(*self._texts[slot]) for slot in slots.tolist()], dtype=bool)

    def fork(self, src_slots: NDArray[np.int32], dst_slots: NDArray[np.int32]) -> None:
        for src, dst in zip(src_slots.tolist(), dst_slots.tolist(), strict=True):
            spec, ids = self._started(src)
            self._texts[dst] = spec, list(ids)

    def feed(self, slots: NDArray[np.int32], tokens: NDArray[np.int32]) -> NDArray[np.bool_]:
        decided = np.zeros(len(slots), dtype=bool)
        for i, (slot, token) in enumerate(zip(slots.tolist(), tokens.tolist(), strict=True)):
            spec, ids = self._started(slot)
            ids.append(token)
            decided[i] = self._is_decided(spec, ids)
        return decided

    def _started(self, slot: int) -> tuple[int, list[int]]:
        if slot not in self._texts:
            raise FastsiaError(f"slot {slot} was not started.")
        return self._texts[slot]

    def _is_decided(self, spec: int, ids: list[int]) -> bool:
        kinds, size = self._vocabulary.kinds, len(self._vocabulary)
        end = len(ids)  # a run of byte tokens at the end is not text yet: the next byte may make it invalid
        while end > 0 and not (0 <= ids[end - 1] < size and kinds[ids[end - 1]] == TEXT):
            end -= 1
        text = self._vocabulary.decode_bytes(ids[:end])
        return reference.is_decided(text, self._specs[spec])
