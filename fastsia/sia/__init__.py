"""Statistics of the Stepwise Informativeness Assumption over a stored table of rollouts. Needs no model."""

from fastsia.sia.analysis import Analysis, analyze_rollouts

__all__ = ["Analysis", "analyze_rollouts"]
