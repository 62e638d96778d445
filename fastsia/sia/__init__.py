"""Statistics of the Stepwise Informativeness Assumption over a stored table of rollouts. Needs no model."""

from fastsia.sia.analysis import Analysis, analyze_rollouts, analyze_table
from fastsia.sia.compare import differences, outcome_baseline, shuffled_table, side_by_side, tabulate
from fastsia.sia.decomposition import at_tokens
from fastsia.sia.estimate import Estimate, Resampled, spread
from fastsia.sia.extras.forced import forced_table
from fastsia.sia.extras.forced_stop import forced_stop_table
from fastsia.sia.leaves import distinct_texts
from fastsia.sia.notes import uneven_counts
from fastsia.sia.paper import published_rho, table1, table2, table3
from fastsia.sia.readings import encode_readings, reading_of
from fastsia.sia.registry import tables_of_run
from fastsia.sia.token_traces import TokenLogprobs, TokenTraces

__all__ = [
    "Analysis",
    "Estimate",
    "Resampled",
    "TokenLogprobs",
    "TokenTraces",
    "analyze_rollouts",
    "analyze_table",
    "at_tokens",
    "differences",
    "distinct_texts",
    "encode_readings",
    "forced_stop_table",
    "forced_table",
    "outcome_baseline",
    "published_rho",
    "reading_of",
    "shuffled_table",
    "side_by_side",
    "spread",
    "table1",
    "table2",
    "table3",
    "tables_of_run",
    "tabulate",
    "uneven_counts",
]
