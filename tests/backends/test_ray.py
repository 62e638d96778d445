"""Runs over a real Ray cluster of this machine: workers killed and stopped, drivers killed, and the same results."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fastsia
from fastsia import FastsiaError
from fastsia.backends import open_executor
from fastsia.backends import ray as ray_backend
from fastsia.backends.ray import RayBackend
from fastsia.callbacks import Callback, Progress
from fastsia.config import SamplingParams
from fastsia.engine.sequence import Request
from fastsia.results.reader import Store
from fastsia.results.schema import FinishedProblem
from tests.programs import start_python
from tests.test_resume import SETTINGS, assert_equal, finished, tables
from tests.tiny import NUM_PROBLEMS, save_tiny, shared_model

ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")

# Enough problems that a worker is lost while others are left, and the usual company in a batch.
SMALL: dict[str, Any] = SETTINGS | {"max_concurrent_trajectories": 4}
RUN = {name: value for name, value in SMALL.items() if name != "max_concurrent_trajectories"}


@pytest.fixture(scope="module")
def whole(model: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The tables of a run in this process."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    fastsia.evaluate(str(model), str(questions), output=folder, **SMALL)
    return tables(folder)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of two CPUs in this process, whatever the machine has."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def backend(cluster: None, model: Path) -> RayBackend:
    return RayBackend(str(model), "native", {"max_concurrent_trajectories": 4}, num_workers=2)


def processes(backend: RayBackend) -> list[int]:
    """Of the workers that are up."""
    return [worker.process for worker in backend._workers if worker.is_up]


def wait_for_all(backend: RayBackend) -> None:
    """Drawing goes on with the first worker; these tests want both."""
    while len(processes(backend)) < len(backend._workers):
        backend._start_workers()
        backend._poll()


class At(Callback):
    """Does something once so many problems are finished."""

    def __init__(self, done: int, do: Callable[[], Any]) -> None:
        self.done, self.do = done, do

    def problem_finished(self, problem: FinishedProblem, progress: Progress) -> None:
        if progress.done == self.done:
            self.do()


@pytest.fixture
def beside(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that reserve nothing: there is room for them whether or not those of `backend` hold the CPUs by now."""
    monkeypatch.setattr(ray_backend, "worker_shares", lambda _, num_workers, __: (num_workers, {"num_cpus": 0}, True))


def test_what_is_wrong_with_the_model_is_said_as_in_one_process(beside: None, model: Path, tmp_path: Path) -> None:
    broken = save_tiny(tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    with pytest.raises(FastsiaError, match="safetensors") as error:
        RayBackend(str(broken), num_workers=1)
    with pytest.raises(FastsiaError) as alone:
        open_executor("local", str(broken))
    assert str(error.value) == str(alone.value)


def test_workers_that_always_die_end_the_run(
    beside: None, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A problem that takes every worker down with it must not do so for ever."""

    class Dying(ray_backend._Actor):
        def draw(self, requests: list[Request]) -> Any:
            os._exit(1)

    monkeypatch.setattr(ray_backend, "_Actor", Dying)
    monkeypatch.setattr(ray_backend, "_MAX_RETRIES", 1)
    backend = RayBackend(str(model), num_workers=1)
    with pytest.raises(FastsiaError, match="in progress at 2 workers that were lost"):
        list(backend.generate([Request(0, (1,), SamplingParams(max_tokens=2), 1, seed=0)]))


def test_a_killed_workers_problems_are_drawn_again(
    backend: RayBackend, questions: Path, tmp_path: Path, whole: dict[str, Any]
) -> None:
    """Both workers draw, one is killed in mid-run, and the tables are those of a single process."""

    wait_for_all(backend)

    def kill() -> None:
        os.kill(processes(backend)[0], signal.SIGKILL)

    result = fastsia.evaluate(backend, str(questions), output=tmp_path, callbacks=[At(8, kill)], **RUN)
    assert_equal(tables(tmp_path), whole)
    machine = result.summary["machine"]
    assert (machine["executor"], machine["num_lost_workers"]) == ("ray", 1)
    (warning,) = [text for text in result.summary["warnings"] if "was lost" in text]
    assert re.search(r"worker 0 on \S+ was lost: .*; its \d+ unfinished trajectories are drawn again\.$", warning)


def test_a_worker_that_hangs_is_given_up(
    backend: RayBackend, questions: Path, tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process answers nothing and does not react to a request to exit."""
    wait_for_all(backend)
    stopped: list[int] = []

    def stop() -> None:
        monkeypatch.setattr(backend, "worker_timeout", 6.0)
        stopped.append(processes(backend)[0])
        os.kill(stopped[0], signal.SIGSTOP)

    try:
        fastsia.evaluate(backend, str(questions), output=tmp_path, callbacks=[At(4, stop)], **RUN)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(stopped[0], signal.SIGKILL)
    assert_equal(tables(tmp_path), whole)
    assert backend.describe()["num_lost_workers"] == 1, "of the last run"
    assert any("no response for 6 s" in text for text in backend.warnings)


def test_an_interrupted_driver_leaves_nothing_under_way(backend: RayBackend) -> None:
    """Trajectories in progress when the caller stopped reading must not come out of the next run."""
    sampling = SamplingParams(max_tokens=8)
    old = [Request("old", (1 + i, 2), sampling, 2, seed=i, stride=4) for i in range(30)]
    run = backend.generate(old)
    assert next(run).key == "old"
    run.close()  # type: ignore[attr-defined]
    new = [Request("new", (1 + i, 2), sampling, 2, seed=i, stride=4) for i in range(3)]
    found = list(backend.generate(new))
    assert [trajectory.key for trajectory in found] == ["new"] * 3
    assert {int(trajectory.prompt_ids[0]) for trajectory in found} == {1, 2, 3}


def test_requests_are_taken_as_they_are_needed(backend: RayBackend) -> None:
    """Thousands of prompts must not be kept in memory ahead of the workers."""
    taken = 0

    def requests() -> Iterator[Request]:
        nonlocal taken
        for i in range(10_000):
            taken += 1
            yield Request(i, (1 + i % 250,), SamplingParams(max_tokens=2), 1, seed=i, stride=4)

    run = backend.generate(requests())
    for _ in range(50):
        next(run)
    run.close()  # type: ignore[attr-defined]
    held = len(backend._workers) * (4 + ray_backend._AHEAD)
    assert taken <= 50 + 2 * held


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Ray keeps sockets below its folder, whose paths may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    "ends",
    [
        pytest.param([(signal.SIGKILL, -signal.SIGKILL, 2)], id="killed"),
        # Each start of a cluster takes many seconds.
        pytest.param(
            [(signal.SIGTERM, 143, 1), (signal.SIGKILL, -signal.SIGKILL, 2)],
            id="ended-and-killed",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_driver_that_was_ended_resumes(
    ends: list[tuple[int, int, int]],
    model: Path,
    questions: Path,
    tmp_path: Path,
    short_path: Path,
    whole: dict[str, Any],
) -> None:
    """From the command line, on a cluster of its own; its workers go with it, and one process can end the run."""
    folder = tmp_path / "run"
    options = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]
    command = ["run", "--model", str(model), "--tasks", str(questions), "-o", str(folder), "--no_report", *options]
    done: set[int] = set()
    for how, code, num_workers in ends:
        # A session of its own, not the cluster of another test.
        process = start_python(
            "-m", "fastsia", *command, "--executor", "ray", "--num_workers", num_workers, RAY_TMPDIR=short_path
        )
        while len(finished(folder)) < len(done) + 4:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        process.send_signal(how)
        said = process.communicate()[1]
        assert process.returncode == code, said
        before, done = done, finished(folder)
        assert before < done
        assert len(done) < NUM_PROBLEMS
        assert ("problems are finished and kept" in said) == (how == signal.SIGTERM)
        assert "Traceback" not in said
    num_begun, _ = Store(folder / "run.sqlite").num_begun()
    result = fastsia.evaluate(str(model), str(questions), output=folder, **SMALL)
    assert result.summary["num_computed_problems"] == NUM_PROBLEMS - len(done) - num_begun
    assert_equal(tables(folder), whole)


@pytest.mark.parametrize(
    ("machines", "asked", "options", "expected"),
    [
        ([{"CPU": 2}], None, {}, (1, {"num_cpus": 2}, True)),
        ([{"CPU": 2}], 2, {}, (2, {"num_cpus": 1}, True)),
        ([{"CPU": 2}], 5, {}, (5, {"num_cpus": 1 / 3}, True)),
        ([{"CPU": 3}, {"CPU": 3}], 3, {}, (3, {"num_cpus": 1}, True)),
        ([{"CPU": 8}, {"CPU": 8}, {"CPU": 2}], None, {}, (3, {"num_cpus": 4}, True)),
        ([{"CPU": 64, "GPU": 8}] * 2, None, {}, (16, {"num_gpus": 1, "num_cpus": 1}, True)),
        ([{"CPU": 64, "GPU": 8}] * 2, None, {"tensor_parallel_size": 3}, (4, {"num_gpus": 3, "num_cpus": 1}, True)),
        ([{"CPU": 64, "GPU": 8}] * 2, 17, {}, (17, {"num_gpus": 1, "num_cpus": 1}, False)),
        ([{"CPU": 64, "GPU": 8}] * 2, None, {"device": "cpu"}, (2, {"num_cpus": 64}, True)),
    ],
)
def test_every_worker_has_a_place(
    machines: list[dict[str, int]], asked: int | None, options: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    """Ray places a worker on one machine: with a share that is too large for any it would wait for ever."""
    cluster = SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": machine} for machine in machines])
    count, share, fits = ray_backend.worker_shares(cluster, asked, options)
    assert (count, share, fits) == expected
    if fits:
        places = [
            [int(machine[name[4:-1].upper()] / each + 1e-9) for name, each in share.items()] for machine in machines
        ]
        assert sum(map(min, places)) >= count


def test_an_address_without_a_cluster_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(FastsiaError, match=r"no Ray cluster answers at 127\.0\.0\.1:9, the address in RAY_ADDRESS"):
        RayBackend("demo:sft")


def test_mistakes_are_named() -> None:
    for executor, options, sentence in (
        ("rai", {}, "executor must be one of local, ray, got 'rai'"),
        (None, {"num_workers": 2}, "num_workers applies to executor='ray' only"),
        ("local", {"worker_timeout": 2.0}, "worker_timeout applies to executor='ray' only"),
        ("ray", {"num_workers": 0}, "num_workers must be an integer >= 1"),
        ("ray", {"worker_timeout": 0.0}, "worker_timeout must be a number of seconds > 0"),
    ):
        with pytest.raises(FastsiaError, match=re.escape(sentence)):
            open_executor(executor, "demo:sft", **options)  # type: ignore[arg-type]
    with pytest.raises(FastsiaError, match="needs a model's name or path, got tuple"):
        open_executor("ray", shared_model())
    with pytest.raises(
        FastsiaError, match="executor='ray' needs backend='native', 'hf' or 'vllm', got backend='openai'"
    ):
        open_executor("ray", "demo:sft", "openai")
