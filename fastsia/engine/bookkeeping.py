"""The host's part of a decode step, in numpy: which rows to compute, what to draw from them, where the draws lead.

`engine/native.py` does the same in the C++ core; this is its reference, and what runs without it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastsia.answers.stream import AnswerStream
from fastsia.engine.batch import Batch, Selection, build_batch
from fastsia.engine.seeding import Domain
from fastsia.engine.sequence import FinishReason
from fastsia.engine.stopping import StopRules
from fastsia.engine.tree import FINISHED, NO_NODE, TrajectoryTree


@dataclass(frozen=True)
class Shortage:
    """The most urgent row, of a trunk or of a branch, needs more blocks than are free."""

    row: int
    is_trunk: bool
    blocks: int


@dataclass(frozen=True)
class RowCounts:
    """Rows computed, by what they were for; see `Counters`."""

    computed_tokens: int
    trajectory_tokens: int
    prefill_tokens: int
    recomputed_tokens: int


@dataclass(frozen=True)
class Draws:
    """What a step draws, as `ops.sample` takes it: R rows of logits, trunks' first, and M draws, trunks' first.

    trunk, branch: the generating trunks and the branches whose last token was computed, one row of logits each.
    rollout: those on the branches, the draws after the trunks'. hidden_row: int64 [R], rows of the batch.
    row: int64 [M], into R. seeds: int64 [M]. counters: int32 [M, 4]. temperature, top_p: float32 [R].
    """

    trunk: np.ndarray
    branch: np.ndarray
    rollout: np.ndarray
    hidden_row: np.ndarray
    row: np.ndarray
    seeds: np.ndarray
    counters: np.ndarray
    temperature: np.ndarray
    top_p: np.ndarray


@dataclass(frozen=True)
class Forks:
    """Blocks to copy, int64 src -> dst, before the next rows are computed; and the rollouts that have ended."""

    src: np.ndarray
    dst: np.ndarray
    ended: np.ndarray


class Bookkeeping:
    """Everything that a step changes in the tree, but for the trunk pass.

    rules: what `Trunks.rules` counts; may grow. stream: reads the rollouts of trunks with an `answer_spec`.
    """

    def __init__(self, tree: TrajectoryTree, rules: list[StopRules], stream: AnswerStream | None) -> None:
        self._tree = tree
        self._rules = rules
        self._stream = stream

    # --- before the model ----------------------------------------------------------------------------------------

    def select(self, max_num_seqs: int, max_num_batched_tokens: int) -> Selection | Shortage:
        """The next step's rows, oldest trajectories first, and their blocks; empty when nothing is left to compute."""
        trunks, branches = self._tree.trunks, self._tree.branches
        trunk = trunks.rows()
        trunk = trunk[
            (trunks.computed[trunk] < trunks.length[trunk]) & (~trunks.passed[trunk] | (trunks.pending[trunk] > 0))
        ]
        branch = branches.rows()
        owner = branches.trunk[branch]
        branch = branch[trunks.computed[owner] == trunks.length[owner]]
        count = np.concatenate(
            [trunks.length[trunk] - trunks.computed[trunk], branches.length[branch] - branches.computed[branch]]
        )
        if len(count) == 0:
            return Selection(trunk, count, branch, count)
        # Of one trajectory, its trunk first, then branches that hold blocks, so that these end and give them back.
        urgency = np.concatenate(
            [4 * trunks.order[trunk], 4 * trunks.order[branches.trunk[branch]] + 1 + (branches.num_blocks[branch] == 0)]
        )
        order = np.argsort(urgency, kind="stable")
        rows, count = np.concatenate([trunk, branch])[order], _limit(count[order], max_num_seqs, max_num_batched_tokens)
        on_trunk = order < len(trunk)
        needs = self._needs(rows, on_trunk, count)
        if int(needs[0]) > self._tree.blocks.num_free:
            return Shortage(int(rows[0]), bool(on_trunk[0]), int(needs[0]))
        chosen = (count > 0) & (np.cumsum(needs) <= self._tree.blocks.num_free)
        rows, on_trunk, count = rows[chosen], on_trunk[chosen], count[chosen]
        selection = Selection(rows[on_trunk], count[on_trunk], rows[~on_trunk], count[~on_trunk])
        self._tree.extend(trunks, selection.trunks, trunks.computed[selection.trunks] + selection.trunk_counts)
        self._tree.extend(branches, selection.branches, branches.computed[selection.branches] + selection.branch_counts)
        return selection

    def _needs(self, rows: np.ndarray, on_trunk: np.ndarray, count: np.ndarray) -> np.ndarray:
        """Blocks that each row lacks."""
        trunks, branches, size = self._tree.trunks, self._tree.branches, self._tree.blocks.block_size
        computed, held = np.empty_like(count), np.empty_like(count)
        for table, mask in ((trunks, on_trunk), (branches, ~on_trunk)):
            computed[mask], held[mask] = table.computed[rows[mask]], table.num_blocks[rows[mask]]
        return np.maximum((computed + count + size - 1) // size - held, 0)

    def batch(self, selection: Selection) -> Batch:
        """The selected rows, laid out for the model."""
        return build_batch(self._tree, selection)

    # --- after the model -----------------------------------------------------------------------------------------

    def mark_computed(self, selection: Selection) -> RowCounts:
        """The selected rows have been computed."""
        trunks, branches = self._tree.trunks, self._tree.branches
        fresh = []
        for table, rows, counts in (
            (trunks, selection.trunks, selection.trunk_counts),
            (branches, selection.branches, selection.branch_counts),
        ):
            before = table.computed[rows]
            table.computed[rows] = after = before + counts
            fresh.append(np.maximum(after - np.maximum(before, table.high_water[rows]), 0))
            table.high_water[rows] = np.maximum(table.high_water[rows], after)
        of_trunks, of_branches = fresh
        drawn = np.maximum(trunks.computed[selection.trunks] - trunks.prompt_len[selection.trunks], 0)
        generated = int((np.minimum(of_trunks, drawn) * ~trunks.fixed[selection.trunks]).sum())
        computed_tokens, num_fresh = int(of_branches.sum()), int(of_trunks.sum())
        return RowCounts(
            computed_tokens, generated, num_fresh - generated, selection.num_rows - computed_tokens - num_fresh
        )

    def draws(self, selection: Selection, batch: Batch) -> Draws:
        """Each generating trunk's next token, and every rollout on each computed branch."""
        tree = self._tree
        trunks, branches, rollouts = tree.trunks, tree.branches, tree.rollouts
        ready = ~trunks.fixed[selection.trunks] & (trunks.computed[selection.trunks] == trunks.length[selection.trunks])
        trunk, trunk_row = selection.trunks[ready], batch.trunk_last[ready]
        ready = branches.computed[selection.branches] == branches.length[selection.branches]
        branch, branch_row = selection.branches[ready], batch.branch_last[ready]
        num_trunks = len(trunk)
        row_of_branch = np.full(branches.capacity, -1, dtype=np.int64)
        row_of_branch[branch] = np.arange(num_trunks, num_trunks + len(branch))
        rows = row_of_branch[rollouts.branch[tree.riding]]
        rollout = tree.riding[rows >= 0]
        owner = rollouts.trunk[rollout]
        counters = np.zeros((num_trunks + len(rollout), 4), dtype=np.int32)
        counters[:num_trunks, 0] = trunks.length[trunk] - trunks.prompt_len[trunk]
        counters[:num_trunks, 3] = Domain.TRAJECTORY
        counters[num_trunks:, 0] = rollouts.length[rollout]
        counters[num_trunks:, 1] = rollouts.index[rollout]
        counters[num_trunks:, 2] = rollouts.checkpoint[rollout]
        counters[num_trunks:, 3] = trunks.domain[owner]
        of_row = np.concatenate([trunk, branches.trunk[branch]])
        return Draws(
            trunk=trunk,
            branch=branch,
            rollout=rollout,
            hidden_row=np.concatenate([trunk_row, branch_row]),
            row=np.concatenate([np.arange(num_trunks), rows[rows >= 0]]),
            seeds=np.concatenate([trunks.seed[trunk], trunks.seed[owner]]),
            counters=counters,
            temperature=trunks.temperature[of_row],
            top_p=trunks.top_p[of_row],
        )

    def append(
        self, trunk: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray, entropies: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Add each generating trunk's drawn token, an EOS apart; gives the trunks that end, and the reasons."""
        trunks = self._tree.trunks
        eos, stopped, state = self.stops(trunks.rules[trunk], trunks.stop_state[trunk], tokens)
        trunks.stop_state[trunk] = state
        grows = (tokens >= 0) & ~eos
        rows, at = trunk[grows], trunks.length[trunk[grows]]
        position = at - trunks.prompt_len[rows]
        trunks.widen("tokens", int(at.max(initial=0)) + 1)
        for name, values in (("logprobs", logprobs), ("entropies", entropies)):
            trunks.widen(name, int(position.max(initial=0)) + 1)
            getattr(trunks, name)[rows, position] = values[grows]
        trunks.tokens[rows, at] = tokens[grows]
        trunks.length[rows] += 1
        reason = np.select(
            [tokens < 0, eos, stopped, trunks.length[trunk] >= trunks.max_length[trunk]],
            [FinishReason.ERROR, FinishReason.EOS, FinishReason.STOP, FinishReason.LENGTH],
            default=-1,
        )
        ends = reason >= 0
        return trunk[ends], reason[ends]

    def split(self, draws: Draws, tokens: np.ndarray, logprobs: np.ndarray) -> Forks:
        """Every rollout has drawn: the first token's group of a branch keeps its row, every other one forks it.

        tokens int64 [M], logprobs float32 [M], as `ops.sample` gave them for all draws; the trunks' are left alone.
        """
        tree, branch, rollouts = self._tree, draws.branch, draws.rollout
        branches = tree.branches
        row = draws.row[len(draws.trunk) :] - len(draws.trunk)
        tokens, logprobs = tokens[len(draws.trunk) :], logprobs[len(draws.trunk) :]
        base = int(tokens.max(initial=0)) + 2
        groups, head, group = np.unique(row * base + tokens + 1, return_index=True, return_inverse=True)
        parent = branch[groups // base]
        alive, node, state, ended = self.end(
            rollouts,
            group,
            branches.trunk[parent],
            tokens[head],
            logprobs[head],
            branches.stop_state[parent],
            branches.node[parent],
        )
        slot = np.full(len(groups), -1, dtype=np.int64)
        living = np.flatnonzero(alive)
        keeps = np.ones(len(living), dtype=bool)
        keeps[1:] = parent[living[1:]] != parent[living[:-1]]
        slot[living[keeps]] = parent[living[keeps]]
        forks = living[~keeps]
        src = dst = np.zeros(0, np.int64)
        if len(forks):
            children = branches.allocate(len(forks))
            slot[forks] = children
            source = parent[forks]
            for name in ("trunk", "order", "prefix_len", "high_water"):
                getattr(branches, name)[children] = getattr(branches, name)[source]
            if self._stream is not None:
                watched = tree.trunks.answer_spec[branches.trunk[source]] >= 0
                self._stream.fork(source[watched].astype(np.int32), children[watched].astype(np.int32))
            src, dst = tree.fork(source, children)
        settled = self.settle(rollouts, group, slot, tokens[head], node, state, branches.length[parent])
        tree.end_branches(np.setdiff1d(branch, parent[living]))
        tree.riding = tree.riding[tree.rollouts.branch[tree.riding] != FINISHED]
        return Forks(src, dst, np.concatenate([ended, settled]))

    # --- what a draw does to those who made it -------------------------------------------------------------------

    def stops(self, rules: np.ndarray, states: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, ...]:
        """(is EOS, a stop text appeared, automaton state after) for tokens under each one's own rules."""
        eos, stopped = np.zeros(len(tokens), dtype=bool), np.zeros(len(tokens), dtype=bool)
        after = states.copy()
        for number in np.unique(rules):
            mine = np.flatnonzero((rules == number) & (tokens >= 0))
            eos[mine] = self._rules[number].is_eos[tokens[mine]]
            after[mine], stopped[mine] = self._rules[number].advance(states[mine], tokens[mine])
        return eos, stopped & ~eos, after

    def end(
        self,
        rollouts: np.ndarray,
        group: np.ndarray,
        slots: np.ndarray,
        tokens: np.ndarray,
        logprobs: np.ndarray,
        stop_state: np.ndarray,
        parents: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Record a draw of each group's token by its rollouts; end those that EOS, a stop text or bad logits end.

        rollouts, group: who drew, and in which group. The rest has an entry a group; slots are trunks, parents the
        nodes before the token.

        Returns:
            (groups that some rollout is still on, their tokens' nodes, automaton states after the token, rollouts
            that ended).
        """
        tree = self._tree
        states = tree.rollouts
        eos, stopped, state = self.stops(tree.trunks.rules[slots], stop_state, tokens)
        good = tokens >= 0
        node = np.full(len(tokens), NO_NODE, dtype=np.int64)
        node[good] = tree.append_nodes(parents[good], tokens[good], logprobs[good], tree.trunks.job[slots[good]])
        drawn = good[group]
        states.node[rollouts[drawn]] = node[group[drawn]]
        states.length[rollouts[drawn]] += 1
        reason_of_group = np.select(
            [~good, eos, stopped], [FinishReason.ERROR, FinishReason.EOS, FinishReason.STOP], default=-1
        )
        reason = reason_of_group[group]
        ends = reason >= 0
        tree.finish_rollouts(rollouts[ends], reason[ends])
        return reason_of_group < 0, node, state, rollouts[ends]

    def settle(
        self,
        rollouts: np.ndarray,
        group: np.ndarray,
        slot: np.ndarray,
        tokens: np.ndarray,
        nodes: np.ndarray,
        state: np.ndarray,
        length: np.ndarray,
    ) -> np.ndarray:
        """Put the rollouts on their groups' branches; end those whose answer is settled or whose limit is reached.

        slot: the branch of each group, -1 for one that has ended.

        Returns:
            The rollouts that ended.
        """
        tree = self._tree
        branches, states = tree.branches, tree.rollouts
        living = np.flatnonzero(slot >= 0)
        at = slot[living]
        branches.node[at] = nodes[living]
        branches.token[at] = tokens[living]
        branches.length[at] = length[living] + 1
        branches.stop_state[at] = state[living]
        settled = np.zeros(len(slot), dtype=bool)
        if self._stream is not None and len(at):
            watched = np.flatnonzero(tree.trunks.answer_spec[branches.trunk[at]] >= 0)
            if len(watched):
                settled[living[watched]] = self._stream.feed(
                    at[watched].astype(np.int32), tokens[living[watched]].astype(np.int32)
                )
        on = slot[group] >= 0
        mine, of = rollouts[on], group[on]
        reason = np.where(
            settled[of],
            FinishReason.ANSWER,
            np.where(states.length[mine] >= states.limit[mine], FinishReason.LENGTH, -1),
        )
        ends = reason >= 0
        states.branch[mine[~ends]] = slot[of[~ends]]
        tree.finish_rollouts(mine[ends], reason[ends])
        used = np.zeros(len(slot), dtype=bool)
        used[of[~ends]] = True
        tree.end_branches(slot[living][~used[living]])
        return mine[ends]


def _limit(count: np.ndarray, max_num_seqs: int, max_num_batched_tokens: int) -> np.ndarray:
    """Rows given to each candidate, most urgent first: single rows up to max_num_seqs, longer ones from the chunk."""
    single = count == 1
    if int(single.sum()) > max_num_seqs:
        count = np.where(single & (np.cumsum(single) > max_num_seqs), 0, count)
    longer = np.where(single, 0, count)
    total = int(longer.sum())
    if total > max_num_batched_tokens:
        before = np.cumsum(longer) - longer
        count = np.where(single, count, np.clip(max_num_batched_tokens - before, 0, longer))
    return count
