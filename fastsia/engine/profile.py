"""Profile of a run: the time of every step and its parts, as numbers and as a trace for https://ui.perfetto.dev.

The parts are also `record_function` ranges, so `torch.profiler` shows them. Its own events are not used for the
numbers: reading those of a run of 3 seconds takes 34 (167,000 events; here there are 2,200).
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from fastsia.files import replacing
from fastsia.ops import Ops

STEP, VERIFY = "step", "verification"
_PARTS = {"prefix_attention": "attention", "sample": "sampling"} | dict.fromkeys(
    ("store_kv", "rotate_and_store", "copy_blocks"), "kv cache"
)
"""Part of a step by op."""
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Span(NamedTuple):
    """A stretch of time.

    Attributes:
        begin, seconds: of `time.perf_counter`.
        own: seconds without the spans inside.
        rows: computed rows; 0 for anything but a step.
    """

    name: str
    begin: float
    seconds: float
    own: float
    rows: int


class StepProfile:
    """The recorded spans. Parts exclude one another: "model" is the forward pass without attention and KV cache, and
    without its "products" where these are packed (the head's are counted there too).

    On a GPU every part waits for the device, so that its time is its own; that makes the run slower.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.spans: list[Span] = []
        self._inner: list[float] = []
        self._rows = 0

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Record the time of the block."""
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            yield  # a CUDA graph is being recorded: nothing runs, and nothing may wait
            return
        begin = self._now()
        self._inner.append(0.0)
        try:
            with torch.profiler.record_function(name):
                yield
        finally:
            whole, inner = self._now() - begin, self._inner.pop()
            if self._inner:
                self._inner[-1] += whole
            rows = self._rows if name == STEP else 0
            self._rows -= rows
            self.spans.append(Span(name, begin, whole, whole - inner, rows))

    def count(self, rows: int) -> None:
        """Count rows of the step under way."""
        self._rows += rows

    def timed(self, ops: Ops) -> Ops:
        """Return the ops with a span around each call."""

        def wrap(op: Callable[..., Any], name: str) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                with self.span(name):
                    return op(*args, **kwargs)

            return call

        return Ops(ops.name, **{op: wrap(getattr(ops, op), name) for op, name in _PARTS.items()})

    def steps(self) -> list[Span]:
        """Return the steps that computed rows."""
        return [span for span in self.spans if span.name == STEP and span.rows]

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each part, longest first; "host" is the rest: scheduling, metadata, forks, endings."""
        found: dict[str, float] = {}
        for span in self.spans:
            name = "host" if span.name == STEP else span.name
            found[name] = found.get(name, 0.0) + span.own
        return dict(sorted(found.items(), key=lambda part: -part[1]))

    def write_trace(self, path: str | os.PathLike[str]) -> None:
        """Write the spans in Chrome's trace format."""
        first = min((span.begin for span in self.spans), default=0.0)
        events = [
            {"name": span.name, "ph": "X", "pid": 1, "tid": 1, "ts": 1e6 * (span.begin - first)}
            | {"dur": 1e6 * span.seconds}
            | ({"args": {"rows": span.rows}} if span.name == STEP else {})
            for span in self.spans
        ]
        with replacing(Path(path)) as file:
            file.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}), encoding="utf-8")

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def part(name: str) -> Callable[[_Function], _Function]:
    """Record the calls of a method in its object's `profile`, where that is not None."""

    def decorate(method: _Function) -> _Function:
        @functools.wraps(method)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if self.profile is None:
                return method(self, *args, **kwargs)
            with self.profile.span(name):
                return method(self, *args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate
