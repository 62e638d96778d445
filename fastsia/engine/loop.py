"""The loop of a run: requests are admitted, stepped and finished.

A step computes one batch of tokens for many trajectories and draws from it. A trajectory is generated, its rollouts
are verified against it (`engine/verify.py`), and those that diverge go on as branches; see docs/engine.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from fastsia.answers.placement import Placement
from fastsia.answers.spec import Spec
from fastsia.answers.stream import AnswerStream
from fastsia.answers.vocabulary import Vocabulary
from fastsia.engine import step_cpp
from fastsia.engine.block_manager import BlockManager
from fastsia.engine.forecast import ActiveRequests, Remaining, RunForecast
from fastsia.engine.interrupts import Uninterrupted
from fastsia.engine.job import Job
from fastsia.engine.model_runner import HostSamples, ModelRunner
from fastsia.engine.profile import STEP, VERIFY, StepProfile
from fastsia.engine.scheduler import Scheduler
from fastsia.engine.seeding import Domain
from fastsia.engine.sequence import (
    FINISH_REASONS,
    UNFINISHED,
    Counters,
    Drawn,
    FinishReason,
    Request,
    Rollout,
    Rollouts,
    Trajectory,
    positions_needed,
)
from fastsia.engine.step import Batch, Bookkeeping, DrawPlan, Selection
from fastsia.engine.stopping import StopRules
from fastsia.engine.tables import TrajectoryTree
from fastsia.engine.verify import Verifier
from fastsia.errors import FastsiaError


@dataclass(frozen=True)
class _LaunchedStep:
    """A step that has been launched: the device has been given its work, and its results have not been read.

    Attributes:
        fetch: waits for the draws; None where nothing is drawn.
    """

    selection: Selection
    plan: DrawPlan
    fetch: Callable[[], HostSamples] | None


class Run:
    """Admits requests, runs steps until none is left, and yields finished trajectories.

    Args:
        max_num_seqs, max_num_batched_tokens: see `Scheduler`.
        max_concurrent_trajectories: active requests at a time.
        eos_token_ids: the ids that end a sequence where `SamplingParams.eos_token_id` is None.
        context_length: the model's, or None where it is unknown.
        vocabulary: needed for stop texts and for ending rollouts at their answer.
        on_rollouts: called as rollouts end, with their request and a list of (checkpoint, index, rollout).
        watch: called with this run after every step; see `take_drawn` and `remaining`.
        profile: records every step.
        bookkeeping: the implementation of the host's part of a step; None: the C++ core where it is built, else numpy.
        overlap: keep two steps in flight while there are sequences for two full ones.
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
        watch: Callable[[Run], None] | None = None,
        profile: StepProfile | None = None,
        bookkeeping: type[Bookkeeping] | None = None,
        overlap: bool = False,
    ) -> None:
        self._runner = runner
        self._requests = requests
        self._counters = counters
        self._max_concurrent_trajectories = max_concurrent_trajectories
        self._eos_token_ids = eos_token_ids
        self._context_length = context_length
        self._vocabulary = vocabulary
        self._on_rollouts = on_rollouts
        self._watch = watch
        # False while a step changes the tables; it stays False where an error interrupts one (see `take_drawn`).
        self._is_consistent = True
        self._overlap = overlap
        self._launched: deque[_LaunchedStep] = deque()
        self._forecast = RunForecast() if watch is not None else None
        self._counters_before = replace(counters)  # the engine counts all of its runs
        self._max_num_seqs = max_num_seqs
        self.num_ended_rollouts = 0
        self._profile = profile
        self.tree = TrajectoryTree(blocks)
        self._jobs: dict[int, Job] = {}
        self._num_admitted = 0
        self._mean_length = _MeanLength()
        self._num_trunks = 0
        self._waiting: deque[Request] = deque()
        self._exhausted = False
        self._rule_numbers: dict[tuple[tuple[int, ...], tuple[str, ...]], int] = {}
        self._rules: list[StopRules] = []
        self._stream = AnswerStream(vocabulary) if vocabulary is not None else None
        self._specs: dict[Spec, int] = {}
        self._prompts: dict[tuple[int, ...], int] = {}
        self._finished: list[Trajectory] = []
        if bookkeeping is None:
            bookkeeping = step_cpp.CppBookkeeping if step_cpp.is_available() else Bookkeeping
        self._bookkeeping = bookkeeping(self.tree, self._rules, self._stream)
        self._scheduler = Scheduler(self.tree, self._bookkeeping, max_num_seqs, max_num_batched_tokens)
        self._verifier = Verifier(self.tree, runner, self._bookkeeping, self._rules, self._stream, self._jobs, counters)

    @property
    def _num_rows(self) -> int:
        counters = self._counters
        fresh = counters.computed_tokens + counters.trajectory_tokens + counters.prefill_tokens
        return fresh + counters.recomputed_tokens

    def __iter__(self) -> Iterator[Trajectory]:
        for finished in self.steps():
            yield from finished

    def steps(self) -> Iterator[list[Trajectory]]:
        """Step until nothing is left; yield the trajectories that each step finished."""
        while self._admit():
            began, rows = perf_counter(), self._num_rows
            self.step()
            if self._watch is not None and self._forecast is not None:
                self._forecast.speed.add(self._num_rows - rows, perf_counter() - began)
                self._watch(self)
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
        same_prompt = self._prompts.get(request.prompt_ids)
        if same_prompt is not None and self.tree.trunks.computed[same_prompt] < len(request.prompt_ids):
            return False  # the same prompt is being computed: wait and share it
        known = len(request.trajectory_ids or ()) if request.drawn is None else len(request.drawn.token_ids)
        # Trajectories that are being written still grow. A new trunk would soon be preempted if it took the blocks that
        # they will need.
        trunks, size = self.tree.trunks, self.tree.blocks.block_size
        slots = trunks.live_slots()
        writing = slots[~trunks.fixed[slots]]
        final = np.minimum(trunks.origin[writing] + self._mean_length.expected(request), trunks.max_length[writing])
        growth = int(np.maximum(-(-final // size) - trunks.num_blocks[writing], 0).sum())
        ends = request.trajectory_ids is not None or (request.drawn is not None and request.drawn.finish_reason != "")
        tokens = len(request.prompt_ids) + (known if ends else max(known, self._mean_length.expected(request)))
        needed = self.tree.blocks.blocks_for(tokens) + growth
        # One more block for each trunk, for its rollouts.
        return self.tree.blocks.num_free >= needed + len(trunks) + 1

    def _start(self, request: Request) -> None:
        trunks = self.tree.trunks
        job = Job(request, self._num_admitted)
        self._num_admitted += 1
        self._jobs[job.number] = job
        given, drawn = request.trajectory_ids, request.drawn
        known = (given or ()) if drawn is None else drawn.token_ids
        tokens = np.concatenate([request.prompt_ids, known]).astype(np.int32)
        job.trunk = slot = self._new_trunk(job, tokens, len(request.prompt_ids))
        trunks.max_length[slot] = len(request.prompt_ids) + request.sampling.max_tokens
        same_prompt = self._prompts.get(request.prompt_ids)
        if same_prompt is not None:
            self.tree.share_prefix(same_prompt, slot, len(request.prompt_ids) - 1)
        else:
            self._prompts[request.prompt_ids] = slot
        if drawn is not None:
            self._resume(slot, job, drawn)
        elif given is not None:
            job.token_ids, job.finish_reason = np.array(given, dtype=np.int32), "given"
            job.logprobs = job.entropies = np.full(len(given), np.nan, dtype=np.float32)
            self._open_rollouts(slot, job)
            self._count_lengths(np.array([len(given)]), np.array([True]))

    def _resume(self, slot: int, job: Job, drawn: Drawn) -> None:
        """Resume a request from the draws of an earlier run."""
        trunks, num_tokens = self.tree.trunks, len(drawn.token_ids)
        trunks.high_water[slot] = trunks.length[slot]  # its keys and values are computed again
        job.num_taken, job.is_end_taken = num_tokens, drawn.finish_reason != ""
        if job.is_end_taken:
            job.finish_reason, job.token_ids = drawn.finish_reason, drawn.token_ids
            job.logprobs, job.entropies = drawn.logprobs, drawn.token_entropies
            if job.finish_reason == "error":
                self._fail(slot, job)
            else:
                self._open_rollouts(slot, job)
                self._count_lengths(np.array([num_tokens]), np.array([job.finish_reason != "length"]))
            return
        trunks.stop_state[slot] = self._rules[trunks.rules[slot]].states_along(drawn.token_ids)[0][-1]
        for name, values in (("logprobs", drawn.logprobs), ("entropies", drawn.token_entropies)):
            trunks.widen(name, num_tokens)
            getattr(trunks, name)[slot, :num_tokens] = values

    def _count_lengths(self, lengths: np.ndarray, ended: np.ndarray) -> None:
        """Count complete trajectories for the forecast of the others.

        Args:
            ended: bool [n], False where the maximum length ended the trajectory. Where True, the draw that ended it
                counts as one more token.
        """
        if self._forecast is not None:
            self._forecast.trajectories.add(np.zeros_like(lengths), lengths + ended, ended)

    def _new_trunk(self, job: Job, tokens: np.ndarray, origin: int) -> int:
        trunks, request = self.tree.trunks, job.request
        slot = int(trunks.allocate(1)[0])
        trunks.widen("tokens", len(tokens))
        trunks.tokens[slot, : len(tokens)] = tokens
        trunks.job[slot] = job.number
        # Orders are unique: two trunks of equal urgency could preempt each other forever.
        trunks.order[slot] = self._num_trunks
        self._num_trunks += 1
        trunks.origin[slot] = origin
        trunks.length[slot] = len(tokens)
        trunks.seed[slot] = np.int64(request.seed)
        trunks.temperature[slot] = request.sampling.temperature
        trunks.top_p[slot] = request.sampling.top_p
        trunks.rules[slot] = self._rules_of(request)
        trunks.domain[slot] = Domain.SHUFFLED_ROLLOUT if request.shuffle_prefix else Domain.ROLLOUT
        trunks.may_match[slot] = request.share == "trajectory"
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
        if key not in self._rule_numbers:
            self._rule_numbers[key] = len(self._rules)
            self._rules.append(StopRules(ids, request.sampling.stop, self._vocabulary, self._runner.vocab_size))
        return self._rule_numbers[key]

    # --- a step ------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Launch a batch, read the draws of the oldest one in flight, verify the trunks that it completed, and finish
        the trajectories that have ended.

        With `overlap` a second batch, of other sequences, is launched before the first one is read: the device computes
        one while the host does the bookkeeping of the other. All work of the device is in one stream, so keys and
        values are written before any later batch reads or overwrites them.
        """
        with self._span(STEP):
            self._step()

    def _span(self, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self._profile is None else self._profile.span(name)

    def _step(self) -> None:
        while len(self._launched) < (2 if self._overlap and self._scheduler.fills_two else 1) and self._launch():
            pass
        step = self._launched[0] if self._launched else None
        samples = step.fetch() if step is not None and step.fetch is not None else None
        with Uninterrupted():
            self._is_consistent = False
            if step is not None:
                self._launched.popleft()
                self._mark_in_flight(step.selection, False)
                if samples is not None:
                    self._apply(step.plan, *samples)
            with self._span(VERIFY):
                self._report(self._verifier.verify(wait=not self._launched))
            self._end_trunks()
            self._is_consistent = True
        self._counters.preemptions += self._scheduler.preemptions
        self._scheduler.preemptions = 0
        self._counters.out_of_memory += self._runner.num_out_of_memory
        self._runner.num_out_of_memory = 0
        self._counters.peak_kv_blocks = max(self._counters.peak_kv_blocks, self.tree.blocks.peak_used)

    def _launch(self) -> bool:
        """Give the device a batch and its draws; return False where there is nothing to compute now."""
        selection, batch, hidden = self._compute()
        if batch is None or hidden is None:
            return False
        with Uninterrupted():
            self._is_consistent = False
            self._count(selection)
            if self._profile is not None:
                self._profile.count(len(batch.token_ids))
            self._keep_hidden(batch, hidden)
            plan, fetch = self._bookkeeping.plan_draws(selection, batch), None
            if len(plan.hidden_row):
                fetch = self._runner.begin_draw(self._runner.take(hidden, plan.hidden_row), plan.spec)
            self._mark_in_flight(selection, True)
            self._launched.append(_LaunchedStep(selection, plan, fetch))
            self._is_consistent = True
        return True

    def _mark_in_flight(self, selection: Selection, is_in_flight: bool) -> None:
        self.tree.trunks.in_flight[selection.trunks] = is_in_flight
        self.tree.branches.in_flight[selection.branches] = is_in_flight

    def _compute(self) -> tuple[Selection, Batch | None, Tensor | None]:
        """Compute the next tokens' final hidden states; if memory runs out, retry with half as many.

        Only blocks have been allocated before a failure, and they stay with their sequences. The draws do not depend
        on which tokens share a step, up to rounding at the edge of a draw (docs/engine.md, Exactness).
        """
        while True:
            selection = self._scheduler.select(is_second=bool(self._launched))
            if len(selection.trunks) + len(selection.branches) == 0:
                return selection, None, None
            batch = self._bookkeeping.batch(selection)
            try:
                return selection, batch, self._runner.forward(batch)
            except torch.OutOfMemoryError as error:
                short = str(error).partition(". ")[0]
            self._runner.release_memory()
            if self._launched:
                self._overlap = False  # one step at a time may fit
                return selection, None, None
            if not self._scheduler.halve(selection.num_tokens):
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
        kept = self._runner.keep_hidden(self._runner.take(hidden, batch.hidden_rows))
        trunks.widen("hidden", int(batch.hidden_position.max()) + 1)
        trunks.hidden[batch.hidden_trunk, batch.hidden_position] = kept
        np.maximum.at(trunks.num_hidden, batch.hidden_trunk, batch.hidden_position + 1)

    def _apply(self, plan: DrawPlan, tokens: np.ndarray, logprobs: np.ndarray, entropy: np.ndarray) -> None:
        """Apply a step's draws: append to the trunks and split the branches."""
        num_trunks = len(plan.trunk)
        if num_trunks:
            self._append(plan.trunk, tokens[:num_trunks], logprobs[:num_trunks], entropy[:num_trunks])
        if len(plan.branch):
            self._counters.generated_tokens += int((tokens[num_trunks:] >= 0).sum())
            forks = self._bookkeeping.split(plan, tokens, logprobs)
            self._runner.copy_blocks(forks.src, forks.dst)
            self._report(forks.ended)

    # --- trajectories ------------------------------------------------------------------------------------------

    def _append(self, trunk: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray, entropies: np.ndarray) -> None:
        """Append each generating trunk's next token; those that end become fixed."""
        trunks = self.tree.trunks
        ends, reasons = self._bookkeeping.append(trunk, tokens, logprobs, entropies)
        for slot, reason in zip(ends.tolist(), reasons.tolist(), strict=True):
            job = self._jobs[int(trunks.job[slot])]
            token_ids = trunks.tokens[slot, trunks.origin[slot] : trunks.length[slot]].copy()
            if reason == FinishReason.STOP:
                texts = self._rules[trunks.rules[slot]].texts
                assert texts is not None
                token_ids = token_ids[: texts.tokens_before(token_ids)]
            job.token_ids, job.finish_reason = token_ids, FINISH_REASONS[reason]
            self._mean_length.add(len(token_ids))
            job.logprobs = trunks.logprobs[slot, : len(token_ids)].copy()
            job.entropies = trunks.entropies[slot, : len(token_ids)].copy()
            if reason == FinishReason.ERROR:
                self._fail(slot, job)
            else:
                self._open_rollouts(slot, job)
        self._count_lengths(trunks.length[ends] - trunks.origin[ends], reasons != FinishReason.LENGTH)

    def _fail(self, slot: int, job: Job) -> None:
        job.error = f"logits were NaN or infinite at position {len(job.token_ids)} of the trajectory"
        self.tree.trunks.fixed[slot] = self.tree.trunks.verified[slot] = True

    def _open_rollouts(self, slot: int, job: Job) -> None:
        """Create the checkpoints and rollouts of a complete trajectory, and the trunks that these need."""
        trunks, states, request = self.tree.trunks, self.tree.rollouts, job.request
        job.checkpoints = checkpoints_of(request, job.token_ids, self._vocabulary)
        trunks.fixed[slot] = True
        trunks.length[slot] = trunks.origin[slot] + len(job.token_ids)
        trunks.computed[slot] = min(trunks.computed[slot], trunks.length[slot])
        checkpoint, index = _asked(request, job.checkpoints)
        begun = None
        if request.drawn is not None:
            before = request.drawn.rollouts
            job.ended = before.take(before.finish_reason != UNFINISHED)
            asked = np.isin(_rollout_keys(before.checkpoint, before.index), _rollout_keys(checkpoint, index))
            begun = before.take((before.finish_reason == UNFINISHED) & asked)
            missing = ~np.isin(_rollout_keys(checkpoint, index), _rollout_keys(job.ended.checkpoint, job.ended.index))
            checkpoint, index = checkpoint[missing], index[missing]
        job.rollouts = states.allocate(len(checkpoint))
        states.job[job.rollouts] = job.number
        states.trunk[job.rollouts] = slot
        states.checkpoint[job.rollouts] = checkpoint
        states.index[job.rollouts] = index
        budget = request.sampling.max_tokens
        states.limit[job.rollouts] = budget if request.rollout_budget == "new" else np.maximum(budget - checkpoint, 0)
        if begun is not None:
            job.replayed = begun.token_ids, begun.logprobs
            mine = job.rollouts[
                np.searchsorted(_rollout_keys(checkpoint, index), _rollout_keys(begun.checkpoint, begun.index))
            ]
            states.num_replayed[mine] = states.num_taken[mine] = np.diff(begun.offsets)
            states.replayed_at[mine] = begun.offsets[:-1]
        trunks.pending[slot] = len(job.rollouts)
        trunks.verified[slot] = len(job.rollouts) == 0  # nothing is computed for rollouts that have all ended
        if request.shuffle_prefix:
            self._shuffle(slot, job)
        else:
            job.chain[slot] = self.tree.append_chain(job.token_ids, job.logprobs, job.number)

    def _shuffle(self, slot: int, job: Job) -> None:
        """Give every checkpoint its own trunk: the prompt, then the trajectory's tokens before it in a seeded order."""
        trunks, states = self.tree.trunks, self.tree.rollouts
        prompt_len = int(trunks.origin[slot])
        prompt = trunks.tokens[slot, :prompt_len].copy()
        for checkpoint in np.unique(states.checkpoint[job.rollouts]).tolist():
            seed = (job.request.seed & (2**64 - 1), int(Domain.PERMUTATION), checkpoint)
            order = np.random.default_rng(np.random.SeedSequence(seed)).permutation(checkpoint)
            tokens = np.concatenate([prompt, job.token_ids[:checkpoint][order]])
            child = self._new_trunk(job, tokens, len(tokens))
            self.tree.share_prefix(slot, child, min(prompt_len, len(tokens) - 1))
            trunks.fixed[child] = True
            trunks.first_checkpoint[child] = checkpoint
            mine = job.rollouts[states.checkpoint[job.rollouts] == checkpoint]
            states.trunk[mine] = child
            trunks.pending[child] = len(mine)
            job.chain[child] = np.zeros(0, np.int32)
            job.trunks_left += 1
        trunks.pending[slot] = 0
        trunks.verified[slot] = True

    # --- ends --------------------------------------------------------------------------------------------------

    def _end_trunks(self) -> None:
        """Free trunks without unfinished rollouts, and complete jobs without trunks."""
        trunks = self.tree.trunks
        slots = trunks.live_slots()
        slots = slots[trunks.verified[slots] & (trunks.pending[slots] == 0) & ~trunks.in_flight[slots]]
        for slot in slots.tolist():
            job = self._jobs[int(trunks.job[slot])]
            if self._prompts.get(job.request.prompt_ids) == slot:
                del self._prompts[job.request.prompt_ids]
            self._verifier.drop_hidden(np.array([slot]))
            self.tree.end_trunks(np.array([slot]))
            job.trunks_left -= 1
            if job.trunks_left == 0:
                self._complete(job)

    def _complete(self, job: Job) -> None:
        del self._jobs[job.number]
        rollouts = None
        if job.finish_reason != "error":
            rollouts = self._collect(job.rollouts)
            if job.ended is not None:
                rollouts = Rollouts.join([job.ended, rollouts])
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

    def take_drawn(self) -> list[tuple[Request, Drawn]]:
        """The draws of the active requests since the last call.

        `Drawn.join` joins the parts of a request. Empty after an error in the middle of a step, which may have left the
        tables inconsistent.
        """
        return [(job.request, part) for job in self._jobs.values() if (part := self._take(job)) is not None]

    def _take(self, job: Job) -> Drawn | None:
        # Nothing to store yet: a given trajectory is known, and its log-probabilities are not computed.
        if not self._is_consistent or (job.needs_given_logprobs and np.isnan(job.logprobs).any()):
            return None
        trunks, states = self.tree.trunks, self.tree.rollouts
        token_ids, logprobs, entropies = job.token_ids, job.logprobs, job.entropies
        if job.finish_reason == "":
            length = int(trunks.length[job.trunk] - trunks.origin[job.trunk])
            begin = int(trunks.origin[job.trunk])
            token_ids = trunks.tokens[job.trunk, begin : begin + length]
            logprobs, entropies = trunks.logprobs[job.trunk, :length], trunks.entropies[job.trunk, :length]
        news = job.rollouts[
            (states.length[job.rollouts] > states.num_taken[job.rollouts])
            | ((states.reason[job.rollouts] != UNFINISHED) & ~states.is_end_taken[job.rollouts])
        ]
        ends = job.finish_reason != "" and not job.is_end_taken
        if len(news) == 0 and not ends and len(token_ids) <= job.num_taken:
            return None
        rollouts = self._collect(news, states.num_taken[news])
        begin, job.num_taken, job.is_end_taken = job.num_taken, len(token_ids), job.finish_reason != ""
        states.num_taken[news] = np.maximum(states.num_taken[news], states.length[news])
        states.is_end_taken[news] = states.reason[news] != UNFINISHED
        return Drawn(
            len(token_ids),
            token_ids[begin:].copy(),
            logprobs[begin:].copy(),
            entropies[begin:].copy(),
            job.finish_reason,
            rollouts,
        )

    def remaining(self, queued: int) -> Remaining | None:
        """Forecast the rest of the run; None if it is not watched or no request is active.

        Args:
            queued: requests that are still to come.
        """
        forecast, jobs = self._forecast, list(self._jobs.values())
        if forecast is None or not jobs:
            return None
        trunks, states, counters, before = self.tree.trunks, self.tree.rollouts, self._counters, self._counters_before
        request = jobs[0].request
        slots, branches = trunks.live_slots(), self.tree.branches.live_slots()
        going = states.live_slots()
        going = going[states.reason[going] == UNFINISHED]
        writing = slots[~trunks.fixed[slots]]
        is_verified, replayed = trunks.verified[states.trunk[going]], states.num_replayed[going]
        lost = (trunks.length - trunks.computed)[slots[trunks.pending[slots] > 0]].sum()
        lost += (self.tree.branches.length - self.tree.branches.computed - 1)[branches].clip(min=0).sum()
        now = ActiveRequests(
            _mean_stride(jobs),
            request.num_rollouts,
            request.sampling.max_tokens,
            (trunks.length - trunks.origin)[writing],
            states.checkpoint[going],
            np.where(is_verified, states.length[going], np.where(replayed > 0, replayed, -1)),
            states.limit[going],
            int(lost),
        )
        forecast.num_verified = self.num_ended_rollouts + int(is_verified.sum())
        matched = counters.matched_tokens - before.matched_tokens
        branched = counters.generated_tokens - before.generated_tokens - matched
        computed = counters.computed_tokens - before.computed_tokens
        return forecast.remaining(
            now,
            queued,
            prompt_rows=(counters.prefill_tokens - before.prefill_tokens) / max(self._num_admitted, 1),
            matched_tokens=matched,
            rows_per_token=computed / branched if branched > 1000 else 1.0,
            max_num_seqs=self._max_num_seqs,
        )

    @property
    def num_active(self) -> int:
        """Active requests: those that have begun and are not finished."""
        return len(self._jobs)

    def _collect(self, rollouts: np.ndarray, without: np.ndarray | int = 0) -> Rollouts:
        """The rollouts in columns.

        Args:
            without: int [R] or int, how many of their first tokens to omit.
        """
        states = self.tree.rollouts
        lengths = np.maximum(states.length[rollouts] - without, 0)
        offsets, tokens, logprobs = self.tree.paths(states.node[rollouts], lengths)
        return Rollouts(
            checkpoint=states.checkpoint[rollouts],
            index=states.index[rollouts],
            offsets=offsets,
            token_ids=tokens,
            logprobs=logprobs,
            finish_reason=states.reason[rollouts],
        )

    def _report(self, rollouts: np.ndarray) -> None:
        """Count rollouts that have just ended, and pass them to `on_rollouts`, once per request."""
        states = self.tree.rollouts
        self.num_ended_rollouts += len(rollouts)
        if self._forecast is not None and len(rollouts):
            ended = states.reason[rollouts] != FinishReason.LENGTH
            self._forecast.rollouts.add(states.checkpoint[rollouts], states.length[rollouts], ended)
        if self._on_rollouts is None:
            return
        for number in np.unique(states.job[rollouts]):
            done = self._collect(rollouts[states.job[rollouts] == number])
            named = [(int(done.checkpoint[r]), int(done.index[r]), done.row(r)) for r in range(len(done))]
            self._on_rollouts(self._jobs[int(number)].request, named)


@dataclass
class _MeanLength:
    """Mean length of the trajectories that a run has drawn, for admission."""

    count: int = 0
    total: int = 0

    def add(self, length: int) -> None:
        self.count += 1
        self.total += length

    def expected(self, request: Request) -> int:
        """Expected length of a trajectory: the mean so far, counting one more of the maximum length."""
        most = request.sampling.max_tokens
        return min(-(-(self.total + most) // (self.count + 1)), most)


def _mean_stride(jobs: Sequence[Job]) -> int:
    """Mean tokens between checkpoints, of requests with the same settings; measured on complete trajectories."""
    request = jobs[0].request
    if request.placement is None or request.placement.is_regular:
        return request.stride
    gaps = [len(job.token_ids) / max(len(job.checkpoints) - 1, 1) for job in jobs if len(job.checkpoints)]
    return max(round(float(np.mean(gaps))), 1) if gaps else request.stride


def _rollout_keys(checkpoint: np.ndarray, index: np.ndarray) -> np.ndarray:
    """int64: a unique key of each rollout of a trajectory, ascending in their order."""
    return (checkpoint.astype(np.int64) << 32) | index


def _asked(request: Request, checkpoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(checkpoint, index) of the rollouts that a request asks for, int32 each, in order."""
    if request.rollouts is not None:
        pairs = np.array(sorted(set(request.rollouts)), dtype=np.int32).reshape(-1, 2)
        outside = np.setdiff1d(pairs[:, 0], checkpoints)
        if len(outside):
            raise FastsiaError(f"rollouts asks for checkpoint {outside[0]}, which is none of the request's.")
        return pairs[:, 0], pairs[:, 1]
    each = (request.num_rollouts,) * len(checkpoints) if request.allocation is None else request.allocation
    if len(each) != len(checkpoints):
        raise FastsiaError(f"allocation has {len(each)} numbers of rollouts for {len(checkpoints)} checkpoints.")
    index = np.concatenate([np.zeros(0, np.int32), *(np.arange(count, dtype=np.int32) for count in each)])
    return np.repeat(checkpoints, each).astype(np.int32), index


def checkpoints_of(request: Request, token_ids: np.ndarray, vocabulary: Vocabulary | None) -> np.ndarray:
    """Return the checkpoints of a trajectory, int32, ascending, distinct: those requested, else those of the request's
    placement, else 0, s, 2s, ... and T."""
    if request.checkpoints is not None:
        return np.array(sorted(set(request.checkpoints)), dtype=np.int32)
    return (request.placement or Placement(request.stride)).positions(token_ids, vocabulary)


def check_request(request: Request, context_length: int | None, vocab_size: int, blocks: BlockManager) -> None:
    """Raise FastsiaError for a request that cannot run, before anything is computed."""
    prompt, given = request.prompt_ids, request.trajectory_ids
    if len(prompt) == 0:
        raise FastsiaError("the prompt has no tokens; at least one is needed, for example a BOS or EOS id.")
    for name, ids in (("prompt", prompt), ("trajectory", given or ())):
        outside = next((i for i in ids if not 0 <= i < vocab_size), None)
        if outside is not None:
            raise FastsiaError(
                f"the {name} contains token id {outside}, outside the model's vocabulary (0 to {vocab_size - 1})."
            )
    if request.num_rollouts < 0:
        raise FastsiaError(f"num_rollouts must be >= 0, got {request.num_rollouts}.")
    new = request.sampling.max_tokens
    trajectory = new if given is None else len(given)
    wrong = next((c for c in request.checkpoints or () if c < 0 or (given is not None and c > len(given))), None)
    if wrong is not None:
        if wrong < 0:
            raise FastsiaError(f"checkpoints must be >= 0, got {wrong}.")
        raise FastsiaError(f"checkpoint {wrong} is outside the trajectory (0 to {len(given or ())}).")
    longest = positions_needed(len(prompt), trajectory, new, request.rollout_budget)
    if context_length is not None and longest > context_length:
        terms = f"trajectory ({trajectory}) + rollout ({new})"
        if request.rollout_budget == "total":
            terms = f"the longer of trajectory ({trajectory}) and rollout with its prefix ({new})"
        raise FastsiaError(
            f"prompt ({len(prompt)} tokens) + {terms} need {longest} positions, the model's context is"
            f" {context_length}: lower max_tokens or shorten the prompt."
        )
    needed = blocks.blocks_for(len(prompt) + trajectory) + blocks.blocks_for(new) + 1
    if needed > blocks.num_blocks:
        raise FastsiaError(
            f"num_kv_blocks={blocks.num_blocks} is too small: one trajectory and one rollout of this request need"
            f" {needed} KV blocks of {blocks.block_size} tokens."
        )
