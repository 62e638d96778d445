"""Reference counts of KV blocks. No tensor is owned here: a block is a number."""

from __future__ import annotations

import numpy as np


class OutOfBlocksError(RuntimeError):
    """More blocks were requested than are free; the scheduler makes room before this can happen."""


class BlockManager:
    """A bounded pool of blocks with reference counts.

    A block is owned by the block tables that list it. A block with one owner may be written; a shared block is
    read-only, so a fork shares the full blocks and copies the partial last one. The C++ core reads and writes the
    attributes below by name.

    Attributes:
        reference_counts: int32 [num_blocks].
        free_list: int32 [num_blocks]; the first `num_free` entries are the free blocks, the next one to allocate last.
        peak_used: the most blocks in use so far.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.peak_used = 0
        self.reference_counts = np.zeros(num_blocks, dtype=np.int32)
        # The block freed last is allocated first, so that few pages of the pool are ever touched.
        self.free_list = np.arange(num_blocks - 1, -1, -1, dtype=np.int32)
        self.num_free = num_blocks

    def blocks_for(self, num_tokens: int) -> int:
        """Return the number of blocks for `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def allocate(self, count: int) -> np.ndarray:
        """Return `count` blocks with one reference each, int32 [count]."""
        if count > self.num_free:
            raise OutOfBlocksError(f"{count} KV blocks needed, {self.num_free} of {self.num_blocks} free")
        blocks = self.free_list[self.num_free - count : self.num_free][::-1].copy()
        self.num_free -= count
        self.reference_counts[blocks] = 1
        self.peak_used = max(self.peak_used, self.num_blocks - self.num_free)
        return blocks

    def retain(self, blocks: np.ndarray) -> None:
        """Add one reference for each entry of `blocks`; a block may occur several times."""
        np.add.at(self.reference_counts, blocks, 1)

    def release(self, blocks: np.ndarray) -> None:
        """Remove one reference for each entry; blocks without references become free."""
        if len(blocks) == 0:
            return
        np.subtract.at(self.reference_counts, blocks, 1)
        left = self.reference_counts[blocks]
        if left.min() < 0:
            raise AssertionError("a KV block was released more often than retained")
        freed = np.unique(blocks[left == 0])
        self.free_list[self.num_free : self.num_free + len(freed)] = freed
        self.num_free += len(freed)

    def references(self, blocks: np.ndarray) -> np.ndarray:
        return self.reference_counts[blocks]

    def check_integrity(self, listed: np.ndarray) -> None:
        """Raise AssertionError unless reference counts and free list agree with the block tables.

        Args:
            listed: every entry of every live block table.
        """
        counted = np.bincount(listed, minlength=self.num_blocks)
        if not np.array_equal(counted, self.reference_counts):
            wrong = np.flatnonzero(counted != self.reference_counts)[:5]
            raise AssertionError(
                f"KV blocks {wrong.tolist()}: counted {self.reference_counts[wrong]}, listed {counted[wrong]}"
            )
        free = self.free_list[: self.num_free]
        if len(np.unique(free)) != self.num_free or self.reference_counts[free].any():
            raise AssertionError("the free list contains a block twice or one in use")
        if self.num_free + np.count_nonzero(self.reference_counts) != self.num_blocks:
            raise AssertionError("a KV block is neither free nor in use")
