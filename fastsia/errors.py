"""The error that fastsia raises for wrong input, and helpers that word its messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FastsiaError(ValueError):
    """A mistake in the user's input. The message is one sentence that names the field, file, record or nearest name.

    The command line prints it without a traceback and exits with code 2.
    """


def did_you_mean(name: str, known: Iterable[str], *, n: int = 1, otherwise: str | None = None) -> str:
    """The known names closest to a misspelled one, as the rest of an error message.

    Args:
        name: the name that was given.
        known: the names that exist.
        n: how many names to offer at most.
        otherwise: the rest of the message where none is close; None lists the known names.

    Returns:
        "; did you mean X?", or "; known names: A, B, C." where none is close.
    """
    names = list(known)
    folded = {candidate.lower(): candidate for candidate in names}
    near = [folded[found] for found in difflib.get_close_matches(name.lower(), folded, n=n, cutoff=0.5)]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; known names: {', '.join(names)}." if otherwise is None else otherwise


def counted(number: int, noun: str) -> str:
    """1 problem, 1,319 problems, 2 trajectories."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def one_line(error: object) -> str:
    """The text of an error or name with every run of white space as one blank."""
    return " ".join(str(error).split())
