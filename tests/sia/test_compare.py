from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fastsia.config import SIAConfig
from fastsia.sia import (
    Analysis,
    analyze_rollouts,
    differences,
    published_rho,
    shuffled_table,
    table1,
    table2,
    table3,
    tabulate,
)
from fastsia.sia.compare import entropy_performance, temperature_sweep
from fastsia.sia.paper import TABLE1, TABLE2, TABLE3
from tests.sia.simulate import constant, draw, frame, moving

QUICK = SIAConfig(num_bootstrap=200, num_splits=4)


def analysis(seed: int, problems: int = 30) -> Analysis:
    rng = np.random.default_rng(seed)
    return analyze_rollouts(frame(draw(moving(problems, 8, rng), 10, rng), null=4), config=QUICK)


def test_tabulate_has_a_row_a_run() -> None:
    table = tabulate({"one": {**analysis(0).summary, "model": "m"}, "two": analysis(1).summary})
    assert table["rho_baseline"].tolist() == [analysis(seed).summary["rho"]["baseline"] for seed in (0, 1)]
    assert table["run"].tolist() == ["one", "two"]
    assert table["model"].tolist()[0] == "m"
    assert table["auc_50_low"].notna().all()
    assert (table["rho_pearson_low"] <= table["rho_pearson"]).all()


def test_difference_of_a_run_and_itself_is_zero() -> None:
    found = analysis(0).trajectories
    table = differences({"a": found, "b": found})
    assert table["paired"].all()
    assert (table[["difference", "low", "high"]] == 0).all(axis=None)


def test_pairing_uses_the_shared_problems_only() -> None:
    one, other = analysis(0).trajectories, analysis(0, problems=30).trajectories.iloc[10:].copy()
    other["rho"] += 0.1
    row = differences({"a": one, "b": other}).set_index("quantity").loc["rho_pearson"]
    assert row["num_problems"] == 20
    assert row["difference"] == pytest.approx(0.1)
    assert (row["low"], row["high"]) == (pytest.approx(0.1), pytest.approx(0.1))


def test_runs_on_other_problems_are_resampled_apart() -> None:
    one, other = analysis(0).trajectories, analysis(1).trajectories
    other = other.assign(problem_id="x" + other["problem_id"])
    row = differences({"a": one, "b": other}).set_index("quantity").loc["rho_pearson"]
    assert not row["paired"]
    assert row["low"] < row["difference"] < row["high"]
    assert row["difference"] == pytest.approx(other["rho"].mean() - one["rho"].mean())


def test_shuffled_table() -> None:
    rng = np.random.default_rng(2)
    flat = analyze_rollouts(frame(draw(constant(30, np.array([0.4, 0.3, 0.3]), 8), 10, rng)), config=QUICK)
    table = shuffled_table(analysis(0).trajectories, flat.trajectories).set_index("quantity")
    row = table.loc["rho_cross_fitted"]
    assert row["difference"] == pytest.approx(row["shuffled"] - row["original"])
    assert row["difference_low"] < row["difference"] < row["difference_high"]
    assert row["shuffled_low"] < 0 < row["shuffled_high"]


def test_undefined_everywhere_gives_null() -> None:
    found = analysis(0).trajectories.assign(rho_cross_fitted=np.nan)
    table = shuffled_table(found, found).set_index("quantity")
    assert pd.isna(table.loc["rho_cross_fitted", "original"])


def test_published_values() -> None:
    assert len(TABLE1) == 11
    assert published_rho("Gemma-2-2B", "gsm8k") == -0.530
    assert published_rho("Olmo-3-7B-Think", "arc_challenge") == published_rho("Olmo-3-7B-Think", "arc_easy") == 0.887
    assert published_rho("Qwen/Qwen2.5-3B", "svamp") == 0.603
    assert published_rho("demo:sft", "gsm8k") is None
    assert published_rho("Gemma-2-2B", "demo") is None
    for model, (original, _) in {**TABLE2, **TABLE3}.items():
        assert TABLE1[model]["gsm8k"] == original


def test_our_tables_stand_beside_the_published_ones() -> None:
    summary = analysis(0).summary
    table = table1({("Qwen2.5-3B", "gsm8k"): summary, ("Gemma-2-2B", "svamp"): None, ("demo:sft", "demo"): summary})
    ours = summary["rho"]["pearson"]
    assert table.loc[0, "difference"] == pytest.approx(ours - 0.682)
    assert table.loc[1, "published"] == 0.169
    assert pd.isna(table.loc[1, "rho"])
    assert pd.isna(table.loc[2, "published"])
    assert table.loc[2, "rho"] == ours
    found = analyze_rollouts(
        frame(draw(moving(12, 8, np.random.default_rng(0)), 10, np.random.default_rng(1))), config=QUICK
    )
    shuffled = shuffled_table(found.trajectories, found.trajectories)
    second = table2(
        {
            ("Qwen2.5-3B", "gsm8k"): shuffled,
            ("demo:sft", "demo"): shuffled,
            ("Gemma-2-2B-it", "gsm8k"): None,
            ("Qwen2.5-3B", "svamp"): shuffled,
        }
    )
    rho = shuffled.set_index("quantity").loc["rho_pearson", "original"]
    assert second["prefix"].tolist() == ["original", "shuffled"] * 4
    assert second["published"].tolist()[:2] == [0.682, -0.132]
    assert second["published"].isna().tolist() == [False, False, True, True, False, False, True, True], "GSM8K only"
    assert second["difference"].tolist()[:2] == [rho - 0.682, rho + 0.132]
    assert second.loc[0, "rho_low"] < rho < second.loc[0, "rho_high"]
    assert second.loc[1, "inside"] == (second.loc[1, "rho_low"] <= -0.132 <= second.loc[1, "rho_high"])
    assert second["change"].tolist()[1] == 0.0
    assert second.loc[4, ["rho", "difference", "change", "inside"]].isna().all()
    coarse = found.tables["coarse_ablation"]
    third = table3({("Qwen/Qwen2.5-3B", "gsm8k"): coarse, ("Gemma-2-2B-it", "gsm8k"): None})
    assert third["published"].tolist() == [0.682, 0.635, 0.522, 0.506]
    assert third["rho"].tolist()[:2] == coarse["rho_pearson"].tolist()
    assert third.loc[1, "difference"] == coarse.loc[1, "rho_pearson"] - 0.635
    assert third.loc[1, "change"] == coarse.loc[1, "rho_pearson"] - coarse.loc[0, "rho_pearson"]
    assert third["num_rollouts"].tolist()[:2] == [10, 5]


def test_accuracy_against_entropy_is_the_line_that_was_put_in() -> None:
    """Exact on a line, with resamples; a is 0 where accuracy does not depend on entropy."""
    rng = np.random.default_rng(0)
    ids = [f"p{i}" for i in range(50)]
    level = rng.normal(0, 0.01, 50)
    runs = {}
    for k, entropy in enumerate((0.2, 0.5, 0.9, 1.3)):
        accuracy = 0.9 - 0.15 * np.exp(entropy)
        own = pd.DataFrame({"problem_id": ids, "mean_entropy": entropy + level, "correct": accuracy})
        own["mean_entropy"] += entropy - own["mean_entropy"].mean()
        runs[str(k)] = own
    found = entropy_performance(runs, num_resamples=200)
    assert found is not None
    row = found.set_index("quantity").loc["entropy_mean"]
    assert row[["a", "b", "r_squared"]].tolist() == pytest.approx([0.15, 0.9, 1])
    assert row["a_low"] < 0.15 < row["a_high"]
    assert row[["num_runs", "num_problems"]].tolist() == [4, 50]
    assert found["quantity"].tolist() == ["entropy_mean"]  # without token entropies
    assert entropy_performance(dict(list(runs.items())[:2])) is None
    apart = runs | {"3": runs["3"].assign(problem_id="x")}
    assert entropy_performance(apart) is None


def test_a_temperature_sweep_is_in_the_order_of_temperature() -> None:
    runs = {name: analysis(seed).trajectories for seed, name in enumerate("abc")}
    temperatures = {"a": 1.0, "b": 0.3, "c": 0.7}
    found = temperature_sweep(runs, temperatures, num_resamples=100)
    assert found is not None
    assert found["run"].tolist() == ["b", "c", "a"]
    assert found["accuracy"].tolist() == pytest.approx([runs[name]["correct"].mean() for name in "bca"])
    assert (found["gain_low"] <= found["gain_high"]).all()
    assert temperature_sweep(runs, dict.fromkeys("abc", 0.7)) is None
