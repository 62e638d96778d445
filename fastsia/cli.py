"""The command line. Options are spelled as lm-evaluation-harness spells them; `-` and `_` are the same."""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import importlib.util
import io
import json
import logging
import os
import platform
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastsia import __version__, renamed
from fastsia.callbacks import Callback, Tracker
from fastsia.config import SIAConfig
from fastsia.errors import FastsiaError

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from fastsia.backends.base import Backend
    from fastsia.callbacks import Progress
    from fastsia.engine.profile import StepProfile
    from fastsia.report import ShownTable
    from fastsia.reproduce import Plan
    from fastsia.results import SIAResult
    from fastsia.store import FinishedProblem

DEFAULTS = SIAConfig()
PLAN = "plan.json"

# Options that several commands have.
DataDir = Annotated[Path | None, typer.Option("--data_dir", help="Where named tasks find their files.")]
Columns = Annotated[
    str | None,
    typer.Option("--columns", help="Where the data calls its fields something else: question=goal,choices=sol1+sol2."),
]
AnswerBase = Annotated[
    int | None, typer.Option("--answer_base", help="Where answers count the options: the first one's number, 0 or 1.")
]
Limit = Annotated[int | None, typer.Option("--limit", "-L", help="The first problems only.")]
NumRollouts = Annotated[int, typer.Option("--num_rollouts", help="N, rollouts at each checkpoint.")]
Stride = Annotated[
    int | None, typer.Option("--stride", help="Tokens between checkpoints [default: the task's, mostly 20].")
]
Seed = Annotated[int, typer.Option("--seed")]
Temperature = Annotated[float, typer.Option("--temperature")]
TopP = Annotated[float, typer.Option("--top_p")]
MaxTokens = Annotated[int, typer.Option("--max_tokens", "--max_gen_toks", help="Of a trajectory, and of a rollout.")]
_THINK = "An unclosed <think> block, or a text that the token limit cut, has no answer (strict), or is read (lenient)."
AnswerReading = Annotated[str, typer.Option("--answer_reading", help=_THINK)]
_EQUIVALENCE = "Which answers are equal: spelling, or math_verify (boxed answers by Math-Verify)."
_ANSWER_REGEX = "A regular expression that reads the answers in place of the rules: its group answer, else group 1."
Smoothing = Annotated[float, typer.Option("--smoothing", help="alpha of the gold surprisal.")]
NumBootstrap = Annotated[int, typer.Option("--num_bootstrap", help="Resamples of the intervals.")]
NumSplits = Annotated[int, typer.Option("--num_splits", help="Half-splits of the cross-fitted rho.")]
Device = Annotated[str | None, typer.Option("--device", help="[default: CUDA where there is one]")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="[default: float32 on a CPU, bfloat16 on a GPU]")]
Peft = Annotated[str | None, typer.Option("--peft", help="A LoRA adapter merged into the weights: folder or Hub id.")]
MaxNumSeqs = Annotated[
    int | None, typer.Option("--max_num_seqs", "--batch_size", "-b", help="Rows of one decode step.")
]
# A bar is worth its place on what takes longer.
_BAR_AFTER_SECONDS = 2.0
_SECONDS_BETWEEN_LINES = 5.0
# What a write to an open file fails by, without the file's name; other errors without one are ours to mend.
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG}

app = typer.Typer(
    name="fastsia",
    help="How a language model's uncertainty about the answer moves while it reasons.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> NoReturn:
    """Entry point: one sentence and exit code 2 for a mistake of the user's, 130 for Ctrl-C, 143 for SIGTERM."""
    # Read when torch is loaded: its threads else spin between small products, which costs several times the work on a
    # machine that does anything beside.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if not sys.stderr.isatty():  # read when these are imported: a bar in a file is a line for every step
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may know fewer letters than a model writes
            stream.reconfigure(errors="replace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain("fastsia: %(message)s"))
    logging.getLogger("fastsia").addHandler(handler)
    try:
        try:
            code = _run(normalize(sys.argv[1:]))
        finally:
            _ignore_signals()
    except KeyboardInterrupt:  # one that came while `_run` was saying what ended it
        code = 130
    except _Terminated:
        code = 143
    sys.exit(code)


def _ignore_signals() -> None:
    """All is said and done: an impatient second signal would only break into the interpreter's own end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _run(arguments: list[str]) -> int:
    try:
        code = app(arguments, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except FastsiaError as error:
        return _complain(str(error))
    except _Terminated:
        return 143
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # whoever read the output has gone; the interpreter would complain on closing
        return 141
    except OSError as error:
        if error.filename is not None:
            return _complain(f"{error.filename}: {error.strerror}.")
        if error.errno in _OF_THE_DISK:
            return _complain(f"a file cannot be read or written: {os.strerror(error.errno)}.")
        raise
    except Exception as error:
        # typer carries its own copy of click, older ones import it: known by what a usage error can do.
        if hasattr(error, "format_message"):
            return _complain(str(error.format_message()))
        raise


def _complain(sentence: str) -> int:
    print(f"fastsia: error: {one_line(sentence)}", file=sys.stderr)
    return 2


def normalize(arguments: list[str]) -> list[str]:
    """`--num-rollouts` and `--num_rollouts` alike; values are left alone, as is everything after `--`."""
    found: list[str] = []
    for i, argument in enumerate(arguments):
        if argument == "--":
            return found + arguments[i:]
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            name = name[2:].replace("-", "_")
            if name in renamed.SETTINGS:
                _warn_renamed(f"--{name}", f"--{renamed.SETTINGS[name]}")
            argument = f"--{renamed.SETTINGS.get(name, name)}{equals}{value}"
        elif not found and argument in renamed.COMMANDS:
            _warn_renamed(f"fastsia {argument}", f"fastsia {renamed.COMMANDS[argument]}")
            argument = renamed.COMMANDS[argument]
        found.append(argument)
    return found


def _warn_renamed(old: str, new: str) -> None:
    print(f"fastsia: {old} is now called {new}; the old name goes in the next release.", file=sys.stderr)


def plain(text: str) -> str:
    """Text that may come from a file or a model, without what would steer a terminal or is no character."""
    return re.sub(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", "\ufffd", text
    )


def one_line(text: str) -> str:
    """Plain text on one line: what a file is called must not begin a line that fastsia might have said."""
    return " ".join(part.strip() for part in plain(text).splitlines())


class _Plain(logging.Formatter):
    """Warnings name files, problems and what servers said."""

    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


class _Terminated(BaseException):
    """SIGTERM, handled like Ctrl-C: what is done is kept. No KeyboardInterrupt, which typer makes its own thing of."""


def _terminate(*_: Any) -> NoReturn:
    raise _Terminated


# --- run -------------------------------------------------------------------------------------------------------


@app.command()
def run(
    model: Annotated[str, typer.Option("--model", help='Hub id, folder, .gguf file, or "demo:sft".')],
    tasks: Annotated[
        str,
        typer.Option("--tasks", help="Names, files, hub:OWNER/NAME[:CONFIG[:SPLIT]], separated by commas."),
    ],
    output_path: Annotated[
        Path | None, typer.Option("--output_path", "-o", help="Folder for the results; resumed if it holds this run.")
    ] = None,
    data_dir: DataDir = None,
    columns: Columns = None,
    answer_base: AnswerBase = None,
    limit: Limit = None,
    backend: Annotated[
        str, typer.Option("--backend", help="native, hf (transformers' generate), openai (a server) or vllm.")
    ] = "native",
    base_url: Annotated[
        str | None, typer.Option("--base_url", help="openai: the server, such as http://localhost:8000/v1.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option("--api_key_env", help="openai: the environment variable that holds the key.")
    ] = None,
    served_model: Annotated[
        str | None, typer.Option("--served_model", help="openai: the model's name on the server [default: --model].")
    ] = None,
    send_seed: Annotated[
        bool, typer.Option("--send_seed/--no_send_seed", help="openai: a seed with every call.")
    ] = True,
    num_concurrent: Annotated[
        int | None, typer.Option("--num_concurrent", help="openai: calls under way at once [default: 16].")
    ] = None,
    max_retries: Annotated[
        int | None, typer.Option("--max_retries", help="openai: further tries of a failed call [default: 8].")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", help="openai: seconds without an answer [default: 600].")
    ] = None,
    tensor_parallel_size: Annotated[
        int | None, typer.Option("--tensor_parallel_size", help="vllm: GPUs that share the model.")
    ] = None,
    model_args: Annotated[
        str | None, typer.Option("--model_args", help="vllm: further arguments of its LLM, as name=value,name=value.")
    ] = None,
    executor: Annotated[
        str, typer.Option("--executor", help="local (this process) or ray (the workers of a Ray cluster).")
    ] = "local",
    num_workers: Annotated[
        int | None, typer.Option("--num_workers", help="ray: engines [default: one a GPU, else one a machine].")
    ] = None,
    worker_timeout: Annotated[
        float | None,
        typer.Option("--worker_timeout", help="ray: seconds in which a worker finishes something [default: 3600]."),
    ] = None,
    num_rollouts: NumRollouts = DEFAULTS.num_rollouts,
    stride: Stride = None,
    seed: Seed = DEFAULTS.seed,
    temperature: Temperature = DEFAULTS.temperature,
    top_p: TopP = DEFAULTS.top_p,
    max_tokens: MaxTokens = DEFAULTS.max_tokens,
    num_trajectories: Annotated[
        int, typer.Option("--num_trajectories", help="Trajectories a problem.")
    ] = DEFAULTS.num_trajectories,
    rollout_budget: Annotated[
        str, typer.Option("--rollout_budget", help="max_tokens counts new tokens, or prefix and new (total).")
    ] = DEFAULTS.rollout_budget,
    share: Annotated[
        str, typer.Option("--share", help="trajectory, checkpoint or none: what rollouts share. Same draws.")
    ] = DEFAULTS.share,
    answer_reading: AnswerReading = DEFAULTS.answer_reading,
    equivalence: Annotated[str, typer.Option("--equivalence", help=_EQUIVALENCE)] = DEFAULTS.equivalence,
    answer_regex: Annotated[str | None, typer.Option("--answer_regex", help=_ANSWER_REGEX)] = None,
    stop_at_answer: Annotated[
        bool,
        typer.Option("--stop_at_answer/--no_stop_at_answer", help="End rollouts whose answer can change no more."),
    ] = DEFAULTS.stop_at_answer,
    shuffle_prefix: Annotated[
        bool, typer.Option("--shuffle_prefix", help="The ablation: each checkpoint's prefix permuted.")
    ] = DEFAULTS.shuffle_prefix,
    num_fewshot: Annotated[int, typer.Option("--num_fewshot", "-f")] = DEFAULTS.num_fewshot,
    apply_chat_template: Annotated[
        bool | None,
        typer.Option(
            "--apply_chat_template/--no_apply_chat_template", help="[default: where the model is made for one]"
        ),
    ] = None,
    system_instruction: Annotated[
        str | None, typer.Option("--system_instruction", help="A system turn; in plain text it stands in front.")
    ] = None,
    enable_thinking: Annotated[
        bool | None,
        typer.Option("--enable_thinking/--no_enable_thinking", help="For the chat template [default: its own]."),
    ] = None,
    chat_template_args: Annotated[
        str | None,
        typer.Option("--chat_template_args", help="More variables of the chat template: name=value,... or JSON."),
    ] = None,
    template_date: Annotated[
        str | None,
        typer.Option("--template_date", help="YYYY-MM-DD, where the chat template asks for it [default: the run's]."),
    ] = None,
    think_tags: Annotated[
        str | None, typer.Option("--think_tags", help="OPEN,CLOSE: marks of think blocks beside the usual ones.")
    ] = None,
    truncate_prompt: Annotated[
        bool, typer.Option("--truncate_prompt", help="Cut a prompt that is too long from the left; it is recorded.")
    ] = DEFAULTS.truncate_prompt,
    smoothing: Smoothing = DEFAULTS.smoothing,
    num_bootstrap: NumBootstrap = DEFAULTS.num_bootstrap,
    num_splits: NumSplits = DEFAULTS.num_splits,
    answer_format: Annotated[
        str | None, typer.Option("--answer_format", help="number, choice or boxed, instead of the task's own.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    max_num_seqs: MaxNumSeqs = None,
    num_kv_blocks: Annotated[int | None, typer.Option("--num_kv_blocks", help="KV blocks of the pool.")] = None,
    max_concurrent_trajectories: Annotated[
        int | None, typer.Option("--max_concurrent_trajectories", help="Trajectories in flight.")
    ] = None,
    kernels: Annotated[str | None, typer.Option("--kernels", help="auto, triton, native or reference.")] = None,
    compile: Annotated[str | None, typer.Option("--compile", help="auto, on, graphs or off; see the engine.")] = None,
    gpu_memory_utilization: Annotated[float | None, typer.Option("--gpu_memory_utilization")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust_remote_code", help="Run code that the model's repository brings.")
    ] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="Of the model on the Hub.")] = None,
    peft: Peft = None,
    report: Annotated[bool, typer.Option("--report/--no_report", help="Draw figures and report.html.")] = True,
    wandb_args: Annotated[
        str | None, typer.Option("--wandb_args", help="Follow the run in wandb: arguments of its init, as project=p.")
    ] = None,
    trackio_args: Annotated[
        str | None, typer.Option("--trackio_args", help="Follow the run in trackio: arguments of its init.")
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Where the time goes: a table, and trace.json for ui.perfetto.dev.")
    ] = False,
) -> None:
    """Draw trajectories, roll out at every checkpoint, score, and write the results."""
    config = SIAConfig(
        temperature=temperature,
        top_p=top_p,
        num_rollouts=num_rollouts,
        stride=stride,
        num_trajectories=num_trajectories,
        max_tokens=max_tokens,
        rollout_budget=rollout_budget,  # type: ignore[arg-type]
        seed=seed,
        share=share,  # type: ignore[arg-type]
        answer_reading=answer_reading,  # type: ignore[arg-type]
        equivalence=equivalence,  # type: ignore[arg-type]
        answer_regex=answer_regex or None,
        stop_at_answer=stop_at_answer,
        shuffle_prefix=shuffle_prefix,
        num_fewshot=num_fewshot,
        apply_chat_template=apply_chat_template,
        system_instruction=system_instruction,
        enable_thinking=enable_thinking,
        chat_template_args=(
            None if chat_template_args is None else _arguments("--chat_template_args", chat_template_args)
        ),
        template_date=template_date,
        think_tags=_think_tags(think_tags),
        truncate_prompt=truncate_prompt,
        smoothing=smoothing,
        num_bootstrap=num_bootstrap,
        num_splits=num_splits,
    )
    names = _split(tasks, "--tasks names no task.")
    _quiet_transformers()
    from fastsia.backends import open_executor
    from fastsia.evaluation import evaluate
    from fastsia.models.resolve import resolve_model
    from fastsia.tasks import load_task

    # Mistakes in names are found before anything is loaded.
    resolve_model(model)
    reading = {"data_dir": data_dir, "limit": limit, "answer_format": answer_format, "columns": _columns(columns)}
    reading["answer_base"] = answer_base
    loaded_tasks = [load_task(name, **reading) for name in names]  # type: ignore[arg-type]
    folders = _folders(output_path, [task.name for task in loaded_tasks])
    options = {
        "device": device,
        "dtype": dtype,
        "trust_remote_code": trust_remote_code or None,
        "revision": revision,
        "peft": peft,
        "max_num_seqs": max_num_seqs,
        "num_kv_blocks": num_kv_blocks,
        "max_concurrent_trajectories": max_concurrent_trajectories,
        "kernels": kernels,
        "compile": compile,
        "gpu_memory_utilization": gpu_memory_utilization,
        "base_url": base_url,
        "api_key_env": api_key_env,
        "served_model": served_model,
        "send_seed": None if send_seed else False,
        "num_concurrent": num_concurrent,
        "max_retries": max_retries,
        "timeout": timeout,
        "tensor_parallel_size": tensor_parallel_size,
        "model_args": None if model_args is None else _arguments("--model_args", model_args),
    }
    given = {"wandb": wandb_args, "trackio": trackio_args}
    trackers: list[Callback] = [
        Tracker(name, **_arguments(f"--{name}_args", text)) for name, text in given.items() if text is not None
    ]
    generator = open_executor(executor, model, backend, options, num_workers=num_workers, worker_timeout=worker_timeout)
    for task, folder in zip(loaded_tasks, folders, strict=True):
        shown = _Shown(task.name)
        try:
            with shown, _profiling(generator, profile) as recorded:
                result = evaluate(
                    generator, task, config=config, output=folder, backend=backend, callbacks=[shown, *trackers]
                )
        except (KeyboardInterrupt, _Terminated):
            _say_interrupted(shown, folder)
            raise
        written = [] if folder is None else [f"Results: {folder}"]
        if folder is not None and report:
            written.append(f"Report:  {result.report(folder)}")
        if folder is not None and (folder / PLAN).is_file():
            written += _against_plan(folder, result.summary)
        if recorded is not None:
            written += _profile_lines(recorded)
            if folder is not None:
                recorded.write_trace(folder / "trace.json")
                written.append(f"Trace:   {folder / 'trace.json'} (ui.perfetto.dev opens it)")
        show(result, written)


def _profiling(generator: Backend, wanted: bool) -> AbstractContextManager[StepProfile | None]:
    if not wanted:
        return nullcontext()
    from fastsia.backends.native import NativeBackend

    if not isinstance(generator, NativeBackend):
        where = "another executor" if generator.name == NativeBackend.name else generator.name
        raise FastsiaError(f"--profile needs the native backend in this process, got {where}.")
    return generator.engine.profile()


def _profile_lines(recorded: StepProfile) -> list[str]:
    seconds = recorded.seconds()
    whole = sum(seconds.values())
    parts = ", ".join(f"{name} {100 * part / max(whole, 1e-9):.0f} %" for name, part in seconds.items())
    return [f"Profile: {len(recorded.steps()):,} steps, {whole:.1f} s: {parts}."]


def _against_plan(folder: Path, summary: dict[str, Any]) -> list[str]:
    """How far the plan that lies in a folder was off."""
    try:
        planned = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        if planned["num_problems"] != summary["num_problems"]:
            return []
        off = [
            f"{name} {100 * (planned[forecast] / summary[key] - 1):+.0f} %"
            for name, forecast, key in (
                ("tokens", "generated_tokens", "generated_tokens"),
                ("rows", "computed_tokens", "row_steps"),
                ("seconds", "seconds", "seconds"),
            )
            if summary.get(key)
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return [f"The plan was off by: {', '.join(off)}."]


def _split(text: str, complaint: str) -> list[str]:
    """The distinct names of a comma-separated list; `complaint` is the error where it holds none."""
    names = list(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))
    if not names:
        raise FastsiaError(complaint)
    return names


def _arguments(option: str, text: str) -> dict[str, Any]:
    """name=value,name=value, or a JSON object where a value holds a comma; values are JSON or else text."""
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text)
        except ValueError as error:
            raise FastsiaError(f"{option} is not JSON: {error}.") from error
        except RecursionError as error:
            raise FastsiaError(f"{option} is JSON nested too deeply.") from error
        return dict(found)
    return {name: _value(value) for name, value in _pairs(option, text).items()}


def _think_tags(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    opening, _, closing = (part.strip() for part in text.partition(","))
    if not opening or not closing or "," in closing:
        raise FastsiaError(f"--think_tags must be OPEN,CLOSE, as <think>,</think>, got {text!r}.")
    return opening, closing


def _columns(text: str | None) -> dict[str, str] | None:
    return None if text is None else _pairs("--columns", text)


def _pairs(option: str, text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    wrong = next((name for name, equals, _ in pairs if not equals), None)
    if wrong is not None:
        raise FastsiaError(f"{option} must be name=value,name=value, got {wrong!r}.")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _value(text: str) -> Any:
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except (ValueError, RecursionError):
        return text


def _folders(output: Path | None, names: list[str]) -> list[Path | None]:
    """DIR for one task, DIR/TASK for several; a task's name never leads out of DIR."""
    if output is None or len(names) == 1:
        return [output] * len(names)
    from fastsia.results import folder_name

    parts = [folder_name(name) for name in names]
    twice = next((part for part in parts if parts.count(part) > 1), None)
    if twice is not None:
        raise FastsiaError(f"--tasks: two tasks would share the folder {output / twice}; run them one by one.")
    return [output / part for part in parts]


def _say_interrupted(shown: _Shown, folder: Path | None) -> None:
    from fastsia.store import DATABASE, Store

    last = shown.last
    done = 0 if last is None else last.done
    if folder is not None and last is not None:
        with suppress(FastsiaError):  # more may have been stored than was told of
            done = Store(folder / DATABASE).num_problems()
    if folder is None or last is None or done == 0:
        kept = "nothing is kept (no -o DIR was given)" if folder is None else "no problem was finished yet"
        print(f"\nInterrupted: {kept}.", file=sys.stderr)
        return
    print(
        f"\nInterrupted: {done} of {last.total} problems are finished and kept in {one_line(str(folder))}; "
        "the same command goes on from there.",
        file=sys.stderr,
    )


def _quiet_transformers() -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()


class _Shown(Callback):
    """A run's progress: a bar on a terminal, lines elsewhere, nothing for what is over in two seconds."""

    def __init__(self, name: str) -> None:
        self._name = one_line(name)
        self._console = Console(stderr=True)
        self._lock = threading.Lock()
        self._timer = threading.Timer(_BAR_AFTER_SECONDS, self._begin)
        self._timer.daemon = True
        self._bar: Bar | None = None
        self._task: Any = None
        self._started = self._said = time.monotonic()
        self.last: Progress | None = None

    def __enter__(self) -> _Shown:
        if self._console.is_terminal:
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            if self._bar is not None:
                self._bar.stop()

    def run_started(self, run: Mapping[str, Any], progress: Progress) -> None:
        self._show(progress)

    def problem_finished(self, problem: FinishedProblem, progress: Progress) -> None:
        self._show(progress)

    def _show(self, progress: Progress) -> None:
        with self._lock:
            first, self.last = self.last is None, progress
            if first:
                self._started = self._said = time.monotonic()
            if self._bar is not None:
                self._bar.update(self._task, completed=progress.done, total=progress.total, rate=self._rate())
        now = time.monotonic()
        late = now - self._started > _BAR_AFTER_SECONDS and now - self._said > _SECONDS_BETWEEN_LINES
        if not self._console.is_terminal and late:
            self._said = now
            print(
                f"{self._name}: {progress.done}/{progress.total} problems, {self._rate()}", file=sys.stderr, flush=True
            )

    def _rate(self) -> str:
        last = self.last
        computed = 0 if last is None else last.done - last.resumed
        if last is None or computed == 0:
            return "the first ones are under way"
        left = last.seconds / computed * (last.total - last.done)
        tokens = last.generated_tokens / max(last.seconds, 1e-9)
        return f"{computed / max(last.seconds, 1e-9):.2f} problems/s, {tokens:,.0f} tokens/s, {_duration(left)} left"

    def _begin(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        with self._lock:
            self._bar = Bar(
                SpinnerColumn(),
                TextColumn(escape(self._name)),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[rate]}"),
                console=self._console,
                transient=True,
            )
            last = self.last
            done, total = (last.done, last.total) if last else (0, None)
            self._task = self._bar.add_task("", completed=done, total=total, rate=self._rate())
            self._bar.start()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _console() -> Console:
    """A pipe or a file has no width of its own."""
    return Console() if sys.stdout.isatty() else Console(width=140)


# --- the table -------------------------------------------------------------------------------------------------


def show(result: SIAResult, written: list[str]) -> None:
    """The headline numbers with their intervals, then what it cost and where it is."""
    from fastsia.report import format_count  # brings matplotlib, which is slow to import
    from fastsia.sia import outcome_baseline

    summary, console = result.summary, _console()
    ci, rho = summary["ci"], summary["rho"]
    names = [str(summary[key]) for key in ("model", "task") if summary.get(key)]
    title = f"{' · '.join(names) or 'table of rollouts'}: {format_count(summary['num_problems'], 'problem')}"
    _say(title)  # not the table's own title, which would wrap at its width
    table = Table()
    for name, justify in (("", "left"), ("value", "right"), ("95 % interval", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]

    def row(name: str, value: float | None, bounds: list[float] | None, percent: bool = False) -> None:
        spell = (lambda x: f"{100 * x:.1f} %") if percent else (lambda x: f"{x:.3f}")
        shown = "undefined" if value is None else spell(value)
        table.add_row(name, shown, "" if bounds is None else f"{spell(bounds[0])} to {spell(bounds[1])}")

    row("accuracy", summary["accuracy"], ci["accuracy"], percent=True)
    row("null rate (rollouts without an answer)", summary["null_rate"], ci["null_rate"], percent=True)
    if summary.get("cut_rate") is not None:
        row("cut rollouts (ended by the token limit)", summary["cut_rate"], None, percent=True)
    for name, key in (
        ("ρ Pearson (the paper's)", "pearson"),
        ("ρ Spearman", "spearman"),
        ("ρ cross-fitted", "cross_fitted"),
        ("ρ cross-fitted, corrected", "cross_fitted_corrected"),
    ):
        row(name, rho[key], ci["rho"][key])
        if key == "pearson":
            row("2·accuracy − 1 where ρ is defined", outcome_baseline(result.trajectories), None)
    row("ρ undefined (share of trajectories)", rho["undefined_fraction"], ci["rho"]["undefined_fraction"], percent=True)
    middle = len(summary["auc"]) // 2
    for name, at in (("AUC of -H half way", middle), ("AUC of -H at the end", -1)):
        if summary["auc"]:
            row(name, summary["auc"][at]["auc"], ci["auc"][at])
    row("H at the start, nats", summary["entropy_first"], ci["entropy_first"])
    row("H at the end, nats", summary["entropy_final"], ci["entropy_final"])
    console.print(table)
    _print_readings(summary)
    _say(*_cost(summary), *(f"Note: {warning}" for warning in summary["warnings"]), *written)


def _print_readings(summary: Mapping[str, Any]) -> None:
    """Both readings side by side, where they differ."""
    from fastsia.report import show_readings

    shown = show_readings(summary)
    if shown is not None:
        _print(shown)


def _say(*lines: str) -> None:
    console = _console()
    for text in lines:
        console.print(one_line(text), markup=False, highlight=False, soft_wrap=True)


def _print(shown: ShownTable, *below: str) -> None:
    """A table, an interval under its value, then what it says."""
    cells = [[plain(escape(cell.replace(" [", "\n["))) for cell in row] for row in shown.rows]
    lines = any("\n" in cell for row in cells for cell in row)
    table = Table(show_lines=lines)
    for name in shown.columns:
        table.add_column(plain(escape(name)))
    for row in cells:
        table.add_row(*row)
    _say(shown.title)
    _console().print(table)
    _say(*filter(None, (shown.caption, *below)))


def _cost(summary: dict[str, Any]) -> list[str]:
    if summary.get("generated_tokens") is None:
        return []
    line = f"{summary['generated_tokens']:,} rollout tokens"
    if summary.get("row_steps"):
        line += f" from {summary['row_steps']:,} transformer rows ({summary['merge_factor']:.1f} tokens a row)"
    if summary.get("seconds") is not None:
        line += f", {summary['seconds']:.1f} s"
    return [line + "."]


# --- the other commands ----------------------------------------------------------------------------------------


@app.command()
def ls() -> None:
    """The named tasks and models."""
    from fastsia.models.registry import MODELS
    from fastsia.models.resolve import demo_models
    from fastsia.tasks import TASKS

    console = _console()
    title = "Tasks, or a file (question, answer), or hub:OWNER/NAME[:CONFIG[:SPLIT]]"
    tasks = Table(title=escape(title), title_justify="left")
    for name in ("task", ""):
        tasks.add_column(name)
    for name, line in TASKS.items():
        tasks.add_row(name, line)
    console.print(tasks)
    models = Table(title="Models, or any decoder of transformers (Hub id or folder)", title_justify="left")
    for name in ("model", "architecture", "stage", "asked by", ""):
        models.add_column(name)
    shipped = demo_models()
    for info in MODELS:
        if info.is_demo and info.hub_id not in shipped:
            continue
        note = "in the package, no download" if info.is_demo else "gated on the Hub" if info.gated else ""
        asked = "chat template" if info.chat_template else "plain text"
        models.add_row(info.hub_id, info.model_type, info.stage, asked, note)
    console.print(models)


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="A results folder, finished or not.")],
    output_path: Annotated[
        Path | None, typer.Option("--output_path", "-o", help="Folder or .html file [default: the folder itself].")
    ] = None,
    answer_reading: Annotated[
        str | None, typer.Option("--answer_reading", help=f"{_THINK} [default: the run's]")
    ] = None,
    equivalence: Annotated[
        str | None, typer.Option("--equivalence", help=f"{_EQUIVALENCE} [default: the run's]")
    ] = None,
    answer_regex: Annotated[
        str | None, typer.Option("--answer_regex", help=f"{_ANSWER_REGEX} '' goes back to the rules.")
    ] = None,
) -> None:
    """Draw a run's figures and report again, from what is stored; no model. Texts that an older fastsia has read are
    read again by today's rules."""
    from fastsia.results import load
    from fastsia.store import DATABASE

    read: list[str] = []
    wanted = {"answer_reading": answer_reading, "equivalence": equivalence, "answer_regex": answer_regex}
    if (directory / DATABASE).is_file() or any(value is not None for value in wanted.values()):
        read = _read_again(directory, wanted)
    result = load(directory)
    show(result, [*read, f"Report:  {result.report(output_path or directory)}"])


def _read_again(directory: Path, wanted: Mapping[str, str | None]) -> list[str]:
    from fastsia.results import reread

    try:
        found = reread(directory, **wanted)  # type: ignore[arg-type]
    except FastsiaError as error:
        if any(value is not None for value in wanted.values()):
            raise
        return [f"Note: the stored texts were not read again: {error}"]  # a run is under way, or a folder is read-only
    return [] if found is None else [f"Read again: {found}"]


@app.command()
def export(
    directory: Annotated[Path, typer.Argument(help="A results folder, finished or not.")],
    to: Annotated[str, typer.Option("--to", help="lm_eval (results and samples files) or datasets (a folder).")],
    output_path: Annotated[Path, typer.Option("--output_path", "-o", help="Folder to write into.")],
) -> None:
    """A run as lm-evaluation-harness's files, or as a folder that `datasets` loads; no model."""
    from fastsia.exports import FORMATS
    from fastsia.results import load

    if to not in FORMATS:
        raise FastsiaError(f"--to must be one of {', '.join(FORMATS)}, got {to!r}.")
    result = load(directory)
    _say(f"Written: {(result.to_lm_eval if to == 'lm_eval' else result.to_datasets)(output_path)}")


@app.command()
def compare(
    directories: Annotated[list[Path], typer.Argument(help="Results folders, finished or not.", metavar="DIR DIR...")],
    output_path: Annotated[
        Path | None, typer.Option("--output_path", "-o", help="Folder or .html file for the comparison.")
    ] = None,
) -> None:
    """Several runs in one table, with the differences in rho on the problems that they share; no model."""
    from dataclasses import replace

    from fastsia.comparison import compare as side_by_side
    from fastsia.report import show_table

    found = side_by_side(directories)
    shown = ["run", "num_problems", *_bounded("accuracy"), *_bounded("null_rate"), *_bounded("rho_pearson")]
    shown += [*_bounded("rho_cross_fitted"), "undefined_fraction", *_bounded("auc_50"), *_bounded("entropy_final")]
    _print(show_table("runs", found.table[shown], digits=2))
    if found.token_level is not None:
        levels = ["run", *_bounded("token_entropy"), *_bounded("answer_entropy_mean"), *_bounded("forking_share_fixed")]
        rows = found.token_level[found.token_level["group"] == "all"]
        _print(replace(show_table("token_level", rows[levels]), caption=""))  # it explains more columns than these
    quantities = ["rho_pearson", "rho_cross_fitted", "token_entropy", "entropy_mean"]
    rows = found.differences[found.differences["quantity"].isin(quantities)]
    first = next(iter(found.runs))
    all_pairs = len(found.runs) <= _MOST_RUNS_IN_PAIRS
    _print(show_table("differences", rows if all_pairs else rows[rows["minus"] == first]))
    lines = [f"Note: {note}" for note in found.notes]
    if not all_pairs:
        lines.append(f"Note: only differences from {first} are shown; -o DIR writes those of every pair.")
    _say(*lines, *([] if output_path is None else [f"Comparison: {found.save(output_path)}"]))


# More make more pairs than anyone reads on a terminal.
_MOST_RUNS_IN_PAIRS = 4


def _bounded(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"]


@app.command()
def reproduce(
    target: Annotated[str, typer.Argument(help="table1, table2, table3 or fig1 to fig5.", metavar="WHAT")],
    models: Annotated[str | None, typer.Option("--models", help="Separated by commas [default: the paper's].")] = None,
    tasks: Annotated[str | None, typer.Option("--tasks", help="Separated by commas [default: the paper's].")] = None,
    stage: Annotated[
        str | None,
        typer.Option("--stage", help="Training stages of your own models: MODEL=Base,MODEL=SFT or SFT+RL."),
    ] = None,
    output_path: Annotated[
        Path, typer.Option("--output_path", "-o", help="Folder of all its runs, which are resumed.")
    ] = Path("runs/reproduce"),
    data_dir: DataDir = None,
    limit: Limit = None,
    num_rollouts: NumRollouts = DEFAULTS.num_rollouts,
    stride: Stride = None,
    seed: Seed = DEFAULTS.seed,
    temperature: Temperature = DEFAULTS.temperature,
    top_p: TopP = DEFAULTS.top_p,
    max_tokens: MaxTokens = DEFAULTS.max_tokens,
    answer_reading: AnswerReading = DEFAULTS.answer_reading,
    num_bootstrap: NumBootstrap = DEFAULTS.num_bootstrap,
    num_splits: NumSplits = DEFAULTS.num_splits,
    device: Device = None,
    dtype: Dtype = None,
    max_num_seqs: MaxNumSeqs = None,
) -> None:
    """A table or figure of the paper: runs or resumes what is missing, and shows ours beside the published values."""
    config = SIAConfig(
        num_rollouts=num_rollouts,
        stride=stride,
        seed=seed,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        answer_reading=answer_reading,  # type: ignore[arg-type]
        num_bootstrap=num_bootstrap,
        num_splits=num_splits,
    )
    _quiet_transformers()
    from fastsia import reproduce as paper
    from fastsia.report import show_table

    planned = paper.plan(
        target,
        models=None if models is None else _split(models, "--models names no model."),
        tasks=None if tasks is None else _split(tasks, "--tasks names no task."),
        output=output_path,
        limit=limit,
        data_dir=data_dir,
        config=config,
        stages=None if stage is None else _pairs("--stage", stage),
        device=device,
        dtype=dtype,
        max_num_seqs=max_num_seqs,
    )
    if planned.missing:
        _print(*_missing(planned))
    if not planned.ready:
        raise FastsiaError(f"no weights are at hand for any model of {target}; nothing was run.")
    under_way: list[tuple[_Shown, Path]] = []

    def watch(job: paper.Job) -> _Shown:
        shown = _Shown(f"{job.model} · {job.task}{' · shuffled' if job.config.shuffle_prefix else ''}")
        under_way.append((shown, job.folder))
        return shown

    try:
        found = paper.reproduce(planned, watch=watch)
    except (KeyboardInterrupt, _Terminated):
        if under_way:
            _say_interrupted(*under_way[-1])
        raise
    _print(show_table(target, found.table))
    lines = [*(f"Note: {note}" for note in planned.notes), f"Problems drawn now: {found.num_computed:,}."]
    lines += [f"Failed: {model}: {reason}" for model, reason in found.failed.items()]
    lines += [f"Written: {file}" for file in found.files]
    _say(*lines, f"Runs and their reports: {output_path}")


def _missing(planned: Plan) -> tuple[ShownTable, str]:
    """The models whose weights are not at hand, and what their runs would cost."""
    from fastsia.report import ShownTable
    from fastsia.reproduce import download_gigabytes

    rows = []
    for model, reason in planned.missing.items():
        jobs = [job for job in planned.jobs if job.model == model and not job.finished]
        size = download_gigabytes(model)
        rows.append(
            [
                model,
                f"{sum(job.num_problems for job in jobs):,}",
                f"{sum(job.num_rollouts for job in jobs):,}",
                f"{sum(job.max_generated_tokens for job in jobs) / 1e6:,.1f} M",
                "?" if size is None else f"{size:.1f} GB",
                reason,
            ]
        )
    first = planned.jobs[0]
    rule = (
        f"At most: {first.num_problems:,} problems x {first.num_checkpoints} checkpoints x {first.config.num_rollouts} "
        f"rollouts ({first.task}), everything drawn to its limit of {first.config.max_tokens} tokens. That is an upper "
        "bound from the settings, not a forecast: trajectories and rollouts mostly end earlier, and rollouts on the "
        "same path are computed once."
    )
    columns = ["model", "problems", "rollouts", "tokens", "weights", "why"]
    title = "Weights that are not at hand, and what their runs would cost"
    return ShownTable(title, "", columns, rows), rule


@app.command()
def plan(
    model: Annotated[str, typer.Option("--model", help='Hub id, folder, .gguf file, or "demo:sft".')],
    tasks: Annotated[str, typer.Option("--tasks", help="A name, a file or hub:OWNER/NAME[:CONFIG[:SPLIT]].")],
    output_path: Annotated[
        Path | None,
        typer.Option("--output_path", "-o", help="The run's folder to be; `run` says how far it was off."),
    ] = None,
    data_dir: DataDir = None,
    columns: Columns = None,
    answer_base: AnswerBase = None,
    limit: Limit = None,
    num_rollouts: NumRollouts = DEFAULTS.num_rollouts,
    stride: Stride = None,
    seed: Seed = DEFAULTS.seed,
    temperature: Temperature = DEFAULTS.temperature,
    top_p: TopP = DEFAULTS.top_p,
    max_tokens: MaxTokens = DEFAULTS.max_tokens,
    num_trajectories: Annotated[int, typer.Option("--num_trajectories")] = DEFAULTS.num_trajectories,
    device: Device = None,
    dtype: Dtype = None,
    max_num_seqs: MaxNumSeqs = None,
    peft: Peft = None,
) -> None:
    """What a run will cost: tokens, seconds and memory, forecast from a few of its problems."""
    _quiet_transformers()
    from fastsia.planning import plan as forecast
    from fastsia.report import ShownTable

    names = _split(tasks, "--tasks names no task.")
    if len(names) > 1:
        raise FastsiaError(f"plan forecasts one task at a time, got {', '.join(names)}.")
    found = forecast(
        model,
        names[0],
        limit=limit,
        data_dir=data_dir,
        columns=_columns(columns),
        answer_base=answer_base,
        num_rollouts=num_rollouts,
        stride=stride,
        seed=seed,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        num_trajectories=num_trajectories,
        device=device,
        dtype=dtype,
        max_num_seqs=max_num_seqs,
        peft=peft,
    )
    rows = [
        ["problems", f"{found.num_problems:,}"],
        ["checkpoints", f"{found.num_checkpoints:,}"],
        ["tokens of trajectories", f"{found.trajectory_tokens:,}"],
        ["tokens of rollouts", f"{found.generated_tokens:,}"],
        ["transformer rows for them", f"{found.computed_tokens:,}"],
        ["time on this machine", _duration(found.seconds)],
        ["weights", f"{found.weight_bytes / 2**20:,.0f} MiB"],
        ["KV blocks in use", f"{found.kv_bytes / 2**20:,.0f} MiB"],
    ]
    _print(
        ShownTable(f"{model} · {names[0]}: forecast", "", ["", "about"], rows),
        f"From {found.pilot_problems} problems evaluated whole, in {found.pilot_seconds:.1f} s. "
        "The report's figures are not in the time.",
        *([] if output_path is None else [f"Plan: {found.save(output_path)}"]),
    )


@app.command()
def loglikelihood(
    directory: Annotated[Path, typer.Argument(help="A results folder, finished or not.")],
    scorer: Annotated[
        str | None, typer.Option("--scorer", help="The model that is asked [default: the one that wrote the run].")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="[default: CUDA where there is one]")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="[default: float32 on a CPU, bfloat16 on a GPU]")] = None,
    max_num_seqs: Annotated[int | None, typer.Option("--max_num_seqs", "--batch_size", "-b")] = None,
    peft: Peft = None,
) -> None:
    """What a model would answer at once at every checkpoint of a stored run: forced answers, without rollouts."""
    _quiet_transformers()
    from fastsia.forced import force_answers
    from fastsia.report import show_table
    from fastsia.results import load

    started = last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"{done}/{total} trajectories", file=sys.stderr, flush=True)

    forced = force_answers(
        directory, scorer, progress=tell, device=device, dtype=dtype, max_num_seqs=max_num_seqs, peft=peft
    )
    result = load(directory)
    result.save(directory)
    report = result.report(directory)
    _print(show_table("forced_answers", result.tables["forced_answers"]))
    _say(
        f"{len(forced):,} checkpoints, {forced['num_tokens'].mean():.1f} transformer rows each behind its prefix, "
        f"{time.monotonic() - started:.1f} s.",
        f"Report:  {report}",
    )


@app.command()
def analyze(
    table: Annotated[Path, typer.Argument(help="Rollouts as .parquet, .csv or .jsonl, one row each.")],
    output_path: Annotated[
        Path | None, typer.Option("--output_path", "-o", help="Folder for tables, figures and the report.")
    ] = None,
    smoothing: Smoothing = DEFAULTS.smoothing,
    num_bootstrap: NumBootstrap = DEFAULTS.num_bootstrap,
    num_splits: NumSplits = DEFAULTS.num_splits,
    seed: Annotated[int, typer.Option("--seed", help="Of bootstrap and splits.")] = DEFAULTS.seed,
    answer_reading: Annotated[
        str | None,
        typer.Option(
            "--answer_reading",
            help='Rollouts of finish_reason "length" have no answer (strict), or theirs (lenient). '
            "[default: as in the table's column answer; else strict]",
        ),
    ] = None,
) -> None:
    """Score any table of rollouts: problem_id, trajectory, checkpoint, rollout, answer, gold."""
    from fastsia.results import analyze as score

    config = {"smoothing": smoothing, "num_bootstrap": num_bootstrap, "num_splits": num_splits, "seed": seed}
    result = score(table, config=config if answer_reading is None else config | {"answer_reading": answer_reading})
    written = []
    if output_path is not None:
        written = [f"Results: {result.save(output_path)}", f"Report:  {result.report(output_path)}"]
    show(result, written)


@app.command()
def doctor() -> None:
    """What is installed, which device and kernels will be used, and what is missing."""
    import warnings

    lines: list[tuple[str, str]] = [
        ("fastsia", __version__),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
    ]
    missing: list[str] = []
    for name in ("torch", "transformers", "triton", "safetensors", "numpy", "scipy", "pandas", "pyarrow", "matplotlib"):
        try:
            lines.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            lines.append((name, "not installed"))
            if name != "triton" or platform.system() == "Linux":
                missing.append(f"{name}: pip install {name}")
    import torch

    from fastsia.core import extension
    from fastsia.models.loading import resolve_device
    from fastsia.models.resolve import demo_models
    from fastsia.ops import select

    device = resolve_device()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        lines.append(("device", f"cuda: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
    else:
        lines.append(("device", f"cpu, {torch.get_num_threads()} threads"))
    lines.append(("kernels", select(device).name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        core = extension()
    lines.append(("C++ core", "built" if core is not None else "not built; the slower Python reference is used"))
    if core is None:
        missing.append("C++ core: reinstall fastsia with a C++17 compiler")
    demos = demo_models()
    lines.append(("demo models", ", ".join(demos) or "none"))
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    lines.append(("chromium", browser or "not found; only the report's own tests use it"))
    for extra, module, without, gives in (
        ("datasets", "datasets", "tasks need --data_dir", "tasks from the Hub"),
        ("vllm", "vllm", "no --backend vllm", None),
        ("ray", "ray", "no --executor ray", None),
        ("peft", "peft", "no --peft", None),
        ("gguf", "gguf", "no .gguf files", None),
    ):
        found = importlib.util.find_spec(module) is not None
        lines.append((extra, "installed" if found else f"not installed; {without}"))
        if not found and gives:
            missing.append(f"{extra}: pip install 'fastsia[{extra}]' ({gives})")
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")
    print("Missing: " + ("; ".join(missing) if missing else "nothing") + ".")
