"""Steps from graphs: buckets, padding, bounds, captures and failures, on a fake device; the real one under `gpu`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from fastsia import Engine, SamplingParams
from fastsia.backends.native import NativeBackend
from fastsia.engine.forcing import Forced
from fastsia.engine.graphs import CaptureError, Graphs, row_buckets
from fastsia.engine.inputs import Inputs
from fastsia.engine.staging import Staging
from fastsia.engine.step import Batch
from fastsia.models.loading import load_model
from fastsia.tasks import load_task
from tests.engine.models import EOS, FAMILIES, tiny_model
from tests.engine.naive import Comparison
from tests.engine.test_identity import ROOMY, TIGHT, alone, request, rows_of

SAMPLING = SamplingParams(temperature=1.0, top_p=0.95, max_tokens=12, eos_token_id=EOS)
PROMPT, TRAJECTORY = [5, 6, 7, 8, 9], [10, 12, 13, 14, 15]


class FakePool:
    """As CUDA captures: the call is recorded, does not run, and a replay reads whatever lies at its addresses then."""

    def __call__(self, call: Callable[[], None]) -> Callable[[], None]:
        return call


class FailingPool:
    """A device on which nothing can be captured."""

    error: Exception = RuntimeError("operation not permitted when stream is capturing. More words.")

    def __call__(self, call: Callable[[], None]) -> Callable[[], None]:
        raise self.error


def on_graphs(model: Any, tokenizer: Any = None, pool: Any = FakePool, **settings: Any) -> Engine:
    engine = Engine(model, tokenizer, **{"num_kv_blocks": 300, "block_size": 4, **settings})
    engine.runner.use_graphs(pool)
    return engine


def draw(engine: Engine) -> dict[int, Any]:
    return engine.rollout_checkpoints(PROMPT, TRAJECTORY, [0, 3, 5], 6, SAMPLING, seed=4)


@pytest.mark.parametrize("largest", [1, 8, 9, 64, 100, 512, 1000])
def test_buckets_are_tight(largest: int) -> None:
    buckets = row_buckets(largest)
    assert buckets == sorted(set(buckets))
    assert largest <= buckets[-1] < largest + 8, "a full step pads least"
    assert len(buckets) <= 40
    for below, bucket in zip([0, *buckets], buckets, strict=False):
        assert bucket % 8 == 0
        assert bucket - (below + 1) <= max(7, bucket / 8)


# --- on batches ------------------------------------------------------------------------------------------------------


def batch_of(rng: np.random.Generator, trunk_rows: list[int], prefix_blocks: int, suffix_blocks: int) -> Batch:
    n, trunks, none = sum(trunk_rows), len(trunk_rows), np.zeros(0, dtype=np.int64)
    return Batch(
        token_ids=rng.integers(1, 90, n),
        positions=rng.integers(0, 90, n),
        slots=rng.integers(0, 90, n),
        prefix_tables=rng.integers(1, 90, (trunks, prefix_blocks)).astype(np.int32),
        cu_rows=np.append(0, np.cumsum(trunk_rows)).astype(np.int32),
        prefix_lens=rng.integers(1, 90, n).astype(np.int32),
        suffix_tables=rng.integers(1, 90, (n, suffix_blocks)).astype(np.int32),
        suffix_lens=rng.integers(1, 90, n).astype(np.int32),
        max_prefix_len=0,
        max_suffix_len=0,
        max_rows_per_prefix=max(trunk_rows),
        trunk_last=none,
        branch_last=none,
        hidden_rows=none,
        hidden_trunk=none,
        hidden_position=none,
    )


class Reading:
    """A forward pass that keeps what it reads; its hidden states are token ids and positions."""

    def __init__(self, rows: int = 512, pool: Callable[[], Any] = FakePool) -> None:
        self.inputs: Inputs | None = None
        self.pools = 0
        cpu = torch.device("cpu")

        def new_pool() -> Any:
            self.pools += 1
            return pool()

        self.graphs = Graphs(self.forward, Staging(cpu), torch.zeros(rows, 2), 16, new_pool)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        self.inputs = Inputs(*(tensor.clone() for tensor in inputs))
        return torch.stack([inputs.token_ids, inputs.positions], dim=1).float()

    def run(self, batch: Batch) -> None:
        """Check what the forward pass reads of the batch, the padding, and what comes back."""
        hidden = self.graphs(batch)
        np.testing.assert_array_equal(hidden[:, 0], batch.token_ids)
        np.testing.assert_array_equal(hidden[:, 1], batch.positions)
        assert self.inputs is not None
        for name, tensor in self.inputs._asdict().items():
            own = getattr(batch, name)
            np.testing.assert_array_equal(tensor.numpy()[tuple(slice(size) for size in own.shape)], own)
        n, rows = len(batch.token_ids), len(self.inputs.token_ids)
        assert rows in row_buckets(512)
        assert (self.inputs.slots[n:] == -1).all(), "padding must store nothing"
        assert (self.inputs.prefix_lens[n:] == 0).all(), "and see nothing"
        assert (self.inputs.suffix_lens[n:] == 0).all(), "and see nothing"
        bounds = self.inputs.cu_rows.diff()
        assert (bounds >= 0).all()
        assert int(bounds.sum()) == rows, "every row has a trunk"
        assert int(bounds[len(batch.cu_rows) - 1]) == rows - n, "padding has one of its own"
        tables = self.inputs.prefix_tables, self.inputs.suffix_tables
        assert all(table.min() >= 0 for table in tables), "even what nobody sees names a block"


def test_a_batch_is_read_through_one_buffer_and_padded() -> None:
    rng, reading = np.random.default_rng(0), Reading()
    for _ in range(60):
        trunk_rows = rng.integers(1, 20, rng.integers(1, 25)).tolist()
        reading.run(batch_of(rng, trunk_rows, int(rng.integers(1, 65)), int(rng.integers(0, 65))))
    used = reading.graphs.num_captures
    assert 1 < used <= len(row_buckets(512))
    reading.run(batch_of(rng, [3], 2, 0))
    reading.run(batch_of(rng, [5], 3, 1))
    assert reading.graphs.num_captures <= used + 1, "one bucket, one graph"
    assert reading.pools == 1


def test_bounds_grow_and_take_the_graphs_with_them() -> None:
    """A graph has its widths and its buffer's address built in: with larger tables it must not be replayed again."""
    rng, reading = np.random.default_rng(1), Reading()
    reading.run(batch_of(rng, [4], 1, 1))
    for step, batch in enumerate(
        [batch_of(rng, [4], 65, 1), batch_of(rng, [4], 1, 200), batch_of(rng, [1] * 128, 1, 1)], start=2
    ):
        reading.run(batch)
        assert (reading.pools, reading.graphs.num_captures) == (step, step)
    reading.run(batch_of(rng, [2, 2], 128, 256))
    assert (reading.pools, reading.graphs.num_captures) == (4, 5)


def test_results_outlive_the_next_step() -> None:
    rng, reading = np.random.default_rng(2), Reading()
    first = batch_of(rng, [4], 1, 1)
    hidden = reading.graphs(first)
    reading.graphs(batch_of(rng, [4], 1, 1))
    np.testing.assert_array_equal(hidden[:, 0], first.token_ids)


class TritonError(Exception):
    """Triton's errors (a kernel that needs more shared memory than there is) have no other base."""


def failed_end() -> RuntimeError:
    """Of a capture inside which memory did not suffice."""
    error = RuntimeError("bad")
    error.__context__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    return error


@pytest.mark.parametrize(
    ("error", "is_temporary"),
    [
        (RuntimeError("bad"), False),
        (TritonError("bad"), False),
        (torch.OutOfMemoryError("bad. Tried"), True),
        (failed_end(), True),
    ],
)
def test_what_cannot_be_captured_says_so(error: Exception, is_temporary: bool) -> None:
    class Pool(FailingPool):
        pass

    Pool.error = error
    with pytest.raises(CaptureError, match=r"^8 rows: bad$") as raised:
        Reading(pool=Pool).graphs(batch_of(np.random.default_rng(3), [4], 1, 1))
    assert raised.value.is_temporary == is_temporary


class ShortPool(FakePool):
    """A device that has no memory for the first `failures` captures."""

    failures = 0

    def __call__(self, call: Callable[[], None]) -> Callable[[], None]:
        if type(self).failures:
            type(self).failures -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return call


def test_captures_are_tried_again_ever_more_rarely() -> None:
    rng, reading = np.random.default_rng(4), Reading(pool=ShortPool)
    small, large = batch_of(rng, [4], 1, 1), batch_of(rng, [40], 1, 1)
    reading.run(small)
    ShortPool.failures = 3
    tried = []
    for step in range(20):
        try:
            if reading.graphs(large) is not None:
                break
        except CaptureError:
            tried.append(step)
            reading.run(small)  # what has been captured is still there
    assert tried == [0, 2, 6]
    assert step == 14
    assert (reading.pools, reading.graphs.num_captures) == (1, 2)


def test_bounds_stay_where_the_buffer_for_larger_ones_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the bounds raised and the old buffer, the next batch would be written past its end."""
    rng, reading = np.random.default_rng(5), Reading()
    batch, plain = batch_of(rng, [4], 1, 200), torch.empty

    def refuse(*_: Any, **__: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(torch.OutOfMemoryError):
        reading.graphs(batch)
    monkeypatch.setattr(torch, "empty", plain)
    reading.run(batch)


# --- on engines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_rollouts_equal_those_computed_alone(family: str) -> None:
    comparison = Comparison()
    settings = [("trajectory", "new", 64, ROOMY), ("checkpoint", "total", 7, TIGHT), ("none", "new", 64, TIGHT)]
    for share, budget, max_num_seqs, num_blocks in settings:
        engine = on_graphs(
            tiny_model(family), max_num_seqs=max_num_seqs, num_kv_blocks=num_blocks, max_num_batched_tokens=8
        )
        (trajectory,) = engine.run([request(family, share=share, rollout_budget=budget)])
        ours, expected = rows_of(trajectory), alone(family, budget)
        assert ours.keys() == expected.keys()
        for key, rollout in ours.items():
            comparison.add(rollout, expected[key])
        assert engine.runner.graphs is not None
        assert engine.runner.graphs.num_captures > 0
    comparison.check()


def test_the_demo_model_draws_what_it_draws_plain() -> None:
    (problem,) = load_task("demo", limit=1).problems
    found = []
    for make in (Engine, on_graphs):
        model, tokenizer = load_model("demo:sft", device="cpu")
        engine = make(model, tokenizer, num_kv_blocks=500)
        prompt = tokenizer(problem.question)["input_ids"]
        found.append(engine.rollout(prompt, 24, SamplingParams(temperature=1.0, max_tokens=48), seed=1))
    same = [ours.token_ids == theirs.token_ids for ours, theirs in zip(*found, strict=True)]
    assert sum(same) >= 23, "padding moves last bits: a draw on an edge may differ"


@pytest.mark.parametrize("family", ["qwen2-window", "gemma2"])
def test_forced_scores_are_those_of_the_plain_path(family: str) -> None:
    """They keep the hidden states of several forward passes at once."""
    forced = [Forced(0, (20, 21), (22, 23)), Forced(3, (), (30,)), Forced(5, (31,), (32, 33, 34))]
    plain = Engine(tiny_model(family), num_kv_blocks=300, block_size=4, max_num_batched_tokens=4)
    graphs = on_graphs(tiny_model(family), max_num_batched_tokens=4)
    expected = plain.loglikelihood(PROMPT, TRAJECTORY, forced)
    for ours, theirs in zip(graphs.loglikelihood(PROMPT, TRAJECTORY, forced), expected, strict=True):
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-5)


def test_batches_past_the_largest_bucket_run_plain() -> None:
    engine = on_graphs(tiny_model("llama"), max_num_seqs=8, max_num_batched_tokens=64)
    engine.rollout(list(range(5, 45)), 1, SamplingParams(temperature=1.0, max_tokens=1))
    graphs = engine.runner.graphs
    assert graphs is not None
    assert graphs.num_captures == 0, "40 rows of a prompt, and its first token needs no other step"
    engine.rollout(list(range(5, 12)), 1, SamplingParams(temperature=1.0, max_tokens=1))
    assert graphs.num_captures == 1


def test_without_captures_a_run_goes_on_and_says_so() -> None:
    expected = draw(Engine(tiny_model("gemma2"), num_kv_blocks=300, block_size=4))
    engine = on_graphs(tiny_model("gemma2"), pool=FailingPool)
    assert engine.describe()["compile"] == "graphs"
    found = draw(engine)
    assert engine.describe()["compile"] == "off"
    reason = "CUDA graphs are not used: 16 rows: operation not permitted when stream is capturing."
    assert engine.runner.warnings == [reason]
    assert NativeBackend(engine).warnings == [reason]
    assert {c: [r.token_ids for r in rs] for c, rs in found.items()} == {
        c: [r.token_ids for r in rs] for c, rs in expected.items()
    }


def test_one_lack_of_memory_does_not_end_the_graphs() -> None:
    """What fails to be captured runs plain; the draws are the same, and later steps are captured."""
    expected = draw(Engine(tiny_model("gemma2"), num_kv_blocks=300, block_size=4))
    ShortPool.failures = 2
    engine = on_graphs(tiny_model("gemma2"), pool=ShortPool)
    found = draw(engine)
    assert ShortPool.failures == 0
    assert engine.describe()["compile"] == "graphs"
    assert engine.runner.warnings == []
    assert engine.counters.out_of_memory == 2
    assert engine.runner.graphs is not None
    assert engine.runner.graphs.num_captures > 0
    assert {c: [r.token_ids for r in rs] for c, rs in found.items()} == {
        c: [r.token_ids for r in rs] for c, rs in expected.items()
    }


def test_moved_weights_are_captured_anew() -> None:
    """An update in place is seen by a graph; a weight that lies elsewhere would be read where it no longer is."""
    torch.manual_seed(0)
    model = type(tiny_model("llama"))(tiny_model("llama").config).eval()
    engine = on_graphs(model)
    graphs = engine.runner.graphs
    assert graphs is not None

    def step() -> int:
        engine.rollout(PROMPT, 1, SamplingParams(temperature=0, max_tokens=1))
        return graphs.num_captures

    assert [step(), step()] == [1, 1]
    with torch.no_grad():
        model.model.norm.weight.mul_(1.1)
    assert step() == 1
    model.model.norm.weight.data = model.model.norm.weight.data.clone()
    assert [step(), step()] == [2, 2]
    model.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq.clone()
    assert [step(), step()] == [3, 3]


def test_a_step_waits_for_the_device_once() -> None:
    engine = on_graphs(tiny_model("llama"))
    draws = 0
    plain = engine.runner.begin_draw

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal draws
        draws += 1
        return plain(*arguments, **named)

    engine.runner.begin_draw = counted  # type: ignore[method-assign]
    before = engine.runner.staging.waits
    draw(engine)
    assert draws > engine.counters.steps / 2
    assert engine.runner.staging.waits - before == draws


def test_an_engine_computes_on_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's own kernels, and graphs, go to the current device, which may be another."""
    runner = on_graphs(tiny_model("llama")).runner
    entered: list[torch.device] = []

    @contextmanager
    def device(wanted: torch.device) -> Iterator[None]:
        entered.append(wanted)
        yield

    monkeypatch.setattr(torch.cuda, "device", device)
    runner.device = torch.device("cuda:1")
    with runner._inference():
        assert entered == [torch.device("cuda:1")]


# --- on CUDA ---------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_gpu_graphs_give_the_plain_rollouts(family: str) -> None:
    """Both in float32 on the same kernels; padding moves last bits, so a draw on an edge may differ."""
    model = copy.deepcopy(tiny_model(family)).to("cuda")
    expected = draw(Engine(model, num_kv_blocks=300, block_size=16, compile="off"))
    engine = Engine(model, num_kv_blocks=300, block_size=16, compile="graphs")
    found = [draw(engine) for _ in range(2)]
    assert engine.runner.warnings == []
    assert engine.runner.graphs is not None
    assert engine.runner.graphs.num_captures > 0
    assert found[0] == found[1], "a replay gives what its capture's warm-up gave"
    same = [a.token_ids == b.token_ids for c in expected for a, b in zip(found[0][c], expected[c], strict=True)]
    assert np.mean(same) >= 0.9


@pytest.mark.gpu
def test_on_a_gpu_a_step_waits_nowhere_else() -> None:
    """torch raises at every synchronisation but a wait for an event, which `Staging.fetch` does once."""
    model = copy.deepcopy(tiny_model("gemma2")).to("cuda")
    engine = Engine(model, num_kv_blocks=300, block_size=16, compile="graphs")
    draw(engine)
    torch.cuda.set_sync_debug_mode("error")
    try:
        draw(engine)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are not two CUDA devices")
def test_on_a_second_gpu_the_draws_are_those_of_the_first() -> None:
    """The first one stays the current device, and has captured before."""
    found = []
    for device in ("cuda:0", "cuda:1"):
        model = copy.deepcopy(tiny_model("gemma2")).to(device)
        engine = Engine(model, num_kv_blocks=300, block_size=16, compile="graphs")
        found.append(draw(engine))
        assert engine.runner.warnings == []
    assert torch.cuda.current_device() == 0
    assert found[0] == found[1]


@pytest.mark.gpu
def test_on_a_gpu_larger_steps_do_not_break_smaller_graphs() -> None:
    """A prompt's step needs more arrival counters than the graphs were captured with; theirs must stay."""
    model = copy.deepcopy(tiny_model("llama")).to("cuda")
    engine = Engine(model, num_kv_blocks=300, block_size=16, compile="graphs", max_num_seqs=32)
    expected = draw(engine)
    engine.rollout([5, 6, 7] * 120, 1, SAMPLING)
    junk = [torch.full((size,), 7, dtype=torch.int32, device="cuda") for size in (64, 128, 256, 512)]
    assert draw(engine) == expected
    assert all(bool((tensor == 7).all()) for tensor in junk)
