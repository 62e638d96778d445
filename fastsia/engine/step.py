"""The host's part of a step in numpy: which tokens to compute, their layout, what to draw, what the draws lead to.

`engine/step_cpp.py` does the same in the C++ core. This module is its reference, and runs where it is not built.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastsia.answers.stream import AnswerStream
from fastsia.engine.seeding import Domain
from fastsia.engine.sequence import UNFINISHED, FinishReason
from fastsia.engine.stopping import StopRules
from fastsia.engine.tables import NO_BRANCH, NO_NODE, TrajectoryTree
from fastsia.ops.reference import DrawSpec


@dataclass(frozen=True)
class Selection:
    """The next `counts` uncomputed tokens of each trunk and each branch, by their slots. All int arrays."""

    trunks: np.ndarray
    trunk_counts: np.ndarray
    branches: np.ndarray
    branch_counts: np.ndarray

    @property
    def num_tokens(self) -> int:
        return int(self.trunk_counts.sum() + self.branch_counts.sum())


@dataclass(frozen=True)
class Shortage:
    """The most urgent sequence, a trunk or a branch by its slot, needs more blocks than are free."""

    slot: int
    is_trunk: bool
    blocks: int


@dataclass(frozen=True)
class Batch:
    """The rows of a step, one per token, packed by trunk, as numpy arrays. The model runner makes tensors of them.

    Attributes:
        token_ids, positions, slots: int64 [n]; `slots` are those of the KV pool.
        prefix_tables, ...: the fields of `ops.reference.AttentionMetadata`; the shared prefixes are the trunks.
        trunk_last, branch_last: int64, the row of the last token of each selected trunk and branch, in order.
        hidden_rows, hidden_trunk, hidden_position: int64 [h], the rows that predict y_1, y_2, ... of a trunk, its
            slot, and the position in the trajectory (0 predicts y_1).
    """

    token_ids: np.ndarray
    positions: np.ndarray
    slots: np.ndarray
    prefix_tables: np.ndarray
    cu_rows: np.ndarray
    prefix_lens: np.ndarray
    suffix_tables: np.ndarray
    suffix_lens: np.ndarray
    max_prefix_len: int
    max_suffix_len: int
    max_rows_per_prefix: int
    trunk_last: np.ndarray
    branch_last: np.ndarray
    hidden_rows: np.ndarray
    hidden_trunk: np.ndarray
    hidden_position: np.ndarray


def batch_of_one_trunk(
    token_ids: np.ndarray,
    prefix_blocks: np.ndarray,
    block_size: int,
    prefix_lens: np.ndarray,
    suffix_lens: np.ndarray | None = None,
    suffix_tables: np.ndarray | None = None,
) -> Batch:
    """Rows over one shared prefix, of which nothing is kept or sampled.

    Args:
        token_ids: int64 [n].
        prefix_blocks: int32, the blocks of the prefix.
        prefix_lens, suffix_lens: int [n], context of each row; no suffixes where None.
        suffix_tables: int32 [n, width].
    """
    n = len(token_ids)
    none = np.zeros(0, dtype=np.int64)
    suffix_lens = np.zeros(n, dtype=np.int32) if suffix_lens is None else suffix_lens
    suffix_tables = np.zeros((n, 0), dtype=np.int32) if suffix_tables is None else suffix_tables
    in_suffix = suffix_lens > 0
    offset = np.where(in_suffix, suffix_lens, prefix_lens).astype(np.int64) - 1
    block = np.empty(n, dtype=np.int64)
    block[~in_suffix] = prefix_blocks[offset[~in_suffix] // block_size]
    block[in_suffix] = suffix_tables[in_suffix, offset[in_suffix] // block_size]
    return Batch(
        token_ids=token_ids,
        positions=prefix_lens.astype(np.int64) + suffix_lens - 1,
        slots=block * block_size + offset % block_size,
        prefix_tables=prefix_blocks[None],
        cu_rows=np.array([0, n], dtype=np.int32),
        prefix_lens=prefix_lens.astype(np.int32),
        suffix_tables=suffix_tables,
        suffix_lens=suffix_lens.astype(np.int32),
        max_prefix_len=int(prefix_lens.max()),
        max_suffix_len=int(suffix_lens.max()),
        max_rows_per_prefix=n,
        trunk_last=none,
        branch_last=none,
        hidden_rows=none,
        hidden_trunk=none,
        hidden_position=none,
    )


def build_batch(tree: TrajectoryTree, selection: Selection) -> Batch:
    """Lay the selected tokens out as rows. They must have their blocks (`TrajectoryTree.extend`)."""
    trunks, branches, size = tree.trunks, tree.branches, tree.blocks.block_size
    num_trunks = len(selection.trunks)
    owner = np.concatenate([selection.trunks, branches.trunk[selection.branches]])
    counts = np.concatenate([selection.trunk_counts, selection.branch_counts])
    begin = np.concatenate([trunks.computed[selection.trunks], branches.computed[selection.branches]])
    entity = np.concatenate([selection.trunks, selection.branches])
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(counts[order])
    row_order = np.repeat(np.arange(len(order)), counts[order])
    row = order[row_order]
    offset = begin[row] + np.arange(len(row)) - (ends - counts[order])[row_order]
    on_trunk = row < num_trunks
    of_trunk, of_branch = np.flatnonzero(on_trunk), np.flatnonzero(~on_trunk)
    trunk, branch = entity[row[of_trunk]], entity[row[of_branch]]
    trunk_offset, branch_offset = offset[of_trunk], offset[of_branch]

    n = len(row)
    token_ids = np.empty(n, dtype=np.int64)
    token_ids[of_trunk] = trunks.tokens[trunk, trunk_offset]
    token_ids[of_branch] = branches.token[branch]
    # A branch that lost its keys and values reads its path again, perhaps in chunks (even of one token).
    again = np.flatnonzero(branches.length[selection.branches] - branches.computed[selection.branches] > 1)
    if len(again):
        known = branches.length[selection.branches[again]]
        offsets, path, _ = tree.paths(branches.node[selection.branches[again]], known)
        first = np.full(len(selection.branches), -1, dtype=np.int64)
        first[again] = offsets[:-1]
        first_of_row = first[row[of_branch] - num_trunks]
        recomputed = first_of_row >= 0
        token_ids[of_branch[recomputed]] = path[first_of_row[recomputed] + branch_offset[recomputed]]

    prefix_lens = np.empty(n, dtype=np.int32)
    prefix_lens[of_trunk] = trunk_offset + 1
    prefix_lens[of_branch] = branches.prefix_len[branch]
    suffix_lens = np.zeros(n, dtype=np.int32)
    suffix_lens[of_branch] = branch_offset + 1
    max_suffix_len = int(suffix_lens.max(initial=0))
    suffix_width = -(-max_suffix_len // size)
    suffix_tables = np.zeros((n, suffix_width), dtype=np.int32)
    suffix_tables[of_branch] = branches.blocks[branch, :suffix_width]
    block = np.empty(n, dtype=np.int64)
    block[of_trunk] = trunks.blocks[trunk, trunk_offset // size]
    block[of_branch] = branches.blocks[branch, branch_offset // size]

    sorted_owner = owner[order]
    new_trunk = np.flatnonzero(np.diff(sorted_owner, prepend=-1))
    cu_rows = np.append((ends - counts[order])[new_trunk], n).astype(np.int32)
    max_prefix_len = int(prefix_lens.max(initial=0))
    last = np.empty(len(order), dtype=np.int64)
    last[order] = ends - 1
    position = trunk_offset - trunks.origin[trunk] + 1
    kept = position >= trunks.num_hidden[trunk]
    return Batch(
        token_ids=token_ids,
        positions=prefix_lens.astype(np.int64) + suffix_lens - 1,
        slots=block * size + offset % size,
        prefix_tables=trunks.blocks[sorted_owner[new_trunk], : -(-max_prefix_len // size)],
        cu_rows=cu_rows,
        prefix_lens=prefix_lens,
        suffix_tables=suffix_tables,
        suffix_lens=suffix_lens,
        max_prefix_len=max_prefix_len,
        max_suffix_len=max_suffix_len,
        max_rows_per_prefix=int(np.diff(cu_rows).max(initial=0)),
        trunk_last=last[:num_trunks],
        branch_last=last[num_trunks:],
        hidden_rows=of_trunk[kept],
        hidden_trunk=trunk[kept],
        hidden_position=position[kept],
    )


@dataclass(frozen=True)
class RowCounts:
    """Rows computed, by purpose; see `Counters`."""

    computed_tokens: int
    trajectory_tokens: int
    prefill_tokens: int
    recomputed_tokens: int


@dataclass(frozen=True)
class DrawPlan:
    """What a step draws.

    Attributes:
        trunk, branch: the generating trunks and the branches whose last token was computed: one row of logits each.
        rollout: the rollouts on the branches; theirs are the draws after the trunks'.
        hidden_row: int64 [R], the rows of the batch that the logits come from.
        spec: the draws, trunks' first, from the R rows, trunks' first.
    """

    trunk: np.ndarray
    branch: np.ndarray
    rollout: np.ndarray
    hidden_row: np.ndarray
    spec: DrawSpec[np.ndarray]


@dataclass(frozen=True)
class Forks:
    """Blocks to copy, int64 src -> dst, before the next rows are computed, and the rollouts that have ended."""

    src: np.ndarray
    dst: np.ndarray
    ended: np.ndarray


@dataclass
class Groups:
    """M rollouts that drew a token, in G groups of one path and one token each.

    Attributes:
        rollouts, group: the rollouts and their groups, [M].
        trunk, token, logprob: of each group, [G]; token -1 where the logits were bad.
        node, stop_state: of the path before the token; `Bookkeeping.record_draws` moves them past it.
        length: suffix tokens of the path before the token.
    """

    rollouts: np.ndarray
    group: np.ndarray
    trunk: np.ndarray
    token: np.ndarray
    logprob: np.ndarray
    node: np.ndarray
    stop_state: np.ndarray
    length: np.ndarray


class Bookkeeping:
    """The array work of a step: selects tokens, lays them out, and applies the draws to the tree.

    `Run` opens and ends trunks and marks those in flight, and `Verifier` verifies rollouts. A sequence ends

    - of an error, with EOS or at a stop text: a trunk in `append`, a rollout in `record_draws`;
    - at its limit: a trunk in `append`, a rollout in `move_to_branches`;
    - at its decided answer: a rollout in `move_to_branches`.

    Rollouts that end before they diverge do so in `Verifier`, and the C++ core does the same as here in `append` and
    `split` (csrc/step.cc).

    Args:
        rules: the rules that `Trunks.rules` numbers; more may be appended.
        stream: reads the rollouts of trunks with an `answer_spec`.
    """

    def __init__(self, tree: TrajectoryTree, rules: Sequence[StopRules], stream: AnswerStream | None) -> None:
        self._tree = tree
        self._rules = rules
        self._stream = stream

    # --- before the model ----------------------------------------------------------------------------------------

    def select(self, max_num_seqs: int, max_num_batched_tokens: int) -> Selection | Shortage:
        """Select the next tokens, oldest trajectories first, and allocate their blocks; empty when nothing is left.

        Sequences in flight are left out: what follows their tokens is not known yet.
        """
        trunks, branches = self._tree.trunks, self._tree.branches
        trunk = trunks.live_slots()
        trunk = trunk[
            (trunks.computed[trunk] < trunks.length[trunk])
            & ~trunks.in_flight[trunk]
            & (~trunks.verified[trunk] | (trunks.pending[trunk] > 0))
        ]
        branch = branches.live_slots()
        branch = branch[~branches.in_flight[branch]]
        owner = branches.trunk[branch]
        branch = branch[trunks.computed[owner] == trunks.length[owner]]
        count = np.concatenate(
            [trunks.length[trunk] - trunks.computed[trunk], branches.length[branch] - branches.computed[branch]]
        )
        if len(count) == 0:
            return Selection(trunk, count, branch, count)
        order = np.argsort(self._tree.urgency(trunk, branch), kind="stable")
        slots, count = (
            np.concatenate([trunk, branch])[order],
            _limit(count[order], max_num_seqs, max_num_batched_tokens),
        )
        on_trunk = order < len(trunk)
        needs = self._needs(slots, on_trunk, count)
        if int(needs[0]) > self._tree.blocks.num_free:
            return Shortage(int(slots[0]), bool(on_trunk[0]), int(needs[0]))
        chosen = (count > 0) & (np.cumsum(needs) <= self._tree.blocks.num_free)
        slots, on_trunk, count = slots[chosen], on_trunk[chosen], count[chosen]
        selection = Selection(slots[on_trunk], count[on_trunk], slots[~on_trunk], count[~on_trunk])
        self._tree.extend(trunks, selection.trunks, trunks.computed[selection.trunks] + selection.trunk_counts)
        self._tree.extend(branches, selection.branches, branches.computed[selection.branches] + selection.branch_counts)
        return selection

    def _needs(self, slots: np.ndarray, on_trunk: np.ndarray, count: np.ndarray) -> np.ndarray:
        """Return how many blocks each sequence lacks."""
        trunks, branches, size = self._tree.trunks, self._tree.branches, self._tree.blocks.block_size
        computed, held = np.empty_like(count), np.empty_like(count)
        for table, mask in ((trunks, on_trunk), (branches, ~on_trunk)):
            computed[mask], held[mask] = table.computed[slots[mask]], table.num_blocks[slots[mask]]
        return np.maximum((computed + count + size - 1) // size - held, 0)

    def batch(self, selection: Selection) -> Batch:
        """Lay the selected tokens out for the model."""
        return build_batch(self._tree, selection)

    # --- after the model -----------------------------------------------------------------------------------------

    def mark_computed(self, selection: Selection) -> RowCounts:
        """Record that the selected tokens have been computed."""
        trunks, branches = self._tree.trunks, self._tree.branches
        fresh = []
        for table, slots, counts in (
            (trunks, selection.trunks, selection.trunk_counts),
            (branches, selection.branches, selection.branch_counts),
        ):
            before = table.computed[slots]
            table.computed[slots] = after = before + counts
            fresh.append(np.maximum(after - np.maximum(before, table.high_water[slots]), 0))
            table.high_water[slots] = np.maximum(table.high_water[slots], after)
        of_trunks, of_branches = fresh
        drawn = np.maximum(trunks.computed[selection.trunks] - trunks.origin[selection.trunks], 0)
        generated = int((np.minimum(of_trunks, drawn) * ~trunks.fixed[selection.trunks]).sum())
        computed_tokens, num_fresh = int(of_branches.sum()), int(of_trunks.sum())
        return RowCounts(
            computed_tokens, generated, num_fresh - generated, selection.num_tokens - computed_tokens - num_fresh
        )

    def plan_draws(self, selection: Selection, batch: Batch) -> DrawPlan:
        """Return the draws of the step: each generating trunk's next token, and every rollout on a computed branch."""
        tree = self._tree
        trunks, branches, rollouts = tree.trunks, tree.branches, tree.rollouts
        ready = ~trunks.fixed[selection.trunks] & (trunks.computed[selection.trunks] == trunks.length[selection.trunks])
        trunk, trunk_row = selection.trunks[ready], batch.trunk_last[ready]
        ready = branches.computed[selection.branches] == branches.length[selection.branches]
        branch, branch_row = selection.branches[ready], batch.branch_last[ready]
        num_trunks = len(trunk)
        row_of_branch = np.full(branches.capacity, -1, dtype=np.int64)
        row_of_branch[branch] = np.arange(num_trunks, num_trunks + len(branch))
        rows = row_of_branch[rollouts.branch[tree.decoding]]
        rollout = tree.decoding[rows >= 0]
        owner = rollouts.trunk[rollout]
        counters = np.zeros((num_trunks + len(rollout), 4), dtype=np.int32)
        counters[:num_trunks, 0] = trunks.length[trunk] - trunks.origin[trunk]
        counters[:num_trunks, 3] = Domain.TRAJECTORY
        counters[num_trunks:, 0] = rollouts.length[rollout]
        counters[num_trunks:, 1] = rollouts.index[rollout]
        counters[num_trunks:, 2] = rollouts.checkpoint[rollout]
        counters[num_trunks:, 3] = trunks.domain[owner]
        of_row = np.concatenate([trunk, branches.trunk[branch]])
        return DrawPlan(
            trunk=trunk,
            branch=branch,
            rollout=rollout,
            hidden_row=np.concatenate([trunk_row, branch_row]),
            spec=DrawSpec(
                row=np.concatenate([np.arange(num_trunks), rows[rows >= 0]]),
                seeds=np.concatenate([trunks.seed[trunk], trunks.seed[owner]]),
                counters=counters,
                temperature=trunks.temperature[of_row],
                top_p=trunks.top_p[of_row],
                want_entropy=num_trunks > 0,
            ),
        )

    def append(
        self, trunk: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray, entropies: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Append each generating trunk's drawn token unless it is EOS. Return the trunks that end, and why."""
        trunks = self._tree.trunks
        eos, stopped, state = self.stops(trunks.rules[trunk], trunks.stop_state[trunk], tokens)
        trunks.stop_state[trunk] = state
        grows = (tokens >= 0) & ~eos
        slots, at = trunk[grows], trunks.length[trunk[grows]]
        position = at - trunks.origin[slots]
        trunks.widen("tokens", int(at.max(initial=0)) + 1)
        for name, values in (("logprobs", logprobs), ("entropies", entropies)):
            trunks.widen(name, int(position.max(initial=0)) + 1)
            getattr(trunks, name)[slots, position] = values[grows]
        trunks.tokens[slots, at] = tokens[grows]
        trunks.length[slots] += 1
        reason = np.select(
            [tokens < 0, eos, stopped, trunks.length[trunk] >= trunks.max_length[trunk]],
            [FinishReason.ERROR, FinishReason.EOS, FinishReason.STOP, FinishReason.LENGTH],
            default=UNFINISHED,
        )
        ends = reason != UNFINISHED
        return trunk[ends], reason[ends]

    def split(self, plan: DrawPlan, tokens: np.ndarray, logprobs: np.ndarray) -> Forks:
        """Every rollout has drawn: a branch goes on with the first living group of its draws and forks the others.

        Args:
            tokens, logprobs: int64 and float32 [M], of all draws; the trunks' are not read.
        """
        tree, branch = self._tree, plan.branch
        branches = tree.branches
        row = plan.spec.row[len(plan.trunk) :] - len(plan.trunk)
        tokens, logprobs = tokens[len(plan.trunk) :], logprobs[len(plan.trunk) :]
        base = int(tokens.max(initial=0)) + 2
        keys, head, group = np.unique(row * base + tokens + 1, return_index=True, return_inverse=True)
        parent = branch[keys // base]
        groups = Groups(
            rollouts=plan.rollout,
            group=group,
            trunk=branches.trunk[parent],
            token=tokens[head],
            logprob=logprobs[head],
            node=branches.node[parent],
            stop_state=branches.stop_state[parent],
            length=branches.length[parent],
        )
        alive, ended = self.record_draws(groups)
        slot = np.full(len(keys), -1, dtype=np.int64)
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
        ended_now = self.move_to_branches(groups, slot)
        tree.end_branches(np.setdiff1d(branch, parent[living]))
        tree.decoding = tree.decoding[tree.rollouts.branch[tree.decoding] != NO_BRANCH]
        return Forks(src, dst, np.concatenate([ended, ended_now]))

    # --- what a draw does to the rollouts that made it -----------------------------------------------------------

    def stops(self, rules: np.ndarray, states: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return (is EOS, a stop text appeared, automaton state after) for tokens under their own rules."""
        eos, stopped = np.zeros(len(tokens), dtype=bool), np.zeros(len(tokens), dtype=bool)
        after = states.copy()
        for number in np.unique(rules):
            mine = np.flatnonzero((rules == number) & (tokens >= 0))
            eos[mine] = self._rules[number].is_eos[tokens[mine]]
            after[mine], stopped[mine] = self._rules[number].advance(states[mine], tokens[mine])
        return eos, stopped & ~eos, after

    def record_draws(self, groups: Groups) -> tuple[np.ndarray, np.ndarray]:
        """Record the draws; end the rollouts whose draw was EOS, completed a stop text or came from bad logits.

        Returns:
            (groups that go on, bool [G]; rollouts that ended).
        """
        tree, states = self._tree, self._tree.rollouts
        rules, token = tree.trunks.rules[groups.trunk], groups.token
        eos, stopped, groups.stop_state = self.stops(rules, groups.stop_state, token)
        good = token >= 0
        node = np.full(len(token), NO_NODE, dtype=np.int64)
        owner = tree.trunks.job[groups.trunk[good]]
        node[good] = tree.append_nodes(groups.node[good], token[good], groups.logprob[good], owner)
        groups.node = node
        drawn = good[groups.group]
        states.node[groups.rollouts[drawn]] = node[groups.group[drawn]]
        states.length[groups.rollouts[drawn]] += 1
        reason_of_group = np.select(
            [~good, eos, stopped], [FinishReason.ERROR, FinishReason.EOS, FinishReason.STOP], default=UNFINISHED
        )
        reason = reason_of_group[groups.group]
        ended = groups.rollouts[reason != UNFINISHED]
        tree.finish_rollouts(ended, reason[reason != UNFINISHED])
        return reason_of_group == UNFINISHED, ended

    def move_to_branches(self, groups: Groups, slot: np.ndarray) -> np.ndarray:
        """Put the rollouts on their groups' branches; end those whose answer is decided or whose limit is reached.

        Args:
            slot: the branch of each group, -1 for one that has ended.

        Returns:
            The rollouts that ended.
        """
        tree = self._tree
        branches, states = tree.branches, tree.rollouts
        living = np.flatnonzero(slot >= 0)
        at = slot[living]
        branches.node[at] = groups.node[living]
        branches.token[at] = groups.token[living]
        branches.length[at] = groups.length[living] + 1
        branches.stop_state[at] = groups.stop_state[living]
        decided = np.zeros(len(slot), dtype=bool)
        if self._stream is not None and len(at):
            watched = np.flatnonzero(tree.trunks.answer_spec[branches.trunk[at]] >= 0)
            if len(watched):
                decided[living[watched]] = self._stream.feed(
                    at[watched].astype(np.int32), groups.token[living[watched]].astype(np.int32)
                )
        on = slot[groups.group] >= 0
        mine, of = groups.rollouts[on], groups.group[on]
        reason = np.where(
            decided[of],
            FinishReason.ANSWER,
            np.where(states.length[mine] >= states.limit[mine], FinishReason.LENGTH, UNFINISHED),
        )
        ends = reason != UNFINISHED
        states.branch[mine[~ends]] = slot[of[~ends]]
        tree.finish_rollouts(mine[ends], reason[ends])
        used = np.zeros(len(slot), dtype=bool)
        used[of[~ends]] = True
        tree.end_branches(slot[living][~used[living]])
        return mine[ends]


def _limit(count: np.ndarray, max_num_seqs: int, max_num_batched_tokens: int) -> np.ndarray:
    """Return how many tokens each candidate gets, most urgent first.

    Single tokens (decoding) count against max_num_seqs, longer ones against max_num_batched_tokens.
    """
    single = count == 1
    if int(single.sum()) > max_num_seqs:
        count = np.where(single & (np.cumsum(single) > max_num_seqs), 0, count)
    longer = np.where(single, 0, count)
    total = int(longer.sum())
    if total > max_num_batched_tokens:
        before = np.cumsum(longer) - longer
        count = np.where(single, count, np.clip(max_num_batched_tokens - before, 0, longer))
    return count
