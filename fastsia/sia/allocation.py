"""The allocated round: the numbers of rollouts that lower the mean square error most per token.

The error of a share is V / n, with V the variance of one rollout. That of H has the bias of the plug-in estimator
beside it, which falls as 1 / n: V / n + (B n_1 / n)^2, B estimated at the n_1 rollouts of the uniform round by
Chao-Shen's estimate minus the plug-in. The mean over checkpoints is least at a given number of tokens sum n_g c_g, c_g
the tokens of a rollout, where a further token lowers it as much everywhere; without bias that is n_g in proportion to
sqrt(V_g / c_g) (Neyman 1934).

V, B and c are not known, and a number that followed a checkpoint's own rollouts would bias its estimates: where the
first ones agree by chance, no further one would correct them. So the checkpoints of a trajectory are numbered 0, 1, 2,
..., and the numbers of the even ones are computed from the rollouts of the odd ones alone, and the other way round.
Given its number, a checkpoint's rollouts are then plain independent draws. docs/method.md has the rule and its cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastsia.answers.distribution import summarize
from fastsia.config import TargetOf

NEIGHBOURS = ((1, 1.0), (3, 0.5))
"""Distances, in checkpoints, and weights of those that predict V and c of a checkpoint. Chosen by simulation."""

SHRINKAGE = 0.5
"""Weight of the run's mean in the prediction of V and B^2; the rest is that of the neighbours. Chosen by simulation."""

MOST_ROLLOUTS = 1000
"""Most rollouts of a checkpoint, those of the uniform round included."""


@dataclass(frozen=True)
class Pilot:
    """The measurements of the uniform round on one trajectory.

    Attributes:
        variance: float64 [C], of one rollout's contribution to the target at each checkpoint, estimated.
        cost: float64 [C], mean tokens of a rollout after it diverges, at least 1; NaN where no rollout has a
            token left to draw.
        bias: float64 [C], of the target's estimate from the uniform round, without sign; 0 for shares.
    """

    variance: np.ndarray
    cost: np.ndarray
    bias: np.ndarray

    @classmethod
    def of(
        cls, answers: Sequence[Sequence[str | None]], gold: str, tokens: Sequence[np.ndarray], target: TargetOf
    ) -> Pilot:
        """Measure a trajectory.

        Args:
            answers: of each checkpoint's rollouts, at least one.
            gold: the gold answer.
            tokens: int [n] by checkpoint, tokens of each rollout after it diverges; empty where none could be drawn.
            target: what the error is of.
        """
        names: dict[str | None, int] = {None: -1, gold: 0}
        code = np.array([names.setdefault(answer, len(names) - 1) for own in answers for answer in own], dtype=np.int32)
        offsets = np.concatenate([[0], np.cumsum([len(own) for own in answers])]).astype(np.int64)
        variance, bias = errors_of(code, offsets, np.zeros(len(answers), dtype=np.int32), target)
        cost = np.array([max(float(own.mean()), 1.0) if len(own) else np.nan for own in tokens])
        return cls(variance, cost, bias)


def errors_of(
    code: np.ndarray, offsets: np.ndarray, gold: np.ndarray, target: TargetOf
) -> tuple[np.ndarray, np.ndarray]:
    """(variance of one rollout, bias of the estimate from all of them without sign) at each checkpoint, float64 [G].

    For H the variance is that of ln p among the rollouts (delta method), for the gold answer's share that of 1{gold},
    each with n - 1 below; 0 for a single rollout. The bias of H is Chao-Shen's estimate minus the plug-in.

    Args:
        code: int32 [R], answers, -1 for none; checkpoint g owns code[offsets[g]:offsets[g + 1]].
        gold: int32 [G].
    """
    count = np.diff(offsets)
    row = np.repeat(np.arange(len(count)), count)
    if len(code) == 0:
        return np.zeros(len(count)), np.zeros(len(count))
    bias = np.zeros(len(count))
    if target == "entropy":
        width = int(code.max()) + 2
        _, cell, counts = np.unique(row * width + code + 1, return_inverse=True, return_counts=True)
        values = np.log(counts[cell] / count[row])
        found = summarize(code, offsets, gold, np.full(len(count), 2), 0.5)
        bias = np.abs(found.entropy_chao_shen - found.entropy)
    else:
        values = (code == gold[row]).astype(np.float64)
    mean = np.bincount(row, weights=values, minlength=len(count)) / count
    squares = np.bincount(row, weights=(values - mean[row]) ** 2, minlength=len(count))
    return squares / np.maximum(count - 1, 1), bias


def _predicted(values: list[np.ndarray], parity: int) -> tuple[np.ndarray, np.ndarray, float]:
    """For the checkpoints of one parity, trajectory after trajectory: (weighted mean of the neighbours, NaN without
    any; their total weight; the mean over all checkpoints of the other parity). All of the other parity alone."""
    parts, weights, others = [], [], []
    for own in values:
        place = np.arange(parity, len(own), 2)
        total, weight = np.zeros(len(place)), np.zeros(len(place))
        for distance, share in NEIGHBOURS:
            for at in (place - distance, place + distance):
                there = (at >= 0) & (at < len(own))
                found = np.where(there, own[np.clip(at, 0, max(len(own) - 1, 0))], np.nan)
                weight += share * np.isfinite(found)
                total += share * np.nan_to_num(found)
        with np.errstate(invalid="ignore"):
            parts.append(total / np.where(weight > 0, weight, np.nan))
        weights.append(weight)
        others.append(own[1 - parity :: 2])
    known = np.concatenate(others)
    known = known[np.isfinite(known)]
    return np.concatenate(parts), np.concatenate(weights), float(known.mean()) if len(known) else np.nan


def _numbers(
    variance: np.ndarray, bias: np.ndarray, cost: np.ndarray, first: int, target_se: float | None, tokens: float
) -> np.ndarray:
    """float64: the numbers between `first` and `MOST_ROLLOUTS` at which a further token lowers the error everywhere
    alike, as few as reach `target_se`, or as many as cost at most `tokens`.

    Args:
        bias: of `first` rollouts, squared.
    """
    most = max(MOST_ROLLOUTS, first)

    def numbers(worth: float) -> np.ndarray:
        """Where a rollout lowers the error by `worth` a token: V / n^2 + 2 B^2 n_1^2 / n^3 = worth c, by bisection."""
        if not bias.any():
            return np.clip(np.sqrt(variance / (worth * cost)), first, most)
        low, high = np.full(len(variance), float(first)), np.full(len(variance), float(most))
        for _ in range(40):
            middle = (low + high) / 2
            gain = variance / middle**2 + 2 * bias * first**2 / middle**3
            low, high = np.where(gain > worth * cost, middle, low), np.where(gain > worth * cost, high, middle)
        return (low + high) / 2

    few, many = 1e6, 1e-15  # what a token is worth
    for _ in range(80):
        worth = np.sqrt(few * many)
        number = numbers(worth)
        error = (variance / number + bias * (first / number) ** 2).mean()
        enough = target_se is not None and error <= target_se**2
        few, many = (few, worth) if enough or (number * cost).sum() > tokens else (worth, many)
    return numbers(few)


def allocate(
    pilots: Sequence[Pilot], first: int, *, target_se: float | None = None, tokens: float = np.inf
) -> list[np.ndarray]:
    """Each checkpoint's total number of rollouts.

    Args:
        pilots: of every trajectory.
        first: rollouts of each checkpoint in the uniform round, which the numbers include.
        target_se: the root mean square standard error to reach.
        tokens: maximum sum, over the rollouts of all checkpoints (those of the uniform round included), of the tokens
            after they diverge.

    Returns:
        int64 [C] for each trajectory.
    """
    if not pilots:
        return []
    lengths = [len(pilot.cost) for pilot in pilots]
    found = [np.full(length, float(first)) for length in lengths]
    usable = [np.isfinite(pilot.cost) for pilot in pilots]
    number = max(sum(int(own.sum()) for own in usable), 1)
    zipped = list(zip(usable, pilots, strict=True))
    for parity in (0, 1):
        variance, weight, mean = _predicted(
            [np.where(u, p.variance, np.nan) for u, p in zip(usable, pilots, strict=True)], parity
        )
        cost, _, mean_cost = _predicted([pilot.cost for pilot in pilots], parity)
        bias, _, mean_bias = _predicted([np.where(u, p.bias**2, np.nan) for u, p in zipped], parity)
        own = np.concatenate([mine[parity::2] for mine in usable])
        if not own.any() or not mean + mean_bias > 0:  # nothing to go by, or all agree
            continue
        variance, bias = (
            np.where(weight > 0, SHRINKAGE * whole + (1 - SHRINKAGE) * np.nan_to_num(near), whole)
            for near, whole in ((variance, mean), (bias, mean_bias))
        )
        cost = np.where(np.isfinite(cost), cost, mean_cost)
        numbers = np.full(len(own), float(first))
        numbers[own] = _numbers(variance[own], bias[own], cost[own], first, target_se, tokens * own.sum() / number)
        ends = np.cumsum([len(mine[parity::2]) for mine in usable])[:-1]
        for mine, part in zip(found, np.split(numbers, ends), strict=True):
            mine[parity::2] = part
    if np.isfinite(tokens):
        found = _fit(found, pilots, first, tokens, grow=target_se is None)
        return [np.floor(own + 1e-9).astype(np.int64) for own in found]
    return [np.ceil(own - 1e-9).astype(np.int64) for own in found]


def _fit(numbers: list[np.ndarray], pilots: Sequence[Pilot], first: int, tokens: float, grow: bool) -> list[np.ndarray]:
    """The numbers with what is above `first` multiplied by one factor, so that the costs that were measured sum to
    `tokens`; where not `grow`, to at most that."""
    costs = [np.nan_to_num(pilot.cost) for pilot in pilots]
    left = tokens - first * sum(float(cost.sum()) for cost in costs)
    more = sum(float(((own - first) * cost).sum()) for own, cost in zip(numbers, costs, strict=True))
    factor = max(left, 0.0) / more if more > 0 else 0.0
    factor = factor if grow else min(factor, 1.0)
    return [np.minimum(first + factor * (own - first), max(MOST_ROLLOUTS, first)) for own in numbers]


def bias_bound(count: np.ndarray, tokens: np.ndarray, most_tokens: int) -> float:
    """An upper bound on the bias that a budget of tokens leaves in an answer's share at any checkpoint.

    Without a budget it is 0: a checkpoint's number does not depend on its own rollouts. A budget is fitted by one
    factor, `_fit`'s, which the mean length of the checkpoint's own rollouts changes. With all other lengths as they
    are, its number n lies between what the shortest and the longest possible length would give, and 1 / n is added for
    rounding. An estimate is (n1 p1 + (n - n1) p2) / n with p2 unbiased, and its bias Cov(n1 / n, p1), at most half the
    range of n1 / n times 1 / (2 sqrt n1). Not counted is that a checkpoint's answers change its neighbours' numbers,
    and these a little the factor.

    Args:
        count: int64 [G], rollouts of each checkpoint.
        tokens: int64 [R], tokens of each rollout after it diverges, checkpoint after checkpoint.
        most_tokens: maximum tokens of a rollout.
    """
    first = int(count.min())
    cost = np.maximum(np.bincount(np.repeat(np.arange(len(count)), count), weights=tokens) / count, 1.0)
    more = (count - first).astype(np.float64)
    left = float((more * cost).sum())

    def number(length: float) -> np.ndarray:
        longer = length - cost
        spent = np.maximum(left + more * longer, 1e-12)
        return first + more * np.maximum(left - first * longer, 0.0) / spent

    spread = first / number(most_tokens) - first / number(1.0) + first / count**2
    return float(np.max(spread / 2 / (2 * np.sqrt(first))))
