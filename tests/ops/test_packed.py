"""Packed products: the product itself, and a row's bits in any company."""

from __future__ import annotations

import pytest
import torch

from fastsia.ops import packed

DTYPES = [torch.float32, torch.bfloat16]
pytestmark = pytest.mark.skipif(not packed.is_available(torch.float32), reason="this torch packs no weights")


@pytest.mark.parametrize(
    ("rows", "expected"), [(1, (16,)), (16, (16,)), (17, (32,)), (500, (512,)), (1300, (512, 512, 288))]
)
def test_rows_are_padded_to_a_multiple_of_16(rows: int, expected: tuple[int, ...]) -> None:
    weight = packed.pack(torch.randn(32, 32))
    assert packed.Sizes(weight, None).parts(rows, weight, None) == expected
    assert packed.rounded(rows) == sum(expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 16, 37, 600])
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_torchs_product(dtype: torch.dtype, rows: int, with_bias: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(rows, 48).to(dtype), torch.randn(72, 48).to(dtype)
    bias = torch.randn(72).to(dtype) if with_bias else None
    ours = packed.product(x, packed.pack(weight), bias, (packed.rounded(rows),))
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
    sizes = packed.Sizes(weight, None)
    assert sizes.exact
    x = torch.randn(700, inputs).to(dtype)
    together = packed.product(x, weight, None, sizes.parts(700, weight, None))
    for begin, end in ((0, 1), (0, 700), (13, 40), (100, 612), (600, 700), (699, 700)):
        part = packed.product(x[begin:end], weight, None, sizes.parts(end - begin, weight, None))
        assert torch.equal(part, together[begin:end])


def test_sizes_that_disagree_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels chosen by the number of rows may add in other orders: such a size must be found and left out."""
    original = packed.product

    def rounding(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, parts: tuple[int, ...]
    ) -> torch.Tensor:
        found = original(x, weight, bias, parts)
        return found + 1e-6 if parts[0] in (64, 512) else found

    weight = packed.pack(torch.randn(32, 32))
    monkeypatch.setattr(packed, "product", rounding)
    sizes = packed.Sizes(weight, None)
    assert sizes.exact
    assert sizes.parts(64, weight, None) == (48, 16)
    assert sizes.parts(80, weight, None) == (80,)
    assert sizes.parts(600, weight, None) == (496, 112)
    monkeypatch.setattr(packed, "product", lambda x, *_: original(x, *_) + torch.arange(len(x))[:, None])
    assert not packed.Sizes(weight, None).exact


def test_each_size_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, tried = packed.pack(torch.randn(32, 32)), []
    original = packed._agrees
    monkeypatch.setattr(packed, "_agrees", lambda *args: tried.append(args[2]) or original(*args))
    sizes = packed.Sizes(weight, None)
    for rows in (5, 40, 33, 48, 16):
        sizes.parts(rows, weight, None)
    assert tried == [16, 48]


def test_a_wide_product_has_fewer_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_WIDE", 39)
    weight = packed.pack(torch.randn(40, 32))
    assert packed.Sizes(weight, None).parts(520, weight, None) == (256, 256, 16)
