"""Reproduce the paper's tables and figures: run or resume what they need, and set ours beside the published values."""

from __future__ import annotations

import dataclasses
import gc
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from fastsia.backends import open_backend
from fastsia.backends.base import Backend
from fastsia.callbacks import Callback
from fastsia.config import SIAConfig, split_settings
from fastsia.errors import FastsiaError
from fastsia.evaluation import evaluate
from fastsia.files import refuse_links, write_parquet
from fastsia.models.registry import ALIGNED, PAPER_MODELS, STAGES, known_model
from fastsia.models.resolve import ModelRef, resolve_model, why_absent
from fastsia.report import Drawing, Overlay, ReportData, draw_families, draw_outcomes, draw_overlay
from fastsia.results import SHUFFLED, SIAResult, folder_name, load, reread
from fastsia.results.reader import Store
from fastsia.results.schema import DATABASE
from fastsia.results.writer import check_same_run
from fastsia.sia import Estimate, table1, table2, table3
from fastsia.sia.paper import TABLE2, TABLE3
from fastsia.tasks import Task, load_task
from fastsia.tasks.task import DEFAULT_STRIDE, check_limit

UNKNOWN_STAGE = "unknown"
"""Stage of a model that is not in the table of models and whose stage is not stated."""

_ALIGNED, _BASE = (*ALIGNED, UNKNOWN_STAGE), ("Base", UNKNOWN_STAGE)
SHOWS: Mapping[str, tuple[str, ...]] = {"fig1": _ALIGNED, "fig2": _ALIGNED, "fig4": _BASE, "fig5": _BASE}
"""Training stages that a figure shows, for figures that do not show all: Figures 1 and 2 are of aligned models,
Figures 4 and 5 the same plots of non-aligned ones. A model of unknown stage is shown wherever it is asked for."""

_COUNTERPART = {"fig1": "fig4", "fig2": "fig5", "fig4": "fig1", "fig5": "fig2"}


def _default_models(target: str) -> tuple[str, ...]:
    return tuple(model.name for model in PAPER_MODELS if model.stage in SHOWS.get(target, STAGES))


_DATASETS = ("gsm8k", "svamp", "arc_challenge")

TARGETS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "table1": (_default_models("table1"), _DATASETS),
    "table2": (tuple(TABLE2), ("gsm8k",)),
    "table3": (tuple(TABLE3), ("gsm8k",)),
    **{figure: (_default_models(figure), _DATASETS) for figure in ("fig1", "fig2", "fig3", "fig4", "fig5")},
}
"""Reproducible tables and figures, with their default models and tasks, which are the paper's. The paper does not say
which subset of ARC it uses."""

_PUBLISHED_SIZES = {"gsm8k": 1319, "svamp": 300, "svamp_full": 1000, "arc_challenge": 1172, "arc_easy": 2376}
"""Number of problems of the tasks that may have to be downloaded first."""


@dataclass(frozen=True)
class Job:
    """One run that a table or figure needs.

    Attributes:
        model: the paper's name of the model where it has one.
        ref: the resolved model.
        task: name of the task.
        config: settings of the run.
        folder: results folder of the run.
        num_problems: problems of the run.
        num_checkpoints: the most checkpoints that a trajectory can have.
        finished: whether the folder contains all problems.
    """

    model: str
    ref: ModelRef
    task: str
    config: SIAConfig
    folder: Path
    num_problems: int
    num_checkpoints: int
    finished: bool

    @property
    def num_rollouts(self) -> int:
        """Upper bound over all problems."""
        return self.num_problems * self.config.num_trajectories * self.num_checkpoints * self.config.num_rollouts

    @property
    def max_generated_tokens(self) -> int:
        """Tokens if every trajectory and rollout reached its length limit: an upper bound, not an estimate."""
        trajectories = self.num_problems * self.config.num_trajectories
        return (trajectories + self.num_rollouts) * self.config.max_tokens


@dataclass(frozen=True)
class ReproductionPlan:
    """The runs that a table or figure needs.

    Attributes:
        target: the table or figure.
        output: folder of all runs.
        jobs: the runs.
        missing: by model, why its unfinished jobs cannot be run.
        stages: the training stage of every model, those left out included.
        left_out: models whose stage another figure shows.
        data: options of `load_task`.
        options: how the models are loaded.
    """

    target: str
    output: Path
    jobs: list[Job]
    missing: dict[str, str]
    stages: dict[str, str]
    left_out: list[str]
    data: dict[str, Any]
    options: dict[str, Any]

    @property
    def notes(self) -> list[str]:
        """A sentence on models that are left out, and one on unknown stages."""
        found = []
        if self.left_out:
            names = _with_stages(self.left_out, self.stages)
            found.append(f"{_shows(self.target)}; left out: {names}. {_COUNTERPART[self.target]} shows them.")
        unknown = [model for model, stage in self.stages.items() if stage == UNKNOWN_STAGE]
        if unknown:
            found.append(f"The training stage of {', '.join(unknown)} is unknown; state it with --stage MODEL=STAGE.")
        return found

    @property
    def ready(self) -> list[Job]:
        """Jobs that are finished or can be run."""
        return [job for job in self.jobs if job.finished or job.model not in self.missing]


@dataclass(frozen=True)
class Reproduction:
    """A reproduced table or figure.

    Attributes:
        table: ours beside the published values; null where a run is missing.
        results: the runs by (model, task).
        num_computed: problems that this call has drawn.
        failed: by model, why its runs ended early.
        files: files written below the plan's output, without the runs' own folders.
    """

    table: pd.DataFrame
    results: dict[tuple[str, str], SIAResult]
    num_computed: int
    failed: dict[str, str]
    files: list[Path]


def plan(
    target: str,
    *,
    models: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    output: str | os.PathLike[str] = "runs/reproduce",
    stages: Mapping[str, str] | None = None,
    config: SIAConfig | Mapping[str, Any] | None = None,
    **overrides: Any,
) -> ReproductionPlan:
    """Find out which runs a table or figure needs, before anything is loaded.

    Args:
        target: a key of `TARGETS`.
        models: names as in `evaluate`; None means the paper's.
        tasks: names of tasks; None means the paper's.
        output: folder of all runs.
        stages: training stages (`STAGES`) by model as `models` names it. Others have the stage of the table of models,
            or "unknown".
        config: settings of the runs.
        overrides: fields of `SIAConfig`, `limit`, `data_dir`, and options of loading a model, as in `evaluate`.

    Raises:
        FastsiaError: an unknown target, model, task or stage; no model whose stage the figure shows; models or tasks
            that would share a folder; a folder with a run of other settings.
    """
    if target not in TARGETS:
        raise FastsiaError(f"{target!r} cannot be reproduced: it must be one of {', '.join(TARGETS)}.")
    settings, options, data = split_settings(config, overrides)
    refs = {_model_name(name): resolve_model(name) for name in models or TARGETS[target][0]}
    names = list(dict.fromkeys(tasks or TARGETS[target][1]))
    stage_of = _stages(refs, stages or {})
    left_out = [model for model in refs if stage_of[model] not in SHOWS.get(target, (*STAGES, UNKNOWN_STAGE))]
    if len(left_out) == len(refs):
        got = _with_stages(left_out, stage_of)
        raise FastsiaError(f"{_shows(target)}, got {got}; {_COUNTERPART[target]} shows them.")
    refs = {model: ref for model, ref in refs.items() if model not in left_out}
    loaded = {name: _task_at_hand(name, data) for name in names}
    labels = {name: task.name if task else name for name, task in loaded.items()}
    limit = check_limit(data.get("limit"))
    root = Path(output)
    model_folders = dict(zip(refs, distinct_folders([*refs]), strict=True))
    task_folders = dict(zip(loaded, distinct_folders([*labels.values()]), strict=True))
    jobs = []
    for model, ref in refs.items():
        for name, task in loaded.items():
            stride = settings.stride or (task.stride if task else DEFAULT_STRIDE)
            folder = root / model_folders[model] / task_folders[name]
            size = len(task) if task else min(_PUBLISHED_SIZES[name], limit or _PUBLISHED_SIZES[name])
            for shuffled in (False, True) if target == "table2" else (False,):
                own = dataclasses.replace(settings, shuffle_prefix=shuffled)
                place = folder / SHUFFLED if shuffled else folder
                finished = _is_finished(place, own, size, task)
                num_checkpoints = -(-settings.max_tokens // stride) + 1
                jobs.append(Job(model, ref, name, own, place, size, num_checkpoints, finished))
    waiting = list(dict.fromkeys(job.model for job in jobs if not job.finished))
    with ThreadPoolExecutor(max_workers=16) as pool:  # each makes one call to the Hub, which may be slow
        reasons = pool.map(lambda model: why_absent(refs[model], options.get("revision")), waiting)
        missing = {model: reason for model, reason in zip(waiting, reasons, strict=True) if reason is not None}
    return ReproductionPlan(target, root, jobs, missing, stage_of, left_out, data, options)


def reproduce(
    planned: ReproductionPlan, *, watch: Callable[[Job], AbstractContextManager[Callback]] | None = None
) -> Reproduction:
    """Run what is missing and can be run, draw, and write the table and figures below the plan's output.

    A model that cannot be loaded or run is named in `failed`; the others continue.

    Args:
        planned: from `plan`.
        watch: called before each run; the context manager that it returns is entered, and its value is a callback of
            the run.

    Raises:
        FastsiaError: the data of a task cannot be loaded; the last error, where every run failed.
    """
    needed = dict.fromkeys(job.task for job in planned.ready if not job.finished or _may_have_changed(job))
    tasks = {name: load_task(name, **planned.data) for name in needed}
    done: dict[Path, int] = {}
    failed: dict[str, str] = {}
    for model, jobs in groupby(planned.ready, key=lambda job: job.model):
        try:
            for job, computed in _run_model(list(jobs), tasks, planned.options, watch):
                done[job.folder] = computed
        except FastsiaError as error:
            failed[model] = str(error)
    if failed and not done:
        raise FastsiaError(next(iter(failed.values())))
    whole = dict.fromkeys((job.model, job.task) for job in planned.jobs)
    results: dict[tuple[str, str], SIAResult | None] = dict.fromkeys(whole)
    for key in whole:
        folders = [job.folder for job in planned.jobs if (job.model, job.task) == key]
        if all(folder in done for folder in folders):
            results[key] = _read(folders[0])
    table = _tabulate(planned.target, results)
    table.insert(1, "stage", table["model"].map(planned.stages))
    found = {key: result for key, result in results.items() if result is not None}
    return Reproduction(table, found, sum(done.values()), failed, _write(planned, table, found))


# --- the plan --------------------------------------------------------------------------------------------------


def _model_name(source: str) -> str:
    known = known_model(source)
    return source if known is None else known.name


def _shows(target: str) -> str:
    kind = "aligned" if "SFT" in SHOWS[target] else "non-aligned"
    return f"{target} shows {kind} models ({', '.join(SHOWS[target][:-1])})"


def _with_stages(models: Iterable[str], stages: Mapping[str, str]) -> str:
    return ", ".join(f"{model} ({stages[model]})" for model in models)


def _stages(models: Iterable[str], stated: Mapping[str, str]) -> dict[str, str]:
    """The training stage of each model: the stated one, else that of the table of models, else unknown."""
    given = {_model_name(name): stage for name, stage in stated.items()}
    for model, stage in given.items():
        if model not in models:
            raise FastsiaError(f"a stage is stated for {model!r}, which is not among the models: {', '.join(models)}.")
        if stage not in STAGES:
            raise FastsiaError(f"the stage of {model!r} must be one of {', '.join(STAGES)}, got {stage!r}.")
    table = {model: known.stage for model in models if (known := known_model(model)) is not None}
    return dict.fromkeys(models, UNKNOWN_STAGE) | table | given


def family(model: str) -> str:
    """The family of a model in the table of models, else the last part of its name."""
    known = known_model(model)
    return model.rstrip("/").rpartition("/")[2] if known is None else known.family


def download_gigabytes(model: str) -> float | None:
    """Size of a model's weights in 16 bits; None where it is not in the table of models."""
    known = known_model(model)
    return None if known is None or known.num_parameters is None else 2 * known.num_parameters / 1e9


def _task_at_hand(name: str, data: Mapping[str, Any]) -> Task | None:
    """The task; None for one that must be downloaded, which happens only when a run needs it."""
    return None if data.get("data_dir") is None and name in _PUBLISHED_SIZES else load_task(name, **data)


def distinct_folders(names: Sequence[str]) -> list[str]:
    """A folder name for each name.

    Raises:
        FastsiaError: two names would share a folder.
    """
    folders = [folder_name(name) for name in names]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice is not None:
        both = " and ".join(repr(name) for name, folder in zip(names, folders, strict=True) if folder == twice)
        raise FastsiaError(f"{both} would share the folder {twice!r}; run them one by one.")
    return folders


def _is_finished(folder: Path, config: SIAConfig, num_problems: int, task: Task | None) -> bool:
    """Whether a folder contains all problems of a run with these settings."""
    try:
        store = Store(folder / DATABASE)
        stored = store.identity()
    except FastsiaError:  # no run yet, or a damaged one, of which resuming recovers what it can
        return False
    # None is left to the task and the model.
    known = {name: value for name, value in dataclasses.asdict(config).items() if value is not None}
    check_same_run(folder, stored, {"config": known})
    if store.num_problems() < num_problems:
        return False
    asked = store.problems().head(num_problems)["question"].tolist()
    return task is None or asked == [problem.question for problem in task.problems]


# --- running ---------------------------------------------------------------------------------------------------


def _run_model(
    jobs: Sequence[Job],
    tasks: Mapping[str, Task],
    options: Mapping[str, Any],
    watch: Callable[[Job], AbstractContextManager[Callback]] | None,
) -> Iterator[tuple[Job, int]]:
    """Run the jobs of one model, which is loaded at most once; yield each with the number of problems drawn."""
    backend: Backend | None = None
    for job in jobs:
        if job.finished and not _may_have_changed(job):
            _read_again(job)
            yield job, 0
            continue
        if backend is None:
            backend = open_backend(job.ref, "native", dict(options))
        if job.finished and Store(job.folder / DATABASE).identity()["model"]["fingerprint"] == backend.fingerprint():
            _read_again(job)
            yield job, 0
            continue
        before = _num_problems(job.folder)
        with watch(job) if watch is not None else nullcontext() as watcher:
            evaluate(
                backend,
                tasks[job.task],
                config=job.config,
                output=job.folder,
                callbacks=[] if watcher is None else [watcher],
            )
        yield job, _num_problems(job.folder) - before
    backend = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _read_again(job: Job) -> None:
    """Read the texts of a finished run again where an older fastsia or other settings have read them."""
    reread(job.folder, answer_reading=job.config.answer_reading, equivalence=job.config.equivalence)


def _may_have_changed(job: Job) -> bool:
    """Whether the weights may differ from those of the run: only those in a local folder can change."""
    return job.ref.path is not None


def _num_problems(folder: Path) -> int:
    return Store(folder / DATABASE).num_problems() if (folder / DATABASE).is_file() else 0


def _read(folder: Path) -> SIAResult:
    """Load a run; write its tables again where its shuffled run is newer, and its report where it is out of date."""
    result = load(folder)
    if _is_older(folder / "tables" / "shuffled_prefix.parquet", folder / SHUFFLED / "summary.json"):
        result.save(folder)
    if _is_older(folder / "report.html", folder / "summary.json"):
        result.report(folder)
    return result


def _is_older(file: Path, source: Path) -> bool:
    return source.is_file() and (not file.is_file() or file.stat().st_mtime_ns < source.stat().st_mtime_ns)


# --- tables and figures ----------------------------------------------------------------------------------------


def _tabulate(target: str, results: Mapping[tuple[str, str], SIAResult | None]) -> pd.DataFrame:
    """Ours beside the published values; for a figure, the numbers that it shows."""

    def stored(name: str) -> dict[tuple[str, str], pd.DataFrame | None]:
        return {key: None if result is None else result.tables.get(name) for key, result in results.items()}

    if target == "table1":
        return table1({key: None if result is None else result.summary for key, result in results.items()})
    if target == "table2":
        return table2(stored("shuffled_prefix"))
    if target == "table3":
        return table3(stored("coarse_ablation"))
    rows = []
    for (model, task), result in results.items():
        rows += [{"model": model, "task": task, **numbers} for numbers in _ROWS[target](result)]
    return pd.DataFrame(rows)


def _accumulation(result: SIAResult | None) -> list[dict[str, Any]]:
    """The final gain by outcome, and the share of it reached at three relative positions."""
    rows = []
    for group in ("correct", "incorrect"):
        row: dict[str, Any] = {"ends": group}
        rows.append(row)
        if result is None:
            continue
        total = _points(result, "gain", group).tail(1)
        if total.empty:
            row["num_trajectories"] = 0
            continue
        row |= {"num_trajectories": int(total["count"].iloc[0]), **Estimate.of_point(total).columns("gain")}
        if total["low"].iloc[0] > 0 or total["high"].iloc[0] < 0:  # shares of a gain near zero are meaningless
            for percent in (25, 50, 75):
                row |= Estimate.of_point(_at(_points(result, "gain_share", group), percent / 100)).columns(
                    f"share_{percent}"
                )
    return rows


def _separability(result: SIAResult | None) -> list[dict[str, Any]]:
    """AUC at relative positions; then at the largest prefix length that half of the trajectories reach and half-way to
    it. Beyond that length only long trajectories remain."""
    if result is None:
        return [{}]
    last = result.summary["auc"][-1]
    row = {name: last[name] for name in ("num_correct", "num_incorrect")}
    for percent in (25, 50, 75, 100):
        row |= Estimate.of_point(_at(_points(result, "auc", "all"), percent / 100)).columns(f"auc_{percent}")
    curve = _points(result, "auc", "all", "tokens")
    reached = curve[curve["count"] * 2 >= result.summary["num_trajectories"]]
    if not reached.empty:
        end = reached["position"].iloc[-1]
        near = reached[reached["position"] * 2 <= end].tail(1)
        row |= {"half_way_tokens": int(near["position"].iloc[0]), **Estimate.of_point(near).columns("half_way_auc")}
        row |= {"last_tokens": int(end), **Estimate.of_point(reached.tail(1)).columns("last_auc")}
    return [row]


def _saturation(result: SIAResult | None) -> list[dict[str, Any]]:
    if result is None:
        return [{}]
    row: dict[str, Any] = {"num_trajectories": result.summary["num_trajectories"]}
    for key in ("entropy_first", "entropy_final", "saturation.level", "saturation.onset", "saturation.rebound"):
        row |= Estimate.of_summary(result.summary, key).columns(key.removeprefix("saturation."))
    return [row]


_ROWS: Mapping[str, Callable[[SIAResult | None], list[dict[str, Any]]]] = {
    "fig1": _accumulation,
    "fig2": _separability,
    "fig3": _saturation,
    "fig4": _accumulation,
    "fig5": _separability,
}


def _points(result: SIAResult, curve: str, group: str, axis: str = "relative") -> pd.DataFrame:
    frame = result.curves
    return frame[(frame["curve"] == curve) & (frame["axis"] == axis) & (frame["group"] == group)].dropna(
        subset=["value"]
    )


def _at(points: pd.DataFrame, position: float) -> pd.DataFrame:
    return points[(points["position"] - position).abs() < 1e-6]


# Curves of Figures 1 and 4, one panel per model and one line per outcome: file, title, curve, unit.
_OUTCOMES = (
    ("gain_share", "How early the information comes", "gain_share", "share of the final gain"),
    ("gain", "Information gained about the gold answer", "gain", "cumulative gain G (nats)"),
    ("entropy_drop", "Fall of H", "entropy_drop", "share of H at the start gone"),
)
# Curves of Figures 2 and 5, one line per model: over the prefix length, and over the share of the trajectory written.
_AUC = "AUC of −H for “ends correct”"
_OVERLAYS = (
    Overlay("auc_tokens", "Telling correct from incorrect, by prefix length", "auc", "all", _AUC, "tokens"),
    Overlay("auc", "Telling correct from incorrect, by relative position", "auc", "all", _AUC),
)


def _write(planned: ReproductionPlan, table: pd.DataFrame, found: Mapping[tuple[str, str], SIAResult]) -> list[Path]:
    """Write the table to tables/ and the drawings of a figure, one set per task, to figures/."""
    planned.output.mkdir(parents=True, exist_ok=True)
    refuse_links(planned.output, ("tables", "figures"))
    (planned.output / "tables").mkdir(exist_ok=True)
    files = [planned.output / "tables" / f"{planned.target}.parquet"]
    write_parquet(files[0], table)
    for task in dict.fromkeys(task for _, task in found):
        runs = {model: result.report_data() for (model, name), result in found.items() if name == task}
        for drawing in _draw(planned.target, folder_name(task), runs, planned.stages):
            drawing.save(planned.output / "figures")
            files.append(planned.output / "figures" / f"{drawing.name}.png")
    return files


def _draw(target: str, suffix: str, runs: Mapping[str, ReportData], stages: Mapping[str, str]) -> list[Drawing]:
    """Draw a figure of one task. Each run is labelled with its model and training stage."""
    labels = {
        model: f"{model} ({'stage unknown' if stages[model] == UNKNOWN_STAGE else stages[model]})" for model in runs
    }
    labelled = {labels[model]: data for model, data in runs.items()}
    drawings: list[Drawing | None] = []
    if target == "fig3":
        families: dict[str, dict[str, ReportData]] = {}
        for model, data in runs.items():
            families.setdefault(family(model), {})[labels[model]] = data
        drawings = [draw_families(f"fig3_entropy_{suffix}", families)]
    elif target in ("fig1", "fig4"):
        drawings = [
            draw_outcomes(f"{target}_{name}_{suffix}", title, curve, unit, labelled)
            for name, title, curve, unit in _OUTCOMES
        ]
    elif target in ("fig2", "fig5"):
        drawings = [
            draw_overlay(dataclasses.replace(look, name=f"{target}_{look.name}_{suffix}"), labelled)
            for look in _OVERLAYS
        ]
    return [drawing for drawing in drawings if drawing is not None]
