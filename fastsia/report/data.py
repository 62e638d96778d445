"""Inputs of a report: plain records without a store or a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class AnswerView:
    """One distinct answer at a checkpoint.

    Attributes:
        answer: None: no answer.
        count: Rollouts with this answer.
        text: Text of one of them.
    """

    answer: str | None
    count: int
    text: str = ""


@dataclass(frozen=True)
class CheckpointView:
    """One checkpoint of a trajectory.

    Attributes:
        position: Tokens written.
        entropy: Plug-in H, nats.
        gold_surprisal: Nats.
        answers: Most frequent first.
        band: The 95 % credible band of H, nats; None where the run has none.
        step: Of the step that begins here: the share of answers that it changes, that share by chance, and its q-value;
            None where none begins.
    """

    position: int
    entropy: float
    gold_surprisal: float
    answers: Sequence[AnswerView] = ()
    band: tuple[float, float] | None = None
    step: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class TrajectoryView:
    """One trajectory with its texts.

    Attributes:
        tokens: Text of each token.
        token_entropies: Entropy of the model before each token, nats; None where not recorded.
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

    Attributes:
        summary: As in summary.json; only `num_problems` is required.
        trajectories: Of `sia.Analysis`.
        checkpoints: Of `sia.Analysis`.
        curves: Of `sia.Analysis`.
        tables: Of `sia.Analysis`.
        views: The trajectories with their texts, in any order; iterated once, so a generator that reads the store
        lazily
            is enough.
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


def bands_of(checkpoints: pd.DataFrame) -> list[tuple[float, float] | None]:
    """The band of H at each checkpoint of `sia.Analysis.checkpoints`; None in tables of version 0.1.0."""
    names = ["entropy_best_low", "entropy_best_high"]
    if not set(names) <= set(checkpoints):
        return [None] * len(checkpoints)
    return list(checkpoints[names].itertuples(index=False, name=None))


def steps_of(checkpoints: pd.DataFrame) -> list[tuple[float, float, float] | None]:
    """`CheckpointView.step` at each checkpoint of `sia.Analysis.checkpoints`."""
    names = ["step_total_variation", "step_by_chance", "step_q_value"]
    if not set(names) <= set(checkpoints):
        return [None] * len(checkpoints)
    rows = checkpoints[names].itertuples(index=False, name=None)
    return [None if any(map(math.isnan, row)) else row for row in rows]


def distinct_answers(
    checkpoints: np.ndarray, answers: Sequence[str | None]
) -> Iterator[tuple[int, list[tuple[str | None, int, int]]]]:
    """The distinct answers at each checkpoint of one trajectory, most frequent first.

    Args:
        checkpoints: Int [R], the checkpoint of each rollout.
        answers: [R].

    Yields:
        (checkpoint, [(answer, count, row), ...]) in order of checkpoints; row is the first rollout with the answer,
        whose text is shown.
    """
    found: dict[int, dict[str | None, list[int]]] = {}
    for row, (checkpoint, given) in enumerate(zip(checkpoints.tolist(), answers, strict=True)):
        answer = given if isinstance(given, str) else None  # a frame may hold None as NaN
        found.setdefault(checkpoint, {}).setdefault(answer, [0, row])[0] += 1
    for checkpoint in sorted(found):
        ranked = sorted(found[checkpoint].items(), key=lambda item: (-item[1][0], item[1][1]))
        yield checkpoint, [(answer, count, row) for answer, (count, row) in ranked]
