"""Statistics of the Stepwise Informativeness Assumption over a stored table of rollouts. Needs no model."""

from fastsia.sia.analysis import Analysis, analyze_rollouts, analyze_table, encode_readings, reading_of, uneven_counts
from fastsia.sia.compare import differences, outcome_baseline, shuffled_table, side_by_side, tabulate
from fastsia.sia.forced import forced_table
from fastsia.sia.paper import published_rho, table1, table2, table3
from fastsia.sia.signatures import ride_lengths
from fastsia.sia.token_level import TokenTraces

__all__ = [
    "Analysis",
    "TokenTraces",
    "analyze_rollouts",
    "analyze_table",
    "differences",
    "encode_readings",
    "forced_table",
    "outcome_baseline",
    "published_rho",
    "reading_of",
    "ride_lengths",
    "shuffled_table",
    "side_by_side",
    "table1",
    "table2",
    "table3",
    "tabulate",
    "uneven_counts",
]
