"""The KV cache kernels against their references."""

from __future__ import annotations

import pytest
import torch

from fastsia.errors import FastsiaError
from fastsia.ops import reference
from tests.ops.device import DEVICE, KERNEL_MARKS

kv_cache = pytest.importorskip("fastsia.ops.kv_cache")
pytestmark = KERNEL_MARKS


def random_cache(layers: int, blocks: int, block_size: int, heads: int, head_dim: int) -> torch.Tensor:
    return torch.randn(layers, 2, blocks, block_size, heads, head_dim, device=DEVICE)


@pytest.mark.parametrize(("heads", "head_dim"), [(2, 64), (1, 80), (3, 16), (5, 128)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_store_kv(heads: int, head_dim: int, dtype: torch.dtype) -> None:
    cache = random_cache(2, 6, 4, heads, head_dim).to(dtype)
    expected = cache.clone()
    # As attention gives them: [heads, tokens, head_dim], seen token by token.
    k, v = torch.randn(2, heads, 7, head_dim, device=DEVICE).to(dtype).transpose(1, 2)
    slots = torch.tensor([23, -1, 0, 9, 10, -1, 4], device=DEVICE)
    kv_cache.store_kv(k, v, cache[1, 0], cache[1, 1], slots)
    reference.store_kv(k, v, expected[1, 0], expected[1, 1], slots)
    assert torch.equal(cache, expected)


def test_store_kv_casts_to_the_dtype_of_the_cache_and_takes_no_tokens() -> None:
    # Not bfloat16: the interpreter truncates where a GPU rounds.
    cache = random_cache(1, 2, 4, 2, 32).half()
    expected = cache.clone()
    k, v = torch.randn(2, 3, 2, 32, device=DEVICE)
    slots = torch.tensor([5, 1, 2], device=DEVICE)
    kv_cache.store_kv(k, v, cache[0, 0], cache[0, 1], slots)
    reference.store_kv(k, v, expected[0, 0], expected[0, 1], slots)
    kv_cache.store_kv(k[:0], v[:0], cache[0, 0], cache[0, 1], slots[:0])
    assert torch.equal(cache, expected)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 64), (3, 1, 80), (5, 5, 16), (8, 4, 256)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rotate_and_store(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
    """Parts of one fused product; halves of cos and sin that differ; values that are NaN."""
    cache = random_cache(2, 6, 4, kv_heads, head_dim).to(dtype)
    expected = cache.clone()
    fused = torch.randn(7, heads + 2 * kv_heads, head_dim, device=DEVICE).to(dtype)
    fused[2, -1, head_dim - 3] = torch.nan
    fused[4, -1, 1] = torch.inf
    q, k, v = fused.split([heads, kv_heads, kv_heads], dim=1)
    cos, sin = torch.randn(2, 7, head_dim, device=DEVICE).to(dtype)
    slots = torch.tensor([23, -1, 0, 9, 10, -1, 4], device=DEVICE)
    ours = kv_cache.rotate_and_store(q, k, v, cos, sin, cache[1, 0], cache[1, 1], slots)
    theirs = reference.rotate_and_store(q, k, v, cos, sin, expected[1, 0], expected[1, 1], slots)
    # The interpreter truncates to bfloat16 where a GPU rounds.
    close = {"rtol": 1e-2, "atol": 1e-2} if dtype == torch.bfloat16 else {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(ours, theirs, **close)
    torch.testing.assert_close(cache[1, 0], expected[1, 0], **close, equal_nan=True)
    assert torch.equal(cache[1, 1], expected[1, 1])
    assert torch.equal(cache[0], expected[0])
    assert ours.is_contiguous()
    assert len(kv_cache.rotate_and_store(q[:0], k[:0], v[:0], cos[:0], sin[:0], *cache[1], slots[:0])) == 0


@pytest.mark.parametrize(("block_size", "heads", "head_dim"), [(16, 2, 64), (16, 5, 80), (1, 1, 16), (32, 4, 64)])
def test_copy_blocks(block_size: int, heads: int, head_dim: int) -> None:
    cache = random_cache(3, 9, block_size, heads, head_dim)
    expected = cache.clone()
    src, dst = torch.tensor([0, 0, 7], device=DEVICE), torch.tensor([4, 8, 2], device=DEVICE)
    kv_cache.copy_blocks(cache, src, dst)
    reference.copy_blocks(expected, src, dst)
    assert torch.equal(cache, expected)
    kv_cache.copy_blocks(cache, src, torch.full_like(dst, -1))
    kv_cache.copy_blocks(cache, src[:0], dst[:0])
    assert torch.equal(cache, expected)


def test_what_they_refuse() -> None:
    cache = random_cache(1, 4, 4, 2, 16)
    k = torch.randn(1, 2, 16, device=DEVICE)
    slots = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    with pytest.raises(FastsiaError, match="evenly spaced"):
        kv_cache.store_kv(k, k, cache[0, 0, :, :2], cache[0, 1, :, :2], slots)
    with pytest.raises(FastsiaError, match="contiguous head"):
        kv_cache.store_kv(k.mT.contiguous().mT, k, cache[0, 0], cache[0, 1], slots)
    cos = torch.randn(1, 16, device=DEVICE)
    with pytest.raises(FastsiaError, match=r"cos and sin must be \[1, 16\]"):
        kv_cache.rotate_and_store(k, k, k, cos[:, :8], cos[:, :8], cache[0, 0], cache[0, 1], slots)
    with pytest.raises(FastsiaError, match="contiguous"):
        kv_cache.copy_blocks(cache[:, :, :2], slots, slots)
