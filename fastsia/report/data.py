"""What a report is drawn from: plain records, filled by whoever holds the results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class AnswerView:
    """One distinct answer at a checkpoint: how many rollouts gave it (None: no answer) and the text of one of them."""

    answer: str | None
    count: int
    text: str = ""


@dataclass(frozen=True)
class CheckpointView:
    """One checkpoint of a trajectory to look at. entropy and gold_surprisal in nats."""

    position: int
    entropy: float
    gold_surprisal: float
    answers: Sequence[AnswerView] = ()


@dataclass(frozen=True)
class TrajectoryView:
    """One trajectory to read.

    tokens: each token's text; token_entropies: of the model before each token, nats (None where not recorded).
    """

    problem_id: str
    trajectory: int
    question: str
    gold: str
    answer: str | None
    correct: bool
    prompt: str = ""
    tokens: Sequence[str] = ()
    token_entropies: Sequence[float] | None = None
    finish_reason: str = ""
    checkpoints: Sequence[CheckpointView] = ()


@dataclass(frozen=True)
class ReportData:
    """One run.

    summary: as in summary.json; model and task name the run where there, everything else but `num_problems` may lack.
    trajectories, checkpoints, curves, tables: of `sia.Analysis`.
    views: the trajectories to read, in any order; iterated once, so a generator that reads the store lazily will do.
    """

    summary: Mapping[str, Any]
    trajectories: pd.DataFrame
    checkpoints: pd.DataFrame
    curves: pd.DataFrame
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    views: Iterable[TrajectoryView] = ()

    @property
    def title(self) -> str:
        """Model and task."""
        names = [str(self.summary[key]) for key in ("model", "task") if self.summary.get(key)]
        return " · ".join(names) or "table of rollouts"


def distinct_answers(
    checkpoints: np.ndarray, answers: Sequence[str | None]
) -> Iterator[tuple[int, list[tuple[str | None, int, int]]]]:
    """Which rollouts of one trajectory to show: for each checkpoint in order, its answers, most frequent first.

    checkpoints: int [R], each rollout's; answers: [R]. Yields (checkpoint, [(answer, count, row), ...]) where row is
    the first rollout that gave the answer: the one whose text is worth decoding.
    """
    found: dict[int, dict[str | None, list[int]]] = {}
    for row, (checkpoint, given) in enumerate(zip(checkpoints.tolist(), answers, strict=True)):
        answer = given if isinstance(given, str) else None  # a frame may hold None as NaN
        found.setdefault(checkpoint, {}).setdefault(answer, [0, row])[0] += 1
    for checkpoint in sorted(found):
        ranked = sorted(found[checkpoint].items(), key=lambda item: (-item[1][0], item[1][1]))
        yield checkpoint, [(answer, count, row) for answer, (count, row) in ranked]
