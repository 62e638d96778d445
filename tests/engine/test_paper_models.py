"""A small random model with the configuration of each of the paper's checkpoints, rolled out and compared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from fastsia import Engine
from fastsia.config import SamplingParams
from fastsia.tasks.models import MODELS, ModelInfo
from tests.engine.naive import Comparison, rollout_alone

PAPER = [info for info in MODELS if not info.is_demo]
VOCAB, PROMPT, Y = 61, [5, 6, 7, 8], [20, 21, 22, 23, 24, 25, 26, 27, 28]


def small(info: ModelInfo) -> PreTrainedModel:
    """The checkpoint's switches and ratios at a size for a test: heads, caps, norms, ties and windows as they are."""
    shape = info.shape
    assert shape is not None
    heads = shape.num_attention_heads // shape.num_key_value_heads
    groups = 2 if shape.num_key_value_heads > 1 else 1
    rope = dict(shape.rope_parameters)
    if "original_max_position_embeddings" in rope:
        rope["original_max_position_embeddings"] = 64
    settings: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 4,
        "num_attention_heads": heads * groups,
        "num_key_value_heads": groups,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "tie_word_embeddings": shape.tie_word_embeddings,
        "rope_parameters": rope,
        "rms_norm_eps": shape.rms_norm_eps,
        "initializer_range": 0.25,
        "bos_token_id": None,
        "pad_token_id": 0,
        "eos_token_id": [1, 3],
    }
    if shape.sliding_window is not None:
        settings["sliding_window"] = 7
    if shape.attn_logit_softcapping is not None:
        # As strong beside this model's scores as the real ones never are: a weak cap would hide.
        settings |= {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(info.model_type, **settings), dtype=torch.float32)
    model.set_attn_implementation("eager")
    return model.eval()


def test_all_eleven_are_there() -> None:
    assert len(PAPER) == 11


@pytest.mark.parametrize("info", PAPER, ids=lambda info: info.name)
def test_rollouts_equal_those_computed_alone(info: ModelInfo) -> None:
    model = small(info)
    shape = info.shape
    assert shape is not None
    kinds = getattr(model.config, "layer_types", None) or []
    assert ("sliding_attention" in kinds) == (shape.sliding_window is not None)
    sampling = SamplingParams(0.8, 0.9, max_tokens=6, eos_token_id=(1, 3))
    engine = Engine(model, block_size=4, num_kv_blocks=300)
    drawn = engine.rollout_checkpoints(PROMPT, Y, [0, 5, 9], 4, sampling, seed=3)
    comparison = Comparison()
    for checkpoint, rollouts in drawn.items():
        for index, rollout in enumerate(rollouts):
            expected = rollout_alone(
                model,
                PROMPT + Y[:checkpoint],
                seed=3,
                checkpoint=checkpoint,
                rollout=index,
                temperature=0.8,
                top_p=0.9,
                limit=6,
                eos=(1, 3),
            )
            comparison.add(rollout, expected)
    comparison.check()
