"""Token entropies of known trajectories: means, parts, forking shares, and how they stand beside answer entropy."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from fastsia.config import SIAConfig
from fastsia.sia import TokenTraces
from fastsia.sia.analysis import Analysis, analyze_table
from fastsia.sia.compare import differences, side_by_side
from fastsia.sia.table import encode
from fastsia.sia.token_traces import FORKING_NATS
from tests.sia.simulate import draw, frame, moving

QUICK = SIAConfig(num_bootstrap=200, num_splits=2)


def traces(entropies: list[list[float]], answer: list[int]) -> TokenTraces:
    lengths = [len(each) for each in entropies]
    return TokenTraces(
        np.concatenate([np.array(each, dtype=np.float32) for each in entropies]),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.array(answer),
    )


def test_means_of_the_whole_and_of_its_parts() -> None:
    columns = traces([[1.0, 3.0, 0.5], [2.0], [], [4.0, 0.0]], [2, -1, -1, 0]).columns()
    np.testing.assert_allclose(columns["token_entropy"], [1.5, 2.0, np.nan, 2.0])
    np.testing.assert_allclose(columns["token_entropy_thinking"], [2.0, 2.0, np.nan, np.nan])
    np.testing.assert_allclose(columns["token_entropy_answer_part"], [0.5, np.nan, np.nan, 2.0])
    assert columns["num_thinking_tokens"].tolist() == [2, 1, 0, 0]


def test_so_far_reads_no_token_to_come() -> None:
    found = traces([[1.0, 3.0, 8.0], [2.0], []], [-1, -1, -1])
    positions = np.array([[0, 1, 2, 3], [0, 1, 1, 1], [0, 0, 0, 0]])
    expected = [[np.nan, 1, 2, 4], [np.nan, 2, 2, 2], [np.nan] * 4]
    np.testing.assert_allclose(found.so_far(positions), expected)


def test_a_fifth_of_the_runs_tokens_fork() -> None:
    """The run's threshold is over all its tokens, so shares differ between trajectories and not between runs; the
    fixed one is the other way round."""
    rng = np.random.default_rng(0)
    low, high = rng.exponential(0.1, 4000), rng.exponential(1.0, 1000)
    found = traces([low.tolist(), high.tolist()], [-1, -1])
    columns = found.columns()
    assert np.average(columns["forking_share"], weights=[4000, 1000]) == pytest.approx(0.2, abs=1e-3)
    assert columns["forking_share"][1] > 4 * columns["forking_share"][0]
    expected = [(low > FORKING_NATS).mean(), (high > FORKING_NATS).mean()]
    np.testing.assert_allclose(columns["forking_share_fixed"], expected, atol=1e-3)
    scaled = TokenTraces(found.entropy * 3, found.offsets, found.answer).columns()
    np.testing.assert_allclose(scaled["forking_share"], columns["forking_share"], atol=1e-3)
    assert (scaled["forking_share_fixed"] > columns["forking_share_fixed"]).all()


def test_a_run_that_is_sure_of_every_token_forks_nowhere() -> None:
    columns = traces([[0.0] * 10], [5]).columns()
    assert columns["forking_share"].tolist() == columns["forking_share_fixed"].tolist() == [0.0]


def analysis(problems: int = 30, scale: float = 1.0) -> Analysis:
    """Trajectories that end incorrect have twice the token entropy; answer parts, in every second one, half of it."""
    rng = np.random.default_rng(0)
    table = encode(frame(draw(moving(problems, 8, rng), 10, rng), null=4))
    plain = analyze_table(table, QUICK)
    level = np.where(plain.trajectories["correct"], 0.5, 1.0) * scale
    entropies = [[h] * 100 + [h / 2] * 40 for h in level.tolist()]
    answer = [100 if i % 2 else -1 for i in range(problems)]
    return analyze_table(table, QUICK, traces=traces(entropies, answer))


def test_the_table_has_the_groups_side_by_side() -> None:
    found = analysis()
    table = found.tables["token_level"].set_index("group")
    mean = (100 + 40 / 2) / 140
    assert table.loc["correct", "token_entropy"] == pytest.approx(0.5 * mean)
    assert table.loc["incorrect", "token_entropy"] == pytest.approx(1.0 * mean)
    assert table.loc["correct", ["token_entropy_low", "token_entropy_high"]].tolist() == pytest.approx([0.5 * mean] * 2)
    share = found.trajectories["correct"].mean()
    assert table.loc["all", "accuracy"] == pytest.approx(share)
    assert table["accuracy"].notna().tolist() == [True, False, False]
    assert table.loc["all", "token_entropy"] == pytest.approx(mean * (0.5 * share + (1 - share)))
    low, high = table.loc["all", ["token_entropy_low", "token_entropy_high"]]
    assert low < table.loc["all", "token_entropy"] < high
    right = int(found.trajectories["correct"].sum())
    assert table["num_trajectories"].tolist() == [30, right, 30 - right]
    assert table.loc["all", "num_answer_parts"] == 15
    assert table.loc["correct", "token_entropy_answer_part"] == pytest.approx(0.25)
    for name, column in (("first", "first_entropy"), ("mean", "mean_entropy"), ("final", "final_entropy")):
        assert table.loc["all", f"answer_entropy_{name}"] == pytest.approx(found.trajectories[column].mean())
    json.dumps(found.summary, allow_nan=False)
    assert found.summary["forking_threshold"]["fixed"] == FORKING_NATS


def test_mean_entropy_is_over_a_trajectorys_checkpoints() -> None:
    found = analysis()
    means = found.checkpoints.groupby("problem_id", sort=False)["entropy"].mean()
    np.testing.assert_allclose(found.trajectories["mean_entropy"], means.to_numpy())


def test_without_token_entropies_all_of_it_is_left_out() -> None:
    rng = np.random.default_rng(0)
    found = analyze_table(encode(frame(draw(moving(12, 8, rng), 10, rng), null=4)), QUICK)
    assert "token_level" not in found.tables
    assert "forking_threshold" not in found.summary
    assert not [name for name in found.trajectories if "token" in name or "forking" in name]
    assert "auc_token_entropy" not in found.tables["failure_detection"]


def test_runs_may_part_ways() -> None:
    """Half the token entropy at the same answer entropy: the differences say so, run by run and paired."""
    one, other = analysis(), analysis(scale=0.5)
    rows = differences({"sft": one.trajectories, "rl": other.trajectories}).set_index("quantity")
    assert rows.loc["token_entropy", "high"] < 0
    assert rows.loc["entropy_mean", ["difference", "low", "high"]].tolist() == [0, 0, 0]
    both = side_by_side({"sft": one.tables["token_level"], "rl": other.tables["token_level"]})
    assert both["run"].tolist() == ["sft"] * 3 + ["rl"] * 3
    assert both.columns[1] == "group"
    bare = one.trajectories.drop(columns=["token_entropy", "forking_share_fixed"])
    assert "token_entropy" not in differences({"a": one.trajectories, "b": bare})["quantity"].tolist()


def test_undefined_numbers_are_null() -> None:
    """One problem, correct: no interval, and nothing at all of the incorrect."""
    table = encode(frame(np.zeros((1, 3, 4), dtype=np.int64)))
    found = analyze_table(table, QUICK, traces=traces([[0.5, 1.5]], [-1])).tables["token_level"].set_index("group")
    assert found.loc["all", "token_entropy"] == 1.0
    assert np.isnan(found.loc["all", "token_entropy_low"])
    assert pd.isna(found.loc["incorrect", "token_entropy"])
    assert pd.isna(found.loc["all", "token_entropy_answer_part"])
