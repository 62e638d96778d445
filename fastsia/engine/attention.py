"""The one attention function that serves any Hugging Face decoder, registered with transformers as "fastsia"."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from fastsia.ops import Ops
from fastsia.ops.reference import AttentionMetadata

# transformers reads meanings into names (flash, sdpa, flex_attention, "/", "paged|"); this one carries none.
NAME = "fastsia"


@dataclass(frozen=True)
class AttentionContext:
    """What a step's attention needs besides the new tokens; travels as a keyword through the model's own call.

    kv_cache: [num_layers, 2, num_blocks, block_size, num_kv_heads, head_dim]. slots: int64 [n], where each row's key
    and value go.
    """

    ops: Ops
    kv_cache: Tensor
    slots: Tensor
    meta: AttentionMetadata


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

    query [1, num_heads, n, head_dim], key and value [1, num_kv_heads, n, head_dim], rotary embedding and norms
    applied. Returns ([1, n, num_heads, head_dim], None).
    """
    if fastsia_context is None:
        raise RuntimeError('the attention "fastsia" only works in a forward pass that fastsia\'s engine makes')
    ctx = fastsia_context
    k_cache, v_cache = ctx.kv_cache[module.layer_idx]
    ctx.ops.store_kv(key[0].transpose(0, 1), value[0].transpose(0, 1), k_cache, v_cache, ctx.slots)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    out = ctx.ops.prefix_attention(
        query[0].transpose(0, 1), k_cache, v_cache, ctx.meta, scale, sliding_window=sliding_window, softcap=softcap
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
