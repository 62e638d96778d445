"""Matrix products with packed weights on a CPU (oneDNN), in which a row's bits do not depend on the other rows."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from fastsia import processor

SIZES = (16, 32, 64, 128, 256, 512)
"""The numbers of rows that products are computed in. oneDNN compiles a kernel for each, so they are few."""
# The fixed cost of a product, in rows: reading the weights takes about as long as multiplying them by so many rows.
_OVERHEAD = 32
# Outputs of a product that is tried as an engine is made; emulated bfloat16 is about ten times as slow.
_MOST_OUTPUTS, _MOST_EMULATED_OUTPUTS = 1 << 26, 1 << 23


def is_available(dtype: torch.dtype) -> bool:
    """Whether this torch packs weights of a dtype."""
    return dtype in (torch.float32, torch.bfloat16) and torch.backends.mkldnn.is_available() and _works(dtype)


@cache
def _works(dtype: torch.dtype) -> bool:
    weight = torch.eye(32, dtype=dtype)
    try:
        return torch.equal(product(weight, pack(weight), None, SIZES), weight)
    except (AttributeError, RuntimeError):  # the operators are torch's own and may change
        return False


def _cost(sizes: tuple[int, ...]) -> int:
    return sum(sizes) + _OVERHEAD * len(sizes)


@cache
def cover(rows: int, sizes: tuple[int, ...] = SIZES) -> tuple[int, ...]:
    """The cheapest sizes, largest first, whose sum is at least `rows`."""
    largest = max(sizes)
    if rows > 2 * largest:
        return (largest, *cover(rows - largest, sizes))
    candidates = [(size, *(cover(rows - size, sizes) if rows > size else ())) for size in sizes]
    cheapest: tuple[int, ...] = min(candidates, key=_cost)
    return tuple(sorted(cheapest, reverse=True))


def pack(weight: Tensor) -> Tensor:
    """A weight [out, in] in the layout that its products read fastest; `packed.to_dense()` is the weight again."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), 64)


def product(x: Tensor, packed: Tensor, bias: Tensor | None, sizes: tuple[int, ...]) -> Tensor:
    """x @ weight.T + bias, [rows, out].

    Args:
        x: [rows, in]. Padded to sums of `sizes`; without a copy where it is one already.
        packed: from `pack`.
        sizes: those that `agreeing_sizes` found for this weight.
    """
    rows, parts = len(x), cover(len(x), sizes)
    if sum(parts) > rows:
        x = torch.nn.functional.pad(x, (0, 0, 0, sum(parts) - rows))
    linear = torch.ops.mkldnn._linear_pointwise
    pieces = [linear(piece, packed, bias, "none", [], "") for piece in x.contiguous().split(parts)]
    return (pieces[0] if len(pieces) == 1 else torch.cat(pieces))[:rows]


def agreeing_sizes(packed: Tensor, bias: Tensor | None, sizes: tuple[int, ...] = SIZES) -> tuple[int, ...]:
    """The sizes in which a product gives a row the bits that it has in the first size.

    Each size computes the same rows, at other places and in other company. Empty where not even the first size agrees
    with itself. A wide product, such as a head's, gets fewer sizes, since each must be tried.
    """
    emulated = packed.dtype == torch.bfloat16 and not processor.multiplies_bfloat16()
    most = _MOST_EMULATED_OUTPUTS if emulated else _MOST_OUTPUTS
    agreeing: tuple[int, ...] = ()
    for size in sizes:
        if agreeing and size * packed.shape[0] > most:
            break
        if _agrees(packed, bias, sizes[0], size):
            agreeing += (size,)
        elif not agreeing:
            break
    return agreeing


def _agrees(packed: Tensor, bias: Tensor | None, few: int, many: int) -> bool:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((few, packed.shape[1]), generator=generator).to(packed.dtype)
    order = torch.randperm(many, generator=generator) % few
    alone = product(x, packed, bias, (few,))
    crowd = product(x[order], packed, bias, (many,))
    return all(torch.equal(row, alone[i]) for row, i in zip(crowd, order.tolist(), strict=True))
