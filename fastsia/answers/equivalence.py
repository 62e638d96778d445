"""Stand-in: every spelling is a class of its own."""

from __future__ import annotations

from collections.abc import Sequence

from fastsia.config import Equivalence


def classes(answers: Sequence[str], gold: str, *, method: Equivalence) -> dict[str, str]:
    """Each distinct answer's class, named by a spelling of it; the gold answer's own class has the gold's spelling."""
    return {answer: answer for answer in {*answers, gold}}
