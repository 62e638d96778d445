"""The GPU suite at toy size on the CPU: every part of it runs, notices wrong draws, and gives rows of the schema."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu import peers, report, runner, scoring, steady, work
from benchmarks.gpu import plan as planning
from benchmarks.gpu.__main__ import one
from benchmarks.gpu.floors import H200, Costs, shapes
from benchmarks.gpu.ledger import Ledger
from benchmarks.gpu.models import Model, load
from benchmarks.gpu.plan import plan
from benchmarks.gpu.runner import Row, run
from benchmarks.gpu.work import TOY, Work, generate, prepare
from benchmarks.harness import provenance
from tests.benchmarks.schema import validate
from tests.core import needs_core
from tests.models.architectures import ARCHITECTURES, architecture
from tests.programs import offline, start_python, warm_python

QWEN = "qwen2.5-3b"


@pytest.fixture(scope="module")
def model() -> Model:
    return load(QWEN, "cpu")


@pytest.fixture(scope="module")
def toy_work(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Work:
    return prepare(model, TOY, tmp_path_factory.mktemp("work"))


def line(kind: str, name: str, result: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    """A row as the runner writes it, valid or not."""
    row = {"key": f"{kind}/{QWEN}/{name}", "kind": kind, "model": QWEN, "name": name, "device": "cpu", "toy": True}
    row |= {"status": "ok", "reason": None, "wall_seconds": 1.0, "result": result} | more
    row |= provenance()
    validate(row)
    return row


# --- what is measured ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_rows", "milliseconds"), [(256, 2.70), (512, 5.39), (1024, 10.8)])
def test_the_floor_of_a_step_is_that_of_the_design(num_rows: int, milliseconds: float) -> None:
    costs = Costs.of(architecture(QWEN))
    tokens = num_rows // 128 * 300 + 300 * num_rows
    assert 1e3 * costs.step_seconds(num_rows, tokens, H200) == pytest.approx(milliseconds, rel=3e-3)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("qwen2.5-3b", 3.09),
        ("llama-3.2-3b", 3.21),
        ("gemma-2-2b", 2.61),
        ("qwen2.5-math-1.5b", 1.54),
        ("deepseek-llm-7b", 6.91 - 0.42),
        ("r1-distill-qwen-7b", 7.62 - 0.54),
        ("olmo-3-7b", 7.30 - 0.41),
    ],
)
def test_architectures_have_the_published_sizes(name: str, billions: float) -> None:
    """Less the embedding where the published head is another matrix: a step looks its rows up."""
    assert Costs.of(architecture(name)).weights / 1e9 == pytest.approx(billions, abs=0.01)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_random_weights_are_seeded_and_as_sure_as_asked(name: str) -> None:
    first, again = load(name, "cpu"), load(name, "cpu")
    assert all(torch.equal(a, b) for a, b in zip(first.module.parameters(), again.module.parameters(), strict=True))
    assert first.entropy == pytest.approx(0.3, abs=0.05)
    texts = torch.randint(1024, (4, 64), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        probs = torch.softmax(first.module(texts).logits[:, 16:].float() / 0.7, dim=-1)
    # A head that is sure of everything would make sharing look better than it is.
    assert 0.05 < float((probs.amax(dim=-1) < 0.9).float().mean()) < 0.6


def test_work_is_the_same_from_row_to_row(model: Model, toy_work: Work, tmp_path: Path) -> None:
    first = prepare(model, TOY, tmp_path)
    kept = prepare(model, TOY, tmp_path)
    assert first.describe() == kept.describe() == toy_work.describe()
    np.testing.assert_array_equal(first.oracle, kept.oracle)
    # Draws of other weights under the same name would be held against these.
    other = load(QWEN, "cpu", seed=1)
    assert prepare(other, TOY, tmp_path).describe() != first.describe()
    part = first.part(1, 2)
    assert part.checkpoints == (0, 12)
    assert part.num_tokens == 12 * 20
    assert part.prefixes()[1] == [*first.prompts[0], *first.trajectories[0]]


# --- whether draws are right -----------------------------------------------------------------------------------


def drawn(model: Model, w: Work, **changes: Any) -> np.ndarray:
    """What `generate` draws for all of the work, or something near it."""
    torch.manual_seed(7)
    shape = dataclasses.replace(w.shape, **changes)
    copies = [
        [generate(model, np.array([w.prefix(p, t)] * 6), 20, shape) for t in w.checkpoints]
        for p in range(len(w.prompts))
    ]
    return np.array(copies)


def test_right_draws_agree(model: Model, toy_work: Work) -> None:
    assert scoring.check(model, toy_work, drawn(model, toy_work))["agrees"]


def test_wrong_draws_are_seen(model: Model, toy_work: Work) -> None:
    right = drawn(model, toy_work)
    wrong = {
        "temperature": drawn(model, toy_work, temperature=1.2),
        "nucleus": drawn(model, toy_work, top_p=1.0, temperature=0.9),
        "checkpoints": np.roll(right, 1, axis=1),
        "problems": right[::-1],
        "copies": np.repeat(right[:, :, :1], 6, axis=2),
    }
    verdicts = {name: scoring.check(model, toy_work, tokens)["agrees"] for name, tokens in wrong.items()}
    assert verdicts == dict.fromkeys(wrong, False)


# --- who is measured -------------------------------------------------------------------------------------------


@needs_core
def test_every_peer_that_runs_on_a_cpu_agrees(model: Model, toy_work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_REPEATS", 1)
    measured = {}
    for name, peer in peers.PEERS.items():
        if peer.device == "cuda":
            assert name in ("fastsia-fp8", "fastsia-graphs")
            continue
        measured[name] = peers.measure(name, model, toy_work)
        line("peer", name, model.head | {"work": toy_work.describe()} | measured[name])
    assert {"naive", "static", "continuous", "fastsia", "fastsia-checkpoint", "fastsia-none"} <= set(measured)
    assert {name: one["agreement"]["agrees"] for name, one in measured.items()} == dict.fromkeys(measured, True)
    counters = {name: measured[name]["details"]["counters"] for name in measured if name.startswith("fastsia")}
    assert counters["fastsia"]["computed_tokens"] < counters["fastsia-checkpoint"]["computed_tokens"]
    assert (
        counters["fastsia-checkpoint"]["computed_tokens"]
        < counters["fastsia-none"]["computed_tokens"]
        == 2 * 4 * 6 * 19
    )


@needs_core
def test_steady_state_has_full_steps_and_its_floor(model: Model, toy_work: Work) -> None:
    found = steady.measure(model, TOY, "8", toy_work)
    line("steady", "8", model.head | found)
    assert found["decode"]["counters"]["computed_tokens"] == 8 * (found["suffix"] - 1)
    assert found["decode"]["counters"]["preemptions"] == 0
    assert found["work"]["counters"]["generated_tokens"] == 2 * 4 * 6 * 20


@needs_core
def test_long_trunks_and_the_kernels_of_a_step_are_measured(model: Model) -> None:
    long = steady.measure(model, TOY, "long", None)
    line("steady", "long", model.head | long)
    assert (long["prefix"], long["work"]) == (steady.TOY_LONG[1], None)
    found = steady.profile(model, TOY, 8)
    line("engine", "8", model.head | found)
    assert found["engine"]["core"]
    assert found["engine"]["warnings"] == []
    assert found["ms_per_step"] > 0 < found["kernels"][0]["ms"]


@needs_core
def test_suffixes_are_cut_to_what_the_pool_holds(model: Model) -> None:
    engine = peers.open_engine(model, num_kv_blocks=40)
    fitting = steady.fitting(engine, TOY, 8, 20, 600)
    assert fitting.rollout_tokens == (int(0.95 * 40) - 2) // 8 * 16


def test_an_engine_without_its_core_is_not_measured(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that failed exits with 0, and the bookkeeping in numpy is slower."""
    monkeypatch.setattr(peers, "extension", lambda: None)
    with pytest.raises(RuntimeError, match=r"the C\+\+ core is not built"):
        peers.open_engine(model)


@pytest.mark.parametrize("name", ["qwen2.5-3b", "gemma-2-2b"])
def test_products_are_measured_in_the_shapes_of_the_model(name: str) -> None:
    """The fused matrices of a layer: with the head, and without norms and biases, they are what a step reads."""
    config = architecture(name)
    of_layer, head = list(shapes(config).values())[:-1], shapes(config)["head"]
    numbers = config.num_hidden_layers * sum(a * b for a, b in of_layer) + head[0] * head[1]
    assert numbers == pytest.approx(Costs.of(config).weights, rel=1e-3)


def test_tests_that_are_cut_keep_their_tracebacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that pytest does not know ends it without a word."""
    test = tmp_path / "test_slow.py"
    test.write_text(
        "import time, pytest\npytestmark = pytest.mark.gpu\n"
        "def test_wrong():\n    assert 1 == 2\n"
        f"def test_endless():\n    open({str(tmp_path / 'there')!r}, 'w')\n    time.sleep(600)\n"
    )

    class UntilThere(subprocess.Popen[str]):
        """Its time is up once the endless test has begun."""

        def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str, str]:
            while timeout is not None and self.poll() is None:
                if (tmp_path / "there").exists():
                    raise subprocess.TimeoutExpired(self.args, timeout)
                time.sleep(0.02)
            return super().communicate()

    monkeypatch.setattr(planning.subprocess, "Popen", UntilThere)
    monkeypatch.setitem(planning.TESTS, "ops", [str(test), "-c", "/dev/null", "--rootdir", str(tmp_path)])
    monkeypatch.setattr(planning.importlib.util, "find_spec", lambda name: None)
    found = planning.run_tests("ops", "cpu", 60.0)
    line("tests", "ops", found, model=None)
    assert found["cut"]
    assert found["counts"]["failed"] == 1
    assert "assert 1 == 2" in found["output"]
    assert "test_slow.py:7: KeyboardInterrupt" in found["output"]


# --- rows ------------------------------------------------------------------------------------------------------


def test_rows_come_in_order_of_worth_and_once() -> None:
    planned = [row.key for row in plan()]
    assert planned[:13] == [
        "tests/ops",
        *(f"kernels/{QWEN}/{name}" for name in ("products", "attention", "sampling")),
        *(f"kernels/deepseek-llm-7b/{name}" for name in ("attention", "sampling")),
        f"engine/{QWEN}/512",
        *(f"steady/{QWEN}/{rows}" for rows in (512, 1024)),
        *(f"peer/{QWEN}/{name}" for name in ("naive", "fastsia", "continuous")),
        "kernels/r1-distill-qwen-7b/attention-long",
    ]
    assert len(planned) == len(set(planned))
    at = planned.index
    assert at("peer/deepseek-llm-7b/fastsia") < at("peer/gemma-2-2b/fastsia")
    assert {key.split("/")[1] for key in planned if key.startswith("steady")} == set(ARCHITECTURES)
    assert [row.key for row in plan(["llama-3.2-3b"], ["naive"])] == ["peer/llama-3.2-3b/naive"]


def test_rows_are_measured_once_and_fail_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row in a process of its own, one that fails, one that does not end; then nothing is left to do but the last."""
    output = tmp_path / "rows.jsonl"
    good, bad = Row("peer", QWEN, "naive", "cpu"), Row("peer", str(tmp_path / "nothing"), "naive", "cpu")
    with monkeypatch.context() as warmly:
        warmly.setattr("sys.executable", str(warm_python()))
        warmly.setattr("os.environ", offline())
        assert run([good, bad], output) == 0
    slow = Row("peer", QWEN, "fastsia", "cpu")
    assert run([good, bad, slow], output, row_seconds=0.5) == 0
    found = Ledger(output).rows()
    for row in found:
        validate(row)
    assert [(row["key"], row["status"]) for row in found] == [
        (good.key, "ok"),
        (bad.key, "failed"),
        (slow.key, "timeout"),
    ]
    assert found[0]["result"]["agreement"]["agrees"]
    before = output.read_text()
    assert run([good, bad, slow], output) == 0
    assert output.read_text() == before
    capsys.readouterr()


def test_a_peer_that_is_not_there_is_skipped_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    row = {"kind": "peer", "model": QWEN, "name": "fastsia-graphs", "device": "cpu"}
    one(row, output=str(tmp_path / "rows.jsonl"), limit_s=60.0, result=str(path))
    found = json.loads(path.read_text())
    assert found["status"] == "skipped"
    assert found["reason"]


def test_a_budget_ends_between_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    limits = []

    def measured(row: Row, output: Any, limit: float) -> dict[str, Any]:
        limits.append(limit)
        status = "timeout" if row.name == "continuous" else "ok"
        return {"status": status, "reason": None, "result": None}

    monkeypatch.setattr(runner, "measure_apart", measured)
    planned = [Row("peer", QWEN, name) for name in ("naive", "fastsia", "continuous", "static")]
    output = tmp_path / "rows.jsonl"
    # The third runs into the budget and is not recorded; the next call starts with it.
    assert run(planned, output, budget_seconds=450) == 2
    assert limits == [240, 240, 150]
    assert [row["key"] for row in Ledger(output).rows()] == [planned[0].key, planned[1].key]
    # There it is the first: it has all the time that a call can give, so no further call tries it.
    assert run(planned, output, budget_seconds=130) == 1
    assert Ledger(output).rows()[-1]["status"] == "timeout"
    assert run(planned, output, budget_seconds=450) == 0


DEVICE = """
import sys, time
from pathlib import Path
sys.path.insert(0, {repository!r})
from benchmarks.gpu import runner
from benchmarks.gpu.ledger import Ledger
from benchmarks.gpu.runner import Row

OUTPUT, SECONDS = Path(sys.argv[1]), 0.02

def stub(row, output, limit):
    # A device that needs its time for a row, writes the cases of another, and stands still on a third.
    if row.name == "sticks":
        OUTPUT.with_name("sticks").touch()
        time.sleep(600)
    if row.kind == "kernels":
        ledger = Ledger(output)
        for name in ("a", "b", "c", "d"):
            case = row.head | {{"key": row.key + "/" + name, "kind": "case"}}
            if not ledger.has(case["key"]) and ledger.begin(case):
                time.sleep(SECONDS)
                ledger.end(case | {{"status": "ok", "reason": None, "result": name, "wall_seconds": SECONDS}})
    time.sleep(SECONDS)
    return {{"status": "ok", "reason": None, "result": row.name, "wall_seconds": SECONDS}}

runner.measure_apart = stub
rows = [Row("peer", "m", str(i)) for i in range(4)] + [Row("kernels", "m", "attention"), Row("peer", "m", "sticks")]
runner.run(rows + [Row("peer", "m", str(i)) for i in range(4, 12)], OUTPUT)
"""


def test_a_suite_that_is_killed_goes_on_and_loses_nothing(tmp_path: Path) -> None:
    """A lent machine ends a call without warning. Three times in a row, at any moment; one row never ends."""
    script = tmp_path / "device.py"
    script.write_text(DEVICE.format(repository=str(Path(__file__).parents[2])))
    held = ""
    for call, killed in enumerate((True, True, True, False)):
        out = tmp_path / f"out{call}" / "gpu.jsonl"  # all that goes from one call to the next
        out.parent.mkdir()
        out.write_text(held)
        process = start_python(script, out)
        if killed:
            # The first in the middle of a row's cases, then in the row that never ends: where it has begun twice, it
            # is passed over.
            while not out.with_name("sticks").exists() if call else out.read_bytes().count(b"\n") < 12:
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
        assert process.wait(timeout=60) == (-9 if killed else 0)
        assert out.read_text().startswith(held)
        held = out.read_text() + '{"key": "peer/m/7", "stat' * killed  # a line that was cut in two
    held = held.replace('{"key": "peer/m/7", "stat\n', "")
    rows = [json.loads(line) for line in held.splitlines()]
    begun = Counter(row["key"].removeprefix("kernels/m/") for row in rows if row["status"] == "began")
    twice = {key for key, number in begun.items() if number > 1}
    assert twice - {f"attention/{case}" for case in "abcd"} == {"attention", "peer/m/sticks"}
    assert len(twice) <= 3, "nothing begins again but what was under way"
    ended = [row for row in rows if row["status"] != "began"]
    status = {row["key"]: row["status"] for row in ended}
    assert len(status) == len(ended), "nothing is measured twice"
    assert status.pop("peer/m/sticks") == "timeout"
    names = [*map(str, range(12)), *(f"attention{case}" for case in ("", "/a", "/b", "/c", "/d"))]
    assert status == {f"{'kernels' if 'a' in name else 'peer'}/m/{name}": "ok" for name in names}


# --- the report ------------------------------------------------------------------------------------------------


def peer_result(seconds: float, agrees: bool = True) -> dict[str, Any]:
    agreement = dict.fromkeys(("excess_nats", "excess_nats_generate", "excess_error", "outside", "p_value"), 0.0)
    return {
        "weights": "random", "head_entropy": 0.3, "work": {}, "part": {"problems": 1, "checkpoints": 1, "scale": 1.0},
        "seconds": seconds, "whole_seconds": seconds, "tokens_per_s": 100 / seconds, "details": {},
        "agreement": {**agreement, "agrees": agrees},
    }  # fmt: skip


def test_the_report_gives_no_ratio_to_wrong_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = {"us": {"p50": 12.0}, "floor_us": 10.0, "times_floor": 1.2}
    tests = {"counts": {"passed": 3, "failed": 1}, "exit": 2, "cut": True, "output": "FAILED tests/ops/test_x.py\n"}
    engine = {
        "engine": {}, "rows": 512, "make_seconds": 9.0, "captures": 3, "ms_per_step": 2.5, "kernel_ms_per_step": 2.25,
        "kernels": [{"name": "gemm", "calls": 4.0, "ms": 1.5}],
    }  # fmt: skip
    lines = [
        line("peer", "naive", peer_result(300.0)),
        line("peer", "continuous", peer_result(9.0, agrees=False)),
        line("peer", "fastsia", peer_result(2.0) | {"details": {"engine": {"warnings": ["no graphs."]}}}),
        line("case", "fastsia 512 rows", case, key=f"kernels/{QWEN}/attention/fastsia 512 rows"),
        line("tests", "ops", tests, model=None),
        line("engine", "512", engine),
        line("peer", "vllm", None, status="skipped", reason="vLLM is not installed"),
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + os.linesep for row in lines))
    assert report.main([str(file)]) == 0
    text = capsys.readouterr().out
    weights = "random, 0.300 nats per token"
    assert f"| {QWEN} | {weights} | fastsia | 2.00 | 50 | – | 150.0 | – | agree |" in text
    assert f"| {QWEN} | {weights} | continuous | 9.00 | 11 | – | – | – | DISAGREE |" in text
    assert report.TOY in text
    assert f"| peer/{QWEN}/fastsia | no graphs. |" in text
    assert "vLLM is not installed" in text
    assert f"| attention | {QWEN} | fastsia 512 rows | 12.0 | 10.0 | 1.20 |" in text
    assert "| ops | 3 passed, 1 failed, cut | FAILED tests/ops/test_x.py |" in text
    assert f"| {QWEN} | 512 | 2.50 | 2.25 | 9 | 3 |" in text
    assert "| gemm | 4 | 1.500 |" in text
    assert report.main([str(tmp_path / "none.jsonl")]) == 1


def test_work_of_real_weights_is_text(tmp_path: Path) -> None:
    from tests.tiny import save_tiny

    real = load(str(save_tiny(tmp_path / "tiny")), "cpu")
    assert real.entropy is None
    prompts = work.make_prompts(real, 2, 60, seed=0)
    assert real.tokenizer.decode(prompts[0]).startswith("Question: ")
    assert not np.array_equal(prompts[0], prompts[1])
