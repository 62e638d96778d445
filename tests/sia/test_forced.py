"""The table of forced answers on runs whose correlations are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fastsia.sia import forced_table


def frames(num_problems: int, sign: float) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Forced entropy = a + b * (sampled entropy), forced surprisal = c + sign * (sampled surprisal) on every trace."""
    generator = np.random.default_rng(0)
    key = pd.DataFrame(
        [(f"p{i}", 0, 4 * t) for i in range(num_problems) for t in range(6)],
        columns=["problem_id", "trajectory", "checkpoint"],
    )
    entropy, surprisal = generator.random((2, len(key)))
    checkpoints = key.assign(entropy=entropy, gold_surprisal=surprisal)
    forced = key.assign(scorer="m", entropy=0.1 + 2 * entropy, gold_logprob=-(5 + sign * surprisal))
    correct = np.array([surprisal[6 * i] * sign > surprisal[6 * i + 5] * sign for i in range(num_problems)])
    trajectories = pd.DataFrame({"problem_id": [f"p{i}" for i in range(num_problems)], "trajectory": 0})
    return forced, checkpoints, trajectories.assign(correct=correct)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_known_correlations_reductions_and_auc(sign: float) -> None:
    forced, checkpoints, trajectories = frames(40, sign)
    table = forced_table(forced, checkpoints, trajectories).set_index("quantity")
    assert table.loc["entropy_with_rollouts", "value"] == pytest.approx(1)
    assert table.loc["surprisal_with_rollouts", "value"] == pytest.approx(sign)
    assert abs(table.loc["alignment", "value"]) < 0.3  # independent draws
    low, high = table.loc["alignment", ["value_low", "value_high"]]
    assert low < 0 < high
    # A trajectory is called correct exactly where its forced surprisal fell.
    assert table.loc["auc_reduction", "value"] == pytest.approx(1)
    assert table.loc["reduction_correct", "value"] > 0 > table.loc["reduction_incorrect", "value"]
    counts = table["num_trajectories"]
    assert counts["reduction_correct"] + counts["reduction_incorrect"] == counts["alignment"] == 40


def test_each_scorer_has_its_rows_and_undefined_values_are_null() -> None:
    forced, checkpoints, trajectories = frames(3, 1.0)
    constant = forced.assign(scorer="constant", entropy=0.0)
    bad = forced.assign(scorer="bad", gold_logprob=np.nan)
    table = forced_table(pd.concat([forced, constant, bad]), checkpoints, trajectories)
    assert set(table["scorer"]) == {"m", "constant"}
    row = table[(table["scorer"] == "constant") & (table["quantity"] == "alignment")].iloc[0]
    assert pd.isna(row["value"])
    assert pd.isna(row["value_low"])
    assert row["num_trajectories"] == 0
