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
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import TopPLogitsWarper

from benchmarks.agreement import LEVEL, disagreement
from benchmarks.gpu.models import Model
from benchmarks.gpu.work import Work

# Normal deviations of the difference of two mean excesses: exact peers fail once in 16,000 times.
_DEVIATIONS = 4.0
# Of tokens; what bfloat16 moves over the nucleus' edge is already in what `generate` is measured to have.
_OUTSIDE_MORE = 0.01
# Scored: so many places of the work, so many rollouts at each.
_PLACES, _ROLLOUTS = 16, 3
_CLASS_TOKENS = 8


@dataclass(frozen=True)
class Score:
    """Of drawn tokens: their mean excess (nats) with its standard error, and the part outside of the nucleus."""

    excess: float
    error: float
    outside: float
    num_tokens: int


@torch.inference_mode()
def score(model: Model, work: Work, places: Iterable[tuple[list[int], np.ndarray]]) -> Score:
    """Of prefixes, each with rollouts of it, int [n, L], by the model's own forward pass."""
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
    error = (inside.var() / len(inside)).sqrt()
    return Score(inside.mean().item(), error.item(), 1 - len(inside) / len(excess), len(excess))


def check(model: Model, work: Work, tokens: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Whether draws [P, C, N, L] of this work agree with the model and with `generate`."""
    assert work.oracle is not None
    oracle = dict(zip(work.shape.checkpoints, work.oracle, strict=True))
    every = [(p, c) for p in range(tokens.shape[0]) for c in range(tokens.shape[1])]
    chosen = [every[int(i)] for i in np.linspace(0, len(every) - 1, min(_PLACES, len(every))).round()]
    own = score(model, work, [(work.prefix(p, work.checkpoints[c]), tokens[p, c, :_ROLLOUTS]) for p, c in chosen])
    theirs = score(model, work, [(work.prefix(0, t), rollouts) for t, rollouts in oracle.items()])
    found = disagreement([_counts(tokens[0, c], oracle[t]) for c, t in enumerate(work.checkpoints)], seed)
    error = (own.error**2 + theirs.error**2) ** 0.5
    return {
        "excess_nats": own.excess,
        "excess_nats_generate": theirs.excess,
        "excess_error": error,
        "outside": own.outside,
        "outside_generate": theirs.outside,
        "scored_tokens": own.num_tokens,
        **found,
        "level": LEVEL,
        "agrees": bool(
            abs(own.excess - theirs.excess) <= _DEVIATIONS * error
            and own.outside <= theirs.outside + _OUTSIDE_MORE
            and found["p_value"] > LEVEL
        ),
    }


def _counts(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[2, classes]: how often each opening occurs in both."""
    length = min(_CLASS_TOKENS, one.shape[1], other.shape[1])
    _, classes = np.unique(np.concatenate([one[:, :length], other[:, :length]]), axis=0, return_inverse=True)
    parts = np.split(classes.reshape(-1), [len(one)])
    return np.stack([np.bincount(part, minlength=int(classes.max()) + 1) for part in parts])
