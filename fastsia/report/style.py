"""Style of the figures: palette, matplotlib settings, and the marks that figures share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from fastsia.sia import spread

# Okabe and Ito's colours, which the common forms of colour blindness tell apart.
INK, RULE = "#1f2430", "#9aa1ad"
BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE = "#0072b2", "#d55e00", "#009e73", "#e69f00", "#56b4e9", "#cc79a7"
GROUP_COLOR = {"all": INK, "correct": BLUE, "incorrect": VERMILLION}
GROUP_LABEL = {"all": "all", "correct": "ends correct", "incorrect": "ends incorrect"}
GROUP_LINE: dict[str, Any] = {"all": "-", "correct": "-", "incorrect": (0, (5, 2))}
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)

STYLE: dict[Any, Any] = {
    "figure.figsize": (4.2, 2.95),
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.facecolor": "none",
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a run may be called anything
}

_DOTTED: Any = (0, (2, 2))


def select(frame: pd.DataFrame, curve: str, axis: str = "relative", group: str | None = None) -> pd.DataFrame:
    """The points of a curve (of all groups without `group`) that are defined."""
    rows = (frame["curve"] == curve) & (frame["axis"] == axis)
    if group is not None:
        rows &= frame["group"] == group
    return frame[rows].dropna(subset=["value"])


def final_gain_is_certain(curves: pd.DataFrame, group: str) -> bool:
    """Whether the interval of a group's final gain excludes 0; otherwise shares of it are undefined."""
    total = select(curves, "gain", group=group).tail(1)
    return len(total) > 0 and bool(total["low"].iloc[0] > 0 or total["high"].iloc[0] < 0)


def plot(axes: Axes, curve: pd.DataFrame, color: str, label: str, line: Any = "-", band: bool = True) -> None:
    """One curve with its interval as a band."""
    x = curve["position"].to_numpy()
    axes.plot(x, curve["value"].to_numpy(), color=color, label=label, linestyle=line)
    if band:
        axes.fill_between(x, curve["low"].to_numpy(), curve["high"].to_numpy(), color=color, alpha=0.16, linewidth=0)


def plot_groups(axes: Axes, frame: pd.DataFrame, curve: str, groups: Iterable[str]) -> bool:
    """A curve for each group that has one, without that of all where one outcome has them all; whether any has."""
    parts = {group: rows for group in groups if len(rows := select(frame, curve, group=group))}
    outcomes = parts.keys() - {"all"}
    if len(outcomes) == 1 and "all" in parts:
        del parts["all"]
    for group, rows in parts.items():
        number = int(rows["count"].iloc[0])
        plot(axes, rows, GROUP_COLOR[group], f"{GROUP_LABEL[group]} ({number})", GROUP_LINE[group])
    return len(parts) > 0


def plot_plateau(axes: Axes, summary: Any, color: str, alpha: float, label: str = "") -> None:
    """Mark where mean entropy stays near its final level, if it does."""
    flat = summary.get("saturation") or {}
    if flat.get("level") is None or flat.get("onset") is None or flat["onset"] >= 1:
        return
    axes.hlines(flat["level"], flat["onset"], 1, color=color, linewidth=5, alpha=alpha)
    if label:
        place: Any = {"xytext": (-2, 5), "textcoords": "offset points", "ha": "right"}
        axes.annotate(label, (1, flat["level"]), color=color, **place)


def plot_rho(axes: Axes, frame: pd.DataFrame, labels: Sequence[str], inches: float) -> None:
    """The paper's and the cross-fitted rho of each row of a frame, with their intervals, one below the other.

    Args:
        axes: To draw into.
        frame: Columns rho_pearson and rho_cross_fitted with _low and _high.
        labels: Of the rows.
        inches: Height of the figure.
    """
    axes.figure.set_size_inches(4.2, inches)  # type: ignore[union-attr]
    height = np.arange(len(frame))[::-1]
    looks = (
        ("rho_pearson", "the paper's ρ", ORANGE, 0.12, "s"),
        ("rho_cross_fitted", "cross-fitted ρ", BLUE, -0.12, "o"),
    )
    for column, label, color, shift, marker in looks:
        value, low, high = spread(frame, column)
        axes.hlines(height + shift, low, high, color=color, linewidth=1.6)
        axes.plot(value, height + shift, marker, color=color, markersize=4.5, label=label)
    mark_zero(axes, vertical=True)
    axes.set_yticks(height, labels)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("mean ρ (95 %)")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)


def mark_zero(axes: Axes, *, vertical: bool = False) -> None:
    """A thin line at 0."""
    (axes.axvline if vertical else axes.axhline)(0, color=RULE, linewidth=0.8)


def mark_diagonal(axes: Axes) -> None:
    """A dotted line for shares that come evenly."""
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=1, linestyle=_DOTTED)


def mark_chance(axes: Axes) -> None:
    """A dotted line at an AUC of 1/2."""
    axes.axhline(0.5, color=RULE, linewidth=1, linestyle=_DOTTED)
    place: Any = {"xytext": (0, 3), "xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate("chance", (0.01, 0.5), **place)


def label_axes(axes: Axes, ylabel: str, axis: str = "relative") -> None:
    """Names both axes; the horizontal one is relative position or tokens."""
    if axis == "relative":
        axes.set_xlabel("relative position in the reasoning (t / T)")
        axes.set_xlim(0, 1)
    else:
        axes.set_xlabel("position in the reasoning (tokens)")
    axes.set_ylabel(ylabel)


def legend_below(axes: Axes, number: int | None = None) -> None:
    """Put the legend under the axes, where it covers no data, and enlarge the figure by its rows.

    Args:
        axes: Of the figure.
        number: Entries of the legend; None: they are counted.
    """
    labels = axes.get_legend_handles_labels()[1]
    number = len(labels) if number is None else number
    columns = 2 if max(map(len, labels), default=0) <= 21 else 1  # of longer ones two are wider than the figure
    axes.figure.set_size_inches(4.2, 2.95 + 0.2 * -(-number // columns))  # type: ignore[union-attr]
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns)


def shorten(label: str, most: int = 28) -> str:
    """A label of at most `most` characters; its middle is left out."""
    half = (most - 1) // 2
    return label if len(label) <= most else f"{label[:half]}…{label[-half:]}"
