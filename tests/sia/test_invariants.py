"""What must hold along a model's own text is checked, and a planted bug is found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fastsia.config import SIAConfig
from fastsia.sia import TokenLogprobs, analyze_table, decomposition
from fastsia.sia.cut import Ends
from fastsia.sia.table import RolloutTable, encode
from tests.sia.simulate import Chain, diverging, draw, filtered, frame

CONFIG = SIAConfig(max_tokens=100, rollout_budget="total", num_bootstrap=20, num_splits=2)


@pytest.fixture(scope="module")
def run() -> tuple[RolloutTable, TokenLogprobs]:
    rng = np.random.default_rng(3)
    rollouts, logprobs, _ = Chain(10, 4, rng, spread=0.05, end=0.1).run(150, 12, 4, 100, rng, budget="total")
    return encode(rollouts), logprobs


def checked(table: RolloutTable, logprobs: TokenLogprobs | None, config: SIAConfig = CONFIG) -> tuple[Any, list[str]]:
    ends = Ends("trajectories", np.zeros(table.num_trajectories, dtype=bool))
    summary = analyze_table(table, config, logprobs=logprobs, ends=ends).summary
    found = [note for note in summary["warnings"] if "their sum" in note or "p =" in note or "sum to more" in note]
    return summary["invariants"], found


def test_a_right_run_passes(run: tuple[RolloutTable, TokenLogprobs]) -> None:
    invariants, warnings = checked(*run)
    assert invariants["not_checked"] is None
    assert set(invariants["checks"]) == {"leaf_sum", "gain", "carried_entropy", "decomposition"}
    by_text = checked(*run, replace(CONFIG, checkpoints="sentence"))[0]["checks"]
    assert set(by_text) == {"leaf_sum", "gain", "decomposition"}
    assert warnings == []


def test_a_decomposition_that_trusts_later_checkpoints_too_much_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug: tokens count as more likely than they are. Without it there is no alarm, though half of the
    rollouts are too few for every segment to have a divergence."""
    right = decomposition.estimate_chunk

    def wrong(table: Any, local: Any, divergences: Any, *rest: Any, **settings: Any) -> np.ndarray:
        return right(table, local, replace(divergences, log_stay=divergences.log_stay / 2), *rest, **settings)

    answers = np.tile([0.3, 0.6, 0.1], (150, 8, 1))
    answers[:, -1] = [0.8, 0.1, 0.1]
    rollouts, logprobs, _ = diverging(np.full((150, 7), 0.85), answers, 8, np.random.default_rng(5))
    run = encode(rollouts), logprobs
    invariants, warnings = checked(*run)
    assert invariants["checks"]["decomposition"]["p_value"] > 1e-3
    assert not any("decomposition" in note for note in warnings)
    monkeypatch.setattr(decomposition, "estimate_chunk", wrong)
    invariants, warnings = checked(*run)
    assert invariants["checks"]["decomposition"]["p_value"] < 1e-3
    assert any("decomposition" in note for note in warnings)


def test_a_gain_and_a_rise_are_found() -> None:
    """Trajectories chosen by their outcome gain; with the checkpoints in reverse, H rises."""
    rng = np.random.default_rng(6)
    beliefs = filtered(600, 8, rng)
    chosen = encode(frame(draw(beliefs[beliefs[:, -1].argmax(axis=1) == 0], 20, rng)))
    invariants, warnings = checked(chosen, None)
    assert invariants["checks"]["gain"]["p_value"] < 1e-3
    assert any(note.startswith("The mean gain") for note in warnings)
    backwards = encode(frame(draw(beliefs[:, ::-1], 20, rng)))
    invariants, warnings = checked(backwards, None)
    assert invariants["checks"]["carried_entropy"]["p_value"] < 1e-3
    assert any(note.startswith("Mean H") for note in warnings)


def test_probabilities_of_another_distribution_are_found(run: tuple[RolloutTable, TokenLogprobs]) -> None:
    table, logprobs = run
    assert table.logprob is not None
    _, warnings = checked(replace(table, logprob=table.logprob / 3), logprobs)
    assert any("sum to more than 1" in note for note in warnings)


def test_a_martingale_raises_no_alarm() -> None:
    rng = np.random.default_rng(7)
    alarms = [checked(encode(frame(draw(filtered(100, 8, rng), 20, rng))), None)[1] for _ in range(20)]
    assert sum(map(len, alarms)) == 0


def test_a_model_that_is_mostly_right_raises_no_alarm() -> None:
    """With .95 to be right from the start and certain at the end, most problems gain a little and few lose much. A
    t-test alarms in a seventh of these runs: where none of the 12 problems ends wrong."""
    rng = np.random.default_rng(8)
    found = []
    for _ in range(40):
        right = rng.random(12) < 0.95
        p = np.tile([0.95, 0.05], (12, 3, 1))
        p[:, 1:] = np.where(right, [[1.0], [0.0]], [[0.0], [1.0]]).T[:, None]
        found.append(checked(encode(frame(draw(p, 20, rng))), None)[0]["checks"]["gain"])
    assert sum(check["value"] > 0 for check in found) > 10
    assert min(check["p_value"] for check in found) > 0.001


def test_it_says_why_nothing_was_checked(run: tuple[RolloutTable, TokenLogprobs]) -> None:
    table, logprobs = run
    assert "one distribution" in analyze_table(table, CONFIG, logprobs=logprobs).summary["invariants"]["not_checked"]
    assert table.cut is not None
    cut = np.arange(table.num_rollouts) % 50 == 0
    assert "cut 2.0 %" in checked(replace(table, cut=cut), logprobs)[0]["not_checked"]
    assert "shuffled" in checked(table, logprobs, replace(CONFIG, shuffle_prefix=True))[0]["not_checked"]


def test_given_trajectories_are_said_to_be_so_and_not_tested(run: tuple[RolloutTable, TokenLogprobs]) -> None:
    table, logprobs = run
    ends = Ends("trajectories", np.zeros(table.num_trajectories, dtype=bool))
    found = analyze_table(table, CONFIG, logprobs=logprobs, ends=ends, off_policy=True)
    assert found.summary["off_policy"]
    assert found.summary["invariants"]["not_checked"] == "the trajectories were given, not drawn from the model"
    assert set(found.summary["invariants"]["checks"]) == {"leaf_sum"}
    assert any("off-policy" in note for note in found.summary["warnings"])
    assert "rho_baseline" not in set(found.estimates["quantity"])
    assert found.checkpoints["entropy_decomposed"].notna().any()  # it holds along any text
