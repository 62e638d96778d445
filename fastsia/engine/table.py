"""Columns of equal length whose rows are handed out and taken back: the engine's records, without a loop a row."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np


class Table:
    """Subclasses name their columns in `COLUMNS`: name -> (dtype, value of a fresh row); each is an attribute.

    A row's number stays its own until it is freed. `WIDE` columns are two-dimensional and grow in width on demand.
    `num_moves` counts how often columns became other arrays.
    """

    COLUMNS: ClassVar[dict[str, tuple[Any, Any]]] = {}
    WIDE: ClassVar[dict[str, Any]] = {}

    def __init__(self, capacity: int = 64) -> None:
        self.capacity = capacity
        self.num_moves = 0
        self.live = np.zeros(capacity, dtype=bool)
        for name, (dtype, fresh) in self.COLUMNS.items():
            setattr(self, name, np.full(capacity, fresh, dtype=dtype))
        for name, dtype in self.WIDE.items():
            setattr(self, name, np.zeros((capacity, 8), dtype=dtype))
        self._free = np.arange(capacity - 1, -1, -1, dtype=np.int32)
        self._num_free = capacity

    def __len__(self) -> int:
        return self.capacity - self._num_free

    def reserve(self, count: int) -> None:
        """Make sure that `count` rows are free."""
        while count > self._num_free:
            self._grow()

    def allocate(self, count: int) -> np.ndarray:
        """`count` fresh rows, int32 [count]."""
        self.reserve(count)
        rows = self._free[self._num_free - count : self._num_free][::-1].copy()
        self._num_free -= count
        self.live[rows] = True
        for name, (_, fresh) in self.COLUMNS.items():
            getattr(self, name)[rows] = fresh
        return rows

    def free(self, rows: np.ndarray) -> None:
        if not self.live[rows].all():
            raise AssertionError(f"{type(self).__name__}: a row was freed twice")
        self.live[rows] = False
        self._free[self._num_free : self._num_free + len(rows)] = rows
        self._num_free += len(rows)

    def widen(self, name: str, width: int) -> None:
        """Make the two-dimensional column at least `width` wide."""
        column = getattr(self, name)
        if width > column.shape[1]:
            wider = np.zeros((self.capacity, max(width, 2 * column.shape[1])), dtype=column.dtype)
            wider[:, : column.shape[1]] = column
            setattr(self, name, wider)
            self.num_moves += 1

    def rows(self) -> np.ndarray:
        """The live rows, ascending."""
        return np.flatnonzero(self.live)

    def _grow(self) -> None:
        old, self.capacity = self.capacity, 2 * self.capacity
        self.num_moves += 1
        for name in ("live", *self.COLUMNS, *self.WIDE):
            column = getattr(self, name)
            larger = np.zeros((self.capacity, *column.shape[1:]), dtype=column.dtype)
            larger[:old] = column
            setattr(self, name, larger)
        free = np.empty(self.capacity, dtype=np.int32)
        free[: self._num_free + old] = np.concatenate(
            [np.arange(self.capacity - 1, old - 1, -1, dtype=np.int32), self._free[: self._num_free]]
        )
        self._free, self._num_free = free, self._num_free + old
