"""Long trajectories, as reasoning models write them: trunks of thousands of tokens, and memory that they outgrow."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from fastsia import Engine, SamplingParams
from fastsia.engine.memory import KEPT_POSITIONS, default_num_blocks, step_bytes
from fastsia.engine.sequence import Request
from tests.core import needs_core
from tests.engine.models import _COMMON, EOS, VOCAB

PROMPT = tuple(range(20, 40))
LENGTH = 2500
SAMPLING = SamplingParams(temperature=1.0, top_p=0.95, max_tokens=24, eos_token_id=EOS)


@cache
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "max_position_embeddings": 8192, "initializer_range": 0.25}
    return Qwen2ForCausalLM(Qwen2Config(**{**_COMMON, **sizes})).eval()


def tokens(rollouts: dict[int, list[Any]]) -> dict[int, list[list[int]]]:
    return {checkpoint: [list(one.token_ids) for one in of] for checkpoint, of in rollouts.items()}


@needs_core
def test_a_trunk_of_thousands_of_tokens_gives_the_same_in_any_blocks_and_pool() -> None:
    """In one chunk and in many, beside rollouts that lose their blocks again and again."""
    trajectory = np.random.default_rng(0).integers(12, VOCAB, LENGTH).tolist()
    checkpoints = [0, 1500, 2490, LENGTH]
    found = []
    for settings in (
        {"num_kv_blocks": 400, "max_num_batched_tokens": 4096},
        {"num_kv_blocks": 120, "block_size": 64, "max_num_batched_tokens": 1000},
        # 158 blocks for the trunk, and 12 for 80 rollouts of two each
        {"num_kv_blocks": 170, "max_num_batched_tokens": 1024, "max_num_seqs": 20},
    ):
        engine = Engine(model(), **settings)
        assert engine.describe()["products"] == "exact"
        found.append(tokens(engine.rollout_checkpoints(PROMPT, trajectory, checkpoints, 20, SAMPLING, seed=1)))
    assert engine.counters.preemptions > 0
    assert found[0] == found[1] == found[2]
    assert {checkpoint: len({tuple(one) for one in of}) > 5 for checkpoint, of in found[0].items()} == dict.fromkeys(
        checkpoints, True
    )
    # The model's own forward on the whole text: the likeliest next token, of the last token of the trunk.
    with torch.no_grad():
        own = model()(torch.tensor([[*PROMPT, *trajectory]]), use_cache=False, logits_to_keep=1).logits[0, -1]
    greedy = Engine(model(), num_kv_blocks=400).rollout_checkpoints(
        PROMPT, trajectory, [LENGTH], 1, SamplingParams(temperature=0.0, max_tokens=1, eos_token_id=EOS)
    )
    assert list(greedy[LENGTH][0].token_ids) == [int(own.argmax())]


def test_trajectories_in_flight_leave_each_other_room_to_grow() -> None:
    """Admitted by their prompts alone, six would take each other's blocks, and compute everything again and again."""
    sampling = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=150, eos_token_id=())
    requests = [Request(i, (*PROMPT, i), sampling, 0, i) for i in range(6)]
    engine = Engine(model(), num_kv_blocks=45, max_num_seqs=16)  # 11 blocks a trajectory
    done = list(engine.run(requests))
    assert all(len(one.token_ids) == 150 for one in done)
    counters = engine.counters
    assert counters.recomputed_tokens < 0.1 * counters.trajectory_tokens
    assert counters.steps < 2 * 150 + 20, "three at a time"


def test_hidden_states_that_outgrow_their_plan_are_kept_by_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The draws are the same, and the next run begins on the device again."""
    trajectory = np.random.default_rng(1).integers(12, VOCAB, 700).tolist()
    engine = Engine(model(), num_kv_blocks=200)
    expected = tokens(engine.rollout_checkpoints(PROMPT, trajectory, [100, 650], 6, SAMPLING, seed=2))
    runner, moved = engine.runner, []
    runner._most_kept = 512
    plain = torch.empty

    def empty(*arguments: Any, device: Any = None, **settings: Any) -> torch.Tensor:
        moved.extend([arguments[0]] if device == "cpu" else [])
        return plain(*arguments, device=device, **settings)

    runner.reset()
    runner._hidden = runner._hidden[:256]
    runner.reset()
    monkeypatch.setattr(torch, "empty", empty)
    assert tokens(engine.rollout_checkpoints(PROMPT, trajectory, [100, 650], 6, SAMPLING, seed=2)) == expected
    assert moved == [(1024, runner.hidden_size)]


# --- what is planned -------------------------------------------------------------------------------------------

R1_7B: dict[str, Any] = {
    "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 131_072,
}  # fmt: skip


@pytest.mark.parametrize(("gigabytes", "trajectories"), [(80, 50), (141, 105)])
def test_a_7b_model_has_room_for_trajectories_of_16k(
    gigabytes: int, trajectories: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSeek-R1-Distill-Qwen-7B in bfloat16, max_tokens 16,384: 56 KiB a token, 0.9 GB a trajectory.

    Beside the weights and steps of 512 rows the pool holds that many trajectories of full length, or a step's 512 rows
    with suffixes of 1,000 tokens and still several trajectories.
    """
    with torch.device("meta"):
        large = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **R1_7B), dtype=torch.bfloat16)
    weights = sum(p.numel() * 2 for p in large.parameters())
    assert weights == pytest.approx(15.2e9, rel=0.01)
    total = gigabytes * 10**9
    card = {"mem_get_info": (total - weights, total), "memory_reserved": weights, "memory_allocated": weights}
    for name, value in card.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    sizes = {"max_num_seqs": 512, "max_num_batched_tokens": 1024, "max_concurrent_trajectories": 64}
    blocks = default_num_blocks(large, torch.device("cuda"), 16, 0.9, **sizes)
    assert isinstance(large.get_output_embeddings(), nn.Linear)
    each = 16_384 // 16
    assert blocks // each >= trajectories
    assert (blocks - 512 * 63) // each >= trajectories - 35
    # Of a step's memory: 16 parts of the trunks and one of the suffixes for every row, and the kept hidden states.
    row = 4 * 17 * (28 * 128 + 28)
    kept = 2 * 64 * KEPT_POSITIONS * 3584 * 2
    assert row * (2 * 512 + 1024) + kept < step_bytes(large.config, 152_064, 2, **sizes) < 6e9
