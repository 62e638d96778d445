"""The C++ core does the host's part of a step as numpy does: every table, every array, in the same order."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastsia import Engine, load_task
from fastsia.answers.spec import Spec
from fastsia.config import SamplingParams
from fastsia.engine import step_cpp
from fastsia.engine.block_manager import BlockManager
from fastsia.engine.loop import Run
from fastsia.engine.sequence import Counters, FinishReason, Request
from fastsia.engine.step import Bookkeeping
from fastsia.engine.tables import Table, TrajectoryTree
from fastsia.tasks import build_prompt
from tests.engine.test_run import EOS, REQUESTS, HashModel

pytestmark = pytest.mark.skipif(not step_cpp.is_available(), reason="the C++ core is not built")


class BothBookkeeping(step_cpp.CppBookkeeping):
    """Asks the reference, on a copy of the tree, and then the core; nothing may differ."""

    def _ask(self, method: str, *arguments: Any) -> Any:
        tree = copy.deepcopy(self._tree)
        reference = Bookkeeping(tree, self._rules, None)
        expected = getattr(reference, method)(*arguments)
        found = getattr(super(), method)(*arguments)
        assert_same(found, expected)
        assert_same_tree(self._tree, tree)
        return found

    def select(self, *arguments: Any) -> Any:
        return self._ask("select", *arguments)

    def batch(self, *arguments: Any) -> Any:
        return self._ask("batch", *arguments)

    def mark_computed(self, *arguments: Any) -> Any:
        return self._ask("mark_computed", *arguments)

    def plan_draws(self, *arguments: Any) -> Any:
        return self._ask("plan_draws", *arguments)

    def append(self, *arguments: Any) -> Any:
        return self._ask("append", *arguments)

    def split(self, *arguments: Any) -> Any:
        return self._ask("split", *arguments)


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, tuple):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
        return
    for field in fields(expected):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(other, tuple):
            assert_same(one, other)
            continue
        np.testing.assert_array_equal(one, other, err_msg=field.name, strict=False)
        assert np.shape(one) == np.shape(other), field.name


def assert_same_tree(found: TrajectoryTree, expected: TrajectoryTree) -> None:
    np.testing.assert_array_equal(found.decoding, expected.decoding)
    for name in ("trunks", "branches", "rollouts", "nodes"):
        one, other = getattr(found, name), getattr(expected, name)
        np.testing.assert_array_equal(one.live, other.live, err_msg=name)
        assert_same_rows(name, one, other)
        assert one.num_free == other.num_free
        np.testing.assert_array_equal(one.free_list[: one.num_free], other.free_list[: other.num_free], err_msg=name)
    blocks, others = found.blocks, expected.blocks
    assert (blocks.num_free, blocks.peak_used) == (others.num_free, others.peak_used)
    np.testing.assert_array_equal(blocks.reference_counts, others.reference_counts)
    np.testing.assert_array_equal(blocks.free_list[: blocks.num_free], others.free_list[: others.num_free])


def assert_same_rows(name: str, one: Table, other: Table) -> None:
    """What live rows hold: of their block tables, the entries in use."""
    rows = one.live_slots()
    for column in (name for name, declared in one.columns.items() if not declared.is_wide):
        np.testing.assert_array_equal(getattr(one, column)[rows], getattr(other, column)[rows], f"{name}.{column}")
    if name in ("trunks", "branches"):
        for row in rows:
            used = vars(one)["num_blocks"][row]
            np.testing.assert_array_equal(vars(one)["blocks"][row, :used], vars(other)["blocks"][row, :used])
    if name == "trunks":
        for row in rows:
            length, drawn = vars(one)["length"][row], vars(one)["length"][row] - vars(one)["origin"][row]
            for column, used in (("tokens", length), ("logprobs", drawn), ("entropies", drawn)):
                np.testing.assert_array_equal(
                    vars(one)[column][row, :used], vars(other)[column][row, :used], f"{name}.{column}"
                )


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    requests=st.lists(REQUESTS, min_size=1, max_size=6),
    num_blocks=st.integers(11, 60),
    max_num_seqs=st.sampled_from([1, 3, 64]),
    max_num_batched_tokens=st.sampled_from([1, 5, 64]),
    max_concurrent_trajectories=st.integers(1, 4),
)
def test_the_core_does_what_the_reference_does(
    requests: list[Request],
    num_blocks: int,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    max_concurrent_trajectories: int,
) -> None:
    """Through preemption, chunks, forks, shared prompts and limits."""
    for _ in run_over(requests, num_blocks, max_num_seqs, max_num_batched_tokens, max_concurrent_trajectories).steps():
        pass


def run_over(
    requests: list[Request],
    num_blocks: int,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    max_concurrent_trajectories: int,
    model: HashModel | None = None,
) -> Run:
    return Run(
        model or HashModel(num_blocks, 3, 1000),  # type: ignore[arg-type]
        iter(requests),
        counters=Counters(),
        blocks=BlockManager(num_blocks, 3),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_concurrent_trajectories=max_concurrent_trajectories,
        eos_token_ids=(EOS,),
        context_length=None,
        vocabulary=None,
        bookkeeping=BothBookkeeping,
        overlap=True,
    )


@pytest.mark.parametrize("bad", [np.nan, -np.inf, np.inf])
def test_bad_logits(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw of nothing ends its rollouts, in the core as in the reference."""
    sampling = SamplingParams(1.5, 1.0, max_tokens=9, eos_token_id=EOS)
    model = HashModel(60, 3, 1000)
    compute = model.compute

    def compute_badly(batch: Any) -> Any:
        hidden = compute(batch)
        hidden[batch.branch_last[::3]] = bad
        return hidden

    monkeypatch.setattr(model, "compute", compute_badly)
    request = Request(0, (1, 2), sampling, 12, 3, stride=2, trajectory_ids=(1, 2, 3, 4))
    (trajectory,) = run_over([request], 60, 64, 64, 1, model)
    assert trajectory.rollouts is not None
    assert set(trajectory.rollouts.finish_reason) >= {FinishReason.ERROR, FinishReason.EOS}


def test_stop_texts_and_decided_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads tokens as text: the demo model's rollouts end alike under both."""
    task = load_task("demo", limit=4)

    def ends() -> list[tuple[Any, ...]]:
        engine = Engine.from_pretrained("demo:sft", max_num_seqs=40)
        sampling = SamplingParams(1.3, 1.0, max_tokens=100, stop=("are g", "+2"))
        stop = Spec.of(task.format_of(task.problems[0]))
        requests = [
            Request(
                i,
                build_prompt(task, problem, engine.tokenizer).token_ids,
                SamplingParams(1.3, 1.0, max_tokens=100, eos_token_id=()) if i % 2 else sampling,
                8,
                i,
                stride=9,
                answer_stop=stop,
            )
            for i, problem in enumerate(task.problems)
        ]
        found = sorted(engine.run(requests), key=lambda trajectory: trajectory.key)
        return [
            (
                t.token_ids.tolist(),
                t.rollouts.offsets.tolist(),
                t.rollouts.token_ids.tolist(),
                t.rollouts.finish_reason.tolist(),
            )
            for t in found
            if t.rollouts is not None
        ]

    by_the_core = ends()
    monkeypatch.setattr(step_cpp, "is_available", lambda: False)
    assert ends() == by_the_core
    reasons = {reason for trajectory in by_the_core for reason in trajectory[3]}
    assert reasons >= {FinishReason.STOP, FinishReason.ANSWER, FinishReason.EOS}


@pytest.mark.parametrize("num_blocks", [7, 8, 9])
def test_blocks_that_just_suffice_are_no_shortage(num_blocks: int) -> None:
    """In so small a pool the most urgent row often takes the last block."""
    sampling = SamplingParams(1.5, 1.0, max_tokens=6)
    requests = [Request(i, (1, 2), sampling, 3, seed=i, stride=2) for i in range(3)]
    ended = [trajectory for step in run_over(requests, num_blocks, 64, 64, 3).steps() for trajectory in step]
    assert sorted(trajectory.key for trajectory in ended) == [0, 1, 2]


# Columns that only Python reads.
OF_PARTS = ("num_replayed", "replayed_at", "num_taken", "is_end_taken")
OF_PYTHON = {"trunks": {"first_checkpoint", "may_match", "hidden"}, "rollouts": {"job", *OF_PARTS}}


@pytest.mark.parametrize("table", ["trunks", "branches", "rollouts", "nodes"])
def test_a_column_of_another_name_or_dtype_is_an_error(table: str) -> None:
    """Every column that the C++ core reads must be there, by its name, with its dtype and dimensions."""
    columns = getattr(TrajectoryTree(BlockManager(4, 3)), table).columns
    for name in columns.keys() - OF_PYTHON.get(table, set()) | {"live", "free_list"}:
        for change in ("missing", "dtype", "dimensions"):
            tree = TrajectoryTree(BlockManager(4, 3))
            found = getattr(tree, table)
            values = getattr(found, name)
            delattr(found, name)  # the class has at most the declaration, which is no array
            if change == "dtype":
                setattr(found, name, values.astype(np.int16))
            elif change == "dimensions":
                setattr(found, name, values[..., None] if values.ndim == 1 else values[:, 0].copy())
            with pytest.raises((TypeError, AttributeError), match=rf"\b{name}\b"):
                step_cpp.CppBookkeeping(tree, [], None)


@pytest.mark.parametrize("name", ["reference_counts", "free_list"])
def test_arrays_of_the_block_pool_are_checked_too(name: str) -> None:
    tree = TrajectoryTree(BlockManager(4, 3))
    setattr(tree.blocks, name, getattr(tree.blocks, name).astype(np.int64))
    with pytest.raises(TypeError, match=f"{name} must be a contiguous array of int32"):
        step_cpp.CppBookkeeping(tree, [], None)
