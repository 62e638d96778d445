"""Where a run's time goes: every step and what is inside it, as numbers and as a trace that Perfetto opens."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fastsia.engine.model_runner import ModelRunner
from fastsia.files import replacing
from fastsia.ops import Ops

STEP, PASS = "step", "trunk pass"
# Parts of a step, by the method of the runner or of its ops that is the whole of one.
_RUNNER_PARTS = {"forward": "model", "take": "head", "logits": "head"}
_OPS_PARTS = {"prefix_attention": "attention", "store_kv": "kv cache", "copy_blocks": "kv cache", "sample": "sampling"}


@dataclass(frozen=True)
class Span:
    """A stretch of time, in seconds of `time.perf_counter`. own: without the spans inside. rows: of a step only."""

    name: str
    begin: float
    seconds: float
    own: float
    rows: int


@dataclass
class StepProfile:
    """What was recorded. Its parts exclude one another: "model" is the forward pass without attention and cache.

    On a GPU every part waits for the device, so that its time is its own; the run is slower for it.
    """

    device: torch.device
    spans: list[Span] = field(default_factory=list)
    _inner: list[float] = field(default_factory=list)
    _rows: int = 0

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Record what happens inside."""
        begin = self.enter()
        try:
            yield
        finally:
            self.leave(name, begin)

    def enter(self) -> float:
        """A span begins; gives when."""
        self._inner.append(0.0)
        return self._now()

    def leave(self, name: str, begin: float) -> None:
        """The innermost span ends."""
        whole, inner = self._now() - begin, self._inner.pop()
        if self._inner:
            self._inner[-1] += whole
        rows, self._rows = (self._rows, 0) if name == STEP else (0, self._rows)
        self.spans.append(Span(name, begin, whole, whole - inner, rows))

    def count(self, rows: int) -> None:
        """Rows of the step under way."""
        self._rows = rows

    def steps(self) -> list[Span]:
        """The steps that computed rows."""
        return [span for span in self.spans if span.name == STEP and span.rows]

    def seconds(self) -> dict[str, float]:
        """Seconds by part; "host" is what is left of the steps: scheduling, metadata, forks, endings."""
        found: dict[str, float] = {}
        for span in self.spans:
            name = "host" if span.name == STEP else span.name
            found[name] = found.get(name, 0.0) + span.own
        return dict(sorted(found.items(), key=lambda part: -part[1]))

    def write_trace(self, path: str | os.PathLike[str]) -> None:
        """Chrome's trace format, microseconds; https://ui.perfetto.dev opens it."""
        first = min((span.begin for span in self.spans), default=0.0)
        events: list[dict[str, Any]] = [
            {
                "name": span.name,
                "ph": "X",
                "pid": 1,
                "tid": 1,
                "ts": 1e6 * (span.begin - first),
                "dur": 1e6 * span.seconds,
                **({"args": {"rows": span.rows}} if span.name == STEP else {}),
            }
            for span in self.spans
        ]
        with replacing(Path(path)) as file:
            file.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}), encoding="utf-8")

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@contextmanager
def profiled(runner: ModelRunner) -> Iterator[StepProfile]:
    """Record what a runner does, from here to the end of the block."""
    profile = StepProfile(runner.device)

    def timed(method: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if runner.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                return method(*arguments, **named)  # a graph is recorded here: nothing runs, and nothing may wait
            begin = profile.enter()
            try:
                return method(*arguments, **named)
            finally:
                profile.leave(name, begin)

        return call

    ops = runner.ops
    runner.ops = Ops(ops.name, **{m: timed(getattr(ops, m), name) for m, name in _OPS_PARTS.items()})
    for method, name in _RUNNER_PARTS.items():
        setattr(runner, method, timed(getattr(runner, method), name))
    try:
        yield profile
    finally:
        runner.ops = ops
        for method in _RUNNER_PARTS:
            delattr(runner, method)
