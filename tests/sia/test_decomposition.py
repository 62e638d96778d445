from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fastsia.config import SIAConfig
from fastsia.sia import TokenLogprobs, analyze_table
from fastsia.sia.alignment import cross_fitted
from fastsia.sia.decomposition import (
    Divergences,
    at_tokens,
    check,
    chunks,
    decompose,
    decomposed_halves,
    entropy_of,
    estimate_chunk,
    half_difference,
    leaf_sums,
    surprisal,
)
from fastsia.sia.table import RolloutTable, encode
from tests.sia.simulate import Chain, diverging, estimates, z_scores

NULL_PLACE = 4


@pytest.mark.parametrize("unbiased", [False, True])
def test_its_error_is_that_of_independent_sets_in_thousands_of_cells(unbiased: bool) -> None:
    """25 sets of 16 rollouts against the true distributions; segments of every probability."""
    rng = np.random.default_rng(0)
    sets, each = 25, 16
    stay = np.clip(rng.beta(2, 2, (110, 11)), 1e-4, 0.999)
    answers = rng.dirichlet(np.full(4, 0.7), size=(110, 12))
    rollouts, logprobs, truth = diverging(stay, answers, sets * each, rng)
    table = encode(rollouts)
    divergences = Divergences.of(table, logprobs, SIAConfig(rollout_budget="total"))
    assert divergences is not None
    member = np.arange(sets * each)[:, None] // each == np.arange(sets)
    z = z_scores(estimates(table, divergences, member, unbiased=unbiased)[:, :NULL_PLACE], truth)
    assert len(z) > 5000
    assert abs(z.mean()) < 0.05
    assert z.std() == pytest.approx(1, abs=0.05)


def test_it_is_unbiased_where_the_limit_cuts_many() -> None:
    """25 sets of 8 rollouts against the chain's own distribution; with limits that cut many rollouts, and so with
    rollouts that only later checkpoints could have drawn to their end."""
    rng = np.random.default_rng(0)
    sets, each, limit = 25, 8, 18
    rollouts, logprobs, truth = Chain(10, 4, rng, spread=0.04, end=0.06).run(200, sets * each, 4, limit, rng)
    table = encode(rollouts)
    assert (table.code < 0).mean() >= 0.2
    divergences = Divergences.of(table, logprobs, SIAConfig(max_tokens=limit, rollout_budget="new"))
    assert divergences is not None
    member = np.arange(sets * each)[:, None] // each == np.arange(sets)
    found = estimates(table, divergences, member)
    z = z_scores(found, truth, least_error=0.005)
    assert len(z) > 3000
    assert abs(z.mean()) < 0.08  # of few rollouts: low shares come with low errors
    assert z.std() == pytest.approx(1, abs=0.08)
    assert np.abs((found.mean(axis=2) - truth).mean(axis=0)).max() < 0.004
    assert found.sum(axis=1) == pytest.approx(1)
    plain = encode(rollouts[rollouts["rollout"] < each])
    counts = pd.Series(plain.code).groupby(plain.checkpoint_of_rollout).apply(lambda code: (code < 0).mean())
    assert found[:, NULL_PLACE].std(axis=1).mean() <= np.sqrt(counts * (1 - counts) / each).mean() + 0.02


def test_bands_cover_and_the_bias_of_entropy_is_small() -> None:
    rng = np.random.default_rng(1)
    rollouts, logprobs, truth = Chain(12, 4, rng, spread=0.03, end=0.05).run(150, 10, 3, 120, rng, budget="total")
    table = encode(rollouts)
    divergences = Divergences.of(table, logprobs, SIAConfig(max_tokens=120, rollout_budget="total"))
    assert divergences is not None
    found = decompose(table, divergences, 0.5)
    kept = ~found.withheld[table.trajectory_of_checkpoint]
    assert kept.mean() > 0.6
    error = (found.entropy - entropy_of(truth))[kept]
    assert (np.abs(error) <= 1.96 * found.entropy_se[kept]).mean() > 0.86
    plain = analyze_table(table, SIAConfig(num_bootstrap=0)).checkpoints["entropy"].to_numpy()[kept]
    naive = plain - entropy_of(truth)[kept]
    assert abs(error.mean()) < abs(naive.mean()) / 3
    assert np.sqrt((error**2).mean()) < np.sqrt((naive**2).mean())
    assert np.median(found.effective_rollouts[kept]) > 10


def two_checkpoints(**columns: list[object]) -> pd.DataFrame:
    """A trajectory of 4 tokens, checkpoints 0 and 4, two rollouts each; by default both of the first diverge."""
    table = {
        "problem_id": "p",
        "trajectory": 0,
        "checkpoint": [0, 0, 4, 4],
        "rollout": [0, 1, 0, 1],
        "answer": ["1", "2", "1", "1"],
        "gold": "1",
        "finish_reason": "eos",
        "num_tokens": [6, 6, 2, 2],
        "matched_tokens": [1, 2, 0, 0],
    }
    return pd.DataFrame(table | columns)


def found_for(frame: pd.DataFrame, probability: float = 0.5, **settings: object) -> np.ndarray:
    """The estimate of p("1") at both checkpoints; each token of the trajectory has probability ** (1 / 4)."""
    table = encode(frame)
    logprobs = TokenLogprobs(np.full(4, np.log(probability) / 4, dtype=np.float32), np.array([0, 4]))
    divergences = Divergences.of(table, logprobs, SIAConfig(**settings))  # type: ignore[arg-type]
    assert divergences is not None
    local = table.local_answers()
    (chunk,) = chunks(table, local, 1)
    return estimate_chunk(table, local, divergences, chunk, np.ones((2, 1), dtype=bool))[:, local.gold[0], 0]


def test_it_mixes_those_that_stay_and_those_that_diverge() -> None:
    assert found_for(two_checkpoints()).tolist() == pytest.approx([0.5 * 1 + 0.5 * 0.5, 1])
    # A rollout that stays to the end is one more draw there, and none of the divergences.
    stays = two_checkpoints(answer=["2", "2", "1", "1"], matched_tokens=[4, 2, 0, 0])
    assert found_for(stays).tolist() == pytest.approx([0.5 * 2 / 3, 2 / 3])
    # Nobody diverges: p after the segment stands for it.
    nobody = two_checkpoints(matched_tokens=[4, 4, 0, 0])
    assert found_for(nobody).tolist() == pytest.approx([0.75, 0.75])


def test_where_nobody_diverges_the_other_divergences_stand_for_those_that_would() -> None:
    """Two answers among those that diverge, another at the end. p taken from after the empty segment would be 1."""
    frame = two_checkpoints(checkpoint=[0, 0, 2, 2], answer=["2", "2", "1", "1"], matched_tokens=[1, 1, 2, 2])
    last = two_checkpoints(answer=["1", "1", "1", "1"]).iloc[2:]
    stay = 0.5 ** (2 / 4)
    found = found_for(pd.concat([frame, last], ignore_index=True))
    assert found.tolist() == pytest.approx([stay**2, stay, 1])


def test_rare_divergences_do_not_alarm_the_comparison_with_plain_rollouts() -> None:
    """Halves of 3 rollouts, of which hardly any diverges from likely segments. With p taken from after segments
    without a divergence the difference is -.07, 40 standard errors."""
    rng = np.random.default_rng(0)
    answers = np.tile([0.1, 0.9], (400, 10, 1))
    answers[:, -1] = [0.9, 0.1]
    rollouts, logprobs, _ = diverging(np.full((400, 9), 0.95), answers, 6, rng)
    table = encode(rollouts)
    divergences = Divergences.of(table, logprobs, SIAConfig(rollout_budget="total"))
    assert divergences is not None
    difference = half_difference(table, divergences, 0)
    error = difference.std() / 20
    assert error < 0.006
    assert abs(difference.mean()) < 3 * error


def test_a_trajectory_whose_answer_is_decided_has_that_answer_from_there() -> None:
    """A rollout that ended on the trajectory's own tokens says that they decide the answer; what diverges after them
    has it too, and is no draw of those that diverge before."""
    decided = two_checkpoints(
        answer=["1", "2", "1", "1"],
        matched_tokens=[2, 1, 0, 0],
        num_tokens=[2, 6, 0, 0],
        finish_reason=["answer", "eos", "answer", "answer"],
    )
    stay = 0.5 ** (2 / 4)
    assert found_for(decided).tolist() == pytest.approx([stay, 1])


def test_a_later_limit_counts_only_where_it_could_be_kept() -> None:
    """At most 6 new tokens. A rollout from 4 that ended at position 9 would have been cut if drawn from 0."""
    late = two_checkpoints(matched_tokens=[1, 4, 0, 0], num_tokens=[6, 6, 5, 2], answer=["2", "1", "1", "1"])
    # Three reach 4. Of the two whose limit does not matter one has ended by then, and so has a third of all; the rest
    # ends by the later limit, as both of those do that could.
    assert found_for(late, max_tokens=6, rollout_budget="new").tolist() == pytest.approx([0.5 * 2 / 3, 1])
    assert found_for(late, max_tokens=12, rollout_budget="total").tolist() == pytest.approx([0.5, 1])


def test_halves_share_no_draw_and_nothing_moving_gives_no_alignment() -> None:
    """All states have the same ends, so p never moves while segments are likely and riders many."""
    rng = np.random.default_rng(2)
    chain = Chain(6, 4, rng, spread=0.05, end=0.08)
    stay = chain.step[:, :6] / chain.step[:, :6].sum(axis=1, keepdims=True)
    chain.step = np.concatenate([stay * 0.9, np.full((6, 1), 0.1) * [0.7, 0.1, 0.1, 0.1]], axis=1)
    rollouts, logprobs, _ = chain.run(200, 20, 4, 150, rng, budget="total")
    table = encode(rollouts)
    config = SIAConfig(max_tokens=150, rollout_budget="total")
    divergences = Divergences.of(table, logprobs, config)
    assert divergences is not None
    rho = cross_fitted(decomposed_halves(table, divergences, 0.5, 4, 0))[0]
    rho = rho[np.isfinite(rho)]
    assert len(rho) > 60
    assert abs(rho.mean()) < 3 * rho.std() / np.sqrt(len(rho))


def test_errors_that_differ_between_checkpoints_make_little_alignment() -> None:
    """Many answers, and segments that are likely up to the middle and unlikely after it, so that curvature changes H
    and s by different amounts. Uncorrected halves have a mean rho of -.31 here, where nothing moves, corrected -.17."""
    stay = np.tile(np.repeat([0.95, 1e-6], [5, 6]), (150, 1))
    rollouts, logprobs, _ = diverging(stay, np.full((150, 12, 50), 0.02), 20, np.random.default_rng(0))
    table = encode(rollouts)
    divergences = Divergences.of(table, logprobs, SIAConfig(rollout_budget="total"))
    assert divergences is not None
    rho = cross_fitted(decomposed_halves(table, divergences, 0.5, 4, 0))[0]
    assert abs(np.nanmean(rho)) < 0.22


@pytest.mark.parametrize("answers", [[1.0, 0.0, 0.0], [0.0, 0.6, 0.4]], ids=["all agree", "gold is never drawn"])
def test_where_h_or_s_is_constant_the_correction_alone_makes_no_alignment(answers: list[float]) -> None:
    """It differs between checkpoints, so that H or s with it varies where every estimate of it is the same."""
    stay = np.random.default_rng(0).uniform(0.5, 1, (30, 7))
    rollouts, logprobs, _ = diverging(stay, np.tile(answers, (30, 8, 1)), 12, np.random.default_rng(1))
    table = encode(rollouts)
    divergences = Divergences.of(table, logprobs, SIAConfig(rollout_budget="total"))
    assert divergences is not None
    halves = decomposed_halves(table, divergences, 0.5, 4, 0)
    early = np.arange(table.num_checkpoints) % 8 < 5
    for part in (halves, halves.at(early, np.arange(31) * 5), halves.hide(table.checkpoint < 0)):
        assert np.isnan(cross_fitted(part)[0]).all()


@pytest.fixture(scope="module")
def run() -> tuple[RolloutTable, TokenLogprobs, SIAConfig]:
    rng = np.random.default_rng(3)
    rollouts, logprobs, _ = Chain(10, 4, rng, spread=0.05, end=0.1).run(60, 8, 4, 100, rng)
    config = SIAConfig(max_tokens=100, rollout_budget="new", num_bootstrap=20, num_splits=2)
    return encode(rollouts), logprobs, config


def test_it_is_in_the_analysis(run: tuple[RolloutTable, TokenLogprobs, SIAConfig]) -> None:
    table, logprobs, config = run
    found = analyze_table(table, config, logprobs=logprobs)
    assert found.summary["decomposition"]["applies"]
    assert found.summary["decomposition"]["median_effective_rollouts"] >= 8
    names = ["entropy_decomposed", "entropy_decomposed_se", "gold_surprisal_decomposed", "effective_rollouts"]
    assert found.checkpoints[names].notna().any().all()
    assert found.summary["rho"]["recommended"] == "smoothed"  # 8 rollouts are far from 100
    assert found.summary["rho"]["decoupled"] is not None


def test_it_says_why_it_does_not_apply(run: tuple[RolloutTable, TokenLogprobs, SIAConfig]) -> None:
    table, logprobs, config = run

    def reason(*given: object, **settings: object) -> str:
        found = analyze_table(*given, **settings).summary["decomposition"]  # type: ignore[arg-type]
        assert not found["applies"]
        return str(found["reason"])

    assert "log-probabilities" in reason(table, config)
    assert "matched_tokens" in reason(replace(table, matched=None), config, logprobs=logprobs)
    assert "shuffled" in reason(table, replace(config, shuffle_prefix=True), logprobs=logprobs)
    hotter = replace(logprobs, values=logprobs.values / 2)
    assert "stayed on the trajectory" in reason(table, config, logprobs=hotter)
    assert table.logprob is not None
    summing = replace(table, logprob=table.logprob / 3)
    assert "sum to" in reason(summing, config, logprobs=logprobs)
    assert leaf_sums(table).max() <= 1 + 1e-6


@pytest.mark.parametrize(("noise", "is_refused"), [(0.04, False), (0.3, True)])
def test_distinct_texts_may_sum_to_a_little_more_than_1(noise: float, is_refused: bool) -> None:
    """As in half precision, where one prefix has other probabilities in other batches."""
    rows = [(0, k, 1, str(k % 2), np.log(0.5) + noise) for k in range(8)]
    frame = pd.DataFrame(rows, columns=["checkpoint", "rollout", "num_tokens", "answer", "logprob"])
    frame = frame.assign(problem_id="p0", trajectory=0, gold="0", finish_reason="eos")
    frame["matched_tokens"] = frame["rollout"] % 2
    logprobs = TokenLogprobs(np.log([0.5]), np.array([0, 1]))
    table, config = encode(frame), SIAConfig(max_tokens=4, num_bootstrap=20, num_splits=2)
    assert leaf_sums(table).max() == pytest.approx(np.exp(noise))
    divergences = Divergences.of(table, logprobs, config)
    assert divergences is not None
    assert (check(table, divergences) is not None) == is_refused


def test_unknown_probabilities_and_many_cut_rollouts_withhold_a_trajectory(
    run: tuple[RolloutTable, TokenLogprobs, SIAConfig],
) -> None:
    table, logprobs, config = run
    assert table.cut is not None
    values = logprobs.values.copy()
    long = np.flatnonzero(np.diff(logprobs.offsets) > 2)
    values[logprobs.offsets[long[0]] + 1] = np.nan
    cut = table.cut.copy()
    rows = (
        table.checkpoint_offsets[table.trajectory_offsets[long[1]]],
        table.checkpoint_offsets[table.trajectory_offsets[long[1] + 1]],
    )
    cut[rows[0] : rows[1]] = True
    divergences = Divergences.of(replace(table, cut=cut), TokenLogprobs(values, logprobs.offsets), config)
    assert divergences is not None
    found = decompose(replace(table, cut=cut), divergences, 0.5)
    assert found.withheld[long[:2]].all()
    hidden = found.hide(table)
    assert np.isnan(hidden.entropy[table.trajectory_of_checkpoint == long[0]]).all()


def test_every_token_has_an_estimate_and_checkpoints_have_the_same() -> None:
    rng = np.random.default_rng(4)
    chain = Chain(8, 3, rng, spread=0.05, end=0.05)
    rollouts, logprobs, _ = chain.run(40, 60, 6, 120, rng, budget="total")
    table, config = encode(rollouts), SIAConfig(max_tokens=120, rollout_budget="total")
    found = at_tokens(table, logprobs, config)
    divergences = Divergences.of(table, logprobs, config)
    assert found is not None
    assert divergences is not None
    assert len(found) == (table.checkpoint[table.last] + 1).sum()
    whole = decompose(table, divergences, 0.5)
    points = found.merge(
        pd.DataFrame(
            {
                "problem_id": table.problem_ids[table.trajectory_of_checkpoint],
                "position": table.checkpoint,
                "surprisal": whole.surprisal,
            }
        )
    )
    assert points["gold_surprisal"].to_numpy() == pytest.approx(points["surprisal"].to_numpy())
    true = np.concatenate([[chain.truth(120 - t)[state, 0] for t, state in enumerate(text)] for text in chain.texts])
    share = 0.5 / 20
    number = table.num_answers[found["problem_id"].str[1:].astype(int)]
    p_gold = np.exp(-found["gold_surprisal"]) * (1 + number * share) - share
    between = (found["position"] % 6 != 0).to_numpy()
    error = pd.Series((p_gold - true)[between]).groupby(found["problem_id"].to_numpy()[between]).mean()
    assert between.sum() > 200
    assert abs(error.mean()) < 3 * error.std() / np.sqrt(len(error))
    assert np.abs((p_gold - true)[between]).mean() < 0.08
    assert at_tokens(replace(table, matched=None), logprobs, config) is None


def test_at_every_token_a_decided_answer_stays() -> None:
    """Four tokens of probability ½, of which two decide the answer: p(gold) is ¼, ½, 1, 1, 1."""
    leaving = [(0, "11")] * 4 + [(1, "11")] * 2
    rows = [(0, matched, 9, answer, "eos") for matched, answer in leaving]
    rows += [(0, 2, 2, "10", "answer")] * 2 + [(4, 0, 0, "10", "answer")] * 8
    columns = ["checkpoint", "matched_tokens", "num_tokens", "answer", "finish_reason"]
    frame = pd.DataFrame(rows, columns=columns).assign(problem_id="p0", trajectory=0, gold="10")
    frame["rollout"] = frame.groupby("checkpoint").cumcount()
    logprobs = TokenLogprobs(np.full(4, np.log(0.5)), np.array([0, 4]))
    config = SIAConfig(max_tokens=20, rollout_budget="total")
    table = encode(frame)
    divergences = Divergences.of(table, logprobs, config)
    found = at_tokens(table, logprobs, config)
    assert divergences is not None
    assert found is not None
    p = np.array([0.25, 0.5])
    settling = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    assert found["entropy"].tolist() == pytest.approx([*settling, 0, 0, 0])
    assert decompose(table, divergences, 0.5).probabilities[:3].max() == pytest.approx(0.75)


def test_surprisal_is_that_of_twenty_rollouts_smoothed() -> None:
    assert surprisal(np.array(5 / 20), np.array(4), 0.5) == pytest.approx(-np.log(5.5 / (20 + 2)))


def test_a_token_that_cannot_be_drawn_separates_what_comes_before_it() -> None:
    """Given trajectories contain tokens outside of the nucleus, of log-probability -inf; no rollout stays on those."""
    rng = np.random.default_rng(1)
    rollouts, logprobs, _ = Chain(10, 4, rng, spread=0.04, end=0.06).run(20, 10, 4, 100, rng, budget="total")
    table = encode(rollouts)
    values = logprobs.values.copy()
    first = logprobs.offsets[0]
    values[first + 4] = -np.inf
    config = SIAConfig(max_tokens=100, rollout_budget="total")
    divergences = Divergences.of(table, replace(logprobs, values=values), config)
    assert divergences is not None
    assert divergences.known.all()
    segment = int(np.flatnonzero(table.checkpoint[: table.trajectory_offsets[1]] <= 4)[-1])
    assert np.exp(divergences.log_stay[segment]) == 0.0
    assert np.isfinite(divergences.log_stay).all()
    found = decompose(table, divergences, 0.5)
    assert np.isfinite(found.entropy).all()
    values[first + 4] = np.nan
    unknown = Divergences.of(table, replace(logprobs, values=values), config)
    assert unknown is not None
    assert unknown.known.tolist() == [False, *[True] * (table.num_trajectories - 1)]
