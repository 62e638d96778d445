"""The architectures of the paper's checkpoints, as in their published config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from fastsia.models.registry import ModelInfo

ARCHITECTURES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).resolve().parents[1] / "data" / "architectures.json").read_text(encoding="utf-8")
)
_NAMES = {
    "Qwen2.5-3B": "qwen2.5-3b",
    "Qwen2.5-3B-it": "qwen2.5-3b",
    "Qwen2.5-Math-1.5B": "qwen2.5-math-1.5b",
    "DeepSeek-Chat-7B": "deepseek-llm-7b",
    "DeepSeek-R1-Distilled": "r1-distill-qwen-7b",
    "Gemma-2-2B": "gemma-2-2b",
    "Gemma-2-2B-it": "gemma-2-2b",
    "LLaMA-3.2-3B": "llama-3.2-3b",
    "LLaMA-3.2-3B-it": "llama-3.2-3b",
    "Olmo-3-7B-Think-SFT": "olmo-3-7b",
    "Olmo-3-7B-Think": "olmo-3-7b",
}


def architecture_of(model: ModelInfo) -> dict[str, Any]:
    """The keyword arguments of `AutoConfig.for_model`."""
    return ARCHITECTURES[_NAMES[model.name]]


def architecture(name: str, small: bool = False) -> PretrainedConfig:
    """The config of an architecture, or of the model in a folder.

    A head that shares the embedding's weight gets its own: a step reads as much, and random ones can differ.
    """
    if name not in ARCHITECTURES:
        return AutoConfig.from_pretrained(name)
    fields = toy(ARCHITECTURES[name]) if small else ARCHITECTURES[name]
    return AutoConfig.for_model(**fields | {"tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None})


def toy(fields: dict[str, Any]) -> dict[str, Any]:
    """The same architecture, small: its ratio of heads, its caps and kinds of layers stay."""
    heads = 4
    small = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads * fields["num_key_value_heads"] // fields["num_attention_heads"]),
        "head_dim": 64,
        "vocab_size": 1024,
        "max_position_embeddings": 2048,
    }
    return fields | small | ({"sliding_window": 48} if "sliding_window" in fields else {})
