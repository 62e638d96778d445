"""The engine on Triton kernels gives the tokens that it gives on the reference."""

from __future__ import annotations

import copy

import torch

from fastsia import Engine
from fastsia.config import SamplingParams
from tests.engine.models import tiny_model
from tests.ops.device import DEVICE, KERNEL_MARKS

pytestmark = KERNEL_MARKS


def test_rollouts_are_the_reference_ones() -> None:
    """Grouped heads, a softcap and sliding windows; forks, copied blocks and two checkpoints in one tree."""
    model = copy.deepcopy(tiny_model("gemma2")).to(DEVICE)
    sampling = SamplingParams(temperature=0.9, top_p=0.9, max_tokens=4, eos_token_id=())
    found = {}
    for kernels in ("triton", "reference"):
        engine = Engine(model, kernels=kernels, block_size=4, num_blocks=200)
        assert engine.describe()["kernels"] == kernels
        found[kernels] = engine.rollout_checkpoints([5, 6, 7, 8, 9], [10, 12, 13], [0, 3], 3, sampling, seed=3)
    for checkpoint, rollouts in found["reference"].items():
        for ours, theirs in zip(found["triton"][checkpoint], rollouts, strict=True):
            assert tuple(ours.token_ids) == tuple(theirs.token_ids)
            torch.testing.assert_close(torch.tensor(ours.logprobs), torch.tensor(theirs.logprobs), atol=1e-4, rtol=1e-4)
