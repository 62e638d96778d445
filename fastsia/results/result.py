"""The results of a run or of a table of rollouts: read from a folder, or scored again, without a model."""

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

import pandas as pd

from fastsia import __version__, renamed
from fastsia.config import AnswerReading, Equivalence, SIAConfig, as_config
from fastsia.errors import FastsiaError, counted, did_you_mean, one_line
from fastsia.files import flatten, refuse_links, write_json, write_parquet
from fastsia.models.registry import model_label
from fastsia.results.alternatives import AlternativeStore, alternative_views, read_alternatives
from fastsia.results.manifest import (
    MANIFEST,
    Manifest,
    costs_of,
    database_digest,
    digest,
    known_costs,
    read_manifest,
    read_object,
)
from fastsia.results.reader import Store, no_run
from fastsia.results.reading import AnswerReader, Reading
from fastsia.results.schema import DATABASE
from fastsia.results.score import drop_partial_costs, plain, score_store, stored_config
from fastsia.results.writer import Reread, StoreWriter, with_defaults
from fastsia.sia import (
    Analysis,
    analyze_rollouts,
    forced_stop_table,
    forced_table,
    reading_of,
    shuffled_table,
    tables_of_run,
)
from fastsia.sia.extras.steps import choose_steps
from fastsia.sia.table import require_single, storable
from fastsia.tasks.records import read_records

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

    from fastsia.report import ReportData, TrajectoryView
    from fastsia.results.trajectory import TrajectoryResult

FORCED = "forced.parquet"
"""The file of a run's folder with the log-probabilities of its answers (`fastsia.loglikelihood`). If it is there,
the results have a table `forced_answers` that compares them with the sampled answers, and `forced_stop`."""

SHUFFLED = "shuffled"
"""The folder inside a run's folder with the same run with shuffled prefixes. If it is there, the results have a table
`shuffled_prefix` that compares the two."""
_TABLES = ("problems", "trajectories", "checkpoints", "curves", "rollouts")
_FURTHER = (*tables_of_run(), "estimates")
"""The files of tables/ that a run may replace or remove; other files there are left alone."""


@dataclass(frozen=True)
class SIAResult:
    """The results of an evaluation.

    Attributes:
        summary: headline numbers, as in summary.json.
        trajectories: one row per trajectory.
        checkpoints: one row per checkpoint.
        curves: the points of every curve.
        tables: further tables by name.
        estimates: every headline number with its interval, one row each; see `fastsia.sia.Analysis`.
    """

    summary: dict[str, Any]
    trajectories: pd.DataFrame
    checkpoints: pd.DataFrame
    curves: pd.DataFrame
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    _store: Store | None = field(default=None, repr=False)
    _rollouts: pd.DataFrame | None = field(default=None, repr=False)
    _temporary: Any = field(default=None, repr=False)  # keeps a temporary folder as long as the result
    _source: Path | None = field(default=None, repr=False)  # the file that was analysed
    estimates: pd.DataFrame = field(default_factory=pd.DataFrame)

    def __repr__(self) -> str:
        names = [str(self.summary[key]) for key in ("model", "task") if self.summary.get(key)]
        what = " on ".join(names) or "table of rollouts"
        numbers = ", ".join(
            f"{name} {'undefined' if value is None else format(value, '.3f')}"
            for name, value in (("accuracy", self.summary["accuracy"]), ("rho", self.summary["rho"]["pearson"]))
        )
        return f"<SIAResult: {what}, {counted(self.summary['num_problems'], 'problem')}, {numbers}>"

    def _repr_html_(self) -> str:
        """The headline numbers as a table, as notebooks show a result."""
        from fastsia.report import as_html, headline_table

        return as_html(headline_table(self.summary, self.trajectories))

    def plot(self, figure: str = "entropy") -> Figure:
        """One figure of the report, as a matplotlib figure (a notebook shows it).

        Args:
            figure: A name of `fastsia.report.FIGURES`, with or without its "fig3_": "entropy", "rho_histogram",
                "early_stop", ...

        Raises:
            FastsiaError: There is no such figure, or the run has no numbers for it.
        """
        from fastsia.report import FIGURES, draw_one

        names = {name.partition("_")[2] if name.startswith("fig") else name: name for name in FIGURES}
        wanted = names.get(figure, figure)
        if wanted not in FIGURES:
            raise FastsiaError(f"there is no figure {figure!r}{did_you_mean(figure, [*names])}")
        drawing = draw_one(FIGURES[wanted], self.report_data())
        if drawing is None:
            raise FastsiaError(f"this run has no numbers for the figure {figure!r}.")
        return drawing.figure

    def trajectory(self, problem_id: str, trajectory: int = 0) -> TrajectoryResult:
        """One trajectory: its row, its checkpoints, its rollouts with their texts, and `plot()`.

        Args:
            problem_id: As in `trajectories`.
            trajectory: Number of the trajectory of this problem.

        Raises:
            FastsiaError: There is no such trajectory.
        """
        from fastsia.results.trajectory import TrajectoryResult

        self.check_problem(problem_id)
        return TrajectoryResult.of(self, problem_id, trajectory)

    @cached_property
    def rollouts(self) -> pd.DataFrame:
        """One row per rollout: problem_id, trajectory, checkpoint, rollout, answer (None = null), token_ids, ...

        Read when first used.
        """
        if self._rollouts is not None:
            return self._rollouts
        chunks = list(self._chunks())
        return pd.concat(chunks, ignore_index=True) if chunks else pd.DataFrame()

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write the database, summary.json, the parquet tables and manifest.json to a folder that `load` reads.

        Raises:
            FastsiaError: the folder contains another run, a link, or the file that was analysed.
        """
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        refuse_links(path, (DATABASE, "summary.json", MANIFEST, *(f"{name}.parquet" for name in _TABLES)))
        database = path / DATABASE
        if database.exists() and (self._store is None or database.resolve() != self._store.path.resolve()):
            raise FastsiaError(f"{path} contains a run already; save to another folder.")
        self._spare_source(path, path / "tables", path / "figures")
        state = None if self._store is None else self._store.digest
        if self._store is not None and not database.exists():
            self._store.copy_to(database)
            # The copy has later problems too if the run went on since it was scored.
            state = database_digest(database) if state == database_digest(self._store.path) else None
        if self._store is None:  # tables of two analyses are no result, and no database says which are newer
            for name in ("summary.json", MANIFEST):
                (path / name).unlink(missing_ok=True)
        further = self.tables | ({} if self.estimates.empty else {"estimates": self.estimates})
        written = self._write_tables(path) + write_tables(path / "tables", further, _FURTHER)
        write_json(path / "summary.json", self.summary)
        files = {str(file.relative_to(path)): digest(file) for file in (path / "summary.json", *written)}
        Manifest(state, files, known_costs(self.summary)).write(path)
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

    def steps(self, problem_id: str | None = None, most: int | None = None) -> pd.DataFrame:
        """The steps between checkpoints, the most decisive first, with their texts and what rollouts wrote instead.

        Args:
            problem_id: Of this problem only; None: of all.
            most: At most so many rows; None: all. Each row costs a look at its trajectory's rollouts.

        Returns:
            The columns of `checkpoints` for steps (step_...), and those of `results.steps.read_steps` where the run's
            database is at hand.

        Raises:
            FastsiaError: There is no such problem, no step, or the prefixes are shuffled.
        """
        from fastsia.results.steps import read_steps

        self.check_problem(problem_id)
        checkpoints = self.checkpoints
        if problem_id is not None:
            checkpoints = checkpoints[checkpoints["problem_id"] == problem_id]
        found = choose_steps(checkpoints, len(checkpoints) if most is None else most)
        if found.empty:
            raise FastsiaError("There is no step: that takes two checkpoints of one trajectory, not shuffled.")
        if self._store is None:
            return found.reset_index(drop=True)
        with self._store.snapshot() as store:
            return read_steps(store, found)

    def forks(self, problem_id: str | None = None) -> pd.DataFrame:
        """Tokens in whose place rollouts wrote another one, with the answers of both: `results.forks.read_forks`.

        Raises:
            FastsiaError: There is no such problem, the prefixes are shuffled, or there is no database of the run.
        """
        from fastsia.results.forks import read_forks

        if self._store is None:
            raise FastsiaError(f"Forking tokens need a run's tokens, which only {DATABASE} has.")
        self.check_problem(problem_id)
        with self._store.snapshot() as store:
            return read_forks(store, problem_id)

    def check_problem(self, problem_id: str | None) -> None:
        known = self.trajectories["problem_id"].unique().tolist()
        if problem_id is not None and problem_id not in known:
            raise FastsiaError(f"the run has no problem {problem_id!r}{did_you_mean(problem_id, known, otherwise='.')}")

    def to_lm_eval(self, directory: str | os.PathLike[str]) -> Path:
        """Write results_DATE.json and samples_TASK_DATE.jsonl, as lm-evaluation-harness does; the results file."""
        from fastsia.results.exports import write_lm_eval

        if self._store is None:
            raise FastsiaError(f"lm-eval's files need a run's prompts and texts, which only {DATABASE} has.")
        finished = datetime.fromtimestamp(self._store.path.stat().st_mtime)
        return write_lm_eval(Path(directory), self.summary, self._store.problems(), self.trajectories, finished)

    def to_datasets(self, directory: str | os.PathLike[str]) -> Path:
        """Write a folder that `datasets.load_dataset` reads: README.md, and a table each in data/; the folder."""
        from fastsia.results.exports import write_card

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

    def to_datatree(self) -> xarray.DataTree:
        """The numbers as an xarray DataTree, for labelled selection, netCDF and Zarr; needs the package xarray.

        Groups: `checkpoints`, every number of `checkpoints` by trajectory and by the number of the checkpoint, with
        `position` in tokens, whatever the spacing (NaN after a trajectory's last checkpoint); `trajectories`, every
        number of `trajectories`; `curves`, value, low, high, se and count by curve, group, axis and position. There are
        no dimensions chain and draw: rollouts are counts of answers, not draws of a posterior.

        Raises:
            FastsiaError: xarray is not installed.
        """
        from fastsia.results.datatree import to_datatree

        return to_datatree(self)

    def report_data(self) -> ReportData:
        """The data of reports and figures. Its views, the texts to read, can be iterated once."""
        from fastsia.report import ReportData, decisive_steps
        from fastsia.results.steps import step_texts

        texts = {}
        steps = decisive_steps(self.checkpoints)
        if self._store is not None and len(steps):
            with self._store.snapshot() as store:
                texts = step_texts(store, steps)
        return ReportData(
            self.summary, self.trajectories, self.checkpoints, self.curves, self.tables, self._views(), texts
        )

    def _spare_source(self, *folders: Path) -> None:
        """Refuse to write over the file that was analysed."""
        source = self._source
        if source is None or source.suffix != ".parquet" or source.parent not in [path.resolve() for path in folders]:
            return
        if source.parent.name == "figures" or source.stem in (*_TABLES, *_FURTHER, *self.tables):
            raise FastsiaError(f"{source} was analysed and would be written over; use another output folder.")

    def _write_tables(self, path: Path) -> list[Path]:
        tables: dict[str, Any] = {
            "trajectories": self.trajectories,
            "checkpoints": self.checkpoints,
            "curves": self.curves,
            "rollouts": self._chunks(),
        }
        if self._store is not None:
            tables["problems"] = self._store.problems()
        return [write_parquet(path / f"{name}.parquet", table) for name, table in tables.items()]

    def texts(self, problem_id: str | None = None) -> pd.DataFrame:
        """The rollouts with the column `text`, decoded from their tokens.

        Args:
            problem_id: Of this problem only; None: of all, which may be large.

        Raises:
            FastsiaError: The result has no database, or no such problem.
        """
        if self._store is None:
            raise FastsiaError(f"texts of rollouts need a run's tokens, which only {DATABASE} has.")
        self.check_problem(problem_id)
        with self._store.snapshot() as store:
            vocabulary, parts = store.vocabulary(), []
            for chunk in store.rollouts():
                part = chunk if problem_id is None else chunk[chunk["problem_id"] == problem_id]
                parts.append(part.assign(text=[vocabulary.decode(ids) for ids in part["token_ids"]]))
        return pd.concat(parts, ignore_index=True)

    def _chunks(self) -> Iterator[pd.DataFrame]:
        if self._store is not None:
            yield from self._store.rollouts()
        elif self._rollouts is not None:
            yield storable(self._rollouts)

    def _views(self) -> Iterator[TrajectoryView]:
        from fastsia.report.views import trajectory_views

        if self._store is not None:
            with self._store.snapshot() as store:
                yield from trajectory_views(store, self.checkpoints, alternative_views(store))


def write_tables(directory: Path, tables: Mapping[str, pd.DataFrame], own: Sequence[str]) -> list[Path]:
    """Write each table as NAME.parquet, and remove the files of `own` names that are not among the tables."""
    refuse_links(directory.parent, (directory.name,))
    if tables:
        directory.mkdir(parents=True, exist_ok=True)
    for name in own:
        if name not in tables:
            (directory / f"{name}.parquet").unlink(missing_ok=True)
    return [write_parquet(directory / f"{name}.parquet", table) for name, table in tables.items()]


def load(directory: str | os.PathLike[str]) -> SIAResult:
    """The results in a folder, whether its run is finished or not. No model is needed.

    The exported files are read if manifest.json says that they are of this version of fastsia and of the database as it
    is now. If not, the database is scored again.

    Raises:
        FastsiaError: the folder has no results, or they are damaged.
    """
    path = Path(directory)
    if not path.is_dir():
        raise no_run(path, "")
    manifest = read_manifest(path)
    if manifest is not None and manifest.version != __version__:
        manifest = None
    if not (path / DATABASE).exists():
        return _analyze_again(path) if manifest is None else _read_exports(path, manifest, None)
    with Store(path / DATABASE).snapshot() as store:
        # The digest is of before the snapshot: a problem that was added in between is not in the exports.
        if manifest is not None and manifest.database == store.digest == database_digest(store.path):
            with suppress(FastsiaError):  # a file was changed since: what it says is in the database
                return _read_exports(path, manifest, store)
        store.check()
        identity = store.identity()
        name = model_label(identity["model"]["name"], identity["model"].get("peft"))
        costs, notes = costs_of(path)
        run = {"model": name, "task": identity["task"], "backend": identity["backend"], **costs}
        result = score(store, stored_config(store), run, notes)
        drop_partial_costs(result.summary, store)
    return result


def score(
    store: Store, config: SIAConfig, run: Mapping[str, Any], warnings: Sequence[str], temporary: Any = None
) -> SIAResult:
    """Score a snapshot of a run. Arguments as `score_store`; temporary: kept as long as the result."""
    summary, trajectories, found = score_store(store, config, run, warnings)
    result = _result(summary, trajectories, found, _store=store, _temporary=temporary)
    _add_companions(result, store)
    return result


def _result(summary: dict[str, Any], trajectories: pd.DataFrame, found: Analysis, **sources: Any) -> SIAResult:
    return SIAResult(
        summary,
        plain(trajectories),
        plain(found.checkpoints),
        plain(found.curves),
        {name: plain(table) for name, table in found.tables.items()},
        estimates=plain(found.estimates),
        **sources,
    )


def reread(
    directory: str | os.PathLike[str],
    *,
    answer_reading: AnswerReading | None = None,
    equivalence: Equivalence | None = None,
    answer_regex: str | None = None,
    answer_reader: AnswerReader | None = None,
) -> Reread | None:
    """Read the stored texts of a run again, by the installed version's rules or as given, and write its answers, scores
    and exports again. No model is needed. A run with shuffled prefixes in the folder is read the same way.

    Args:
        directory: a results folder that `evaluate` made.
        answer_reading, equivalence, answer_regex: as in `SIAConfig`; they become the run's settings. None keeps the
            run's own, an empty answer_regex goes back to the rules.
        answer_reader: as in `evaluate`.

    Returns:
        How many answers changed; None if the answers are read that way already.

    Raises:
        FastsiaError: no such run; it is damaged or being written; its answers were read by a function that is not
            given.
    """
    path = Path(directory)
    if not (path / DATABASE).is_file():
        raise FastsiaError(f"results folder {str(path)!r} contains no run ({DATABASE}).")
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
    if stored == facts and (reading.find_classes is None or not store.num_without_classes()):
        return None
    store.check()
    identity = store.identity()
    identity["config"] = dataclasses.asdict(reading.config)
    vocabulary = store.vocabulary()
    with StoreWriter(path, identity, vocabulary) as writer:
        return reading.reread(writer, vocabulary, identity)


_NOTE_ON_CORRECT = (
    "The table has no column 'correct': a trajectory counts as correct where the most frequent answer at its last "
    "checkpoint is the gold answer. Accuracy, and what is split by outcome, follow from that."
)


def analyze(
    rollouts: pd.DataFrame | str | os.PathLike[str], *, config: SIAConfig | Mapping[str, Any] | None = None
) -> SIAResult:
    """Score any table of rollouts, a frame or a file (.parquet, .csv, .jsonl), one row per rollout.

    Columns: problem_id, trajectory, checkpoint, rollout, answer (None = null), gold. Optional: correct (without it, a
    trajectory is correct if the mode at its last checkpoint is the gold answer); finish_reason ("error" rows are
    dropped and counted, and those that the token limit ended have no answer in the strict reading). With answer_strict
    and answer_lenient, `answer_reading` of the config says which is scored. Without it, or if `answer` equals neither
    of them, `answer` is.
    """
    if not isinstance(rollouts, (pd.DataFrame, str, os.PathLike)):
        raise FastsiaError(f"rollouts must be a DataFrame or the path of a table, got {type(rollouts).__name__}.")
    frame = rollouts if isinstance(rollouts, pd.DataFrame) else read_table(rollouts)
    given = renamed.accept(config) if isinstance(config, Mapping) else {}
    settings = as_config(given if isinstance(config, Mapping) else config)
    own = reading_of(frame)
    if own and (config is None or (isinstance(config, Mapping) and "answer_reading" not in given)):
        settings = dataclasses.replace(settings, answer_reading=own)
    found = analyze_rollouts(frame, config=settings)
    summary = found.summary | {"config": dataclasses.asdict(settings), "version": __version__}
    if "correct" not in frame:
        summary["warnings"] = [*summary["warnings"], _NOTE_ON_CORRECT]
    source = None if isinstance(rollouts, pd.DataFrame) else Path(rollouts).resolve()
    return _result(summary, found.trajectories, found, _rollouts=frame, _source=source)


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """A table from a .parquet, .csv or .jsonl file. In text files an empty answer is null, and answers stay text."""
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
    except Exception as error:  # readers of a damaged file raise errors of any type
        raise FastsiaError(f"table {str(file)!r} cannot be read: {one_line(error)}") from error
    raise FastsiaError(f"table {str(file)!r} must be .parquet, .csv or .jsonl.")


def folder_name(name: str) -> str:
    """A task's or a model's name as the name of one folder, which never leads out of the one it is in."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "run"


# --- exported files --------------------------------------------------------------------------------------------


def _read_exports(path: Path, manifest: Manifest, store: Store | None) -> SIAResult:
    def own(name: str) -> Path:
        if manifest.files.get(name) != digest(path / name):
            raise FastsiaError(f"{path / name} cannot be read: its content is not what fastsia wrote.")
        return path / name

    summary = json.loads(own("summary.json").read_text(encoding="utf-8"))
    names = ("trajectories", "checkpoints", "curves", *(() if store else ("rollouts",)))
    frames = {name: _read_parquet(own(f"{name}.parquet")) for name in names}
    tables = {Path(name).stem: _read_parquet(own(name)) for name in manifest.files if name.startswith("tables/")}
    estimates = tables.pop("estimates", pd.DataFrame())
    parts: dict[str, Any] = {name: frame for name, frame in frames.items() if name != "rollouts"}
    kept: dict[str, Any] = {"_store": store, "_rollouts": frames.get("rollouts"), "estimates": estimates}
    result = SIAResult(summary, tables=tables, **parts, **kept)
    if store is not None:
        _add_companions(result, store)
    return result


def _analyze_again(path: Path) -> SIAResult:
    """The results of a folder without a database whose exports are of another version."""
    summary = read_object(path / "summary.json")
    if not summary:
        raise no_run(path, f"contains neither {DATABASE} nor a readable summary.json")
    stored = summary.get("config")
    config = renamed.current(stored) if isinstance(stored, Mapping) else {}
    known = {field.name: config[field.name] for field in dataclasses.fields(SIAConfig) if field.name in config}
    result = analyze(path / "rollouts.parquet", config=known)
    names = {name: summary[name] for name in ("model", "task", "backend") if isinstance(summary.get(name), str)}
    return dataclasses.replace(result, summary=names | result.summary | known_costs(summary), _source=None)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return plain(pd.read_parquet(path))
    except Exception as error:  # readers of a damaged file raise errors of any type
        raise FastsiaError(f"{path} cannot be read: {one_line(error)}") from error


# --- tables of what else is in a run's folder ------------------------------------------------------------------

_FORCED_TEXTS = ("problem_id", "scorer", "mode")
_FORCED_NUMBERS = ("trajectory", "checkpoint", "gold_logprob", "entropy", "mass", "num_candidates", "num_tokens")


def read_forced(directory: Path) -> pd.DataFrame | None:
    """The log-probabilities of answers in a folder, one row per checkpoint and scorer; None if there are none."""
    path = directory / FORCED
    if not path.is_file() or path.is_symlink():
        return None
    frame = _read_parquet(path)
    for name in (*_FORCED_TEXTS, *_FORCED_NUMBERS):
        if name not in frame:
            raise FastsiaError(f"{path} lacks column {name!r}.")
        is_text = pd.api.types.infer_dtype(frame[name], skipna=True) in ("string", "empty")
        is_number = frame[name].dtype.kind in "iuf" or frame[name].isna().all()
        if not (is_text if name in _FORCED_TEXTS else is_number):
            raise FastsiaError(f"{path}: column {name!r} must be {'text' if name in _FORCED_TEXTS else 'numbers'}.")
    return frame


def _add_companions(result: SIAResult, store: Store) -> None:
    """Add the tables of what else is in a run's folder: shuffled prefixes, forced answers, alternatives."""
    config = stored_config(store)
    settings = {"num_resamples": config.num_bootstrap, "seed": config.seed}
    shuffled = _shuffled(result, store)
    if shuffled is not None:
        found = shuffled_table(result.trajectories, shuffled.trajectories, **settings)
        result.tables["shuffled_prefix"] = plain(found)
    forced = read_forced(store.path.parent)
    if forced is not None:
        for name, make in (("forced_answers", forced_table), ("forced_stop", forced_stop_table)):
            result.tables[name] = plain(make(forced, result.checkpoints, result.trajectories, **settings))
    if AlternativeStore(store.path.parent).exists:
        drawn = read_alternatives(store)
        if len(drawn):
            result.tables["alternatives"] = plain(drawn)


def _shuffled(result: SIAResult, store: Store) -> SIAResult | None:
    folder = store.path.parent / SHUFFLED
    if not (folder / DATABASE).is_file() or folder.is_symlink():
        return None
    before, after = flatten(store.identity()), flatten(Store(folder / DATABASE).identity())
    before, after = with_defaults(before, after), with_defaults(after, before)
    after["model.name"] = before["model.name"]  # the fingerprint says whether it is the same
    expected = before | {"config.shuffle_prefix": True}
    changed = [key for key in expected if after.get(key) != expected[key]]
    if not changed:
        with suppress(FastsiaError):  # nothing finished yet
            return load(folder)
        return None
    note = f"{folder} is not this run with shuffled prefixes ({', '.join(changed)} differ) and is left out."
    warnings = result.summary.setdefault("warnings", [])
    if note not in warnings:
        warnings.append(note)
    return None
