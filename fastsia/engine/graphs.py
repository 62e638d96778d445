"""Forward passes as CUDA graphs, one for each bucket of row counts: a step is then one launch."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fastsia.engine.inputs import BatchShape, Inputs, stage
from fastsia.engine.staging import Staging, size_of, tensors_in
from fastsia.engine.step import Batch
from fastsia.errors import FastsiaError
from fastsia.ops.launch import current

_FEWEST = 8
# Steps without a capture after several that have run out of memory.
_LONGEST_PAUSE = 1023
Call = Callable[[], None]


class CaptureError(FastsiaError):
    """A graph could not be captured; only the step to be captured has run.

    Attributes:
        is_temporary: device memory ran out. The other graphs stay valid, and this one is tried again later.
    """

    @property
    def is_temporary(self) -> bool:
        return _lacks_memory(self.__cause__)


def _lacks_memory(error: BaseException | None) -> bool:
    """Whether an error is a lack of memory, or came of one: a capture that lacks memory may fail again at its end."""
    while error is not None and not isinstance(error, torch.OutOfMemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def row_buckets(largest: int) -> list[int]:
    """Row counts that graphs are made for: multiples of 8, the last one the first that fits `largest` rows.

    At most an eighth of a bucket is padding. Up to 64 rows they are 8 apart, which may be more: there a step reads the
    weights and little else, whatever its rows.
    """
    last = -(-largest // _FEWEST) * _FEWEST
    buckets = [_FEWEST]
    while buckets[-1] < last:
        most = (buckets[-1] + 1) * 8 // 7
        buckets.append(min(max(buckets[-1] + _FEWEST, most // _FEWEST * _FEWEST), last))
    return buckets


class CudaPool:
    """Captures calls. All graphs share memory, since only one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = _capture_stream(device)

    def __call__(self, call: Call) -> Call:
        """The captured call, which has not run."""
        graph = torch.cuda.CUDAGraph()
        # Work of other threads on the device is not captured and does not disturb the capture.
        options: dict[str, Any] = {"pool": self._pool, "capture_error_mode": "thread_local"}
        # torch stays on the capture's stream where its end fails; the stream of before is current again in any case.
        back = torch.cuda.stream(torch.cuda.current_stream(self._device))
        with current(self._device), back, torch.cuda.graph(graph, stream=self._stream, **options):
            call()
        replay: Call = graph.replay
        return replay


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """torch's own capture stream belongs to the first device that captured, and cuBLAS has a workspace per stream."""
    return torch.cuda.Stream(device)


class Graphs:
    """The forward pass of a batch as the replay of its bucket's graph, which is captured when it is first needed.

    A graph keeps the shapes and addresses of its capture. So all of them read one buffer, which a step fills in one
    copy, and leave their result in one place. The number of trunks and the widths of block tables are bounds common to
    all, which only grow, by doubling; where they do, and where weights have moved (`drop`), graphs are captured again.

    Attributes:
        num_captures: graphs captured so far.
    """

    def __init__(
        self,
        forward: Callable[[Inputs], Tensor],
        staging: Staging,
        hidden: Tensor,
        block_size: int,
        new_pool: Callable[[], Callable[[Call], Call]],
        buckets: list[int] | None = None,
    ) -> None:
        """Make an empty set of graphs.

        Args:
            forward: From inputs to hidden states.
            hidden: [rows of the largest bucket, hidden_size], where the graphs leave their result.
            new_pool: Makes a `CudaPool`.
            buckets: Row counts, ascending; None takes `row_buckets`.
        """
        self.num_captures = 0
        self._pause = self._longest_pause = 0
        self._forward = forward
        self._staging = staging
        self._hidden = hidden
        self._new_pool = new_pool
        self._buckets = buckets or row_buckets(len(hidden))
        # More trunks than trajectories are in flight by default, and 1,024 tokens: most runs stay within these bounds.
        width = -(-1024 // block_size)
        self._bound(BatchShape(len(hidden), 128, width, width))

    def __call__(self, batch: Batch) -> Tensor | None:
        """Hidden states [rows of the batch, hidden_size]; None while captures pause for want of memory.

        Raises CaptureError: this batch's graph cannot be captured.
        """
        own = BatchShape.of(batch)
        wanted = own._replace(trunks=own.trunks + 1)  # the padding's
        if any(size > bound for size, bound in zip(wanted, self._bounds, strict=True)):
            grown = (max(bound, 1 << (size - 1).bit_length()) for size, bound in zip(wanted, self._bounds, strict=True))
            self._bound(BatchShape(*grown)._replace(rows=len(self._hidden)))
        shape = self._bounds._replace(rows=self._buckets[bisect_left(self._buckets, own.rows)])
        if shape.rows not in self._replays and self._pause:
            self._pause -= 1
            return None
        memory = stage(batch, shape, self._staging)
        self._buffer[: len(memory)].copy_(memory, non_blocking=True)
        if shape.rows not in self._replays:
            self._replays[shape.rows] = self._capture(shape)
        self._replays[shape.rows]()
        return self._hidden[: own.rows].clone()

    def drop(self) -> None:
        """Drop every graph and free its memory."""
        self._replays: dict[int, Call] = {}
        self._pool = self._new_pool()

    def _bound(self, bounds: BatchShape) -> None:
        self.drop()
        # Before the bounds, which without their buffer would let the next batch write past the old one.
        self._buffer = torch.empty(size_of(bounds.fields), dtype=torch.uint8, device=self._hidden.device)
        self._bounds = bounds

    def _capture(self, shape: BatchShape) -> Call:
        inputs = Inputs(*tensors_in(self._buffer, shape.fields))

        def call() -> None:
            self._hidden[: shape.rows].copy_(self._forward(inputs))

        try:
            call()  # compiles kernels and allocates workspaces and counters, which a capture must not
            replay = self._pool(call)
        except Exception as error:  # Triton's errors, for one, have no base but this
            if _lacks_memory(error):
                # A capture that fails costs two steps: where memory stays short, they become rare.
                self._pause = self._longest_pause = min(2 * self._longest_pause + 1, _LONGEST_PAUSE)
            raise CaptureError(f"{shape.rows} rows: {str(error).partition('. ')[0]}") from error
        self._longest_pause = 0
        self.num_captures += 1
        return replay
