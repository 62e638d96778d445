"""The attention function of every Hugging Face decoder, registered with transformers as "fastsia"."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from fastsia.engine.inputs import Inputs
from fastsia.engine.rotary import Deferred, taken
from fastsia.ops.attend import attend, attend_operator

# transformers treats some names specially (flash, sdpa, flex_attention, "/", "paged|"), but not this one.
NAME = "fastsia"


class AttentionContext(NamedTuple):
    """Inputs of a step's attention besides the new tokens, passed as a keyword through the model's own call.

    Attributes:
        kv_cache: [num_layers, 2, num_blocks, block_size, num_kv_heads, head_dim].
        max_rows_per_prefix: the most rows of one trunk.
        deferred: see `Rotary`.
    """

    kv_cache: Tensor
    inputs: Inputs
    max_rows_per_prefix: int
    deferred: Deferred


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    fastsia_context: AttentionContext | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Store the new keys and values, then attend over trunk and suffix.

    query [1, num_heads, n, head_dim], key and value [1, num_kv_heads, n, head_dim], norms applied, and the rotary
    embedding unless it is deferred. Returns ([1, n, num_heads, head_dim], None).
    """
    if fastsia_context is None:
        raise RuntimeError('the attention "fastsia" only works in a forward pass that fastsia\'s engine makes')
    q, k, v = (new[0].transpose(0, 1) for new in (query, key, value))
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    kv_cache, inputs, max_rows_per_prefix, deferred = fastsia_context
    cos, sin = taken(deferred, query, key)
    run = attend_operator if torch.compiler.is_compiling() else attend
    out = run(
        q, k, v, kv_cache, module.layer_idx, *inputs[2:], max_rows_per_prefix, scale, sliding_window, softcap, cos, sin
    )
    return out[None], None


AttentionInterface.register(NAME, attention)


@contextmanager
def fastsia_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let the model attend through `attention` inside the block, and as before after it.

    Only inside: the same live model may be in training with its own attention between our calls.
    """
    config = model.config.get_text_config(decoder=True)
    before, training = config._attn_implementation, model.training
    config._attn_implementation = NAME
    if training:
        model.eval()
    try:
        yield
    finally:
        config._attn_implementation = before
        if training:
            model.train()
