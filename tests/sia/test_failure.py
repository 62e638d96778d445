"""Signals of failure on tables where it is known what they know."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fastsia.config import SIAConfig
from fastsia.sia import TokenTraces
from fastsia.sia.analysis import analyze_table
from fastsia.sia.curves import GRID
from fastsia.sia.extras.failure import POSITIONS, answer_margin
from fastsia.sia.table import encode
from tests.sia.simulate import draw, frame, moving

QUICK = SIAConfig(num_bootstrap=300, num_splits=2)


def test_margin_is_the_first_answers_lead() -> None:
    """null is a class like any other; ties have none; a single answer leads by all."""
    answers = [[0, 0, 0, 1], [0, 1, 0, 1], [1, 1, 1, 1], [0, 2, 2, 2], [0, 1, 2, 3]]
    table = encode(frame(np.array([answers, answers[::-1]]), null=2))
    np.testing.assert_allclose(answer_margin(table), [*(0.5, 0, 1, 0.5, 0), *(0, 0.5, 1, 0, 0.5)])


def test_margins_of_ragged_checkpoints_equal_counting() -> None:
    rng = np.random.default_rng(1)
    rollouts = frame(draw(moving(9, 6, rng), 7, rng), null=4, lengths=rng.integers(1, 7, 9))
    rollouts = rollouts[rng.random(len(rollouts)) < 0.8]
    table = encode(rollouts)
    expected = []
    for _, mine in rollouts.groupby(["problem_id", "checkpoint"], sort=False):
        counts = [*mine["answer"].value_counts(dropna=False).tolist(), 0]
        expected.append((counts[0] - counts[1]) / len(mine))
    np.testing.assert_allclose(answer_margin(table), expected)


def detect(noise: float, problems: int = 120, seed: int = 0, recorded: float = 1.0) -> pd.DataFrame:
    """Token entropies that are 1 higher, from the first token on, where the trajectory will end incorrect."""
    rng = np.random.default_rng(seed)
    table = encode(frame(draw(moving(problems, 9, rng), 20, rng), null=4))
    correct = analyze_table(table, QUICK).trajectories["correct"].to_numpy()
    length = int(table.checkpoint.max())
    level = np.where(correct, 1.0, 2.0) + noise * rng.standard_normal(problems)
    lengths = np.where(rng.random(problems) < recorded, length, 0)
    traces = TokenTraces(
        np.repeat(level, lengths).astype(np.float32),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.full(problems, -1),
    )
    return analyze_table(table, QUICK, traces=traces).tables["failure_detection"]


def test_a_signal_that_knows_beats_entropy_and_is_said_to() -> None:
    found = detect(noise=0.0).set_index("position")
    assert found.index.tolist() == list(POSITIONS)
    assert np.isnan(found.loc[0.0, "auc_token_entropy"]), "no token is written yet"
    assert np.isnan(found.loc[0.0, "token_entropy_minus_entropy"])
    early = found.loc[0.25]
    assert early["auc_token_entropy"] == 1
    assert early["token_entropy_minus_entropy"] == pytest.approx(1 - early["auc_entropy"])
    assert early["token_entropy_minus_entropy_low"] > 0


def test_a_signal_that_knows_nothing_is_worth_a_coins_toss() -> None:
    found = detect(noise=1e4).set_index("position")
    for q in (0.25, 0.5, 0.75, 1.0):
        assert found.loc[q, "auc_token_entropy_low"] < 0.5 < found.loc[q, "auc_token_entropy_high"]


def test_entropys_row_is_the_runs_own_curve() -> None:
    """The AUC of H for "ends incorrect" is that of -H for "ends correct", which the run's curve has."""
    rng = np.random.default_rng(3)
    found = analyze_table(encode(frame(draw(moving(60, 9, rng), 20, rng), null=4)), QUICK)
    curve = found.curves[(found.curves["curve"] == "auc") & (found.curves["axis"] == "relative")]
    curve = curve.iloc[[int(np.argmin(np.abs(GRID - q))) for q in POSITIONS]]
    table = found.tables["failure_detection"]
    for ours, theirs in (("auc_entropy", "value"), ("auc_entropy_low", "low"), ("auc_entropy_high", "high")):
        np.testing.assert_allclose(table[ours], curve[theirs])
    assert (table["num_correct"] + table["num_incorrect"] == 60).all()
    # The margin says much the same as H: its difference is small, and has an interval of its own.
    assert (table["margin_minus_entropy"].abs() < 0.1).all()
    np.testing.assert_allclose(table["margin_minus_entropy"], table["auc_margin"] - table["auc_entropy"])


def test_pairing_is_on_the_trajectories_that_have_the_signal() -> None:
    """Where token entropies lack for some, H is compared on the others, not on all."""
    found = detect(noise=0.0, recorded=0.6).set_index("position")
    half = found.loc[0.5]
    assert half["auc_token_entropy"] == 1
    assert half["token_entropy_minus_entropy"] != pytest.approx(1 - half["auc_entropy"], abs=1e-9)


def test_one_class_has_no_auc() -> None:
    found = analyze_table(encode(frame(np.zeros((5, 4, 6), dtype=np.int64))), QUICK)
    assert "failure_detection" not in found.tables
    assert any("failure prediction, which rests on it, is left out" in note for note in found.summary["warnings"])
