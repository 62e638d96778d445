"""Calibration and the change of AUC on tables where the confidence is known to be right, or wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fastsia.config import SIAConfig
from fastsia.sia.analysis import analyze_rollouts
from fastsia.sia.curves import GRID
from tests.sia.simulate import draw, frame, moving

QUICK = SIAConfig(num_bootstrap=200, num_splits=2)
NUM_ROLLOUTS = 40


def votes(shares: np.ndarray, right: np.ndarray, num_rollouts: int = NUM_ROLLOUTS) -> pd.DataFrame:
    """One trajectory a problem whose winner has exactly that share at each of three checkpoints, and is gold or not."""
    win = np.round(shares * num_rollouts).astype(int)
    answers = np.where(np.arange(num_rollouts) < win[:, None], 1, 2)
    answers = np.where((answers == 1) & right[:, None], 0, answers)
    return frame(np.repeat(answers[:, None], 3, axis=1))


def test_a_calibrated_vote_has_the_error_of_chance_and_a_sure_wrong_one_a_large_one() -> None:
    rng = np.random.default_rng(0)
    shares = rng.choice([0.55, 0.65, 0.75, 0.85, 0.95], 600)
    found = analyze_rollouts(votes(shares, rng.random(600) < shares), config=QUICK).tables["calibration"]
    first = found[found["source"] == "rollouts"].iloc[0]
    stated = np.round(shares * NUM_ROLLOUTS) / NUM_ROLLOUTS
    assert first["confidence"] == pytest.approx(stated.mean())
    assert first["overconfidence_low"] < 0 < first["overconfidence_high"]
    assert first["ece"] < 2.5 * first["ece_if_calibrated"]
    assert first["brier"] == pytest.approx((stated * (1 - stated)).mean(), abs=0.02)
    over = analyze_rollouts(votes(shares, rng.random(600) < 0.5), config=QUICK).tables["calibration"].iloc[0]
    assert over["overconfidence_low"] > 0.15
    assert over["ece"] > 4 * over["ece_if_calibrated"]


def test_numbers_equal_those_by_hand() -> None:
    rng = np.random.default_rng(1)
    rollouts = frame(draw(moving(40, 6, rng), 9, rng), null=4)
    found = analyze_rollouts(rollouts, config=QUICK)
    points = found.checkpoints
    last = points[points["checkpoint"] == points["checkpoint"].max()]
    named = last["mode"].notna().to_numpy()
    share, right = last["mode_share"].to_numpy()[named], (last["mode"] == "10").to_numpy()[named]
    counts = rollouts[rollouts["checkpoint"] == points["checkpoint"].max()].groupby("problem_id", sort=False)["answer"]
    expected = counts.agg(lambda x: x.value_counts(dropna=False).max() / len(x)).to_numpy()[named]
    np.testing.assert_allclose(share, expected)
    row = found.tables["calibration"].query("source == 'rollouts' and position == 1").iloc[0]
    assert row["num_trajectories"] == named.sum()
    assert row["brier"] == pytest.approx(((share - right) ** 2).mean())
    bins = np.minimum((share * 10).astype(int), 9)
    gaps = [abs((share - right)[bins == b].sum()) for b in range(10)]
    assert row["ece"] == pytest.approx(sum(gaps) / len(share))
    shown = found.tables["calibration_bins"].query("position == 1")
    assert shown["num_trajectories"].tolist() == np.bincount(bins)[np.unique(bins)].tolist()
    assert shown["accuracy"].tolist() == pytest.approx([right[bins == b].mean() for b in np.unique(bins)])
    (at_end,) = [point for point in found.summary["calibration"]["error"] if point["position"] == 1]
    assert at_end["ece"] == pytest.approx(row["ece"])


def test_a_mode_without_an_answer_is_left_out() -> None:
    found = analyze_rollouts(frame(np.ones((6, 3, 5), dtype=np.int64), null=1), config=QUICK)
    assert found.tables["calibration"].query("source == 'rollouts'")["num_trajectories"].tolist() == [0] * 5
    assert found.tables["calibration"]["ece"].isna().all()
    assert found.tables["calibration_bins"].empty


def test_change_of_auc_is_paired() -> None:
    """Where H never changes its AUC does not either, in every resample; elsewhere it is the difference."""
    rng = np.random.default_rng(2)
    still = frame(np.repeat(draw(moving(60, 1, rng), 12, rng), 5, axis=1), null=4)
    found = analyze_rollouts(still, config=QUICK)
    curve = found.curves.query("curve == 'auc_change'")
    assert curve["value"].tolist() == [0.0] * len(GRID)
    assert curve["low"].tolist() == curve["high"].tolist() == [0.0] * len(GRID)
    moved = analyze_rollouts(frame(draw(moving(60, 6, rng), 12, rng), null=4), config=QUICK).summary
    auc = {point["position"]: point["auc"] for point in moved["auc"]}
    change = {point["position"]: point["auc_change"] for point in moved["auc_change"]}
    assert change[0.5] == pytest.approx(auc[0.5] - auc[0.0])
