from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from scipy.special import gammaln

from fastsia.config import SIAConfig
from fastsia.sia.decomposition import Divergences, decompose, entropy_of
from fastsia.sia.smoother import HAZARDS, NUM_DRAWS, PRIOR_COUNTS, Stretches, smooth, smooth_divergences
from fastsia.sia.table import encode
from tests.sia.simulate import SCENARIOS, Chain, constant, draw, frame, moving, true_rho


def multinomial_likelihood(counts: np.ndarray, prior: float) -> float:
    """The probability of draws in one order, from a distribution with a Dirichlet prior."""
    width, total = len(counts), counts.sum()
    log = gammaln(prior * width) - gammaln(prior * width + total) + (gammaln(counts + prior) - gammaln(prior)).sum()
    return float(np.exp(log))


def test_all_cuts_are_averaged_as_by_trying_every_one() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 5, (2, 5, 3))
    counts[1, 3:] = 0
    counts[:, :, 2][1] = 0
    lengths, widths = np.array([5, 3]), np.array([3, 2])
    stretches = Stretches.of(counts, lengths, widths)
    for i, (length, width) in enumerate(zip(lengths, widths, strict=True)):
        weights: dict[tuple[int, int], float] = {}
        total = 0.0
        for size in range(length):
            for cuts in combinations(range(1, length), size):
                parts = list(pairwise((0, *cuts, length)))
                likelihood = 0.1**size * 0.9 ** (length - 1 - size)
                for a, b in parts:
                    own = counts[i, a:b, :width].sum(axis=0)
                    likelihood *= np.mean([multinomial_likelihood(own, prior) for prior in PRIOR_COUNTS])
                total += likelihood
                for part in parts:
                    weights[part] = weights.get(part, 0.0) + likelihood
        assert stretches.backward(0.1)[i, 0] == pytest.approx(np.log(total))
        posterior = stretches.posterior(0.1)[i]
        for (a, b), weight in weights.items():
            assert posterior[a, b - 1] == pytest.approx(weight / total)
        assert posterior.sum() == pytest.approx(sum(weights.values()) / total)


def test_without_a_rollout_that_gives_the_gold_answer_there_is_no_rho() -> None:
    """H falls in both trajectories; only in the first does a rollout give the gold answer, "10"."""
    early, late = [1, 2, 3, 4, 5, 6, 7, 8], [1] * 8
    codes = np.array([[[*early[:7], 0], early, early, late, late, late], [early, early, early, late, late, late]])
    table = encode(frame(codes))
    found = smooth(table, 0.5)
    assert (found.moves > 0.9).all()
    assert found.num_gold.tolist() == [1] + [0] * 11
    rho = found.rho(slice(None), table.trajectory_offsets)
    assert np.isfinite(rho[0])
    assert np.isnan(rho[1])
    later = np.arange(12) % 6 > 0
    assert np.isnan(found.rho(later, np.array([0, 5, 10]))).all(), "counted among the checkpoints that are asked for"


def test_moments_are_those_of_the_posterior() -> None:
    """One checkpoint: a posterior that mixes Dirichlet distributions, drawn from."""
    rng = np.random.default_rng(1)
    table = encode(frame(rng.integers(0, 3, (1, 1, 12))))
    found = smooth(table, 0.5)
    counts = np.bincount(table.local_answers().code, minlength=int(table.num_answers[0]))
    likelihoods = [multinomial_likelihood(counts, prior) for prior in PRIOR_COUNTS]
    priors = rng.choice(PRIOR_COUNTS, size=200_000, p=np.array(likelihoods) / sum(likelihoods))
    p = rng.standard_gamma(counts + priors[:, None])
    p /= p.sum(axis=1, keepdims=True)
    entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1)
    assert found.entropy[0] == pytest.approx(entropy.mean(), abs=0.002)
    assert found.entropy_sd[0] == pytest.approx(entropy.std(), rel=0.02)
    assert found.probabilities == pytest.approx(p.mean(axis=0), abs=0.002)
    assert found.hazard in HAZARDS


def test_a_stretch_that_agrees_is_certain_however_many_answers_there_were_before() -> None:
    """Forty answers at the first checkpoints, one at the last ones, where the prior may not keep H from 0."""
    spread = np.arange(40)
    table = encode(frame(np.array([[spread, spread[::-1], spread * 0 + 7, spread * 0 + 7]])))
    found = smooth(table, 0.5)
    assert (found.entropy[:2] > 3.3).all()
    assert (found.entropy[2:] < 0.05).all()


@pytest.mark.parametrize("number", [10, 20])
@pytest.mark.parametrize("p", [(0.7, 0.1, 0.1, 0.1), (0.1, 0.9), (0.05, 0.45, 0.5)])
def test_the_gate_leaves_out_what_does_not_move(p: tuple[float, ...], number: int) -> None:
    table = encode(frame(draw(constant(400, np.array(p), 16), number, np.random.default_rng(2))))
    found = smooth(table, 0.5).rho(slice(None), table.trajectory_offsets)
    assert np.isfinite(found).mean() <= 0.03


@pytest.mark.parametrize(
    ("scenario", "most"), [("lock-in", 0.08), ("partial lock-in", 0.14), ("martingale", 0.07), ("late", 0.14)]
)
def test_the_mean_alignment_is_near_the_true_one(scenario: str, most: float) -> None:
    """Root mean square error of the mean over 64 trajectories at N = 20, six sets."""
    errors = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        probabilities = SCENARIOS[scenario](64, rng)
        table = encode(frame(draw(probabilities, 20, rng), null=4))
        found = smooth(table, 0.5).rho(slice(None), table.trajectory_offsets)
        errors.append(np.nanmean(found) - np.nanmean(true_rho(probabilities)))
    assert np.sqrt(np.mean(np.square(errors))) < most


def test_lengths_of_all_kinds_are_smoothed_apart() -> None:
    """A trajectory has the same estimates alone and beside others, at the same hazard."""
    rng = np.random.default_rng(3)
    rollouts = frame(draw(moving(6, 9, rng), 8, rng), null=4, lengths=np.array([1, 2, 3, 9, 5, 9]))
    found = smooth(encode(rollouts), 0.5)
    table = encode(rollouts)
    for i in range(6):
        alone = smooth(encode(rollouts[rollouts["problem_id"] == f"p{i}"]), 0.5)
        rows = slice(int(table.trajectory_offsets[i]), int(table.trajectory_offsets[i + 1]))
        if alone.hazard == found.hazard:
            assert alone.entropy == pytest.approx(found.entropy[rows])
            assert alone.surprisal == pytest.approx(found.surprisal[rows])
    assert (found.one_stretch[table.first] > 1 - 1e-9).all()


def test_cuts_are_drawn_from_the_posterior() -> None:
    rng = np.random.default_rng(4)
    counts = rng.integers(0, 5, (2, 5, 3))
    counts[1, 3:] = 0
    stretches = Stretches.of(counts, np.array([5, 3]), np.array([3, 3]))
    begin = stretches.draw_divisions(0.2, 20_000, rng)
    posterior = stretches.posterior(0.2)
    for i, length in enumerate((5, 3)):
        for t in range(length):
            assert (begin[i, :, t] == t).mean() == pytest.approx(posterior[i, t].sum(), abs=0.015)


def test_without_anyone_who_stays_the_divergences_are_the_rollouts() -> None:
    rng = np.random.default_rng(5)
    table = encode(frame(draw(moving(30, 8, rng), 20, rng), null=4, lengths=rng.integers(1, 9, 30)))
    divergences = Divergences(
        known=np.zeros(30, dtype=bool),
        log_stay=np.zeros(table.num_checkpoints),
        segment=table.last[table.trajectory_of_checkpoint][table.checkpoint_of_rollout],
        uncensored_from=np.zeros(table.num_rollouts, dtype=np.int64),
        num_cut=np.zeros(30, dtype=np.int64),
        decided=np.zeros(30, dtype=bool),
        end=table.checkpoint[table.last],
    )
    found = smooth_divergences(table, divergences, np.zeros(30, dtype=bool), 0)
    smoothed = smooth(table, 0.5)
    z = (found.entropy - smoothed.entropy) / (smoothed.entropy_sd / np.sqrt(NUM_DRAWS))
    assert z.std() == pytest.approx(1, abs=0.3)
    assert ((found.high - found.low) / (3.92 * smoothed.entropy_sd)).mean() == pytest.approx(1, abs=0.15)


def test_smoothed_divergences_are_better_than_either() -> None:
    rng = np.random.default_rng(6)
    rollouts, logprobs, truth = Chain(12, 4, rng, spread=0.01, end=0.05).run(60, 10, 4, 80, rng, budget="total")
    table = encode(rollouts)
    divergences = Divergences.of(table, logprobs, SIAConfig(max_tokens=80, rollout_budget="total"))
    assert divergences is not None
    decomposed = decompose(table, divergences, 0.5)
    both = smooth_divergences(table, divergences, ~decomposed.withheld, 0)
    entropy = entropy_of(truth)

    def error(values: np.ndarray) -> float:
        return float(np.sqrt(((values - entropy) ** 2).mean()))

    assert error(both.entropy) < min(error(decomposed.entropy), error(smooth(table, 0.5).entropy))
    assert ((both.low <= entropy) & (entropy <= both.high)).mean() > 0.8
