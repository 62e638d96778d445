"""Forecasts how much of a run remains, in tokens to compute and in seconds, from what it has drawn.

The lengths of sequences are estimated by a hazard per position (Kaplan and Meier, 1958), so that sequences that have
not ended count as well: the first ones to end are the short ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Positions that share one hazard.
_BIN = 8
# Positions at which a prior hazard counts as much as the observed one.
_PRIOR = 40.0
# Seconds after which a step counts 1/e in the speed.
_MEMORY = 90.0


class Lengths:
    """At which positions sequences end. The token at position p of a trajectory is y_{p+1}, and a rollout from
    checkpoint t draws its first token at position t."""

    def __init__(self) -> None:
        self._starts, self._stops, self._ends = np.zeros(1), np.zeros(1), np.zeros(1)
        self.count = 0

    def add(self, start: np.ndarray, length: np.ndarray, ended: np.ndarray) -> None:
        """Sequences of `length` tokens from position `start`; `ended` is False for those that were cut, or go on."""
        start, stop = start.astype(np.int64), (start + length).astype(np.int64)
        size = int(stop.max(initial=0)) + 2
        if size > len(self._starts):
            grown = 2 * size
            self._starts, self._stops, self._ends = (
                np.pad(values, (0, grown - len(values))) for values in (self._starts, self._stops, self._ends)
            )
        np.add.at(self._starts, start, 1)
        np.add.at(self._stops, stop, 1)
        np.add.at(self._ends, np.maximum(stop - 1, 0)[ended], 1)
        self.count += len(start)

    def hazard(self, size: int, going: tuple[np.ndarray, np.ndarray], prior: np.ndarray | None = None) -> np.ndarray:
        """float64 [size]: the probability that a sequence that reaches a position ends there.

        Args:
            going: (start, length) of the sequences that have not ended.
            prior: hazards where little is observed; None takes one that rises with the position, as texts have a usual
                length.
        """
        now = Lengths()
        now._starts, now._stops, now._ends = self._starts.copy(), self._stops.copy(), self._ends
        now.add(going[0], going[1], np.zeros(len(going[0]), dtype=bool))
        exposed = np.cumsum(now._starts - now._stops)
        rising = 2.0 * np.arange(len(exposed)) + 1
        slope = (now._ends.sum() + 0.5) / (exposed @ rising + size**2 / 4)
        bins = -(-max(size, len(exposed)) // _BIN)
        ends, exposed = (
            np.pad(values, (0, bins * _BIN - len(values))).reshape(bins, _BIN).sum(axis=1)
            for values in (now._ends, exposed)
        )
        if prior is None:
            before = slope * (2.0 * _BIN * np.arange(bins) + _BIN)
        else:
            before = np.pad(prior, (0, max(bins * _BIN - len(prior), 0)), mode="edge")[: bins * _BIN : _BIN]
        found = (ends + _PRIOR * before) / (exposed + _PRIOR)
        return np.repeat(np.clip(found, 1e-6, 0.9), _BIN)[:size]


class Survival:
    """Expected lengths under a hazard per position."""

    def __init__(self, hazard: np.ndarray) -> None:
        self.alive = np.maximum(np.concatenate([[1.0], np.cumprod(1 - hazard)]), 1e-280)
        self._sums = np.concatenate([[0.0], np.cumsum(self.alive)])

    def remaining(self, position: np.ndarray, limit: np.ndarray) -> np.ndarray:
        """Expected tokens that a sequence at a position still draws, if it may draw `limit`."""
        last = len(self.alive) - 1
        begin, end = np.clip(position, 0, last), np.clip(position + limit, 0, last)
        found: np.ndarray = np.minimum((self._sums[end] - self._sums[begin]) / self.alive[begin], limit)
        return np.where(limit > 0, np.maximum(found, 1.0), 0.0)

    def longest(self, position: np.ndarray, limit: np.ndarray) -> float:
        """The tokens after which one of the sequences is still drawing with a probability of about a half."""
        low, high = 0, int(limit.max(initial=0))
        while low < high:
            middle = (low + high) // 2
            begin = np.clip(position, 0, len(self.alive) - 1)
            at = np.clip(position + middle, 0, len(self.alive) - 1)
            # At least one is still drawing with a probability above 1/2 if more than ln 2 are expected to (Poisson).
            if (self.alive[at] / self.alive[begin])[middle < limit].sum() > 0.7:
                low = middle + 1
            else:
                high = middle
        return float(low)


class Speed:
    """Seconds of a step by its rows: a fixed part and a part per row, from the steps of the last minutes."""

    def __init__(self) -> None:
        self._sums = np.zeros(5)  # of weights, rows, seconds, rows², rows × seconds

    def add(self, rows: int, seconds: float) -> None:
        """Count a step."""
        if rows > 0:
            self._sums *= math.exp(-seconds / _MEMORY)
            self._sums += (1, rows, seconds, rows * rows, rows * seconds)

    def seconds(self, rows: float, steps: float) -> float | None:
        """Seconds of `steps` steps with `rows` rows together; None before the first step."""
        weight, *sums = self._sums.tolist()
        if weight == 0:
            return None
        mean_rows, mean_seconds, squares, products = (value / weight for value in sums)
        variance = squares - mean_rows**2
        per_row = (products - mean_rows * mean_seconds) / variance if variance > 0.01 * squares else 0.0
        fixed = mean_seconds - per_row * mean_rows
        if per_row <= 0 or fixed < 0:
            per_row, fixed = mean_seconds / mean_rows, 0.0
        return float(per_row * rows + fixed * steps)


@dataclass(frozen=True)
class ActiveRequests:
    """The active requests: those that have begun and are not finished.

    Attributes:
        stride, num_rollouts, max_tokens: of the requests; those of a run are alike.
        writing: int [W], tokens of the trajectories that are being drawn.
        checkpoint, length, limit: int [R], of the rollouts that have not ended; length -1 for those of trajectories
            that are not verified.
        num_lost: known tokens whose keys and values must be computed again.
    """

    stride: int
    num_rollouts: int
    max_tokens: int
    writing: np.ndarray
    checkpoint: np.ndarray
    length: np.ndarray
    limit: np.ndarray
    num_lost: int


@dataclass(frozen=True)
class Remaining:
    """The forecast rest of a run: rows to compute, rollouts to end, seconds (None where they are not known)."""

    rows: float
    rollouts: float
    seconds: float | None


class RunForecast:
    """Forecasts the rest of a run while it runs.

    Attributes:
        trajectories, rollouts: the lengths seen so far.
        speed: of the steps so far.
        num_verified: rollouts that were verified against their trajectories.
    """

    def __init__(self) -> None:
        self.trajectories, self.rollouts, self.speed = Lengths(), Lengths(), Speed()
        self.num_verified = 0

    def remaining(
        self,
        now: ActiveRequests,
        queued: int,
        *,
        prompt_rows: float,
        matched_tokens: int,
        rows_per_token: float,
        max_num_seqs: int,
    ) -> Remaining:
        """Forecast the rest of the run.

        Args:
            now: the active requests.
            queued: requests that have not begun.
            prompt_rows: rows of a prompt.
            matched_tokens: of the rollouts verified so far.
            rows_per_token: rows computed per token that rollouts drew and did not match.
            max_num_seqs: of the engine.
        """
        limit, size = now.max_tokens, 2 * now.max_tokens + 1
        verified = now.length >= 0
        length = np.maximum(now.length, 0)
        of_trajectories = self.trajectories.hazard(size, (np.zeros_like(now.writing), now.writing))
        of_rollouts = self.rollouts.hazard(size, (now.checkpoint[verified], length[verified]), of_trajectories)
        rollouts = Survival(of_rollouts)
        matched = matched_tokens / max(self.num_verified, 1)
        tokens = rollouts.remaining(now.checkpoint + length, now.limit - length)
        tokens = np.where(verified, tokens, np.maximum(tokens - matched, 0))
        rows, num_rollouts = now.num_lost + rows_per_token * tokens.sum(), float(len(tokens))
        serial = rollouts.longest(now.checkpoint + length, now.limit - length)

        # Trajectories to come, by their length T: its probability, and the tokens of their rollouts.
        alive = Survival(of_trajectories).alive[: limit + 1]
        ends = alive - np.append(alive[1:], 0.0)
        lengths = np.arange(limit + 1)
        each = np.maximum(rollouts.remaining(lengths, np.full(limit + 1, limit)) - matched, 0)
        at_stride = np.where(lengths % now.stride == 0, each, 0.0)
        of_length = now.num_rollouts * (np.cumsum(at_stride) - at_stride + each) * rows_per_token + lengths
        counts = now.num_rollouts * (-(-lengths // now.stride) + 1)
        for begin, times in [*((int(at), 1) for at in now.writing), (0, queued)]:
            if times == 0:
                continue
            chance = np.where(lengths >= min(begin, limit), ends, 0.0)
            chance /= chance.sum()
            rows += times * (float(chance @ of_length) - begin + (prompt_rows if begin == 0 else 0))
            num_rollouts += times * float(chance @ counts)
            serial = max(serial, float(chance @ lengths) - begin + float(each[0]))
        steps = max(rows / max_num_seqs, serial)
        return Remaining(float(rows), num_rollouts, self.speed.seconds(float(rows), steps))
