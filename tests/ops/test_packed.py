"""Packed products: the product itself, and a row's bits in any company."""

from __future__ import annotations

import pytest
import torch

from fastsia.ops import packed

DTYPES = [torch.float32, torch.bfloat16]
pytestmark = pytest.mark.skipif(not packed.is_available(torch.float32), reason="this torch packs no weights")


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 100, 511, 1300, 5000])
def test_sizes_cover_the_rows_with_little_padding(rows: int) -> None:
    parts = packed.cover(rows)
    assert set(parts) <= set(packed.SIZES)
    assert rows <= sum(parts) <= max(1.9 * rows, 16)
    assert packed.cover(rows, (16,)) == (16,) * -(-rows // 16)
    assert packed.cover(sum(parts)) == parts, "a padded batch must need no further padding"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 16, 37, 600])
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_torchs_product(dtype: torch.dtype, rows: int, with_bias: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(rows, 48).to(dtype), torch.randn(72, 48).to(dtype)
    bias = torch.randn(72).to(dtype) if with_bias else None
    ours = packed.product(x, packed.pack(weight), bias, packed.SIZES)
    exact = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    torch.testing.assert_close(
        ours.double(), exact, **({"atol": 1e-4} if dtype == torch.float32 else {"atol": 0.1}), rtol=1e-2
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_packed_weight_is_the_weight(dtype: torch.dtype) -> None:
    weight = torch.randn(70, 33).to(dtype)
    assert torch.equal(packed.pack(weight).to_dense(), weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("outputs", "inputs"), [(33, 20), (96, 160), (256, 576)])
def test_a_row_has_the_same_bits_at_any_place_and_in_any_company(dtype: torch.dtype, outputs: int, inputs: int) -> None:
    torch.manual_seed(0)
    weight = packed.pack(torch.randn(outputs, inputs).to(dtype))
    sizes = packed.agreeing_sizes(weight, None)
    assert sizes, "no size agrees with itself"
    x = torch.randn(700, inputs).to(dtype)
    together = packed.product(x, weight, None, sizes)
    for begin, end in ((0, 1), (0, 700), (13, 40), (100, 612), (600, 700), (699, 700)):
        assert torch.equal(packed.product(x[begin:end], weight, None, sizes), together[begin:end])


def test_sizes_that_disagree_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels chosen by the number of rows may add in other orders: such a size must be found and left out."""
    original = packed.product

    def rounding(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, sizes: tuple[int, ...]
    ) -> torch.Tensor:
        found = original(x, weight, bias, sizes)
        return found + 1e-6 if sizes[0] in (64, 512) else found

    weight = packed.pack(torch.randn(32, 32))
    monkeypatch.setattr(packed, "product", rounding)
    assert packed.agreeing_sizes(weight, None) == (16, 32, 128, 256)
    monkeypatch.setattr(packed, "product", lambda x, *_: original(x, *_) + torch.arange(len(x))[:, None])
    assert packed.agreeing_sizes(weight, None) == ()


def test_a_wide_product_has_fewer_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_MOST_OUTPUTS", 40 * 32)
    assert packed.agreeing_sizes(packed.pack(torch.randn(40, 32)), None) == (16, 32)
