"""Results drawn: figures and the self-contained report."""

from fastsia.report.data import AnswerView, CheckpointView, ReportData, TrajectoryView, distinct_answers
from fastsia.report.figures import draw_comparison, draw_figures
from fastsia.report.html import write_comparison, write_report

__all__ = [
    "AnswerView",
    "CheckpointView",
    "ReportData",
    "TrajectoryView",
    "distinct_answers",
    "draw_comparison",
    "draw_figures",
    "write_comparison",
    "write_report",
]
