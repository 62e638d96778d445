"""`fastsia run`: draw, score, write, and report the cost."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastsia.callbacks import TRACKERS, Tracker
from fastsia.cli.options import OutputOptions, names_in, option, takes
from fastsia.cli.render import Shown, printable, show
from fastsia.config import BACKEND_OWNERS, DataOptions, ExecutionOptions, SIAConfig, split
from fastsia.errors import FastsiaError, counted

if TYPE_CHECKING:
    from fastsia.backends.base import Backend
    from fastsia.engine.profile import StepProfile

Model = Annotated[str, option('Hub id, folder, .gguf file, or "demo:sft".', "--model")]


# Seconds from which the time of loading is said.
_SLOW_LOADING = 5.0


class Terminated(BaseException):
    """SIGTERM, handled like Ctrl-C: what is drawn is kept. Not a KeyboardInterrupt, which typer handles itself."""


@takes(SIAConfig, DataOptions, OutputOptions, ExecutionOptions, *BACKEND_OWNERS)
def run(
    model: Model,
    tasks: Annotated[str, option("Names, files or hub:OWNER/NAME[:CONFIG[:SPLIT]], separated by commas.", "--tasks")],
    output_path: Annotated[
        Path | None,
        option(
            "Results folder, with a subfolder per task if there are several. A run in it is resumed. Without -o "
            "nothing is stored.",
            "--output_path",
            "-o",
        ),
    ] = None,
    **given: Any,
) -> None:
    """Sample, roll out, score and report a run."""
    given = {name: value for name, value in given.items() if value != ""}
    own, execution, options, data, output = split(
        given, (SIAConfig,), (ExecutionOptions,), BACKEND_OWNERS, (DataOptions,), (OutputOptions,)
    )
    config = SIAConfig(**own)
    names = names_in("--tasks", tasks)
    # Mistakes in names are found before anything is loaded, and before the seconds that torch takes to import.
    from fastsia.models.resolve import resolve_model
    from fastsia.tasks import load_task

    loaded_tasks = [load_task(name, **data) for name in names]
    ref = resolve_model(model)
    quiet_transformers()
    from fastsia.backends import open_executor
    from fastsia.evaluation import evaluate, keep_dtype

    folders = task_folders(output_path, [task.name for task in loaded_tasks])
    trackers = [Tracker(name, **output[f"{name}_args"]) for name in TRACKERS if f"{name}_args" in output]
    executor, backend = execution.pop("executor", None), execution.pop("backend", None)
    if executor != "ray" and backend in (None, "native", "hf"):
        options = keep_dtype(options, folders)
    begin = time.monotonic()
    generator = open_executor(executor, ref, backend, options, **execution)
    seconds = time.monotonic() - begin
    loading = f"; loaded in {seconds:.0f} s" if seconds > _SLOW_LOADING else ""
    for task, folder in zip(loaded_tasks, folders, strict=True):
        with (
            watched(task.name, folder, _how(generator.describe()) + loading) as shown,
            _profiling(generator, output.get("profile", False)) as recorded,
        ):
            result = evaluate(generator, task, config=config, output=folder, callbacks=[shown, *trackers])
        written = []
        if folder is not None:
            written.append(f"Results: {folder}")
            if output.get("report", True):
                written.append(f"Report:  {result.report(folder)}")
            written += _against_plan(folder, result.summary)
        if recorded is not None:
            written += _profile_lines(recorded, folder)
        show(result, written, output.get("table", "text"))


@contextmanager
def watched(name: str, folder: Path | None, how: str = "") -> Iterator[Shown]:
    """Show the progress of a run, and how it computes; after Ctrl-C or SIGTERM, say what is kept."""
    shown = Shown(name, how)
    try:
        with shown:
            yield shown
    except (KeyboardInterrupt, Terminated):
        say_interrupted(shown, folder)
        raise


def say_interrupted(shown: Shown, folder: Path | None) -> None:
    """Say how much of an interrupted run is stored."""
    from fastsia.results.reader import Store
    from fastsia.results.schema import DATABASE

    last = shown.last
    done = begun = rollouts = 0
    if folder is not None and last is not None:
        with suppress(FastsiaError):  # more may be stored than was reported
            store = Store(folder / DATABASE)
            done, (begun, rollouts) = store.num_problems(), store.num_begun()
    if folder is None:
        said = "nothing is kept (no -o DIR was given)."
    elif last is None or done + begun == 0:
        said = "no problem was finished yet."
    else:
        kept = f"{done} of {last.total} problems are finished and kept in {printable(str(folder))}"
        others = f", and {rollouts:,} rollouts of {begun} others" if begun else ""
        said = f"{kept}{others}; the same command continues from there."
    print(f"\nInterrupted: {said}", file=sys.stderr)


def quiet_transformers() -> None:
    """Turn off transformers' own messages, and its bars where standard error is not a terminal."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()


def task_folders(output: Path | None, names: list[str]) -> list[Path | None]:
    """DIR for one task, DIR/TASK for several; the name of a task never leads out of DIR."""
    if output is None or len(names) == 1:
        return [output] * len(names)
    from fastsia.reproduce import distinct_folders

    return [output / folder for folder in distinct_folders(names)]


def _how(facts: Mapping[str, Any]) -> str:
    """Where and how a backend computes, as it describes itself, in a line."""
    parts = [str(facts[name]) for name in ("device", "dtype") if facts.get(name)]
    if facts.get("dtype_reason"):
        parts[-1] += f" ({facts['dtype_reason']})"
    parts += [counted(facts[f"num_{what}s"], what) for what in ("worker", "thread") if f"num_{what}s" in facts]
    if "max_num_seqs" in facts:
        parts.append(f"up to {facts['max_num_seqs']} sequences per step")
    if "kv_pool_bytes" in facts:
        parts.append(f"a KV pool of {facts['kv_pool_bytes'] / 2**30:.1f} GiB at most")
    return ", ".join(parts)


def _profiling(generator: Backend, wanted: bool) -> AbstractContextManager[StepProfile | None]:
    if not wanted:
        return nullcontext()
    from fastsia.backends.native import NativeBackend

    if not isinstance(generator, NativeBackend):
        where = "another executor" if generator.name == NativeBackend.name else generator.name
        raise FastsiaError(f"--profile needs the native backend in this process, got {where}.")
    return generator.engine.profile()


def _profile_lines(recorded: StepProfile, folder: Path | None) -> list[str]:
    seconds = recorded.seconds()
    whole = sum(seconds.values())
    parts = ", ".join(f"{name} {100 * part / max(whole, 1e-9):.0f} %" for name, part in seconds.items())
    lines = [f"Profile: {len(recorded.steps()):,} steps, {whole:.1f} s: {parts}."]
    if folder is not None:
        recorded.write_trace(folder / "trace.json")
        lines.append(f"Trace:   {folder / 'trace.json'} (ui.perfetto.dev opens it)")
    return lines


def _against_plan(folder: Path, summary: Mapping[str, Any]) -> list[str]:
    """Compare the run with the forecast in its folder; empty if there is none for the same number of problems."""
    from fastsia.planning import PLAN

    try:
        planned = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        if planned["num_problems"] != summary["num_problems"]:
            return []
        off = [
            f"{name} {100 * (planned[forecast] / summary[key] - 1):+.0f} %"
            for name, forecast, key in (
                ("tokens", "generated_tokens", "generated_tokens"),
                ("computed tokens", "computed_tokens", "row_steps"),
                ("seconds", "seconds", "seconds"),
            )
            if summary.get(key)
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return [f"The forecast was off by: {', '.join(off)}."]
