from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from fastsia.sia.entropy import ends_correct, gains, measure
from fastsia.sia.table import encode
from tests.sia.simulate import constant, draw, frame


def expected_plugin(probabilities: np.ndarray, number: int) -> float:
    """E[Ĥ_N]: each class's count is binomial."""
    counts = np.arange(1, number + 1)
    shares = counts / number
    return float(sum(-(binom.pmf(counts, number, p) * shares * np.log(shares)).sum() for p in probabilities))


def test_by_hand() -> None:
    # Four rollouts a checkpoint, answers 0 (gold), 1 and null (2).
    table = encode(frame(np.array([[[0, 0, 1, 2], [0, 0, 0, 0]]]), null=2))
    stats = measure(table, alpha=0.5)
    np.testing.assert_allclose(stats.entropy, [1.5 * np.log(2), 0.0])
    # V = {10, 11} and null = 3.
    np.testing.assert_allclose(stats.gold_surprisal, -np.log([2.5 / 5.5, 4.5 / 5.5]))
    assert stats.null_rate.tolist() == [0.25, 0.0]
    step, total = gains(table, stats)
    assert np.isnan(step[0])
    assert step[1] == pytest.approx(stats.gold_surprisal[0] - stats.gold_surprisal[1])
    assert total.tolist() == pytest.approx([0.0, step[1]])
    assert ends_correct(table, stats).tolist() == [True]


@pytest.mark.parametrize("number", [10, 20, 50])
def test_plugin_bias_is_as_theory_says_and_chao_shen_is_nearer(number: int) -> None:
    probabilities = np.array([0.4, 0.3, 0.1, 0.08, 0.06, 0.04, 0.02])
    truth = -(probabilities * np.log(probabilities)).sum()
    rng = np.random.default_rng(number)
    table = encode(frame(draw(constant(3000, probabilities, 2), number, rng)))
    stats = measure(table, 0.5)
    error = stats.entropy.std() / np.sqrt(len(stats.entropy))
    assert stats.entropy.mean() == pytest.approx(expected_plugin(probabilities, number), abs=4 * error)
    # To first order the bias is -(K - 1) / (2 N), which Miller and Madow add back.
    assert stats.entropy.mean() - truth == pytest.approx(-(len(probabilities) - 1) / (2 * number), rel=0.35)
    plugin_bias = abs(stats.entropy.mean() - truth)
    assert abs(stats.entropy_chao_shen.mean() - truth) < 0.6 * plugin_bias
    assert abs(stats.entropy_miller_madow.mean() - truth) < 0.6 * plugin_bias
