"""The `ray` executor: a backend whose requests are drawn by copies of another backend, each in a Ray actor.

A trajectory is a function of its request alone, so any worker may draw it, and a lost one is simply drawn again. The
driver hands requests out, receives finished trajectories, and is the only process that writes results.

Ray's own `max_restarts` and `max_task_retries` are not used: Ray restarts an actor only after its process has died, so
a worker that hangs would keep its requests, and a restarted worker would get them back while others are idle.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import platform
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from fastsia import __version__
from fastsia.answers.vocabulary import Vocabulary
from fastsia.backends import open_backend
from fastsia.backends.base import Running, Watch
from fastsia.backends.native import NativeBackend
from fastsia.config import EngineOptions, ExecutionOptions, VLLMOptions, options_of
from fastsia.engine.forecast import Remaining
from fastsia.engine.sequence import Counters, Drawn, Request, Trajectory
from fastsia.errors import FastsiaError
from fastsia.models.loading import load_description
from fastsia.models.resolve import ModelRef, resolve_model

logger = logging.getLogger("fastsia")

LOAD_TIMEOUT = 3600.0
"""Seconds in which a worker must be placed in the cluster and load its model."""

# Requests of a worker beyond those its engine has active, so that the engine always has a next one.
_AHEAD = 16
# Calls in flight at a worker: it starts the second while the response to the first is sent.
_CALLS = 2
# Seconds after which a worker answers with what it has drawn, though no trajectory is finished.
_ANSWER_SECONDS = 10.0
_CONNECT_SECONDS = 10.0
# Further tries of a request whose worker was lost, and of a worker that is lost before it finishes anything.
_MAX_RETRIES = 3


class RayBackend:
    """One engine for each GPU, or for a share of the CPUs in a cluster without GPUs.

    A worker gets as many requests as its engine draws at a time, and a few more. A worker that dies, fails, or is
    silent for `worker_timeout` is replaced, and its unfinished requests are drawn again by any worker. Drawing starts
    with the first worker that is up. The backend joins the cluster of RAY_ADDRESS or of this machine; without one it
    starts a cluster on this machine, which ends with this process.

    Args:
        model: a name, path or `ModelRef` that every machine of the cluster can load.
        name: the workers' backend, as in `open_backend`.
        options: the workers' backend options, as in `open_backend`.
        num_workers: None is one for each GPU, or one for each machine in a cluster without GPUs.
        worker_timeout: seconds; None is the default of `ExecutionOptions`.

    Attributes:
        worker_timeout: seconds without a response after which a worker is replaced.
        counters: totals over all workers as of their last responses; what a lost worker did after its last response is
            not known.

    Raises:
        FastsiaError: ray is not installed; the model cannot be loaded, or differs between machines; no worker is left;
            a request was in progress at four workers that were lost.
    """

    def __init__(
        self,
        model: Any,
        name: str | None = None,
        options: dict[str, Any] | None = None,
        *,
        num_workers: int | None = None,
        worker_timeout: float | None = None,
    ) -> None:
        options = {key: value for key, value in (options or {}).items() if value is not None}
        if not isinstance(model, (str, os.PathLike, ModelRef)):
            raise FastsiaError(f"executor='ray' needs a model's name or path, got {type(model).__name__}.")
        if name == "openai":
            raise FastsiaError("executor='ray' needs backend='native', 'hf' or 'vllm', got backend='openai'.")
        asked = {"num_workers": num_workers, "worker_timeout": worker_timeout}
        self.worker_timeout = options_of(ExecutionOptions, asked).worker_timeout
        self._bound = options_of(EngineOptions, options).max_concurrent_trajectories + _AHEAD
        ref = resolve_model(model)
        self.model_name = ref.name
        reading = {key: options[key] for key in ("trust_remote_code", "revision") if key in options}
        self.tokenizer = load_description(ref, **reading).tokenizer
        self.vocabulary = Vocabulary.from_tokenizer(self.tokenizer) if self.tokenizer is not None else None
        # A worker has another current folder, and on another machine a demo model has another path: names, not refs.
        if "peft" in options:
            options["peft"] = _absolute(os.fspath(options["peft"]))
        self._arguments = (_absolute(ref.name), name, options)
        self._ray = _connect()
        num_workers, share, fits = worker_shares(self._ray, num_workers, options)
        if not fits:
            logger.warning("the cluster has no room for all %d workers; the others start as it grows.", num_workers)
        self._actors = self._ray.remote(_Actor).options(**share)
        self._workers = [_Worker(number) for number in range(num_workers)]
        self._backlog: deque[Request] = deque()
        self._tries: Counter[Any] = Counter()
        self.counters = Counters()
        self._num_lost = 0
        self._notes: list[str] = []
        self._has_drawn = False
        self._drawn = _AtWorkers()
        self._facts: _Facts | None = None
        try:
            while self._facts is None:
                self._start_workers()
                self._poll()
        except BaseException:
            self._discard_all()  # the traceback refers to this object, which would keep the actors alive
            raise
        self.name = self._facts.name
        self.context_length = self._facts.context_length
        self.eos_token_ids = self._facts.eos_token_ids
        self.notes, self.recommended = self._facts.notes, self._facts.recommended

    @property
    def warnings(self) -> list[str]:
        """Lost workers, and the warnings of the workers' own backends."""
        return [*self._notes, *dict.fromkeys(text for worker in self._workers for text in worker.warnings)]

    def describe(self) -> dict[str, Any]:
        assert self._facts is not None
        return self._facts.description | {
            "executor": "ray",
            "num_workers": sum(worker.is_up for worker in self._workers),
            "num_lost_workers": self._num_lost,
        }

    def fingerprint(self) -> str:
        assert self._facts is not None
        return self._facts.fingerprint

    @property
    def can_be_watched(self) -> bool:
        """Whether the workers' engine is fastsia's own."""
        return self._arguments[1] in (None, NativeBackend.name)

    def generate(self, requests: Iterable[Request], watch: Watch | None = None) -> Iterator[Trajectory]:
        """As they finish; at most twice as many requests are taken ahead as the workers have at a time."""
        if self._has_drawn:
            self._forget_losses()
        self._has_drawn = True
        self._drawn = drawn = _AtWorkers()
        source = enumerate(requests)
        try:
            while True:
                self._start_workers()
                room = len(self._workers) * self._bound - len(self._backlog)
                for number, request in islice(source, max(room, 0)):
                    drawn.begin(number, request)
                    self._backlog.append(dataclasses.replace(request, key=number))
                if not drawn.requests:
                    return
                self._hand_out()
                for trajectory in self._poll():
                    trajectory.key = drawn.end(trajectory).key
                    yield trajectory
                if watch is not None:
                    watch(drawn)
        finally:
            # The caller may have stopped early: end the workers that are still drawing.
            self._discard_all(lambda worker: bool(worker.requests))
            self._backlog.clear()
            self._tries.clear()

    # --- the driver ------------------------------------------------------------------------------------------------

    def _forget_losses(self) -> None:
        """Losses of an earlier run are in its own summary; losses before the first run are in the first summary."""
        self._notes.clear()
        self._num_lost = 0
        for worker in self._workers:
            worker.warnings = ()

    def _start_workers(self) -> None:
        for worker in self._workers:
            if worker.actor is None:
                worker.actor = self._actors.remote(*self._arguments)
                worker.call(worker.actor.load.remote())

    def _hand_out(self) -> None:
        """Give every worker that is up its share of the backlog, and keep two calls in flight at each."""
        left = len(self._backlog) + sum(len(worker.requests) for worker in self._workers)
        # A short backlog is spread evenly, including over the workers that are about to come up.
        share = min(self._bound, math.ceil(left / len(self._workers)))
        for worker in self._workers:
            if not worker.is_up or len(worker.calls) == _CALLS:
                continue
            room = max(share - len(worker.requests), 0)
            given = [self._backlog.popleft() for _ in range(min(room, len(self._backlog)))]
            worker.requests |= {request.key: request for request in given}
            # Each call returns one trajectory, so there are never more calls than unfinished requests.
            while len(worker.calls) < min(_CALLS, len(worker.requests)):
                worker.call(worker.actor.draw.remote(given))
                given = []

    def _poll(self) -> list[Trajectory]:
        """Wait for a response or a time-out, then take all responses that have arrived."""
        waiting = {worker.calls[0]: worker for worker in self._workers if worker.calls}
        patience = min(worker.since + self._limit(worker) for worker in waiting.values()) - time.monotonic()
        ready = self._wait(list(waiting), num_returns=1, timeout=max(patience, 0.0))
        if ready:
            ready = self._wait(list(waiting), num_returns=len(waiting), timeout=0)
        finished = [trajectory for call in ready if (trajectory := self._take(waiting[call])) is not None]
        for worker in list(self._workers):
            if worker.calls and time.monotonic() - worker.since >= self._limit(worker):
                self._lose(worker, f"no response for {self._limit(worker):g} s")
        return finished

    def _wait(self, calls: list[Any], **limits: Any) -> list[Any]:
        try:
            ready, _ = self._ray.wait(calls, **limits)
        except SystemError as error:  # Ray's wrapper around an exception raised by a signal handler
            raise error.__cause__ or error from None
        return list(ready)

    def _limit(self, worker: _Worker) -> float:
        return self.worker_timeout if worker.is_up else LOAD_TIMEOUT

    def _take(self, worker: _Worker) -> Trajectory | None:
        """A worker's oldest response, which has arrived: a trajectory, or None after loading, a part or a loss."""
        from ray.exceptions import RayError, RayTaskError

        call = worker.calls.popleft()
        worker.since = time.monotonic()
        try:
            response = self._ray.get(call)
        except RayTaskError as error:
            if isinstance(error.cause, FastsiaError):
                raise error.cause from None
            self._lose(worker, f"{type(error.cause).__name__}: {_first_line(error.cause)}")
            return None
        except RayError as error:
            self._lose(worker, _first_line(error))
            return None
        if isinstance(response, _Facts):
            self._admit(worker, response)
            return None
        _add_difference(self.counters, worker.counters, response.counters)
        worker.counters, worker.warnings = response.counters, response.warnings
        self._drawn.add(response.parts)
        if response.trajectory is None:
            return None
        worker.failures = 0
        del worker.requests[response.trajectory.key]
        self._tries.pop(response.trajectory.key, None)
        found: Trajectory = response.trajectory
        return found

    def _admit(self, worker: _Worker, facts: _Facts) -> None:
        """Mark a worker as up. All workers must draw the same from a request, so their models must be equal."""
        if self._facts is None:
            self._facts = facts
        for fact in ("version", "name", "dtype", "fingerprint"):
            mine, first = getattr(facts, fact), getattr(self._facts, fact)
            if mine != first:
                raise FastsiaError(
                    f"the workers differ: {fact} is {first!r} on {self._facts.host}, {mine!r} on {facts.host}."
                )
        worker.is_up, worker.host, worker.process = True, facts.host, facts.process

    def _lose(self, worker: _Worker, reason: str) -> None:
        """Discard a worker, to be replaced; its unfinished requests go to the front of the backlog."""
        lost = self._discard(worker)
        worker.failures += 1
        self._num_lost += 1
        again = f"; its {len(lost)} unfinished trajectories are drawn again" if lost else ""
        self._notes.append(f"worker {worker.number}{worker.host and f' on {worker.host}'} was lost: {reason}{again}.")
        self._tries.update(request.key for request in lost)
        if any(self._tries[request.key] > _MAX_RETRIES for request in lost):
            raise FastsiaError(
                f"a trajectory was in progress at {_MAX_RETRIES + 1} workers that were lost; the last reason: {reason}."
            )
        self._backlog.extendleft(reversed([self._drawn.rest_of(request) for request in lost]))
        if worker.failures > _MAX_RETRIES:
            self._workers.remove(worker)
            if not self._workers:
                raise FastsiaError(f"no worker is left; the last was lost: {reason}.")

    def _discard_all(self, which: Callable[[_Worker], bool] = lambda worker: True) -> None:
        for worker in self._workers:
            if worker.actor is not None and which(worker):
                self._discard(worker)

    def _discard(self, worker: _Worker) -> list[Request]:
        """End a worker's process and return its unfinished requests."""
        self._ray.kill(worker.actor)
        unfinished = list(worker.requests.values())
        worker.leave()
        return unfinished


class _AtWorkers:
    """The requests that workers have, by their numbers, and what was drawn of them as far as the driver knows.

    Attributes:
        requests: unfinished requests, with their own keys.
        num_ended_rollouts: as in `Running`.
    """

    def __init__(self) -> None:
        self.requests: dict[int, Request] = {}
        self._parts: dict[int, list[Drawn]] = {}
        self._news: list[tuple[int, Drawn]] = []
        self.num_ended_rollouts = 0

    @property
    def num_active(self) -> int:
        return len(self.requests)

    def begin(self, number: int, request: Request) -> None:
        self.requests[number] = request
        self._parts[number] = [] if request.drawn is None else [request.drawn]

    def add(self, parts: Iterable[tuple[int, Drawn]]) -> None:
        """Note what a worker has drawn."""
        for number, part in parts:
            self._parts[number].append(part)
            self._news.append((number, part))
            self.num_ended_rollouts += int((part.rollouts.finish_reason >= 0).sum())

    def end(self, trajectory: Trajectory) -> Request:
        """The request of a finished trajectory, which is forgotten."""
        number: Any = trajectory.key
        known = sum(int((part.rollouts.finish_reason >= 0).sum()) for part in self._parts.pop(number))
        self.num_ended_rollouts += max(len(trajectory.rollouts or ()) - known, 0)
        return self.requests.pop(number)

    def rest_of(self, request: Request) -> Request:
        """A request that a lost worker had, to go on from what it had drawn."""
        number: Any = request.key
        parts = self._parts[number]
        return dataclasses.replace(request, drawn=Drawn.join(parts)) if parts else request

    def take_drawn(self) -> list[tuple[Request, Drawn]]:
        news, self._news = self._news, []
        return [(self.requests[number], part) for number, part in news if number in self.requests]

    def remaining(self, queued: int) -> Remaining | None:
        return None


@dataclass
class _Worker:
    """The driver's record of one worker.

    Attributes:
        number: position among the workers.
        actor: Ray's handle; None until the worker is started, or started again.
        is_up: whether the model is loaded.
        host, process: where it runs.
        calls: calls in flight, the oldest first; loading is one.
        since: time at which the oldest call became the oldest.
        requests: unfinished requests by key.
        counters: totals as of its last response.
        warnings: of its backend.
        failures: losses since it last finished a trajectory.
    """

    number: int
    actor: Any = None
    is_up: bool = False
    host: str = ""
    process: int = 0
    calls: deque[Any] = field(default_factory=deque)
    since: float = 0.0
    requests: dict[Any, Request] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)
    warnings: tuple[str, ...] = ()
    failures: int = 0

    def call(self, reference: Any) -> None:
        if not self.calls:
            self.since = time.monotonic()
        self.calls.append(reference)

    def leave(self) -> None:
        self.actor, self.is_up = None, False
        self.calls, self.requests, self.counters = deque(), {}, Counters()


def _absolute(name: str) -> str:
    """An existing path as an absolute path; other names unchanged."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def _connect() -> Any:
    try:
        import ray
    except ImportError as error:
        raise FastsiaError("executor='ray' needs the package ray: pip install 'fastsia[ray]'.") from error
    if not ray.is_initialized():
        _check_address(os.environ.get("RAY_ADDRESS", ""))
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics are sent
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise FastsiaError(f"no Ray cluster could be joined or started: {_first_line(error)}.") from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray replaces the handler
    return ray


def _check_address(address: str) -> None:
    """Refuse a HOST:PORT that nothing listens at; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in address:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise FastsiaError(f"no Ray cluster answers at {address}, the address in RAY_ADDRESS: {reason}.") from error


def worker_shares(ray: Any, num_workers: int | None, options: Mapping[str, Any]) -> tuple[int, dict[str, Any], bool]:
    """(number of workers, Ray resources of each, whether the cluster has room for all of them now)."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus, cpus = ([int(node.get(name, 0)) for node in nodes] for name in ("GPU", "CPU"))
    if any(gpus) and not str(options.get("device", "")).startswith("cpu"):
        each = options_of(VLLMOptions, options).tensor_parallel_size
        room = sum(number // each for number in gpus)
        count = num_workers or max(room, 1)
        return count, {"num_gpus": each, "num_cpus": 1}, count <= room
    count = num_workers or len(nodes)
    # The largest share with which every worker fits on a machine; with more workers than CPUs it is below one.
    share = max(sum(cpus) // count, 1)
    while share > 1 and sum(number // share for number in cpus) < count:
        share -= 1
    return count, {"num_cpus": share if count <= sum(cpus) else 1 / math.ceil(count / max(sum(cpus), 1))}, True


def _add_difference(total: Counters, before: Counters, after: Counters) -> None:
    """Add what a worker counted between two responses; the peak is the largest of all workers."""
    for name, value in vars(after).items():
        if name == "peak_kv_blocks":
            total.peak_kv_blocks = max(total.peak_kv_blocks, value)
        else:
            setattr(total, name, getattr(total, name) + value - getattr(before, name))


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


# --- the worker ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Facts:
    """The loaded backend of a worker, and its place."""

    version: str
    name: str
    dtype: Any
    fingerprint: str
    context_length: int | None
    eos_token_ids: tuple[int, ...]
    description: dict[str, Any]
    notes: tuple[str, ...]
    recommended: dict[str, Any]
    host: str
    process: int


@dataclass(frozen=True)
class _Response:
    """A finished trajectory, or None if there is none yet, and what was drawn of others, by the keys of requests."""

    trajectory: Trajectory | None
    parts: list[tuple[Any, Drawn]]
    counters: Counters
    warnings: tuple[str, ...]


class _Actor:
    """A backend in a process of its own. Its calls run in order; between two calls its generator is suspended."""

    def __init__(self, model: str, name: str | None, options: dict[str, Any]) -> None:
        self._arguments = (model, name, options)
        self._given: deque[Request] = deque()
        self._run: Iterator[list[Trajectory]] | None = None
        self._watched: Running | None = None
        self._finished: deque[Trajectory] = deque()

    def load(self) -> _Facts:
        self._backend = backend = open_backend(*self._arguments)
        description = backend.describe()
        return _Facts(
            version=__version__,
            name=backend.name,
            dtype=description.get("dtype"),
            fingerprint=backend.fingerprint(),
            context_length=backend.context_length,
            eos_token_ids=backend.eos_token_ids,
            description=description,
            notes=tuple(getattr(backend, "notes", ())),
            recommended=dict(getattr(backend, "recommended", {})),
            host=platform.node(),
            process=os.getpid(),
        )

    def draw(self, requests: list[Request]) -> _Response:
        """Accept further requests, and run until one more trajectory is finished, or for some seconds."""
        self._given.extend(requests)
        end = time.monotonic() + _ANSWER_SECONDS
        while not self._finished:
            if self._run is None:
                if not self._given:
                    raise RuntimeError("a worker got a call without an unfinished request")
                self._run = self._steps()
            finished = next(self._run, None)
            if finished is None:
                self._run = None  # its queue was empty; requests that arrived since start a new generator
                continue
            self._finished.extend(finished)
            if self._watched is not None and time.monotonic() > end:
                break
        trajectory = self._finished.popleft() if self._finished else None
        drawn = [] if self._watched is None else [(request.key, part) for request, part in self._watched.take_drawn()]
        return _Response(trajectory, drawn, self._backend.counters, tuple(self._backend.warnings))

    def _steps(self) -> Iterator[list[Trajectory]]:
        if isinstance(self._backend, NativeBackend):
            return self._backend.steps(self._arrivals(), self._watch)
        return ([trajectory] for trajectory in self._backend.generate(self._arrivals()))

    def _watch(self, run: Running) -> None:
        self._watched = run

    def _arrivals(self) -> Iterator[Request]:
        while self._given:
            yield self._given.popleft()
