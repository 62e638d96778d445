"""Matrix products with packed weights on a CPU (oneDNN), in which a row's bits do not depend on the other rows."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

STEP = 16
"""Products are computed in multiples of this many rows."""
# The most rows of a product, and of one with many outputs, a head's, whose results take much memory.
_MOST, _MOST_OF_WIDE, _WIDE = 512, 256, 1 << 15


def is_available(dtype: torch.dtype) -> bool:
    """Whether this torch packs weights of a dtype."""
    return dtype in (torch.float32, torch.bfloat16) and torch.backends.mkldnn.is_available() and _works(dtype)


@cache
def _works(dtype: torch.dtype) -> bool:
    weight = torch.eye(32, dtype=dtype)
    try:
        return torch.equal(product(weight, pack(weight), None, (32,)), weight)
    except (AttributeError, RuntimeError):  # the operators are torch's own and may change
        return False


def rounded(rows: int) -> int:
    """The multiple of `STEP` that a batch of `rows` is padded to."""
    return -(-rows // STEP) * STEP


def pack(weight: Tensor) -> Tensor:
    """A weight [out, in] in the layout that its products read fastest; `packed.to_dense()` is the weight again."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), 64)


def product(x: Tensor, packed: Tensor, bias: Tensor | None, parts: tuple[int, ...]) -> Tensor:
    """x @ weight.T + bias, [rows, out].

    Args:
        x: [rows, in]; padded to `sum(parts)`, without a copy where it has as many rows.
        packed: from `pack`.
        parts: numbers of rows, computed one after the other; from `Sizes.parts`.
    """
    rows = len(x)
    if sum(parts) > rows:
        x = torch.nn.functional.pad(x, (0, 0, 0, sum(parts) - rows))
    linear = torch.ops.mkldnn._linear_pointwise.default
    pieces = x.contiguous().split(parts) if len(parts) > 1 else (x.contiguous(),)
    out = [linear(piece, packed, bias, "none", [], "") for piece in pieces]
    return (out[0] if len(out) == 1 else torch.cat(out))[:rows]


class Sizes:
    """The numbers of rows in which a product gives a row the bits that it has among `STEP` rows.

    A size is tried before its first use: the same rows at other places, beside other rows. One that gives other bits is
    not used.

    Args:
        packed, bias: a product; those of the same shape share an object.

    Attributes:
        exact: whether `STEP` rows agree with themselves in another order; if not, every size is used.
    """

    def __init__(self, packed: Tensor, bias: Tensor | None) -> None:
        self._most = _MOST_OF_WIDE if packed.shape[0] > _WIDE else _MOST
        self._agreeing = {STEP: True}
        self.exact = _agrees(packed, bias, STEP)

    def parts(self, rows: int, packed: Tensor, bias: Tensor | None) -> tuple[int, ...]:
        """The sizes to compute `rows` of a product in, largest first."""
        left, parts = rounded(rows), []
        while left:
            size = min(left, self._most)
            while self.exact and not self._can_use(size, packed, bias):
                size -= STEP
            parts.append(size)
            left -= size
        return tuple(parts)

    def _can_use(self, size: int, packed: Tensor, bias: Tensor | None) -> bool:
        if size not in self._agreeing:
            self._agreeing[size] = _agrees(packed, bias, size)
        return self._agreeing[size]


def _agrees(packed: Tensor, bias: Tensor | None, many: int) -> bool:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((STEP, packed.shape[1]), generator=generator).to(packed.dtype)
    order = torch.randperm(many, generator=generator) % STEP
    alone = product(x, packed, bias, (STEP,))
    crowd = product(x[order], packed, bias, (many,))
    return all(torch.equal(row, alone[i]) for row, i in zip(crowd, order.tolist(), strict=True))
