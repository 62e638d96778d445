"""Splits the tokens of a completion into thinking and answer."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fastsia.answers.reference import answer_begin
from fastsia.answers.spec import Spec
from fastsia.answers.vocabulary import NOTHING, Vocabulary


def answer_token(vocabulary: Vocabulary, token_ids: ArrayLike, spec: Spec) -> int | None:
    """Return the first token of a completion's answer part, at most len(token_ids).

    The answer part begins after the think block if the completion begins with one, else with the token that contains
    the first byte of the answer's marker. None for a block that never closes and for an answer without a marker.

    Args:
        token_ids: int [T], without the prompt.
        spec: how the completion is read.
    """
    ids = np.asarray(token_ids, dtype=np.int64).reshape(-1)
    pieces = token_pieces(vocabulary, ids)
    begin = answer_begin(b"".join(pieces), spec)
    if begin is None:
        return None
    ends = np.cumsum([len(piece) for piece in pieces])
    return int(np.searchsorted(ends, begin, side="right"))


def token_pieces(vocabulary: Vocabulary, token_ids: ArrayLike) -> list[bytes]:
    """The bytes of each token in the text, b"" for special tokens and unknown ids."""
    ids = np.asarray(token_ids, dtype=np.int64).reshape(-1).tolist()
    return [_piece(vocabulary, token_id, is_first=i == 0) for i, token_id in enumerate(ids)]


def _piece(vocabulary: Vocabulary, token_id: int, *, is_first: bool) -> bytes:
    """The bytes of a token in the text. Bytes that a decoder drops at the beginning are kept: no marker is affected."""
    if not 0 <= token_id < len(vocabulary) or vocabulary.kinds[token_id] == NOTHING:
        return b""
    piece = vocabulary.token_bytes(token_id)
    return piece if is_first else vocabulary.joiner + piece
