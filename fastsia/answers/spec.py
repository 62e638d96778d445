"""What a text is read for: its format, its problem's options, and whether its prompt opened a think block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from fastsia.config import ANSWER_FORMATS, AnswerFormat, FastsiaError


@dataclass(frozen=True)
class Spec:
    """options: the options' texts as UTF-8, None where they are not known."""

    format: AnswerFormat
    options: tuple[bytes, ...] | None = None
    starts_in_think: bool = False

    @classmethod
    def of(cls, format: AnswerFormat, options: Sequence[str] | None = None, starts_in_think: bool = False) -> Spec:
        """The spec of what a caller gave.

        Raises:
            FastsiaError: for an unknown format, or options that are not texts.
        """
        if format not in ANSWER_FORMATS:
            raise FastsiaError(f"format must be one of {ANSWER_FORMATS}, got {format!r}.")
        if options is None:
            return cls(format, None, starts_in_think)
        if isinstance(options, str):
            raise FastsiaError(f"options must be a sequence of texts, got the text {options!r:.60}.")
        encoded = tuple(encode(option, f"options[{i}]") for i, option in enumerate(options))
        return cls(format, encoded, starts_in_think)

    def native(self, core: ModuleType) -> Any:
        """The same for the C++ core."""
        return core.Spec(ANSWER_FORMATS.index(self.format), self.options, self.starts_in_think)


def encode(text: object, name: str) -> bytes:
    """A text's UTF-8, lone surrogates included.

    Raises:
        FastsiaError: where it is no text.
    """
    if not isinstance(text, str):
        raise FastsiaError(f"{name} must be a text, got {text!r:.60}.")
    return text.encode("utf-8", "surrogatepass")
