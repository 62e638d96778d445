"""The figures of a run. Drawn once, saved as PNG, as SVG, and inline in the report; the numbers go beside them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastsia.files import replacing, write_parquet
from fastsia.report.data import ReportData
from fastsia.sia.compare import side_by_side, tabulate

# Okabe and Ito's colours, which the common forms of colour blindness tell apart.
INK, RULE = "#1f2430", "#9aa1ad"
BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE = "#0072b2", "#d55e00", "#009e73", "#e69f00", "#56b4e9", "#cc79a7"
GROUP_COLOR = {"all": INK, "correct": BLUE, "incorrect": VERMILLION}
GROUP_LABEL = {"all": "all", "correct": "ends correct", "incorrect": "ends incorrect"}
GROUP_LINE: dict[str, Any] = {"all": "-", "correct": "-", "incorrect": (0, (5, 2))}
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)

_STYLE: dict[Any, Any] = {
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
    "legend.fontsize": 8,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a run may be called anything
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
            with replacing(directory / f"{self.name}.png") as file:
                self.figure.savefig(file, format="png", dpi=200, facecolor="white")
            with replacing(directory / f"{self.name}.svg") as file:
                self.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": "fastsia"})
        write_parquet(directory / f"{self.name}.parquet", self.numbers)


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


def _plot(axes: Axes, curve: pd.DataFrame, color: str, label: str, line: Any = "-", band: bool = True) -> None:
    """One curve with its interval as a band."""
    x = curve["position"].to_numpy()
    axes.plot(x, curve["value"].to_numpy(), color=color, label=label, linestyle=line)
    if band:
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


def _entropy(data: ReportData) -> Drawing | None:
    with mpl.rc_context(_STYLE):
        figure, axes = _axes()
        if not _plot_groups(axes, data.curves, "entropy", ("all", "correct", "incorrect")):
            return None
        flat = data.summary.get("saturation") or {}
        if flat.get("level") is not None and flat.get("onset") is not None and flat["onset"] < 1:
            axes.hlines(flat["level"], flat["onset"], 1, color=GREEN, linewidth=5, alpha=0.35)
            axes.annotate(
                "plateau", (1, flat["level"]), (-2, 5), textcoords="offset points", ha="right", color=GREEN, fontsize=8
            )
        axes.set_ylim(bottom=0)
        _relative(axes)
        axes.set_ylabel("answer entropy H (nats)")
        axes.legend()
    return Drawing(
        "fig3_entropy",
        "Uncertainty about the answer",
        "Entropy of the answers that the model would give if it went on from here, averaged over trajectories. "
        "0 means always the same answer. Along a model's own text the mean does not rise with the tokens written, in "
        "expectation and whatever the model, so a fall is no finding. Bands are 95 % intervals over problems; they "
        "cover the mean plug-in entropy at this number of rollouts, which is a little below the true one.",
        figure,
        _select(data.curves, "entropy"),
    )


def _gain(data: ReportData) -> Drawing | None:
    with mpl.rc_context(_STYLE):
        figure, axes = _axes()
        if not _plot_groups(axes, data.curves, "gain", ("correct", "incorrect")):
            return None
        axes.axhline(0, color=RULE, linewidth=0.8)
        _relative(axes)
        axes.set_ylabel("cumulative gain G (nats)")
        axes.legend()
    return Drawing(
        "fig1_gain",
        "Information gained about the gold answer",
        "How far the gold answer's surprisal has fallen since the start, averaged over trajectories. Above 0 the "
        "reasoning so far has made the gold answer more likely; below 0, less likely. The sign at the end follows from "
        "the outcome, since the answer is written down by then; over all trajectories the mean is at most 0 in "
        "expectation. Bands are 95 % over problems.",
        figure,
        _select(data.curves, "gain"),
    )


def _gains_surely(curves: pd.DataFrame, group: str) -> bool:
    """Whether the group's final gain can be told from 0: of nothing there is no share."""
    total = _select(curves, "gain", group=group).tail(1)
    return len(total) > 0 and bool(total["low"].iloc[0] > 0 or total["high"].iloc[0] < 0)


def _gain_share(data: ReportData) -> Drawing | None:
    """Early accumulation."""
    sound = [group for group in ("correct", "incorrect") if _gains_surely(data.curves, group)]
    with mpl.rc_context(_STYLE):
        figure, axes = _axes()
        if not _plot_groups(axes, data.curves, "gain_share", sound):
            return None
        axes.plot([0, 1], [0, 1], color=RULE, linewidth=1, linestyle=(0, (2, 2)))
        _relative(axes)
        axes.set_ylabel("share of the final gain")
        axes.legend()
    return Drawing(
        "fig1_gain_share",
        "How early the information comes",
        "Mean gain so far over mean gain in the end (for those that end incorrect, mostly a loss). Above the dotted "
        "diagonal the information comes early in the reasoning. A group whose final gain cannot be told from 0 has no "
        "share to speak of and is not drawn.",
        figure,
        _select(data.curves, "gain_share"),
    )


def _auc(data: ReportData) -> Drawing | None:
    curve = _select(data.curves, "auc")
    if curve.empty:
        return None
    with mpl.rc_context(_STYLE):
        figure, axes = _axes()
        _plot(axes, curve, BLUE, "AUC")
        _chance(axes)
        _relative(axes)
        axes.set_ylabel("AUC of −H for “ends correct”")
    return Drawing(
        "fig2_auc",
        "Telling correct from incorrect early",
        "The chance that a trajectory that will end correct has the lower answer entropy, at this point of its "
        "reasoning, of it and one that will end incorrect. ½ says nothing, 1 is perfect. Band: 95 % over problems.",
        figure,
        curve,
    )


def _auc_tokens(data: ReportData) -> Drawing | None:
    curve = _select(data.curves, "auc", "tokens")
    if len(curve) < 2:
        return None
    with mpl.rc_context(_STYLE):
        figure, axes = _axes()
        _plot(axes, curve, BLUE, "AUC")
        _chance(axes)
        axes.set_xlabel("position in the reasoning (tokens)")
        axes.set_ylabel("AUC of −H for “ends correct”")
        left = axes.twinx()
        left.plot(curve["position"], curve["count"], color=ORANGE, linewidth=1.2, linestyle=(0, (4, 2)))
        left.set_ylim(bottom=0)
        left.set_ylabel("trajectories left (dashed)")
        left.grid(False)
    return Drawing(
        "fig2_auc_tokens",
        "The same, by tokens written",
        "Trajectories end at different lengths, so fewer are left further on (dashed, right axis): late points compare "
        "only the long ones.",
        figure,
        curve,
    )


def _chance(axes: Axes) -> None:
    axes.axhline(0.5, color=RULE, linewidth=1, linestyle=(0, (2, 2)))
    axes.annotate(
        "chance", (0.01, 0.5), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8
    )


def _alignment(data: ReportData) -> Drawing | None:
    columns = [column for column in ("rho", "rho_cross_fitted") if column in data.trajectories]
    values = {column: data.trajectories[column].dropna().to_numpy(np.float64) for column in columns}
    if not any(len(value) for value in values.values()):
        return None
    bins = np.linspace(-1, 1, 41)
    with mpl.rc_context(_STYLE):
        figure, axes = _axes()
        looks = {"rho": ("the paper's ρ", ORANGE, True), "rho_cross_fitted": ("cross-fitted ρ", BLUE, False)}
        for column, value in values.items():
            label, color, filled = looks[column]
            kind: Any = "stepfilled" if filled else "step"
            axes.hist(
                value,
                bins.tolist(),
                color=color,
                alpha=0.45 if filled else 1,
                histtype=kind,
                label=label,
                linewidth=1.8,
            )
            if len(value):
                axes.axvline(float(value.mean()), color=color, linewidth=1.4, linestyle=(0, (4, 2)))
        axes.set_xlim(-1, 1)
        axes.set_xlabel("alignment ρ of H and s within a trajectory")
        axes.set_ylabel("trajectories")
        axes.set_ylim(top=1.3 * axes.get_ylim()[1])
        axes.legend(loc="upper left", ncols=2)
    counts = {column: np.histogram(value, bins)[0] for column, value in values.items()}
    return Drawing(
        "rho_histogram",
        "Alignment, trajectory by trajectory",
        "Dashed lines are the means. Trajectories whose answer settles are near 1 if it is right and near −1 if it is "
        "wrong. The paper's ρ takes H and s from the same rollouts, so it leans away from 0 even where nothing moves; "
        "the cross-fitted ρ takes them from different halves, so it is too close to 0 where something moves.",
        figure,
        pd.DataFrame({"from": bins[:-1], "to": bins[1:], **counts}),
    )


def _quadrants(data: ReportData) -> Drawing | None:
    frame = data.trajectories
    needed = ["first_entropy", "final_entropy", "first_gold_surprisal", "final_gold_surprisal", "correct"]
    if not set(needed) <= set(frame.columns) or frame.empty:
        return None
    numbers = pd.DataFrame(
        {
            "entropy_change": frame["final_entropy"] - frame["first_entropy"],
            "surprisal_change": frame["final_gold_surprisal"] - frame["first_gold_surprisal"],
            "correct": frame["correct"].astype(bool),
        }
    )
    shown = numbers if len(numbers) <= 1500 else numbers.sample(1500, random_state=0)
    with mpl.rc_context(_STYLE):
        figure, axes = _axes()
        for right, color, marker, label in (
            (True, BLUE, "o", "ends correct"),
            (False, VERMILLION, "x", "ends incorrect"),
        ):
            part = shown[shown["correct"] == right]
            axes.scatter(
                part["entropy_change"].to_numpy(),
                part["surprisal_change"].to_numpy(),
                s=14,
                c=color,
                marker=marker,
                alpha=0.6,
                label=label,
                linewidths=0.9 if marker == "x" else 0,
            )
        axes.axhline(0, color=RULE, linewidth=0.8)
        axes.axvline(0, color=RULE, linewidth=0.8)
        axes.annotate(
            "confident and wrong", (0.02, 0.98), xycoords="axes fraction", va="top", fontsize=8, fontweight="bold"
        )
        axes.set_xlabel("change of H over the reasoning (nats)")
        axes.set_ylabel("change of gold surprisal s (nats)")
        axes.legend(loc="lower right")
    share = data.summary.get("misalignment")
    told = "" if share is None else f" {100 * share:.0f} % of the trajectories are there."
    return Drawing(
        "misalignment",
        "Surer, but of what?",
        "One mark a trajectory. Left of 0 the model has grown surer; above 0 the gold answer has become less likely. "
        f"The upper left is confident misalignment: surer of something else.{told} Marks near the axes may be noise.",
        figure,
        numbers,
    )


def _estimators(data: ReportData) -> Drawing | None:
    looks = (
        ("entropy", "plug-in (the paper's)", INK, "-"),
        ("entropy_miller_madow", "Miller–Madow", ORANGE, (0, (5, 2))),
        ("entropy_chao_shen", "Chao–Shen", GREEN, (0, (1, 1.5))),
        ("entropy_pooled", "plug-in, pooled with riders", PURPLE, (0, (6, 2, 1, 2))),
    )
    with mpl.rc_context(_STYLE):
        figure, axes = _axes()
        drawn = []
        for name, label, color, line in looks:
            curve = _select(data.curves, name, group="all")
            if len(curve):
                axes.plot(curve["position"], curve["value"], color=color, linestyle=line, label=label)
                drawn.append(curve)
        if len(drawn) < 2:
            return None
        axes.set_ylim(bottom=0)
        _relative(axes)
        axes.set_ylabel("mean entropy (nats)")
        axes.legend()
    return Drawing(
        "entropy_estimators",
        "How much of H is a matter of few rollouts",
        "The plug-in entropy of a few rollouts is too low on average. The others reduce that bias; where the lines "
        "agree, more rollouts would change little.",
        figure,
        pd.concat(drawn, ignore_index=True),
    )


def _fano(data: ReportData) -> Drawing | None:
    bound, error = (_select(data.curves, name, group="all") for name in ("fano_bound", "majority_error"))
    if bound.empty or error.empty:
        return None
    with mpl.rc_context(_STYLE):
        figure, axes = _axes()
        _plot(axes, error, VERMILLION, "majority-vote error")
        _plot(axes, bound, BLUE, "would-be Fano bound", (0, (5, 2)))
        axes.set_ylim(0, 1)
        _relative(axes)
        axes.set_ylabel("error rate")
        axes.legend()
    number = data.summary.get("fano_num_answers")
    return Drawing(
        "fano",
        "Entropy as a bound on the error",
        f"(H − ln 2) / ln |A| on mean entropies, with |A| = {number} (the most answers any trajectory has). It bounds "
        "the error only if the model's answers are calibrated: where the error lies below the line, they are not.",
        figure,
        pd.concat([error, bound], ignore_index=True),
    )


def _lock_in(data: ReportData) -> Drawing | None:
    if "lock_in_relative" not in data.trajectories or data.trajectories.empty:
        return None
    parts = []
    with mpl.rc_context(_STYLE):
        figure, axes = _axes()
        for group in ("correct", "incorrect"):
            part = data.trajectories[data.trajectories["correct"].astype(bool) == (group == "correct")]
            if len(part):
                x = np.sort(part["lock_in_relative"].to_numpy(np.float64))
                y = np.arange(1, len(x) + 1) / len(x)
                places = np.append(np.flatnonzero(np.diff(x)), len(x) - 1)
                x, y = np.concatenate([[0], x[places], [1]]), np.concatenate([[0], y[places], [1]])
                label = f"{GROUP_LABEL[group]} ({len(part)})"
                axes.step(x, y, where="post", color=GROUP_COLOR[group], linestyle=GROUP_LINE[group], label=label)
                parts.append(pd.DataFrame({"group": group, "position": x, "share": y}))
        axes.set_ylim(0, 1.02)
        _relative(axes)
        axes.set_ylabel("share of trajectories locked in")
        axes.legend()
    return Drawing(
        "lock_in",
        "When the answer is settled",
        "The share of trajectories whose most frequent answer never changes again from this point on.",
        figure,
        pd.concat(parts, ignore_index=True),
    )


def _nulls(data: ReportData) -> Drawing | None:
    curve = _select(data.curves, "null_rate", group="all")
    if curve.empty or not (curve["value"] > 0).any():
        return None
    with mpl.rc_context(_STYLE):
        figure, axes = _axes()
        _plot_groups(axes, data.curves, "null_rate", ("correct", "incorrect"))
        axes.set_ylim(bottom=0)
        _relative(axes)
        axes.set_ylabel("share of rollouts without an answer")
        axes.legend()
    return Drawing(
        "null_rate",
        "Rollouts without a readable answer",
        "They count as one class of their own in H. A high share means that H says more about finishing than about "
        "the answer.",
        figure,
        _select(data.curves, "null_rate"),
    )


def _sensitivity(data: ReportData) -> Drawing | None:
    frame = data.tables.get("sensitivity")
    if frame is None or len(frame) < 2:
        return None
    labels = [" ".join(filter(None, (row["factor"], row["value"]))) for _, row in frame.iterrows()]
    height = np.arange(len(frame))[::-1]
    with mpl.rc_context({**_STYLE, "figure.figsize": (4.2, max(2.6, 0.9 + 0.27 * len(frame)))}):
        figure, axes = _axes()
        looks = (
            ("rho_pearson", "the paper's ρ", ORANGE, 0.12, "s"),
            ("rho_cross_fitted", "cross-fitted ρ", BLUE, -0.12, "o"),
        )
        for column, label, color, shift, marker in looks:
            value = frame[column].to_numpy(np.float64)
            low, high = (frame[f"{column}_{end}"].to_numpy(np.float64) for end in ("low", "high"))
            axes.hlines(height + shift, low, high, color=color, linewidth=1.6)
            axes.plot(value, height + shift, marker, color=color, markersize=4.5, label=label)
        axes.axvline(0, color=RULE, linewidth=0.8)
        axes.set_yticks(height, labels)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("mean ρ (95 %)")
        axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)
    return Drawing(
        "sensitivity",
        "What ρ depends on",
        "The same rollouts scored in other ways: another smoothing of the gold surprisal, fewer rollouts, fewer "
        "checkpoints. A conclusion that one of these turns round is not a finding about the model.",
        figure,
        frame,
    )


def _early_stop(data: ReportData) -> Drawing | None:
    frame = data.tables.get("early_stop")
    if frame is None or frame["saved"].isna().all():
        return None
    looks: list[tuple[str, str, int | None, str, str, Any]] = [
        ("length", "so many tokens (control)", None, RULE, "d", (0, (2, 2))),
        ("entropy", "H ≤ τ", None, BLUE, "o", "-"),
        ("mode", "same mode over k", None, VERMILLION, "s", (0, (5, 2))),
    ]
    lengths = sorted(frame.loc[frame["rule"] == "plateau", "checkpoints"].dropna().unique())
    lines: Sequence[Any] = ("-", (0, (5, 2)), (0, (1, 1.5)))
    looks += [
        ("plateau", f"H flat over {length}", int(length), GREEN, "^", lines[i % len(lines)])
        for i, length in enumerate(lengths)
    ]
    with mpl.rc_context(_STYLE):
        figure, axes = _axes()
        axes.axhline(0, color=RULE, linewidth=0.8)
        for rule, label, length, color, marker, line in looks:
            rows = frame[(frame["rule"] == rule) & (True if length is None else frame["checkpoints"] == length)]
            rows = rows.sort_values("saved")
            change, high, low = (-100 * rows[f"lost{end}"].to_numpy(np.float64) for end in ("", "_low", "_high"))
            saved = 100 * rows["saved"].to_numpy(np.float64)
            axes.vlines(saved, low, high, color=color, linewidth=1, alpha=0.45)
            axes.plot(saved, change, marker, color=color, markersize=3.6, linewidth=1.3, linestyle=line, label=label)
        axes.set_xlabel("tokens saved (% of all)")
        axes.set_ylabel("change of accuracy (points)")
        _legend_below(figure, axes, len(looks))
    return Drawing(
        "early_stop",
        "What stopping early would save and cost",
        "One mark a setting of a rule, with 95 % intervals over problems; up and to the right is better. The dashed "
        "grey control stops everything after the same number of tokens: a rule earns the distance to it. Above 0 the "
        "vote of many continuations beats the one text's own answer." + _sampled(data),
        figure,
        frame,
    )


def _sampled(data: ReportData) -> str:
    """What the signal itself cost, where the run says."""
    drawn, written = data.summary.get("generated_tokens"), data.summary.get("mean_trajectory_tokens")
    number = data.summary.get("num_trajectories")
    if not drawn or not written or not number:
        return " The rollouts' own tokens are not in it."
    return (
        f" The rollouts' own tokens are not in it: this run drew {drawn:,}, "
        f"{drawn / (written * number):.0f} times as many as the trajectories have."
    )


_SIGNALS = (
    ("auc_entropy", "answer entropy H", BLUE, "o", -0.012),
    ("auc_token_entropy", "mean token entropy", VERMILLION, "s", 0.0),
    ("auc_margin", "answer margin", GREEN, "^", 0.012),
)


def _failure(data: ReportData) -> Drawing | None:
    frame = data.tables.get("failure_detection")
    if frame is None or frame["auc_entropy"].isna().all():
        return None
    with mpl.rc_context(_STYLE):
        figure, axes = _axes()
        _chance(axes)
        for column, label, color, marker, shift in _SIGNALS:
            if column not in frame:
                continue
            x = frame["position"].to_numpy(np.float64) + shift
            value, low, high = (frame[column + end].to_numpy(np.float64) for end in ("", "_low", "_high"))
            axes.vlines(x, low, high, color=color, linewidth=1.4)
            axes.plot(x, value, color=color, marker=marker, markersize=4.5, linewidth=1, label=label)
        _relative(axes)
        axes.set_xlim(-0.04, 1.04)
        axes.set_ylabel("AUC for “ends incorrect”")
        _legend_below(figure, axes, len(_SIGNALS), columns=3)
    return Drawing(
        "failure_detection",
        "Seeing failure coming",
        "Three signals that know no gold answer, at parts of the way. ½ is guessing; bars are 95 % over problems. The "
        "signals share trajectories, so overlapping bars do not say that they are equal: see the table's differences.",
        figure,
        frame,
    )


_MAKERS: Sequence[Callable[[ReportData], Drawing | None]] = (
    _entropy,
    _gain,
    _gain_share,
    _auc,
    _auc_tokens,
    _alignment,
    _quadrants,
    _lock_in,
    _early_stop,
    _failure,
    _estimators,
    _nulls,
    _fano,
    _sensitivity,
)


@dataclass(frozen=True)
class Overlay:
    """One curve of several runs in one figure: `curve`, `axis` and `group` as in `Analysis.curves`."""

    name: str
    title: str
    curve: str
    group: str
    unit: str
    axis: str = "relative"


COMPARED = (
    Overlay("fig3_entropy", "Uncertainty about the answer", "entropy", "all", "answer entropy H (nats)"),
    Overlay("fig1_gain", "Gain of trajectories that end correct", "gain", "correct", "cumulative gain G (nats)"),
    Overlay("fig1_gain_share", "How early it comes", "gain_share", "correct", "share of the final gain"),
    Overlay("fig2_auc", "Telling correct from incorrect early", "auc", "all", "AUC of −H for “ends correct”"),
)
"""What `draw_comparison` overlays."""

_FEW = 4
"""As many curves fit into one figure with their bands and a legend between them."""

_BANDS = "Bands are 95 % intervals over problems."
_NO_BANDS = "The 95 % intervals are in the numbers beside the figure; so many bands would hide the curves."


def draw_comparison(runs: Mapping[str, ReportData], directory: Path | str | None = None) -> list[Drawing]:
    """The same figures for several runs, overlaid: entropy, gain, gain share, AUC and rho, one colour a run; and, where
    two have token entropies, these against answer entropy.

    With a directory each is saved there as PNG, SVG and parquet.
    """
    drawings = [drawing for look in COMPARED if (drawing := draw_overlay(look, runs)) is not None]
    drawings.append(_compare_rho(tabulate({label: data.summary for label, data in runs.items()})))
    levels = _compare_levels(runs)
    if levels is not None:
        drawings.append(levels)
    if directory is not None:
        for drawing in drawings:
            drawing.save(Path(directory))
    return drawings


def draw_overlay(look: Overlay, runs: Mapping[str, ReportData]) -> Drawing | None:
    """One curve of each run that has it, in one figure; None where none has. Shares of a gain that cannot be told from
    0 are left out."""
    parts = {}
    for label, data in runs.items():
        part = _select(data.curves, look.curve, look.axis, look.group)
        if len(part) and (look.curve != "gain_share" or _gains_surely(data.curves, look.group)):
            parts[label] = part
    if not parts:
        return None
    with mpl.rc_context(_STYLE):
        figure, axes = _axes()
        _plot_runs(axes, parts, list(runs))
        if look.curve == "auc":
            _chance(axes)
        if look.axis == "relative":
            _relative(axes)
        else:
            axes.set_xlabel("position in the reasoning (tokens)")
        if look.curve == "entropy":
            axes.set_ylim(bottom=0)
        axes.set_ylabel(look.unit)
        _place_legend(figure, axes, len(parts))
    numbers = pd.concat([part.assign(run=label) for label, part in parts.items()], ignore_index=True)
    return Drawing(look.name, look.title, _BANDS if len(parts) <= _FEW else _NO_BANDS, figure, numbers)


def draw_families(name: str, families: Mapping[str, Mapping[str, ReportData]]) -> Drawing | None:
    """Mean answer entropy over the reasoning, a panel for each family of models, a curve for each of its runs; None
    where no run has one. Plateaus are marked as in a run's own figure."""
    parts = {
        family: {label: _select(data.curves, "entropy", group="all") for label, data in runs.items()}
        for family, runs in families.items()
    }
    if not any(len(part) for panel in parts.values() for part in panel.values()):
        return None
    columns = min(3, len(parts))
    rows = -(-len(parts) // columns)
    with mpl.rc_context({**_STYLE, "figure.figsize": (0.9 + 3.3 * columns, 0.3 + 2.65 * rows)}):
        figure = Figure()
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes in panels.flat[len(parts) :]:
            axes.set_axis_off()
        for axes, (family, panel) in zip(panels.flat, parts.items(), strict=False):
            _plot_runs(axes, panel, list(panel))
            for place, label in enumerate(panel):
                flat = families[family][label].summary.get("saturation") or {}
                if flat.get("level") is not None and flat.get("onset") is not None and flat["onset"] < 1:
                    axes.hlines(
                        flat["level"], flat["onset"], 1, color=CYCLE[place % len(CYCLE)], linewidth=5, alpha=0.3
                    )
            axes.set_title(family)
            axes.set_ylim(bottom=0)
            _relative(axes)
            axes.legend(fontsize=7)
        for axes in panels[:, 0]:
            axes.set_ylabel("answer entropy H (nats)")
    numbers = [
        part.assign(family=family, run=label) for family, panel in parts.items() for label, part in panel.items()
    ]
    caption = f"Thick pale lines are plateaus: the mean of the last fifth, from where the curve stays near it. {_BANDS}"
    return Drawing(name, "Mean answer entropy by model family", caption, figure, pd.concat(numbers, ignore_index=True))


def draw_outcomes(name: str, title: str, curve: str, unit: str, runs: Mapping[str, ReportData]) -> Drawing | None:
    """One curve of trajectories that end correct and of those that end incorrect, a panel for each run; None where no
    run has one. Shares of a gain that cannot be told from 0 are left out, and the panel says so."""
    parts = {
        label: {
            group: _select(data.curves, curve, group=group)
            for group in ("correct", "incorrect")
            if curve != "gain_share" or _gains_surely(data.curves, group)
        }
        for label, data in runs.items()
    }
    if not any(len(part) for panel in parts.values() for part in panel.values()):
        return None
    columns = min(3, len(parts))
    rows = -(-len(parts) // columns)
    with mpl.rc_context({**_STYLE, "figure.figsize": (0.9 + 3.3 * columns, 0.3 + 2.65 * rows)}):
        figure = Figure()
        panels = figure.subplots(rows, columns, squeeze=False)  # each its own scale: shares of losses may be large
        for axes in panels.flat[len(parts) :]:
            axes.set_axis_off()
        for axes, (label, panel) in zip(panels.flat, parts.items(), strict=False):
            drawn = _plot_groups(axes, runs[label].curves, curve, [group for group, part in panel.items() if len(part)])
            if curve == "gain_share":
                axes.plot([0, 1], [0, 1], color=RULE, linewidth=1, linestyle=(0, (2, 2)))
            else:
                axes.axhline(0, color=RULE, linewidth=0.8)
            axes.set_title(_short(label, 36))
            _relative(axes)
            if drawn:
                axes.legend(fontsize=7)
            else:
                axes.annotate(
                    "final gain not told from 0", (0.5, 0.5), xycoords="axes fraction", ha="center", fontsize=8
                )
        for axes in panels[:, 0]:
            axes.set_ylabel(unit)
    numbers = [part.assign(run=label) for label, panel in parts.items() for part in panel.values()]
    caption = f"One panel a model, with its training stage. {_BANDS}"
    if curve == "gain_share":
        caption += " A group whose final gain cannot be told from 0 has no share and is not drawn."
    return Drawing(name, title, caption, figure, pd.concat(numbers, ignore_index=True))


def _plot_runs(axes: Axes, parts: Mapping[str, pd.DataFrame], runs: Sequence[str]) -> None:
    """A curve a run; its colour and line follow from its place in `runs`, so that they are its own in every figure."""
    looks = [(color, line) for line in ("-", (0, (5, 2)), (0, (1, 1.5))) for color in CYCLE]
    for label, part in parts.items():
        color, line = looks[runs.index(label) % len(looks)]
        _plot(axes, part, color, _short(label), line, band=len(parts) <= _FEW)


def _place_legend(figure: Figure, axes: Axes, number: int) -> None:
    """Inside while it is small; under the axes where it would cover the curves."""
    if number <= _FEW:
        axes.legend()
        return
    _legend_below(figure, axes, number)


def _legend_below(figure: Figure, axes: Axes, number: int, columns: int = 2) -> None:
    """Under the axes, in a figure that has grown by its rows."""
    figure.set_size_inches(4.2, 2.95 + 0.2 * -(-number // columns))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns, fontsize=7)


def _short(label: str, most: int = 28) -> str:
    """A run's label that leaves room for its figure: the middle goes."""
    half = (most - 1) // 2
    return label if len(label) <= most else f"{label[:half]}…{label[-half:]}"


def _compare_rho(table: pd.DataFrame) -> Drawing:
    height = np.arange(len(table))[::-1]
    with mpl.rc_context({**_STYLE, "figure.figsize": (4.2, max(2.4, 1.1 + 0.35 * len(table)))}):
        figure, axes = _axes()
        looks = (
            ("rho_pearson", "the paper's ρ", ORANGE, 0.12, "s"),
            ("rho_cross_fitted", "cross-fitted ρ", BLUE, -0.12, "o"),
        )
        for column, label, color, shift, marker in looks:
            value, low, high = (
                pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
                for name in (column, f"{column}_low", f"{column}_high")
            )
            axes.hlines(height + shift, low, high, color=color, linewidth=1.6)
            axes.plot(value, height + shift, marker, color=color, markersize=4.5, label=label)
        axes.axvline(0, color=RULE, linewidth=0.8)
        axes.set_yticks(height, [_short(label) for label in table["run"]])
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("mean ρ (95 %)")
        axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)
    return Drawing("rho", "Alignment by run", "Bars are 95 % intervals over problems.", figure, table)


def _compare_levels(runs: Mapping[str, ReportData]) -> Drawing | None:
    frames = {label: data.tables["token_level"] for label, data in runs.items() if "token_level" in data.tables}
    if len(frames) < 2:
        return None
    numbers = side_by_side(frames)
    with mpl.rc_context(_STYLE):
        figure, axes = _axes()
        for place, label in enumerate(runs):
            row = numbers[(numbers["run"] == label) & (numbers["group"] == "all")]
            if row.empty:
                continue
            color = CYCLE[place % len(CYCLE)]
            x, x_low, x_high = (float(row[f"token_entropy{end}"].iloc[0]) for end in ("", "_low", "_high"))
            y, y_low, y_high = (float(row[f"answer_entropy_mean{end}"].iloc[0]) for end in ("", "_low", "_high"))
            axes.hlines(y, x_low, x_high, color=color, linewidth=1.6)
            axes.vlines(x, y_low, y_high, color=color, linewidth=1.6)
            axes.plot([x], [y], "os^dvP"[place // len(CYCLE) % 6], color=color, markersize=5, label=_short(label))
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("mean token entropy (nats)")
        axes.set_ylabel("mean answer entropy H (nats)")
        _legend_below(figure, axes, len(frames))  # anywhere inside it may cover a bar
    return Drawing(
        "token_and_answer_entropy",
        "Unsure about the word, unsure about the answer",
        "One mark a run: entropy of the next token along its texts against entropy of the answer, both averaged over "
        "each trajectory. From stage to stage the two may part ways. Bars are 95 % intervals over problems.",
        figure,
        numbers,
    )


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
