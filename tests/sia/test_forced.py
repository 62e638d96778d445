"""The table of forced answers on runs whose correlations are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fastsia.sia import forced_stop_table, forced_table
from fastsia.sia.extras.forced import shapes, slopes
from fastsia.sia.extras.forced_stop import FORCED_TAUS


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


def test_slopes_are_those_of_a_line_and_shapes_have_a_tolerance() -> None:
    rng = np.random.default_rng(0)
    lengths = [5, 3, 2, 4]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    position = np.concatenate([np.sort(rng.choice(200, n, replace=False)) + 1.0 for n in lengths])
    values = rng.normal(size=len(position))
    found = slopes(position, values, offsets)
    for i in (0, 1, 3):
        part = slice(offsets[i], offsets[i + 1])
        assert found[i] == pytest.approx(np.polyfit(position[part] / position[part][-1], values[part], 1)[0])
    assert np.isnan(found[2])
    curves = [[3, 2, 2.05, 1], [1, 2, 2.5], [1, 1.08, 1], [1, 3, 2], [1]]
    starts = np.concatenate([[0], np.cumsum([len(curve) for curve in curves])])
    assert shapes(np.concatenate(curves), starts).tolist() == [0, 1, 2, 3, -1]


def test_shapes_of_all_trajectories_add_up() -> None:
    table = forced_table(*frames(40, 1.0)).set_index("quantity")
    shares = [table.loc[f"shape_{name}", "value"] for name in ("decreasing", "rising", "flat", "mixed")]
    assert sum(shares) == pytest.approx(1)
    assert table.loc["slope_correct", "value"] < 0 < table.loc["slope_incorrect", "value"]


def stops(problems: list[tuple[list[float], str, str]]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """One trajectory a problem with these forced entropies at 0, 10, 20, ..., this forced answer and this one at the
    end; gold is "1"."""
    rows = [
        (f"p{i}", 0, 10 * t, entropy, forced, final)
        for i, (entropies, forced, final) in enumerate(problems)
        for t, entropy in enumerate(entropies)
    ]
    frame = pd.DataFrame(rows, columns=["problem_id", "trajectory", "checkpoint", "entropy", "forced", "mode"])
    forced = frame.drop(columns="mode").rename(columns={"forced": "mode"}).assign(scorer="m")
    trajectories = pd.DataFrame({"problem_id": [f"p{i}" for i in range(len(problems))], "trajectory": 0, "gold": "1"})
    return forced, frame.drop(columns=["entropy", "forced"]), trajectories


def test_a_forced_stop_saves_what_comes_after_it_and_answers_with_the_forced_answer() -> None:
    forced, checkpoints, trajectories = stops(
        [([1.2, 0.3, 0.01], "1", "1"), ([2.0, 2.0, 0.15, 0.01, 0.01], "2", "1"), ([2, 2], "1", "2")]
    )
    table = forced_stop_table(forced, checkpoints, trajectories).set_index("threshold")
    assert table.index.tolist() == list(FORCED_TAUS)  # too few problems to choose on half of them
    assert table.loc[0.02, ["saved", "lost", "accuracy", "stopped"]].tolist() == pytest.approx(
        [10 / 70, 1 / 3, 1 / 3, 1 / 3]
    )
    assert table.loc[0.2, "saved"] == pytest.approx(20 / 70)
    assert table.loc[0.35, ["saved", "lost"]].tolist() == pytest.approx([30 / 70, 1 / 3])
    assert table.loc[1.5, ["saved", "stopped"]].tolist() == pytest.approx([40 / 70, 2 / 3])
    unknown = forced.assign(entropy=forced["entropy"].where(forced["problem_id"] == "p0"))
    only = forced_stop_table(unknown, checkpoints, trajectories).set_index("threshold")
    assert only.loc[0.35, ["saved", "accuracy"]].tolist() == [0.5, 1]
    assert forced_stop_table(forced.assign(entropy=np.nan), checkpoints, trajectories).empty


def test_a_forced_threshold_is_scored_on_other_problems() -> None:
    """Low entropies are right and higher ones wrong, so .1 is the best that loses nothing, on every half."""
    right, wrong = ([2.0, 0.08, 0.01], "1", "1"), ([2.0, 0.15, 0.15], "2", "1")
    table = forced_stop_table(*stops([right] * 12 + [wrong] * 12))
    found = table[table["held_out"]].iloc[0]
    assert found["threshold"] == 0.1
    assert found[["saved", "lost", "accuracy"]].tolist() == pytest.approx([0.25, 0, 1])
    assert (table["scorer"] == "m").all()
