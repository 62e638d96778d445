"""Sampling, attention and KV-cache ops, selected by device and dtype."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fastsia.errors import FastsiaError
from fastsia.ops import cpu, reference
from fastsia.ops.reference import Samples


@dataclass(frozen=True)
class Ops:
    """One implementation of every op, with the signatures of `fastsia.ops.reference`.

    `name` is "triton", "native" or "reference": runs and benchmarks report it.
    """

    name: str
    sample: Callable[..., Samples]
    prefix_attention: Callable[..., Tensor]
    store_kv: Callable[..., None]
    rotate_and_store: Callable[..., Tensor]
    copy_blocks: Callable[..., None]


def select(
    device: torch.device | str,
    kernels: str = "auto",
    dtype: torch.dtype = torch.float32,
    *,
    deterministic: bool = False,
) -> Ops:
    """The ops for a device and the model's dtype.

    "auto" takes Triton on CUDA; on a CPU "native" (sampling and attention in the C++ core, float32 and bfloat16) where
    that is built, else the reference. "triton" off CUDA runs under Triton's interpreter, which has to be on
    (TRITON_INTERPRET=1) when Python starts. A bundle's Triton ops share counters between launches, so it serves one
    stream at a time. deterministic: attention's sums depend on no other row.
    """
    device = torch.device(device)
    if kernels not in ("auto", "triton", "native", "reference"):
        raise FastsiaError(f'kernels must be "auto", "triton", "native" or "reference", got {kernels!r}.')
    fits = device.type == "cpu" and dtype in cpu.DTYPES
    if kernels == "native" and not (fits and cpu.is_available()):
        raise FastsiaError(
            f'kernels="native" needs the C++ core, a CPU and float32 or bfloat16, got {device.type} and {dtype}.'
        )
    if kernels == "native" or (kernels == "auto" and fits and cpu.is_available()):
        rotate_and_store = partial(reference.rotate_and_store, store=cpu.store_kv)
        return Ops("native", cpu.sample, cpu.prefix_attention, cpu.store_kv, rotate_and_store, reference.copy_blocks)
    if kernels == "reference" or (kernels == "auto" and device.type != "cuda"):
        return Ops(
            "reference",
            reference.sample,
            reference.prefix_attention,
            reference.store_kv,
            reference.rotate_and_store,
            reference.copy_blocks,
        )
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise FastsiaError(f'kernels="triton" on {device.type} needs TRITON_INTERPRET=1; "auto" does not.')
    try:
        from fastsia.ops import kv_cache, prefix_attention, sampling
    except ImportError as error:
        raise FastsiaError(
            f'kernels={kernels!r} on {device.type} needs triton: {error}; "reference" does not.'
        ) from error
    return Ops(
        "triton",
        sampling.Sampler(),
        prefix_attention.PrefixAttention(fixed_parts=deterministic),
        kv_cache.store_kv,
        kv_cache.rotate_and_store,
        kv_cache.copy_blocks,
    )
