"""Inputs of a forward pass: a batch as tensors of a given size, padded without changing its results."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from fastsia.engine.staging import Field, Staging, arrays_in, size_of
from fastsia.engine.step import Batch

_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)


class BatchShape(NamedTuple):
    """Numbers of rows and trunks (shared prefixes), and the widths of the prefix and suffix block tables."""

    rows: int
    trunks: int
    prefix_blocks: int
    suffix_blocks: int

    @classmethod
    def of(cls, batch: Batch) -> BatchShape:
        """Return the size of a batch without padding."""
        trunks, prefix_blocks = batch.prefix_tables.shape
        return cls(len(batch.token_ids), trunks, prefix_blocks, batch.suffix_tables.shape[1])

    @property
    def fields(self) -> list[Field]:
        """The fields of `Inputs`, in order."""
        rows, trunks, prefix_blocks, suffix_blocks = self
        int32 = [(trunks, prefix_blocks), (trunks + 1,), (rows,), (rows, suffix_blocks), (rows,)]
        return [(_INT64, (rows,))] * 3 + [(_INT32, shape) for shape in int32]


class Inputs(NamedTuple):
    """Tensors of one step: token_ids, positions and slots int64 [rows]; the rest are `AttentionMetadata`'s, int32."""

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    prefix_tables: Tensor
    cu_rows: Tensor
    prefix_lens: Tensor
    suffix_tables: Tensor
    suffix_lens: Tensor


def stage(batch: Batch, shape: BatchShape, staging: Staging) -> Tensor:
    """Lay a batch out as `Inputs` of a shape at least as large; return the staged bytes.

    Padding rows store nothing and form one more trunk, of which they see no token; further padding trunks have no rows.
    A batch with fewer rows than the shape must therefore have fewer trunks too.
    """
    fields = shape.fields
    memory = staging.reserve(size_of(fields))
    for name, place in zip(Inputs._fields, arrays_in(memory, fields), strict=True):
        source = getattr(batch, name)
        if place.shape != source.shape:
            place.fill({"slots": -1, "cu_rows": shape.rows}.get(name, 0))
        place[tuple(map(slice, source.shape))] = source
    return memory
