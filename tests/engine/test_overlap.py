"""Two steps in flight: their order, lack of memory, a cancelled run, and the same rollouts bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fastsia import Engine, SamplingParams
from fastsia.engine.block_manager import BlockManager
from fastsia.engine.sequence import Request
from fastsia.engine.staging import Staging
from fastsia.engine.step import Batch
from tests.engine.models import EOS, tiny_model
from tests.engine.test_run import EOS as HASH_EOS
from tests.engine.test_run import HashModel, check, start
from tests.tiny import tiny_model as demo_like

SAMPLING = SamplingParams(1.5, 1.0, max_tokens=10, eos_token_id=HASH_EOS)
REQUESTS = [Request(i, (1, 2, 3), SAMPLING, 10, seed=i, stride=3, trajectory_ids=(1, 2, 3, 4, 5, 6)) for i in range(3)]


class Device(HashModel):
    """Notes what it is given and what is waited for: ("launch" or "land", number of the step)."""

    def __init__(self, blocks: BlockManager, memory: int = 1000, both: int = 1000) -> None:
        super().__init__(blocks.num_blocks, blocks.block_size, memory)
        self.both = both  # rows of the steps in flight together
        self.log: list[tuple[str, int]] = []
        self.rows: Any
        self.batches: list[Batch] = []
        self.computed = 0

    def forward(self, batch: Batch) -> Any:
        under_way = sum(len(one.token_ids) for one in self.batches[self.computed :])
        if under_way and under_way + len(batch.token_ids) > self.both:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.log.append(("launch", len(self.batches)))
        self.batches.append(batch)
        return super().forward(batch)

    def compute(self, batch: Batch) -> np.ndarray:
        assert batch is self.batches[self.computed], "in the order of the launches"
        self.log.append(("land", self.computed))
        self.computed += 1
        return super().compute(batch)


def run(device: Device, blocks: BlockManager, *, overlap: bool = True, rows: int = 4, at_once: int = 3) -> Any:
    return start(device, blocks, REQUESTS, rows, 16, at_once, core=True, overlap=overlap)


def test_the_device_is_given_the_next_step_before_the_last_is_read() -> None:
    """While there are sequences for two full steps; each step is of sequences that are not in flight."""
    blocks = BlockManager(400, 3)
    device, finished = Device(blocks), []
    steps = run(device, blocks)
    for trajectories in steps.steps():
        finished += trajectories
        steps.tree.check_integrity()
    check(finished, REQUESTS)
    assert device.log[-1] == ("land", len(device.batches) - 1), "nothing is left in flight"
    in_flight = np.cumsum([1 if what == "launch" else -1 for what, _ in device.log])
    assert set(in_flight) <= {0, 1, 2}
    full = [len(batch.token_ids) == 4 for batch in device.batches]
    busy = sum(count == 2 for count in in_flight)
    assert busy > 0.6 * len(full), "nearly every step of this run leaves enough for another"
    positions = {step: set(batch.slots.tolist()) for step, batch in enumerate(device.batches)}
    for step in range(1, len(positions)):
        if ("launch", step) in device.log[: device.log.index(("land", step - 1))]:
            assert not positions[step] & positions[step - 1]


def test_a_run_without_overlap_has_one_step_in_flight() -> None:
    blocks = BlockManager(400, 3)
    device = Device(blocks)
    finished = [trajectory for step in run(device, blocks, overlap=False).steps() for trajectory in step]
    check(finished, REQUESTS)
    assert [what for what, _ in device.log] == ["launch", "land"] * len(device.batches)


def test_a_sequence_in_flight_keeps_its_blocks() -> None:
    """In a pool that runs out, blocks are taken only when nothing is in flight, from whoever is youngest then."""
    blocks = BlockManager(14, 3)
    device = Device(blocks)
    steps = run(device, blocks, rows=3)
    tree, dropped = steps.tree, []
    plain = tree.drop_blocks

    def drop(table: Any, slots: np.ndarray) -> None:
        dropped.append(int(table.in_flight[slots].sum()))
        plain(table, slots)

    tree.drop_blocks = drop
    finished = [trajectory for step in steps.steps() for trajectory in step]
    check(finished, REQUESTS)
    assert steps._counters.preemptions > 0
    assert sum(dropped) == 0
    assert any(a == b == "launch" for (a, _), (b, _) in zip(device.log, device.log[1:], strict=False))


def test_where_two_steps_do_not_fit_into_memory_one_is_in_flight() -> None:
    """And of as many rows as before."""
    blocks = BlockManager(400, 3)
    device = Device(blocks, both=7)
    steps = run(device, blocks)
    finished = [trajectory for step in steps.steps() for trajectory in step]
    check(finished, REQUESTS)
    assert steps._counters.out_of_memory == 1
    assert max(len(batch.token_ids) for batch in device.batches[len(device.batches) // 2 :]) == 4
    assert "launch launch" not in " ".join(what for what, _ in device.log)


def test_a_verification_does_not_stop_the_steps() -> None:
    """Its draws, window by window, are made after the steps in flight."""
    blocks = BlockManager(400, 3)
    device = Device(blocks)
    steps = run(device, blocks, at_once=2)
    hidden, begin_draw = device.hidden, device.begin_draw
    of_trunks: list[Any] = []
    launched: list[int] = []

    def hidden_of_trunks(rows: np.ndarray) -> Any:
        of_trunks.append(hidden(rows))
        return of_trunks[-1]

    def noting(of: Any, spec: Any) -> Any:
        fetch, before = begin_draw(of, spec), len(device.batches)

        def wait() -> Any:
            if any(of is one for one in of_trunks):
                launched.append(len(device.batches) - before)
            return fetch()

        return wait

    device.hidden, device.begin_draw = hidden_of_trunks, noting  # type: ignore[method-assign]
    finished = [trajectory for step in steps.steps() for trajectory in step]
    check(finished, REQUESTS)
    assert launched[0] == 0, "there is nothing else to do at the start"
    assert launched[-1] == 1, "the third trajectory is verified while the rollouts of two fill the steps"


class Late(Staging):
    """A device whose copies are made when an event after them is waited for, as late as can be."""

    class Event:
        def __init__(self, staging: Late) -> None:
            self.staging, self.through = staging, len(staging.copies)

        def synchronize(self) -> None:
            self.staging.arrive(self.through)

    def __init__(self, size: int) -> None:
        super().__init__(torch.device("cpu"), size)
        self.copies: list[Callable[[], None]] = []
        self.done = 0

    def arrive(self, through: int) -> None:
        while self.done < through:
            self.copies[self.done]()
            self.done += 1

    def _record(self) -> Any:
        return self.Event(self)

    def send(self, values: np.ndarray, into: list[np.ndarray]) -> None:
        memory = self.reserve(values.nbytes)[: values.nbytes]
        memory.numpy().view(values.dtype)[:] = values
        self.copies.append(lambda: into.append(memory.numpy().view(values.dtype).copy()))


def test_nothing_on_its_way_is_overwritten() -> None:
    """Pieces of all sizes, results that are read two or more fetches later, and a ring that grows."""
    rng = np.random.default_rng(0)
    staging, sent, arrived, fetches = Late(1 << 10), [], [], []
    for step in range(300):
        for _ in range(rng.integers(0, 4)):
            sent.append(rng.integers(0, 1 << 40, rng.integers(1, 60 if step < 200 else 400)))
            staging.send(sent[-1], arrived)
        if rng.random() < 0.4:
            values = torch.from_numpy(rng.integers(0, 1 << 40, rng.integers(1, 30)))
            fetches.append((staging.begin_fetch(values), values))
        if len(fetches) > 3:
            fetched, values = fetches.pop(int(rng.integers(0, 2)))
            np.testing.assert_array_equal(fetched()[0], values)
    staging.arrive(len(staging.copies))
    for one, other in zip(arrived, sent, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_rollouts_are_the_same_bit_for_bit() -> None:
    """In bfloat16, where a row's bits do not depend on the rows beside it: on the C++ core's products."""
    model, tokenizer = demo_like()
    found = []
    for overlap in ("off", "on"):
        engine = Engine(model.bfloat16(), tokenizer, max_num_seqs=8, num_kv_blocks=900, block_size=4, overlap=overlap)
        if engine.describe()["products"] != "exact":
            pytest.skip("products are not exact here")
        assert engine.describe()["overlap"] == overlap
        sampling = SamplingParams(1.0, 1.0, max_tokens=16)
        requests = [Request(i, (20, 21, 22), sampling, 8, seed=i, stride=3) for i in range(3)]
        launched = 0
        plain = engine.runner.begin_draw
        landed = []

        def begin(*arguments: Any, plain: Any = plain, landed: list[int] = landed) -> Any:
            nonlocal launched
            launched += 1
            number, fetch = launched, plain(*arguments)

            def wait() -> Any:
                landed.append(launched - number)
                return fetch()

            return wait

        engine.runner.begin_draw = begin  # type: ignore[method-assign]
        found.append({t.key: (t.token_ids.tolist(), t.rollouts) for t in engine.run(requests)})
        assert (max(landed) > 0) == (overlap == "on")
    for key, (tokens, rollouts) in found[0].items():
        assert found[1][key][0] == tokens
        for name, values in vars(rollouts).items():
            np.testing.assert_array_equal(vars(found[1][key][1])[name], values, name)


def test_a_cancelled_run_leaves_an_engine_that_draws_the_same() -> None:
    """What was in flight is forgotten."""
    engine = Engine(tiny_model("llama"), max_num_seqs=4, num_kv_blocks=300, block_size=4, overlap="on")
    sampling = SamplingParams(1.0, 1.0, max_tokens=12, eos_token_id=EOS)
    requests = [Request(0, (5, 6, 7), sampling, 8, seed=1, stride=3)]
    (expected,) = engine.run(requests)
    going = engine.steps(requests)
    for _ in range(18):
        next(going)
    going.close()
    assert len(engine.runner.hidden_slots) == 0
    (again,) = engine.run(requests)
    assert again.token_ids.tolist() == expected.token_ids.tolist()
    assert again.rollouts is not None
    assert expected.rollouts is not None
    np.testing.assert_array_equal(again.rollouts.token_ids, expected.rollouts.token_ids)
