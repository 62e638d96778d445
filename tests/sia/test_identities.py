"""What docs/method.md says about H, s and rho, against distributions that are known."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fastsia.config import SIAConfig
from fastsia.sia import analyze_rollouts, outcome_baseline
from fastsia.sia.alignment import cross_fitted, pearson
from fastsia.sia.entropy import measure
from fastsia.sia.scored import Scored
from fastsia.sia.table import encode
from tests.sia.simulate import SCENARIOS, constant, draw, filtered, frame, moving, true_rho

ALPHA = 0.5

# --- the artefact of taking H and s from the same rollouts -----------------------------------------------------


def first_order(p: np.ndarray) -> tuple[float, float]:
    """N Cov(H, s) and rho_0 where the true distribution p never moves; answer 0 is gold."""
    entropy, surprisal = -(p * np.log(p)).sum(), -np.log(p[0])
    variance = (p * np.log(p) ** 2).sum() - entropy**2
    covariance = float(entropy - surprisal)
    return covariance, float(covariance / np.sqrt(variance * (1 - p[0]) / p[0]))


@pytest.mark.parametrize(
    ("p", "rho_0"), [((0.7, 0.1, 0.1, 0.1), 1.0), ((0.1, 0.9), -1.0), ((0.9, 0.1), 1.0), ((0.3, 0.5, 0.2), -0.313)]
)
def test_the_artefact_has_a_closed_form_that_is_free_of_the_number_of_rollouts(
    p: tuple[float, ...], rho_0: float
) -> None:
    covariance, expected = first_order(np.array(p))
    assert expected == pytest.approx(rho_0, abs=5e-4)
    for number, near in ((10, 0.14), (20, 0.1), (50, 0.06)):
        rng = np.random.default_rng(number)
        measured = measure(encode(frame(draw(constant(1, np.array(p), 6000), number, rng))), ALPHA)
        entropy, surprisal = measured.entropy, measured.gold_surprisal
        if p[0] > 0.1 or number > 20:  # a gold answer that is mostly not drawn has a smoothed, lower s
            assert number * np.cov(entropy, surprisal)[0, 1] == pytest.approx(covariance, rel=0.15, abs=0.16)
        assert np.corrcoef(entropy, surprisal)[0, 1] == pytest.approx(expected, abs=near)


# --- moving distributions: what halving costs ------------------------------------------------------------------


def mean_rhos(probabilities: np.ndarray, number: int, seed: int) -> tuple[float, float]:
    """The paper's and the cross-fitted."""
    rollouts = frame(draw(probabilities, number, np.random.default_rng(seed)), null=4)
    scored = Scored.of(encode(rollouts), SIAConfig(smoothing=number / 40))
    rho = pearson(scored.stats.entropy, scored.stats.gold_surprisal, scored.table.trajectory_offsets)
    return float(np.nanmean(rho)), float(np.nanmean(cross_fitted(scored.halves)[0]))


@pytest.mark.parametrize("number", [5, 10, 20])
def test_halving_attenuates_where_traces_lock_in(number: int) -> None:
    probabilities = moving(300, 16, np.random.default_rng(0), share_correct=1.0)
    paper, fitted = mean_rhos(probabilities, number, seed=1)
    assert 0 < fitted < paper - 0.02
    assert paper < true_rho(probabilities).mean() + 0.05


@pytest.mark.parametrize("number", [5, 20])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_papers_rho_is_nearer_the_truth_where_it_moves(scenario: str, number: int) -> None:
    probabilities = SCENARIOS[scenario](300, np.random.default_rng(2))
    truth = float(np.nanmean(true_rho(probabilities)))
    paper, fitted = mean_rhos(probabilities, number, seed=3)
    assert abs(paper - truth) < abs(fitted - truth)


# --- rho by outcome --------------------------------------------------------------------------------------------


def test_rho_is_near_one_by_outcome_where_traces_settle() -> None:
    probabilities = moving(600, 16, np.random.default_rng(4))
    rho = true_rho(probabilities)
    correct = probabilities[:, -1].argmax(axis=1) == 0
    assert rho[correct].mean() > 0.85
    assert rho[~correct].mean() < -0.9
    assert (np.abs(rho) > 0.9).mean() > 0.7
    baseline = outcome_baseline(pd.DataFrame({"rho": rho, "correct": correct}))
    assert baseline == pytest.approx(2 * correct.mean() - 1)
    assert rho.mean() == pytest.approx(baseline, abs=0.1)


def test_the_baseline_counts_only_defined_traces() -> None:
    traces = pd.DataFrame({"rho": [0.9, np.nan, -0.8, 1.0, np.nan], "correct": [True, False, False, True, False]})
    assert outcome_baseline(traces) == pytest.approx(1 / 3)
    assert outcome_baseline(traces.iloc[[1]]) is None


# --- the model's own text: gain and entropy --------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 20])
def test_more_information_lowers_h_and_raises_s_exactly_at_any_number_of_rollouts(number: int) -> None:
    """A step of a martingale: p is the mean of what it becomes. The expectations are exact sums over all counts of
    three answers, so a concave H and a convex s must show, not only on average over seeds."""
    bars = np.array(list(combinations(range(number + 2), 2)))
    counts = np.stack([bars[:, 0], bars[:, 1] - bars[:, 0] - 1, number + 1 - bars[:, 1]], axis=1)
    answers = np.stack([np.repeat(np.arange(3), row) for row in counts])
    measured = measure(encode(frame(answers[None])), ALPHA)  # one trajectory, so V is the same everywhere

    def expected(p: np.ndarray) -> tuple[float, float]:
        weight = stats.multinomial.pmf(counts, number, p)
        assert weight.sum() == pytest.approx(1)
        return float(weight @ measured.entropy), float(weight @ measured.gold_surprisal)

    rng = np.random.default_rng(5)
    for _ in range(60):
        after = rng.dirichlet(np.full(3, 0.7), size=3)
        chance = rng.dirichlet(np.ones(3))
        entropy, surprisal = expected(chance @ after)
        later = np.array([expected(p) for p in after])
        assert chance @ later[:, 0] < entropy
        assert chance @ later[:, 1] > surprisal


@pytest.mark.parametrize("number", [5, 20])
def test_the_mean_gain_of_a_martingale_is_not_positive(number: int) -> None:
    rng = np.random.default_rng(6)
    rollouts = frame(draw(filtered(600, 8, rng), number, rng))
    found = analyze_rollouts(rollouts, config=SIAConfig(num_bootstrap=200, num_splits=1))
    assert found.summary["ci"]["gain"][1] < 0
    entropy = found.checkpoints.groupby("checkpoint")["entropy"].mean().to_numpy()
    assert (np.diff(entropy) < 0).all()  # all traces have the same length, so none drops out


def test_an_observer_whose_text_is_not_its_own_may_gain() -> None:
    """Traces chosen by their outcome are no martingale: the sign is a finding there, and an alarm elsewhere."""
    rng = np.random.default_rng(6)
    beliefs = filtered(600, 8, rng)
    chosen = frame(draw(beliefs[beliefs[:, -1].argmax(axis=1) == 0], 20, rng))
    found = analyze_rollouts(chosen, config=SIAConfig(num_bootstrap=200, num_splits=1))
    assert found.summary["ci"]["gain"][0] > 0


# --- numbers that noise alone makes ----------------------------------------------------------------------------


def of_nothing(p: tuple[float, ...], problems: int = 1000) -> pd.DataFrame:
    """Trajectories of a distribution that never moves."""
    rng = np.random.default_rng(7)
    rollouts = frame(draw(constant(problems, np.array(p), 8), 20, rng))
    return analyze_rollouts(rollouts, config=SIAConfig(num_bootstrap=0, num_splits=1)).trajectories


@pytest.mark.parametrize("p", [(0.1, 0.9), (0.3, 0.5, 0.2), (0.7, 0.3)])
def test_noise_alone_makes_no_confident_and_wrong_trajectories(p: tuple[float, ...]) -> None:
    """With plug-in H and s it makes 40 %, 26 % and none."""
    assert of_nothing(p)["misaligned"].mean() <= 0.02


def test_close_answers_that_do_not_move_are_locked_in_from_the_start() -> None:
    """The most frequent answer of single checkpoints changes by noise until .9 of the trajectory."""
    assert of_nothing((0.05, 0.45, 0.5))["lock_in_relative"].mean() < 0.25
    assert of_nothing((0.7, 0.1, 0.1, 0.1))["lock_in_relative"].mean() < 0.01


def test_what_noise_gives_is_expected_from_the_pooled_answers() -> None:
    for p, rho_0 in (((0.7, 0.1, 0.1, 0.1), 1.0), ((0.3, 0.5, 0.2), -0.313)):
        assert of_nothing(p, 200)["rho_expected_from_noise"].mean() == pytest.approx(rho_0, abs=0.04)
