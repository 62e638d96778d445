"""The registry of an analysis: its tables, its quantities, and further columns, curves and facts.

A module that adds one of them registers it beside the code that computes it; the analysis, the exported files, the
report, the comparison of runs and their captions follow from the registry. Modules of `fastsia.sia.extras` are imported
with the package, so a new one needs no further mention.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import pandas as pd

if TYPE_CHECKING:
    from fastsia.sia.curves import Curve
    from fastsia.sia.estimate import Estimate
    from fastsia.sia.scored import Scored

Function = TypeVar("Function", bound=Callable[..., Any])


class Described(NamedTuple):
    """Title and caption of a table or figure."""

    title: str
    caption: str

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Described:
        """Read a function's docstring: its first line is the title, the text up to Args or Returns is the caption."""
        title, _, rest = (inspect.getdoc(function) or function.__name__).partition("\n")
        return cls(title.rstrip("."), " ".join(re.split(r"\n(?:Args|Returns|Raises):\n", rest)[0].split()))


def _no_note(frame: pd.DataFrame) -> str:
    return ""


@dataclass(frozen=True)
class TableEntry:
    """A table that is exported and shown.

    Attributes:
        name: Stem of its file in tables/.
        title: Its heading on a page and in the terminal.
        caption: How to read it.
        columns: Columns that it always has.
        make: Computes it from the scored run; None where this run has no such table. Tables without `make` are made
            elsewhere: from two runs, from another file.
        exported: Whether it is a file in the tables/ of a run.
        place: Tables are shown in this order.
        note: What is to be added to the caption for this run, from the table.
    """

    name: str
    title: str
    caption: str
    columns: Sequence[str] = ()
    make: Callable[[Scored], pd.DataFrame | None] | None = None
    exported: bool = True
    place: int = 1000
    note: Callable[[pd.DataFrame], str] = _no_note


@dataclass(frozen=True)
class GroupEstimate:
    """One estimate of a quantity: over all trajectories or those of one outcome, at one position or over all.

    Attributes:
        estimate: The number with its interval.
        group: "all", "correct" or "incorrect".
        position: Where along the reasoning, or another number that tells the estimates of a quantity apart.
        facts: Further fields beside the number in summary.json.
    """

    estimate: Estimate
    group: str = "all"
    position: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Quantity:
    """A headline number.

    Attributes:
        name: Its name in the table of estimates and in comparisons of runs.
        column: The column of the trajectories whose mean it is; pairs of runs are compared by it.
        make: Its estimates in a scored run; None: the mean of `column`.
        key: Its place in summary.json, with dots between levels; empty: its name; None: it is not there. "_correct" or
            "_incorrect" follows for these groups.
        compared: Whether it is a column of the table of runs.
        item: Names of position and value of its estimates in summary.json, where it has several.
        inline: Whether its interval stands beside the value in summary.json and not in `ci`.
    """

    name: str
    column: str | None = None
    make: Callable[[Scored], Iterable[GroupEstimate]] | None = None
    key: str | None = ""
    compared: bool = True
    item: tuple[str, str] = ("position", "value")
    inline: bool = False


TABLES: dict[str, TableEntry] = {}
QUANTITIES: dict[str, Quantity] = {}
FACTS: list[Callable[[Scored], Mapping[str, Any]]] = []
"""Functions that add entries to summary.json that are no estimates; keys have dots between levels. They are called in
the order of their registration, `fastsia.sia.analysis` first, and a later entry replaces an earlier one of its key."""
NOTES: list[Callable[[Scored, Mapping[str, Any]], Iterable[str]]] = []
"""Functions that add warnings, from the scored run and the facts."""
COLUMNS: dict[Literal["trajectories", "checkpoints"], list[Callable[[Scored], Mapping[str, Any]]]] = {
    "trajectories": [],
    "checkpoints": [],
}
"""Functions that add columns to a frame of the analysis."""
CURVES: list[Callable[[Scored], Iterable[Curve]]] = []
"""Functions that add curves to the analysis."""


def table(
    name: str,
    *,
    columns: str = "",
    computed: bool = True,
    exported: bool = True,
    place: int = 1000,
    note: Callable[[pd.DataFrame], str] = _no_note,
) -> Callable[[Function], Function]:
    """Register the function that computes a table; its docstring is the table's title and caption.

    Args:
        name: See `TableEntry`.
        columns: Columns that it always has, separated by spaces.
        computed: Whether the analysis calls the function, with a `Scored`; else the table is made elsewhere.
        exported: See `TableEntry`.
        place: See `TableEntry`.
        note: See `TableEntry`.
    """

    def register(function: Function) -> Function:
        make = function if computed else None
        TABLES[name] = TableEntry(name, *Described.of(function), columns.split(), make, exported, place, note)
        return function

    return register


def add_quantity(quantity: Quantity) -> Quantity:
    """Register a quantity."""
    QUANTITIES[quantity.name] = quantity
    return quantity


def tables_of_run() -> list[str]:
    """Names of the tables in a run's tables/; a file of another name there is not the run's."""
    return [entry.name for entry in TABLES.values() if entry.exported]


def shown_order(name: str) -> tuple[int, str]:
    """Sort key of a table: registered places first, unknown tables last."""
    return (TABLES[name].place, "") if name in TABLES else (10_000, "")
