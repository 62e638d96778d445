"""fastsia against other ways to do the same work: the same trajectories, one process or one server each, one machine.

The engine draws the trajectories once, which also warms it up; every peer rolls out every checkpoint of them. Runs take
turns. The answers of each peer are compared with the engine's at every checkpoint by a permutation test, and the exit
code is 1 where they disagree. Prints a table with median seconds, and one JSON line.

    python -m benchmarks.versus --problems 64 --temperature 0.7 --top_p 0.95
    python -m benchmarks.versus --model PATH --task svamp --data_dir DIR --problems 4 --num_rollouts 10 --stride 40 \\
        --max_tokens 200 --peers hf:float32 hf:bfloat16 vllm:bfloat16 fastsia:bfloat16 unshared

A peer is NAME or NAME:DTYPE, by default in --dtype. `hf` is transformers' `generate`, one call per checkpoint; `vllm`
needs an environment (docs/benchmarks.md); `openai` is a server of the completions protocol at --base_url, such as
llama.cpp's, whose dtype is its own; `fastsia` is the engine in another dtype, `unshared` the engine with share="none".
Ratios are to the first peer.

The engine is timed as a whole `evaluate`, loaded: trajectories, rollouts, answers, database, statistics. So are `hf`
and `openai`, which draw trajectories of their own as well, so that they pay for them. Of vLLM only `LLM.generate` is
timed, on a loaded and warmed-up engine.

--repeats is of the engine, --peer_repeats of each peer. --threads is of each of them. --block_size, --kv_gib,
--max_num_seqs and --enforce_eager are vLLM's; --threads_bind is its VLLM_CPU_OMP_THREADS_BIND, by default one core per
thread.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.agreement import LEVEL, disagreement
from benchmarks.frame import WORK, emit, parse, show
from benchmarks.vllm_process import VLLM, vllm_python
from fastsia import Engine, FastsiaError, Request, SIAResult, evaluate
from fastsia.backends import open_backend
from fastsia.backends.base import Backend
from fastsia.backends.continuations import DrawnSequence, PendingRequest
from fastsia.backends.native import NativeBackend
from fastsia.engine.sequence import FinishReason, Trajectory
from fastsia.models.resolve import resolve_model

SETTINGS = ("temperature", "top_p", "stride", "num_rollouts", "max_tokens", "share", "seed")
COMMON = {"peers": ["hf"], "model": "demo:sft", "task": "demo", "data_dir": str, "problems": 64, "base_url": str}
MACHINE = {"device": str, "dtype": "float32", "threads": torch.get_num_threads(), "repeats": 3, "peer_repeats": 1}
OF_VLLM = {"max_num_seqs": 512, "block_size": 32, "kv_gib": 2, "threads_bind": str, "enforce_eager": False}
PEERS = ("hf", "vllm", "openai", "fastsia", "unshared")

# Seconds, rollout tokens, computed tokens (None where unknown), and the result of one run.
Timed = tuple[float, int, int | None, SIAResult]


@dataclass
class Peer:
    """Another way to do the work.

    Attributes:
        name, dtype: as asked.
        run: does the whole work once.
        halted: stops its processes while others are timed.
        check: a run whose rollouts start from the recorded trajectories; None if `run` is one.
        facts: further entries of its row.
    """

    name: str
    dtype: str
    run: Callable[[], Timed]
    halted: Callable[[], AbstractContextManager[None]] = nullcontext
    check: Callable[[], Timed] | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Recording(NativeBackend):
    """The engine; keeps its requests and trajectories.

    Args:
        drawn: trajectories to return instead: another engine's rollouts are read and scored like our own.
    """

    can_be_watched = False

    def __init__(self, engine: Engine, drawn: dict[Any, Trajectory] | None = None) -> None:
        super().__init__(engine)
        self.requests: dict[Any, Request] = {}
        self.drawn = drawn or {}

    def generate(self, requests: Iterable[Request], watch: Any = None) -> Iterator[Trajectory]:
        self.requests = {request.key: request for request in requests}
        self.drawn = self.drawn or {one.key: one for one in super().generate(self.requests.values())}
        yield from (self.drawn[key] for key in self.requests)

    def given(self, key: Any) -> Request:
        """A request with its trajectory, whose rollouts are still to be drawn."""
        return replace(self.requests[key], trajectory_ids=tuple(self.drawn[key].token_ids.tolist()))

    def pending(self) -> dict[Any, PendingRequest]:
        """All of them, in order of the keys."""
        return {key: PendingRequest(self.given(key), self.eos_token_ids, self.vocabulary) for key in sorted(self.drawn)}


class OnGiven:
    """A backend that draws a trajectory per request and discards it, then rolls out the recorded one."""

    can_be_watched = False

    def __init__(self, backend: Backend, recording: Recording) -> None:
        self._backend, self._recording = backend, recording

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        asked = list(requests)
        own = {one.key: one for one in self._backend.generate(replace(request, num_rollouts=0) for request in asked)}
        for one in self._backend.generate(self._recording.given(request.key) for request in asked):
            yield replace(one, finish_reason=own[one.key].finish_reason)


def main() -> int:
    options = parse(__doc__, *SETTINGS, **COMMON, **MACHINE, **OF_VLLM)
    # Without this, a terminated run would leave vLLM's processes behind, possibly halted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return compare(options)
    except FastsiaError as error:
        print(f"versus: error: {error}", file=sys.stderr)
        return 2


def compare(options: argparse.Namespace) -> int:
    torch.set_num_threads(options.threads)
    asked = [(name, dtype or options.dtype) for name, _, dtype in (peer.partition(":") for peer in options.peers)]
    for name, _ in asked:
        if name not in PEERS:
            raise FastsiaError(f"--peers must be of {', '.join(PEERS)}, got {name!r}.")
    settings = {name: getattr(options, name) for name in (*SETTINGS, "data_dir")}
    named = Path(os.environ.get("FASTSIA_MODELS", "")) / options.model
    options.model = str(named) if named.is_dir() else options.model
    engine = load(options, options.dtype)
    recording = Recording(engine)

    def run(model: Any, **changes: Any) -> Timed:
        result = evaluate(model, options.task, limit=options.problems, **settings | changes)
        summary = result.summary
        return summary["seconds"], summary["generated_tokens"], summary["row_steps"], result

    ours = run(recording)[-1]
    times: dict[str, list[Timed]] = {}
    agreements: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        peers = [stack.enter_context(open_peer(name, dtype, recording, run, options)) for name, dtype in asked]

        def timed(peer: Peer | None, work: Callable[[], Timed]) -> Timed:
            with ExitStack() as halting:
                for other in peers:
                    if other is not peer:
                        halting.enter_context(other.halted())
                return work()

        for i in range(max(options.repeats, options.peer_repeats)):
            for peer in peers:
                if i < options.peer_repeats:
                    times.setdefault(f"{peer.name} {peer.dtype}", []).append(timed(peer, peer.run))
            if i < options.repeats:
                for name, stops in (("", True), (", every rollout to its end", False)):
                    one = timed(None, lambda stops=stops: run(engine, stop_at_answer=stops))
                    times.setdefault(f"fastsia {options.dtype}{name}", []).append(one)
        for peer in peers:
            which = f"{peer.name} {peer.dtype}"
            theirs = times[which][0] if peer.check is None else timed(peer, peer.check)
            found = disagreement(answer_counts(ours, theirs[-1]), options.seed)
            agreements[which] = found | {"level": LEVEL, "agrees": found["p_value"] > LEVEL}

    first = statistics.median(seconds for seconds, *_ in next(iter(times.values())))
    facts = {f"{peer.name} {peer.dtype}": peer.facts for peer in peers}
    rows = [row_of(which, runs, first) | facts.get(which, {}) for which, runs in times.items()]
    machine = engine.describe()
    hidden = ("all_seconds", "vllm_settings")
    show(
        [{name: value for name, value in row.items() if name not in hidden} for row in rows],
        {"seconds": ".2f", "tokens_per_s": ",.0f", "mean_entropy": ".4f", "ratio": ".1f", "merged": ".2f"},
        title=f"{options.model} on {options.task}: {len(recording.drawn)} trajectories, N = {options.num_rollouts}, "
        f"temperature {options.temperature}, top-p {options.top_p}, {machine['device']}, {options.threads} threads",
    )
    for which, found in agreements.items():
        print(
            f"{which}: answers {'agree' if found['agrees'] else 'DISAGREE'}: permutation test over all checkpoints, "
            f"p = {found['p_value']:.4f} (level {LEVEL}); mean total variation {found['mean_tv']:.4f}, "
            f"{found['mean_tv_expected']:.4f} expected of two samples of one distribution."
        )
    kept = {name: value for name, value in vars(options).items() if name not in ("data_dir", "device", "dtype")}
    row = {"benchmark": "versus", **kept, "stride": ours.summary["config"]["stride"]}
    row |= {"fingerprint": recording.fingerprint(), "machine": machine, "rows": rows}
    emit(row | {"agreement": agreements})
    return 0 if all(found["agrees"] for found in agreements.values()) else 1


def load(options: argparse.Namespace, dtype: str) -> Engine:
    return Engine.from_pretrained(options.model, device=options.device, dtype=dtype, num_threads=options.threads)


def row_of(name: str, runs: list[Timed], first: float) -> dict[str, Any]:
    _, tokens, computed, result = runs[0]
    seconds = statistics.median(seconds for seconds, *_ in runs)
    return {
        "name": name,
        "timed": "rollouts" if name.startswith("vllm") else "the whole evaluation",
        "seconds": round(seconds, 4),
        "all_seconds": [round(seconds, 4) for seconds, *_ in runs],
        "rollout_tokens": tokens,
        "computed_tokens": computed,
        "merged": computed and round(tokens / computed, 3),
        "tokens_per_s": round(tokens / seconds, 1),
        "mean_entropy": float(result.checkpoints["entropy"].mean()),
        "ratio": round(first / seconds, 2),
    }


def answer_counts(one: SIAResult, other: SIAResult) -> list[np.ndarray]:
    """Per checkpoint [2, answers]: how often each answer occurs in both runs; no answer is a class of its own."""
    keys = ["problem_id", "trajectory", "checkpoint"]
    frames = [run.rollouts[[*keys, "answer"]].assign(run=i) for i, run in enumerate((one, other))]
    both = pd.concat(frames, ignore_index=True)
    both["answer"] = both["answer"].fillna("\0null")
    return [
        group.groupby(["run", "answer"]).size().unstack(fill_value=0).reindex([0, 1], fill_value=0).to_numpy()
        for _, group in both.groupby(keys, sort=False)
    ]


@contextmanager
def open_peer(
    name: str, dtype: str, recording: Recording, run: Callable[..., Timed], options: argparse.Namespace
) -> Iterator[Peer]:
    if name == "vllm":
        with open_vllm(dtype, recording, run, options) as peer:
            yield peer
        return
    if name == "openai":
        server: Any = OnGiven(open_backend(options.model, "openai", {"base_url": options.base_url}), recording)
        yield Peer(name, "server", lambda: run(server))
        return
    engine = recording.engine if dtype == options.dtype else load(options, dtype)
    backend: Any = OnGiven(open_backend(engine, "hf" if name == "hf" else "native"), recording)
    if name == "hf":
        yield Peer(name, dtype, lambda: run(backend))
        return
    changes = {"share": "none"} if name == "unshared" else {}
    yield Peer(name, dtype, lambda: run(engine, **changes), check=lambda: run(backend, **changes))


@contextmanager
def open_vllm(
    dtype: str, recording: Recording, run: Callable[..., Timed], options: argparse.Namespace
) -> Iterator[Peer]:
    if vllm_python() is None:
        raise FastsiaError("no environment with vLLM: run `make bench-vllm`, or name one in FASTSIA_VLLM.")

    def run_peer() -> Timed:
        result = vllm.run()
        scored = run(Recording(recording.engine, with_rollouts(recording, result)))[-1]
        return result["seconds"], sum(map(len, result["token_ids"])), None, scored

    vllm = start(recording, dtype, options)
    try:
        settings = engine_settings(dtype, options) | process_settings(options) | {"versions": vllm.versions}
        yield Peer("vllm", dtype, run_peer, vllm.halted, facts={"vllm_settings": settings})
    finally:
        vllm.close()


# --- vLLM ------------------------------------------------------------------------------------------------------------


def start(recording: Recording, dtype: str, options: argparse.Namespace) -> VLLM:
    """Start vLLM on the prompts of every checkpoint, in order of trajectories."""
    stops = {request.sampling.stop for request in recording.requests.values()}
    if len(stops) > 1:
        raise FastsiaError("the problems have different stop texts; the comparison needs the same for all.")
    prompts = [start.prefix for pending in recording.pending().values() for start in pending.starts()]
    work = {name: getattr(options, name) for name in ("num_rollouts", "temperature", "top_p", "max_tokens")}
    work |= {"model": resolve_model(options.model).source, "engine": engine_settings(dtype, options)}
    work |= {"stop": list(stops.pop()), "eos_token_ids": list(recording.eos_token_ids)}
    work |= {"prompts": prompts, "num_warmup": min(8, len(prompts))}
    python = vllm_python()
    assert python is not None
    WORK.mkdir(exist_ok=True)
    return VLLM(python, work, process_settings(options), log=WORK / "vllm.log")


def engine_settings(dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    names = ("seed", "max_num_seqs", "block_size", "enforce_eager")
    given = {name: getattr(options, name) for name in names}
    return given | {"dtype": dtype, "enable_prefix_caching": True, "generation_config": "vllm"}


def process_settings(options: argparse.Namespace) -> dict[str, str]:
    """Environment variables of vLLM's processes."""
    cores = sorted(os.sched_getaffinity(0))[: options.threads]
    binding = options.threads_bind or ",".join(map(str, cores))
    settings = {"VLLM_CPU_KVCACHE_SPACE": str(options.kv_gib), "VLLM_CPU_OMP_THREADS_BIND": binding}
    # Where vLLM binds its threads it counts them itself.
    return settings | ({"OMP_NUM_THREADS": str(options.threads)} if binding == "nobind" else {})


def with_rollouts(recording: Recording, result: dict[str, Any]) -> dict[Any, Trajectory]:
    """The trajectories with vLLM's rollouts, which come by trajectory, checkpoint and index."""
    drawn = [
        DrawnSequence(np.array(ids), np.full(len(ids), np.nan), FinishReason["LENGTH" if why == "length" else "EOS"])
        for ids, why in zip(result["token_ids"], result["finish_reasons"], strict=True)
    ]
    pending = recording.pending()
    wanted = sum(start.count for one in pending.values() for start in one.starts())
    if len(drawn) != wanted:
        raise FastsiaError(f"vLLM returned {len(drawn)} rollouts, not {wanted}.")
    rollouts, given = iter(drawn), {}
    for key, one in pending.items():
        parts = [list(islice(rollouts, start.count)) for start in one.starts()]
        given[key] = replace(recording.drawn[key], rollouts=one.finish(parts).rollouts)
    return given


if __name__ == "__main__":
    sys.exit(main())
