"""The entropy estimator of Nemenman, Shafee and Bialek (2002): a mixture of Dirichlet priors that is nearly flat in H.

Where there are many answers, a Dirichlet prior with b draws for each of V all but fixes the entropy before anything is
drawn, to xi(b) = psi(V b + 1) - psi(b + 1). NSB averages over b with the weights that make xi uniform on (0, ln V).
"""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln, psi

from fastsia.sia.table import RolloutTable

NUM_NODES = 64
"""Nodes of the integral over xi (Gauss-Legendre). Chosen by fastsia: doubling them changes no entropy by 1e-6 nats at
20 rollouts."""

_LOG_RANGE = (-25.0, 25.0)  # of ln b
_NUM_HALVINGS = 60


def nsb_entropy(table: RolloutTable) -> np.ndarray:
    """float64 [G], nats: the posterior mean of H at every checkpoint, with V the answers of its trajectory."""
    width = len(table.answers) + 1
    cell, number = np.unique(table.checkpoint_of_rollout * width + table.code.astype(np.int64) + 1, return_counts=True)
    most = int(number.max())
    # How many answers were drawn 1, 2, ... times: all that matters, and few checkpoints differ in it.
    times = np.zeros((table.num_checkpoints, most), dtype=np.int32)
    np.add.at(times, (cell // width, number - 1), 1)
    keys = np.column_stack([table.num_answers[table.trajectory_of_checkpoint].astype(np.int32), times])
    order = np.lexsort(keys.T)
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (keys[order][1:] != keys[order][:-1]).any(axis=1)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.cumsum(fresh) - 1
    distinct = keys[order[fresh]]
    found = np.empty(len(distinct))
    for classes in np.unique(distinct[:, 0]):
        rows = distinct[:, 0] == classes
        found[rows] = posterior_mean(distinct[rows, 1:].astype(np.float64), int(classes))
    return found[place]


def posterior_mean(times: np.ndarray, classes: int) -> np.ndarray:
    """float64 [U], nats: the estimate from how many answers were drawn k = 1, 2, ... times.

    Args:
        times: float64 [U, most].
        classes: V, how many answers there are.
    """
    nodes, weights = np.polynomial.legendre.leggauss(NUM_NODES)
    b = _concentration(np.log(classes) * (nodes + 1) / 2, classes)
    drawn = np.arange(1, times.shape[1] + 1)
    total, unseen = times @ drawn, classes - times.sum(axis=1)
    all_b = classes * b
    evidence = times @ (gammaln(drawn[:, None] + b) - gammaln(b))
    evidence += gammaln(all_b) - gammaln(total[:, None] + all_b)
    each = (drawn[:, None] + b) * psi(drawn[:, None] + b + 1)
    entropy = psi(total[:, None] + all_b + 1)
    entropy -= (times @ each + unseen[:, None] * (b * psi(b + 1))) / (total[:, None] + all_b)
    share = np.exp(evidence - evidence.max(axis=1, keepdims=True)) * weights
    return (share * entropy).sum(axis=1) / share.sum(axis=1)


def _concentration(xi: np.ndarray, classes: int) -> np.ndarray:
    """b with psi(V b + 1) - psi(b + 1) = xi, by bisection of ln b; the difference rises from 0 to ln V."""
    low, high = np.full(len(xi), _LOG_RANGE[0]), np.full(len(xi), _LOG_RANGE[1])
    for _ in range(_NUM_HALVINGS):
        middle = (low + high) / 2
        b = np.exp(middle)
        below = psi(classes * b + 1) - psi(b + 1) < xi
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.exp((low + high) / 2)
