from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from fastsia.config import SIAConfig
from fastsia.errors import FastsiaError
from fastsia.sia import analyze_rollouts
from tests.sia.simulate import draw, frame, moving

QUICK = SIAConfig(num_bootstrap=200, num_splits=4)


def simulated(problems: int = 12, checkpoints: int = 6, rollouts: int = 8, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, checkpoints + 1, problems)
    return frame(draw(moving(problems, checkpoints, rng), rollouts, rng), null=4, lengths=lengths)


def test_summary_has_what_others_rely_on() -> None:
    summary = analyze_rollouts(simulated(), config=QUICK).summary
    for key in ("num_problems", "accuracy", "null_rate", "rho", "auc", "ci"):
        assert key in summary
    of_all = "pearson spearman cross_fitted cross_fitted_corrected undefined_fraction decoupled smoothed baseline "
    of_all += "baseline_decoupled baseline_smoothed"
    by_outcome = [
        f"{key}_{group}"
        for key in ("pearson", "spearman", "cross_fitted", "decoupled", "smoothed")
        for group in ("correct", "incorrect")
    ]
    for key in [*of_all.split(), *by_outcome, "expected_from_noise", "share_moving"]:
        assert key in summary["rho"]
        assert key in summary["ci"]["rho"]
    assert summary["rho"]["recommended"] == "smoothed"
    assert {"position", "auc", "num_correct", "num_incorrect"} <= set(summary["auc"][0])
    assert len(summary["ci"]["auc"]) == len(summary["auc"]) == 21
    assert summary["num_problems"] == 12
    low, high = summary["ci"]["rho"]["pearson"]
    assert low <= summary["rho"]["pearson"] <= high
    test = summary["repairing_test"]
    assert test["num_traces"] == test["num_trajectories"] > 1, "the old name too, for one release"
    assert test["correct"]["null_mean"] == test["correct"]["permuted_mean"]


def test_frames_have_what_others_rely_on() -> None:
    found = analyze_rollouts(simulated(), config=QUICK)
    assert {"problem_id", "trajectory", "gold", "correct", "num_answers", "rho"} <= set(found.trajectories.columns)
    assert {
        *("problem_id", "trajectory", "checkpoint", "num_rollouts", "entropy", "entropy_miller_madow"),
        *("entropy_chao_shen", "gold_surprisal", "null_rate", "mode"),
    } <= set(found.checkpoints.columns)
    assert {"curve", "axis", "group", "position", "value", "low", "high", "se", "count"} == set(found.curves.columns)
    assert {"entropy", "gain", "gain_share", "entropy_drop", "auc", "fano_bound"} <= set(found.curves["curve"])
    assert {
        *("sensitivity", "coarse_ablation", "early_stop", "early_stop_held_out"),
        *("failure_detection", "calibration", "calibration_bins", "steps"),
    } == set(found.tables)


def test_json_holds_no_nan() -> None:
    for rollouts in (
        simulated(),
        simulated(problems=1),
        frame(np.zeros((2, 1, 1), dtype=np.int64)),
        frame(np.zeros((3, 4, 2), dtype=np.int64), null=0),
    ):
        json.dumps(analyze_rollouts(rollouts, config=QUICK).summary, allow_nan=False)


def unequal(rollouts: pd.DataFrame) -> list[str]:
    warnings = analyze_rollouts(rollouts, config=QUICK).summary["warnings"]
    return [warning for warning in warnings if warning.startswith("Unequal numbers of rollouts")]


def test_a_shortage_of_rollouts_at_a_checkpoint_is_said() -> None:
    """4 rollouts at checkpoint 0 and 20 at the others, of one distribution of five answers: H rises by .22 nats."""
    answers = np.broadcast_to(np.arange(20) % 5, (4, 5, 20))
    rollouts = frame(answers)
    assert unequal(rollouts) == []
    short = (rollouts["checkpoint"] == 0) & (rollouts["rollout"] >= 4) & (rollouts["problem_id"] != "p3")
    found = analyze_rollouts(rollouts[~short], config=QUICK).checkpoints
    assert found["entropy"].head(2).round(3).tolist() == [1.386, 1.609]
    (warning,) = unequal(rollouts[~short])
    assert "4 to 20 a checkpoint, fewer than 20 at 3 of 20 checkpoints" in warning
    assert "in the 3 of 4 trajectories whose checkpoints differ a shortage at one checkpoint looks like" in warning
    assert "\n" not in warning


def test_a_shortage_of_a_whole_trajectory_is_said() -> None:
    rollouts = simulated()
    (warning,) = unequal(rollouts[(rollouts["problem_id"] != "p1") | (rollouts["rollout"] < 7)])
    assert "7 to 8 a checkpoint" in warning
    assert "trajectories with fewer look more certain than those with more" in warning


def test_failed_rollouts_leave_a_shortage_and_missing_checkpoints_do_not() -> None:
    """Lost rows are a shortage; a checkpoint that is left out as a whole is none."""
    rollouts = simulated()
    reason = pd.Series("eos", index=rollouts.index)
    lost = reason.mask((rollouts["problem_id"] == "p2") & (rollouts["checkpoint"] == 20) & (rollouts["rollout"] == 5))
    assert len(unequal(rollouts.assign(finish_reason=lost.fillna("error")))) == 1
    assert unequal(rollouts[(rollouts["problem_id"] != "p2") | (rollouts["checkpoint"] != 20)]) == []
    last = rollouts["checkpoint"] == rollouts.groupby("problem_id")["checkpoint"].transform("max")
    spent = rollouts.assign(finish_reason=reason.mask(last, "length"), num_tokens=5 * ~last)
    assert unequal(spent) == []


def test_all_null() -> None:
    """H is 0 because nothing was answered; that must not read as certainty."""
    found = analyze_rollouts(frame(np.full((5, 4, 6), 1), null=1), config=QUICK)
    summary = found.summary
    assert summary["accuracy"] == 0.0
    assert summary["null_rate"] == 1.0
    assert summary["rho"]["pearson"] is None
    assert summary["rho"]["cross_fitted"] is None
    assert summary["rho"]["undefined_fraction"] == 1.0
    assert all(point["auc"] is None for point in summary["auc"])
    assert (found.checkpoints["entropy"] == 0).all()
    assert any("no rollout has an answer" in warning for warning in summary["warnings"])
    assert any("AUC is undefined" in warning for warning in summary["warnings"])
    assert any("share of up to" in warning for warning in summary["warnings"])
    (why,) = (warning for warning in summary["warnings"] if warning.startswith("The paper's ρ is undefined"))
    assert "5 trajectories of 5 have no rollout with the gold answer" in why


def test_temperature_zero() -> None:
    """Every rollout the same: nothing varies, so nothing correlates, and nothing crashes."""
    answers = np.repeat(np.array([[[1], [0], [0]], [[1], [1], [2]]]), 5, axis=2)
    summary = analyze_rollouts(frame(answers), config=QUICK).summary
    assert summary["rho"]["undefined_fraction"] == 1.0
    assert summary["entropy_first"] == 0.0
    assert summary["accuracy"] == 0.5


def test_undefined_traces_are_excluded_and_counted() -> None:
    rng = np.random.default_rng(0)
    lively = frame(draw(moving(6, 5, rng), 8, rng), null=4)
    flat = frame(np.zeros((2, 5, 8), dtype=np.int64)).assign(problem_id=lambda t: "flat-" + t["problem_id"])
    with_flat = analyze_rollouts(pd.concat([lively, flat]), config=QUICK)
    alone = analyze_rollouts(lively, config=QUICK)
    assert with_flat.summary["rho"]["undefined_fraction"] == 0.25
    assert with_flat.summary["rho"]["pearson"] == pytest.approx(alone.summary["rho"]["pearson"])
    assert with_flat.trajectories["rho"].isna().sum() == 2


def test_row_order_changes_nothing_but_ties() -> None:
    """Rows come from files and databases in any order; problems are then met in another order too."""
    rollouts = simulated()
    mixed = rollouts.sample(frac=1, random_state=2)
    mixed = mixed.sort_values(
        "problem_id",
        key=lambda ids: ids.map({p: i for i, p in enumerate(rollouts["problem_id"].unique())}),
        kind="stable",
    )
    one, other = analyze_rollouts(rollouts, config=QUICK), analyze_rollouts(mixed, config=QUICK)
    assert json.dumps(one.summary) == json.dumps(other.summary)
    pd.testing.assert_frame_equal(one.checkpoints, other.checkpoints)


def test_correct_is_the_trajectorys_own_answer_where_given() -> None:
    rollouts = simulated()
    assert analyze_rollouts(rollouts.assign(correct=True), config=QUICK).summary["accuracy"] == 1.0
    found = analyze_rollouts(rollouts, config=QUICK).trajectories
    assert (found["correct"] == (found["final_mode"] == found["gold"])).all()


def test_trajectories_of_a_problem_are_one_cluster() -> None:
    """Repeating every problem's trajectory must not narrow the intervals."""
    rollouts = simulated(problems=20)
    twice = pd.concat([rollouts, rollouts.assign(trajectory=1)])
    one = analyze_rollouts(rollouts, config=QUICK).summary
    two = analyze_rollouts(twice, config=QUICK).summary
    assert two["num_trajectories"] == 40
    assert two["rho"]["pearson"] == pytest.approx(one["rho"]["pearson"])
    assert two["ci"]["rho"]["pearson"] == pytest.approx(one["ci"]["rho"]["pearson"])
    assert two["ci"]["auc"][10] == pytest.approx(one["ci"]["auc"][10])


def test_a_trajectory_scores_the_same_in_any_company() -> None:
    rollouts = simulated()
    alone = rollouts[rollouts["problem_id"] == "p3"]
    few = analyze_rollouts(alone, config=QUICK).trajectories.iloc[0]
    many = analyze_rollouts(rollouts, config=QUICK).trajectories.set_index("problem_id").loc["p3"]
    assert few["rho"] == pytest.approx(many["rho"])
    assert few["rho_cross_fitted"] == pytest.approx(many["rho_cross_fitted"])


def test_think_readings_are_scored_beside_the_run() -> None:
    rollouts = simulated()
    both = rollouts.assign(answer_strict=rollouts["answer"], answer_lenient=rollouts["answer"].fillna("10"))
    table = analyze_rollouts(both, config=QUICK).tables["sensitivity"].set_index(["factor", "value"])
    assert table.loc[("answer_reading", "strict"), "rho_pearson"] == pytest.approx(
        table.loc[("as run", ""), "rho_pearson"]
    )
    same = analyze_rollouts(both.assign(answer_lenient=both["answer"]), config=QUICK).tables["sensitivity"]
    assert "answer_reading" not in set(same["factor"])
    assert table.loc[("answer_reading", "lenient"), "rho_pearson"] != table.loc[("as run", ""), "rho_pearson"]


def test_pooled_estimates_need_rides() -> None:
    rollouts = simulated()
    assert "entropy_pooled" not in analyze_rollouts(rollouts, config=QUICK).checkpoints
    found = analyze_rollouts(rollouts.assign(ride_tokens=0), config=QUICK)
    np.testing.assert_allclose(found.checkpoints["entropy_pooled"], found.checkpoints["entropy"], atol=1e-12)
    assert "entropy_pooled" in set(found.curves["curve"])


def test_without_resamples_there_are_no_intervals() -> None:
    found = analyze_rollouts(simulated(), config=SIAConfig(num_bootstrap=0, num_splits=2))
    assert found.summary["ci"]["rho"]["pearson"] is None
    assert found.summary["rho"]["pearson"] is not None
    assert found.curves["low"].isna().all()


def test_empty_table_is_refused() -> None:
    with pytest.raises(FastsiaError, match="empty"):
        analyze_rollouts(simulated().iloc[:0])


def test_rollouts_without_an_answer_are_shown_three_ways() -> None:
    rollouts = simulated(seed=3)
    assert rollouts["answer"].isna().any()
    table = analyze_rollouts(rollouts, config=QUICK).tables["sensitivity"].set_index(["factor", "value"])
    apart = rollouts["answer"].where(rollouts["answer"].notna(), [f"none {i}" for i in range(len(rollouts))])
    spelled = analyze_rollouts(rollouts.assign(answer=apart), config=QUICK).checkpoints["entropy"]
    once = analyze_rollouts(rollouts, config=QUICK).checkpoints
    null = once["null_rate"] * once["num_rollouts"]
    expected = once["entropy"] + once["null_rate"] * np.log(null.where(null > 0, 1))
    np.testing.assert_allclose(spelled, expected)
    found = {value: table.loc[("no answer", value), "rho_pearson"] for value in ("left out", "each its own")}
    without = analyze_rollouts(rollouts[rollouts["answer"].notna()], config=QUICK).summary["rho"]["pearson"]
    assert found["left out"] == pytest.approx(without)
    assert len({*found.values(), table.loc[("as run", ""), "rho_pearson"]}) == 3


def test_the_mean_gain_a_step_has_a_standard_error() -> None:
    found = analyze_rollouts(simulated(problems=40), config=QUICK)
    steps = found.trajectories["num_checkpoints"] - 1
    each = found.trajectories["gain"] / steps
    assert found.summary["mean_step_gain"] == pytest.approx(each.mean())
    assert found.summary["mean_step_gain_se"] == pytest.approx(each.std() / np.sqrt(40), rel=0.2)


def test_what_rests_on_few_is_said() -> None:
    """An AUC from one correct trajectory of twelve, and a ρ from two checkpoints, were printed without a word."""
    answers = np.ones((12, 2, 4), dtype=int)
    answers[0] = 0
    said = " ".join(analyze_rollouts(frame(answers, null=1), config=QUICK).summary["warnings"])
    for text in ("rests on 1 trajectory that ends correct", "more than 2 checkpoints", "92 % of the rollouts have no"):
        assert text in said
