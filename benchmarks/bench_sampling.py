"""The fused sampler against one read of the logits, a sort-based top-p in torch, and FlashInfer's.

    make bench-kernels                                  (CUDA where there is a GPU, else toy sizes on the CPU)
    pytest benchmarks/bench_sampling.py --device cpu

Every path gives tokens for temperature 0.7 and top-p 0.95 from bfloat16 logits; ours also gives log-probabilities and
entropies. "language": Zipf-like rows, some sharp and some flat; "flat": normal logits, whose nucleus is most of the
vocabulary; "all": language rows at top-p 1.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from timing import measure, report
from torch import Tensor

from fastsia.ops import reference, select

ROWS, VOCABS = (256, 512, 1024), (151_936, 256_000)
TOY_ROWS, TOY_VOCABS = (4,), (1003,)
TEMPERATURE, TOP_P = 0.7, 0.95
COPIES = 3


def make_logits(kind: str, rows: int, vocab: int, device: str, seed: int) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    if kind == "flat":
        return torch.randn(rows, vocab, generator=generator, device=device).bfloat16()
    sharpness = 1.1 + 3.0 * torch.rand(rows, 1, generator=generator, device=device)
    rank = torch.arange(1, vocab + 1, device=device).float().log()
    logits = torch.empty(rows, vocab, dtype=torch.bfloat16, device=device)
    for row in range(rows):
        order = torch.randperm(vocab, generator=generator, device=device)
        logits[row] = (-sharpness[row] * rank[order]).bfloat16()
    return logits


def torch_sorted(logits: Tensor, top_p: float) -> Tensor:
    probs = torch.softmax(logits.float() / TEMPERATURE, dim=1)
    values, ids = probs.sort(dim=1, descending=True)
    values = torch.where(values.cumsum(1) - values < top_p, values, 0.0)
    # The race of exponentials: a multinomial draw without the host sync of torch.multinomial.
    drawn = (values / torch.empty_like(values).exponential_()).argmax(dim=1, keepdim=True)
    return ids.gather(1, drawn)


def flashinfer_sampler() -> Callable[[Tensor, float], Tensor]:
    import flashinfer

    def draw(logits: Tensor, top_p: float) -> Tensor:
        probs = torch.softmax(logits.float() / TEMPERATURE, dim=1)
        return flashinfer.sampling.top_p_sampling_from_probs(probs, top_p)

    return draw


@pytest.mark.parametrize("path", ["fastsia", "one read", "torch sort", "flashinfer"])
@pytest.mark.parametrize("kind", ["language", "flat", "all"])
@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize("rows", ROWS)
def test_sampling(
    benchmark: BenchmarkFixture, device: str, toy: bool, rows: int, vocab: int, kind: str, path: str
) -> None:
    if toy:
        if rows != ROWS[0] or vocab != VOCABS[0]:
            pytest.skip("toy: one shape")
        rows, vocab = TOY_ROWS[0], TOY_VOCABS[0]
    if path == "flashinfer" and (device != "cuda" or importlib.util.find_spec("flashinfer") is None):
        pytest.skip("flashinfer is not installed, or there is no GPU")
    copies = [make_logits(kind, rows, vocab, device, seed) for seed in range(COPIES)]
    top_p = 1.0 if kind == "all" else TOP_P
    draws = rows
    arguments: tuple[Any, ...] = (
        torch.arange(rows, device=device),
        torch.randint(0, 2**62, (draws,), device=device),
        torch.randint(0, 1000, (draws, 4), dtype=torch.int32, device=device),
        torch.full((rows,), TEMPERATURE, device=device),
        torch.full((rows,), top_p, device=device),
    )
    graph, took = True, path
    if path == "fastsia":
        ops = select(device, "triton")
        took = f"fastsia-{ops.name}" + ("-interpreted" if device == "cpu" else "")
        check(ops.sample(copies[0], *arguments), copies[0], arguments)
        calls = [lambda x=x: ops.sample(x, *arguments) for x in copies]
    elif path == "one read":
        # The floor as a kernel: nothing but a maximum.
        calls = [lambda x=x: x.amax(dim=1) for x in copies]
    elif path == "torch sort":
        calls = [lambda x=x: torch_sorted(x, top_p) for x in copies]
    else:
        draw, graph = flashinfer_sampler(), False
        calls = [lambda x=x: draw(x, top_p) for x in copies]
    seconds = measure(benchmark, calls, device, graph)
    shape = {"rows": rows, "vocab": vocab, "logits": kind, "dtype": "bfloat16"}
    report("sampling", took, shape, seconds, copies[0].nbytes, device, graph=graph and device == "cuda")


def check(samples: reference.Samples, logits: Tensor, arguments: tuple[Any, ...]) -> None:
    """What is timed is right: the reference's tokens, but for draws at an edge."""
    few = slice(0, 16)
    expected = reference.sample(logits[few], *(argument[few] for argument in arguments))
    assert int((samples.tokens[few] != expected.tokens).sum()) <= 1
