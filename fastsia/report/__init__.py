"""Results drawn: figures, tables to read and the self-contained report."""

from fastsia.report.data import AnswerView, CheckpointView, ReportData, TrajectoryView, distinct_answers
from fastsia.report.figures import (
    Drawing,
    Overlay,
    draw_comparison,
    draw_families,
    draw_figures,
    draw_outcomes,
    draw_overlay,
)
from fastsia.report.html import write_comparison, write_report
from fastsia.report.tables import ShownTable, format_count, show_readings, show_table

__all__ = [
    "AnswerView",
    "CheckpointView",
    "Drawing",
    "Overlay",
    "ReportData",
    "ShownTable",
    "TrajectoryView",
    "distinct_answers",
    "draw_comparison",
    "draw_families",
    "draw_figures",
    "draw_outcomes",
    "draw_overlay",
    "format_count",
    "show_readings",
    "show_table",
    "write_comparison",
    "write_report",
]
