"""Selection of a step's tokens: oldest trajectories first, within the token limits and the free blocks."""

from __future__ import annotations

import numpy as np

from fastsia.engine.block_manager import OutOfBlocksError
from fastsia.engine.step import Bookkeeping, Selection, Shortage
from fastsia.engine.tables import Branches, TrajectoryTree, Trunks


class Scheduler:
    """Selects the tokens of each step and makes room for them.

    Args:
        max_num_seqs: sequences per step that decode one token.
        max_num_batched_tokens: prefill tokens per step: prompts, given trajectories, recomputed ones.
    """

    def __init__(
        self, tree: TrajectoryTree, bookkeeping: Bookkeeping, max_num_seqs: int, max_num_batched_tokens: int
    ) -> None:
        self._tree = tree
        self._bookkeeping = bookkeeping
        self._max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens
        self.preemptions = 0

    def halve(self, num_tokens: int) -> bool:
        """Select at most half as many tokens of each kind from now on; return False where both limits are 1 already.

        Args:
            num_tokens: the size of a step that did not fit into memory.
        """
        before = self._max_num_seqs, self._max_num_batched_tokens
        self._max_num_seqs = max(1, min(self._max_num_seqs, num_tokens) // 2)
        self._max_num_batched_tokens = max(1, min(self._max_num_batched_tokens, num_tokens) // 2)
        return before != (self._max_num_seqs, self._max_num_batched_tokens)

    @property
    def fills_two(self) -> bool:
        """Whether there are sequences for two full steps."""
        return len(self._tree.branches) >= 2 * self._max_num_seqs

    def select(self, *, is_second: bool = False) -> Selection:
        """Select the next step's tokens and allocate their blocks; empty only when nothing is left to compute.

        The oldest candidate always runs: if too few blocks are free for it, the youngest sequences are preempted.

        Args:
            is_second: another step is in flight. Then no sequence is preempted, and the selection is empty where the
                oldest candidate lacks blocks: it may be younger than a sequence in flight, and the two would preempt
                each other in turn.
        """
        while True:
            found = self._bookkeeping.select(self._max_num_seqs, self._max_num_batched_tokens)
            if isinstance(found, Selection):
                return found
            if is_second:
                none = np.zeros(0, dtype=np.int32)
                return Selection(none, none, none, none)
            self._preempt(found)

    def _preempt(self, short: Shortage) -> None:
        """Preempt the youngest sequences until enough blocks are free; never the one that needs them, or its trunk."""
        tree = self._tree
        trunks, branches = tree.trunks, tree.branches
        own_trunk = short.slot if short.is_trunk else int(branches.trunk[short.slot])
        trunk, branch = trunks.live_slots(), branches.live_slots()
        trunk = trunk[(trunks.num_blocks[trunk] > 0) & (trunk != own_trunk)]
        branch = branch[(branches.num_blocks[branch] > 0) & (short.is_trunk | (branch != short.slot))]
        victims: list[tuple[Trunks | Branches, int]] = [(trunks, int(slot)) for slot in trunk]
        victims += [(branches, int(slot)) for slot in branch]
        for i in np.argsort(-tree.urgency(trunk, branch), kind="stable"):
            if tree.blocks.num_free >= short.blocks:
                break
            table, victim = victims[i]
            tree.drop_blocks(table, np.array([victim]))
            self.preemptions += 1
        if tree.blocks.num_free < short.blocks:
            raise OutOfBlocksError(
                f"{short.blocks} KV blocks needed, {tree.blocks.num_free} can be freed: too many requests were admitted"
            )
