"""The oracle: each rollout computed alone, token by token, by the eager forward of transformers over its whole text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from fastsia.engine.sequence import Rollout
from fastsia.ops.reference import DrawSpec, sample, uniforms

EDGE = 1e-5


@dataclass
class Alone:
    """One rollout, with how near each draw came to an edge where the last bits of logits decide."""

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str
    margins: list[float]


def rollout_alone(
    model: PreTrainedModel,
    prefix: list[int],
    *,
    seed: int,
    checkpoint: int,
    rollout: int,
    temperature: float,
    top_p: float,
    limit: int,
    eos: tuple[int, ...],
    domain: int = 1,
) -> Alone:
    ids = list(prefix)
    out = Alone([], [], "length", [])
    key = torch.tensor([seed], dtype=torch.int64)
    for position in range(limit):
        with torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1:]
        counter = torch.tensor([[position, rollout, checkpoint, domain]], dtype=torch.int32)
        drawn = sample(
            logits,
            DrawSpec(
                torch.zeros(1, dtype=torch.int64), key, counter, torch.tensor([temperature]), torch.tensor([top_p])
            ),
        )
        token = int(drawn.tokens)
        ids.append(token)
        out.token_ids.append(token)
        out.logprobs.append(float(drawn.logprobs))
        out.margins.append(_margin(logits[0], temperature, top_p, float(uniforms(key, counter))))
        if token in eos:
            out.finish_reason = "eos"
            break
    return out


def _margin(logits: torch.Tensor, temperature: float, top_p: float, u: float) -> float:
    """Distance in probability from the draw to the nearest edge: of the nucleus, or of the cumulative distribution."""
    if temperature == 0:
        top2 = logits.double().topk(2).values
        return float(top2[0] - top2[1])
    probs = torch.softmax(logits.double() / temperature, dim=0).numpy()
    order = np.argsort(-probs, kind="stable")
    mass = np.cumsum(probs[order])
    cut = int(np.searchsorted(mass, top_p)) if top_p < 1 else len(probs) - 1
    inside = np.zeros(len(probs), dtype=bool)
    inside[order[: cut + 1]] = True
    cumulative = np.cumsum(np.where(inside, probs, 0))
    edge_of_draw = np.abs(cumulative / cumulative[-1] - u).min()
    edge_of_nucleus = np.abs(mass - top_p).min() if top_p < 1 else 1.0
    return float(min(edge_of_draw, edge_of_nucleus))


class Comparison:
    """Counts draws, differences at edges, and the largest difference of log-probabilities."""

    def __init__(self) -> None:
        self.draws = 0
        self.at_edge = 0
        self.logprob_error = 0.0

    def add(self, ours: Rollout, alone: Alone) -> None:
        same = [a == b for a, b in zip(ours.token_ids, alone.token_ids, strict=False)]
        until = same.index(False) if False in same else min(len(ours.token_ids), len(alone.token_ids))
        self.draws += len(alone.token_ids)
        if until:
            error = np.abs(np.array(ours.logprobs[:until]) - np.array(alone.logprobs[:until])).max()
            self.logprob_error = max(self.logprob_error, float(error))
        if ours.token_ids == alone.token_ids:
            assert ours.finish_reason == alone.finish_reason
            return
        assert until < len(alone.token_ids), "a rollout went on where it ends when computed alone"
        assert alone.margins[until] < EDGE, (
            f"draw {until} differs from the rollout computed alone, {alone.margins[until]:.2e} away from any edge"
        )
        self.at_edge += 1

    def check(self) -> None:
        """The exactness contract: differences at edges are at most 1 in 10,000 draws; log-probabilities within 1e-4."""
        assert self.draws > 0
        assert self.at_edge <= max(self.draws / 10_000, 1)
        assert self.logprob_error < 1e-4
