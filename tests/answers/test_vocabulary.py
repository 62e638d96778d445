"""Decoded texts equal the tokenizer's own for each kind of tokenizer; other kinds are refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from fastsia.answers.vocabulary import Vocabulary
from fastsia.errors import FastsiaError
from tests.answers import generate

CORPUS = [
    *generate.RATIONALES,
    "The quick brown fox — “jumps” over 1,234 lazy dogs; naïve café, Ελληνικά, русский.",
    "答案是42。 日本語のテキスト 😀 👩‍👩‍👧 🇫🇷 \t tabs\r\nand lines\u00a0\u00ad\u200b",
]


def byte_level() -> Tokenizer:
    """The kind of GPT-2, Qwen and Llama 3, with added tokens inside and outside the byte alphabet."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    tokenizer.add_tokens(["<think>", "</think>", "é", "日本", " spaced token "])
    return tokenizer


def sentencepiece(*steps: decoders.Decoder) -> Tokenizer:
    """The kind of Llama 2, Mistral and Gemma: pieces of "▁" words, and a token for every byte."""
    words = sorted({"▁" + word for text in CORPUS for word in text.split()} | set("".join(CORPUS)) | {"▁", "▁▁", "▁▁▁"})
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words, "<0xZZ>", "<0x41", "x<0x41>"]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(list(steps))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>")])
    tokenizer.add_tokens(["<think>", "▁added"])
    return tokenizer


def llama() -> Tokenizer:
    return sentencepiece(
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", left=1, right=0)
    )


def gemma() -> Tokenizer:
    return sentencepiece(decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse())


def metaspace(prepend_scheme: str) -> Tokenizer:
    """The kind of T5 and older Llamas."""
    pieces = sorted({"▁" + word for text in CORPUS for word in text.split()} | set("".join(CORPUS)) - set(" "))
    vocab = [("<unk>", 0.0), ("▁", -1.0), ("▁▁a", -1.0), *((piece, -2.0) for piece in pieces)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=prepend_scheme)
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    return tokenizer


def words_without_decoder() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "so": 1, "42": 2, "####": 3, "": 4, " ": 5}, unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken("<eos>", special=True)])
    return tokenizer


def characters() -> Tokenizer:
    """A small model's kind: one token for each character, fused; an unused id, and an added token with the id of
    another."""
    tokenizer = Tokenizer(models.WordLevel({char: 3 + i for i, char in enumerate("0123456789+-= \n#")}, unk_token="#"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken("<eos>", special=True)])
    return tokenizer


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level,
    "llama": llama,
    "gemma": gemma,
    "metaspace always": lambda: metaspace("always"),
    "metaspace first": lambda: metaspace("first"),
    "metaspace never": lambda: metaspace("never"),
    "words": words_without_decoder,
    "characters": characters,
}
build = cache(lambda kind: KINDS[kind]())


@pytest.mark.parametrize("kind", KINDS)
def test_decodes_as_the_tokenizer(kind: str, either: str) -> None:
    """Random ids (most of them invalid UTF-8 of byte tokens), real texts, special tokens inside, ids past the end."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=build(kind))
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    rng = random.Random(0)
    size = len(vocabulary)
    assert size >= len(tokenizer)
    rows = [[rng.randrange(size + 3) for _ in range(rng.randint(0, 12))] for _ in range(600)]
    rows += [tokenizer.encode(text) for text in CORPUS]
    specials = tokenizer.all_special_ids or [size - 1]
    rows += [[rng.choice([*row, *specials]) for _ in row] for row in rows[-len(CORPUS) :]]
    rows += [[token] for token in range(size)]
    expected = [tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False) for row in rows]
    ids = np.array([token for row in rows for token in row], dtype=np.int32)
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    assert vocabulary.decode_batch(ids, offsets) == expected
    assert [vocabulary.decode(row) for row in rows[:50]] == expected[:50]
    kept = Vocabulary.from_bytes(vocabulary.to_bytes())
    assert kept.decode_batch(ids, offsets) == expected


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_every_run_of_byte_tokens(kind: str, either: str) -> None:
    """A run that is not valid UTF-8 as a whole is one U+FFFD per byte, including its valid characters."""
    tokenizer = build(kind)
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    first = tokenizer.token_to_id("<0x00>")
    for run in (
        "é😀".encode(),
        b"A\xff",
        b"\xf0\x9f\x98",
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"\xf4\x90\x80\x80",
        b" \x20 ",
    ):
        ids = [first + byte for byte in run]
        assert vocabulary.decode(ids) == tokenizer.decode(ids)
        middle = [ids[0], tokenizer.token_to_id("</s>"), *ids[1:]]  # a special token does not end the run
        assert vocabulary.decode(middle) == tokenizer.decode(middle)


def test_invalid_utf8_is_replaced_as_the_tokenizer_does(either: str) -> None:
    """Each maximal part of a character is one U+FFFD."""
    tokenizer = build("byte-level")
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    by_bytes = {vocabulary.token_bytes(i): i for i in range(len(vocabulary))}
    rng = random.Random(1)
    for _ in range(2000):
        run = bytes(
            rng.choice(b"\x00A\x7f\x80\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xed\xef\xf0\xf4\xf5\xff") for _ in range(6)
        )
        ids = [by_bytes[run[i : i + 1]] for i in range(6)]
        assert vocabulary.decode(ids) == tokenizer.decode(ids)


MARKS = ("[THINK]", "[/THINK]", "<seed:think>", "<|channel|>", "<|message|>", "◁think▷", "<answer>")


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_that_are_think_marks_keep_their_text(kind: str, either: str) -> None:
    """Marks once decoded to nothing, so the draft between them was read as the answer. Other special tokens still
    do."""
    tokenizer = KINDS[kind]()
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in (*MARKS, "<|start|>", "[THINKING]")])
    vocabulary = Vocabulary.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    ids = [tokenizer.token_to_id(mark) for mark in (*MARKS, "<|start|>", "[THINKING]")]
    assert vocabulary.decode(ids) == vocabulary.joiner.decode().join(MARKS[:-1])
    known = Vocabulary.from_tokenizer(tokenizer, think_tags=("<answer>", "[THINKING]"))
    assert known.decode(ids) == vocabulary.joiner.decode().join([*MARKS, "[THINKING]"])
    parts = Vocabulary.from_tokenizer(tokenizer, think_tags=("<|start|>mull", "[THINKING]<answer>"))
    assert parts.decode(ids) == vocabulary.joiner.decode().join([*MARKS, "<|start|>", "[THINKING]"])
    assert Vocabulary.from_bytes(vocabulary.to_bytes()).decode(ids) == vocabulary.decode(ids)


def test_a_vocabulary_knows_of_its_think_marks() -> None:
    """Marks may be special tokens or not, single or composed; a token that only contains a mark is not one."""

    def has_marks(*tokens: str, special: bool) -> bool:
        tokenizer = characters()
        tokenizer.add_tokens([AddedToken(token, special=special) for token in tokens])
        vocabulary = Vocabulary.from_tokenizer(tokenizer)
        kept = Vocabulary.from_bytes(vocabulary.to_bytes())
        assert kept.has_think_marks == vocabulary.has_think_marks
        return vocabulary.has_think_marks

    for special in (True, False):
        assert has_marks("<think>", "</think>", special=special)
        assert has_marks("<|channel|>", "<|message|>", special=special)
        assert not has_marks("<|im_start|>", "<thinker>", "a<think>", "</think>", special=special)
    tokenizer = characters()
    tokenizer.add_tokens(["<mull>"])
    assert not Vocabulary.from_tokenizer(tokenizer).has_think_marks
    assert Vocabulary.from_tokenizer(tokenizer).has_marks(("<mull>", "</mull>"))


def test_token_bytes() -> None:
    tokenizer = build("byte-level")
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    answer_reading, end = tokenizer.token_to_id("<think>"), tokenizer.token_to_id("<|im_end|>")
    assert vocabulary.token_bytes(answer_reading) == b"<think>"
    assert vocabulary.token_bytes(end) == b""
    assert vocabulary.token_bytes(-1) == vocabulary.token_bytes(10**6) == b""
    assert vocabulary.token_bytes(tokenizer.token_to_id("Ġthe")) == b" the"


def test_a_large_vocabulary_round_trips() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 9, size=150_000)
    blob = rng.integers(0, 256, size=int(lengths.sum()), dtype=np.uint8).tobytes()
    vocabulary = Vocabulary(
        blob, np.concatenate([[0], np.cumsum(lengths)]), rng.integers(0, 3, 150_000).astype(np.uint8)
    )
    again = Vocabulary.from_bytes(vocabulary.to_bytes())
    assert again.blob == blob
    assert np.array_equal(again.offsets, vocabulary.offsets)
    assert np.array_equal(again.kinds, vocabulary.kinds)


@pytest.mark.parametrize("change", ["cut", "other", "empty", "inside", "blob"])
def test_damaged_bytes_are_refused(change: str) -> None:
    data = generate.byte_vocabulary().to_bytes()
    inside = bytearray(data)
    inside[len(data) // 2] ^= 255
    damaged = {"cut": data[:-9], "other": b"x" + data, "empty": b"", "inside": bytes(inside), "blob": data[:30]}[change]
    with pytest.raises(FastsiaError, match="vocabulary: "):
        Vocabulary.from_bytes(damaged)


def test_other_tokenizers_are_refused() -> None:
    with pytest.raises(FastsiaError, match="decoder WordPiece is not one"):
        Vocabulary.from_tokenizer(wordpiece())
    with pytest.raises(FastsiaError, match="is not a fast tokenizer"):
        Vocabulary.from_tokenizer(object())


def test_a_decoder_read_wrongly_is_noticed() -> None:
    """A tokenizer whose decode differs from its JSON (here, overridden) must be refused."""

    class Shouting(PreTrainedTokenizerFast):
        def _decode(self, *arguments: object, **options: object) -> str:
            return super()._decode(*arguments, **options).upper()  # type: ignore[no-any-return]

    with pytest.raises(FastsiaError, match="does not understand its decoder"):
        Vocabulary.from_tokenizer(Shouting(tokenizer_object=build("byte-level")))


@pytest.mark.parametrize(
    ("ids", "offsets", "message"),
    [
        ([1, 2], [0, 3], "offsets must be non-decreasing"),
        ([1, 2], [1, 0], "offsets must be non-decreasing"),
        ([1, 2], [-1, 2], "offsets must be non-decreasing"),
        ([1, 2], [], "offsets one longer"),
        ([[1, 2]], [0, 1], "one-dimensional"),
    ],
)
def test_ragged_rows_are_checked(ids: list[int], offsets: list[int], message: str, either: str) -> None:
    with pytest.raises(FastsiaError, match=message):
        generate.byte_vocabulary().decode_batch(ids, offsets)
