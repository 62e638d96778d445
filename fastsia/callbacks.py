"""What a run tells to whoever watches it, and one watcher: an experiment tracker."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastsia.errors import FastsiaError

if TYPE_CHECKING:
    from fastsia.results import SIAResult
    from fastsia.store import FinishedProblem

TRACKERS = ("trackio", "wandb")


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    done: problems finished, `resumed` of them by an earlier run. generated_tokens, computed_tokens: of this run's
    rollouts
    so far. seconds: since this run's first request.
    """

    done: int
    total: int
    resumed: int
    generated_tokens: int
    computed_tokens: int
    seconds: float


class Callback:
    """A watcher of `evaluate(..., callbacks=[...])`; override what is wanted.

    All calls come from the thread that runs `evaluate`. What one raises ends the run; finished problems are kept. A
    problem is told of when the next one is drawn, or at the end; of those stored while a run is interrupted nobody is
    told, and the next run counts them as resumed.
    """

    def run_started(self, run: Mapping[str, Any], progress: Progress) -> None:
        """Before anything is drawn. run: model, task, backend and config, as the results folder will know it."""

    def problem_finished(self, problem: FinishedProblem, progress: Progress) -> None:
        """A problem is stored. Its trajectories, their rollouts and all answers are in `problem`."""

    def run_finished(self, result: SIAResult) -> None:
        """Everything is drawn, scored and, with an output folder, written."""


class Tracker(Callback):
    """Follows a run in an experiment tracker: its config, its progress, and the numbers of its summary.

    Args:
        name: "trackio" or "wandb"; they share `init`, `log` and `finish`.
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
        except Exception as error:  # no login, settings it does not know, no server: each with a class of its own
            reason = (" ".join(str(error).split()) or type(error).__name__)[:300].rstrip(".")
            raise FastsiaError(f"{self._tracker.__name__} could not be started: {reason}.") from error

    def problem_finished(self, problem: FinishedProblem, progress: Progress) -> None:
        self._trajectories += len(problem.trajectories)
        self._correct += sum(scored.correct for scored in problem.trajectories)
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
    from fastsia.store import flatten  # brings pandas, which the command line does not wait for

    return flatten(values)
