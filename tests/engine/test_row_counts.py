"""Row counts in which a row's bits depend on no other row, and rollouts that are equal across sizes because of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastsia import Engine, SamplingParams
from fastsia.engine.row_counts import ANCHOR, PROBE, agreeing, probe
from tests.core import needs_core
from tests.engine.models import EOS, tiny_model
from tests.engine.test_graphs import FakePool

SAMPLING = SamplingParams(temperature=1.0, top_p=0.95, max_tokens=12, eos_token_id=EOS)


def repeated(rows: int) -> Tensor:
    return torch.arange(PROBE).repeat(rows // PROBE).float()[:, None]


def test_row_counts_that_agree_with_the_anchor_are_kept() -> None:
    """Others have another kernel, one that depends on a row's place, or no memory."""

    def compute(rows: int) -> Tensor:
        found = repeated(rows)
        if rows < 64:
            return found + 1
        if rows == 96:
            found[-1] += 1
        if rows > 512:
            raise torch.OutOfMemoryError
        return found

    assert agreeing([8, 32, 64, 96, 128, 512, 1024], compute) == [64, 128, 512]
    assert agreeing([8], lambda rows: torch.arange(rows).float()[:, None]) == [], "no place agrees with another"
    assert ANCHOR % PROBE == 0


@pytest.mark.parametrize(("num_blocks", "block_size"), [(300, 16), (300, 4), (5, 4), (8, 1)])
def test_a_probe_has_the_same_rows_everywhere(num_blocks: int, block_size: int) -> None:
    batch = probe(64, num_blocks, block_size, 97)
    assert len(batch.token_ids) == 64
    written = batch.slots[batch.slots >= 0]
    assert len(set(written.tolist())) == len(written), "no slot is written twice"
    assert written.max() < num_blocks * block_size
    for trunk in range(8):
        read = [
            int(batch.prefix_tables[trunk, place // block_size]) * block_size + place % block_size
            for place in range(PROBE)
        ]
        assert set(read) <= set(written.tolist()), "what is read has been written"


class BySize(nn.Linear):
    """A product that is computed one row at a time; below 24 rows its last bits are others, as of another kernel's."""

    def forward(self, input: Tensor) -> Tensor:
        rows = input.flatten(0, -2)
        out = torch.stack([row.double() @ self.weight.double().T for row in rows]).to(input.dtype)
        if len(rows) < 24:
            out = out * (1 + 2**-6)
        return out.view(*input.shape[:-1], -1)


def drawn(model: Any, **settings: Any) -> list[Any]:
    engine = Engine(model, num_kv_blocks=400, block_size=4, max_num_batched_tokens=16, **settings)
    found = engine.rollout_checkpoints([5, 6, 7, 8, 9], [10, 12, 13, 14, 15], [0, 3, 5], 8, SAMPLING, seed=4)
    return [rollout for rollouts in found.values() for rollout in rollouts]


@needs_core
def test_rollouts_are_equal_across_limits_where_kernels_depend_on_them() -> None:
    model = copy.deepcopy(tiny_model("llama"))
    for layer in model.model.layers:
        plain, layer.mlp.down_proj = layer.mlp.down_proj, BySize(48, 32, bias=False)
        layer.mlp.down_proj.load_state_dict(plain.state_dict())
    assert drawn(model, max_num_seqs=4) != drawn(model, max_num_seqs=64), "or this test shows nothing"
    engine = Engine(model, num_kv_blocks=400, block_size=4, max_num_batched_tokens=16, deterministic=True)
    assert engine.describe()["deterministic"]
    assert engine.runner.warnings == []
    assert engine.runner.row_counts is not None
    assert engine.runner.row_counts[0] == 24
    assert engine.runner.head_row_counts is not None
    found = [drawn(model, max_num_seqs=rows, deterministic=True) for rows in (4, 64)]
    assert found[0] == found[1]


def test_graphs_have_the_same_row_counts() -> None:
    model = copy.deepcopy(tiny_model("llama"))
    model.model.layers[0].mlp.down_proj = BySize(48, 32, bias=False)
    engine = Engine(model, max_num_seqs=8, max_num_batched_tokens=64, num_kv_blocks=400, deterministic=True)
    engine.runner.use_graphs(FakePool)
    assert engine.runner.graphs is not None
    assert engine.runner.graphs._buckets == engine.runner.row_counts
    engine.rollout([5, 6, 7], 2, SAMPLING)
    assert engine.runner.graphs.num_captures == 1


def test_a_step_has_no_more_rows_than_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastsia.engine.model_runner.agreeing", lambda sizes, _: [64, 128])
    model = copy.deepcopy(tiny_model("llama"))
    model.model.layers[0].mlp.down_proj = BySize(48, 32, bias=False)
    engine = Engine(model, max_num_seqs=512, max_num_batched_tokens=1024, num_kv_blocks=64, deterministic=True)
    assert (engine.max_num_seqs, engine.max_num_batched_tokens) == (64, 64)


def test_what_cannot_be_deterministic_says_so() -> None:
    class ByPlace(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * torch.linspace(1, 1.1, input.shape[-2])[:, None]

    model = copy.deepcopy(tiny_model("llama"))
    model.model.layers[0].mlp.down_proj = ByPlace(48, 32, bias=False)
    engine = Engine(model, max_num_seqs=8, num_kv_blocks=64, compile="off", deterministic=True, kernels="reference")
    assert not engine.describe()["deterministic"]
    assert [warning.partition(":")[0] for warning in engine.runner.warnings] == ["rollouts depend on batch sizes"]


def test_on_exact_products_nothing_is_padded() -> None:
    engine = Engine(tiny_model("llama"), num_kv_blocks=64, deterministic=True)
    if engine.describe()["products"] == "exact":
        assert engine.runner.row_counts is None
        assert engine.describe()["deterministic"]


@pytest.mark.gpu
@pytest.mark.parametrize("compile", ["on", "graphs", "off"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
def test_on_a_gpu_bfloat16_rollouts_are_equal_across_limits(family: str, compile: Any) -> None:
    """Rows, steps in flight and chunks of prompts; the same bits also with bounds of graphs that have grown."""
    model = copy.deepcopy(tiny_model(family)).to("cuda", torch.bfloat16)
    found = []
    for rows, overlap in ((8, "off"), (64, "on"), (512, "off")):
        engine = Engine(
            model, num_kv_blocks=2000, max_num_seqs=rows, overlap=overlap, compile=compile, deterministic=True
        )
        assert engine.runner.warnings == []
        assert engine.describe()["deterministic"]
        prompt = (5, 6, 7) * 100
        found.append(engine.rollout_checkpoints(prompt, [10, 12, 13, 14, 15] * 40, [0, 100, 200], 32, SAMPLING, seed=4))
    assert found[0] == found[1] == found[2]


@pytest.mark.gpu
def test_on_a_gpu_row_counts_of_large_products_agree() -> None:
    """Products of a 3B model's shapes in bfloat16: which row counts remain is what determinism costs."""
    generator = torch.Generator("cuda").manual_seed(0)
    for width, out in ((2048, 2560), (2048, 2048), (2048, 22_016), (11_008, 2048), (2048, 151_936)):
        weight = torch.randn(out, width, device="cuda", dtype=torch.bfloat16, generator=generator)
        rows = torch.randn(PROBE, width, device="cuda", dtype=torch.bfloat16, generator=generator)
        kept = agreeing([64, 128, 256, 512, 1024], lambda n, w=weight, x=rows: x.repeat(n // PROBE, 1) @ w.T)
        print(width, out, kept)
        assert ANCHOR in kept
