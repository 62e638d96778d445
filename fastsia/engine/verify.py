"""Verification of rollouts against their trajectory's own tokens, as in speculative decoding.

A rollout from checkpoint t draws its first token from p(. | x, y_1..y_t). The final hidden state at that position was
already computed for the trunk. While its draws equal the trajectory's tokens they cost no row of their own: they are
*matched tokens*. At the first other token it *diverges*, and rollouts that diverge alike share a branch from there on.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fastsia.answers.stream import AnswerStream
from fastsia.engine.job import Job
from fastsia.engine.model_runner import ModelRunner
from fastsia.engine.sequence import Counters, FinishReason
from fastsia.engine.step import Bookkeeping, DrawPlan, Groups
from fastsia.engine.stopping import StopRules
from fastsia.engine.tables import HIDDEN_DROPPED, NO_BRANCH, NO_NODE, TrajectoryTree
from fastsia.ops.reference import DrawSpec

# Trunk positions at which each rollout draws at a time: most diverge soon, few match to the end.
_WINDOW = 16
# Maximum logits of the trunks that are verified together, which bounds the memory.
_MAX_LOGITS = 1 << 26
# Maximum logits that are scored at a time; the reference that scores is in float64.
_MAX_SCORED_LOGITS = 1 << 23
_NEVER = np.iinfo(np.int32).max


# Yields when the device has been given a window's draws; returns the rollouts that ended.
_Verification = Generator[None, None, list[np.ndarray]]


@dataclass(frozen=True)
class _Targets:
    """The tokens and states of G trunks, against which rollouts are verified, by position 0, 1, ... after the prompts.

    Attributes:
        slots, num_tokens: int [G].
        decided: int64 [G], the tokens after which no continuation changes the answer, _NEVER if there is no such
            position.
        expected: int64 [G, width], the token that matches at a position; -2 where none can.
        chain, stop_state: int [G, width], the node before a position and the stop automaton's state there.
    """

    slots: np.ndarray
    num_tokens: np.ndarray
    decided: np.ndarray
    expected: np.ndarray
    chain: np.ndarray
    stop_state: np.ndarray


@dataclass(frozen=True)
class _Verified:
    """How far R rollouts match their trunk, [R].

    Attributes:
        rollouts, trunk: their slots, and their trunk's entry of `_Targets`.
        start, end: positions of the first draw and after the last match.
        diverged: whether a draw differed; else the rollout ended.
        token, logprob: of that draw.
    """

    rollouts: np.ndarray
    trunk: np.ndarray
    start: np.ndarray
    end: np.ndarray
    diverged: np.ndarray
    token: np.ndarray
    logprob: np.ndarray


class Verifier:
    """Verifies the rollouts of fixed trunks and opens the branches of those that diverge.

    Args:
        rules: the stop rules that `Trunks.rules` numbers.
        jobs: the active requests by number.
        counters: `matched_tokens` and the verified rollouts' `generated_tokens` are counted here.
    """

    def __init__(
        self,
        tree: TrajectoryTree,
        runner: ModelRunner,
        bookkeeping: Bookkeeping,
        rules: Sequence[StopRules],
        stream: AnswerStream | None,
        jobs: Mapping[int, Job],
        counters: Counters,
    ) -> None:
        self._tree = tree
        self._runner = runner
        self._bookkeeping = bookkeeping
        self._rules = rules
        self._stream = stream
        self._jobs = jobs
        self._counters = counters
        self._under_way: list[tuple[np.ndarray, _Verification]] = []

    def verify(self, *, wait: bool = True) -> np.ndarray:
        """Verify every fixed trunk whose final hidden states are all kept; return the rollouts that ended.

        Args:
            wait: verify them to the end. Otherwise each rollout draws one window of positions, which the device
                computes after the steps in flight and the next call reads.
        """
        trunks = self._tree.trunks
        slots = trunks.live_slots()
        slots = slots[trunks.fixed[slots] & ~trunks.verified[slots]]
        slots = slots[trunks.num_hidden[slots] > trunks.length[slots] - trunks.origin[slots]]
        for verified, _ in self._under_way:
            slots = np.setdiff1d(slots, verified)
        budget = max(_MAX_LOGITS // self._runner.vocab_size, 1)
        while len(slots):
            count = max(int(np.searchsorted(np.cumsum(trunks.num_hidden[slots]), budget, side="right")), 1)
            self._under_way.append((slots[:count], self._verify(slots[:count])))
            slots = slots[count:]
        ended, under_way, self._under_way = [np.zeros(0, dtype=np.int32)], self._under_way, []
        for verified, verification in under_way:
            try:
                next(verification)
                while wait:
                    next(verification)
                self._under_way.append((verified, verification))
            except StopIteration as end:
                ended += end.value
        return np.concatenate(ended)

    def drop_hidden(self, slots: np.ndarray) -> None:
        """Free the kept hidden states of trunks; none will be kept for them any more."""
        trunks = self._tree.trunks
        kept = np.where(trunks.num_hidden[slots] == HIDDEN_DROPPED, 0, trunks.num_hidden[slots])
        self._runner.drop_hidden(trunks.hidden[slots][np.arange(trunks.hidden.shape[1]) < kept[:, None]])
        trunks.num_hidden[slots] = HIDDEN_DROPPED

    def _verify(self, slots: np.ndarray) -> _Verification:
        """Verify trunks. Until the end the tables change only in log-probabilities of the trunks' own tokens."""
        states = self._tree.rollouts
        for slot in slots.tolist():
            self._compute_given_logprobs(slot)
        targets = self._describe(slots)
        found = yield from self._match(targets)
        states.length[found.rollouts] = found.end - found.start
        states.node[found.rollouts] = targets.chain[found.trunk, found.end.clip(max=targets.chain.shape[1] - 1)]
        stays = ~found.diverged
        ended = found.rollouts[stays]
        answered = targets.decided[found.trunk[stays]] <= found.end[stays]
        self._tree.finish_rollouts(ended, np.where(answered, FinishReason.ANSWER, FinishReason.LENGTH))
        self._tree.trunks.verified[slots] = True
        self.drop_hidden(slots)
        return [*self._branch(targets, found), *self._replay(found.rollouts), ended]

    def _compute_given_logprobs(self, slot: int) -> None:
        """Log-probabilities and entropies of the tokens of a given trajectory, from the kept hidden states."""
        trunks = self._tree.trunks
        job, settings = self._jobs[int(trunks.job[slot])], (float(trunks.temperature[slot]), float(trunks.top_p[slot]))
        if not job.needs_given_logprobs:
            return
        job.logprobs, job.entropies = np.empty((2, len(job.token_ids)), dtype=np.float32)
        step = max(_MAX_SCORED_LOGITS // self._runner.vocab_size, 1)
        for begin in range(0, len(job.token_ids), step):
            here = slice(begin, begin + step)
            hidden = self._runner.hidden(trunks.hidden[slot, : len(job.token_ids)][here])
            job.logprobs[here], job.entropies[here] = self._runner.score(hidden, job.token_ids[here], *settings)

    def _describe(self, slots: np.ndarray) -> _Targets:
        trunks = self._tree.trunks
        num_tokens = (trunks.length - trunks.origin)[slots].astype(np.int64)
        shape = (len(slots), int(num_tokens.max()) + 1)
        expected = np.full(shape, -2, dtype=np.int64)
        chain = np.full(shape, NO_NODE, dtype=np.int64)
        stop_state = np.zeros(shape, dtype=np.int32)
        decided = np.full(len(slots), _NEVER, dtype=np.int64)
        for i, slot in enumerate(slots.tolist()):
            job = self._jobs[int(trunks.job[slot])]
            rules = self._rules[trunks.rules[slot]]
            y = trunks.tokens[slot, trunks.origin[slot] : trunks.length[slot]]
            stop_state[i, : len(y) + 1], completes = rules.states_along(y)
            chain[i, 1 : len(y) + 1] = job.chain[slot]
            if trunks.may_match[slot]:
                expected[i, : len(y)] = np.where(rules.is_eos[y] | completes, -2, y)
            spec = int(trunks.answer_spec[slot])
            if spec >= 0 and self._stream is not None and not job.request.shuffle_prefix:
                at = self._stream.decided_at(spec, job.token_ids)
                decided[i] = _NEVER if at is None else at
        return _Targets(slots, num_tokens, decided, expected, chain, stop_state)

    def _match(self, targets: _Targets) -> Generator[None, None, _Verified]:
        """Draw every rollout's tokens at the trunk's positions, `_WINDOW` at a time, until it diverges or ends."""
        trunks, states, runner = self._tree.trunks, self._tree.rollouts, self._runner
        width = targets.expected.shape[1]
        of_job = [self._jobs[int(job)].rollouts for job in trunks.job[targets.slots]]
        of_trunk = [job[states.trunk[job] == slot] for job, slot in zip(of_job, targets.slots, strict=True)]
        rollouts, trunk = np.concatenate(of_trunk), np.repeat(np.arange(len(of_trunk)), [len(one) for one in of_trunk])
        start = (states.checkpoint[rollouts] - trunks.first_checkpoint[targets.slots][trunk]).astype(np.int64)
        bound = np.minimum(start + states.limit[rollouts], np.maximum(targets.decided[trunk], start))
        window = np.where(trunks.may_match[targets.slots], _WINDOW, 1)
        at = start.copy()
        diverged = np.zeros(len(rollouts), dtype=bool)
        diverged_token = np.full(len(rollouts), -1, dtype=np.int64)
        diverged_logprob = np.full(len(rollouts), np.nan, dtype=np.float32)
        for i in np.flatnonzero(states.num_replayed[rollouts]).tolist():
            tokens, logprobs = self._replayed(int(rollouts[i]))
            expected = targets.expected[trunk[i], start[i] : start[i] + len(tokens)]
            matches = np.append(tokens[: len(expected)] == expected, False)
            num = int(np.argmin(matches))
            self._tree.nodes.logprob[targets.chain[trunk[i], start[i] + 1 : start[i] + num + 1]] = logprobs[:num]
            at[i] += num
            if num < len(tokens):
                diverged[i], diverged_token[i], diverged_logprob[i] = True, tokens[num], logprobs[num]
        alive = np.flatnonzero(~diverged & (at < bound))
        num_matched = num_diverged = 0
        while len(alive):
            until = np.minimum(
                np.minimum(at[alive] + window[trunk[alive]], bound[alive]), targets.num_tokens[trunk[alive]] + 1
            )
            counts = until - at[alive]
            first = np.cumsum(counts) - counts
            pair = np.repeat(alive, counts)
            position = np.repeat(at[alive] - first, counts) + np.arange(len(pair))
            places, row = np.unique(trunk[pair] * width + position, return_inverse=True)
            slot, rollout = targets.slots[places // width], rollouts[pair]
            owner = states.trunk[rollout]
            counters = [position - start[pair], states.index[rollout], states.checkpoint[rollout], trunks.domain[owner]]
            spec = DrawSpec(
                row=row,
                seeds=trunks.seed[owner],
                counters=np.stack(counters, axis=1).astype(np.int32),
                temperature=trunks.temperature[slot],
                top_p=trunks.top_p[slot],
                want_entropy=False,
            )
            fetch = runner.begin_draw(runner.hidden(trunks.hidden[slot, places % width]), spec)
            yield
            tokens, logprobs, _ = fetch()
            differs = tokens != targets.expected[trunk[pair], position]
            # The index of each rollout's first differing draw; len(pair) where all of its draws match.
            last = np.minimum.reduceat(np.where(differs, np.arange(len(pair)), len(pair)), first)
            diverges = last < first + counts
            leaving, draw = alive[diverges], last[diverges]
            diverged[leaving], diverged_token[leaving], diverged_logprob[leaving] = True, tokens[draw], logprobs[draw]
            matched = np.arange(len(pair)) < np.repeat(np.where(diverges, last, first + counts), counts)
            self._tree.nodes.logprob[targets.chain[trunk[pair[matched]], position[matched] + 1]] = logprobs[matched]
            num_matched += int(matched.sum())
            num_diverged += int((tokens[draw] >= 0).sum())
            at[alive] = until
            at[leaving] = position[draw]
            alive = alive[~diverges & (until < bound[alive])]
        self._counters.matched_tokens += num_matched
        self._counters.generated_tokens += num_matched + num_diverged
        return _Verified(rollouts, trunk, start, at, diverged, diverged_token, diverged_logprob)

    def _branch(self, targets: _Targets, found: _Verified) -> list[np.ndarray]:
        """Open a branch for each (trunk, position, token) at which rollouts diverged; return those that ended."""
        tree = self._tree
        trunks, branches, states = tree.trunks, tree.branches, tree.rollouts
        diverged = np.flatnonzero(found.diverged)
        if len(diverged) == 0:
            return []
        rollouts, trunk, position = found.rollouts[diverged], found.trunk[diverged], found.end[diverged]
        slots, tokens = targets.slots[trunk], found.token[diverged]
        # Less sharing gives the same draws: the key then also has the checkpoint, or the checkpoint and the index.
        share = np.array([self._jobs[int(job)].request.share for job in trunks.job[targets.slots]])[trunk]
        within = np.where(share == "none", states.index[rollouts], -1)
        checkpoint = np.where(share == "trajectory", -1, states.checkpoint[rollouts])
        keys = np.stack([slots, position, tokens, checkpoint, within])
        order = np.lexsort(keys[::-1])
        is_first = np.append(True, (np.diff(keys[:, order]) != 0).any(axis=0))
        head, group = order[is_first], np.empty(len(order), dtype=np.int64)
        group[order] = np.cumsum(is_first) - 1
        groups = Groups(
            rollouts=rollouts,
            group=group,
            trunk=slots[head],
            token=tokens[head],
            logprob=found.logprob[diverged][head],
            node=targets.chain[trunk[head], position[head]],
            stop_state=targets.stop_state[trunk[head], position[head]],
            length=np.zeros(len(head), dtype=np.int32),
        )
        alive, ended = self._bookkeeping.record_draws(groups)
        opened, place = slots[head][alive], position[head][alive]
        slot = np.full(len(head), -1, dtype=np.int64)
        slot[alive] = at = branches.allocate(len(opened))
        branches.trunk[at] = opened
        branches.order[at] = trunks.order[opened]
        branches.prefix_len[at] = trunks.origin[opened] + place
        self._start_streams(at, opened, place)
        ended_now = self._bookkeeping.move_to_branches(groups, slot)
        tree.decoding = np.concatenate([tree.decoding, rollouts[states.branch[rollouts] != NO_BRANCH]])
        return [ended, ended_now]

    def _replayed(self, rollout: int) -> tuple[np.ndarray, np.ndarray]:
        """The tokens and log-probabilities that an earlier run drew for a rollout."""
        states = self._tree.rollouts
        begin, count = int(states.replayed_at[rollout]), int(states.num_replayed[rollout])
        tokens, logprobs = self._jobs[int(states.job[rollout])].replayed
        return tokens[begin : begin + count], logprobs[begin : begin + count]

    def _replay(self, rollouts: np.ndarray) -> list[np.ndarray]:
        """Split the new branches by the draws of an earlier run for their rollouts; return those that ended.

        Nothing is computed: the branches are then in the state of preempted ones.
        """
        tree, states = self._tree, self._tree.rollouts
        mine = rollouts[(states.num_replayed[rollouts] > 1) & (states.branch[rollouts] != NO_BRANCH)]
        if len(mine) == 0:
            return []
        width = int(states.num_replayed[mine].max())
        place = np.full(states.capacity, -1, dtype=np.int64)
        place[mine] = np.arange(len(mine))
        tokens, logprobs = np.zeros((len(mine), width), np.int64), np.zeros((len(mine), width), np.float32)
        for i, rollout in enumerate(mine.tolist()):
            replayed = self._replayed(rollout)
            tokens[i, : len(replayed[0])], logprobs[i, : len(replayed[1])] = replayed
        of_these = np.zeros(states.capacity, dtype=bool)
        of_these[rollouts] = True
        ended: list[np.ndarray] = []
        while True:
            drawing = tree.decoding[of_these[tree.decoding]]
            goes_on = states.length[drawing] < states.num_replayed[drawing]
            # A branch stays where one of its rollouts has no next token: after another setting of `share`.
            stays = np.isin(states.branch[drawing], states.branch[drawing[~goes_on]])
            drawing = drawing[goes_on & ~stays]
            if len(drawing) == 0:
                break
            branch, row = np.unique(states.branch[drawing], return_inverse=True)
            at = place[drawing], states.length[drawing]
            none = np.zeros(0, dtype=np.int32)
            spec: DrawSpec[np.ndarray] = DrawSpec(row.astype(np.int64), none, none, none, none)
            plan = DrawPlan(none, branch, drawing, row, spec)
            ended.append(self._bookkeeping.split(plan, tokens[at], logprobs[at]).ended)
        branches = np.unique(states.branch[mine[states.branch[mine] != NO_BRANCH]])
        tree.branches.high_water[branches] = tree.branches.length[branches] - 1
        return ended

    def _start_streams(self, branch: np.ndarray, slots: np.ndarray, position: np.ndarray) -> None:
        """Start the answer stream of each new branch after the trajectory's tokens before it."""
        trunks = self._tree.trunks
        if self._stream is None:
            return
        for slot in np.unique(slots[trunks.answer_spec[slots] >= 0]):
            mine = slots == slot
            job = self._jobs[int(trunks.job[slot])]
            read = (np.zeros_like if job.request.shuffle_prefix else np.asarray)(position[mine])
            self._stream.start(branch[mine], int(trunks.answer_spec[slot]), job.token_ids, read.astype(np.int32))
