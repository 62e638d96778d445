"""What a decode step costs at least, one part after the other: the serial floor (docs/performance.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from benchmarks.gpu.models import skeleton
from benchmarks.machine import bandwidth, seconds
from fastsia.engine.model_runner import kv_shape


@dataclass(frozen=True)
class Rates:
    """Of a machine: bytes and operations per second."""

    bytes_per_s: float
    flops_per_s: float


H200 = Rates(4.3e12, 790e12)


@cache
def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Operations per second, from the best of several square matrix products (a multiply-add counts as two)."""
    size, repeats = (8192, 20) if device == "cuda" else (512, 3)
    left, right = torch.randn(2, size, size, device=device).to(dtype).unbind()
    return 2 * size**3 / min(seconds(lambda: left @ right, repeats, device))


def products(module: PreTrainedModel) -> Iterator[Tensor]:
    """The weights of a step's matrix products, [out, in]; those that are views of one matrix as that matrix."""
    fused: list[Tensor] = []
    for layer in module.modules():
        if not isinstance(layer, nn.Linear):
            continue
        weight, last = layer.weight.detach(), fused[-1] if fused else None
        if last is not None and (
            weight.shape[1] != last.shape[1]
            or weight.untyped_storage().data_ptr() != last.untyped_storage().data_ptr()
            or weight.storage_offset() != last.storage_offset() + last.numel()
        ):
            yield _whole(fused)
            fused = []
        fused.append(weight)
    if fused:
        yield _whole(fused)


def _whole(parts: list[Tensor]) -> Tensor:
    """The matrix whose parts are adjacent in memory."""
    rows = sum(len(part) for part in parts)
    return parts[0].as_strided((rows, parts[0].shape[1]), parts[0].stride())


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


def product_seconds(module: PreTrainedModel, rows: int) -> float:
    """Seconds of a step's matrix products alone: `rows` rows by each weight of the model, in their order.

    A large square product reaches a rate that few rows by a model's own shapes cannot; and a step reads each weight
    from memory, as the others displace it from the cache.
    """
    weights = list(products(module))
    inputs = {
        width: torch.randn(rows, width, device=module.device, dtype=module.dtype)
        for width in {weight.shape[1] for weight in weights}
    }

    def once() -> None:
        for weight in weights:
            nn.functional.linear(inputs[weight.shape[1]], weight)

    with torch.inference_mode():
        if module.device.type != "cuda":
            return min(seconds(once, 3))
        seconds(once, 1, "cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            once()
        return min(seconds(graph.replay, 9, "cuda"))


def measured_rates(device: str, dtype: torch.dtype) -> Rates:
    return Rates(bandwidth(device), matmul_rate(device, dtype))


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
            operations = 2 * self.weights * rows / rates.flops_per_s
            products = max(self.weights * self.itemsize / rates.bytes_per_s, operations)
        kv = (shared_tokens + own_tokens) * self.kv_bytes / rates.bytes_per_s
        logits = 2 * rows * self.vocab * self.itemsize / rates.bytes_per_s
        return products + kv + logits
