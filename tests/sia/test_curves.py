from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu

from fastsia.sia import curves
from fastsia.sia.bootstrap import Bootstrap
from fastsia.sia.curves import (
    GRID,
    auc_at_positions,
    between_rows,
    grid_rows,
    group_means,
    stride,
    token_rows,
    weighted_auc,
)
from fastsia.sia.table import RolloutTable, encode
from tests.sia.simulate import draw, frame, moving


def ragged(seed: int = 0, problems: int = 8, checkpoints: int = 7) -> tuple[RolloutTable, np.random.Generator]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, checkpoints + 1, problems)
    table = frame(draw(moving(problems, checkpoints, rng), 4, rng), null=4, lengths=lengths)
    # The last checkpoint lies off the grid, as a trajectory's end does.
    last = table.groupby("problem_id")["checkpoint"].transform("max")
    table.loc[(table["checkpoint"] == last) & (last > 0), "checkpoint"] += 7
    return encode(table), rng


def test_traces_are_read_at_their_last_checkpoint_before_the_position() -> None:
    table, _ = ragged()
    rows = grid_rows(table)
    for i in range(table.num_trajectories):
        begin, end = table.trajectory_offsets[i], table.trajectory_offsets[i + 1]
        positions = table.checkpoint[begin:end]
        for k, q in enumerate(GRID):
            want = np.flatnonzero(positions <= q * positions[-1] + 1e-9)[-1]
            assert rows[i, k] == begin + want
    assert (rows[:, 0] == table.first).all()
    assert (rows[:, -1] == table.last).all()


def test_grid_survives_rounding() -> None:
    """0.3 of 10 tokens is checkpoint 3, though 0.3 * 10 in binary is a hair off."""
    rollouts = frame(np.zeros((1, 11, 2), dtype=np.int64), stride=1)
    assert (grid_rows(encode(rollouts))[0] == np.floor(GRID * 10 + 1e-9)).all()


def test_places_between_checkpoints() -> None:
    """A series that is linear in the position is read on its line; before its first checkpoint, at its first one."""
    rollouts = frame(np.array([[[0, 1], [0, 0], [0, 1], [1, 1]], [[0, 1], [1, 1], [0, 0], [0, 0]]]))
    position = np.array([0, 7, 20, 41, 10, 15, 40, 60])
    rollouts["checkpoint"] = position.repeat(2)
    rows, share = between_rows(encode(rollouts))
    found = position[rows[..., 0]] + share * (position[rows[..., 1]] - position[rows[..., 0]])
    assert found == pytest.approx(np.maximum(GRID * np.array([[41], [60]]), [[0], [10]]))


def test_absolute_positions_drop_traces_that_have_ended() -> None:
    table, _ = ragged()
    assert stride(table) == 20
    positions, rows = token_rows(table)
    assert (positions % 20 == 0).all()
    for i in range(table.num_trajectories):
        mine = table.checkpoint[table.trajectory_offsets[i] : table.trajectory_offsets[i + 1]]
        for k, t in enumerate(positions):
            assert (rows[i, k] >= 0) == (t in mine)
            if rows[i, k] >= 0:
                assert table.checkpoint[rows[i, k]] == t


def test_stride_is_unknown_without_three_checkpoints() -> None:
    assert stride(encode(frame(np.zeros((2, 2, 2), dtype=np.int64)))) is None


def test_auc_is_mann_whitney_with_ties() -> None:
    rng = np.random.default_rng(0)
    score, positive = rng.integers(0, 6, 40).astype(float), rng.random(40) < 0.4
    want = mannwhitneyu(score[positive], score[~positive]).statistic / (positive.sum() * (~positive).sum())
    assert weighted_auc(score, positive, np.ones((1, 40)))[0] == pytest.approx(want)


def test_weighted_auc_is_that_of_the_repeated_sample() -> None:
    rng = np.random.default_rng(1)
    score, positive = rng.integers(0, 5, 25).astype(float), rng.random(25) < 0.5
    weights = Bootstrap.draw(25, 30, seed=0).weights
    got = weighted_auc(score, positive, weights)
    for b in range(30):
        again = np.repeat(np.arange(25), weights[b].astype(int))
        x, label = score[again], positive[again]
        want = mannwhitneyu(x[label], x[~label]).statistic / (label.sum() * (~label).sum())
        assert got[b] == pytest.approx(want)


def test_all_positions_in_one_product_equal_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With traces that have ended (NaN) and resamples that lost a class."""
    rng = np.random.default_rng(2)
    score, positive = rng.integers(0, 5, (12, 6)).astype(float), rng.random(12) < 0.4
    score[rng.random(score.shape) < 0.3] = np.nan
    weights = Bootstrap.draw(12, 50, seed=1).weights
    together = auc_at_positions(score, positive, weights)
    monkeypatch.setattr(curves, "_PAIRS_AT_ONCE", 0)
    np.testing.assert_allclose(together, auc_at_positions(score, positive, weights), rtol=1e-12)
    for k in range(6):
        there = ~np.isnan(score[:, k])
        np.testing.assert_allclose(together[:, k], weighted_auc(score[there, k], positive[there], weights[:, there]))


def test_auc_of_one_class_is_undefined() -> None:
    assert np.isnan(weighted_auc(np.arange(3.0), np.ones(3, dtype=bool), np.ones((2, 3)))).all()
    assert np.isnan(weighted_auc(np.arange(3.0), np.array([True, True, False]), np.array([[1.0, 2.0, 0.0]])))[0]


def test_group_means_resample_problems_not_trajectories() -> None:
    """Two trajectories of a problem enter a resample together."""
    rng = np.random.default_rng(0)
    one = frame(draw(moving(6, 4, rng), 4, rng), null=4)
    table = encode(pd.concat([one, one.assign(trajectory=1)]))
    values = rng.normal(size=(12, 1, 1))
    correct = np.array([True, False] * 6)
    draws = Bootstrap.draw(6, 50, seed=0)
    means = group_means(table, values, correct, draws)
    per_problem = values[:, 0, 0].reshape(6, 2)
    assert means.value[0, 0, 0] == pytest.approx(values.mean())
    np.testing.assert_allclose(means.samples[:, 0, 0, 0], draws.weights @ per_problem.mean(axis=1) / 6)
    np.testing.assert_allclose(means.samples[:, 1, 0, 0], draws.weights @ per_problem[:, 0] / 6)
    assert means.count.tolist() == [12, 6, 6]


def test_checkpoints_of_any_spacing_are_read_at_the_last_one_before_a_position() -> None:
    """Sentence ends have no common stride: the first gap's multiples would hold nearly none of them."""
    positions = [[0, 7, 19, 31], [0, 5, 26]]
    rows = [("p", i, t, k, "1", "1") for i, at in enumerate(positions) for t in at for k in range(2)]
    columns = ["problem_id", "trajectory", "checkpoint", "rollout", "answer", "gold"]
    table = encode(pd.DataFrame(rows, columns=columns))
    assert stride(table) is None
    grid, found = token_rows(table)
    assert grid.tolist() == [0, 12, 24]  # the median gap
    assert found.tolist() == [[0, 1, 2], [4, 5, 5]]
    shorter = pd.DataFrame([row for row in rows if row[2] not in (19, 31)], columns=columns)
    grid, found = token_rows(encode(shorter))
    assert grid.tolist() == [0, 7, 14, 21]
    assert found.tolist() == [[0, 1, -1, -1], [2, 3, 3, 3]]  # the first trajectory has ended at 7
