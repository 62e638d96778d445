"""Results drawn: figures and the self-contained report."""

from fastsia.report.data import AnswerView, CheckpointView, ReportData, TrajectoryView, distinct_answers
from fastsia.report.figures import draw_figures
from fastsia.report.html import write_report

__all__ = [
    "AnswerView",
    "CheckpointView",
    "ReportData",
    "TrajectoryView",
    "distinct_answers",
    "draw_figures",
    "write_report",
]
