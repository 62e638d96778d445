from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fastsia.config import SIAConfig
from fastsia.sia import analyze_rollouts, analyze_table
from fastsia.sia.extras.steps import choose_steps, discoveries, newcombe, step_columns
from fastsia.sia.scored import Scored
from fastsia.sia.table import encode
from tests.sia.simulate import Chain, draw, frame

CONFIG = SIAConfig(num_bootstrap=20, num_splits=2)
FLAT = np.array([0.5, 0.3, 0.2])


def truth(num_problems: int, decisive: int) -> np.ndarray:
    """Flat distributions, of which the first `decisive` problems' settle on gold at the third of five checkpoints."""
    p = np.tile(FLAT, (num_problems, 5, 1))
    p[:decisive, 2:] = [0.98, 0.01, 0.01]
    return p


def test_a_decisive_step_is_found_and_flat_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    found = analyze_rollouts(frame(draw(truth(30, 6), 40, rng)), config=CONFIG)
    points = found.checkpoints
    decisive = points[points["step_q_value"] <= 0.05]
    real = decisive["problem_id"].isin([f"p{i}" for i in range(6)]) & (decisive["checkpoint"] == 20)
    assert real.sum() >= 5
    assert (~real).sum() <= 2
    assert (decisive["step_gold_change_low"][real] > 0).all()
    assert (points["step_end"].dropna() == points["checkpoint"][points["step_end"].notna()] + 20).all()
    last = points["checkpoint"] == 80
    assert points.loc[last, [name for name in points if name.startswith("step_")]].isna().all(axis=None)
    steps = found.summary["steps"]
    assert (steps["number"], steps["decisive"]) == (120, len(decisive))
    assert steps["decisive_towards_gold"] >= 5
    table = found.tables["steps"]
    assert table["q_value"].is_monotonic_increasing
    assert table.iloc[0]["step_begin"] == 20
    assert "importance" not in table


def test_false_discoveries_among_flat_steps_are_rare() -> None:
    """Of 150 runs without any change, about one in twenty calls a step decisive."""
    rng = np.random.default_rng(1)
    tables = (encode(frame(draw(truth(8, 0), 20, rng))) for _ in range(150))
    alarms = [(step_columns(Scored.of(table, CONFIG))["step_q_value"] <= 0.05).any() for table in tables]
    assert np.mean(alarms) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 150)


def test_total_variation_and_kl_are_those_of_the_counts() -> None:
    answers = np.array([[[0, 0, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1]]])
    points = analyze_rollouts(frame(answers), config=CONFIG).checkpoints
    assert points["step_total_variation"][:2].tolist() == [0.5, 0.25]
    assert points["step_gold_change"][:2].tolist() == [-0.5, -0.25]
    a = CONFIG.smoothing
    before, after = (np.array([3, 1, 0]) + a) / (4 + 3 * a), (np.array([1, 3, 0]) + a) / (4 + 3 * a)
    assert points["step_kl"][0] == pytest.approx((after * np.log(after / before)).sum())


@pytest.mark.parametrize("budget", ["total", "new"])
def test_what_is_written_in_a_steps_place(budget: str) -> None:
    """Answers of the rollouts that leave within a step, against the chain's own: D = (p_m - q p_{m+1}) / (1 - q)."""
    rng = np.random.default_rng(2)
    rollouts, logprobs, chances = Chain(6, 3, rng, end=0.06).run(20, 400, 5, 200, rng, budget=budget)
    config = replace(CONFIG, max_tokens=200, rollout_budget=budget)
    found = analyze_table(encode(rollouts), config=config, logprobs=logprobs)
    points = found.checkpoints
    steps = points.index[points["step_num_replaced"] >= 100]
    assert len(steps) > 20
    q = points["step_probability"][steps].to_numpy()
    expected = (chances[steps, 0] - q * chances[steps + 1, 0]) / (1 - q)
    error = points["step_replaced_gold"][steps] - expected
    z = error / np.sqrt(expected * (1 - expected) / points["step_num_replaced"][steps] + 1e-4)
    assert abs(z.mean()) < 3 / np.sqrt(len(steps))
    assert z.std() < 1.3
    assert (points["step_importance_by_chance"][steps] < 0.2).all()
    if budget == "new":
        assert (points["step_num_replaced"].dropna() <= 400).all()


def test_shuffled_prefixes_and_single_checkpoints_have_no_steps() -> None:
    rng = np.random.default_rng(3)
    rollouts = frame(draw(truth(3, 0), 5, rng))
    shuffled = analyze_rollouts(rollouts, config=replace(CONFIG, shuffle_prefix=True))
    single = analyze_rollouts(rollouts[rollouts["checkpoint"] == 0], config=CONFIG)
    for found in (shuffled, single):
        assert found.summary["steps"] is None
        assert "steps" not in found.tables
        assert not len(choose_steps(found.checkpoints))


def test_q_values_are_benjamini_and_hochbergs_and_skip_what_is_unknown() -> None:
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.5])
    assert discoveries(p) == pytest.approx([0.04, np.nan, 0.16 / 3, 0.16 / 3, 0.5], nan_ok=True)
    assert np.isnan(discoveries(np.array([np.nan]))).all()


def test_the_interval_of_a_difference_is_newcombes() -> None:
    """The example of his paper: 56/70 against 48/80 has the interval 0.0524 to 0.3339."""
    low, high = newcombe(np.array([48]), np.array([80]), np.array([56]), np.array([70]))
    assert (low[0], high[0]) == pytest.approx((0.0524, 0.3339), abs=1e-4)
