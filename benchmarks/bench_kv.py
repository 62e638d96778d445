"""Storing new keys and values, and copying blocks on a fork, against the bytes they move and torch's indexing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastsia.ops import reference, select

# num_layers, num_kv_heads, head_dim
MODELS = {"qwen2.5-3b": (36, 2, 128), "deepseek-7b": (30, 32, 128)}
BLOCK, COPIES = 16, 4
pytestmark = [
    pytest.mark.parametrize("path", ["fastsia", "torch index"]),
    pytest.mark.parametrize("model", list(MODELS)),
]


@pytest.mark.parametrize("tokens", [256, 1024])
def test_store_kv(kernels: Any, model: str, tokens: int, path: str) -> None:
    tokens, device = kernels.sized(tokens, 256, 5), kernels.device
    _, num_kv_heads, head_dim = MODELS[model]
    shape = (COPIES, 2, 4 * tokens, BLOCK, num_kv_heads, head_dim)
    caches = torch.zeros(shape, dtype=kernels.dtype, device=device)
    k, v = torch.randn(2, num_kv_heads, tokens, head_dim, device=device, dtype=kernels.dtype).transpose(1, 2)
    slots = torch.randperm(4 * tokens * BLOCK, device=device)[:tokens]
    ops = select(device, "triton" if path == "fastsia" else "reference")
    ops.store_kv(k, v, *caches[0], slots)
    assert torch.equal(caches[0, 0].flatten(0, 1)[slots], k)
    calls = [lambda cache=cache: ops.store_kv(k, v, *cache, slots) for cache in caches]
    shown = {"model": model, "tokens": tokens}
    kernels.measure("store_kv", path, shown, calls, 4 * k.nbytes, graph=path == "fastsia")


@pytest.mark.parametrize("forks", [8, 64])
def test_copy_blocks(kernels: Any, model: str, forks: int, path: str) -> None:
    forks, device = kernels.sized(forks, 8, 3), kernels.device
    num_layers, num_kv_heads, head_dim = MODELS[model]
    shape = (2 if kernels.toy else num_layers, 2, 8 * forks, BLOCK, num_kv_heads, head_dim)
    cache = torch.randn(shape, dtype=kernels.dtype, device=device)
    order = torch.randperm(8 * forks, device=device).view(COPIES, 2, forks)
    ops = select(device, "triton" if path == "fastsia" else "reference")
    expected = cache.clone()
    reference.copy_blocks(expected, *order[0])
    ops.copy_blocks(cache, *order[0])
    assert torch.equal(cache, expected)
    calls = [lambda pair=pair: ops.copy_blocks(cache, *pair) for pair in order]
    floor_bytes = 4 * shape[0] * forks * cache[0, 0, 0].nbytes
    shown = {"model": model, "forks": forks}
    kernels.measure("copy_blocks", path, shown, calls, floor_bytes)
