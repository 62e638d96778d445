"""`Bookkeeping` in the C++ core (`csrc/step.cc`): each question is one pass over the tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastsia.answers.stream import AnswerStream
from fastsia.core import extension
from fastsia.engine.seeding import Domain
from fastsia.engine.step import Batch, Bookkeeping, DrawPlan, Forks, RowCounts, Selection, Shortage
from fastsia.engine.stopping import StopRules
from fastsia.engine.tables import TrajectoryTree
from fastsia.ops.reference import DrawSpec


def is_available() -> bool:
    """Whether the C++ core is built."""
    core = extension()
    return core is not None and hasattr(core, "StepTables")


class CppBookkeeping(Bookkeeping):
    """The results of `Bookkeeping`, in the same order; slots are int32."""

    def __init__(self, tree: TrajectoryTree, rules: Sequence[StopRules], stream: AnswerStream | None) -> None:
        super().__init__(tree, rules, stream)
        core: Any = extension()
        self._tables = core.StepTables(tree)
        self._stop_tables: list[tuple[np.ndarray, np.ndarray | None, int]] = []

    def select(self, max_num_seqs: int, max_num_batched_tokens: int) -> Selection | Shortage:
        found = self._tables.select(max_num_seqs, max_num_batched_tokens)
        return Shortage(**found) if "is_trunk" in found else Selection(**found)

    def batch(self, selection: Selection) -> Batch:
        return Batch(**self._tables.batch(selection))

    def mark_computed(self, selection: Selection) -> RowCounts:
        return RowCounts(**self._tables.mark_computed(selection))

    def plan_draws(self, selection: Selection, batch: Batch) -> DrawPlan:
        found, spec = self._tables.plan_draws(selection, batch.trunk_last, batch.branch_last, int(Domain.TRAJECTORY))
        return DrawPlan(**found, spec=DrawSpec(**spec))

    def append(
        self, trunk: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray, entropies: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        ends, reasons = self._tables.append(self._rules_for_core(), trunk, tokens, logprobs, entropies)
        return ends, reasons

    def split(self, plan: DrawPlan, tokens: np.ndarray, logprobs: np.ndarray) -> Forks:
        first = len(plan.trunk)
        found = self._tables.split(
            self._rules_for_core(),
            None if self._stream is None else self._stream.native,
            plan.branch,
            plan.spec.row[first:] - first,
            plan.rollout,
            tokens[first:],
            logprobs[first:],
        )
        return Forks(**found)

    def _rules_for_core(self) -> list[tuple[np.ndarray, np.ndarray | None, int]]:
        """The rules as the core reads them; rules may have been appended since the last call."""
        for rules in self._rules[len(self._stop_tables) :]:
            texts = rules.texts
            self._stop_tables.append(
                (rules.is_eos, None, 0) if texts is None else (rules.is_eos, texts.table, texts.matched)
            )
        return self._stop_tables
