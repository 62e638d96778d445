"""The figures of a run; the docstring of a figure's function is its title and caption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastsia.report.data import ReportData, step_link
from fastsia.report.drawing import PAGE, Drawing
from fastsia.report.style import (
    BLUE,
    GREEN,
    GROUP_COLOR,
    GROUP_LABEL,
    GROUP_LINE,
    INK,
    ORANGE,
    PURPLE,
    RULE,
    STYLE,
    VERMILLION,
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
)
from fastsia.report.tables import recommended_name
from fastsia.sia import spread
from fastsia.sia.extras.steps import LEVEL
from fastsia.sia.registry import Described

Make = Callable[[ReportData, Axes], pd.DataFrame | None]
OUTCOMES = ("correct", "incorrect")
_SHARE = "share of the final gain"


@dataclass(frozen=True)
class FigureEntry:
    """A figure of a run.

    Attributes:
        name: Stem of its files.
        title: Its heading on a page.
        caption: How to read it.
        make: Draws it and returns the numbers that it shows; None where the run has none.
        note: What is to be added to the caption for this run.
    """

    name: str
    title: str
    caption: str
    make: Make
    note: Callable[[ReportData], str] = lambda data: ""


FIGURES: dict[str, FigureEntry] = {}
"""Every figure of a run, in reading order."""


def figure(name: str, note: Callable[[ReportData], str] = lambda data: "") -> Callable[[Make], Make]:
    """Register a function that draws a figure; its docstring is the figure's title and caption."""

    def register(make: Make) -> Make:
        FIGURES[name] = FigureEntry(name, *Described.of(make), make, note)
        return make

    return register


def draw_figures(data: ReportData, directory: Path | str) -> list[Drawing]:
    """Draw every figure that the run has numbers for into `directory`, as PNG, SVG and parquet."""
    drawings = draw(data)
    for drawing in drawings:
        drawing.save(Path(directory))
    return drawings


def draw(data: ReportData) -> list[Drawing]:
    """Every figure that the run has numbers for, in reading order."""
    drawings = (draw_one(entry, data) for entry in FIGURES.values())
    return [drawing for drawing in drawings if drawing is not None]


def draw_one(entry: FigureEntry, data: ReportData) -> Drawing | None:
    """One figure; None where the run has no numbers for it."""
    with mpl.rc_context(STYLE):
        figure = Figure()
        numbers = entry.make(data, figure.subplots())
    if numbers is None:
        return None
    return Drawing(entry.name, entry.title, entry.caption + entry.note(data), figure, numbers)


def draw_trajectory(checkpoints: pd.DataFrame, title: str = "") -> Figure:
    """H, its best estimate with its band, and s along one trajectory.

    Args:
        checkpoints: Rows of `sia.Analysis.checkpoints` of one trajectory.
        title: Of the figure.
    """
    with mpl.rc_context(STYLE):
        figure = Figure()
        axes = figure.subplots()
        x = checkpoints["checkpoint"].to_numpy(np.float64)
        if "entropy_best_low" in checkpoints:
            low, high = (checkpoints[f"entropy_best_{end}"].to_numpy(np.float64) for end in ("low", "high"))
            axes.fill_between(x, low, high, color=BLUE, alpha=0.16, linewidth=0)
            best, label = checkpoints["entropy_best"], "best estimate of H, 95 % band"
            axes.plot(x, best, color=BLUE, alpha=0.6, linewidth=1.2, linestyle=(0, (1, 1.5)), label=label)
        axes.plot(x, checkpoints["entropy"], "o-", color=BLUE, markersize=3, label="H, answer entropy")
        dashed: Any = (0, (5, 2))
        surprisal = checkpoints["gold_surprisal"]
        axes.plot(x, surprisal, "s", color=VERMILLION, markersize=3, linestyle=dashed, label="s, gold surprisal")
        axes.set_ylim(bottom=0)
        label_axes(axes, "nats", "tokens")
        axes.set_title(title)
        legend_below(axes)
    return figure


def _curves(
    data: ReportData,
    axes: Axes,
    curve: str,
    ylabel: str,
    groups: tuple[str, ...] = OUTCOMES,
    *,
    from_zero: bool = False,
) -> pd.DataFrame | None:
    """One curve over relative position, one line per group."""
    if not plot_groups(axes, data.curves, curve, groups):
        return None
    if from_zero:
        axes.set_ylim(bottom=0)
    label_axes(axes, ylabel)
    legend_below(axes)
    return select(data.curves, curve)


def _one_curve(
    data: ReportData, axes: Axes, curve: str, label: str, ylabel: str, mark: Callable[[Axes], None]
) -> pd.DataFrame | None:
    """One curve over relative position with a reference line."""
    numbers = select(data.curves, curve)
    if numbers.empty:
        return None
    plot(axes, numbers, BLUE, label)
    mark(axes)
    label_axes(axes, ylabel)
    return numbers


@figure("fig3_entropy")
def _entropy(data: ReportData, axes: Axes) -> pd.DataFrame | None:
    """Uncertainty about the answer

    Answer entropy H averaged over trajectories; 0 means always the same answer. Along a model's own text the mean does
    not rise with the tokens written, in expectation and whatever the model, so a fall is no finding. Bands are 95 %
    intervals over problems, for the mean plug-in entropy at this number of rollouts. The true one is higher, by more
    where there are many answers.
    """
    groups = ("all", *OUTCOMES)
    numbers = _curves(data, axes, "entropy", "answer entropy H (nats)", groups)
    plot_plateau(axes, data.summary, GREEN, 0.35, "plateau")
    axes.set_ylim(bottom=0)
    return numbers


@figure("entropy_best")
def _entropy_best(data: ReportData, axes: Axes) -> pd.DataFrame | None:
    """Uncertainty about the answer, best estimate

    The change-point estimates of the same entropies, with the known probabilities of each trajectory's tokens where
    they are stored. Bands are 95 % intervals over problems.
    """
    numbers = _curves(data, axes, "entropy_best", "answer entropy H (nats)", ("all", *OUTCOMES))
    axes.set_ylim(bottom=0)
    return numbers


@figure("explored")
def _explored(data: ReportData, axes: Axes) -> pd.DataFrame | None:
    """What the drawn texts prove about the entropy

    The mean answer entropy is between the shaded limits, whatever the texts that were not drawn would answer (answers
    that were never given count as one): the distinct texts have known probabilities. Dashed, right axis: the
    probability of all texts that were drawn. No statistics are involved.
    """
    parts = [select(data.curves, name) for name in ("entropy_at_least", "entropy_at_most", "explored_mass")]
    low, high, explored = parts
    if low.empty or low["value"].isna().all():
        return None
    x = low["position"].to_numpy(np.float64)
    least, most = (part["value"].to_numpy(np.float64) for part in (low, high))
    axes.fill_between(x, least, most, color=BLUE, alpha=0.25, linewidth=0, label="proven limits of H")
    best = select(data.curves, "entropy_best", group="all")
    if len(best):
        plot(axes, best, BLUE, "best estimate", band=False)
    axes.set_ylim(bottom=0)
    label_axes(axes, "answer entropy H (nats)")
    share = axes.twinx()
    share.plot(x, explored["value"].to_numpy(np.float64), color=ORANGE, linewidth=1.2, linestyle=(0, (4, 2)))
    share.set_ylim(0, 1)
    share.set_ylabel("explored mass (dashed)")
    share.grid(False)
    legend_below(axes)
    return pd.concat(parts, ignore_index=True)


@figure("fig1_gain")
def _gain(data: ReportData, axes: Axes) -> pd.DataFrame | None:
    """Information gained about the gold answer

    Fall of the gold answer's surprisal since the start, averaged over trajectories. Above 0 the reasoning so far has
    made the gold answer less surprising on average; below 0, more. The sign at the end mostly follows from the outcome,
    since the answer is written down by then; over all trajectories of a model's own text the mean is at most 0 in
    expectation. Bands are 95 % intervals over problems.
    """
    numbers = _curves(data, axes, "gain", "cumulative gain G (nats)")
    mark_zero(axes)
    return numbers


@figure("fig1_gain_share")
def _gain_share(data: ReportData, axes: Axes) -> pd.DataFrame | None:
    """Early accumulation of information

    Mean gain so far over mean gain at the end (for those that end incorrect, mostly a loss). Above the dotted diagonal
    the information comes early in the reasoning. A group whose final gain is indistinguishable from 0 is not drawn.
    """
    groups = tuple(group for group in OUTCOMES if final_gain_is_certain(data.curves, group))
    numbers = _curves(data, axes, "gain_share", _SHARE, groups)
    mark_diagonal(axes)
    return numbers


@figure("fig2_auc")
def _auc(data: ReportData, axes: Axes) -> pd.DataFrame | None:
    """Telling correct from incorrect early

    The probability that of two trajectories, one that will end correct and one that will end incorrect, the former has
    the lower answer entropy at this point; ties count half. ½ is chance, 1 is perfect. The band is a 95 % interval over
    problems, of each point for itself.
    """
    return _one_curve(data, axes, "auc", "AUC", "AUC of −H for “ends correct”", mark_chance)


@figure("auc_change")
def _auc_change(data: ReportData, axes: Axes) -> pd.DataFrame | None:
    """What the reasoning adds to telling correct from incorrect

    The AUC of −H minus its value before the reasoning, on the same trajectories. Before the first token H can only
    reflect the question; where the band contains 0, these problems do not show that the reasoning so far tells more or
    less than the question did. The band is a 95 % interval over problems of the paired difference, of each point for
    itself.
    """
    return _one_curve(data, axes, "auc_change", "change of AUC", "AUC minus AUC at the start", mark_zero)


@figure("fig2_auc_tokens")
def _auc_tokens(data: ReportData, axes: Axes) -> pd.DataFrame | None:
    """Telling correct from incorrect, by tokens written

    Trajectories end at different lengths, so fewer remain at later positions (dashed, right axis): late points compare
    only the long ones.
    """
    curve = select(data.curves, "auc", "tokens")
    if len(curve) < 2:
        return None
    plot(axes, curve, BLUE, "AUC")
    mark_chance(axes)
    label_axes(axes, "AUC of −H for “ends correct”", "tokens")
    left = axes.twinx()
    left.plot(curve["position"], curve["count"], color=ORANGE, linewidth=1.2, linestyle=(0, (4, 2)))
    left.set_ylim(bottom=0)
    left.set_ylabel("trajectories left (dashed)")
    left.grid(False)
    return curve


@figure("rho_histogram")
def _alignment(data: ReportData, axes: Axes) -> pd.DataFrame | None:
    """Alignment, trajectory by trajectory

    Bars: the paper's ρ, of trajectories that end correct and that end incorrect, stacked. Line: the
    recommended ρ of all (where there is none, the cross-fitted). Dashed: the means of the two outcomes. Trajectories
    that settle are near 1 if they end correct and near −1 if not, so the mean over both mostly says how many end
    correct.
    """
    best = (data.summary.get("rho") or {}).get("recommended")
    other, label = (
        ("rho_cross_fitted", "cross-fitted ρ, all")
        if best is None
        else (f"rho_{best}", f"{recommended_name(best)}, all")
    )
    frame, bins = data.trajectories, np.linspace(-1, 1, 41)
    correct = frame["correct"].fillna(False).astype(bool)
    groups = {group: frame["rho"][correct == (group == "correct")].dropna() for group in OUTCOMES}
    values = {group: value.to_numpy(np.float64) for group, value in groups.items()}
    second = frame[other].dropna().to_numpy(np.float64) if other in frame else np.zeros(0)
    if not sum(map(len, values.values())) + len(second):
        return None
    if some := {group: value for group, value in values.items() if len(value)}:
        names = [f"{GROUP_LABEL[group]} ({len(value)})" for group, value in some.items()]
        colors = [GROUP_COLOR[group] for group in some]
        axes.hist(list(some.values()), bins.tolist(), color=colors, alpha=0.6, stacked=True, label=names)
    axes.hist(second, bins.tolist(), color=INK, histtype="step", linewidth=1.2, label=f"{label} ({len(second)})")
    for group, value in values.items():
        if len(value):
            axes.axvline(float(value.mean()), color=GROUP_COLOR[group], linewidth=1.4, linestyle=(0, (4, 2)))
    axes.set_xlim(-1, 1)
    axes.set_xlabel("alignment ρ of H and s within a trajectory")
    axes.set_ylabel("trajectories")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(axes)
    counts = {f"rho_{group}": np.histogram(value, bins)[0] for group, value in values.items()}
    return pd.DataFrame({"from": bins[:-1], "to": bins[1:], **counts, other: np.histogram(second, bins)[0]})


def _share_misaligned(data: ReportData) -> str:
    share = data.summary.get("misalignment")
    return "" if share is None else f" Of all trajectories {100 * share:.0f} % are misaligned."


@figure("misalignment", _share_misaligned)
def _misalignment(data: ReportData, axes: Axes) -> pd.DataFrame | None:
    """Misaligned trajectories

    One mark per trajectory, by the plug-in estimates. Left of 0 its entropy has fallen; above 0 the gold answer has
    become less likely. In the upper left are misaligned trajectories, and others by noise: only those count with a
    lower H and a higher s at the end by the change-point estimates, whose answer distribution probably changes.
    """
    frame = data.trajectories
    ends = {f"{end}_{of}" for end in ("first", "final") for of in ("entropy", "gold_surprisal")}
    if not ends <= set(frame.columns) or frame.empty:
        return None
    numbers = pd.DataFrame(
        {
            "entropy_change": frame["final_entropy"] - frame["first_entropy"],
            "surprisal_change": frame["final_gold_surprisal"] - frame["first_gold_surprisal"],
            "correct": frame["correct"].astype(bool),
        }
    )
    shown = numbers if len(numbers) <= 1500 else numbers.sample(1500, random_state=0)
    for group, marker, width in (("correct", "o", 0.0), ("incorrect", "x", 0.9)):
        part = shown[shown["correct"] == (group == "correct")]
        if part.empty:
            continue
        x, y = part["entropy_change"].to_numpy(), part["surprisal_change"].to_numpy()
        look: Any = {"s": 14, "c": GROUP_COLOR[group], "marker": marker, "alpha": 0.6, "linewidths": width}
        axes.scatter(x, y, label=GROUP_LABEL[group], **look)
    mark_zero(axes)
    mark_zero(axes, vertical=True)
    place: Any = {"xycoords": "axes fraction", "va": "top", "fontweight": "bold"}
    axes.annotate("misaligned", (0.02, 0.98), **place)
    axes.set_xlabel("change of H over the reasoning (nats)")
    axes.set_ylabel("change of gold surprisal s (nats)")
    legend_below(axes)
    return numbers


@figure("lock_in")
def _lock_in(data: ReportData, axes: Axes) -> pd.DataFrame | None:
    """Lock-in of the answer

    The share of trajectories whose most likely answer, by the change-point estimate, does not change again after this
    point. Answers are those of the rollouts: a trajectory that the token limit cut may lock in without an answer of its
    own. Those whose most likely answer at the end is no answer do not lock in.
    """
    if "lock_in_relative" not in data.trajectories or data.trajectories["lock_in_relative"].isna().all():
        return None
    parts = []
    for group in OUTCOMES:
        part = data.trajectories[data.trajectories["correct"].astype(bool) == (group == "correct")]
        if len(part):
            x = np.sort(part["lock_in_relative"].dropna().to_numpy(np.float64))
            if not len(x):
                continue
            y = np.arange(1, len(x) + 1) / len(part)
            places = np.append(np.flatnonzero(np.diff(x)), len(x) - 1)
            x, y = np.concatenate([[0], x[places], [1]]), np.concatenate([[0], y[places], y[places][-1:]])
            label = f"{GROUP_LABEL[group]} ({len(part)})"
            axes.step(x, y, where="post", color=GROUP_COLOR[group], linestyle=GROUP_LINE[group], label=label)
            parts.append(pd.DataFrame({"group": group, "position": x, "share": y}))
    axes.set_ylim(0, 1.02)
    label_axes(axes, "share of trajectories locked in")
    legend_below(axes)
    return pd.concat(parts, ignore_index=True)


def _cost_of_signal(data: ReportData) -> str:
    """A sentence with the number of rollout tokens, if the run knows it."""
    drawn, written, number = map(data.summary.get, ("generated_tokens", "mean_trajectory_tokens", "num_trajectories"))
    if not drawn or not written or not number:
        return " Tokens of the rollouts are not counted."
    times = drawn / (written * number)
    cost = f"{drawn:,} tokens ({times:.0f} times those of the trajectories)"
    return f" Tokens of the rollouts are not counted: this run drew {cost}."


@figure("steps")
def _steps(data: ReportData, axes: Axes) -> pd.DataFrame | None:
    """Which steps changed the answers

    One mark per step between two checkpoints: the share of the answers that it changes, minus the share expected by
    chance, by where it begins. Decisive steps have a q value of at most 0.05: on average over runs at most about one in
    twenty of them is a false alarm. In the report a click on a decisive step opens its trajectory there.
    """
    if "step_q_value" not in data.checkpoints or data.checkpoints["step_q_value"].isna().all():
        return None
    names = ["problem_id", "trajectory", "checkpoint", "relative_position", "step_gold_change", "step_q_value"]
    frame = data.checkpoints[data.checkpoints["step_q_value"].notna()]
    numbers = frame[names].assign(excess=frame["step_total_variation"] - frame["step_by_chance"])
    decisive = numbers["step_q_value"] <= LEVEL
    towards = numbers["step_gold_change"] > 0
    away = numbers["step_gold_change"] < 0
    looks = (
        (~decisive, RULE, "not decisive"),
        (decisive & ~towards & ~away, PURPLE, "decisive, gold as before"),
        (decisive & towards, BLUE, "decisive, gold more likely"),
        (decisive & away, VERMILLION, "decisive, gold less likely"),
    )
    owners = zip(data.trajectories["problem_id"], data.trajectories["trajectory"], strict=True)
    place = {owner: number for number, owner in enumerate(owners)}
    for member, color, label in looks:
        part = numbers[member]
        if part.empty:
            continue
        look: Any = {"s": 12, "color": color, "alpha": 0.7, "lw": 0, "label": label}
        marks = axes.scatter(part["relative_position"], part["excess"], clip_on=False, zorder=3, **look)
        if part["step_q_value"].max() <= LEVEL:
            ends = frame.loc[part.index, "step_end"]
            owners = zip(part["problem_id"], part["trajectory"], strict=True)
            marks.set_urls(
                [f"{PAGE}{step_link(place[owner], int(end))}" for owner, end in zip(owners, ends, strict=True)]
            )
    mark_zero(axes)
    label_axes(axes, "answers changed, above chance")
    legend_below(axes, 4)
    return numbers


@figure("early_stop", _cost_of_signal)
def _early_stop(data: ReportData, axes: Axes) -> pd.DataFrame | None:
    """Early stopping: tokens saved against accuracy

    One mark per setting of a rule, with 95 % intervals over problems; up and to the right is better. The rules have
    the names of the table “Early stopping, simulated”. “length”, dotted grey, is the control: it stops everything after
    the same number of tokens, and the value of a rule is its distance to it. Above 0 the majority vote of many
    continuations beats the answer at the end, which is mostly the single text's own.
    """
    frame = data.tables.get("early_stop")
    if frame is None or frame["saved"].isna().all():
        return None
    if data.summary.get("accuracy") == 0 and not frame["lost"].fillna(0).any():
        return None  # nothing was right, so nothing can be lost
    dashed: Any = (0, (5, 2))
    looks: list[tuple[str, str, int | None, str, str, Any]] = [
        ("length", "length (control)", None, RULE, "d", (0, (2, 2))),
        ("entropy", "entropy", None, BLUE, "o", "-"),
        ("mode", "mode", None, VERMILLION, "s", dashed),
    ]
    if (frame["rule"] == "token_entropy").any():
        looks.append(("token_entropy", "token_entropy", None, ORANGE, "v", (0, (6, 2, 1, 2))))
    lengths = sorted(frame.loc[frame["rule"] == "flat", "checkpoints"].dropna().unique())
    lines = ("-", dashed, (0, (1, 1.5)))
    looks += [
        ("flat", f"flat over {length}", int(length), GREEN, "^", lines[i % len(lines)])
        for i, length in enumerate(lengths)
    ]
    mark_zero(axes)
    for rule, label, length, color, marker, line in looks:
        rows = frame[(frame["rule"] == rule) & (True if length is None else frame["checkpoints"] == length)]
        rows = rows.sort_values("saved")
        change, high, low = (-100 * x for x in spread(rows, "lost"))
        saved = 100 * rows["saved"].to_numpy(np.float64)
        axes.vlines(saved, low, high, color=color, linewidth=1, alpha=0.45)
        axes.plot(saved, change, marker, color=color, markersize=3.6, linewidth=1.3, linestyle=line, label=label)
    axes.set_xlabel("tokens saved (% of all)")
    axes.set_ylabel("change of accuracy (points)")
    legend_below(axes, len(looks))
    return frame


@figure("failure_detection")
def _failure(data: ReportData, axes: Axes) -> pd.DataFrame | None:
    """Failure prediction

    Three signals that do not use the gold answer, at five relative positions. ½ is chance; bars are 95 % intervals over
    problems.
    The signals share trajectories, so overlapping bars do not mean that they are equal: see the differences in the
    table.
    """
    frame = data.tables.get("failure_detection")
    if frame is None or frame["auc_entropy"].isna().all():
        return None
    signals = (
        ("auc_entropy", "answer entropy H", BLUE, "o", -0.012),
        ("auc_token_entropy", "mean token entropy", VERMILLION, "s", 0.0),
        ("auc_margin", "answer margin", GREEN, "^", 0.012),
    )
    mark_chance(axes)
    for column, label, color, marker, shift in signals:
        if column in frame:
            x = frame["position"].to_numpy(np.float64) + shift
            value, low, high = spread(frame, column)
            axes.vlines(x, low, high, color=color, linewidth=1.4)
            axes.plot(x, value, color=color, marker=marker, markersize=4.5, linewidth=1, label=label)
    label_axes(axes, "AUC for “ends incorrect”")
    axes.set_xlim(-0.04, 1.04)
    legend_below(axes, len(signals))
    return frame


@figure("calibration_bins")
def _calibration_bins(data: ReportData, axes: Axes) -> pd.DataFrame | None:
    """Is the most frequent answer right as often as it is given?

    Trajectories in ten bins by the share of their rollouts that give the most frequent answer, at the start, half-way
    and at the end. On the dotted diagonal an answer is right as often as it is given; below it the rollouts agree more
    than they should, or are few: the share of the winner among few is too high even for a calibrated model. Marks grow
    with the number of trajectories; bars are 95 % intervals over problems.
    """
    frame = data.tables.get("calibration_bins")
    if frame is None or frame.empty:
        return None
    mark_diagonal(axes)
    looks = ((0.0, "start", ORANGE, "o"), (0.5, "half-way", GREEN, "^"), (1.0, "end", BLUE, "s"))
    for position, label, color, marker in looks:
        rows = frame[frame["position"] == position]
        if rows.empty:
            continue
        x, (value, low, high) = rows["confidence"].to_numpy(np.float64), spread(rows, "accuracy")
        share = rows["num_trajectories"].to_numpy(np.float64) / max(rows["num_trajectories"].sum(), 1)
        axes.vlines(x, low, high, color=color, linewidth=1, alpha=0.5)
        axes.scatter(x, value, s=12 + 120 * share, color=color, marker=marker, label=label, alpha=0.8, linewidths=0)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("share of the most frequent answer")
    axes.set_ylabel("share for which it is right")
    legend_below(axes)
    return frame


def _coincide(curve: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two curves differ nowhere by more than a line's width: 2 % of the larger maximum."""
    one, two = (each.set_index("position")["value"] for each in (curve, other))
    return bool((one - two).abs().max() <= 0.02 * max(one.max(), two.max()))


def _pooling_changes_nothing(data: ReportData) -> str:
    pooled, plain = (select(data.curves, name, group="all") for name in ("entropy_pooled", "entropy"))
    coincide = len(pooled) and len(plain) and _coincide(pooled, plain)
    return " With earlier matching rollouts the plug-in entropy is the same here and not drawn." if coincide else ""


@figure("entropy_estimators", _pooling_changes_nothing)
def _estimators(data: ReportData, axes: Axes) -> pd.DataFrame | None:
    """Bias of H from few rollouts

    The plug-in entropy of a few rollouts is too low on average. The other estimators reduce that bias: where they lie
    far above it, more rollouts would raise it. That the lines agree is no proof, since rare answers may escape them
    all.
    """
    looks: tuple[tuple[str, str, str, Any], ...] = (
        ("entropy", "plug-in (the paper's)", INK, "-"),
        ("entropy_miller_madow", "Miller–Madow", ORANGE, (0, (5, 2))),
        ("entropy_chao_shen", "Chao–Shen", GREEN, (0, (1, 1.5))),
        ("entropy_nsb", "NSB", BLUE, (0, (3, 1.5))),
        ("entropy_pooled", "plug-in, with earlier matching rollouts", PURPLE, (0, (6, 2, 1, 2))),
    )
    drawn: list[pd.DataFrame] = []
    for name, label, color, line in looks:
        curve = select(data.curves, name, group="all")
        if len(curve):
            if not (name == "entropy_pooled" and _coincide(curve, drawn[0])):
                plot(axes, curve, color, label, line, band=False)
            drawn.append(curve)
    if len(drawn) < 2:
        return None
    axes.set_ylim(bottom=0)
    label_axes(axes, "mean entropy (nats)")
    legend_below(axes)
    return pd.concat(drawn, ignore_index=True)


@figure("null_rate")
def _null_rate(data: ReportData, axes: Axes) -> pd.DataFrame | None:
    """Rollouts without a readable answer

    They count as one class of their own in H. If the share is high, H reflects whether rollouts finish rather than what
    they answer.
    """
    if not (select(data.curves, "null_rate", group="all")["value"] > 0).any():
        return None
    return _curves(data, axes, "null_rate", "share of rollouts without an answer", from_zero=True)


@figure("fano", lambda data: f" Here |A| = {data.summary.get('fano_num_answers')}.")
def _fano(data: ReportData, axes: Axes) -> pd.DataFrame | None:
    """Entropy as a bound on the error

    (H − ln 2) / ln |A| on mean entropies, with |A| the number of options and null, or where problems have no options
    the largest number of answers of any trajectory. It bounds the error only if the model's answers are calibrated and
    there are no more than |A|: an error clearly below the line shows that one of the two fails.
    """
    bound, error = (select(data.curves, name, group="all") for name in ("fano_bound", "majority_error"))
    if bound.empty or error.empty or not (bound["value"] > 0).any():
        return None  # a bound of 0 says nothing
    plot(axes, error, VERMILLION, "majority-vote error")
    plot(axes, bound, BLUE, "would-be Fano bound", (0, (5, 2)))
    axes.set_ylim(0, 1)
    label_axes(axes, "error rate")
    legend_below(axes)
    return pd.concat([error, bound], ignore_index=True)


@figure("sensitivity")
def _sensitivity(data: ReportData, axes: Axes) -> pd.DataFrame | None:
    """What ρ depends on

    The same rollouts scored in other ways: another smoothing of the gold surprisal, fewer rollouts, fewer checkpoints.
    A conclusion that one of these reverses is no finding about the model.
    """
    frame = data.tables.get("sensitivity")
    if frame is None or len(frame) < 2 or not frame[["rho_pearson", "rho_cross_fitted"]].notna().any(axis=None):
        return None
    labels = [
        ": ".join(filter(None, (factor.replace("_", " "), value)))
        for factor, value in zip(frame["factor"], frame["value"], strict=True)
    ]
    plot_rho(axes, frame, labels, max(2.6, 0.9 + 0.27 * len(frame)))
    return frame
