"""Invariants of every run along a model's own text; a violation means a bug or another distribution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import logsumexp

from fastsia.sia.decomposition import LEAF_TOLERANCE, leaf_sums
from fastsia.sia.extras.signatures import carried_rows
from fastsia.sia.registry import FACTS, NOTES
from fastsia.sia.scored import Scored

ALARM = 0.001
"""Level of every test. Chosen by fastsia."""

MOST_CUT = 0.01
"""Largest share of cut rollouts at which the tests of gain and entropy hold. Chosen by fastsia."""

BETS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
"""Parts of the capital that the test of the mean gain bets. Chosen by fastsia."""

_VIOLATIONS = {
    "gain": "The mean gain is above 0",
    "carried_entropy": "Mean H, with ended trajectories carried forward, rises",
    "decomposition": "The decomposition differs from the rollouts of single checkpoints",
    "leaf_sum": "The probabilities of distinct rollouts sum to more than 1",
}


def _unchecked(scored: Scored) -> str | None:
    """Why the tests do not hold for this table; None where they do."""
    if scored.ends is None:
        return "it is not known whether trajectories and rollouts come from one distribution"
    if scored.off_policy:
        return "the trajectories were given, not drawn from the model"
    if scored.config.shuffle_prefix:
        return "prefixes are shuffled"
    if scored.table.cut is not None and scored.table.cut.mean() >= MOST_CUT:
        return f"the token limit cut {100 * scored.table.cut.mean():.1f} % of the rollouts"
    if scored.table.num_problems < 3:
        return "there are fewer than 3 problems"
    return None


def _invariants(scored: Scored) -> dict[str, Any]:
    checks: dict[str, Any] = {}
    if scored.table.logprob is not None:
        checks["leaf_sum"] = {"value": float(leaf_sums(scored.table).max()), "p_value": None}
    reason = _unchecked(scored)
    if reason is None:
        checks["gain"] = _gain_is_positive(scored)
        # Where the text decides on the checkpoints, what follows one may have placed it.
        if scored.config.checkpoints is None and scored.config.max_checkpoints is None:
            checks["carried_entropy"] = _rises(scored)
        if (differs := _decomposition_differs(scored)) is not None:
            checks["decomposition"] = differs
    return {"invariants": {"alarm": ALARM, "not_checked": reason, "checks": checks}}


def _problem_means(scored: Scored, values: np.ndarray) -> np.ndarray:
    """Means over each problem's trajectories of values [T, ...]."""
    counts = np.diff(scored.table.problem_offsets).reshape(-1, *[1] * (values.ndim - 1))
    return np.add.reduceat(values, scored.table.problem_offsets[:-1], axis=0) / counts


def _gain_is_positive(scored: Scored) -> dict[str, float]:
    """One-sided test that the expected gain is at most 0, valid at any number of problems and any skew.

    A gain g is at most B = ln((N + alpha) / alpha) either way. If its expectation is at most 0, a gambler who starts
    with 1 and bets a part b of the capital on each problem, which multiplies it by 1 + b g / B, has at most 1 in
    expectation; so has the mean over `BETS`, and 1 over it is a p-value (Markov's inequality; Waudby-Smith and Ramdas
    2024). A t-test would alarm wherever the rare large losses of a model that is mostly right are missing.
    """
    means = _problem_means(scored, scored.trajectories["gain"].to_numpy())
    alpha = scored.config.smoothing
    largest = max(float(np.log1p(scored.rarefaction_depth / alpha)), float(np.abs(means).max()))
    capital = logsumexp([np.log1p(bet * means / largest).sum() for bet in BETS]) - np.log(len(BETS))
    return {"value": float(means.mean()), "p_value": float(np.exp(min(0.0, -capital)))}


def _rises(scored: Scored) -> dict[str, float]:
    """The most significant rise of carried-forward mean H between neighbouring positions (t-tests, Bonferroni;
    approximate with few problems)."""
    entropy = scored.stats.entropy[carried_rows(scored.table)]
    steps = _problem_means(scored, np.diff(entropy, axis=1))
    moving = (steps != 0).sum(axis=0) >= 8  # fewer say nothing by a t-test
    if not moving.any():
        return {"value": 0.0, "p_value": 1.0}
    steps = steps[:, moving]
    t = steps.mean(axis=0) / (steps.std(axis=0, ddof=1) / np.sqrt(len(steps)))
    p = stats.t.sf(t, len(steps) - 1)
    worst = int(np.argmin(p))
    return {"value": float(steps[:, worst].mean()), "p_value": float(min(1.0, len(p) * p[worst]))}


def _decomposition_differs(scored: Scored) -> dict[str, float] | None:
    """One chi-square over outcomes: the share of each trajectory's last answer by plain counts of one half of the
    rollouts minus its estimate by the decomposition of the other half (`decomposition.half_difference`)."""
    difference = scored.half_difference
    if difference is None:
        return None
    statistic, degrees = 0.0, 0
    for member in (scored.correct, ~scored.correct):
        there = member & np.isfinite(difference)
        problem = scored.table.problem_of_trajectory[there]
        sums = np.bincount(problem, weights=difference[there], minlength=scored.table.num_problems)
        counts = np.bincount(problem, minlength=scored.table.num_problems)
        means = sums[counts > 0] / counts[counts > 0]
        if len(means) >= 8 and (error := means.std(ddof=1) / np.sqrt(len(means))) > 0:
            z = stats.norm.isf(stats.t.sf(abs(means.mean() / error), len(means) - 1))
            statistic, degrees = statistic + float(z) ** 2, degrees + 1
    if not degrees:
        return None
    value = float(np.nanmean(difference))
    return {"value": value, "p_value": float(stats.chi2.sf(statistic, degrees)), "chi_square": statistic}


def violations(invariants: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each check that failed."""
    for name, found in invariants["checks"].items():
        value, p_value = found["value"], found["p_value"]
        if name == "leaf_sum":
            if value > 1 + LEAF_TOLERANCE:
                yield f"{_VIOLATIONS[name]} ({value:.3f}): they are not those of the sampling distribution."
        elif p_value < ALARM:
            yield (
                f"{_VIOLATIONS[name]} by {value:.4f} (p = {p_value:.1g}). Along a model's own text this hardly happens "
                "by chance: look for a bug, or for rollouts from another distribution."
            )


def _notes(scored: Scored, facts: Mapping[str, Any]) -> Iterator[str]:
    yield from violations(facts["invariants"])


FACTS.append(_invariants)
NOTES.append(_notes)
