"""fastsia against other ways to do the same work: the same trajectories, one process or one server each, one machine.

The engine draws the trajectories once, which also warms it up; every peer rolls out every checkpoint of them. Runs take
turns. The answers of each peer are compared with the engine's at every checkpoint by a permutation test, and the exit
code is 1 where they disagree. Prints a table with median seconds, what the streaming stop saved, and one JSON line.

    python -m benchmarks.versus --problems 64 --temperature 0.7 --top_p 0.95
    python -m benchmarks.versus --model PATH --task svamp --data_dir DIR --problems 4 --num_rollouts 10 --stride 40 \\
        --max_tokens 200 --peers hf:float32 hf:bfloat16 vllm:bfloat16 fastsia:bfloat16 unshared

A peer is NAME or NAME:DTYPE, by default in --dtype. `hf` is transformers' `generate`, one call per checkpoint; `vllm`
needs an environment (docs/benchmarks.md); `openai` is a server of the completions protocol at --base_url, such as
llama.cpp's, whose dtype is its own; `fastsia` is the engine in another dtype, `unshared` the engine with share="none".
Ratios are to the first peer. A whole `evaluate` is timed, loaded; of vLLM only `LLM.generate`. --repeats is of the
engine, --peer_repeats of each peer. --threads is of each of them. --endless takes the model's end tokens away.
--block_size, --kv_gib, --max_num_seqs and --enforce_eager are vLLM's; --threads_bind is its VLLM_CPU_OMP_THREADS_BIND,
by default one core per thread.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import WORK, emit, parse, show
from benchmarks.vllm_process import VLLM
from fastsia import Engine, FastsiaError, Request, SIAResult, evaluate
from fastsia.backends import open_backend
from fastsia.backends.base import Backend
from fastsia.backends.continuations import PendingRequest
from fastsia.backends.native import NativeBackend
from fastsia.engine.sequence import Trajectory
from fastsia.models.resolve import resolve_model
from tests.backends.agreement import LEVEL, disagreement

SETTINGS = ("temperature", "top_p", "stride", "num_rollouts", "max_tokens", "share", "seed")
COMMON = {"peers": ["hf"], "model": "demo:sft", "task": "demo", "data_dir": str, "problems": 64, "base_url": str}
ENGINE = {"device": str, "dtype": "float32", "threads": torch.get_num_threads(), "endless": False}
TIMES = {"repeats": 3, "peer_repeats": 1}
OF_VLLM = {"max_num_seqs": 512, "block_size": 32, "kv_gib": 2, "threads_bind": str, "enforce_eager": False}
PEERS = ("hf", "vllm", "openai", "fastsia", "unshared")
KEYS = ["problem_id", "trajectory", "checkpoint"]


@dataclass
class Peer:
    """A way to do the work.

    Attributes:
        model, changes: what `evaluate` gets, and changes to its settings.
        checked: a model whose rollouts start from the recorded trajectories; None for the engine, which drew them.
        vllm: the process that draws, whose own times count, if there is one.
    """

    name: str
    model: Any
    repeats: int
    changes: dict[str, Any] = field(default_factory=dict)
    checked: Any = None
    vllm: VLLM | None = None
    runs: list[SIAResult] = field(default_factory=list)


class Recording(NativeBackend):
    """The engine; keeps its requests and trajectories."""

    can_be_watched = False

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.requests: dict[Any, Request] = {}
        self.drawn: dict[Any, Trajectory] = {}

    def generate(self, requests: Iterable[Request], watch: Any = None) -> Iterator[Trajectory]:
        self.requests = {request.key: request for request in requests}
        for one in super().generate(self.requests.values()):
            self.drawn[one.key] = one
            yield one

    def given(self, key: Any) -> Request:
        """A request with its trajectory, whose rollouts are still to be drawn."""
        return replace(self.requests[key], trajectory_ids=tuple(self.drawn[key].token_ids.tolist()))

    def pending(self) -> dict[Any, PendingRequest]:
        """All of them, in order of the keys."""
        return {key: PendingRequest(self.given(key), self.eos_token_ids, self.vocabulary) for key in sorted(self.drawn)}


class OnVLLM(NativeBackend):
    """Rollouts of the recorded trajectories by vLLM; what else evaluates them is the engine's."""

    can_be_watched = False

    def __init__(self, vllm: VLLM, recording: Recording) -> None:
        super().__init__(recording.engine)
        self._vllm, self._recording = vllm, recording

    def generate(self, requests: Iterable[Request], watch: Any = None) -> Iterator[Trajectory]:
        drawn = iter(self._vllm.run())
        for key, pending in self._recording.pending().items():
            parts = [list(islice(drawn, start.count)) for start in pending.starts()]
            yield replace(self._recording.drawn[key], rollouts=pending.finish(parts).rollouts)


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


def compare(options: argparse.Namespace) -> int:
    """Time all peers in turns, compare their answers, print; return 1 if answers differ from the engine's."""
    torch.set_num_threads(options.threads)
    if unknown := {asked.partition(":")[0] for asked in options.peers} - set(PEERS):
        raise FastsiaError(f"--peers must be of {', '.join(PEERS)}, got {', '.join(unknown)}.")
    named = Path(os.environ.get("FASTSIA_MODELS", "")) / options.model
    options.model = str(named) if named.is_dir() else options.model
    engine = load(options, options.dtype)
    recording, name = Recording(engine), f"fastsia {options.dtype}"
    ours = evaluated(recording, options)
    with ExitStack() as stack:
        peers = [stack.enter_context(opened(asked, recording, options)) for asked in options.peers]
        stopped = Peer(name, engine, options.repeats, {"stop_at_answer": True})
        whole = Peer(f"{name}, every rollout to its end", engine, options.repeats, {"stop_at_answer": False})
        peers += [stopped, whole]
        for i in range(max(options.repeats, options.peer_repeats)):
            for peer in peers:
                if i < peer.repeats:
                    peer.runs.append(evaluated(peer.model, options, peer.vllm, **peer.changes))
        agreements: dict[str, dict[str, Any]] = {}
        for peer in [peer for peer in peers if peer.checked is not None]:
            again = peer.checked is not peer.model
            theirs = evaluated(peer.checked, options, **peer.changes) if again else peer.runs[0]
            test = disagreement(list(zip(answers_of(ours), answers_of(theirs), strict=True)), options.seed)
            agreements[peer.name] = test | {"level": LEVEL, "agrees": test["p_value"] > LEVEL}

    rows = [row_of(peer, peers[0]) for peer in peers]
    machine = engine.describe()
    show(
        [{name: value for name, value in row.items() if name not in ("all_seconds", "vllm_settings")} for row in rows],
        {"seconds": ".2f", "tokens_per_s": ",.0f", "mean_entropy": ".4f", "ratio": ".1f", "merged": ".2f"},
        title=f"{options.model} on {options.task}: {len(recording.drawn)} trajectories, N = {options.num_rollouts}, "
        f"temperature {options.temperature}, top-p {options.top_p}, {machine['device']}, {options.threads} threads",
    )
    if agreements:
        found = [{"answers of": which, **one, "agrees": str(one["agrees"])} for which, one in agreements.items()]
        show(found, title="\nPermutation test over all checkpoints; mean total variation, and that by chance alone:")
    saved = what_the_stop_saved(stopped.runs[0], whole.runs[0])
    shares = dict.fromkeys(("rollout_tokens", "computed_tokens", "same_answers"), ".1%")
    show([saved], shares, title="\nSaved by the streaming stop, of what every rollout to its end takes:")
    kept = {name: value for name, value in vars(options).items() if name not in ("data_dir", "device", "dtype")}
    row = {"benchmark": "versus", **kept, "stride": ours.summary["config"]["stride"]}
    row |= {"fingerprint": recording.fingerprint(), "machine": machine, "rows": rows}
    emit(row | {"agreement": agreements, "stop": saved})
    lossless = saved["same_answers"] == 1 or not machine["deterministic"]
    return 0 if lossless and all(test["agrees"] for test in agreements.values()) else 1


def load(options: argparse.Namespace, dtype: str) -> Engine:
    given = {"device": options.device, "dtype": dtype, "num_threads": options.threads}
    engine = Engine.from_pretrained(options.model, **given)
    if options.endless:  # its end tokens are drawn and written like any other
        model: Any = engine.model
        model.config.eos_token_id = model.generation_config.eos_token_id = engine.tokenizer.eos_token = None
    return engine


def evaluated(model: Any, options: argparse.Namespace, vllm: VLLM | None = None, **changes: Any) -> SIAResult:
    """A whole evaluation of the task; of vLLM, only its own work counts."""
    settings = {name: getattr(options, name) for name in (*SETTINGS, "data_dir")}
    result = evaluate(model, options.task, limit=options.problems, **settings | changes)
    if vllm is not None:
        result.summary.update(seconds=vllm.seconds, generated_tokens=vllm.num_tokens, row_steps=None)
    return result


def row_of(peer: Peer, first: Peer) -> dict[str, Any]:
    seconds, base = (statistics.median(run.summary["seconds"] for run in one.runs) for one in (peer, first))
    tokens, computed = (peer.runs[0].summary[name] for name in ("generated_tokens", "row_steps"))
    row = {
        "name": peer.name,
        "timed": "the whole evaluation" if peer.vllm is None else "rollouts",
        "seconds": round(seconds, 4),
        "all_seconds": [round(run.summary["seconds"], 4) for run in peer.runs],
        "rollout_tokens": tokens,
        "computed_tokens": computed,
        "merged": computed and round(tokens / computed, 3),
        "tokens_per_s": round(tokens / seconds, 1),
        "mean_entropy": float(peer.runs[0].checkpoints["entropy"].mean()),
        "ratio": round(base / seconds, 2),
    }
    return row if peer.vllm is None else row | {"vllm_settings": peer.vllm.settings}


def what_the_stop_saved(stopped: SIAResult, whole: SIAResult) -> dict[str, float]:
    """Shares of tokens; and of answers, in both readings, that are those of the whole text."""
    names = {"rollout_tokens": "generated_tokens", "computed_tokens": "row_steps"}
    saved = {name: 1 - stopped.summary[key] / whole.summary[key] for name, key in names.items()}
    one, other = (
        run.rollouts.set_index([*KEYS, "rollout"])[["answer_strict", "answer_lenient"]].fillna("")
        for run in (stopped, whole)
    )
    counts = {"num_stopped": stopped.summary["num_stopped_at_answer"], "num_rollouts": len(one)}
    return saved | counts | {"same_answers": float(one.eq(other).all(axis=1).mean())}


def answers_of(result: SIAResult) -> list[list[str | None]]:
    """The answers of every checkpoint."""
    return [list(group) for _, group in result.rollouts.groupby(KEYS)["answer"]]


@contextmanager
def opened(asked: str, recording: Recording, options: argparse.Namespace) -> Iterator[Peer]:
    """A peer by its NAME or NAME:DTYPE."""
    name, _, given = asked.partition(":")
    dtype, repeats = given or options.dtype, options.peer_repeats
    if name == "vllm":
        with closing(VLLM(vllm_work(recording, options, dtype), vllm_environment(options), WORK / "vllm.log")) as vllm:
            model = OnVLLM(vllm, recording)
            yield Peer(f"vllm {dtype}", model, repeats, checked=model, vllm=vllm)
    elif name == "openai":
        server = OnGiven(open_backend(options.model, "openai", {"base_url": options.base_url}), recording)
        yield Peer("openai server", server, repeats, checked=server)
    else:
        engine = recording.engine if dtype == options.dtype else load(options, dtype)
        on_given = OnGiven(open_backend(engine, "hf" if name == "hf" else "native"), recording)
        changes = {"share": "none"} if name == "unshared" else {}
        yield Peer(f"{name} {dtype}", on_given if name == "hf" else engine, repeats, changes, checked=on_given)


def vllm_work(recording: Recording, options: argparse.Namespace, dtype: str) -> dict[str, Any]:
    """The prompts of every checkpoint, in order of trajectories, and how they are continued."""
    stops = {request.sampling.stop for request in recording.requests.values()}
    if len(stops) > 1:
        raise FastsiaError("the problems have different stop texts; the comparison needs the same for all.")
    engine = {name: getattr(options, name) for name in ("seed", "max_num_seqs", "block_size", "enforce_eager")}
    work = {name: getattr(options, name) for name in ("num_rollouts", "temperature", "top_p", "max_tokens")}
    return work | {
        "model": resolve_model(options.model).source,
        "engine": engine | {"dtype": dtype, "enable_prefix_caching": True, "generation_config": "vllm"},
        "stop": list(stops.pop()),
        "eos_token_ids": list(recording.eos_token_ids),
        "prompts": [start.prefix for pending in recording.pending().values() for start in pending.starts()],
    }


def vllm_environment(options: argparse.Namespace) -> dict[str, str]:
    """Environment variables of vLLM's processes."""
    cores = sorted(os.sched_getaffinity(0))[: options.threads]
    binding = options.threads_bind or ",".join(map(str, cores))
    settings = {"VLLM_CPU_KVCACHE_SPACE": str(options.kv_gib), "VLLM_CPU_OMP_THREADS_BIND": binding}
    # Where vLLM binds its threads it counts them itself.
    return settings | ({"OMP_NUM_THREADS": str(options.threads)} if binding == "nobind" else {})


if __name__ == "__main__":
    # Without this, a terminated run would leave vLLM's processes behind, possibly halted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(compare(parse(__doc__, *SETTINGS, **COMMON, **ENGINE, **TIMES, **OF_VLLM)))
