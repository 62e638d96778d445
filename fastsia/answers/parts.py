"""Which tokens of a completion think and which state the answer."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fastsia.answers.reference import answer_begin
from fastsia.answers.spec import Spec
from fastsia.answers.vocabulary import NOTHING, Vocabulary


def answer_token(vocabulary: Vocabulary, token_ids: ArrayLike, spec: Spec) -> int | None:
    """The first token of a completion that belongs to its answer part, at most len(token_ids).

    The answer part begins behind the think block, where one opens the completion; else with the token that holds the
    first byte of the marker that the answer is read after. None where there is neither: an open block, or an answer
    that no marker announces.

    Args:
        token_ids: int [T], without the prompt.
        spec: the format, options and opened think block of the completion's problem.
    """
    ids = np.asarray(token_ids, dtype=np.int64).reshape(-1)
    pieces = [_piece(vocabulary, token_id, is_first=i == 0) for i, token_id in enumerate(ids.tolist())]
    begin = answer_begin(b"".join(pieces), spec)
    if begin is None:
        return None
    ends = np.cumsum([len(piece) for piece in pieces])
    return int(np.searchsorted(ends, begin, side="right"))


def _piece(vocabulary: Vocabulary, token_id: int, *, is_first: bool) -> bytes:
    """A token's share of the text. What a decoder drops at the beginning stays: it moves no marker."""
    if not 0 <= token_id < len(vocabulary) or vocabulary.kinds[token_id] == NOTHING:
        return b""
    piece = vocabulary.token_bytes(token_id)
    return piece if is_first else vocabulary.joiner + piece
