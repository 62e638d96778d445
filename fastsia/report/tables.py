"""Frames as tables to read: a title, what it says, and cells as text. The page and the terminal show the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class ShownTable:
    """A table as text. caption: how to read it, may be empty. Each row has a text for each of `columns`."""

    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


_CAPTIONS = {
    "runs": ("Runs", "One row a run, with 95 % intervals over problems."),
    "differences": (
        "Differences between runs",
        "“run” less “minus”, with 95 % intervals over problems. Paired: on the problems that both have, resampled "
        "together. An interval that holds 0 says that these problems cannot tell the two apart.",
    ),
    "shuffled_prefix": (
        "Shuffled prefix (the paper's Table 2)",
        "Is it the reasoning that matters, or only its words? At each checkpoint the tokens written so far were put in "
        "random order behind the unchanged question, and new rollouts drawn from there. “original” is this run, "
        "“shuffled” that one, “difference” shuffled minus original, all on the problems that both have; “undefined” is "
        "the share of trajectories without a ρ. Where ρ falls to about 0, scrambled text no longer carries the model "
        "towards the right answer: the order of the reasoning did it. Where it stays, the words alone do. Where the "
        "original ρ is near 0 to begin with, there was nothing to lose. No row settles it alone: where nothing moves "
        "the cross-fitted ρ is 0 and the others are not; where something moves the cross-fitted ρ is too close to 0.",
    ),
    "coarse_ablation": (
        "Coarser estimate (the paper's Table 3)",
        "Would a cheaper run have said the same? “as run” is this run; “coarse” scores the same rollouts as if only "
        "half of them had been drawn, at every second checkpoint. Nothing new is drawn. If ρ hardly moves, the finding "
        "does not depend on how finely one looked. Where something moves, expect both ρ closer to 0, the cross-fitted "
        "one most, since it splits even fewer rollouts.",
    ),
    "token_level": (
        "Token level and answer level",
        "How unsure about the next token, beside how unsure about the answer. Means over trajectories, nats. “forking "
        "share” is the part of a trajectory's tokens among the fifth of this run's tokens with the highest entropy, "
        "“forking share fixed” the part above 0.672 nats, which means the same in every run. The answer part begins "
        "behind a <think> block, else at the marker that the answer is read after; “answer parts” counts the "
        "trajectories that have one, the others are thinking throughout. “answer entropy” is H at the first "
        "checkpoint, over all of them, and at the last.",
    ),
    "early_stop": (
        "Stopping early, simulated",
        "Every trajectory is replayed up to the first checkpoint where a rule says enough, and answers with its most "
        "frequent answer there. entropy: H is at most the threshold. plateau: H has moved by at most the threshold "
        "over so many checkpoints. mode: the most frequent answer has been the same over so many. length: so many "
        "tokens are written, which looks at nothing and is what a rule has to beat. “saved” is the share of all "
        "trajectories' tokens, “lost” the fall in accuracy against never stopping (below 0: a gain). Mind "
        "two things. The tokens of the rollouts that H and the mode are read from are not counted: as a rule they are "
        "many times what is saved, so this says what the signal is worth, not what a run would cost. And an early mode "
        "is a vote of many continuations, which reason on by themselves, where the last one is mostly a single text's "
        "own answer: a gain is the vote's.",
    ),
    "failure_detection": (
        "Seeing failure coming",
        "AUC for “this trajectory will end incorrect” of three signals that know no gold answer: answer entropy H; the "
        "mean entropy of the tokens written so far; and the margin, the share of the most frequent answer less that of "
        "the second. ½ is guessing. Differences are from H, paired: on the same trajectories and the same resamples.",
    ),
    "forced_answers": (
        "Forced answers",
        "Another quantity than the rest of this page: what a model says if it has to answer at once. Behind each "
        "prefix stands the cue that opens an answer, and each answer's probability is read off, with no rollout. The "
        "first two rows correlate that with the rollouts' H and s along each trajectory; “alignment” is ρ of the "
        "forced entropy and the forced gold surprisal, which share no sample; “reduction” is how many nats of gold "
        "surprisal the reasoning took away, and its AUC how well that tells trajectories that end correct.",
    ),
    "sensitivity": (
        "What ρ depends on",
        "The same rollouts scored again with another smoothing, fewer of them, or fewer checkpoints.",
    ),
    "table1": (
        "Table 1: alignment ρ by model and data set",
        "ρ is ours, with its 95 % interval over problems; difference is ours minus published; inside says whether the "
        "published value lies in our interval. “–”: not published, not run yet, or not defined. “stage” is the model's "
        "training stage, “unknown” where nobody stated it.",
    ),
    "table2": (
        "Table 2: alignment ρ with the prefix as written and shuffled",
        "As Table 1, on the problems that both runs have. change is our shuffled minus our original.",
    ),
    "table3": (
        "Table 3: alignment ρ from half the rollouts at twice the stride",
        "As Table 1. change is our coarse minus our original; both are scored from the same stored rollouts.",
    ),
    "fig1": (
        "Figure 1: how early the information comes, aligned models",
        "The final gain in nats of trajectories that end correct and of those that end incorrect (below 0: a loss), "
        "and the share of it that has come by a quarter, a half, three quarters of the way; “–” where the final gain "
        "cannot be told from 0. Its sign follows from the outcome, since the answer is written down by then.",
    ),
    "fig2": (
        "Figure 2: telling correct from incorrect, aligned models",
        "AUC of −H for “ends correct” at parts of the way, then by tokens written: at the last prefix length that at "
        "least half of the trajectories reach, and half-way to it. ½ is guessing.",
    ),
    "fig3": (
        "Figure 3: mean answer entropy by model family",
        "level: of the last fifth, nats. onset: the part of the way from which the mean stays within 0.05 nats of it; "
        "1 means that there is no plateau. rebound: how far it rises again after its lowest point, nats; sampling "
        "noise alone makes it some hundredths of a nat.",
    ),
    "fig4": (
        "Figure 4: how early the information comes, non-aligned models",
        "As Figure 1, for base models.",
    ),
    "fig5": (
        "Figure 5: telling correct from incorrect, non-aligned models",
        "As Figure 2, for base models.",
    ),
}


def show_tables(frames: Mapping[str, pd.DataFrame]) -> list[ShownTable]:
    """All of a run's tables: the paper's first, those that have no caption last."""
    order = list(_CAPTIONS)
    places = {name: order.index(name) if name in order else len(order) for name in frames}
    return [show_table(name, frames[name]) for name in sorted(frames, key=lambda name: places[name])]


def show_readings(summary: Mapping[str, Any]) -> ShownTable | None:
    """The two readings of a run's answers side by side; None where they do not differ."""
    readings = summary.get("readings")
    if not readings or readings["strict"] == readings["lenient"]:
        return None
    config = summary.get("config") or {}
    rows = [
        [
            f"{name} (this run's)" if name == config.get("answer_reading") else name,
            format_percent(reading["accuracy"]),
            format_percent(reading["null_rate"]),
            format_number(reading["entropy"]),
            format_number(reading["rho"]),
        ]
        for name, reading in readings.items()
    ]
    caption = (
        "strict: a text that the token limit cut has an answer only where it had stated one completely, and a <think> "
        "block that never closes has none. lenient: both are read like any text. H: mean over all checkpoints, nats."
    )
    return ShownTable("The two readings", caption, ["reading", "accuracy", "null rate", "H", "ρ, the paper's"], rows)


def format_percent(value: Any) -> str:
    """A share in percent; "undefined" where there is none."""
    return f"{100 * value:.1f} %" if defined(value) else "undefined"


def show_table(name: str, frame: pd.DataFrame, digits: int = 3) -> ShownTable:
    """A frame to read: columns x, x_low, x_high become one, "value [low, high]". name: of its title and caption."""
    title, caption = _CAPTIONS.get(name, (name.replace("_", " "), ""))
    bounds = {f"{column}_{end}" for column in frame.columns for end in ("low", "high")} & set(frame.columns)
    if {"low", "high"} <= set(frame.columns):
        bounds |= {"low", "high"}
    shown = [column for column in frame.columns if column not in bounds]
    columns = [_spell_column(frame, column, bounds, digits) for column in shown]
    return ShownTable(title, caption, [_spell_name(column) for column in shown], list(zip(*columns, strict=True)))


def _spell_column(frame: pd.DataFrame, column: str, bounds: set[str], digits: int) -> list[str]:
    """The cells of a column with their intervals; one number of it with decimals gives all of them decimals."""
    if column == "quantity":
        return [_spell_name(value) for value in frame[column]]
    low, high = ("low", "high") if column == "difference" and "low" in bounds else (f"{column}_low", f"{column}_high")
    bounded = low in bounds and high in bounds
    broken = bounded or any(isinstance(x, float) and defined(x) and x % 1 for x in frame[column])
    cells = []
    for place, value in enumerate(frame[column]):
        text = format_number(float(value), digits) if broken and defined(value) else format_cell(value)
        if bounded and defined(frame[low].iloc[place]) and defined(frame[high].iloc[place]):
            text += " " + format_interval((frame[low].iloc[place], frame[high].iloc[place]), digits)
        cells.append(text)
    return cells


def _spell_name(name: str) -> str:
    """A column's name for reading."""
    spelled = name.removeprefix("num_").removesuffix("_fraction").replace("_", " ").replace("rho", "ρ")
    return spelled.replace("ρ pearson", "ρ, the paper's").replace("ρ cross fitted", "ρ, cross-fitted")


def defined(value: Any) -> bool:
    """Whether there is a number or a text: not None, not NaN."""
    return value is not None and value is not pd.NA and not (isinstance(value, float) and math.isnan(value))


def format_number(value: Any, digits: int = 3) -> str:
    """A number for reading, with a true minus sign; "undefined" where there is none."""
    return f"{value:.{digits}f}".replace("-", "−") if defined(value) else "undefined"


def format_interval(value: Any, digits: int = 3) -> str:
    """[low, high], or nothing."""
    return "" if value is None else f"[{format_number(value[0], digits)}, {format_number(value[1], digits)}]"


def format_cell(value: Any) -> str:
    """A table's cell."""
    if not defined(value):
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)) and not float(value).is_integer():
        return format_number(float(value))
    return f"{value:.0f}".replace("-", "−") if isinstance(value, (float, np.floating)) else str(value)


def format_count(number: int, noun: str) -> str:
    """1 problem, 1,319 problems, 2 trajectories."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
