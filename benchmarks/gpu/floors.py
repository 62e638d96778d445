"""What a decode step costs at least, one part after the other: the serial floor (docs/performance.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch.nn.functional import linear
from transformers import PretrainedConfig

from benchmarks.gpu.models import skeleton
from benchmarks.harness import seconds
from fastsia.engine.model_runner import ModelRunner, kv_shape

# Of each weight, so that all of them displace each other from the cache.
_COPIES = 3


@dataclass(frozen=True)
class Rates:
    """Of a machine: bytes and operations per second."""

    bytes_per_s: float
    flops_per_s: float

    def seconds(self, num_bytes: float, operations: float = 0.0) -> float:
        """What moving so many bytes takes, or so many operations, whichever is more."""
        return max(num_bytes / self.bytes_per_s, operations / self.flops_per_s)


H200 = Rates(4.3e12, 790e12)


@cache
def measured_rates(device: str, dtype: torch.dtype) -> Rates:
    """From the best of several large copies and square matrix products (a multiply-add counts as two operations)."""
    length, size, repeats = (1 << 29, 8192, 20) if device == "cuda" else (1 << 25, 512, 3)
    source = torch.ones(length, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    left, right = torch.randn(2, size, size, device=device).to(dtype).unbind()
    copying, multiplying = (
        seconds(lambda: target.copy_(source), 9, device),
        seconds(lambda: left @ right, repeats, device),
    )
    return Rates(2 * source.nbytes / min(copying), 2 * size**3 / min(multiplying))


def shapes(config: PretrainedConfig) -> dict[str, tuple[int, int]]:
    """(in, out) of the matrices of a layer, those of one input as one, and of the head."""
    kv_heads, head_dim = kv_shape(config)
    queries, size, middle = config.num_attention_heads * head_dim, config.hidden_size, config.intermediate_size
    return {
        "q|k|v": (size, queries + 2 * kv_heads * head_dim),
        "o": (queries, size),
        "gate|up": (size, 2 * middle),
        "down": (middle, size),
        "head": (size, config.vocab_size),
    }


def product_seconds(config: PretrainedConfig, rows: int, device: str, dtype: torch.dtype) -> float:
    """Seconds of a step's matrix products alone, at `rows` rows.

    A large square product reaches a rate that few rows by a model's own shapes cannot.
    """

    def once_each(sizes: list[tuple[int, int]]) -> float:
        weights = [torch.randn(*size[::-1], device=device, dtype=dtype) for size in sizes * _COPIES]
        inputs = {width: torch.randn(rows, width, device=device, dtype=dtype) for width, _ in sizes}

        def products() -> None:
            for weight in weights:
                linear(inputs[weight.shape[1]], weight)

        return min(seconds(graphed(products, device), 9, device)) / _COPIES

    *layer, head = shapes(config).values()
    return config.num_hidden_layers * once_each(layer) + once_each([head])


def graphed(work: Callable[[], object], device: str) -> Callable[[], object]:
    """The work as a CUDA graph, whose launches cost the host nothing; on a CPU, the work."""
    if device != "cuda":
        return work
    seconds(work, 1, device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


@dataclass(frozen=True)
class Costs:
    """Of a model. weights: numbers that every step reads (all but an embedding that only looks up).

    kv_bytes: of one token in all layers. itemsize: bytes a number.
    """

    weights: int
    kv_bytes: int
    vocab: int
    itemsize: int

    @classmethod
    def of(cls, config: PretrainedConfig, dtype: torch.dtype = torch.bfloat16) -> Costs:
        module = skeleton(config, dtype)
        looked_up = 0 if config.tie_word_embeddings else module.get_input_embeddings().weight.numel()
        weights = sum(p.numel() for p in module.parameters()) - looked_up
        return cls(weights, ModelRunner.bytes_per_block(module, 1), config.vocab_size, dtype.itemsize)

    def step_seconds(self, rows: int, tokens: int, rates: Rates, products: float | None = None) -> float:
        """Matrix products, then keys and values, then logits, which are written and read.

        Args:
            tokens: whose keys and values are read: those of each trunk once, and those of each suffix.
            products: seconds of the matrix products, from `product_seconds`. None: what reading the weights takes, or
                their operations, whichever is more.
        """
        if products is None:
            products = rates.seconds(self.weights * self.itemsize, 2 * self.weights * rows)
        return products + rates.seconds(tokens * self.kv_bytes + 2 * rows * self.vocab * self.itemsize)
