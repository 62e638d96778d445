"""Stopping rules on trajectories whose checkpoints are laid out by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fastsia.config import SIAConfig
from fastsia.sia import analyze_rollouts
from fastsia.sia.extras.early_stop import MODE_LENGTHS, TAUS, early_stop_table
from fastsia.sia.scored import Scored
from fastsia.sia.table import encode
from tests.sia.simulate import draw, frame, moving

RIGHT, WRONG, NULL = [0] * 4, [1] * 4, [2] * 4
SPLIT = [0, 0, 1, 1]  # H = ln 2, the mode is right
LEANS = [1, 1, 1, 0]  # H = .56, the mode is wrong


def stops(traces: list[list[list[int]]], resamples: int = 200) -> pd.DataFrame:
    """One problem a trajectory, stride 20; answer 0 is right, 2 is none."""
    table = encode(frame(np.array(traces), null=2))
    return early_stop_table(Scored.of(table, SIAConfig(num_bootstrap=resamples, num_splits=1)))


def at(found: pd.DataFrame, rule: str, threshold: float | None = None, checkpoints: int | None = None) -> pd.Series:
    rows = found[found["rule"] == rule]
    rows = rows if threshold is None else rows[np.isclose(rows["threshold"], threshold)]
    rows = rows if checkpoints is None else rows[rows["checkpoints"] == checkpoints]
    assert len(rows) == 1
    return rows.iloc[0]


def test_a_sure_trajectory_stops_where_it_is_sure() -> None:
    found = stops([[SPLIT, SPLIT, LEANS, RIGHT, RIGHT]])
    assert at(found, "never")[["saved", "lost", "accuracy", "stopped"]].tolist() == [0, 0, 1, 0]
    assert at(found, "entropy", 0.0)["saved"] == pytest.approx(1 / 4)
    assert at(found, "entropy", 0.0)["lost"] == 0
    # H <= .7 holds from the start, H <= .5 not before H = 0; in between lies the wrong mode.
    assert at(found, "entropy", 0.7)["saved"] == 1
    assert at(found, "entropy", 0.5)["saved"] == pytest.approx(1 / 4)
    stopped = stops([[SPLIT, LEANS, LEANS, RIGHT, RIGHT]])
    assert at(stopped, "plateau", 0.0, 2)[["saved", "lost", "accuracy"]].tolist() == [0.5, 1, 0]


def test_a_plateau_may_be_high_and_needs_all_its_checkpoints() -> None:
    found = stops([[SPLIT, SPLIT, SPLIT, RIGHT, RIGHT]])
    assert at(found, "plateau", 0.0, 2)["saved"] == pytest.approx(3 / 4)
    assert at(found, "plateau", 0.0, 3)["saved"] == pytest.approx(2 / 4)
    assert at(found, "plateau", 0.0, 5)["saved"] == 0
    moves = stops([[SPLIT, LEANS, SPLIT, LEANS, SPLIT]])  # by .13 nats
    assert at(moves, "plateau", 0.1, 2)["saved"] == 0
    assert at(moves, "plateau", 0.2, 3)["saved"] == pytest.approx(2 / 4)


def test_a_stable_mode_counts_checkpoints_of_its_own_trajectory_only() -> None:
    found = stops([[SPLIT, WRONG, WRONG, RIGHT, RIGHT], [RIGHT, WRONG, RIGHT, WRONG, RIGHT]])
    two = at(found, "mode", checkpoints=2)
    assert (two["saved"], two["lost"], two["stopped"]) == (pytest.approx(2 / 8), 0.5, 0.5)
    assert at(found, "mode", checkpoints=3)["saved"] == 0
    # The second trajectory begins with the mode that the first one ends with.
    assert at(found, "mode", checkpoints=3)["stopped"] == 0


def test_no_answer_is_no_reason_to_stop() -> None:
    """All rollouts null: H is 0, flat, and the mode stable; a reader would go on all the same."""
    found = stops([[NULL, NULL, NULL, RIGHT, RIGHT]])
    for row in found[found["rule"] != "length"].to_dict("records"):
        assert row["saved"] <= 1 / 4
    assert at(found, "length", 0.0)[["saved", "lost"]].tolist() == [1, 1]


def test_tokens_are_pooled_over_trajectories_of_all_lengths() -> None:
    answers = np.array([[RIGHT] * 9, [SPLIT] * 9])
    rollouts = frame(answers, lengths=np.array([3, 9]))  # T = 40 and 160
    table = encode(rollouts)
    found = early_stop_table(Scored.of(table, SIAConfig(num_bootstrap=200, num_splits=1)))
    row = at(found, "entropy", 0.0)
    assert row["saved"] == pytest.approx(40 / 200)
    assert row["stopped"] == 0.5
    fixed = at(found, "length", 50)  # half of the mean length: the first checkpoint there or past it
    assert fixed["saved"] == pytest.approx((160 - 60) / 200)


def test_a_single_checkpoint_and_a_single_problem() -> None:
    found = stops([[RIGHT]])
    assert found["saved"].isna().all()  # no token was written
    assert (found["accuracy"] == 1).all()
    assert found["lost_low"].isna().all()


def test_curves_are_monotone_and_bounded_and_cover() -> None:
    """A looser rule stops no later; what is lost is what accuracy says; intervals hold their value."""
    rng = np.random.default_rng(0)
    found = analyze_rollouts(
        frame(draw(moving(80, 12, rng), 20, rng), null=4), config=SIAConfig(num_bootstrap=400, num_splits=2)
    ).tables["early_stop"]
    by_tau = found[found["rule"] == "entropy"]
    assert by_tau["threshold"].tolist() == list(TAUS)
    assert (np.diff(by_tau["saved"]) >= 0).all()
    by_length = found[found["rule"] == "mode"]
    assert by_length["checkpoints"].tolist() == list(MODE_LENGTHS)
    assert (np.diff(by_length["saved"]) <= 0).all()
    full = at(found, "never")["accuracy"]
    np.testing.assert_allclose(found["lost"], full - found["accuracy"], atol=1e-12)
    for name in ("saved", "lost", "accuracy"):
        assert (found[f"{name}_low"] <= found[name] + 1e-12).all()
        assert (found[name] <= found[f"{name}_high"] + 1e-12).all()
    assert (found["saved"].between(0, 1)).all()
