"""Frames as tables to read: a title, a caption, and cells as text. The page and the terminal show the same."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fastsia.sia.extras.steps import LEVEL
from fastsia.sia.registry import TABLES, TableEntry, shown_order


class Cell(str):
    """A cell as text, "value [low, high]", with its two parts apart.

    Attributes:
        value: Text of the value.
        interval: Text of the interval, empty without one.
    """

    value: str
    interval: str

    def __new__(cls, value: str, interval: str = "") -> Cell:
        cell = super().__new__(cls, f"{value} {interval}".strip())
        cell.value, cell.interval = value, interval
        return cell


@dataclass(frozen=True)
class ShownTable:
    """A table as text.

    Attributes:
        title: Its heading.
        caption: How to read it; may be empty.
        columns: Headings of the columns.
        rows: One cell for each column; a `Cell` where there may be an interval.
    """

    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def lines(self) -> list[list[str]]:
        """The rows with each interval on a line of its own, for narrow columns."""
        return [["\n".join(filter(None, _parts(cell))) for cell in row] for row in self.rows]


def _parts(cell: str) -> tuple[str, str]:
    return (cell.value, cell.interval) if isinstance(cell, Cell) else (cell, "")


def show_tables(frames: Mapping[str, pd.DataFrame]) -> list[ShownTable]:
    """Tables in the order of their registered places."""
    return [show_table(name, frames[name]) for name in sorted(frames, key=shown_order)]


def show_readings(summary: Mapping[str, Any]) -> ShownTable | None:
    """The two readings of a run's answers side by side; None where they give the same numbers."""
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
        "block that never closes has none. lenient: both are read like any text. H: mean over trajectories of the mean "
        "over their checkpoints, nats."
    )
    return ShownTable("The two readings", caption, ["reading", "accuracy", "no answer", "H", "the paper's ρ"], rows)


def format_percent(value: Any) -> str:
    """A share in percent; "undefined" where there is none."""
    return f"{100 * value:.1f} %" if defined(value) else "undefined"


def format_percents(value: Any) -> str:
    """An interval of a share in percent, or nothing."""
    return "" if value is None else f"[{100 * value[0]:.1f}, {100 * value[1]:.1f}] %"


def show_table(name: str, frame: pd.DataFrame, digits: int = 3) -> ShownTable:
    """A frame as text: columns x, x_low, x_high become one. Title and caption are those registered under `name`."""
    entry = TABLES.get(name) or TableEntry(name, name.replace("_", " "), "")
    if {"group", "num_trajectories"} <= set(frame.columns):
        frame = frame[frame["num_trajectories"] > 0]  # a group without trajectories has nothing to show
    bounds = {f"{column}_{end}" for column in frame.columns for end in ("low", "high")} & set(frame.columns)
    if {"low", "high"} <= set(frame.columns):
        bounds |= {"low", "high"}
    shown = [column for column in frame.columns if column not in bounds]
    columns = [_format_column(frame, column, bounds, digits) for column in shown]
    headings = [_heading(column) for column in shown]
    if "position" in shown and pd.api.types.is_float_dtype(frame["position"]):
        headings[shown.index("position")] = "relative position"
    return ShownTable(entry.title, entry.caption + entry.note(frame), headings, list(zip(*columns, strict=True)))


def _format_column(frame: pd.DataFrame, column: str, bounds: set[str], digits: int) -> list[str]:
    """The cells of a column with their intervals; if one number has decimals, all are written with decimals."""
    if column == "quantity":
        return [_heading(value) for value in frame[column]]
    if column.endswith(("p_value", "q_value")):
        return [format_p(value) if defined(value) else format_cell(value) for value in frame[column]]
    low, high = ("low", "high") if column == "difference" and "low" in bounds else (f"{column}_low", f"{column}_high")
    bounded = low in bounds and high in bounds
    broken = bounded or any(isinstance(x, float) and defined(x) and x % 1 for x in frame[column])
    in_tokens = column == "threshold" and "rule" in frame
    tokens = frame["rule"] == "length" if in_tokens else np.zeros(len(frame), dtype=bool)
    cells: list[str] = []
    for place, (value, whole) in enumerate(zip(frame[column], tokens, strict=True)):
        decimals = broken and defined(value) and not whole
        text = format_number(float(value), digits) if decimals else format_cell(value)
        bounds_of = [frame[end].iloc[place] for end in (low, high)] if bounded else [None]
        cells.append(Cell(text, format_interval(bounds_of if all(map(defined, bounds_of)) else None, digits)))
    return cells


_HEADLINE = (
    *("model", "task", "num_problems", "accuracy"),
    *(f"rho_{key}{end}" for key in ("pearson", "decoupled", "smoothed") for end in ("", "_correct", "_incorrect")),
    *("rho_cross_fitted", "rho_baseline", "undefined_fraction", "auc_50", "entropy_first", "entropy_final"),
    *("null_rate", "cut_rate"),
)
"""Columns of the table of runs that are read first."""


def show_runs(frame: pd.DataFrame, *, only_headline: bool = False) -> ShownTable:
    """The table of runs with a column for each run, what is read first above.

    Args:
        frame: The result of `sia.tabulate`.
        only_headline: Leave out the other quantities, and those that no run has.
    """
    known = [name for name in _HEADLINE if name in frame and (not only_headline or frame[name].notna().any())]
    if only_headline:
        known = [name for name in known if name not in ("model", "task")]
    bounds = [f"{name}_{end}" for name in known for end in ("low", "high") if f"{name}_{end}" in frame]
    others = [] if only_headline else [name for name in frame if name not in ("run", *known, *bounds)]
    shown = show_table("runs", frame[["run", *known, *bounds, *others]], digits=2)
    rows: list[list[str]] = [[name, *(row[k + 1] for row in shown.rows)] for k, name in enumerate(shown.columns[1:])]
    return ShownTable(shown.title, "One column per run.", ["", *(str(row[0]) for row in shown.rows)], rows)


_KINDS = {
    "pearson": "the paper's",
    "spearman": "Spearman",
    "cross fitted": "cross-fitted",
    "decoupled": "decoupled",
    "smoothed": "change-point",
}
"""The kinds of ρ by their keys, for reading."""


_NAMES = {
    "null_rate": "no answer",
    "cut_rate": "cut by the token limit",
    "undefined_fraction": "the paper's ρ undefined",
    "rho_baseline": "2·accuracy − 1 where ρ is defined",
    "low_edge": "bin from",
    "factor": "changed setting",
    "entropy_first": "H at the start",
    "entropy_mean": "mean H",
    "entropy_final": "H at the end",
    **{f"auc_{place}": f"AUC of −H at {place} %" for place in (25, 50, 75)},
    **{
        f"rho_{key}_{group}": f"\u00a0\u00a0ends {group}"
        for key in ("pearson", "decoupled", "smoothed")
        for group in ("correct", "incorrect")
    },
}
"""Quantities that have one name everywhere they are shown."""


def recommended_name(kind: str) -> str:
    """The name of the ρ that a summary recommends, from its key there ("decoupled" or "smoothed")."""
    return f"recommended ρ ({_KINDS[kind]})"


def _heading(name: str) -> str:
    """A column's name for reading."""
    if name in _NAMES:
        return _NAMES[name]
    heading = name.removeprefix("num_").removesuffix("_fraction").replace("_", " ").replace("rho", "ρ")
    for word in ("auc", "ece"):
        heading = re.sub(rf"\b{word}\b", word.upper(), heading)
    for key, kind in _KINDS.items():
        heading = heading.replace(f"ρ {key}", f"{kind} ρ")
    return heading


def defined(value: Any) -> bool:
    """Whether a value is a number or a text: not None, not NaN."""
    return value is not None and value is not pd.NA and not (isinstance(value, float) and math.isnan(value))


def format_number(value: Any, digits: int = 3) -> str:
    """A number for reading, with a true minus sign and no -0; "undefined" where there is none."""
    return f"{value:z.{digits}f}".replace("-", "−") if defined(value) else "undefined"


def format_p(p_value: float) -> str:
    """A p- or q-value for reading, with as many digits as show on which side of `LEVEL` it is."""
    if p_value < 0.001:
        return f"{p_value:.0e}"
    digits = 3
    while float(f"{p_value:.{digits}f}") <= LEVEL < p_value:
        digits += 1
    return f"{p_value:.{digits}f}"


def format_q(q_value: float) -> str:
    """A q-value in a sentence."""
    return "q < 0.001" if q_value < 0.001 else f"q = {format_p(q_value)}"


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
