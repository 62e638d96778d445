"""The paper's tables and figures: runs or resumes what they need, and ours beside the published values."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from fastsia.config import READING_FIELDS, SIAConfig
from fastsia.errors import FastsiaError
from fastsia.evaluation import evaluate
from fastsia.models.registry import ALIGNED, PAPER_MODELS, STAGES, known_model
from fastsia.models.resolve import resolve_model, why_absent
from fastsia.report import Drawing, Overlay, ReportData, draw_families, draw_outcomes, draw_overlay
from fastsia.results import SHUFFLED, SIAResult, folder_name, load, nearest, reread, stored_config
from fastsia.sia import table1, table2, table3
from fastsia.sia.paper import TABLE2, TABLE3
from fastsia.store import DATABASE, Store, refuse_links, write_parquet
from fastsia.tasks import Task, load_task
from fastsia.tasks.task import DEFAULT_STRIDE, check_limit

UNKNOWN_STAGE = "unknown"
"""The stage of a model that the table of models does not have and that nobody stated."""

_ALIGNED, _BASE = (*ALIGNED, UNKNOWN_STAGE), ("Base", UNKNOWN_STAGE)
SHOWS: Mapping[str, tuple[str, ...]] = {"fig1": _ALIGNED, "fig2": _ALIGNED, "fig4": _BASE, "fig5": _BASE}
"""The training stages that a figure shows, where not all: Figures 1 and 2 are of aligned models, Figures 4 and 5 the
same plots of non-aligned ones. A model whose stage is unknown is shown wherever it is asked for."""

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
"""What can be reproduced, and the models and tasks it has by default: the paper's. Which ARC subset that is, the paper
does not say."""

_PUBLISHED_SIZES = {"gsm8k": 1319, "svamp": 300, "svamp_full": 1000, "arc_challenge": 1172, "arc_easy": 2376}
"""Problems of the tasks that may have to be downloaded first."""


@dataclass(frozen=True)
class Job:
    """One run that a table or figure needs. source: what `evaluate` takes; model: the paper's name where it has one.

    num_checkpoints: the most that a trajectory can have. max_generated_tokens: what would be drawn if every trajectory
    and every rollout went to its length limit: an upper bound, and no estimate of what it will be. finished: whether
    its folder holds all of it already.
    """

    model: str
    source: str
    task: str
    config: SIAConfig
    folder: Path
    num_problems: int
    num_checkpoints: int
    finished: bool

    @property
    def num_rollouts(self) -> int:
        """At most, over all problems."""
        return self.num_problems * self.config.num_trajectories * self.num_checkpoints * self.config.num_rollouts

    @property
    def max_generated_tokens(self) -> int:
        trajectories = self.num_problems * self.config.num_trajectories
        return (trajectories + self.num_rollouts) * self.config.max_tokens


@dataclass(frozen=True)
class Plan:
    """What a table or figure needs. missing: why a model's unfinished jobs cannot be run, by its name. stages: the
    training stage of every model, those left out included. left_out: models whose stage another figure shows."""

    target: str
    output: Path
    jobs: list[Job]
    missing: dict[str, str]
    stages: dict[str, str]
    left_out: list[str]
    data_dir: Path | None
    limit: int | None
    options: dict[str, Any]

    @property
    def notes(self) -> list[str]:
        """What to say of models that are left out and of stages that nobody stated."""
        found = []
        if self.left_out:
            names = ", ".join(f"{model} ({self.stages[model]})" for model in self.left_out)
            shows = "aligned models (SFT, SFT+RL)" if "SFT" in SHOWS[self.target] else "non-aligned models (Base)"
            found.append(f"{self.target} shows {shows}; left out: {names}. {_COUNTERPART[self.target]} shows them.")
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
    """table: ours beside the published values, nulls where a run is missing. results: the runs by (model, task).

    num_computed: problems drawn by this call. failed: why a model's runs ended early, by its name. files: what was
    written below the plan's output, the runs' own folders left out.
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
    limit: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    config: SIAConfig | None = None,
    stages: Mapping[str, str] | None = None,
    **options: Any,
) -> Plan:
    """What there is to do, before anything is loaded. stages: training stages (`STAGES`) by model, as `models` names
    them; without one that of the table of models, else unknown. options: of loading a model, as `evaluate` takes them.

    Raises FastsiaError: an unknown target, model, task or stage; models of which the figure shows none; models or tasks
    that would share a folder; a folder that holds a run with other settings.
    """
    if target not in TARGETS:
        raise FastsiaError(f"there is nothing called {target!r} to reproduce{nearest(target, list(TARGETS))}.")
    config = config or SIAConfig()
    directory = None if data_dir is None else Path(data_dir)
    sources = {_model_name(name): name for name in models or TARGETS[target][0]}
    names = list(dict.fromkeys(tasks or TARGETS[target][1]))
    for name in sources.values():
        resolve_model(name)
    stage_of = _stages(sources, stages or {})
    left_out = [model for model in sources if stage_of[model] not in SHOWS.get(target, (*STAGES, UNKNOWN_STAGE))]
    if len(left_out) == len(sources):
        models_left = ", ".join(f"{model} ({stage_of[model]})" for model in left_out)
        raise FastsiaError(
            f"{target} shows {'aligned' if 'SFT' in SHOWS[target] else 'non-aligned'} models "
            f"({', '.join(SHOWS[target][:-1])}), got {models_left}; {_COUNTERPART[target]} shows them."
        )
    sources = {model: source for model, source in sources.items() if model not in left_out}
    loaded = {name: _task_at_hand(name, directory, limit) for name in names}
    labels = {name: task.name if task else name for name, task in loaded.items()}
    check_limit(limit)
    root = Path(output)
    folders = _distinct_folders([*sources]), _distinct_folders([*labels.values()])
    jobs = []
    for model, source in sources.items():
        for name, task in loaded.items():
            stride = config.stride or (task.stride if task else DEFAULT_STRIDE)
            folder = root / folders[0][model] / folders[1][labels[name]]
            for shuffled in (False, True) if target == "table2" else (False,):
                own = dataclasses.replace(config, shuffle_prefix=shuffled)
                place = folder / SHUFFLED if shuffled else folder
                size = len(task) if task else min(_PUBLISHED_SIZES[name], limit or _PUBLISHED_SIZES[name])
                jobs.append(
                    Job(
                        model=model,
                        source=source,
                        task=name,
                        config=own,
                        folder=place,
                        num_problems=size,
                        num_checkpoints=-(-config.max_tokens // stride) + 1,
                        finished=_is_finished(place, own, size, task),
                    )
                )
    waiting = list(dict.fromkeys(job.model for job in jobs if not job.finished))
    with ThreadPoolExecutor(max_workers=16) as pool:  # each asks the Hub once, and may wait for it
        reasons = pool.map(lambda model: why_absent(sources[model], options.get("revision")), waiting)
        missing = {model: reason for model, reason in zip(waiting, reasons, strict=True) if reason is not None}
    return Plan(target, root, jobs, missing, stage_of, left_out, directory, limit, options)


def reproduce(planned: Plan, *, watch: Callable[[Job], AbstractContextManager[Callback]] | None = None) -> Reproduction:
    """Runs what is missing and can be run, draws, and writes the table (and figures) below the plan's output.

    A model that cannot be loaded or run is named in `failed`, and the rest goes on. watch: called before each run; what
    it returns is entered, and is a callback of the run.

    Raises FastsiaError: a task's data cannot be had; the last error, where not one run could be had.
    """
    needed = dict.fromkeys(job.task for job in planned.ready if not job.finished or _may_have_changed(job))
    tasks = {name: load_task(name, data_dir=planned.data_dir, limit=planned.limit) for name in needed}
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


def _stages(sources: Mapping[str, str], stated: Mapping[str, str]) -> dict[str, str]:
    """Each model's training stage: as stated, else the table's, else unknown."""
    given = {_model_name(name): stage for name, stage in stated.items()}
    for model, stage in given.items():
        if model not in sources:
            raise FastsiaError(f"a stage is stated for {model!r}, which is not among the models: {', '.join(sources)}.")
        if stage not in STAGES:
            raise FastsiaError(f"the stage of {model!r} must be one of {', '.join(STAGES)}, got {stage!r}.")
    table = {model: known.stage for model in sources if (known := known_model(model)) is not None}
    return dict.fromkeys(sources, UNKNOWN_STAGE) | table | given


def family(model: str) -> str:
    """The family of a model of the table, else the last part of its own name."""
    known = known_model(model)
    return model.rstrip("/").rpartition("/")[2] if known is None else known.family


def download_gigabytes(model: str) -> float | None:
    """The size of a paper model's weights in 16 bits; None where it is not in the table of models."""
    known = known_model(model)
    return None if known is None or known.num_parameters is None else 2 * known.num_parameters / 1e9


def _task_at_hand(name: str, data_dir: Path | None, limit: int | None) -> Task | None:
    """The task, or None for a named one that would have to come from the Hub: it is asked for when a run needs it."""
    if data_dir is None and name in _PUBLISHED_SIZES:
        return None
    return load_task(name, data_dir=data_dir, limit=limit)


def _distinct_folders(names: Sequence[str]) -> dict[str, str]:
    """A folder's name for each; names that would share one are refused."""
    folders = {name: folder_name(name) for name in names}
    for name, folder in folders.items():
        other = next((other for other in names if other != name and folders[other] == folder), None)
        if other is not None:
            raise FastsiaError(f"{name!r} and {other!r} would share the folder {folder!r}; reproduce them one by one.")
    return folders


def _is_finished(folder: Path, config: SIAConfig, num_problems: int, task: Task | None) -> bool:
    """Whether a folder holds all problems of a run with these settings."""
    if not (folder / DATABASE).is_file():
        return False
    try:
        store = Store(folder / DATABASE)
        before = dataclasses.asdict(stored_config(store))
    except FastsiaError:  # damaged: resuming reads back what it can
        return False
    # What is left to the task and the model is None here.
    changed = [
        f"{name} was {json.dumps(before.get(name))}, is now {json.dumps(value)}"
        for name, value in dataclasses.asdict(config).items()
        if value is not None and value != before.get(name) and name not in READING_FIELDS
    ]
    if changed:
        raise FastsiaError(f"{folder} holds another run: {'; '.join(changed)}. Use another output folder.")
    if store.num_problems() < num_problems:
        return False
    stored = store.problems().head(num_problems)
    return task is None or stored["question"].tolist() == [problem.question for problem in task.problems]


# --- running ---------------------------------------------------------------------------------------------------


def _run_model(
    jobs: Sequence[Job],
    tasks: Mapping[str, Task],
    options: Mapping[str, Any],
    watch: Callable[[Job], AbstractContextManager[Callback]] | None,
) -> Iterator[tuple[Job, int]]:
    """Runs one model's jobs, the model loaded at most once; yields each that is done and how many problems it drew."""
    backend: Backend | None = None
    for job in jobs:
        if job.finished and not _may_have_changed(job):
            _read_again(job)
            yield job, 0
            continue
        if backend is None:
            backend = open_backend(job.source, "native", dict(options))
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
    """A finished run that an older fastsia, or another setting, has read; needs no weights."""
    reread(job.folder, answer_reading=job.config.answer_reading, equivalence=job.config.equivalence)


def _may_have_changed(job: Job) -> bool:
    """A folder's weights may be others than when its run was made; a published checkpoint stays what it is."""
    return resolve_model(job.source).path is not None


def _num_problems(folder: Path) -> int:
    return Store(folder / DATABASE).num_problems() if (folder / DATABASE).is_file() else 0


def _read(folder: Path) -> SIAResult:
    """The run, stored again where its shuffled run is newer than what is stored of it, and its report drawn."""
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
    """Ours beside the published values; for a figure, what it shows in numbers."""

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
    """The final gain by outcome, and how much of it had come by when."""
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
        row |= {"num_trajectories": int(total["count"].iloc[0]), **_limited("gain", total)}
        if total["low"].iloc[0] > 0 or total["high"].iloc[0] < 0:  # of nothing there is no share
            for percent in (25, 50, 75):
                row |= _limited(f"share_{percent}", _at(_points(result, "gain_share", group), percent / 100))
    return rows


def _separability(result: SIAResult | None) -> list[dict[str, Any]]:
    """AUC at relative positions; then at the last prefix length that half of the trajectories reach and half-way to
    it, since beyond it the long ones prevail."""
    if result is None:
        return [{}]
    last = result.summary["auc"][-1]
    row = {name: last[name] for name in ("num_correct", "num_incorrect")}
    for percent in (25, 50, 75, 100):
        row |= _limited(f"auc_{percent}", _at(_points(result, "auc", "all"), percent / 100))
    curve = _points(result, "auc", "all", "tokens")
    reached = curve[curve["count"] * 2 >= result.summary["num_trajectories"]]
    if not reached.empty:
        end = reached["position"].iloc[-1]
        near = reached[reached["position"] * 2 <= end].tail(1)
        row |= {"half_way_tokens": int(near["position"].iloc[0]), **_limited("half_way_auc", near)}
        row |= {"last_tokens": int(end), **_limited("last_auc", reached.tail(1))}
    return [row]


def _saturation(result: SIAResult | None) -> list[dict[str, Any]]:
    if result is None:
        return [{}]
    summary = result.summary
    row: dict[str, Any] = {"num_trajectories": summary["num_trajectories"]}
    for name in ("entropy_first", "entropy_final"):
        row |= {name: summary[name]} | _bounds(name, summary["ci"][name])
    for name in ("level", "onset", "rebound"):
        row |= {name: summary["saturation"][name]} | _bounds(name, summary["ci"]["saturation"][name])
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


def _limited(name: str, point: pd.DataFrame) -> dict[str, float | None]:
    """A point of a curve with its interval; nulls where there is none."""
    if point.empty:
        return {name: None} | _bounds(name, None)
    value, low, high = (float(point[column].iloc[0]) for column in ("value", "low", "high"))
    return {name: value} | _bounds(name, None if math.isnan(low) else [low, high])


def _bounds(name: str, limits: Sequence[float] | None) -> dict[str, float | None]:
    low, high = limits or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


# Curves of Figures 1 and 4, a panel a model and a line an outcome: file, title, curve, unit.
_OUTCOMES = (
    ("gain_share", "How early the information comes", "gain_share", "share of the final gain"),
    ("gain", "Information gained about the gold answer", "gain", "cumulative gain G (nats)"),
    ("entropy_drop", "Fall of H", "entropy_drop", "share of H at the start gone"),
)
# Curves of Figures 2 and 5, a line a model: over the prefix length, and over the share of the trajectory written.
_AUC = "AUC of −H for “ends correct”"
_OVERLAYS = (
    Overlay("auc_tokens", "Telling correct from incorrect, by prefix length", "auc", "all", _AUC, "tokens"),
    Overlay("auc", "Telling correct from incorrect, by relative position", "auc", "all", _AUC),
)


def _write(planned: Plan, table: pd.DataFrame, found: Mapping[tuple[str, str], SIAResult]) -> list[Path]:
    """The table as parquet below tables/, and a figure's drawings, one set a task, below figures/."""
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
    """A figure of one task. Each run is called by its model and training stage."""
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
