"""Tokens that end a sequence: EOS ids, and stop texts, found by an automaton over token ids."""

from __future__ import annotations

import numpy as np

from fastsia.answers.vocabulary import Vocabulary
from fastsia.errors import FastsiaError


class StopTexts:
    """Finds stop texts in a growing text, one table look-up a token (Aho-Corasick, composed over each token's bytes).

    State 0 has read nothing of any text; `matched` is absorbing.
    """

    def __init__(self, texts: tuple[str, ...], vocabulary: Vocabulary, num_ids: int) -> None:
        """Compile the rules for a model of `num_ids` logits; ids past the vocabulary decode to nothing."""
        self._vocabulary = vocabulary
        self._patterns = [text.encode() for text in texts]
        step = self._byte_table()
        self.matched = len(step) - 1
        pieces = [self._piece(i) for i in range(min(len(vocabulary), num_ids))]
        lengths = np.zeros(num_ids, dtype=np.int64)
        lengths[: len(pieces)] = [len(piece) for piece in pieces]
        starts = np.cumsum(lengths) - lengths
        text = np.frombuffer(b"".join(pieces), dtype=np.uint8)
        self.table = np.repeat(np.arange(len(step), dtype=np.int16)[:, None], num_ids, axis=1)
        for offset in range(int(lengths.max(initial=0))):
            longer = np.flatnonzero(lengths > offset)
            self.table[:, longer] = step[self.table[:, longer], text[starts[longer] + offset]]

    def tokens_before(self, token_ids: np.ndarray) -> int:
        """Return the number of whole tokens before the first stop text; all of them where there is none."""
        pieces = [self._piece(int(i)) for i in token_ids]
        ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        text = b"".join(pieces)
        found = [at for at in (text.find(pattern) for pattern in self._patterns) if at >= 0]
        return int(np.searchsorted(ends, min(found), side="right")) if found else len(token_ids)

    def _piece(self, token: int) -> bytes:
        """Return the bytes that a token adds to a text; ids past the vocabulary and special tokens add none."""
        piece = self._vocabulary.token_bytes(token) if token < len(self._vocabulary) else b""
        return self._vocabulary.joiner + piece if piece else b""

    def _byte_table(self) -> np.ndarray:
        """[states, 256] -> state. States are the distinct proper beginnings of the texts, then `matched`."""
        beginnings = sorted({p[:n] for p in self._patterns for n in range(len(p))}, key=lambda b: (len(b), b))
        number = {beginning: i for i, beginning in enumerate(beginnings)}
        matched = len(beginnings)
        table = np.zeros((matched + 1, 256), dtype=np.int16)
        table[matched] = matched
        for beginning, state in number.items():
            for byte in range(256):
                text = beginning + bytes([byte])
                if any(text.endswith(pattern) for pattern in self._patterns):
                    table[state, byte] = matched
                else:
                    table[state, byte] = next(number[text[i:]] for i in range(len(text) + 1) if text[i:] in number)
        return table


class StopRules:
    """EOS ids and stop texts of a request, as tables over token ids.

    is_eos: bool [num_ids]. texts: None without stop texts.
    """

    def __init__(
        self, eos_token_ids: tuple[int, ...], stop: tuple[str, ...], vocabulary: Vocabulary | None, num_ids: int
    ) -> None:
        if stop and vocabulary is None:
            raise FastsiaError("stop texts need a tokenizer: pass one to Engine, or end sequences by eos_token_id.")
        outside = [i for i in eos_token_ids if not 0 <= i < num_ids]
        if outside:
            raise FastsiaError(
                f"eos_token_id {outside[0]} is not an id of the model's vocabulary (0 to {num_ids - 1})."
            )
        self.is_eos = np.zeros(num_ids, dtype=bool)
        self.is_eos[list(eos_token_ids)] = True
        self.texts = StopTexts(stop, vocabulary, num_ids) if stop and vocabulary is not None else None

    def advance(self, states: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(states after the tokens, where a stop text has appeared)."""
        if self.texts is None:
            return states, np.zeros(len(states), dtype=bool)
        after = self.texts.table[states, tokens].astype(states.dtype)
        return after, after == self.texts.matched

    def states_along(self, token_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For given tokens: state after 0, 1, ... of them, int32 [T + 1], and which of them complete a stop text, [T].

        A text inside given tokens ends nothing by itself, so the search restarts after it; a rollout that draws the
        completing token ends there.
        """
        states = np.zeros(len(token_ids) + 1, dtype=np.int32)
        completes = np.zeros(len(token_ids), dtype=bool)
        if self.texts is not None:
            for i, token in enumerate(token_ids):
                state = self.texts.table[states[i], token]
                completes[i] = state == self.texts.matched
                states[i + 1] = 0 if completes[i] else state
        return states, completes
