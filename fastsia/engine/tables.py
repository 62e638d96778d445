"""The tables of a run and the tree that they form: trunks, branches, unfinished rollouts and drawn tokens.

Bookkeeping only, no tensor. A **trunk** is the context that rollouts share: a prompt and y_1..y_T, unless prefixes are
shuffled. A **branch** is a live token path off a trunk, with the KV blocks of its suffix and the rollouts on it. A
**node** is one drawn token with its parent, so a path that many rollouts share is stored once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import DTypeLike

from fastsia.engine.block_manager import BlockManager
from fastsia.engine.sequence import UNFINISHED

NO_NODE = -1
NO_BRANCH = -1
HIDDEN_DROPPED = np.iinfo(np.int32).max
"""`Trunks.num_hidden` once the kept states have been dropped: no position is at or above it, so none is kept again."""


@dataclass(frozen=True)
class Column:
    """The declaration of one column of a `Table`."""

    dtype: np.dtype
    fresh: Any
    is_wide: bool


def column(dtype: DTypeLike, fresh: Any = 0) -> np.ndarray:
    """Declare a column [capacity] of a `Table`; a newly allocated slot has the value `fresh`."""
    return cast(np.ndarray, Column(np.dtype(dtype), fresh, False))


def wide_column(dtype: DTypeLike) -> np.ndarray:
    """Declare a column [capacity, width] of a `Table`; its width grows on demand and its slots are not cleared."""
    return cast(np.ndarray, Column(np.dtype(dtype), 0, True))


class Table:
    """Columns of equal length whose slots are allocated and freed: the engine's records, without a loop per record.

    A subclass declares its columns as class attributes (`column`, `wide_column`); an instance has an array for each.
    The C++ core (`csrc/step_bindings.cc`) reads columns, `live`, `free_list` and `num_free` by name and checks dtypes.

    Attributes:
        columns: every declared column by name.
        capacity: number of slots.
        live: bool [capacity], the slots in use.
        free_list: int32 [capacity]; the first `num_free` entries are the free slots, the next one to allocate last.
        num_moves: how often the columns became new arrays.
    """

    columns: ClassVar[dict[str, Column]] = {}

    def __init_subclass__(cls) -> None:
        cls.columns = {name: value for name, value in vars(cls).items() if isinstance(value, Column)}

    def __init__(self, capacity: int = 64) -> None:
        self.capacity = capacity
        self.num_moves = 0
        self.live = np.zeros(capacity, dtype=bool)
        self.free_list = np.arange(capacity - 1, -1, -1, dtype=np.int32)
        self.num_free = capacity
        for name, declared in self.columns.items():
            shape = (capacity, 8) if declared.is_wide else capacity
            setattr(self, name, np.full(shape, declared.fresh, dtype=declared.dtype))

    def __len__(self) -> int:
        return self.capacity - self.num_free

    def reserve(self, count: int) -> None:
        """Make sure that `count` slots are free."""
        while count > self.num_free:
            self._grow()

    def allocate(self, count: int) -> np.ndarray:
        """Return `count` fresh slots, int32 [count]."""
        self.reserve(count)
        slots = self.free_list[self.num_free - count : self.num_free][::-1].copy()
        self.num_free -= count
        self.live[slots] = True
        for name, declared in self.columns.items():
            if not declared.is_wide:
                getattr(self, name)[slots] = declared.fresh
        return slots

    def free(self, slots: np.ndarray) -> None:
        if not self.live[slots].all():
            raise AssertionError(f"{type(self).__name__}: a slot was freed twice")
        self.live[slots] = False
        self.free_list[self.num_free : self.num_free + len(slots)] = slots
        self.num_free += len(slots)

    def widen(self, name: str, width: int) -> None:
        """Make a wide column at least `width` wide."""
        values = getattr(self, name)
        if width > values.shape[1]:
            wider = np.zeros((self.capacity, max(width, 2 * values.shape[1])), dtype=values.dtype)
            wider[:, : values.shape[1]] = values
            setattr(self, name, wider)
            self.num_moves += 1

    def live_slots(self) -> np.ndarray:
        """Return the live slots, ascending."""
        return np.flatnonzero(self.live)

    def _grow(self) -> None:
        old, self.capacity = self.capacity, 2 * self.capacity
        self.num_moves += 1
        for name in ("live", *self.columns):
            values = getattr(self, name)
            larger = np.zeros((self.capacity, *values.shape[1:]), dtype=values.dtype)
            larger[:old] = values
            setattr(self, name, larger)
        free_list = np.empty(self.capacity, dtype=np.int32)
        free_list[: self.num_free + old] = np.concatenate(
            [np.arange(self.capacity - 1, old - 1, -1, dtype=np.int32), self.free_list[: self.num_free]]
        )
        self.free_list, self.num_free = free_list, self.num_free + old


class Nodes(Table):
    """Drawn tokens.

    Attributes:
        parent: node of the token before, NO_NODE at the end of a prompt.
        logprob: nats, under the sampling distribution.
        owner: the job that the token belongs to.
    """

    parent = column(np.int32, NO_NODE)
    token = column(np.int32)
    logprob = column(np.float32, np.nan)
    owner = column(np.int32, -1)


class Trunks(Table):
    """Trunks, being generated or fixed.

    There are two kinds. A trajectory's own trunk is its prompt and y_1..y_T, and all of its rollouts are off it. With
    shuffled prefixes each checkpoint t has instead a trunk without any y, the prompt and y_1..y_t permuted, and the
    trajectory's own has no rollouts.

    Attributes:
        job: number of the active request.
        order: number in order of creation, the scheduling priority.
        origin: tokens before position 0, so that `tokens[origin:length]` are y_1, y_2, ...: those of the prompt, and in
            the trunk of a shuffled prefix also the permuted ones.
        length: known tokens.
        max_length: the length at which generation ends.
        computed: tokens whose keys and values are in the pool.
        high_water: the largest `computed` so far; tokens below it count as recomputed.
        in_flight: a step that computes its tokens has been launched and its draws have not been read (see `Run.step`).
        fixed: no token will be added.
        verified: its rollouts have been verified against its tokens (see `Verifier`).
        num_blocks: entries of `blocks` in use.
        pending: unfinished rollouts.
        first_checkpoint: the checkpoint that is position 0: 0, but t in the trunk of the shuffled prefix of t.
        domain: the `Domain` of its rollouts' draws.
        num_hidden: positions 0, 1, ... whose final hidden state is kept, in the slots that `hidden` lists, or
            HIDDEN_DROPPED.
        may_match: rollouts may share the trunk's own tokens, not only its prompt and prefix.
        answer_spec: which answer the answer stream looks for, -1 for none.
        rules: which StopRules; stop_state: the state of their automaton.
        logprobs, entropies: nats, of y_1, y_2, ...
    """

    job = column(np.int32, -1)
    order = column(np.int64)
    origin = column(np.int32)
    length = column(np.int32)
    max_length = column(np.int32)
    computed = column(np.int32)
    high_water = column(np.int32)
    in_flight = column(np.bool_)
    fixed = column(np.bool_)
    verified = column(np.bool_)
    num_blocks = column(np.int32)
    pending = column(np.int32)
    seed = column(np.int64)
    first_checkpoint = column(np.int32)
    domain = column(np.int32)
    num_hidden = column(np.int32)
    may_match = column(np.bool_, True)
    answer_spec = column(np.int32, -1)
    temperature = column(np.float32, 1)
    top_p = column(np.float32, 1)
    rules = column(np.int32)
    stop_state = column(np.int32)
    tokens = wide_column(np.int32)
    blocks = wide_column(np.int32)
    hidden = wide_column(np.int32)
    logprobs = wide_column(np.float32)
    entropies = wide_column(np.float32)


class Branches(Table):
    """Live paths off a trunk.

    Attributes:
        trunk, order: the trunk's slot and its order.
        prefix_len: trunk tokens seen.
        length: known suffix tokens; the keys and values of the last one are not computed yet.
        computed: suffix tokens in the pool (length - 1, or 0 after a preemption).
        high_water: the largest `computed` so far; tokens below it count as recomputed.
        in_flight: see `Trunks`.
        node, token: the last token.
        num_blocks: entries of `blocks` in use.
        stop_state: the state of the stop-text automaton after the last token.
    """

    trunk = column(np.int32, -1)
    order = column(np.int64)
    prefix_len = column(np.int32)
    length = column(np.int32)
    computed = column(np.int32)
    high_water = column(np.int32)
    in_flight = column(np.bool_)
    node = column(np.int32, NO_NODE)
    token = column(np.int32)
    num_blocks = column(np.int32)
    stop_state = column(np.int32)
    blocks = wide_column(np.int32)


class RolloutStates(Table):
    """Rollouts of the active requests.

    Attributes:
        checkpoint, index: which checkpoint of the trajectory, and which of its rollouts.
        length, limit: drawn tokens, and how many may be drawn.
        node: the last drawn token.
        branch: the branch that it is on; NO_BRANCH before it has diverged, and again once it has ended.
        reason: a `FinishReason` code once it has ended, UNFINISHED before.
        num_replayed, replayed_at: tokens that an earlier run drew, and where they begin in `Job.replayed`.
        num_taken: tokens that `Run.take_drawn` has returned; is_end_taken: whether it has returned the reason.
    """

    job = column(np.int32, -1)
    trunk = column(np.int32, -1)
    checkpoint = column(np.int32)
    index = column(np.int32)
    length = column(np.int32)
    limit = column(np.int32)
    node = column(np.int32, NO_NODE)
    branch = column(np.int32, NO_BRANCH)
    reason = column(np.int8, UNFINISHED)
    num_replayed = column(np.int32)
    replayed_at = column(np.int64)
    num_taken = column(np.int32)
    is_end_taken = column(np.bool_)


class TrajectoryTree:
    """Trunks, branches, rollouts and nodes of every active request, over one pool of blocks."""

    def __init__(self, blocks: BlockManager) -> None:
        self.blocks = blocks
        self.nodes = Nodes(4096)
        self.trunks = Trunks(64)
        self.branches = Branches(256)
        self.rollouts = RolloutStates(1024)
        # Rollouts on a branch; finished ones are removed at the end of each split.
        self.decoding = np.zeros(0, dtype=np.int32)

    def urgency(self, trunks: np.ndarray, branches: np.ndarray) -> np.ndarray:
        """int64: a number for each of some trunks and then of some branches, lower for what is to be computed first.

        Trajectories come in their order, and within one its trunk, then branches with blocks, so that these end and
        free them, then branches without.
        """
        of_branch = self.trunks.order[self.branches.trunk[branches]]
        without = self.branches.num_blocks[branches] == 0
        return np.concatenate([3 * self.trunks.order[trunks], 3 * of_branch + 1 + without])

    # --- nodes -------------------------------------------------------------------------------------------------

    def append_nodes(self, parents: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray, owners: Any) -> np.ndarray:
        ids = self.nodes.allocate(len(parents))
        self.nodes.parent[ids] = parents
        self.nodes.token[ids] = tokens
        self.nodes.logprob[ids] = logprobs
        self.nodes.owner[ids] = owners
        return ids

    def append_chain(self, tokens: np.ndarray, logprobs: np.ndarray, owner: int) -> np.ndarray:
        """A path of its own from the end of the prompt, e.g. a trunk's y_1..y_T."""
        ids = self.append_nodes(np.full(len(tokens), NO_NODE, dtype=np.int32), tokens, logprobs, owner)
        self.nodes.parent[ids[1:]] = ids[:-1]
        return ids

    def paths(self, nodes: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The last `lengths` tokens of the paths that end at `nodes`: (offsets int64 [n+1], tokens, logprobs)."""
        offsets = np.zeros(len(nodes) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        tokens = np.empty(offsets[-1], dtype=np.int32)
        logprobs = np.empty(offsets[-1], dtype=np.float32)
        # Longest first, so that the paths still being walked are always a prefix of the arrays.
        by_length = np.argsort(-lengths, kind="stable")
        here, at = nodes[by_length].copy(), offsets[1:][by_length] - 1
        left = lengths[by_length]
        for step in range(int(left[0]) if len(left) else 0):
            walking = int(np.searchsorted(-left, -step))
            here, at = here[:walking], at[:walking]
            tokens[at] = self.nodes.token[here]
            logprobs[at] = self.nodes.logprob[here]
            here = self.nodes.parent[here]
            at = at - 1
        return offsets, tokens, logprobs

    # --- KV ----------------------------------------------------------------------------------------------------

    def extend(self, table: Trunks | Branches, slots: np.ndarray, lengths: np.ndarray) -> None:
        """Give each row the blocks that `lengths` tokens take. The scheduler has made sure that they are free."""
        size = self.blocks.block_size
        wanted = (lengths + size - 1) // size
        missing = np.maximum(wanted - table.num_blocks[slots], 0)
        total = int(missing.sum())
        if total == 0:
            return
        table.widen("blocks", int(wanted.max()))
        fresh = self.blocks.allocate(total)
        owner = np.repeat(np.arange(len(slots)), missing)
        within = np.arange(total) - np.repeat(np.cumsum(missing) - missing, missing)
        table.blocks[slots[owner], table.num_blocks[slots][owner] + within] = fresh
        table.num_blocks[slots] += missing

    def drop_blocks(self, table: Trunks | Branches, slots: np.ndarray) -> None:
        """Give the slots' blocks back; their tokens stay known and can be computed again."""
        self.blocks.release(self.listed(table, slots))
        table.num_blocks[slots] = 0
        table.computed[slots] = 0

    def share_prefix(self, parent: int, child: int, num_tokens: int) -> None:
        """Let trunk `child` start from the full blocks of trunk `parent`'s first `num_tokens` tokens."""
        trunks = self.trunks
        full = min(num_tokens, int(trunks.computed[parent])) // self.blocks.block_size
        trunks.widen("blocks", full)
        trunks.blocks[child, :full] = trunks.blocks[parent, :full]
        self.blocks.retain(trunks.blocks[child, :full])
        trunks.num_blocks[child] = full
        trunks.computed[child] = trunks.high_water[child] = full * self.blocks.block_size

    def fork(self, parents: np.ndarray, children: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Let each child branch have its parent's computed suffix: full blocks shared, the partial last one copied.

        Children for whose copy no block is free start without KV and compute their suffix again.

        Returns:
            (src, dst) block ids to copy, int64.
        """
        branches, size = self.branches, self.blocks.block_size
        computed = branches.computed[parents]
        full = computed // size
        partial = computed % size > 0
        short = int(partial.sum()) - self.blocks.num_free
        if short > 0:
            last = np.flatnonzero(partial)[-short:]
            full[last], partial[last], computed[last] = 0, False, 0
        num_blocks = full + partial
        if num_blocks.max(initial=0) == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        columns = np.arange(full.max(initial=0))
        keep = columns < full[:, None]
        shared = branches.blocks[parents, : len(columns)]
        branches.blocks[children, : len(columns)] = shared
        self.blocks.retain(shared[keep])
        src = branches.blocks[parents[partial], full[partial]]
        dst = self.blocks.allocate(int(partial.sum()))
        branches.blocks[children[partial], full[partial]] = dst
        branches.num_blocks[children] = num_blocks
        branches.computed[children] = computed
        return src.astype(np.int64), dst.astype(np.int64)

    # --- ends --------------------------------------------------------------------------------------------------

    def end_branches(self, slots: np.ndarray) -> None:
        self.drop_blocks(self.branches, slots)
        self.branches.free(slots)

    def end_trunks(self, slots: np.ndarray) -> None:
        self.drop_blocks(self.trunks, slots)
        self.trunks.free(slots)

    def finish_rollouts(self, rollouts: np.ndarray, reasons: np.ndarray) -> None:
        self.rollouts.reason[rollouts] = reasons
        self.rollouts.branch[rollouts] = NO_BRANCH
        np.subtract.at(self.trunks.pending, self.rollouts.trunk[rollouts], 1)

    def release_job(self, job: int, rollouts: np.ndarray) -> None:
        """Forget a finished job's rollouts and nodes."""
        self.rollouts.free(rollouts)
        nodes = self.nodes
        nodes.free(np.flatnonzero(nodes.live & (nodes.owner == job)))

    # --- checks ------------------------------------------------------------------------------------------------

    def listed(self, table: Trunks | Branches, slots: np.ndarray) -> np.ndarray:
        """The entries of the slots' block tables, concatenated."""
        used = table.num_blocks[slots]
        width = int(used.max(initial=0))
        return table.blocks[slots, :width][np.arange(width) < used[:, None]]

    def check_integrity(self) -> None:
        """No block leaked, freed twice or written while shared; every rollout on a live branch of its own trunk."""
        tables = (self.trunks, self.branches)
        self.blocks.check_integrity(np.concatenate([self.listed(table, table.live_slots()) for table in tables]))
        size = self.blocks.block_size
        for table in tables:
            slots = table.live_slots()
            if (table.num_blocks[slots] < (table.computed[slots] + size - 1) // size).any():
                raise AssertionError("a table lists fewer blocks than it has computed tokens")
            # The block that the next token will be written to must have one owner.
            slots = slots[
                (table.computed[slots] % size > 0) & (table.num_blocks[slots] > table.computed[slots] // size)
            ]
            tail = table.blocks[slots, table.computed[slots] // size]
            if (self.blocks.references(tail) != 1).any():
                raise AssertionError("a block that will be written is shared")
        decoding = self.decoding
        if not self.branches.live[self.rollouts.branch[decoding]].all():
            raise AssertionError("a rollout is on a branch that is not live")
        if (self.branches.trunk[self.rollouts.branch[decoding]] != self.rollouts.trunk[decoding]).any():
            raise AssertionError("a rollout is on another trunk's branch")
        if not np.array_equal(np.unique(self.rollouts.branch[decoding]), self.branches.live_slots()):
            raise AssertionError("a branch is live without a rollout")
