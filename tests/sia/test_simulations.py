"""The commands of docs/estimators.md run, in small; the simulations take half an hour at their size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastsia import evaluate
from tests.sia import estimators, precision, simulations

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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored run."""
    folder = tmp_path_factory.mktemp("run")
    evaluate("demo:sft", "demo", limit=3, output=folder, num_rollouts=8, stride=20, temperature=1.5)
    return folder / "run.sqlite"


def test_estimators_are_scored_on_unseen_rollouts(run: Path) -> None:
    found = estimators.score(run, [2, 4])
    assert set(found.index) == {"plain counts", "smoother", "decomposition", "both"}
    assert (found[["N = 2", "N = 4"]] > 0).all(axis=None)


def test_an_allocation_is_priced_on_a_stored_run(run: Path) -> None:
    found = precision.score(run, first=4, like=10, sets=4)
    assert found["estimate"].tolist() == ["entropy", "entropy_miller_madow", "entropy_chao_shen", "gold"]
    assert (found[["rounds", "tokens", "plan"]] > 0).all(axis=None)
    assert found["covered"].between(0, 1).all()
