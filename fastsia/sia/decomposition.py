"""The answer distribution along a trajectory, decomposed by where rollouts diverge from it.

Between checkpoints m and m + 1 a rollout stays on the trajectory's own tokens with a known probability q_m, the product
of their probabilities, or diverges. With D_m the distribution of the answers of those that diverge there,

    p_m = q_m p_{m+1} + (1 - q_m) D_m,

exactly. D_m is estimated by the answers of all rollouts that diverged in segment m, from whichever checkpoint they were
drawn; q_m is not estimated at all. So the estimate of p_m is unbiased as long as every segment has a divergence and one
token limit holds for all, and every rollout counts at all checkpoints before its divergence. docs/method.md derives
variance and limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.special import xlogy

from fastsia.config import SIAConfig
from fastsia.sia.alignment import Halves, split_halves
from fastsia.sia.table import LocalAnswers, RolloutTable
from fastsia.sia.token_traces import TokenLogprobs

MOST_LEFT_OUT = 0.05
"""The largest share of a trajectory's rollouts that were cut, and the largest probability of segments without a
divergence, at which the decomposition is given. Chosen by fastsia."""

SMOOTHING_ROLLOUTS = 20
"""The surprisal of an estimated distribution p is -ln((p + d) / (1 + V d)) with d = smoothing / this number: the
smoothing of that many rollouts, whatever the number that was drawn."""

PRIOR_DRAWS = 1.0
"""Draws that the trajectory's own answers add to each D_m in the standard errors, which would be 0 for a single
divergence. Chosen by simulation (docs/estimators.md)."""

NULL_PLACE = 0
"""The local code of "no answer" (`LocalAnswers`)."""

_CELLS_AT_ONCE = 4_000_000

_IMPOSSIBLE = -750.0
"""Log-probability in place of -inf, which sums could not be subtracted from: exp of it is 0."""


@dataclass(frozen=True)
class Divergences:
    """Where each rollout diverges from its trajectory, as rows of checkpoints.

    Attributes:
        known: bool [T], trajectories whose tokens' log-probabilities are known up to the last checkpoint.
        log_stay: float64 [G], ln q: sum of the log-probabilities (nats) of the trajectory's tokens from this checkpoint
            to the next; 0 at the last checkpoint and after `end`.
        segment: int64 [R], row of the checkpoint after which the rollout diverges; the trajectory's last row if it
            never does.
        uncensored_from: int64 [R], row of the first checkpoint at which the rollout is not censored, i.e. whose limit
            (position + max_tokens) is not before the rollout's end. Of a rollout that its own limit cut: the row it was
            drawn from if it has an answer, else that row + 1, i.e. it is censored everywhere.
        num_cut: int64 [T], rollouts whose answer another limit might have changed: under `rollout_budget="new"` those
            that were cut. Under "total" all have the same limit.
        decided: bool [T], trajectories whose own tokens decide their answer before or at the last checkpoint.
        end: int64 [T], the position from which on the answer is decided, at most that of the last checkpoint.
    """

    known: np.ndarray
    log_stay: np.ndarray
    segment: np.ndarray
    uncensored_from: np.ndarray
    num_cut: np.ndarray
    decided: np.ndarray
    end: np.ndarray

    @classmethod
    def of(cls, table: RolloutTable, logprobs: TokenLogprobs, config: SIAConfig) -> Divergences | None:
        """None where the table does not say how far rollouts match their trajectories and how they ended.

        A rollout that was stopped on the trajectory's own tokens, since no continuation changes its answer, shows that
        the trajectory's answer is decided there: it and all later rollouts have that answer, wherever they diverge.
        """
        if table.matched is None or table.decided is None or table.cut is None or table.tokens is None:
            return None
        owner, row = table.trajectory_of_checkpoint, table.checkpoint_of_rollout
        start = table.checkpoint[row]
        leave = start + table.matched
        end = table.checkpoint[table.last].copy()
        on_trunk = table.decided & (table.matched == table.tokens)
        np.minimum.at(end, owner[row[on_trunk]], leave[on_trunk])
        decided = np.zeros(table.num_trajectories, dtype=bool)
        decided[owner[row[on_trunk & (leave <= table.checkpoint[table.last][owner[row]])]]] = True

        span = int(max(table.checkpoint.max(), leave.max())) + 2
        place = owner * span + table.checkpoint
        segment = np.searchsorted(place, owner[row] * span + leave, side="right") - 1
        segment = np.where(leave >= end[owner[row]], table.last[owner[row]], segment)

        known, log_stay = _segment_logprobs(table, logprobs, end)
        uncensored_from, num_cut = table.first[owner[row]], np.zeros(table.num_trajectories, dtype=np.int64)
        if config.rollout_budget == "new":
            earliest = np.maximum(start + table.tokens - config.max_tokens, 0)
            uncensored_from = np.minimum(np.searchsorted(place, owner[row] * span + earliest, side="left"), row)
            uncensored_from = np.maximum(uncensored_from, table.first[owner[row]])
            uncensored_from = np.where(table.cut, np.where(table.code < 0, row + 1, row), uncensored_from)
            num_cut = np.bincount(owner[row], weights=table.cut, minlength=table.num_trajectories).astype(np.int64)
        return cls(known, log_stay, segment, uncensored_from, num_cut, decided, end)

    def censored_before(self, table: RolloutTable) -> np.ndarray:
        """bool [R]: rollouts that are censored at one checkpoint of their trajectory or more."""
        return self.uncensored_from > table.first[table.trajectory_of_checkpoint[table.checkpoint_of_rollout]]


def log_prefixes(
    table: RolloutTable, logprobs: TokenLogprobs, position: np.ndarray, owner: np.ndarray | None = None
) -> np.ndarray:
    """Log-probabilities of trajectories' tokens up to positions, nats; only differences within a trajectory matter.

    Unknown ones count as 0, as do positions after the last token.

    Args:
        table: The rollouts.
        logprobs: of these trajectories.
        position: int64 [n].
        owner: int64 [n], the trajectory of each; None: the positions are those of the checkpoints.

    Returns:
        float64 [n].
    """
    owner, known = table.trajectory_of_checkpoint if owner is None else owner, np.isfinite(logprobs.values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, logprobs.values, 0.0), dtype=np.float64)])
    begin, end = logprobs.offsets[owner], logprobs.offsets[owner + 1]
    return sums[np.minimum(begin + position, end)]


def _segment_logprobs(table: RolloutTable, logprobs: TokenLogprobs, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`Divergences.known` and `log_stay`; end: int64 [T], the position from which on tokens are certain to keep p."""
    is_known = ~np.isnan(logprobs.values)
    values = np.maximum(np.where(is_known, logprobs.values, 0.0), _IMPOSSIBLE, dtype=np.float64)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    unknown = np.concatenate([[0], np.cumsum(~is_known)])
    begin, length = logprobs.offsets[:-1], np.diff(logprobs.offsets)
    last = begin + np.minimum(table.checkpoint[table.last], length)
    known = (length >= table.checkpoint[table.last]) & (unknown[last] == unknown[begin])
    owner = table.trajectory_of_checkpoint
    at = begin[owner] + np.minimum(np.minimum(table.checkpoint, end[owner]), length[owner])
    log_stay = np.zeros(table.num_checkpoints)
    log_stay[:-1] = np.diff(sums[at])
    log_stay[table.last] = 0.0
    return known, np.minimum(log_stay, 0.0)


class Chunk(NamedTuple):
    """Some neighbouring trajectories, with K the largest V among them and rows their M checkpoints."""

    trajectories: slice
    rows: slice
    rollouts: slice
    width: int


def chunks(table: RolloutTable, local: LocalAnswers, columns: int) -> Iterator[Chunk]:
    """Yield consecutive trajectories in parts whose M K columns numbers are at most `_CELLS_AT_ONCE`."""
    begin = 0
    lengths = np.diff(table.trajectory_offsets)
    while begin < table.num_trajectories:
        widest = np.maximum.accumulate(local.number[begin:])
        size = np.cumsum(lengths[begin:]) * widest * columns
        end = begin + max(1, int(np.searchsorted(size, _CELLS_AT_ONCE, side="right")))
        rows = slice(int(table.trajectory_offsets[begin]), int(table.trajectory_offsets[end]))
        rollouts = slice(int(table.checkpoint_offsets[rows.start]), int(table.checkpoint_offsets[rows.stop]))
        yield Chunk(slice(begin, end), rows, rollouts, int(widest[end - begin - 1]))
        begin = end


@dataclass(frozen=True)
class Recursion:
    """The recursion over a chunk of a table, from the last checkpoint to the first.

    Attributes:
        log_stay: float64 [M].
        steps: steps[d] is int64, the row d checkpoints before the end of each trajectory that has one.
        first: int64 [M], the first row of each row's trajectory.
    """

    log_stay: np.ndarray
    steps: list[np.ndarray]
    first: np.ndarray

    @classmethod
    def of(cls, table: RolloutTable, divergences: Divergences, chunk: Chunk) -> Recursion:
        offsets = table.trajectory_offsets[chunk.trajectories.start : chunk.trajectories.stop + 1] - chunk.rows.start
        lengths = np.diff(offsets)
        steps = [offsets[1:][lengths > back] - 1 - back for back in range(int(lengths.max()))]
        return cls(divergences.log_stay[chunk.rows], steps, np.repeat(offsets[:-1], lengths))


def count_divergences(
    table: RolloutTable,
    local: LocalAnswers,
    segment: np.ndarray,
    chunk: Chunk,
    member: np.ndarray,
    included: np.ndarray,
) -> np.ndarray:
    """Answers of the rollouts by the row of their segment; float64 [M, K, S].

    Args:
        segment: int64 [R], the row at which each rollout is counted.
        member: bool [N, S], which rollouts are in each of S sets, by their index; N the most rollouts of a checkpoint.
        included: bool [R], rollouts to count.
    """
    kept = np.flatnonzero(included[chunk.rollouts]) + chunk.rollouts.start
    number = chunk.rows.stop - chunk.rows.start
    cell = (segment[kept] - chunk.rows.start) * chunk.width + local.code[kept]
    slot = table.index_in_checkpoint()[kept]
    indicator = sparse.csr_matrix(
        (np.ones(len(kept), dtype=np.float32), (cell, slot)), shape=(number * chunk.width, len(member))
    )
    counts = indicator @ member.astype(np.float32)
    return counts.astype(np.float64).reshape(number, chunk.width, member.shape[1])


def estimate_chunk(
    table: RolloutTable,
    local: LocalAnswers,
    divergences: Divergences,
    chunk: Chunk,
    member: np.ndarray,
    included: np.ndarray | None = None,
    *,
    unbiased: bool = False,
) -> np.ndarray:
    """The estimated answer distributions from S sets of rollouts; float64 [M, K, S], NaN where no rollout of a set
    reaches the last checkpoint.

    Under `rollout_budget="new"` each checkpoint has its own limit, so rollouts that diverge in one segment are
    censored at different positions. D_m is their Kaplan-Meier estimate; the mass that it leaves is that of cut rollouts
    and goes to column 0, no answer.

    Args:
        member: bool [N, S], which rollouts are in each set, by their index; N the most rollouts of a checkpoint.
        included: bool [R], the rollouts that count; None: all.
        unbiased: With one limit for all, unbiased also where segments may have no divergence; for tests rather than for
            use. D of a segment that k rollouts reach counts 1 / (1 - q^k) times, and nothing where none diverges, so
            that shares need not sum to 1. That of no answer is not to be used.
    """
    included = np.ones(table.num_rollouts, dtype=bool) if included is None else included
    recursion = Recursion.of(table, divergences, chunk)
    sets = _Sets(table, local, divergences, chunk, member, included)
    is_censored = divergences.censored_before(table)
    uncensored = sets.count(divergences.segment, ~is_censored)
    number = uncensored.sum(axis=1)
    censored = np.flatnonzero((included & is_censored)[chunk.rollouts]) + chunk.rollouts.start
    if len(censored):
        number += sets.count(divergences.segment, is_censored).sum(axis=1)
    share = np.divide(uncensored, number[:, None], out=np.zeros_like(uncensored), where=number[:, None] > 0)
    leave = np.broadcast_to(-np.expm1(recursion.log_stay)[:, None], number.shape)
    if unbiased:
        drawn = sets.count(table.checkpoint_of_rollout).sum(axis=1)
        under_way = np.cumsum(drawn, axis=0) - np.cumsum(number, axis=0) + number
        any_leaves = -np.expm1(under_way * recursion.log_stay[:, None])
        leave = np.divide(leave, any_leaves, out=np.zeros_like(number), where=any_leaves > 0)
        known = np.ones_like(number, dtype=bool)
    else:
        elsewhere = _elsewhere(uncensored, recursion)
        known = (number > 0) | (elsewhere.sum(axis=1) > 0)
        share = np.where(number[:, None] > 0, share, elsewhere)
    stay = np.exp(recursion.log_stay)
    out = np.empty_like(uncensored)
    last = recursion.steps[0]
    out[last] = np.where(number[last][:, None] > 0, share[last], np.nan)
    for rows in recursion.steps[1:]:
        mixed = stay[rows][:, None, None] * out[rows + 1] + leave[rows][:, None] * share[rows]
        out[rows] = np.where(known[rows][:, None], mixed, out[rows + 1])
    if len(censored):
        weight = np.where(known, leave, 0.0)
        weight[last] = 1.0
        log_stay = np.where(known, recursion.log_stay[:, None], 0.0)
        _add_partly_censored(out, sets, censored, share.sum(axis=1), weight, log_stay)
        out[:, NULL_PLACE] += np.maximum(1 - out.sum(axis=1), 0)
    return out


def _elsewhere(counts: np.ndarray, recursion: Recursion) -> np.ndarray:
    """The answers of all divergences of a trajectory before its last checkpoint, as shares; zeros where there is none.

    They replace D_m of a segment in which no rollout diverged. p after the segment would be too near the trajectory's
    own answer, which those that diverge mostly have less often.

    Args:
        counts: float64 [M, K, S], divergences by segment.

    Returns:
        float64 [M, K, S].
    """
    begins, trajectory = np.unique(recursion.first, return_inverse=True)
    diverged = counts.copy()
    diverged[recursion.steps[0]] = 0.0
    pooled = np.add.reduceat(diverged, begins, axis=0)
    total = pooled.sum(axis=1, keepdims=True)
    return np.divide(pooled, total, out=np.zeros_like(pooled), where=total > 0)[trajectory]


@dataclass(frozen=True)
class _Sets:
    """S sets of a chunk's rollouts; the arguments of `estimate_chunk`."""

    table: RolloutTable
    local: LocalAnswers
    divergences: Divergences
    chunk: Chunk
    member: np.ndarray
    included: np.ndarray

    def count(self, segment: np.ndarray, which: np.ndarray | None = None) -> np.ndarray:
        """`count_divergences` of the included rollouts, of those in `which` (bool [R]) only if given."""
        included = self.included if which is None else self.included & which
        return count_divergences(self.table, self.local, segment, self.chunk, self.member, included)

    def members(self, group: np.ndarray, rollouts: np.ndarray, num_groups: int) -> np.ndarray:
        """float64 [num_groups, S]: how many of the rollouts (rows of the table) of each group are in each set."""
        shape = (num_groups, len(self.member))
        ones = np.ones(len(group), dtype=np.float32)
        indicator = sparse.csr_matrix((ones, (group, self.table.index_in_checkpoint()[rollouts])), shape=shape)
        return np.asarray(indicator @ self.member.astype(np.float64))


def _add_partly_censored(
    out: np.ndarray, sets: _Sets, censored: np.ndarray, ended: np.ndarray, weight: np.ndarray, log_stay: np.ndarray
) -> None:
    """Add the rollouts that are censored at earlier checkpoints to those at which they are not.

    Args:
        out: float64 [M, K, S], changed in place.
        censored: int64, the rollouts, rows of the table.
        ended: float64 [M, S], the share of each segment's divergent rollouts that are censored nowhere.
        weight: float64 [M, S], the weight of each D_m in p_m.
        log_stay: float64 [M, S], ln q_m; 0 where p_m is taken from the next checkpoint.
    """
    divergences, begin = sets.divergences, sets.chunk.rows.start
    # The others were cut without an answer: they are censored everywhere.
    censored = censored[divergences.uncensored_from[censored] <= sets.table.checkpoint_of_rollout[censored]]
    if not len(censored):
        return
    segment, uncensored_from = divergences.segment[censored] - begin, divergences.uncensored_from[censored] - begin
    share = _censored_shares(sets, censored, segment, uncensored_from, ended)
    # Each rollout counts at rows uncensored_from to segment, weighted by the probability of staying on the trajectory.
    reach = np.cumsum(log_stay, axis=0) - log_stay
    copies = segment - uncensored_from + 1
    source = np.repeat(np.arange(len(censored)), copies)
    target = uncensored_from[source] + np.arange(len(source)) - np.repeat(np.cumsum(copies) - copies, copies)
    weights = np.exp(reach[segment[source]] - reach[target]) * weight[segment[source]]
    np.add.at(out, (target, sets.local.code[censored][source]), weights * share[source])


def _censored_shares(
    sets: _Sets, censored: np.ndarray, segment: np.ndarray, uncensored_from: np.ndarray, ended: np.ndarray
) -> np.ndarray:
    """The share of D_m that each partly censored rollout has, float64 [n, S]: a Kaplan-Meier estimate over the limits.

    Args:
        censored: int64 [n], those that are uncensored somewhere; see `_add_partly_censored`.
        segment, uncensored_from: int64 [n], rows of the chunk.
        ended: see `_add_partly_censored`.
    """
    divergences, chunk, row = sets.divergences, sets.chunk, sets.table.checkpoint_of_rollout
    num_rows = chunk.rows.stop - chunk.rows.start
    # A pair is a segment and a row from which on rollouts diverging in it are uncensored, in the order of the rows.
    pairs, pair_of_rollout = np.unique(segment * num_rows + uncensored_from, return_inverse=True)
    segment_of, limit_of = pairs // num_rows, pairs % num_rows
    inside = np.flatnonzero(sets.included[chunk.rollouts]) + chunk.rollouts.start
    order = np.argsort(divergences.segment[inside], kind="stable")
    ordered = divergences.segment[inside][order] - chunk.rows.start
    low, high = np.searchsorted(ordered, segment_of, "left"), np.searchsorted(ordered, segment_of, "right")
    width = high - low
    pair = np.repeat(np.arange(len(pairs)), width)
    place = np.repeat(low, width) + np.arange(len(pair)) - np.repeat(np.cumsum(width) - width, width)
    candidate = inside[order[place]]
    limit = limit_of[pair] + chunk.rows.start
    at_risk = (row[candidate] >= limit) & (divergences.uncensored_from[candidate] >= limit)

    risk = sets.members(pair[at_risk], candidate[at_risk], len(pairs))
    ending = sets.members(pair_of_rollout, censored, len(pairs))
    hazard = np.divide(ending, risk, out=np.zeros_like(risk), where=risk > 0)
    before = 1 - ended[segment_of]  # the share that no earlier limit let end
    for k in np.flatnonzero(segment_of[1:] == segment_of[:-1]):
        before[k + 1] = before[k] * (1 - hazard[k])
    per_rollout = np.divide(before, risk, out=np.zeros_like(risk), where=risk > 0)
    return np.asarray(sets.member[sets.table.index_in_checkpoint()[censored]] * per_rollout[pair_of_rollout])


def surprisal(p_gold: np.ndarray, num_answers: np.ndarray, alpha: float) -> np.ndarray:
    """-ln((p + d) / (1 + V d)), nats, with d = alpha / `SMOOTHING_ROLLOUTS`."""
    share = alpha / SMOOTHING_ROLLOUTS
    return np.log1p(num_answers * share) - np.log(p_gold + share)


def entropy_of(p: np.ndarray, axis: int = 1) -> np.ndarray:
    """Nats."""
    return np.maximum(-xlogy(p, p).sum(axis=axis), 0.0)


@dataclass(frozen=True)
class Decomposition:
    """The estimates from all rollouts, [G] each.

    Attributes:
        entropy: float64, nats: H of the estimated distribution plus half the sum of Var p / p, which corrects its bias
            to first order.
        entropy_se: float64, nats.
        surprisal: float64, nats, of the gold answer.
        surprisal_se: float64, nats.
        effective_rollouts: float64, how many rollouts from the checkpoint alone would estimate p as well.
        unseen: float64, the probability of segments in which no rollout diverged; other divergences stand for theirs.
        mode: int32, code of the answer with the largest estimated probability.
        cut_share: float64 [T], share of the trajectory's rollouts that the token limit cut.
        withheld: bool [T], trajectories whose estimates are not to be used.
        probabilities: float64 [sum of C V], the estimated distributions, one row of V answers after another.
    """

    entropy: np.ndarray
    entropy_se: np.ndarray
    surprisal: np.ndarray
    surprisal_se: np.ndarray
    effective_rollouts: np.ndarray
    unseen: np.ndarray
    mode: np.ndarray
    cut_share: np.ndarray
    withheld: np.ndarray
    probabilities: np.ndarray

    def hide(self, table: RolloutTable) -> Decomposition:
        """NaN where the estimates are withheld."""
        hidden = self.withheld[table.trajectory_of_checkpoint]
        names = ("entropy", "entropy_se", "surprisal", "surprisal_se", "effective_rollouts")
        return replace(self, **{name: np.where(hidden, np.nan, getattr(self, name)) for name in names})


def decompose(
    table: RolloutTable, divergences: Divergences, alpha: float, *, included: np.ndarray | None = None
) -> Decomposition:
    """Estimates from all rollouts at every checkpoint.

    Args:
        table: The rollouts.
        divergences: those of the table.
        alpha: smoothing of the surprisal, in counts per answer; see `surprisal`.
        included: bool [R], the rollouts that count; None: all. The others still say which answers there are.
    """
    included = np.ones(table.num_rollouts, dtype=bool) if included is None else included
    local = table.local_answers()
    owner = table.trajectory_of_checkpoint
    everyone = np.ones((int(table.index_in_checkpoint().max()) + 1, 1), dtype=bool)
    rollouts_of = np.add.reduceat(table.count, table.trajectory_offsets[:-1])
    cut_share = divergences.num_cut / rollouts_of
    columns: list[list[np.ndarray]] = []
    for chunk in chunks(table, local, int(local.number.max())):
        p = estimate_chunk(table, local, divergences, chunk, everyone, included)[:, :, 0]
        counts = count_divergences(table, local, divergences.segment, chunk, everyone, included)[:, :, 0]
        mine = owner[chunk.rows]
        number, offset = local.number[mine], local.offsets[mine]
        variance = _variances(
            counts, np.arange(chunk.width) < number[:, None], Recursion.of(table, divergences, chunk), p
        )
        gold = local.gold[mine]
        here = np.arange(len(p))
        p_gold = p[here, gold]
        columns.append(
            [
                entropy_of(p) + variance.bias,
                variance.entropy_se,
                surprisal(p_gold, number, alpha),
                np.sqrt(variance.diagonal[here, gold]) / (p_gold + alpha / SMOOTHING_ROLLOUTS),
                variance.effective,
                variance.unseen,
                local.global_code[offset + p.argmax(axis=1)].astype(np.float64),
                p[np.arange(chunk.width) < number[:, None]],
            ]
        )
    entropy, entropy_se, gold_surprisal, surprisal_se, effective, unseen, mode, probabilities = (
        np.concatenate(parts) for parts in zip(*columns, strict=True)
    )
    most_unseen = np.maximum.reduceat(unseen, table.trajectory_offsets[:-1])
    withheld = ~divergences.known | (cut_share > MOST_LEFT_OUT) | (most_unseen > MOST_LEFT_OUT)
    return Decomposition(
        entropy=entropy,
        entropy_se=entropy_se,
        surprisal=gold_surprisal,
        surprisal_se=surprisal_se,
        effective_rollouts=effective,
        unseen=unseen,
        mode=mode.astype(np.int32),
        cut_share=cut_share,
        withheld=withheld,
        probabilities=probabilities,
    )


def mix(table: RolloutTable, divergences: Divergences, segments: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """p_m = q_m p_{m+1} + (1 - q_m) D_m for given D_m.

    Args:
        table: The rollouts.
        divergences: those of the table.
        segments: float64, D_m of all checkpoints (at the last one p itself), one row of V answers after another.
        offsets: int64 [G + 1], where each checkpoint's row begins.

    Returns:
        float64, p_m in the same places.
    """
    out, stay = segments.copy(), np.exp(divergences.log_stay)
    lengths = np.diff(table.trajectory_offsets)
    for back in range(1, int(lengths.max())):
        rows = table.last[lengths > back] - back
        width = offsets[rows + 1] - offsets[rows]
        at = np.repeat(offsets[rows] - np.cumsum(width) + width, width) + np.arange(width.sum())
        q = np.repeat(stay[rows], width)
        out[at] = q * out[at + np.repeat(width, width)] + (1 - q) * segments[at]
    return out


def at_tokens(table: RolloutTable, logprobs: TokenLogprobs, config: SIAConfig) -> pd.DataFrame | None:
    """The decomposition at every token between a trajectory's first and last checkpoint, without a further rollout.

    Between checkpoints m and m + 1, p_t = Q p_{m+1} + (1 - Q) D with Q the probability of the tokens from t to t_{m+1}
    and D the answers of the rollouts that diverge from t on. No estimate is corrected for the bias of entropy here.

    Args:
        table: The rollouts.
        logprobs: Log-probabilities of the trajectories' tokens.
        config: max_tokens, rollout_budget and smoothing are read.

    Returns:
        One row per position of the trajectories that are not withheld: problem_id, trajectory, position, entropy and
        gold_surprisal (nats), and divergences, how many rollouts D consists of. None where the table does not say where
        rollouts diverge.
    """
    divergences = Divergences.of(table, logprobs, config)
    if divergences is None or table.matched is None:
        return None
    whole = decompose(table, divergences, config.smoothing)
    local, row = table.local_answers(), table.checkpoint_of_rollout
    width = local.number[table.trajectory_of_checkpoint]
    begin = np.concatenate([[0], np.cumsum(width)])
    leave = table.checkpoint[row] + table.matched
    order = np.argsort(divergences.segment, kind="stable")
    first_of = np.searchsorted(divergences.segment[order], np.arange(table.num_checkpoints + 1))
    frames = []
    for i in np.flatnonzero(~whole.withheld):
        rows = np.arange(table.first[i], table.last[i] + 1)
        values = logprobs.values[logprobs.offsets[i] : logprobs.offsets[i + 1]].astype(np.float64)
        parts, number = [], []
        elsewhere = np.bincount(
            local.code[order[first_of[rows[0]] : first_of[rows[-1]]]], minlength=local.number[i]
        ).astype(np.float64)
        for m in rows[:-1]:
            start, stop = int(table.checkpoint[m]), int(table.checkpoint[m + 1])
            mine = order[first_of[m] : first_of[m + 1]]
            there = np.zeros((stop - start, local.number[i]))
            np.add.at(there, (leave[mine] - start, local.code[mine]), 1.0)
            there = np.cumsum(there[::-1], axis=0)[::-1]
            total = there.sum(axis=1)
            # From where the answer is decided on, the tokens keep p whatever their probability.
            decided_at = min(max(int(divergences.end[i]), start), stop)
            left = np.concatenate([np.cumsum(values[start:decided_at][::-1])[::-1], np.zeros(stop - decided_at)])
            stay = np.exp(left)
            after = whole.probabilities[begin[m + 1] : begin[m + 2]]
            nobody = elsewhere / elsewhere.sum() if elsewhere.any() else after
            share = np.divide(there, total[:, None], out=np.tile(nobody, (len(total), 1)), where=total[:, None] > 0)
            parts.append(stay[:, None] * after + (1 - stay[:, None]) * share)
            number.append(total)
        parts.append(whole.probabilities[begin[rows[-1]] : begin[rows[-1] + 1]][None])
        p = np.concatenate(parts)
        frames.append(
            pd.DataFrame(
                {
                    "problem_id": table.problem_ids[table.problem_of_trajectory[i]],
                    "trajectory": table.trajectory[i],
                    "position": np.arange(table.checkpoint[rows[0]], table.checkpoint[rows[-1]] + 1),
                    "entropy": entropy_of(p),
                    "gold_surprisal": surprisal(p[:, local.gold[i]], np.array(local.number[i]), config.smoothing),
                    "divergences": np.append(np.concatenate([*number, np.zeros(0)]), np.nan),
                }
            )
        )
    return pd.concat(frames, ignore_index=True) if frames else None


def _towards_pooled(counts: np.ndarray, possible: np.ndarray, recursion: Recursion) -> tuple[np.ndarray, np.ndarray]:
    """Each D_m shrunk towards its trajectory's pooled answers: shares [M, K, S], and draws with the prior's [M, S].

    Args:
        counts: float64 [M, K, S], the divergences' answers.
        possible: bool [M, K], the answers that the row's trajectory has.
        recursion: the chunk's.
    """
    begins, trajectory = np.unique(recursion.first, return_inverse=True)
    pooled = np.where(possible[:, :, None], np.add.reduceat(counts, begins, axis=0)[trajectory] + 0.5, 0.0)
    pooled /= pooled.sum(axis=1, keepdims=True)
    total = counts.sum(axis=1) + PRIOR_DRAWS
    return (counts + PRIOR_DRAWS * pooled) / total[:, None], total


def _spread(counts: np.ndarray, possible: np.ndarray, recursion: Recursion) -> tuple[np.ndarray, np.ndarray]:
    """p_m from D_m shrunk towards the trajectory's pooled answers, and Var p_m of each answer; float64 [M, K, S].

    Arguments as of `_towards_pooled`.
    """
    p, total = _towards_pooled(counts, possible, recursion)
    variance = p * (1 - p) / total[:, None]
    stay = np.exp(recursion.log_stay)
    for rows in recursion.steps[1:]:
        q = stay[rows][:, None, None]
        variance[rows] = q**2 * variance[rows + 1] + (1 - q) ** 2 * variance[rows]
        p[rows] = q * p[rows + 1] + (1 - q) * p[rows]
    return p, variance


class _Variances(NamedTuple):
    diagonal: np.ndarray
    entropy_se: np.ndarray
    bias: np.ndarray
    effective: np.ndarray
    unseen: np.ndarray


def _variances(counts: np.ndarray, possible: np.ndarray, recursion: Recursion, p: np.ndarray) -> _Variances:
    """Sampling variances of a chunk, from the divergences' counts [M, K] and the estimates p [M, K].

    The divergences of different segments are independent, so Cov_m = q^2 Cov_{m+1} + (1 - q)^2 Cov(D_m). D_m is
    shrunk towards the trajectory's pooled answers (counts + 0.5) with the weight of `PRIOR_DRAWS` draws; otherwise the
    variance of a single divergence would be 0.

    Args:
        possible: bool [M, K], the answers that the row's trajectory has.
    """
    number = counts.sum(axis=1)
    drawn, totals = _towards_pooled(counts[:, :, None], possible, recursion)
    share, total = drawn[:, :, 0], totals[:, 0]
    diagonal, mixed = np.empty_like(p), np.empty_like(p)
    squares, unseen = np.empty(len(p)), np.zeros(len(p))
    stay = np.exp(recursion.log_stay)
    covariance, previous = np.zeros((0, p.shape[1], p.shape[1])), np.zeros(0, dtype=np.int64)
    for back, rows in enumerate(recursion.steps):
        own = share[rows]
        leave = np.ones(len(rows)) if back == 0 else 1 - stay[rows]
        scale = leave**2 / total[rows]
        fresh = -scale[:, None, None] * own[:, :, None] * own[:, None, :]
        fresh[:, np.arange(p.shape[1]), np.arange(p.shape[1])] += scale[:, None] * own
        mixed[rows] = leave[:, None] * own
        if back:
            alive = np.searchsorted(previous, rows + 1)
            covariance = fresh + (stay[rows] ** 2)[:, None, None] * covariance[alive]
            mixed[rows] += stay[rows][:, None] * mixed[rows + 1]
            unseen[rows] = stay[rows] * unseen[rows + 1] + np.where(number[rows] > 0, 0.0, leave)
        else:
            covariance = fresh
        previous = rows
        diagonal[rows] = np.einsum("maa->ma", covariance)
        logs = np.log(mixed[rows], out=np.zeros_like(own), where=mixed[rows] > 0)
        squares[rows] = np.einsum("ma,mab,mb->m", logs, covariance, logs)
    ratio = np.divide(diagonal, mixed, out=np.zeros_like(p), where=(p > 0) & (mixed > 0))
    effective = (mixed * (1 - mixed)).sum(axis=1) / diagonal.sum(axis=1) - PRIOR_DRAWS
    return _Variances(diagonal, np.sqrt(np.maximum(squares, 0.0)), ratio.sum(axis=1) / 2, effective, unseen)


def decomposed_halves(
    table: RolloutTable, divergences: Divergences, alpha: float, num_splits: int, seed: int
) -> Halves:
    """`alignment.halve` with both halves estimated by the decomposition; the same splits.

    A rollout index is in one half at every checkpoint, so the halves share no draw. What curvature adds to H and s, to
    second order minus half the sum of Var p / p and half of Var p / (p + d)^2 of the gold answer, is taken off: it
    differs between checkpoints as their errors do, and would correlate H with s where nothing moves. So would the
    correction itself where all rollouts agree: `Halves.uncorrected` says where H or s is constant without it.
    """
    local, owner = table.local_answers(), table.trajectory_of_checkpoint
    member = split_halves(int(table.index_in_checkpoint().max()) + 1, num_splits, seed)
    every, share = np.ones(table.num_rollouts, dtype=bool), alpha / SMOOTHING_ROLLOUTS
    entropy = np.empty((table.num_checkpoints, member.shape[1]))
    gold, plain_entropy, plain_gold = np.empty_like(entropy), np.empty_like(entropy), np.empty_like(entropy)
    for chunk in chunks(table, local, 3 * member.shape[1]):
        p = estimate_chunk(table, local, divergences, chunk, member)
        trajectory = owner[chunk.rows]
        row, gold_code = np.arange(len(p)), local.gold[trajectory]
        possible = np.arange(chunk.width) < local.number[trajectory][:, None]
        counts = count_divergences(table, local, divergences.segment, chunk, member, every)
        mixed, variance = _spread(counts, possible, Recursion.of(table, divergences, chunk))
        gold_error = variance[row, gold_code] / (mixed[row, gold_code] + share) ** 2
        ratio = np.divide(variance, mixed, out=variance, where=(p > 0) & (mixed > 0))
        ratio[p <= 0] = 0.0
        plain_entropy[chunk.rows] = entropy_of(p)
        plain_gold[chunk.rows] = surprisal(p[row, gold_code], local.number[trajectory][:, None], alpha)
        entropy[chunk.rows] = plain_entropy[chunk.rows] + ratio.sum(axis=1) / 2
        gold[chunk.rows] = plain_gold[chunk.rows] - gold_error / 2
    count = np.broadcast_to(member.sum(axis=0, dtype=np.int32), entropy.shape)
    plain = Halves(
        entropy=plain_entropy,
        surprisal=plain_gold,
        gold_count=np.zeros_like(count),  # not read: the decomposition's surprisal is not that of a count
        count=count,
        offsets=table.trajectory_offsets,
    )
    return replace(plain, entropy=entropy, surprisal=gold, uncorrected=plain)


def half_difference(table: RolloutTable, divergences: Divergences, seed: int) -> np.ndarray:
    """float64 [T]: the share of one answer among one half of every checkpoint's own rollouts, minus its estimate by the
    decomposition from the other half, averaged over all checkpoints but the last; NaN with one.

    The expectation is 0 at any number of rollouts if tokens' probabilities, divergences and answers are right: the
    halves share no draw, segments without a divergence are weighed for (`estimate_chunk`, unbiased), and the answer,
    the most frequent one at the last checkpoint, is chosen by some of its rollouts that count nowhere else.
    Trajectories for which that is no answer, and those with fewer than 4 rollouts, are NaN too.
    """
    local, owner, row = table.local_answers(), table.trajectory_of_checkpoint, table.checkpoint_of_rollout
    member = split_halves(int(table.index_in_checkpoint().max()) + 1, 1, seed)
    choosing = (member & (np.cumsum(member, axis=0) <= member.sum(axis=0) // 2)).any(axis=1)
    chooses = choosing[table.index_in_checkpoint()] & (row == table.last[owner[row]])
    everyone = np.ones((len(member), 1), dtype=bool)
    parts = []
    for chunk in chunks(table, local, 2):
        p = estimate_chunk(table, local, divergences, chunk, member, ~chooses, unbiased=True)
        plain = count_divergences(table, local, row, chunk, member, ~chooses)
        with np.errstate(invalid="ignore"):
            plain /= plain.sum(axis=1, keepdims=True)
        offsets = table.trajectory_offsets[chunk.trajectories.start : chunk.trajectories.stop + 1] - chunk.rows.start
        votes = count_divergences(table, local, row, chunk, everyone, chooses)[offsets[1:] - 1, :, 0]
        answer = votes.argmax(axis=1)
        here, chosen = np.arange(len(p)), answer[owner[chunk.rows] - chunk.trajectories.start]
        # Both directions, each of independent halves.
        difference = (plain[here, chosen] - p[here, chosen][:, ::-1]).mean(axis=1)
        difference[offsets[1:] - 1] = 0.0
        mean = np.add.reduceat(difference, offsets[:-1]) / np.maximum(np.diff(offsets) - 1, 1)
        parts.append(np.where((answer == NULL_PLACE) | ~votes.any(axis=1), np.nan, mean))
    found = np.concatenate(parts)
    return np.where(np.diff(table.trajectory_offsets) > 1, found, np.nan)


LEAF_TOLERANCE = 0.05
"""By how much the probabilities of distinct rollouts may exceed 1. In half precision a prefix gets other probabilities
in other batches: two texts of probability about 1/2 with log-probabilities off by .05 each may sum to 1.05. A missing
token, or probabilities of other tokens than those drawn, exceed by far more where few texts are likely."""

SAME_TEXT = 0.3
"""Nats. Rollouts that agree in everything else that is stored count as one text where their log-probabilities differ by
at most this. In half precision one text may get other log-probabilities in other batches; counted twice, it would prove
what is not so. Two texts taken for one only make limits wider, by little (docs/estimators.md)."""

STAY_SIGMAS, STAY_SHARE = 6.0, 0.02
"""Rollouts that stay on the trajectory may differ from what its probabilities say by this many standard deviations, or
by this share of `chances` (`stay_difference`). Both are exceeded only by probabilities of another distribution."""


def check(table: RolloutTable, divergences: Divergences) -> str | None:
    """Why the stored probabilities cannot be those of the sampling distribution; None where nothing says so."""
    heaviest = float(leaf_sums(table).max(initial=0.0))
    if heaviest > 1 + LEAF_TOLERANCE:
        return (
            "the stored probabilities are not those of the sampling distribution: distinct rollouts of one checkpoint "
            f"sum to {heaviest:.3f}"
        )
    difference, deviation, chances = stay_difference(table, divergences)
    if abs(difference) > max(STAY_SIGMAS * deviation, STAY_SHARE * chances):
        return (
            "the stored probabilities are not those of the sampling distribution: rollouts stayed on the trajectory "
            f"{difference:+,.0f} times more often than they say, {abs(difference) / max(deviation, 1e-12):.0f} "
            "standard deviations"
        )
    return None


def leaf_sums(table: RolloutTable) -> np.ndarray:
    """float64 [G]: the summed probabilities of each checkpoint's distinct rollouts, at most 1 for the sampler's own.

    Rollouts of one length, matched tokens, answer and log-probability (to `SAME_TEXT`) count as one text, which makes
    the sum too small rather than too large. Zeros where probabilities are not known.
    """
    if table.logprob is None or table.tokens is None or not np.isfinite(table.logprob).any():
        return np.zeros(table.num_checkpoints)
    row, logprob = table.checkpoint_of_rollout, np.where(np.isfinite(table.logprob), table.logprob, -np.inf)
    matched = np.zeros_like(row) if table.matched is None else table.matched
    order = np.lexsort((logprob, table.code, matched, table.tokens, row))
    keys = np.stack([row, table.tokens, matched, table.code])[:, order]
    value = logprob[order]
    fresh = np.ones(len(order), dtype=bool)
    with np.errstate(invalid="ignore"):
        fresh[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0) | (np.diff(value) > SAME_TEXT)
    return np.bincount(row[order], weights=np.where(fresh, np.exp(value), 0.0), minlength=table.num_checkpoints)


def stay_difference(table: RolloutTable, divergences: Divergences) -> tuple[float, float, float]:
    """(difference, deviation, chances): over all segments, how many rollouts stayed to the next checkpoint minus how
    many the tokens' probabilities expect; its standard deviation; and the expected
    number of the rarer outcome, staying or diverging: the sum of alive min(q, 1 - q)."""
    owner, row = table.trajectory_of_checkpoint, table.checkpoint_of_rollout
    # Rollouts under way at a row: drawn at or before it, diverged at or after it.
    change = np.bincount(row, minlength=table.num_checkpoints + 1).astype(np.float64)
    change[1:] -= np.bincount(divergences.segment, minlength=table.num_checkpoints)
    alive = np.cumsum(change)[:-1]
    left = np.bincount(divergences.segment, minlength=table.num_checkpoints)
    stay = np.exp(divergences.log_stay)
    uncertain = divergences.known[owner] & (divergences.log_stay < 0)
    difference = (alive - left - alive * stay)[uncertain].sum()
    deviation = np.sqrt((alive * stay * (1 - stay))[uncertain].sum())
    return float(difference), float(deviation), float((alive * np.minimum(stay, 1 - stay))[uncertain].sum())
