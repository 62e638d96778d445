"""A byte-level tokenizer over the tiny models' ids: single characters and a few longer pieces."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PIECES = ["Question", "Quest", "ion:", "n:", "\nQ", ":\n", "ab", "aab", "é"]


def tiny_tokenizer(size: int = 97) -> PreTrainedTokenizerFast:
    """`size` ids: printable characters, line breaks, then PIECES; id 1 is the special "<eos>"."""
    table = pre_tokenizers.ByteLevel(add_prefix_space=False)
    spell = lambda text: "".join(piece for piece, _ in table.pre_tokenize_str(text))  # noqa: E731
    characters = "\n :#.,0123456789ABCDEQabcdefghijklmnopqrstuvwxyz"
    words = ["<pad>", "<eos>", *map(spell, characters), *map(spell, PIECES)]
    words += [f"w{i}" for i in range(size - len(words))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = table
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
