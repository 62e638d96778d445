"""Store a step's keys and values and attend over the cache, as one operator that torch.compile does not split."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from fastsia.ops import Ops
from fastsia.ops.reference import AttentionMetadata

_ops: ContextVar[Ops] = ContextVar("fastsia_ops")


@contextmanager
def using(ops: Ops) -> Iterator[None]:
    """Let `attend` use these ops inside the block; an operator's arguments can only be tensors and numbers."""
    token = _ops.set(ops)
    try:
        yield
    finally:
        _ops.reset(token)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kv_cache: Tensor,
    layer: int,
    slots: Tensor,
    prefix_tables: Tensor,
    cu_rows: Tensor,
    prefix_lens: Tensor,
    suffix_tables: Tensor,
    suffix_lens: Tensor,
    max_rows_per_prefix: int,
    scale: float,
    sliding_window: int | None,
    softcap: float | None,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
) -> Tensor:
    """`store_kv`, then `prefix_attention`, of one layer: [n, num_heads, head_dim].

    With cos and sin [n, head_dim], q and k are not rotated yet, and `rotate_and_store` takes the place of `store_kv`.

    The widths of the tables bound the largest prefix and suffix. A step is then described by its shapes alone, and a
    captured step can be replayed for every other of the same shapes.

    Args:
        kv_cache: [num_layers, 2, num_blocks, block_size, num_kv_heads, head_dim].
        max_rows_per_prefix: the most rows of one prefix.
    """
    ops = _ops.get()
    k_cache, v_cache = kv_cache[layer]
    if cos is None or sin is None:
        ops.store_kv(k, v, k_cache, v_cache, slots)
    else:
        q = ops.rotate_and_store(q, k, v, cos, sin, k_cache, v_cache, slots)
    block_size = kv_cache.shape[3]
    meta = AttentionMetadata(
        prefix_tables,
        cu_rows,
        prefix_lens,
        suffix_tables,
        suffix_lens,
        max_prefix_len=prefix_tables.shape[1] * block_size,
        max_suffix_len=suffix_tables.shape[1] * block_size,
        max_rows_per_prefix=max_rows_per_prefix,
    )
    return ops.prefix_attention(q, k_cache, v_cache, meta, scale, sliding_window=sliding_window, softcap=softcap)


attend_operator = torch.library.custom_op(
    "fastsia::attend",
    attend,
    mutates_args=("kv_cache",),
    schema="(Tensor q, Tensor k, Tensor v, Tensor(a!) kv_cache, int layer, Tensor slots, Tensor prefix_tables, "
    "Tensor cu_rows, Tensor prefix_lens, Tensor suffix_tables, Tensor suffix_lens, SymInt max_rows_per_prefix, "
    "float scale, int? sliding_window, float? softcap, Tensor? cos=None, Tensor? sin=None) -> Tensor",
)


@attend_operator.register_fake
def _(q: Tensor, *_: object) -> Tensor:
    return q.new_empty(q.shape)
