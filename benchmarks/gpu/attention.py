"""Attention of other libraries for bench_prefix_attention, which runs on CUDA only: flex_attention and FlashInfer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def flex(scale: float, slots_of: Callable[[Tensor, int], Tensor], step: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """flex_attention over all trunks and then all suffixes, with a block mask; gathered in the call."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    meta, device = step.meta, step.q.device
    lengths = meta.suffix_lens.long()
    shared = len(meta.prefix_tables) * step.trunk
    slots = torch.cat(
        [slots_of(table, step.trunk) for table in meta.prefix_tables]
        + [slots_of(table, length) for table, length in zip(meta.suffix_tables, lengths.tolist(), strict=True)]
    )
    none = torch.full((len(slots),), -1, device=device)
    owner, trunk_of, position = none, none.clone(), none.clone()
    owner[shared:] = torch.repeat_interleave(lengths)
    trunk_of[:shared] = torch.arange(shared, device=device) // step.trunk
    position[:shared] = torch.arange(shared, device=device) % step.trunk
    prefix, cap = meta.prefix_lens.long(), step.softcap

    def sees(_batch: Tensor, _head: Tensor, row: Tensor, key: Tensor) -> Tensor:
        return (owner[key] == row) | ((trunk_of[key] == step.trunk_of[row]) & (position[key] < prefix[row]))

    def score(value: Tensor, *_: Any) -> Tensor:
        return value if cap is None else cap * torch.tanh(value / cap)

    mask = create_block_mask(sees, None, None, len(step.q), len(slots), device=device, _compile=True)
    compiled = torch.compile(flex_attention, dynamic=False)
    q = step.q.transpose(0, 1)[None]

    def attend(k: Tensor, v: Tensor) -> Tensor:
        keys, values = (cache.flatten(0, 1)[slots].transpose(0, 1)[None] for cache in (k, v))
        return compiled(q, keys, values, score_mod=score, block_mask=mask, scale=scale, enable_gqa=True)

    return attend


def flashinfer_calls(step: Any, scale: float, page: int, cascade: bool) -> list[Callable[[], Tensor]]:
    """FlashInfer's attention for the kernel benchmark, on caches of its own with as many tokens.

    Args:
        step: `bench_prefix_attention.Step`.
        scale: of the scores.
        page: tokens per page.
        cascade: trunks and suffixes as two levels; else each row has pages for all the tokens it sees.
    """
    import flashinfer

    device, (rows, num_heads, head_dim) = step.q.device, step.q.shape
    num_kv_heads = step.caches[0].shape[3]
    workspace = torch.empty(256 << 20, dtype=torch.uint8, device=device)
    heads = (num_heads, num_kv_heads, head_dim, page)
    settings = {"sm_scale": scale, "logits_soft_cap": step.softcap, "q_data_type": step.q.dtype}
    suffix = step.meta.suffix_lens.long()

    def pages(lengths: Tensor, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        counts = -(-lengths // page)
        indptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()
        indices = torch.arange(first, first + int(counts.sum()), device=device).int()
        return indptr, indices, ((lengths - 1) % page + 1).int()

    if cascade:
        trunks = pages(torch.full((len(step.meta.prefix_tables),), step.trunk, device=device))
        own = pages(suffix, len(trunks[1]))
        num_pages = len(trunks[1]) + len(own[1])
        wrapper = flashinfer.MultiLevelCascadeAttentionWrapper(2, workspace, "NHD")
        indptr = [step.meta.cu_rows, torch.arange(rows + 1, dtype=torch.int32, device=device)]
        wrapper.plan(indptr, *map(list, zip(trunks, own, strict=True)), *heads, **settings)
    else:
        table = pages(suffix + step.meta.prefix_lens.long())
        num_pages = len(table[1])
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=True)
        wrapper.plan(*table, *heads, **settings)
    shape = (num_pages, 2, page, num_kv_heads, head_dim)
    caches = [torch.randn(shape, device=device, dtype=step.q.dtype) for _ in step.caches]
    return [lambda cache=cache: wrapper.run(step.q, cache) for cache in caches]
