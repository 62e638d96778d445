"""Shared-prefix attention against its bytes, FlashInfer's cascade and paged decode, SDPA and flex_attention.

One decode step of one layer: the rows of a batch on a few trunks of 300 tokens, at 16 checkpoints, with suffixes of 300
tokens on average. "whole": every row sees its whole trunk, which is all that a cascade supports; "checkpoints": each
row sees the trunk up to its own checkpoint. FlashInfer's paths get caches of their own with as many tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fastsia.ops import reference, select
from fastsia.ops.reference import AttentionMetadata

# num_heads, num_kv_heads, head_dim, softcap
HEADS = {
    "qwen2.5-3b": (16, 2, 128, None),
    "gemma-2-2b": (8, 4, 256, 50.0),
    "deepseek-7b": (32, 32, 128, None),
    "llama-3.2-3b": (24, 8, 128, None),
}
BLOCK, CHECKPOINTS, SCALE = 16, 16, 0.08
Attend = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """A decode step's inputs.

    Attributes:
        q: [rows, num_heads, head_dim].
        caches: as many pairs (k, v) as keep one call's data out of the next call's cache.
        trunk_of: int64 [rows], the trunk that each row is on.
        trunk: tokens of each trunk.
    """

    q: Tensor
    caches: list[Tensor]
    meta: AttentionMetadata
    trunk_of: Tensor
    trunk: int
    softcap: float | None

    @property
    def floor_bytes(self) -> int:
        """The visible part of each trunk once, every suffix, queries and outputs."""
        meta, token = self.meta, 2 * self.caches[0][0, 0, 0].nbytes
        trunks = sum(int(meta.prefix_lens[a:b].max()) for a, b in pairwise(meta.cu_rows.tolist()))
        return (trunks + int(meta.suffix_lens.sum())) * token + 2 * self.q.nbytes


def make_step(kernels: Any, model: str, rows: int, visible: str) -> Step:
    num_heads, num_kv_heads, head_dim, softcap = HEADS[model]
    trunk, mean_suffix, per_trunk = (40, 20, 3) if kernels.toy else (300, 300, 128)
    device, generator = kernels.device, torch.Generator().manual_seed(0)
    num_trunks = -(-rows // per_trunk)
    suffix = torch.randint(1, 2 * mean_suffix, (rows,), generator=generator)
    prefix = torch.full((rows,), trunk)
    if visible == "checkpoints":
        prefix = (torch.randint(1, CHECKPOINTS + 1, (rows,), generator=generator) * trunk) // CHECKPOINTS
    trunk_blocks, needed = -(-trunk // BLOCK), -(-suffix // BLOCK)
    num_blocks = num_trunks * trunk_blocks + int(needed.sum())
    order = torch.randperm(num_blocks, generator=generator).int()
    trunk_tables, *suffix_tables = order.split([num_trunks * trunk_blocks, *needed.tolist()])
    cu_rows = torch.arange(num_trunks + 1).mul(per_trunk).clamp(max=rows).int()
    tables = (
        trunk_tables.view(num_trunks, trunk_blocks),
        cu_rows,
        prefix.int(),
        pad_sequence(suffix_tables, batch_first=True),
        suffix.int(),
    )
    meta = AttentionMetadata(*(t.to(device) for t in tables), trunk, int(suffix.max()), min(rows, per_trunk))
    shape = (2, num_blocks, BLOCK, num_kv_heads, head_dim)
    bytes_each = torch.Size(shape).numel() * kernels.dtype.itemsize
    copies = max(1, min(4, (1 << 30) // bytes_each)) if device == "cuda" else 1
    caches = [torch.randn(shape, device=device, dtype=kernels.dtype) for _ in range(copies)]
    q = torch.randn(rows, num_heads, head_dim, device=device, dtype=kernels.dtype)
    trunk_of = torch.repeat_interleave(cu_rows.diff().long()).to(device)
    return Step(q, caches, meta, trunk_of, trunk, softcap)


def fastsia(step: Step, ops: Any) -> Attend:
    def attend(k: Tensor, v: Tensor) -> Tensor:
        return ops.prefix_attention(step.q, k, v, step.meta, SCALE, None, step.softcap)

    # A few rows of the first trunk must equal the reference.
    few = min(8, int(step.meta.cu_rows[1]))
    meta = replace(
        step.meta,
        trunk_tables=step.meta.trunk_tables[:1],
        cu_rows=torch.tensor([0, few], dtype=torch.int32, device=step.q.device),
        **{name: getattr(step.meta, name)[:few] for name in ("prefix_lens", "suffix_tables", "suffix_lens")},
    )
    expected = reference.prefix_attention(step.q[:few], *step.caches[0], meta, SCALE, None, step.softcap)
    torch.testing.assert_close(attend(*step.caches[0])[:few], expected, atol=2e-2, rtol=2e-2)
    return attend


def slots_of(table: Tensor, length: int) -> Tensor:
    """Cache slots of the first tokens of a block table."""
    return (table.long()[:, None] * BLOCK + torch.arange(BLOCK, device=table.device)).flatten()[:length]


def sdpa(step: Step) -> Attend:
    """SDPA over each row's context, gathered in the call."""
    if step.softcap is not None:
        pytest.skip("SDPA has no softcap")
    meta = step.meta
    rows = zip(step.trunk_of.tolist(), meta.prefix_lens.tolist(), meta.suffix_tables, meta.suffix_lens, strict=True)
    contexts = [
        torch.cat([slots_of(meta.trunk_tables[trunk], prefix), slots_of(table, int(suffix))])
        for trunk, prefix, table, suffix in rows
    ]
    slots = pad_sequence(contexts, batch_first=True)
    visible = pad_sequence([torch.ones_like(one, dtype=torch.bool) for one in contexts], batch_first=True)
    q, mask = step.q[:, :, None], visible[:, None, None]

    def attend(k: Tensor, v: Tensor) -> Tensor:
        keys, values = (cache.flatten(0, 1)[slots].transpose(1, 2) for cache in (k, v))
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=SCALE, enable_gqa=True)

    return attend


def flex(step: Step) -> Attend:
    """flex_attention over all trunks and then all suffixes, with a block mask; gathered in the call."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    meta, device = step.meta, step.q.device
    lengths = meta.suffix_lens.long()
    shared = len(meta.trunk_tables) * step.trunk
    slots = torch.cat(
        [slots_of(table, step.trunk) for table in meta.trunk_tables]
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
        return compiled(q, keys, values, score_mod=score, block_mask=mask, scale=SCALE, enable_gqa=True)

    return attend


def pages(lengths: Tensor, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """FlashInfer's page table of sequences with these lengths, with pages in order from `first`."""
    counts = -(-lengths // BLOCK)
    indptr = F.pad(counts.cumsum(0), (1, 0)).int()
    return indptr, torch.arange(first, first + int(counts.sum())).int(), ((lengths - 1) % BLOCK + 1).int()


def flashinfer(step: Step, library: Any, cascade: bool) -> list[Callable[[], Tensor]]:
    device, (rows, num_heads, head_dim) = step.q.device, step.q.shape
    num_kv_heads = step.caches[0].shape[3]
    workspace = torch.empty(256 << 20, dtype=torch.uint8, device=device)
    suffix = step.meta.suffix_lens.long().cpu()
    shape = (num_heads, num_kv_heads, head_dim, BLOCK)
    settings = {"sm_scale": SCALE, "logits_soft_cap": step.softcap, "q_data_type": step.q.dtype}
    if cascade:
        trunks = pages(torch.full((len(step.meta.trunk_tables),), step.trunk))
        own = pages(suffix, int(trunks[0][-1]))
        num_pages = int(trunks[0][-1] + own[0][-1])
        wrapper = library.MultiLevelCascadeAttentionWrapper(2, workspace, "NHD")
        levels = [[level.to(device) for level in pair] for pair in zip(trunks, own, strict=True)]
        indptr = [step.meta.cu_rows, torch.arange(rows + 1, dtype=torch.int32, device=device)]
        wrapper.plan(indptr, *levels, *shape, **settings)
    else:
        # Nothing is shared: each row has pages for all the tokens it sees.
        table = pages(suffix + step.meta.prefix_lens.long().cpu())
        num_pages = int(table[0][-1])
        wrapper = library.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=True)
        wrapper.plan(*(t.to(device) for t in table), *shape, **settings)
    shape = (num_pages, 2, BLOCK, num_kv_heads, head_dim)
    caches = [torch.randn(shape, device=device, dtype=step.q.dtype) for _ in step.caches]
    return [lambda cache=cache: wrapper.run(step.q, cache) for cache in caches]


@pytest.mark.parametrize(
    "path", ["fastsia", "flashinfer cascade", "flashinfer decode", "sdpa gathered", "flex gathered"]
)
@pytest.mark.parametrize("visible", ["checkpoints", "whole"])
@pytest.mark.parametrize("rows", [256, 512, 1024])
@pytest.mark.parametrize("model", list(HEADS))
def test_prefix_attention(kernels: Any, model: str, rows: int, visible: str, path: str) -> None:
    rows = kernels.sized(rows, 256, 5)
    library = kernels.need_flashinfer() if path.startswith("flashinfer") else None
    if path == "flashinfer cascade" and visible != "whole":
        pytest.skip("a cascade's rows all see the whole trunk")
    if path == "flex gathered" and kernels.device != "cuda":
        pytest.skip("flex_attention is compiled, on CUDA only")
    step = make_step(kernels, model, rows, visible)
    ops = select(kernels.device, "triton")
    shape = {"model": model, "rows": rows, "trunk": step.trunk, "sees": visible, "dtype": str(step.q.dtype)[6:]}
    try:
        if library is not None:
            calls = flashinfer(step, library, path == "flashinfer cascade")
        else:
            attend = fastsia(step, ops) if path == "fastsia" else sdpa(step) if path == "sdpa gathered" else flex(step)
            calls = [lambda k=k, v=v: attend(k, v) for k, v in step.caches]
        name = kernels.ours(ops) if path == "fastsia" else path
        kernels.measure("prefix_attention", name, shape, calls, step.floor_bytes, graph=library is None)
    except torch.OutOfMemoryError:
        pytest.skip("the gathered copy does not fit")
