"""The paper's published mean alignments, to print ours beside. The numbers are facts, the reading of them ours.

Source: The Stepwise Informativeness Assumption, arXiv 2604.06192v1, Tables 1, 2 and 3. Its text gives up to 600
generated tokens; temperature, top-p, rollouts and stride are not in the text we hold, nor which ARC subset was used.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pandas as pd

from fastsia.config import FastsiaError
from fastsia.tasks.models import find_model

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


def table1(summaries: Mapping[tuple[str, str], Mapping[str, Any] | None]) -> pd.DataFrame:
    """Ours beside the paper's Table 1, one row a (model, task); a summary of None is a run that is still missing.

    Columns: model, task, published, rho, rho_low, rho_high, difference (ours minus published), inside (whether the
    published value lies in our interval), rho_cross_fitted, undefined_fraction, num_problems.
    """
    rows = []
    for (model, task), summary in summaries.items():
        published = published_rho(model, task)
        rho, limits = _of(summary, "rho"), _of(_of(summary, "ci"), "rho").get("pearson")
        ours = rho.get("pearson")
        low, high = limits or (None, None)
        rows.append(
            {
                "model": model,
                "task": task,
                "published": published,
                "rho": ours,
                "rho_low": low,
                "rho_high": high,
                "difference": _less(ours, published),
                "inside": None if low is None or high is None or published is None else low <= published <= high,
                "rho_cross_fitted": rho.get("cross_fitted"),
                "undefined_fraction": rho.get("undefined_fraction"),
                "num_problems": (summary or {}).get("num_problems"),
            }
        )
    return pd.DataFrame(rows)


def table2(tables: Mapping[tuple[str, str], pd.DataFrame | None]) -> pd.DataFrame:
    """Ours beside the paper's Table 2, one row a (model, task), from `compare.shuffled_table` of each (None: missing).

    Columns: model, task; for `original` and `shuffled` each published_X, X with X_low and X_high, X_difference (ours
    minus published); change (our shuffled minus our original, on the same problems) with its interval;
    cross_fitted_original, cross_fitted_shuffled, num_problems.
    """
    rows = []
    for (model, task), table in tables.items():
        records = [] if table is None else [_record(table, row) for row in range(len(table))]
        by_quantity = {record["quantity"]: record for record in records}
        ours, fitted = by_quantity.get("rho_pearson", {}), by_quantity.get("rho_cross_fitted", {})
        published = _published(TABLE2, model, task)
        rows.append(
            {
                "model": model,
                "task": task,
                **_beside("original", published[0], ours, "original"),
                **_beside("shuffled", published[1], ours, "shuffled"),
                "change": ours.get("difference"),
                "change_low": ours.get("difference_low"),
                "change_high": ours.get("difference_high"),
                "cross_fitted_original": fitted.get("original"),
                "cross_fitted_shuffled": fitted.get("shuffled"),
                "num_problems": ours.get("num_problems"),
            }
        )
    return pd.DataFrame(rows)


def table3(tables: Mapping[tuple[str, str], pd.DataFrame | None]) -> pd.DataFrame:
    """Ours beside the paper's Table 3, one row a (model, task), from the run's "coarse_ablation" (None: missing).

    Columns: as `table2`'s with `coarse` for `shuffled`; then the num_rollouts and the stride of the coarse estimate.
    """
    rows = []
    for (model, task), table in tables.items():
        whole, coarse = ({}, {}) if table is None else (_record(table, 0), _record(table, 1))
        published = _published(TABLE3, model, task)
        before, after = whole.get("rho_pearson"), coarse.get("rho_pearson")
        rows.append(
            {
                "model": model,
                "task": task,
                **_beside("original", published[0], whole, "rho_pearson"),
                **_beside("coarse", published[1], coarse, "rho_pearson"),
                "change": _less(after, before),
                "cross_fitted_original": whole.get("rho_cross_fitted"),
                "cross_fitted_coarse": coarse.get("rho_cross_fitted"),
                "num_rollouts": coarse.get("num_rollouts"),
                "stride": coarse.get("stride"),
            }
        )
    return pd.DataFrame(rows)


def _published(
    table: Mapping[str, tuple[float, float]], model: str, task: str
) -> tuple[float, float] | tuple[None, None]:
    """A row of Table 2 or 3, which are of GSM8K only."""
    return table.get(_paper_name(model), (None, None)) if task == "gsm8k" else (None, None)


def _beside(name: str, published: float | None, ours: Mapping[str, Any], key: str) -> dict[str, float | None]:
    value = ours.get(key)
    return {
        f"published_{name}": published,
        name: value,
        f"{name}_low": ours.get(f"{key}_low"),
        f"{name}_high": ours.get(f"{key}_high"),
        f"{name}_difference": _less(value, published),
    }


def _record(table: pd.DataFrame, row: int) -> dict[str, Any]:
    return {str(column): value for column, value in table.iloc[row].items()}


def _less(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None or pd.isna(value) or pd.isna(other) else value - other


def _paper_name(model: str) -> str:
    try:
        return find_model(model).name
    except FastsiaError:
        return model


def _of(mapping: Mapping[str, Any] | None, key: str) -> Mapping[str, Any]:
    """A mapping's mapping, empty where there is none."""
    return (mapping or {}).get(key) or {}
