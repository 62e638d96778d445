"""Results: a run's database, its scores and exports, read, or scored again without a model."""

from fastsia.results.result import FORCED, SHUFFLED, SIAResult, analyze, folder_name, load, read_forced, reread, score
from fastsia.results.result import read_table as read_table
from fastsia.results.result import write_tables as write_tables
from fastsia.results.score import drop_partial_costs, stored_config

__all__ = ["FORCED", "SHUFFLED", "SIAResult", "analyze", "drop_partial_costs", "folder_name", "load", "read_forced"]
__all__ += ["reread", "score", "stored_config"]
