"""Counts references to KV blocks. It owns no tensor: a block is a number."""

from __future__ import annotations

import numpy as np


class OutOfBlocksError(RuntimeError):
    """More blocks were asked for than are free; the scheduler makes room before it lets this happen."""


class BlockManager:
    """A bounded pool of blocks with reference counts.

    A block's owners are the tables that list it. Whoever holds the only reference may write it; a shared block is
    read-only, so a fork retains the full blocks and copies the partial last one.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.peak_used = 0
        self._references = np.zeros(num_blocks, dtype=np.int32)
        # A stack: the block freed last is handed out first, so few pages of the pool are ever touched.
        self._free = np.arange(num_blocks - 1, -1, -1, dtype=np.int32)
        self._num_free = num_blocks

    @property
    def num_free(self) -> int:
        return self._num_free

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def allocate(self, count: int) -> np.ndarray:
        """`count` blocks with one reference each, int32 [count]."""
        if count > self._num_free:
            raise OutOfBlocksError(f"{count} KV blocks wanted, {self._num_free} of {self.num_blocks} free")
        blocks = self._free[self._num_free - count : self._num_free][::-1].copy()
        self._num_free -= count
        self._references[blocks] = 1
        self.peak_used = max(self.peak_used, self.num_blocks - self._num_free)
        return blocks

    def retain(self, blocks: np.ndarray) -> None:
        """One more reference for each entry of `blocks` (a block may be listed several times)."""
        np.add.at(self._references, blocks, 1)

    def release(self, blocks: np.ndarray) -> None:
        """One reference less for each entry; blocks without any go back to the pool."""
        if len(blocks) == 0:
            return
        np.subtract.at(self._references, blocks, 1)
        left = self._references[blocks]
        if left.min() < 0:
            raise AssertionError("a KV block was released more often than retained")
        freed = np.unique(blocks[left == 0])
        self._free[self._num_free : self._num_free + len(freed)] = freed
        self._num_free += len(freed)

    def references(self, blocks: np.ndarray) -> np.ndarray:
        return self._references[blocks]

    def check_integrity(self, listed: np.ndarray) -> None:
        """`listed`: every entry of every live table. Each must be counted once, and free blocks not at all."""
        counted = np.bincount(listed, minlength=self.num_blocks)
        if not np.array_equal(counted, self._references):
            wrong = np.flatnonzero(counted != self._references)[:5]
            raise AssertionError(
                f"KV blocks {wrong.tolist()}: counted {self._references[wrong]}, listed {counted[wrong]}"
            )
        free = self._free[: self._num_free]
        if len(np.unique(free)) != self._num_free or self._references[free].any():
            raise AssertionError("the free list holds a block twice or one in use")
        if self._num_free + np.count_nonzero(self._references) != self.num_blocks:
            raise AssertionError("a KV block is neither free nor in use")
