"""Change-point estimates: answer distributions averaged over all divisions of a trajectory into stretches.

Neighbouring checkpoints that share one distribution are one stretch. A new stretch begins at each checkpoint but the
first with probability h; a stretch's distribution has a Dirichlet prior whose draws per answer are one of
`PRIOR_COUNTS`, each as likely as the others: some stretches agree on one answer, others spread over dozens, and one
prior cannot expect both (as with NSB: Nemenman, Shafee and Bialek 2002). All divisions into stretches are averaged
exactly, by their posterior probabilities (forward and backward sums, as for product partition models: Barry and
Hartigan 1992, Fearnhead 2006). h is the one of `HAZARDS` with the largest marginal likelihood over the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, logsumexp, polygamma, psi

from fastsia.sia.alignment import pearson
from fastsia.sia.decomposition import Chunk, Divergences, chunks, count_divergences, entropy_of, surprisal
from fastsia.sia.table import LocalAnswers, RolloutTable

PRIOR_COUNTS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Draws of each answer that the prior of a stretch's distribution may be worth. Chosen by fastsia."""

HAZARDS = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Candidates for h, the probability of a new stretch at a checkpoint. Chosen by fastsia."""

MOVES = 0.5
"""A trajectory has a change-point rho where the probability that it moves at all is above this. Chosen by fastsia."""


@dataclass(frozen=True)
class Smoothed:
    """Posterior moments at every checkpoint.

    Attributes:
        entropy: float64 [G], nats, posterior mean of H.
        entropy_sd: float64 [G], nats, posterior standard deviation of H.
        surprisal: float64 [G], nats, posterior mean over the divisions of the gold answer's surprisal.
        one_stretch: float64 [G], probability that nothing moves from the first checkpoint up to and including this one.
        num_gold: int64 [G], rollouts that give the gold answer.
        mode: int32 [G], code of the answer with the largest posterior mean.
        probabilities: float64 [sum of C V], posterior means, one row of V answers after another.
        offsets: int64 [T + 1], the checkpoints of each trajectory.
        hazard: the chosen h.
    """

    entropy: np.ndarray
    entropy_sd: np.ndarray
    surprisal: np.ndarray
    one_stretch: np.ndarray
    num_gold: np.ndarray
    mode: np.ndarray
    probabilities: np.ndarray
    offsets: np.ndarray
    hazard: float

    @property
    def moves(self) -> np.ndarray:
        """float64 [T], the probability that a trajectory's distribution moves at all."""
        return 1 - self.one_stretch[self.offsets[1:] - 1]

    def rho(self, rows: slice | np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """float64 [T]: correlation of the estimated H and s over some checkpoints (see `alignment.Halves.at`).

        NaN where the probability that the distribution moves among them is at most `MOVES`, and where not `has_gold`.
        """
        found = pearson(self.entropy[rows], self.surprisal[rows], offsets)
        last = np.maximum(offsets[1:] - 1, 0)
        one = self.one_stretch[rows]
        still = one[np.minimum(last, len(one) - 1)] >= 1 - MOVES if len(one) else np.ones(len(found), dtype=bool)
        return np.where(still | ~self.has_gold(rows, offsets), np.nan, found)

    def has_gold(self, rows: slice | np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """bool [T]: whether any rollout of these checkpoints gives the gold answer. Without one s follows from the
        prior and the lengths of the stretches alone."""
        found: np.ndarray = np.diff(np.append(0, np.cumsum(self.num_gold[rows]))[offsets]) > 0
        return found


@dataclass(frozen=True)
class Stretches:
    """All stretches of a batch of trajectories of C checkpoints (shorter ones end with empty counts).

    Attributes:
        counts: int64 [B, C, C, K]: draws of each answer at checkpoints a..b, indices a and b; 0 where b < a.
        evidence: float64 [B, C, C]: log-likelihood of those draws as one stretch; -inf where b < a.
        priors: float64 [B, C, C, P]: posterior probability of each of `PRIOR_COUNTS`, given that they are one.
        length: int64 [B], checkpoints of each.
        width: int64 [B], V of each.
    """

    counts: np.ndarray
    evidence: np.ndarray
    priors: np.ndarray
    length: np.ndarray
    width: np.ndarray

    @classmethod
    def of(cls, counts: np.ndarray, length: np.ndarray, width: np.ndarray) -> Stretches:
        """Sum the counts of every stretch.

        Args:
            counts: int64 [B, C, K] at each checkpoint.
            length: int64 [B].
            width: int64 [B].
        """
        cumulative = np.concatenate([np.zeros_like(counts[:, :1]), np.cumsum(counts, axis=1)], axis=1)
        inside = cumulative[:, None, 1:] - cumulative[:, :-1, None]
        upper = np.triu(np.ones(inside.shape[1:3], dtype=bool))
        inside = np.where(upper[..., None], inside, 0)
        evidence = _log_evidence(inside, width[:, None, None])
        marginal = logsumexp(evidence, axis=-1)
        priors = np.exp(evidence - marginal[..., None])
        return cls(inside, np.where(upper, marginal - np.log(len(PRIOR_COUNTS)), -np.inf), priors, length, width)

    def backward(self, hazard: float) -> np.ndarray:
        """float64 [B, C + 1]: log-probability of all draws at checkpoints a.., given that a stretch begins at a."""
        batch, longest = self.evidence.shape[:2]
        out = np.full((batch, longest + 1), -np.inf)
        out[np.arange(batch), self.length] = 0.0
        for a in range(longest - 1, -1, -1):
            follow = out[:, a + 1 :] + self._enter(hazard, np.arange(a + 1, longest + 1))
            terms = self.evidence[:, a, a:] + np.arange(longest - a) * np.log1p(-hazard) + follow
            inside = a < self.length
            out[inside, a] = logsumexp(terms[inside], axis=1)
        return out

    def _enter(self, hazard: float, place: np.ndarray) -> np.ndarray:
        """Log-probability of beginning a stretch at each place; at a trajectory's end nothing begins."""
        return np.where(place < self.length[:, None], np.log(hazard), 0.0)

    def draw_divisions(self, hazard: float, number: int, generator: np.random.Generator) -> np.ndarray:
        """int64 [B, number, C]: draws of the division into stretches, as the first checkpoint of each one's stretch.
        Checkpoints after a trajectory's end are stretches of their own."""
        batch, longest = self.evidence.shape[:2]
        backward = self.backward(hazard)
        place = np.arange(1, longest + 1)
        tail = np.where(place <= self.length[:, None], backward[:, 1:] + self._enter(hazard, place), -np.inf)
        begin = np.broadcast_to(np.arange(longest), (batch, number, longest)).copy()
        here = np.zeros((batch, number), dtype=np.int64)
        while (alive := here < self.length[:, None]).any():
            who, draw = np.nonzero(alive)
            a = here[who, draw]
            ahead = np.maximum(place - 1 - a[:, None], 0)
            logits = self.evidence[who, a] + ahead * np.log1p(-hazard) + tail[who]
            with np.errstate(divide="ignore"):
                end = np.argmax(logits + generator.gumbel(size=logits.shape), axis=1) + 1
            covered = (np.arange(longest) >= a[:, None]) & (np.arange(longest) < end[:, None])
            begin[who, draw] = np.where(covered, a[:, None], begin[who, draw])
            here[who, draw] = end
        return begin

    def posterior(self, hazard: float) -> np.ndarray:
        """float64 [B, C, C]: the probability that checkpoints a..b are one whole stretch."""
        batch, longest = self.evidence.shape[:2]
        backward = self.backward(hazard)
        weight = np.zeros((batch, longest, longest))
        forward = np.full((batch, longest + 1), -np.inf)
        forward[:, 0] = 0.0
        for a in range(longest):
            place = np.arange(a + 1, longest + 1)
            terms = forward[:, a, None] + self.evidence[:, a, a:] + np.arange(longest - a) * np.log1p(-hazard)
            terms = terms + self._enter(hazard, place)
            terms = np.where(place <= self.length[:, None], terms, -np.inf)
            forward[:, a + 1 :] = np.logaddexp(forward[:, a + 1 :], terms)
            weight[:, a, a:] = np.exp(terms + backward[:, a + 1 :] - backward[:, :1])
        return weight


def _log_evidence(counts: np.ndarray, width: np.ndarray) -> np.ndarray:
    """float64 [..., P]: log-probability of draws from one distribution under each of `PRIOR_COUNTS`.

    Args:
        counts: int64 [..., K], draws of each answer; 0 for those that do not exist.
        width: int64 [...], how many answers exist.
    """
    total = counts.sum(axis=-1)
    found = []
    for prior in PRIOR_COUNTS:
        single = gammaln(np.arange(int(counts.max()) + 1) + prior) - gammaln(prior)
        found.append(gammaln(prior * width) - gammaln(prior * width + total) + single[counts].sum(axis=-1))
    return np.stack(found, axis=-1)


def smooth(
    table: RolloutTable, alpha: float, *, at: np.ndarray | None = None, included: np.ndarray | None = None
) -> Smoothed:
    """The change-point estimates of every trajectory of a table.

    Args:
        table: The rollouts.
        alpha: smoothing of the surprisal, in counts per answer; see `decomposition.surprisal`.
        at: int64 [R], the row of checkpoints at which each rollout counts; None: that from which it was drawn. At the
            rows of `Divergences.segment` the smoothed distributions are the D_m of the decomposition.
        included: bool [R], the rollouts that count; None: all. The others still say which answers there are.
    """
    local = table.local_answers()
    longest = int(np.diff(table.trajectory_offsets).max())
    at = table.checkpoint_of_rollout if at is None else at
    included = np.ones(table.num_rollouts, dtype=bool) if included is None else included
    found = [(chunk, _stretches(table, local, chunk, at, included)) for chunk in chunks(table, local, longest)]
    hazard = _best_hazard(stretches for _, stretches in found)
    columns = (_moments(table, local, chunk, stretches, hazard, alpha) for chunk, stretches in found)
    entropy, deviation, gold, one, num_gold, mode, probabilities = map(np.concatenate, zip(*columns, strict=True))
    offsets = table.trajectory_offsets
    return Smoothed(entropy, deviation, gold, one, num_gold, mode.astype(np.int32), probabilities, offsets, hazard)


def _best_hazard(parts: Iterable[Stretches]) -> float:
    """The one of `HAZARDS` with the largest marginal likelihood over all trajectories."""
    evidence = np.sum([[stretches.backward(h)[:, 0].sum() for h in HAZARDS] for stretches in parts], axis=0)
    return HAZARDS[int(np.argmax(evidence))]


NUM_DRAWS = 100
"""Draws from the posterior for `smooth_divergences`. Chosen by fastsia."""

BAND = 1.96
"""Posterior standard deviations on either side of H."""


@dataclass(frozen=True)
class Band:
    """Entropy at every checkpoint with its 95 % credible band, float64 [G], nats."""

    entropy: np.ndarray
    low: np.ndarray
    high: np.ndarray


def smooth_divergences(table: RolloutTable, divergences: Divergences, use: np.ndarray, seed: int) -> Band:
    """Change points and decomposition together: p_m = q_m p_{m+1} + (1 - q_m) D_m of the change-point estimates of D_m.

    H of this mixture has no closed form; its moments are those of `NUM_DRAWS` draws from the posterior.

    Args:
        table: The rollouts.
        divergences: those of the table.
        use: bool [T], the trajectories that are decomposed; the others are estimated as by `smooth`.
        seed: Of the draws.
    """
    owner = table.trajectory_of_checkpoint
    row = table.checkpoint_of_rollout
    at = np.where(use[owner[row]], divergences.segment, row)
    log_stay = np.where(use[owner], divergences.log_stay, -np.inf)
    local, every = table.local_answers(), np.ones(table.num_rollouts, dtype=bool)
    found = [(chunk, _stretches(table, local, chunk, at, every)) for chunk in chunks(table, local, NUM_DRAWS)]
    hazard = _best_hazard(stretches for _, stretches in found)
    generator = np.random.Generator(np.random.Philox(key=seed))
    entropy = np.empty((table.num_checkpoints, NUM_DRAWS))
    for chunk, stretches in found:
        inside = np.arange(stretches.evidence.shape[1]) < stretches.length[:, None]
        stay = np.zeros(inside.shape)
        stay[inside] = np.exp(log_stay[chunk.rows])
        stay[np.arange(len(stay)), stretches.length - 1] = 0.0  # D of the last checkpoint is its p
        entropy[chunk.rows] = np.moveaxis(_draw_entropies(stretches, hazard, stay, generator), 1, 2)[inside]
    low, high = np.quantile(entropy, (0.025, 0.975), axis=1)
    return Band(entropy.mean(axis=1), low, high)


def _draw_entropies(
    stretches: Stretches, hazard: float, stay: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """float64 [B, draws, C]: H (nats) of draws from the posterior, given the probabilities to stay [B, C]."""
    batch, longest = stretches.evidence.shape[:2]
    begin = stretches.draw_divisions(hazard, NUM_DRAWS, generator)
    trajectory = np.arange(batch)[:, None, None]
    # A stretch's draws are counted from its first checkpoint to its last: where the next one begins.
    place = np.arange(longest)
    ends = np.where(begin != np.roll(begin, -1, axis=2), place, longest)
    ends[:, :, -1] = longest - 1
    last = np.minimum.accumulate(ends[:, :, ::-1], axis=2)[:, :, ::-1]
    heads = begin == place
    who, draw, head = np.nonzero(heads)
    tail = last[who, draw, head]
    chosen = np.cumsum(stretches.priors[who, head, tail], axis=1) > generator.random((len(who), 1))
    prior = np.array(PRIOR_COUNTS)[chosen.argmax(axis=1)]
    parameter = stretches.counts[who, head, tail] + prior[:, None]
    parameter = np.where(np.arange(parameter.shape[1]) < stretches.width[who, None], parameter, 0.0)
    p = generator.standard_gamma(parameter)
    p /= np.maximum(p.sum(axis=1, keepdims=True), 1e-300)
    number = np.zeros(heads.shape, dtype=np.int64)
    number[heads] = np.arange(len(who))
    stretch = number[trajectory, np.arange(NUM_DRAWS)[:, None], begin]
    out = np.empty(heads.shape)
    mixed = p[stretch[:, :, -1]]
    for t in range(longest - 1, -1, -1):
        q = stay[:, t][:, None, None]
        mixed = q * mixed + (1 - q) * p[stretch[:, :, t]]
        out[:, :, t] = entropy_of(mixed, axis=2)
    return out


def _stretches(
    table: RolloutTable, local: LocalAnswers, chunk: Chunk, at: np.ndarray, included: np.ndarray
) -> Stretches:
    everyone = np.ones((int(table.index_in_checkpoint().max()) + 1, 1), dtype=bool)
    rows = count_divergences(table, local, at, chunk, everyone, included)[:, :, 0]
    length = np.diff(table.trajectory_offsets)[chunk.trajectories]
    counts = np.zeros((len(length), int(length.max()), chunk.width), dtype=np.int64)
    counts[np.arange(counts.shape[1]) < length[:, None]] = rows
    return Stretches.of(counts, length, local.number[chunk.trajectories])


def _moments(
    table: RolloutTable, local: LocalAnswers, chunk: Chunk, stretches: Stretches, hazard: float, alpha: float
) -> tuple[np.ndarray, ...]:
    """The columns of `Smoothed` of a chunk."""
    weight, width = stretches.posterior(hazard), stretches.width
    there = np.arange(chunk.width) < width[:, None]
    drawn = stretches.counts.sum(axis=-1)
    mean, square, slope, level = (np.zeros(weight.shape) for _ in range(4))
    for k, prior in enumerate(PRIOR_COUNTS):
        probable, total = stretches.priors[..., k], drawn + prior * width[:, None, None]
        mean_k, square_k = _dirichlet_entropy(stretches.counts, prior, total, there)
        mean, square = mean + probable * mean_k, square + probable * square_k
        slope, level = slope + probable / total, level + probable * prior / total
    gold = local.gold[chunk.trajectories]
    num_gold = np.take_along_axis(stretches.counts, gold[:, None, None, None], axis=-1)[..., 0]
    s = surprisal(slope * num_gold + level, width[:, None, None], alpha)
    entropy = _over_stretches(weight * mean)
    variance = _over_stretches(weight * square) - entropy**2
    p = _over_stretches((weight * slope)[..., None] * stretches.counts + (weight * level)[..., None])
    one = np.cumsum(weight[:, 0, ::-1], axis=1)[:, ::-1]
    inside = np.arange(weight.shape[1]) < stretches.length[:, None]
    p = np.where(there[:, None], p, 0.0)[inside]
    owner = table.trajectory_of_checkpoint[chunk.rows]
    mode = local.global_code[local.offsets[owner] + p.argmax(axis=1)]
    kept = np.arange(chunk.width) < local.number[owner][:, None]
    here = np.diagonal(num_gold, axis1=1, axis2=2)
    columns = (entropy, np.sqrt(np.maximum(variance, 0.0)), _over_stretches(weight * s), one, here)
    return (*(column[inside] for column in columns), mode, p[kept])


def _over_stretches(values: np.ndarray) -> np.ndarray:
    """Sums of values [B, C, C, ...] over the stretches a..b that contain each checkpoint; [B, C, ...]."""
    later = np.flip(np.cumsum(np.flip(values, axis=2), axis=2), axis=2)  # over b >= t
    return np.stack([later[:, : t + 1, t].sum(axis=1) for t in range(later.shape[2])], axis=1)


def _dirichlet_entropy(
    counts: np.ndarray, prior: float, total: np.ndarray, there: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """E[H] and E[H^2], nats, of Dirichlet distributions with parameters counts + prior (Wolpert and Wolf 1995).

    Args:
        counts: int64 [B, C, C, K].
        prior: draws of each answer.
        total: float64 [B, C, C], the sums of the parameters.
        there: bool [B, K], the answers that exist.
    """
    parameter = np.arange(int(counts.max()) + 1) + prior
    inside = there[:, None, None]

    def over_answers(values: np.ndarray) -> np.ndarray:
        return np.where(inside, values[counts], 0.0).sum(axis=-1)

    one, two = psi(parameter + 1), psi(parameter + 2)
    mean = psi(total + 1) - over_answers(parameter * one) / total
    # Sum over pairs i != k of A_i A_k x_i x_k, with x = psi(A + 1) - psi(total + 2).
    end, spread = psi(total + 2), polygamma(1, total + 2)
    first = over_answers(parameter * one) - total * end
    own = over_answers((parameter * one) ** 2) - 2 * end * over_answers(parameter**2 * one)
    squares = over_answers(parameter**2)
    own = own + end**2 * squares
    pairs = first**2 - own - spread * (total**2 - squares)
    up = parameter * (parameter + 1)
    twice = over_answers(up * (two**2 + polygamma(1, parameter + 2)))
    twice = twice - 2 * end * over_answers(up * two) + (end**2 - spread) * over_answers(up)
    return mean, (pairs + twice) / (total * (total + 1))
