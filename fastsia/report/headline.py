"""The headline numbers of a run as rows: one list for the terminal, Markdown, JSON and notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from fastsia.report.data import title_of
from fastsia.report.tables import (
    ShownTable,
    format_interval,
    format_number,
    format_percent,
    format_percents,
    recommended_name,
)
from fastsia.sia import Estimate, outcome_baseline
from fastsia.sia.compare import auc_at

AUC_HALF_WAY = "AUC of −H at 50 % of the reasoning"


@dataclass(frozen=True)
class Row:
    """One number.

    Attributes:
        name: What it is, for reading.
        value: None where undefined.
        low: Lower end of the 95 % interval; None without one.
        high: Upper end.
        n: How many trajectories or rollouts it summarizes; None where that is not known.
        percent: Whether it is a share, shown in percent.
        part: Whether it is the number above for some of the trajectories only.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    percent: bool = False
    part: bool = False

    @classmethod
    def of(cls, name: str, found: Estimate, n: int | None = None, *, percent: bool = False, part: bool = False) -> Row:
        return cls(name, found.value, found.low, found.high, n, percent, part)

    def cells(self) -> list[str]:
        """Name, value, interval and n as text."""
        spell = format_percent if self.percent else format_number
        bounds = None if self.low is None or self.high is None else (self.low, self.high)
        interval = (format_percents if self.percent else format_interval)(bounds)
        name = f"  {self.name}" if self.part else self.name
        return [name, spell(self.value), interval, "" if self.n is None else f"{self.n:,}"]


def headline(summary: Mapping[str, Any], trajectories: pd.DataFrame) -> list[Row]:
    """The headline numbers, in reading order."""
    return list(_rows(summary, trajectories))


def _rows(summary: Mapping[str, Any], frame: pd.DataFrame) -> Iterator[Row]:
    def found(key: str) -> Estimate:
        return Estimate.of_summary(summary, key)

    correct = frame["correct"].fillna(False).astype(bool)
    scored, rollouts = int(frame["rho"].size), summary.get("num_rollouts")
    yield Row.of("accuracy", found("accuracy"), scored, percent=True)
    best = (summary.get("rho") or {}).get("recommended")
    kinds = {"pearson": "the paper's ρ"} | ({} if best is None else {best: recommended_name(best)})
    for key, name in kinds.items():
        defined = frame["rho" if key == "pearson" else f"rho_{key}"].notna()
        yield Row.of(name, found(f"rho.{key}"), int(defined.sum()))
        for group, member in (("correct", defined & correct), ("incorrect", defined & ~correct)):
            yield Row.of(f"ends {group}", found(f"rho.{key}_{group}"), int(member.sum()), part=True)
    if not summary.get("off_policy"):
        baseline = found("rho.baseline") if best else Estimate(outcome_baseline(frame))
        yield Row.of("2·accuracy − 1 where ρ is defined", baseline, int(frame["rho"].notna().sum()))
    if (summary.get("rho") or {}).get("expected_from_noise") is not None:
        yield Row.of("the paper's ρ from noise alone", found("rho.expected_from_noise"))
    yield Row.of("the paper's ρ undefined", found("rho.undefined_fraction"), scored, percent=True)
    if (summary.get("rho") or {}).get("share_moving") is not None:
        yield Row.of("answers probably change", found("rho.share_moving"), scored, percent=True)
    if (auc := auc_at(summary, 0.5)) is not None:
        yield Row.of(AUC_HALF_WAY, auc, auc.n)
    yield Row.of("H at the start, nats", found("entropy_first"), scored)
    yield Row.of("H at the end, nats", found("entropy_final"), scored)
    if summary.get("off_policy"):
        yield Row.of("information gain, nats", found("gain"), scored)
    yield Row.of("no answer", found("null_rate"), rollouts, percent=True)
    if summary.get("cut_rate") is not None:
        yield Row.of("cut by the token limit", found("cut_rate"), rollouts, percent=True)


COLUMNS = ("", "value", "95 % interval", "n")
CAPTION = "n: trajectories; rollouts in the rows “no answer” and “cut by the token limit”."
NO_WIDTH = " An interval of no width belongs to a share of 0 or 100 %, which is no more certain than others."


def headline_table(summary: Mapping[str, Any], trajectories: pd.DataFrame) -> ShownTable:
    """The headline numbers as a table to read."""
    found = headline(summary, trajectories)
    caption = CAPTION + NO_WIDTH * any(row.low is not None and row.low == row.high for row in found)
    problems = summary["num_problems"]
    name = f"{title_of(summary)}: {problems:,} {'problem' if problems == 1 else 'problems'}"
    return ShownTable(name, caption, COLUMNS, [row.cells() for row in found])


def headline_object(summary: Mapping[str, Any], trajectories: pd.DataFrame) -> dict[str, Any]:
    """The headline numbers for JSON: model, task, num_problems, rows, warnings."""
    rows: list[dict[str, Any]] = []
    above = ""
    for row in headline(summary, trajectories):
        above = above if row.part else row.name
        entry = asdict(row)
        part = entry.pop("part")
        rows.append({**entry, "name": above, "group": row.name if part else None})
    about = {name: summary.get(name) for name in ("model", "task", "num_problems")}
    return {**about, "rows": rows, "warnings": list(summary.get("warnings") or [])}


def time_spent(summary: Mapping[str, Any]) -> str:
    """The seconds of a run, and that they are not all of them where a process was killed."""
    # Costs that do not cover all problems have no row_steps in the summary, though their counters have.
    partial = summary.get("row_steps") is None and (summary.get("counters") or {}).get("row_steps") is not None
    return f"{summary['seconds']:.1f} s{', killed runs not counted' if partial else ''}"


def as_markdown(shown: ShownTable) -> str:
    """A table as Markdown (GitHub's)."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    # Two blanks at the start of a cell are lost in Markdown; the part of a number is marked by an arrow.
    rows = [["↳ " + cell[2:] if cell[:2].isspace() else str(cell) for cell in row] for row in shown.rows]
    above = [f"**{shown.title}**", "", line(shown.columns), line(["---"] * len(shown.columns))]
    return "\n".join([*above, *map(line, rows)])


def as_html(shown: ShownTable) -> str:
    """A table as HTML for a notebook; all text is escaped."""

    def row(cells: Sequence[str], name: str) -> str:
        return "<tr>" + "".join(f"<{name}>{html.escape(str(cell))}</{name}>" for cell in cells) + "</tr>"

    rows = [["– " + cell[2:] if cell.startswith("  ") else cell for cell in cells] for cells in shown.rows]
    body = "".join(row(cells, "td") for cells in rows)
    return (
        f"<p><strong>{html.escape(shown.title)}</strong></p><table><thead>{row(shown.columns, 'th')}</thead>"
        f"<tbody>{body}</tbody></table><p>{html.escape(shown.caption)}</p>"
    )
