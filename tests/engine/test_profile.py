"""Profiles: parts that add up to their steps, a trace, and nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastsia import Engine, SamplingParams

from .models import tiny_model

SAMPLING = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=12)


def test_parts_add_up_and_rows_are_those_computed(tmp_path: Path) -> None:
    engine = Engine(tiny_model("llama"), num_kv_blocks=64)
    with engine.profile() as profile:
        engine.rollout([2, 5, 9], 5, SAMPLING)
    seconds = profile.seconds()
    products = {"products"} if engine.runner.products is not None else set()
    assert {"model", "attention", "kv cache", "head", "sampling", "verification", "host"} | products == set(seconds)
    assert all(value > 0 for value in seconds.values())
    steps = [span for span in profile.spans if span.name == "step"]
    assert sum(seconds.values()) == pytest.approx(sum(step.seconds for step in steps))
    counters = engine.counters
    assert sum(step.rows for step in profile.steps()) == counters.prefill_tokens + counters.computed_tokens
    profile.write_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["name"] for event in events} == {"step", *seconds} - {"host"}
    assert min(event["ts"] for event in events) == 0
    by_step = [event for event in events if event["name"] == "step"]
    for event in events:  # every part lies inside a step
        assert any(
            step["ts"] <= event["ts"] and event["ts"] + event["dur"] <= step["ts"] + step["dur"] + 1e-3
            for step in by_step
        )


def test_draws_are_the_same_and_nothing_is_recorded_afterwards() -> None:
    engine = Engine(tiny_model("qwen2"), num_kv_blocks=64)
    before = engine.rollout([2, 5, 9], 4, SAMPLING)
    with engine.profile() as profile:
        during = engine.rollout([2, 5, 9], 4, SAMPLING)
    recorded = len(profile.spans)
    assert recorded
    assert engine.rollout([2, 5, 9], 4, SAMPLING) == during == before
    assert len(profile.spans) == recorded
    assert engine.runner.ops is engine.ops


def test_an_error_inside_leaves_the_engine_as_it_was() -> None:
    engine = Engine(tiny_model("llama"), num_kv_blocks=64)
    with pytest.raises(RuntimeError, match="stop"), engine.profile():
        raise RuntimeError("stop")
    assert engine.runner.ops is engine.ops
    assert engine.rollout([2], 1, SAMPLING)
