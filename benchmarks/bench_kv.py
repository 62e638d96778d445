"""Storing new keys and values, and copying blocks on a fork, against the bytes they move and torch's indexing."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from timing import measure, report

from fastsia.ops import reference, select

# num_layers, num_kv_heads, head_dim
MODELS = {"qwen2.5-3b": (36, 2, 128), "deepseek-7b": (30, 32, 128)}
BLOCK = 16
COPIES = 4


@pytest.mark.parametrize("path", ["fastsia", "torch index"])
@pytest.mark.parametrize("rows", [256, 1024])
@pytest.mark.parametrize("model", list(MODELS))
def test_store_kv(benchmark: BenchmarkFixture, device: str, toy: bool, model: str, rows: int, path: str) -> None:
    if toy and rows != 256:
        pytest.skip("toy: one number of rows")
    _, num_kv_heads, head_dim = MODELS[model]
    rows = 5 if toy else rows
    dtype = torch.float32 if toy else torch.bfloat16
    shape = (2, 4 * rows, BLOCK, num_kv_heads, head_dim)
    caches = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(COPIES)]
    k, v = torch.randn(2, num_kv_heads, rows, head_dim, device=device, dtype=dtype).transpose(1, 2)
    slots = torch.randperm(4 * rows * BLOCK, device=device)[:rows]
    ops = select(device, "triton" if path == "fastsia" else "reference")
    took = f"fastsia-{ops.name}" + ("-interpreted" if device == "cpu" else "") if path == "fastsia" else path
    ops.store_kv(k, v, *caches[0], slots)
    assert torch.equal(caches[0][0].flatten(0, 1)[slots], k)
    calls = [lambda c=c: ops.store_kv(k, v, c[0], c[1], slots) for c in caches]
    seconds = measure(benchmark, calls, device, graph=path == "fastsia")
    report("store_kv", took, {"model": model, "rows": rows}, seconds, 4 * k.nbytes, device)


@pytest.mark.parametrize("path", ["fastsia", "torch index"])
@pytest.mark.parametrize("forks", [8, 64])
@pytest.mark.parametrize("model", list(MODELS))
def test_copy_blocks(benchmark: BenchmarkFixture, device: str, toy: bool, model: str, forks: int, path: str) -> None:
    if toy and forks != 8:
        pytest.skip("toy: one number of forks")
    num_layers, num_kv_heads, head_dim = MODELS[model]
    num_layers, forks = (2, 3) if toy else (num_layers, forks)
    dtype = torch.float32 if toy else torch.bfloat16
    cache = torch.randn((num_layers, 2, 8 * forks, BLOCK, num_kv_heads, head_dim), dtype=dtype, device=device)
    order = torch.randperm(8 * forks, device=device).view(4, 2, forks)
    ops = select(device, "triton" if path == "fastsia" else "reference")
    took = f"fastsia-{ops.name}" + ("-interpreted" if device == "cpu" else "") if path == "fastsia" else path
    expected = cache.clone()
    reference.copy_blocks(expected, *order[0])
    ops.copy_blocks(cache, *order[0])
    assert torch.equal(cache, expected)
    calls = [lambda pair=pair: ops.copy_blocks(cache, *pair) for pair in order]
    seconds = measure(benchmark, calls, device)
    block_bytes = cache[0, 0, 0].nbytes
    report("copy_blocks", took, {"model": model, "forks": forks}, seconds, 4 * num_layers * forks * block_bytes, device)
