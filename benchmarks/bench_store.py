"""What one driver takes in and works out: rollouts stored, statistics, report, trajectories received over Ray.

    python -m benchmarks.bench_store --problems 40 --workers 1000
    python -m benchmarks.bench_store --problems 1319 --trajectories 1 --length 300 --workers 0

The backend has its trajectories ready, so only the driver's work is timed. A trajectory has --length tokens, a
checkpoint every 20, and 20 rollouts per checkpoint that are as long on average as the trajectory would go on. --workers
are those whose bookkeeping is timed; with 0 nothing is done over Ray.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import fastsia
from benchmarks.frame import emit, parse, show
from benchmarks.machine import peak_rss
from fastsia import Request, SamplingParams
from fastsia.backends import ray as distributed
from fastsia.backends.base import DescribedModel
from fastsia.backends.continuations import DrawnSequence, PendingRequest
from fastsia.callbacks import Callback
from fastsia.engine.sequence import FinishReason, Trajectory

STRIDE, ROLLOUTS, POOL = 20, 20, 16
NUMBERS = (184, 26, 46, 8)


class Ready(DescribedModel):
    """A backend with a few trajectories that it returns again and again."""

    name, warnings = "ready", ()

    def __init__(self, length: int) -> None:
        super().__init__("demo:sft", trust_remote_code=False, revision=None)
        said = self.tokenizer.encode("Now 26+20=46 are left. Each gets 46*4=184 of them, which is more than before.\n")
        self._answers = [self.tokenizer.encode(f"\n#### {number}") for number in NUMBERS]
        self._said, self._rng = np.resize(said, length).astype(np.int32), np.random.default_rng(0)
        self._pool = [self._trajectory(length, number % 4) for number in range(POOL)]

    def describe(self) -> dict[str, Any]:
        return {"dtype": "float32"}

    def fingerprint(self) -> str:
        return "ready"

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        for number, request in enumerate(requests):
            ids = np.array(request.prompt_ids, dtype=np.int32)
            ready = self._pool[number % POOL]
            yield dataclasses.replace(ready, key=request.key, prompt_ids=ids, seed=request.seed)

    def _trajectory(self, length: int, settles_on: int) -> Trajectory:
        """Answers move from four to one: at position t a rollout has the final one with probability t / T at least."""
        request = Request(None, (), SamplingParams(), ROLLOUTS, seed=0, stride=STRIDE)
        rng, pending = self._rng, PendingRequest(request, self.eos_token_ids, self.vocabulary)
        trajectory = self._sequence(length - len(self._answers[settles_on]), settles_on)
        pending.take(trajectory, rng.exponential(size=length).tolist())
        parts = []
        for at in (len(start.prefix) for start in pending.starts()):
            answers = np.where(rng.random(ROLLOUTS) < at / length, settles_on, rng.integers(4, size=ROLLOUTS))
            ends = rng.integers(0, 2 * (length - at) + 1, size=ROLLOUTS).clip(max=length)
            parts.append([self._sequence(*one) for one in zip(ends, answers, strict=True)])
        return pending.finish(parts)

    def _sequence(self, length: int, answer: int) -> DrawnSequence:
        ids = np.append(self._said[:length], self._answers[answer]).astype(np.int32)
        return DrawnSequence(ids, self._rng.normal(size=len(ids)).astype(np.float32), FinishReason.EOS)


class Worker(distributed._Actor):
    """A worker of the Ray backend with the ready backend inside."""

    def __init__(self, model: str, name: str | None, options: dict[str, Any]) -> None:
        super().__init__(Ready(options["length"]), None, {})  # type: ignore[arg-type]


class Clock(Callback):
    """Seconds between the first request and the last stored problem."""

    def problem_finished(self, problem: Any, progress: Any) -> None:
        self.seconds = progress.seconds


def timed(work: Any) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def driver(backend: Any, problems: int, trajectories: int, folder: Path) -> dict[str, Any]:
    """A whole evaluation of ready trajectories; then its report, and the same folder resumed."""
    clock = Clock()
    settings: dict[str, Any] = {"num_trajectories": trajectories, "num_rollouts": ROLLOUTS, "stride": STRIDE}
    settings |= {"limit": problems, "output": folder}
    whole_s, result = timed(lambda: fastsia.evaluate(backend, "demo", callbacks=[clock], **settings))
    tables, stored = folder.rglob("*.parquet"), sum(file.stat().st_size for file in folder.glob("run.sqlite*"))
    parquet = sum(file.stat().st_size for file in tables)
    analysis_s, _ = timed(lambda: fastsia.analyze(folder / "rollouts.parquet"))
    report_s, page = timed(lambda: result.report(folder))
    peak = peak_rss()
    resumed_s, _ = timed(lambda: fastsia.evaluate(backend, "demo", **settings))
    rollouts = result.summary["num_rollouts"]
    return {
        "trajectories_a_second": problems * trajectories / clock.seconds,
        "rollouts_a_second": rollouts / clock.seconds,
        "megabytes_a_second": stored / clock.seconds / 1e6,
        "rollouts": rollouts,
        "tokens_a_rollout": result.summary["generated_tokens"] / rollouts,
        "bytes_a_rollout": stored / rollouts,
        "parquet_bytes_a_rollout": parquet / rollouts,
        "gigabytes": stored / 1e9,
        "scored_and_exported_s": whole_s - clock.seconds,
        "analysis_of_the_table_s": analysis_s,
        "report_s": report_s,
        "report_megabytes": page.stat().st_size / 1e6,
        "peak_rss_megabytes": peak / 1e6,
        "opened_and_scored_again_s": resumed_s,
    }


def received(backend: Any, count: int) -> float:
    """Trajectories per second that come in over Ray and are thrown away, once both workers are busy."""
    run = backend.generate(Request(i, (1,) * 100, SamplingParams(), ROLLOUTS, seed=i) for i in range(count))
    for _ in range(count // 5):
        next(run)
    seconds, rest = timed(lambda: sum(1 for _ in run))
    return rest / seconds


def bookkeeping(ray: Any, number: int, rounds: int = 50) -> float:
    """Median seconds of one round of the driver with `number` workers, none of which has an answer."""
    never = ray.remote(lambda: None).options(num_cpus=1_000_000)
    backend = object.__new__(distributed.RayBackend)
    backend._ray, backend.worker_timeout, backend._bound = ray, 3600.0, 80
    backend._backlog = distributed.deque(Request(i, (1,), SamplingParams(), 1, seed=0) for i in range(number))
    backend._workers = [distributed._Worker(i, actor=True, is_up=True) for i in range(number)]
    for worker in backend._workers:
        worker.call(never.remote())
        worker.call(worker.calls[0])
        worker.requests = {-worker.number: None}  # type: ignore[dict-item]

    def round_() -> None:
        backend._start_workers()
        backend._hand_out()
        backend._wait([worker.calls[0] for worker in backend._workers], num_returns=number, timeout=0)

    return float(np.median([timed(round_)[0] for _ in range(rounds)]))


def main() -> None:
    options = parse(__doc__, problems=40, trajectories=8, length=250, workers=1000)
    row: dict[str, Any] = {"benchmark": "store", **vars(options)}
    with tempfile.TemporaryDirectory() as folder:
        row["alone"] = driver(Ready(options.length), options.problems, options.trajectories, Path(folder) / "alone")
        if options.workers:
            import ray

            distributed._Actor = Worker  # type: ignore[misc]
            ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
            backend = distributed.RayBackend("demo:sft", None, {"length": options.length}, num_workers=2)
            row["ray"] = {"received_a_second": received(backend, 20 * options.problems)}
            row["ray"] |= driver(backend, options.problems, options.trajectories, Path(folder) / "ray")
            row["ray"]["round_s"] = bookkeeping(ray, options.workers)
            ray.shutdown()
    alone, over_ray = row["alone"], row.get("ray", {})
    show([{"": x.replace("_", " "), "alone": alone.get(x), "ray": over_ray.get(x)} for x in alone | over_ray])
    emit(row)


if __name__ == "__main__":
    main()
