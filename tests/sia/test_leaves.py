"""Explored mass and proven bounds on a chain of which every text's probability is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from fastsia.config import RolloutBudget, SIAConfig
from fastsia.sia import TokenLogprobs, analyze_table, distinct_texts
from fastsia.sia.decomposition import Divergences, entropy_of
from fastsia.sia.leaves import Leaves, explore, least_entropy, most_entropy
from fastsia.sia.table import RolloutTable, encode
from tests.sia.simulate import Chain
from tests.sia.test_decomposition import two_checkpoints

GOLD = 0
BUDGETS = [("total", 120, 0.2, 0.0), ("new", 12, 0.1, 0.2)]


def explored(table: RolloutTable, logprobs: TokenLogprobs, config: SIAConfig) -> Leaves:
    divergences = Divergences.of(table, logprobs, config)
    assert divergences is not None
    found = explore(table, divergences, logprobs, config)
    assert isinstance(found, Leaves)
    return found


def by_hand(chain: Chain, table: RolloutTable, limit: int, budget: str) -> np.ndarray:
    """float64 [G, A + 1]: summed probabilities of the distinct texts after each checkpoint, by their tokens."""
    out = np.zeros((table.num_checkpoints, chain.step.shape[1] - chain.num_states + 1))
    for i, states in enumerate(chain.texts):
        rows = range(table.first[i], table.last[i] + 1)
        body = tuple(states[1:].tolist())
        texts = {
            body[: table.checkpoint[g]] + tuple(drawn[drawn >= 0].tolist()) for g in rows for drawn in chain.drawn[g]
        }
        for g in rows:
            t = int(table.checkpoint[g])
            most = t + limit if budget == "new" else limit
            for text in texts:
                ended = text[-1] >= chain.num_states
                whole = len(text) <= most if ended else len(text) == most
                if whole and text[:t] == body[:t]:
                    path = (int(states[0]), *text)[t:]
                    chance = np.prod([chain.step[a, b] for a, b in pairwise(path)])
                    out[g, text[-1] - chain.num_states if ended else -1] += chance
    return out


def coarse(table: RolloutTable, truth: np.ndarray) -> np.ndarray:
    """float64 [G, A + 2]: the same with all answers that a trajectory's rollouts never gave as one, the last."""
    local, out = table.local_answers(), np.concatenate([truth, np.zeros((len(truth), 1))], axis=1)
    for g, i in enumerate(table.trajectory_of_checkpoint):
        codes = local.global_code[local.offsets[i] : local.offsets[i + 1]]
        seen = {int(table.answers[code]) - 10 if code >= 0 else truth.shape[1] - 1 for code in codes}
        for a in set(range(truth.shape[1])) - seen:
            out[g, -1] += out[g, a]
            out[g, a] = 0.0
    return out


@pytest.mark.parametrize(("budget", "limit", "end", "cut"), BUDGETS)
def test_bounds_are_sums_over_distinct_texts_and_contain_the_truth(
    budget: RolloutBudget, limit: int, end: float, cut: float
) -> None:
    """Of every rollout, whichever checkpoint it was drawn at, and with limits that make a text whole after some
    checkpoints only. Only the most likely answer is ever certain."""
    rng = np.random.default_rng(7)
    chain = Chain(10, 4, rng, spread=0.01, end=end)
    rollouts, logprobs, truth = chain.run(60, 10, 4, limit, rng, budget=budget)
    table = encode(rollouts)
    assert (table.code < 0).mean() >= cut
    found = explored(table, logprobs, SIAConfig(max_tokens=limit, rollout_budget=budget))
    expected = by_hand(chain, table, limit, budget)
    # Two texts of one length, divergence, answer and probability count as one.
    assert (found.explored <= expected.sum(axis=1) + 1e-5).all()
    assert (found.explored > expected.sum(axis=1) - 1e-5).mean() > 0.97
    assert np.median(np.abs(found.gold_low - expected[:, GOLD])) < 1e-6
    high = found.gold_low + 1 - found.explored
    assert (found.gold_low <= truth[:, GOLD] + 1e-5).all()
    assert (truth[:, GOLD] <= high + 1e-5).all()
    assert (found.entropy_low <= entropy_of(truth) + 1e-4).all()
    assert (entropy_of(coarse(table, truth)) <= found.entropy_high + 1e-4).all()
    assert np.median(found.explored) > 0.5
    certain = found.mode_is_certain
    assert 0.05 < certain.mean() < 0.95
    names = np.array([*table.answers, None], dtype=object)[found.mode]
    assert (names == np.array(["10", "11", "12", "13", None], dtype=object)[truth.argmax(axis=1)])[certain].all()


def test_a_text_whose_logprob_varies_between_batches_counts_once() -> None:
    rng = np.random.default_rng(1)
    chain = Chain(10, 4, rng, spread=0.01, end=0.2)
    rollouts, logprobs, _ = chain.run(40, 20, 4, 60, rng, budget="total")
    table = encode(rollouts)
    assert table.logprob is not None
    noise = 0.02 * np.sqrt(-table.logprob) * rng.normal(size=table.num_rollouts)
    noisy = replace(table, logprob=table.logprob + noise)
    found = explored(noisy, logprobs, SIAConfig(max_tokens=60, rollout_budget="total"))
    excess = found.explored - by_hand(chain, table, 60, "total").sum(axis=1)
    assert excess.max() < 0.02
    assert excess.mean() > -0.03


def test_limits_of_entropy_are_those_of_all_distributions_above_the_bounds() -> None:
    """Against random distributions, and both ends by hand."""
    rng = np.random.default_rng(0)
    low = rng.dirichlet(np.full(5, 0.5), size=40) * rng.uniform(0.2, 1, (40, 1))
    low[0] = 0.0
    rest = 1 - low.sum(axis=1)
    least, most = least_entropy(low, rest), most_entropy(low, rest, np.full(40, 5))
    p = low[None] + rest[:, None] * rng.dirichlet(np.full(5, 0.2), size=(4000, 40))
    found = entropy_of(p, axis=2)
    assert (found >= least - 1e-12).all()
    assert (found <= most + 1e-12).all()
    assert (found.min(axis=0) - least).max() < 0.05
    assert (most - found.max(axis=0)).max() < 0.1
    assert most[0] == pytest.approx(np.log(5))
    # .5 and .2 with .3 left over and a third answer: .2 and 0 are filled up to .25 each.
    one = np.array([[0.5, 0.2, np.nan]])
    assert most_entropy(one, np.array([0.3]), np.array([3])) == pytest.approx(np.log(2) / 2 + np.log(4) / 2)
    assert most_entropy(one, np.array([0.3]), np.array([2])) == pytest.approx(np.log(2))
    assert least_entropy(np.array([[0.5, 0.2]]), np.array([0.3])) == pytest.approx(
        -0.8 * np.log(0.8) - 0.2 * np.log(0.2)
    )


def test_one_text_counts_once_and_at_every_checkpoint_that_it_runs_through() -> None:
    """Two rollouts of the first checkpoint diverge after 1 and 2 of four tokens of probability .8; two more, from the
    second, are one text of probability .25."""
    frame = two_checkpoints(logprob=np.log([0.8 * 0.1, 0.64 * 0.05, 0.25, 0.25]).tolist())
    logprobs = TokenLogprobs(np.full(4, np.log(0.8), dtype=np.float32), np.array([0, 4]))
    found = explored(encode(frame), logprobs, SIAConfig(max_tokens=50, rollout_budget="total"))
    assert found.texts.number.tolist() == [1, 1, 2]
    stay = 0.8**4
    assert found.explored.tolist() == pytest.approx([0.08 + 0.032 + stay * 0.25, 0.25])
    assert found.gold_low.tolist() == pytest.approx([0.08 + stay * 0.25, 0.25])
    texts = distinct_texts(encode(frame), logprobs, SIAConfig(max_tokens=50, rollout_budget="total"))
    assert texts is not None
    assert texts["num_rollouts"].tolist() == [1, 1, 2]
    assert texts["diverges"].tolist() == [1, 2, 4]
    assert np.exp(texts["logprob"]).tolist() == pytest.approx([0.08, 0.032, stay * 0.25])


def test_a_decided_answer_is_certain_from_there() -> None:
    decided = two_checkpoints(
        answer=["1", "2", "1", "1"],
        matched_tokens=[2, 1, 0, 0],
        num_tokens=[2, 6, 0, 0],
        finish_reason=["answer", "eos", "answer", "answer"],
        logprob=np.log([0.6, 0.1, 1.0, 1.0]).tolist(),
    )
    logprobs = TokenLogprobs(np.full(4, np.log(0.6) / 2, dtype=np.float32), np.array([0, 4]))
    found = explored(encode(decided), logprobs, SIAConfig(max_tokens=50, rollout_budget="total"))
    assert found.gold_low.tolist() == pytest.approx([0.6, 1])
    assert found.explored.tolist() == pytest.approx([0.7, 1])
    assert found.mode_is_certain.tolist() == [True, True]


def test_it_is_in_the_analysis_or_says_why_not() -> None:
    rng = np.random.default_rng(3)
    rollouts, logprobs, _ = Chain(10, 4, rng, spread=0.05, end=0.1).run(30, 8, 4, 100, rng)
    config = SIAConfig(max_tokens=100, rollout_budget="new", num_bootstrap=50, num_splits=2)
    table = encode(rollouts)
    found = analyze_table(table, config, logprobs=logprobs)
    assert found.summary["leaves"]["applies"]
    assert found.summary["leaves"]["explored_mass"] == pytest.approx(found.trajectories["explored_mass"].mean())
    explored = found.tables["explored"]
    assert explored["num_trajectories"].tolist() == [30] * 5
    assert (explored["entropy_at_least"] <= explored["entropy_at_most"]).all()
    assert {"explored_mass", "entropy_at_least", "entropy_at_most"} <= set(found.curves["curve"])

    values = logprobs.values.copy()
    values[logprobs.offsets[int(np.argmax(np.diff(logprobs.offsets)))]] = np.nan
    some = analyze_table(table, config, logprobs=replace(logprobs, values=values))
    assert some.summary["leaves"]["unknown_trajectories"] == 1
    assert some.trajectories["explored_mass"].isna().sum() == 1
    assert some.tables["explored"]["num_trajectories"].tolist() == [29] * 5

    for reason, (given, settings) in {
        "of the rollouts are not known": (replace(table, logprob=None), {"logprobs": logprobs}),
        "tokens are not known": (table, {}),
    }.items():
        none = analyze_table(given, config, **settings)
        assert reason in none.summary["leaves"]["reason"]
        assert "explored" not in none.tables
        assert "explored_mass" not in none.checkpoints
    shuffled = analyze_table(table, replace(config, shuffle_prefix=True), logprobs=logprobs)
    assert "shuffled" in shuffled.summary["leaves"]["reason"]
