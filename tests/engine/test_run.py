"""A whole run over a model made of hashes: any mistake in what a row sees changes its draw, at once and for sure."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastsia.config import SamplingParams
from fastsia.engine.block_manager import BlockManager
from fastsia.engine.forecast import RunForecast
from fastsia.engine.loop import Run
from fastsia.engine.seeding import Domain
from fastsia.engine.sequence import UNFINISHED, Counters, Drawn, Request, Trajectory
from fastsia.engine.step import Batch, Bookkeeping
from fastsia.engine.tables import Table
from fastsia.errors import FastsiaError
from fastsia.ops.reference import DrawSpec, sample

VOCAB, EOS = 7, 0


LOGITS = np.random.default_rng(0).normal(scale=2.0, size=(1 << 16, VOCAB)).astype(np.float32)


def logits_after(context: tuple[int, ...]) -> np.ndarray:
    """Uneven logits that depend on every token of the context and on their order."""
    return LOGITS[zlib.crc32(bytes(context)) % len(LOGITS)]


class HashModel:
    """`ModelRunner`'s interface, its KV cache holding token ids: each row's context is read through the tables.

    As a device does, it works later than it is told to, in order: `queue` holds what it has not done yet, and a wait
    for draws is served up to these.
    """

    vocab_size = VOCAB

    def __init__(self, num_blocks: int, block_size: int, memory: int) -> None:
        self.memory = memory  # rows
        self.num_out_of_memory = 0
        self.queue: deque[Callable[[], None]] = deque()
        self.cache = np.full((num_blocks, block_size), -1, dtype=np.int64)
        self.kept = np.zeros((256, VOCAB), dtype=np.float32)
        self.rows = Table(256)

    def later(self, work: Callable[[], Any]) -> list[Any]:
        """Where the result of the work will be."""
        results: list[Any] = []
        self.queue.append(lambda: results.append(work()))
        return results

    def forward(self, batch: Batch) -> Any:
        if len(batch.token_ids) > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.later(lambda: self.compute(batch))

    def compute(self, batch: Batch) -> np.ndarray:
        self.cache.reshape(-1)[batch.slots] = batch.token_ids
        assert len(set(batch.slots.tolist())) == len(batch.slots), "two rows write one slot"
        trunk = np.repeat(np.arange(len(batch.cu_rows) - 1), np.diff(batch.cu_rows))
        out = []
        for row in range(len(batch.token_ids)):
            prefix = self.cache[batch.prefix_tables[trunk[row]]].reshape(-1)[: batch.prefix_lens[row]]
            suffix = self.cache[batch.suffix_tables[row]].reshape(-1)[: batch.suffix_lens[row]]
            context = tuple(prefix.tolist() + suffix.tolist())
            assert len(context) == batch.positions[row] + 1
            assert context[-1] == batch.token_ids[row]
            out.append(logits_after(context))
        return np.array(out)

    def release_memory(self) -> None:
        self.num_out_of_memory += 1

    def take(self, hidden: list[Any], rows: np.ndarray) -> Any:
        taken = self.later(lambda: hidden[0][rows])
        return taken, len(rows)

    def begin_draw(self, hidden: Any, spec: DrawSpec[np.ndarray]) -> Any:
        results = self.later(lambda: self.draw(hidden[0][0], spec))

        def fetch() -> Any:
            while not results:
                self.queue.popleft()()
            return results[0]

        return fetch

    def draw(self, hidden: np.ndarray, spec: DrawSpec[np.ndarray]) -> Any:
        logits, *arrays = (torch.from_numpy(np.ascontiguousarray(array)) for array in (hidden, *spec[:-1]))
        samples = sample(logits, DrawSpec(*arrays))
        assert samples.entropy is not None
        return samples.tokens.numpy(), samples.logprobs.numpy(), samples.entropy.numpy()

    def copy_blocks(self, src: np.ndarray, dst: np.ndarray) -> None:
        self.later(lambda: self.cache.__setitem__(dst, self.cache[src]))

    def keep_hidden(self, hidden: Any) -> np.ndarray:
        rows = self.rows.allocate(hidden[1])
        self.later(lambda: self.keep(rows, hidden[0][0]))
        return rows

    def keep(self, rows: np.ndarray, hidden: np.ndarray) -> None:
        if rows.max() >= len(self.kept):
            self.kept = np.concatenate([self.kept, np.zeros((rows.max(), VOCAB), np.float32)])
        self.kept[rows] = hidden

    def hidden(self, rows: np.ndarray) -> Any:
        return self.later(lambda: self.kept[rows]), len(rows)

    def drop_hidden(self, rows: np.ndarray) -> None:
        self.rows.free(rows)


class Sequence(NamedTuple):
    """One sequence that a request asks for: what it continues, how far, and the counters of its draws."""

    prefix: list[int]
    limit: int
    checkpoint: int
    rollout: int
    domain: int


def alone(request: Request, sequences: list[Sequence]) -> list[list[int]]:
    """The tokens of each, without blocks, forks or steps; a token of each at a time, drawn independently."""
    drawn: list[list[int]] = [[] for _ in sequences]
    for position in range(max(sequence.limit for sequence in sequences)):
        going = [i for i, one in enumerate(sequences) if position < one.limit and drawn[i][-1:] != [EOS]]
        if not going:
            break
        of = [sequences[i] for i in going]
        logits = np.stack([logits_after((*sequences[i].prefix, *drawn[i])) for i in going])
        spec = DrawSpec(
            torch.arange(len(of)),
            torch.full((len(of),), request.seed),
            torch.tensor([[position, one.rollout, one.checkpoint, one.domain] for one in of], dtype=torch.int32),
            torch.full((len(of),), request.sampling.temperature),
            torch.full((len(of),), request.sampling.top_p),
        )
        for i, token in zip(going, sample(torch.from_numpy(logits), spec).tokens.tolist(), strict=True):
            drawn[i].append(token)
    return drawn


REQUESTS = st.builds(
    lambda prompt, given, temperature, limit, n, stride, share, budget, shuffle, seed: Request(
        key=None,
        prompt_ids=tuple(prompt),
        sampling=SamplingParams(temperature, 0.9, max_tokens=limit, eos_token_id=EOS),
        num_rollouts=n,
        seed=seed,
        stride=stride,
        trajectory_ids=given,
        share=share,
        rollout_budget=budget,
        shuffle_prefix=shuffle,
    ),
    # Few prompts, so that trajectories of one prompt meet and share it.
    prompt=st.sampled_from([[1], [2, 3, 4, 5, 6, 1, 2, 3, 4], [3, 3, 3, 3, 3], [6] * 12]),
    given=st.one_of(st.none(), st.lists(st.integers(1, VOCAB - 1), max_size=12).map(tuple)),
    temperature=st.sampled_from([0.3, 0.8, 1.5]),
    limit=st.integers(1, 9),
    n=st.integers(0, 6),
    stride=st.integers(1, 5),
    share=st.sampled_from(["trajectory", "checkpoint", "none"]),
    budget=st.sampled_from(["new", "total"]),
    shuffle=st.booleans(),
    seed=st.integers(-(2**63), 2**63 - 1),
)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    requests=st.lists(REQUESTS, min_size=1, max_size=6),
    num_blocks=st.integers(11, 60),
    max_num_seqs=st.sampled_from([1, 3, 64]),
    max_num_batched_tokens=st.sampled_from([1, 5, 64]),
    max_concurrent_trajectories=st.integers(1, 4),
    memory=st.sampled_from([2, 7, 1000]),
    core=st.booleans(),
    overlap=st.booleans(),
)
def test_any_mix_of_requests_gives_what_each_gives_alone(
    requests: list[Request],
    num_blocks: int,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    max_concurrent_trajectories: int,
    memory: int,
    core: bool,
    overlap: bool,
) -> None:
    """Through preemption, lack of memory, chunks, forks and shared prompts; the tables are sound after every step."""
    requests = [replace(request, key=i) for i, request in enumerate(requests)]
    model, blocks = HashModel(num_blocks, 3, memory), BlockManager(num_blocks, 3)
    run = start(
        model, blocks, requests, max_num_seqs, max_num_batched_tokens, max_concurrent_trajectories, core, overlap
    )
    finished = []
    for step, trajectories in enumerate(run.steps()):
        assert step < 20_000, "two holders take each other's blocks in turn"
        run.tree.check_integrity()
        finished += trajectories
    check_ended(run, model, blocks)
    check(finished, requests)


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    requests=st.lists(REQUESTS, min_size=1, max_size=6),
    num_blocks=st.integers(11, 60),
    max_num_seqs=st.sampled_from([1, 3, 64]),
    max_num_batched_tokens=st.sampled_from([1, 5, 64]),
    max_concurrent_trajectories=st.integers(1, 4),
    core=st.booleans(),
    overlap=st.booleans(),
    taken=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    another_share=st.booleans(),
)
def test_what_an_interrupted_run_has_drawn_is_not_drawn_again(
    requests: list[Request],
    num_blocks: int,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    max_concurrent_trajectories: int,
    core: bool,
    overlap: bool,
    taken: list[int],
    another_share: bool,
) -> None:
    """Runs cut off after a few steps each: the next goes on from what was taken, with the same rollouts in the end."""
    requests = [replace(request, key=i) for i, request in enumerate(requests)]
    parts: dict[Any, list[Drawn]] = {}
    finished: list[Trajectory] = []
    for last in [*taken, 20_000]:
        done = {trajectory.key for trajectory in finished}
        left = [replace(r, drawn=Drawn.join(parts[r.key]) if r.key in parts else None) for r in requests]
        left = [request for request in left if request.key not in done]
        model, blocks = HashModel(num_blocks, 3, 1000), BlockManager(num_blocks, 3)
        run = start(
            model, blocks, left, max_num_seqs, max_num_batched_tokens, max_concurrent_trajectories, core, overlap
        )
        for step, trajectories in enumerate(run.steps()):
            run.tree.check_integrity()
            finished += trajectories
            if step % 3 == 0:
                for request, part in run.take_drawn():
                    parts.setdefault(request.key, []).append(part)
            if step == last:
                break
        else:
            check_ended(run, model, blocks)
        if another_share:
            requests = [replace(r, share="none" if r.share == "trajectory" else "trajectory") for r in requests]
    check(finished, requests)


def test_only_the_rollouts_that_are_named_are_drawn() -> None:
    """In any order, also of an unfinished request; they are those of the whole request."""
    sampling = SamplingParams(1.5, 0.9, max_tokens=6, eos_token_id=EOS)
    request = Request(0, (2, 3), sampling, num_rollouts=5, seed=3, stride=2, trajectory_ids=(4, 5, 6, 1, 2))
    whole = next(iter(start(HashModel(60, 3, 1000), BlockManager(60, 3), [request]))).rollouts
    assert whole is not None
    rows = np.arange(1, len(whole), 3)
    named = [(int(whole.checkpoint[r]), int(whole.index[r])) for r in rows]
    unlike = replace(whole, finish_reason=np.full(len(whole), UNFINISHED, dtype=np.int8))
    floats = np.zeros(5, np.float32)
    for rollouts in (unlike.take(np.zeros(0, np.int32)), unlike):
        drawn = Drawn(5, np.array([4, 5, 6, 1, 2]), floats, floats, "given", rollouts)
        asked = replace(request, rollouts=tuple(named[::-1]), num_rollouts=0, drawn=drawn)
        found = next(iter(start(HashModel(60, 3, 1000), BlockManager(60, 3), [asked]))).rollouts
        assert found is not None
        for name in ("checkpoint", "index", "offsets", "token_ids", "finish_reason"):
            np.testing.assert_array_equal(getattr(found, name), getattr(whole.take(rows), name))
    wrong = replace(request, rollouts=((1, 0),))
    with pytest.raises(FastsiaError, match="rollouts asks for checkpoint 1, which is none of the request's"):
        list(start(HashModel(60, 3, 1000), BlockManager(60, 3), [wrong]))


def test_the_forecast_counts_the_token_that_ended_a_trajectory_and_none_after_one_that_was_cut() -> None:
    """Drawn now or by an earlier run: the tokens drawn, and whether the last one was an end."""
    sampling = SamplingParams(0.8, 0.9, max_tokens=3, eos_token_id=EOS)
    requests = [Request(i, (2, 3), sampling, num_rollouts=0, seed=i) for i in range(8)]
    drawn: dict[Any, Drawn] = {}
    for _ in range(2):
        run = start(HashModel(60, 3, 1000), BlockManager(60, 3), [replace(r, drawn=drawn.get(r.key)) for r in requests])
        run._forecast = forecast = RunForecast()
        counted: list[tuple[int, bool]] = []
        forecast.trajectories.add = lambda _, lengths, ended, counted=counted: counted.extend(  # type: ignore[misc]
            zip(lengths.tolist(), ended.tolist(), strict=True)
        )
        finished = list(run)
        ends = [(len(t.token_ids), t.finish_reason == "eos") for t in finished]
        assert {ended for _, ended in ends} == {True, False}
        assert sorted(counted) == sorted((length + ended, ended) for length, ended in ends)
        drawn = {
            t.key: Drawn(len(t.token_ids), t.token_ids, t.logprobs, t.token_entropies, t.finish_reason, t.rollouts)
            for t in finished
            if t.rollouts is not None
        }


def start(
    model: HashModel,
    blocks: BlockManager,
    requests: list[Request],
    max_num_seqs: int = 64,
    max_num_batched_tokens: int = 64,
    max_concurrent_trajectories: int = 4,
    core: bool = False,
    overlap: bool = False,
) -> Run:
    return Run(
        model,  # type: ignore[arg-type]
        iter(requests),
        counters=Counters(),
        blocks=blocks,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_concurrent_trajectories=max_concurrent_trajectories,
        eos_token_ids=(EOS,),
        context_length=None,
        vocabulary=None,
        bookkeeping=None if core else Bookkeeping,
        overlap=overlap,
    )


def check_ended(run: Run, model: HashModel, blocks: BlockManager) -> None:
    assert blocks.num_free == blocks.num_blocks
    assert len(run.tree.nodes) == len(run.tree.rollouts) == len(run.tree.branches) == len(run.tree.trunks) == 0
    assert len(model.rows) == 0


def check(finished: list[Trajectory], requests: list[Request]) -> None:
    """Every request is finished once, with what it gives alone."""
    assert sorted(t.key for t in finished) == list(range(len(requests)))
    for trajectory in finished:
        request = requests[trajectory.key]
        prompt, limit = list(request.prompt_ids), request.sampling.max_tokens
        rollouts = trajectory.rollouts
        assert rollouts is not None
        assert len(rollouts) == request.num_rollouts * len(trajectory.checkpoints)
        sequences = [Sequence(prompt, limit, 0, 0, Domain.TRAJECTORY)]
        for r in range(len(rollouts)):
            checkpoint = int(rollouts.checkpoint[r])
            prefix = trajectory.token_ids[:checkpoint]
            domain = Domain.ROLLOUT
            if request.shuffle_prefix:
                seed = (request.seed & (2**64 - 1), int(Domain.PERMUTATION), checkpoint)
                prefix = prefix[np.random.default_rng(np.random.SeedSequence(seed)).permutation(checkpoint)]
                domain = Domain.SHUFFLED_ROLLOUT
            left = limit if request.rollout_budget == "new" else max(limit - checkpoint, 0)
            sequences.append(Sequence(prompt + prefix.tolist(), left, checkpoint, int(rollouts.index[r]), domain))
        drawn, *expected = alone(request, sequences)
        if request.trajectory_ids is None:
            assert trajectory.token_ids.tolist() == [t for t in drawn if t != EOS]
        for r, tokens in enumerate(expected):
            assert rollouts.row(r).token_ids == tokens
            reason = "eos" if tokens and tokens[-1] == EOS else "length"
            assert rollouts.row(r).finish_reason == reason
