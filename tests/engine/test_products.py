"""Packed products of a model: fused layers, the same draws in any company, and weights that stay what they are."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from fastsia import Engine
from fastsia.backends.base import model_fingerprint
from fastsia.config import SamplingParams
from fastsia.engine.products import Products
from fastsia.engine.sequence import Request
from fastsia.ops import cpu, packed
from tests.engine.models import EOS, FAMILIES, tiny_model

pytestmark = pytest.mark.skipif(
    not (cpu.is_available() and packed.is_available(torch.bfloat16)), reason="needs the C++ core and oneDNN"
)
SAMPLING = SamplingParams(temperature=1.1, top_p=0.95, max_tokens=12, eos_token_id=EOS)
MODELS = os.environ.get("FASTSIA_MODELS")


def engine(model: PreTrainedModel, **settings: Any) -> Engine:
    return Engine(model, **{"num_kv_blocks": 600, "block_size": 16, **settings})


def products(of: Engine) -> Products:
    assert of.runner.warnings == []
    assert of.runner.products is not None
    return of.runner.products


def draws(of: Engine) -> Any:
    return of.rollout_checkpoints([5, 6, 7, 8, 9], [20, 21, 22, 23], [0, 2, 4], 4, SAMPLING, seed=3)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs_on_exact_products(family: str) -> None:
    found = engine(tiny_model(family))
    assert products(found).exact
    assert found.describe()["products"] == "exact"


def test_layers_that_read_one_tensor_are_one_product() -> None:
    found = engine(tiny_model("qwen2"))
    widths = [len(group.layers) for group in products(found)._groups]
    assert widths == [3, 1, 2, 1] * 3 + [1], "q|k|v, o, gate|up, down of three layers, and the head"


@pytest.mark.parametrize("settings", [{"kernels": "reference"}, {"compile": "on"}])
def test_other_paths_have_plain_products(settings: dict[str, str]) -> None:
    assert engine(tiny_model("llama"), **settings).describe()["products"] == "plain"


def test_other_weights_than_linear_layers_are_not_called_exact() -> None:
    model = copy.deepcopy(tiny_model("llama"))
    model.model.norm.experts = torch.nn.Parameter(torch.zeros(2, 3, 4))
    assert engine(model).describe()["products"] == "packed"


# --- exactness ---------------------------------------------------------------------------------------------------


def _run(model: Any, requests: list[Request], **settings: Any) -> dict[Any, Any]:
    """Everything that was drawn, with its log-probabilities, by the requests' keys."""
    found = {}
    for trajectory in engine(model, **settings).run(requests):
        rollouts = trajectory.rollouts
        assert rollouts is not None
        found[trajectory.key] = (
            trajectory.token_ids.tolist(),
            trajectory.logprobs.tolist(),
            trajectory.token_entropies.tolist(),
            [rollouts.row(i) for i in range(len(rollouts))],
        )
    return found


def _requests(prompts: list[tuple[int, ...]], sampling: SamplingParams, share: str = "trajectory") -> list[Request]:
    return [
        Request(key, prompt, sampling, num_rollouts=2, seed=key, stride=5, share=share)  # type: ignore[arg-type]
        for key, prompt in enumerate(prompts)
    ]


PROMPTS = [tuple(range(5, 5 + n)) for n in (1, 17, 40)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_draws_are_the_same_bits_in_any_company(family: str, dtype: torch.dtype) -> None:
    """Batch sizes, order, window, prefill chunks, preemption, sharing and threads move no bit of any probability."""
    model = copy.deepcopy(tiny_model(family)).to(dtype)
    expected = _run(model, _requests(PROMPTS, SAMPLING))
    assert sum(len(found[0]) for found in expected.values()) > 20
    for settings in (
        {"max_num_seqs": 3, "max_num_batched_tokens": 7},
        {"max_concurrent_trajectories": 1, "num_threads": 3},
        {"num_kv_blocks": 10},
    ):
        assert _run(model, _requests(PROMPTS, SAMPLING), **settings) == expected, settings
    assert _run(model, _requests(PROMPTS, SAMPLING)[::-1]) == expected, "in the other order"
    assert _run(model, _requests(PROMPTS, SAMPLING, "none")) == expected, "without sharing"


@pytest.mark.skipif(MODELS is None, reason="FASTSIA_MODELS names no folder with models")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", ["smollm2", "qwen05"])
def test_draws_of_real_models_are_the_same_bits_in_any_company(name: str, dtype: str) -> None:
    path = Path(str(MODELS)) / name
    if not path.is_dir():
        pytest.skip(f"{path} is not there")
    loaded = Engine.from_pretrained(path, device="cpu", dtype=dtype, num_kv_blocks=600)
    assert products(loaded).exact
    texts = ["Question: Ann has 3 apples and buys 4 more.", "Hello", "The capital of France is"]
    prompts = [tuple(loaded.tokenizer(text)["input_ids"]) for text in texts]
    sampling = SamplingParams(temperature=0.7, top_p=0.95, max_tokens=10)
    expected = None
    for share, rows, order in (("trajectory", 512, 1), ("trajectory", 3, -1), ("none", 40, 1)):
        loaded.max_num_seqs = rows
        found = {
            t.key: (t.token_ids.tolist(), t.logprobs.tolist(), [t.rollouts.row(i) for i in range(len(t.rollouts))])
            for t in loaded.run(_requests(prompts, sampling, share)[::order])
            if t.rollouts is not None
        }
        assert expected is None or found == expected, (share, rows)
        expected = found


# --- a model of the caller's -------------------------------------------------------------------------------------


def test_a_callers_model_stays_as_it_is() -> None:
    model = copy.deepcopy(tiny_model("llama"))
    before = {name: (id(value), value.data_ptr(), value.clone()) for name, value in model.named_parameters()}
    draws(engine(model))
    assert not any("forward" in module.__dict__ for module in model.modules())
    for name, value in model.named_parameters():
        assert (id(value), value.data_ptr()) == before[name][:2]
        assert torch.equal(value, before[name][2])
    model(torch.tensor([[5, 6, 7]])).logits.sum().backward()
    assert model.lm_head.weight.grad is not None


def _in_place(model: Any) -> None:
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight.mul_(-1)


def _through_data(model: Any) -> None:
    """Writes no version."""
    model.model.layers[1].mlp.up_proj.weight.data.mul_(-1)


def _replaced(model: Any) -> None:
    layer = model.model.layers[0].mlp.down_proj
    layer.weight = torch.nn.Parameter(-layer.weight.detach())


def _new_data(model: Any) -> None:
    layer = model.model.layers[0].mlp.gate_proj
    layer.weight.data = -layer.weight.detach()


def _bias(model: Any) -> None:
    with torch.no_grad():
        model.model.layers[2].self_attn.q_proj.bias.add_(3)


@pytest.mark.parametrize("change", [_in_place, _through_data, _replaced, _new_data, _bias])
def test_changed_weights_are_packed_anew(change: Callable[[Any], None]) -> None:
    model = copy.deepcopy(tiny_model("qwen2-window"))
    live = engine(model)
    before = draws(live)
    change(model)
    after = draws(live)
    assert after != before
    assert after == draws(engine(copy.deepcopy(model)))


def test_unchanged_weights_are_not_packed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found = engine(tiny_model("qwen2"))
    monkeypatch.setattr(packed, "pack", lambda _: pytest.fail("packed again"))
    draws(found)


# --- a model that the engine loaded ------------------------------------------------------------------------------


@pytest.fixture(params=["qwen2", "qwen2-window"], ids=["tied head", "head of its own"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, PreTrainedModel]:
    model = tiny_model(request.param)
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model", model


def test_packed_weights_take_the_place_of_a_loaded_models(saved: tuple[Path, PreTrainedModel], tmp_path: Path) -> None:
    path, model = saved
    loaded = Engine.from_pretrained(path, device="cpu", num_kv_blocks=600)
    assert draws(loaded) == draws(engine(model))
    names = {name for name, value in loaded.model.named_parameters() if value.untyped_storage().nbytes() < 8}
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in names} >= {
        "q_proj",
        "o_proj",
        "up_proj",
        "down_proj",
    }
    assert model_fingerprint(loaded.model) == model_fingerprint(model)
    state, expected = loaded.model.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    loaded.model.save_pretrained(tmp_path / "again")
    again = Engine.from_pretrained(tmp_path / "again", device="cpu", num_kv_blocks=600)
    assert draws(again) == draws(loaded)


def test_a_loaded_model_under_torch_compile_has_fused_products(
    saved: tuple[Path, PreTrainedModel], tmp_path: Path
) -> None:
    """The path of a GPU: one matrix, of which the weights are views, so that updates in place are seen."""
    path, model = saved
    loaded = Engine.from_pretrained(path, device="cpu", num_kv_blocks=600, compile="on")
    assert loaded.runner.warnings == []
    assert (loaded.describe()["compile"], loaded.describe()["products"]) == ("on", "fused")
    assert [len(group.layers) for group in products(loaded)._groups] == [3, 2] * 3
    attention = loaded.model.model.layers[1].self_attn
    assert attention.q_proj.weight.untyped_storage().data_ptr() == attention.v_proj.weight.untyped_storage().data_ptr()
    tokens = [rollout.token_ids for rollouts in draws(loaded).values() for rollout in rollouts]
    assert tokens == [rollout.token_ids for rollouts in draws(engine(model)).values() for rollout in rollouts]
    loaded.model.save_pretrained(tmp_path / "again")
    assert draws(Engine.from_pretrained(tmp_path / "again", device="cpu", num_kv_blocks=600)) == draws(engine(model))
    before = draws(loaded)
    with torch.no_grad():
        attention.k_proj.weight.mul_(-1)
    in_place = draws(loaded)
    assert in_place != before
    attention.k_proj.weight = torch.nn.Parameter(-attention.k_proj.weight.detach())
    assert draws(loaded) == before, "replaced"


def test_a_loaded_model_still_generates(saved: tuple[Path, PreTrainedModel]) -> None:
    path, model = saved
    loaded = Engine.from_pretrained(path, device="cpu", num_kv_blocks=600)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)


def test_a_copy_of_a_loaded_model_has_its_weights(saved: tuple[Path, PreTrainedModel]) -> None:
    path, model = saved
    loaded = Engine.from_pretrained(path, device="cpu", num_kv_blocks=600)
    copied = copy.deepcopy(loaded.model)
    assert all(torch.equal(value, model.get_parameter(name)) for name, value in copied.named_parameters())
    assert draws(loaded) == draws(engine(copied)) == draws(engine(model))


def test_weights_loaded_into_a_packed_model_are_seen(saved: tuple[Path, PreTrainedModel]) -> None:
    path, model = saved
    loaded = Engine.from_pretrained(path, device="cpu", num_kv_blocks=600)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for value in other.parameters():
            value.mul_(-1)
    loaded.model.load_state_dict(other.state_dict())
    assert draws(loaded) == draws(engine(other)) != draws(engine(model))


@pytest.mark.parametrize("compile", ["off", "on"])
def test_a_loaded_model_can_be_trained(tmp_path: Path, compile: str) -> None:
    """With gradients the model has its own weights again; the engine sees every update."""
    reference = copy.deepcopy(tiny_model("qwen2"))
    reference.save_pretrained(tmp_path)
    loaded = Engine.from_pretrained(tmp_path, device="cpu", num_kv_blocks=600, compile=compile)
    draws(loaded)
    for model in (loaded.model, reference):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            model(torch.tensor([[5, 6, 7]])).logits.square().sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    for name, value in reference.named_parameters():
        torch.testing.assert_close(loaded.model.get_parameter(name), value, atol=1e-5, rtol=1e-4)
    assert draws(loaded) == draws(engine(copy.deepcopy(loaded.model), compile=compile))
