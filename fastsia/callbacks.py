"""Callbacks of a run, and one for experiment trackers."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastsia.errors import FastsiaError, one_line

if TYPE_CHECKING:
    from fastsia.results import SIAResult
    from fastsia.results.schema import FinishedProblem

TRACKERS = ("trackio", "wandb")


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes:
        done: finished problems.
        total: problems of the run.
        resumed: problems that an earlier run finished; part of `done`.
        generated_tokens: tokens drawn for rollouts since this run started.
        computed_tokens: tokens that the model computed for them.
        seconds: time since the first request of this run.
        rollouts: rollouts that have ended, those of unfinished problems and of earlier runs included.
        expected_rollouts: the forecast of their number at the end; None where it is not known.
        seconds_left: the forecast of the time left for drawing; None where it is not known.
        trajectory_tokens: tokens that the model computed for trajectories since this run started.
        round: "uniform round, " or "allocated round, ", which the forecasts are of; empty where there are no rounds.
    """

    done: int
    total: int
    resumed: int
    generated_tokens: int
    computed_tokens: int
    seconds: float
    rollouts: int = 0
    expected_rollouts: float | None = None
    seconds_left: float | None = None
    trajectory_tokens: int = 0
    round: str = ""


class Callback:
    """Receives the events of `evaluate(..., callbacks=[...])`. Override the methods that you need.

    All calls come from the thread that runs `evaluate`. An exception ends the run; what was drawn is kept. A
    finished problem is reported when the next one is drawn, or at the end. Problems stored while a run is interrupted
    are not reported; the next run counts them as resumed.
    """

    def run_started(self, run: Mapping[str, Any], progress: Progress) -> None:
        """Called before anything is drawn. `run` has the keys model, task, backend and config."""

    def problem_finished(self, problem: FinishedProblem, progress: Progress) -> None:
        """Called after a problem is stored, with its trajectories, rollouts and answers."""

    def progressed(self, progress: Progress) -> None:
        """Called between two steps of fastsia's own engine, about once a second."""

    def run_finished(self, result: SIAResult) -> None:
        """Called after everything is drawn, scored and, with an output folder, written."""


class Tracker(Callback):
    """Sends a run to an experiment tracker: its config, its progress, and the numbers of its summary.

    Args:
        name: "trackio" or "wandb", which share `init`, `log` and `finish`.
        project: the tracker's project.
        options: further arguments of the tracker's `init`, such as name= or, for wandb, mode="offline".
    """

    def __init__(self, name: str, /, project: str = "fastsia", **options: Any) -> None:
        if name not in TRACKERS:
            raise FastsiaError(f"the tracker must be one of {', '.join(TRACKERS)}, got {name!r}.")
        try:
            self._tracker: Any = importlib.import_module(name)
        except ImportError as error:
            raise FastsiaError(f"the package {name} is not installed: pip install 'fastsia[{name}]'.") from error
        self._options = {"project": project, **options}
        self._correct = self._trajectories = 0

    def run_started(self, run: Mapping[str, Any], progress: Progress) -> None:
        self._correct = self._trajectories = 0
        try:
            self._tracker.init(**{"config": _flat(run)} | self._options)
        except Exception as error:  # not logged in, unknown setting, no server: each has its own class
            reason = (one_line(error) or type(error).__name__)[:300].rstrip(".")
            raise FastsiaError(f"{self._tracker.__name__} could not be started: {reason}.") from error

    def problem_finished(self, problem: FinishedProblem, progress: Progress) -> None:
        self._trajectories += len(problem.trajectories)
        self._correct += sum(answered.correct for answered in problem.trajectories)
        self._tracker.log(
            {
                "progress/problems": progress.done,
                "progress/generated_tokens": progress.generated_tokens,
                "progress/row_steps": progress.computed_tokens,
                "progress/seconds": progress.seconds,
                "progress/accuracy": self._correct / self._trajectories,
            }
        )

    def run_finished(self, result: SIAResult) -> None:
        numbers = {
            f"summary/{name.replace('.', '/')}": value
            for name, value in _flat(result.summary).items()
            if isinstance(value, (int, float)) and not name.startswith(("config.", "machine."))
        }
        self._tracker.log(numbers)
        self._tracker.finish()


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    from fastsia.files import flatten  # imports pandas, which the command line does not wait for

    return flatten(values)
