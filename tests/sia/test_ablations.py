from __future__ import annotations

import numpy as np
import pytest

from fastsia.config import SIAConfig
from fastsia.sia import analyze_rollouts
from fastsia.sia.extras.ablations import coarse, coarser_stride, fewer_rollouts, sensitivity
from fastsia.sia.scored import Scored
from fastsia.sia.table import encode
from tests.sia.simulate import draw, frame, moving

QUICK = SIAConfig(num_bootstrap=200, num_splits=4)


def rollouts(seed: int = 0) -> object:
    rng = np.random.default_rng(seed)
    return frame(draw(moving(10, 9, rng), 20, rng), null=4, lengths=rng.integers(4, 10, 10))


def test_fewer_rollouts_are_the_first_ones() -> None:
    table = encode(rollouts())
    part = fewer_rollouts(table, 5)
    assert (part.count == 5).all()
    assert part.rollout.max() == 4


def test_coarser_stride_keeps_both_ends() -> None:
    table = encode(rollouts())
    part = coarser_stride(table, 2)
    assert (part.checkpoint[part.first] == 0).all()
    assert (part.checkpoint[part.last] == table.checkpoint[table.last]).all()
    inner = part.checkpoint % 40 == 0
    inner[part.last] = True
    assert inner.all()


def test_coarse_is_a_run_with_half_of_both() -> None:
    """Scoring the subset equals analysing a table that never had the rest: V is counted anew."""
    table = encode(rollouts())
    part = coarse(table)
    frame_part = rollouts()
    last = frame_part.groupby("problem_id")["checkpoint"].transform("max")
    frame_part = frame_part[
        (frame_part["rollout"] < 10) & ((frame_part["checkpoint"] % 40 == 0) | (frame_part["checkpoint"] == last))
    ]
    found = analyze_rollouts(frame_part, config=QUICK)
    assert part.num_answers.tolist() == found.trajectories["num_answers"].tolist()
    row = analyze_rollouts(rollouts(), config=QUICK).tables["coarse_ablation"].iloc[1]
    assert row["rho_pearson"] == pytest.approx(found.summary["rho"]["pearson"])
    assert row["rho_cross_fitted"] == pytest.approx(found.summary["rho"]["cross_fitted"])
    assert row["num_rollouts"] == 10
    assert row["stride"] == 40


def test_sensitivity_rows() -> None:
    scored = Scored.of(encode(rollouts()), QUICK)
    table = sensitivity(scored).set_index(["factor", "value"])
    assert table.loc[("as run", ""), "num_rollouts"] == 20
    assert table.loc[("rollouts", "first 5"), "num_rollouts"] == 5
    assert table.loc[("stride", "every 2nd checkpoint"), "stride"] == 40
    smaller = analyze_rollouts(rollouts(), config=SIAConfig(num_bootstrap=200, num_splits=4, smoothing=0.1)).summary
    row = table.loc[("smoothing", "alpha = 0.1")]
    assert row["rho_pearson"] == pytest.approx(smaller["rho"]["pearson"])
    assert row["rho_cross_fitted"] == pytest.approx(smaller["rho"]["cross_fitted"])
