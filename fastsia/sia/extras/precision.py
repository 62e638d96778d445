"""The error that a run with allocated rollouts has reached, and its cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fastsia.errors import counted
from fastsia.sia.allocation import bias_bound, errors_of
from fastsia.sia.registry import FACTS, NOTES
from fastsia.sia.scored import Scored


def _precision(scored: Scored) -> dict[str, Any]:
    """Of a run that allocates its rollouts: target, standard error reached, rollouts, tokens."""
    table, config = scored.table, scored.config
    if not config.allocates_rollouts:
        return {}
    gold = table.gold[table.trajectory_of_checkpoint]
    variance, bias = errors_of(table.code, table.checkpoint_offsets, gold, config.target_of)
    reached = float(np.sqrt((variance / table.count + bias**2).mean()))
    found: dict[str, Any] = {
        "of": config.target_of,
        "target_se": config.target_se,
        "max_total_tokens": config.max_total_tokens,
        "se": reached,
        "fewest_rollouts": int(table.count.min()),
        "most_rollouts": int(table.count.max()),
        "mean_rollouts": float(table.count.mean()),
        "tokens": None,
        "tokens_of_equal_numbers": None,
        "bias_bound": 0.0,
    }
    if table.tokens is not None and table.matched is not None:
        tokens = table.tokens - table.matched
        length = int(table.checkpoint[table.last].sum())
        equal = _equal_number(variance, bias * table.count, reached)
        cost = np.bincount(table.checkpoint_of_rollout, weights=tokens) / table.count
        found["tokens"] = int(tokens.sum()) + length
        found["tokens_of_equal_numbers"] = round(equal * float(cost.sum())) + length if reached else None
        if config.max_total_tokens is not None:
            found["bias_bound"] = bias_bound(table.count, tokens, config.max_tokens)
    return {f"precision.{name}": value for name, value in found.items()}


def _equal_number(variance: np.ndarray, bias: np.ndarray, error: float) -> float:
    """The number n of rollouts everywhere with mean V / n + (B / n)^2 = error^2, B the bias of a single one."""
    if error == 0:
        return 0.0
    half, square = float(variance.mean()) / 2, float((bias**2).mean())
    return (half + float(np.sqrt(half**2 + square * error**2))) / error**2


def _notes(scored: Scored, facts: Mapping[str, Any]) -> Iterator[str]:
    config = scored.config
    if not config.allocates_rollouts:
        return
    what = "standard error and bias of H" if config.target_of == "entropy" else "standard error of p(gold)"
    target = "" if config.target_se is None else f" (target {config.target_se:g})"
    fewest, most, mean = (facts[f"precision.{name}_rollouts"] for name in ("fewest", "most", "mean"))
    yield (
        f"Allocated rollouts: the {what} at a checkpoint is about {facts['precision.se']:.3g}{target}, with "
        f"{fewest} to {most} rollouts, {mean:.1f} on average; the allocation adds a bias of at most about "
        f"{facts['precision.bias_bound']:.1g} to a checkpoint's shares. H and s are those of "
        f"{scored.rarefaction_depth} rollouts everywhere."
    )
    if config.target_se is not None and facts["precision.se"] > 1.1 * config.target_se:
        yield (
            f"target_se={config.target_se:g} was not reached: {counted(fewest, 'rollout')} a checkpoint showed less "
            "spread than there is, or max_total_tokens ended the run."
        )
    tokens, most_tokens = facts["precision.tokens"], config.max_total_tokens
    if most_tokens is not None and tokens is not None and tokens > 1.1 * most_tokens:
        yield (
            f"max_total_tokens={most_tokens:,} did not suffice for {counted(fewest, 'rollout')} at every checkpoint: "
            f"{tokens:,} tokens were drawn."
        )


FACTS.append(_precision)
NOTES.append(_notes)
