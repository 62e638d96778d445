"""The trajectories to read in a report, from a run's database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from fastsia.report.data import AnswerView, CheckpointView, TrajectoryView, bands_of, distinct_answers, steps_of

if TYPE_CHECKING:
    from fastsia.results.reader import Store


def trajectory_views(store: Store, checkpoints: pd.DataFrame) -> Iterator[TrajectoryView]:
    """Every trajectory with scored rollouts, with one continuation's text for each distinct answer at a checkpoint.

    Args:
        store: a snapshot of the run.
        checkpoints: as `SIAResult.checkpoints`.
    """
    vocabulary = store.vocabulary()
    problems: dict[Any, Any] = {row["problem_id"]: row for row in store.problems().to_dict("records")}
    trajectories: dict[Any, Any] = {
        (row["problem_id"], row["trajectory"]): row for row in store.trajectories().to_dict("records")
    }
    points: dict[Any, pd.DataFrame] = dict(iter(checkpoints.groupby(["problem_id", "trajectory"], sort=False)))
    pieces = [vocabulary.token_bytes(i).decode("utf-8", "replace") for i in range(len(vocabulary))]
    for chunk in store.rollouts():
        for key, rollouts in chunk.groupby(["problem_id", "trajectory"], sort=False):
            row, problem, point = trajectories[key], problems[key[0]], points.get(key)
            if point is None:  # all of its rollouts failed
                continue
            ids = rollouts["token_ids"].tolist()
            shown = dict(distinct_answers(rollouts["checkpoint"].to_numpy(), rollouts["answer"].tolist()))
            scores = (point[name].tolist() for name in ("checkpoint", "entropy", "gold_surprisal"))
            bands = bands_of(point)
            yield TrajectoryView(
                **{name: row[name] for name in ("problem_id", "trajectory", "answer", "correct", "finish_reason")},
                **{name: problem[name] for name in ("question", "gold", "prompt")},
                tokens=[pieces[i] if i < len(pieces) else "" for i in row["token_ids"].tolist()],
                token_entropies=row["token_entropies"].tolist(),
                checkpoints=[
                    CheckpointView(
                        position=position,
                        entropy=entropy,
                        gold_surprisal=surprisal,
                        answers=[
                            AnswerView(answer, count, vocabulary.decode(ids[first]))
                            for answer, count, first in shown.get(position, ())
                        ],
                        band=band,
                        step=step,
                    )
                    for position, entropy, surprisal, band, step in zip(*scores, bands, steps_of(point), strict=True)
                ],
            )
