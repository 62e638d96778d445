"""The fused sampler against one read of the logits, a sort-based top-p in torch, and FlashInfer's.

    make bench-kernels                                  (CUDA where there is a GPU, else toy sizes on the CPU)
    python -m pytest benchmarks/bench_sampling.py --device cpu

Every path draws tokens at temperature 0.7 and top-p 0.95 from bfloat16 logits; ours also returns log-probabilities and
entropies. Logits: "language" is Zipf-like, some rows sharp and some flat; "flat" is normal, so that the nucleus is most
of the vocabulary; "all" is language at top-p 1.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fastsia.ops import reference, select
from fastsia.ops.reference import DrawSpec

TEMPERATURE, TOP_P, COPIES = 0.7, 0.95, 3


def make_logits(kind: str, rows: int, vocab: int, device: str, seed: int) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    if kind == "flat":
        return torch.randn(rows, vocab, generator=generator, device=device).bfloat16()
    sharpness = 1.1 + 3.0 * torch.rand(rows, 1, generator=generator, device=device)
    rank = torch.arange(1, vocab + 1, device=device).float().log()
    shuffled = [rank[torch.randperm(vocab, generator=generator, device=device)] for _ in range(rows)]
    return (-sharpness * torch.stack(shuffled)).bfloat16()


def softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits.float() / TEMPERATURE, dim=1)


def torch_sorted(logits: Tensor, top_p: float) -> Tensor:
    values, ids = softmax(logits).sort(dim=1, descending=True)
    values = torch.where(values.cumsum(1) - values < top_p, values, 0.0)
    # The race of exponentials: a multinomial draw without the host sync of torch.multinomial.
    drawn = (values / torch.empty_like(values).exponential_()).argmax(dim=1, keepdim=True)
    return ids.gather(1, drawn)


@pytest.mark.parametrize("path", ["fastsia", "one read", "torch sort", "flashinfer"])
@pytest.mark.parametrize("kind", ["language", "flat", "all"])
@pytest.mark.parametrize("vocab", [151_936, 256_000])
@pytest.mark.parametrize("rows", [256, 512, 1024])
def test_sampling(kernels: Any, rows: int, vocab: int, kind: str, path: str) -> None:
    flashinfer = kernels.need_flashinfer() if path == "flashinfer" else None
    rows, vocab, device = kernels.sized(rows, 256, 4), kernels.sized(vocab, 151_936, 1003), kernels.device
    copies = [make_logits(kind, rows, vocab, device, seed) for seed in range(COPIES)]
    top_p = 1.0 if kind == "all" else TOP_P
    draws = DrawSpec(
        torch.arange(rows, device=device),
        torch.randint(0, 2**62, (rows,), device=device),
        torch.randint(0, 1000, (rows, 4), dtype=torch.int32, device=device),
        torch.full((rows,), TEMPERATURE, device=device),
        torch.full((rows,), top_p, device=device),
    )
    ops = select(device, "triton")
    if path == "fastsia":
        # The timed op draws the reference's tokens, but for a draw at the edge of the nucleus.
        few = slice(0, 16)
        expected = reference.sample(copies[0][few], DrawSpec(*(tensor[few] for tensor in draws[:-1])))
        assert int((ops.sample(copies[0], draws).tokens[few] != expected.tokens).sum()) <= 1
    draw = {
        "fastsia": lambda logits: ops.sample(logits, draws),
        "one read": lambda logits: logits.amax(dim=1),  # the floor as a kernel
        "torch sort": lambda logits: torch_sorted(logits, top_p),
        "flashinfer": lambda logits: flashinfer.sampling.top_p_sampling_from_probs(softmax(logits), top_p),
    }[path]
    calls = [lambda logits=logits: draw(logits) for logits in copies]
    shape = {"rows": rows, "vocab": vocab, "logits": kind, "dtype": "bfloat16"}
    kernels.measure("sampling", path, shape, calls, copies[0].nbytes, graph=path != "flashinfer")
