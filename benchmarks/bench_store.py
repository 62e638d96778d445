"""What one driver can take in: answers read, rollouts stored, a database opened again, trajectories received over Ray.

    python -m benchmarks.bench_store --problems 40 --workers 1000

A backend that has its trajectories ready stands where the engines would be, so that only the driver's work is timed: T
tokens a trajectory, a checkpoint every 20, 20 rollouts each that go on for as long as the trajectory would. Prints a
table and ends in one JSON line.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import fastsia
from benchmarks.common import emit
from fastsia.answers.vocabulary import Vocabulary
from fastsia.backends import ray as distributed
from fastsia.callbacks import Callback, Progress
from fastsia.config import SamplingParams
from fastsia.engine.sequence import Counters, FinishReason, Request, Rollouts, Trajectory
from fastsia.models.loading import load_description
from fastsia.store import DATABASE, StoreWriter

STRIDE, ROLLOUTS, POOL = 20, 20, 16


class Ready:
    """A backend whose trajectories are there before they are asked for: a few, given again and again."""

    name, model_name, context_length = "ready", "ready", None

    def __init__(self, length: int) -> None:
        model = load_description("demo:sft")
        self.tokenizer, self.eos_token_ids = model.tokenizer, (0,)
        self.vocabulary = Vocabulary.from_tokenizer(model.tokenizer)
        self.counters, self.warnings = Counters(), []
        rng = np.random.default_rng(0)
        # A solution's text, repeated up to the length, with its answer at the end, as a reasoner writes it.
        said = self.tokenizer.encode("Now 26+20=46 are left. Each gets 46*4=184 of them, which is more than before.\n")
        answers = [self.tokenizer.encode(f"\n#### {number}") for number in (184, 26, 46, 8)]
        self._pool = [_trajectory(rng, np.resize(said, length), answers) for _ in range(POOL)]

    def describe(self) -> dict[str, Any]:
        return {"dtype": "float32"}

    def fingerprint(self) -> str:
        return "ready"

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        for number, request in enumerate(requests):
            ids = np.array(request.prompt_ids, dtype=np.int32)
            ready = self._pool[number % POOL]
            yield dataclasses.replace(ready, key=request.key, prompt_ids=ids, seed=request.seed)


def _trajectory(rng: np.random.Generator, said: np.ndarray, answers: list[list[int]]) -> Trajectory:
    length = len(said)
    points = np.append(np.arange(0, length, STRIDE), length)
    rows = [
        np.append(said[: rng.integers(0, 2 * (length - at) + 1)], answers[rng.integers(len(answers))])
        for at in points.repeat(ROLLOUTS)
    ]
    ids = np.concatenate(rows).astype(np.int32)
    return Trajectory(
        key=None,
        prompt_ids=np.zeros(0, dtype=np.int32),
        token_ids=said.astype(np.int32),
        logprobs=rng.normal(size=length).astype(np.float32),
        token_entropies=rng.exponential(size=length).astype(np.float32),
        finish_reason="eos",
        seed=0,
        checkpoints=points,
        rollouts=Rollouts(
            checkpoint=points.repeat(ROLLOUTS).astype(np.int32),
            index=np.tile(np.arange(ROLLOUTS, dtype=np.int32), len(points)),
            offsets=np.append(0, np.cumsum([len(row) for row in rows])).astype(np.int64),
            token_ids=ids,
            logprobs=rng.normal(size=len(ids)).astype(np.float32),
            finish_reason=np.full(len(rows), FinishReason.EOS, dtype=np.int8),
        ),
    )


class Worker(distributed._Actor):
    """A worker of the Ray backend, with such a backend inside."""

    def __init__(self, model: str, name: str | None, options: dict[str, Any]) -> None:
        super().__init__(Ready(options["length"]), None, {})  # type: ignore[arg-type]


class Clock(Callback):
    """Seconds between the first request and the last stored problem."""

    def run_started(self, run: Any, progress: Progress) -> None:
        self.began = time.perf_counter()

    def problem_finished(self, problem: Any, progress: Progress) -> None:
        self.seconds = time.perf_counter() - self.began


def driver(backend: Any, problems: int, trajectories: int, folder: Path) -> dict[str, Any]:
    """A whole evaluation from trajectories that are there; then the same folder opened again."""
    clock, began = Clock(), time.perf_counter()
    settings = {"num_trajectories": trajectories, "num_rollouts": ROLLOUTS, "stride": STRIDE}
    result = fastsia.evaluate(backend, "demo", limit=problems, output=folder, callbacks=[clock], **settings)
    whole = time.perf_counter() - began
    rollouts, size = result.summary["num_rollouts"], (folder / DATABASE).stat().st_size
    began = time.perf_counter()
    identity = result._store.identity()  # type: ignore[union-attr]
    with StoreWriter(folder, identity, backend.vocabulary) as writer:
        assert len(writer.done) == problems
    return {
        "trajectories_a_second": problems * trajectories / clock.seconds,
        "rollouts_a_second": rollouts / clock.seconds,
        "megabytes_a_second": size / clock.seconds / 1e6,
        "bytes_a_rollout": size / rollouts,
        "tokens_a_rollout": result.summary["generated_tokens"] / rollouts,
        "parquet_bytes_a_rollout": sum(file.stat().st_size for file in folder.rglob("*.parquet")) / rollouts,
        "statistics_and_exports_s": whole - clock.seconds,
        "opened_again_s": time.perf_counter() - began,
        "gigabytes": size / 1e9,
    }


def received(backend: Any, count: int) -> float:
    """Trajectories a second that come in over Ray and are thrown away."""
    requests = (Request(i, (1,) * 100, SamplingParams(), ROLLOUTS, seed=i) for i in range(count))
    run = backend.generate(requests)
    for _ in range(count // 5):  # both workers are at it
        next(run)
    began = time.perf_counter()
    rest = sum(1 for _ in run)
    return rest / (time.perf_counter() - began)


def bookkeeping(ray: Any, number: int, rounds: int = 50) -> float:
    """Seconds of one round of the driver with `number` workers of which none has an answer: its least."""
    never = ray.remote(lambda: None).options(num_cpus=1_000_000)
    backend = object.__new__(distributed.RayBackend)
    backend._ray, backend.worker_timeout, backend._bound = ray, 3600.0, 80
    backend._backlog = distributed.deque(Request(i, (1,), SamplingParams(), 1, seed=0) for i in range(number))
    backend._workers = [distributed._Worker(i, actor=True, is_up=True) for i in range(number)]
    for worker in backend._workers:
        worker.calls.append(never.remote())
        worker.since = time.monotonic()
        worker.requests = {-worker.number: None}  # type: ignore[dict-item]
        worker.calls.append(worker.calls[0])
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        backend._start_workers()
        backend._hand_out()
        waiting = {worker.calls[0]: worker for worker in backend._workers}
        backend._wait(list(waiting), num_returns=len(waiting), timeout=0)
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=40)
    parser.add_argument("--trajectories", type=int, default=8)
    parser.add_argument("--length", type=int, default=250, help="T, tokens of a trajectory")
    parser.add_argument("--workers", type=int, default=1000, help="of the driver's bookkeeping")
    options = parser.parse_args()
    row: dict[str, Any] = {"benchmark": "store", **vars(options)}
    with tempfile.TemporaryDirectory() as folder:
        row["alone"] = driver(Ready(options.length), options.problems, options.trajectories, Path(folder) / "alone")
        import ray

        distributed._Actor = Worker  # type: ignore[misc]

        ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        backend = distributed.RayBackend("demo:sft", None, {"length": options.length}, num_workers=2)
        row["ray"] = {
            "received_a_second": received(backend, 20 * options.problems),
            **driver(backend, options.problems, options.trajectories, Path(folder) / "ray"),
            "round_s": bookkeeping(ray, options.workers),
        }
        ray.shutdown()
    table = Table("", "in this process", "from 2 Ray workers")
    for name in dict.fromkeys([*row["alone"], *row["ray"]]):
        cells = [f"{part[name]:,.4g}" if name in part else "" for part in (row["alone"], row["ray"])]
        table.add_row(name.replace("_", " "), *cells)
    Console().print(table)
    emit(row)


if __name__ == "__main__":
    main()
