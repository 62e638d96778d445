"""The host's part of a decode step by the C++ core: what `Bookkeeping` does, one pass over the tables a question."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastsia.answers.stream import AnswerStream
from fastsia.core import extension
from fastsia.engine.batch import Batch, Selection
from fastsia.engine.bookkeeping import Bookkeeping, Draws, Forks, RowCounts, Shortage
from fastsia.engine.seeding import Domain
from fastsia.engine.stopping import StopRules
from fastsia.engine.tree import TrajectoryTree


def available() -> bool:
    """Whether the C++ core is built."""
    core = extension()
    return core is not None and hasattr(core, "Books")


class NativeBookkeeping(Bookkeeping):
    """Its reference's results, in the same order; its row numbers are int32."""

    def __init__(self, tree: TrajectoryTree, rules: list[StopRules], stream: AnswerStream | None) -> None:
        super().__init__(tree, rules, stream)
        core: Any = extension()
        self._books = core.Books(tree)
        self._tables: list[tuple[np.ndarray, np.ndarray | None, int]] = []

    def select(self, max_num_seqs: int, max_num_batched_tokens: int) -> Selection | Shortage:
        found = self._books.select(max_num_seqs, max_num_batched_tokens)
        return Selection(*found) if len(found) == 4 else Shortage(*found)

    def batch(self, selection: Selection) -> Batch:
        return Batch(*self._books.batch(*_rows(selection)))

    def mark_computed(self, selection: Selection) -> RowCounts:
        return RowCounts(*self._books.mark_computed(*_rows(selection)))

    def draws(self, selection: Selection, batch: Batch) -> Draws:
        last = batch.trunk_last, batch.branch_last
        return Draws(*self._books.draws(*_rows(selection), *last, int(Domain.TRAJECTORY)))

    def append(
        self, trunk: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray, entropies: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        ends, reasons = self._books.append(self._stop_tables(), trunk, tokens, logprobs, entropies)
        return ends, reasons

    def split(self, draws: Draws, tokens: np.ndarray, logprobs: np.ndarray) -> Forks:
        first = len(draws.trunk)
        found = self._books.split(
            self._stop_tables(),
            None if self._stream is None else self._stream.native,
            draws.branch,
            draws.row[first:] - first,
            draws.rollout,
            tokens[first:],
            logprobs[first:],
        )
        return Forks(*found)

    def _stop_tables(self) -> list[tuple[np.ndarray, np.ndarray | None, int]]:
        """The rules as the core reads them; some may have come since it was last asked."""
        for rules in self._rules[len(self._tables) :]:
            texts = rules.texts
            self._tables.append(
                (rules.is_eos, None, 0) if texts is None else (rules.is_eos, texts.table, texts.matched)
            )
        return self._tables


def _rows(selection: Selection) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return selection.trunks, selection.trunk_counts, selection.branches, selection.branch_counts
