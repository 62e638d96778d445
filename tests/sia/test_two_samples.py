from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from fastsia.sia import two_samples
from fastsia.sia.two_samples import compare_counts, total_variation


def by_hand(first: list[int], second: list[int]) -> tuple[float, float]:
    """The test by listing every division."""
    answers = np.repeat(np.arange(len(first)), np.add(first, second))
    found = []
    for chosen in combinations(range(len(answers)), sum(first)):
        counts = np.bincount(answers[list(chosen)], minlength=len(first))
        found.append(total_variation(counts[None], (np.add(first, second) - counts)[None])[0])
    observed = total_variation(np.array([first]), np.array([second]))[0]
    return float(np.mean(np.array(found) >= observed - 1e-12)), float(np.mean(found))


@pytest.mark.parametrize(
    ("first", "second"),
    [([3, 2, 0], [0, 2, 3]), ([5], [5]), ([4, 1], [1, 6]), ([1, 1, 1, 1], [2, 0, 0, 4]), ([6, 0], [0, 4]), ([1], [1])],
)
def test_it_counts_every_division(first: list[int], second: list[int]) -> None:
    p_value, chance = compare_counts(np.array([first]), np.array([second]))
    assert (p_value[0], chance[0]) == pytest.approx(by_hand(first, second))


def test_pairs_of_one_width_are_tested_together_and_empty_sets_are_unknown() -> None:
    first, second = np.array([[3, 2, 0], [0, 0, 0], [5, 0, 0]]), np.array([[0, 2, 3], [1, 2, 2], [5, 0, 0]])
    p_value, chance = compare_counts(first, second)
    assert p_value[0] == pytest.approx(by_hand([3, 2, 0], [0, 2, 3])[0])
    assert np.isnan([p_value[1], chance[1]]).all()
    assert np.isnan(total_variation(first, second)[1])
    assert (p_value[2], chance[2]) == (1.0, 0.0)


def test_of_large_sets_divisions_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = np.array([[30, 20, 10]]), np.array([[22, 18, 20]])
    exact = compare_counts(first, second)
    two_samples._distribution.cache_clear()
    monkeypatch.setattr(two_samples, "_MOST_ANSWERS", 10)
    drawn = compare_counts(first, second)
    assert drawn[0] == pytest.approx(exact[0], abs=0.02)
    assert drawn[1] == pytest.approx(exact[1], abs=0.005)
    far = compare_counts(np.array([[60, 0]]), np.array([[0, 60]]))[0]
    assert far == pytest.approx(1 / 10_000)
    two_samples._distribution.cache_clear()


def test_its_level_holds() -> None:
    """2,000 pairs from one distribution: at most a share a of the p-values is below a, and not far fewer."""
    rng = np.random.default_rng(0)
    p_value, _ = compare_counts(*(rng.multinomial(12, [0.4, 0.3, 0.2, 0.1], size=2000) for _ in range(2)))
    for level in (0.01, 0.05, 0.2):
        share = (p_value <= level).mean()
        assert 0.4 * level < share < level + 3 * np.sqrt(level / 2000)
