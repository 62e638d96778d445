"""The report: one HTML file that needs no network, no server and no model."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from fastsia.files import replacing
from fastsia.models.registry import known_model
from fastsia.report.data import ReportData
from fastsia.report.embed import Piece, pack
from fastsia.report.figures import Drawing, draw, draw_comparison, inline_svg
from fastsia.report.tables import (
    format_count,
    format_interval,
    format_number,
    format_percent,
    show_readings,
    show_tables,
)
from fastsia.sia.compare import outcome_baseline
from fastsia.sia.paper import published_rho

MAX_BYTES = 28_000_000
"""What the trajectories to read may take of the file, so that it stays under 30 MB with its figures and tables."""

_COLUMNS = (
    ("problem", "problem_id", "the problem's id"),
    ("question", None, "the beginning of the question"),
    ("ends", "correct", "whether its own final answer is the gold one"),
    ("tokens", "last_checkpoint", "length of the reasoning, T"),
    ("H start", "first_entropy", "answer entropy before any reasoning, nats"),
    ("H end", "final_entropy", "answer entropy at the end, nats"),
    ("s start", "first_gold_surprisal", "gold surprisal before any reasoning, nats"),
    ("s end", "final_gold_surprisal", "gold surprisal at the end, nats"),
    ("ρ", "rho", "the paper's alignment of H and s: near 1 or −1 by outcome where the answer settles"),
    ("ρ cross-fitted", "rho_cross_fitted", "H and s from different halves of the rollouts: too close to 0"),
    ("token H", "token_entropy", "mean entropy of the next token along the reasoning, nats"),
    ("locked in", "lock_in_relative", "relative position from which the most frequent answer stays the same"),
)


def write_report(path: Path | str, data: ReportData, drawings: Sequence[Drawing] | None = None) -> Path:
    """Writes the report to `path` (a folder gets report.html in it) and returns the file.

    drawings: what `draw_figures` returned, where it was called already.
    """
    forking = (data.summary.get("forking_threshold") or {}).get("run")
    pieces = list(pack(data.views, len(data.trajectories), MAX_BYTES, forking))
    drawings = draw(data) if drawings is None else drawings
    context = {
        "title": data.title,
        "summary": data.summary,
        "cards": _cards(data.summary, data.trajectories),
        "figures": _inline(drawings),
        "tables": [*filter(None, [show_readings(data.summary)]), *show_tables(data.tables)],
        "index": _index(data, pieces, forking),
        "pieces": [Markup(piece.data) for piece in pieces],
        "shortened": sum(piece.shortened for piece in pieces),
        "settings": _settings(data.summary),
        "num_trajectories": len(data.trajectories),
    }
    return _write(path, "report.html", "report.html", context)


def write_comparison(
    path: Path | str,
    runs: Mapping[str, ReportData],
    tables: Mapping[str, pd.DataFrame],
    drawings: Sequence[Drawing] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Writes comparison.html (into a folder, or to the file named): tables and overlaid figures of several runs.

    tables: by name, as `sia.tabulate` and `sia.differences` made them. drawings: what `draw_comparison` returned, where
    it was called already. notes: what to mind in reading it, one sentence each.
    """
    context = {
        "title": " against ".join(runs) if len(runs) <= 3 else f"{len(runs)} runs",
        "figures": _inline(draw_comparison(runs) if drawings is None else drawings),
        "tables": show_tables(tables),
        "notes": notes,
    }
    return _write(path, "comparison.html", "comparison.html", context)


def _write(path: Path | str, name: str, template: str, context: Mapping[str, Any]) -> Path:
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        path = path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    style, script = _asset("report.css"), _asset("report.js")
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    page = _environment().get_template(template)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(page.generate(**context, style=Markup(style), script=Markup(script), policy=policy))
    return path


def _asset(name: str) -> str:
    return resources.files("fastsia.report").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """The source expression that lets exactly this inline text through the page's policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["count"] = format_count
    return environment


def _inline(drawings: Sequence[Drawing]) -> list[dict[str, Any]]:
    return [
        {"name": each.name, "title": each.title, "caption": each.caption, "svg": Markup(inline_svg(each))}
        for each in drawings
    ]


def _cards(summary: Mapping[str, Any], trajectories: pd.DataFrame) -> list[dict[str, str]]:
    """The headline numbers: what it is called, its value, its interval, and what it says."""
    ci = summary.get("ci") or {}
    rho, rho_ci = summary.get("rho") or {}, ci.get("rho") or {}
    auc = {point["position"]: (point["auc"], place) for place, point in enumerate(summary.get("auc") or [])}
    half, place = auc.get(0.5, (None, -1))
    half_ci = ci["auc"][place] if place >= 0 and ci.get("auc") else None
    corrected = rho.get("cross_fitted_corrected")
    theirs = published_rho(str(summary.get("model")), str(summary.get("task")))
    published = "" if theirs is None else f" The paper reports {format_number(theirs, 2)}."
    entropy = (
        f"Mean H: {format_number(summary.get('entropy_first'), 2)} nats at the start, "
        f"{format_number(summary.get('entropy_final'), 2)} at the end."
    )
    baseline = format_number(outcome_baseline(trajectories), 2)
    by_outcome = (
        f"{format_number(rho.get('pearson_correct'), 2)} where they end correct, "
        f"{format_number(rho.get('pearson_incorrect'), 2)} where not"
    )
    rows: tuple[tuple[str, str, str, str], ...] = (
        (
            "accuracy",
            format_percent(summary.get("accuracy")),
            _percents(ci.get("accuracy")),
            "Trajectories that end correct.",
        ),
        (
            "ρ, the paper's",
            format_number(rho.get("pearson"), 2),
            format_interval(rho_ci.get("pearson"), 2),
            "How closely answer entropy and gold surprisal move together along a trajectory. A trajectory that settles "
            "has a ρ near 1 if it ends correct and near −1 if not, so compare the mean with 2·accuracy − 1 among the "
            f"trajectories that have a ρ: {baseline}. Means by outcome: {by_outcome}. Where nothing moves, taking H "
            "and s from the same rollouts alone pushes ρ away from 0." + published,
        ),
        (
            "ρ, cross-fitted",
            format_number(rho.get("cross_fitted"), 2),
            format_interval(rho_ci.get("cross_fitted"), 2),
            "The same with H and s from different halves of the rollouts: 0 where nothing moves, and too close to 0 "
            "where something does, since halves are noisier. "
            + (
                "Corrected to all rollouts: not given, the halves agree too little."
                if corrected is None
                else f"Corrected to all rollouts, not to the true distribution: {format_number(corrected, 2)}."
            ),
        ),
        (
            "ρ undefined",
            format_percent(rho.get("undefined_fraction")),
            _percents(rho_ci.get("undefined_fraction")),
            "Trajectories left out of ρ: fewer than 3 checkpoints, or a constant entropy or surprisal.",
        ),
        (
            "AUC at half-way",
            format_number(half, 2),
            format_interval(half_ci, 2),
            "The chance that entropy tells a correct trajectory from an incorrect one half-way. ½ is guessing.",
        ),
        (
            "information gain",
            f"{format_number(summary.get('gain'), 2)} nats",
            format_interval(ci.get("gain"), 2),
            "By how much the reasoning makes the gold answer less surprising. Along a model's own text its expectation "
            "is at most 0 and mean H does not rise, whatever the model: a fall of H is no finding, and a gain above 0 "
            f"points to draws from another distribution, cut rollouts or a bug. {entropy}",
        ),
        (
            "confident, wrong",
            format_percent(summary.get("misalignment")),
            _percents(ci.get("misalignment")),
            "Trajectories that end with lower H and higher s than they began. Noise is counted too: where nothing "
            "moves and the gold answer is rare, up to 40 % of the trajectories are of this kind.",
        ),
        (
            "no answer",
            format_percent(summary.get("null_rate")),
            _percents(ci.get("null_rate")),
            "Rollouts in which no answer could be read; one class of their own in H.",
        ),
    )
    if summary.get("cut_rate"):
        says = "Rollouts that the token limit ended. Many of them make the numbers the limit's, not the model's."
        rows = (*rows, ("cut", format_percent(summary["cut_rate"]), "", says))
    return [dict(zip(("name", "value", "interval", "says"), row, strict=True)) for row in rows]


def _index(data: ReportData, pieces: Sequence[Piece], forking: float | None) -> Markup:
    """The table of trajectories as JSON that may stand inside a script element. forking: nats."""
    places = {piece.key: place for place, piece in enumerate(pieces)}
    frame = data.trajectories
    shown = [column for column in _COLUMNS if column[1] != "token_entropy" or "token_entropy" in frame]
    several = bool(len(frame)) and bool((frame["trajectory"] != 0).any())
    rows = []
    for record in frame.to_dict("records"):
        key = (str(record["problem_id"]), int(record["trajectory"]))
        place = places.get(key, -1)
        row: list[Any] = [place]
        for _, column, _ in shown:
            if column is None:
                row.append(" ".join(pieces[place].question.split())[:160] if place >= 0 else "")
            elif column == "problem_id":
                row.append(f"{key[0]} · {key[1]}" if several else key[0])
            else:
                row.append(_plain(record.get(column)))
        row.append(bool(record.get("misaligned", False)))
        rows.append(row)
    index = {"columns": [[name, hint] for name, _, hint in shown], "rows": rows, "forking": _plain(forking)}
    text = json.dumps(index, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # A "<" would let a text close the element; JSON reads the escape as the same character.
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _plain(value: Any) -> Any:
    """A value of a frame for JSON: 4 digits are enough to read."""
    if value is None or value is pd.NA:
        return None
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (float, np.floating)):
        return round(float(value), 4) if math.isfinite(value) else None
    if isinstance(value, (int, np.integer)):
        return int(value)
    return str(value)


def _settings(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the run was, for the last section."""
    rows = [
        (key.replace("_", " "), _spell(summary[key]))
        for key in (
            "model",
            "task",
            "version",
            "num_problems",
            "num_trajectories",
            "num_checkpoints",
            "num_rollouts",
            "num_failed_rollouts",
            "num_cut_rollouts",
            "num_truncated_trajectories",
            "num_left_out_checkpoints",
            "generated_tokens",
            "row_steps",
            "seconds",
        )
        if summary.get(key) is not None
    ]
    known = known_model(str(summary.get("model")))
    if known is not None:
        rows.insert(1, ("training stage", known.stage))
    config = summary.get("config")
    if isinstance(config, Mapping):
        rows += [(key.replace("_", " "), _spell(value)) for key, value in config.items()]
    return rows


def _spell(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _percents(value: Any) -> str:
    return "" if value is None else f"[{100 * value[0]:.1f}, {100 * value[1]:.1f}] %"
