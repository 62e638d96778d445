"""Whether a peer draws from the right distribution. No time of a peer counts before this says so.

*Scores*: the excess of its draws, against that of `generate`'s and not against 0, since in bfloat16 batches of other
shapes move logits. *Classes*: the first tokens of each checkpoint's rollouts against those that `generate` draws there,
by a permutation test; it sees draws that depend on one another, which scores do not.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.gpu.models import Model
from benchmarks.gpu.work import Work
from tests.backends.agreement import LEVEL, disagreement, excess

# Normal deviations of the difference of two mean excesses: exact peers fail once in 16,000 times.
_DEVIATIONS = 4.0
# Of tokens; what bfloat16 moves over the nucleus' edge is already in what `generate` is measured to have.
_OUTSIDE_MORE = 0.01
# Scored: so many places of the work, so many rollouts at each.
_PLACES, _ROLLOUTS = 16, 3
_CLASS_TOKENS = 8


def check(model: Model, work: Work, tokens: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Whether draws [P, C, N, L] of this work agree with the model and with `generate`."""
    assert work.oracle is not None
    oracle = dict(zip(work.shape.checkpoints, work.oracle, strict=True))
    sampling = work.shape.temperature, work.shape.top_p
    every = [(p, c) for p in range(tokens.shape[0]) for c in range(tokens.shape[1])]
    chosen = [every[int(i)] for i in np.linspace(0, len(every) - 1, min(_PLACES, len(every))).round()]
    drawn = [(work.prefix(p, work.checkpoints[c]), tokens[p, c, :_ROLLOUTS]) for p, c in chosen]
    mean, error, outside = excess(model.module, drawn, *sampling)
    given = [(work.prefix(0, t), rollouts) for t, rollouts in oracle.items()]
    expected, its_error, also = excess(model.module, given, *sampling)
    error = (error**2 + its_error**2) ** 0.5
    pairs = [(tokens[0, c], oracle[t]) for c, t in enumerate(work.checkpoints)]
    openings = [(one[:, :_CLASS_TOKENS].tolist(), two[:, :_CLASS_TOKENS].tolist()) for one, two in pairs]
    found = disagreement(openings, seed)
    near = abs(mean - expected) <= _DEVIATIONS * error and outside <= also + _OUTSIDE_MORE
    return {
        "excess_nats": mean,
        "excess_nats_generate": expected,
        "excess_error": error,
        "outside": outside,
        "outside_generate": also,
        **found,
        "level": LEVEL,
        "agrees": near and found["p_value"] > LEVEL,
    }
