"""Early stopping by forced answers: a rule that needs no rollout, neither to decide nor to answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from fastsia.sia import registry
from fastsia.sia.bootstrap import Bootstrap
from fastsia.sia.extras.early_stop import FEWEST, Replay, most_frequent, score_held_out
from fastsia.sia.extras.forced import KEY

FORCED_TAUS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5)
"""Thresholds of the forced entropy, nats. Chosen by fastsia."""


@registry.table(
    "forced_stop", columns="scorer held_out threshold saved lost accuracy stopped", place=82, computed=False
)
def forced_stop_table(
    forced: pd.DataFrame,
    checkpoints: pd.DataFrame,
    trajectories: pd.DataFrame,
    *,
    num_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Early stopping by forced answers, simulated.

    Every trajectory is replayed up to the first checkpoint at which the entropy of the forced answers is at most the
    threshold, and answers with the most probable candidate there; where none is, with its most frequent answer at the
    end. No rollout is needed before the end. The rows “held out” are what a threshold does on one half of the problems
    that was chosen on the other, as in the table of early stopping; “threshold” is the one chosen most often, empty if
    that is never to stop. Without options the candidates are the gold answer and those that rollouts gave: a list that
    is not known without them, so the rule is then worth at most this.

    Args:
        forced: Columns problem_id, trajectory, checkpoint, scorer, entropy, mode.
        checkpoints: The run's table.
        trajectories: The run's table.
        num_resamples: Bootstrap resamples.
        seed: Of the resamples and halvings.

    Returns:
        One row a scorer and threshold of `FORCED_TAUS`, and one held-out row a scorer with `FEWEST` problems: scorer,
        held_out, threshold (nats); saved, the share of all trajectories' tokens, lost, the fall in accuracy against
        never stopping, and accuracy, with _low and _high; stopped, the share of trajectories that stop early. Without
        trajectories of which no checkpoint has a forced entropy.
    """
    parts = [
        pd.DataFrame({"scorer": scorer, **columns})
        for scorer, own in forced.groupby("scorer", sort=False)
        for columns in _of_scorer(own, checkpoints, trajectories, num_resamples, seed)
    ]
    names = ["saved", "lost", "accuracy"]
    intervals = [name + end for name in names for end in ("", "_low", "_high")]
    empty = pd.DataFrame(columns=["scorer", "held_out", "threshold", *intervals, "stopped"])
    return pd.concat(parts, ignore_index=True) if parts else empty


def _of_scorer(
    forced: pd.DataFrame, checkpoints: pd.DataFrame, trajectories: pd.DataFrame, num_resamples: int, seed: int
) -> Iterator[dict[str, Any]]:
    """The columns of all thresholds, then those of the held-out row."""
    trace = KEY[:2]
    asked = forced.loc[np.isfinite(forced["entropy"].to_numpy(np.float64)), trace].drop_duplicates()
    both = checkpoints[[*KEY, "mode"]].merge(asked, on=trace)
    both = both.merge(trajectories[[*trace, "gold"]], on=trace)
    both = both.merge(forced[[*KEY, "entropy", "mode"]], on=KEY, how="left", suffixes=("", "_forced"))
    if both.empty:
        return
    problem = pd.factorize(both["problem_id"])[0]
    both = both.iloc[np.lexsort((both["checkpoint"], both["trajectory"], problem))]
    names = both[trace].to_numpy(object)
    offsets = np.append(np.flatnonzero(np.append(True, (names[1:] != names[:-1]).any(axis=1))), len(both))
    of_problem = names[offsets[:-1], 0]
    problems = np.append(np.flatnonzero(np.append(True, of_problem[1:] != of_problem[:-1])), len(of_problem))
    gold = both["gold"].to_numpy(object)
    right = both["mode_forced"].to_numpy(object) == gold
    last = offsets[1:] - 1
    right[last] = (both["mode"].to_numpy(object) == gold)[last]
    entropy = np.nan_to_num(both["entropy"].to_numpy(np.float64), nan=np.inf)
    stops = [np.zeros(len(both), dtype=bool), *(entropy <= tau for tau in FORCED_TAUS)]
    replay = Replay.of(both["checkpoint"].to_numpy(np.int64), offsets, problems, right.astype(bool), stops)

    bootstrap = Bootstrap.draw(len(replay.number), num_resamples, seed)
    thresholds = np.array([np.nan, *FORCED_TAUS])

    def columns(saved: np.ndarray, lost: np.ndarray, right: np.ndarray) -> dict[str, Any]:
        found: dict[str, Any] = replay.share(saved, bootstrap, of_tokens=True).columns("saved")
        return (
            found | replay.share(lost, bootstrap).columns("lost") | replay.share(right, bootstrap).columns("accuracy")
        )

    measured = columns(*(values[:, 1:] for values in (replay.saved, replay.lost, replay.right)))
    yield {"held_out": False, "threshold": thresholds[1:], **measured, "stopped": replay.stopped[1:]}
    if len(replay.number) >= FEWEST:
        found, choices = score_held_out(replay, [range(len(thresholds))], seed)
        threshold = thresholds[[most_frequent(choices[0])]]
        yield {"held_out": True, "threshold": threshold, **columns(*found), "stopped": np.nan}
