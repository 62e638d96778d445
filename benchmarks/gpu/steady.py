"""The steady state: full steps of a number of rows against the serial floor, and SIA work in such steps."""

from __future__ import annotations

import dataclasses
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu.floors import Costs, Rates, measured_rates, product_seconds
from benchmarks.gpu.models import Model
from benchmarks.gpu.peers import described, open_engine, timed
from benchmarks.gpu.work import Shape, draw_trajectories, given, make_prompts
from benchmarks.machine import free_memory, memory, synchronize
from fastsia.engine.engine import Engine
from fastsia.engine.sequence import Request

# Of the KV pool: a run that fills it would be preempted, which is another measurement.
_POOL_SHARE = 0.95


@dataclass(frozen=True)
class Steady:
    """Rows per step on trunks of `prefix` tokens, `rows_per_trunk` on each, to suffixes of `suffix` tokens."""

    rows: int
    prefix: int
    suffix: int
    rows_per_trunk: int

    @property
    def num_trunks(self) -> int:
        return -(-self.rows // self.rows_per_trunk)

    def floor_seconds(self, costs: Costs, rates: Rates, products: float | None = None) -> float:
        """Of all decode steps: the first token is drawn from the trunk and costs no row."""
        shared = self.num_trunks * self.prefix
        return sum(costs.step_seconds(self.rows, shared, self.rows * i, rates, products) for i in range(1, self.suffix))


FULL_SUFFIX, TOY_SUFFIX = 600, 12
ROWS_PER_TRUNK = 128
# Of a reasoning model: rows, tokens of a trunk, of a suffix.
LONG, TOY_LONG = (512, 6144, 1000), (8, 60, 12)
_PROFILED_STEPS, _PROFILED_ROWS = 5, 30


def measure(model: Model, shape: Shape, name: str, toy: bool) -> dict[str, Any]:
    """Decode steps alone and their parts, then SIA work with sharing, with `name` rows per step.

    Of "long", decode steps alone, on long trunks.
    """
    long = (TOY_LONG if toy else LONG) if name == "long" else None
    rows, prefix, suffix = long or (int(name), shape.prompt_tokens, TOY_SUFFIX if toy else FULL_SUFFIX)
    machine = measured_rates(model.device, model.module.dtype)
    costs = Costs.of(model.module.config, model.module.dtype.itemsize)
    free_memory(model.device)  # the engine's pool takes most of what is free
    engine = open_engine(model, max_num_seqs=rows)
    steady = fitting(engine, rows, prefix, suffix)
    decode = _decode(engine, model, steady, shape)
    parts = _parts(engine, model, steady, shape)
    work = None if long else _work(engine, model, shape)
    floor = steady.floor_seconds(costs, machine)
    products = product_seconds(model.module, rows)
    per_block = engine.runner.bytes_per_block(model.module, engine.block_size)
    return {
        **dataclasses.asdict(steady),
        "engine": described(engine),
        "rates": dataclasses.asdict(machine),
        "costs": dataclasses.asdict(costs),
        "floor_seconds": floor,
        "floor_computed_tokens_per_s": steady.rows * (steady.suffix - 1) / floor,
        "decode": decode,
        "fraction_of_floor": floor / decode["seconds"],
        # The same with the products at the rate that the machine's library reaches on them alone, at these rows.
        "product_ms_per_step": 1e3 * products,
        "fraction_of_own_floor": steady.floor_seconds(costs, machine, products) / decode["seconds"],
        "parts_ms_per_step": parts,
        "work": work,
        "memory": memory(model.device)
        | {
            "weight_bytes": sum(p.numel() * p.element_size() for p in model.module.parameters()),
            "kv_pool_bytes": engine.num_kv_blocks * per_block,
            "kv_used_bytes": engine.counters.peak_kv_blocks * per_block,
        },
    }


def profile(model: Model, shape: Shape, rows: int, toy: bool) -> dict[str, Any]:
    """How an engine computes, what making it took, and which kernels the device runs in a step, by torch's profiler."""
    free_memory(model.device)
    begin = time.perf_counter()
    engine = open_engine(model, max_num_seqs=rows)
    made = time.perf_counter() - begin
    requests = _requests(model, fitting(engine, rows, shape.prompt_tokens, 20 if toy else 60), shape)
    rates(engine, requests, model.device)  # compiles and captures
    captures = engine.runner.graphs.num_captures if engine.runner.graphs is not None else 0
    activities = [torch.profiler.ProfilerActivity.CPU]
    if model.device == "cuda":
        activities = [torch.profiler.ProfilerActivity.CUDA]
    with closing(engine.steps(requests)) as steps:
        for _ in range(10):
            next(steps)
        synchronize(model.device)
        with torch.profiler.profile(activities=activities) as found:
            begin = time.perf_counter()
            for _ in range(_PROFILED_STEPS):
                next(steps)
            synchronize(model.device)
            took = time.perf_counter() - begin
    own = "self_device_time_total" if model.device == "cuda" else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda event: -float(getattr(event, own)))
    per_step = 1 / (1e3 * _PROFILED_STEPS)
    return {
        "engine": described(engine),
        "rows": rows,
        "make_seconds": made,
        "captures": captures,
        "ms_per_step": 1e3 * took / _PROFILED_STEPS,
        "kernel_ms_per_step": per_step * sum(getattr(event, own) for event in events),
        "kernels": [
            {"name": event.key[:120], "calls": event.count / _PROFILED_STEPS, "ms": per_step * getattr(event, own)}
            for event in events[:_PROFILED_ROWS]
        ],
    }


def fitting(engine: Engine, rows: int, prefix: int, suffix: int) -> Steady:
    """With suffixes as long as the KV pool can hold, at most `suffix`."""
    steady = Steady(rows, prefix, suffix, min(ROWS_PER_TRUNK, rows))
    blocks = int(_POOL_SHARE * engine.num_kv_blocks) - steady.num_trunks * -(-prefix // engine.block_size)
    longest = blocks // rows * engine.block_size
    if longest < 2:
        raise RuntimeError(f"the KV pool has no room for {rows} rows of two tokens.")
    return dataclasses.replace(steady, suffix=min(suffix, longest))


def _requests(model: Model, steady: Steady, shape: Shape) -> list[Request]:
    sampling = dataclasses.replace(shape.sampling, max_tokens=steady.suffix)
    prompts = make_prompts(model, steady.num_trunks, steady.prefix, seed=1)
    left, requests = steady.rows, []
    for i, prompt in enumerate(prompts):
        number = min(steady.rows_per_trunk, left)
        left -= number
        requests.append(
            Request(i, tuple(prompt.tolist()), sampling, number, i, trajectory_ids=(), checkpoints=(0,), share="none")
        )
    return requests


def rates(engine: Engine, requests: list[Request], device: str) -> dict[str, Any]:
    """Time, counters and tokens per second of a run."""
    finished, seconds, counters = timed(engine, requests, device)
    for done in finished:
        if done.rollouts is None:
            raise RuntimeError(f"request {done.key} failed: {done.error}")
    return {
        "seconds": seconds,
        "computed_tokens_per_s": counters["computed_tokens"] / seconds,
        "tokens_per_s": counters["generated_tokens"] / seconds,
        "counters": counters,
    }


def _decode(engine: Engine, model: Model, steady: Steady, shape: Shape) -> dict[str, Any]:
    """Prefill included: a step or two among hundreds."""
    requests = _requests(model, steady, shape)
    rates(engine, requests, model.device)
    return rates(engine, requests, model.device)


def _parts(engine: Engine, model: Model, steady: Steady, shape: Shape) -> dict[str, float]:
    """Milliseconds per step by part, in a run of its own: each part waits for the device, which costs time too."""
    with engine.profile() as profile:
        for _ in engine.run(_requests(model, steady, shape)):
            pass
    number = max(len(profile.steps()), 1)
    return {name: 1e3 * seconds / number for name, seconds in profile.seconds().items()}


def _work(engine: Engine, model: Model, shape: Shape) -> dict[str, Any]:
    """SIA work with all sharing; its first steps and its last are not full."""
    prompts = make_prompts(model, shape.num_problems, shape.prompt_tokens, seed=2)
    work = given(prompts, draw_trajectories(engine, prompts, shape.trajectory_tokens, shape), shape)
    rates(engine, work.requests("trajectory", 0), model.device)  # compiles and captures
    return rates(engine, work.requests("trajectory", 1), model.device)
