"""The paper's published mean alignments, to print beside a run's own.

Source: The Stepwise Informativeness Assumption, arXiv 2604.06192v1, Tables 1, 2 and 3. Its text gives up to 600
generated tokens; temperature, top-p, rollouts and stride are not in the text we hold, nor which ARC subset was used.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pandas as pd

from fastsia.models.registry import known_model
from fastsia.sia import registry
from fastsia.sia.estimate import Estimate

SOURCE = "The Stepwise Informativeness Assumption, arXiv 2604.06192v1"

TABLE1: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        model: MappingProxyType(dict(zip(("gsm8k", "svamp", "arc"), rho, strict=True)))
        for model, rho in (
            ("Qwen2.5-3B", (0.682, 0.603, 0.344)),
            ("Qwen2.5-3B-it", (0.744, 0.835, 0.666)),
            ("Qwen2.5-Math-1.5B", (0.499, 0.802, 0.676)),
            ("DeepSeek-Chat-7B", (0.346, 0.295, 0.143)),
            ("DeepSeek-R1-Distilled", (0.795, 0.593, 0.783)),
            ("Gemma-2-2B", (-0.530, 0.169, -0.208)),
            ("Gemma-2-2B-it", (0.522, 0.462, 0.578)),
            ("LLaMA-3.2-3B", (-0.361, 0.424, -0.366)),
            ("LLaMA-3.2-3B-it", (0.576, 0.399, 0.545)),
            ("Olmo-3-7B-Think-SFT", (0.964, 0.884, 0.960)),
            ("Olmo-3-7B-Think", (0.885, 0.778, 0.887)),
        )
    }
)
"""Mean rho by model and dataset."""

TABLE2: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "Qwen2.5-3B": (0.682, -0.132),
        "Qwen2.5-3B-it": (0.744, -0.005),
        "DeepSeek-R1-Distilled": (0.795, 0.020),
        "Gemma-2-2B-it": (0.522, -0.063),
    }
)
"""Mean rho on GSM8K with the prefix as written and shuffled."""

TABLE3: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "Qwen2.5-3B": (0.682, 0.635),
        "Qwen2.5-3B-it": (0.744, 0.831),
        "DeepSeek-R1-Distilled": (0.795, 0.711),
        "Gemma-2-2B-it": (0.522, 0.506),
    }
)
"""Mean rho on GSM8K as estimated and with fewer rollouts at a coarser stride."""

_DATASETS = {
    "gsm8k": "gsm8k",
    "svamp": "svamp",
    "svamp_full": "svamp",
    "arc": "arc",
    "arc_challenge": "arc",
    "arc_easy": "arc",
}


def published_rho(model: str, task: str) -> float | None:
    """Table 1's value for a model, by the paper's name or its Hub id, and one of our tasks; None where it has none.

    Both ARC subsets stand beside its one column "arc", since the paper does not say which it is.
    """
    row = TABLE1.get(_paper_name(model))
    dataset = _DATASETS.get(task)
    return None if row is None or dataset is None else row[dataset]


@registry.table("table1", columns="model task published rho", computed=False, exported=False, place=100)
def table1(summaries: Mapping[tuple[str, str], Mapping[str, Any] | None]) -> pd.DataFrame:
    """Table 1: alignment ρ by model and data set.

    ρ is this run's, with its 95 % interval over problems; difference is ρ minus the published value; inside says
    whether the published value is in the interval. “–”: not published, not run yet, or undefined. “stage” is the
    model's training stage, “unknown” where it is not documented.

    Args:
        summaries: By (model, task), as in summary.json; None for a run that is still missing.

    Returns:
        One row a (model, task): model, task, published, rho, rho_low, rho_high, difference, inside, rho_cross_fitted,
        undefined_fraction, num_problems.
    """
    rows = []
    for (model, task), summary in summaries.items():
        rows.append(
            {
                "model": model,
                "task": task,
                **_beside(published_rho(model, task), Estimate.of_summary(summary, "rho.pearson")),
                "rho_cross_fitted": Estimate.of_summary(summary, "rho.cross_fitted").value,
                "undefined_fraction": Estimate.of_summary(summary, "rho.undefined_fraction").value,
                "num_problems": (summary or {}).get("num_problems"),
            }
        )
    return pd.DataFrame(rows)


@registry.table("table2", columns="model task published rho", computed=False, exported=False, place=101)
def table2(tables: Mapping[tuple[str, str], pd.DataFrame | None]) -> pd.DataFrame:
    """Table 2: alignment ρ with the prefix as written and shuffled.

    As Table 1, on the problems that both runs have. change is shuffled minus original.

    Args:
        tables: `compare.shuffled_table` by (model, task); None for a run that is still missing.

    Returns:
        For each (model, task) a row with the prefix original and one with it shuffled: model, task, prefix; published
        to inside as in `table1`; change, change_low, change_high; rho_cross_fitted, undefined_fraction, num_problems.
    """
    rows = []
    for (model, task), table in tables.items():
        records = [] if table is None else [_record(table, row) for row in range(len(table))]
        by_quantity = {record["quantity"]: record for record in records}
        ours, fitted = by_quantity.get("rho_pearson", {}), by_quantity.get("rho_cross_fitted", {})
        for prefix, published in zip(("original", "shuffled"), _published(TABLE2, model, task), strict=True):
            change = ours if prefix == "shuffled" else {}
            rows.append(
                {
                    "model": model,
                    "task": task,
                    "prefix": prefix,
                    **_beside(published, _cell(ours, prefix)),
                    **_cell(change, "difference").columns("change"),
                    "rho_cross_fitted": fitted.get(prefix),
                    "undefined_fraction": ours.get(f"{prefix}_undefined"),
                    "num_problems": ours.get("num_problems"),
                }
            )
    return pd.DataFrame(rows)


@registry.table("table3", columns="model task published rho", computed=False, exported=False, place=102)
def table3(tables: Mapping[tuple[str, str], pd.DataFrame | None]) -> pd.DataFrame:
    """Table 3: alignment ρ from half the rollouts at twice the stride.

    As Table 1; the text of the paper that we have does not say how many rollouts and which stride it took. change is
    coarse minus original; both are scored from the same stored rollouts.

    Args:
        tables: The run's table "coarse_ablation" by (model, task); None for a run that is still missing.

    Returns:
        For each (model, task) a row for the run and one for its coarse estimate: model, task, estimate, num_rollouts,
        stride; published to inside as in `table1`; change; rho_cross_fitted, undefined_fraction.
    """
    rows = []
    for (model, task), table in tables.items():
        records = ({}, {}) if table is None else (_record(table, 0), _record(table, 1))
        change = _less(records[1].get("rho_pearson"), records[0].get("rho_pearson"))
        for estimate, published, ours in zip(
            ("original", "coarse"), _published(TABLE3, model, task), records, strict=True
        ):
            rows.append(
                {
                    "model": model,
                    "task": task,
                    "estimate": estimate,
                    "num_rollouts": ours.get("num_rollouts"),
                    "stride": ours.get("stride"),
                    **_beside(published, _cell(ours, "rho_pearson")),
                    "change": change if estimate == "coarse" else None,
                    "rho_cross_fitted": ours.get("rho_cross_fitted"),
                    "undefined_fraction": ours.get("undefined_fraction"),
                }
            )
    return pd.DataFrame(rows)


def _published(
    table: Mapping[str, tuple[float, float]], model: str, task: str
) -> tuple[float, float] | tuple[None, None]:
    """A row of Table 2 or 3, which are of GSM8K only."""
    return table.get(_paper_name(model), (None, None)) if task == "gsm8k" else (None, None)


def _cell(record: Mapping[str, Any], name: str) -> Estimate:
    """An estimate of a row of a wide table; undefined where the row lacks it."""
    return Estimate(record.get(name), record.get(f"{name}_low"), record.get(f"{name}_high"))


def _beside(published: float | None, ours: Estimate) -> dict[str, Any]:
    bounded = all(map(_is_number, (published, ours.low, ours.high)))
    return {
        "published": published,
        **ours.columns("rho"),
        "difference": _less(ours.value, published),
        "inside": bool(ours.low <= published <= ours.high) if bounded else None,  # type: ignore[operator]
    }


def _less(value: float | None, other: float | None) -> float | None:
    return value - other if _is_number(value) and _is_number(other) else None  # type: ignore[operator]


def _is_number(value: float | None) -> bool:
    return value is not None and not pd.isna(value)


def _record(table: pd.DataFrame, row: int) -> dict[str, Any]:
    return {str(column): value for column, value in table.iloc[row].items()}


def _paper_name(model: str) -> str:
    known = known_model(model)
    return model if known is None else known.name


_ACCUMULATION = (
    "The final gain in nats of trajectories that end correct and of those that end incorrect (below 0: a loss), and "
    "the share of it reached at a quarter, a half and three quarters of the reasoning; “–” where the final gain "
    "is indistinguishable from 0. Its sign mostly follows from the outcome, since the answer is written down by then."
)
_SEPARABILITY = (
    "AUC of −H for “ends correct” at relative positions, then by tokens written: at the last prefix length that at "
    "least half of the trajectories reach, and half-way to it. ½ is chance."
)
_SATURATION = (
    "level: mean of the last fifth, nats. onset: the relative position from which the mean stays within 0.05 nats of "
    "it, if any. rebound: how far mean H rises again after its lowest point, nats; the mean of few trajectories rises "
    "somewhere by chance."
)
for _place, (_title, _caption) in enumerate(
    (
        ("early accumulation of information, aligned models", _ACCUMULATION),
        ("telling correct from incorrect, aligned models", _SEPARABILITY),
        ("mean answer entropy by model family", _SATURATION),
        ("early accumulation of information, non-aligned models", "As Figure 1, for base models."),
        ("telling correct from incorrect, non-aligned models", "As Figure 2, for base models."),
    ),
    start=1,
):
    registry.TABLES[f"fig{_place}"] = registry.TableEntry(
        f"fig{_place}", f"Figure {_place}: {_title}", _caption, ("model", "task"), exported=False, place=110 + _place
    )
