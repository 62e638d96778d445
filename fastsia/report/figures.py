"""The figures of a run. Drawn once, saved as PNG, as SVG, and inline in the report; the numbers go beside them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastsia.report.data import ReportData

# Okabe and Ito's colours, which the common forms of colour blindness tell apart.
INK, RULE = "#1f2430", "#9aa1ad"
BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE = "#0072b2", "#d55e00", "#009e73", "#e69f00", "#56b4e9", "#cc79a7"
GROUP_COLOR = {"all": INK, "correct": BLUE, "incorrect": VERMILLION}
GROUP_LABEL = {"all": "all", "correct": "ends correct", "incorrect": "ends incorrect"}
GROUP_LINE = {"all": "-", "correct": "-", "incorrect": (0, (5, 2))}
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)

_STYLE: dict[Any, Any] = {
    "figure.figsize": (4.8, 3.3),
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
    "legend.fontsize": 8,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Drawing:
    """One figure: `name` is its file's stem, `caption` says how to read it, `numbers` are what it shows."""

    name: str
    title: str
    caption: str
    figure: Figure
    numbers: pd.DataFrame

    def svg(self) -> str:
        """The figure as SVG, text kept as text."""
        buffer = io.StringIO()
        with mpl.rc_context({**_STYLE, "svg.hashsalt": self.name}):
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "fastsia"})
        return buffer.getvalue()

    def save(self, directory: Path) -> None:
        """Writes name.png, name.svg and name.parquet."""
        directory.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context({**_STYLE, "svg.fonttype": "path", "svg.hashsalt": self.name}):
            self.figure.savefig(directory / f"{self.name}.png", dpi=200, facecolor="white")
            self.figure.savefig(directory / f"{self.name}.svg", metadata={"Date": None, "Creator": "fastsia"})
        self.numbers.to_parquet(directory / f"{self.name}.parquet", index=False)


def draw_figures(data: ReportData, directory: Path | str) -> list[Drawing]:
    """Draws every figure that the run has numbers for into `directory`, as PNG, SVG and parquet."""
    drawings = draw(data)
    for drawing in drawings:
        drawing.save(Path(directory))
    return drawings


def draw(data: ReportData) -> list[Drawing]:
    """Every figure that the run has numbers for, in reading order."""
    drawings = (maker(data) for maker in _MAKERS)
    return [drawing for drawing in drawings if drawing is not None]


def _axes() -> tuple[Figure, Axes]:
    figure = Figure()
    return figure, figure.subplots()


def _select(frame: pd.DataFrame, curve: str, axis: str = "relative", group: str | None = None) -> pd.DataFrame:
    rows = (frame["curve"] == curve) & (frame["axis"] == axis)
    if group is not None:
        rows &= frame["group"] == group
    return frame[rows].dropna(subset=["value"])


def _plot(axes: Axes, curve: pd.DataFrame, color: str, label: str, line: object = "-") -> None:
    """One curve with its interval as a band."""
    x = curve["position"].to_numpy()
    axes.plot(x, curve["value"].to_numpy(), color=color, label=label, linestyle=line)
    axes.fill_between(x, curve["low"].to_numpy(), curve["high"].to_numpy(), color=color, alpha=0.16, linewidth=0)


def _plot_groups(axes: Axes, frame: pd.DataFrame, curve: str, groups: Iterable[str]) -> bool:
    drawn = False
    for group in groups:
        rows = _select(frame, curve, group=group)
        if len(rows):
            count = int(rows["count"].iloc[0])
            _plot(axes, rows, GROUP_COLOR[group], f"{GROUP_LABEL[group]} ({count})", GROUP_LINE[group])
            drawn = True
    return drawn


def _relative(axes: Axes) -> None:
    axes.set_xlabel("relative position in the reasoning (t / T)")
    axes.set_xlim(0, 1)


def _gain(data: ReportData) -> Drawing | None:
    with mpl.rc_context(_STYLE):
        figure, axes = _axes()
        if not _plot_groups(axes, data.curves, "gain", ("correct", "incorrect")):
            return None
        axes.axhline(0, color=RULE, linewidth=0.8)
        _relative(axes)
        axes.set_ylabel("information gain G (nats)")
        axes.legend()
    return Drawing(
        "fig1_gain",
        "Information gained about the gold answer",
        "How far the gold answer's surprisal has fallen since the start, G = s₀ − s_t, averaged over trajectories. "
        "Above 0: the reasoning so far makes the gold answer more likely. Bands: 95 % over problems.",
        figure,
        _select(data.curves, "gain"),
    )


def _auc(data: ReportData) -> Drawing | None:
    curve = _select(data.curves, "auc")
    if curve.empty:
        return None
    with mpl.rc_context(_STYLE):
        figure, axes = _axes()
        _plot(axes, curve, BLUE, "AUC")
        axes.axhline(0.5, color=RULE, linewidth=1, linestyle=(0, (2, 2)))
        axes.annotate("chance", (1, 0.5), (-2, 3), textcoords="offset points", ha="right", fontsize=8)
        _relative(axes)
        axes.set_ylabel("AUC of −H for “ends correct”")
    return Drawing(
        "fig2_auc",
        "Telling correct from incorrect early",
        "The chance that a trajectory that will end correct has lower answer entropy, at this point of its reasoning, "
        "than one that will end incorrect. ½ is no information, 1 is perfect. Band: 95 % over problems.",
        figure,
        curve,
    )


def _entropy(data: ReportData) -> Drawing | None:
    with mpl.rc_context(_STYLE):
        figure, axes = _axes()
        if not _plot_groups(axes, data.curves, "entropy", ("all", "correct", "incorrect")):
            return None
        axes.set_ylim(bottom=0)
        _relative(axes)
        axes.set_ylabel("answer entropy H (nats)")
        axes.legend()
    return Drawing(
        "fig3_entropy",
        "Uncertainty about the answer",
        "Entropy of the answers that the model would give if it continued from here, averaged over trajectories. "
        "0: always the same answer. Bands: 95 % over problems; they cover the mean plug-in entropy at this number of "
        "rollouts, which is a little below the true one.",
        figure,
        _select(data.curves, "entropy"),
    )


_MAKERS: Sequence[Callable[[ReportData], Drawing | None]] = (_entropy, _gain, _auc)

_COLOR_CLASS = {
    INK: "ink",
    RULE: "rule",
    BLUE: "blue",
    VERMILLION: "vermillion",
    GREEN: "green",
    ORANGE: "orange",
    SKY: "sky",
    PURPLE: "purple",
}
_FONT = re.compile(r"(?:(?P<weight>bold|\d+)\s+)?(?P<size>[\d.]+)px\b")


def inline_svg(drawing: Drawing) -> str:
    """The figure as an <svg> element for a page whose policy forbids inline styles and whose theme sets the colours.

    Style attributes become presentation attributes; the palette's colours become classes (f-blue, s-ink, ...).
    """
    text = drawing.svg()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.S)
    text = re.sub(r'\sstyle="([^"]*)"', _presentation, text)
    # Ids and references are unique within a figure; the page holds several.
    text = re.sub(r'\bid="', f'id="{drawing.name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', lambda m: m.group(1) + drawing.name + "-", text)
    head = f'<svg class="figure" role="img" aria-label="{drawing.title}" stroke-linejoin="round"'
    return re.sub(r"<svg\b(?=[^>]*>)", head, text, count=1).replace('xmlns="http://www.w3.org/2000/svg" ', "", 1)


def _presentation(match: re.Match[str]) -> str:
    classes, attributes = [], []
    for declaration in match.group(1).split(";"):
        name, _, value = declaration.partition(":")
        name, value = name.strip(), value.strip().replace('"', "'")
        if name == "font":
            font = _FONT.search(value)
            if font is not None:
                attributes.append(f'font-size="{font["size"]}"')
                if font["weight"]:
                    attributes.append(f'font-weight="{font["weight"]}"')
        elif name == "font-family" or not name:
            continue
        elif name in ("fill", "stroke") and value in _COLOR_CLASS:
            classes.append(f"{name[0]}-{_COLOR_CLASS[value]}")
        else:
            attributes.append(f'{name}="{value}"')
    if classes:
        attributes.append(f'class="{" ".join(classes)}"')
    return " " + " ".join(attributes)


def span(values: np.ndarray) -> tuple[float, float]:
    """Smallest and largest defined value."""
    return float(np.nanmin(values)), float(np.nanmax(values))
