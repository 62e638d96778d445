from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import pytest

from fastsia.answers.distribution import answer_entropy
from fastsia.config import SIAConfig
from fastsia.sia import analyze_rollouts
from fastsia.sia.curves import GRID
from fastsia.sia.entropy import CheckpointStats, measure
from fastsia.sia.extras.signatures import (
    carried_rows,
    change_points,
    fano_bound,
    largest_rise,
    lock_in,
    misaligned,
    pooled,
    rebound,
    saturation,
)
from fastsia.sia.scored import Scored
from fastsia.sia.smoother import smooth
from fastsia.sia.table import RolloutTable, encode
from tests.sia.simulate import constant, draw, frame, moving


def traced(*checkpoints: str) -> tuple[RolloutTable, CheckpointStats]:
    """One trace from its answers, a digit a rollout, 0 gold."""
    table = encode(frame(np.array([[[int(digit) for digit in text] for text in checkpoints]])))
    return table, measure(table, 0.5)


def test_lock_in_is_where_the_mode_stops_changing() -> None:
    table, stats = traced("1110", "0001", "1110", "0001", "0000")
    assert table.checkpoint[lock_in(table, stats.mode)].tolist() == [60]
    table, stats = traced("1110", "0001", "1110")
    assert table.checkpoint[lock_in(table, stats.mode)].tolist() == [40]
    table, stats = traced("0001", "0011", "0000")
    assert table.checkpoint[lock_in(table, stats.mode)].tolist() == [0]


def test_what_ends_without_an_answer_does_not_lock_in() -> None:
    table = encode(frame(np.array([[[0, 0, 1]] + [[1, 1, 1]] * 4]), null=1))
    assert lock_in(table, measure(table, 0.5).mode).tolist() == [-1]
    found = analyze_rollouts(frame(np.full((3, 4, 6), 1), null=1), config=SIAConfig(num_bootstrap=0, num_splits=1))
    assert found.trajectories["lock_in"].isna().all()
    assert found.summary["lock_in"] is None


def test_rises() -> None:
    table, stats = traced("0123", "0011", "0111", "1111")
    assert largest_rise(table, stats)[0] == 0.0
    table, stats = traced("0001", "0011", "0000")
    assert largest_rise(table, stats)[0] == pytest.approx(np.log(2) - answer_entropy(list("0001")))


def test_confident_and_wrong_is_read_from_smoothed_curves() -> None:
    table, _ = traced("0123" * 5, "0112" * 5, "1111" * 5, "1111" * 5)
    assert misaligned(table, smooth(table, 0.5)).tolist() == [True]
    table, _ = traced("0123" * 5, "0112" * 5, "0000" * 5, "0000" * 5)
    assert misaligned(table, smooth(table, 0.5)).tolist() == [False]
    # Without a gold answer s is the prior's and higher where more rollouts share an estimate.
    table, _ = traced("1234" * 5, "1234" * 5, "1111" * 5, "1111" * 5, "1111" * 5)
    smoothed = smooth(table, 0.5)
    assert smoothed.surprisal[-1] > smoothed.surprisal[0]
    assert misaligned(table, smoothed).tolist() == [False]
    table, _ = traced("0011", "0111", "0111")  # too little to say that it moves
    assert misaligned(table, smooth(table, 0.5)).tolist() == [False]


def test_first_checkpoints_do_not_rise_from_the_trace_before() -> None:
    answers = np.array([[[0, 0], [0, 0]], [[0, 1], [0, 1]]])
    table = encode(frame(answers))
    assert largest_rise(table, measure(table, 0.5)).tolist() == [0.0, 0.0]


def test_saturation_by_hand() -> None:
    curve = np.full(len(GRID), 0.3)
    curve[:10] = np.linspace(2.0, 0.4, 10)
    curve[12] = 0.1
    found = saturation(np.stack([curve, np.linspace(1, 0, len(GRID))]))
    assert found.level[0] == pytest.approx(0.3)
    assert found.onset[0] == pytest.approx(GRID[13])
    assert np.isnan(found.onset[1]), "only the last point is at its level"


def test_rebound_is_free_of_the_minimum_of_noise() -> None:
    """Where nothing moves its mean is 0; where H falls and rises by as much, it is that."""
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        table = encode(frame(draw(constant(64, np.array([0.4, 0.3, 0.2, 0.1]), 8), 20, rng)))
        found.append(float(rebound(Scored.of(table, SIAConfig(num_bootstrap=0, num_splits=4))).value))
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    sure, unsure = np.array([0.94, 0.02, 0.02, 0.02]), np.full(4, 0.25)
    curve = np.stack([unsure, sure, sure, unsure])[None].repeat(64, axis=0)
    table = encode(frame(draw(curve, 20, np.random.default_rng(0))))
    risen = rebound(Scored.of(table, SIAConfig(num_bootstrap=50, num_splits=4)))
    assert risen.value == pytest.approx(1.1, abs=0.15)
    assert (risen.samples > 0.8).all()


def test_carried_rows_repeat_the_last_one() -> None:
    table = encode(frame(np.zeros((2, 4, 2), dtype=np.int64), lengths=np.array([4, 2])))
    assert carried_rows(table).tolist() == [[0, 1, 2, 3, 3], [4, 5, 5, 5, 5]]


def test_fano() -> None:
    assert fano_bound(np.array([0.1, np.log(2) + np.log(4) / 2]), 4).tolist() == pytest.approx([0.0, 0.5])
    assert np.isnan(fano_bound(np.array([0.1]), 1)).all()


def test_change_points_find_the_one_that_is_there() -> None:
    rng = np.random.default_rng(0)
    before, after = np.array([0.1, 0.6, 0.3]), np.array([0.9, 0.05, 0.05])
    probabilities = np.stack([before] * 6 + [after] * 5)[None].repeat(40, axis=0)
    table = encode(frame(draw(probabilities, 20, rng)))
    found = change_points(table)
    assert (found.count == 1).mean() > 0.9
    assert (table.checkpoint[found.largest] == 6 * 20).mean() > 0.9
    steady = encode(frame(draw(np.broadcast_to(before, (40, 11, 3)), 20, rng)))
    assert (change_points(steady).count == 0).mean() > 0.9


def test_change_points_are_the_best_segmentation() -> None:
    """The dynamic programme finds what trying every segmentation finds, on traces of several lengths at once."""
    rng = np.random.default_rng(1)
    lengths = np.array([1, 3, 6, 6, 4])
    table = encode(frame(draw(moving(5, 6, rng), 6, rng), null=4, lengths=lengths))
    found = change_points(table)
    for i in range(5):
        begin, end = table.trajectory_offsets[i], table.trajectory_offsets[i + 1]
        answers = [
            table.code[table.checkpoint_offsets[g] : table.checkpoint_offsets[g + 1]].tolist()
            for g in range(begin, end)
        ]
        total = sum(map(len, answers))
        distinct = len({answer for each in answers for answer in each})

        def cost(edges: tuple[int, ...], answers: list[list[int]] = answers) -> float:
            parts = [[x for each in answers[a:b] for x in each] for a, b in pairwise((0, *edges, len(answers)))]
            return sum(len(part) * answer_entropy(part) for part in parts)

        penalty = distinct / 2 * np.log(total)
        inner = range(1, len(answers))
        options = [edges for size in range(len(answers)) for edges in combinations(inner, size)]
        best = min(options, key=lambda edges: cost(edges) + penalty * len(edges))
        assert found.count[i] == len(best)
        assert found.first[i] == (begin + best[0] if best else -1)


def test_pooled_takes_earlier_riders_in() -> None:
    """Against a loop over all earlier rollouts of the trajectory."""
    rng = np.random.default_rng(2)
    rollouts = frame(draw(moving(4, 5, rng), 6, rng), null=4)
    rollouts["matched_tokens"] = rng.integers(0, 60, len(rollouts))
    rollouts["finish_reason"] = rng.choice(["eos", "length"], len(rollouts))
    found = pooled(encode(rollouts), 0.5)
    assert found is not None
    g = 0
    for _, mine in rollouts.groupby("problem_id", sort=False):
        for t in sorted(mine["checkpoint"].unique()):
            there = mine[(mine["checkpoint"] <= t) & (mine["checkpoint"] + mine["matched_tokens"] >= t)]
            there = pd.concat([there, mine[(mine["checkpoint"] == t)]]).drop_duplicates(["checkpoint", "rollout"])
            answers = [a if isinstance(a, str) else None for a in there["answer"]]
            assert found.count[g] == len(there)
            assert found.entropy[g] == pytest.approx(answer_entropy(answers))
            borrowed = there[there["checkpoint"] < t]
            cut = (borrowed["finish_reason"] == "length").mean() if len(borrowed) else 0.0
            assert found.cut[g] == pytest.approx(cut)
            g += 1


def test_pooled_needs_rides() -> None:
    table, _ = traced("00", "01")
    assert pooled(table, 0.5) is None
