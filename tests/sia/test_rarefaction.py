"""H, s and rho of checkpoints with unequal numbers of rollouts: those of the fewest, whatever the rest has."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from fastsia.config import SIAConfig
from fastsia.sia import analyze_rollouts
from fastsia.sia.entropy import measure
from fastsia.sia.rarefaction import rarefied
from fastsia.sia.scored import Scored
from fastsia.sia.table import encode
from tests.sia.simulate import constant, draw, frame, moving

ALLOCATED = SIAConfig(target_se=0.1, num_bootstrap=50, num_splits=2)


def uneven(rollouts: pd.DataFrame, numbers: np.ndarray) -> pd.DataFrame:
    """The table with the first numbers[c] rollouts of each checkpoint c of every trajectory."""
    place = rollouts.groupby(["problem_id", "checkpoint"], sort=False).ngroup() % len(numbers)
    return rollouts[rollouts["rollout"] < numbers[place]].reset_index(drop=True)


def test_rarefied_numbers_are_means_over_all_choices() -> None:
    rng = np.random.default_rng(0)
    table = encode(uneven(frame(draw(moving(2, 3, rng), 8, rng), null=4), np.array([8, 5, 3])))
    found = rarefied(table, measure(table, 0.5), 0.5, int(table.count.min()))
    for g in range(table.num_checkpoints):
        begin, end = table.checkpoint_offsets[g : g + 2]
        owner = table.trajectory_of_checkpoint[g]
        entropies, surprisals = [], []
        for chosen in combinations(table.code[begin:end].tolist(), 3):
            share = np.unique(chosen, return_counts=True)[1] / 3
            entropies.append(-(share * np.log(share)).sum())
            gold = chosen.count(int(table.gold[owner]))
            surprisals.append(-np.log((gold + 0.5) / (3 + 0.5 * table.num_answers[owner])))
        assert found.entropy[g] == pytest.approx(np.mean(entropies))
        assert found.gold_surprisal[g] == pytest.approx(np.mean(surprisals))


def test_more_rollouts_at_some_checkpoints_are_no_trend() -> None:
    """One distribution everywhere, 6 rollouts at half of the checkpoints and 60 at the others: H and s have no
    difference, where the plain ones have."""
    rng = np.random.default_rng(1)
    numbers = np.array([6, 60] * 4)
    table = encode(uneven(frame(draw(constant(300, np.full(5, 0.2), 8), 60, rng), null=4), numbers))
    plain, found = measure(table, 0.5), Scored.of(table, ALLOCATED)
    many = table.count == 60
    assert plain.entropy[many].mean() - plain.entropy[~many].mean() > 0.2
    error = found.stats.entropy[~many].std() / np.sqrt((~many).sum())
    assert abs(found.stats.entropy[many].mean() - found.stats.entropy[~many].mean()) < 4 * error
    assert found.stats.entropy[many].std() < 0.5 * found.stats.entropy[~many].std()
    assert abs(found.stats.gold_surprisal[many].mean() - found.stats.gold_surprisal[~many].mean()) < 0.05
    assert (found.halves.count == 3).all()
    fewer = Scored.of(table, replace(ALLOCATED, num_rollouts=4))
    assert fewer.rarefaction_depth == 4, "H of other runs with 4"
    assert fewer.stats.entropy[~many].mean() < found.stats.entropy[~many].mean() - 0.1


def test_an_analysis_of_unequal_numbers() -> None:
    """Every table and quantity is made, shares count checkpoints alike, and the summary says how near it came."""
    rng = np.random.default_rng(2)
    p = moving(12, 5, rng)
    p[:, 0] = (0.1, 0.1, 0.1, 0.1, 0.6)
    p[:, 1:, 4] = 0.0
    p[:, 1:] /= p[:, 1:].sum(axis=2, keepdims=True)
    rollouts = uneven(frame(draw(p, 40, rng), null=4), np.array([40, 8, 12, 8, 8]))
    found = analyze_rollouts(rollouts, config=ALLOCATED)
    summary = found.summary
    assert summary["null_rate"] == pytest.approx(0.6 / 5, abs=0.02), "not the share of all rollouts, above 0.3"
    precision = summary["precision"]
    assert (precision["fewest_rollouts"], precision["most_rollouts"], precision["bias_bound"]) == (8, 40, 0.0)
    table = encode(rollouts)
    assert 0 < precision["se"] < 0.5
    assert any("Allocated rollouts: the standard error and bias of H" in note for note in summary["warnings"])
    assert not any("Unequal numbers" in note for note in summary["warnings"])
    assert (found.checkpoints["num_rollouts"].to_numpy() == table.count).all()
    assert found.tables["sensitivity"]["num_rollouts"].iloc[0] == 8
    again = analyze_rollouts(rollouts, config=SIAConfig(num_bootstrap=50, num_splits=2))
    assert again.summary.get("precision") is None
    assert any("Unequal numbers" in note for note in again.summary["warnings"])
