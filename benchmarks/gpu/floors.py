"""What a decode step costs at least, one part after the other: the serial floor (docs/performance.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from benchmarks.gpu.models import skeleton
from benchmarks.machine import bandwidth, seconds
from fastsia.engine.model_runner import kv_shape


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
    size, repeats = (8192, 20) if device == "cuda" else (512, 3)
    left, right = torch.randn(2, size, size, device=device).to(dtype).unbind()
    return Rates(bandwidth(device), 2 * size**3 / min(seconds(lambda: left @ right, repeats, device)))


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


def products(module: nn.Module) -> Iterator[Tensor]:
    """The weights of a step's matrix products, [out, in]; those that are views of one matrix as that matrix."""
    parts: list[Tensor] = []
    for weight in [layer.weight.detach() for layer in module.modules() if isinstance(layer, nn.Linear)]:
        if parts and not _adjacent(parts[-1], weight):
            yield _whole(parts)
            parts = []
        parts.append(weight)
    if parts:
        yield _whole(parts)


def _adjacent(one: Tensor, following: Tensor) -> bool:
    same = one.untyped_storage().data_ptr() == following.untyped_storage().data_ptr()
    return same and one.shape[1] == following.shape[1] and one.data_ptr() + one.nbytes == following.data_ptr()


def _whole(parts: list[Tensor]) -> Tensor:
    return parts[0].as_strided((sum(map(len, parts)), parts[0].shape[1]), parts[0].stride())


def product_seconds(module: nn.Module, rows: int) -> float:
    """Seconds of a step's matrix products alone: `rows` rows by each weight of the model, in their order.

    A large square product reaches a rate that few rows by a model's own shapes cannot; and a step reads each weight
    from memory, as the others displace it from the cache.
    """
    weights = list(products(module))
    inputs = {weight.shape[1]: weight.new_empty(rows, weight.shape[1]).normal_() for weight in weights}

    def once() -> None:
        for weight in weights:
            nn.functional.linear(inputs[weight.shape[1]], weight)

    with torch.inference_mode():
        return min(seconds(graphed(once, weights[0].device.type), 9, weights[0].device.type))


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
    def of(cls, config: PretrainedConfig, itemsize: int = 2) -> Costs:
        module = skeleton(config)
        looked_up = 0 if config.tie_word_embeddings else module.get_input_embeddings().weight.numel()
        weights = sum(p.numel() for p in module.parameters()) - looked_up
        kv_heads, head_dim = kv_shape(config)
        kv_bytes = config.num_hidden_layers * 2 * kv_heads * head_dim * itemsize
        return cls(weights, kv_bytes, config.vocab_size, itemsize)

    def step_seconds(
        self, rows: int, shared_tokens: int, own_tokens: int, rates: Rates, products: float | None = None
    ) -> float:
        """Matrix products, then keys and values, then logits.

        The trunks' tokens are read once, `shared_tokens` in all, and the suffixes', `own_tokens` in all. Logits are
        written and read.

        Args:
            products: seconds of the matrix products, from `product_seconds`. None: what reading the weights takes, or
                their operations, whichever is more.
        """
        if products is None:
            products = rates.seconds(self.weights * self.itemsize, 2 * self.weights * rows)
        moved = (shared_tokens + own_tokens) * self.kv_bytes + 2 * rows * self.vocab * self.itemsize
        return products + rates.seconds(moved)
