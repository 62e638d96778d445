"""The trajectories to read in a report, from a run's database."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import pandas as pd

from fastsia.answers.boundaries import sentence_ends, widen
from fastsia.report.data import (
    AlternativeView,
    AnswerView,
    CheckpointView,
    RolloutView,
    TrajectoryView,
    answer_rows,
    best_of,
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
            shown = dict(answer_rows(rollouts["checkpoint"].to_numpy(), rollouts["answer"].tolist()))
            places = None if config.get("shuffle_prefix") else _places(problem, config, reading)
            texts = [vocabulary.decode(ids) for ids in rollouts["token_ids"]]
            (place, rule), drawn = _read(places, tokens, row, rollouts, texts)
            scores = [point[name].tolist() for name in ("checkpoint", "entropy", "gold_surprisal")]
            steps = steps_of(point)
            yield TrajectoryView(
                **{name: row[name] for name in ("problem_id", "trajectory", "answer", "correct", "finish_reason")},
                **{name: problem[name] for name in ("question", "gold", "prompt")},
                tokens=tokens,
                token_entropies=row["token_entropies"].tolist(),
                place=place,
                rule=rule,
                rules={} if places is None else places.rules,
                alternatives=views_of.get((str(row["problem_id"]), int(row["trajectory"])), {}),
                checkpoints=[
                    CheckpointView(
                        position=position,
                        entropy=entropy,
                        gold_surprisal=surprisal,
                        answers=[
                            AnswerView(answer, len(rows), [drawn[i] for i in rows])
                            for answer, rows in shown.get(position, ())
                        ],
                        best=best,
                        step=step,
                        sentences=sentences,
                    )
                    for position, entropy, surprisal, best, step, sentences in zip(
                        *scores, best_of(point), steps, _sentences(tokens, scores[0]), strict=True
                    )
                ],
            )


def _sentences(tokens: Sequence[str], positions: Sequence[int]) -> list[tuple[int, int] | None]:
    """`CheckpointView.sentences` at each checkpoint."""
    text, offsets = "".join(tokens), list(accumulate(map(len, tokens), initial=0))
    ends = sentence_ends(text)
    spans = [widen(text, ends, offsets[begin], offsets[end]) for begin, end in pairwise(positions)]
    return [*((units(text[:begin]), units(text[:end])) for begin, end in spans), None]


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


def _read(
    places: AnswerPlaces | None,
    tokens: Sequence[str],
    row: Mapping[str, Any],
    rollouts: pd.DataFrame,
    texts: Sequence[str],
) -> tuple[tuple[tuple[int, int] | None, str | None], list[RolloutView]]:
    """Where (in tokens) and by which rule a trajectory's answer was read, and its rollouts with the same of each."""
    reasons = rollouts["finish_reason"].tolist()
    if places is None:
        return (None, None), [RolloutView(text, None, None, end) for text, end in zip(texts, reasons, strict=True)]
    offsets = list(accumulate(map(len, tokens), initial=0))
    whole = "".join(tokens)
    begins = [offsets[position] for position in rollouts["checkpoint"].tolist()]
    read = [whole, *(whole[:begin] + text for begin, text in zip(begins, texts, strict=True))]
    answers = [given if isinstance(given, str) else None for given in (row["answer"], *rollouts["answer"])]
    cut = [reason == "length" for reason in (row["finish_reason"], *reasons)]
    found = places.find(read, answers, cut)
    rules = [places.rule(*each) for each in zip(read, found, answers, cut, strict=True)]
    own = found[0]
    in_tokens = None if own is None else (bisect_right(offsets, own[0]) - 1, bisect_left(offsets, own[1]))
    views = []
    for begin, text, span, rule, reason in zip(begins, read[1:], found[1:], rules[1:], reasons, strict=True):
        shift = units(text[:begin])
        shown = None if span is None else (units(text[: span[0]]) - shift, units(text[: span[1]]) - shift)
        views.append(RolloutView(text[begin:], shown, rule, reason))
    return (in_tokens, rules[0]), views
