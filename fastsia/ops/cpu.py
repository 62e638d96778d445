"""Sampling and attention on a CPU by the C++ core: the reference's contracts without its temporaries."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastsia.core import extension
from fastsia.ops.reference import AttentionMetadata, DrawSpec, Samples

DTYPES = (torch.float32, torch.bfloat16)
"""The dtypes of tensors that the core reads and writes; it computes in float32."""


def is_available() -> bool:
    """Whether the C++ core is built."""
    return hasattr(extension(), "activate")


def _core() -> Any:
    core = extension()
    if core is None:
        raise RuntimeError("the C++ core is not built")
    return core


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory as a numpy array. numpy has no bfloat16; such values are passed as their bits."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def sample(logits: Tensor, spec: DrawSpec[Tensor]) -> Samples:
    """`reference.sample` for float32 and bfloat16 on the CPU.

    Weights are float32 here and float64 in the reference, so a draw differs only within about 1e-6 of an edge of the
    nucleus or of the cumulative distribution.
    """
    arrays = (array.numpy() for array in spec[:-1])
    threads = torch.get_num_threads()
    tokens, logprobs, entropy, bad = _core().sample(_array(logits.contiguous()), *arrays, spec.want_entropy, threads)
    entropy = None if entropy is None else torch.from_numpy(entropy)
    return Samples(torch.from_numpy(tokens), torch.from_numpy(logprobs), entropy, torch.from_numpy(bad))


def prefix_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    meta: AttentionMetadata,
    scale: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """`reference.prefix_attention` for float32 and bfloat16 on the CPU; reads the paged cache in place, row by row.

    The cache is one that `store_kv` of this module wrote. A row whose scores are NaN or infinite gets NaN. A row sums
    over its keys in the order of their positions: its bits do not depend on other rows, nor on how many of its keys
    are the shared prefix's.
    """
    out = torch.empty(q.shape, dtype=q.dtype)
    _core().prefix_attention(
        _array(q),
        _array(k_cache),
        _array(v_cache),
        np.ascontiguousarray(meta.prefix_tables.numpy()),
        meta.cu_rows.numpy(),
        meta.prefix_lens.numpy(),
        np.ascontiguousarray(meta.suffix_tables.numpy()),
        meta.suffix_lens.numpy(),
        float(scale),
        int(sliding_window or 0),
        float(softcap or 0.0),
        torch.get_num_threads(),
        _array(out),
    )
    return out


def store_kv(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> None:
    """`reference.store_kv` for float32 and bfloat16 on the CPU, but for the layout of a block.

    In the memory of [block_size, kv heads, head_dim] it keeps keys as [kv heads, head_dim, block_size] and values as
    [kv heads, block_size, head_dim]: anyone may copy or clear whole blocks, only `prefix_attention` here reads them.
    It marks no bad value: no row here reads keys that it does not see.
    """
    _core().store_kv(_array(k), _array(v), _array(k_cache), _array(v_cache), slots.numpy())


def activate(function: str, x: Tensor) -> Tensor:
    """An activation function of each value, in float32 arithmetic; a value's result does not depend on its place.

    torch's own functions give the last values of a thread's part other bits than the rest.

    Args:
        function: "silu" or "gelu_tanh".
        x: [..., width], float32 or bfloat16.
    """
    out = torch.empty(x.shape, dtype=x.dtype)
    _core().activate(function, _array(x.flatten(0, -2)), torch.get_num_threads(), _array(out.flatten(0, -2)))
    return out
