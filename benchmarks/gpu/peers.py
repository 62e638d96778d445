"""Who rolls the work out, each in the settings that suit it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import ContinuousBatchingConfig

from benchmarks.gpu.models import Model
from benchmarks.gpu.runner import CannotRunError
from benchmarks.gpu.scoring import check
from benchmarks.gpu.work import Work, generate
from benchmarks.harness import free_memory, peak_bytes, timed
from fastsia.config import Share
from fastsia.core import extension
from fastsia.engine.engine import Engine
from fastsia.engine.products import own_weights
from fastsia.engine.sequence import Counters, Request, Trajectory

# A peer is timed again until it has taken this long, and at most so often; the fastest counts.
_ENOUGH_SECONDS, _REPEATS = 20.0, 3
_TUNING_TOKENS, _BATCHING_SECONDS = 32, 90.0

# From a seed to int32 [P, C, N, L], of the first problems alone where a peer leaves the others out.
RollOut = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Peer:
    """open: from a model and its work to a function that rolls it out, warmed up. It may write to the row's details.

    checkpoints: of the first problem, where those stand for the whole work. device: the one that it needs, if any.
    """

    open: Callable[[Model, Work, dict[str, Any]], AbstractContextManager[RollOut]]
    checkpoints: int | None = None
    device: str | None = None


def measure(name: str, model: Model, work: Work) -> dict[str, Any]:
    """Let a peer roll out its part, check what it drew, and give its time and what the whole work would take."""
    peer, device = PEERS[name], model.device
    if peer.device not in (None, device):
        raise CannotRunError(f"{name} needs {peer.device}.")
    details: dict[str, Any] = {}
    free_memory(device)
    part = work if peer.checkpoints is None else work.part(1, peer.checkpoints)
    begin = time.perf_counter()
    with peer.open(model, part, details) as roll_out:
        warmup = time.perf_counter() - begin
        tokens, took = timed(partial(roll_out, 1), device)
        times = [took]
        while sum(times) < _ENOUGH_SECONDS and len(times) < _REPEATS:
            times.append(timed(partial(roll_out, 1 + len(times)), device)[1])
        peak = peak_bytes(device)
    del roll_out  # and with it the peer's device memory, which scoring needs
    free_memory(device)
    part = work.part(*tokens.shape[:2])
    scale = work.num_tokens / part.num_tokens
    return {
        "seconds": min(times),
        "all_seconds": times,
        "warmup_seconds": warmup,
        "part": {"problems": len(part.prompts), "checkpoints": len(part.checkpoints), "scale": scale},
        "whole_seconds": scale * min(times),
        "tokens_per_s": work.num_tokens / (scale * min(times)),
        "details": details,
        "peak_bytes": peak,
        "agreement": check(model, part, tokens),
    }


@contextmanager
def _generate(model: Model, work: Work, details: dict[str, Any], **settings: Any) -> Iterator[RollOut]:
    """One `generate` call per checkpoint, N copies of the prefix in its batch."""
    shape, details["settings"] = work.shape, settings

    def copies(problem: int, checkpoint: int) -> np.ndarray:
        return np.array([work.prefix(problem, checkpoint)] * shape.num_rollouts)

    def roll_out(seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        # The longest first: a static cache keeps the longest length it was asked for, and a compiled step its shapes.
        drawn = [
            [generate(model, copies(p, t), shape.rollout_tokens, shape, **settings) for t in reversed(work.checkpoints)]
            for p in range(len(work.prompts))
        ]
        return np.array(drawn)[:, ::-1]

    if settings:
        roll_out(0)
    else:
        generate(model, copies(0, 0), 4, shape)
    yield roll_out


# What continuous batching is tried with, beside what it chooses by itself: fewer rows (without flash attention each
# row's scores are computed with the keys of all); pages that a 300-token prefix fills, which it can then share; graphs;
# compiled steps.
_CANDIDATES: tuple[dict[str, Any], ...] = (
    {},
    {"max_requests_per_batch": 64},
    {"max_requests_per_batch": 256},
    {"page_size": 32},
    {"page_size": 32, "max_requests_per_batch": 64},
    {"use_cuda_graph": True},
    {"default_compile_level": 1},
)


@contextmanager
def _continuous(model: Model, work: Work, details: dict[str, Any]) -> Iterator[RollOut]:
    """`generate_batch` with `num_return_sequences`, in the best of some settings, tried on a part of the work.

    So many problems as that promises to do in a minute or so.
    """
    short = dataclasses.replace(work.shape, rollout_tokens=min(_TUNING_TOKENS, work.shape.rollout_tokens))
    few = dataclasses.replace(work.part(len(work.prompts), 2), shape=short)
    tried: list[dict[str, Any]] = []
    for settings in _CANDIDATES if model.device == "cuda" else _CANDIDATES[:1]:
        try:
            with _batching(model, few, settings) as roll_out:
                tried.append({"settings": settings, "seconds": timed(partial(roll_out, 0), model.device)[1]})
        except Exception as error:  # what one version refuses is no reason to leave the others out
            tried.append({"settings": settings, "error": f"{type(error).__name__}: {error}"[:300]})
    best = min(tried, key=lambda one: float(one.get("seconds", "inf")))
    if "seconds" not in best:
        raise RuntimeError(f"continuous batching ran in none of its settings: {tried}")
    details |= {"settings": best["settings"], "tried": tried}
    if getattr(model.module.config, "attn_logit_softcapping", None) is not None:
        details["fault"] = "its attention leaves the softcap out"
    affordable = _BATCHING_SECONDS / best["seconds"] * few.num_tokens / work.num_tokens
    enough = max(1, min(len(work.prompts), int(len(work.prompts) * affordable)))
    with _batching(model, work.part(enough, len(work.checkpoints)), best["settings"]) as roll_out:
        yield roll_out


@contextmanager
def _batching(model: Model, work: Work, settings: dict[str, Any]) -> Iterator[RollOut]:
    shape, module, prefixes = work.shape, model.module, work.prefixes()
    length, before = shape.rollout_tokens, module.config._attn_implementation
    rows = min(1024, len(prefixes) * shape.num_rollouts)
    small = {} if model.device == "cuda" else {"num_blocks": 64, "max_batch_tokens": 512}
    fields: dict[str, Any] = {"max_requests_per_batch": rows, "seed": 0, **small, **settings}
    known = {f.name for f in dataclasses.fields(ContinuousBatchingConfig)}
    if "page_size" not in known and "page_size" in fields:  # its name before transformers 5.18
        fields["block_size"] = fields.pop("page_size")

    def roll_out(manager: Any, inputs: list[list[int]], seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        order = {name: i for i, name in enumerate(manager.add_requests(inputs=inputs, max_new_tokens=length))}
        found: list[list[list[int]]] = [[] for _ in inputs]
        for _ in range(len(inputs) * shape.num_rollouts):
            while (result := manager.get_result(timeout=1)) is None:
                if not manager.is_running():
                    raise RuntimeError("continuous batching ended before its requests.")
            if result.error is not None or len(result.generated_tokens) != length:
                raise RuntimeError(f"a request of {length} tokens ended with {result.error or 'other than that'}.")
            # A request's further sequences are its children, named after it.
            found[order[result.request_id.partition("__child")[0]]].append(result.generated_tokens)
        return np.array(found, dtype=np.int32).reshape(-1, len(work.checkpoints), shape.num_rollouts, length)

    try:
        # What `generate_batch` does, by its parts: before 5.18 that returns one of the sequences of each request.
        with module.continuous_batching_context_manager(
            generation_config=shape.generation(length, num_return_sequences=shape.num_rollouts, eos_token_id=-1),
            continuous_batching_config=ContinuousBatchingConfig(**{f: fields[f] for f in known & fields.keys()}),
            block=True,
            timeout=5,
        ) as manager:
            roll_out(manager, prefixes[: len(work.checkpoints)], 0)
            yield partial(roll_out, manager, prefixes)
    finally:
        module.set_attn_implementation(before)
        free_memory(model.device)


def open_engine(model: Model, compile: Any = "auto", **settings: Any) -> Engine:
    """An engine on the model, refused where it could not be made as fast as it was asked to be.

    On a GPU its weights are fused, as in an engine that loads its model itself.
    """
    if extension() is None:
        raise RuntimeError("the C++ core is not built: a step's bookkeeping would be measured in numpy.")
    with own_weights(model.module) if model.device == "cuda" else nullcontext():
        engine = Engine(model.module, compile=compile, **{"max_num_seqs": 512} | settings)
    if compile not in ("auto", engine.runner.compile):
        raise RuntimeError(f"compile={compile!r} became {engine.runner.compile!r}: {' '.join(engine.runner.warnings)}")
    return engine


def described(engine: Engine) -> dict[str, Any]:
    """How an engine computed, and what it does without (`warnings`): of a row, after its measurement."""
    return {**engine.describe(), "core": extension() is not None, "warnings": list(engine.runner.warnings)}


@contextmanager
def _fastsia(
    model: Model, work: Work, details: dict[str, Any], share: Share = "trajectory", **settings: Any
) -> Iterator[RollOut]:
    engine, shape = open_engine(model, **settings), work.shape

    def roll_out(seed: int) -> np.ndarray:
        done, run = run_requests(engine, work.requests(share, seed), model.device)
        details.update(engine=described(engine), counters=run["counters"])
        tokens = [one.rollouts.token_ids for one in done if one.rollouts is not None]
        return np.stack(tokens).reshape(len(done), -1, shape.num_rollouts, shape.rollout_tokens)

    roll_out(0)  # of all the work: what is compiled or captured depends on how many problems are in flight
    yield roll_out


def run_requests(engine: Engine, requests: list[Request], device: str) -> tuple[list[Trajectory], dict[str, Any]]:
    """(the finished requests in order, seconds with rates and counters) of a run."""
    engine.counters = Counters()
    done, seconds = timed(lambda: list(engine.run(requests)), device)
    for one in done:
        if one.rollouts is None:
            raise RuntimeError(f"request {one.key} failed: {one.error}")
    return sorted(done, key=lambda one: int(str(one.key))), {
        "seconds": seconds,
        "computed_tokens_per_s": engine.counters.computed_tokens / seconds,
        "tokens_per_s": engine.counters.generated_tokens / seconds,
        "counters": dataclasses.asdict(engine.counters),
    }


PEERS: dict[str, Peer] = {
    # A call of each checkpoint is much like any other, and all of them would take minutes.
    "naive": Peer(_generate, checkpoints=4),
    # transformers compiles the decode step of a static cache by itself, on a GPU.
    "static": Peer(partial(_generate, cache_implementation="static"), checkpoints=4),
    "continuous": Peer(_continuous),
    "fastsia": Peer(_fastsia),
    "fastsia-checkpoint": Peer(partial(_fastsia, share="checkpoint")),
    "fastsia-none": Peer(partial(_fastsia, share="none")),
    "fastsia-eager": Peer(partial(_fastsia, compile="off")),
    "fastsia-fp8": Peer(partial(_fastsia, quantization="fp8"), device="cuda"),
    "fastsia-graphs": Peer(partial(_fastsia, compile="graphs"), device="cuda"),
    "fastsia-compiled": Peer(partial(_fastsia, compile="on")),
}
