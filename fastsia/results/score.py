"""Scoring of a stored run: from its database to a summary and tables, without a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fastsia import __version__
from fastsia.answers.parts import answer_token
from fastsia.answers.spec import Spec
from fastsia.config import SIAConfig, as_config
from fastsia.errors import FastsiaError, counted
from fastsia.results.reader import Store
from fastsia.results.reading import Reading
from fastsia.sia import Analysis, TokenLogprobs, TokenTraces, analyze_table, encode_readings
from fastsia.sia.cut import Ends
from fastsia.sia.table import RolloutTable, encode
from fastsia.tasks.prompt import reading_options

# Columns of the table `trajectories`, before the scores.
_DRAWN = ["problem_id", "trajectory", "prompt_token_ids", "token_ids", "text", "answer", "gold", "correct"]
_DRAWN += ["finish_reason", "num_tokens", "answer_strict", "answer_lenient", "seed", "error"]
_DRAWN += ["token_entropies", "logprobs"]


def stored_config(store: Store) -> SIAConfig:
    """The settings that a run was started with."""
    config: Any = store.identity()["config"]
    if not isinstance(config, Mapping):
        raise FastsiaError(f"{store.path} contains no settings: config is {config!r:.60}.")
    try:
        return as_config(config)
    except FastsiaError as error:
        raise FastsiaError(f"{store.path} was written by another version of fastsia: {error}") from error


def score_store(
    store: Store, config: SIAConfig, run: Mapping[str, Any], warnings: Sequence[str]
) -> tuple[dict[str, Any], pd.DataFrame, Analysis]:
    """(the summary, the trajectories with their scores, the analysis) of a snapshot of a run.

    Args:
        store: a snapshot.
        config: the settings of the analysis.
        run: model, task, backend and costs of the run.
        warnings: notes that the summary shows before its own.
    """
    stored = store.trajectories()
    failed = stored["finish_reason"] == "error"
    if len(stored) == 0:
        raise FastsiaError(f"{store.path} contains no finished problem yet.")
    if failed.all():
        raise FastsiaError(f"every trajectory failed; the first: {stored['error'].iloc[0]}.")
    table, readings = _encode(store, config)
    whole = stored[~failed]
    ends = Ends("trajectories", (whole["finish_reason"] == "length").to_numpy(), whole["num_tokens"].to_numpy(np.int64))
    order = _order(stored, table)
    traces, logprobs = _token_traces(store, stored, order), _token_logprobs(stored, order)
    found = analyze_table(
        table,
        config,
        readings=readings,
        traces=traces,
        logprobs=logprobs,
        ends=ends,
        num_options=_num_options(store.problems()["choices"]),
        off_policy=bool((whole["finish_reason"] == "given").any()),
    )
    notes = [*store.repairs(), *warnings, *notes_of_reading(store, config), *found.summary["warnings"]]
    begun, kept = store.num_begun()
    if begun:
        notes.append(f"{begun} begun problems are not finished and left out; {kept:,} of their rollouts are stored.")
    if failed.any():
        first = stored.loc[failed, "error"].iloc[0]
        notes.append(f"{counted(failed.sum(), 'trajectory')} failed, left out of all numbers; the first: {first}.")
    summary = _summary(store, stored, found, config, run) | {"warnings": list(dict.fromkeys(notes))}
    # A failed trajectory has no scores.
    scores = found.trajectories.drop(columns=["gold", "correct"])
    joined = stored[_DRAWN].merge(scores, on=["problem_id", "trajectory"], how="left", sort=False)
    return summary, joined, found


def notes_of_reading(store: Store, config: SIAConfig) -> list[str]:
    """Warnings about how the stored answers were read."""
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
    elif config.equivalence != "spelling" and (number := store.num_without_classes()):
        notes.append(f"The answers of {counted(number, 'trajectory')} are grouped by their spelling only{again}")
    if config.equivalence != "spelling" and not store.has_format("boxed"):
        notes.append(
            f"equivalence={config.equivalence!r} changes nothing here: it compares boxed answers, and this run's are "
            "numbers or options, which have one spelling each."
        )
    if late := store.num_late_comparisons():
        notes.append(
            f"{counted(late, 'comparison')} of two answers by Math-Verify took too long; these count as different."
        )
    stopped = store.num_stopped_at_answer()
    if stopped and (stored.get("answer_regex") or stored.get("answer_reader")):
        notes.append(
            f"{counted(stopped, 'rollout')} stopped early at an answer that fastsia's rules had read; what this run's "
            "own reader would have found after it was never drawn."
        )
    return notes


def drop_partial_costs(summary: dict[str, Any], store: Store) -> None:
    """Set row_steps and merge_factor to None where the recorded costs do not cover exactly the stored problems.

    This happens where an earlier process was killed, or damaged problems were drawn twice.
    """
    if summary["num_computed_problems"] != store.num_problems():
        summary["row_steps"] = summary["merge_factor"] = None


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Text columns as dtype object with None for missing values, under every pandas and after parquet."""
    texts = [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]
    columns = {name: frame[name].astype(object) for name in texts}
    return frame.assign(**{name: column.where(column.notna(), None) for name, column in columns.items()})


def _encode(store: Store, config: SIAConfig) -> tuple[RolloutTable, dict[str, RolloutTable]]:
    """The rollouts as arrays, also for each reading. The frame is several times as large and is not kept."""
    columns = store.rollout_columns()
    if config.shuffle_prefix:
        columns = columns.drop(columns="matched_tokens")
    return encode(columns), encode_readings(columns)


def stored_table(store: Store) -> tuple[RolloutTable, TokenLogprobs | None]:
    """The rollouts of a stored run as arrays, with the log-probabilities of their trajectories' tokens."""
    table, _ = _encode(store, stored_config(store))
    stored = store.trajectories()
    return table, _token_logprobs(stored, _order(stored, table))


def _num_options(choices: pd.Series) -> int | None:
    """The most options of a problem; None unless all problems have options."""
    return None if choices.isna().any() else int(choices.map(len).max())


def _order(stored: pd.DataFrame, table: RolloutTable) -> list[int]:
    """The rows of the stored trajectories that a table of rollouts has, in its order."""
    rows = {key: row for row, key in enumerate(zip(stored["problem_id"], stored["trajectory"], strict=True))}
    ids = table.problem_ids[table.problem_of_trajectory]
    return [rows[key] for key in zip(ids.tolist(), table.trajectory.tolist(), strict=True)]


def _token_logprobs(stored: pd.DataFrame, order: list[int]) -> TokenLogprobs | None:
    """The log-probabilities of the trajectories' tokens; None if none are known."""
    given = [stored["logprobs"].iloc[row] for row in order]
    values = np.concatenate(given) if given else np.zeros(0, dtype=np.float32)
    if np.isnan(values).all():
        return None
    return TokenLogprobs(values, np.concatenate([[0], np.cumsum([len(own) for own in given])]))


def _token_traces(store: Store, stored: pd.DataFrame, order: list[int]) -> TokenTraces | None:
    """The token entropies of the trajectories; None if none were recorded.

    A server does not return them, and NaN is stored.
    """
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
    store: Store, stored: pd.DataFrame, found: Analysis, config: SIAConfig, run: Mapping[str, Any]
) -> dict[str, Any]:
    counters: Mapping[str, Any] = run.get("counters", {})
    return {
        **{name: run.get(name) for name in ("model", "task", "backend")},
        **{key: value for key, value in found.summary.items() if key not in ("ci", "warnings")},
        "num_failed_trajectories": int((stored["finish_reason"] == "error").sum()),
        "num_truncated_trajectories": int((stored["finish_reason"] == "length").sum()),
        "mean_trajectory_tokens": float(stored.loc[stored["finish_reason"] != "error", "num_tokens"].mean()),
        **store.null_rates(),
        "reading": store.reading(),
        "ci": found.summary["ci"],
        "generated_tokens": store.generated_tokens(),
        "num_stopped_at_answer": store.num_stopped_at_answer(),
        **{name: counters.get(name) for name in ("row_steps", "merge_factor")},
        **{name: run.get(name) for name in ("seconds", "num_computed_problems", "num_cut_prompts")},
        "counters": dict(counters),
        "machine": run.get("machine"),
        "provenance": run.get("provenance"),
        "config": dataclasses.asdict(config),
        "version": __version__,
    }
