"""Several runs side by side, from their results folders; needs no model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fastsia.config import SETTINGS, SIAConfig
from fastsia.errors import FastsiaError, one_line
from fastsia.files import refuse_links
from fastsia.models.registry import known_model
from fastsia.results import SIAResult, load, write_tables
from fastsia.results.schema import DATABASE
from fastsia.sia import differences, side_by_side, tabulate
from fastsia.sia.compare import entropy_performance, temperature_sweep

_COMPARED = tuple(setting.name for setting in SETTINGS.values() if setting.compared)
_DEFAULTS = SIAConfig()
_TABLES = ("runs", "differences", "temperature_sweep", "entropy_performance", "token_level")


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side.

    Attributes:
        runs: By label.
        table: One row per run, as `sia.tabulate`.
        differences: One row per pair of runs and quantity, as `sia.differences`.
        token_level: Token and answer level, one row per run and group; None unless two runs have token entropies.
        notes: Warnings, one sentence each.
        temperature_sweep: The runs by temperature, as `sia.compare.temperature_sweep`; None unless runs of one model
            and task differ in it and in no other setting.
        entropy_performance: Accuracy against entropy, as `sia.compare.entropy_performance`; None with fewer than 3 runs
            or without problems that all have.
    """

    runs: dict[str, SIAResult]
    table: pd.DataFrame
    differences: pd.DataFrame
    token_level: pd.DataFrame | None
    notes: list[str]
    temperature_sweep: pd.DataFrame | None = None
    entropy_performance: pd.DataFrame | None = None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write comparison.html, figures/ and tables/ into a folder, or the page alone to a .html path.

        Returns:
            The page.
        """
        from fastsia.report import draw_comparison, write_comparison  # matplotlib is slow to import

        target = Path(path)
        data = {label: result.report_data() for label, result in self.runs.items()}
        tables = {"runs": self.table, "differences": self.differences}
        for name in ("temperature_sweep", "entropy_performance", "token_level"):
            if (table := getattr(self, name)) is not None:
                tables[name] = table
        if target.suffix.lower() in (".html", ".htm"):
            return write_comparison(target, data, tables, notes=self.notes)
        if any((target / name).exists() for name in (DATABASE, "rollouts.parquet")):
            raise FastsiaError(f"{target} contains a run; save the comparison to another folder.")
        target.mkdir(parents=True, exist_ok=True)
        refuse_links(target, ("comparison.html", "figures"))
        write_tables(target / "tables", tables, _TABLES)
        return write_comparison(target, data, tables, draw_comparison(data, target / "figures"), self.notes)


def compare(directories: Sequence[str | os.PathLike[str]]) -> Comparison:
    """Two or more results folders, finished or not.

    Differences are on the problems that both runs of a pair have; problems of different tasks are never the same.

    Raises:
        FastsiaError: Fewer than two folders, the same one twice, or one without results.
    """
    paths = [Path(directory) for directory in directories]
    if len(paths) < 2:
        raise FastsiaError(f"compare needs two or more results folders, got {len(paths)}.")
    places = [path.resolve() for path in paths]
    twice = next((path for i, path in enumerate(paths) if places[i] in places[:i]), None)
    if twice is not None:
        raise FastsiaError(f"results folder {str(twice)!r} is given twice.")
    results = [load(path) for path in paths]
    runs = dict(zip(labels(places, [result.summary for result in results]), results, strict=True))
    config = results[0].summary.get("config") or {}
    levels = {label: result.tables["token_level"] for label, result in runs.items() if "token_level" in result.tables}
    frames = _frames(runs)
    drawing = {"num_resamples": config.get("num_bootstrap", 2000), "seed": config.get("seed", 0)}
    return Comparison(
        runs,
        tabulate({label: result.summary for label, result in runs.items()}),
        differences(frames, **drawing),
        side_by_side(levels) if len(levels) > 1 else None,
        _notes(runs),
        temperature_sweep(frames, _temperatures(runs), **drawing) if _is_sweep(runs) else None,
        entropy_performance(frames, **drawing),
    )


def labels(paths: Sequence[Path], summaries: Sequence[dict[str, Any]]) -> list[str]:
    """A short, unique name for each run: its model, its task, both, or the end of its folder's path."""
    models = [_model(summary) for summary in summaries]
    tasks = [str(summary.get("task") or "table") for summary in summaries]
    shuffled = [bool((summary.get("config") or {}).get("shuffle_prefix")) for summary in summaries]
    both = [" · ".join(filter(None, pair)) for pair in zip(models, tasks, strict=True)]
    marked = [f"{name}, shuffled" if flag else name for name, flag in zip(both, shuffled, strict=True)]
    for names in (marked,) if any(shuffled) else (models if all(models) else [], tasks, both):
        if len(set(names)) == len(paths):
            return names
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(paths):
            break
    return names


def _model(summary: dict[str, Any]) -> str:
    """The paper's name, else the last part of a Hub id or path; empty for a table without a model."""
    found = []
    for name in str(summary.get("model") or "").split(" + "):  # a model and the adapter merged into it
        known = known_model(name)
        found.append(name.rstrip("/").rpartition("/")[2] if known is None else known.name)
    return " + ".join(found)


def _frames(runs: dict[str, SIAResult]) -> dict[str, pd.DataFrame]:
    """The trajectories of each run, with problem ids that are unique across tasks."""
    tasks = {label: result.summary.get("task") for label, result in runs.items()}
    frames = {label: result.trajectories for label, result in runs.items()}
    if len(set(tasks.values())) == 1:
        return frames
    return {
        label: frame.assign(problem_id=[f"{tasks[label]}/{name}" for name in frame["problem_id"]])
        for label, frame in frames.items()
    }


def _notes(runs: dict[str, SIAResult]) -> list[str]:
    differing = []
    for field in _COMPARED:
        values = [_setting(result, field) for result in runs.values()]
        distinct = list(dict.fromkeys(map(_as_text, values)))
        if len(distinct) > 1:
            differing.append(f"{field} ({', '.join(distinct)})")
    notes = [f"The runs differ in {', '.join(differing)}; H and ρ depend on these settings too."] if differing else []
    versions = [(result.summary.get("reading") or {}).get("rules") for result in runs.values()]
    rules = {version for version in versions if version is not None}
    if len(rules) > 1:
        notes.append(
            f"The answers of the runs were read by different rules (versions {', '.join(map(str, sorted(rules)))}); "
            "`fastsia report DIR` reads the older ones again."
        )
    return notes


def _temperatures(runs: dict[str, SIAResult]) -> dict[str, float]:
    return {label: float(_setting(result, "temperature")) for label, result in runs.items()}


def _is_sweep(runs: dict[str, SIAResult]) -> bool:
    """Whether the runs are of one model and task and agree in all compared settings but the temperature."""
    others = [field for field in _COMPARED if field != "temperature"]
    kinds = set()
    for result in runs.values():
        settings = (_as_text(_setting(result, field)) for field in others)
        kinds.add((result.summary.get("model"), result.summary.get("task"), *settings))
    return len(kinds) == 1


def _setting(result: SIAResult, field: str) -> Any:
    """A setting of a run; the default for runs of versions without it."""
    return (result.summary.get("config") or {}).get(field, getattr(_DEFAULTS, field))


def _as_text(value: Any) -> str:
    """A setting on one line of at most 60 characters."""
    text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    text = one_line(text)
    return text if len(text) <= 60 else f"{text[:57]}..."
