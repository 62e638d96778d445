"""Whether a peer draws from the right distribution. No time of a peer counts before this says so.

Two tests, both of draws with fixed lengths. *Scores*: the model itself, read by transformers' own forward pass, says
what each drawn token cost: its surprisal under the sampling distribution less that distribution's entropy. On exact
draws this excess has mean 0. Another temperature, nucleus, prefix or mask moves it, and draws from outside the nucleus
show. In bfloat16 batches of other shapes move logits, so a peer is held against `generate`, not against 0. *Classes*:
the first tokens of each checkpoint's rollouts against those that `generate` draws there, by a permutation test; it sees
draws that depend on one another, which scores do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from transformers import TopPLogitsWarper

from benchmarks.gpu.models import Model
from benchmarks.gpu.work import Work
from tests.backends.agreement import LEVEL, disagreement

# Normal deviations of the difference of two mean excesses: exact peers fail once in 16,000 times.
_DEVIATIONS = 4.0
# Of tokens; what bfloat16 moves over the nucleus' edge is already in what `generate` is measured to have.
_OUTSIDE_MORE = 0.01
# Scored: so many places of the work, so many rollouts at each.
_PLACES, _ROLLOUTS = 16, 3
_CLASS_TOKENS = 8


@torch.inference_mode()
def score(model: Model, work: Work, places: Iterable[tuple[list[int], np.ndarray]]) -> tuple[float, float, float]:
    """Of prefixes, each with rollouts of it, int [n, L], by the model's own forward pass.

    Returns:
        The tokens' mean excess (nats), its standard error, and the part of them outside of the nucleus.
    """
    nucleus, parts = TopPLogitsWarper(work.shape.top_p), []
    for prefix, rollouts in places:
        ids = torch.tensor([[*prefix, *rollout] for rollout in rollouts.tolist()], device=model.module.device)
        logits = model.module(input_ids=ids, use_cache=False, logits_to_keep=rollouts.shape[1] + 1).logits[:, :-1]
        cut = nucleus(None, logits.flatten(0, 1).float() / work.shape.temperature)
        logprobs = torch.log_softmax(cut, dim=-1)
        entropy = torch.special.entr(logprobs.exp()).sum(dim=-1)
        parts.append(-logprobs.gather(1, ids[:, len(prefix) :].reshape(-1, 1))[:, 0] - entropy)
    excess = torch.cat(parts)
    inside = excess[excess.isfinite()]
    return inside.mean().item(), (inside.var() / len(inside)).sqrt().item(), 1 - len(inside) / len(excess)


def check(model: Model, work: Work, tokens: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Whether draws [P, C, N, L] of this work agree with the model and with `generate`."""
    assert work.oracle is not None
    oracle = dict(zip(work.shape.checkpoints, work.oracle, strict=True))
    every = [(p, c) for p in range(tokens.shape[0]) for c in range(tokens.shape[1])]
    chosen = [every[int(i)] for i in np.linspace(0, len(every) - 1, min(_PLACES, len(every))).round()]
    drawn = [(work.prefix(p, work.checkpoints[c]), tokens[p, c, :_ROLLOUTS]) for p, c in chosen]
    excess, error, outside = score(model, work, drawn)
    expected, its_error, also = score(model, work, [(work.prefix(0, t), rollouts) for t, rollouts in oracle.items()])
    openings = [(_openings(tokens[0, c]), _openings(oracle[t])) for c, t in enumerate(work.checkpoints)]
    found = disagreement(openings, seed)
    error = (error**2 + its_error**2) ** 0.5
    near = abs(excess - expected) <= _DEVIATIONS * error and outside <= also + _OUTSIDE_MORE
    return {
        "excess_nats": excess,
        "excess_nats_generate": expected,
        "excess_error": error,
        "outside": outside,
        "outside_generate": also,
        **found,
        "level": LEVEL,
        "agrees": near and found["p_value"] > LEVEL,
    }


def _openings(rollouts: np.ndarray) -> list[list[int]]:
    return [rollout[:_CLASS_TOKENS].tolist() for rollout in rollouts]
