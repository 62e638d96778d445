"""Shared-prefix attention against its bytes, FlashInfer's cascade and paged decode, SDPA and flex_attention.

One decode step of one layer: the rows of a batch on a few trunks of 300 tokens, at 16 checkpoints, with suffixes of 300
tokens on average. "whole": every row sees its whole trunk, which is all that a cascade supports; "checkpoints": each
row sees the trunk up to its own checkpoint. FlashInfer's paths get caches of their own with as many tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.gpu.attention import flashinfer_calls, flex
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
    prefix_tables, *suffix_tables = order.split([num_trunks * trunk_blocks, *needed.tolist()])
    cu_rows = torch.arange(num_trunks + 1).mul(per_trunk).clamp(max=rows).int()
    tables = (
        prefix_tables.view(num_trunks, trunk_blocks),
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
        prefix_tables=step.meta.prefix_tables[:1],
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
        torch.cat([slots_of(meta.prefix_tables[trunk], prefix), slots_of(table, int(suffix))])
        for trunk, prefix, table, suffix in rows
    ]
    slots = pad_sequence(contexts, batch_first=True)
    visible = pad_sequence([torch.ones_like(one, dtype=torch.bool) for one in contexts], batch_first=True)
    q, mask = step.q[:, :, None], visible[:, None, None]

    def attend(k: Tensor, v: Tensor) -> Tensor:
        keys, values = (cache.flatten(0, 1)[slots].transpose(1, 2) for cache in (k, v))
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=SCALE, enable_gqa=True)

    return attend


@pytest.mark.parametrize("visible", ["checkpoints", "whole"])
@pytest.mark.parametrize("rows", [256, 512, 1024])
@pytest.mark.parametrize("model", list(HEADS))
# The slowest to change: where time is short, our own cases are there, and the ones that compile for long are not.
@pytest.mark.parametrize(
    "path", ["fastsia", "flashinfer cascade", "flashinfer decode", "sdpa gathered", "flex gathered"]
)
def test_prefix_attention(kernels: Any, model: str, rows: int, visible: str, path: str) -> None:
    rows, library = kernels.sized(rows, 256, 5), path.split()[0]
    if library == "flashinfer":
        kernels.need_flashinfer()
    if path == "flashinfer cascade" and visible != "whole":
        pytest.skip("a cascade's rows all see the whole trunk")
    if library == "flex" and kernels.device != "cuda":
        pytest.skip("flex_attention is compiled, on CUDA only")
    step = make_step(kernels, model, rows, visible)
    ops = select(kernels.device, "triton")
    shape = {"model": model, "rows": rows, "trunk": step.trunk, "sees": visible, "dtype": str(step.q.dtype)[6:]}
    try:
        if library == "flashinfer":
            calls = flashinfer_calls(step, SCALE, BLOCK, cascade=path == "flashinfer cascade")
        else:
            prepare = {"fastsia": partial(fastsia, ops=ops), "sdpa": sdpa, "flex": partial(flex, SCALE, slots_of)}
            attend = prepare[library](step)
            calls = [lambda k=k, v=v: attend(k, v) for k, v in step.caches]
        kernels.measure("prefix_attention", path, shape, calls, step.floor_bytes, graph=library != "flashinfer")
    except torch.OutOfMemoryError:
        pytest.skip("the gathered copy does not fit")
