"""The other commands of the command line."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from fastsia.cli.options import NATIVE, OUTPUT, names_in, option, pairs_in, takes
from fastsia.cli.render import Shown, console, counting_bar, print_comparison, print_table, say
from fastsia.cli.render import show as print_result
from fastsia.cli.run import Model, quiet_transformers, watched
from fastsia.config import READING_FIELDS, DataOptions, SIAConfig
from fastsia.errors import FastsiaError

if TYPE_CHECKING:
    import pandas as pd

    from fastsia.report import ShownTable
    from fastsia.reproduce import Job, ReproductionPlan

Folder = Annotated[Path, typer.Argument(help="A results folder, finished or not.")]


def ls() -> None:
    """List the named tasks and models."""
    from fastsia.models.registry import MODELS
    from fastsia.models.resolve import demo_models
    from fastsia.tasks import TASKS

    _list(
        "Tasks, or a file (question, answer), or hub:OWNER/NAME[:CONFIG[:SPLIT]]",
        ("task", ""),
        TASKS.items(),
    )
    shipped = demo_models()
    rows = [
        (
            model.hub_id,
            model.model_type,
            model.stage,
            "chat" if model.chat_template else "plain",
            "in the package" if model.is_demo else "gated on the Hub" if model.gated else "",
        )
        for model in MODELS
        if not model.is_demo or model.hub_id in shipped
    ]
    title = "Models, or any decoder of transformers (Hub id or folder)"
    _list(title, ("model", "architecture", "stage", "prompt", ""), rows)


def _list(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    say(title)
    table = Table()
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(table)


@takes("table")
def show(directory: Folder, **printed: str) -> None:
    """Print a run's numbers again; no model needed."""
    from fastsia.results import load

    print_result(load(directory), [], printed.get("table", "text"))


@takes(*READING_FIELDS, unset="as in the run")
def report(
    directory: Folder,
    output_path: Annotated[
        Path | None, option("Folder or .html file. [default: the folder itself]", "--output_path", "-o", group=OUTPUT)
    ] = None,
    **wanted: Any,
) -> None:
    """Redraw a run's figures and report; no model needed.

    If an older version or other options read the answers, they are read again from the stored texts. --answer_regex ''
    returns to the built-in rules.
    """
    from fastsia.results import load
    from fastsia.results.schema import DATABASE

    read = _read_again(directory, wanted) if wanted or (directory / DATABASE).is_file() else []
    result = load(directory)
    print_result(result, [*read, f"Report:  {result.report(output_path or directory)}"])


def _read_again(directory: Path, wanted: Mapping[str, Any]) -> list[str]:
    from fastsia.results import reread

    try:
        found = reread(directory, **wanted)
    except FastsiaError as error:
        if wanted:
            raise
        return [f"Note: the stored texts were not read again: {error}"]  # a run is under way, or a folder is read-only
    return [] if found is None else [f"Read again: {found}"]


def view(
    directory: Folder,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port on 127.0.0.1; 0 picks a free one.")
    ] = 8642,
) -> None:
    """Serve a run's report on this machine.

    The page reads a trajectory when you open it, so it also serves runs that are too large for one file.

    Nothing is written. Reload the page to see problems that have finished since. Ctrl-C stops the server.
    """
    from fastsia.viewing import Server

    with Server(directory, port) as server, suppress(KeyboardInterrupt):
        say(f"{directory}: {server.url}  (Ctrl-C ends)")
        server.serve_forever()


def export(
    directory: Folder,
    to: Annotated[str, option("lm_eval (results and samples files) or datasets (a folder).", "--to", group=OUTPUT)],
    output_path: Annotated[Path, option("Folder to write into.", "--output_path", "-o", group=OUTPUT)],
) -> None:
    """Export a run for lm-eval or `datasets`; no model needed."""
    from fastsia.results import load
    from fastsia.results.exports import FORMATS

    if to not in FORMATS:
        raise FastsiaError(f"--to must be one of {', '.join(FORMATS)}, got {to!r}.")
    result = load(directory)
    say(f"Written: {(result.to_lm_eval if to == 'lm_eval' else result.to_datasets)(output_path)}")


@takes("table")
def compare(
    directories: Annotated[list[Path], typer.Argument(help="Results folders, finished or not.", metavar="DIR DIR...")],
    output_path: Annotated[
        Path | None, option("Folder or .html file of the comparison.", "--output_path", "-o", group=OUTPUT)
    ] = None,
    **printed: str,
) -> None:
    """Compare runs in one table.

    Also prints their differences, with intervals, on the problems that they share; no model needed.
    """
    from fastsia.comparison import compare as side_by_side

    found = side_by_side(directories)
    saved = [] if output_path is None else [f"Comparison: {found.save(output_path)}"]
    print_comparison(found, saved, printed.get("table", "text"))


@takes(SIAConfig, "limit", "data_dir", *NATIVE, but=("shuffle_prefix",))
def reproduce(
    target: Annotated[str, typer.Argument(help="table1, table2, table3 or fig1 to fig5.", metavar="WHAT")],
    models: Annotated[str | None, option("Separated by commas. [default: the paper's]", "--models")] = None,
    tasks: Annotated[str | None, option("Separated by commas. [default: the paper's]", "--tasks")] = None,
    stage: Annotated[
        str | None, option("Training stages of your own models: MODEL=Base,MODEL=SFT or SFT+RL.", "--stage")
    ] = None,
    output_path: Annotated[
        Path, option("Folder of all its runs, which are resumed. [default: runs/reproduce]", "--output_path", "-o")
    ] = Path("runs/reproduce"),
    **given: Any,
) -> None:
    """Reproduce a table or figure of the paper.

    The command runs or resumes the evaluations that are missing and prints the results next to the published values.
    """
    quiet_transformers()
    from fastsia import reproduce as paper
    from fastsia.report import show_table

    planned = paper.plan(
        target,
        models=None if models is None else names_in("--models", models),
        tasks=None if tasks is None else names_in("--tasks", tasks),
        stages=None if stage is None else pairs_in("--stage", stage),
        output=output_path,
        **given,
    )
    if planned.missing:
        print_table(*_missing(planned))
    if not planned.ready:
        raise FastsiaError(f"no weights are available for any model of {target}; nothing was run.")

    def watch(job: Job) -> AbstractContextManager[Shown]:
        return watched(f"{job.model} · {job.task}{' · shuffled' if job.config.shuffle_prefix else ''}", job.folder)

    found = paper.reproduce(planned, watch=watch)
    print_table(show_table(target, found.table))
    lines = [*(f"Note: {note}" for note in planned.notes), f"Problems drawn now: {found.num_computed:,}."]
    lines += [f"Failed: {model}: {reason}" for model, reason in found.failed.items()]
    lines += [f"Written: {file}" for file in found.files]
    say(*lines, f"Runs and their reports: {output_path}")


def _missing(planned: ReproductionPlan) -> tuple[ShownTable, str]:
    """Models whose weights are not available, and an upper bound of the cost of their runs."""
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
        f"rollouts ({first.task}), everything drawn to its limit of {first.config.max_tokens} tokens. This is an upper "
        "bound from the settings, not a forecast: trajectories and rollouts mostly end earlier, and rollouts on the "
        "same tokens are computed once."
    )
    columns = ["model", "problems", "rollouts", "tokens", "weights", "why"]
    return ShownTable("Models without weights, and the cost of their runs", "", columns, rows), rule


@takes(SIAConfig, DataOptions, *NATIVE)
def plan(
    model: Model,
    tasks: Annotated[str, option("A name, a file or hub:OWNER/NAME[:CONFIG[:SPLIT]].", "--tasks")],
    output_path: Annotated[
        Path | None,
        option(
            "Folder that the run will use. The forecast is stored there, and `run` compares it with the actual cost.",
            "--output_path",
            "-o",
        ),
    ] = None,
    **given: Any,
) -> None:
    """Forecast a run's tokens, seconds and memory.

    The command evaluates a few of its problems and extrapolates.
    """
    quiet_transformers()
    from tqdm import tqdm

    from fastsia.planning import forecast
    from fastsia.report import ShownTable

    names = names_in("--tasks", tasks)
    if len(names) > 1:
        raise FastsiaError(f"plan forecasts one task at a time, got {', '.join(names)}.")
    found = forecast(model, names[0], **given)
    rows = [
        ["problems", f"{found.num_problems:,}"],
        ["checkpoints", f"{found.num_checkpoints:,}"],
        ["tokens of trajectories", f"{found.trajectory_tokens:,}"],
        ["tokens of rollouts", f"{found.generated_tokens:,}"],
        ["tokens computed for rollouts", f"{found.computed_tokens:,}"],
        ["time on this machine", tqdm.format_interval(found.seconds)],
        ["weights", f"{found.weight_bytes / 2**20:,.0f} MiB"],
        ["KV blocks in use", f"{found.kv_bytes / 2**20:,.0f} MiB"],
    ]
    print_table(
        ShownTable(f"{model} · {names[0]}: forecast", "", ["", "about"], rows),
        f"From {found.pilot_problems} problems evaluated completely, in {found.pilot_seconds:.1f} s. "
        "The time does not include the figures of the report.",
        *([] if output_path is None else [f"Forecast: {found.save(output_path)}"]),
    )


@takes(*NATIVE)
def loglikelihood(
    directory: Folder,
    scorer: Annotated[
        str | None, option("Model that scores the answers. [default: the one that wrote the run]", "--scorer")
    ] = None,
    **given: Any,
) -> None:
    """Score each answer by teacher forcing.

    The model computes each answer's log-likelihood at every checkpoint of a stored run, without rollouts.
    """
    quiet_transformers()
    from fastsia.loglikelihood import score_answers
    from fastsia.report import show_table
    from fastsia.results import load

    started = time.monotonic()
    with counting_bar("loglikelihood", "trajectories") as show_progress:
        scored = score_answers(directory, scorer, progress=show_progress, **given)
    seconds = time.monotonic() - started
    result = load(directory)
    result.save(directory)
    written = result.report(directory)
    print_table(show_table("forced_answers", result.tables["forced_answers"]))
    say(
        f"{len(scored):,} checkpoints, {scored['num_tokens'].mean():.1f} tokens computed after the prefix of each, "
        f"{seconds:.1f} s.",
        f"Report:  {written}",
    )


@takes(*NATIVE, unset="as in the run")
def forks(
    directory: Folder,
    problem: Annotated[str | None, option("Only tokens of this problem.", "--problem")] = None,
    most: Annotated[int, typer.Option("--most", min=1, help="Print at most this many alternatives or positions.")] = 10,
    fork_top: Annotated[
        int | None,
        typer.Option(
            "--fork_top",
            min=1,
            max=15,
            metavar="K",
            help="Draw rollouts after the K most probable alternatives at forking tokens, with the run's model.",
        ),
    ] = None,
    fork_positions: Annotated[
        int, typer.Option("--fork_positions", min=1, help="With --fork_top: at most this many tokens per trajectory.")
    ] = 3,
    num_rollouts: Annotated[
        int | None,
        option(
            "With --fork_top: rollouts after each token. [default: the run's num_rollouts]",
            "--num_rollouts",
            group="Sampling",
        ),
    ] = None,
    **given: Any,
) -> None:
    """Find single tokens that changed the answers.

    Without --fork_top it compares the run's own rollouts that wrote another token. With it, the run's model draws new
    rollouts after each likely token; they are stored beside the run and change none of its numbers.
    """
    from fastsia.results import load

    if num_rollouts is not None:
        given["num_rollouts"] = num_rollouts
    if fork_top is None and given:
        raise FastsiaError(f"--{next(iter(given))} applies with --fork_top only.")
    if fork_top is not None:
        _draw_alternatives(directory, fork_top, problem_id=problem, positions=fork_positions, **given)
    result = load(directory)
    if fork_top is None:
        _print_forks(result.forks(problem), most)
    if "alternatives" in result.tables:
        _print_alternatives(result.tables["alternatives"], problem, most)
    elif fork_top is not None:
        say("No token is uncertain enough to fork.")


def _draw_alternatives(directory: Path, fork_top: int, **given: Any) -> None:
    quiet_transformers()
    from fastsia.forking import draw_alternatives

    with counting_bar("alternatives", "rollouts") as show_progress:
        draw_alternatives(directory, fork_top, progress=show_progress, **given)


def _print_forks(found: pd.DataFrame, most: int) -> None:
    from fastsia.results.forks import FEWEST, describe_fork
    from fastsia.sia.extras.steps import LEVEL

    for fork in found.head(most).to_dict("records"):
        say(*describe_fork(fork), "")
    certain = int((found["q_value"] <= LEVEL).sum())
    say(
        f"{len(found):,} alternatives were written by at least {FEWEST} rollouts; {certain:,} lead to other answers "
        f"(q at most {LEVEL}; rows share rollouts, so this is a guide)."
    )


def _print_alternatives(table: pd.DataFrame, problem: str | None, most: int) -> None:
    from fastsia.results.alternatives import describe_alternatives
    from fastsia.sia.extras.steps import LEVEL

    shown = table if problem is None else table[table["problem_id"] == problem]
    for lines in islice(describe_alternatives(shown), most):
        say(*lines, "")
    others = table[~table["is_own"].astype(bool)]
    certain = int((others["q_value"] <= LEVEL).sum())
    say(
        f"Drawn after {len(others):,} alternatives and the {len(table) - len(others):,} tokens in whose place they "
        f"stand: {int(table['num_rollouts'].sum()):,} rollouts, which count in no other number. {certain:,} "
        f"alternatives lead to other answers than the trajectory's own token (q at most {LEVEL})."
    )


def steps(
    directory: Folder,
    problem: Annotated[str | None, option("Only steps of this problem.", "--problem")] = None,
    most: Annotated[int, typer.Option("--most", min=1, help="Print at most this many steps.")] = 10,
) -> None:
    """Show the steps that changed the answers most.

    Each step is printed with its text and with a text that a rollout wrote instead.
    """
    from fastsia.results import load
    from fastsia.results.steps import describe_step

    result = load(directory)
    found = result.steps(problem, most)
    for step in found.to_dict("records"):
        say(*describe_step(step), "")
    facts = result.summary["steps"]
    say(
        f"{facts['decisive']:,} of {facts['number']:,} steps of the run are decisive (q at most {facts['level']}): of "
        "such steps at most about one in twenty is a false alarm. Importance is how many answers differ between "
        "rollouts with the step and those that share less than half of its words."
    )


@takes("smoothing", "num_bootstrap", "num_splits", "seed", "answer_reading")
def analyze(
    table: Annotated[Path, typer.Argument(help="Rollouts as .parquet, .csv or .jsonl, one record each.")],
    output_path: Annotated[
        Path | None, option("Folder for tables, figures and the report.", "--output_path", "-o", group=OUTPUT)
    ] = None,
    **config: Any,
) -> None:
    """Score any table of rollouts; no model needed.

    The table needs the columns problem_id, trajectory, checkpoint, rollout, answer, gold.

    Without --answer_reading the column `answer` is scored as it is.
    """
    from fastsia.results import analyze as score

    result = score(table, config=config)
    written = []
    if output_path is not None:
        written = [f"Results: {result.save(output_path)}", f"Report:  {result.report(output_path)}"]
    print_result(result, written)
