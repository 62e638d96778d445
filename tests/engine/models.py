"""Small random decoders, each with the features that make its family hard: what real checkpoints share with them."""

from __future__ import annotations

from functools import cache

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo3Config,
    Olmo3ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCAB = 97
EOS = (1, 11)
_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    # Wide weights make peaked, uneven distributions; the usual 0.02 would make every token about equally likely.
    "initializer_range": 0.25,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": list(EOS),
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def _llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**_COMMON, rope_parameters=_LLAMA3_ROPE, tie_word_embeddings=True))


def _llama_mha() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**{**_COMMON, "num_key_value_heads": 4}))


def _qwen2() -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**_COMMON, tie_word_embeddings=True))


def _qwen2_window() -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**_COMMON, use_sliding_window=True, sliding_window=7, max_window_layers=1))


def _gemma2() -> PreTrainedModel:
    # Low caps, so that leaving one out moves every logit.
    caps = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 6.0}
    return Gemma2ForCausalLM(Gemma2Config(**_COMMON, **caps, head_dim=16, query_pre_attn_scalar=8, sliding_window=7))


def _olmo3() -> PreTrainedModel:
    return Olmo3ForCausalLM(Olmo3Config(**{**_COMMON, "num_hidden_layers": 4}, sliding_window=7))


def _mistral() -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**_COMMON, sliding_window=9))


def _qwen3() -> PreTrainedModel:
    return Qwen3ForCausalLM(Qwen3Config(**_COMMON, head_dim=16))


def _phi3() -> PreTrainedModel:
    return Phi3ForCausalLM(Phi3Config(**_COMMON))


def _granite() -> PreTrainedModel:
    scales = {
        "logits_scaling": 3.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.7,
        "embedding_multiplier": 2.0,
    }
    return GraniteForCausalLM(GraniteConfig(**_COMMON, **scales))


_MAKERS = {
    "llama": _llama,
    "llama-mha": _llama_mha,
    "qwen2": _qwen2,
    "qwen2-window": _qwen2_window,
    "gemma2": _gemma2,
    "olmo3": _olmo3,
    "mistral": _mistral,
    "qwen3": _qwen3,
    "phi3": _phi3,
    "granite": _granite,
}
FAMILIES = tuple(_MAKERS)


@cache
def tiny_model(family: str) -> PreTrainedModel:
    """A float32 model of the family, the same every time; do not change its weights."""
    torch.manual_seed(list(_MAKERS).index(family) + 1)
    model = _MAKERS[family]().eval()
    model.set_attn_implementation("eager")
    return model
