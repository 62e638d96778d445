"""The comparison of dtypes in docs/exactness.md: the rollouts of a stored run, drawn again."""

from __future__ import annotations

from pathlib import Path

import fastsia
from tests.engine.dtypes import compare


def test_the_same_dtype_draws_the_same_and_other_numbers_do_not(tmp_path: Path) -> None:
    fastsia.evaluate("demo:sft", "demo", limit=2, output=tmp_path, num_rollouts=4, stride=20, temperature=1.5)
    again, noise = compare("demo:sft", tmp_path, ["float32", "noise"])
    assert again["rollouts"] == noise["rollouts"] > 8
    assert again["same_rollouts"] == again["same_answers"] == 1 > noise["same_rollouts"]
    for one in (again, noise):
        assert one["mean_abs_logprob_moved"] == one["mean_abs_token_entropy_moved"] == 0
    assert again["max_abs_H_moved"] == 0
