"""The NSB estimate against direct integration over b, and its bias against other estimators'."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import gammaln, polygamma, psi

from fastsia.sia.decomposition import entropy_of
from fastsia.sia.entropy import measure
from fastsia.sia.nsb import nsb_entropy, posterior_mean
from fastsia.sia.table import encode
from tests.sia.simulate import draw, frame, moving


def integrated(counts: np.ndarray) -> float:
    """The same posterior mean as two integrals over ln b; counts [V], answers without a draw included."""
    classes, number = len(counts), counts.sum()

    def weight(log_b: float) -> float:
        b = np.exp(log_b)
        slope = classes * polygamma(1, classes * b + 1) - polygamma(1, b + 1)
        evidence = gammaln(classes * b) - gammaln(number + classes * b) + (gammaln(counts + b) - gammaln(b)).sum()
        return float(np.exp(evidence + 30) * slope * b)

    def mean(log_b: float) -> float:
        b = np.exp(log_b)
        total = number + classes * b
        return float(psi(total + 1) - ((counts + b) * psi(counts + b + 1)).sum() / total)

    limits = {"limit": 400, "points": [-4, 0, 4]}
    above = quad(lambda x: weight(x) * mean(x), -18, 18, **limits)[0]
    return float(above / quad(weight, -18, 18, **limits)[0])


@pytest.mark.parametrize("draws", [[0, 0, 0, 1], [0, 1, 2, 3], [0, 0, 0, 0, 0, 0], [2, 2, 1, 1, 0, 0, 0, 3, 3, 1]])
def test_it_is_the_posterior_mean(draws: list[int]) -> None:
    """Also of checkpoints that agree in their counts but not in which answer has them."""
    answers = np.array([[draws, [3 - a for a in draws]]])
    table = encode(frame(answers))
    found = nsb_entropy(table)
    drawn = np.bincount(draws, minlength=4)
    classes = int(table.num_answers[0])
    counts = np.sort(drawn[drawn > 0])
    counts = np.concatenate([np.zeros(classes - len(counts), dtype=np.int64), counts])
    assert found == pytest.approx([integrated(counts)] * 2, abs=2e-5)


@pytest.mark.parametrize(
    ("counts", "classes", "published", "error"),
    [
        ([7, 3, 5, 8, 9, 1, 3, 3, 1, 0, 2, 5, 2, 11, 4, 23, 5, 0, 8, 0], 20, 2.623634344888532, 1e-8),
        ([12, 4, 12, 4, 5, 3, 1, 5, 1, 2, 2, 2, 2, 11, 3, 4, 12, 12, 1, 2], 100, 2.840012048914245, 1e-8),
        ([4, 12, 4, 5, 3, 1, 5, 1, 2, 2, 2, 2, 11, 3, 4, 12, 12, 1, 2], 100, 2.8060922529931225, 1e-5),
    ],
)
def test_it_is_what_ndd_publishes(counts: list[int], classes: int, published: float, error: float) -> None:
    """The examples on the package index of ndd 1.4.2, 1.6.1 and its last version. The last one differs by 5e-6;
    direct integration gives our number."""
    times = np.bincount(counts)[None, 1:].astype(np.float64)
    assert posterior_mean(times, classes)[0] == pytest.approx(published, abs=error)


def test_it_is_less_biased_than_plug_in_and_within_its_range() -> None:
    rng = np.random.default_rng(0)
    truth = moving(150, 8, rng)
    table = encode(frame(draw(truth, 10, rng), null=4))
    stats, found = measure(table, 0.5), nsb_entropy(table)
    exact = entropy_of(truth.reshape(-1, 5))
    owner = table.trajectory_of_checkpoint
    assert (found > 0).all()
    assert (found <= np.log(table.num_answers[owner])).all()
    error, naive, miller = (x - exact for x in (found, stats.entropy, stats.entropy_miller_madow))
    assert abs(error.mean()) < abs(naive.mean()) / 2
    assert np.sqrt((error**2).mean()) < np.sqrt((miller**2).mean())


def test_ragged_checkpoints_each_have_their_own_counts() -> None:
    rng = np.random.default_rng(1)
    rollouts = frame(draw(moving(9, 6, rng), 9, rng), null=4, lengths=rng.integers(1, 7, 9))
    rollouts = rollouts[rng.random(len(rollouts)) < 0.7].reset_index(drop=True)
    table = encode(rollouts)
    found = nsb_entropy(table)
    for g in rng.choice(table.num_checkpoints, 8, replace=False):
        codes = table.code[table.checkpoint_offsets[g] : table.checkpoint_offsets[g + 1]]
        drawn = np.unique(codes, return_counts=True)[1]
        empty = int(table.num_answers[table.trajectory_of_checkpoint[g]]) - len(drawn)
        assert found[g] == pytest.approx(integrated(np.concatenate([np.zeros(empty), drawn])), abs=2e-5)
