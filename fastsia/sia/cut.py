"""Texts that the token limit cut: how many there are, and the warnings about a run with many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NOTED_SHARE = 0.05
"""A larger share of cut rollouts or trajectories causes a warning. Chosen by fastsia."""

_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Ends:
    """The ends of the texts of one kind.

    Attributes:
        noun: "rollouts" or "trajectories".
        cut: bool [n], whether the token limit ended each text.
        tokens: int64 [n], lengths; None where they are not known.
    """

    noun: str
    cut: np.ndarray
    tokens: np.ndarray | None = None

    @property
    def share(self) -> float:
        """Share of the texts that were cut."""
        return float(self.cut.mean()) if len(self.cut) else 0.0

    def counted(self) -> str:
        return f"{int(self.cut.sum()):,} of {len(self.cut):,} {self.noun} ({100 * self.share:.1f} %)"

    def lengths(self) -> str | None:
        """The lengths by which shares of the texts had ended, as text; None where the lengths are not known."""
        if self.tokens is None:
            return None
        ended = np.sort(self.tokens[~self.cut])
        limits = np.unique(self.tokens[self.cut])
        limit = f"the limit of {int(limits[0]):,} tokens" if len(limits) == 1 else "their limit"
        if not len(ended):
            return f"of the {self.noun}, none by {limit}"
        parts = []
        for share in _SHARES:
            place = int(np.ceil(share * len(self.cut))) - 1
            if place < len(ended) - 1:
                parts.append(f"{100 * share:.0f} % by {int(ended[place]):,} tokens")
        if len(limits):
            parts.append(f"{100 * len(ended) / len(self.cut):.0f} % by {limit}")
        else:
            parts.append(f"all by {int(ended[-1]):,} tokens")
        return f"of the {self.noun}, {', '.join(parts)}"


def cut_notes(rollouts: Ends, trajectories: Ends | None = None) -> list[str]:
    """Warnings about many cut texts; empty where few were cut."""
    both = [ends for ends in (rollouts, trajectories) if ends is not None]
    many = [ends for ends in both if ends.share > NOTED_SHARE]
    if not many:
        return []
    notes = [
        f"The token limit cut {' and '.join(ends.counted() for ends in many)}. In the strict reading a cut text has an "
        "answer only where it had stated one completely."
    ]
    if rollouts.share > 0.5:
        lengths = [said for ends in both if (said := ends.lengths()) is not None]
        shown = f" How many had ended by which length: {'; '.join(lengths)}." if lengths else ""
        notes.append(
            f"Most rollouts were cut: the token limit, not the model, decides these numbers.{shown} A limit that would "
            "suffice is longer than the present one (max_tokens)."
        )
    return notes
