from __future__ import annotations

import numpy as np
import pytest

from fastsia.config import SIAConfig
from fastsia.sia import analyze_rollouts
from fastsia.sia.bootstrap import Bootstrap, interval, standard_error
from fastsia.sia.entropy import measure
from fastsia.sia.table import encode
from tests.sia.simulate import draw, frame, moving
from tests.sia.test_entropy import expected_plugin


def test_weights_are_resamples() -> None:
    draws = Bootstrap.draw(7, 500, seed=1)
    assert draws.weights.shape == (500, 7)
    assert (draws.weights.sum(axis=1) == 7).all()
    assert draws.weights.mean() == pytest.approx(1.0)
    # The variance of a count among 7 draws of probability 1/7.
    assert draws.weights.var() == pytest.approx(6 / 7, rel=0.1)
    assert (draws.weights == Bootstrap.draw(7, 500, seed=1).weights).all()
    assert (draws.weights != Bootstrap.draw(7, 500, seed=2).weights).any()


def test_blocks_of_resamples_are_all_filled() -> None:
    draws = Bootstrap.draw(30_000, 300, seed=0)
    assert (draws.weights.sum(axis=1) == 30_000).all()


def test_ratio_is_the_mean_over_the_resampled() -> None:
    rng = np.random.default_rng(0)
    sums, counts = rng.normal(size=(5, 3)), rng.integers(0, 3, (5, 3)).astype(float)
    counts[:2] += 1
    draws = Bootstrap.draw(5, 40, seed=0)
    got = draws.ratio(sums, counts)
    for b in range(40):
        picks = np.repeat(np.arange(5), draws.weights[b].astype(int))
        total = counts[picks].sum(axis=0)
        want = np.where(total > 0, sums[picks].sum(axis=0) / np.maximum(total, 1), np.nan)
        np.testing.assert_allclose(got[b], want)


def test_what_one_problem_defines_has_no_interval() -> None:
    """Resampling it gives its own value every time: an interval of width 0, which claims to be certain."""
    counts = np.array([[0.0, 1.0], [3.0, 1.0], [0.0, 1.0]])
    samples = Bootstrap.draw(3, 100, seed=0).ratio(np.ones((3, 2)), counts)
    assert np.isnan(samples[:, 0]).all()
    assert np.isfinite(samples[:, 1]).all()
    rng = np.random.default_rng(0)
    alone = analyze_rollouts(frame(draw(moving(1, 8, rng), 10, rng), null=4), config=SIAConfig(num_bootstrap=50))
    for bounds in (alone.summary["ci"]["accuracy"], alone.summary["ci"]["rho"]["pearson"], alone.summary["ci"]["gain"]):
        assert bounds is None
    assert alone.curves[["low", "high", "se"]].isna().all(axis=None)


def test_an_auc_of_one_problem_against_the_others_has_no_interval() -> None:
    rng = np.random.default_rng(0)
    table = frame(draw(moving(12, 8, rng), 10, rng), null=4)
    for problems, defined in ((1, False), (2, True)):
        wrong = {f"p{i}" for i in range(problems)}
        found = analyze_rollouts(
            table.assign(correct=~table["problem_id"].isin(wrong)), config=SIAConfig(num_bootstrap=50)
        )
        assert found.summary["auc"][10]["auc"] is not None
        assert (found.summary["ci"]["auc"][10] is not None) == defined


def test_interval_leaves_undefined_resamples_out() -> None:
    samples = np.linspace(0, 1, 1001)[:, None].repeat(3, axis=1)
    samples[:100, 1] = np.nan
    samples[:600, 2] = np.nan
    low, high = interval(samples)
    assert low[0] == pytest.approx(0.025)
    assert high[0] == pytest.approx(0.975)
    assert low[1] == pytest.approx(0.1 + 0.9 * 0.025, abs=1e-3)
    assert np.isnan(low[2])
    alone = interval(samples[:, 1])
    assert (alone[0], alone[1]) == (low[1], high[1])
    assert np.isnan(interval(np.zeros((0, 2)))[0]).all()


def test_standard_error_of_the_defined() -> None:
    samples = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, 2.0]])
    assert standard_error(samples)[0] == pytest.approx(np.sqrt(2))
    assert np.isnan(standard_error(samples)[1])


def population(rng: np.random.Generator, problems: int) -> np.ndarray:
    """Problems of a population: their answer distributions, [P, 1, 4]."""
    return rng.dirichlet([1.5, 0.8, 0.5, 0.3], size=problems)[:, None]


def population_mean(number: int) -> float:
    """E[Ĥ_N] over the population, by many problems each with its exact expectation."""
    rng = np.random.default_rng(10**6)
    probabilities = population(rng, 40_000)[:, 0]
    levels = np.round(probabilities, 3)
    table = {p: expected_plugin(np.array([p]), number) for p in np.unique(levels)}
    return float(np.vectorize(table.__getitem__)(levels).sum(axis=1).mean())


def test_intervals_cover_the_expected_plugin_entropy() -> None:
    """95 % ± 2 over 1,000 runs of 64 problems. They cover E[Ĥ_N], not the true H, which plug-in undershoots."""
    truth, hits, number = population_mean(20), 0, 20
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        entropy = measure(encode(frame(draw(population(rng, 64), number, rng))), 0.5).entropy
        low, high = interval(Bootstrap.draw(64, 500, seed).ratio(entropy, np.ones(64)))
        hits += bool(low <= truth <= high)
    assert hits / 1000 == pytest.approx(0.95, abs=0.02)


@pytest.mark.slow
def test_intervals_of_the_whole_analysis_cover() -> None:
    """The same through the front door, with its own 2,000 resamples and positions."""
    truth, hits = population_mean(20), 0
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        answers = draw(np.repeat(population(rng, 64), 3, axis=1), 20, rng)
        found = analyze_rollouts(frame(answers), config=SIAConfig(seed=seed, num_splits=1))
        curve = found.curves.query("curve == 'entropy' and axis == 'relative' and group == 'all'")
        hits += bool(curve["low"].iloc[0] <= truth <= curve["high"].iloc[0])
    assert hits / 1000 == pytest.approx(0.95, abs=0.02)
