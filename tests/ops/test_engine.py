"""The engine on Triton kernels gives the tokens that it gives on the reference."""

from __future__ import annotations

import copy

import pytest

from fastsia import Engine
from fastsia.config import SamplingParams
from fastsia.engine.rotary import Rotary
from tests.engine.models import tiny_model
from tests.engine.test_graphs import FakePool
from tests.ops.device import DEVICE, KERNEL_MARKS

pytestmark = KERNEL_MARKS


def test_rollouts_are_the_reference_ones() -> None:
    """Grouped heads, a softcap and sliding windows; forks, copied blocks and two checkpoints in one tree.

    Also through padded steps with bounds for lengths and a deferred rotary embedding, as CUDA graphs have them.
    """
    model = copy.deepcopy(tiny_model("gemma2")).to(DEVICE)
    sampling = SamplingParams(temperature=0.9, top_p=0.9, max_tokens=3, eos_token_id=())
    found = {}
    for name in ("triton", "triton, padded", "reference"):
        kernels = name.partition(",")[0]
        engine = Engine(model, kernels=kernels, compile="off", block_size=4, num_kv_blocks=200)
        assert engine.describe()["kernels"] == kernels
        if "padded" in name:
            engine.runner.rotary = Rotary(model, engine.runner._deferred)
            assert engine.runner.rotary.num_layers == 3
            engine.runner.use_graphs(FakePool)
            assert engine.runner.graphs is not None
            # Two parts of each context, and more trunks than are used. The engine's own bounds take a minute here.
            engine.runner.graphs._bound(
                engine.runner.graphs._bounds._replace(trunks=4, prefix_blocks=80, suffix_blocks=80)
            )
        found[name] = engine.rollout_checkpoints([5, 6, 7, 8, 9], [10, 12, 13], [0, 3], 3, sampling, seed=3)
    expected = found.pop("reference")
    for rollouts in found.values():
        for checkpoint, of in rollouts.items():
            for ours, theirs in zip(of, expected[checkpoint], strict=True):
                assert ours.token_ids == theirs.token_ids
                assert ours.logprobs == pytest.approx(theirs.logprobs, rel=1e-4, abs=1e-4)
