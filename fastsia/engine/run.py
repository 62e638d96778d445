"""One run of the engine: requests in, finished trajectories out, everything in between in steps.

A step computes one batch of rows for many trajectories at once and draws from them. A trajectory goes through
generation, the trunk pass, and its branches; see the package's design in docs/engine.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fastsia.answers.spec import Spec
from fastsia.answers.stream import AnswerStream
from fastsia.answers.vocabulary import Vocabulary
from fastsia.engine import native
from fastsia.engine.batch import Batch, Selection
from fastsia.engine.block_manager import BlockManager
from fastsia.engine.bookkeeping import Bookkeeping, Draws
from fastsia.engine.model_runner import ModelRunner
from fastsia.engine.native import NativeBookkeeping
from fastsia.engine.profile import PASS, STEP, StepProfile
from fastsia.engine.scheduler import Scheduler
from fastsia.engine.seeding import Domain
from fastsia.engine.sequence import (
    FINISH_REASONS,
    Counters,
    FinishReason,
    Request,
    Rollout,
    Rollouts,
    Trajectory,
)
from fastsia.engine.stopping import StopRules
from fastsia.engine.tree import FINISHED, NO_NODE, TrajectoryTree
from fastsia.errors import FastsiaError

# Trunk positions that each rollout is tried on in one round of the trunk pass: most depart soon, few ride to the end.
_RIDE_WINDOW = 16
# Logits of one round, which bounds its memory.
_PASS_LOGITS = 1 << 26
_NEVER = np.iinfo(np.int32).max


@dataclass
class _Job:
    """A request in flight. `trunks_left` counts trunks whose rollouts are not all done."""

    request: Request
    number: int
    finish_reason: str = ""
    error: str | None = None
    token_ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    logprobs: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    entropies: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    checkpoints: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    rollouts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    chain: dict[int, np.ndarray] = field(default_factory=dict)
    trunks_left: int = 1


class Run:
    """Drives requests to their end.

    max_concurrent_trajectories: trajectories in flight. eos_token_ids: what `SamplingParams.eos_token_id` None means.
    context_length: the
    model's, or None. on_rollouts: called with (job's request, [Rollout], checkpoints, indices) as rollouts end.
    profile: records every step. core: keep the books by the C++ core, where it is built.
    """

    def __init__(
        self,
        runner: ModelRunner,
        requests: Iterator[Request],
        *,
        counters: Counters,
        blocks: BlockManager,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_concurrent_trajectories: int,
        eos_token_ids: tuple[int, ...],
        context_length: int | None,
        vocabulary: Vocabulary | None,
        on_rollouts: Callable[[Request, list[tuple[int, int, Rollout]]], None] | None = None,
        profile: StepProfile | None = None,
        core: bool = True,
    ) -> None:
        self._runner = runner
        self._requests = requests
        self._counters = counters
        self._max_concurrent_trajectories = max_concurrent_trajectories
        self._eos_token_ids = eos_token_ids
        self._context_length = context_length
        self._vocabulary = vocabulary
        self._on_rollouts = on_rollouts
        self._profile = profile
        self.tree = TrajectoryTree(blocks)
        self._jobs: dict[int, _Job] = {}
        self._num_admitted = 0
        self._num_trunks = 0
        self._waiting: deque[Request] = deque()
        self._exhausted = False
        self._rules: dict[tuple[tuple[int, ...], tuple[str, ...]], int] = {}
        self._rule_list: list[StopRules] = []
        self._stream = AnswerStream(vocabulary) if vocabulary is not None else None
        book = NativeBookkeeping if core and native.available() else Bookkeeping
        self._bookkeeping = book(self.tree, self._rule_list, self._stream)
        self._scheduler = Scheduler(self.tree, self._bookkeeping, max_num_seqs, max_num_batched_tokens)
        self._specs: dict[Spec, int] = {}
        self._prompts: dict[tuple[int, ...], int] = {}
        self._finished: list[Trajectory] = []

    def __iter__(self) -> Iterator[Trajectory]:
        for finished in self.steps():
            yield from finished

    def steps(self) -> Iterator[list[Trajectory]]:
        """Step until nothing is left; after each one, the trajectories it finished."""
        while self._admit():
            self.step()
            finished, self._finished = self._finished, []
            yield finished

    # --- admission ---------------------------------------------------------------------------------------------

    def _admit(self) -> bool:
        """Start requests while there is room; False once nothing is left to do."""
        while len(self._jobs) < self._max_concurrent_trajectories:
            if not self._waiting:
                request = None if self._exhausted else next(self._requests, None)
                if request is None:
                    self._exhausted = True
                    break
                check_request(request, self._context_length, self._runner.vocab_size, self.tree.blocks)
                self._waiting.append(request)
            if not self._has_room(self._waiting[0]):
                break
            self._start(self._waiting.popleft())
        return bool(self._jobs)

    def _has_room(self, request: Request) -> bool:
        if not self._jobs:
            return True
        twin = self._prompts.get(request.prompt_ids)
        if twin is not None and self.tree.trunks.computed[twin] < len(request.prompt_ids):
            return False  # its prompt is being computed: wait and share it
        tokens = len(request.prompt_ids) + len(request.trajectory_ids or ())
        # One more block for each trunk in flight, so that a newcomer does not take what those need next.
        return self.tree.blocks.num_free >= self.tree.blocks.blocks_for(tokens) + len(self.tree.trunks) + 1

    def _start(self, request: Request) -> None:
        trunks = self.tree.trunks
        number = self._num_admitted
        self._num_admitted += 1
        job = _Job(request, number)
        self._jobs[number] = job
        given = request.trajectory_ids
        tokens = np.array(request.prompt_ids + (given or ()), dtype=np.int32)
        slot = self._new_trunk(job, tokens, len(request.prompt_ids))
        trunks.max_length[slot] = len(request.prompt_ids) + request.sampling.max_tokens
        twin = self._prompts.get(request.prompt_ids)
        if twin is not None:
            self.tree.share_prefix(twin, slot, len(request.prompt_ids) - 1)
        else:
            self._prompts[request.prompt_ids] = slot
        if given is not None:
            unknown = np.full(len(given), np.nan, dtype=np.float32)
            self._fix(slot, job, np.array(given, dtype=np.int32), unknown, unknown, "given")

    def _new_trunk(self, job: _Job, tokens: np.ndarray, prompt_len: int) -> int:
        trunks, request = self.tree.trunks, job.request
        slot = int(trunks.allocate(1)[0])
        trunks.widen("tokens", len(tokens))
        trunks.tokens[slot, : len(tokens)] = tokens
        trunks.job[slot] = job.number
        # No two trunks are equally urgent: two that took each other's blocks in turn would never end.
        trunks.order[slot] = self._num_trunks
        self._num_trunks += 1
        trunks.prompt_len[slot] = prompt_len
        trunks.length[slot] = len(tokens)
        trunks.seed[slot] = np.int64(request.seed)
        trunks.temperature[slot] = request.sampling.temperature
        trunks.top_p[slot] = request.sampling.top_p
        trunks.rules[slot] = self._rules_of(request)
        trunks.domain[slot] = Domain.SHUFFLED_ROLLOUT if request.shuffle_prefix else Domain.ROLLOUT
        trunks.ride[slot] = request.share == "trajectory"
        if request.answer_stop is not None and self._stream is not None:
            stop = request.answer_stop
            if stop not in self._specs:
                self._specs[stop] = self._stream.open(stop)
            trunks.answer_spec[slot] = self._specs[stop]
        return slot

    def _rules_of(self, request: Request) -> int:
        eos = request.sampling.eos_token_id
        ids = self._eos_token_ids if eos is None else (eos,) if isinstance(eos, int) else eos
        key = (ids, request.sampling.stop)
        if key not in self._rules:
            self._rules[key] = len(self._rule_list)
            self._rule_list.append(StopRules(ids, request.sampling.stop, self._vocabulary, self._runner.vocab_size))
        return self._rules[key]

    # --- a step ------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Compute one batch, draw from it, and do what follows from the draws."""
        with self._span(STEP):
            self._step()

    def _span(self, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self._profile is None else self._profile.span(name)

    def _step(self) -> None:
        selection, batch, hidden = self._compute()
        if batch is not None and hidden is not None:
            self._count(selection)
            if self._profile is not None:
                self._profile.count(len(batch.token_ids))
            self._keep_hidden(batch, hidden)
            self._draw(self._bookkeeping.draws(selection, batch), hidden)
        with self._span(PASS):
            self._pass_trunks()
        self._end_trunks()
        self._counters.preemptions += self._scheduler.preemptions
        self._scheduler.preemptions = 0
        self._counters.out_of_memory += self._runner.num_out_of_memory
        self._runner.num_out_of_memory = 0
        self._counters.peak_kv_blocks = max(self._counters.peak_kv_blocks, self.tree.blocks.peak_used)

    def _compute(self) -> tuple[Selection, Batch | None, Tensor | None]:
        """The next rows and their final hidden states; half as many, again and again, while memory does not suffice.

        Nothing but blocks has been given by then, which their rows keep; the draws do not depend on the rows of a step.
        """
        while True:
            selection = self._scheduler.select()
            if len(selection.trunks) + len(selection.branches) == 0:
                return selection, None, None
            batch = self._bookkeeping.batch(selection)
            try:
                return selection, batch, self._runner.forward(batch)
            except torch.OutOfMemoryError as error:
                short = str(error).partition(". ")[0]
            self._runner.release_memory()
            if not self._scheduler.halve(selection.num_rows):
                raise FastsiaError(f"device memory does not suffice for a single row ({short}); lower num_kv_blocks.")

    def _count(self, selection: Selection) -> None:
        rows, counters = self._bookkeeping.mark_computed(selection), self._counters
        counters.steps += 1
        counters.computed_tokens += rows.computed_tokens
        counters.trajectory_tokens += rows.trajectory_tokens
        counters.prefill_tokens += rows.prefill_tokens
        counters.recomputed_tokens += rows.recomputed_tokens

    def _keep_hidden(self, batch: Batch, hidden: Tensor) -> None:
        if len(batch.hidden_rows) == 0:
            return
        trunks = self.tree.trunks
        rows = self._runner.keep_hidden(self._runner.take(hidden, batch.hidden_rows))
        trunks.widen("hidden", int(batch.hidden_position.max()) + 1)
        trunks.hidden[batch.hidden_trunk, batch.hidden_position] = rows
        np.maximum.at(trunks.num_hidden, batch.hidden_trunk, batch.hidden_position + 1)

    def _draw(self, draws: Draws, hidden: Tensor) -> None:
        """Sample every draw of the step in one call, and do what follows from it."""
        if len(draws.hidden_row) == 0:
            return
        num_trunks = len(draws.trunk)
        tokens, logprobs, entropy = self._runner.draw(
            self._runner.take(hidden, draws.hidden_row),
            draws.row,
            draws.seeds,
            draws.counters,
            draws.temperature,
            draws.top_p,
            want_entropy=num_trunks > 0,
        )
        if num_trunks:
            self._append(draws.trunk, tokens[:num_trunks], logprobs[:num_trunks], entropy[:num_trunks])
        if len(draws.branch):
            forks = self._bookkeeping.split(draws, tokens, logprobs)
            self._runner.copy_blocks(forks.src, forks.dst)
            self._report(forks.ended)

    # --- generation --------------------------------------------------------------------------------------------

    def _append(self, trunk: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray, entropies: np.ndarray) -> None:
        """Each generating trunk has drawn its next token; those that end become fixed."""
        trunks = self.tree.trunks
        ends, reasons = self._bookkeeping.append(trunk, tokens, logprobs, entropies)
        for slot, reason in zip(ends.tolist(), reasons.tolist(), strict=True):
            job = self._jobs[int(trunks.job[slot])]
            prompt_len, length = int(trunks.prompt_len[slot]), int(trunks.length[slot])
            drawn = trunks.tokens[slot, prompt_len:length].copy()
            if reason == FinishReason.ERROR:
                job.error = f"logits were NaN or infinite at position {length - prompt_len} of the trajectory"
                self._fail(slot, job, drawn)
                continue
            if reason == FinishReason.STOP:
                texts = self._rule_list[trunks.rules[slot]].texts
                assert texts is not None
                drawn = drawn[: texts.tokens_before(drawn)]
            kept = len(drawn)
            logprob, entropy = trunks.logprobs[slot, :kept].copy(), trunks.entropies[slot, :kept].copy()
            self._fix(slot, job, drawn, logprob, entropy, FINISH_REASONS[reason])

    def _fail(self, slot: int, job: _Job, drawn: np.ndarray) -> None:
        trunks = self.tree.trunks
        job.token_ids, job.finish_reason = drawn, "error"
        job.logprobs = trunks.logprobs[slot, : len(drawn)].copy()
        job.entropies = trunks.entropies[slot, : len(drawn)].copy()
        trunks.fixed[slot] = trunks.passed[slot] = True

    def _fix(
        self, slot: int, job: _Job, drawn: np.ndarray, logprobs: np.ndarray, entropies: np.ndarray, reason: str
    ) -> None:
        """The trajectory is known: lay down its checkpoints, its rollouts, and the trunks that these need."""
        trunks, request = self.tree.trunks, job.request
        num_tokens = len(drawn)
        job.token_ids, job.logprobs, job.entropies, job.finish_reason = drawn, logprobs, entropies, reason
        job.checkpoints = checkpoints_of(request, num_tokens)
        trunks.fixed[slot] = True
        trunks.length[slot] = trunks.prompt_len[slot] + num_tokens
        trunks.computed[slot] = min(trunks.computed[slot], trunks.length[slot])
        per_checkpoint = request.num_rollouts
        checkpoint = np.repeat(job.checkpoints, per_checkpoint)
        states = self.tree.rollouts
        job.rollouts = states.allocate(len(checkpoint))
        states.job[job.rollouts] = job.number
        states.trunk[job.rollouts] = slot
        states.checkpoint[job.rollouts] = checkpoint
        states.index[job.rollouts] = np.tile(np.arange(per_checkpoint, dtype=np.int32), len(job.checkpoints))
        budget = request.sampling.max_tokens
        states.limit[job.rollouts] = budget if request.rollout_budget == "new" else np.maximum(budget - checkpoint, 0)
        trunks.pending[slot] = len(job.rollouts)
        if request.shuffle_prefix:
            self._shuffle(slot, job)
        else:
            job.chain[slot] = self.tree.append_chain(drawn, logprobs, job.number)

    def _shuffle(self, slot: int, job: _Job) -> None:
        """Give every checkpoint a trunk of its own: the prompt, then its prefix in a seeded order."""
        trunks, states = self.tree.trunks, self.tree.rollouts
        prompt_len = int(trunks.prompt_len[slot])
        prompt = trunks.tokens[slot, :prompt_len].copy()
        num_rollouts = job.request.num_rollouts
        for i, checkpoint in enumerate(job.checkpoints.tolist()):
            seed = (job.request.seed & (2**64 - 1), int(Domain.PERMUTATION), checkpoint)
            order = np.random.default_rng(np.random.SeedSequence(seed)).permutation(checkpoint)
            tokens = np.concatenate([prompt, job.token_ids[:checkpoint][order]])
            child = self._new_trunk(job, tokens, len(tokens))
            self.tree.share_prefix(slot, child, min(prompt_len, len(tokens) - 1))
            trunks.fixed[child] = True
            trunks.base[child] = checkpoint
            mine = job.rollouts[i * num_rollouts : (i + 1) * num_rollouts]
            states.trunk[mine] = child
            trunks.pending[child] = len(mine)
            job.chain[child] = np.zeros(0, np.int32)
        job.trunks_left = len(job.checkpoints) + 1
        trunks.pending[slot] = 0
        trunks.passed[slot] = True

    # --- the trunk pass ----------------------------------------------------------------------------------------

    def _pass_trunks(self) -> None:
        """Make the trunk pass for every fixed trunk whose final hidden states are all there."""
        trunks = self.tree.trunks
        slots = trunks.rows()
        slots = slots[trunks.fixed[slots] & ~trunks.passed[slots]]
        slots = slots[trunks.num_hidden[slots] > trunks.length[slots] - trunks.prompt_len[slots]]
        budget = max(_PASS_LOGITS // self._runner.vocab_size, 1)
        while len(slots):
            rows = np.cumsum(trunks.num_hidden[slots])
            count = max(int(np.searchsorted(rows, budget, side="right")), 1)
            self._pass(slots[:count])
            slots = slots[count:]

    def _pass(self, slots: np.ndarray) -> None:
        """Find where every rollout of these trunks leaves its trunk, from kept hidden states alone.

        A rollout at position t draws from p(. | x, y_1..y_t). While it draws y_{t+1} it rides on, at no cost but the
        draw; with another token it departs. Departures at one place with one token become one branch.
        """
        tree, runner = self.tree, self._runner
        trunks, states = tree.trunks, tree.rollouts
        local = np.full(trunks.capacity, -1, dtype=np.int64)
        local[slots] = np.arange(len(slots))
        jobs = [self._jobs[int(job)] for job in trunks.job[slots]]
        rollouts = np.concatenate(
            [job.rollouts[states.trunk[job.rollouts] == slot] for job, slot in zip(jobs, slots, strict=True)]
        )
        trunk = local[states.trunk[rollouts]]
        num_tokens = (trunks.length - trunks.prompt_len)[slots].astype(np.int64)
        settled = np.array(
            [self._settled_at(int(slot), job) for slot, job in zip(slots, jobs, strict=True)], dtype=np.int64
        )
        width = int(num_tokens.max()) + 1
        # expected[i, t]: the token that a rollout at position t must draw to ride on; -2 where it cannot.
        expected = np.full((len(slots), width), -2, dtype=np.int64)
        chain = np.full((len(slots), width), NO_NODE, dtype=np.int64)
        stop_state = np.zeros((len(slots), width), dtype=np.int32)
        for i, (slot, job) in enumerate(zip(slots, jobs, strict=True)):
            rules = self._rule_list[trunks.rules[slot]]
            y = trunks.tokens[slot, trunks.prompt_len[slot] : trunks.length[slot]]
            stop_state[i, : len(y) + 1], completes = rules.states_along(y)
            chain[i, 1 : len(y) + 1] = job.chain[int(slot)]
            if trunks.ride[slot]:
                expected[i, : len(y)] = np.where(rules.is_eos[y] | completes, -2, y)
        start = states.checkpoint[rollouts] - trunks.base[slots][trunk]
        bound = np.minimum(start + states.limit[rollouts].astype(np.int64), np.maximum(settled[trunk], start))
        window = np.where(trunks.ride[slots], _RIDE_WINDOW, 1)
        at = start.astype(np.int64)
        left_at = np.full(len(rollouts), -1, dtype=np.int64)
        left_with = np.full(len(rollouts), -1, dtype=np.int64)
        left_logprob = np.full(len(rollouts), np.nan, dtype=np.float32)
        alive = np.flatnonzero(at < bound)
        while len(alive):
            of = trunk[alive]
            until = np.minimum(np.minimum(at[alive] + window[of], bound[alive]), num_tokens[of] + 1)
            counts = until - at[alive]
            first = np.cumsum(counts) - counts
            pair = np.repeat(np.arange(len(alive)), counts)
            position = at[alive][pair] + np.arange(len(pair)) - first[pair]
            places, row = np.unique(of[pair] * width + position, return_inverse=True)
            place_trunk, place_position = slots[places // width], places % width
            rollout = rollouts[alive][pair]
            counters = np.stack(
                [
                    position - start[alive][pair],
                    states.index[rollout],
                    states.checkpoint[rollout],
                    trunks.domain[states.trunk[rollout]],
                ],
                axis=1,
            )
            tokens, logprobs, _ = runner.draw(
                runner.hidden(trunks.hidden[place_trunk, place_position]),
                row,
                trunks.seed[states.trunk[rollout]],
                counters.astype(np.int32),
                trunks.temperature[place_trunk],
                trunks.top_p[place_trunk],
                want_entropy=False,
            )
            leaves = tokens != expected[of[pair], position]
            leave = np.minimum.reduceat(np.where(leaves, np.arange(len(pair)), len(pair)), first)
            departs = leave < first + counts
            gone = alive[departs]
            left_at[gone] = position[leave[departs]]
            left_with[gone] = tokens[leave[departs]]
            left_logprob[gone] = logprobs[leave[departs]]
            rides = np.arange(len(pair)) < np.where(departs, leave, first + counts)[pair]
            node = chain[of[pair[rides]], position[rides] + 1]
            tree.nodes.logprob[node] = logprobs[rides]
            self._counters.rides += int(rides.sum())
            at[alive] = np.where(departs, left_at[alive], until)
            alive = alive[~departs & (until < bound[alive])]

        states.length[rollouts] = at - start
        states.node[rollouts] = chain[trunk, at.clip(max=width - 1)]
        stays = left_at < 0
        ended = rollouts[stays]
        answered = settled[trunk[stays]] <= at[stays]
        tree.finish_rollouts(ended, np.where(answered, FinishReason.ANSWER, FinishReason.LENGTH))
        trunks.passed[slots] = True
        held = trunks.hidden[slots][np.arange(trunks.hidden.shape[1]) < trunks.num_hidden[slots][:, None]]
        runner.drop_hidden(held)
        trunks.num_hidden[slots] = _NEVER  # from here on no hidden state of these trunks is kept
        gone = np.flatnonzero(~stays)
        if len(gone):
            self._depart(
                rollouts[gone],
                slots[trunk[gone]],
                left_at[gone],
                left_with[gone],
                left_logprob[gone],
                stop_state[trunk[gone], left_at[gone]],
                chain[trunk[gone], left_at[gone]],
            )
        self._report(ended)

    def _settled_at(self, slot: int, job: _Job) -> int:
        """Number of trajectory tokens after which no continuation changes the answer; never for a shuffled prefix."""
        trunks = self.tree.trunks
        spec = int(trunks.answer_spec[slot])
        if spec < 0 or self._stream is None or job.request.shuffle_prefix:
            return _NEVER
        at = self._stream.settled_at(spec, job.token_ids)
        return _NEVER if at is None else at

    def _depart(
        self,
        rollouts: np.ndarray,
        slots: np.ndarray,
        position: np.ndarray,
        tokens: np.ndarray,
        logprobs: np.ndarray,
        stop_state: np.ndarray,
        nodes: np.ndarray,
    ) -> None:
        """Open a branch for each (trunk, position, token) that rollouts left with."""
        tree = self.tree
        trunks, branches, states = tree.trunks, tree.branches, tree.rollouts
        place = slots.astype(np.int64) * (trunks.tokens.shape[1] + 1) + position
        key = place * (self._runner.vocab_size + 1) + tokens + 1
        # Less sharing is the same draws with more of the path in the key.
        share = np.array([self._jobs[int(job)].request.share for job in trunks.job[slots]])
        within = np.where(share == "none", states.index[rollouts].astype(np.int64) + 1, 0)
        checkpoint = np.where(share == "trajectory", 0, states.checkpoint[rollouts].astype(np.int64) + 1)
        order = np.lexsort((within, checkpoint, key))
        fresh = np.ones(len(order), dtype=bool)
        fresh[1:] = (np.diff(key[order]) != 0) | (np.diff(checkpoint[order]) != 0) | (np.diff(within[order]) != 0)
        group = np.empty(len(order), dtype=np.int64)
        group[order] = np.cumsum(fresh) - 1
        head = order[fresh]
        alive, node, state, ended = self._bookkeeping.end(
            rollouts, group, slots[head], tokens[head], logprobs[head], stop_state[head], nodes[head]
        )
        slot = np.full(len(head), -1, dtype=np.int64)
        opened = np.flatnonzero(alive)
        slot[opened] = branches.allocate(len(opened))
        at = slot[opened]
        branches.trunk[at] = slots[head[opened]]
        branches.order[at] = trunks.order[slots[head[opened]]]
        branches.prefix_len[at] = trunks.prompt_len[slots[head[opened]]] + position[head[opened]]
        self._start_streams(at, branches.trunk[at], position[head[opened]])
        settled = self._bookkeeping.settle(
            rollouts, group, slot, tokens[head], node, state, np.zeros(len(head), dtype=np.int32)
        )
        tree.riding = np.concatenate([tree.riding, rollouts[states.branch[rollouts] != FINISHED]])
        self._report(np.concatenate([ended, settled]))

    def _start_streams(self, branch: np.ndarray, slots: np.ndarray, position: np.ndarray) -> None:
        """Let the answer machine of each new branch have read the trajectory up to where the branch leaves it."""
        trunks = self.tree.trunks
        if self._stream is None:
            return
        for slot in np.unique(slots[trunks.answer_spec[slots] >= 0]):
            mine = slots == slot
            job = self._jobs[int(trunks.job[slot])]
            read = (
                np.zeros(int(mine.sum()), np.int32) if job.request.shuffle_prefix else position[mine].astype(np.int32)
            )
            self._stream.start(branch[mine].astype(np.int32), int(trunks.answer_spec[slot]), job.token_ids, read)

    # --- branches ----------------------------------------------------------------------------------------------

    # --- ends --------------------------------------------------------------------------------------------------

    def _end_trunks(self) -> None:
        """Let go of trunks without unfinished rollouts, and of jobs without trunks."""
        trunks = self.tree.trunks
        slots = trunks.rows()
        slots = slots[trunks.passed[slots] & (trunks.pending[slots] == 0)]
        for slot in slots.tolist():
            job = self._jobs[int(trunks.job[slot])]
            if self._prompts.get(job.request.prompt_ids) == slot:
                del self._prompts[job.request.prompt_ids]
            kept = int(trunks.num_hidden[slot])
            if 0 < kept < _NEVER:
                self._runner.drop_hidden(trunks.hidden[slot, :kept])
            self.tree.end_trunks(np.array([slot]))
            job.trunks_left -= 1
            if job.trunks_left == 0:
                self._complete(job)

    def _complete(self, job: _Job) -> None:
        del self._jobs[job.number]
        rollouts = None
        if job.finish_reason != "error":
            rollouts = self._collect(job.rollouts)
            self._counters.generated_tokens += len(rollouts.token_ids)
        self.tree.release_job(job.number, job.rollouts)
        self._finished.append(
            Trajectory(
                key=job.request.key,
                prompt_ids=np.array(job.request.prompt_ids, dtype=np.int32),
                token_ids=job.token_ids,
                logprobs=job.logprobs,
                token_entropies=job.entropies,
                finish_reason=job.finish_reason,
                seed=job.request.seed,
                checkpoints=job.checkpoints,
                rollouts=rollouts,
                error=job.error,
            )
        )

    def _collect(self, rollouts: np.ndarray) -> Rollouts:
        states = self.tree.rollouts
        offsets, tokens, logprobs = self.tree.paths(states.node[rollouts], states.length[rollouts])
        return Rollouts(
            checkpoint=states.checkpoint[rollouts],
            index=states.index[rollouts],
            offsets=offsets,
            token_ids=tokens,
            logprobs=logprobs,
            finish_reason=states.reason[rollouts],
        )

    def _report(self, rollouts: np.ndarray) -> None:
        """Hand rollouts that have just ended to the listener, where there is one, by job."""
        if self._on_rollouts is None:
            return
        states = self.tree.rollouts
        for number in np.unique(states.job[rollouts]):
            mine = rollouts[states.job[rollouts] == number]
            done = self._collect(mine)
            named = [(int(done.checkpoint[r]), int(done.index[r]), done.row(r)) for r in range(len(done))]
            self._on_rollouts(self._jobs[int(number)].request, named)


def checkpoints_of(request: Request, num_tokens: int) -> np.ndarray:
    """{0, s, 2s, ...} and T without duplicates, or the ones asked for; int32, ascending."""
    if request.checkpoints is not None:
        return np.array(sorted(set(request.checkpoints)), dtype=np.int32)
    return np.unique(np.append(np.arange(0, num_tokens, request.stride), num_tokens)).astype(np.int32)


def check_request(request: Request, context_length: int | None, vocab_size: int, blocks: BlockManager) -> None:
    """Refuse what cannot run, before anything is computed."""
    prompt, given = request.prompt_ids, request.trajectory_ids
    if len(prompt) == 0:
        raise FastsiaError("the prompt has no tokens; give at least one (a BOS or EOS id will do).")
    for name, ids in (("prompt", prompt), ("trajectory", given or ())):
        outside = next((i for i in ids if not 0 <= i < vocab_size), None)
        if outside is not None:
            raise FastsiaError(
                f"the {name} holds token id {outside}, outside the model's vocabulary (0 to {vocab_size - 1})."
            )
    if request.num_rollouts < 0:
        raise FastsiaError(f"num_rollouts must be >= 0, got {request.num_rollouts}.")
    trunk = len(prompt) + (request.sampling.max_tokens if given is None else len(given))
    wrong = next((c for c in request.checkpoints or () if c < 0 or (given is not None and c > len(given))), None)
    if wrong is not None:
        raise FastsiaError(f"checkpoint {wrong} is outside the trajectory (0 to {len(given or ())}).")
    new = request.sampling.max_tokens
    longest = trunk + new if request.rollout_budget == "new" else max(trunk, len(prompt) + new)
    if context_length is not None and longest > context_length:
        raise FastsiaError(
            f"prompt ({len(prompt)} tokens) + trajectory + max_tokens needs {longest} positions, the model's context is"
            f" {context_length}: lower max_tokens or shorten the prompt."
        )
    needed = blocks.blocks_for(trunk) + blocks.blocks_for(new) + 1
    if needed > blocks.num_blocks:
        raise FastsiaError(
            f"num_kv_blocks={blocks.num_blocks} is too small: one trajectory and one rollout of this request need"
            f" {needed} KV blocks of {blocks.block_size} tokens."
        )
