"""Teacher forcing: the probability of given tokens after prefixes of a trajectory, and the most probable ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastsia.engine.block_manager import BlockManager
from fastsia.engine.model_runner import ModelRunner
from fastsia.engine.step import batch_of_one_trunk
from fastsia.errors import FastsiaError

# Rows whose logits are computed at once, in float64: 300 MB for a vocabulary of 150,000 tokens.
_LOGIT_ROWS = 256

_Path = tuple[int, tuple[int, ...]]
"""A position and the tokens that are read after it."""


@dataclass(frozen=True)
class Forced:
    """Tokens after the first `position` tokens of a trajectory: some to read, then at least one to score."""

    position: int
    read_ids: tuple[int, ...]
    scored_ids: tuple[int, ...]


@dataclass(frozen=True)
class ForcedScore:
    """The score of one `Forced`.

    Attributes:
        logprobs: float64 [scored tokens], nats, under softmax(logits) (temperature 1, no top-p).
        end: log of the probability that none of the `continuing` tokens comes next; 0 where none were given.
        is_greedy: every scored token was the most probable one.
    """

    logprobs: np.ndarray
    end: float
    is_greedy: bool


@dataclass(frozen=True)
class NextTokens:
    """The most probable tokens at P positions of a trajectory, under the distribution that rollouts are drawn from.

    Attributes:
        token_ids: int64 [P, k], the most probable first.
        logprobs: float32 [P, k], nats; -inf where top-p cuts the token off.
        own_logprobs: float32 [P], of the trajectory's own token there.
    """

    token_ids: np.ndarray
    logprobs: np.ndarray
    own_logprobs: np.ndarray


def next_tokens(
    runner: ModelRunner,
    blocks: BlockManager,
    prompt_ids: Sequence[int],
    trajectory_ids: Sequence[int],
    positions: Sequence[int],
    most: int,
    temperature: float,
    top_p: float,
    *,
    rows_at_once: int,
) -> tuple[NextTokens, int]:
    """Return the `most` most probable tokens at each position, and the transformer rows that were computed.

    Raises:
        OutOfBlocksError: the pool cannot hold the trunk.
    """
    at = np.asarray(positions, dtype=np.int64)
    trunk = np.array([*prompt_ids, *trajectory_ids][: len(prompt_ids) + int(at.max())], dtype=np.int64)
    trunk_blocks = blocks.allocate(blocks.blocks_for(len(trunk)))
    try:
        hidden = _compute_trunk(runner, trunk, trunk_blocks, blocks.block_size, rows_at_once)
    finally:
        blocks.release(trunk_blocks)
    rows = hidden[torch.from_numpy(len(prompt_ids) + at - 1).to(hidden.device)]
    own = np.array([trajectory_ids[position] for position in at.tolist()], dtype=np.int64)
    token_ids = np.empty((len(at), most), dtype=np.int64)
    logprobs, own_logprobs = np.empty((len(at), most), dtype=np.float32), np.empty(len(at), dtype=np.float32)
    each = max(_LOGIT_ROWS // (most + 1), 1)
    for begin in range(0, len(at), each):
        here = slice(begin, begin + each)
        token_ids[here] = runner.logits(rows[here]).topk(most, dim=1).indices.cpu().numpy()
        tokens = np.concatenate([token_ids[here], own[here, None]], axis=1)
        scored, _ = runner.score(rows[here].repeat_interleave(most + 1, dim=0), tokens.ravel(), temperature, top_p)
        table = scored.reshape(tokens.shape)
        logprobs[here], own_logprobs[here] = table[:, :most], table[:, most]
    return NextTokens(token_ids, logprobs, own_logprobs), len(trunk)


def force(
    runner: ModelRunner,
    blocks: BlockManager,
    prompt_ids: Sequence[int],
    trajectory_ids: Sequence[int],
    forced: Sequence[Forced],
    *,
    rows_at_once: int,
    continuing: np.ndarray | None = None,
) -> tuple[list[ForcedScore], int, int]:
    """Return the scores of `forced`, in order, the transformer rows of the trunk, and the rows beyond it.

    The trunk (prompt and trajectory, as far as needed) is computed once. A row is computed for each token read after
    it, once for all entries that read the same tokens at the same position, and none where those are the trajectory's
    own next tokens. Rows of many positions share a forward pass of at most about `rows_at_once` rows.

    Args:
        continuing: bool [vocabulary].

    Raises:
        OutOfBlocksError: the pool cannot hold the trunk and the longest of `forced`.
    """
    paths: dict[_Path, list[int]] = {}
    for i, one in enumerate(forced):
        read = one.read_ids + one.scored_ids if continuing is not None else one.read_ids + one.scored_ids[:-1]
        paths.setdefault((one.position, read), []).append(i)
    matched = {path for path in paths if tuple(trajectory_ids[path[0] : path[0] + len(path[1])]) == path[1]}
    length = len(prompt_ids)
    length += max((position + len(read) * ((position, read) in matched) for position, read in paths), default=0)
    trunk = np.array([*prompt_ids, *trajectory_ids][:length], dtype=np.int64)
    trunk_blocks = blocks.allocate(blocks.blocks_for(length))
    scores: list[ForcedScore | None] = [None] * len(forced)
    num_rows = 0

    def record_scores(path: _Path, states: Tensor) -> None:
        mine = paths[path]
        for i, score in zip(mine, _score(runner, states, [forced[i] for i in mine], continuing), strict=True):
            scores[i] = score

    try:
        hidden = _compute_trunk(runner, trunk, trunk_blocks, blocks.block_size, rows_at_once)
        for position, read in matched:
            start = len(prompt_ids) + position
            record_scores((position, read), hidden[start - 1 : start + len(read)])
        waiting = [path for path in paths if path not in matched]
        while waiting:
            chunk = _take(waiting, blocks, rows_at_once)
            suffixes = [blocks.allocate(blocks.blocks_for(len(read))) for _, read in chunk]
            try:
                starts = [len(prompt_ids) + position for position, _ in chunk]
                rows = _compute_suffixes(
                    runner, trunk_blocks, blocks.block_size, starts, [read for _, read in chunk], suffixes
                )
            finally:
                for suffix in suffixes:
                    blocks.release(suffix)
            begin = 0
            for (position, read), start in zip(chunk, starts, strict=True):
                # Row k of a path predicts its token k: the trunk's last row before it, then its own.
                record_scores((position, read), torch.cat([hidden[start - 1 : start], rows[begin : begin + len(read)]]))
                begin += len(read)
            num_rows += begin
    finally:
        blocks.release(trunk_blocks)
    return [score for score in scores if score is not None], length, num_rows


def check_forced(
    prompt_ids: Sequence[int],
    trajectory_ids: Sequence[int],
    forced: Sequence[Forced],
    continuing: np.ndarray | None,
    vocab_size: int,
    context_length: int | None,
) -> None:
    """Raise FastsiaError for entries that cannot be scored, before anything is computed."""
    if len(prompt_ids) == 0:
        raise FastsiaError("prompt_ids is empty; at least one token is needed.")
    if continuing is not None and (continuing.dtype != np.bool_ or continuing.shape != (vocab_size,)):
        raise FastsiaError(f"continuing must be a bool array of {vocab_size} entries, one per token.")
    for i, one in enumerate(forced):
        if not 0 <= one.position <= len(trajectory_ids):
            raise FastsiaError(
                f"forced[{i}].position is {one.position}, but the trajectory has {len(trajectory_ids)} tokens."
            )
        if not one.scored_ids:
            raise FastsiaError(f"forced[{i}].scored_ids is empty.")
        # The last token is only looked up, unless what comes after it counts.
        length = len(prompt_ids) + one.position + len(one.read_ids) + len(one.scored_ids) - (continuing is None)
        if context_length is not None and length > context_length:
            raise FastsiaError(f"forced[{i}] needs {length} positions, but the model's context is {context_length}.")
    ids = [*prompt_ids, *trajectory_ids, *(i for one in forced for i in (*one.read_ids, *one.scored_ids))]
    wrong = next((i for i in ids if not 0 <= i < vocab_size), None)
    if wrong is not None:
        raise FastsiaError(f"token id {wrong} is outside the model's vocabulary (0 to {vocab_size - 1}).")


def _score(
    runner: ModelRunner, states: Tensor, path: Sequence[Forced], continuing: np.ndarray | None
) -> list[ForcedScore]:
    """The scores of the entries that share one path. states: [tokens of the path + 1, hidden], row k predicts token k.

    A path may be a whole document, so logits are computed `_LOGIT_ROWS` rows at a time and only the scores leave the
    device.
    """
    counts = [len(one.scored_ids) for one in path]
    rows = np.concatenate([len(one.read_ids) + np.arange(count) for one, count in zip(path, counts, strict=True)])
    tokens = np.concatenate([np.array(one.scored_ids, dtype=np.int64) for one in path])
    logprobs, is_best = np.empty(len(rows)), np.empty(len(rows), dtype=bool)
    for begin in range(int(rows.min()), len(states), _LOGIT_ROWS):
        part = runner.logits(states[begin : begin + _LOGIT_ROWS]).double().log_softmax(dim=1)
        here = np.flatnonzero((rows >= begin) & (rows < begin + len(part)))
        at = torch.from_numpy(rows[here] - begin).to(part.device)
        picked = part[at, torch.from_numpy(tokens[here]).to(part.device)]
        logprobs[here] = picked.cpu().numpy()
        is_best[here] = (picked >= part.amax(dim=1)[at]).cpu().numpy()
    # All of a path are followed by its last row, because what they read and score together is the path itself.
    end = 0.0 if continuing is None else _ends(part[-1].cpu().numpy(), continuing)
    cuts = np.cumsum(counts)[:-1]
    return [
        ForcedScore(own, end, bool(best.all()))
        for own, best in zip(np.split(logprobs, cuts), np.split(is_best, cuts), strict=True)
    ]


def _ends(after: np.ndarray, continuing: np.ndarray) -> float:
    """`ForcedScore.end` from log-probabilities [vocabulary]; precise also where nearly all or nearly none of the
    probability is that of continuing tokens."""
    gone, left = np.exp(after[continuing]).sum(), np.exp(after[~continuing]).sum()
    return float(np.log1p(-min(gone, 1.0)) if gone < 0.5 else np.log(max(left, np.finfo(np.float64).tiny)))


def _take(waiting: list[_Path], blocks: BlockManager, rows_at_once: int) -> list[_Path]:
    """The next paths of one forward pass: as many as its rows and the free blocks allow, at least one."""
    taken, rows, needed = 0, 0, 0
    for _, read in waiting:
        rows, needed = rows + len(read), needed + blocks.blocks_for(len(read))
        if taken and (rows > rows_at_once or needed > blocks.num_free):
            break
        taken += 1
    chunk = waiting[:taken]
    del waiting[:taken]
    return chunk


def _compute_trunk(
    runner: ModelRunner, trunk: np.ndarray, trunk_blocks: np.ndarray, block_size: int, rows: int
) -> Tensor:
    """Final hidden states [len(trunk), hidden_size]; keys and values go to `trunk_blocks`."""
    parts = []
    for begin in range(0, len(trunk), rows):
        positions = np.arange(begin, min(begin + rows, len(trunk)))
        parts.append(runner.forward(batch_of_one_trunk(trunk[positions], trunk_blocks, block_size, positions + 1)))
    return torch.cat(parts)


def _compute_suffixes(
    runner: ModelRunner,
    trunk_blocks: np.ndarray,
    block_size: int,
    starts: Sequence[int],
    paths: Sequence[tuple[int, ...]],
    suffixes: Sequence[np.ndarray],
) -> Tensor:
    """Final hidden states of all tokens of all paths, path by path."""
    lengths = np.array([len(path) for path in paths])
    if lengths.sum() == 0:
        return torch.empty((0, runner.hidden_size), dtype=runner.dtype, device=runner.device)
    row = np.repeat(np.arange(len(paths)), lengths)
    offset = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    tables = np.zeros((len(paths), max(len(suffix) for suffix in suffixes)), dtype=np.int32)
    for i, suffix in enumerate(suffixes):
        tables[i, : len(suffix)] = suffix
    token_ids = np.concatenate([np.array(path, dtype=np.int64) for path in paths])
    prefix_lens = np.array(starts)[row]
    return runner.forward(batch_of_one_trunk(token_ids, trunk_blocks, block_size, prefix_lens, offset + 1, tables[row]))
