"""Marks of think blocks in prompts and completions."""

from __future__ import annotations

import pytest

from fastsia.answers.reference import is_thinking
from fastsia.answers.spec import Spec
from fastsia.answers.think import KNOWN_TAGS, closes_think, closing_mark, expects_think, opens_think


@pytest.mark.parametrize(("opening", "closing"), [*KNOWN_TAGS, ("<mull>", "</mull>")])
def test_every_pair_opens_and_closes(opening: str, closing: str) -> None:
    tags = ("<mull>", "</mull>")
    assert opens_think(f"assistant\n{opening}\n", tags)
    assert opens_think(f"{opening}a{closing}{opening}Well,", tags)
    for text in ("", f"{opening}\n\n{closing}\n\n", closing):
        assert not opens_think(text, tags)
    assert closes_think(f"{opening}\n\n{closing}\n\n", tags)
    assert not closes_think(f"{opening}\n", tags)
    assert not closes_think(f"Between {opening} and {closing}.\nassistant\n", tags)
    assert not closes_think("", tags)
    assert closing_mark(f"x{opening}y", tags) == closing
    assert expects_think(f"x{opening}y{closing}z", False) == ((opening, closing) in KNOWN_TAGS)


def test_where_nothing_is_open_the_usual_mark_is_named() -> None:
    assert closing_mark("so") == "</think>"


@pytest.mark.parametrize(
    ("text", "starts", "thinking"),
    [
        ("<think>\nso", False, True),
        ("[THINK]so", False, True),
        ("so", True, True),
        ("so </think> 4", True, False),
        ("a <think>", False, False),
        ("<think>a</think>\n<think>b", False, True),
        ("<think>a</think>b<think>", False, False),
    ],
)
def test_where_a_thinking_block_is_open(text: str, starts: bool, thinking: bool) -> None:
    assert is_thinking(text.encode(), Spec.of("number", None, starts)) == thinking
