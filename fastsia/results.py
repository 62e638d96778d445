"""Results: what a run found, read from its folder or scored from a table of rollouts, without a model."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fastsia import __version__, renamed
from fastsia.answers.parts import answer_token
from fastsia.answers.spec import Spec
from fastsia.config import AnswerReading, Equivalence, SIAConfig, as_config
from fastsia.errors import FastsiaError
from fastsia.models.registry import model_label
from fastsia.reading import AnswerReader, Reading, renew
from fastsia.shapes import check_summary, check_table, facts_of_run, notes_of_damage
from fastsia.sia import (
    Analysis,
    TokenTraces,
    analyze_rollouts,
    analyze_table,
    encode_readings,
    forced_table,
    reading_of,
    shuffled_table,
    tables_of_run,
    uneven_counts,
)
from fastsia.sia.cut import Ends
from fastsia.sia.table import RolloutTable, encode, require_single, storable
from fastsia.store import (
    DATABASE,
    Reread,
    Store,
    StoreWriter,
    flatten,
    refuse_links,
    with_defaults,
    write_json,
    write_parquet,
)
from fastsia.tasks.prompt import reading_options
from fastsia.tasks.records import read_records

if TYPE_CHECKING:
    from fastsia.report import ReportData, TrajectoryView

FORCED = "forced.parquet"
"""A run's folder may hold forced answers (`fastsia.forced`) in this file; its results then have a table
`forced_answers` that sets them beside the sampled ones."""

SHUFFLED = "shuffled"
"""A run's folder may hold, in a folder of this name, the same run with shuffled prefixes; its results then have a table
`shuffled_prefix` of the two."""
_TABLES = ("problems", "trajectories", "checkpoints", "curves", "rollouts")


@dataclass(frozen=True)
class SIAResult:
    """What an evaluation found.

    summary: headline numbers, as summary.json. trajectories, checkpoints: one row each. curves: the points of every
    curve. tables: further tables by name. `rollouts` is read when asked for.
    """

    summary: dict[str, Any]
    trajectories: pd.DataFrame
    checkpoints: pd.DataFrame
    curves: pd.DataFrame
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    _store: Store | None = field(default=None, repr=False)
    _rollouts: pd.DataFrame | None = field(default=None, repr=False)
    _holds: Any = field(default=None, repr=False)  # keeps a temporary folder alive as long as the result
    _source: Path | None = field(default=None, repr=False)  # the file that was analysed

    def __repr__(self) -> str:
        names = [str(self.summary[key]) for key in ("model", "task") if self.summary.get(key)]
        what = " on ".join(names) or "table of rollouts"
        numbers = ", ".join(
            f"{name} {'undefined' if value is None else format(value, '.3f')}"
            for name, value in (("accuracy", self.summary["accuracy"]), ("rho", self.summary["rho"]["pearson"]))
        )
        return f"<SIAResult: {what}, {self.summary['num_problems']} problems, {numbers}>"

    @cached_property
    def rollouts(self) -> pd.DataFrame:
        """One row a rollout: problem_id, trajectory, checkpoint, rollout, answer (None = null), token_ids, ..."""
        if self._rollouts is not None:
            return self._rollouts
        chunks = list(self._chunks())
        return pd.concat(chunks, ignore_index=True) if chunks else pd.DataFrame()

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write the database, summary.json and the parquet tables to a folder; `load` reads it."""
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        refuse_links(path, (DATABASE, "summary.json", *(f"{name}.parquet" for name in _TABLES)))
        if (path / DATABASE).exists() and (
            self._store is None or (path / DATABASE).resolve() != self._store.path.resolve()
        ):
            raise FastsiaError(f"{path} holds a run already; save to another folder.")
        self._spare_source(path, path / "tables", path / "figures")
        if self._store is not None and not (path / DATABASE).exists():
            self._store.copy_to(path / DATABASE)
        self._export(path)
        return path

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Draw the figures and write the report: a folder gets report.html and figures/, a .html path only the page."""
        from fastsia.report import draw_figures, write_report  # matplotlib is slow to import

        target = Path(path)
        data = self.report_data()
        if target.suffix.lower() in (".html", ".htm"):
            return write_report(target, data)
        target.mkdir(parents=True, exist_ok=True)
        refuse_links(target, ("report.html", "figures"))
        self._spare_source(target / "figures")
        return write_report(target, data, draw_figures(data, target / "figures"))

    def to_lm_eval(self, directory: str | os.PathLike[str]) -> Path:
        """Write results_DATE.json and samples_TASK_DATE.jsonl, as lm-evaluation-harness does; the results file."""
        from fastsia.exports import write_lm_eval

        if self._store is None:
            raise FastsiaError(f"lm-eval's files need a run's prompts and texts, which only {DATABASE} has.")
        finished = datetime.fromtimestamp(self._store.path.stat().st_mtime)
        return write_lm_eval(Path(directory), self.summary, self._store.problems(), self.trajectories, finished)

    def to_datasets(self, directory: str | os.PathLike[str]) -> Path:
        """Write a folder that `datasets.load_dataset` reads: README.md, and a table each in data/; the folder."""
        from fastsia.exports import write_card

        path = Path(directory)
        data = path / "data"
        refuse_links(path, ("README.md", "summary.json", data.name))
        if (path / "README.md").exists() and not (data / "trajectories.parquet").exists():
            raise FastsiaError(f"{path} has a README.md of something else; give another folder.")
        data.mkdir(parents=True, exist_ok=True)
        refuse_links(data, (f"{name}.parquet" for name in _TABLES))
        self._spare_source(data)
        self._write_tables(data)
        write_json(path / "summary.json", self.summary)
        return write_card(path, self.summary, self.report_data().title)

    def report_data(self) -> ReportData:
        """What reports and figures are drawn from; its views, the texts to read, can be iterated once."""
        from fastsia.report import ReportData

        return ReportData(self.summary, self.trajectories, self.checkpoints, self.curves, self.tables, self._views())

    def _spare_source(self, *folders: Path) -> None:
        """Refuse folders where the file that was analysed has the name of one that is written, or of a figure."""
        source = self._source
        if source is None or source.suffix != ".parquet" or source.parent not in [path.resolve() for path in folders]:
            return
        if source.parent.name == "figures" or source.stem in (*_TABLES, *tables_of_run(), *self.tables):
            raise FastsiaError(f"{source} was analysed and would be written over; use another output folder.")

    def _export(self, path: Path) -> None:
        if self._store is None:  # tables of two analyses are no result, and no database tells which are newer
            (path / "summary.json").unlink(missing_ok=True)
        self._write_tables(path)
        write_tables(path / "tables", self.tables, tables_of_run())
        write_json(path / "summary.json", self.summary)

    def _write_tables(self, path: Path) -> None:
        if self._store is not None:
            write_parquet(path / "problems.parquet", self._store.problems())
        write_parquet(path / "trajectories.parquet", self.trajectories)
        write_parquet(path / "checkpoints.parquet", self.checkpoints)
        write_parquet(path / "curves.parquet", self.curves)
        write_parquet(path / "rollouts.parquet", self._chunks())

    def _chunks(self) -> Iterator[pd.DataFrame]:
        if self._store is not None:
            yield from self._store.rollouts()
        elif self._rollouts is not None:
            yield storable(self._rollouts)

    def _views(self) -> Iterator[TrajectoryView]:
        if self._store is not None:
            yield from _trajectory_views(self._store, self.checkpoints)


def write_tables(directory: Path, tables: Mapping[str, pd.DataFrame], own: Sequence[str]) -> None:
    """Each table as NAME.parquet. own: names that are the writer's; one that is not among the tables is removed."""
    refuse_links(directory.parent, (directory.name,))
    if tables:
        directory.mkdir(parents=True, exist_ok=True)
    for name in own:
        if name not in tables:
            (directory / f"{name}.parquet").unlink(missing_ok=True)
    for name, table in tables.items():
        write_parquet(directory / f"{name}.parquet", table)


def load(directory: str | os.PathLike[str]) -> SIAResult:
    """A results folder, finished or not. What is missing or older than the database is scored again; no model."""
    path = Path(directory)
    if not path.is_dir():
        raise FastsiaError(f"results folder {str(path)!r} does not exist.")
    summary = read_summary(path)
    if not (path / DATABASE).exists():
        return _load_exports(path, summary, None)
    store = Store(path / DATABASE)
    if summary is not None and _exports_are_current(path):
        with suppress(FastsiaError):  # damaged, or of others: what they say is in the database
            result = _load_exports(path, summary, store)
            notes = result.summary["warnings"]
            notes += [note for note in _notes_of_reading(store, stored_config(store)) if note not in notes]
            return result
    store.check()
    identity = store.identity()
    name = model_label(identity["model"]["name"], identity["model"].get("peft"))
    run = {"model": name, "task": identity["task"], "backend": identity["backend"]}
    run |= facts_of_run(summary)
    result = score(store, stored_config(store), run, notes_of_damage(summary), None)
    forget_partial_costs(result.summary, store)
    return result


@renamed.renamed(think="answer_reading")
def reread(
    directory: str | os.PathLike[str],
    *,
    answer_reading: AnswerReading | None = None,
    equivalence: Equivalence | None = None,
    answer_regex: str | None = None,
    answer_reader: AnswerReader | None = None,
) -> Reread | None:
    """Read the stored texts of a run again, by today's rules or by what is given, and write its answers, scores and
    exports anew; needs no model. Where the folder holds the run with shuffled prefixes too, that is read the same way.

    Args:
        directory: a results folder that `evaluate` made.
        think, equivalence, answer_regex: as in `SIAConfig`; None leaves the run's own, an empty answer_regex goes back
            to the rules. They become the run's settings.
        answer_reader: as in `evaluate`.

    Returns: how many answers changed; None where the answers are read that way already.

    Raises FastsiaError: no such run; it is damaged, or being written; its answers were read by a function that is not
    given.
    """
    path = Path(directory)
    if not (path / DATABASE).is_file():
        raise FastsiaError(f"results folder {str(path)!r} holds no run ({DATABASE}).")
    given = {"answer_reading": answer_reading, "equivalence": equivalence, "answer_regex": answer_regex}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if answer_regex == "" or (answer_reader is not None and answer_regex is None):
        changes["answer_regex"] = None
    found = _reread(path, changes, answer_reader)
    shuffled = path / SHUFFLED
    if (shuffled / DATABASE).is_file() and not shuffled.is_symlink():
        _reread(shuffled, changes, answer_reader)
    if found is not None:
        load(path).save(path)
    return found


def _reread(path: Path, changes: dict[str, Any], answer_reader: AnswerReader | None) -> Reread | None:
    store = Store(path / DATABASE)
    stored = store.reading() or {}
    reading = Reading(as_config(stored_config(store), changes), answer_reader)
    if stored.get("answer_reader") and answer_reader is None and "answer_regex" not in changes:
        if not changes:
            return None
        raise FastsiaError(
            f"the answers of {path} were read by the function {stored['answer_reader']}, which is not stored: give it "
            "to fastsia.reread as answer_reader, or another reader as answer_regex."
        )
    facts = reading.facts()
    if stored == facts and (reading.grouping is None or not store.num_ungrouped()):
        return None
    store.check()
    identity = store.identity()
    identity["config"] = dataclasses.asdict(reading.config)
    vocabulary = store.vocabulary()
    with StoreWriter(path, identity, vocabulary) as writer:
        return renew(writer, reading, vocabulary, identity)


def _notes_of_reading(store: Store, config: SIAConfig) -> list[str]:
    """What to mind of how the stored answers were read."""
    stored, wanted = store.reading(), Reading(config).facts()
    again = f"; `fastsia report {store.path.parent}` reads the stored texts again."
    if stored is None:
        return [f"How the answers of this run were read is not known{again}"]
    if stored.get("answer_reader"):
        wanted |= {name: stored.get(name) for name in ("rules", "answer_reader")}
    notes = []
    differing = [
        f"{name} {stored.get(name)}, now {value}" for name, value in wanted.items() if stored.get(name) != value
    ]
    if differing:
        notes.append(f"The answers of this run were read in another way ({'; '.join(differing)}){again}")
    elif config.equivalence != "spelling" and (number := store.num_ungrouped()):
        notes.append(f"The answers of {number:,} trajectories are grouped by their spelling only{again}")
    if config.equivalence != "spelling" and not store.has_format("boxed"):
        notes.append(
            f"equivalence={config.equivalence!r} changes nothing here: it compares boxed answers, and this run's are "
            "numbers or options, which have one spelling each."
        )
    if late := store.num_late_comparisons():
        notes.append(f"{late:,} comparisons of two answers by Math-Verify took too long: these count as different.")
    stopped = store.num_stopped_at_answer()
    if stopped and (stored.get("answer_regex") or stored.get("answer_reader")):
        notes.append(
            f"{stopped:,} rollouts were stopped early at an answer that fastsia's rules had read; what this run's own "
            "reader would have found after it was never drawn."
        )
    return notes


_NOTE_ON_CORRECT = (
    "The table has no column 'correct': a trajectory counts as correct where the most frequent answer at its last "
    "checkpoint is the gold answer. Accuracy, and what is split by outcome, follow from that."
)


def analyze(
    rollouts: pd.DataFrame | str | os.PathLike[str], *, config: SIAConfig | Mapping[str, Any] | None = None
) -> SIAResult:
    """Score any table of rollouts, a frame or a file (.parquet, .csv, .jsonl), one row a rollout.

    Columns: problem_id, trajectory, checkpoint, rollout, answer (None = null), gold; `correct` optional (else: the mode
    at the last checkpoint is the gold answer); finish_reason optional ("error" rows are dropped and counted, those that
    the token limit ended have no answer in the strict reading). With answer_strict and answer_lenient,
    `answer_reading` of the
    config says which is scored; without it, or where `answer` is another than both, `answer` is.
    """
    if not isinstance(rollouts, (pd.DataFrame, str, os.PathLike)):
        raise FastsiaError(f"rollouts must be a DataFrame or the path of a table, got {type(rollouts).__name__}.")
    frame = rollouts if isinstance(rollouts, pd.DataFrame) else read_table(rollouts)
    settings = as_config(config)
    if (config is None or (isinstance(config, Mapping) and "answer_reading" not in config)) and (
        own := reading_of(frame)
    ):
        settings = dataclasses.replace(settings, answer_reading=own)
    found = analyze_rollouts(frame, config=settings)
    summary = found.summary | {"config": dataclasses.asdict(settings), "version": __version__}
    if "correct" not in frame:
        summary["warnings"] = [*summary["warnings"], _NOTE_ON_CORRECT]
    return SIAResult(
        summary,
        _plain(found.trajectories),
        _plain(found.checkpoints),
        _plain(found.curves),
        {name: _plain(table) for name, table in found.tables.items()},
        _rollouts=frame,
        _source=None if isinstance(rollouts, pd.DataFrame) else Path(rollouts).resolve(),
    )


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """A table from a .parquet, .csv or .jsonl file; in text files an empty answer is null and answers stay text."""
    file = Path(path)
    if not file.is_file():
        raise FastsiaError(f"table {str(file)!r} is not a file.")
    texts = {"problem_id": str, "answer": str, "gold": str}
    try:
        match file.suffix.lower():
            case ".parquet":
                return pd.read_parquet(file)
            case ".csv":
                # pandas would call the second of a name "name.1".
                header = pd.read_csv(file, header=None, nrows=1, dtype=str, keep_default_na=False)
                require_single(header.iloc[0], f"table {str(file)!r}")
                return pd.read_csv(file, dtype=texts, keep_default_na=False, na_values=[""])
            case ".jsonl" | ".ndjson":
                return pd.DataFrame([dict(row.fields) for row in read_records(file)])
    except FastsiaError:
        raise
    except Exception as error:  # the readers of a damaged file raise whatever they come upon
        raise FastsiaError(f"table {str(file)!r} cannot be read: {' '.join(str(error).split())}") from error
    raise FastsiaError(f"table {str(file)!r} must be .parquet, .csv or .jsonl.")


def folder_name(name: str) -> str:
    """A task's or a model's name as the name of one folder, which never leads out of the one it is in."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "run"


def stored_config(store: Store) -> SIAConfig:
    """The settings that a run was started with."""
    config: Any = store.identity()["config"]
    if not isinstance(config, Mapping):
        raise FastsiaError(f"{store.path} holds no settings: config is {config!r:.60}.")
    try:
        return as_config(renamed.current(config))
    except FastsiaError as error:
        raise FastsiaError(f"{store.path} is not of this version of fastsia: {error}") from error


# --- scoring ---------------------------------------------------------------------------------------------------


def score(store: Store, config: SIAConfig, run: Mapping[str, Any], warnings: Sequence[str], holds: Any) -> SIAResult:
    stored = store.trajectories()
    failed = stored["finish_reason"] == "error"
    if len(stored) == 0:
        raise FastsiaError(f"{store.path} holds no finished problem yet.")
    if failed.all():
        raise FastsiaError(f"every trajectory failed; the first: {stored['error'].iloc[0]}.")
    table, readings = _encode(store, config)
    whole = stored[~failed]
    ends = Ends("trajectories", (whole["finish_reason"] == "length").to_numpy(), whole["num_tokens"].to_numpy(np.int64))
    traces = _token_traces(store, stored, table)
    found = analyze_table(table, config, readings=readings, traces=traces, ends=ends)
    notes = [*warnings, *_notes_of_reading(store, config)]
    result = SIAResult(
        summary=_summary(store, stored, found, config, run, notes),
        trajectories=_join(stored, found),
        checkpoints=_plain(found.checkpoints),
        curves=_plain(found.curves),
        tables={name: _plain(table) for name, table in found.tables.items()},
        _store=store,
        _holds=holds,
    )
    _add_shuffled(result, store)
    _add_forced(result, store)
    return result


def forget_partial_costs(summary: dict[str, Any], store: Store) -> None:
    """A killed run wrote down no cost, and what was damaged is drawn twice: rows of another number of problems than
    are stored are no measure of their tokens."""
    if summary["num_computed_problems"] != store.num_problems():
        summary["row_steps"] = summary["merge_factor"] = None


def read_forced(directory: Path) -> pd.DataFrame | None:
    """The forced answers that a folder holds, one row a checkpoint and scorer."""
    path = directory / FORCED
    if not path.is_file() or path.is_symlink():
        return None
    return _read_back(path, "forced")


def _add_forced(result: SIAResult, store: Store) -> None:
    forced = read_forced(store.path.parent)
    if forced is not None:
        config = stored_config(store)
        found = forced_table(
            forced, result.checkpoints, result.trajectories, num_resamples=config.num_bootstrap, seed=config.seed
        )
        result.tables["forced_answers"] = _plain(found)


def _add_shuffled(result: SIAResult, store: Store) -> None:
    """The table of the run beside its ablation with shuffled prefixes, where its folder holds that."""
    folder = store.path.parent / SHUFFLED
    if not (folder / DATABASE).is_file() or folder.is_symlink():
        return
    before, after = flatten(store.identity()), flatten(Store(folder / DATABASE).identity())
    before, after = with_defaults(before, after), with_defaults(after, before)
    after["model.name"] = before["model.name"]  # the fingerprint says whether it is the same
    expected = before | {"config.shuffle_prefix": True}
    changed = [key for key in expected if after.get(key) != expected[key]]
    if changed:
        note = f"{folder} is not this run with shuffled prefixes ({', '.join(changed)} differ) and is left out."
        warnings = result.summary.setdefault("warnings", [])
        if note not in warnings:
            warnings.append(note)
        return
    try:
        shuffled = load(folder)
    except FastsiaError:  # nothing finished yet
        return
    config = stored_config(store)
    result.tables["shuffled_prefix"] = _plain(
        shuffled_table(result.trajectories, shuffled.trajectories, num_resamples=config.num_bootstrap, seed=config.seed)
    )


def _encode(store: Store, config: SIAConfig) -> tuple[RolloutTable, dict[str, RolloutTable]]:
    """The rollouts as arrays, and with their other answers; the frame they come from is several times as large."""
    columns = store.rollout_columns()
    if config.shuffle_prefix:
        columns = columns.drop(columns="ride_tokens")
    return encode(columns), encode_readings(columns)


def _token_traces(store: Store, stored: pd.DataFrame, table: RolloutTable) -> TokenTraces | None:
    """The token entropies of the trajectories that the table of rollouts has; None where none were recorded (a server
    gives none: NaN)."""
    rows = {key: row for row, key in enumerate(zip(stored["problem_id"], stored["trajectory"], strict=True))}
    ids = table.problem_ids[table.problem_of_trajectory]
    order = [rows[key] for key in zip(ids.tolist(), table.trajectory.tolist(), strict=True)]
    given = stored["token_entropies"].iloc[order]
    recorded = [entropies if np.isfinite(entropies).all() else entropies[:0] for entropies in given]
    lengths = np.array([len(entropies) for entropies in recorded], dtype=np.int64)
    if not lengths.any():
        return None
    problems = store.problems()
    kinds = zip(problems["format"], problems["choices"], problems["starts_in_think"], strict=True)
    reading = reading_options(stored_config(store))
    specs = dict(zip(problems["problem_id"], (Spec.of(*kind, **reading) for kind in kinds), strict=True))
    vocabulary = store.vocabulary()
    texts = zip(stored["problem_id"].iloc[order], stored["token_ids"].iloc[order], strict=True)
    answer = [answer_token(vocabulary, token_ids, specs[problem]) for problem, token_ids in texts]
    return TokenTraces(
        np.concatenate(recorded),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.array([-1 if token is None else token for token in answer], dtype=np.int64),
    )


def _summary(
    store: Store,
    stored: pd.DataFrame,
    found: Analysis,
    config: SIAConfig,
    run: Mapping[str, Any],
    warnings: Sequence[str],
) -> dict[str, Any]:
    counters: Mapping[str, Any] = run.get("counters", {})
    failed = int((stored["finish_reason"] == "error").sum())
    notes = [*warnings, *found.summary["warnings"]]
    if failed:
        first = stored.loc[stored["finish_reason"] == "error"].iloc[0]
        notes.append(f"{failed} trajectories failed and are left out; the first: {first['error']}.")
    return {
        "model": run.get("model"),
        "task": run.get("task"),
        "backend": run.get("backend"),
        **{key: value for key, value in found.summary.items() if key not in ("ci", "warnings")},
        "num_failed_trajectories": failed,
        "num_truncated_trajectories": int((stored["finish_reason"] == "length").sum()),
        "mean_trajectory_tokens": float(stored.loc[stored["finish_reason"] != "error", "num_tokens"].mean()),
        **store.null_rates(),
        "reading": store.reading(),
        "ci": found.summary["ci"],
        "generated_tokens": store.generated_tokens(),
        "num_stopped_at_answer": store.num_stopped_at_answer(),
        "row_steps": counters.get("row_steps"),
        "merge_factor": counters.get("merge_factor"),
        "seconds": run.get("seconds"),
        "num_computed_problems": run.get("num_computed_problems"),
        "num_cut_prompts": run.get("num_cut_prompts"),
        "counters": dict(counters),
        "machine": run.get("machine"),
        "config": dataclasses.asdict(config),
        "version": __version__,
        "warnings": notes,
    }


def _join(stored: pd.DataFrame, found: Analysis) -> pd.DataFrame:
    """The drawn trajectories with their scores; a trajectory that failed has none."""
    scores = found.trajectories.drop(columns=["gold", "correct"])
    frame = stored[
        [
            "problem_id",
            "trajectory",
            "prompt_token_ids",
            "token_ids",
            "text",
            "answer",
            "gold",
            "correct",
            "finish_reason",
            "num_tokens",
            "answer_strict",
            "answer_lenient",
            "seed",
            "error",
            "token_entropies",
            "logprobs",
        ]
    ]
    return _plain(frame.merge(scores, on=["problem_id", "trajectory"], how="left", sort=False))


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Texts as objects, a missing one as None: the same under every pandas, and after a trip through parquet."""
    texts = [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]
    changed = {}
    for name in texts:
        values = frame[name].astype(object)
        changed[name] = values if frame[name].dtype == object else values.where(values.notna(), None)
    return frame.assign(**changed)


# --- reading results -------------------------------------------------------------------------------------------


def read_summary(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return None  # it can always be made again
    return found if isinstance(found, dict) else None


def _exports_are_current(path: Path) -> bool:
    exports = [path / "summary.json", *(path / f"{name}.parquet" for name in _TABLES)]
    sources = [path / DATABASE, path / f"{DATABASE}-wal"]
    if not all(export.is_file() for export in exports):
        return False
    # Reading alone may leave an empty log behind.
    newest = max(source.stat().st_mtime_ns for source in sources if source.exists() and source.stat().st_size)
    return all(export.stat().st_mtime_ns >= newest for export in exports)


def _load_exports(path: Path, summary: dict[str, Any] | None, store: Store | None) -> SIAResult:
    if summary is None:
        raise FastsiaError(f"results folder {str(path)!r} holds neither {DATABASE} nor a readable summary.json.")
    check_summary(summary, path / "summary.json", drawn=store is not None)
    names = ("trajectories", "checkpoints", "curves", *(() if store else ("rollouts",)))
    frames = {name: _read_back(path / f"{name}.parquet", name, drawn=store is not None) for name in names}
    result = SIAResult(
        summary,
        frames["trajectories"],
        frames["checkpoints"],
        frames["curves"],
        {
            name: _read_back(file, name)
            for name in tables_of_run()
            if (file := path / "tables" / f"{name}.parquet").is_file()
        },
        store,
        frames.get("rollouts"),
    )
    uneven = uneven_counts(result.checkpoints)
    if uneven is not None and uneven not in summary.setdefault("warnings", []):  # stored before there was this warning
        summary["warnings"].append(uneven)
    if store is not None:
        _add_shuffled(result, store)
        _add_forced(result, store)
    return result


def _read_back(path: Path, name: str, *, drawn: bool = False) -> pd.DataFrame:
    try:
        frame = _plain(pd.read_parquet(path))
    except Exception as error:  # the readers of a damaged file raise whatever they come upon
        raise FastsiaError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    check_table(name, frame, path, drawn=drawn)
    for column in frame.columns:
        if frame[column].dtype == object and frame[column].isna().any():
            frame[column] = frame[column].where(frame[column].notna(), None)
    return frame


# --- views for the report --------------------------------------------------------------------------------------


def _trajectory_views(store: Store, checkpoints: pd.DataFrame) -> Iterator[TrajectoryView]:
    """Every trajectory that did not fail, with one continuation's text for each distinct answer at a checkpoint."""
    from fastsia.report import AnswerView, CheckpointView, TrajectoryView, distinct_answers

    vocabulary = store.vocabulary()
    problems: dict[Any, dict[Any, Any]] = {row["problem_id"]: row for row in store.problems().to_dict("records")}
    trajectories: dict[Any, dict[Any, Any]] = {
        (row["problem_id"], row["trajectory"]): row for row in store.trajectories().to_dict("records")
    }
    points: dict[Any, pd.DataFrame] = dict(iter(checkpoints.groupby(["problem_id", "trajectory"], sort=False)))
    pieces = [vocabulary.token_bytes(i).decode("utf-8", "replace") for i in range(len(vocabulary))]
    for chunk in store.rollouts():
        for key, rollouts in chunk.groupby(["problem_id", "trajectory"], sort=False):
            row, problem, point = trajectories[key], problems[key[0]], points.get(key)
            if point is None:  # every rollout of it failed
                continue
            ids = rollouts["token_ids"].tolist()
            shown = dict(distinct_answers(rollouts["checkpoint"].to_numpy(), rollouts["answer"].tolist()))
            yield TrajectoryView(
                problem_id=row["problem_id"],
                trajectory=row["trajectory"],
                question=problem["question"],
                gold=problem["gold"],
                answer=row["answer"],
                correct=row["correct"],
                prompt=problem["prompt"],
                tokens=[pieces[i] if i < len(pieces) else "" for i in row["token_ids"].tolist()],
                token_entropies=row["token_entropies"].tolist(),
                finish_reason=row["finish_reason"],
                checkpoints=[
                    CheckpointView(
                        position=position,
                        entropy=entropy,
                        gold_surprisal=surprisal,
                        answers=[
                            AnswerView(answer, count, vocabulary.decode(ids[first]))
                            for answer, count, first in shown.get(position, ())
                        ],
                    )
                    for position, entropy, surprisal in zip(
                        point["checkpoint"].tolist(),
                        point["entropy"].tolist(),
                        point["gold_surprisal"].tolist(),
                        strict=True,
                    )
                ],
            )
