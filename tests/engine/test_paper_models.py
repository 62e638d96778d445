"""A small random model with the configuration of each of the paper's checkpoints, rolled out and compared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from fastsia import Engine
from fastsia.config import SamplingParams
from fastsia.models.registry import MODELS, ModelInfo
from tests.engine.naive import Comparison, rollout_alone
from tests.models.architectures import architecture_of

PAPER = [info for info in MODELS if not info.is_demo]
VOCAB, PROMPT, Y = 61, [5, 6, 7, 8], [20, 21, 22, 23, 24, 25, 26, 27, 28]


def small(info: ModelInfo) -> PreTrainedModel:
    """The checkpoint's switches and ratios at a size for a test: heads, caps, norms, ties and windows as they are."""
    config = architecture_of(info)
    heads = config["num_attention_heads"] // config["num_key_value_heads"]
    groups = 2 if config["num_key_value_heads"] > 1 else 1
    settings: dict[str, Any] = config | {
        "vocab_size": VOCAB,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 4,
        "num_attention_heads": heads * groups,
        "num_key_value_heads": groups,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "rope_parameters": short_rope(config["rope_parameters"]),
        "initializer_range": 0.25,
        "bos_token_id": None,
        "pad_token_id": 0,
        "eos_token_id": [1, 3],
    }
    if "sliding_window" in config:
        settings["sliding_window"] = 7
    if "attn_logit_softcapping" in config:
        # As strong beside this model's scores as the real ones never are: a weak cap would hide.
        settings |= {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings), dtype=torch.float32)
    model.set_attn_implementation("eager")
    return model.eval()


def short_rope(rope: dict[str, Any]) -> dict[str, Any]:
    """The scaling of rotary positions, by kind of layer where a model has several, for a short context."""
    if "rope_type" not in rope:
        return {kind: short_rope(own) for kind, own in rope.items()}
    return rope | ({"original_max_position_embeddings": 64} if "original_max_position_embeddings" in rope else {})


def test_all_eleven_are_there() -> None:
    assert len(PAPER) == 11


@pytest.mark.parametrize("info", PAPER, ids=lambda info: info.name)
def test_rollouts_equal_those_computed_alone(info: ModelInfo) -> None:
    model = small(info)
    kinds = getattr(model.config, "layer_types", None) or []
    assert ("sliding_attention" in kinds) == ("sliding_window" in architecture_of(info))
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
