from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fastsia.config import SIAConfig
from fastsia.sia.alignment import (
    cross_fitted,
    halve,
    pearson,
    permutation_test,
    ranks,
    spearman,
    split_halves,
)
from fastsia.sia.curves import between_rows
from fastsia.sia.entropy import ends_correct, gold_surprisal, measure
from fastsia.sia.scored import Scored
from fastsia.sia.table import NULL, encode
from tests.sia.simulate import constant, draw, frame, moving

OFFSETS = np.array([0, 5, 7, 11, 16])


def series(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, OFFSETS[-1]).astype(np.float64)


def test_pearson_and_spearman_equal_scipy_on_every_segment() -> None:
    x, y = series(0), series(1)
    for ours, theirs in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
        got = ours(x, y, OFFSETS)
        for i, (begin, end) in enumerate(pairwise(OFFSETS)):
            if end - begin < 3:
                assert np.isnan(got[i])
            else:
                assert got[i] == pytest.approx(theirs(x[begin:end], y[begin:end])[0])


def test_constant_series_are_undefined() -> None:
    x, y = series(0), series(1)
    x[:5] = 0.1 + 1e-14 * np.arange(5)  # constant up to rounding
    y[11:] = 3.0
    got = pearson(x, y, OFFSETS)
    assert np.isnan(got).tolist() == [True, True, False, True]
    assert np.isnan(spearman(x, y, OFFSETS)).tolist() == [True, True, False, True]


def test_ranks_share_ties() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0, 5.0, 4.0]), np.array([0, 4, 6])).tolist() == [3.5, 1, 3.5, 2, 2, 1]


@pytest.mark.parametrize("width", [2, 5, 20])
def test_halves_are_disjoint_and_equal(width: int) -> None:
    member = split_halves(width, 7, seed=3)
    assert (member.sum(axis=0) == width // 2).all()
    assert not (member[:, 0::2] & member[:, 1::2]).any()
    assert (member == split_halves(width, 7, seed=3)).all()


@pytest.mark.parametrize("number", [6, 7])
def test_halves_equal_the_plain_loop(number: int) -> None:
    """The sparse products count what a loop over rollouts counts; with odd N one rollout is left out."""
    rng = np.random.default_rng(0)
    table = encode(frame(draw(moving(5, 6, rng), number, rng), null=4))
    halves = halve(table, 0.5, 3, seed=9)
    member = split_halves(number, 3, seed=9)
    for g in range(table.num_checkpoints):
        codes = table.code[table.checkpoint_offsets[g] : table.checkpoint_offsets[g + 1]]
        owner = table.trajectory_of_checkpoint[g]
        for column in range(6):
            half = codes[member[:, column]]
            assert len(half) == number // 2
            counts = np.unique(half, return_counts=True)[1]
            assert halves.entropy[g, column] == pytest.approx(stats.entropy(counts))
            gold = (half == table.gold[owner]).sum()
            surprisal = gold_surprisal(gold, len(half), table.num_answers[owner], 0.5)
            assert halves.surprisal[g, column] == pytest.approx(surprisal)
    rho = pearson(halves.entropy[:, 0], halves.surprisal[:, 1], table.trajectory_offsets)
    np.testing.assert_allclose(halves.rho[:, 0], rho)
    rho = pearson(halves.entropy[:, 1], halves.surprisal[:, 0], table.trajectory_offsets)
    np.testing.assert_allclose(halves.rho[:, 1], rho)


def test_missing_rollouts_and_null_answers_go_through_the_halves() -> None:
    """Dropped rows leave ragged checkpoints: halves are counted from what is there."""
    rng = np.random.default_rng(1)
    rollouts = frame(draw(moving(4, 5, rng), 8, rng), null=4)
    rollouts = rollouts.drop(index=rng.choice(len(rollouts), 30, replace=False))
    table = encode(rollouts)
    halves = halve(table, 0.5, 2, seed=0)
    assert (halves.count.sum(axis=1) == 2 * table.count).all()
    assert (table.code == NULL).any()


def test_two_rollouts_halve_into_certain_ones() -> None:
    table = encode(frame(np.array([[[0, 1], [0, 0], [1, 1]]])))
    mean, undefined = cross_fitted(halve(table, 0.5, 4, seed=0))
    assert np.isnan(mean).all()
    assert undefined.tolist() == [1.0]


def test_one_rollout_has_no_halves() -> None:
    table = encode(frame(np.array([[[0], [0], [1]]])))
    mean, undefined = cross_fitted(halve(table, 0.5, 4, seed=0))
    assert np.isnan(mean).all()
    assert undefined.tolist() == [1.0]


def alignments(probabilities: np.ndarray, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scored = Scored.of(encode(frame(draw(probabilities, number, rng))), SIAConfig())
    rho = pearson(scored.stats.entropy, scored.stats.gold_surprisal, scored.table.trajectory_offsets)
    return rho, cross_fitted(scored.halves)[0]


@pytest.mark.parametrize(("number", "artefact"), [(10, 0.91), (20, 0.94), (50, 0.98)])
def test_same_sample_artefact_where_nothing_moves(number: int, artefact: float) -> None:
    """The paper's rho of a constant distribution is far from 0, and more rollouts make it worse; the halves' is 0."""
    rho, fitted = alignments(constant(5000, np.array([0.7, 0.1, 0.1, 0.1]), 11), number, seed=2)
    assert rho.mean() == pytest.approx(artefact, abs=0.01)
    assert np.nanmean(fitted) == pytest.approx(0.0, abs=0.02)


def test_the_artefact_has_the_other_sign_where_gold_is_rare() -> None:
    rho, fitted = alignments(constant(5000, np.array([0.1, 0.9]), 11), 20, seed=3)
    assert np.nanmean(rho) < -0.97
    assert np.nanmean(fitted) == pytest.approx(0.0, abs=0.02)


def test_cross_fitted_is_the_expectation_of_independent_halves() -> None:
    """On moving distributions it estimates what two fresh samples of N / 2 would give."""
    rng = np.random.default_rng(4)
    probabilities = moving(1500, 11, rng)
    number = 20
    scored = Scored.of(encode(frame(draw(probabilities, number, rng), null=4)), SIAConfig())
    fitted = cross_fitted(scored.halves)[0]
    offsets = np.arange(0, 1500 * 11 + 1, 11)
    fresh = []
    for _ in range(4):
        entropy_half = encode(frame(draw(probabilities, number // 2, rng), null=4))
        surprisal_half = draw(probabilities, number // 2, rng)
        gold = (surprisal_half == 0).sum(axis=2).ravel()
        classes = scored.table.num_answers[scored.table.trajectory_of_checkpoint]
        surprisal = gold_surprisal(gold, number // 2, classes, 0.5)
        fresh.append(pearson(measure(entropy_half, 0.5).entropy, surprisal, offsets))
    difference = fitted - np.nanmean(fresh, axis=0)
    difference = difference[~np.isnan(difference)]
    error = difference.std() / np.sqrt(len(difference))
    assert abs(difference.mean()) < 3 * error + 0.003
    assert np.nanmean(fitted) > 0.2


def p_values(rollouts_of: Callable[[np.random.Generator], pd.DataFrame], runs: int) -> np.ndarray:
    found = []
    for seed in range(runs):
        table = encode(rollouts_of(np.random.default_rng(seed)))
        halves = halve(table, 0.5, 4, seed=seed)
        correct = ends_correct(table, measure(table, 0.5))
        test = permutation_test(halves, *between_rows(table), correct, num_permutations=99, seed=seed)
        assert test is not None
        found.append(test.p_value)
    return np.array(found)


def test_permutation_rejects_at_its_level_under_the_null() -> None:
    """Constant distributions, another in each trace: the same-sample rho would reject always."""

    def rollouts(rng: np.random.Generator) -> pd.DataFrame:
        return frame(draw(rng.dirichlet(np.full(4, 2.0), size=48)[:, None].repeat(9, axis=1), 12, rng))

    p = p_values(rollouts, runs=300)
    assert (p <= 0.05).mean() <= 0.07
    assert 0.3 < (p <= 0.5).mean() < 0.55  # doubling the smaller of two makes it a little too careful


def test_permutation_does_not_reject_a_trend_that_all_traces_share() -> None:
    common = np.linspace(0, 1, 9)[:, None] * np.array([0.5, -0.2, -0.2, -0.1]) + np.array([0.4, 0.25, 0.25, 0.1])
    p = p_values(lambda rng: frame(draw(np.broadcast_to(common, (48, 9, 4)), 12, rng)), runs=100)
    assert (p <= 0.05).mean() < 0.13


def test_permutation_of_traces_of_several_lengths_that_share_a_trend() -> None:
    """Read at their last checkpoint before each position, as steps at places of their own, two thirds of these runs
    had p <= .05."""

    def rollouts(rng: np.random.Generator) -> pd.DataFrame:
        lengths = rng.integers(5, 16, 48)
        place = np.minimum(np.arange(15) / (lengths[:, None] - 1), 1.0)[..., None]
        settled = 1 / (1 + np.exp(-8 * (place - 0.4)))
        course = settled * np.array([0.94, 0.03, 0.03]) + (1 - settled) * np.array([0.4, 0.35, 0.25])
        return frame(draw(course, 20, rng), lengths=lengths)

    p = p_values(rollouts, runs=60)
    assert (p <= 0.05).mean() < 0.25


def test_permutation_finds_traces_that_move_at_their_own_pace() -> None:
    """Also where half of them end incorrect, whose correlations have the other sign."""
    for share in (1.0, 0.5):
        p = p_values(lambda rng, share=share: frame(draw(moving(64, 16, rng, share_correct=share), 20, rng)), runs=20)  # type: ignore[misc]
        assert (p <= 0.05).mean() >= 0.95


def test_permutation_needs_two_traces() -> None:
    table = encode(frame(np.array([[[0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 0]]])))
    one = np.array([True])
    assert permutation_test(halve(table, 0.5, 2, 0), *between_rows(table), one, num_permutations=9, seed=0) is None
