"""One trajectory of a run: its row, its checkpoints, its rollouts with their texts, and a plot."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from fastsia.errors import FastsiaError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fastsia.results.result import SIAResult


@dataclass(frozen=True)
class TrajectoryResult:
    """One trajectory.

    Attributes:
        row: Its row of `SIAResult.trajectories`.
        checkpoints: Its rows of `SIAResult.checkpoints`.
    """

    row: dict[str, Any]
    checkpoints: pd.DataFrame
    _result: SIAResult

    @classmethod
    def of(cls, result: SIAResult, problem_id: str, trajectory: int) -> TrajectoryResult:
        """As `SIAResult.trajectory`, of a problem that the run has."""
        frame = result.trajectories
        mine = frame[frame["problem_id"] == problem_id]
        one = mine[mine["trajectory"] == trajectory]
        if one.empty:
            numbers = ", ".join(map(str, sorted(mine["trajectory"])))
            raise FastsiaError(f"problem {problem_id!r} has no trajectory {trajectory}; it has {numbers}.")
        points = result.checkpoints
        rows = points[(points["problem_id"] == problem_id) & (points["trajectory"] == trajectory)]
        return cls(dict(one.iloc[0]), rows.reset_index(drop=True), result)

    def __repr__(self) -> str:
        ends = "correct" if self.row["correct"] else "incorrect"
        answer = self.row.get("answer", self.row.get("final_mode"))
        return (
            f"<TrajectoryResult: {self.row['problem_id']!r} ({self.row['trajectory']}), ends {ends}: "
            f"answer {answer}, gold {self.row['gold']}, {len(self.checkpoints)} checkpoints>"
        )

    @cached_property
    def rollouts(self) -> pd.DataFrame:
        """Its rollouts with their texts, as `SIAResult.texts`."""
        frame = self._result.texts(self.row["problem_id"])
        return frame[frame["trajectory"] == self.row["trajectory"]].reset_index(drop=True)

    def plot(self) -> Figure:
        """H and s along the trajectory, in nats, as a matplotlib figure."""
        from fastsia.report import draw_trajectory

        return draw_trajectory(self.checkpoints, title=f"{self.row['problem_id']}: gold {self.row['gold']}")
