"""How a text is read: the answer format, the problem's options, and the think blocks of the prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from fastsia.answers.think import KNOWN_TAGS, check_tags
from fastsia.config import ANSWER_FORMATS, AnswerFormat
from fastsia.errors import FastsiaError

_SENTENCE_END = re.compile(rb"[.?][*_\"')\]]{0,4}[ \t]")


@dataclass(frozen=True)
class Spec:
    """How a text is read.

    Attributes:
        answer_format: "number", "choice" or "boxed".
        options: the texts of the options as UTF-8; None if they are unknown.
        starts_in_think: the prompt opened a think block.
        think_tags: opening and closing marks of think blocks, as UTF-8.
        stop_texts: the text counts up to a line that begins with "Question:" or "Q:", as after a plain-text prompt.
        expects_think: a think block may still open, so no answer is decided before one has closed.
    """

    answer_format: AnswerFormat
    options: tuple[bytes, ...] | None = None
    starts_in_think: bool = False
    think_tags: tuple[tuple[bytes, bytes], ...] = tuple((a.encode(), b.encode()) for a, b in KNOWN_TAGS)
    stop_texts: bool = True
    expects_think: bool = False

    @classmethod
    def of(
        cls,
        answer_format: AnswerFormat,
        options: Sequence[str] | None = None,
        starts_in_think: bool = False,
        *,
        think_tags: tuple[str, str] | None = None,
        stop_texts: bool = True,
        expects_think: bool = False,
    ) -> Spec:
        """Check and encode a caller's arguments; `think_tags` are added to the known marks.

        Raises:
            FastsiaError: for an unknown format, or options that are not texts.
        """
        if answer_format not in ANSWER_FORMATS:
            raise FastsiaError(f"answer_format must be one of {', '.join(ANSWER_FORMATS)}, got {answer_format!r}.")
        tags = KNOWN_TAGS if think_tags is None else (check_tags(think_tags), *KNOWN_TAGS)
        encoded = tuple((encode(a, "think_tags[0]"), encode(b, "think_tags[1]")) for a, b in tags)
        texts = None
        if isinstance(options, str):
            raise FastsiaError(f"options must be a sequence of texts, got the text {options!r:.60}.")
        if options is not None:
            texts = tuple(encode(option, f"options[{i}]") for i, option in enumerate(options))
        return cls(answer_format, texts, starts_in_think, encoded, stop_texts, expects_think)

    def window(self, size: int) -> int:
        """Return how many bytes after a marker may contain its value: `size`, or more for options with long texts."""
        return max([size, *(len(option) + 64 for option in self.options or ())])

    @property
    def options_have_sentences(self) -> bool:
        """Whether the text of an option contains the end of a sentence."""
        return any(_SENTENCE_END.search(option) for option in self.options or ())

    def native(self, core: ModuleType) -> Any:
        """Return the spec of the C++ core."""
        return core.Spec(
            ANSWER_FORMATS.index(self.answer_format),
            self.options,
            self.starts_in_think,
            self.think_tags,
            self.stop_texts,
            self.expects_think,
        )


def encode(text: object, name: str) -> bytes:
    """Encode a text as UTF-8, including lone surrogates.

    Raises:
        FastsiaError: if it is not a text; `name` is its name in the error.
    """
    if not isinstance(text, str):
        raise FastsiaError(f"{name} must be a text, got {text!r:.60}.")
    return text.encode("utf-8", "surrogatepass")
