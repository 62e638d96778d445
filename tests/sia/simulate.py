"""Rollout tables drawn from answer distributions that are known: the truth that the statistics are held to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from fastsia.sia.alignment import pearson
from fastsia.sia.decomposition import Divergences, chunks, entropy_of, estimate_chunk, surprisal
from fastsia.sia.table import RolloutTable
from fastsia.sia.token_traces import TokenLogprobs


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


Scenario = Callable[[int, np.random.Generator], np.ndarray]
SCENARIOS: dict[str, Scenario] = {
    "lock-in": lambda number, rng: moving(number, 16, rng),
    "partial lock-in": lambda number, rng: moving(number, 16, rng, final_share=0.6),
    "martingale": lambda number, rng: filtered(number, 16, rng),
    "late": lambda number, rng: late(number, 16, rng),
}
"""Distributions float64 [P, 16, 5] of some number of trajectories."""


def true_rho(probabilities: np.ndarray) -> np.ndarray:
    """float64 [P]: rho of the distributions [P, C, A] themselves, at the usual smoothing of the surprisal."""
    each = probabilities.reshape(-1, probabilities.shape[-1])
    offsets = np.arange(0, len(each) + 1, probabilities.shape[1])
    return pearson(entropy_of(each), surprisal(each[:, 0], np.array(each.shape[1]), 0.5), offsets)


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


def diverging(
    stay: np.ndarray, answers: np.ndarray, number: int, rng: np.random.Generator, *, stride: int = 4
) -> tuple[pd.DataFrame, TokenLogprobs, np.ndarray]:
    """A table of rollouts that stay on their trajectory through segment m with probability stay [P, C - 1], or diverge
    at its first token and have an answer of answers [P, C, A] (at the last checkpoint: all of them), as of a run under
    `rollout_budget="total"`; the log-probabilities of the trajectories' tokens; and the true distributions
    float64 [P C, A]. Answer 0 is gold, "10"."""
    problems, checkpoints, _ = answers.shape
    truth = answers.copy()
    for m in reversed(range(checkpoints - 1)):
        truth[:, m] = stay[:, m, None] * truth[:, m + 1] + (1 - stay[:, m, None]) * answers[:, m]
    frames = []
    for c in range(checkpoints):
        stays = rng.random((problems, number, checkpoints - 1 - c)) < stay[:, None, c:]
        segment = c + np.cumprod(stays, axis=2).sum(axis=2)
        edges = np.cumsum(answers[np.arange(problems)[:, None], segment], axis=2)[..., :-1]
        answer = (rng.random((problems, number, 1)) >= edges).sum(axis=2)
        frames.append(
            pd.DataFrame(
                {
                    "problem_id": np.repeat([f"p{i}" for i in range(problems)], number),
                    "trajectory": 0,
                    "checkpoint": c * stride,
                    "rollout": np.tile(np.arange(number), problems),
                    "answer": (10 + answer.ravel()).astype(str),
                    "gold": "10",
                    "finish_reason": "eos",
                    "num_tokens": stride * (checkpoints + 1 - c),
                    "matched_tokens": stride * (segment - c).ravel(),
                }
            )
        )
    each = np.repeat(np.log(stay) / stride, stride, axis=1)
    offsets = np.arange(problems + 1) * each.shape[1]
    return (
        pd.concat(frames, ignore_index=True),
        TokenLogprobs(each.ravel(), offsets),
        truth.reshape(problems * checkpoints, -1),
    )


def estimates(
    table: RolloutTable,
    divergences: Divergences,
    member: np.ndarray,
    included: np.ndarray | None = None,
    *,
    unbiased: bool = False,
) -> np.ndarray:
    """float64 [G, 5, S]: the decomposition's estimates of "10" to "13" and of no answer, from S sets of rollouts.

    Args:
        member, included, unbiased: as in `estimate_chunk`.
    """
    local, parts = table.local_answers(), []
    for chunk in chunks(table, local, member.shape[1]):
        found = estimate_chunk(table, local, divergences, chunk, member, included, unbiased=unbiased)
        codes = [
            local.global_code[local.offsets[of] : local.offsets[of + 1]]
            for of in table.trajectory_of_checkpoint[chunk.rows]
        ]
        out = np.zeros((len(found), 5, member.shape[1]))
        for g, own in enumerate(codes):
            for k, code in enumerate(own):
                out[g, 4 if code < 0 else int(table.answers[code]) - 10] = found[g, k]
        parts.append(out)
    return np.concatenate(parts)


def z_scores(found: np.ndarray, truth: np.ndarray, least_error: float = 0.003) -> np.ndarray:
    """The means [...] of estimates [..., S] less the truth, in standard errors; those with an error above the least.

    Scaled to variance 1: that of Student's t with S - 1 degrees of freedom is (S - 1) / (S - 3).
    """
    sets = found.shape[-1]
    mean, error = found.mean(axis=-1), found.std(axis=-1, ddof=1) / np.sqrt(sets)
    there = error > least_error
    return np.asarray((mean - truth)[there] / error[there] * np.sqrt((sets - 3) / (sets - 1)))


class Chain:
    """A model whose texts are a Markov chain: each token is one of S states or one of A ends, which give the answer.

    Its answer distribution after every prefix is known exactly, also under a token limit.
    """

    def __init__(
        self, num_states: int, num_answers: int, rng: np.random.Generator, *, spread: float = 0.3, end: float = 0.04
    ) -> None:
        self.num_states = num_states
        self.texts: list[np.ndarray] = []
        self.drawn: list[np.ndarray] = []
        forward = rng.dirichlet(np.full(num_states, spread), size=num_states)
        ends = rng.dirichlet(np.full(num_answers, 0.5), size=num_states)
        leave = rng.uniform(0.2 * end, 1.8 * end, (num_states, 1))
        self.step = np.concatenate([forward * (1 - leave), ends * leave], axis=1)

    def truth(self, limit: int) -> np.ndarray:
        """float64 [S, A + 1]: the answers of texts that go on from each state, the last of them none, since the text is
        longer than `limit`."""
        stay, ends = self.step[:, : self.num_states], self.step[:, self.num_states :]
        found = np.zeros_like(ends)
        for _ in range(limit):
            found = ends + stay @ found
        return np.concatenate([found, 1 - found.sum(axis=1, keepdims=True)], axis=1)

    def walk(self, state: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
        """int64 [n, limit]: the tokens after each state [n]; -1 after the end."""
        edges = np.cumsum(self.step, axis=1)
        edges[:, -1] = 1.0
        out = np.full((len(state), limit), -1)
        state, alive = state.copy(), np.arange(len(state))
        for k in range(limit):
            token = (rng.random(len(alive))[:, None] >= edges[state[alive]]).sum(axis=1)
            out[alive, k] = token
            alive, token = alive[token < self.num_states], token[token < self.num_states]
            state[alive] = token
        return out

    def run(
        self, problems: int, number: int, stride: int, limit: int, rng: np.random.Generator, *, budget: str = "new"
    ) -> tuple[pd.DataFrame, TokenLogprobs, np.ndarray]:
        """A table of rollouts (as of a run), the log-probabilities of the trajectories' tokens, and the true
        distributions float64 [G, A + 1], null last. Answers are "10", "11", ...; gold is "10". `texts` has the states
        of each trajectory, the one before its first token included; `drawn` the tokens of each checkpoint's rollouts,
        int64 [number, left], -1 after the end."""
        self.texts, self.drawn = [], []
        rows, values, lengths, truths = [], [], [], []
        known = {left: self.truth(left) for left in range(1, limit + 1)}
        while len(lengths) < problems:
            start = int(rng.integers(self.num_states))
            text = self.walk(np.array([start]), limit, rng)[0]
            body = text[(text >= 0) & (text < self.num_states)]
            states = np.concatenate([[start], body])
            self.texts.append(states)
            points = sorted({*range(0, len(body), stride), len(body)})
            points = [t for t in points if budget == "new" or t < limit]
            values.append(np.log(self.step[states[:-1], body]))
            lengths.append(len(body))
            for t in points:
                left = limit if budget == "new" else limit - t
                tokens = self.walk(np.full(number, states[t]), left, rng)
                self.drawn.append(tokens)
                count = (tokens >= 0).sum(axis=1)
                final = tokens[np.arange(number), count - 1]
                rest = np.full(left, -2)
                rest[: len(body) - t] = body[t:][:left]
                matched = np.cumprod(tokens == rest, axis=1).sum(axis=1)
                truths.append(known[left][states[t]])
                ended = final >= self.num_states
                before = np.concatenate([np.full((number, 1), states[t]), tokens[:, :-1]], axis=1)
                chance = self.step[np.clip(before, 0, self.num_states - 1), np.maximum(tokens, 0)]
                logs = np.log(np.where(tokens >= 0, chance, 1.0))
                rows.append(
                    pd.DataFrame(
                        {
                            "problem_id": f"p{len(lengths) - 1}",
                            "trajectory": 0,
                            "checkpoint": t,
                            "rollout": np.arange(number),
                            "answer": np.where(ended, (10 + final - self.num_states).astype(str), None),
                            "gold": "10",
                            "finish_reason": np.where(ended, "eos", "length"),
                            "num_tokens": count,
                            "matched_tokens": matched,
                            "logprob": logs.sum(axis=1),
                        }
                    )
                )
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        logprobs = TokenLogprobs(np.concatenate(values).astype(np.float32), offsets)
        return pd.concat(rows, ignore_index=True), logprobs, np.array(truths)
