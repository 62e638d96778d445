"""Past one machine: a backend whose requests are drawn by many copies of another one, each in a Ray actor.

What a trajectory holds follows from its request alone, so it does not matter which worker draws it, or how often it was
begun before. The driver hands requests out, takes finished trajectories in, and is the only one that writes results.
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
from fastsia.backends.base import Backend
from fastsia.config import integer_from, real
from fastsia.engine.sequence import Counters, Request, Trajectory
from fastsia.errors import FastsiaError
from fastsia.models.loading import load_description

logger = logging.getLogger("fastsia")

EXECUTORS = ("local", "ray")
WORKER_TIMEOUT = 3600.0
"""Seconds in which a worker must have finished one more trajectory."""
LOAD_TIMEOUT = 3600.0
"""Seconds in which it must have found a place in the cluster, and have loaded its model."""

# Requests that a worker holds beyond those its engine has in flight, so that one which ends is followed at once.
_AHEAD = 16
_DEFAULT_WINDOW = 64
# Calls under way at a worker: it goes on with the second while the answer to the first travels.
_CALLS = 2
_CONNECT_SECONDS = 10.0
# Further tries of a request whose worker was lost, and of a worker that is lost before it has finished anything.
_MAX_RETRIES = 3


def open_executor(
    executor: str | None,
    model: Any,
    backend: str | None = None,
    options: dict[str, Any] | None = None,
    *,
    num_workers: int | None = None,
    worker_timeout: float | None = None,
) -> Backend:
    """A backend in this process ("local", or None), or one spread over the workers of a Ray cluster ("ray").

    model, backend, options: as `open_backend` takes them; past this process a model is a name or path.
    """
    if executor not in (None, *EXECUTORS):
        raise FastsiaError(f"executor must be one of {', '.join(EXECUTORS)}, got {executor!r}.")
    if executor == "ray":
        return RayBackend(model, backend, options, num_workers=num_workers, worker_timeout=worker_timeout)
    for option, value in (("num_workers", num_workers), ("worker_timeout", worker_timeout)):
        if value is not None:
            raise FastsiaError(f"{option} has no meaning without executor='ray'.")
    return open_backend(model, backend, options)


class RayBackend:
    """One engine a GPU, or a share of the CPUs where the cluster has no GPU, behind the backend protocol.

    Each worker holds at most its engine's window of requests and a few more. A worker that dies, fails or says nothing
    for `worker_timeout` is replaced, and what it had not finished is drawn again elsewhere; work goes on with the
    workers there are, from the first that is up. Joins the cluster of RAY_ADDRESS or of this machine, or else starts
    one of this machine alone, which ends with this process.

    Attributes:
        counters: of all workers, as of their last answers; what a lost one spent after its last is not known.

    Args:
        model: a name or path that every machine of the cluster can load.
        name, options: as `open_backend` takes them; the workers pass them on.
        num_workers: None is one for each GPU, and without any GPU one for each machine.
        worker_timeout: seconds; None is `WORKER_TIMEOUT`.

    Raises:
        FastsiaError: ray is not installed; the model cannot be loaded, or differs between machines; no worker is left;
            a request was under way at four workers that were lost.
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
        if not isinstance(model, (str, os.PathLike)):
            raise FastsiaError(f"executor='ray' needs a model's name or path, got {type(model).__name__}.")
        if name == "openai":
            raise FastsiaError("the openai backend has no use for executor='ray': its server spreads its own work.")
        if num_workers is not None:
            num_workers = integer_from(1, "num_workers", num_workers)
        if worker_timeout is not None and not real(worker_timeout) > 0:
            raise FastsiaError(f"worker_timeout must be a number of seconds > 0, got {worker_timeout!r}.")
        self.model_name = os.fspath(model)
        self._timeout = WORKER_TIMEOUT if worker_timeout is None else float(worker_timeout)
        asked = {key: options[key] for key in ("trust_remote_code", "revision") if key in options}
        self.tokenizer = load_description(self.model_name, **asked).tokenizer
        self.vocabulary = Vocabulary.from_tokenizer(self.tokenizer) if self.tokenizer is not None else None
        # A worker's current folder is not this process's.
        source = _absolute(self.model_name)
        if "peft" in options:
            options["peft"] = _absolute(os.fspath(options["peft"]))
        self._arguments = (source, name, options)
        self._bound = (
            integer_from(1, "max_concurrent_trajectories", options.get("max_concurrent_trajectories", _DEFAULT_WINDOW))
            + _AHEAD
        )
        self._ray = _connect()
        num_workers, share, fits = _shares(self._ray, num_workers, options)
        if not fits:
            logger.warning("the cluster has no room for all %d workers as it is; they start as it grows.", num_workers)
        self._actors = self._ray.remote(_Actor).options(**share)
        self._workers = [_Worker(number) for number in range(num_workers)]
        self._backlog: deque[Request] = deque()
        self._tries: Counter[Any] = Counter()
        self.counters = Counters()
        self._num_lost = 0
        self._notes: list[str] = []
        self._has_drawn = False
        self._facts: _Facts | None = None
        try:
            while self._facts is None:
                self._start_workers()
                self._poll()
        except BaseException:
            self._discard_all()  # while the error is looked at, its frames would keep them
            raise
        self.name = self._facts.name
        self.context_length = self._facts.context_length
        self.eos_token_ids = self._facts.eos_token_ids
        self.notes, self.recommended = self._facts.notes, self._facts.recommended

    @property
    def warnings(self) -> list[str]:
        """What was lost, and what the workers' own backends have to say."""
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

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        """As they finish; at most what the workers hold at once, and as many again, are taken ahead."""
        if self._has_drawn:
            self._forget_losses()
        self._has_drawn = True
        keys: dict[Any, Any] = {}
        source = enumerate(requests)
        try:
            while True:
                self._start_workers()
                room = len(self._workers) * self._bound - len(self._backlog)
                for number, request in islice(source, max(room, 0)):
                    keys[number] = request.key
                    self._backlog.append(dataclasses.replace(request, key=number))
                if not keys:
                    return
                self._hand_out()
                for trajectory in self._poll():
                    trajectory.key = keys.pop(trajectory.key)
                    yield trajectory
        finally:
            # Whoever left this iteration early wants no more of what is under way.
            self._discard_all(lambda worker: bool(worker.requests))
            self._backlog.clear()
            self._tries.clear()

    # --- the driver's side -------------------------------------------------------------------------------------

    def _forget_losses(self) -> None:
        """Those of an earlier run are in its own summary; those before the first draw are in that of the first."""
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
        """Give every worker that is up its share of what is left, and keep two calls going at each."""
        left = len(self._backlog) + sum(len(worker.requests) for worker in self._workers)
        # Where little is left it is spread evenly; those that are about to come up are counted in.
        share = min(self._bound, math.ceil(left / len(self._workers)))
        for worker in self._workers:
            if not worker.is_up or len(worker.calls) == _CALLS:
                continue
            room = max(share - len(worker.requests), 0)
            given = [self._backlog.popleft() for _ in range(min(room, len(self._backlog)))]
            worker.requests |= {request.key: request for request in given}
            # Each call brings one trajectory back, so there are never more calls than trajectories to come.
            while len(worker.calls) < min(_CALLS, len(worker.requests)):
                worker.call(worker.actor.draw.remote(given))
                given = []

    def _poll(self) -> list[Trajectory]:
        """Wait for an answer or a time-out, then take all answers that are there."""
        waiting = {worker.calls[0]: worker for worker in self._workers if worker.calls}
        patience = min(worker.since + self._limit(worker) for worker in waiting.values()) - time.monotonic()
        ready = self._wait(list(waiting), num_returns=1, timeout=max(patience, 0.0))
        if ready:
            ready = self._wait(list(waiting), num_returns=len(waiting), timeout=0)
        finished = [trajectory for call in ready if (trajectory := self._take(waiting[call])) is not None]
        for worker in list(self._workers):
            if worker.calls and time.monotonic() - worker.since >= self._limit(worker):
                self._lose(worker, f"it said nothing for {self._limit(worker):g} s")
        return finished

    def _wait(self, calls: list[Any], **limits: Any) -> list[Any]:
        try:
            ready, _ = self._ray.wait(calls, **limits)
        except SystemError as error:  # what Ray makes of an exception that a signal's handler raised
            raise error.__cause__ or error from None
        return list(ready)

    def _limit(self, worker: _Worker) -> float:
        return self._timeout if worker.is_up else LOAD_TIMEOUT

    def _take(self, worker: _Worker) -> Trajectory | None:
        """A worker's oldest answer, which is there: a trajectory, or what it has loaded, or that it is lost."""
        from ray.exceptions import RayError, RayTaskError

        call = worker.calls.popleft()
        worker.since = time.monotonic()
        try:
            answer = self._ray.get(call)
        except RayTaskError as error:
            if isinstance(error.cause, FastsiaError):
                raise error.cause from None
            self._lose(worker, f"{type(error.cause).__name__}: {_first_line(error.cause)}")
            return None
        except RayError as error:
            self._lose(worker, _first_line(error))
            return None
        if isinstance(answer, _Facts):
            self._meet(worker, answer)
            return None
        worker.failures = 0
        _add_difference(self.counters, worker.counters, answer.counters)
        worker.counters, worker.warnings = answer.counters, answer.warnings
        del worker.requests[answer.trajectory.key]
        self._tries.pop(answer.trajectory.key, None)
        found: Trajectory = answer.trajectory
        return found

    def _meet(self, worker: _Worker, facts: _Facts) -> None:
        """A worker is up. All must draw the same from a request, so they must be the same where it matters."""
        if self._facts is None:
            self._facts = facts
        for what in ("version", "name", "dtype", "fingerprint"):
            mine, first = getattr(facts, what), getattr(self._facts, what)
            if mine != first:
                raise FastsiaError(
                    f"the workers differ: {what} is {first!r} on {self._facts.host}, {mine!r} on {facts.host}."
                )
        worker.is_up, worker.host, worker.process = True, facts.host, facts.process

    def _lose(self, worker: _Worker, reason: str) -> None:
        """Replace a worker; what it had not finished goes to the front of the queue."""
        lost = self._discard(worker)
        worker.failures += 1
        self._num_lost += 1
        again = f"; its {len(lost)} unfinished trajectories are drawn again" if lost else ""
        self._notes.append(f"worker {worker.number}{worker.host and f' on {worker.host}'} was lost: {reason}{again}.")
        self._tries.update(request.key for request in lost)
        if any(self._tries[request.key] > _MAX_RETRIES for request in lost):
            raise FastsiaError(
                f"a trajectory was under way at {_MAX_RETRIES + 1} workers that were lost, the last of them: {reason}."
            )
        self._backlog.extendleft(reversed(lost))
        if worker.failures > _MAX_RETRIES:
            self._workers.remove(worker)
            if not self._workers:
                raise FastsiaError(f"no worker is left; the last was lost: {reason}.")

    def _discard_all(self, which: Callable[[_Worker], bool] = lambda worker: True) -> None:
        for worker in self._workers:
            if worker.actor is not None and which(worker):
                self._discard(worker)

    def _discard(self, worker: _Worker) -> list[Request]:
        """End a worker's process; the requests that it had not finished."""
        self._ray.kill(worker.actor)
        unfinished = list(worker.requests.values())
        worker.leave()
        return unfinished


@dataclass
class _Worker:
    """What the driver knows of one worker.

    actor: None until it is started (again). calls: under way, the oldest first; loading is one. since: when the oldest
    became that. requests: given and not finished, by key. failures: losses since it last finished anything.
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
    """A path that exists, from the root; a Hub id as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def _connect() -> Any:
    try:
        import ray
    except ImportError as error:
        raise FastsiaError("executor='ray' needs the package ray: pip install 'fastsia[ray]'.") from error
    if not ray.is_initialized():
        _check_address(os.environ.get("RAY_ADDRESS", ""))
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what is run here is nobody else's business
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise FastsiaError(f"no Ray cluster could be joined or started: {_first_line(error)}.") from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray puts its own in its place
    return ray


def _check_address(address: str) -> None:
    """Refuse at once a HOST:PORT that nothing listens at: Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in address:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise FastsiaError(f"no Ray cluster answers at {address}, the address in RAY_ADDRESS: {reason}.") from error


def _shares(ray: Any, num_workers: int | None, options: Mapping[str, Any]) -> tuple[int, dict[str, Any], bool]:
    """(how many workers, what Ray is to reserve for each, whether the cluster as it is has room for all of them)."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus, cpus = ([int(node.get(name, 0)) for node in nodes] for name in ("GPU", "CPU"))
    if any(gpus) and not str(options.get("device", "")).startswith("cpu"):
        each = integer_from(1, "tensor_parallel_size", options.get("tensor_parallel_size", 1))
        room = sum(number // each for number in gpus)
        count = num_workers or max(room, 1)
        return count, {"num_gpus": each, "num_cpus": 1}, count <= room
    count = num_workers or len(nodes)
    # The largest share that leaves none without a place; more workers than CPUs have less than one each.
    share = max(sum(cpus) // count, 1)
    while share > 1 and sum(number // share for number in cpus) < count:
        share -= 1
    return count, {"num_cpus": share if count <= sum(cpus) else 1 / math.ceil(count / max(sum(cpus), 1))}, True


def _add_difference(total: Counters, before: Counters, after: Counters) -> None:
    """Add what was spent between two answers of one worker; the peak is the largest of all of theirs."""
    for name, value in vars(after).items():
        if name == "peak_kv_blocks":
            total.peak_kv_blocks = max(total.peak_kv_blocks, value)
        else:
            setattr(total, name, getattr(total, name) + value - getattr(before, name))


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


# --- the worker's side ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Facts:
    """What a worker has loaded, and where."""

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
class _Answer:
    trajectory: Trajectory
    counters: Counters
    warnings: tuple[str, ...]


class _Actor:
    """A backend in a process of its own. Its calls come in order; between two of them its run stands still."""

    def __init__(self, model: str, name: str | None, options: dict[str, Any]) -> None:
        self._arguments = (model, name, options)
        self._given: deque[Request] = deque()
        self._run: Iterator[Trajectory] | None = None

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

    def draw(self, requests: list[Request]) -> _Answer:
        """Take further requests, and go on until one more trajectory is finished."""
        self._given.extend(requests)
        while True:
            if self._run is None:
                if not self._given:
                    raise RuntimeError("a worker was asked for more trajectories than it was given")
                self._run = iter(self._backend.generate(self._arrivals()))
            trajectory = next(self._run, None)
            if trajectory is not None:
                return _Answer(trajectory, self._backend.counters, tuple(self._backend.warnings))
            self._run = None  # it ended on an empty queue; what has come since is a run of its own

    def _arrivals(self) -> Iterator[Request]:
        while self._given:
            yield self._given.popleft()
