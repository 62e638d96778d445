"""Allocated rollouts: no checkpoint's number looks at its own rollouts; the error falls for the same tokens."""

from __future__ import annotations

import numpy as np
import pytest

from fastsia.config import SIAConfig
from fastsia.sia.allocation import MOST_ROLLOUTS, Pilot, allocate, bias_bound
from tests.sia.simulate import draw, moving


def pilots(answers: np.ndarray, cost: np.ndarray) -> list[Pilot]:
    """Of gold answer 0, from answers [P, C, N] and the tokens of a rollout [P, C]."""
    variance = (answers == 0).var(axis=2, ddof=1)
    return [Pilot(own, tokens, np.zeros(len(own))) for own, tokens in zip(variance, cost, strict=True)]


def test_a_checkpoint_s_number_does_not_depend_on_its_own_rollouts() -> None:
    """The bias of adaptive sampling comes from nothing else. Whatever one checkpoint draws, its number stays; others'
    change."""
    rng = np.random.default_rng(0)
    answers = draw(moving(6, 7, rng), 6, rng)
    cost = rng.uniform(5, 50, (6, 7))
    before = allocate(pilots(answers, cost), 6, target_se=0.1)
    others = 0
    for checkpoint in range(7):
        changed, costs = answers.copy(), cost.copy()
        changed[2, checkpoint] = np.arange(6) % 2
        costs[2, checkpoint] = 500.0
        after = allocate(pilots(changed, costs), 6, target_se=0.1)
        assert after[2][checkpoint] == before[2][checkpoint]
        others += any((one != two).any() for one, two in zip(after, before, strict=True))
    assert others == 7


def simulate(rng: np.random.Generator, p: np.ndarray, adaptive: str) -> np.ndarray:
    """The estimated shares of answer 0, float64 [P, C], of two rounds of allocated rollouts."""
    first = 4
    answers = draw(p, 60, rng)
    own = (answers[..., :first] == 0).mean(axis=2)
    if adaptive == "allocated":
        number = np.array(allocate(pilots(answers[..., :first], np.ones(p.shape[:2])), first, target_se=0.12))
    else:  # stop where the first ones agree
        number = np.where((own == 0) | (own == 1), first, 20)
    number = np.minimum(number, 60)
    return np.where(np.arange(60) < number[..., None], answers == 0, 0).sum(axis=2) / number


def test_allocated_rollouts_leave_shares_unbiased_and_stopping_on_agreement_does_not() -> None:
    rng = np.random.default_rng(1)
    p = moving(8, 6, rng)
    runs = 250
    for adaptive in ("allocated", "agreement"):
        shares = np.array([simulate(rng, p, adaptive) for _ in range(runs)])
        z = (shares.mean(axis=0) - p[..., 0]) / np.maximum(shares.std(axis=0) / np.sqrt(runs), 1e-9)
        inner = (p[..., 0] > 0.1) & (p[..., 0] < 0.9)
        if adaptive == "allocated":
            assert np.abs(z[inner]).max() < 4
            assert 0.7 < z[inner].std() < 1.3
        else:
            assert np.abs(z[inner]).max() > 6


def test_a_target_is_reached_with_fewer_tokens_than_equal_numbers_need() -> None:
    rng = np.random.default_rng(2)
    p = moving(60, 12, rng, final_share=0.98)
    p[:30] = (0.98, 0.01, 0.01, 0.0, 0.0)  # known from the start
    cost = np.broadcast_to(np.linspace(60, 5, 12), (60, 12))
    number = np.array(allocate(pilots(draw(p, 10, rng), cost), 10, target_se=0.05))
    variance = p[..., 0] * (1 - p[..., 0])
    reached = np.sqrt((variance / number).mean())
    assert reached == pytest.approx(0.05, rel=0.08)
    equal = variance.mean() / reached**2
    assert (number * cost).sum() < 0.9 * (equal * cost).sum()
    assert number.min() >= 10


def test_a_budget_is_spent_on_all_problems_alike() -> None:
    """The measured costs sum to the budget, up to rounding; the first problems get no more than the last ones."""
    rng = np.random.default_rng(3)
    p = np.tile(moving(10, 8, rng), (4, 1, 1))
    cost = np.full((40, 8), 10.0)
    made = pilots(draw(p, 8, rng), cost)
    number = np.array(allocate(made, 8, tokens=20 * cost.sum()))
    assert 0.95 * 20 * cost.sum() < (number * cost).sum() <= 20 * cost.sum()
    parts = number.reshape(4, -1).sum(axis=1)
    assert parts.max() < 1.2 * parts.min()
    assert (np.array(allocate(made, 8, tokens=5 * cost.sum())) == 8).all()
    both = np.array(allocate(made, 8, target_se=0.01, tokens=12 * cost.sum()))
    assert (both * cost).sum() <= 12 * cost.sum()
    limit = bias_bound(number.ravel(), np.full(int(number.sum()), 10), 200)
    assert 0 < limit < 0.02


def test_what_one_checkpoints_lengths_can_change_is_in_the_limit() -> None:
    """A budget just above the uniform round, nearly all of it for one trajectory: its numbers follow the lengths of
    their own rollouts closely, which a share of all tokens does not show."""
    first, longest = 8, 100
    variance, cost = np.full((60, 6), 1e-6), np.full((60, 6), 10.0)
    variance[0] = 0.25

    def numbers(length: float) -> np.ndarray:
        lengths = cost.copy()
        lengths[0, 2] = length
        made = [Pilot(v, c, np.zeros(6)) for v, c in zip(variance, lengths, strict=True)]
        return np.array(allocate(made, first, tokens=1.05 * first * cost.sum()))

    number = numbers(10.0)
    assert number[0, 2] > 2 * first > number[1:].max()
    tokens = np.repeat(cost.ravel(), number.ravel()).astype(int)
    changed = first / numbers(longest)[0, 2] - first / numbers(1.0)[0, 2]
    assert 0 < changed / 2 / (2 * np.sqrt(first)) <= bias_bound(number.ravel(), tokens, longest)


def test_no_checkpoint_gets_more_than_the_most() -> None:
    made = [Pilot(np.full(4, 0.2), np.ones(4), np.zeros(4))] * 2
    assert np.max(allocate(made, 4, tokens=1e5)) == MOST_ROLLOUTS


def test_odd_trajectories() -> None:
    """One checkpoint, none, no token left to draw, agreement everywhere."""
    alone = Pilot(np.array([0.2]), np.array([3.0]), np.zeros(1))
    none = Pilot(np.zeros(0), np.zeros(0), np.zeros(0))
    spent = Pilot(np.array([0.2, 0.2, 0.0]), np.array([3.0, 3.0, np.nan]), np.zeros(3))
    found = allocate([alone, none, spent], 4, target_se=0.05)
    assert [len(own) for own in found] == [1, 0, 3]
    assert found[0][0] > 4
    assert found[2][2] == 4
    same = Pilot(np.zeros(5), np.ones(5), np.zeros(5))
    assert allocate([same], 4, target_se=0.05)[0].tolist() == [4] * 5
    assert allocate([], 4, target_se=0.05) == []


def test_what_a_first_round_says() -> None:
    """Variance and bias of H and of the gold answer's share, from answers as they are read."""
    answers = [["7", "7", None, "8"], ["7"] * 4, ["8", "9", "10", None]]
    tokens = [np.array([3, 5, 0, 0]), np.zeros(4), np.zeros(0)]
    of_entropy = Pilot.of(answers, "7", tokens, "entropy")
    p, logs = np.array([0.5, 0.25, 0.25]), np.log([0.5, 0.25, 0.25])
    variance = ((p * logs**2).sum() - (p @ logs) ** 2) * 4 / 3
    np.testing.assert_allclose(of_entropy.variance, [variance, 0, 0], atol=1e-12)
    np.testing.assert_array_equal(of_entropy.cost, [2, 1, np.nan])
    assert of_entropy.bias[1] == 0 < of_entropy.bias[0] < of_entropy.bias[2]
    of_gold = Pilot.of(answers, "7", tokens, "gold")
    np.testing.assert_allclose(of_gold.variance, [1 / 3, 0, 0])
    assert not of_gold.bias.any()


def test_many_answers_need_more_rollouts_than_their_spread_says() -> None:
    """Where every rollout has its own answer, ln p has no variance, and H is far too low."""
    apart = Pilot.of([[str(a) for a in range(8)]] * 4, "0", [np.full(8, 10)] * 4, "entropy")
    assert apart.variance.max() < 1e-12
    assert allocate([apart], 8, target_se=0.2)[0].min() > 30


def test_settings_that_cannot_be() -> None:
    from fastsia.errors import FastsiaError

    for settings, words in (
        ({"target_se": 0.0}, "target_se must be a finite number > 0, got 0.0."),
        ({"target_se": float("nan")}, "target_se must be a finite number > 0"),
        ({"max_total_tokens": 0}, "max_total_tokens must be an integer >= 1, got 0."),
        ({"target_se": 0.1, "num_rollouts": 1}, "target_se needs num_rollouts >= 2, got 1."),
        ({"max_total_tokens": 9, "temperature": 0}, "max_total_tokens needs a temperature above 0"),
        ({"target_se": 0.1, "target_of": "rho"}, 'target_of must be "entropy" or "gold"'),
    ):
        with pytest.raises(FastsiaError, match=words.replace("(", r"\(")):
            SIAConfig(**settings)  # type: ignore[arg-type]
