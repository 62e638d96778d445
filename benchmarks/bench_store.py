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
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fastsia
from benchmarks.harness import emit, parse, peak_bytes, seconds, show, timed
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
            yield dataclasses.replace(self._pool[number % POOL], key=request.key, prompt_ids=ids, seed=request.seed)

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
    def __init__(self, model: str, name: str | None, options: dict[str, Any]) -> None:
        super().__init__(Ready(options["length"]), None, {})  # type: ignore[arg-type]


class Clock(Callback):
    """Seconds between the first request and the last stored problem."""

    def problem_finished(self, problem: Any, progress: Any) -> None:
        self.seconds = progress.seconds


def driver(backend: Any, problems: int, trajectories: int, folder: Path) -> dict[str, Any]:
    """A whole evaluation of ready trajectories; then its report, and the same folder resumed."""
    clock = Clock()
    settings: dict[str, Any] = {"num_trajectories": trajectories, "num_rollouts": ROLLOUTS, "stride": STRIDE}
    run = partial(fastsia.evaluate, backend, "demo", limit=problems, output=folder, **settings)
    result, whole_s = timed(partial(run, callbacks=[clock]))
    stored = sum(file.stat().st_size for file in folder.glob("run.sqlite*"))
    parquet = sum(file.stat().st_size for file in folder.rglob("*.parquet"))
    analysis_s = timed(partial(fastsia.analyze, folder / "rollouts.parquet"))[1]
    page, report_s = timed(partial(result.report, folder))
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
        "peak_rss_megabytes": peak_bytes() / 1e6,
        "opened_and_scored_again_s": timed(run)[1],
    }


def over_ray(length: int, problems: int, trajectories: int, workers: int, folder: Path) -> dict[str, Any]:
    """The same from two workers; what they send a driver that throws it away; and a driver's own round."""
    import ray

    distributed._Actor = Worker  # type: ignore[misc]
    ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    backend = distributed.RayBackend("demo:sft", None, {"length": length}, num_workers=2)
    count = 20 * problems
    run = backend.generate(Request(i, (1,) * 100, SamplingParams(), ROLLOUTS, seed=i) for i in range(count))
    for _ in range(count // 5):  # until both workers are busy
        next(run)
    rest, took = timed(lambda: sum(1 for _ in run))
    found = {"received_a_second": rest / took, **driver(backend, problems, trajectories, folder)}
    found["round_s"] = bookkeeping(ray, workers)
    ray.shutdown()
    return found


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

    return float(np.median(seconds(round_, rounds)))


def main() -> None:
    given = parse(__doc__, problems=40, trajectories=8, length=250, workers=1000)
    work = given.problems, given.trajectories
    with tempfile.TemporaryDirectory() as name:
        found = {"alone": driver(Ready(given.length), *work, Path(name) / "alone")}
        if given.workers:
            found["ray"] = over_ray(given.length, *work, given.workers, Path(name) / "ray")
    show([{"": key, **{name: one.get(key) for name, one in found.items()}} for key in list(found.values())[-1]])
    emit({"benchmark": "store", **vars(given), **found})


if __name__ == "__main__":
    main()
