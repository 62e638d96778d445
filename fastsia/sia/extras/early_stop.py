"""Early stopping, simulated: stored trajectories are replayed up to the checkpoint at which a rule stops them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fastsia.sia import registry
from fastsia.sia.bootstrap import Bootstrap
from fastsia.sia.estimate import Resampled
from fastsia.sia.scored import Scored
from fastsia.sia.table import NULL, RolloutTable
from fastsia.sia.token_traces import TokenTraces

TAUS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.0)
"""Thresholds of the entropy rule, nats. Chosen by fastsia, as are all settings below."""

FLAT_RANGES = (0.0, 0.05, 0.1, 0.2)
"""Largest ranges of H that count as flat, nats."""

FLAT_LENGTHS = (2, 3, 5)
"""Numbers of checkpoints over which H must be flat."""

MODE_LENGTHS = (2, 3, 4, 6, 8)
"""Numbers of checkpoints over which the mode must be the same."""

BUDGETS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
"""Fixed lengths as multiples of the run's mean length: the control, a rule without a signal."""

TOKEN_TAUS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7, 1.0)
"""Thresholds of the token-entropy rule, nats."""

MOST_LOST = 0.01
"""Largest loss of accuracy on one half of the problems at which a setting may be chosen for the other half."""

HELD_OUT_LENGTHS = tuple(0 if k < 0 else round(16 * 2 ** (k / 2)) for k in range(-1, 23))
"""Fixed lengths of the held-out table, tokens: 0 and 16 to 32,768. Multiples of the mean length of all problems would
tell something of those on which a setting is scored."""

NUM_HALVINGS = 20
"""Seeded halvings of the problems in the held-out table."""

FEWEST = 4
"""Problems below which there is nothing to halve."""

_EXACT = 1e-9  # equal entropies are summed in different orders


def _nothing_to_lose(frame: pd.DataFrame) -> str:
    """A sentence for runs in which the control, too, loses nothing, such as those without a right answer."""
    stops_at_once = frame["rule"].eq("length") & frame["saved"].eq(1)
    if frame["lost"].ne(0).any() or not stops_at_once.any():
        return ""
    never_right = "accuracy" in frame and frame["accuracy"].eq(0).all()
    why = "no answer is right at any stop" if never_right else "stopping before the first token loses nothing"
    return f" Here {why}, so no rule is worth more than the control."


@registry.table(
    "early_stop", columns="rule threshold checkpoints saved lost accuracy stopped", place=60, note=_nothing_to_lose
)
def early_stop_table(scored: Scored) -> pd.DataFrame:
    """Early stopping, simulated.

    Every trajectory is replayed up to the first checkpoint at which a rule stops it, and answers with its most
    frequent answer there. entropy: H is at most the threshold. flat: H moved by at most the threshold over this
    many checkpoints. mode: the most frequent answer was the same over this many checkpoints. token_entropy: the mean
    entropy of the tokens since the checkpoint before is at most the threshold; no rollout decides. length: this many
    tokens are written; the control, which uses no signal. “saved” is the share of all trajectories' tokens, “lost” the
    fall in accuracy against never stopping (below 0: a gain). The tokens of the rollouts from which H and the mode are
    estimated are not counted. They are usually many times what is saved, so the table shows what the signal is worth,
    not what a run would cost. An early mode is a majority vote of many continuations that go on reasoning, while the
    last one is mostly a single text's own answer: a gain comes from the vote.

    Returns:
        rule: "never", "entropy" (H <= threshold), "flat" (max H - min H <= threshold over the last `checkpoints`),
            "mode" (the same over the last `checkpoints`), "token_entropy" (<= threshold; where token entropies are
            known), "length" (at least threshold tokens). All but the last two continue where the mode is no answer.
        threshold: Nats, or tokens for "length"; null where a rule has none.
        checkpoints: Int; null where a rule has none.
        saved: Share of all trajectories' tokens that was not written.
        lost: Accuracy of the mode at the last checkpoint minus accuracy of the mode at the stop.
        accuracy: Accuracy of the mode at the stop. All three with _low and _high.
        stopped: Share of trajectories that stopped before their last checkpoint.
    """
    mean = scored.table.checkpoint[scored.table.last].mean()
    settings = list(all_settings(scored, sorted({round(mean * part) for part in BUDGETS})))
    replay = _replay(scored, settings)
    found: dict[str, Any] = {
        "rule": [setting.rule for setting in settings],
        "threshold": np.array([np.nan if setting.threshold is None else setting.threshold for setting in settings]),
        "checkpoints": pd.array([setting.checkpoints for setting in settings], dtype="Int64"),
        **replay.share(replay.saved, scored.bootstrap, of_tokens=True).columns("saved"),
        **replay.share(replay.lost, scored.bootstrap).columns("lost"),
        **replay.share(replay.right, scored.bootstrap).columns("accuracy"),
    }
    return pd.DataFrame(found | {"stopped": replay.stopped})


@registry.table("early_stop_held_out", columns="rule num_settings saved lost chosen", place=61, note=_nothing_to_lose)
def held_out_table(scored: Scored) -> pd.DataFrame | None:
    """Early stopping, with settings chosen on other problems.

    For each rule, the setting that saves most among those that lose at most one point of accuracy is chosen on one half
    of the problems and scored on the other half, in both directions and over twenty seeded halvings. “saved” and “lost”
    are therefore what the rule does on problems that its setting was not chosen on; “chosen” is the setting that was
    chosen most often, “never” where none loses so little. As above, tokens of rollouts are not counted; token_entropy
    and length need rollouts at the stop only, for the answer. Intervals are over problems, for the choices that were
    made.

    Returns:
        One row per rule: rule, num_settings (how many there were to choose from), saved and lost with _low and _high,
        chosen. None with fewer than `FEWEST` problems.
    """
    if scored.table.num_problems < FEWEST:
        return None
    settings = list(all_settings(scored, HELD_OUT_LENGTHS))
    replay = _replay(scored, settings)
    rules = list(dict.fromkeys(setting.rule for setting in settings))
    # The first setting never stops, and is always allowed.
    candidates = [[0, *(k for k, setting in enumerate(settings) if setting.rule == rule)] for rule in rules]
    found, choices = score_held_out(replay, candidates, scored.config.seed)
    return pd.DataFrame(
        {
            "rule": rules,
            "num_settings": [len(own) - 1 for own in candidates],
            **replay.share(found.saved, scored.bootstrap, of_tokens=True).columns("saved"),
            **replay.share(found.lost, scored.bootstrap).columns("lost"),
            "chosen": [settings[most_frequent(choice)].spelled for choice in choices],
        }
    )


def choose(replay: Replay, choosing: np.ndarray, candidates: Sequence[int]) -> np.ndarray:
    """int64 [n], the setting that saves most on each set of problems among those that lose at most `MOST_LOST`; the
    first of equals.

    Args:
        replay: What the settings save and lose.
        choosing: bool [n, P], the problems of each set. Nothing else is looked at.
        candidates: Settings to choose from. The first must lose nothing anywhere.
    """
    lost, saved = (choosing.astype(np.float64) @ values[:, candidates] for values in (replay.lost, replay.saved))
    allowed = lost <= (MOST_LOST + _EXACT) * (choosing @ replay.number)[:, None]
    return np.asarray(candidates)[np.where(allowed, saved, -1.0).argmax(axis=1)]


def most_frequent(choice: np.ndarray) -> int:
    """The setting that was chosen most often; the first of equals."""
    return int(np.bincount(choice).argmax())


class HeldOut(NamedTuple):
    """The results of a rule on problems on which its setting was not chosen; float64 [P, R] each, see `Replay`."""

    saved: np.ndarray
    lost: np.ndarray
    right: np.ndarray


def score_held_out(replay: Replay, candidates: Sequence[Sequence[int]], seed: int) -> tuple[HeldOut, list[np.ndarray]]:
    """Choose each rule's setting on one half of the problems and score it on the other, over `NUM_HALVINGS` halvings.

    Args:
        replay: What the settings save and lose.
        candidates: For each of R rules its settings, see `choose`.
        seed: Of the halvings.

    Returns:
        Means over the halvings, and each rule's choices, int64 [2 `NUM_HALVINGS`].
    """
    number = len(replay.number)
    generator = np.random.default_rng([seed, NUM_HALVINGS])
    first = np.zeros((NUM_HALVINGS, number), dtype=bool)
    for half in first:
        half[generator.permutation(number)[: number // 2]] = True
    choosing = np.concatenate([first, ~first])
    choices = [choose(replay, choosing, own) for own in candidates]

    def scored(values: np.ndarray) -> np.ndarray:
        # Each problem is in the half that is scored once a halving.
        each = [np.where(choosing, 0.0, values[:, choice].T).sum(axis=0) for choice in choices]
        return np.stack(each, axis=1) / NUM_HALVINGS

    return HeldOut(scored(replay.saved), scored(replay.lost), scored(replay.right)), choices


class Setting(NamedTuple):
    """One setting of a rule; stops: bool [G], where it would stop."""

    rule: str
    threshold: float | None
    checkpoints: int | None
    stops: np.ndarray

    @property
    def spelled(self) -> str:
        if self.threshold is None and self.checkpoints is None:
            return self.rule
        level = "" if self.threshold is None else f"{self.threshold:g}"
        return level if self.checkpoints is None else f"{level} over {self.checkpoints}".strip()


class Replay(NamedTuple):
    """Sums over each problem's trajectories of what each of S settings saves and loses.

    Attributes:
        saved: float64 [P, S], tokens.
        lost: float64 [P, S], right answers at the end minus right answers at the stop.
        right: float64 [P, S], right answers at the stop.
        tokens: float64 [P], of the trajectories.
        number: float64 [P], trajectories.
        stopped: float64 [S], share of all trajectories that stop before their last checkpoint.
    """

    saved: np.ndarray
    lost: np.ndarray
    right: np.ndarray
    tokens: np.ndarray
    number: np.ndarray
    stopped: np.ndarray

    @classmethod
    def of(
        cls,
        checkpoint: np.ndarray,
        trajectories: np.ndarray,
        problems: np.ndarray,
        right: np.ndarray,
        stops: Sequence[np.ndarray],
    ) -> Replay:
        """Replay every trajectory.

        Args:
            checkpoint: int64 [G], positions.
            trajectories: int64 [T + 1], each trajectory's first checkpoint.
            problems: int64 [P + 1], each problem's first trajectory.
            right: bool [G], whether the answer at each checkpoint is right.
            stops: Where each setting would stop, bool [G] each.
        """
        first, last, starts = trajectories[:-1], trajectories[1:] - 1, problems[:-1]
        rows = np.where(np.stack(stops, axis=1), np.arange(len(checkpoint))[:, None], len(checkpoint))
        stop = np.minimum(np.minimum.reduceat(rows, first, axis=0), last[:, None])
        full, right = checkpoint[last].astype(np.float64), right.astype(np.float64)
        return cls(
            saved=np.add.reduceat(full[:, None] - checkpoint[stop], starts, axis=0),
            lost=np.add.reduceat(right[last][:, None] - right[stop], starts, axis=0),
            right=np.add.reduceat(right[stop], starts, axis=0),
            tokens=np.add.reduceat(full, starts),
            number=np.diff(problems).astype(np.float64),
            stopped=(stop < last[:, None]).mean(axis=0),
        )

    def share(self, values: np.ndarray, bootstrap: Bootstrap, *, of_tokens: bool = False) -> Resampled:
        """Sums over problems of values [P, S] over all trajectories' number, or over that of their tokens."""
        below = self.tokens if of_tokens else self.number
        return Resampled.ratio(values, np.repeat(below[:, None], values.shape[1], axis=1), bootstrap)


def _replay(scored: Scored, settings: Sequence[Setting]) -> Replay:
    table, stops = scored.table, [setting.stops for setting in settings]
    place = table.checkpoint, table.trajectory_offsets, table.problem_offsets
    return Replay.of(*place, scored.stats.majority_right, stops)


def all_settings(scored: Scored, lengths: Sequence[int]) -> Iterator[Setting]:
    """All settings of all rules; the first one never stops.

    Args:
        scored: The run.
        lengths: Settings of the control, tokens.
    """
    table, stats = scored.table, scored.stats
    answered = stats.mode != NULL
    yield Setting("never", None, None, np.zeros(table.num_checkpoints, dtype=bool))
    for tau in TAUS:
        yield Setting("entropy", tau, None, answered & (stats.entropy <= tau + _EXACT))
    for length in FLAT_LENGTHS:
        spread = _spread(table, stats.entropy, length)
        for most in FLAT_RANGES:
            yield Setting("flat", most, length, answered & (spread <= most + _EXACT))
    for length in MODE_LENGTHS:
        same = _spread(table, stats.mode.astype(np.float64), length) == 0
        yield Setting("mode", None, length, answered & same)
    if scored.traces is not None:
        recent = recent_token_entropy(table, scored.traces)
        for tau in TOKEN_TAUS:
            yield Setting("token_entropy", tau, None, recent <= tau + _EXACT)
    for length in lengths:
        yield Setting("length", float(length), None, table.checkpoint >= length)


def recent_token_entropy(table: RolloutTable, traces: TokenTraces) -> np.ndarray:
    """float64 [G], nats: mean entropy of the tokens since the checkpoint before; infinite at the first checkpoint and
    where it is not known."""
    owner = table.trajectory_of_checkpoint
    sums = np.concatenate([[0.0], np.cumsum(traces.entropy, dtype=np.float64)])
    place = np.minimum(traces.offsets[owner] + table.checkpoint, traces.offsets[owner + 1])
    total, number = np.diff(sums[place], prepend=0.0), np.diff(place, prepend=0)
    number[table.first] = 0
    return np.divide(total, number, out=np.full(len(total), np.inf), where=number > 0)


def _spread(table: RolloutTable, values: np.ndarray, length: int) -> np.ndarray:
    """Range of values [G] over each checkpoint and the length - 1 before it; infinite at checkpoints with fewer before
    them."""
    low, high = values.copy(), values.copy()
    for back in range(1, length):
        np.minimum(low[back:], values[:-back], out=low[back:])
        np.maximum(high[back:], values[:-back], out=high[back:])
    place = np.arange(table.num_checkpoints) - table.first[table.trajectory_of_checkpoint]
    return np.where(place >= length - 1, high - low, np.inf)
