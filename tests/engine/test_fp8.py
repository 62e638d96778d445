"""Products in fp8: an option that rounds weights by channel and inputs by row; off where a device has none."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from fastsia import Engine, FastsiaError, SamplingParams
from fastsia.ops import fp8
from tests.engine.models import EOS, tiny_model

SAMPLING = SamplingParams(temperature=1.1, top_p=0.95, max_tokens=12, eos_token_id=EOS)


def draws(engine: Engine) -> dict[int, list[list[int]]]:
    found = engine.rollout_checkpoints([5, 6, 7, 8, 9], [20, 21, 22, 23], [0, 2, 4], 8, SAMPLING, seed=3)
    return {checkpoint: [list(one.token_ids) for one in of] for checkpoint, of in found.items()}


def test_values_are_rounded_to_e4m3_of_their_row() -> None:
    """3 bits of mantissa: each value moves by at most 1/16 of itself, the largest of a row by nothing."""
    values = torch.randn(40, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 4, 40)[:, None]
    quantised, scale = fp8.quantise(values)
    assert (quantised.dtype, scale.shape) == (torch.float8_e4m3fn, (40, 1))
    found = fp8.rounded(values)
    # Below 2^-6 of e4m3, which is the row's largest / 28,672, values are spaced evenly.
    error = (found - values).abs() - values.abs() / 16 - values.abs().amax(dim=1, keepdim=True) / 448 * 2**-10
    assert error.max() <= 1e-6 * values.abs().max()
    torch.testing.assert_close(found.abs().amax(dim=1), values.abs().amax(dim=1), rtol=1e-6, atol=0)
    assert torch.equal(fp8.rounded(values[7:8]), found[7:8]), "a row's scale is its own"
    assert not fp8.rounded(torch.zeros(2, 16)).any()
    bad = values.clone()
    bad[3, 5] = math.inf
    assert fp8.rounded(bad)[3, 5].isnan()
    assert torch.equal(fp8.rounded(bad)[4:], found[4:])


def test_the_scaled_product_is_the_product_of_rounded_values() -> None:
    """torch's operator runs on a CPU too: scales and layouts are those that CUDA gets."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(16, 64, generator=generator).bfloat16()
    weight, bias = torch.randn(48, 64, generator=generator).bfloat16(), torch.randn(48, generator=generator).bfloat16()
    found = fp8.product(rows, *fp8.quantise(weight), bias)
    exact = nn.functional.linear(fp8.rounded(rows.float()), fp8.rounded(weight.float()), bias.float())
    torch.testing.assert_close(found.float(), exact, rtol=2e-2, atol=5e-2)


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_an_engine_computes_the_layers_products_in_fp8(family: str) -> None:
    """As a model whose linear layers are replaced by rounded ones, the head left as it is."""
    engine = Engine(tiny_model(family), num_kv_blocks=300, quantization="fp8")
    facts = engine.describe()
    assert (facts["products"], facts["quantization"]) == ("fp8 emulated", "fp8 products")
    assert engine.runner.warnings == []
    plain = Engine(tiny_model(family), num_kv_blocks=300)
    assert "quantization" not in plain.describe()
    found = draws(engine)
    assert found != draws(plain)

    def rounded(self: nn.Linear, input: Any) -> Any:
        shape = (*input.shape[:-1], self.out_features)
        return nn.functional.linear(fp8.rounded(input.flatten(0, -2)), fp8.rounded(self.weight), self.bias).view(shape)

    model = tiny_model(family)
    layers = [one for name, one in model.named_modules() if isinstance(one, nn.Linear) and name != "lm_head"]
    for layer in layers:
        layer.forward = rounded.__get__(layer)  # type: ignore[method-assign]
    try:
        expected = draws(Engine(model, num_kv_blocks=300, kernels="reference"))
    finally:
        for layer in layers:
            del layer.forward
    same = sum(one == other for t in found for one, other in zip(found[t], expected[t], strict=True))
    assert same >= 22, "of 24; the last bits of sums may move an input over an edge between two values"


def test_updates_of_the_weights_are_seen() -> None:
    model = tiny_model("qwen2")
    engine = Engine(model, num_kv_blocks=300, quantization="fp8")
    before = draws(engine)
    weight = model.model.layers[0].mlp.down_proj.weight
    kept = weight.detach().clone()
    try:
        weight.data.mul_(-1.0)
        assert draws(engine) != before
    finally:
        weight.data.copy_(kept)
    assert draws(engine) == before


@pytest.mark.parametrize(
    ("capability", "dtype", "reason"),
    [
        ((8, 0), torch.bfloat16, "they need compute capability 9.0, NVIDIA A100 has 8.0"),
        ((9, 0), torch.float32, "they need a model in bfloat16, got torch.float32"),
        ((9, 0), torch.bfloat16, None),
    ],
)
def test_one_sentence_says_where_they_are_not_supported(
    capability: tuple[int, int], dtype: torch.dtype, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    assert fp8.unsupported(torch.device("cuda"), dtype) == reason


def test_where_they_are_not_supported_the_model_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp8, "unsupported", lambda *_: "they need compute capability 9.0, this has 8.0")
    engine = Engine(tiny_model("qwen2"), num_kv_blocks=300, quantization="fp8")
    assert engine.runner.warnings == ["fp8 products are not used: they need compute capability 9.0, this has 8.0."]
    assert "quantization" not in engine.describe()
    assert draws(engine) == draws(Engine(tiny_model("qwen2"), num_kv_blocks=300))
    with pytest.raises(FastsiaError, match="quantization must be"):
        Engine(tiny_model("qwen2"), quantization="int4")  # type: ignore[arg-type]


@pytest.mark.gpu
def test_on_a_gpu_they_agree_with_the_emulation() -> None:
    device = torch.device("cuda")
    if (reason := fp8.unsupported(device, torch.bfloat16)) is not None:
        pytest.skip(reason)
    generator = torch.Generator().manual_seed(1)
    rows, weight = (torch.randn(size, 2048, generator=generator).bfloat16() for size in (300, 512))
    found = fp8.product(rows.to(device), *fp8.quantise(weight.to(device)), None).cpu().float()
    expected = nn.functional.linear(fp8.rounded(rows.float()), fp8.rounded(weight.float()))
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=0.5)
    for compile in ("off", "on"):
        engine = Engine(
            tiny_model("qwen2").bfloat16().to(device), num_kv_blocks=300, quantization="fp8", compile=compile
        )
        assert engine.describe()["products"] == "fp8"
        assert engine.runner.warnings == []
        draws(engine)
