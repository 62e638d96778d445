"""What a forward pass reads, as tensors of a given size: a batch, and padding that changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastsia.engine.batch import Batch
from fastsia.engine.staging import Field


class Shape(NamedTuple):
    """Numbers of rows and trunks; blocks that the trunks' and the suffixes' tables are wide."""

    rows: int
    trunks: int
    prefix_blocks: int
    suffix_blocks: int

    @classmethod
    def of(cls, batch: Batch) -> Shape:
        """The batch's own size, without padding."""
        trunks, prefix_blocks = batch.trunk_tables.shape
        return cls(len(batch.token_ids), trunks, prefix_blocks, batch.suffix_tables.shape[1])

    @property
    def fields(self) -> Sequence[Field]:
        """Of `Inputs`, in order."""
        rows, trunks, prefix_blocks, suffix_blocks = self
        int32 = [(trunks, prefix_blocks), (trunks + 1,), (rows,), (rows, suffix_blocks), (rows,)]
        return [(torch.int64, (rows,))] * 3 + [(torch.int32, shape) for shape in int32]


class Inputs(NamedTuple):
    """token_ids, positions, slots: int64 [rows]. The rest are `AttentionMetadata`'s, int32."""

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    trunk_tables: Tensor
    cu_rows: Tensor
    prefix_lens: Tensor
    suffix_tables: Tensor
    suffix_lens: Tensor

    def fill(self, batch: Batch) -> None:
        """Write a batch that fits (these tensors lie on the host).

        Rows past the batch's store nothing and form a trunk of their own of which they see nothing; trunks past that
        one have no rows. A batch with fewer rows must therefore have fewer trunks too.
        """
        for name, tensor in self._asdict().items():
            target, source = tensor.numpy(), getattr(batch, name)
            if target.shape != source.shape:
                target.fill({"slots": -1, "cu_rows": len(self.token_ids)}.get(name, 0))
            target[tuple(slice(size) for size in source.shape)] = source
