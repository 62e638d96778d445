"""The compiled step against the plain one, which is its oracle: every family, one graph, any size."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

import fastsia
from fastsia import Engine, FastsiaError, SamplingParams
from fastsia.backends.native import NativeBackend
from fastsia.engine.forcing import Forced
from tests.core import needs_core
from tests.engine.models import FAMILIES, tiny_model
from tests.engine.naive import Comparison
from tests.engine.test_graphs import FakePool
from tests.engine.test_identity import ROOMY, alone, request, rows_of

PROMPT, TRAJECTORY = [5, 6, 7, 8, 9, 2, 30, 31, 44, 45, 46], [10, 12, 13, 14, 15, 16, 17, 18, 19]
# Trunk rows, paths off the trunk in blocks of their own, and lengths beyond the windows of the families that have them.
FORCED = [Forced(t, tuple(range(20, 20 + t)), (50, 51, 52)) for t in range(10)]


def engine_of(family: str, device: str, dtype: torch.dtype, compile: str) -> Engine:
    model = copy.deepcopy(tiny_model(family)).to(device, dtype)
    return Engine(model, num_kv_blocks=300, block_size=16, compile=compile)


def logits_of(engine: Engine) -> Tensor:
    """float32 logits of every row that teacher forcing reads: the same tokens, whatever computes them."""
    seen: list[Tensor] = []
    plain = engine.runner.logits

    def seeing(hidden: Tensor) -> Tensor:
        seen.append(plain(hidden).float().cpu())
        return seen[-1]

    engine.runner.logits = seeing  # type: ignore[method-assign]
    engine.loglikelihood(PROMPT, TRAJECTORY, FORCED)
    return torch.cat(seen)


def watch_pool(engine: Engine) -> set[int]:
    """Where keys and values are written, from here on.

    A compiler that copied the pool, for safety, would need the memory of two and the time of a copy a layer.
    """
    written: set[int] = set()

    def store_kv(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> None:
        written.update((k_cache.data_ptr(), v_cache.data_ptr()))
        engine.ops.store_kv(k, v, k_cache, v_cache, slots)

    engine.runner.ops = replace(engine.ops, store_kv=store_kv)
    return written


def check_against_plain(family: str, device: str, compile: str) -> None:
    """float32: the same numbers but for rounding. bfloat16: no further from float32 than the plain path's are."""
    exact = logits_of(engine_of(family, device, torch.float32, "off"))
    for dtype in (torch.float32, torch.bfloat16):
        engine = engine_of(family, device, dtype, compile)
        assert (engine.describe()["compile"], engine.runner.warnings) == (compile, [])
        written = watch_pool(engine)
        ours = logits_of(engine)
        pool = engine.runner.kv_cache
        if device == "cpu":  # a graph's replay calls nothing of ours
            assert written == {pool[layer, i].data_ptr() for layer in range(len(pool)) for i in (0, 1)}
        if dtype == torch.float32:
            torch.testing.assert_close(ours, exact, atol=2e-4, rtol=1e-4)
            continue
        plain = logits_of(engine_of(family, device, dtype, "off"))
        bound = (plain - exact).abs()
        error = (ours - exact).abs()
        assert error.mean() <= 1.25 * bound.mean()
        assert error.max() <= 2 * bound.max()


@needs_core
def test_the_compiler_gives_what_the_plain_path_gives() -> None:
    check_against_plain("gemma2", "cpu", "on")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_compiler_gives_what_the_plain_path_gives_for_every_family(family: str) -> None:
    check_against_plain(family, "cpu", "on")


@pytest.mark.gpu
@pytest.mark.parametrize("compile", ["on", "graphs"])
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_gpu_the_fast_paths_give_what_the_plain_path_gives(family: str, compile: str) -> None:
    check_against_plain(family, "cuda", compile)


@pytest.fixture
def without_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile up to where it would write C++: traces, guards, mutations, but no compiler to wait for."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.mark.usefixtures("without_code")
@pytest.mark.parametrize("family", FAMILIES)
def test_one_graph_serves_every_step(family: str) -> None:
    """No break, and no second compilation for any number of rows, trunks or blocks; rotation deferred as on a GPU."""
    before = counters["stats"]["unique_graphs"]
    sizes = {"max_num_seqs": 64, "max_num_batched_tokens": 8, "block_size": 4, "num_kv_blocks": ROOMY}
    engine = Engine(tiny_model(family), **sizes, compile="on", kernels="reference")
    assert engine.describe()["rotary"] == "fused"
    comparison = Comparison()
    for share, budget in (("trajectory", "new"), ("none", "total")):
        assert (engine.describe()["compile"], engine.runner.warnings) == ("on", [])
        (trajectory,) = engine.run([request(family, share=share, rollout_budget=budget)])
        ours, expected = rows_of(trajectory), alone(family, budget)
        assert ours.keys() == expected.keys()
        for key, rollout in ours.items():
            comparison.add(rollout, expected[key])
        engine.runner.use_graphs(FakePool)  # the second time
    comparison.check()
    heads = family == "gemma2"  # whose softcap is compiled too
    assert counters["stats"]["unique_graphs"] - before == 1 + heads


def test_what_does_not_compile_runs_plain_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler\nwas found")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    sampling = SamplingParams(temperature=1.0, max_tokens=5)
    engine = Engine(tiny_model("llama"), num_kv_blocks=64, compile="on")
    assert engine.describe()["compile"] == "off"
    (warning,) = NativeBackend(engine).warnings
    assert warning.startswith("torch.compile is not used: ")
    assert "no C++ compiler" in warning
    assert "\n" not in warning
    assert engine.rollout([5, 6], 4, sampling) == Engine(tiny_model("llama"), num_kv_blocks=64).rollout(
        [5, 6], 4, sampling
    )


@pytest.mark.usefixtures("without_code")
def test_what_compiles_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A miscompiled step would draw from another model without a word."""
    monkeypatch.setattr("fastsia.engine.model_runner.compile_function", lambda f, **_: lambda *a, **n: 1.5 * f(*a, **n))
    engine = Engine(tiny_model("llama"), num_kv_blocks=64, compile="on")
    assert engine.describe()["compile"] == "off"
    assert engine.runner.warnings == ["torch.compile is not used: its results differ."]


@pytest.mark.usefixtures("without_code")
def test_updated_weights_are_seen() -> None:
    model = copy.deepcopy(tiny_model("llama"))
    compiled = Engine(model, num_kv_blocks=64, compile="on")
    sampling = SamplingParams(temperature=1.0, max_tokens=8)
    before = compiled.rollout([5, 6], 4, sampling)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(-1)
        model.model.norm.weight = torch.nn.Parameter(model.model.norm.weight.flip(0))
    after = compiled.rollout([5, 6], 4, sampling)
    assert after != before
    assert [r.token_ids for r in after] == [
        r.token_ids for r in Engine(model, num_kv_blocks=64).rollout([5, 6], 4, sampling)
    ]


def test_settings() -> None:
    model = tiny_model("llama")
    assert Engine(model, num_kv_blocks=64).describe()["compile"] == "off", "auto on a CPU"
    with pytest.raises(FastsiaError, match=r'^compile must be "auto", "on", "graphs" or "off", got True\.$'):
        Engine(model, compile=True)  # type: ignore[arg-type]
    with pytest.raises(FastsiaError, match=r'^compile="graphs" needs a CUDA device, the model is on cpu; '):
        fastsia.evaluate("demo:sft", "demo", limit=1, device="cpu", compile="graphs")


@pytest.mark.gpu
def test_auto_on_a_gpu() -> None:
    engine = engine_of("llama", "cuda", torch.bfloat16, "auto")
    assert (engine.describe()["compile"], engine.runner.warnings) == ("on", [])
    assert engine.runner.graphs is not None
    assert engine.runner.graphs.num_captures == 1, "the check at the start captures its first"
