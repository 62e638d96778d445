"""Which rows a step computes: oldest trajectories first, within the row limit and the blocks that are free."""

from __future__ import annotations

import numpy as np

from fastsia.engine.batch import Selection
from fastsia.engine.block_manager import OutOfBlocksError
from fastsia.engine.tree import Branches, TrajectoryTree, Trunks


class Scheduler:
    """Selects rows and makes room for them.

    max_rows: decode rows a step. prefill_chunk: rows a step for prompts, given tokens, and what a preemption lost.
    """

    def __init__(self, tree: TrajectoryTree, max_rows: int, prefill_chunk: int) -> None:
        self._tree = tree
        self._max_rows = max_rows
        self._prefill_chunk = prefill_chunk
        self.preemptions = 0

    def halve(self, num_rows: int) -> bool:
        """Select half as many rows of each kind from now on, where `num_rows` were too many; False at one of each."""
        before = self._max_rows, self._prefill_chunk
        self._max_rows = max(1, min(self._max_rows, num_rows) // 2)
        self._prefill_chunk = max(1, min(self._prefill_chunk, num_rows) // 2)
        return before != (self._max_rows, self._prefill_chunk)

    def select(self) -> Selection:
        """The next step's rows, their blocks given. Empty only when nothing is left to compute.

        The oldest candidate always runs: where its blocks are not free, the youngest holders lose theirs.
        """
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
        rows, count = np.concatenate([trunk, branch])[order], self._limit_rows(count[order])
        on_trunk = order < len(trunk)
        needs = self._needs(rows, on_trunk, count)
        if int(needs[0]) > self._tree.blocks.num_free:
            self._preempt(int(needs[0]), int(rows[0]), bool(on_trunk[0]))
            return self.select()
        chosen = (count > 0) & (np.cumsum(needs) <= self._tree.blocks.num_free)
        rows, on_trunk, count = rows[chosen], on_trunk[chosen], count[chosen]
        selection = Selection(rows[on_trunk], count[on_trunk], rows[~on_trunk], count[~on_trunk])
        self._tree.extend(trunks, selection.trunks, trunks.computed[selection.trunks] + selection.trunk_counts)
        self._tree.extend(branches, selection.branches, branches.computed[selection.branches] + selection.branch_counts)
        return selection

    def _limit_rows(self, count: np.ndarray) -> np.ndarray:
        """Rows given to each candidate, most urgent first: single rows up to max_rows, longer ones from the chunk."""
        single = count == 1
        if int(single.sum()) > self._max_rows:
            count = np.where(single & (np.cumsum(single) > self._max_rows), 0, count)
        longer = np.where(single, 0, count)
        total = int(longer.sum())
        if total > self._prefill_chunk:
            before = np.cumsum(longer) - longer
            count = np.where(single, count, np.clip(self._prefill_chunk - before, 0, longer))
        return count

    def _needs(self, rows: np.ndarray, on_trunk: np.ndarray, count: np.ndarray) -> np.ndarray:
        trunks, branches, size = self._tree.trunks, self._tree.branches, self._tree.blocks.block_size
        computed, held = np.empty_like(count), np.empty_like(count)
        for table, mask in ((trunks, on_trunk), (branches, ~on_trunk)):
            computed[mask], held[mask] = table.computed[rows[mask]], table.num_blocks[rows[mask]]
        return np.maximum((computed + count + size - 1) // size - held, 0)

    def _preempt(self, wanted: int, row: int, is_trunk: bool) -> None:
        """Take blocks from the youngest holders until `wanted` are free; never from the given row or its trunk."""
        tree = self._tree
        trunks, branches = tree.trunks, tree.branches
        own_trunk = row if is_trunk else int(branches.trunk[row])
        trunk = trunks.rows()
        trunk = trunk[(trunks.num_blocks[trunk] > 0) & (trunk != own_trunk)]
        branch = branches.rows()
        branch = branch[branches.num_blocks[branch] > 0]
        if not is_trunk:
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
