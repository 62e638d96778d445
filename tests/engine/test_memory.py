"""Device memory that does not suffice: fewer rows per step, the same rollouts, and a number that says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import AutoConfig

import fastsia
from fastsia import Engine, FastsiaError, SamplingParams
from fastsia.engine.memory import default_num_blocks, gpu_num_seqs, step_bytes
from tests.tiny import PROBLEMS, shared_model, tiny_model

PROMPT, TRAJECTORY = list(range(20, 60)), [3, 4, 5, 6, 7, 8]
SAMPLING = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=16)


@contextmanager
def memory_for(model: Any, part: str, rows: int) -> Iterator[list[int]]:
    """A device on which the decoder (`base`) or the head (`head`) runs out of memory above so many rows."""
    module = model.base_model if part == "base" else model.lm_head
    refused: list[int] = []

    def check(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = named["input_ids"] if part == "base" else arguments[0]
        size = given.shape[1] if part == "base" else given.shape[0]
        if size > rows:
            refused.append(size)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    handle = module.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield refused
    finally:
        handle.remove()


def draw(engine: Engine) -> dict[int, list[Any]]:
    return engine.rollout_checkpoints(PROMPT, TRAJECTORY, [0, 3, 6], 12, SAMPLING, seed=1)


# Packed products pad the decoder's rows to 16.
@pytest.mark.parametrize(("part", "rows"), [("base", 16), ("head", 1), ("head", 5)])
def test_fewer_rows_give_the_same_rollouts(part: str, rows: int) -> None:
    model, tokenizer = tiny_model()
    expected = draw(Engine(model, tokenizer))
    engine = Engine(model, tokenizer)
    with memory_for(model, part, rows) as refused:
        found = draw(engine)
    assert engine.counters.out_of_memory == len(refused) > 1
    for checkpoint, rollouts in expected.items():
        for mine, other in zip(found[checkpoint], rollouts, strict=True):
            assert (mine.token_ids, mine.finish_reason) == (other.token_ids, other.finish_reason)
            assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_an_engine_that_ran_out_is_usable_and_keeps_nothing() -> None:
    """Below one row there is nothing left to halve: one sentence, and the next run begins with all blocks free."""
    model, tokenizer = tiny_model()
    engine = Engine(model, tokenizer)
    with memory_for(model, "base", 0), pytest.raises(FastsiaError, match="does not suffice for a single row"):
        draw(engine)
    assert draw(engine) == draw(Engine(model, tokenizer))


@pytest.mark.parametrize("where", ["take", "keep_hidden", "copy_blocks", "hidden"])
def test_small_pieces_are_asked_for_twice(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a step's forward pass its rows are drawn from, kept and forked: there is no going back from there.

    An allocation that fails is tried again once torch has given back what it caches.
    """
    model, tokenizer = tiny_model()
    expected = draw(Engine(model, tokenizer, compile="off"))
    engine = Engine(model, tokenizer, compile="off")
    runner, refused = engine.runner, []
    plain_call, plain_put = getattr(runner, where), runner.staging.put

    def put(*arrays: Any) -> list[torch.Tensor]:
        if not refused:
            refused.append(where)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return plain_put(*arrays)

    def call(*arguments: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(runner.staging, "put", put)
            return plain_call(*arguments)

    monkeypatch.setattr(runner, where, call)
    assert draw(engine) == expected
    assert refused == [where]
    assert engine.counters.out_of_memory == 1


def test_where_small_pieces_do_not_fit_either_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny_model()
    engine = Engine(model, tokenizer)

    def refuse(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(engine.runner.staging, "put", refuse)
    with pytest.raises(FastsiaError, match=r"results \(CUDA out of memory\); lower num_kv_blocks\.$"):
        draw(engine)


@pytest.mark.parametrize(("blocks", "rows"), [(32_768, 1024), (32_767, 512), (None, 512)])
def test_steps_of_a_gpu_are_large_where_its_pool_allows(blocks: int | None, rows: int) -> None:
    """512 tokens of KV for each of 1,024 sequences, beside steps of 1,024 rows."""
    asked = []

    def pool(max_num_seqs: int) -> int:
        asked.append(max_num_seqs)
        if blocks is None:
            raise FastsiaError("only 0 MiB are spare")
        return blocks

    assert gpu_num_seqs(pool, 16) == rows
    assert asked == [1024]


def test_a_run_records_it() -> None:
    model, tokenizer = tiny_model()
    settings: dict[str, Any] = {"num_rollouts": 4, "stride": 6, "max_tokens": 12, "num_bootstrap": 20, "num_splits": 2}
    whole = fastsia.evaluate(shared_model(), PROBLEMS[:3], **settings)
    engine = Engine(model, tokenizer)
    with memory_for(model, "base", 16):
        found = fastsia.evaluate(engine, PROBLEMS[:3], **settings)
    assert found.summary["counters"]["out_of_memory"] > 0
    assert any("memory ran out" in note for note in found.summary["warnings"])
    assert whole.summary["counters"]["out_of_memory"] == 0
    after = fastsia.evaluate(engine, PROBLEMS[:1], **settings)
    assert not any("memory" in note for note in after.summary["warnings"]), "that was another run"
    for name in ("answer", "finish_reason", "num_tokens"):
        assert found.rollouts[name].tolist() == whole.rollouts[name].tolist()


@pytest.mark.gpu
def test_a_card_with_too_little_memory() -> None:
    """The real allocator refuses: this process may use what the engine holds, and a little more."""
    device = torch.device("cuda")
    model, tokenizer = tiny_model()
    model.to(device)
    expected = draw(Engine(model, tokenizer, num_kv_blocks=512, compile="off"))
    engine = Engine(model, tokenizer, num_kv_blocks=512, compile="off")
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    blocker = torch.empty(64 << 20, dtype=torch.uint8, device=device)
    prompt = list(range(20, 60)) * 10
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + (2 << 20)) / total, device)
    try:
        engine.rollout(prompt, 400, SamplingParams(temperature=1.5, top_p=1.0, max_tokens=32))
        found = draw(engine)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        del blocker
    assert engine.counters.out_of_memory > 0
    assert {c: [r.token_ids for r in rs] for c, rs in found.items()} == {
        c: [r.token_ids for r in rs] for c, rs in expected.items()
    }


QWEN = AutoConfig.for_model(
    "qwen2", hidden_size=2048, intermediate_size=11008, num_attention_heads=16, num_key_value_heads=2
)


def test_what_a_step_needs() -> None:
    """Qwen2.5-3B in bfloat16: the logits of 512 rows alone are 156 MB, and there are copies of them."""

    def needed(**changes: int) -> int:
        sizes = {"max_num_seqs": 512, "max_num_batched_tokens": 1024, "max_concurrent_trajectories": 64, **changes}
        return step_bytes(QWEN, 151_936, 2, **sizes)

    assert 2 << 30 < needed() < 4 << 30
    assert needed(max_num_seqs=1024) - needed() > 4 * 512 * 151_936 * 2
    assert needed(max_num_batched_tokens=2048) > needed()
    assert needed(max_concurrent_trajectories=128) - needed() == 2 * 64 * 1024 * 2048 * 2


def test_the_pool_takes_what_a_card_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """9/10 of a card of 80 GiB, less 20 GiB in use and what steps need; what torch holds idle counts as free."""
    model, _ = shared_model()
    gib = 1 << 30
    card = {"mem_get_info": (50 * gib, 80 * gib), "memory_reserved": 15 * gib, "memory_allocated": 5 * gib}
    for name, value in card.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    sizes = {"max_num_seqs": 64, "max_num_batched_tokens": 64, "max_concurrent_trajectories": 4}
    steps = step_bytes(model.config, model.config.vocab_size, 4, **sizes)
    each = 16 * 2 * 2 * 2 * 8 * 4  # tokens, layers, keys and values, heads, head size, float32
    blocks = default_num_blocks(model, torch.device("cuda"), 16, 0.9, **sizes)
    assert blocks == (int(52 * gib) - steps) // each
    with pytest.raises(FastsiaError, match=r"^only 0 MiB are spare on cuda for the KV pool: .* lower max_num_seqs"):
        default_num_blocks(model, torch.device("cuda"), 16, 0.2, **sizes)


@pytest.mark.gpu
def test_a_planned_pool_leaves_room_for_the_largest_steps() -> None:
    """A quarter of the card, filled with a pool by plan: steps of every size, graphs and all, still fit beside it."""
    model, tokenizer = tiny_model()
    model.to("cuda")
    torch.cuda.empty_cache()
    engine = Engine(model, tokenizer, gpu_memory_utilization=0.25)
    total = torch.cuda.get_device_properties("cuda").total_memory
    torch.cuda.set_per_process_memory_fraction(0.25)
    try:
        prompt = list(range(20, 60)) * 5
        engine.rollout(prompt, 600, SamplingParams(temperature=1.5, top_p=1.0, max_tokens=64))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert engine.counters.out_of_memory == 0
    assert engine.runner.warnings == []
    assert engine.num_kv_blocks * engine.runner.bytes_per_block(model, engine.block_size) > 0.1 * total
