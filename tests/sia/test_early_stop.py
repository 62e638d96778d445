"""Stopping rules on trajectories whose checkpoints are laid out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fastsia.config import SIAConfig
from fastsia.sia import TokenTraces, analyze_rollouts
from fastsia.sia.extras.early_stop import (
    HELD_OUT_LENGTHS,
    MODE_LENGTHS,
    NUM_HALVINGS,
    TAUS,
    Replay,
    all_settings,
    choose,
    early_stop_table,
    held_out_table,
    recent_token_entropy,
)
from fastsia.sia.registry import TABLES
from fastsia.sia.scored import Scored
from fastsia.sia.table import encode
from tests.sia.simulate import draw, frame, moving

RIGHT, WRONG, NULL = [0] * 4, [1] * 4, [2] * 4
SPLIT = [0, 0, 1, 1]  # H = ln 2, the mode is right
LEANS = [1, 1, 1, 0]  # H = .56, the mode is wrong


def stops(traces: list[list[list[int]]], resamples: int = 200) -> pd.DataFrame:
    """One problem a trajectory, stride 20; answer 0 is right, 2 is none."""
    table = encode(frame(np.array(traces), null=2))
    return early_stop_table(Scored.of(table, SIAConfig(num_bootstrap=resamples, num_splits=1)))


def at(found: pd.DataFrame, rule: str, threshold: float | None = None, checkpoints: int | None = None) -> pd.Series:
    rows = found[found["rule"] == rule]
    rows = rows if threshold is None else rows[np.isclose(rows["threshold"], threshold)]
    rows = rows if checkpoints is None else rows[rows["checkpoints"] == checkpoints]
    assert len(rows) == 1
    return rows.iloc[0]


def test_a_sure_trajectory_stops_where_it_is_sure() -> None:
    found = stops([[SPLIT, SPLIT, LEANS, RIGHT, RIGHT]])
    assert at(found, "never")[["saved", "lost", "accuracy", "stopped"]].tolist() == [0, 0, 1, 0]
    assert at(found, "entropy", 0.0)["saved"] == pytest.approx(1 / 4)
    assert at(found, "entropy", 0.0)["lost"] == 0
    # H <= .7 is true from the start, H <= .5 not before H = 0; in between the mode is wrong.
    assert at(found, "entropy", 0.7)["saved"] == 1
    assert at(found, "entropy", 0.5)["saved"] == pytest.approx(1 / 4)
    stopped = stops([[SPLIT, LEANS, LEANS, RIGHT, RIGHT]])
    assert at(stopped, "flat", 0.0, 2)[["saved", "lost", "accuracy"]].tolist() == [0.5, 1, 0]


def test_a_flat_stretch_may_be_high_and_needs_all_its_checkpoints() -> None:
    found = stops([[SPLIT, SPLIT, SPLIT, RIGHT, RIGHT]])
    assert at(found, "flat", 0.0, 2)["saved"] == pytest.approx(3 / 4)
    assert at(found, "flat", 0.0, 3)["saved"] == pytest.approx(2 / 4)
    assert at(found, "flat", 0.0, 5)["saved"] == 0
    moves = stops([[SPLIT, LEANS, SPLIT, LEANS, SPLIT]])  # by .13 nats
    assert at(moves, "flat", 0.1, 2)["saved"] == 0
    assert at(moves, "flat", 0.2, 3)["saved"] == pytest.approx(2 / 4)


def test_a_stable_mode_counts_checkpoints_of_its_own_trajectory_only() -> None:
    found = stops([[SPLIT, WRONG, WRONG, RIGHT, RIGHT], [RIGHT, WRONG, RIGHT, WRONG, RIGHT]])
    two = at(found, "mode", checkpoints=2)
    assert (two["saved"], two["lost"], two["stopped"]) == (pytest.approx(2 / 8), 0.5, 0.5)
    assert at(found, "mode", checkpoints=3)["saved"] == 0
    # The second trajectory begins with the mode that the first one ends with.
    assert at(found, "mode", checkpoints=3)["stopped"] == 0


def test_no_answer_is_no_reason_to_stop() -> None:
    """All rollouts null: H is 0, flat, and the mode stable; a reader would go on all the same."""
    found = stops([[NULL, NULL, NULL, RIGHT, RIGHT]])
    for row in found[found["rule"] != "length"].to_dict("records"):
        assert row["saved"] <= 1 / 4
    assert at(found, "length", 0.0)[["saved", "lost"]].tolist() == [1, 1]


def test_tokens_are_pooled_over_trajectories_of_all_lengths() -> None:
    answers = np.array([[RIGHT] * 9, [SPLIT] * 9])
    rollouts = frame(answers, lengths=np.array([3, 9]))  # T = 40 and 160
    table = encode(rollouts)
    found = early_stop_table(Scored.of(table, SIAConfig(num_bootstrap=200, num_splits=1)))
    row = at(found, "entropy", 0.0)
    assert row["saved"] == pytest.approx(40 / 200)
    assert row["stopped"] == 0.5
    fixed = at(found, "length", 50)  # half of the mean length: the first checkpoint there or past it
    assert fixed["saved"] == pytest.approx((160 - 60) / 200)


def test_a_single_checkpoint_and_a_single_problem() -> None:
    found = stops([[RIGHT]])
    assert found["saved"].isna().all()  # no token was written
    assert (found["accuracy"] == 1).all()
    assert found["lost_low"].isna().all()


def test_a_run_in_which_nothing_can_be_lost_says_so() -> None:
    note = TABLES["early_stop"].note
    assert "no answer is right at any stop" in note(stops([[WRONG, WRONG, WRONG]]))
    assert "before the first token loses nothing" in note(stops([[RIGHT, RIGHT, RIGHT]]))
    assert note(stops([[LEANS, SPLIT, RIGHT]])) == ""


def test_curves_are_monotone_and_bounded_and_cover() -> None:
    """A looser rule stops no later; what is lost is what accuracy says; intervals hold their value."""
    rng = np.random.default_rng(0)
    found = analyze_rollouts(
        frame(draw(moving(80, 12, rng), 20, rng), null=4), config=SIAConfig(num_bootstrap=400, num_splits=2)
    ).tables["early_stop"]
    by_tau = found[found["rule"] == "entropy"]
    assert by_tau["threshold"].tolist() == list(TAUS)
    assert (np.diff(by_tau["saved"]) >= 0).all()
    by_length = found[found["rule"] == "mode"]
    assert by_length["checkpoints"].tolist() == list(MODE_LENGTHS)
    assert (np.diff(by_length["saved"]) <= 0).all()
    full = at(found, "never")["accuracy"]
    np.testing.assert_allclose(found["lost"], full - found["accuracy"], atol=1e-12)
    for name in ("saved", "lost", "accuracy"):
        assert (found[f"{name}_low"] <= found[name] + 1e-12).all()
        assert (found[name] <= found[f"{name}_high"] + 1e-12).all()
    assert (found["saved"].between(0, 1)).all()


def test_token_entropy_is_that_of_the_tokens_since_the_checkpoint_before() -> None:
    table = encode(frame(np.array([[RIGHT] * 3, [SPLIT] * 3]), stride=2))
    traces = TokenTraces(np.array([1, 3, 0, 0.5], dtype=np.float32), np.array([0, 4, 4]), np.array([-1, -1]))
    recent = recent_token_entropy(table, traces)
    assert recent.tolist() == [np.inf, 2, 0.25, np.inf, np.inf, np.inf]
    scored = replace(Scored.of(table, SIAConfig(num_bootstrap=100, num_splits=1)), traces=traces)
    found = early_stop_table(scored)
    assert at(found, "token_entropy", 0.2)["saved"] == 0
    assert at(found, "token_entropy", 1.0)["stopped"] == 0  # it is low at the last checkpoint only


def test_a_setting_is_scored_on_problems_that_it_was_not_chosen_on() -> None:
    """Nothing moves: every setting that stops loses nothing, so the one that saves most is chosen in either half."""
    sure = frame(np.array([[RIGHT] * 5] * 8))
    scored = Scored.of(encode(sure), SIAConfig(num_bootstrap=100, num_splits=1))
    found = held_out_table(scored)
    assert found is not None
    by_rule = found.set_index("rule")
    assert by_rule.loc["entropy", ["saved", "lost"]].tolist() == [1, 0]
    assert by_rule.loc["length", ["saved", "lost", "chosen"]].tolist() == [1, 0, "0"]
    assert by_rule.loc["mode", "chosen"] == "over 2"
    assert by_rule.loc["never", ["saved", "lost", "chosen"]].tolist() == [0, 0, "never"]
    assert held_out_table(Scored.of(encode(frame(np.array([[RIGHT] * 5] * 3))), SIAConfig(num_splits=1))) is None


def test_held_out_numbers_are_those_of_tables_of_the_halves() -> None:
    """Chosen by the table of one half of the problems and read from that of the other; all have one length."""
    rng = np.random.default_rng(0)
    rollouts = frame(draw(moving(12, 8, rng), 8, rng), null=4)
    config = SIAConfig(num_bootstrap=20, num_splits=1)
    found = held_out_table(Scored.of(encode(rollouts), config))
    assert found is not None
    by_rule = found.set_index("rule").drop("length")  # its settings are others there
    generator, scores = np.random.default_rng([config.seed, NUM_HALVINGS]), []
    for _ in range(NUM_HALVINGS):
        first = {f"p{k}" for k in generator.permutation(12)[:6]}
        inside = rollouts["problem_id"].isin(first)
        tables = [early_stop_table(Scored.of(encode(rollouts[part]), config)) for part in (inside, ~inside)]
        for chooses, judges in (tables, tables[::-1]):
            for rule in by_rule.index:
                allowed = chooses["rule"].isin([rule, "never"]) & (chooses["lost"] <= 0.01 + 1e-9)
                best = chooses.loc[allowed, "saved"].idxmax()
                scores.append((rule, judges.loc[best, "saved"], judges.loc[best, "lost"]))
    expected = pd.DataFrame(scores, columns=["rule", "saved", "lost"]).groupby("rule").mean()
    for name in ("saved", "lost"):
        assert by_rule[name].tolist() == pytest.approx(expected.loc[by_rule.index, name].tolist())
    assert by_rule["saved"].nunique() > 2


def test_nothing_of_the_problems_that_are_scored_is_known_to_the_choice() -> None:
    """A set's choice stays whatever the other problems are, and a problem's own numbers are the same in any run."""
    rng = np.random.default_rng(1)
    rollouts = frame(draw(moving(12, 8, rng), 8, rng), null=4, lengths=rng.integers(3, 9, 12))
    config = SIAConfig(num_bootstrap=20, num_splits=1)

    def replay(part: pd.DataFrame) -> Replay:
        scored = Scored.of(encode(part), config)
        table, stops = scored.table, [setting.stops for setting in all_settings(scored, HELD_OUT_LENGTHS)]
        place = table.checkpoint, table.trajectory_offsets, table.problem_offsets
        return Replay.of(*place, scored.stats.majority_right, stops)

    whole, half = replay(rollouts), np.arange(12) % 2 == 0
    own = replay(rollouts[rollouts["problem_id"].isin([f"p{k}" for k in np.flatnonzero(half)])])
    for name in ("saved", "lost", "tokens", "number"):
        np.testing.assert_array_equal(getattr(whole, name)[half], getattr(own, name))
    candidates = range(whole.saved.shape[1])
    assert choose(whole, half[None], candidates) == choose(own, np.ones((1, 6), dtype=bool), candidates)
