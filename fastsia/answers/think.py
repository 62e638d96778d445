"""The marks that open and close a think block."""

from __future__ import annotations

from typing import Any

from fastsia.config import FastsiaError, is_text

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
    """An opening and a closing mark as a caller gave them.

    Raises:
        FastsiaError: where they are not two different texts without white space.
    """
    pair = tuple(tags) if isinstance(tags, (tuple, list)) else ()
    is_pair = len(pair) == 2 and all(is_text(mark) and mark and mark.split() == [mark] for mark in pair)
    if not is_pair or pair[0] == pair[1]:
        raise FastsiaError(f"think_tags must be two different marks without white space, got {tags!r:.80}.")
    return pair[0], pair[1]
