"""Inputs of a report: plain records without a store or a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from fastsia.sia.extras.steps import LEVEL, choose_steps

MOST_STEPS = 200
"""Decisive steps that a page lists."""


@dataclass(frozen=True)
class RolloutView:
    """The text of one rollout.

    Attributes:
        text: What it wrote after the prefix.
        place: Where its answer was read, [begin, end) in UTF-16 units of `text`; negative in the prefix. None: unknown.
        rule: Why it was read there, a key of `TrajectoryView.rules`; None: unknown.
        finish_reason: As in the run's database.
    """

    text: str
    place: tuple[int, int] | None = None
    rule: str | None = None
    finish_reason: str = ""


@dataclass(frozen=True)
class AnswerView:
    """One distinct answer at a checkpoint.

    Attributes:
        answer: None: no answer.
        count: Rollouts with this answer.
        rollouts: Those with a text.
    """

    answer: str | None
    count: int
    rollouts: Sequence[RolloutView] = ()


Step = tuple[float, float, float]
"""The share of answers that a step changes, that share by chance, and its q-value."""


@dataclass(frozen=True)
class CheckpointView:
    """One checkpoint of a trajectory.

    Attributes:
        position: Tokens written.
        entropy: Plug-in H, nats.
        gold_surprisal: Nats.
        answers: Most frequent first.
        best: The best estimate of H and its 95 % credible band (value, low, high), nats; None where the run has none.
        step: The step that begins here; None where none begins.
        sentences: The sentences that this step is a part of, [begin, end) in UTF-16 units of the trajectory's text.
    """

    position: int
    entropy: float
    gold_surprisal: float
    answers: Sequence[AnswerView] = ()
    best: tuple[float, float, float] | None = None
    step: Step | None = None
    sentences: tuple[int, int] | None = None


@dataclass(frozen=True)
class AlternativeView:
    """A token that rollouts were drawn after, at a position of a trajectory.

    Attributes:
        text: The token.
        probability: Of the token there.
        is_own: Whether the trajectory has it.
        q_value: Of the test that the answers after it are those after the own token; None for the own token.
        answers: The answers after it (None: no answer) and how many rollouts gave them, most frequent first.
    """

    text: str
    probability: float
    is_own: bool
    q_value: float | None
    answers: Sequence[tuple[str | None, int]]


@dataclass(frozen=True)
class TrajectoryView:
    """One trajectory with its texts.

    Attributes:
        tokens: Text of each token.
        token_entropies: Entropy of the model before each token, nats; None where not recorded.
        place: The tokens in which the answer was read, [begin, end); None: unknown.
        rule: Why it was read there, a key of `rules`; None: unknown.
        rules: Why an answer was read, in words, by a short name.
        alternatives: By position, the tokens that rollouts were drawn after, the trajectory's own first.
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
    place: tuple[int, int] | None = None
    rule: str | None = None
    rules: Mapping[str, str] = field(default_factory=dict)
    alternatives: Mapping[int, Sequence[AlternativeView]] = field(default_factory=dict)


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
            lazily is enough.
        step_texts: By problem id, trajectory and checkpoint, what a decisive step says: what its sentences say before
            it, its own text, and what they say after it. May be empty.
    """

    summary: Mapping[str, Any]
    trajectories: pd.DataFrame
    checkpoints: pd.DataFrame
    curves: pd.DataFrame
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    views: Iterable[TrajectoryView] = ()
    step_texts: Mapping[tuple[str, int, int], tuple[str, str, str]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Model and task."""
        return title_of(self.summary)


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2] if name.startswith(("/", ".", "~")) else name


def title_of(summary: Mapping[str, Any]) -> str:
    """Model and task of a run; of a path only its last part."""
    names = [str(summary[key]) for key in ("model", "task") if summary.get(key)]
    short = [" + ".join(map(_last_part, name.split(" + "))) for name in names]  # a model and its adapter
    return " · ".join(short) or "table of rollouts"


def best_of(checkpoints: pd.DataFrame) -> list[tuple[float, float, float] | None]:
    """`CheckpointView.best` at each checkpoint of `sia.Analysis.checkpoints`; None in tables of version 0.1.0."""
    names = ["entropy_best", "entropy_best_low", "entropy_best_high"]
    if not set(names) <= set(checkpoints):
        return [None] * len(checkpoints)
    return list(checkpoints[names].itertuples(index=False, name=None))


def steps_of(checkpoints: pd.DataFrame) -> list[Step | None]:
    """`CheckpointView.step` at each checkpoint of `sia.Analysis.checkpoints`."""
    names = ["step_total_variation", "step_by_chance", "step_q_value"]
    if not set(names) <= set(checkpoints):
        return [None] * len(checkpoints)
    rows = checkpoints[names].itertuples(index=False, name=None)
    return [None if any(map(math.isnan, row)) else row for row in rows]


def largest_step(steps: Sequence[Step | None]) -> int | None:
    """The place of a trajectory's largest decisive step, by the answers that it changes above chance; of its largest
    step where none is decisive. None where it has no step."""
    found = [(step[2] <= LEVEL, step[0] - step[1], -place) for place, step in enumerate(steps) if step is not None]
    return -max(found)[2] if found else None


def step_link(place: int, end: int) -> str:
    """The end of an address that opens a trajectory, by its row in `ReportData.trajectories`, where a step ends."""
    return f"#t{place}-{end}"


def decisive_steps(checkpoints: pd.DataFrame) -> pd.DataFrame:
    """Up to `MOST_STEPS` decisive steps of a run, the surest first: rows of `sia.extras.steps.choose_steps`."""
    chosen = choose_steps(checkpoints, MOST_STEPS)
    return chosen[chosen["step_q_value"] <= LEVEL] if len(chosen) else chosen


def distinct_answers(
    checkpoints: np.ndarray, answers: Sequence[str | None]
) -> Iterator[tuple[int, list[tuple[str | None, int, int]]]]:
    """As `answer_rows`, with the number of the rows and the first of them."""
    for checkpoint, ranked in answer_rows(checkpoints, answers):
        yield checkpoint, [(answer, len(rows), rows[0]) for answer, rows in ranked]


def answer_rows(
    checkpoints: np.ndarray, answers: Sequence[str | None]
) -> Iterator[tuple[int, list[tuple[str | None, list[int]]]]]:
    """The distinct answers at each checkpoint of one trajectory, most frequent first.

    Args:
        checkpoints: Int [R], the checkpoint of each rollout.
        answers: [R].

    Yields:
        (checkpoint, [(answer, rows), ...]) in order of checkpoints; rows are those of the rollouts with the answer.
    """
    found: dict[int, dict[str | None, list[int]]] = {}
    for row, (checkpoint, given) in enumerate(zip(checkpoints.tolist(), answers, strict=True)):
        answer = given if isinstance(given, str) else None  # a frame may hold None as NaN
        found.setdefault(checkpoint, {}).setdefault(answer, []).append(row)
    for checkpoint in sorted(found):
        yield checkpoint, sorted(found[checkpoint].items(), key=lambda item: (-len(item[1]), item[1][0]))
