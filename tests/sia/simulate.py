"""Rollout tables drawn from answer distributions that are known: the truth that the statistics are held to."""

from __future__ import annotations

import numpy as np
import pandas as pd


def constant(num_problems: int, probabilities: np.ndarray, num_checkpoints: int) -> np.ndarray:
    """float64 [P, C, A]: the same distribution everywhere."""
    return np.broadcast_to(probabilities, (num_problems, num_checkpoints, len(probabilities)))


def moving(
    num_problems: int,
    num_checkpoints: int,
    rng: np.random.Generator,
    share_correct: float = 0.7,
    final_share: float = 0.92,
) -> np.ndarray:
    """float64 [P, C, 5]: traces that go, at their own pace, from spread out towards one answer, which ends with
    probability `final_share`; answer 0 is gold, the last one null. Some settle on a wrong answer."""
    start = rng.dirichlet(np.full(5, 2.0), size=num_problems)
    target = np.full((num_problems, 5), (1 - final_share) / 4)
    winner = np.where(rng.random(num_problems) < share_correct, 0, rng.integers(1, 4, num_problems))
    target[np.arange(num_problems), winner] = final_share
    middle, pace = rng.uniform(0.2, 0.8, (num_problems, 1)), rng.uniform(5, 20, (num_problems, 1))
    mix = 1 / (1 + np.exp(-pace * (np.linspace(0, 1, num_checkpoints) - middle)))
    return start[:, None] * (1 - mix[:, :, None]) + target[:, None] * mix[:, :, None]


def filtered(num_problems: int, num_checkpoints: int, rng: np.random.Generator) -> np.ndarray:
    """float64 [P, C, 5]: what a Bayesian observer believes whose evidence comes in rare pieces of random strength. Its
    beliefs are a martingale, as a model's answer probabilities along its own text are."""
    belief = rng.dirichlet(np.ones(5), size=num_problems)
    truth = (rng.random((num_problems, 1)) > np.cumsum(belief, axis=1)[:, :-1]).sum(axis=1)
    beliefs = [belief]
    for _ in range(num_checkpoints - 1):
        strength = np.where(rng.random((num_problems, 1)) < 0.25, rng.uniform(0.5, 3.0, (num_problems, 1)), 0.0)
        evidence = strength * np.eye(5)[truth] + np.sqrt(strength) * rng.normal(size=belief.shape)
        weight = np.log(belief) + evidence
        belief = np.exp(weight - weight.max(axis=1, keepdims=True))
        belief /= belief.sum(axis=1, keepdims=True)
        beliefs.append(belief)
    return np.stack(beliefs, axis=1)


def late(num_problems: int, num_checkpoints: int, rng: np.random.Generator) -> np.ndarray:
    """float64 [P, C, 5]: nothing moves until the last checkpoint, where the answer is written down."""
    out = np.repeat(rng.dirichlet(np.full(5, 2.0), size=num_problems)[:, None], num_checkpoints, axis=1)
    winner = (rng.random((num_problems, 1)) > np.cumsum(out[:, 0], axis=1)[:, :-1]).sum(axis=1)
    out[:, -1] = 0.02
    out[np.arange(num_problems), -1, winner] = 0.92
    return out


def draw(probabilities: np.ndarray, num_rollouts: int, rng: np.random.Generator) -> np.ndarray:
    """int64 [P, C, N]: independent answers from probabilities [P, C, A]."""
    edges = np.cumsum(probabilities, axis=-1)
    edges[..., -1] = 1.0
    u = rng.random((*probabilities.shape[:2], num_rollouts))
    out = np.zeros(u.shape, dtype=np.int64)
    for a in range(probabilities.shape[-1] - 1):
        out += u >= edges[..., a, None]
    return out


def frame(
    answers: np.ndarray, *, null: int | None = None, stride: int = 20, lengths: np.ndarray | None = None
) -> pd.DataFrame:
    """A table of rollouts from answers [P, C, N]; answer 0 is gold, `null` the null class."""
    problems, checkpoints, rollouts = answers.shape
    names = np.array([str(10 + a) for a in range(int(answers.max()) + 1)], dtype=object)
    if null is not None and null < len(names):
        names[null] = None
    p, c, n = np.meshgrid(np.arange(problems), np.arange(checkpoints), np.arange(rollouts), indexing="ij")
    table = pd.DataFrame(
        {
            "problem_id": np.array([f"p{i}" for i in range(problems)], dtype=object)[p.ravel()],
            "trajectory": 0,
            "checkpoint": c.ravel() * stride,
            "rollout": n.ravel(),
            "answer": names[answers.ravel()],
            "gold": "10",
        }
    )
    if lengths is not None:
        table = table[c.ravel() < lengths[p.ravel()]].reset_index(drop=True)
    return table
