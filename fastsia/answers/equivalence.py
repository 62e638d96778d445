"""Stand-in: every spelling is a class of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastsia.config import Equivalence


@dataclass(frozen=True)
class Classes:
    """The classes of a trajectory's answers. representative: of each distinct answer, the gold included; that of the
    gold's class is the gold. num_timeouts: comparisons that took too long; their answers count as different."""

    representative: Mapping[str, str]
    num_timeouts: int = 0


def classes(answers: Sequence[str], gold: str, *, method: Equivalence) -> Classes:
    """The classes of one trajectory's answers."""
    return Classes({answer: answer for answer in {*answers, gold}})
