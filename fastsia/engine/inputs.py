"""What a forward pass reads, as tensors of a given size: a batch, and padding that changes nothing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from fastsia.engine.staging import Field, Staging, arrays_in, size_of
from fastsia.engine.step import Batch

_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)


class Shape(NamedTuple):
    """Numbers of rows and trunks; blocks that the trunks' and the suffixes' tables are wide."""

    rows: int
    trunks: int
    prefix_blocks: int
    suffix_blocks: int

    @classmethod
    def of(cls, batch: Batch) -> Shape:
        """The batch's own size, without padding."""
        trunks, prefix_blocks = batch.prefix_tables.shape
        return cls(len(batch.token_ids), trunks, prefix_blocks, batch.suffix_tables.shape[1])

    @property
    def fields(self) -> list[Field]:
        """Of `Inputs`, in order."""
        rows, trunks, prefix_blocks, suffix_blocks = self
        int32 = [(trunks, prefix_blocks), (trunks + 1,), (rows,), (rows, suffix_blocks), (rows,)]
        return [(_INT64, (rows,))] * 3 + [(_INT32, shape) for shape in int32]


class Inputs(NamedTuple):
    """token_ids, positions, slots: int64 [rows]. The rest are `AttentionMetadata`'s, int32."""

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    prefix_tables: Tensor
    cu_rows: Tensor
    prefix_lens: Tensor
    suffix_tables: Tensor
    suffix_lens: Tensor


def stage(batch: Batch, shape: Shape, staging: Staging) -> Tensor:
    """Lay a batch out as `Inputs` of a shape that holds it; gives the staged bytes.

    Rows past the batch's store nothing and form a trunk of their own of which they see nothing; trunks past that one
    have no rows. A batch with fewer rows must therefore have fewer trunks too.
    """
    fields = shape.fields
    memory = staging.reserve(size_of(fields))
    for name, place in zip(Inputs._fields, arrays_in(memory, fields), strict=True):
        source = getattr(batch, name)
        if place.shape != source.shape:
            place.fill({"slots": -1, "cu_rows": shape.rows}.get(name, 0))
        place[tuple(map(slice, source.shape))] = source
    return memory
