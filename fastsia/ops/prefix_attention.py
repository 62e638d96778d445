"""Attention of packed rows over a shared prefix and their own suffixes, in one launch, or two where prefixes are long.

Two kinds of programs, one kv head each. A *prefix* program takes a tile of one prefix's rows, (rows x GQA group)
queries high, and reads the prefix once for all of them; a *suffix* program takes one row and reads the row's own
blocks. A row's partial results (one per part) meet in scratch: whichever program brings a row's last one merges them in
the order of the parts, so the sum does not depend on who came last. Where a row has one part only (prefill) it is
written straight out. Long contexts are cut into several parts where there are too few programs to fill a GPU. Each row
waits for the parts that its own context fills, so that bounds may be far above the lengths of a batch.

All metadata are device tensors: a program finds its tile from `cu_rows` itself, so that no list of tiles has to be
built or kept, and programs past the last tile exit. Softmax runs in base 2; the log-sum-exp that leaves is natural.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsia.errors import FastsiaError
from fastsia.ops.launch import Arrivals, Launch
from fastsia.ops.reference import AttentionMetadata

# Programs that give a large GPU something to do everywhere (132 processors): with fewer, contexts are cut into parts of
# 256 tokens, of more where that would be more than so many parts, or where other programs fill the GPU.
_ENOUGH_PROGRAMS = 264
_PART_TOKENS, _MANY_PARTS, _LONG_PART_TOKENS = 256, 16, 1024
_STEPS = 64
# Bounds the memory of parts; see `engine/memory.py`.
MOST_PREFIX_PARTS = 16
# Prefixes from this length on are read by a launch of their own, in tiles of twice as many queries: under a few hundred
# rows they cost more operations than bytes.
_LONG_PREFIX_TOKENS = 2048
# Prefixes that a launch is compiled for: every number would be a compilation in the middle of a run.
_PREFIX_BUCKETS = (8, 128, 1024)
_LOG2E = 1.4426950408889634
_LN2 = tl.constexpr(0.6931471805599453)
_TWO_LOG2E = tl.constexpr(2.8853900817779268)


@triton.jit
def _attend(
    query,
    cache,
    table,
    oldest,
    newest,
    begin,
    end,
    scale,
    softcap,
    M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    SOFTCAP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Online softmax of M queries over keys begin:end of a block table; query m sees oldest[m] <= key < newest[m].

    Args:
        cache: (k_head, v_head, stride_block, stride_token).

    Returns:
        The normalised output [M, HEAD_PAD] and the natural log-sum-exp [M]; 0 and -inf where nothing is seen.
    """
    k_head, v_head, stride_block, stride_token = cache
    dims = tl.arange(0, HEAD_PAD)
    top = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    acc = tl.zeros([M, HEAD_PAD], tl.float32)
    # Each step looks up the blocks of the next one. If it looked up its own, the addresses of its keys would depend on
    # a load of the same step; Triton then splits its stages between the two and waits for keys as soon as they are
    # asked for.
    keys = begin + tl.arange(0, BLOCK_N)
    block = tl.load(table + keys // BLOCK_SIZE, mask=keys < end, other=0)
    for start in tl.range(begin, end, BLOCK_N):
        start = tl.multiple_of(start, BLOCK_N)
        keys = start + tl.arange(0, BLOCK_N)
        live = keys < end
        at = block.to(tl.int64) * stride_block + (keys % BLOCK_SIZE) * stride_token
        if HEAD_DIM == HEAD_PAD:
            k = tl.load(k_head + at[None, :] + dims[:, None])
            v = tl.load(v_head + at[:, None] + dims[None, :], mask=live[:, None], other=0.0)
        else:
            inside = dims < HEAD_DIM
            k = tl.load(k_head + at[None, :] + dims[:, None], mask=inside[:, None], other=0.0)
            v = tl.load(v_head + at[:, None] + dims[None, :], mask=live[:, None] & inside[None, :], other=0.0)
        following = keys + BLOCK_N
        block = tl.load(table + following // BLOCK_SIZE, mask=following < end, other=0)
        score = tl.dot(query, k, input_precision=PRECISION)
        # Before the cap, which would hide an infinite score.
        score = tl.where(tl.abs(score) < float("inf"), score, float("nan"))
        if SOFTCAP:  # noqa: SIM108
            # tanh(x) = 1 - 2 / (1 + e^2x); `scale` and `softcap` carry 1 / cap and cap * log2(e).
            score = softcap * (1.0 - 2.0 / (1.0 + tl.exp2(score * (scale * _TWO_LOG2E))))
        else:
            score = score * scale
        visible = (keys[None, :] < newest[:, None]) & (keys[None, :] >= oldest[:, None])
        score = tl.where(visible, score, float("-inf"))
        new_top = tl.maximum(top, tl.max(score, 1))
        # A query that has seen nothing yet keeps -inf without making NaN of it.
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        weight = tl.exp2(score - base[:, None])
        decay = tl.exp2(top - base)
        total = total * decay + tl.sum(weight, 1)
        acc = acc * decay[:, None]
        acc = tl.dot(weight.to(v.dtype), v, acc, input_precision=PRECISION)
        top = new_top
    seen = total != 0  # NaN has been seen
    out = acc * tl.where(seen, 1.0 / tl.where(seen, total, 1.0), 0.0)[:, None]
    lse = tl.where(seen, (top + tl.log2(tl.where(seen, total, 1.0))) * _LN2, float("-inf"))
    return out, lse


@triton.jit
def _store_rows(
    values,
    lse,
    rows,
    heads,
    live,
    part,
    into,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    DIRECT: tl.constexpr,
    LSE: tl.constexpr,
):
    """Write a part's results: straight out where it is the only one, else to scratch (only what has seen a key).

    Args:
        into: (out, out_lse, partial, partial_lse, num_rows, stride_out).
    """
    out, out_lse, partial, partial_lse, num_rows, stride_out = into
    dims = tl.arange(0, HEAD_PAD)
    if DIRECT:
        at = rows.to(tl.int64) * stride_out + heads * HEAD_DIM
        mask = live[:, None] & (dims < HEAD_DIM)[None, :]
        tl.store(out + at[:, None] + dims[None, :], values.to(out.dtype.element_ty), mask=mask)
        if LSE:
            tl.store(out_lse + rows * NUM_HEADS + heads, lse, mask=live)
    else:
        slot = (part * num_rows + rows).to(tl.int64) * NUM_HEADS + heads
        mask = (live & (lse != float("-inf")))[:, None] & (dims < HEAD_DIM)[None, :]
        tl.store(partial + slot[:, None] * HEAD_DIM + dims[None, :], values, mask=mask)
        tl.store(partial_lse + slot, lse, mask=live)


@triton.jit
def _parts_of(length, part_tokens, least):
    """Parts that a context of `length` tokens is read in."""
    return tl.maximum((length + part_tokens - 1) // part_tokens, least)


@triton.jit
def _merge_row(
    row,
    head,
    parts,
    into,
    NUM_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    LSE: tl.constexpr,
):
    """Merge a row's parts, in their order, by their natural log-sum-exps."""
    out, out_lse, partial, partial_lse, num_rows, stride_out = into
    lane = tl.arange(0, HEADS)
    dims = tl.arange(0, HEAD_PAD)
    heads = head * GROUP + lane
    live = lane < GROUP
    top = tl.full([HEADS], float("-inf"), tl.float32)
    for part in range(0, parts):
        slot = (part * num_rows + row).to(tl.int64) * NUM_HEADS + heads
        # Another processor wrote these: read past the first-level cache.
        top = tl.maximum(top, tl.load(partial_lse + slot, mask=live, other=float("-inf"), cache_modifier=".cg"))
    base = tl.where(top == float("-inf"), 0.0, top)
    total = tl.zeros([HEADS], tl.float32)
    acc = tl.zeros([HEADS, HEAD_PAD], tl.float32)
    for part in range(0, parts):
        slot = (part * num_rows + row).to(tl.int64) * NUM_HEADS + heads
        lse = tl.load(partial_lse + slot, mask=live, other=float("-inf"), cache_modifier=".cg")
        weight = tl.exp(lse - base)
        mask = (lse != float("-inf"))[:, None] & (dims < HEAD_DIM)[None, :]
        at = slot[:, None] * HEAD_DIM + dims[None, :]
        acc += weight[:, None] * tl.load(partial + at, mask=mask, other=0.0, cache_modifier=".cg")
        total += weight
    seen = total != 0
    acc = acc * tl.where(seen, 1.0 / tl.where(seen, total, 1.0), 0.0)[:, None]
    at = row.to(tl.int64) * stride_out + heads * HEAD_DIM
    mask = live[:, None] & (dims < HEAD_DIM)[None, :]
    tl.store(out + at[:, None] + dims[None, :], acc.to(out.dtype.element_ty), mask=mask)
    if LSE:
        lse = tl.where(seen, top + tl.log(tl.where(seen, total, 1.0)), float("-inf"))
        tl.store(out_lse + row * NUM_HEADS + heads, lse, mask=live)


# Specialised on none of the sizes that change from batch to batch: a run compiles a handful of variants at its start.
@triton.jit(
    do_not_specialize=[
        "window",
        "num_rows",
        "num_prefixes",
        "prefix_parts",
        "prefix_part_tokens",
        "prefix_programs",
        "suffix_parts",
        "suffix_part_tokens",
        "stride_prefix_table",
        "stride_suffix_table",
    ]
)
def prefix_attention_kernel(
    q,
    k_cache,
    v_cache,
    out,
    out_lse,
    partial,
    partial_lse,
    arrivals,
    prefix_tables,
    cu_rows,
    prefix_lens,
    suffix_tables,
    suffix_lens,
    scale,
    softcap,
    window,
    num_rows,
    num_prefixes,
    prefix_parts,
    prefix_part_tokens,
    prefix_programs,
    suffix_parts,
    suffix_part_tokens,
    stride_q_row,
    stride_q_head,
    stride_out,
    stride_block,
    stride_token,
    stride_head,
    stride_prefix_table,
    stride_suffix_table,
    TRUNKS: tl.constexpr,
    SUFFIXES: tl.constexpr,
    PREFIXES: tl.constexpr,
    ROWS: tl.constexpr,
    ROWS_PAD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    SOFTCAP: tl.constexpr,
    PRECISION: tl.constexpr,
    MERGED: tl.constexpr,
    DIRECT: tl.constexpr,
    LSE: tl.constexpr,
):
    # TRUNKS and SUFFIXES say which programs this launch has, MERGED whether rows have parts of suffixes, here or in the
    # launch after it.
    NUM_HEADS: tl.constexpr = NUM_KV_HEADS * GROUP
    program = tl.program_id(0)
    head = tl.program_id(1)
    cache = (k_cache + head * stride_head, v_cache + head * stride_head, stride_block, stride_token)
    into = (out, out_lse, partial, partial_lse, num_rows, stride_out)
    # A row has as many parts as its own context fills; without suffixes it has one of its prefix in any case.
    LEAST: tl.constexpr = 0 if MERGED else 1
    dims = tl.arange(0, HEAD_PAD)
    if TRUNKS:  # noqa: SIM102  a condition of two kinds would compile both
        if program < prefix_programs:
            tile = program // prefix_parts
            part = program % prefix_parts
            prefixes = tl.arange(0, PREFIXES)
            firsts = tl.load(cu_rows + prefixes, mask=prefixes < num_prefixes, other=0)
            lasts = tl.load(cu_rows + prefixes + 1, mask=prefixes < num_prefixes, other=0)
            tile_ends = tl.cumsum((lasts - firsts + ROWS - 1) // ROWS, 0)
            prefix = tl.sum(((tile_ends <= tile) & (prefixes < num_prefixes)).to(tl.int32))
            if prefix < num_prefixes:
                row0 = tl.load(cu_rows + prefix) + (tile - tl.max(tl.where(tile_ends <= tile, tile_ends, 0))) * ROWS
                height = tl.minimum(tl.load(cu_rows + prefix + 1) - row0, ROWS)
                lane = tl.arange(0, BLOCK_M)
                rows = row0 + lane // GROUP
                heads = head * GROUP + lane % GROUP
                newest = tl.load(prefix_lens + rows, mask=lane // GROUP < height, other=0)
                live = (lane // GROUP < height) & (part < _parts_of(newest, prefix_part_tokens, LEAST))
                if tl.max(live.to(tl.int32)) > 0:
                    oldest = tl.maximum(newest + tl.load(suffix_lens + rows, mask=live, other=0) - window, 0)
                    # A lane past the tile sees nothing and must not widen the range.
                    first_key = tl.min(tl.where(live, oldest, 0x7FFFFFFF))
                    begin = tl.maximum(part * prefix_part_tokens, first_key // BLOCK_N * BLOCK_N)
                    end = tl.minimum((part + 1) * prefix_part_tokens, tl.max(newest))
                    at = rows.to(tl.int64) * stride_q_row + heads * stride_q_head
                    inside = live[:, None] & (dims < HEAD_DIM)[None, :]
                    query = tl.load(q + at[:, None] + dims[None, :], mask=inside, other=0.0)
                    values, lse = _attend(
                        query,
                        cache,
                        prefix_tables + prefix.to(tl.int64) * stride_prefix_table,
                        oldest,
                        newest,
                        begin,
                        end,
                        scale,
                        softcap,
                        BLOCK_M,
                        BLOCK_N,
                        BLOCK_SIZE,
                        HEAD_DIM,
                        HEAD_PAD,
                        SOFTCAP,
                        PRECISION,
                    )
                    _store_rows(values, lse, rows, heads, live, part, into, NUM_HEADS, HEAD_DIM, HEAD_PAD, DIRECT, LSE)
                    if not DIRECT:
                        tl.debug_barrier()
                        slots = tl.arange(0, ROWS_PAD)
                        inner = slots < height
                        parts = _parts_of(
                            tl.load(prefix_lens + row0 + slots, mask=inner, other=0), prefix_part_tokens, LEAST
                        )
                        mine = inner & (part < parts)
                        if MERGED:
                            length = tl.load(suffix_lens + row0 + slots, mask=inner, other=0)
                            parts += _parts_of(length, suffix_part_tokens, 1)
                        counter = arrivals + (row0 + slots) * NUM_KV_HEADS + head
                        arrived = tl.atomic_add(counter, 1, mask=mine, sem="acq_rel")
                        tl.debug_barrier()
                        complete = ((arrived == parts - 1) & mine).to(tl.int32)
                        if tl.max(complete) > 0:
                            tl.store(counter, 0, mask=complete > 0)
                            for slot in range(0, height):
                                here = tl.where(slots == slot, complete, 0)
                                if tl.max(here) > 0:
                                    own = tl.sum(here * parts)
                                    _merge_row(
                                        row0 + slot, head, own, into, NUM_HEADS, GROUP, HEADS, HEAD_DIM, HEAD_PAD, LSE
                                    )
    if SUFFIXES:  # noqa: SIM102
        if program >= prefix_programs:
            row = (program - prefix_programs) // suffix_parts
            part = (program - prefix_programs) % suffix_parts
            lane = tl.arange(0, HEADS)
            heads = head * GROUP + lane
            live = lane < GROUP
            rows = row + tl.zeros([HEADS], tl.int32)
            inside = live[:, None] & (dims < HEAD_DIM)[None, :]
            if row >= tl.load(cu_rows + num_prefixes):
                # A padding row: no prefix program counts it, so nothing waits for it.
                at = rows.to(tl.int64) * stride_out + heads * HEAD_DIM
                nothing = tl.zeros([HEADS, HEAD_PAD], tl.float32).to(out.dtype.element_ty)
                tl.store(out + at[:, None] + dims[None, :], nothing, mask=inside)
                if LSE:
                    none = float("-inf") + tl.zeros([HEADS], tl.float32)
                    tl.store(out_lse + rows * NUM_HEADS + heads, none, mask=live)
            else:
                length = tl.load(suffix_lens + row)
                own = _parts_of(length, suffix_part_tokens, 1)
                if part < own:
                    before = _parts_of(tl.load(prefix_lens + row), prefix_part_tokens, 0)
                    newest = length + tl.zeros([HEADS], tl.int32)
                    oldest = tl.maximum(newest - window, 0)
                    begin = tl.maximum(part * suffix_part_tokens, tl.maximum(length - window, 0) // BLOCK_N * BLOCK_N)
                    end = tl.minimum((part + 1) * suffix_part_tokens, length)
                    at = rows.to(tl.int64) * stride_q_row + heads * stride_q_head
                    query = tl.load(q + at[:, None] + dims[None, :], mask=inside, other=0.0)
                    values, lse = _attend(
                        query,
                        cache,
                        suffix_tables + row.to(tl.int64) * stride_suffix_table,
                        oldest,
                        newest,
                        begin,
                        end,
                        scale,
                        softcap,
                        HEADS,
                        BLOCK_N,
                        BLOCK_SIZE,
                        HEAD_DIM,
                        HEAD_PAD,
                        SOFTCAP,
                        PRECISION,
                    )
                    _store_rows(
                        values, lse, rows, heads, live, before + part, into, NUM_HEADS, HEAD_DIM, HEAD_PAD, DIRECT, LSE
                    )
                    if not DIRECT:
                        parts = before + own
                        tl.debug_barrier()
                        counter = arrivals + row * NUM_KV_HEADS + head
                        arrived = tl.atomic_add(counter, 1, sem="acq_rel")
                        tl.debug_barrier()
                        if arrived == parts - 1:
                            tl.store(counter, 0)
                            _merge_row(row, head, parts, into, NUM_HEADS, GROUP, HEADS, HEAD_DIM, HEAD_PAD, LSE)


class PrefixAttention:
    """`prefix_attention` with the arrival counters that its launches share: int32, zero between launches.

    One of these serves one stream at a time. Inside a CUDA graph its counters must exist already: run once with as
    many rows before the capture.

    Args:
        fixed_parts: Cut every context after each `_LONG_PART_TOKENS` tokens and nowhere else, and read it in steps of
            one size, so that a row's bits depend on its own context only. Else launches of few programs cut contexts
            finer.
    """

    def __init__(self, *, fixed_parts: bool = False) -> None:
        self.arrivals = Arrivals()
        self._fixed_parts = fixed_parts

    def __call__(self, *args: Any, **options: Any) -> Tensor:
        """See `prefix_attention`."""
        return self.with_lse(*args, **options, want_lse=False)[0]

    def with_lse(self, *args: Any, want_lse: bool = True, **options: Any) -> tuple[Tensor, Tensor]:
        """`prefix_attention` and, where wanted, the natural log-sum-exp, float32 [n, num_heads]."""
        launches, out, lse = self.plan(*args, **{**options, "want_lse": want_lse})
        for launch in launches if len(out) > 0 else ():
            launch.run()
        return out, lse

    def plan(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        meta: AttentionMetadata,
        scale: float,
        sliding_window: int | None = None,
        softcap: float | None = None,
        *,
        want_lse: bool = False,
    ) -> tuple[list[Launch], Tensor, Tensor]:
        """The launches that `prefix_attention` makes, two where its prefixes are long, and the tensors they fill."""
        n, num_heads, head_dim = q.shape
        _, block_size, num_kv_heads, _ = k_cache.shape
        _check(q, k_cache, v_cache)
        group = num_heads // num_kv_heads
        head_pad = max(16, triton.next_power_of_2(head_dim))
        has_suffixes = meta.max_suffix_len > 0
        is_long = meta.max_prefix_len >= _LONG_PREFIX_TOKENS and not self._fixed_parts
        block_m, block_n, num_warps, num_stages = tile = _tile_shape(
            group, head_pad, q.element_size(), self._fixed_parts or (has_suffixes and not is_long), tall=is_long
        )
        rows = block_m // group
        num_prefixes = len(meta.cu_rows) - 1
        # At most this many tiles hold n rows of that many prefixes, however they fall.
        tiles = min(n, num_prefixes if meta.max_rows_per_prefix <= rows else n // rows + num_prefixes)
        suffix_programs = n * num_kv_heads if has_suffixes else 0
        suffix_parts = _parts(meta.max_suffix_len, suffix_programs)
        # A graph's number of prefixes is a bound far above what a step has: count the tiles that there must be.
        prefix_parts = _parts(meta.max_prefix_len, triton.cdiv(n, rows) * num_kv_heads, others=suffix_programs)
        prefix_parts = min(prefix_parts, MOST_PREFIX_PARTS)
        prefix_part_tokens = _part_tokens(meta.max_prefix_len, prefix_parts)
        suffix_part_tokens = _part_tokens(meta.max_suffix_len, suffix_parts)
        if self._fixed_parts:
            prefix_part_tokens = suffix_part_tokens = _LONG_PART_TOKENS
            prefix_parts = triton.cdiv(meta.max_prefix_len, _LONG_PART_TOKENS)
            suffix_parts = triton.cdiv(meta.max_suffix_len, _LONG_PART_TOKENS)
        if prefix_parts + suffix_parts == 0:
            prefix_parts = 1
        parts = prefix_parts + suffix_parts
        direct = parts == 1
        out = torch.empty((n, num_heads, head_dim), dtype=q.dtype, device=q.device)
        lse = torch.empty((n, num_heads) if want_lse else (1,), dtype=torch.float32, device=q.device)
        scratch = (parts, n, num_heads)
        partial = lse if direct else torch.empty((*scratch, head_dim), dtype=torch.float32, device=q.device)
        partial_lse = lse if direct else torch.empty(scratch, dtype=torch.float32, device=q.device)
        arguments = {
            "q": q,
            "k_cache": k_cache,
            "v_cache": v_cache,
            "out": out,
            "out_lse": lse,
            "partial": partial,
            "partial_lse": partial_lse,
            "arrivals": meta.cu_rows if direct else self.arrivals.counters(n * num_kv_heads, q.device),
            "prefix_tables": meta.prefix_tables,
            "cu_rows": meta.cu_rows,
            "prefix_lens": meta.prefix_lens,
            "suffix_tables": meta.suffix_tables,
            "suffix_lens": meta.suffix_lens,
            "scale": float(scale) * _LOG2E if softcap is None else float(scale) / softcap,
            "softcap": 0.0 if softcap is None else softcap * _LOG2E,
            "window": 1 << 30 if sliding_window is None else sliding_window,
            "num_rows": n,
            "num_prefixes": num_prefixes,
            "prefix_parts": prefix_parts,
            "prefix_part_tokens": prefix_part_tokens,
            "prefix_programs": tiles * prefix_parts,
            "suffix_parts": suffix_parts,
            "suffix_part_tokens": suffix_part_tokens,
            "stride_q_row": q.stride(0),
            "stride_q_head": q.stride(1),
            "stride_out": num_heads * head_dim,
            "stride_block": k_cache.stride(0),
            "stride_token": k_cache.stride(1),
            "stride_head": k_cache.stride(2),
            "stride_prefix_table": meta.prefix_tables.stride(0),
            "stride_suffix_table": meta.suffix_tables.stride(0),
            "TRUNKS": True,
            "SUFFIXES": has_suffixes,
            "PREFIXES": next(
                (size for size in _PREFIX_BUCKETS if size >= num_prefixes), triton.next_power_of_2(num_prefixes)
            ),
            "ROWS": rows,
            "ROWS_PAD": triton.next_power_of_2(rows),
            "BLOCK_M": block_m,
            "HEADS": max(16, triton.next_power_of_2(group)),
            "BLOCK_N": block_n,
            "BLOCK_SIZE": block_size,
            "NUM_KV_HEADS": num_kv_heads,
            "GROUP": group,
            "HEAD_DIM": head_dim,
            "HEAD_PAD": head_pad,
            "SOFTCAP": softcap is not None,
            "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
            "MERGED": has_suffixes,
            "DIRECT": direct,
            "LSE": want_lse,
        }
        if not (is_long and has_suffixes):
            grid = (tiles * prefix_parts + n * suffix_parts, num_kv_heads)
            return [Launch(prefix_attention_kernel, grid, arguments, *tile[2:])], out, lse
        _, block_n, *shape = _tile_shape(group, head_pad, q.element_size(), decode=True)
        suffixes = {"TRUNKS": False, "BLOCK_N": block_n, "prefix_programs": 0}
        return (
            [
                Launch(
                    prefix_attention_kernel,
                    (tiles * prefix_parts, num_kv_heads),
                    arguments | {"SUFFIXES": False},
                    *(num_warps, num_stages),
                ),
                Launch(prefix_attention_kernel, (n * suffix_parts, num_kv_heads), arguments | suffixes, *shape),
            ],
            out,
            lse,
        )


def prefix_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    meta: AttentionMetadata,
    scale: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """`reference.prefix_attention` in one launch.

    Args:
        q: [n, num_heads, head_dim], float32, bfloat16 or float16, head_dim <= 256; rows and heads may be strided.
        k_cache, v_cache: [num_blocks, block_size, num_kv_heads, head_dim], alike in dtype and strides.
        meta: rows past cu_rows[-1] are padding; they give 0 where the call has suffixes, else they are not written.
            `max_prefix_len`, `max_suffix_len` and `max_rows_per_prefix` may be bounds: a CUDA graph keeps those of its
            capture.
        scale, sliding_window, softcap: see the reference.

    Returns [n, num_heads, head_dim] in q's dtype. An engine keeps a `PrefixAttention`, which saves this function's
    fresh counters.
    """
    return PrefixAttention()(q, k_cache, v_cache, meta, scale, sliding_window, softcap)


def _tile_shape(
    group: int, head_pad: int, itemsize: int, decode: bool, tall: bool = False
) -> tuple[int, int, int, int]:
    """(queries per prefix tile, keys per step, warps, pipeline stages): the same for all batches of a model.

    Decoding streams suffixes: small steps, so that two or three programs fit a processor and hide one another's
    latency. Prefill computes: taller steps. So do long prefixes under many rows, and a tile twice as tall reads them
    half as often. With three stages the next step's keys and values are on their way while one is computed.
    """
    num_warps = 4
    if itemsize == 4:
        tallest, block_n, num_stages = 32 if tall else 16, 16, 2
    elif head_pad > 128:
        tallest, block_n, num_stages = 64 if tall else 32, 32, 3
    else:
        tallest, block_n, num_stages = 128 if tall else 64, 32 if decode and head_pad > 64 else 64, 3
        num_warps = 8 if tall else 4
    return max(tallest, triton.next_power_of_2(group)), block_n, num_warps, num_stages


def _parts(max_len: int, programs: int, others: int = 0) -> int:
    """Into how many parts contexts are cut, each read by a program more; every part of a row is written and merged."""
    if max_len == 0 or programs >= _ENOUGH_PROGRAMS:
        return min(max_len, 1)
    long_parts = triton.cdiv(max_len, _LONG_PART_TOKENS)
    if programs + others >= _ENOUGH_PROGRAMS:
        return long_parts
    return min(triton.cdiv(max_len, _PART_TOKENS), max(_MANY_PARTS, long_parts))


def _part_tokens(max_len: int, parts: int) -> int:
    """Tokens of a part, a multiple of every number of keys per step."""
    return max(triton.cdiv(triton.cdiv(max_len, max(parts, 1)), _STEPS) * _STEPS, _STEPS)


def _check(q: Tensor, k_cache: Tensor, v_cache: Tensor) -> None:
    if q.dtype not in (torch.float32, torch.bfloat16, torch.float16) or not q.dtype == k_cache.dtype == v_cache.dtype:
        raise FastsiaError(
            f"q and the KV cache must share float32, bfloat16 or float16, got {q.dtype}, {k_cache.dtype}."
        )
    if q.shape[2] > 256 or q.shape[2] != k_cache.shape[3] or q.shape[1] % k_cache.shape[2] != 0:
        raise FastsiaError(f"heads {tuple(q.shape[1:])} of q do not fit {tuple(k_cache.shape[2:])} of the KV cache.")
    if k_cache.stride() != v_cache.stride() or k_cache.stride(3) != 1 or q.stride(2) != 1:
        raise FastsiaError("k_cache and v_cache must have equal strides, and head dimensions must be contiguous.")
