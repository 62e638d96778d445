"""Shared-prefix attention against its bytes, FlashInfer's cascade and paged decode, SDPA and flex_attention.

One decode step of one layer: rows of a few trunks of 300 tokens, at 16 checkpoints, suffixes of 300 tokens on average.
"whole": every row sees its whole trunk, which is all that a cascade can say; "checkpoints": each row sees the trunk up
to its own checkpoint. FlashInfer's paths get caches of their own with the same numbers of tokens.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from timing import Call, measure, report
from torch import Tensor

from fastsia.ops import reference, select
from fastsia.ops.reference import AttentionMetadata

# num_heads, num_kv_heads, head_dim, softcap
HEADS = {
    "qwen2.5-3b": (16, 2, 128, None),
    "gemma-2-2b": (8, 4, 256, 50.0),
    "deepseek-7b": (32, 32, 128, None),
    "llama-3.2-3b": (24, 8, 128, None),
}
BLOCK, TRUNK, CHECKPOINTS, MEAN_SUFFIX, ROWS_PER_TRUNK = 16, 300, 16, 300, 128
SCALE = 0.08


@dataclass(frozen=True)
class Step:
    """A decode step's inputs. caches: as many (k, v) as keep one call's data out of the next one's cache."""

    q: Tensor
    caches: list[tuple[Tensor, Tensor]]
    meta: AttentionMetadata
    trunk: int
    softcap: float | None

    @property
    def floor_bytes(self) -> int:
        """The visible part of each trunk once, every suffix, queries and outputs."""
        meta, token = self.meta, 2 * self.caches[0][0][0, 0].nbytes
        firsts, lasts = meta.cu_rows[:-1].tolist(), meta.cu_rows[1:].tolist()
        trunks = sum(int(meta.prefix_lens[a:b].max()) for a, b in zip(firsts, lasts, strict=True))
        return (trunks + int(meta.suffix_lens.sum())) * token + 2 * self.q.nbytes


def make_step(model: str, rows: int, visible: str, device: str, toy: bool) -> Step:
    num_heads, num_kv_heads, head_dim, softcap = HEADS[model]
    trunk, mean_suffix, per_trunk = (40, 20, 3) if toy else (TRUNK, MEAN_SUFFIX, ROWS_PER_TRUNK)
    dtype = torch.float32 if toy else torch.bfloat16
    generator = torch.Generator().manual_seed(0)
    num_trunks = -(-rows // per_trunk)
    suffix = torch.randint(1, 2 * mean_suffix, (rows,), generator=generator)
    prefix = torch.full((rows,), trunk)
    if visible == "checkpoints":
        prefix = (torch.randint(1, CHECKPOINTS + 1, (rows,), generator=generator) * trunk) // CHECKPOINTS
    trunk_blocks, suffix_blocks = -(-trunk // BLOCK), -(-2 * mean_suffix // BLOCK)
    needed = -(-suffix // BLOCK)
    num_blocks = num_trunks * trunk_blocks + int(needed.sum())
    order = torch.randperm(num_blocks, generator=generator).int()
    tables = torch.zeros(rows, suffix_blocks, dtype=torch.int32)
    tables[torch.arange(suffix_blocks)[None] < needed[:, None]] = order[num_trunks * trunk_blocks :]
    cu_rows = torch.arange(num_trunks + 1).mul(per_trunk).clamp(max=rows).int()
    meta = AttentionMetadata(
        order[: num_trunks * trunk_blocks].view(num_trunks, trunk_blocks).contiguous().to(device),
        cu_rows.to(device),
        prefix.int().to(device),
        tables.to(device),
        suffix.int().to(device),
        trunk,
        int(suffix.max()),
        min(rows, per_trunk),
    )
    shape = (num_blocks, BLOCK, num_kv_heads, head_dim)
    bytes_each = 2 * num_blocks * BLOCK * num_kv_heads * head_dim * dtype.itemsize
    copies = max(1, min(4, (1 << 30) // bytes_each)) if device == "cuda" else 1
    caches = [tuple(torch.randn(2, *shape, device=device, dtype=dtype).unbind()) for _ in range(copies)]
    q = torch.randn(rows, num_heads, head_dim, device=device, dtype=dtype)
    return Step(q, caches, meta, trunk, softcap)


def fastsia_calls(step: Step, device: str) -> tuple[str, list[Call]]:
    ops = select(device, "triton")

    def attend(k: Tensor, v: Tensor) -> Tensor:
        return ops.prefix_attention(step.q, k, v, step.meta, SCALE, None, step.softcap)

    # What is timed is right: a few rows of the first trunk against the reference.
    few = min(8, int(step.meta.cu_rows[1]))
    meta = replace(
        step.meta,
        trunk_tables=step.meta.trunk_tables[:1],
        cu_rows=torch.tensor([0, few], dtype=torch.int32, device=device),
        **{name: getattr(step.meta, name)[:few] for name in ("prefix_lens", "suffix_tables", "suffix_lens")},
    )
    expected = reference.prefix_attention(step.q[:few], *step.caches[0], meta, SCALE, None, step.softcap)
    torch.testing.assert_close(attend(*step.caches[0])[:few], expected, atol=2e-2, rtol=2e-2)
    name = f"fastsia-{ops.name}" + ("-interpreted" if device == "cpu" else "")
    return name, [lambda k=k, v=v: attend(k, v) for k, v in step.caches]


def gathered(step: Step) -> tuple[Tensor, Tensor]:
    """(cache slots [rows, longest] of each row's context in order, which of them are real)."""
    meta, device = step.meta, step.q.device
    longest = int((meta.prefix_lens + meta.suffix_lens).max())
    at = torch.arange(longest, device=device)[None]
    prefix, suffix = meta.prefix_lens[:, None].long(), meta.suffix_lens[:, None].long()
    own = (at - prefix).clamp(min=0)
    trunk = torch.repeat_interleave((meta.cu_rows[1:] - meta.cu_rows[:-1]).long())
    on_trunk = (
        meta.trunk_tables[trunk]
        .long()
        .gather(1, (at // BLOCK).clamp(max=meta.trunk_tables.shape[1] - 1).expand(len(trunk), -1))
    )
    off_trunk = meta.suffix_tables.long().gather(1, (own // BLOCK).clamp(max=meta.suffix_tables.shape[1] - 1))
    slots = torch.where(at < prefix, on_trunk * BLOCK + at % BLOCK, off_trunk * BLOCK + own % BLOCK)
    return slots, at < prefix + suffix


def sdpa_calls(step: Step) -> list[Call]:
    if step.softcap is not None:
        pytest.skip("SDPA has no softcap")
    slots, real = gathered(step)
    q = step.q[:, :, None]

    def attend(k: Tensor, v: Tensor) -> Tensor:
        keys, values = (cache.flatten(0, 1)[slots].transpose(1, 2) for cache in (k, v))
        return F.scaled_dot_product_attention(
            q, keys, values, attn_mask=real[:, None, None], scale=SCALE, enable_gqa=True
        )

    return [lambda k=k, v=v: attend(k, v) for k, v in step.caches]


def flex_calls(step: Step) -> list[Call]:
    """flex_attention over [trunks | suffixes] in one line, a block mask saying who sees what; gathered in the call."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    meta, device = step.meta, step.q.device
    trunk = torch.repeat_interleave((meta.cu_rows[1:] - meta.cu_rows[:-1]).long())
    suffix = meta.suffix_lens.long()
    start = suffix.cumsum(0) - suffix
    owner = torch.repeat_interleave(suffix)
    within = torch.arange(len(owner), device=device) - start[owner]
    num_trunks = len(meta.trunk_tables)
    position = torch.arange(step.trunk, device=device).repeat(num_trunks)
    trunk_of = torch.arange(num_trunks, device=device).repeat_interleave(step.trunk)
    slots = torch.cat(
        [
            meta.trunk_tables.long()[trunk_of, position // BLOCK] * BLOCK + position % BLOCK,
            meta.suffix_tables.long()[owner, within // BLOCK] * BLOCK + within % BLOCK,
        ]
    )
    shared = len(position)
    owner = torch.cat([torch.full((shared,), -1, device=device), owner])
    trunk_of = torch.cat([trunk_of, torch.full((len(within),), -1, device=device)])
    position = torch.cat([position, torch.zeros_like(within)])
    prefix = meta.prefix_lens.long()

    def sees(_batch: Tensor, _head: Tensor, row: Tensor, key: Tensor) -> Tensor:
        return (owner[key] == row) | ((trunk_of[key] == trunk[row]) & (position[key] < prefix[row]))

    mask = create_block_mask(sees, None, None, len(step.q), len(slots), device=device, _compile=True)
    cap = step.softcap

    def score(value: Tensor, *_: Any) -> Tensor:
        return value if cap is None else cap * torch.tanh(value / cap)

    compiled = torch.compile(flex_attention, dynamic=False)
    q = step.q.transpose(0, 1)[None]

    def attend(k: Tensor, v: Tensor) -> Tensor:
        keys, values = (cache.flatten(0, 1)[slots].transpose(0, 1)[None] for cache in (k, v))
        return compiled(q, keys, values, score_mod=score, block_mask=mask, scale=SCALE, enable_gqa=True)

    return [lambda k=k, v=v: attend(k, v) for k, v in step.caches]


def pages(lengths: Tensor, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """FlashInfer's page table of sequences with these lengths, pages handed out in order from `first`."""
    counts = -(-lengths // BLOCK)
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).int()
    return indptr, torch.arange(first, first + int(counts.sum())).int(), ((lengths - 1) % BLOCK + 1).int()


def flashinfer_calls(step: Step, kind: str, visible: str) -> list[Call]:
    import flashinfer

    if kind == "cascade" and visible != "whole":
        pytest.skip("a cascade's rows all see the whole trunk")
    device, (rows, num_heads, head_dim) = step.q.device, step.q.shape
    num_kv_heads = step.caches[0][0].shape[2]
    workspace = torch.empty(256 << 20, dtype=torch.uint8, device=device)
    suffix = step.meta.suffix_lens.long().cpu()
    cu_rows = step.meta.cu_rows.cpu()
    settings = {"sm_scale": SCALE, "logits_soft_cap": step.softcap, "q_data_type": step.q.dtype}
    if kind == "cascade":
        trunk = pages(torch.full((len(cu_rows) - 1,), step.trunk))
        own = pages(suffix, int(trunk[0][-1]))
        wrapper = flashinfer.MultiLevelCascadeAttentionWrapper(2, workspace, "NHD")
        tables = [[a.to(device), b.to(device)] for a, b in zip(trunk, own, strict=True)]
        qo = [cu_rows.to(device), torch.arange(rows + 1, dtype=torch.int32, device=device)]
        wrapper.plan(qo, *tables, num_heads, num_kv_heads, head_dim, BLOCK, **settings)
        num_pages = int(trunk[0][-1] + own[0][-1])
    else:
        # No sharing: each row's pages are its own, as many tokens as the row sees.
        table = pages(suffix + step.meta.prefix_lens.long().cpu())
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=True)
        tables = [t.to(device) for t in table]
        wrapper.plan(*tables, num_heads, num_kv_heads, head_dim, BLOCK, **settings)
        num_pages = int(table[0][-1])
    shape = (num_pages, 2, BLOCK, num_kv_heads, head_dim)
    caches = [torch.randn(shape, device=device, dtype=step.q.dtype) for _ in step.caches]
    return [lambda cache=cache: wrapper.run(step.q, cache) for cache in caches]


PATHS = ["fastsia", "flashinfer cascade", "flashinfer decode", "sdpa gathered", "flex gathered"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("visible", ["checkpoints", "whole"])
@pytest.mark.parametrize("rows", [256, 512, 1024])
@pytest.mark.parametrize("model", list(HEADS))
def test_prefix_attention(
    benchmark: BenchmarkFixture, device: str, toy: bool, model: str, rows: int, visible: str, path: str
) -> None:
    if toy:
        if rows != 256:
            pytest.skip("toy: one number of rows")
        rows = 5
    library = path.split()[0]
    if library == "flashinfer" and (device != "cuda" or importlib.util.find_spec("flashinfer") is None):
        pytest.skip("flashinfer is not installed, or there is no GPU")
    if library == "flex" and device != "cuda":
        pytest.skip("flex_attention is compiled, on CUDA only")
    step = make_step(model, rows, visible, device, toy)
    took, graph = path, True
    try:
        if library == "fastsia":
            took, calls = fastsia_calls(step, device)
        elif library == "sdpa":
            calls = sdpa_calls(step)
        elif library == "flex":
            calls = flex_calls(step)
        else:
            calls, graph = flashinfer_calls(step, path.split()[1], visible), False
        seconds = measure(benchmark, calls, device, graph)
    except torch.OutOfMemoryError:
        pytest.skip("the gathered copy does not fit")
    shape = {"model": model, "rows": rows, "trunk": step.trunk, "sees": visible, "dtype": str(step.q.dtype)[6:]}
    report("prefix_attention", took, shape, seconds, step.floor_bytes, device, graph=graph and device == "cuda")
