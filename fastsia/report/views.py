"""The trajectories to read in a report, from a run's database."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pandas as pd

from fastsia.report.data import (
    AlternativeView,
    AnswerView,
    CheckpointView,
    TrajectoryView,
    answer_rows,
    bands_of,
    steps_of,
)
from fastsia.report.spans import AnswerPlaces, units

if TYPE_CHECKING:
    from fastsia.results.reader import Store


Alternatives = Mapping[tuple[str, int], Mapping[int, Sequence[AlternativeView]]]
"""By problem id and trajectory, `TrajectoryView.alternatives`."""


def trajectory_views(
    store: Store, checkpoints: pd.DataFrame, alternatives: Alternatives | None = None
) -> Iterator[TrajectoryView]:
    """Every trajectory with scored rollouts, with the texts of its rollouts and where their answers were read.

    Args:
        store: a snapshot of the run.
        checkpoints: as `SIAResult.checkpoints`.
        alternatives: of the trajectories that have them.
    """
    views_of = alternatives or {}
    vocabulary = store.vocabulary()
    problems: dict[Any, Any] = {row["problem_id"]: row for row in store.problems().to_dict("records")}
    trajectories: dict[Any, Any] = {
        (row["problem_id"], row["trajectory"]): row for row in store.trajectories().to_dict("records")
    }
    points: dict[Any, pd.DataFrame] = dict(iter(checkpoints.groupby(["problem_id", "trajectory"], sort=False)))
    pieces = [vocabulary.token_bytes(i).decode("utf-8", "replace") for i in range(len(vocabulary))]
    config, reading = store.identity()["config"], store.reading() or {}
    for chunk in store.rollouts():
        for key, rollouts in chunk.groupby(["problem_id", "trajectory"], sort=False):
            row, problem, point = trajectories[key], problems[key[0]], points.get(key)
            if point is None:  # all of its rollouts failed
                continue
            tokens = [pieces[i] if i < len(pieces) else "" for i in row["token_ids"].tolist()]
            texts = [vocabulary.decode(ids) for ids in rollouts["token_ids"]]
            shown = dict(answer_rows(rollouts["checkpoint"].to_numpy(), rollouts["answer"].tolist()))
            places = None if config.get("shuffle_prefix") else _places(problem, config, reading)
            own, found = _found(places, tokens, row, rollouts, texts, shown)
            scores = (point[name].tolist() for name in ("checkpoint", "entropy", "gold_surprisal"))
            bands = bands_of(point)
            yield TrajectoryView(
                **{name: row[name] for name in ("problem_id", "trajectory", "answer", "correct", "finish_reason")},
                **{name: problem[name] for name in ("question", "gold", "prompt")},
                tokens=tokens,
                token_entropies=row["token_entropies"].tolist(),
                place=own,
                alternatives=views_of.get((str(row["problem_id"]), int(row["trajectory"])), {}),
                checkpoints=[
                    CheckpointView(
                        position=position,
                        entropy=entropy,
                        gold_surprisal=surprisal,
                        answers=[
                            AnswerView(
                                answer, len(rows), texts[rows[0]], [texts[i] for i in rows[1:]], found.get(rows[0])
                            )
                            for answer, rows in shown.get(position, ())
                        ],
                        band=band,
                        step=step,
                    )
                    for position, entropy, surprisal, band, step in zip(*scores, bands, steps_of(point), strict=True)
                ],
            )


def _places(problem: Mapping[str, Any], config: Mapping[str, Any], reading: Mapping[str, Any]) -> AnswerPlaces | None:
    """How the answers of a problem's texts are found; None where a function of the user's read them."""
    if reading.get("answer_reader"):
        return None
    regex, tags = reading.get("answer_regex"), config.get("think_tags")
    how = {
        "answer_reading": reading.get("answer_reading", "strict"),
        "starts_in_think": bool(problem["starts_in_think"]),
        "think_tags": None if tags is None else tuple(tags),
        "stop_texts": not config.get("apply_chat_template"),
    }
    choices = problem["choices"]
    return AnswerPlaces(problem["format"], None if choices is None else list(choices), regex, how)


def _found(
    places: AnswerPlaces | None,
    tokens: Sequence[str],
    row: Mapping[str, Any],
    rollouts: pd.DataFrame,
    texts: Sequence[str],
    shown: Mapping[int, list[tuple[str | None, list[int]]]],
) -> tuple[tuple[int, int] | None, dict[int, tuple[int, int]]]:
    """Where the answer of a trajectory was read, in tokens, and those of the rollouts that are shown first, by row."""
    if places is None:
        return None, {}
    ends = list(accumulate(map(len, tokens), initial=0))
    whole = "".join(tokens)
    firsts = [(position, rows[0], answer) for position, ranked in shown.items() for answer, rows in ranked]
    cut = (rollouts["finish_reason"] == "length").tolist()
    found = places.find(
        [whole, *(whole[: ends[position]] + texts[first] for position, first, _ in firsts)],
        [row["answer"], *(answer for _, _, answer in firsts)],
        [row["finish_reason"] == "length", *(cut[first] for _, first, _ in firsts)],
    )
    own = found[0]
    in_tokens = None if own is None else (bisect_right(ends, own[0]) - 1, bisect_left(ends, own[1]))
    of_rollouts = {}
    for (position, first, _), place in zip(firsts, found[1:], strict=True):
        if place is not None:
            prefix = whole[: ends[position]]
            text, shift = prefix + texts[first], units(prefix)
            of_rollouts[first] = (units(text[: place[0]]) - shift, units(text[: place[1]]) - shift)
    return in_tokens, of_rollouts
