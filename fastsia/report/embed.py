"""Trajectories packed into the page as deflated JSON in base64; each is unpacked when it is viewed."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fastsia.report.data import AnswerView, Step, TrajectoryView, largest_step
from fastsia.report.prose import render
from fastsia.report.tables import format_q
from fastsia.sia.extras.steps import LEVEL

LEVELS: tuple[tuple[bool, int | None], ...] = ((True, None), (False, None), (False, 800), (False, 200), (False, 0))
"""Whether all rollouts are kept or one per answer, and the limit of a rollout's text (characters): tried in turn until
the pieces fit."""


@dataclass(frozen=True)
class Piece:
    """One packed trajectory.

    Attributes:
        key: (problem id, trajectory).
        question: Of the problem.
        data: Base64 text.
        shortened: Whether rollout texts were shortened to fit.
        every: Whether the texts of all rollouts are kept, not of one per answer.
    """

    key: tuple[str, int]
    question: str
    data: str
    shortened: bool
    every: bool


def pack(
    views: Iterable[TrajectoryView], expected: int, max_bytes: int, forking: float | None = None
) -> Iterator[Piece]:
    """Pack views one by one; together they stay within about `max_bytes` of base64.

    A view may use the unused shares of the views before it, and a tenth of the whole beyond its own share; if it needs
    more, one rollout per answer is kept, then their texts are shortened.

    Args:
        views: The trajectories.
        expected: Number of views.
        max_bytes: Size of all pieces together.
        forking: Entropy (nats) above which a token is marked as a forking token; None: no token is marked.
    """
    used = 0
    for index, view in enumerate(views):
        allowed = 0.1 * max_bytes + 0.9 * max_bytes * (index + 1) / max(expected, index + 1) - used
        for every, limit in LEVELS:
            data = _squeeze(_record(view, every, limit, forking))
            if len(data) <= allowed:
                break
        used += len(data)
        yield Piece((view.problem_id, view.trajectory), view.question, data, limit is not None, every)


def record_text(view: TrajectoryView, forking: float | None = None) -> str:
    """One trajectory whole, as the JSON that the page reads. forking: as in `pack`."""
    return _json(_record(view, True, None, forking))


def _squeeze(record: dict[str, Any]) -> str:
    return base64.b64encode(zlib.compress(_json(record).encode("utf-8", "replace"), 6)).decode("ascii")


def _json(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _record(view: TrajectoryView, every: bool, limit: int | None, forking: float | None) -> dict[str, Any]:
    """The data that report.js reads; entropies are in hundredths of a nat to save space."""
    entropies, forks = None, []
    if view.token_entropies is not None and any(map(math.isfinite, view.token_entropies)):
        entropies = [round(100 * float(h)) if math.isfinite(h) else 0 for h in view.token_entropies]
        forks = [] if forking is None else [t for t, h in enumerate(view.token_entropies) if h > forking]
    return {
        "id": view.problem_id,
        "n": view.trajectory,
        "question": view.question,
        "gold": view.gold,
        "answer": view.answer if isinstance(view.answer, str) else None,
        "correct": bool(view.correct),
        "prompt": view.prompt,
        "finish": view.finish_reason,
        "tokens": list(view.tokens),
        "place": view.place,
        "rule": view.rule,
        "rules": dict(view.rules),
        "prose": render("".join(view.tokens)) if limit is None else None,
        "asked": render(view.question) if limit is None else None,
        "entropies": entropies,
        "forks": forks,
        "alternatives": [
            [
                int(position),
                [
                    [each.text, _round(each.probability), each.is_own, _round(each.q_value), [*each.answers]]
                    for each in tokens
                ],
            ]
            for position, tokens in sorted(view.alternatives.items())
        ],
        "largest": largest_step([point.step for point in view.checkpoints]),
        "checkpoints": [
            {
                "t": int(point.position),
                "h": _round(point.entropy),
                "s": _round(point.gold_surprisal),
                "best": None if point.best is None else [_round(each) for each in point.best],
                "step": None if point.step is None else _step(point.step),
                "said": point.sentences,
                "answers": [_answer(each, every, limit) for each in point.answers],
            }
            for point in view.checkpoints
        ],
    }


def _step(step: Step) -> list[Any]:
    """The share of answers that it changes, that by chance, its q-value in words, and whether it is decisive."""
    changed, by_chance, q_value = step
    return [_round(changed), _round(by_chance), format_q(q_value), bool(q_value <= LEVEL)]


def _answer(given: AnswerView, every: bool, limit: int | None) -> list[Any]:
    """Answer, count, and of each rollout its text, where and why the answer was read in it, and how it ended."""
    return [
        given.answer,
        int(given.count),
        [
            [_shorten(each.text, limit), each.place if limit is None else None, each.rule, each.finish_reason]
            for each in (given.rollouts if every else given.rollouts[:1])
        ],
    ]


def _round(value: float | None) -> float | None:
    return round(float(value), 4) if value is not None and math.isfinite(value) else None


def _shorten(text: str, limit: int | None) -> str | None:
    """Shorten the middle of a text, since the end of a rollout contains its answer; None where nothing is kept."""
    if limit is None or len(text) <= limit:
        return text
    if limit == 0:
        return None
    return f"{text[: limit // 4]} […] {text[-(limit - limit // 4) :]}"
