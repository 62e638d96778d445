"""The paper's published mean alignments, to print ours beside. The numbers are facts, the reading of them ours.

Source: The Stepwise Informativeness Assumption, arXiv 2604.06192v1, Tables 1, 2 and 3. Its text gives up to 600
generated tokens; temperature, top-p, rollouts and stride are not in the text we hold, nor which ARC subset was used.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pandas as pd

from fastsia.models.registry import known_model

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
        rho, limits = _of(summary, "rho"), _of(_of(summary, "ci"), "rho").get("pearson")
        low, high = limits or (None, None)
        rows.append(
            {
                "model": model,
                "task": task,
                **_beside(published_rho(model, task), rho.get("pearson"), low, high),
                "rho_cross_fitted": rho.get("cross_fitted"),
                "undefined_fraction": rho.get("undefined_fraction"),
                "num_problems": (summary or {}).get("num_problems"),
            }
        )
    return pd.DataFrame(rows)


def table2(tables: Mapping[tuple[str, str], pd.DataFrame | None]) -> pd.DataFrame:
    """Ours beside the paper's Table 2: for each (model, task) a row with the prefix original and one with it shuffled,
    from `compare.shuffled_table` of each (None: still missing).

    Columns: model, task, prefix; published to inside as in `table1`; change (our shuffled minus our original, on the
    same problems) with change_low, change_high; rho_cross_fitted, undefined_fraction, num_problems.
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
                    **_beside(published, *(ours.get(f"{prefix}{end}") for end in ("", "_low", "_high"))),
                    "change": change.get("difference"),
                    "change_low": change.get("difference_low"),
                    "change_high": change.get("difference_high"),
                    "rho_cross_fitted": fitted.get(prefix),
                    "undefined_fraction": ours.get(f"{prefix}_undefined"),
                    "num_problems": ours.get("num_problems"),
                }
            )
    return pd.DataFrame(rows)


def table3(tables: Mapping[tuple[str, str], pd.DataFrame | None]) -> pd.DataFrame:
    """Ours beside the paper's Table 3: for each (model, task) a row for the run and one for its coarse estimate, from
    the run's table "coarse_ablation" (None: still missing).

    Columns: model, task, estimate, num_rollouts, stride; published to inside as in `table1`; change (our coarse minus
    our original); rho_cross_fitted, undefined_fraction.
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
                    **_beside(published, *(ours.get(f"rho_pearson{end}") for end in ("", "_low", "_high"))),
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


def _beside(published: float | None, rho: float | None, low: float | None, high: float | None) -> dict[str, Any]:
    bounded = _is_number(published) and _is_number(low) and _is_number(high)
    return {
        "published": published,
        "rho": rho,
        "rho_low": low,
        "rho_high": high,
        "difference": _less(rho, published),
        "inside": bool(low <= published <= high) if bounded else None,  # type: ignore[operator]
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


def _of(mapping: Mapping[str, Any] | None, key: str) -> Mapping[str, Any]:
    """A mapping's mapping, empty where there is none."""
    return (mapping or {}).get(key) or {}
