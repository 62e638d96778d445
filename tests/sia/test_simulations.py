"""The simulations of docs/estimators.md run; their full size takes half an hour (`make simulate`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.sia import simulations

SMALL: dict[Callable[..., Iterator[dict[str, Any]]], dict[str, int]] = {
    simulations.decompositions: {"sets": 4, "problems": 6},
    simulations.nothing_moves: {"traces": 20},
    simulations.decoupled_where_it_moves: {"problems": 6},
    simulations.alignments: {"sets": 1},
    simulations.repairings: {"runs": 1},
    simulations.allocated: {"sets": 20},
    simulations.allocated_decompositions: {"sets": 4, "problems": 6, "most": 12},
}


@pytest.mark.parametrize("make", simulations.MAKERS)
def test_each_simulation_makes_a_row(make: Callable[..., Iterator[dict[str, Any]]]) -> None:
    """Once a renamed method had broken three of them, and nothing noticed."""
    assert len(next(make(**SMALL[make]))) > 2
