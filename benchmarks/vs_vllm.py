"""The engine against vLLM, on one machine and one work file, in turns.

The engine draws the trajectories once; vLLM then rolls out every checkpoint of them with all it has: token-id prompts,
prefix caching, n rollouts a prompt, 512 sequences at once, and a loaded and warmed-up engine whose `generate` alone is
timed. The engine's time is a whole `evaluate` on a loaded engine, so it pays for its trajectories, for reading the
answers, for the database and for the statistics as well. Before any time is believed, the answers of both are compared
at every checkpoint by the permutation test of vs_hf.py. Prints a table and one JSON line.

    python benchmarks/vs_vllm.py --problems 64 --temperature 0.7 --top_p 0.95

vLLM gets an environment of its own, made on the first run (see docs/benchmarks.md).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from agreement import LEVEL, disagreement
from common import REPOSITORY, emit
from rich.console import Console
from rich.table import Table
from vllm_environment import set_up
from vs_hf import answer_counts

from fastsia.backends.native import NativeBackend
from fastsia.engine.engine import Engine
from fastsia.engine.sequence import FinishReason, Request, Rollouts, Trajectory
from fastsia.errors import FastsiaError
from fastsia.evaluation import evaluate
from fastsia.models.resolve import resolve_model
from fastsia.results import SIAResult

WORKER = REPOSITORY / "benchmarks" / "vllm_worker.py"


class Recording(NativeBackend):
    """The engine, keeping what it was asked and what it drew."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.requests: dict[Any, Request] = {}
        self.drawn: dict[Any, Trajectory] = {}

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        def keep() -> Iterator[Request]:
            for request in requests:
                self.requests[request.key] = request
                yield request

        for trajectory in super().generate(keep()):
            self.drawn[trajectory.key] = trajectory
            yield trajectory


class Replay(NativeBackend):
    """Given trajectories with given rollouts, so that another engine's rollouts are read and scored as ours are."""

    def __init__(self, engine: Engine, given: dict[Any, Trajectory]) -> None:
        super().__init__(engine)
        self._given = given

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        for request in requests:
            yield self._given[request.key]


class VLLM:
    """vLLM in a process group of its own, loaded and warm; halted whenever it is not the one that is timed."""

    def __init__(self, python: Path, work: Path, settings: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [str(python), str(WORKER), str(work)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**{name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}, **settings},
                start_new_session=True,
            )
        try:
            self.versions: dict[str, str] = json.loads(self._answer())
        except BaseException:
            self.close()
            raise

    def run(self, result: Path) -> dict[str, Any]:
        """Roll out the whole work once."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{result}\n")
        self._process.stdin.flush()
        self._answer()
        found: dict[str, Any] = json.loads(result.read_text())
        return found

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Its processes wait for each other by spinning; here they do not."""
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it and whatever it started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=30)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise FastsiaError(f"vLLM ended early; its log is {self._log}.")
        return line


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="demo:sft")
    parser.add_argument("--task", default="demo")
    parser.add_argument("--data_dir")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--top_p", type=float, default=0.95)
    parser.add_argument("--stride", type=int)
    parser.add_argument("--num_rollouts", type=int, default=20)
    parser.add_argument("--max_tokens", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="of each of the two")
    parser.add_argument("--repeats", type=int, default=3, help="of each; medians are reported")
    parser.add_argument("--environment", type=Path, default=REPOSITORY / "benchmarks" / ".work" / "vllm")
    parser.add_argument("--max_num_seqs", type=int, default=512)
    parser.add_argument("--block_size", type=int, default=32, help="of vLLM's KV cache")
    parser.add_argument("--kv_gib", type=int, default=2, help="of vLLM's KV cache")
    parser.add_argument("--enforce_eager", action="store_true", help="vLLM without torch.compile")
    parser.add_argument("--threads_bind", help="vLLM's VLLM_CPU_OMP_THREADS_BIND; a core a thread where not given")
    parser.add_argument("--tune", action="store_true", help="try vLLM's ways to use the cores; measure the fastest")
    options = parser.parse_args()
    # Whoever ends this ends vLLM's processes too, which may be halted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return compare(options)
    except FastsiaError as error:
        print(f"vs_vllm: error: {error}", file=sys.stderr)
        return 2


def compare(options: argparse.Namespace) -> int:
    python = set_up(options.environment)
    torch.set_num_threads(options.threads)
    settings = {
        name: getattr(options, name)
        for name in ("temperature", "top_p", "stride", "num_rollouts", "max_tokens", "seed", "data_dir")
    }
    engine = Engine.from_pretrained(options.model, device="cpu", dtype="float32")
    recording = Recording(engine)
    ours = evaluate(recording, options.task, limit=options.problems, **settings)

    def timed(**changes: Any) -> tuple[float, SIAResult]:
        begin = time.perf_counter()
        result = evaluate(engine, options.task, limit=options.problems, **settings, **changes)
        return time.perf_counter() - begin, result

    with tempfile.TemporaryDirectory(prefix="fastsia-vllm-") as folder:
        tried = []
        if options.tune:
            options, tried = tune(python, recording, options, Path(folder))
        other = start(python, recording, options, Path(folder))
        try:
            native, whole, theirs = [], [], []
            for _ in range(options.repeats):
                with other.halted():
                    native.append(timed())
                    whole.append(timed(stop_at_answer=False))
                theirs.append(other.run(Path(folder) / "result.json"))
        finally:
            other.close()

    given = {key: rolled_out(trajectory, rows) for key, trajectory, rows in shares(recording.drawn, theirs[0], options)}
    replayed = evaluate(Replay(engine, given), options.task, limit=options.problems, **settings)
    found = disagreement(answer_counts(ours, replayed), options.seed)
    agrees = found["p_value"] > LEVEL
    rows = {
        "vLLM": row_of([run["seconds"] for run in theirs], sum(map(len, theirs[0]["token_ids"])), None, replayed),
        "fastsia, every rollout to its end": row_of(
            [seconds for seconds, _ in whole],
            whole[0][1].summary["generated_tokens"],
            whole[0][1].summary["row_steps"],
            whole[0][1],
        ),
        "fastsia": row_of(
            [seconds for seconds, _ in native],
            native[0][1].summary["generated_tokens"],
            native[0][1].summary["row_steps"],
            native[0][1],
        ),
    }
    show(rows, options, len(recording.drawn), other.versions["vllm"])
    print(
        f"Answers {'agree' if agrees else 'DISAGREE'}: permutation test over all checkpoints, "
        f"p = {found['p_value']:.4f} (level {LEVEL}); mean total variation {found['mean_tv']:.4f}, "
        f"{found['mean_tv_expected']:.4f} expected of two samples of one distribution."
    )
    row = {
        "benchmark": "vs_vllm",
        **{name: getattr(options, name) for name in ("model", "task", "problems", "temperature", "top_p", "threads")},
        "stride": ours.summary["config"]["stride"],
        "num_rollouts": options.num_rollouts,
        "max_tokens": options.max_tokens,
        "fingerprint": recording.fingerprint(),
        "machine": engine.describe(),
        "vllm_settings": {**engine_of(options), **environment_of(options), "versions": other.versions},
        "vllm_tried": tried,
        "vllm": rows["vLLM"],
        "fastsia_whole": rows["fastsia, every rollout to its end"],
        "fastsia": rows["fastsia"],
        "ratio": round(rows["vLLM"]["seconds"] / rows["fastsia"]["seconds"], 2),
        "agreement": found | {"level": LEVEL, "agrees": agrees},
    }
    emit(row)
    return 0 if agrees else 1


def start(python: Path, recording: Recording, options: argparse.Namespace, folder: Path) -> VLLM:
    """vLLM, ready for this work."""
    work = folder / "work.json"
    work.write_text(json.dumps(work_of(recording, options)))
    log = REPOSITORY / "benchmarks" / ".work" / "vllm.log"
    log.parent.mkdir(exist_ok=True)
    return VLLM(python, work, environment_of(options), log)


def tune(
    python: Path, recording: Recording, options: argparse.Namespace, folder: Path
) -> tuple[argparse.Namespace, list[dict[str, Any]]]:
    """(the options with vLLM's fastest settings, what was tried): the second of two runs of the whole work counts."""
    tried: list[tuple[float, argparse.Namespace]] = []
    # "auto" leaves a core to vLLM's scheduler, "nobind" leaves the threads to the operating system.
    for threads_bind in (None, "auto", "nobind"):
        for enforce_eager in (False, True):
            candidate = argparse.Namespace(
                **{**vars(options), "threads_bind": threads_bind, "enforce_eager": enforce_eager}
            )
            settings = environment_of(candidate)["VLLM_CPU_OMP_THREADS_BIND"]
            name = f"vLLM, threads {settings}, {'eager' if enforce_eager else 'compiled'}"
            try:
                other = start(python, recording, candidate, folder)
            except FastsiaError:  # "auto" refuses a machine of one physical core
                print(f"{name}: does not start here", flush=True)
                continue
            try:
                seconds = [other.run(folder / "result.json")["seconds"] for _ in range(2)][-1]
            finally:
                other.close()
            print(f"{name}: {seconds:.2f} s", flush=True)
            tried.append((seconds, candidate))
    if not tried:
        raise FastsiaError("vLLM started with none of its settings; see benchmarks/.work/vllm.log.")
    report = [
        {"seconds": round(seconds, 4), "enforce_eager": candidate.enforce_eager, **environment_of(candidate)}
        for seconds, candidate in tried
    ]
    return min(tried, key=lambda pair: pair[0])[1], report


def engine_of(options: argparse.Namespace) -> dict[str, Any]:
    """vLLM's own settings."""
    return {
        "dtype": "float32",
        "seed": options.seed,
        "max_num_seqs": options.max_num_seqs,
        "enable_prefix_caching": True,
        "block_size": options.block_size,
        "enforce_eager": options.enforce_eager,
        "generation_config": "vllm",
    }


def environment_of(options: argparse.Namespace) -> dict[str, str]:
    """What vLLM reads from its environment."""
    cores = sorted(os.sched_getaffinity(0))[: options.threads]
    settings = {
        "VLLM_CPU_KVCACHE_SPACE": str(options.kv_gib),
        "VLLM_CPU_OMP_THREADS_BIND": options.threads_bind or ",".join(map(str, cores)),
    }
    # Where vLLM binds its worker's threads it counts them itself, and its other processes take one each.
    return settings | ({"OMP_NUM_THREADS": str(options.threads)} if options.threads_bind == "nobind" else {})


def work_of(recording: Recording, options: argparse.Namespace) -> dict[str, Any]:
    """The prompt of every checkpoint, in the order of `shares`, and how to continue it."""
    stops = {request.sampling.stop for request in recording.requests.values()}
    if len(stops) > 1:
        raise FastsiaError("the problems have different stop texts; the comparison needs the same for all.")
    prompts = [
        [*trajectory.prompt_ids.tolist(), *trajectory.token_ids[:checkpoint].tolist()]
        for _, trajectory in sorted(recording.drawn.items())
        for checkpoint in trajectory.checkpoints
    ]
    return {
        "model": resolve_model(options.model).source,
        "engine": engine_of(options),
        "num_rollouts": options.num_rollouts,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "max_tokens": options.max_tokens,
        "stop": list(stops.pop()),
        "eos_token_ids": list(recording.eos_token_ids),
        "prompts": prompts,
        "num_warmup": min(8, len(prompts)),
    }


def shares(
    drawn: dict[Any, Trajectory], result: dict[str, Any], options: argparse.Namespace
) -> Iterator[tuple[Any, Trajectory, list[tuple[list[int], str]]]]:
    """Each trajectory with its rollouts of vLLM's: (token ids, finish reason), by checkpoint and index."""
    rows = list(zip(result["token_ids"], result["finish_reasons"], strict=True))
    begin = 0
    for key, trajectory in sorted(drawn.items()):
        end = begin + len(trajectory.checkpoints) * options.num_rollouts
        yield key, trajectory, rows[begin:end]
        begin = end
    if begin != len(rows):
        raise FastsiaError(f"vLLM gave {len(rows)} rollouts, {begin} were asked for.")


def rolled_out(trajectory: Trajectory, rows: list[tuple[list[int], str]]) -> Trajectory:
    """The trajectory with these rollouts."""
    lengths = [len(ids) for ids, _ in rows]
    num_rollouts = len(rows) // len(trajectory.checkpoints)
    reasons = [FinishReason.LENGTH if reason == "length" else FinishReason.EOS for _, reason in rows]
    return replace(
        trajectory,
        rollouts=Rollouts(
            checkpoint=np.repeat(trajectory.checkpoints.astype(np.int32), num_rollouts),
            index=np.tile(np.arange(num_rollouts, dtype=np.int32), len(trajectory.checkpoints)),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            token_ids=np.array([token for ids, _ in rows for token in ids], dtype=np.int32),
            logprobs=np.full(sum(lengths), np.nan, dtype=np.float32),
            finish_reason=np.array(reasons, dtype=np.int8),
        ),
    )


def row_of(seconds: list[float], tokens: int, computed_tokens: int | None, result: SIAResult) -> dict[str, Any]:
    """Median seconds and what was done in them."""
    return {
        "seconds": round(statistics.median(seconds), 4),
        "all_seconds": [round(value, 4) for value in seconds],
        "generated_tokens": tokens,
        "row_steps": computed_tokens,
        "mean_entropy": float(result.checkpoints["entropy"].mean()),
    }


def show(rows: dict[str, dict[str, Any]], options: argparse.Namespace, num_trajectories: int, version: str) -> None:
    title = (
        f"{options.model} on {options.task}: {num_trajectories} trajectories, N = {options.num_rollouts}, temperature "
        f"{options.temperature}, top-p {options.top_p}, cpu float32, {options.threads} threads; vLLM {version}"
    )
    table = Table(title=title, title_justify="left")
    for column in ("", "timed", "seconds", "rollout tokens", "row steps", "tokens/s", "mean H", "ratio"):
        table.add_column(column, justify="left" if column in ("", "timed") else "right")
    slowest = rows["vLLM"]["seconds"]
    for name, row in rows.items():
        table.add_row(
            name,
            "rollouts" if name == "vLLM" else "trajectories, rollouts, answers, database, statistics",
            f"{row['seconds']:.2f}",
            f"{row['generated_tokens']:,}",
            "" if row["row_steps"] is None else f"{row['row_steps']:,}",
            f"{row['generated_tokens'] / row['seconds']:,.0f}",
            f"{row['mean_entropy']:.4f}",
            f"{slowest / row['seconds']:.1f}x",
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    sys.exit(main())
