"""Rounds of rollouts: uniform ones, and then one whose numbers follow from what they have measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from fastsia.config import SIAConfig
from fastsia.results.schema import AnsweredTrajectory, FinishedProblem, RoundState, matched_tokens
from fastsia.results.writer import StoreWriter
from fastsia.sia.allocation import Pilot, allocate

FEWEST = 2
"""Rollouts of each checkpoint from which a run with a budget learns their length, before it decides how many it can
afford at every checkpoint."""


class Rounds:
    """Decides on the numbers of rollouts of a run's checkpoints, for the problems that are not finished.

    A uniform round draws equally many rollouts at every checkpoint: `num_rollouts`. With `max_total_tokens` there are
    two of them: the first draws `FEWEST` at every checkpoint, the second as many as the budget allows, up to
    `num_rollouts`. The allocated round then draws more where they lower the error most. Each decision is stored before
    it is followed and depends on the draws of earlier rounds only, so a killed run resumes with the same numbers.

    Args:
        config: of the run.
        writer: of its folder.
    """

    def __init__(self, config: SIAConfig, writer: StoreWriter) -> None:
        self._config, self._writer = config, writer
        self._measured: dict[tuple[int, int], _Measured] = {}

    def counts(self, position: int, trajectory: int) -> tuple[int, ...] | None:
        """Rollouts of each checkpoint of a trajectory; None where that is not decided."""
        return self._writer.rounds.counts.get((position, trajectory))

    @property
    def uniform(self) -> int:
        """Rollouts per checkpoint after the next uniform round, those of earlier rounds included."""
        first = self._writer.rounds.first
        if first is not None:
            return first
        has_budget = self._config.max_total_tokens is not None
        return min(FEWEST, self._config.num_rollouts) if has_budget else self._config.num_rollouts

    def measure(self, finished: FinishedProblem) -> None:
        """Take what a uniform round has drawn of a problem; rollouts beyond those of the round do not count."""
        for answered in finished.trajectories:
            key = finished.position, answered.number
            self._measured[key] = _Measured(answered, finished.problem.gold, self.uniform, self._config)

    def decide(self, spent: int) -> bool:
        """Decide on the next round by the last one; whether all numbers are decided now.

        Args:
            spent: tokens of the finished problems.
        """
        measured, self._measured = dict(sorted(self._measured.items())), {}
        state, drawn = self._writer.rounds, self.uniform
        budget = self._config.max_total_tokens
        left = np.inf if budget is None else budget - spent - sum(one.length for one in measured.values())
        if budget is not None and state.first is None:
            cost_of_one_each = sum(float(np.nan_to_num(one.pilot.cost).sum()) for one in measured.values())
            first = int(np.clip(left // max(cost_of_one_each, 1.0), drawn, self._config.num_rollouts))
            self._writer.store_rounds(dataclasses.replace(state, first=first))
            if first > drawn:
                return False
        pilots = [one.pilot for one in measured.values()]
        found = allocate(pilots, drawn, target_se=self._config.target_se, tokens=left)
        counts = {key: tuple(own.tolist()) for key, own in zip(measured, found, strict=True)}
        self._writer.store_rounds(RoundState(counts={**state.counts, **counts}))
        return True

    @property
    def total_rollouts(self) -> int:
        """Rollouts of all trajectories whose numbers are decided."""
        return sum(map(sum, self._writer.rounds.counts.values()))

    def mean_left(self, positions: Sequence[int]) -> int:
        """Mean rollouts per checkpoint still to draw, taking the fewest as drawn; for the forecast only."""
        wanted = set(positions)
        every = [n for (position, _), own in self._writer.rounds.counts.items() if position in wanted for n in own]
        return round(float(np.mean(every)) - min(every)) if every else 0


class _Measured:
    """A trajectory's pilot, from the first `num_rollouts` rollouts of each checkpoint, and its number of tokens."""

    def __init__(self, answered: AnsweredTrajectory, gold: str, num_rollouts: int, config: SIAConfig) -> None:
        drawn = answered.trajectory
        self.length = len(drawn.token_ids)
        if drawn.rollouts is None:
            self.pilot = Pilot(np.zeros(0), np.zeros(0), np.zeros(0))
            return
        rollouts = drawn.rollouts
        tokens = np.diff(rollouts.offsets)
        new = tokens - matched_tokens(drawn.token_ids, rollouts.checkpoint, rollouts.offsets, rollouts.token_ids)
        answers, costs = [], []
        for checkpoint in drawn.checkpoints:
            mine = np.flatnonzero((rollouts.checkpoint == checkpoint) & (rollouts.index < num_rollouts))
            answers.append([answered.rollout_answers.chosen[row] for row in mine])
            has_room = config.rollout_budget == "new" or checkpoint < config.max_tokens
            costs.append(new[mine] if has_room else new[:0])
        self.pilot = Pilot.of(answers, gold, costs, config.target_of)
