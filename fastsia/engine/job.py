"""What a run remembers of an active request, besides its slots in the tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np

from fastsia.engine.sequence import Request, Rollouts

_no_ints, _no_floats = partial(np.zeros, 0, np.int32), partial(np.zeros, 0, np.float32)


@dataclass
class Job:
    """An active request: one that has begun and is not finished.

    Attributes:
        trunk: slot of the trajectory's own trunk.
        rollouts: slots of its rollouts, without those that ended in an earlier run.
        ended: the rollouts that ended in an earlier run.
        replayed: tokens (int32) and log-probabilities (float32) that an earlier run drew for `rollouts`; see
            `RolloutStates.replayed_at`.
        chain: for each of its trunks, the nodes of y_1, y_2, ...
        trunks_left: trunks whose rollouts are not all finished.
        num_taken: tokens of the trajectory that `Run.take_drawn` has returned; is_end_taken: whether it has returned
            the finish reason.
    """

    request: Request
    number: int
    trunk: int = -1
    finish_reason: str = ""
    error: str | None = None
    token_ids: np.ndarray = field(default_factory=_no_ints)
    logprobs: np.ndarray = field(default_factory=_no_floats)
    entropies: np.ndarray = field(default_factory=_no_floats)
    checkpoints: np.ndarray = field(default_factory=_no_ints)
    rollouts: np.ndarray = field(default_factory=_no_ints)
    ended: Rollouts | None = None
    replayed: tuple[np.ndarray, np.ndarray] = field(default_factory=lambda: (_no_ints(), _no_floats()))
    chain: dict[int, np.ndarray] = field(default_factory=dict)
    trunks_left: int = 1
    num_taken: int = 0
    is_end_taken: bool = False

    @property
    def needs_given_logprobs(self) -> bool:
        """Whether the log-probabilities of its given tokens are asked for; a shuffled prefix has none."""
        request = self.request
        return self.finish_reason == "given" and request.given_logprobs and not request.shuffle_prefix
