"""Where checkpoints are placed, in tokens."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsia.answers.placement import Placement, token_offsets
from fastsia.answers.spec import Spec
from fastsia.answers.vocabulary import BYTE, NOTHING, TEXT, Vocabulary
from fastsia.errors import FastsiaError


def vocabulary(pieces: list[bytes], kind: int = TEXT) -> Vocabulary:
    """One token for each piece, then one without text."""
    offsets = np.cumsum([0, *map(len, pieces), 0])
    return Vocabulary(b"".join(pieces), offsets, np.array([*[kind] * len(pieces), NOTHING], dtype=np.uint8))


def placed(pieces: list[str], **how: Any) -> list[int]:
    spec = Spec.of("number")
    return Placement(spec=spec, **how).positions(range(len(pieces)), vocabulary([p.encode() for p in pieces])).tolist()


TEXT_PIECES = ["It", " is", " 3", ".", "5", ".\n\n", "So", " 7", ".", "\n", "####", " 7"]


@pytest.mark.parametrize(
    ("how", "positions"),
    [
        ({"stride": 5}, [0, 5, 10, 12]),
        ({"boundary": "sentence"}, [0, 6, 9, 12]),
        ({"boundary": "line"}, [0, 6, 10, 12]),
        ({"boundary": "step"}, [0, 6, 10, 12]),
        # The line break before the answer ends no sentence of its own.
        ({"boundary": "thinking"}, [0, 6, 10, 12]),
        ({"boundary": "sentence", "before_answer": True}, [0, 6, 10]),
        ({"stride": 4, "before_answer": True}, [0, 4, 8, 10]),
        ({"fixed": (2, 3, 12)}, [0, 2, 3, 12]),
        ({"fixed": ()}, [0, 12]),
        ({"function": lambda text, offsets: [offsets.index(text.index(" 7"))]}, [0, 7, 12]),
        ({"stride": 1, "most": 4}, [0, 4, 8, 12]),
        ({"stride": 1, "most": 2}, [0, 12]),
        ({"stride": 5, "most": 4}, [0, 5, 10, 12]),
    ],
)
def test_positions(how: dict[str, Any], positions: list[int]) -> None:
    assert placed(TEXT_PIECES, **how) == positions


def test_a_trajectory_without_tokens_has_one_checkpoint() -> None:
    assert all(placed([], boundary=name) == [0] for name in ("sentence", "line", "step", "thinking"))


def test_a_block_of_thinking_is_cut_inside_only() -> None:
    assert placed(["<think>", "One", ".", " B", "</think>", "C", ".", " D", "."], boundary="thinking") == [0, 3, 5, 9]


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=12), st.data())
def test_offsets_count_the_characters_that_are_complete(text: str, data: st.DataObject) -> None:
    """Tokens may end inside of a character, and its bytes may be tokens of their own."""
    encoded = text.encode("utf-8", "replace")
    cuts = sorted(data.draw(st.sets(st.integers(0, len(encoded)))) | {0, len(encoded)})
    pieces = [encoded[a:b] for a, b in pairwise(cuts)]
    kind = data.draw(st.sampled_from([TEXT, BYTE]))
    found, offsets = token_offsets(vocabulary(pieces, kind), [*range(len(pieces)), len(pieces)])
    assert found == encoded.decode()
    assert offsets[-1] == offsets[-2] if len(offsets) > 1 else True  # a token without text
    for cut, offset in zip(cuts, offsets, strict=False):
        assert offset == len(encoded[:cut].decode("utf-8", "ignore"))


def test_bytes_that_are_no_character_count_in_the_last_token() -> None:
    assert token_offsets(vocabulary([b"a", b"\xe2\x82"]), [0, 1]) == ("a\N{REPLACEMENT CHARACTER}", [0, 1, 2])


def fails(text: str, offsets: list[int]) -> list[int]:
    raise KeyError("x")


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (fails, "the function of checkpoints failed: KeyError: 'x'"),
        (lambda text, offsets: [13], "from 0 to the number of tokens (12), got 13."),
        (lambda text, offsets: [1.5], "got 1.5."),
    ],
)
def test_a_function_that_fails_is_named(function: Callable[..., Any], sentence: str) -> None:
    with pytest.raises(FastsiaError) as error:
        placed(TEXT_PIECES, function=function)
    assert sentence in str(error.value)


def test_a_position_beyond_the_trajectory_names_its_row() -> None:
    with pytest.raises(FastsiaError, match=r"^cuts, row 3: position 13 is beyond the trajectory's 12 tokens\.$"):
        placed(TEXT_PIECES, fixed=(1, 13), where="cuts, row 3")
