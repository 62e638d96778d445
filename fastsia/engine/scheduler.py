"""Which rows a step computes: oldest trajectories first, within the row limit and the blocks that are free."""

from __future__ import annotations

import numpy as np

from fastsia.engine.batch import Selection
from fastsia.engine.block_manager import OutOfBlocksError
from fastsia.engine.bookkeeping import Bookkeeping, Shortage
from fastsia.engine.tree import Branches, TrajectoryTree, Trunks


class Scheduler:
    """Selects rows and makes room for them.

    max_num_seqs: decode rows a step. max_num_batched_tokens: rows a step for prompts, given tokens, and what a
    preemption lost.
    """

    def __init__(
        self, tree: TrajectoryTree, bookkeeping: Bookkeeping, max_num_seqs: int, max_num_batched_tokens: int
    ) -> None:
        self._tree = tree
        self._bookkeeping = bookkeeping
        self._max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens
        self.preemptions = 0

    def halve(self, num_rows: int) -> bool:
        """Select half as many rows of each kind from now on, where `num_rows` were too many; False at one of each."""
        before = self._max_num_seqs, self._max_num_batched_tokens
        self._max_num_seqs = max(1, min(self._max_num_seqs, num_rows) // 2)
        self._max_num_batched_tokens = max(1, min(self._max_num_batched_tokens, num_rows) // 2)
        return before != (self._max_num_seqs, self._max_num_batched_tokens)

    def select(self) -> Selection:
        """The next step's rows, their blocks given. Empty only when nothing is left to compute.

        The oldest candidate always runs: where its blocks are not free, the youngest holders lose theirs.
        """
        while True:
            found = self._bookkeeping.select(self._max_num_seqs, self._max_num_batched_tokens)
            if isinstance(found, Selection):
                return found
            self._preempt(found)

    def _preempt(self, short: Shortage) -> None:
        """Take blocks from the youngest holders until enough are free; never from the given row or its trunk."""
        tree = self._tree
        row, wanted = short.row, short.blocks
        trunks, branches = tree.trunks, tree.branches
        own_trunk = row if short.is_trunk else int(branches.trunk[row])
        trunk = trunks.rows()
        trunk = trunk[(trunks.num_blocks[trunk] > 0) & (trunk != own_trunk)]
        branch = branches.rows()
        branch = branch[branches.num_blocks[branch] > 0]
        if not short.is_trunk:
            branch = branch[branch != row]
        age = np.concatenate([4 * trunks.order[trunk], 4 * trunks.order[branches.trunk[branch]] + 1])
        victims: list[tuple[Trunks | Branches, int]] = [(trunks, int(r)) for r in trunk]
        victims += [(branches, int(r)) for r in branch]
        for i in np.argsort(-age, kind="stable"):
            if tree.blocks.num_free >= wanted:
                break
            table, victim = victims[i]
            tree.drop_blocks(table, np.array([victim]))
            self.preemptions += 1
        if tree.blocks.num_free < wanted:
            raise OutOfBlocksError(
                f"{wanted} KV blocks wanted, {tree.blocks.num_free} can be freed; admission let too much in"
            )
