"""Calibration: whether the most frequent answer is right as often as the rollouts agree on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from fastsia.sia import registry
from fastsia.sia.estimate import Resampled
from fastsia.sia.extras.failure import PLACES, POSITIONS
from fastsia.sia.registry import COLUMNS, GroupEstimate, Quantity, add_quantity
from fastsia.sia.scored import Scored
from fastsia.sia.table import NULL

NUM_BINS = 10
"""Bins of equal width for the calibration error. Chosen by fastsia."""

SOURCES = ("rollouts", "change-point")
"""Estimates of p whose largest probability is the confidence."""


def _confidence(scored: Scored) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """By source: the probability of the most likely answer, and whether it is gold; float64 [G], NaN where the most
    likely is no answer."""
    table, stats, smoothed = scored.table, scored.stats, scored.smoothed
    owner = table.trajectory_of_checkpoint
    agrees = table.code == np.repeat(stats.mode, table.count)
    votes = np.add.reduceat(agrees.astype(np.float64), table.checkpoint_offsets[:-1])
    width = table.num_answers[owner].astype(np.int64)
    begin = np.concatenate([[0], np.cumsum(width)[:-1]])
    found = {
        "rollouts": (votes / table.count, stats.mode),
        "change-point": (np.maximum.reduceat(smoothed.probabilities, begin), smoothed.mode),
    }
    gold = table.gold[owner]
    return {
        source: (np.where(mode == NULL, np.nan, share), np.where(mode == NULL, np.nan, mode == gold))
        for source, (share, mode) in found.items()
    }


class _Binned:
    """Sums over the trajectories of each problem in bins of confidence, at `POSITIONS`."""

    def __init__(self, scored: Scored, confidence: np.ndarray, right: np.ndarray) -> None:
        rows = scored.at_grid[:, PLACES]
        self.scored, self.confidence, self.right = scored, confidence[rows], right[rows]
        there = ~np.isnan(self.confidence)
        place = np.clip((np.nan_to_num(self.confidence) * NUM_BINS).astype(np.int64), 0, NUM_BINS - 1)
        inside = there[:, :, None] & (place[:, :, None] == np.arange(NUM_BINS))
        starts = scored.table.problem_offsets[:-1]

        def total(values: np.ndarray) -> np.ndarray:
            return np.add.reduceat(np.where(inside, np.nan_to_num(values)[:, :, None], 0.0), starts, axis=0)

        self.count = total(there.astype(np.float64))
        self.stated, self.observed = total(self.confidence), total(self.right)
        self.variance = total(self.confidence * (1 - self.confidence))

    def error(self) -> Resampled:
        """The expected calibration error [positions]: mean over trajectories of |stated - observed| of their bin."""
        gap, number = self.stated - self.observed, self.count.sum(axis=2)
        weights = self.scored.bootstrap.weights
        gaps = np.abs((weights @ gap.reshape(len(gap), -1)).reshape(len(weights), *gap.shape[1:])).sum(axis=2)
        total = weights @ number
        value = np.divide(
            np.abs(gap.sum(axis=0)).sum(axis=1),
            number.sum(axis=0),
            out=np.full(len(POSITIONS), np.nan),
            where=number.sum(axis=0) > 0,
        )
        samples = np.divide(gaps, total, out=np.full(gaps.shape, np.nan), where=total > 0)
        samples[:, np.count_nonzero(number, axis=0) < 2] = np.nan
        return Resampled(value, samples, number.sum(axis=0).astype(np.int64))

    def error_if_calibrated(self) -> np.ndarray:
        """float64 [positions]: about the calibration error that this many perfectly calibrated trajectories show."""
        spread = np.sqrt(2 / np.pi * self.variance.sum(axis=0)).sum(axis=1)
        number = self.count.sum(axis=(0, 2))
        return np.divide(spread, number, out=np.full(len(number), np.nan), where=number > 0)


@registry.table(
    "calibration",
    columns="source position num_trajectories confidence accuracy overconfidence ece ece_if_calibrated brier",
    place=72,
)
def calibration_table(scored: Scored) -> pd.DataFrame:
    """Calibration of the most frequent answer.

    Is the most frequent answer right as often as it is frequent? “confidence” is the mean share of the rollouts that
    give it, “accuracy” how often it is the gold answer, “overconfidence” their difference. “ECE” is the expected
    calibration error over ten bins of equal width. It is above 0 by chance even for a perfectly calibrated model, by
    about “ECE if calibrated”, and by more with few rollouts, among which the winner's share is too high. “brier” is the
    mean squared error of the confidence; 0 is perfect, and saying ½ always gives 0.25. Source “change-point” takes the
    most likely answer of the change-point estimates instead. Trajectories whose most likely answer is none are left
    out.

    Returns:
        One row per source of `SOURCES` and position of `POSITIONS`: source, position, num_trajectories; confidence,
        accuracy, overconfidence, ece and brier with _low and _high; ece_if_calibrated.
    """
    frames = []
    for source, (confidence, right) in _confidence(scored).items():
        binned = _Binned(scored, confidence, right)
        stated, observed = scored.mean(binned.confidence), scored.mean(binned.right)
        found: dict[str, Any] = {"source": source, "position": np.array(POSITIONS), "num_trajectories": stated.n}
        found |= stated.columns("confidence") | observed.columns("accuracy")
        found |= (stated - observed).columns("overconfidence") | binned.error().columns("ece")
        found["ece_if_calibrated"] = binned.error_if_calibrated()
        frames.append(pd.DataFrame(found | scored.mean((binned.confidence - binned.right) ** 2).columns("brier")))
    return pd.concat(frames, ignore_index=True)


@registry.table("calibration_bins", columns="position low_edge num_trajectories confidence accuracy", place=73)
def bins_table(scored: Scored) -> pd.DataFrame:
    """Calibration by confidence.

    The trajectories in ten bins by the share of the rollouts that give the most frequent answer: “confidence” is the
    mean of that share in the bin, “accuracy” how often that answer is the gold answer. If the model is calibrated the
    two differ only by sampling, and with few rollouts the confidence is the larger one. Only bins with trajectories are
    shown.

    Returns:
        One row per position of `POSITIONS` and bin: position, low_edge (where the bin begins), num_trajectories,
        confidence, and accuracy with _low and _high.
    """
    binned = _Binned(scored, *_confidence(scored)["rollouts"])
    accuracy = Resampled.ratio(binned.observed, binned.count, scored.bootstrap)
    stated = np.divide(
        binned.stated.sum(axis=0), accuracy.n, out=np.zeros(accuracy.n.shape), where=accuracy.n > 0
    ).ravel()
    position, low_edge = np.meshgrid(POSITIONS, np.arange(NUM_BINS) / NUM_BINS, indexing="ij")
    columns = {name: np.ravel(values) for name, values in accuracy.columns("accuracy").items()}
    frame = pd.DataFrame(
        {
            "position": position.ravel(),
            "low_edge": low_edge.ravel(),
            "num_trajectories": accuracy.n.ravel(),
            "confidence": stated,
            **columns,
        }
    )
    return frame[frame["num_trajectories"] > 0].reset_index(drop=True)


def _mode_share(scored: Scored) -> Mapping[str, Any]:
    return {"mode_share": _confidence(scored)["rollouts"][0]}


def _brier(scored: Scored) -> Iterator[GroupEstimate]:
    """Of the most frequent answer's share, at each of `POSITIONS`."""
    binned = _Binned(scored, *_confidence(scored)["rollouts"])
    found = scored.mean((binned.confidence - binned.right) ** 2)
    for position, estimate in zip(POSITIONS, found.estimates(), strict=True):
        yield GroupEstimate(estimate, position=position)


def _calibration_error(scored: Scored) -> Iterator[GroupEstimate]:
    """Of the most frequent answer's share, at each of `POSITIONS`."""
    binned = _Binned(scored, *_confidence(scored)["rollouts"])
    expected = binned.error_if_calibrated()
    for k, estimate in enumerate(binned.error().estimates()):
        chance = float(expected[k]) if np.isfinite(expected[k]) else None
        yield GroupEstimate(estimate, position=POSITIONS[k], facts={"if_calibrated": chance})


COLUMNS["checkpoints"].append(_mode_share)
add_quantity(
    Quantity(
        "calibration_error", make=_calibration_error, key="calibration.error", compared=False, item=("position", "ece")
    )
)
add_quantity(Quantity("brier", make=_brier, key="calibration.brier", compared=False, item=("position", "brier")))
