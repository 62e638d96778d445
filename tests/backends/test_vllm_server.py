"""A real `vllm serve` process on the demo model, from an environment of vLLM's own (`make test-vllm`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fastsia
from fastsia import SamplingParams
from fastsia.backends.openai_server import OpenAIServerBackend
from fastsia.models.resolve import demo_models
from tests.backends.agreement import LEVEL, p_value_against_the_engine
from tests.backends.processes import running
from tests.backends.servers import Proxy

ENVIRONMENT = os.environ.get("FASTSIA_VLLM", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (Path(ENVIRONMENT) / "bin" / "python").is_file(),
        reason="FASTSIA_VLLM names no environment with vLLM; make test-vllm sets one up",
    ),
]
SETTINGS: dict[str, Any] = {
    "limit": 4,
    "num_rollouts": 5,
    "stride": 20,
    "max_tokens": 100,
    "num_bootstrap": 10,
    "num_splits": 2,
    "served_model": "demo",
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    vllm = str(Path(__file__).with_name("vllm_command.py"))
    command = [f"{ENVIRONMENT}/bin/python", vllm, "serve", str(demo_models()["demo:sft"])]
    # While vLLM splits a prompt it rewinds the generator of a seeded request; a CPU's cannot be (0.32.0).
    command += ["--served-model-name", "demo", "--no-enable-chunked-prefill"]
    command += ["--dtype", "float32", "--max-model-len", "1024", "--enforce-eager", "--block-size", "32"]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    with running(command, folder / "serve.log", seconds=300, VLLM_CACHE_ROOT=str(folder), **settings) as url:
        yield url


def test_its_answers_are_the_engines(url: str) -> None:
    backend = OpenAIServerBackend("demo:sft", base_url=url, served_model="demo")
    sampling = SamplingParams(temperature=1.5, top_p=1.0, max_tokens=120)
    assert p_value_against_the_engine(backend, 8, 40, sampling) > LEVEL
    described = backend.describe()
    assert (described["sampler_settings"], described["prompts"]) == ("sampler", "token ids")
    assert (described["completions"], described["choices_per_call"]) == ("token ids", 40)
    assert described["logprobs"] is not None
    assert backend.context_length == 1024, "the server's own is the shorter one"
    assert backend.warnings == []


def test_a_run_through_faults_is_an_undisturbed_one(url: str, tmp_path: Path) -> None:
    whole = fastsia.evaluate("demo:sft", "demo", backend="openai", base_url=url, **SETTINGS)
    eos = whole.rollouts.loc[whole.rollouts["finish_reason"] == "eos", "token_ids"]
    assert len(eos) > 0
    assert set(eos.map(lambda ids: ids[-1])) <= {0, 2}, "a drawn EOS is there"
    assert all(not {0, 2} & set(ids) for ids in whole.trajectories["token_ids"])
    assert np.isfinite(whole.rollouts["logprob"]).all()

    faults = {1: "429", 3: "503", 5: "malformed", 6: "drop", 7: "torn", 9: "short"}
    proxy = Proxy(url, faults.get)
    with proxy.serve() as own:
        other = fastsia.evaluate(
            "demo:sft", "demo", backend="openai", base_url=own, output=tmp_path / "run", **SETTINGS
        )
    assert proxy.num_faults == 6
    # Seeds are the request's; a batch's other rows move logits in their last bits, and a draw at an edge with them.
    same = (whole.rollouts["token_ids"].map(tuple) == other.rollouts["token_ids"].map(tuple)).mean()
    assert len(whole.rollouts) == len(other.rollouts)
    assert same > 0.95
    assert (other.rollouts.groupby(["problem_id", "checkpoint"]).size() == 5).all()
    again = fastsia.evaluate("demo:sft", "demo", backend="openai", base_url=url, output=tmp_path / "run", **SETTINGS)
    pd.testing.assert_frame_equal(again.rollouts, other.rollouts)
    assert again.summary["machine"]["num_calls"] == 0
