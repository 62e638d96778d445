"""How the engine's time grows with each size of the work: one size at a time, the others held."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from benchmarks.gpu.models import Model
from benchmarks.gpu.peers import described, open_engine, timed
from benchmarks.gpu.work import Shape, draw_trajectories, given, make_prompts

# axis: (field of Shape, values on a GPU, toy values).
AXES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "problems": ("num_problems", (1, 2, 4, 8, 16), (1, 2, 4)),
    "N": ("num_rollouts", (5, 10, 20, 40, 80), (2, 4, 8)),
    "stride": ("stride", (80, 40, 20, 10, 5), (12, 6, 3)),
    "trajectory": ("trajectory_tokens", (100, 200, 500, 1000, 2000), (8, 16, 32)),
}
# Those that an axis is measured at; long trajectories go one by one.
_PROBLEMS = {"N": 4, "stride": 4, "trajectory": 1}


def measure(model: Model, shape: Shape, axis: str, toy: bool) -> dict[str, Any]:
    """Seconds of the rollouts of given trajectories at each value, and the slopes of their logarithms."""
    name, full, small = AXES[axis]
    values = small if toy else full
    shapes = [dataclasses.replace(shape, **{"num_problems": _PROBLEMS.get(axis, 1), name: value}) for value in values]
    most_problems, longest = max(s.num_problems for s in shapes), max(s.trajectory_tokens for s in shapes)
    engine = open_engine(model)
    prompts = make_prompts(model, most_problems, shape.prompt_tokens, seed=3)
    # A trajectory's beginning is a trajectory.
    trajectories = draw_trajectories(engine, prompts, longest, shape)
    for one in shapes:  # what a size asks to be compiled or captured is not its time
        _point(engine, model, one, prompts, trajectories)
    points = [_point(engine, model, one, prompts, trajectories) for one in shapes]
    seconds = [point["seconds"] for point in points]
    return {
        "axis": axis,
        "held": dataclasses.asdict(shapes[0]),
        "engine": described(engine),
        "points": [{"value": value, **point} for value, point in zip(values, points, strict=True)],
        "slope": slope(list(values), seconds),
        "slope_last3": slope(list(values)[-3:], seconds[-3:]),
        "slope_computed_tokens": slope(list(values), [point["computed_tokens"] for point in points]),
    }


def slope(values: list[int], measured: list[float]) -> float:
    """Of log measured over log values, by least squares."""
    return float(np.polyfit(np.log(values), np.log(np.maximum(measured, 1e-12)), 1)[0])


def _point(engine: Any, model: Model, shape: Shape, prompts: np.ndarray, trajectories: np.ndarray) -> dict[str, Any]:
    number, length = shape.num_problems, shape.trajectory_tokens
    work = given(prompts[:number], trajectories[:number, :length], shape)
    _, seconds, counters = timed(engine, work.requests("trajectory", 0), model.device)
    return {"seconds": seconds} | {name: counters[name] for name in ("generated_tokens", "computed_tokens", "steps")}
