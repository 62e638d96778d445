"""One step's rows: which tokens the model reads, where their keys and values go, and what each row sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastsia.engine.tree import TrajectoryTree


@dataclass(frozen=True)
class Selection:
    """What a step computes: the next `counts` uncomputed tokens of each trunk and of each branch. All int arrays."""

    trunks: np.ndarray
    trunk_counts: np.ndarray
    branches: np.ndarray
    branch_counts: np.ndarray

    @property
    def num_rows(self) -> int:
        return int(self.trunk_counts.sum() + self.branch_counts.sum())


@dataclass(frozen=True)
class Batch:
    """Rows packed by trunk, as numpy arrays; the model runner turns them into tensors.

    token_ids, positions, slots: int64 [n]. The rest are `AttentionMetadata`'s fields.
    trunk_last, branch_last: int64, the row of the last token of each selected trunk and branch, in selection order.
    hidden_rows, hidden_trunk, hidden_position: int64 [h], trunk rows that predict y_1, y_2, ...: the row, its trunk,
        and the position in the trajectory (0 predicts y_1).
    """

    token_ids: np.ndarray
    positions: np.ndarray
    slots: np.ndarray
    trunk_tables: np.ndarray
    cu_rows: np.ndarray
    prefix_lens: np.ndarray
    suffix_tables: np.ndarray
    suffix_lens: np.ndarray
    max_prefix_len: int
    max_suffix_len: int
    max_rows: int
    trunk_last: np.ndarray
    branch_last: np.ndarray
    hidden_rows: np.ndarray
    hidden_trunk: np.ndarray
    hidden_position: np.ndarray


def build_batch(tree: TrajectoryTree, selection: Selection) -> Batch:
    """Lay the selected tokens out as rows. Their blocks must have been given (`TrajectoryTree.extend`)."""
    trunks, branches, size = tree.trunks, tree.branches, tree.blocks.block_size
    num_trunks = len(selection.trunks)
    owner = np.concatenate([selection.trunks, branches.trunk[selection.branches]])
    counts = np.concatenate([selection.trunk_counts, selection.branch_counts])
    begin = np.concatenate([trunks.computed[selection.trunks], branches.computed[selection.branches]])
    entity = np.concatenate([selection.trunks, selection.branches])
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(counts[order])
    row_order = np.repeat(np.arange(len(order)), counts[order])
    row = order[row_order]
    offset = begin[row] + np.arange(len(row)) - (ends - counts[order])[row_order]
    on_trunk = row < num_trunks
    of_trunk, of_branch = np.flatnonzero(on_trunk), np.flatnonzero(~on_trunk)
    trunk, branch = entity[row[of_trunk]], entity[row[of_branch]]
    trunk_offset, branch_offset = offset[of_trunk], offset[of_branch]

    n = len(row)
    token_ids = np.empty(n, dtype=np.int64)
    token_ids[of_trunk] = trunks.tokens[trunk, trunk_offset]
    token_ids[of_branch] = branches.token[branch]
    # A branch without its keys and values reads its path again, perhaps a chunk (even of one token) at a time.
    again = np.flatnonzero(branches.length[selection.branches] - branches.computed[selection.branches] > 1)
    if len(again):
        known = branches.length[selection.branches[again]]
        offsets, path, _ = tree.paths(branches.node[selection.branches[again]], known)
        first = np.full(len(selection.branches), -1, dtype=np.int64)
        first[again] = offsets[:-1]
        first_of_row = first[row[of_branch] - num_trunks]
        recomputed = first_of_row >= 0
        token_ids[of_branch[recomputed]] = path[first_of_row[recomputed] + branch_offset[recomputed]]

    prefix_lens = np.empty(n, dtype=np.int32)
    prefix_lens[of_trunk] = trunk_offset + 1
    prefix_lens[of_branch] = branches.prefix_len[branch]
    suffix_lens = np.zeros(n, dtype=np.int32)
    suffix_lens[of_branch] = branch_offset + 1
    max_suffix_len = int(suffix_lens.max(initial=0))
    suffix_width = -(-max_suffix_len // size)
    suffix_tables = np.zeros((n, suffix_width), dtype=np.int32)
    suffix_tables[of_branch] = branches.blocks[branch, :suffix_width]
    block = np.empty(n, dtype=np.int64)
    block[of_trunk] = trunks.blocks[trunk, trunk_offset // size]
    block[of_branch] = branches.blocks[branch, branch_offset // size]

    sorted_owner = owner[order]
    new_trunk = np.flatnonzero(np.diff(sorted_owner, prepend=-1))
    cu_rows = np.append((ends - counts[order])[new_trunk], n).astype(np.int32)
    max_prefix_len = int(prefix_lens.max(initial=0))
    last = np.empty(len(order), dtype=np.int64)
    last[order] = ends - 1
    position = trunk_offset - trunks.prompt_len[trunk] + 1
    kept = position >= trunks.num_hidden[trunk]
    return Batch(
        token_ids=token_ids,
        positions=prefix_lens.astype(np.int64) + suffix_lens - 1,
        slots=block * size + offset % size,
        trunk_tables=trunks.blocks[sorted_owner[new_trunk], : -(-max_prefix_len // size)],
        cu_rows=cu_rows,
        prefix_lens=prefix_lens,
        suffix_tables=suffix_tables,
        suffix_lens=suffix_lens,
        max_prefix_len=max_prefix_len,
        max_suffix_len=max_suffix_len,
        max_rows=int(np.diff(cu_rows).max(initial=0)),
        trunk_last=last[:num_trunks],
        branch_last=last[num_trunks:],
        hidden_rows=of_trunk[kept],
        hidden_trunk=trunk[kept],
        hidden_position=position[kept],
    )
