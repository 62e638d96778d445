"""A permutation test that two sets of samples come from the same distributions."""

from __future__ import annotations

import numpy as np

LEVEL = 0.001
PERMUTATIONS = 1999


def disagreement(counts: list[np.ndarray], seed: int) -> dict[str, float]:
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
    observed, dealt = 0.0, np.zeros(PERMUTATIONS)
    distance, distances = 0.0, np.zeros(PERMUTATIONS)
    for pair in counts:
        total, size = pair.sum(axis=0), int(pair[0].sum())
        again = rng.multivariate_hypergeometric(total, size, size=PERMUTATIONS, method="marginals")
        observed += float(((2 * pair[0] - total) ** 2 / total).sum())
        dealt += ((2 * again - total) ** 2 / total).sum(axis=1)
        rest = total.sum() - size
        distance += float(np.abs(pair[0] / size - pair[1] / rest).sum()) / 2
        distances += np.abs(again / size - (total - again) / rest).sum(axis=1) / 2
    return {
        "p_value": float((1 + (dealt >= observed).sum()) / (1 + PERMUTATIONS)),
        "mean_tv": distance / len(counts),
        "mean_tv_expected": float(distances.mean()) / len(counts),
    }
