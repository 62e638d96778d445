"""Writing the KV cache: new tokens by slot, rotated or as they are, and whole blocks where a branch forks."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsia.errors import FastsiaError
from fastsia.ops.launch import Launch

_COPY_ELEMENTS = 4096


@triton.jit
def store_kv_kernel(
    k,
    v,
    k_cache,
    v_cache,
    slots,
    stride_k_row,
    stride_k_head,
    stride_v_row,
    stride_v_head,
    stride_token,
    stride_head,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEADS_PAD: tl.constexpr,
    DIM_PAD: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row)
    if slot >= 0:
        heads = tl.arange(0, HEADS_PAD)[:, None]
        dims = tl.arange(0, DIM_PAD)[None, :]
        live = (heads < NUM_KV_HEADS) & (dims < HEAD_DIM)
        at = slot * stride_token + heads * stride_head + dims
        key = tl.load(k + row * stride_k_row + heads * stride_k_head + dims, mask=live)
        value = tl.load(v + row * stride_v_row + heads * stride_v_head + dims, mask=live, other=0.0)
        value = value.to(v_cache.dtype.element_ty)
        is_bad = tl.max(tl.where(tl.abs(value.to(tl.float32)) < float("inf"), 0, 1), 1)[:, None] > 0
        key = tl.where(is_bad, float("nan"), key.to(k_cache.dtype.element_ty))
        tl.store(k_cache + at, key.to(k_cache.dtype.element_ty), mask=live)
        tl.store(v_cache + at, tl.where(is_bad, 0.0, value).to(v_cache.dtype.element_ty), mask=live)


@triton.jit
def _rotate(at, live, cos_low, cos_high, sin_low, sin_high, HALF: tl.constexpr):
    """Both halves of rotated heads, float32."""
    low = tl.load(at, mask=live, other=0.0).to(tl.float32)
    high = tl.load(at + HALF, mask=live, other=0.0).to(tl.float32)
    return low * cos_low - high * sin_low, high * cos_high + low * sin_high


@triton.jit
def rotate_and_store_kernel(
    q,
    k,
    v,
    cos,
    sin,
    out,
    k_cache,
    v_cache,
    slots,
    stride_q_row,
    stride_q_head,
    stride_k_row,
    stride_k_head,
    stride_v_row,
    stride_v_head,
    stride_cos,
    stride_sin,
    stride_token,
    stride_head,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    HEADS_PAD: tl.constexpr,
    KV_HEADS_PAD: tl.constexpr,
    HALF_PAD: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    dims = tl.arange(0, HALF_PAD)[None, :]
    inside = dims < HALF
    cos_low = tl.load(cos + row * stride_cos + dims, mask=inside, other=0.0).to(tl.float32)
    cos_high = tl.load(cos + row * stride_cos + HALF + dims, mask=inside, other=0.0).to(tl.float32)
    sin_low = tl.load(sin + row * stride_sin + dims, mask=inside, other=0.0).to(tl.float32)
    sin_high = tl.load(sin + row * stride_sin + HALF + dims, mask=inside, other=0.0).to(tl.float32)
    heads = tl.arange(0, HEADS_PAD)[:, None]
    live = (heads < NUM_HEADS) & inside
    at = q + row * stride_q_row + heads * stride_q_head + dims
    low, high = _rotate(at, live, cos_low, cos_high, sin_low, sin_high, HALF)
    into = out + (row * NUM_HEADS + heads) * (2 * HALF) + dims
    tl.store(into, low.to(out.dtype.element_ty), mask=live)
    tl.store(into + HALF, high.to(out.dtype.element_ty), mask=live)
    slot = tl.load(slots + row)
    if slot >= 0:
        # Names of their own: a block may not give a variable another shape.
        kv_heads = tl.arange(0, KV_HEADS_PAD)[:, None]
        kept = (kv_heads < NUM_KV_HEADS) & inside
        keys = k + row * stride_k_row + kv_heads * stride_k_head + dims
        key_low, key_high = _rotate(keys, kept, cos_low, cos_high, sin_low, sin_high, HALF)
        values = v + row * stride_v_row + kv_heads * stride_v_head + dims
        first = tl.load(values, mask=kept, other=0.0).to(v_cache.dtype.element_ty)
        second = tl.load(values + HALF, mask=kept, other=0.0).to(v_cache.dtype.element_ty)
        largest = tl.maximum(tl.abs(first.to(tl.float32)), tl.abs(second.to(tl.float32)), tl.PropagateNan.ALL)
        is_bad = tl.max(tl.where(largest < float("inf"), 0, 1), 1)[:, None] > 0
        place = slot * stride_token + kv_heads * stride_head + dims
        key_low = tl.where(is_bad, float("nan"), key_low)
        key_high = tl.where(is_bad, float("nan"), key_high)
        tl.store(k_cache + place, key_low.to(k_cache.dtype.element_ty), mask=kept)
        tl.store(k_cache + place + HALF, key_high.to(k_cache.dtype.element_ty), mask=kept)
        tl.store(v_cache + place, tl.where(is_bad, 0.0, first).to(v_cache.dtype.element_ty), mask=kept)
        tl.store(v_cache + place + HALF, tl.where(is_bad, 0.0, second).to(v_cache.dtype.element_ty), mask=kept)


@triton.jit
def copy_blocks_kernel(kv_cache, src, dst, stride_plane, stride_block, block_elements, ELEMENTS: tl.constexpr):
    source = tl.load(src + tl.program_id(0))
    target = tl.load(dst + tl.program_id(0))
    if target >= 0:
        plane = kv_cache + tl.program_id(1).to(tl.int64) * stride_plane
        at = tl.program_id(2) * ELEMENTS + tl.arange(0, ELEMENTS)
        values = tl.load(plane + source * stride_block + at, mask=at < block_elements)
        tl.store(plane + target * stride_block + at, values, mask=at < block_elements)


def _to_store(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> dict[str, Any]:
    """The arguments that both launches that store keys and values have."""
    return {
        "k": k,
        "v": v,
        "k_cache": k_cache,
        "v_cache": v_cache,
        "slots": slots,
        "stride_k_row": k.stride(0),
        "stride_k_head": k.stride(1),
        "stride_v_row": v.stride(0),
        "stride_v_head": v.stride(1),
        "stride_token": k_cache.stride(1),
        "stride_head": k_cache.stride(2),
        "NUM_KV_HEADS": k.shape[1],
    }


def plan_store_kv(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> Launch:
    """The launch that `store_kv` makes."""
    n, num_kv_heads, head_dim = k.shape
    _check_store(k, v, k_cache, v_cache)
    heads_pad, dim_pad = triton.next_power_of_2(num_kv_heads), triton.next_power_of_2(head_dim)
    arguments = _to_store(k, v, k_cache, v_cache, slots) | {
        "HEAD_DIM": head_dim,
        "HEADS_PAD": heads_pad,
        "DIM_PAD": dim_pad,
    }
    # Eight 16-bit values per thread and load.
    num_warps = min(8, max(1, heads_pad * dim_pad // 256))
    return Launch(store_kv_kernel, (n,), arguments, num_warps, 1)


def store_kv(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> None:
    """Write new keys and values to their slots; a value that is NaN or infinite as `reference.store_kv` does.

    Args:
        k, v: [n, num_kv_heads, head_dim]; rows and heads may be strided.
        k_cache, v_cache: [num_blocks, block_size, num_kv_heads, head_dim].
        slots: int64 [n] = block * block_size + offset; -1 skips the token.
    """
    if len(slots) > 0:
        plan_store_kv(k, v, k_cache, v_cache, slots).run()


def plan_rotate_and_store(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor
) -> tuple[Launch, Tensor]:
    """The launch that `rotate_and_store` makes, and the queries that it fills."""
    n, num_heads, head_dim = q.shape
    num_kv_heads, half = k.shape[1], head_dim // 2
    _check_store(k, v, k_cache, v_cache)
    if cos.shape != (n, head_dim) or sin.shape != (n, head_dim) or 2 * half != head_dim:
        raise FastsiaError(f"cos and sin must be [{n}, {head_dim}], with an even head_dim, got {tuple(cos.shape)}.")
    if not q.stride(2) == cos.stride(1) == sin.stride(1) == 1:
        raise FastsiaError("q, cos and sin must have contiguous head dimensions.")
    out = torch.empty((n, num_heads, head_dim), dtype=q.dtype, device=q.device)
    heads_pad, half_pad = triton.next_power_of_2(num_heads), triton.next_power_of_2(half)
    arguments = _to_store(k, v, k_cache, v_cache, slots) | {
        "q": q,
        "cos": cos,
        "sin": sin,
        "out": out,
        "stride_q_row": q.stride(0),
        "stride_q_head": q.stride(1),
        "stride_cos": cos.stride(0),
        "stride_sin": sin.stride(0),
        "NUM_HEADS": num_heads,
        "HALF": half,
        "HEADS_PAD": heads_pad,
        "KV_HEADS_PAD": triton.next_power_of_2(num_kv_heads),
        "HALF_PAD": half_pad,
    }
    # Eight 16-bit values per thread and load.
    num_warps = min(8, max(1, heads_pad * half_pad // 256))
    return Launch(rotate_and_store_kernel, (n,), arguments, num_warps, 1), out


def rotate_and_store(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor
) -> Tensor:
    """`reference.rotate_and_store` in one launch.

    Args:
        q: [n, num_heads, head_dim]; rows and heads of q, k and v may be strided.
        cos, sin: [n, head_dim].
        k, v, k_cache, v_cache, slots: see `store_kv`.

    Returns the rotated queries, contiguous.
    """
    launch, out = plan_rotate_and_store(q, k, v, cos, sin, k_cache, v_cache, slots)
    if len(out) > 0:
        launch.run()
    return out


def _check_store(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor) -> None:
    if k_cache.stride() != v_cache.stride() or k_cache.stride(0) != k_cache.shape[1] * k_cache.stride(1):
        raise FastsiaError("k_cache and v_cache must have equal strides, with a block's tokens evenly spaced.")
    if k.stride(2) != 1 or v.stride(2) != 1 or k_cache.stride(3) != 1:
        raise FastsiaError("k, v and the KV cache must have contiguous head dimensions.")


def plan_copy_blocks(kv_cache: Tensor, src: Tensor, dst: Tensor) -> Launch:
    """The launch that `copy_blocks` makes."""
    num_layers, _, _, block_size, num_kv_heads, head_dim = kv_cache.shape
    if not kv_cache.is_contiguous():
        raise FastsiaError("kv_cache must be contiguous.")
    block_elements = block_size * num_kv_heads * head_dim
    arguments = {
        "kv_cache": kv_cache,
        "src": src,
        "dst": dst,
        "stride_plane": kv_cache.stride(1),
        "stride_block": kv_cache.stride(2),
        "block_elements": block_elements,
        "ELEMENTS": _COPY_ELEMENTS,
    }
    grid = (len(src), 2 * num_layers, triton.cdiv(block_elements, _COPY_ELEMENTS))
    return Launch(copy_blocks_kernel, grid, arguments, 4, 1)


def copy_blocks(kv_cache: Tensor, src: Tensor, dst: Tensor) -> None:
    """Copy whole blocks, keys and values of all layers.

    Args:
        kv_cache: [num_layers, 2, num_blocks, block_size, num_kv_heads, head_dim], contiguous.
        src, dst: int64 [m]; a negative dst skips the pair. No block is both read and written.
    """
    if len(src) > 0:
        plan_copy_blocks(kv_cache, src, dst).run()
