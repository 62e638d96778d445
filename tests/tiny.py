"""A small random model for tests of the whole pipeline; its texts contain enough numbers to give answers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from fastsia import Problem

EOS = "<eos>"
PROBLEMS = [Problem(f"p{i}", f"What is {i} modulo 10?", str(i % 10)) for i in range(12)]
NUM_PROBLEMS = 24
"""Number of problems in the data file of whole runs (`questions` in conftest.py)."""


def tiny_tokenizer(special: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes, an EOS and further special tokens; any text encodes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate([EOS, *alphabet])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS)


def tiny_model(seed: int = 0, context: int = 512, special: tuple[str, ...] = ()) -> tuple[Any, Any]:
    """(model, tokenizer); draws mostly digits, '#', spaces, line ends, EOS and the further special tokens."""
    tokenizer = tiny_tokenizer(special)
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.25,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=None,
        tie_word_embeddings=False,
    )
    model = Qwen2ForCausalLM(config).eval()
    likely = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids([*"0123456789#", "Ġ", "Ċ", *special])]
    unlikely = torch.ones(len(tokenizer), dtype=torch.bool)
    unlikely[likely] = False
    with torch.no_grad():
        model.lm_head.weight[unlikely] = 0.02 * model.lm_head.weight[unlikely]
        model.lm_head.weight[likely] *= 1.5
    return model, tokenizer


@cache
def shared_model() -> tuple[Any, Any]:
    """One tiny model for all tests that do not change it."""
    return tiny_model()


def save_tiny(folder: Path, seed: int = 0, context: int = 512) -> Path:
    """A tiny model as a Hugging Face folder."""
    model, tokenizer = tiny_model(seed, context)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
