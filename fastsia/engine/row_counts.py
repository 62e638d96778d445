"""Row counts in which a row's bits depend neither on the rows beside it nor on how many they are.

Libraries choose a kernel for a product by its number of rows, and some add in another order than others. A number of
rows is tried before it is used: the same few rows, everywhere in it, must get the bits that they get among `ANCHOR`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fastsia.engine.step import Batch

ANCHOR = 256
"""The row count that the others are compared with, whatever an engine's limits: a full tile of most kernels."""
PROBE = 8
"""Rows that are repeated to fill a row count; every bucket is a multiple of it."""


def agreeing(candidates: Sequence[int], compute: Callable[[int], Tensor]) -> list[int]:
    """Those of some row counts, ascending, that agree with `ANCHOR`; none if that does not agree with itself.

    Args:
        compute: From a number of rows to results [rows, ...] in which the same `PROBE` rows repeat.
    """
    expected = compute(ANCHOR)[:PROBE].clone()

    def agrees(rows: int) -> bool:
        try:
            found = compute(rows)
        except torch.OutOfMemoryError:
            return False
        return bool((found.unflatten(0, (-1, PROBE)) == expected).all())

    return [rows for rows in candidates if agrees(rows)] if agrees(ANCHOR) else []


def probe(rows: int, num_blocks: int, block_size: int, vocab_size: int) -> Batch:
    """A batch that repeats a trunk of `PROBE` tokens of one text; it writes to the first blocks."""
    trunks, each, none = rows // PROBE, -(-PROBE // block_size), np.zeros(0, dtype=np.int64)
    tokens = np.random.default_rng(0).integers(0, vocab_size, PROBE)
    num_stored = num_blocks // each
    # Where the blocks do not suffice for all trunks, the rest read those of the first ones and store nothing.
    tables = (np.arange(trunks)[:, None] % num_stored * each + np.arange(each)).astype(np.int32)
    place = np.arange(PROBE)
    slots = tables[:, place // block_size].astype(np.int64) * block_size + place % block_size
    slots[num_stored:] = -1
    return Batch(
        token_ids=np.tile(tokens, trunks),
        positions=np.tile(place, trunks),
        slots=slots.reshape(-1),
        prefix_tables=tables,
        cu_rows=(PROBE * np.arange(trunks + 1)).astype(np.int32),
        prefix_lens=np.tile(place + 1, trunks).astype(np.int32),
        suffix_tables=np.zeros((rows, 0), dtype=np.int32),
        suffix_lens=np.zeros(rows, dtype=np.int32),
        max_prefix_len=PROBE,
        max_suffix_len=0,
        max_rows_per_prefix=PROBE,
        trunk_last=none,
        branch_last=none,
        hidden_rows=none,
        hidden_trunk=none,
        hidden_position=none,
    )
