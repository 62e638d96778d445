"""The bytes of each token of a tokenizer, which decode ids without the tokenizer."""

from __future__ import annotations

import json
import re
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsia.answers.think import known_tags
from fastsia.core import extension
from fastsia.errors import FastsiaError

TEXT, BYTE, NOTHING = 0, 1, 2  # kinds of tokens
_MAGIC = b"fastsia vocabulary 1\n"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The bytes of each token, and how a tokenizer joins them.

    Attributes:
        blob: the bytes of all tokens; token i is blob[offsets[i]:offsets[i + 1]].
        offsets: int64 [V + 1].
        kinds: uint8 [V]. TEXT; BYTE, a byte-fallback token: a run of them is text if it is valid UTF-8, else each is
            U+FFFD; NOTHING, a special token or an unused id. Special tokens that are marks of think blocks, or parts of
            such marks, are TEXT, because without them a draft could not be distinguished from an answer.
        joiner: bytes between two tokens.
        num_stripped: at most this many spaces are dropped from the beginning of a text.
        drops_first_spaces: all spaces of the first token are dropped (Metaspace).
    """

    blob: bytes
    offsets: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    joiner: bytes = b""
    num_stripped: int = 0
    drops_first_spaces: bool = False

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, think_tags: tuple[str, str] | None = None) -> Vocabulary:
        """Read the vocabulary of a fast tokenizer (of transformers or tokenizers) from its JSON.

        Supported are byte-level and sentencepiece-like decoders, including byte fallback and added tokens, and plain
        vocabularies without a decoder. The result is compared with the tokenizer's own `decode` on a few hundred ids.

        Args:
            think_tags: marks of think blocks in addition to the known ones.

        Raises:
            FastsiaError: for a tokenizer without such a JSON, or with an unsupported decoder.
        """
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not hasattr(backend, "to_str"):
            raise FastsiaError(
                f"tokenizer {type(tokenizer).__name__} is not a fast tokenizer: fastsia reads its tokenizer.json."
            )
        state = json.loads(backend.to_str())
        marks = _special_marks(state, think_tags)
        vocabulary = _from_json(state, marks)
        vocabulary._compare(tokenizer, marks, is_transformers=backend is not tokenizer)
        return vocabulary

    @classmethod
    def from_bytes(cls, data: bytes) -> Vocabulary:
        """Read the output of `to_bytes`.

        Raises:
            FastsiaError: if the data has another format or is damaged.
        """
        if not data.startswith(_MAGIC):
            raise FastsiaError("vocabulary: these bytes are not a vocabulary that this version of fastsia wrote.")
        try:
            content = zlib.decompress(data[len(_MAGIC) :])
            size, num_stripped, drops, joiner_size = struct.unpack_from("<IIBB", content)
            at = struct.calcsize("<IIBB")
            joiner = content[at : at + joiner_size]
            lengths = np.frombuffer(content, dtype="<u4", count=size, offset=at + joiner_size)
            kinds = np.frombuffer(content, dtype=np.uint8, count=size, offset=at + joiner_size + 4 * size)
        except (zlib.error, struct.error, ValueError) as error:
            raise FastsiaError(f"vocabulary: its bytes are damaged ({error}).") from error
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        blob = content[at + joiner_size + 5 * size :]
        if len(blob) != offsets[-1]:
            raise FastsiaError(f"vocabulary: its bytes are damaged ({len(blob)} bytes of text, not {offsets[-1]}).")
        return cls(blob, offsets, kinds.copy(), joiner, num_stripped, bool(drops))

    def to_bytes(self) -> bytes:
        """Return a compressed form that `from_bytes` reads. With it a stored run can be read without its model."""
        header = struct.pack("<IIBB", len(self), self.num_stripped, self.drops_first_spaces, len(self.joiner))
        lengths = np.diff(self.offsets).astype("<u4").tobytes()
        return _MAGIC + zlib.compress(header + self.joiner + lengths + self.kinds.tobytes() + self.blob, 6)

    def __len__(self) -> int:
        return len(self.kinds)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token without joiners; b"" for special tokens and unknown ids."""
        if not 0 <= token_id < len(self):
            return b""
        return self.blob[self.offsets[token_id] : self.offsets[token_id + 1]]

    def decode_bytes(self, token_ids: ArrayLike) -> bytes:
        """Decode ids to bytes, joined as by the tokenizer. Invalid UTF-8 of a byte-level tokenizer is kept."""
        text, run = bytearray(), bytearray()
        is_first = True
        for token_id in np.asarray(token_ids).tolist():
            kind = self.kinds[token_id] if 0 <= token_id < len(self) else NOTHING
            if kind == NOTHING:
                continue
            piece = self.token_bytes(token_id)
            if is_first and self.drops_first_spaces:
                piece = piece.replace(b" ", b"")
            if kind == BYTE:
                run += piece
            else:
                text += _valid_run(run)
                run.clear()
                text += piece if is_first else self.joiner + piece
            is_first = False
        text += _valid_run(run)
        num_spaces = len(text) - len(text.lstrip(b" "))
        return bytes(text[min(num_spaces, self.num_stripped) :])

    @cached_property
    def has_think_marks(self) -> bool:
        """Whether a token is an opening mark of a think block, or the special token with which one begins."""
        return self.has_marks()

    def has_marks(self, think_tags: tuple[str, str] | None = None) -> bool:
        """As `has_think_marks`, with the given marks in addition to the known ones."""
        starts = {_parts(opening)[0].encode() for opening, _ in known_tags(think_tags)}
        found = re.compile(b"|".join(map(re.escape, sorted(starts)))).finditer(self.blob)
        ends = self.offsets[1:]
        for match in found:
            token = int(np.searchsorted(ends, match.start(), side="right"))
            if self.token_bytes(token).strip() == match[0]:
                return True
        return False

    def decode(self, token_ids: ArrayLike) -> str:
        """Decode as tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).

        Special tokens that are marks of think blocks are kept.
        """
        ids = np.ascontiguousarray(token_ids, dtype=np.int32).reshape(-1)
        return self.decode_batch(ids, np.array([0, len(ids)], dtype=np.int64))[0]

    def decode_batch(self, token_ids: ArrayLike, offsets: ArrayLike) -> list[str]:
        """Decode ragged rows: row r is token_ids[offsets[r]:offsets[r + 1]] (int32, int64 [R + 1])."""
        ids, rows = ragged(token_ids, offsets)
        if self.native is not None:
            return self.native.decode(ids, rows)
        return [self.decode_bytes(ids[a:b]).decode("utf-8", "replace") for a, b in pairwise(rows.tolist())]

    @cached_property
    def native(self) -> Any | None:
        """The vocabulary in the C++ core, if that is built."""
        core = extension()
        if core is None:
            return None
        return core.Vocabulary(
            self.blob, self.offsets, self.kinds, self.joiner, self.num_stripped, self.drops_first_spaces
        )

    def _compare(self, tokenizer: Any, marks: set[int], *, is_transformers: bool) -> None:
        """Compare with the tokenizer on a few hundred ids, so that a misread decoder does not go unnoticed.

        Args:
            marks: special tokens that are text here.
        """
        options = {"clean_up_tokenization_spaces": False} if is_transformers else {}
        rng = np.random.default_rng(0)
        samples = [rng.integers(0, max(len(self), 1), size=size) for size in (*range(1, 9), *[16] * 16)]
        if len(self):
            samples.append(np.arange(len(self) - 1, max(len(self) - 33, -1), -1))  # added tokens have the last ids
        samples += [np.insert(rng.integers(0, len(self), size=4), 2, mark) for mark in sorted(marks)]
        for ids in samples:
            # The tokenizer skips all special tokens or none, but marks are kept here: with a mark, drop the others
            # first.
            has_mark = not marks.isdisjoint(ids.tolist())
            kept = [i for i in ids.tolist() if not has_mark or self.kinds[i] != NOTHING]
            theirs = tokenizer.decode(kept, skip_special_tokens=not has_mark, **options)
            ours = self.decode_bytes(ids).decode("utf-8", "replace")
            if ours != theirs:
                raise FastsiaError(
                    f"tokenizer {type(tokenizer).__name__} decodes {ids[:8].tolist()}... as {theirs[:40]!r}, "
                    f"its JSON says {ours[:40]!r}: fastsia does not understand its decoder."
                )


def ragged(token_ids: ArrayLike, offsets: ArrayLike) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return ragged rows as contiguous arrays.

    Raises:
        FastsiaError: if the offsets do not match the ids.
    """
    ids = np.ascontiguousarray(token_ids, dtype=np.int32)
    rows = np.ascontiguousarray(offsets, dtype=np.int64)
    if ids.ndim != 1 or rows.ndim != 1 or len(rows) < 1:
        raise FastsiaError("token_ids and offsets must be one-dimensional, offsets one longer than there are rows.")
    if rows[0] < 0 or rows[-1] > len(ids) or np.any(rows[1:] < rows[:-1]):
        raise FastsiaError(f"offsets must be non-decreasing and between 0 and {len(ids)}, the number of token_ids.")
    return ids, rows


def _valid_run(run: bytearray) -> bytes:
    """Decode a run of byte-fallback tokens: its text if it is UTF-8, else a replacement character for each byte."""
    try:
        run.decode()
    except UnicodeDecodeError:
        return _REPLACEMENT * len(run)
    return bytes(run)


def _byte_alphabet() -> dict[int, str]:
    """Return a table for `str.translate` from the characters of byte-level BPE (GPT-2) to their bytes as Latin-1.

    Printable Latin-1 characters represent themselves, the characters from U+0100 on the other bytes. Latin-1 characters
    that do not represent a byte map outside Latin-1, where encoding fails.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return dict.fromkeys(others, "\uffff") | {256 + place: chr(byte) for place, byte in enumerate(others)}


def _byte_level(text: str, alphabet: dict[int, str]) -> bytes:
    """The bytes of a byte-level token; a token with a character outside the alphabet is encoded as it is."""
    try:
        return text.translate(alphabet).encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()


_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


def _from_json(state: dict[str, Any], marks: set[int]) -> Vocabulary:
    tokens, nothing = _tokens(state, marks)
    steps = _steps(state.get("decoder"))
    kinds = np.zeros(len(tokens), dtype=np.uint8)
    kinds[nothing] = NOTHING
    joiner, num_stripped, drops_first_spaces, fused = b"", 0, False, False
    if not steps:
        joiner = b" "
    if steps and steps[0]["type"] == "ByteLevel" and len(steps) == 1:
        alphabet = _byte_alphabet()
        return _table([_byte_level(token, alphabet) for token in tokens], kinds)

    pieces: list[str] = tokens
    for step in steps:
        kind = step["type"]
        if kind == "Fuse":
            fused = True
        elif kind == "Strip" and fused and step["content"] == " " and step["stop"] == 0:
            num_stripped = step["start"]
        elif kind == "Replace" and not fused and "String" in step["pattern"]:
            pieces = [piece.replace(step["pattern"]["String"], step["content"]) for piece in pieces]
        elif kind == "ByteFallback" and not fused:
            is_byte = np.array([_BYTE_TOKEN.fullmatch(piece) is not None for piece in pieces], dtype=bool)
            kinds[is_byte & (kinds != NOTHING)] = BYTE
        elif kind == "Metaspace" and len(steps) == 1 and not any(" " in token for token in tokens):
            drops_first_spaces = step.get("prepend_scheme", "always") != "never"
            pieces = [piece.replace(step["replacement"], " ") for piece in pieces]
        else:
            raise FastsiaError(
                f"tokenizer's decoder {kind} is not one that fastsia can follow: it reads byte-level and "
                "sentencepiece-like tokenizers (ByteLevel; Replace, ByteFallback, Fuse, Strip; Metaspace)."
            )
    encoded = [
        bytes([int(piece[3:5], 16)]) if kind == BYTE else piece.encode("utf-8", "replace")
        for piece, kind in zip(pieces, kinds, strict=True)
    ]
    return _table(encoded, kinds, joiner, num_stripped, drops_first_spaces)


_PART = re.compile(r"<\|.*?\|>")


def _parts(mark: str) -> list[str]:
    """The special tokens of a mark: the mark itself, or e.g. `<|channel|>` and `<|message|>` with text between them."""
    parts = _PART.findall(mark)
    return parts if len(parts) > 1 else [mark]


def _special_marks(state: dict[str, Any], think_tags: tuple[str, str] | None) -> set[int]:
    """The ids of special tokens that are marks of think blocks or parts of one, or that occur in `think_tags`."""
    marks = {text for pair in known_tags() for mark in pair for text in (mark, *_parts(mark))}

    def is_mark(text: str) -> bool:
        return text in marks or (text != "" and any(text in mark for mark in think_tags or ()))

    added = state.get("added_tokens") or []
    return {token["id"] for token in added if token["special"] and is_mark(token["content"].strip())}


def _tokens(state: dict[str, Any], marks: set[int]) -> tuple[list[str], list[int]]:
    """Return the token of each id, and the ids without text: unused ids and special tokens except the marks."""
    vocab = state.get("model", {}).get("vocab")
    if isinstance(vocab, dict):
        by_id = {index: token for token, index in vocab.items()}
    elif isinstance(vocab, list):
        by_id = {index: entry[0] for index, entry in enumerate(vocab)}
    else:
        raise FastsiaError("tokenizer: its JSON has no model.vocab.")
    added = state.get("added_tokens") or []
    by_id |= {token["id"]: token["content"] for token in added}
    size = max(by_id, default=-1) + 1
    special = {token["id"] for token in added if token["special"]}
    nothing = special - marks | (set(range(size)) - by_id.keys())
    return ["" if index in nothing else by_id[index] for index in range(size)], sorted(nothing)


def _steps(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of the decoder, with sequences flattened."""
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [step for inner in decoder["decoders"] for step in _steps(inner)]
    return [decoder]


def _table(
    pieces: list[bytes],
    kinds: NDArray[np.uint8],
    joiner: bytes = b"",
    num_stripped: int = 0,
    drops_first_spaces: bool = False,
) -> Vocabulary:
    offsets = np.zeros(len(pieces) + 1, dtype=np.int64)
    np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
    return Vocabulary(b"".join(pieces), offsets, kinds, joiner, num_stripped, drops_first_spaces)
