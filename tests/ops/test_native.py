"""The C++ core's attention against the reference, and what it refuses to read."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fastsia.answers.native import extension
from fastsia.config import FastsiaError
from fastsia.ops import native, reference, select
from fastsia.ops.reference import AttentionMetadata

pytestmark = pytest.mark.skipif(not native.available(), reason="the C++ core is not built")

# Trunks of (length, [(prefix_len, suffix_len), ...]): branches, a prefill, an empty prefix, one row alone, many rows.
TRUNKS = [
    (37, [(37, 3), (20, 1), (5, 17), (0, 4)]),
    (9, [(i + 1, 0) for i in range(9)]),
    (50, [(50, 0)] + [(13, 2)] * 20),
    (1, [(1, 0)]),
]


def batch(block_size: int, num_kv_heads: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor, AttentionMetadata]:
    blocks = iter(np.random.default_rng(0).permutation(300).tolist())
    take = lambda tokens: [next(blocks) for _ in range(-(-tokens // block_size))]  # noqa: E731
    trunks = [take(length) for length, _ in TRUNKS]
    rows = [(prefix, suffix, take(suffix)) for _, each in TRUNKS for prefix, suffix in each]

    def table(lists: list[list[int]]) -> torch.Tensor:
        width = max(map(len, lists))
        return torch.tensor([blocks + [0] * (width - len(blocks)) for blocks in lists], dtype=torch.int32)

    counts = [len(each) for _, each in TRUNKS]
    meta = AttentionMetadata(
        trunk_tables=table(trunks),
        cu_rows=torch.tensor(np.cumsum([0, *counts]), dtype=torch.int32),
        prefix_lens=torch.tensor([row[0] for row in rows], dtype=torch.int32),
        suffix_tables=table([row[2] for row in rows]),
        suffix_lens=torch.tensor([row[1] for row in rows], dtype=torch.int32),
        max_prefix_len=max(row[0] for row in rows),
        max_suffix_len=max(row[1] for row in rows),
        max_rows=max(counts),
    )
    shape = (300, block_size, num_kv_heads, head_dim)
    return torch.randn(shape), torch.randn(shape), meta


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (7, None), (None, 2.0), (16, 5.0)])
@pytest.mark.parametrize(("heads", "num_kv_heads", "head_dim"), [(4, 2, 32), (4, 4, 64), (7, 1, 128), (6, 2, 20)])
@pytest.mark.parametrize("block_size", [4, 16])
def test_equals_the_reference(
    block_size: int,
    heads: int,
    num_kv_heads: int,
    head_dim: int,
    window: int | None,
    softcap: float | None,
    threads: int,
) -> None:
    torch.manual_seed(0)
    k_cache, v_cache, meta = batch(block_size, num_kv_heads, head_dim)
    q = torch.randn(len(meta.prefix_lens), heads, head_dim)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours = native.prefix_attention(q, k_cache, v_cache, meta, head_dim**-0.5, window, softcap)
    finally:
        torch.set_num_threads(before)
    expected = reference.prefix_attention(q, k_cache, v_cache, meta, head_dim**-0.5, window, softcap)
    torch.testing.assert_close(ours, expected, atol=3e-6, rtol=1e-5)


def test_a_row_does_not_move_with_the_batch_around_it() -> None:
    """Each row is summed in its own order, so the same row gives the same bits alone and in company."""
    torch.manual_seed(0)
    k_cache, v_cache, meta = batch(16, 2, 32)
    q = torch.randn(len(meta.prefix_lens), 4, 32)
    together = native.prefix_attention(q, k_cache, v_cache, meta, 0.2)
    row, trunk = 2, 0
    alone = dataclasses.replace(
        meta,
        trunk_tables=meta.trunk_tables[trunk : trunk + 1],
        cu_rows=torch.tensor([0, 1], dtype=torch.int32),
        prefix_lens=meta.prefix_lens[row : row + 1],
        suffix_tables=meta.suffix_tables[row : row + 1],
        suffix_lens=meta.suffix_lens[row : row + 1],
    )
    assert torch.equal(native.prefix_attention(q[row : row + 1], k_cache, v_cache, alone, 0.2)[0], together[row])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_small_and_large_scores_keep_their_weights(scale: float) -> None:
    """The exponential is our own: flat, usual and one-hot softmaxes must all come out."""
    torch.manual_seed(0)
    k_cache, v_cache, meta = batch(4, 2, 32)
    q = torch.randn(len(meta.prefix_lens), 4, 32)
    ours = native.prefix_attention(q, k_cache, v_cache, meta, scale)
    exact = reference.prefix_attention(q.double(), k_cache.double(), v_cache.double(), meta, scale).float()
    torch.testing.assert_close(ours, exact, atol=1e-3 if scale > 1 else 3e-6, rtol=1e-4)


def test_nan_stays_nan_in_its_own_row() -> None:
    torch.manual_seed(0)
    k_cache, v_cache, meta = batch(4, 2, 32)
    q = torch.randn(len(meta.prefix_lens), 4, 32)
    q[3] = torch.nan
    out = native.prefix_attention(q, k_cache, v_cache, meta, 0.2)
    assert out[3].isnan().all()
    assert out[:3].isfinite().all()
    assert out[4:].isfinite().all()


@pytest.mark.parametrize(
    "change",
    [
        {"prefix_lens": 200},
        {"suffix_lens": 200},
        {"trunk_tables": 300},
        {"suffix_tables": -1},
        {"cu_rows": 1},
    ],
)
def test_tables_that_point_outside_the_cache_are_refused(change: dict[str, int]) -> None:
    """Native code must not read past a buffer, whatever it is handed."""
    k_cache, v_cache, meta = batch(4, 2, 32)
    q = torch.randn(len(meta.prefix_lens), 4, 32)
    ((name, value),) = change.items()
    wrong = getattr(meta, name).clone()
    wrong.view(-1)[0] = value
    with pytest.raises(ValueError, match="past|rise"):
        native.prefix_attention(q, k_cache, v_cache, dataclasses.replace(meta, **{name: wrong}), 0.2)


def test_other_dtypes_are_refused_not_copied() -> None:
    core = extension()
    assert core is not None
    k_cache, v_cache, meta = batch(4, 2, 32)
    with pytest.raises(TypeError):
        native.prefix_attention(torch.randn(len(meta.prefix_lens), 4, 32), k_cache.double(), v_cache, meta, 0.2)


def test_it_is_chosen_for_float32_on_a_cpu_and_nowhere_else() -> None:
    assert select("cpu").name == "native"
    assert select("cpu", dtype=torch.float64).name == "reference"
    assert select("cpu", "reference").name == "reference"
    with pytest.raises(FastsiaError, match="float32"):
        select("cpu", "native", torch.bfloat16)
