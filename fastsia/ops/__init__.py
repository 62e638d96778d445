"""The ops that inference spends its time in, behind one bundle; chosen by device, never by luck."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastsia.config import FastsiaError
from fastsia.ops import reference
from fastsia.ops.reference import Samples


@dataclass(frozen=True)
class Ops:
    """One implementation of every op, with the signatures of `fastsia.ops.reference`.

    `name` is "triton" or "reference": runs and benchmarks report it.
    """

    name: str
    sample: Callable[..., Samples]
    prefix_attention: Callable[..., Tensor]
    store_kv: Callable[..., None]
    copy_blocks: Callable[..., None]


def select(device: torch.device | str, kernels: str = "auto") -> Ops:
    """The ops for a device: "auto" takes Triton on CUDA and the reference elsewhere.

    "triton" off CUDA runs under Triton's interpreter, which has to be on (TRITON_INTERPRET=1) when Python starts. A
    bundle's Triton ops share counters between launches, so it serves one stream at a time.
    """
    device = torch.device(device)
    if kernels not in ("auto", "triton", "reference"):
        raise FastsiaError(f'kernels must be "auto", "triton" or "reference", got {kernels!r}.')
    if kernels == "reference" or (kernels == "auto" and device.type != "cuda"):
        return Ops("reference", reference.sample, reference.prefix_attention, reference.store_kv, reference.copy_blocks)
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise FastsiaError(f'kernels="triton" on {device.type} needs TRITON_INTERPRET=1; "auto" takes the reference.')
    try:
        from fastsia.ops import kv_cache, prefix_attention, sampling
    except ImportError as error:
        raise FastsiaError(
            f'kernels={kernels!r} on {device.type} needs triton: {error}; "reference" does not.'
        ) from error
    return Ops(
        "triton", sampling.Sampler(), prefix_attention.PrefixAttention(), kv_cache.store_kv, kv_cache.copy_blocks
    )
