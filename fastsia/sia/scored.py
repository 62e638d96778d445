"""A table of rollouts with everything that is computed from it, each part once and when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from fastsia.config import SIAConfig
from fastsia.sia.alignment import Halves, cross_fitted, halve, pearson, spearman
from fastsia.sia.bootstrap import Bootstrap
from fastsia.sia.curves import GRID, GROUPS, AucCurve, GroupMeans, auc_curve, grid_rows, group_means
from fastsia.sia.cut import Ends
from fastsia.sia.decomposition import (
    MOST_LEFT_OUT,
    Decomposition,
    Divergences,
    check,
    decompose,
    decomposed_halves,
    half_difference,
)
from fastsia.sia.entropy import CheckpointStats, ends_correct, gains, measure
from fastsia.sia.estimate import Resampled
from fastsia.sia.leaves import Leaves, explore
from fastsia.sia.nsb import nsb_entropy
from fastsia.sia.rarefaction import rarefied
from fastsia.sia.registry import COLUMNS
from fastsia.sia.smoother import BAND, Band, Smoothed, smooth, smooth_divergences
from fastsia.sia.table import NULL, RolloutTable
from fastsia.sia.token_traces import TokenLogprobs, TokenTraces

MEAN_CURVES: Mapping[str, Callable[[RolloutTable, CheckpointStats], np.ndarray]] = {
    "entropy": lambda table, stats: stats.entropy,
    "gold_surprisal": lambda table, stats: stats.gold_surprisal,
    "gain": lambda table, stats: gains(table, stats)[1],
    "null_rate": lambda table, stats: stats.null_rate,
    "majority_error": lambda table, stats: 1.0 - stats.majority_right,
    "entropy_miller_madow": lambda table, stats: stats.entropy_miller_madow,
    "entropy_chao_shen": lambda table, stats: stats.entropy_chao_shen,
}
"""Curves that are means over trajectories of a number [G] at each checkpoint."""


@dataclass(frozen=True)
class Scored:
    """A table of rollouts and its statistics. `RolloutTable` explains the letters of shapes.

    Attributes:
        table: The rollouts.
        config: smoothing, num_bootstrap, num_splits and seed are read.
        stats: Entropy, surprisal and counts at every checkpoint.
        halves: The same from halves of the rollouts.
        readings: The same rollouts scored with the answers of each reading ("strict", "lenient"); empty where the
            readings do not differ.
        traces: Token entropies of the trajectories, None where they are not known.
        logprobs: Log-probabilities of the trajectories' tokens, None where they are not known.
        ends: How the trajectories ended, None where that is not known.
        num_options: The most options of a problem where all have options, else None.
        origin: The run that this is a variant of.
        off_policy: Whether the trajectories were given and not drawn from the model that drew the rollouts.
    """

    table: RolloutTable
    config: SIAConfig
    stats: CheckpointStats
    halves: Halves
    readings: dict[str, Scored] = field(default_factory=dict)
    traces: TokenTraces | None = None
    logprobs: TokenLogprobs | None = None
    ends: Ends | None = None
    num_options: int | None = None
    origin: Scored | None = None
    off_policy: bool = False

    @classmethod
    def of(cls, table: RolloutTable, config: SIAConfig, *, origin: Scored | None = None) -> Scored:
        """Measure a table. Where the run has allocated its rollouts, H and s are computed from `num_rollouts`, or from
        as many as the checkpoint with the fewest has, and halves are of its first ones."""
        stats, first = measure(table, config.smoothing), table
        depth = _rarefaction_depth(table, config)
        if depth < table.count.max():
            stats = rarefied(table, stats, config.smoothing, depth)
            first = replace(table.keep(table.index_in_checkpoint() < depth), num_answers=table.num_answers)
        halves = halve(first, config.smoothing, config.num_splits, config.seed)
        return cls(table, config, stats, halves, origin=origin)

    @property
    def is_rarefied(self) -> bool:
        """Whether H and s are computed from fewer rollouts than some checkpoints have."""
        return self.rarefaction_depth < int(self.table.count.max())

    @property
    def rarefaction_depth(self) -> int:
        """Rollouts per checkpoint from which H and s are computed."""
        return _rarefaction_depth(self.table, self.config)

    @cached_property
    def bootstrap(self) -> Bootstrap:
        """Resamples of the problems; those of `origin` where it has as many problems, which are the same."""
        if self.origin is not None and self.origin.table.num_problems == self.table.num_problems:
            return self.origin.bootstrap
        return Bootstrap.draw(self.table.num_problems, self.config.num_bootstrap, self.config.seed)

    @cached_property
    def correct(self) -> np.ndarray:
        """bool [T], which trajectories end correct."""
        return ends_correct(self.table, self.stats)

    @cached_property
    def length(self) -> np.ndarray:
        """int64 [T], the position of each trajectory's last checkpoint, at least 1."""
        return np.maximum(self.table.checkpoint[self.table.last], 1)

    @cached_property
    def divergences(self) -> Divergences | str:
        """The divergences of the rollouts, or the reason why they cannot be known or used."""
        if self.config.shuffle_prefix:
            return "prefixes are shuffled, so rollouts do not continue the trajectory"
        if self.logprobs is None:
            return "the log-probabilities of the trajectories' tokens are not known"
        found = Divergences.of(self.table, self.logprobs, self.config)
        if found is None:
            return "the table lacks matched_tokens, num_tokens or finish_reason of its rollouts"
        return check(self.table, found) or found

    @cached_property
    def decomposition(self) -> Decomposition | None:
        """Estimates by the decomposition along the trajectories, NaN where they are withheld; None where it does not
        apply (see `divergences`)."""
        if isinstance(self.divergences, str):
            return None
        return decompose(self.table, self.divergences, self.config.smoothing).hide(self.table)

    @cached_property
    def decomposed_halves(self) -> Halves | None:
        """`halves` estimated by the decomposition, NaN where it is withheld."""
        if isinstance(self.divergences, str) or self.decomposition is None:
            return None
        config = self.config
        halves = decomposed_halves(self.table, self.divergences, config.smoothing, config.num_splits, config.seed)
        hidden = self.decomposition.withheld[self.table.trajectory_of_checkpoint]
        return halves.hide(hidden)

    @cached_property
    def half_difference(self) -> np.ndarray | None:
        """float64 [T]: `decomposition.half_difference`; None where the decomposition does not apply. Whether it is
        withheld for segments without a divergence does not matter: those trajectories would be chosen by the draws."""
        if isinstance(self.divergences, str) or self.decomposition is None:
            return None
        found = half_difference(self.table, self.divergences, self.config.seed)
        usable = self.divergences.known & (self.decomposition.cut_share <= MOST_LEFT_OUT)
        return np.where(usable, found, np.nan)

    @cached_property
    def leaves(self) -> Leaves | str:
        """The bounds from the distinct texts, or the reason why there are none."""
        if isinstance(self.divergences, str) or self.logprobs is None:
            return str(self.divergences)
        return explore(self.table, self.divergences, self.logprobs, self.config, self.num_options)

    @cached_property
    def entropy_nsb(self) -> np.ndarray:
        """float64 [G], nats: the NSB estimate of H."""
        return nsb_entropy(self.table)

    @cached_property
    def smoothed(self) -> Smoothed:
        """Estimates by Bayesian change points."""
        return smooth(self.table, self.config.smoothing)

    @cached_property
    def best(self) -> Band:
        """The best estimate of H with its band: the change-point one, with the decomposition where it applies."""
        if isinstance(self.divergences, str) or self.decomposition is None:
            low, high = (self.smoothed.entropy + sign * BAND * self.smoothed.entropy_sd for sign in (-1, 1))
            return Band(self.smoothed.entropy, np.maximum(low, 0.0), high)
        return smooth_divergences(self.table, self.divergences, ~self.decomposition.withheld, self.config.seed)

    @cached_property
    def before_answer(self) -> np.ndarray | None:
        """bool [G], checkpoints before the answer part begins; None where that is not known."""
        if self.traces is None:
            return None
        begins = self.traces.columns()["num_thinking_tokens"]
        return self.table.checkpoint < begins[self.table.trajectory_of_checkpoint]

    @cached_property
    def rho(self) -> dict[str, np.ndarray]:
        """The paper's alignment and two relatives, float64 [T], by the columns of the trajectories."""
        return self.plain_rho(slice(None), self.table.trajectory_offsets)

    def plain_rho(self, rows: slice | np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
        """`rho` over some checkpoints: rows as a slice or bool [G], offsets int64 [T + 1] among those that remain."""
        series = self.stats.entropy[rows], self.stats.gold_surprisal[rows], offsets
        return {
            "rho": pearson(*series),
            "rho_spearman": spearman(*series),
            "rho_cross_fitted": cross_fitted(self.halves.at(rows, offsets))[0],
        }

    def precise_rho(self, rows: slice | np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
        """The alignments from better estimates of p, over some checkpoints as in `plain_rho`; else NaN."""
        halves = self.decomposed_halves
        none = np.full(self.table.num_trajectories, np.nan)
        return {
            "rho_decoupled": none if halves is None else cross_fitted(halves.at(rows, offsets))[0],
            "rho_smoothed": self.smoothed.rho(rows, offsets),
        }

    @cached_property
    def mean_entropy(self) -> np.ndarray:
        """float64 [T], nats: the mean of H over each trajectory's checkpoints."""
        offsets = self.table.trajectory_offsets
        return np.add.reduceat(self.stats.entropy, offsets[:-1]) / np.diff(offsets)

    @cached_property
    def at_grid(self) -> np.ndarray:
        """int64 [T, len(GRID)], the checkpoint row at which each trajectory is read at each relative position."""
        return grid_rows(self.table)

    @cached_property
    def group_means(self) -> GroupMeans:
        """Means of `MEAN_CURVES` over `GRID` in each of `GROUPS`."""
        values = [curve(self.table, self.stats)[self.at_grid] for curve in MEAN_CURVES.values()]
        return group_means(self.table, np.stack(values, axis=1), self.correct, self.bootstrap)

    def mean_curve(self, name: str, group: str = "all") -> Resampled:
        """One of `MEAN_CURVES` over `GRID` in one of `GROUPS`."""
        means, g = self.group_means, GROUPS.index(group)
        place = list(MEAN_CURVES).index(name)
        return Resampled(means.value[g, place], means.samples[:, g, place], int(means.count[g]))

    @cached_property
    def auc(self) -> AucCurve:
        """AUC of -H for "ends correct" over `GRID`."""
        return auc_curve(self.table, self.stats, self.correct, GRID, self.at_grid, self.bootstrap)

    @cached_property
    def auc_change(self) -> Resampled:
        """`auc` minus its value at the first position, on the same trajectories and resamples."""
        auc = self.auc
        whole = Resampled(auc.value, auc.samples, auc.num_correct + auc.num_incorrect)
        return whole - whole[:1]

    @cached_property
    def trajectories(self) -> pd.DataFrame:
        """One row per trajectory: the method's columns, then those that are registered."""
        table, stats = self.table, self.stats
        frame = pd.DataFrame(
            {
                "problem_id": table.problem_ids[table.problem_of_trajectory],
                "trajectory": table.trajectory,
                "gold": table.answers[table.gold],
                "correct": self.correct,
                "num_checkpoints": np.diff(table.trajectory_offsets),
                "num_left_out_checkpoints": table.num_left_out,
                "last_checkpoint": table.checkpoint[table.last],
                "num_answers": table.num_answers,
                "final_mode": _texts(table, stats.mode[table.last]),
                **self.rho,
                "undefined_halves": cross_fitted(self.halves)[1],
                "first_entropy": stats.entropy[table.first],
                "final_entropy": stats.entropy[table.last],
                "mean_entropy": self.mean_entropy,
                "first_gold_surprisal": stats.gold_surprisal[table.first],
                "final_gold_surprisal": stats.gold_surprisal[table.last],
                "gain": stats.gold_surprisal[table.first] - stats.gold_surprisal[table.last],
            }
        )
        return frame.assign(**{name: x for add in COLUMNS["trajectories"] for name, x in add(self).items()})

    @cached_property
    def checkpoints(self) -> pd.DataFrame:
        """One row per checkpoint: the method's columns, then those that are registered."""
        table, stats = self.table, self.stats
        owner = table.trajectory_of_checkpoint
        since_previous, cumulative = gains(table, stats)
        frame = pd.DataFrame(
            {
                "problem_id": table.problem_ids[table.problem_of_trajectory[owner]],
                "trajectory": table.trajectory[owner],
                "checkpoint": table.checkpoint,
                "relative_position": table.checkpoint / self.length[owner],
                "num_rollouts": stats.count,
                "entropy": stats.entropy,
                "entropy_miller_madow": stats.entropy_miller_madow,
                "entropy_chao_shen": stats.entropy_chao_shen,
                "gold_surprisal": stats.gold_surprisal,
                "gain_since_previous": since_previous,
                "cumulative_gain": cumulative,
                "gain": since_previous,  # the old name, for one release
                "gold_count": stats.gold_count,
                "null_rate": stats.null_rate,
                "num_distinct": stats.num_distinct,
                "mode": _texts(table, stats.mode),
            }
        )
        return frame.assign(**{name: x for add in COLUMNS["checkpoints"] for name, x in add(self).items()})

    def mean(self, values: np.ndarray) -> Resampled:
        """Means over trajectories of the values [T, ...] that are not NaN."""
        return Resampled.mean(np.asarray(values, dtype=np.float64), self.table.problem_of_trajectory, self.bootstrap)


def _texts(table: RolloutTable, codes: np.ndarray) -> np.ndarray:
    """Answers of codes, None for the null class."""
    texts = np.array([*table.answers, None], dtype=object)
    return texts[np.where(codes == NULL, len(table.answers), codes)]


def _rarefaction_depth(table: RolloutTable, config: SIAConfig) -> int:
    """`Scored.rarefaction_depth`: all, but in a run that allocates its rollouts the same number everywhere."""
    return min(config.num_rollouts, int(table.count.min())) if config.allocates_rollouts else int(table.count.max())
