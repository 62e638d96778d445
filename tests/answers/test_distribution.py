"""Entropies against scipy and against their definitions."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy

from fastsia.answers.distribution import AnswerSummary, answer_entropy, summarize
from fastsia.errors import FastsiaError


def random_groups(seed: int, num_groups: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(codes, offsets, gold, num_answers) with group sizes 0 to 40, few and many classes, and distant interned ids."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 41, size=num_groups)
    ids = np.array([-1, 0, 1, 2, 7, 1000, 2**31 - 1])
    codes = np.concatenate(
        [
            rng.choice(ids[: rng.integers(1, 8)], size=size) if rng.random() < 0.8 else rng.permutation(size)
            for size in sizes
        ]
    )
    gold = rng.choice([-2, 0, 1, 7], size=num_groups)
    return codes, np.concatenate([[0], np.cumsum(sizes)]), gold, rng.integers(1, 30, size=num_groups)


def test_entropies_are_scipys() -> None:
    codes, offsets, gold, num_answers = random_groups(0)
    summary = summarize(codes, offsets, gold, num_answers, 0.5)
    for g in range(len(gold)):
        group = codes[offsets[g] : offsets[g + 1]].tolist()
        counts = Counter(group)
        assert summary.count[g] == len(group)
        assert summary.num_distinct[g] == len(counts)
        assert summary.gold_count[g] == counts[gold[g]]
        assert summary.null_count[g] == counts[-1]
        p = (counts[gold[g]] + 0.5) / (len(group) + 0.5 * num_answers[g])
        assert summary.gold_surprisal[g] == pytest.approx(-math.log(p), abs=1e-12)
        if not group:
            assert summary.mode[g] == -1
            assert math.isnan(summary.entropy[g])
            assert math.isnan(summary.entropy_chao_shen[g])
            assert math.isnan(summary.entropy_miller_madow[g])
            continue
        assert summary.mode[g] == counts.most_common(1)[0][0]  # of equal counts, Counter gives the first seen
        expected = float(scipy_entropy(list(counts.values())))
        assert abs(summary.entropy[g] - expected) < 1e-12
        miller_madow = expected + (len(counts) - 1) / (2 * len(group))
        assert abs(summary.entropy_miller_madow[g] - miller_madow) < 1e-12
        assert abs(summary.entropy_chao_shen[g] - chao_shen(list(counts.values()))) < 1e-12


def chao_shen(counts: list[int]) -> float:
    """The estimator of Chao and Shen (2003), with one singleton fewer if there are only singletons."""
    n, singletons = sum(counts), counts.count(1)
    coverage = 1 - (singletons - 1 if singletons == n else singletons) / n
    shares = [coverage * count / n for count in counts]
    return -sum(p * math.log(p) / (1 - (1 - p) ** n) for p in shares)


def test_ties_go_to_the_first_drawn() -> None:
    summary = summarize([5, 3, 3, 5, -1, -1, 9, -1, 9], [0, 4, 9], [-2, -2], [1, 1], 0.5)
    assert summary.mode.tolist() == [5, -1]
    assert summarize([9, -1, -1, 9], [0, 4], [9], [2], 0.5).mode.tolist() == [9]


def test_one_answer_has_no_entropy() -> None:
    """The entropy is exactly 0, not -0, because reports print it."""
    for estimator in ("plugin", "miller_madow", "chao_shen"):
        value = answer_entropy(["5"] * 7, estimator)
        assert value == 0
        assert math.copysign(1, value) == 1


def test_chao_shen_of_singletons_is_finite() -> None:
    """Without the correction the coverage would be 0."""
    assert answer_entropy(["1", "2", "3"], "chao_shen") == pytest.approx(chao_shen([1, 1, 1]), abs=1e-12)
    assert answer_entropy(["1"], "chao_shen") == 0


def test_answer_entropy() -> None:
    """No answer is a class; the estimators are ordered as their bias corrections make them."""
    answers = ["1", None, "1", "2", None, "3"]
    plugin = answer_entropy(answers)
    assert plugin == pytest.approx(float(scipy_entropy([2, 2, 1, 1])), abs=1e-12)
    assert answer_entropy(answers, "miller_madow") == pytest.approx(plugin + 3 / 12, abs=1e-12)
    assert answer_entropy(answers, "chao_shen") > plugin
    assert answer_entropy(iter(answers)) == plugin
    assert answer_entropy([None, None]) == 0


def test_no_groups() -> None:
    summary = summarize([], [0], [], [], 0.5)
    assert all(getattr(summary, field.name).shape == (0,) for field in fields(AnswerSummary))


def test_mistakes_are_named() -> None:
    with pytest.raises(FastsiaError, match="estimator must be one of"):
        answer_entropy(["1"], "jackknife")  # type: ignore[arg-type]
    with pytest.raises(FastsiaError, match="answers must not be empty"):
        answer_entropy([])
    with pytest.raises(FastsiaError, match="offsets must run from 0 to 2"):
        summarize([0, 1], [0, 1], [0], [1], 0.5)
    with pytest.raises(FastsiaError, match="offsets must be non-decreasing"):
        summarize([0, 1], [0, 2, 1, 2], [0, 0, 0], [1, 1, 1], 0.5)
    with pytest.raises(FastsiaError, match="one entry for each of the 1 groups"):
        summarize([0, 1], [0, 2], [0, 1], [1], 0.5)
