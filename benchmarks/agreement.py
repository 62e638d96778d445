"""A permutation test that two sets of samples come from the same distributions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEVEL = 0.001
PERMUTATIONS = 1999


def disagreement(counts: Sequence[np.ndarray], seed: int) -> dict[str, float]:
    """Test the null hypothesis that two runs draw from one distribution at every place.

    The statistic is the sum over places and classes of (c1 - c2)^2 / (c1 + c2). Under the null a place's draws are
    exchangeable between the runs, so its classes are dealt again (multivariate hypergeometric).

    Args:
        counts: per place int [2, classes], how often each run drew each class there.
        seed: of the permutations.

    Returns:
        p_value; mean_tv, the total variation between both runs averaged over places; mean_tv_expected, its mean under
        the null.
    """
    rng = np.random.default_rng(seed)
    # Of each permutation, and at the end of the runs themselves.
    statistic, distance = np.zeros((2, PERMUTATIONS + 1))
    for pair in counts:
        total, size = pair.sum(axis=0), int(pair[0].sum())
        dealt = rng.multivariate_hypergeometric(total, size, size=PERMUTATIONS, method="marginals")
        first = np.concatenate([dealt, pair[:1]])
        statistic += ((2 * first - total) ** 2 / total).sum(axis=1)
        distance += np.abs(first / size - (total - first) / (total.sum() - size)).sum(axis=1) / 2
    return {
        "p_value": float((statistic >= statistic[-1]).mean()),
        "mean_tv": float(distance[-1]) / len(counts),
        "mean_tv_expected": float(distance[:-1].mean()) / len(counts),
    }
