"""The steady state: full steps of a number of rows against the serial floor, and SIA work in such steps."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.floors import Costs, Rates, measured_rates, product_seconds
from benchmarks.gpu.models import Model
from benchmarks.gpu.peers import described, open_engine, run_requests
from benchmarks.gpu.work import TOY, Shape, Work, make_prompts
from benchmarks.harness import free_memory, peak_bytes, timed
from fastsia.engine.engine import Engine
from fastsia.engine.sequence import Request

# Of the KV pool: a run that fills it would be preempted, which is another measurement.
_POOL_SHARE = 0.95
ROWS_PER_TRUNK = 128
FULL_SUFFIX, TOY_SUFFIX = 600, 12
# Of a reasoning model: rows, tokens of a trunk, of a suffix.
LONG, TOY_LONG = (512, 6144, 1000), (8, 60, 12)
_FIRST_STEPS, _PROFILED_STEPS, _PROFILED_ROWS = 10, 5, 30


def measure(model: Model, shape: Shape, name: str, work: Work | None) -> dict[str, Any]:
    """Decode steps alone and their parts, then work with all sharing, with `name` rows per step.

    Of "long", decode steps on long trunks.
    """
    if name == "long":
        rows, prefix, suffix = TOY_LONG if shape == TOY else LONG
    else:
        rows, prefix, suffix = int(name), shape.prompt_tokens, TOY_SUFFIX if shape == TOY else FULL_SUFFIX
    device, module = model.device, model.module
    rates, costs = measured_rates(device, module.dtype), Costs.of(module.config, module.dtype)
    products = product_seconds(module.config, rows, device, module.dtype)
    free_memory(device)  # the engine's pool takes most of what is free
    engine = open_engine(model, max_num_seqs=rows)
    steady = fitting(engine, shape, rows, prefix, suffix)
    requests = decoding(model, steady)
    run_requests(engine, requests, device)  # compiles and captures
    # Prefill included: a step or two among hundreds.
    decode = run_requests(engine, requests, device)[1]
    # In a run of its own: each part waits for the device, which costs time too.
    with engine.profile() as found:
        run_requests(engine, requests, device)
    steps = max(len(found.steps()), 1)
    if work is not None:  # its first steps and its last are not full
        run_requests(engine, work.requests("trajectory", 0), device)
    floor = floor_seconds(steady, costs, rates)
    return {
        "rows": rows,
        "prefix": prefix,
        "suffix": steady.rollout_tokens,
        "engine": described(engine),
        "rates": asdict(rates),
        "floor_seconds": floor,
        "decode": decode,
        "fraction_of_floor": floor / decode["seconds"],
        # The same with the products at the rate that the machine's library reaches on them alone, at these rows.
        "product_ms_per_step": 1e3 * products,
        "fraction_of_own_floor": floor_seconds(steady, costs, rates, products) / decode["seconds"],
        "parts_ms_per_step": {part: 1e3 * seconds / steps for part, seconds in found.seconds().items()},
        "work": None if work is None else run_requests(engine, work.requests("trajectory", 1), device)[1],
        "memory": {
            "peak_bytes": peak_bytes(device),
            "weight_bytes": sum(p.nbytes for p in module.parameters()),
            "kv_used_bytes": decode["counters"]["peak_kv_blocks"] * engine.block_size * costs.kv_bytes,
        },
    }


def profile(model: Model, shape: Shape, rows: int) -> dict[str, Any]:
    """How an engine computes, what making it took, and which kernels the device runs in a step, by torch's profiler."""
    device, number = model.device, _PROFILED_STEPS
    free_memory(device)
    engine, made = timed(lambda: open_engine(model, max_num_seqs=rows), device)
    suffix = 20 if shape == TOY else 60
    requests = decoding(model, fitting(engine, shape, rows, shape.prompt_tokens, suffix))
    run_requests(engine, requests, device)  # compiles and captures
    activity = torch.profiler.ProfilerActivity.CUDA if device == "cuda" else torch.profiler.ProfilerActivity.CPU
    with closing(engine.steps(requests)) as steps:
        timed(lambda: [next(steps) for _ in range(_FIRST_STEPS)], device)
        with torch.profiler.profile(activities=[activity]) as found:
            _, took = timed(lambda: [next(steps) for _ in range(number)], device)
    own = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    kernels = [
        {"name": event.key[:120], "calls": event.count / number, "ms": getattr(event, own) / 1e3 / number}
        for event in found.key_averages()
    ]
    kernels.sort(key=lambda kernel: -kernel["ms"])
    return {
        "engine": described(engine),
        "rows": rows,
        "make_seconds": made,
        "captures": engine.runner.graphs.num_captures if engine.runner.graphs is not None else 0,
        "ms_per_step": 1e3 * took / number,
        "kernel_ms_per_step": sum(kernel["ms"] for kernel in kernels),
        "kernels": kernels[:_PROFILED_ROWS],
    }


def fitting(engine: Engine, shape: Shape, rows: int, prefix: int, suffix: int) -> Shape:
    """Rows on trunks of `prefix` tokens, up to `ROWS_PER_TRUNK` on each, to suffixes of `suffix` tokens.

    The suffixes are shorter where the KV pool cannot hold them.
    """
    each = min(ROWS_PER_TRUNK, rows)
    blocks = int(_POOL_SHARE * engine.num_kv_blocks) - rows // each * -(-prefix // engine.block_size)
    longest = blocks // rows * engine.block_size
    if longest < 2:
        raise RuntimeError(f"the KV pool has no room for {rows} rows of two tokens.")
    trunks = replace(shape, num_problems=rows // each, prompt_tokens=prefix, trajectory_tokens=0, stride=1)
    return replace(trunks, num_rollouts=each, rollout_tokens=min(suffix, longest))


def decoding(model: Model, steady: Shape) -> list[Request]:
    """All suffixes of a trunk at once, none merged."""
    prompts = make_prompts(model, steady.num_problems, steady.prompt_tokens, seed=1)
    nothing = np.empty((steady.num_problems, 0), np.int32)
    return Work(steady, prompts, nothing, steady.checkpoints).requests("none", 0)


def floor_seconds(steady: Shape, costs: Costs, rates: Rates, products: float | None = None) -> float:
    """Of all decode steps: the first token is drawn from the trunk and costs no row."""
    rows, shared = steady.num_problems * steady.num_rollouts, steady.num_problems * steady.prompt_tokens
    tokens = [shared + rows * i for i in range(1, steady.rollout_tokens)]
    return sum(costs.step_seconds(rows, read, rates, products) for read in tokens)
