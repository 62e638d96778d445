from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from typing import Any

import numpy as np

from fastsia.report import AnswerView, CheckpointView, RolloutView, TrajectoryView, distinct_answers
from fastsia.report.embed import pack


def view(number: int, text: str) -> TrajectoryView:
    return TrajectoryView(
        problem_id=f"p{number}",
        trajectory=0,
        question="how many?",
        gold="4",
        answer=float("nan"),  # type: ignore[arg-type]  # what a frame makes of None
        correct=np.bool_(True),  # type: ignore[arg-type]
        tokens=["two", " and two", "\ud800"],
        token_entropies=np.array([0.5, float("nan"), 1.234]),  # type: ignore[arg-type]
        checkpoints=[
            CheckpointView(
                0,
                0.25,
                float("inf"),
                [
                    AnswerView(None, 3, [RolloutView(text)]),
                    AnswerView("4", 17, [RolloutView(text, (3, 4), "asked", "eos")]),
                ],
                (0.3, 0.12345, float("nan")),
                (0.5, 0.25, 0.01234),
                (0, 7),
            )
        ],
    )


def unpack(data: str) -> dict[str, Any]:
    return json.loads(zlib.decompress(base64.b64decode(data)))


def test_what_is_packed_comes_out() -> None:
    (piece,) = pack([view(1, "so 4")], 1, 1_000_000)
    record = unpack(piece.data)
    assert piece.key == ("p1", 0)
    assert not piece.shortened
    assert record["answer"] is None
    assert record["tokens"] == ["two", " and two", "?"]  # a lone surrogate cannot be UTF-8
    assert record["entropies"] == [50, 0, 123]
    assert record["forks"] == []
    answers = [[None, 3, [["so 4", None, None, ""]]], ["4", 17, [["so 4", [3, 4], "asked", "eos"]]]]
    (point,) = record["checkpoints"]
    assert point.pop("step") == [0.5, 0.25, "q = 0.012", True]
    assert point == {"t": 0, "h": 0.25, "s": None, "best": [0.3, 0.1235, None], "said": [0, 7], "answers": answers}
    assert record["largest"] == 0


def test_all_rollouts_are_kept_until_the_page_grows_too_large() -> None:
    """Their texts and the place of the answer, then one text per answer, whole."""
    noise = "".join(np.random.default_rng(0).choice(list("abcdefghijklmnop"), 5000))
    given = AnswerView("4", 2, [RolloutView("so #### 4", (8, 9)), RolloutView(noise)])
    one = replace(view(1, ""), checkpoints=[CheckpointView(0, 0.0, 0.0, [given])])
    for size, others in ((100_000, [[noise, None, None, ""]]), (3_000, [])):
        (piece,) = pack([one], 1, size)
        assert (piece.every, piece.shortened) == (bool(others), False)
        assert unpack(piece.data)["checkpoints"][0]["answers"] == [["4", 2, [["so #### 4", [8, 9], None, ""], *others]]]


def test_forking_tokens_are_those_above_the_threshold() -> None:
    """Told from the exact entropies: hundredths of a nat would blur a threshold that lies near 0."""
    small = replace(view(1, ""), token_entropies=[0.004, 0.0039, float("nan")])
    (piece,) = pack([small], 1, 1_000_000, forking=0.0039)
    assert unpack(piece.data)["forks"] == [0]


def test_texts_are_shortened_before_the_page_grows_too_large() -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdefghijklmnop"), 5000)) for _ in range(50)]
    limit = 60_000
    pieces = list(pack((view(i, text) for i, text in enumerate(texts)), 50, limit))
    assert sum(len(piece.data) for piece in pieces) <= limit
    assert any(piece.shortened for piece in pieces)
    shortened = next(piece for piece in pieces if piece.shortened)
    text = unpack(shortened.data)["checkpoints"][0]["answers"][1][2][0][0]
    whole = texts[int(shortened.key[0][1:])]
    assert text is None or (text.startswith(whole[:40]) and text.endswith(whole[-100:]))


def test_distinct_answers_come_most_frequent_first_with_their_first_rollout() -> None:
    checkpoints = np.array([20, 0, 0, 0, 20, 0])
    answers = ["a", "b", None, float("nan"), "a", "c"]
    assert list(distinct_answers(checkpoints, answers)) == [  # type: ignore[arg-type]
        (0, [(None, 2, 2), ("b", 1, 1), ("c", 1, 5)]),
        (20, [("a", 2, 0)]),
    ]
