"""What a run's exported files must hold to be read back: a folder may be damaged, of others, or of another version."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fastsia.config import SIAConfig, integer, real
from fastsia.errors import FastsiaError
from fastsia.store import SET_ASIDE


@dataclass(frozen=True)
class _Kind:
    """says: what a value must be, for the sentence. fits: whether it is."""

    says: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class _Maybe:
    """May be absent or null."""

    shape: Any


def is_count(value: Any) -> bool:
    """Whether a value out of JSON is a number of things."""
    number = integer(value)
    return number is not None and 0 <= number < 1 << 63


def _is_number(value: Any) -> bool:
    return math.isfinite(real(value))


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def _is_config(value: Any) -> bool:
    try:  # a field of another version says nothing here
        SIAConfig(**{name: value[name] for name in SIAConfig.__dataclass_fields__ if name in value})
    except (FastsiaError, TypeError):
        return False
    return isinstance(value, Mapping)


_COUNT = _Kind("a whole number", is_count)
_NUMBER = _Kind("a number or null", lambda value: value is None or _is_number(value))
_GIVEN = _Kind("a number", _is_number)
_INTERVAL = _Kind("two numbers or null", lambda value: value is None or _is_interval(value))
_TEXT = _Kind("a text", lambda value: isinstance(value, str))
_MAPPING = _Kind("an object", lambda value: isinstance(value, Mapping))
_CONFIG = _Kind("settings that fastsia takes", _is_config)

_RHO = ("pearson", "spearman", "cross_fitted", "cross_fitted_corrected", "undefined_fraction")
_MEANS = ("accuracy", "null_rate", "entropy_first", "entropy_final", "gain")
_PLATEAU = ("level", "onset", "rebound")
_OF_READING = ("accuracy", "null_rate", "entropy", "rho")
_RE_PAIRED = ("statistic", "null_mean", "p_value", "num_permutations", "num_traces")
# What a run has and a table of rollouts has not.
_OF_RUN: dict[str, Any] = {
    "model": _Maybe(_TEXT),
    "backend": _Maybe(_TEXT),
    "seconds": _Maybe(_GIVEN),
    "num_computed_problems": _Maybe(_COUNT),
    "num_cut_prompts": _Maybe(_COUNT),
    "counters": _Maybe({"row_steps": _Maybe(_COUNT), "merge_factor": _Maybe(_NUMBER)}),
    "machine": _Maybe(_MAPPING),
}
_SUMMARY: dict[str, Any] = {
    **dict.fromkeys(("num_problems", "num_trajectories", "num_checkpoints", "num_rollouts"), _COUNT),
    **dict.fromkeys(_MEANS, _NUMBER),
    "rho": dict.fromkeys(_RHO, _NUMBER),
    "auc": [
        {"position": _Kind("a number", _is_number), "auc": _NUMBER, "num_correct": _COUNT, "num_incorrect": _COUNT}
    ],
    "saturation": dict.fromkeys(_PLATEAU, _NUMBER),
    "ci": {
        **dict.fromkeys(_MEANS, _INTERVAL),
        "rho": dict.fromkeys(_RHO, _INTERVAL),
        "auc": [_INTERVAL],
        "saturation": dict.fromkeys(_PLATEAU, _INTERVAL),
        "misalignment": _Maybe(_INTERVAL),
    },
    "version": _TEXT,
    "warnings": [_TEXT],
    "config": _CONFIG,
    **_OF_RUN,
    "task": _Maybe(_TEXT),
    "generated_tokens": _Maybe(_COUNT),
    "row_steps": _Maybe(_COUNT),
    **dict.fromkeys(("merge_factor", "mean_trajectory_tokens", "misalignment", "fano_num_answers"), _Maybe(_NUMBER)),
    "forking_threshold": _Maybe({"run": _GIVEN}),
    "num_cut_rollouts": _Maybe(_COUNT),
    "cut_rate": _Maybe(_NUMBER),
    "readings": _Maybe({name: dict.fromkeys(_OF_READING, _NUMBER) for name in ("strict", "lenient")}),
    "reading": _Maybe(_MAPPING),
    "repairing_test": _Maybe(dict.fromkeys(_RE_PAIRED, _GIVEN)),
}


def check_summary(summary: Mapping[str, Any], file: Any, *, drawn: bool) -> None:
    """Raises FastsiaError, naming the file and the field, where a summary is not one that the report can show. drawn:
    it is a run's."""
    wrong = _misfit(summary, _SUMMARY, "") or _disagreement(summary) or (_absence(summary) if drawn else None)
    if wrong is not None:
        raise FastsiaError(f"{file}: {wrong[0]} must be {wrong[1]}.")


def _disagreement(summary: Mapping[str, Any]) -> tuple[str, str] | None:
    if len(summary["ci"]["auc"]) != len(summary["auc"]):
        return "ci.auc", "as long as auc"
    if summary.get("row_steps") and summary.get("merge_factor") is None:
        return "merge_factor", "a number where row_steps is"
    return None


def _absence(summary: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first field of a run that is not there."""
    fields = [name for name in ("model", "task") if not summary.get(name)]
    fields += [name for name in _OF_RUN if name not in summary]
    fields += [f"config.{name}" for name in SIAConfig.__dataclass_fields__ if name not in summary["config"]]
    return (fields[0], "there") if fields else None


def facts_of_run(summary: Mapping[str, Any] | None) -> dict[str, Any]:
    """What only a summary says of a run, costs above all, as far as it is what it should be."""
    return {
        name: summary[name]
        for name, shape in _OF_RUN.items()
        if summary is not None and summary.get(name) not in (None, "") and _misfit(summary[name], shape, name) is None
    }


def notes_of_damage(summary: Mapping[str, Any] | None) -> list[str]:
    """What a summary says of databases that were set aside: no later one finds it out again."""
    notes = (summary or {}).get("warnings")
    return [note for note in notes if _TEXT.fits(note) and SET_ASIDE in note] if isinstance(notes, list) else []


def _misfit(value: Any, shape: Any, name: str) -> tuple[str, str] | None:
    """(the first field that does not fit, what it must be)."""
    if isinstance(shape, _Maybe):
        return None if value is None else _misfit(value, shape.shape, name)
    if isinstance(shape, _Kind):
        return None if shape.fits(value) else (name, shape.says)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return name, "a list"
        parts = [(item, shape[0], f"{name}[{place}]") for place, item in enumerate(value)]
    else:
        if not isinstance(value, Mapping):
            return name, "an object"
        names = {key: f"{name}.{key}".strip(".") for key in shape}
        absent = next((key for key, of in shape.items() if key not in value and not isinstance(of, _Maybe)), None)
        if absent is not None:
            return names[absent], "there"
        parts = [(value.get(key), of, names[key]) for key, of in shape.items()]
    return next((wrong for part in parts if (wrong := _misfit(*part)) is not None), None)


# --- tables ----------------------------------------------------------------------------------------------------

_INTEGER_COLUMN = _Kind("whole numbers", lambda column: column.dtype.kind in "iu")
_NUMBER_COLUMN = _Kind("numbers", lambda column: column.dtype.kind in "iuf" or column.isna().all())
_KNOWN_COLUMN = _Kind(
    "numbers, none of them missing", lambda column: column.dtype.kind in "iuf" and np.isfinite(column).all()
)
_TEXT_COLUMN = _Kind("texts", lambda column: pd.api.types.infer_dtype(column, skipna=True) in ("string", "empty"))
_FLAG_COLUMN = _Kind("true or false", lambda column: pd.api.types.infer_dtype(column, skipna=True) == "boolean")


def _columns(kind: _Kind, names: str) -> dict[str, _Kind]:
    return dict.fromkeys(names.split(), kind)


_BOUNDED_RHO = _columns(
    _NUMBER_COLUMN,
    "rho_pearson rho_pearson_low rho_pearson_high rho_cross_fitted rho_cross_fitted_low rho_cross_fitted_high",
)
_TABLES: dict[str, dict[str, _Kind]] = {
    "trajectories": _columns(_TEXT_COLUMN, "problem_id gold")
    | _columns(_INTEGER_COLUMN, "trajectory")
    | _columns(_FLAG_COLUMN, "correct misaligned")
    | _columns(
        _NUMBER_COLUMN,
        "last_checkpoint rho rho_spearman rho_cross_fitted first_entropy final_entropy mean_entropy "
        "first_gold_surprisal final_gold_surprisal gain lock_in_relative",
    ),
    "checkpoints": _columns(_TEXT_COLUMN, "problem_id mode")
    | _columns(_INTEGER_COLUMN, "trajectory checkpoint num_rollouts")
    | _columns(_NUMBER_COLUMN, "entropy gold_surprisal"),
    "curves": _columns(_TEXT_COLUMN, "curve axis group")
    | _columns(_KNOWN_COLUMN, "position count")
    | _columns(_NUMBER_COLUMN, "value low high"),
    "rollouts": _columns(_TEXT_COLUMN, "problem_id answer gold")
    | _columns(_NUMBER_COLUMN, "trajectory checkpoint rollout"),
    "token_level": _columns(_TEXT_COLUMN, "group")
    | _columns(
        _NUMBER_COLUMN,
        "token_entropy token_entropy_low token_entropy_high answer_entropy_mean answer_entropy_mean_low "
        "answer_entropy_mean_high forking_share_fixed forking_share_fixed_low forking_share_fixed_high",
    ),
    "early_stop": _columns(_TEXT_COLUMN, "rule")
    | _columns(_NUMBER_COLUMN, "threshold checkpoints saved lost lost_low lost_high accuracy"),
    "failure_detection": _columns(
        _NUMBER_COLUMN,
        "position auc_entropy auc_entropy_low auc_entropy_high auc_margin auc_margin_low auc_margin_high",
    ),
    "sensitivity": _columns(_TEXT_COLUMN, "factor value") | _BOUNDED_RHO,
    "coarse_ablation": _columns(_TEXT_COLUMN, "factor value") | _BOUNDED_RHO,
    "shuffled_prefix": _columns(_TEXT_COLUMN, "quantity") | _columns(_NUMBER_COLUMN, "original shuffled difference"),
    "forced_answers": _columns(_TEXT_COLUMN, "scorer"),
    "forced": _columns(_TEXT_COLUMN, "problem_id scorer mode")
    | _columns(_INTEGER_COLUMN, "trajectory checkpoint")
    | _columns(_NUMBER_COLUMN, "gold_logprob entropy mass num_candidates num_tokens"),
}
_OF_DRAWN = _columns(_TEXT_COLUMN, "text answer finish_reason")
_NUMBERS_IF_THERE = (
    "token_entropy",
    "token_entropy_thinking",
    "token_entropy_answer_part",
    "forking_share_fixed",
    "auc_token_entropy",
)


def check_table(name: str, frame: pd.DataFrame, file: Any, *, drawn: bool = False) -> None:
    """Raises FastsiaError, naming the file and the column, where a table is not what its name says. drawn: it is of a
    run, whose trajectories have texts."""
    wanted = _TABLES.get(name, {}) | (_OF_DRAWN if drawn and name == "trajectories" else {})
    lacking = next((column for column in wanted if column not in frame), None)
    if lacking is not None:
        raise FastsiaError(f"{file} lacks column {lacking!r}.")
    if frame.empty and name in ("trajectories", "checkpoints", "curves"):
        raise FastsiaError(f"{file} has no rows.")
    numbers = [column for column in frame if column in _NUMBERS_IF_THERE or str(column).endswith(("_low", "_high"))]
    for column, kind in (dict.fromkeys(numbers, _NUMBER_COLUMN) | wanted).items():
        if not kind.fits(frame[column]):
            raise FastsiaError(f"{file}: column {column!r} must hold {kind.says}.")
