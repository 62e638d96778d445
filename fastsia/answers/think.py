"""The marks that open and close a think block."""

from __future__ import annotations

from typing import Any

from fastsia.config import is_tag_pair
from fastsia.errors import FastsiaError

KNOWN_TAGS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("◁think▷", "◁/think▷"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""(opening, closing) as models write them."""


def check_tags(tags: Any) -> tuple[str, str]:
    """Check a caller's opening and closing mark.

    Raises:
        FastsiaError: unless they are two different texts without white space.
    """
    if not is_tag_pair(tags):
        raise FastsiaError(f"think_tags must be two different marks without white space, got {tags!r:.80}.")
    return tags[0], tags[1]


def known_tags(think_tags: tuple[str, str] | None = None) -> tuple[tuple[str, str], ...]:
    """Return all known pairs of marks, the given one first."""
    return KNOWN_TAGS if think_tags is None else tuple(dict.fromkeys((think_tags, *KNOWN_TAGS)))


def opens_think(prompt_tail: str, think_tags: tuple[str, str] | None = None) -> bool:
    """Return whether a text ends inside a think block that it opens.

    Args:
        prompt_tail: the text that a template adds after the question; marks in the question do not open a block.
    """
    return any(prompt_tail.rfind(opening) > prompt_tail.rfind(closing) for opening, closing in known_tags(think_tags))


def closes_think(prompt_tail: str, think_tags: tuple[str, str] | None = None) -> bool:
    """Return whether a text ends with a closing mark, which templates write to disable thinking.

    Earlier marks may be an instruction to use them.
    """
    return prompt_tail.rstrip().endswith(tuple(closing for _, closing in known_tags(think_tags)))


def ends_with_opening(prompt: str, think_tags: tuple[str, str] | None = None) -> bool:
    """Return whether a prompt ends with an opening mark. For prompts in which the end of the question is unknown."""
    return prompt.rstrip().endswith(tuple(opening for opening, _ in known_tags(think_tags)))


def mentions_marks(text: str, think_tags: tuple[str, str] | None = None) -> bool:
    """Return whether a text contains a mark."""
    return any(mark in text for pair in known_tags(think_tags) for mark in pair)


def expects_think(prompt: str, has_think_marks: bool) -> bool:
    """Return whether a think block may follow a prompt.

    That is so if the model's vocabulary or the prompt has marks, and the prompt does not end with a closing mark.
    """
    return (has_think_marks or mentions_marks(prompt)) and not closes_think(prompt)


def closing_mark(text: str, think_tags: tuple[str, str] | None = None) -> str:
    """Return the closing mark of the last opening mark in a text; `</think>` if there is none."""
    at, closing = max((text.rfind(opening), closing) for opening, closing in known_tags(think_tags))
    return closing if at >= 0 else KNOWN_TAGS[0][1]
