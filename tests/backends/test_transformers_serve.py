"""A real `transformers serve` process on the demo model."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import fastsia
from fastsia import FastsiaError, SamplingParams
from fastsia.backends.native import NativeBackend
from fastsia.backends.openai_server import OpenAIServerBackend
from fastsia.models.resolve import demo_models
from tests.backends.agreement import LEVEL, answers, demo_requests, p_value, p_value_against_the_engine
from tests.backends.processes import running
from tests.backends.servers import Proxy

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn", "openai", "accelerate")),
    reason="transformers serve needs fastapi, uvicorn, openai and accelerate: pip install 'fastsia[dev]'",
)
SETTINGS: dict[str, Any] = {
    "limit": 2,
    "num_rollouts": 3,
    "stride": 40,
    "max_tokens": 100,
    "num_bootstrap": 10,
    "num_splits": 2,
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("server") / "serve.log"
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(demo_models()["demo:sft"])]
    with running([*command, "--device", "cpu", "--dtype", "float32"], log, seconds=120, OMP_NUM_THREADS="1") as url:
        yield url


def test_its_answers_are_the_engines(url: str) -> None:
    """It knows no n and takes no token ids; its own defaults would cut at the 50 most probable tokens."""
    sampling = SamplingParams(temperature=1.5, top_p=1.0, max_tokens=120)
    backend = OpenAIServerBackend("demo:sft", base_url=url)
    assert p_value_against_the_engine(backend, 4, 16, sampling) > LEVEL
    described = backend.describe()
    assert (described["sampler_settings"], described["prompts"]) == ("generation_config", "text")
    assert described["choices_per_call"] == 1
    assert backend.context_length == 2048


def test_the_comparison_would_see_another_distribution() -> None:
    native = NativeBackend.load("demo:sft", device="cpu")
    sampling = SamplingParams(temperature=1.5, top_p=1.0, max_tokens=120)
    requests = demo_requests(native.engine, 4, 16, sampling)
    other = [replace(request, sampling=replace(sampling, temperature=1.0)) for request in requests]
    assert p_value(answers(native, requests), answers(native, other)) < LEVEL


def test_faults_on_the_way_are_survived_and_a_broken_run_resumes(url: str, tmp_path: Path) -> None:
    faults = {3: "429", 5: "503", 7: "malformed", 8: "drop", 9: "torn", 11: "short"}
    proxy = Proxy(url, faults.get)
    with proxy.serve() as own:
        whole = fastsia.evaluate("demo:sft", "demo", backend="openai", base_url=own, **SETTINGS)
    assert proxy.num_faults == 6
    sizes = whole.rollouts.groupby(["problem_id", "checkpoint"]).size()
    assert (sizes == 3).all(), "never silently short"

    broken = Proxy(url, lambda number: "503" if number > 18 else None)
    settings = {"backend": "openai", "num_concurrent": 1, "output": tmp_path / "run", **SETTINGS}
    with broken.serve() as own, pytest.raises(FastsiaError, match=r"of request \(1, 0\).*HTTP 503"):
        fastsia.evaluate("demo:sft", "demo", base_url=own, max_retries=1, **settings)
    kept = fastsia.load(tmp_path / "run")
    assert kept.trajectories["problem_id"].tolist() == ["demo-0000"]
    resumed = fastsia.evaluate("demo:sft", "demo", base_url=url, **settings)
    pd.testing.assert_frame_equal(resumed.rollouts[: len(kept.rollouts)], kept.rollouts)
    assert (resumed.rollouts.groupby(["problem_id", "checkpoint"]).size() == 3).all()
    assert set(resumed.trajectories["problem_id"]) == {"demo-0000", "demo-0001"}
