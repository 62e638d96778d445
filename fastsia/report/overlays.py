"""Figures of several runs: curves overlaid, panels side by side, one mark per run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastsia.report.data import ReportData
from fastsia.report.drawing import Drawing
from fastsia.report.style import (
    CYCLE,
    STYLE,
    final_gain_is_certain,
    label_axes,
    legend_below,
    mark_chance,
    mark_diagonal,
    mark_zero,
    plot,
    plot_groups,
    plot_plateau,
    plot_rho,
    select,
    shorten,
)
from fastsia.sia import side_by_side, spread, tabulate

OUTCOMES = ("correct", "incorrect")
_FEW = 4
"""The largest number of curves that are drawn with their bands and a legend inside the figure."""
_BANDS = "Bands are 95 % intervals over problems."
_NO_BANDS = "The 95 % intervals are in the numbers beside the figure; so many bands would hide the curves."


@dataclass(frozen=True)
class Overlay:
    """One curve of several runs in one figure.

    Attributes:
        name: Stem of its files.
        title: Its heading on a page.
        curve: As in `Analysis.curves`.
        group: As in `Analysis.curves`.
        unit: Label of the vertical axis.
        axis: As in `Analysis.curves`.
    """

    name: str
    title: str
    curve: str
    group: str
    unit: str
    axis: str = "relative"


COMPARED = (
    Overlay("fig3_entropy", "Uncertainty about the answer", "entropy", "all", "answer entropy H (nats)"),
    Overlay("fig1_gain", "Gain of trajectories that end correct", "gain", "correct", "cumulative gain G (nats)"),
    Overlay("fig1_gain_share", "Early accumulation", "gain_share", "correct", "share of the final gain"),
    Overlay("fig2_auc", "Telling correct from incorrect early", "auc", "all", "AUC of −H for “ends correct”"),
)
"""The curves that `draw_comparison` overlays."""


def draw_comparison(runs: Mapping[str, ReportData], directory: Path | str | None = None) -> list[Drawing]:
    """Figures of several runs, one colour per run: entropy, gain, gain share, AUC and rho; token entropy against answer
    entropy where two runs have token entropies.

    Args:
        runs: By label.
        directory: Each figure is saved there as PNG, SVG and parquet; None: nothing is saved.
    """
    found = [draw_overlay(look, runs) for look in COMPARED]
    found += [_compare_rho(tabulate({label: data.summary for label, data in runs.items()})), _compare_levels(runs)]
    drawings = [drawing for drawing in found if drawing is not None]
    if directory is not None:
        for drawing in drawings:
            drawing.save(Path(directory))
    return drawings


def draw_overlay(look: Overlay, runs: Mapping[str, ReportData]) -> Drawing | None:
    """One curve of each run that has it, in one figure; None where none has.

    Shares of a gain that is indistinguishable from 0 are left out.
    """
    parts = {
        label: part
        for label, data in runs.items()
        if len(part := select(data.curves, look.curve, look.axis, look.group))
        and (look.curve != "gain_share" or final_gain_is_certain(data.curves, look.group))
    }
    if not parts:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure()
        axes = figure.subplots()
        _plot_runs(axes, parts, list(runs))
        if look.curve == "auc":
            mark_chance(axes)
        label_axes(axes, look.unit, look.axis)
        if look.curve == "entropy":
            axes.set_ylim(bottom=0)
        legend_below(axes, len(parts))
    return Drawing(look.name, look.title, _BANDS if len(parts) <= _FEW else _NO_BANDS, figure, _labelled(parts))


def draw_families(name: str, families: Mapping[str, Mapping[str, ReportData]]) -> Drawing | None:
    """Mean answer entropy over the reasoning, a panel for each family of models, a curve for each of its runs.

    Plateaus are marked as in a run's own figure. None where no run has the curve.
    """
    parts = {
        family: {label: select(data.curves, "entropy", group="all") for label, data in runs.items()}
        for family, runs in families.items()
    }
    if not any(len(part) for panel in parts.values() for part in panel.values()):
        return None

    def fill(axes: Axes, family: str) -> None:
        _plot_runs(axes, parts[family], list(parts[family]))
        for place, data in enumerate(families[family].values()):
            plot_plateau(axes, data.summary, CYCLE[place % len(CYCLE)], 0.3)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7)

    figure = _panels({family: family for family in parts}, "answer entropy H (nats)", fill, share_scale=True)
    numbers = [_labelled(panel).assign(family=family) for family, panel in parts.items()]
    caption = f"Thick pale lines are plateaus: the mean of the last fifth, from where the curve stays near it. {_BANDS}"
    return Drawing(name, "Mean answer entropy by model family", caption, figure, pd.concat(numbers, ignore_index=True))


def draw_outcomes(name: str, title: str, curve: str, unit: str, runs: Mapping[str, ReportData]) -> Drawing | None:
    """One curve of trajectories that end correct and of those that end incorrect, a panel for each run.

    Shares of a gain that is indistinguishable from 0 are left out, and the panel says so. None where no run has the
    curve.
    """
    is_share = curve == "gain_share"
    parts = {
        label: {
            group: select(data.curves, curve, group=group)
            for group in OUTCOMES
            if not is_share or final_gain_is_certain(data.curves, group)
        }
        for label, data in runs.items()
    }
    if not any(len(part) for panel in parts.values() for part in panel.values()):
        return None

    def fill(axes: Axes, label: str) -> None:
        drawn = plot_groups(axes, runs[label].curves, curve, parts[label])
        (mark_diagonal if is_share else mark_zero)(axes)
        if drawn:
            axes.legend(fontsize=7)
        else:
            text = "final gain is indistinguishable from 0"
            axes.annotate(text, (0.5, 0.5), xycoords="axes fraction", ha="center", fontsize=8)

    figure = _panels({label: shorten(label, 36) for label in parts}, unit, fill)
    numbers = [part.assign(run=label) for label, panel in parts.items() for part in panel.values()]
    caption = f"One panel per model, with its training stage. {_BANDS}"
    if is_share:
        caption += " A group whose final gain is indistinguishable from 0 is not drawn."
    return Drawing(name, title, caption, figure, pd.concat(numbers, ignore_index=True))


def _labelled(parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([part.assign(run=label) for label, part in parts.items()], ignore_index=True)


def _panels(
    titles: Mapping[str, str], unit: str, fill: Callable[[Axes, str], None], *, share_scale: bool = False
) -> Figure:
    """A figure of panels over relative position, up to three a row; `fill` draws each by its key."""
    columns = min(3, len(titles))
    rows = -(-len(titles) // columns)
    with mpl.rc_context({**STYLE, "figure.figsize": (0.9 + 3.3 * columns, 0.3 + 2.65 * rows)}):
        figure = Figure()
        panels = figure.subplots(rows, columns, squeeze=False, sharey=share_scale)
        for axes in panels.flat[len(titles) :]:
            axes.set_axis_off()
        for axes, (key, title) in zip(panels.flat, titles.items(), strict=False):
            fill(axes, key)
            axes.set_title(title)
            label_axes(axes, "")
        for axes in panels[:, 0]:
            axes.set_ylabel(unit)
    return figure


def _plot_runs(axes: Axes, parts: Mapping[str, pd.DataFrame], runs: Sequence[str]) -> None:
    """One curve per run; its place in `runs` decides colour and line, which are the same in every figure."""
    looks = [(color, line) for line in ("-", (0, (5, 2)), (0, (1, 1.5))) for color in CYCLE]
    for label, part in parts.items():
        color, line = looks[runs.index(label) % len(looks)]
        plot(axes, part, color, shorten(label), line, band=len(parts) <= _FEW)


def _compare_rho(table: pd.DataFrame) -> Drawing:
    with mpl.rc_context(STYLE):
        figure = Figure()
        plot_rho(
            figure.subplots(), table, [shorten(label) for label in table["run"]], max(2.4, 1.1 + 0.35 * len(table))
        )
    return Drawing("rho", "Alignment by run", "Bars are 95 % intervals over problems.", figure, table)


def _compare_levels(runs: Mapping[str, ReportData]) -> Drawing | None:
    frames = {label: data.tables["token_level"] for label, data in runs.items() if "token_level" in data.tables}
    if len(frames) < 2:
        return None
    numbers = side_by_side(frames)
    with mpl.rc_context(STYLE):
        figure = Figure()
        axes = figure.subplots()
        for place, label in enumerate(runs):
            row = numbers[(numbers["run"] == label) & (numbers["group"] == "all")]
            if row.empty:
                continue
            color, marker = CYCLE[place % len(CYCLE)], "os^dvP"[place // len(CYCLE) % 6]
            (x, x_low, x_high), (y, y_low, y_high) = spread(row, "token_entropy"), spread(row, "answer_entropy_mean")
            axes.hlines(y, x_low, x_high, color=color, linewidth=1.6)
            axes.vlines(x, y_low, y_high, color=color, linewidth=1.6)
            axes.plot(x, y, marker, color=color, markersize=5, label=shorten(label))
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("mean token entropy (nats)")
        axes.set_ylabel("mean answer entropy H (nats)")
        legend_below(axes, len(frames))  # inside it might cover a bar
    return Drawing(
        "token_and_answer_entropy",
        "Token entropy against answer entropy",
        "One mark per run: entropy of the next token along its texts against entropy of the answer, both averaged over "
        "each trajectory. The two may change independently from one training stage to the next. Bars are 95 % "
        "intervals over problems.",
        figure,
        numbers,
    )
