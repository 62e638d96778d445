"""What an evaluation will cost, before it is run: tokens, seconds and memory, from a small part of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import theilslopes

from fastsia.backends import open_backend
from fastsia.backends.native import NativeBackend
from fastsia.config import SIAConfig
from fastsia.engine.engine import Engine
from fastsia.engine.profile import PASS, STEP, StepProfile
from fastsia.errors import FastsiaError
from fastsia.evaluation import evaluate, make_requests, split_settings
from fastsia.results import SIAResult
from fastsia.sia import analyze_rollouts
from fastsia.store import write_json
from fastsia.tasks import Task, load_task

PLAN = "plan.json"
_PROBLEMS = 32
_REPEATS = 3


@dataclass(frozen=True)
class Plan:
    """A forecast of one run.

    num_problems, num_checkpoints (all of the run's). trajectory_tokens, generated_tokens (of rollouts),
    computed_tokens,
    prefill_tokens: as the run's counters. seconds: of `evaluate` on a loaded model, drawing no report.
    weight_bytes, kv_bytes: of the model, and of the KV blocks that will be in use at most.
    pilot_problems, pilot_seconds: what the forecast is made from, and what that took.
    """

    num_problems: int
    num_checkpoints: int
    trajectory_tokens: int
    generated_tokens: int
    computed_tokens: int
    prefill_tokens: int
    seconds: float
    weight_bytes: int
    kv_bytes: int
    pilot_problems: int
    pilot_seconds: float

    def save(self, directory: Path) -> Path:
        """Write it to a results folder; `fastsia run` says afterwards how far it was off."""
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / PLAN, dataclasses.asdict(self))
        return directory / PLAN


def plan(
    model: Any,
    dataset: Any,
    *,
    config: SIAConfig | Mapping[str, Any] | None = None,
    limit: int | None = None,
    **overrides: Any,
) -> Plan:
    """Forecast `evaluate(model, dataset, ...)` with the engine of this package; arguments as there.

    A few problems (at most 32, spread over all) are evaluated whole. What they counted is taken for every problem;
    their steps say what a step and a row of one cost.
    """
    settings, load_options, task_options = split_settings(config, overrides)
    task = load_task(dataset, limit=limit, **task_options)
    backend = open_backend(model, "native", load_options)
    if not isinstance(backend, NativeBackend):
        raise FastsiaError("a plan needs a model in fastsia's own engine.")
    engine = backend.engine
    started = time.perf_counter()
    settings, requests = make_requests(backend, task, settings)
    every = list(requests)
    # What is done for the first time (imports, the first pages of everything) is no measure of the rest.
    evaluate(backend, task.head(1), config=settings)
    few = dataclasses.replace(task, problems=tuple(_spread(task.problems, _PROBLEMS)))
    peak, engine.counters.peak_kv_blocks = engine.counters.peak_kv_blocks, 0
    with engine.profile() as profile:
        began = time.perf_counter()
        pilot = evaluate(backend, few, config=settings)
        whole = time.perf_counter() - began
    counters, lengths = pilot.summary["counters"], pilot.trajectories["num_tokens"]
    num_pilot = len(few) * settings.num_trajectories
    scale = len(every) / num_pilot
    drawn, generated = (scale * counters[name] for name in ("trajectory_tokens", "generated_tokens"))
    rows = scale * (counters["row_steps"] or 0)  # None where a rollout ends with what its trunk's pass drew
    prefill = sum(len(prompt) for prompt in {request.prompt_ids for request in every})
    seconds = _seconds(
        engine,
        profile,
        total_rows=rows + drawn + prefill,
        num_requests=len(every),
        num_pilot=num_pilot,
        mean_to_longest=float(lengths.mean() / max(lengths.max(), 1)),
    )
    seconds += _outside(pilot, whole - sum(span.seconds for span in profile.spans if span.name == STEP), task)
    blocks = (
        engine.counters.peak_kv_blocks
        * min(len(every), engine.max_concurrent_trajectories)
        / min(num_pilot, engine.max_concurrent_trajectories)
    )
    engine.counters.peak_kv_blocks = max(peak, engine.counters.peak_kv_blocks)
    return Plan(
        num_problems=len(task),
        num_checkpoints=round(scale * len(pilot.checkpoints)),
        trajectory_tokens=round(drawn),
        generated_tokens=round(generated),
        computed_tokens=round(rows),
        prefill_tokens=prefill,
        seconds=float(seconds),
        weight_bytes=sum(p.numel() * p.element_size() for p in engine.model.parameters()),
        kv_bytes=round(
            min(blocks, engine.num_kv_blocks) * engine.runner.bytes_per_block(engine.model, engine.block_size)
        ),
        pilot_problems=len(few),
        pilot_seconds=time.perf_counter() - started,
    )


def _spread(items: Sequence[Any], number: int) -> list[Any]:
    """At most `number` of them, evenly spaced: the first ones may be the short ones."""
    places = np.linspace(0, len(items) - 1, min(number, len(items))).round().astype(int)
    return [items[i] for i in places.tolist()]


def _seconds(
    engine: Engine,
    profile: StepProfile,
    *,
    total_rows: float,
    num_requests: int,
    num_pilot: int,
    mean_to_longest: float,
) -> float:
    """Of all steps: each costs something, each of its rows something more, and each trunk pass goes with a request."""
    rows, seconds = _decoding(profile)
    slope, intercept = (float(x) for x in theilslopes(seconds, rows)[:2]) if len(set(rows)) > 1 else (0.0, seconds[0])
    slope, intercept = max(slope, 0.0), max(intercept, 1e-6)
    # The fit is of medians; what disturbs a machine now and then, it will disturb again.
    disturbed = max(float(seconds.sum() / (intercept * len(rows) + slope * rows.sum())), 1.0)
    passes = sum(span.seconds for span in profile.spans if span.name == PASS) / num_pilot
    # The pilot took as many steps as its longest request lives for. Where requests wait for a place, one takes it after
    # as many as the mean one lives for, which goes with the length of its trajectory.
    more_waves = max(num_requests / engine.max_concurrent_trajectories - 1.0, 0.0)
    num_steps = max(len(profile.steps()) * (1.0 + more_waves * mean_to_longest), total_rows / engine.max_num_seqs)
    return disturbed * (intercept * num_steps + slope * total_rows) + passes * num_requests


def _decoding(profile: StepProfile) -> tuple[np.ndarray, np.ndarray]:
    """(rows, seconds without the trunk pass) of the steps that computed rows."""
    rows, seconds, passing = [], [], 0.0
    for span in profile.spans:  # in the order of their ends: a step's pass comes before the step
        if span.name == PASS:
            passing = span.seconds
        elif span.name == STEP and span.rows:
            rows.append(float(span.rows))
            seconds.append(span.seconds - passing)
    return np.array(rows), np.array(seconds)


def _outside(pilot: SIAResult, seconds: float, task: Task) -> float:
    """Of what is not a step: prompts, answers and storing go with the problems, statistics only in part."""
    number = pilot.summary["num_problems"]
    ids = pilot.trajectories["problem_id"].unique()[: max(number // 2, 1)]
    half = pilot.rollouts[pilot.rollouts["problem_id"].isin(ids)]
    config = SIAConfig(**pilot.summary["config"])
    few, all_of_them = (_analysis_seconds(frame, config) for frame in (half, pilot.rollouts))
    each = max(all_of_them - few, 0.0) / max(number - len(ids), 1)
    fixed = max(all_of_them - each * number, 0.0)
    return fixed + each * len(task) + max(seconds - all_of_them, 0.0) / number * len(task)


def _analysis_seconds(rollouts: pd.DataFrame, config: SIAConfig) -> float:
    """The least of some times: what is wanted is a small difference of two."""
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        analyze_rollouts(rollouts.drop(columns=["token_ids"]), config=config)
        times.append(time.perf_counter() - began)
    return min(times)
