"""Variance components against known ones, and against the variance of all rollouts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fastsia.config import SIAConfig
from fastsia.sia.analysis import analyze_rollouts
from fastsia.sia.extras.components import variance_components
from tests.sia.simulate import frame

QUICK = SIAConfig(num_bootstrap=100, num_splits=2)


def test_they_are_unbiased() -> None:
    """Three problems' means .2, .5, .8 with two trajectories .1 apart to either side: 400 sets of 6 problems."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        mean = rng.choice([0.2, 0.5, 0.8], 6)
        p = np.repeat(mean, 3) + rng.choice([-0.1, 0.1], 18)
        share = rng.binomial(5, p)[:, None] / 5
        count = np.full((18, 1), 5)
        found.append(variance_components(share, count, np.arange(0, 18, 3), np.ones((1, 6)))[0, 0])
    error = np.std(found, axis=0, ddof=1) / 20
    inner = np.mean([(m + d) * (1 - m - d) for m in (0.2, 0.5, 0.8) for d in (-0.1, 0.1)])
    np.testing.assert_array_less(np.abs(np.mean(found, axis=0) - [0.06, 0.01, inner]), 3.5 * error)


def two_trajectories(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    of_problem = rng.random((40, 1)) * 0.8
    parts = []
    for trajectory in range(2):
        decided = rng.random((40, 1)) < of_problem
        reach = np.linspace(0, 1, 5)
        p = of_problem * (1 - reach) + decided * reach
        parts.append(frame((rng.random((40, 5, 20)) >= p[:, :, None]).astype(np.int64)).assign(trajectory=trajectory))
    return pd.concat(parts, ignore_index=True)


def test_variance_passes_from_rollouts_to_trajectories() -> None:
    found = analyze_rollouts(two_trajectories(1), config=QUICK).tables["variance_components"].set_index("position")
    assert found["num_problems"].tolist() == [40] * 5
    assert found["trajectory"].is_monotonic_increasing
    assert found["rollout"].is_monotonic_decreasing
    assert found.loc[0.0, "trajectory_low"] < 0 < found.loc[0.0, "trajectory_high"]
    assert found.loc[1.0, "rollout"] == 0
    assert (found["problem_share"] + found["trajectory_share"]).iloc[-1] == pytest.approx(1)


def test_one_trajectory_each_has_no_components() -> None:
    one = two_trajectories(2)
    assert "variance_components" not in analyze_rollouts(one[one["trajectory"] == 0], config=QUICK).tables
