"""Presentation of results: figures, tables as text and the self-contained report."""

from fastsia.report.data import (
    AlternativeView,
    AnswerView,
    CheckpointView,
    ReportData,
    RolloutView,
    TrajectoryView,
    decisive_steps,
    distinct_answers,
)
from fastsia.report.drawing import Drawing
from fastsia.report.figures import FIGURES, draw_figures, draw_one, draw_trajectory, figure
from fastsia.report.headline import (
    as_html,
    as_markdown,
    headline,
    headline_object,
    headline_table,
    time_spent,
)
from fastsia.report.html import write_comparison, write_report
from fastsia.report.overlays import Overlay, draw_comparison, draw_families, draw_outcomes, draw_overlay
from fastsia.report.tables import ShownTable, recommended_name, show_readings, show_runs, show_table

__all__ = [
    "FIGURES",
    "AlternativeView",
    "AnswerView",
    "CheckpointView",
    "Drawing",
    "Overlay",
    "ReportData",
    "RolloutView",
    "ShownTable",
    "TrajectoryView",
    "as_html",
    "as_markdown",
    "decisive_steps",
    "distinct_answers",
    "draw_comparison",
    "draw_families",
    "draw_figures",
    "draw_one",
    "draw_outcomes",
    "draw_overlay",
    "draw_trajectory",
    "figure",
    "headline",
    "headline_object",
    "headline_table",
    "recommended_name",
    "show_readings",
    "show_runs",
    "show_table",
    "time_spent",
    "write_comparison",
    "write_report",
]
