"""fastsia against transformers' `generate` (--peer hf) or vLLM (--peer vllm), on the same trajectories and one machine.

The engine draws the trajectories once, which also warms it up; the peer rolls out every checkpoint of them. The answers
of both are compared at every checkpoint by a permutation test, and the exit code is 1 where they disagree. Prints a
table with median seconds, and one JSON line.

    python -m benchmarks.versus --problems 64 --temperature 0.7 --top_p 0.95
    python -m benchmarks.versus --peer vllm --threads_bind nobind

fastsia is timed as a whole `evaluate` on a loaded engine: trajectories, rollouts, answers, database, statistics. So is
`generate`, which draws trajectories of its own as well, so that it pays for them. Of vLLM only `LLM.generate` is timed,
on a loaded and warmed-up engine (docs/benchmarks.md has its settings).

--repeats is of fastsia, --peer_repeats of the peer. --threads is of each of the two. --block_size, --kv_gib,
--max_num_seqs and --enforce_eager are vLLM's; --threads_bind is its VLLM_CPU_OMP_THREADS_BIND, by default one core per
thread ("auto" leaves a core to its scheduler, "nobind" the threads to the operating system).
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.agreement import LEVEL, disagreement
from benchmarks.frame import WORK, emit, parse, show
from benchmarks.vllm_process import VLLM, vllm_python
from fastsia import Engine, FastsiaError, Request, SIAResult, evaluate
from fastsia.backends.continuations import DrawnSequence, PendingRequest
from fastsia.backends.hf_generate import HFGenerateBackend
from fastsia.backends.native import NativeBackend
from fastsia.engine.sequence import FinishReason, Trajectory
from fastsia.models.resolve import resolve_model

SETTINGS = ("temperature", "top_p", "stride", "num_rollouts", "max_tokens", "share", "seed")
COMMON = {"peer": ("hf", "vllm"), "model": "demo:sft", "task": "demo", "data_dir": str, "problems": 64}
MACHINE = {"device": str, "dtype": "float32", "threads": torch.get_num_threads(), "repeats": 3, "peer_repeats": 1}
OF_VLLM = {"max_num_seqs": 512, "block_size": 32, "kv_gib": 2, "threads_bind": str}
OPTIONS = COMMON | MACHINE | OF_VLLM | {"enforce_eager": False}
NAMES = {"hf": "generate", "vllm": "vLLM"}

# Seconds, rollout tokens, computed tokens (None where unknown), and the result of one run.
Timed = tuple[float, int, int | None, SIAResult]
Peer = tuple[Callable[[], Timed], Callable[[], AbstractContextManager[None]], dict[str, Any]]


class Recording(NativeBackend):
    """The engine; keeps its requests and trajectories.

    Args:
        drawn: trajectories to return instead: another engine's rollouts are read and scored like our own.
    """

    def __init__(self, engine: Engine, drawn: dict[Any, Trajectory] | None = None) -> None:
        super().__init__(engine)
        self.requests: dict[Any, Request] = {}
        self.drawn = drawn or {}

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        self.requests = {request.key: request for request in requests}
        self.drawn = self.drawn or {one.key: one for one in super().generate(self.requests.values())}
        yield from (self.drawn[key] for key in self.requests)

    def given(self, key: Any) -> Request:
        """A request with its trajectory, whose rollouts are still to be drawn."""
        return replace(self.requests[key], trajectory_ids=tuple(self.drawn[key].token_ids.tolist()))

    def pending(self) -> dict[Any, PendingRequest]:
        """All of them, in order of the keys."""
        return {key: PendingRequest(self.given(key), self.eos_token_ids, self.vocabulary) for key in sorted(self.drawn)}


class NaiveOnGiven(HFGenerateBackend):
    """Draws a trajectory per request and discards it, then rolls out the given one."""

    def __init__(self, recording: Recording) -> None:
        super().__init__(recording.model, recording.tokenizer)
        self._recording = recording

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        for request in requests:
            (own,) = super().generate([replace(request, num_rollouts=0)])
            (trajectory,) = super().generate([self._recording.given(request.key)])
            yield replace(trajectory, finish_reason=own.finish_reason)


def main() -> int:
    options = parse(__doc__, *SETTINGS, **OPTIONS)
    # Without this, a terminated run would leave vLLM's processes behind, possibly halted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return compare(options)
    except FastsiaError as error:
        print(f"versus: error: {error}", file=sys.stderr)
        return 2


def compare(options: argparse.Namespace) -> int:
    torch.set_num_threads(options.threads)
    settings = {name: getattr(options, name) for name in (*SETTINGS, "data_dir")}
    engine = Engine.from_pretrained(options.model, device=options.device, dtype=options.dtype)
    recording = Recording(engine)

    def run(model: Any, **changes: Any) -> Timed:
        result = evaluate(model, options.task, limit=options.problems, **settings, **changes)
        summary = result.summary
        return summary["seconds"], summary["generated_tokens"], summary["row_steps"], result

    ours = run(recording)[-1]
    name = NAMES[options.peer]
    times: dict[str, list[Timed]] = {name: [], "fastsia, every rollout to its end": [], "fastsia": []}
    with open_peer(recording, run, options) as (run_peer, halted, facts):
        for i in range(max(options.repeats, options.peer_repeats)):
            if i < options.repeats:
                with halted():
                    times["fastsia"].append(run(engine))
                    times["fastsia, every rollout to its end"].append(run(engine, stop_at_answer=False))
            if i < options.peer_repeats:
                times[name].append(run_peer())

    found = disagreement(answer_counts(ours, times[name][0][-1]), options.seed)
    agrees = found["p_value"] > LEVEL
    slowest = statistics.median(seconds for seconds, *_ in times[name])
    rows = [row_of(which, runs, slowest) for which, runs in times.items()]
    machine = engine.describe()
    show(
        [{name: value for name, value in row.items() if name != "all_seconds"} for row in rows],
        {"seconds": ".2f", "tokens_per_s": ",.0f", "mean_entropy": ".4f", "ratio": ".1f", "merged": ".2f"},
        title=f"{options.model} on {options.task}: {len(recording.drawn)} trajectories, N = {options.num_rollouts}, "
        f"temperature {options.temperature}, top-p {options.top_p}, {machine['device']} {machine['dtype']}, "
        f"{options.threads} threads",
    )
    print(
        f"Answers {'agree' if agrees else 'DISAGREE'}: permutation test over all checkpoints, p = "
        f"{found['p_value']:.4f} (level {LEVEL}); mean total variation {found['mean_tv']:.4f}, "
        f"{found['mean_tv_expected']:.4f} expected of two samples of one distribution."
    )
    asked = {name: value for name, value in vars(options).items() if name not in ("data_dir", "device", "dtype")}
    row = {"benchmark": f"versus_{options.peer}", **asked, "stride": ours.summary["config"]["stride"]}
    row |= {"fingerprint": recording.fingerprint(), "machine": machine, "rows": rows}
    emit(row | {"agreement": found | {"level": LEVEL, "agrees": agrees}, **facts})
    return 0 if agrees else 1


def row_of(name: str, runs: list[Timed], slowest: float) -> dict[str, Any]:
    _, tokens, computed, result = runs[0]
    seconds = statistics.median(seconds for seconds, *_ in runs)
    return {
        "name": name,
        "timed": "rollouts" if name == NAMES["vllm"] else "the whole evaluation",
        "seconds": round(seconds, 4),
        "all_seconds": [round(seconds, 4) for seconds, *_ in runs],
        "rollout_tokens": tokens,
        "computed_tokens": computed,
        "merged": computed and round(tokens / computed, 3),
        "tokens_per_s": round(tokens / seconds, 1),
        "mean_entropy": float(result.checkpoints["entropy"].mean()),
        "ratio": round(slowest / seconds, 2),
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
def open_peer(recording: Recording, run: Callable[..., Timed], options: argparse.Namespace) -> Iterator[Peer]:
    if options.peer == "hf":
        yield lambda: run(NaiveOnGiven(recording), backend="hf"), nullcontext, {}
        return
    if vllm_python() is None:
        raise FastsiaError("no environment with vLLM: run `make bench-vllm`, or name one in FASTSIA_VLLM.")

    def run_peer() -> Timed:
        result = vllm.run()
        scored = run(Recording(recording.engine, with_rollouts(recording, result)))[-1]
        return result["seconds"], sum(map(len, result["token_ids"])), None, scored

    with closing(start(recording, options)) as vllm:
        settings = engine_settings(options) | process_settings(options) | {"versions": vllm.versions}
        yield run_peer, vllm.halted, {"vllm_settings": settings}


# --- vLLM ------------------------------------------------------------------------------------------------------------


def start(recording: Recording, options: argparse.Namespace) -> VLLM:
    """Start vLLM on the prompts of every checkpoint, in order of trajectories."""
    stops = {request.sampling.stop for request in recording.requests.values()}
    if len(stops) > 1:
        raise FastsiaError("the problems have different stop texts; the comparison needs the same for all.")
    prompts = [start.prefix for pending in recording.pending().values() for start in pending.starts()]
    work = {name: getattr(options, name) for name in ("num_rollouts", "temperature", "top_p", "max_tokens")}
    work |= {"model": resolve_model(options.model).source, "engine": engine_settings(options)}
    work |= {"stop": list(stops.pop()), "eos_token_ids": list(recording.eos_token_ids)}
    work |= {"prompts": prompts, "num_warmup": min(8, len(prompts))}
    python = vllm_python()
    assert python is not None
    WORK.mkdir(exist_ok=True)
    return VLLM(python, work, process_settings(options), log=WORK / "vllm.log")


def engine_settings(options: argparse.Namespace) -> dict[str, Any]:
    names = ("dtype", "seed", "max_num_seqs", "block_size", "enforce_eager")
    given = {name: getattr(options, name) for name in names}
    return given | {"enable_prefix_caching": True, "generation_config": "vllm"}


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
