"""The trajectory tree: trunks, the branches off them, the rollouts on each branch, and every token path drawn.

Bookkeeping only. A **trunk** is a trajectory's shared context (prompt and y_1..y_T). A **branch** is a live token
path off a trunk, with the KV blocks of its suffix and the rollouts that are on it. A **node** is one drawn token with
its parent, so that a path that many rollouts share is stored once.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from fastsia.engine.block_manager import BlockManager
from fastsia.engine.table import Table

NO_NODE = -1
FINISHED = -1


class Nodes(Table):
    """Drawn tokens. owner is the job they belong to; parent NO_NODE is the end of a prompt."""

    COLUMNS: ClassVar = {
        "parent": (np.int32, NO_NODE),
        "token": (np.int32, 0),
        "logprob": (np.float32, np.nan),
        "owner": (np.int32, -1),
    }
    parent: np.ndarray
    token: np.ndarray
    logprob: np.ndarray
    owner: np.ndarray


class Trunks(Table):
    """Trunks, in generation or fixed.

    order: number in order of creation, the scheduling priority. prompt_len: tokens before y_1. length: tokens known.
    computed: tokens whose keys and values are in the pool. fixed: no token will be added. passed: the trunk pass has
    been made. num_blocks: entries of `blocks` in use. pending:
    unfinished rollouts. base: the checkpoint that position 0 of this trunk stands for (a shuffled prefix is a trunk of
    its own). num_hidden: positions 0, 1, ... whose final hidden state is kept, in the rows that `hidden` lists. ride:
    rollouts may follow the trunk's own tokens. rules: which StopRules; answer_spec: which answer the streaming machine
    looks for, -1 for none.
    """

    COLUMNS: ClassVar = {
        "job": (np.int32, -1),
        "order": (np.int64, 0),
        "prompt_len": (np.int32, 0),
        "length": (np.int32, 0),
        "computed": (np.int32, 0),
        "high_water": (np.int32, 0),
        "fixed": (np.bool_, False),
        "passed": (np.bool_, False),
        "num_blocks": (np.int32, 0),
        "pending": (np.int32, 0),
        "seed": (np.int64, 0),
        "base": (np.int32, 0),
        "domain": (np.int32, 0),
        "num_hidden": (np.int32, 0),
        "ride": (np.bool_, True),
        "answer_spec": (np.int32, -1),
        "temperature": (np.float32, 1.0),
        "top_p": (np.float32, 1.0),
        "max_length": (np.int32, 0),
        "rules": (np.int32, 0),
        "stop_state": (np.int32, 0),
    }
    WIDE: ClassVar = {
        "tokens": np.int32,
        "blocks": np.int32,
        "hidden": np.int32,
        "logprobs": np.float32,
        "entropies": np.float32,
    }
    job: np.ndarray
    order: np.ndarray
    prompt_len: np.ndarray
    length: np.ndarray
    computed: np.ndarray
    high_water: np.ndarray
    fixed: np.ndarray
    passed: np.ndarray
    num_blocks: np.ndarray
    pending: np.ndarray
    seed: np.ndarray
    base: np.ndarray
    domain: np.ndarray
    num_hidden: np.ndarray
    ride: np.ndarray
    answer_spec: np.ndarray
    temperature: np.ndarray
    top_p: np.ndarray
    max_length: np.ndarray
    rules: np.ndarray
    stop_state: np.ndarray
    tokens: np.ndarray
    blocks: np.ndarray
    hidden: np.ndarray
    logprobs: np.ndarray
    entropies: np.ndarray


class Branches(Table):
    """Live paths off a trunk.

    prefix_len: trunk tokens seen. length: suffix tokens known; the last one's keys and values are not computed yet.
    computed: suffix tokens in the pool (length - 1, or 0 after a preemption). node: the last token's node.
    """

    COLUMNS: ClassVar = {
        "trunk": (np.int32, -1),
        "order": (np.int64, 0),
        "prefix_len": (np.int32, 0),
        "length": (np.int32, 0),
        "computed": (np.int32, 0),
        "high_water": (np.int32, 0),
        "node": (np.int32, NO_NODE),
        "token": (np.int32, 0),
        "num_blocks": (np.int32, 0),
        "stop_state": (np.int32, 0),
    }
    WIDE: ClassVar = {"blocks": np.int32}
    trunk: np.ndarray
    order: np.ndarray
    prefix_len: np.ndarray
    length: np.ndarray
    computed: np.ndarray
    high_water: np.ndarray
    node: np.ndarray
    token: np.ndarray
    num_blocks: np.ndarray
    stop_state: np.ndarray
    blocks: np.ndarray


class RolloutStates(Table):
    """Rollouts in flight. branch FINISHED once ended; length counts drawn tokens; reason is a FinishReason code."""

    COLUMNS: ClassVar = {
        "job": (np.int32, -1),
        "trunk": (np.int32, -1),
        "checkpoint": (np.int32, 0),
        "index": (np.int32, 0),
        "length": (np.int32, 0),
        "limit": (np.int32, 0),
        "node": (np.int32, NO_NODE),
        "branch": (np.int32, FINISHED),
        "reason": (np.int8, -1),
    }
    job: np.ndarray
    trunk: np.ndarray
    checkpoint: np.ndarray
    index: np.ndarray
    length: np.ndarray
    limit: np.ndarray
    node: np.ndarray
    branch: np.ndarray
    reason: np.ndarray


class TrajectoryTree:
    """Trunks, branches, rollouts and nodes of every trajectory in flight, over one pool of blocks."""

    def __init__(self, blocks: BlockManager) -> None:
        self.blocks = blocks
        self.nodes = Nodes(4096)
        self.trunks = Trunks(64)
        self.branches = Branches(256)
        self.rollouts = RolloutStates(1024)
        # Rollouts that are on a branch; finished ones leave at the end of each split.
        self.riding = np.zeros(0, dtype=np.int32)

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

    def extend(self, table: Trunks | Branches, rows: np.ndarray, lengths: np.ndarray) -> None:
        """Give each row the blocks that `lengths` tokens take. The scheduler has made sure that they are free."""
        size = self.blocks.block_size
        wanted = (lengths + size - 1) // size
        missing = np.maximum(wanted - table.num_blocks[rows], 0)
        total = int(missing.sum())
        if total == 0:
            return
        table.widen("blocks", int(wanted.max()))
        fresh = self.blocks.allocate(total)
        owner = np.repeat(np.arange(len(rows)), missing)
        within = np.arange(total) - np.repeat(np.cumsum(missing) - missing, missing)
        table.blocks[rows[owner], table.num_blocks[rows][owner] + within] = fresh
        table.num_blocks[rows] += missing

    def drop_blocks(self, table: Trunks | Branches, rows: np.ndarray) -> None:
        """Give the rows' blocks back; their tokens stay known and can be computed again."""
        self.blocks.release(self.listed(table, rows))
        table.num_blocks[rows] = 0
        table.computed[rows] = 0

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

    def end_branches(self, rows: np.ndarray) -> None:
        self.drop_blocks(self.branches, rows)
        self.branches.free(rows)

    def end_trunks(self, rows: np.ndarray) -> None:
        self.drop_blocks(self.trunks, rows)
        self.trunks.free(rows)

    def finish_rollouts(self, rollouts: np.ndarray, reasons: np.ndarray) -> None:
        self.rollouts.reason[rollouts] = reasons
        self.rollouts.branch[rollouts] = FINISHED
        np.subtract.at(self.trunks.pending, self.rollouts.trunk[rollouts], 1)

    def release_job(self, job: int, rollouts: np.ndarray) -> None:
        """Forget a finished job's rollouts and nodes."""
        self.rollouts.free(rollouts)
        nodes = self.nodes
        nodes.free(np.flatnonzero(nodes.live & (nodes.owner == job)))

    # --- checks ------------------------------------------------------------------------------------------------

    def listed(self, table: Trunks | Branches, rows: np.ndarray) -> np.ndarray:
        """Every entry of the rows' block tables, one after another."""
        used = table.num_blocks[rows]
        width = int(used.max(initial=0))
        return table.blocks[rows, :width][np.arange(width) < used[:, None]]

    def check_integrity(self) -> None:
        """No block leaked, freed twice or written while shared; every rollout on a live branch of its own trunk."""
        tables = (self.trunks, self.branches)
        self.blocks.check_integrity(np.concatenate([self.listed(table, table.rows()) for table in tables]))
        size = self.blocks.block_size
        for table in tables:
            rows = table.rows()
            if (table.num_blocks[rows] < (table.computed[rows] + size - 1) // size).any():
                raise AssertionError("a table lists fewer blocks than it has computed tokens")
            # The block that the next token will be written to must have one owner.
            rows = rows[(table.computed[rows] % size > 0) & (table.num_blocks[rows] > table.computed[rows] // size)]
            tail = table.blocks[rows, table.computed[rows] // size]
            if (self.blocks.references(tail) != 1).any():
                raise AssertionError("a block that will be written is shared")
        riding = self.riding
        if not self.branches.live[self.rollouts.branch[riding]].all():
            raise AssertionError("a rollout is on a branch that is not live")
        if (self.branches.trunk[self.rollouts.branch[riding]] != self.rollouts.trunk[riding]).any():
            raise AssertionError("a rollout is on another trunk's branch")
        if not np.array_equal(np.unique(self.rollouts.branch[riding]), self.branches.rows()):
            raise AssertionError("a branch is live without a rollout")
