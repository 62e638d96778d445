"""Rounds of rollouts: how many each checkpoint gets, decided by earlier rounds and stored with the run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastsia.config import SIAConfig
from fastsia.results.schema import FinishedProblem, ScoredTrajectory, matched_tokens
from fastsia.results.writer import StoreWriter
from fastsia.sia.allocation import Pilot, place

PROBE = 2
"""Rollouts of each checkpoint that a run with a budget draws before it decides on the number of the first round."""


class Rounds:
    """Decides on the numbers of rollouts of a run's checkpoints, for the problems that are not finished.

    A run with `max_total_tokens` draws `PROBE` rollouts everywhere, then as many as the budget allows for everywhere,
    `num_rollouts` at most, then what is left where it helps most. One with `target_se` alone begins with the second.
    Each decision is stored before it is followed and depends on the draws of the rounds before only, so that a run
    that is killed goes on with the same numbers.

    Args:
        config: of the run.
        writer: of its folder.
    """

    def __init__(self, config: SIAConfig, writer: StoreWriter) -> None:
        self._config, self._writer = config, writer
        self._measured: dict[tuple[int, int], _Measured] = {}

    def counts(self, position: int, number: int) -> tuple[int, ...] | None:
        """Rollouts of each checkpoint of a trajectory; None where that is not decided."""
        found = self._writer.rounds.get(f"{position},{number}")
        return None if found is None else tuple(found)

    @property
    def uniform(self) -> int:
        """Rollouts of every checkpoint that the next round of the undecided problems completes."""
        first: int | None = self._writer.rounds.get("first")
        if first is not None:
            return first
        has_budget = self._config.max_total_tokens is not None
        return min(PROBE, self._config.num_rollouts) if has_budget else self._config.num_rollouts

    def measure(self, finished: FinishedProblem) -> None:
        """Take what a uniform round has drawn of a problem; rollouts beyond those of the round do not count."""
        for scored in finished.trajectories:
            key = finished.position, scored.number
            self._measured[key] = _Measured(scored, finished.problem.gold, self.uniform, self._config)

    def decide(self, spent: int) -> bool:
        """Decide on the next round by the last one; whether all numbers are decided now.

        Args:
            spent: tokens of the finished problems.
        """
        measured, self._measured = dict(sorted(self._measured.items())), {}
        stored, number = dict(self._writer.rounds), self.uniform
        budget = self._config.max_total_tokens
        left = np.inf if budget is None else budget - spent - sum(one.length for one in measured.values())
        if budget is not None and "first" not in stored:
            each = sum(float(np.nan_to_num(one.pilot.cost).sum()) for one in measured.values())
            first = int(np.clip(left // max(each, 1.0), number, self._config.num_rollouts))
            stored["first"] = first
            self._writer.store_rounds(stored)
            if first > number:
                return False
        stored.pop("first", None)
        pilots = [one.pilot for one in measured.values()]
        numbers = place(pilots, number, target_se=self._config.target_se, tokens=left)
        stored |= {f"{p},{n}": own.tolist() for (p, n), own in zip(measured, numbers, strict=True)}
        self._writer.store_rounds(stored)
        return True

    @property
    def num_rollouts(self) -> int:
        """Rollouts of all problems that are decided on."""
        return sum(sum(own) for key, own in self._writer.rounds.items() if key != "first")

    def mean_left(self, positions: Sequence[int]) -> int:
        """Rollouts per checkpoint that some problems get beyond the fewest, on average."""
        wanted = {str(position) for position in positions}
        every = [n for key, own in self._writer.rounds.items() if key.partition(",")[0] in wanted for n in own]
        return round(float(np.mean(every)) - min(every)) if every else 0


class _Measured:
    """A trajectory's pilot and its number of tokens."""

    def __init__(self, scored: ScoredTrajectory, gold: str, number: int, config: SIAConfig) -> None:
        drawn = scored.trajectory
        self.length = len(drawn.token_ids)
        if drawn.rollouts is None:
            self.pilot = Pilot(np.zeros(0), np.zeros(0), np.zeros(0))
            return
        rollouts = drawn.rollouts
        tokens = np.diff(rollouts.offsets)
        new = tokens - matched_tokens(drawn.token_ids, rollouts.checkpoint, rollouts.offsets, rollouts.token_ids)
        answers, costs = [], []
        for checkpoint in drawn.checkpoints:
            mine = np.flatnonzero((rollouts.checkpoint == checkpoint) & (rollouts.index < number))
            answers.append([scored.rollout_answers[0][row] for row in mine])
            has_room = config.rollout_budget == "new" or checkpoint < config.max_tokens
            costs.append(new[mine] if has_room else new[:0])
        self.pilot = Pilot.of(answers, gold, costs, config.target_of)
