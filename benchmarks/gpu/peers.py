"""Who rolls the work out, each in the settings that suit it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from transformers import GenerationConfig

from benchmarks.gpu.models import Model
from benchmarks.gpu.scoring import check
from benchmarks.gpu.work import Work, generate
from benchmarks.machine import free_memory, memory, synchronize
from fastsia.config import Share
from fastsia.core import extension
from fastsia.engine.engine import Engine
from fastsia.engine.products import own_weights
from fastsia.engine.sequence import Request, Trajectory

# A peer is timed again until it has taken this long, and at most so often; the fastest counts.
_ENOUGH_SECONDS, _REPEATS = 20.0, 3
# Of the naive loops: a call of each is much like any other, and all of them would take minutes.
_CHECKPOINTS = 4
_TUNING_TOKENS, _BATCHING_SECONDS = 32, 90.0


@dataclass(frozen=True)
class Outcome:
    """tokens: int32 [P, C, N, L], of the first problems alone where a peer leaves the others out.

    seconds: what rolling them out took. details: what else is worth keeping.
    """

    tokens: np.ndarray
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)


RollOut = Callable[[int], Outcome]
Open = Callable[[Model, Work], AbstractContextManager[RollOut]]


@dataclass(frozen=True)
class Peer:
    """open: from a model and its work to a function of a seed that rolls it out, warmed up.

    part: of the work, for a peer that is measured on a part of it. missing: why it cannot run here, if so.
    """

    open: Open
    part: Callable[[Work], Work] = lambda work: work
    missing: Callable[[Model], str | None] = lambda model: None
    note: str | None = None


def measure(name: str, model: Model, work: Work) -> dict[str, Any]:
    """Let a peer roll out its part, check what it drew, and give its time and what the whole work would take."""
    peer = PEERS[name]
    free_memory(model.device)
    begin = time.perf_counter()
    with peer.open(model, peer.part(work)) as roll_out:
        warmup = time.perf_counter() - begin
        outcomes = [roll_out(1)]
        while sum(o.seconds for o in outcomes) < _ENOUGH_SECONDS and len(outcomes) < _REPEATS:
            outcomes.append(roll_out(1 + len(outcomes)))
        used = memory(model.device)
    del roll_out  # and with it the peer's device memory, which scoring needs
    free_memory(model.device)
    part = work.part(*outcomes[0].tokens.shape[:2])
    seconds = min(o.seconds for o in outcomes)
    scale = work.num_rollouts / part.num_rollouts
    return {
        "seconds": seconds,
        "all_seconds": [o.seconds for o in outcomes],
        "warmup_seconds": warmup,
        "part": {"problems": len(part.prompts), "checkpoints": len(part.checkpoints), "scale": scale},
        "whole_seconds": scale * seconds,
        "generated_tokens": work.num_tokens,
        "tokens_per_s": work.num_tokens / (scale * seconds),
        "details": outcomes[0].details,
        "memory": used,
        "agreement": check(model, part, outcomes[0].tokens),
        "note": peer.note,
    }


# --- transformers ----------------------------------------------------------------------------------------------


def _some_checkpoints(work: Work) -> Work:
    return work.part(1, _CHECKPOINTS)


@contextmanager
def _generate(model: Model, work: Work, **settings: Any) -> Iterator[RollOut]:
    """One `generate` call per checkpoint, N copies of the prefix in its batch."""
    shape, device = work.shape, model.device

    def roll_out(seed: int) -> Outcome:
        torch.manual_seed(seed)
        synchronize(device)
        begin = time.perf_counter()
        # The longest first: a static cache keeps the longest length it was asked for, and a compiled step its shapes.
        drawn = {
            (p, t): generate(
                model, np.array([work.prefix(p, t)] * shape.num_rollouts), shape.rollout_tokens, shape, **settings
            )
            for p in range(len(work.prompts))
            for t in reversed(work.checkpoints)
        }
        seconds = time.perf_counter() - begin
        tokens = [[drawn[p, t] for t in work.checkpoints] for p in range(len(work.prompts))]
        return Outcome(np.array(tokens, dtype=np.int32), seconds, {"settings": settings})

    if settings:
        roll_out(0)
    else:
        generate(model, np.array([work.prefix(0, 0)] * shape.num_rollouts), 4, shape)
    yield roll_out


@contextmanager
def _static(model: Model, work: Work) -> Iterator[RollOut]:
    """The same with a static cache; transformers compiles the decode step by itself, on a GPU."""
    with _generate(model, work, cache_implementation="static") as roll_out:
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
def _continuous(model: Model, work: Work) -> Iterator[RollOut]:
    """`generate_batch` with `num_return_sequences`, in the best of some settings, tried on a part of the work.

    So many problems as that promises to do in a minute or so.
    """
    few = work.part(len(work.prompts), 2)
    tried: list[dict[str, Any]] = []
    for settings in _CANDIDATES if model.device == "cuda" else _CANDIDATES[:1]:
        try:
            with _batching(model, few, settings, min(_TUNING_TOKENS, work.shape.rollout_tokens)) as roll_out:
                tried.append({"settings": settings, "seconds": roll_out(0).seconds})
        except Exception as error:  # what one version refuses is no reason to leave the others out
            tried.append({"settings": settings, "error": f"{type(error).__name__}: {error}"[:300]})
    working = [one for one in tried if "seconds" in one]
    if not working:
        raise RuntimeError(f"continuous batching ran in none of its settings: {tried}")
    fastest = min(working, key=lambda one: float(one["seconds"]))
    best = fastest["settings"]
    seconds = fastest["seconds"] * work.num_tokens / (few.num_rollouts * min(_TUNING_TOKENS, work.shape.rollout_tokens))
    enough = max(1, min(len(work.prompts), int(len(work.prompts) * _BATCHING_SECONDS / seconds)))
    with _batching(model, work.part(enough, len(work.checkpoints)), best, work.shape.rollout_tokens) as roll_out:
        details: dict[str, Any] = {"settings": best, "tried": tried}
        if getattr(model.module.config, "attn_logit_softcapping", None) is not None:
            details["fault"] = "its attention leaves the softcap out"
        yield lambda seed: dataclasses.replace(roll_out(seed), details=details)


@contextmanager
def _batching(model: Model, work: Work, settings: dict[str, Any], length: int) -> Iterator[RollOut]:
    shape, module, prefixes = work.shape, model.module, work.prefixes()
    before = module.config._attn_implementation
    config = GenerationConfig(
        do_sample=True,
        temperature=shape.temperature,
        top_p=shape.top_p,
        top_k=0,
        max_new_tokens=length,
        num_return_sequences=shape.num_rollouts,
        eos_token_id=-1,
        pad_token_id=0,
    )
    rows = min(1024, len(prefixes) * shape.num_rollouts)
    known = {f.name for f in dataclasses.fields(transformers.ContinuousBatchingConfig)}
    fields: dict[str, Any] = {"max_requests_per_batch": rows, "seed": 0, **settings}
    if model.device != "cuda":
        fields |= {"num_blocks": 64, "max_batch_tokens": 512}
    if "page_size" not in known and "page_size" in fields:  # its name before transformers 5.18
        fields["block_size"] = fields.pop("page_size")
    batching = transformers.ContinuousBatchingConfig(**{k: v for k, v in fields.items() if k in known})

    def roll_out(manager: Any, inputs: list[list[int]], seed: int) -> Outcome:
        torch.manual_seed(seed)
        synchronize(model.device)
        begin = time.perf_counter()
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
        seconds = time.perf_counter() - begin
        tokens = np.array(found, dtype=np.int32)
        return Outcome(tokens.reshape(-1, len(work.checkpoints), shape.num_rollouts, length), seconds)

    try:
        # What `generate_batch` does, by its parts: before 5.18 that returns one of the sequences of each request.
        with module.continuous_batching_context_manager(
            generation_config=config, continuous_batching_config=batching, block=True, timeout=5
        ) as manager:
            roll_out(manager, prefixes[: len(work.checkpoints)], 0)
            yield partial(roll_out, manager, prefixes)
    finally:
        module.set_attn_implementation(before)
        free_memory(model.device)


# --- the engine of this package --------------------------------------------------------------------------------


def open_engine(model: Model, compile: str = "auto", **settings: Any) -> Engine:
    """An engine on the model, refused where it could not be made as fast as it was asked to be.

    On a GPU its weights are fused, as in an engine that loads its model itself.
    """
    if extension() is None:
        raise RuntimeError("the C++ core is not built: a step's bookkeeping would be measured in numpy.")
    with own_weights(model.module) if model.device == "cuda" else nullcontext():
        engine = Engine(model.module, max_num_seqs=settings.pop("max_num_seqs", 512), compile=compile, **settings)
    if compile not in ("auto", engine.runner.compile):
        raise RuntimeError(f"compile={compile!r} became {engine.runner.compile!r}: {' '.join(engine.runner.warnings)}")
    return engine


def described(engine: Engine) -> dict[str, Any]:
    """How an engine computed, and what it does without (`warnings`): of a row, after its measurement."""
    return {**engine.describe(), "core": extension() is not None, "warnings": list(engine.runner.warnings)}


@contextmanager
def _fastsia(
    model: Model, work: Work, share: Share = "trajectory", compile: str = "auto", **settings: Any
) -> Iterator[RollOut]:
    engine = open_engine(model, compile, **settings)

    def roll_out(seed: int) -> Outcome:
        done, seconds, counters = timed(engine, work.requests(share, seed), model.device)
        details = {"engine": described(engine), "share": share, "counters": counters}
        return Outcome(stacked(done, work), seconds, details)

    roll_out(0)  # of all the work: what is compiled or captured depends on how many problems are in flight
    yield roll_out


def timed(engine: Engine, requests: list[Request], device: str) -> tuple[list[Trajectory], float, dict[str, int]]:
    """(the finished requests, seconds, counters) of a run."""
    before = dataclasses.replace(engine.counters)
    synchronize(device)
    begin = time.perf_counter()
    done = list(engine.run(requests))
    synchronize(device)
    return done, time.perf_counter() - begin, counted(before, engine.counters)


def counted(before: Any, after: Any) -> dict[str, int]:
    """The difference of two states of an engine's counters; of peaks, the later one."""
    first, last = dataclasses.asdict(before), dataclasses.asdict(after)
    return {name: last[name] - (0 if name.startswith("peak") else first[name]) for name in last}


def stacked(done: list[Trajectory], work: Work) -> np.ndarray:
    """The rollouts of all problems, int32 [P, C, N, L]."""
    found = []
    for trajectory in sorted(done, key=lambda one: int(str(one.key))):
        if trajectory.rollouts is None:
            raise RuntimeError(f"problem {trajectory.key} failed: {trajectory.error}")
        found.append(trajectory.rollouts.token_ids)
    shape = work.shape
    return np.stack(found).reshape(len(done), len(work.checkpoints), shape.num_rollouts, shape.rollout_tokens)


def _without_cuda(model: Model) -> str | None:
    return None if model.device == "cuda" else "it needs CUDA"


PEERS: dict[str, Peer] = {
    "naive": Peer(_generate, _some_checkpoints, note="4 checkpoints of one problem, scaled to the whole work"),
    "static": Peer(_static, _some_checkpoints, note="4 checkpoints of one problem, scaled to the whole work"),
    "continuous": Peer(_continuous),
    "fastsia": Peer(_fastsia),
    "fastsia-checkpoint": Peer(partial(_fastsia, share="checkpoint")),
    "fastsia-none": Peer(partial(_fastsia, share="none")),
    "fastsia-eager": Peer(partial(_fastsia, compile="off")),
    "fastsia-fp8": Peer(
        partial(_fastsia, quantization="fp8"),
        missing=_without_cuda,
        note="draws from another distribution, by rounding",
    ),
    "fastsia-graphs": Peer(partial(_fastsia, compile="graphs"), missing=_without_cuda),
    "fastsia-compiled": Peer(partial(_fastsia, compile="on")),
}
