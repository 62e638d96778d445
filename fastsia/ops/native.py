"""Sampling and attention on a CPU by the C++ core: the reference's contracts without its temporaries."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastsia.core import extension
from fastsia.ops.reference import AttentionMetadata, Samples


def available() -> bool:
    """Whether the C++ core is built."""
    core = extension()
    return core is not None and hasattr(core, "sample")


def sample(
    logits: Tensor,
    draw_row: Tensor,
    seeds: Tensor,
    counters: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    want_entropy: bool = True,
) -> Samples:
    """`reference.sample` for float32 on the CPU.

    Weights are float32 there and float64 in the reference, so a draw differs only within about 1e-6 of an edge of the
    nucleus or of the cumulative distribution.
    """
    core = extension()
    if core is None:
        raise RuntimeError("the C++ core is not built")
    tokens, logprobs, entropy, bad = core.sample(
        logits.contiguous().numpy(),
        draw_row.numpy(),
        seeds.numpy(),
        counters.numpy(),
        temperature.numpy(),
        top_p.numpy(),
        want_entropy,
        torch.get_num_threads(),
    )
    return Samples(
        torch.from_numpy(tokens),
        torch.from_numpy(logprobs),
        None if entropy is None else torch.from_numpy(entropy),
        torch.from_numpy(bad),
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
    """`reference.prefix_attention` for float32 on the CPU; reads the paged cache in place, a row at a time.

    The cache is one that `store_kv` of this module wrote. A row whose scores are NaN or infinite gets NaN.
    """
    core = extension()
    if core is None:
        raise RuntimeError("the C++ core is not built")
    out = np.empty(q.shape, dtype=np.float32)
    core.prefix_attention(
        q.numpy(),
        k_cache.numpy(),
        v_cache.numpy(),
        np.ascontiguousarray(meta.trunk_tables.numpy()),
        meta.cu_rows.numpy(),
        meta.prefix_lens.numpy(),
        np.ascontiguousarray(meta.suffix_tables.numpy()),
        meta.suffix_lens.numpy(),
        float(scale),
        int(sliding_window or 0),
        float(softcap or 0.0),
        torch.get_num_threads(),
        out,
    )
    return torch.from_numpy(out)


def store_kv(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> None:
    """`reference.store_kv` for float32 on the CPU, but for the layout of a block.

    In the memory of [block_size, kv heads, head_dim] it keeps keys as [kv heads, head_dim, block_size] and values as
    [kv heads, block_size, head_dim]: anyone may copy or clear whole blocks, only `prefix_attention` here reads them.
    It marks no bad value, as no row here reads what it does not see.
    """
    core = extension()
    if core is None:
        raise RuntimeError("the C++ core is not built")
    core.store_kv(k.numpy(), v.numpy(), k_cache.numpy(), v_cache.numpy(), slots.numpy())
