"""Forecasts against the runs that follow them: tokens, rows and memory; seconds are left to a command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fastsia import Engine, FastsiaError, evaluate
from fastsia.engine.profile import STEP, VERIFY, Span, StepProfile
from fastsia.planning import _decoding, _spread, forecast
from tests.tiny import PROBLEMS, shared_model


def test_tokens_of_a_forecast_are_those_of_the_run() -> None:
    engine = Engine.from_pretrained("demo:sft")
    settings = {"limit": 40, "num_rollouts": 8, "num_bootstrap": 50, "num_splits": 4}
    found = forecast(engine, "demo", **settings)
    counters = evaluate(engine, "demo", **settings).summary["counters"]
    assert found.generated_tokens == pytest.approx(counters["generated_tokens"], rel=0.25)
    assert found.trajectory_tokens == pytest.approx(counters["trajectory_tokens"], rel=0.25)
    assert found.prefill_tokens == counters["prefill_tokens"]
    assert found.num_problems == 40
    assert found.pilot_problems == 32
    assert 0 < found.seconds < 600
    assert found.weight_bytes == sum(p.numel() * 4 for p in engine.model.parameters())
    assert 0 < found.kv_bytes <= engine.num_kv_blocks * engine.runner.bytes_per_block(engine.model, engine.block_size)


def test_a_run_of_a_few_problems_is_its_own_pilot(tmp_path: Path) -> None:
    """Where the pilot is the whole run, what it counted is what the run will count."""
    engine = Engine(*shared_model())
    settings = {"num_rollouts": 4, "stride": 6, "max_tokens": 18, "num_bootstrap": 20, "num_splits": 4, "top_p": 1.0}
    found = forecast(engine, PROBLEMS[:5], **settings)
    run = evaluate(engine, PROBLEMS[:5], **settings)
    counters = run.summary["counters"]
    assert found.generated_tokens == counters["generated_tokens"]
    assert found.computed_tokens == counters["row_steps"]
    assert found.trajectory_tokens == counters["trajectory_tokens"]
    assert found.num_checkpoints == len(run.checkpoints)
    path = found.save(tmp_path / "run")
    assert json.loads(path.read_text()) == dataclasses.asdict(found)


def test_rollouts_of_one_token_compute_no_rows() -> None:
    """Their only token is drawn from what the trajectory's pass left."""
    found = forecast(Engine(*shared_model()), PROBLEMS[:1], max_tokens=1, num_rollouts=1, num_bootstrap=0, num_splits=2)
    assert found.computed_tokens == 0
    assert found.seconds > 0


def test_the_pilot_is_spread_over_the_problems() -> None:
    assert _spread(range(100), 5) == [0, 25, 50, 74, 99]
    assert _spread(range(3), 5) == [0, 1, 2]


def test_steps_are_read_without_their_trunk_passes() -> None:
    profile = StepProfile(torch.device("cpu"))
    profile.spans = [
        Span(VERIFY, 0.5, 0.25, 0.25, 0), Span(STEP, 0.0, 1.0, 0.75, 7),
        Span(VERIFY, 1.0, 0.0, 0.0, 0), Span(STEP, 1.0, 2.0, 2.0, 3),
        Span(VERIFY, 3.0, 0.5, 0.5, 0), Span(STEP, 3.0, 0.5, 0.0, 0),
    ]  # fmt: skip
    rows, seconds = _decoding(profile)
    np.testing.assert_array_equal(rows, [7, 3])
    np.testing.assert_allclose(seconds, [0.75, 2.0])


def test_another_backend_cannot_be_planned() -> None:
    from fastsia.backends.hf_generate import HFGenerateBackend

    with pytest.raises(FastsiaError, match="hf"):
        forecast(HFGenerateBackend(*shared_model()), PROBLEMS)
