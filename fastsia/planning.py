"""Forecast the tokens, seconds and memory of an evaluation from a few of its problems."""

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
from fastsia.config import SIAConfig, split_settings
from fastsia.engine.engine import Engine
from fastsia.engine.profile import STEP, VERIFY, StepProfile
from fastsia.errors import FastsiaError
from fastsia.evaluation import evaluate, make_requests
from fastsia.files import write_json
from fastsia.results import SIAResult
from fastsia.sia import analyze_rollouts
from fastsia.tasks import Task, load_task
from fastsia.tasks.given import read_trajectories

PLAN = "plan.json"
_PROBLEMS = 32
_REPEATS = 3


@dataclass(frozen=True)
class PlannedCost:
    """Expected cost of one run.

    Attributes:
        num_problems: problems of the run.
        num_checkpoints: checkpoints of all its trajectories.
        trajectory_tokens: tokens drawn for trajectories.
        generated_tokens: tokens drawn for rollouts.
        computed_tokens: tokens that the model computes for rollouts.
        prefill_tokens: tokens of the distinct prompts.
        seconds: time of `evaluate` with a loaded model, without a report.
        weight_bytes: memory of the weights.
        kv_bytes: memory of the KV blocks that are in use at most.
        pilot_problems: problems that were evaluated for the forecast.
        pilot_seconds: time that the forecast took.
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
        """Write plan.json to a results folder. `fastsia run` says afterwards how far the forecast was off."""
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / PLAN, dataclasses.asdict(self))
        return directory / PLAN


def forecast(
    model: Any,
    dataset: Any,
    *,
    config: SIAConfig | Mapping[str, Any] | None = None,
    **overrides: Any,
) -> PlannedCost:
    """Forecast `evaluate(model, dataset, ...)` in fastsia's own engine.

    At most 32 problems, evenly spaced over all, are evaluated completely. The counts are scaled to all problems. The
    cost of a step and of each token that it computes follows from the step times.

    Args:
        model: as in `evaluate`.
        dataset: as in `evaluate`.
        config: as in `evaluate`.
        overrides: as in `evaluate`, `limit` included.

    Raises:
        FastsiaError: the model does not run in fastsia's own engine.
    """
    settings, load_options, task_options = split_settings(config, overrides)
    if settings.allocates_rollouts:
        raise FastsiaError(
            "a forecast needs a fixed number of rollouts: target_se and max_total_tokens decide on it while they run."
        )
    task = load_task(dataset, **task_options)
    backend = open_backend(model, "native", load_options)
    if not isinstance(backend, NativeBackend):
        raise FastsiaError(f"a forecast needs the native backend, got {backend.name}.")
    engine = backend.engine
    started = time.perf_counter()
    if settings.trajectories is not None:
        task = read_trajectories(settings.trajectories, task).restrict(task)
    asked = {name: getattr(settings, name) for name in ("checkpoints", "trajectories", "stride")}
    settings, requests = make_requests(backend, task, settings)
    settings = dataclasses.replace(settings, **asked)  # files by their path, which `evaluate` reads
    every = list(requests)
    # Warm up: imports and first memory pages would distort the pilot.
    evaluate(backend, task.head(1), config=settings)
    problems = tuple(_spread(task.problems, _PROBLEMS))
    few = dataclasses.replace(task, problems=problems, limit=len(problems))
    peak, engine.counters.peak_kv_blocks = engine.counters.peak_kv_blocks, 0
    with engine.profile() as profile:
        began = time.perf_counter()
        pilot = evaluate(backend, few, config=settings)
        whole = time.perf_counter() - began
    counters, lengths = pilot.summary["counters"], pilot.trajectories["num_tokens"]
    num_pilot = len(lengths)
    scale = len(every) / num_pilot
    drawn, generated = (scale * counters[name] for name in ("trajectory_tokens", "generated_tokens"))
    rows = scale * (counters["row_steps"] or 0)  # None where every rollout ends with its first token
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
    at_once = engine.max_concurrent_trajectories
    blocks = engine.counters.peak_kv_blocks * min(len(every), at_once) / min(num_pilot, at_once)
    engine.counters.peak_kv_blocks = max(peak, engine.counters.peak_kv_blocks)
    return PlannedCost(
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
    """At most `number` items, evenly spaced: the first ones may be unusually short."""
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
    """Time of all steps: a constant per step, a cost per computed token, and one verification pass per request."""
    rows, seconds = _decoding(profile)
    slope, intercept = (float(x) for x in theilslopes(seconds, rows)[:2]) if len(set(rows)) > 1 else (0.0, seconds[0])
    slope, intercept = max(slope, 0.0), max(intercept, 1e-6)
    # Theil-Sen fits medians and so ignores slow outliers; scale up by the share that they add.
    disturbed = max(float(seconds.sum() / (intercept * len(rows) + slope * rows.sum())), 1.0)
    passes = sum(span.seconds for span in profile.spans if span.name == VERIFY) / num_pilot
    # The pilot took as many steps as its longest request. With more requests than fit at once, a place becomes free
    # after the steps of a mean request, which are proportional to the length of its trajectory.
    more_waves = max(num_requests / engine.max_concurrent_trajectories - 1.0, 0.0)
    num_steps = max(len(profile.steps()) * (1.0 + more_waves * mean_to_longest), total_rows / engine.max_num_seqs)
    return disturbed * (intercept * num_steps + slope * total_rows) + passes * num_requests


def _decoding(profile: StepProfile) -> tuple[np.ndarray, np.ndarray]:
    """(computed tokens, seconds without the verification pass) of the steps that computed any."""
    rows, seconds, passing = [], [], 0.0
    for span in profile.spans:  # ordered by their ends: the pass of a step comes before the step
        if span.name == VERIFY:
            passing = span.seconds
        elif span.name == STEP and span.rows:
            rows.append(float(span.rows))
            seconds.append(span.seconds - passing)
    return np.array(rows), np.array(seconds)


def _outside(pilot: SIAResult, seconds: float, task: Task) -> float:
    """Seconds outside the steps: prompts, answers and storing scale with the problems, statistics only in part."""
    number = pilot.summary["num_problems"]
    ids = pilot.trajectories["problem_id"].unique()[: max(number // 2, 1)]
    half = pilot.rollouts[pilot.rollouts["problem_id"].isin(ids)]
    config = SIAConfig(**pilot.summary["config"])
    few, all_of_them = (_analysis_seconds(frame, config) for frame in (half, pilot.rollouts))
    each = max(all_of_them - few, 0.0) / max(number - len(ids), 1)
    fixed = max(all_of_them - each * number, 0.0)
    return fixed + each * len(task) + max(seconds - all_of_them, 0.0) / number * len(task)


def _analysis_seconds(rollouts: pd.DataFrame, config: SIAConfig) -> float:
    """The fastest of several times: the caller needs a small difference between two of them."""
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        analyze_rollouts(rollouts.drop(columns=["token_ids"]), config=config)
        times.append(time.perf_counter() - began)
    return min(times)
