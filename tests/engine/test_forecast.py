"""The forecast of a run against a simulated one, whose clock and lengths are known."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from fastsia.engine.forecast import ActiveRequests, Lengths, RunForecast, Speed, Survival

STRIDE, NUM_ROLLOUTS, LIMIT = 20, 10, 200


@dataclass
class Simulated:
    """Trajectories in order, each with its rollouts after it; a step draws a token of each of the oldest sequences."""

    num_problems: int
    mean: float
    in_flight: int = 16
    rows: int = 128
    fixed: float = 0.1
    per_row: float = 0.004
    clock: float = 0.0
    forecast: RunForecast = field(default_factory=RunForecast)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        self.begun = 0
        self.alive: list[list[float]] = []  # problem, start, drawn, length, whether it ends by itself
        spread = rng.gamma(9.0, self.mean / 9.0, size=self.num_problems)
        self.lengths = np.clip(spread, 5, LIMIT).astype(int)
        self.rng = rng

    def admit(self) -> None:
        while len({one[0] for one in self.alive}) < self.in_flight and self.begun < self.num_problems:
            length = int(self.lengths[self.begun])
            self.alive.append([self.begun, -1, 0, length, length < LIMIT])
            self.begun += 1

    def step(self) -> None:
        self.admit()
        self.alive.sort(key=lambda one: one[0])
        drawing, others = self.alive[: self.rows], self.alive[self.rows :]
        seconds = self.fixed + self.per_row * len(drawing)
        self.clock += seconds
        self.forecast.speed.add(len(drawing), seconds)
        kept: list[list[float]] = []
        for one in drawing:
            one[2] += 1
            if one[2] < one[3]:
                kept.append(one)
            elif one[1] < 0:
                self.forecast.trajectories.add(np.zeros(1, int), np.array([int(one[3])]), np.array([bool(one[4])]))
                for t in [*range(0, int(one[3]), STRIDE), int(one[3])]:
                    for _ in range(NUM_ROLLOUTS):
                        totals = self.rng.gamma(9.0, self.mean / 9.0, size=200)
                        total = next(iter(totals[totals > t + 1]), t + 1)
                        length = int(np.clip(total - t, 1, LIMIT))
                        kept.append([one[0], t, 0, length, length < LIMIT])
            else:
                start, length = np.array([int(one[1])]), np.array([int(one[3])])
                self.forecast.rollouts.add(start, length, np.array([bool(one[4])]))
                self.forecast.num_verified += 1
        self.alive = kept + others

    def seconds_left(self) -> float:
        rollouts = [one for one in self.alive if one[1] >= 0]
        now = ActiveRequests(
            stride=STRIDE,
            num_rollouts=NUM_ROLLOUTS,
            max_tokens=LIMIT,
            writing=np.array([int(one[2]) for one in self.alive if one[1] < 0], dtype=np.int64),
            checkpoint=np.array([int(one[1]) for one in rollouts], dtype=np.int64),
            length=np.array([int(one[2]) for one in rollouts], dtype=np.int64),
            limit=np.full(len(rollouts), LIMIT),
            num_lost=0,
        )
        found = self.forecast.remaining(
            now,
            self.num_problems - self.begun,
            prompt_rows=0.0,
            matched_tokens=0,
            rows_per_token=1.0,
            max_num_seqs=self.rows,
        )
        assert found.seconds is not None
        return found.seconds


@pytest.mark.parametrize(("num_problems", "mean"), [(60, 60.0), (60, 150.0), (25, 100.0)])
def test_after_the_first_minute_the_forecast_is_right_within_30_percent(num_problems: int, mean: float) -> None:
    run = Simulated(num_problems, mean)
    forecasts: list[tuple[float, float]] = []
    while True:
        run.step()
        if not run.alive and run.begun == num_problems:
            break
        if run.clock >= 60 + 30 * len(forecasts):
            forecasts.append((run.clock, run.seconds_left()))
    assert run.clock > 300
    for clock, left in forecasts:
        if run.clock - clock > 30:  # the last steps are few and short
            assert left == pytest.approx(run.clock - clock, rel=0.3), f"at {clock:.0f} of {run.clock:.0f} s"


def test_the_hazard_counts_those_that_have_not_ended() -> None:
    """Ten of a hundred have ended, all early: the mean of those is no forecast of the others."""
    lengths = Lengths()
    lengths.add(np.zeros(10, int), np.full(10, 10), np.ones(10, bool))
    going = np.zeros(90, int), np.full(90, 100)
    hazard = lengths.hazard(200, going)
    assert hazard[:16].mean() > 3 * hazard[20:100].mean()
    survival = Survival(hazard)
    left = survival.remaining(np.array([100, 0, 100]), np.array([100, 200, 0]))
    assert left[0] > 30
    assert left[1] > left[0]
    assert left[2] == 0


def test_a_step_has_a_fixed_part_and_a_part_per_row() -> None:
    speed = Speed()
    assert speed.seconds(10, 1) is None
    for rows in (10, 40, 20, 80):
        speed.add(rows, 0.5 + 0.01 * rows)
    assert speed.seconds(1000, 10) == pytest.approx(5.0 + 10.0)
    same = Speed()
    for _ in range(3):
        same.add(50, 2.0)
    assert same.seconds(100, 1) == pytest.approx(4.0), "steps of one size do not tell the parts apart"
