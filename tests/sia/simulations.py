"""The estimators against distributions that are known, at the sizes of docs/estimators.md: `make simulate`.

    python -m tests.sia.simulations [NAME ...]

Prints tables: bias and error of the decomposition, alignment where nothing moves, error of the mean rho in four
scenarios, power and size of the permutation test, allocated rollouts. The tests hold smaller ones to bounds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from fastsia.config import SIAConfig
from fastsia.sia.alignment import cross_fitted, pearson, permutation_test
from fastsia.sia.allocation import Pilot, allocate
from fastsia.sia.bootstrap import Bootstrap, interval
from fastsia.sia.curves import between_rows
from fastsia.sia.decomposition import Divergences, decompose, decomposed_halves, entropy_of, surprisal
from fastsia.sia.entropy import ends_correct, measure
from fastsia.sia.scored import Scored
from fastsia.sia.smoother import smooth
from fastsia.sia.table import encode
from tests.sia.simulate import SCENARIOS, Chain, diverging, draw, estimates, frame, moving, true_rho, z_scores


def decompositions(sets: int = 25, problems: int = 250) -> Iterator[dict[str, Any]]:
    """Texts of Markov chains; all sets of N rollouts give the z of each cell, one set the rest."""
    for spread, limit, budget, number in (
        (0.3, 120, "total", 20),
        (0.05, 120, "total", 20),
        (0.02, 120, "total", 20),
        (0.02, 120, "total", 5),
        (0.05, 40, "new", 20),
    ):
        rng = np.random.default_rng(0)
        chain = Chain(12, 4, rng, spread=spread, end=0.05)
        rollouts, logprobs, truth = chain.run(problems, sets * number, 4, limit, rng, budget=budget)
        table = encode(rollouts)
        config = SIAConfig(max_tokens=limit, rollout_budget=budget)  # type: ignore[arg-type]
        divergences = Divergences.of(table, logprobs, config)
        assert divergences is not None
        member = np.arange(sets * number)[:, None] // number == np.arange(sets)
        z = z_scores(estimates(table, divergences, member), truth)
        one = table.keep(table.index_in_checkpoint() < number)
        divergences = Divergences.of(one, logprobs, config)
        assert divergences is not None
        single, plain = decompose(one, divergences, 0.5), measure(one, 0.5).entropy
        entropy = entropy_of(truth)
        inner = np.delete(np.arange(len(entropy)), table.last)
        yield {
            "mean q": np.exp(divergences.log_stay[inner]).mean(),
            "budget": budget,
            "N": number,
            "cells": len(z),
            "z mean": z.mean(),
            "z sd": z.std(),
            "H bias": (single.entropy - entropy).mean(),
            "plain": (plain - entropy).mean(),
            "H rmse": np.sqrt(((single.entropy - entropy) ** 2).mean()),
            "plain rmse": np.sqrt(((plain - entropy) ** 2).mean()),
            "cover": (np.abs(single.entropy - entropy) <= 1.96 * single.entropy_se).mean(),
            "N_eff": np.median(single.effective_rollouts[inner]),
        }


def nothing_moves(traces: int = 3000) -> Iterator[dict[str, Any]]:
    """One distribution everywhere; segments of any probability, or .95 up to the middle and 0 after (uneven)."""
    checkpoints = 12
    uneven = np.tile(np.repeat([0.95, 1e-6], [5, 6]), (traces, 1))
    for name, p in (
        ("gold .7 of 4", [0.7, 0.1, 0.1, 0.1]),
        ("gold .1 of 2", [0.1, 0.9]),
        ("gold .3 of 20", [0.3] + [0.7 / 19] * 19),
        ("all .02 of 50", [0.02] * 50),
    ):
        for segments in ("any", "uneven"):
            rng = np.random.default_rng(1)
            stay = uneven if segments == "uneven" else np.clip(rng.beta(2.8, 1.2, uneven.shape), 1e-6, 0.999)
            parts: dict[str, list[np.ndarray]] = {"paper's": [], "decoupled": [], "smoothed": []}
            for part in np.array_split(stay, -(-traces // 500)):  # all at once need much memory
                answers = np.broadcast_to(p, (len(part), checkpoints, len(p)))
                rollouts, logprobs, _ = diverging(part, answers, 20, rng)
                table = encode(rollouts)
                divergences = Divergences.of(table, logprobs, SIAConfig(rollout_budget="total"))
                assert divergences is not None
                use = ~decompose(table, divergences, 0.5).withheld
                stats, offsets = measure(table, 0.5), table.trajectory_offsets
                found = cross_fitted(decomposed_halves(table, divergences, 0.5, 20, 0))[0]
                parts["decoupled"].append(np.where(use, found, np.nan))
                parts["paper's"].append(pearson(stats.entropy, stats.gold_surprisal, offsets))
                parts["smoothed"].append(smooth(table, 0.5).rho(slice(None), offsets))
            rho = {key: np.concatenate(values) for key, values in parts.items()}
            there = np.isfinite(rho["decoupled"])
            yield {
                "p": name,
                "segments": segments,
                "traces": int(there.sum()),
                "paper's": np.nanmean(rho["paper's"]),
                "decoupled": rho["decoupled"][there].mean(),
                "± SE": rho["decoupled"][there].std() / np.sqrt(there.sum()),
                "smoothed defined": np.isfinite(rho["smoothed"]).mean(),
            }


def deciding(stay: float) -> Chain:
    """Texts that decide on an answer: from states 0 to 3 they pass, with probability 0.15 a token, to one of four pairs
    of states that give their own answer with probability 0.94. Else the next state of the same group follows with
    probability `stay`."""
    chain = Chain(12, 4, np.random.default_rng(0))
    chain.step[:] = 0.0
    for state in range(12):
        group = np.arange(4) if state < 4 else 2 * (state // 2) + np.arange(2)
        forward = group[(state + 1 - group[0]) % len(group)]
        leave = 0.15 if state < 4 else 0.08
        chain.step[state, group] += (1 - leave) * (1 - stay) / len(group)
        chain.step[state, forward] += (1 - leave) * stay
        if state < 4:
            chain.step[state, 4:12] += leave * np.repeat([0.4, 0.3, 0.2, 0.1], 2) / 2
        else:
            chain.step[state, 12:16] += leave * np.where(np.arange(4) == (state - 4) // 2, 0.94, 0.02)
    return chain


def decoupled_where_it_moves(problems: int = 200) -> Iterator[dict[str, Any]]:
    """Chains that decide, with likely segments: the decoupled rho of each trajectory whose H moves by more
    than 0.2 nats against that of its distributions."""
    for stay, stride in ((0.5, 4), (0.9, 4), (0.99, 4), (0.99, 1)):
        rng, chain = np.random.default_rng(2), deciding(stay)
        rollouts, logprobs, truth = chain.run(problems, 20, stride, 150, rng, budget="total")
        table = encode(rollouts)
        divergences = Divergences.of(table, logprobs, SIAConfig(max_tokens=150, rollout_budget="total"))
        assert divergences is not None
        effective = decompose(table, divergences, 0.5).effective_rollouts
        number = table.num_answers[table.trajectory_of_checkpoint]
        true = pearson(entropy_of(truth), surprisal(truth[:, 0], number, 0.5), table.trajectory_offsets)
        scored = Scored.of(table, SIAConfig())
        rho = cross_fitted(decomposed_halves(table, divergences, 0.5, 20, 0))[0]
        starts = table.trajectory_offsets[:-1]
        entropy = entropy_of(truth)
        moves = np.maximum.reduceat(entropy, starts) - np.minimum.reduceat(entropy, starts) > 0.2
        there = moves & np.isfinite(true) & np.isfinite(rho)
        row: dict[str, Any] = {
            "stride": stride,
            "N_eff": np.median(np.delete(effective, table.last)),
            "traces": int(there.sum()),
        }
        found = {"paper's": scored.rho["rho"], "cross-fitted": scored.rho["rho_cross_fitted"], "decoupled": rho}
        for name, values in found.items():
            row[f"{name} rmse"] = np.sqrt(np.nanmean((values - true)[there] ** 2))
            row[f"{name} bias"] = np.nanmean((values - true)[there])
        yield row


def alignments(sets: int = 20) -> Iterator[dict[str, Any]]:
    """Error of the mean over 64 trajectories, and how often its interval covers the true mean."""
    for number in (5, 20, 50):
        for name, scenario in SCENARIOS.items():
            errors: dict[str, list[float]] = {"paper's": [], "cross-fitted": [], "smoothed": []}
            covered, truths, undefined = [], [], []
            for seed in range(sets):
                rng = np.random.default_rng(seed)
                p = scenario(64, rng)
                table = encode(frame(draw(p, number, rng), null=4))
                scored = Scored.of(table, SIAConfig(smoothing=number / 40, num_splits=4))
                smoothed = smooth(table, 0.5).rho(slice(None), table.trajectory_offsets)
                truths.append(np.nanmean(true_rho(p)))
                found = {"paper's": scored.rho["rho"], "cross-fitted": scored.rho["rho_cross_fitted"]}
                for key, values in (found | {"smoothed": smoothed}).items():
                    errors[key].append(float(np.nanmean(values) - truths[-1]))
                draws = Bootstrap.draw(64, 500, seed)
                samples = draws.ratio(np.nan_to_num(smoothed), np.isfinite(smoothed).astype(float))
                low, high = interval(samples)
                covered.append(low <= truths[-1] <= high)
                undefined.append(np.isnan(smoothed).mean())
            row = {"N": number, "scenario": name, "true": np.mean(truths)}
            row |= {key: f"{np.sqrt(np.mean(np.square(e))):.3f} ({np.mean(e):+.3f})" for key, e in errors.items()}
            yield row | {"covers": np.mean(covered), "undefined": np.mean(undefined)}


def repairings(runs: int = 60) -> Iterator[dict[str, Any]]:
    """Share of runs with p <= .05: 64 trajectories at their own pace, and with one pace for all."""
    for share in (1.0, 0.8, 0.6, 0.5):
        row: dict[str, Any] = {"share correct": share}
        for name, same in (("own pace", False), ("one pace", True)):
            p_values = []
            for seed in range(runs):
                rng = np.random.default_rng(seed)
                p = moving(64, 16, rng, share_correct=share)
                if same:  # all of an outcome have one course
                    right = p[:, -1].argmax(axis=1) == 0
                    p = np.where(right[:, None, None], p[right].mean(axis=0) if right.any() else 0, p)
                    wrong = ~right
                    p[wrong] = p[wrong].mean(axis=0) if wrong.any() else 0
                table = encode(frame(draw(p, 20, rng), null=4))
                halves = Scored.of(table, SIAConfig(num_splits=4)).halves
                correct = ends_correct(table, measure(table, 0.5))
                test = permutation_test(halves, *between_rows(table), correct, num_permutations=199, seed=seed)
                p_values.append(1.0 if test is None else test.p_value)
            row[name] = float((np.array(p_values) <= 0.05).mean())
        yield row


def allocated(sets: int = 400) -> Iterator[dict[str, Any]]:
    """Numbers of rollouts from a uniform round of 8: shares of the gold answer against the true ones. z of cells over
    the sets (sd 1, extremes near 3.5 where there is no bias), largest error of a mean, tokens at its error."""
    for name, scenario in SCENARIOS.items():
        p = scenario(64, np.random.default_rng(0))[:16]
        cost = np.linspace(60, 6, p.shape[1])
        truth, variance = p[..., 0], p[..., 0] * (1 - p[..., 0])
        inner = (truth > 0.05) & (truth < 0.95)
        target = np.sqrt(variance.mean() / 20)
        for rule in ("equal", "own rollouts", "allocated"):
            rng, shares, tokens, errors = np.random.default_rng(1), [], [], []
            for _ in range(sets):
                hits = rng.random((*truth.shape, 200)) < truth[..., None]
                spread = hits[..., :8].var(axis=2, ddof=1)
                number = np.full(truth.shape, 20)
                if rule == "allocated":
                    number = np.array(allocate([Pilot(own, cost, 0 * cost) for own in spread], 8, target_se=target))
                elif rule == "own rollouts":
                    shape = np.sqrt(spread / cost)
                    number = np.maximum(np.ceil(shape * (np.sqrt(spread * cost)).mean() / target**2), 8).astype(int)
                number = np.minimum(number, 200)
                shares.append(np.where(np.arange(200) < number[..., None], hits, 0).sum(axis=2) / number)
                tokens.append((number * cost).sum() / (20 * cost.sum() * len(p)))
                errors.append(((shares[-1] - truth) ** 2).mean())
            found = np.array(shares)
            off = (found.mean(axis=0) - truth)[inner]
            z = off / (found.std(axis=0, ddof=1)[inner] / np.sqrt(sets))
            yield {
                "scenario": name,
                "rule": rule,
                "z sd": z.std(),
                "z largest": np.abs(z).max(),
                "bias largest": np.abs(off).max(),
                "rmse": np.sqrt(np.mean(errors)),
                "target": target,
                "tokens": np.mean(tokens),
                "tokens at equal error": np.mean(tokens) * np.mean(errors) / (variance.mean() / 20),
            }


def allocated_decompositions(sets: int = 25, problems: int = 120, most: int = 40) -> Iterator[dict[str, Any]]:
    """The decomposition on rollouts that were allocated, uniform round 6: its bias against the true distributions of
    Markov chains, as in `decompositions`."""
    for spread in (0.3, 0.05, 0.02):
        rng = np.random.default_rng(0)
        chain = Chain(12, 4, rng, spread=spread, end=0.05)
        rollouts, logprobs, truth = chain.run(problems, sets * most, 4, 120, rng, budget="total")
        table = encode(rollouts)
        divergences = Divergences.of(table, logprobs, SIAConfig(max_tokens=120, rollout_budget="total"))
        assert divergences is not None
        assert table.tokens is not None
        assert table.matched is not None
        row, slot = table.checkpoint_of_rollout, table.index_in_checkpoint()
        gold, new = table.code == table.gold[table.trajectory_of_checkpoint[row]], table.tokens - table.matched
        whole, parts = np.ones((sets * most, 1), dtype=bool), []
        numbers = []
        for k in range(sets):
            first = (slot >= k * most) & (slot < k * most + 6)
            share = np.bincount(row[first], weights=gold[first]) / 6
            cost = np.maximum(np.bincount(row[first], weights=new[first]) / 6, 1.0)
            cuts = table.trajectory_offsets[1:-1]
            variance = share * (1 - share) * 6 / 5
            parts_of = (np.split(each, cuts) for each in (variance, cost, 0 * cost))
            made = [Pilot(*own) for own in zip(*parts_of, strict=True)]
            number = np.minimum(np.concatenate(allocate(made, 6, target_se=0.08)), most)
            numbers.append(number)
            of = (slot >= k * most) & (slot < k * most + number[row])
            parts.append(estimates(table, divergences, whole, of))
        every = np.concatenate(parts, axis=2)
        z = z_scores(every, truth)
        yield {
            "mean q": np.exp(np.delete(divergences.log_stay, table.last)).mean(),
            "rollouts": np.mean(numbers),
            "fewest": np.min(numbers),
            "most": np.max(numbers),
            "cells": len(z),
            "z mean": z.mean(),
            "z sd": z.std(),
            "mean error of gold": (every.mean(axis=2) - truth)[:, 0].mean(),
        }


MAKERS = (
    decompositions,
    nothing_moves,
    decoupled_where_it_moves,
    alignments,
    repairings,
    allocated,
    allocated_decompositions,
)


def main() -> None:
    """Makes the tables named on the command line, or all."""
    pd.set_option("display.width", 200)
    for make in [make for make in MAKERS if make.__name__ in sys.argv[1:]] or MAKERS:
        print(f"\n{make.__name__}: {make.__doc__}")
        print(pd.DataFrame(list(make())).round(3).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
