"""The report: one HTML file that needs no network, server or model."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from fastsia.config import SETTINGS
from fastsia.errors import counted
from fastsia.files import replacing
from fastsia.models.registry import known_model
from fastsia.report.data import ReportData, decisive_steps, largest_step, step_link, steps_of
from fastsia.report.drawing import Drawing, inline_svg
from fastsia.report.embed import Piece, pack
from fastsia.report.figures import draw
from fastsia.report.headline import time_spent
from fastsia.report.overlays import draw_comparison
from fastsia.report.tables import (
    format_interval,
    format_number,
    format_percent,
    format_percents,
    format_q,
    recommended_name,
    show_readings,
    show_runs,
    show_tables,
)
from fastsia.sia import Estimate
from fastsia.sia.compare import auc_at, outcome_baseline
from fastsia.sia.extras.steps import LEVEL
from fastsia.sia.paper import published_rho

MAX_BYTES = 28_000_000
"""Largest size of the packed trajectories, so that the file with figures and tables stays under 30 MB."""
MOST_ROWS = 2000
"""Rows of a figure's data that the page offers for download; its .parquet has all."""
BYTES_EACH = 42_000
"""Size of a packed trajectory on average, so that a page of 100 stays under 5 MB."""
FIRST_STEPS = 10
"""Decisive steps that the page lists at once; those up to `MOST_STEPS` unfold."""

_COLUMNS = (
    ("problem", "problem_id", "the problem's id"),
    ("question", None, "the beginning of the question"),
    ("ends", "correct", "whether its own final answer is the gold one"),
    ("tokens", "last_checkpoint", "length of the reasoning, T"),
    (
        "largest step",
        "largest_step",
        "share of the answers that its largest step changes, above chance; decisive: at a q value of at most 0.05",
    ),
    ("H start", "first_entropy", "answer entropy before any reasoning, nats"),
    ("H end", "final_entropy", "answer entropy at the end, nats"),
    ("s start", "first_gold_surprisal", "gold surprisal before any reasoning, nats"),
    ("s end", "final_gold_surprisal", "gold surprisal at the end, nats"),
    ("ρ", "rho", "the paper's alignment of H and s: near 1 or −1 by outcome where the trajectory settles"),
    (
        "ρ cross-fitted",
        "rho_cross_fitted",
        "H and s from different halves of the rollouts: mostly too close to 0 where p changes",
    ),
    ("token H", "token_entropy", "mean entropy of the next token along the reasoning, nats"),
    (
        "locked in",
        "lock_in_relative",
        "relative position from which the most likely answer of the rollouts, by the change-point estimate, stays the "
        "same; a trajectory that is cut may lock in without an answer of its own",
    ),
)


def write_report(path: Path | str, data: ReportData, drawings: Sequence[Drawing] | None = None) -> Path:
    """Write the report to `path` (a folder gets report.html in it) and return the file.

    Args:
        path: A folder or a file.
        data: The run.
        drawings: The result of `draw_figures`; None: they are drawn now.
    """
    forking = forking_of(data.summary)
    size = min(MAX_BYTES, BYTES_EACH * len(data.trajectories))
    pieces = list(pack(data.views, len(data.trajectories), size, forking))
    questions = {piece.key: (place, piece.question) for place, piece in enumerate(pieces)}
    context = _context(data, draw(data) if drawings is None else drawings, questions) | {
        "pieces": [Markup(piece.data) for piece in pieces],
        "shortened": sum(piece.shortened for piece in pieces),
        "one_each": sum(not piece.every for piece in pieces),
    }
    return _write(path, "report.html", "report.html", context)


def served_report(data: ReportData, drawings: Sequence[Drawing], questions: Questions) -> str:
    """The report as a page that asks its server for each trajectory (trajectory/PLACE) and for texts (search?q=TEXT).

    Args:
        data: The run; its views are not read.
        drawings: The result of `draw`.
        questions: See `Questions`.
    """
    return "".join(_generate("report.html", _context(data, drawings, questions, served=True), connect="'self'"))


Questions = Mapping[tuple[str, int], tuple[int, str]]
"""By problem id and trajectory, the number by which a page asks for the trajectory, and its question."""


def forking_of(summary: Mapping[str, Any]) -> float | None:
    """The token entropy above which a token of the run is a forking token, nats."""
    found: float | None = (summary.get("forking_threshold") or {}).get("run")
    return found


def _context(
    data: ReportData, drawings: Sequence[Drawing], questions: Questions, served: bool = False
) -> dict[str, Any]:
    return {
        "title": data.title,
        "summary": data.summary,
        "numbers": _numbers(data),
        "figures": _inline(drawings),
        "tables": [*filter(None, [show_readings(data.summary)]), *show_tables(data.tables)],
        "index": _index(data, questions, served),
        "steps": _decisive_steps(data),
        "first_steps": FIRST_STEPS,
        "readable": bool(questions),
        "settings": _settings(data.summary),
        "num_trajectories": len(data.trajectories),
    }


def write_comparison(
    path: Path | str,
    runs: Mapping[str, ReportData],
    tables: Mapping[str, pd.DataFrame],
    drawings: Sequence[Drawing] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write comparison.html (into a folder, or to the file named): tables and overlaid figures of several runs.

    Args:
        path: A folder or a file.
        runs: By label.
        tables: By name, as `sia.tabulate` and `sia.differences` return them.
        drawings: The result of `draw_comparison`; None: they are drawn now.
        notes: Warnings, one sentence each.
    """
    context = _side_by_side(runs) | {
        "title": " against ".join(runs) if len(runs) <= 3 else f"{len(runs)} runs",
        "figures": _inline(draw_comparison(runs) if drawings is None else drawings),
        "tables": [
            *([show_runs(tables["runs"])] if "runs" in tables else []),
            *show_tables({name: table for name, table in tables.items() if name != "runs"}),
        ],
        "notes": notes,
    }
    return _write(path, "comparison.html", "comparison.html", context)


def _side_by_side(runs: Mapping[str, ReportData]) -> dict[str, Any]:
    """The trajectories that several runs of one task have, for the page to show side by side."""
    tasks = {data.summary.get("task") for data in runs.values()}
    counts = Counter(key for data in runs.values() for key in _keys(data))
    first = [key for key in dict.fromkeys(key for data in runs.values() for key in _keys(data)) if counts[key] > 1]
    if len(tasks) > 1 or not first:
        return {}
    kept = set(first[: MAX_BYTES // (BYTES_EACH * len(runs))])
    pieces: list[Piece] = []
    found: dict[tuple[str, int], list[Any]] = {}
    for number, data in enumerate(runs.values()):
        ends = zip(data.trajectories["correct"].tolist(), data.trajectories["final_entropy"].tolist(), strict=True)
        outcomes = dict(zip(_keys(data), ends, strict=True))
        mine = (view for view in data.views if (view.problem_id, view.trajectory) in kept)
        for piece in pack(mine, len(kept), BYTES_EACH * len(kept)):
            correct, entropy = outcomes[piece.key]
            row = found.setdefault(piece.key, [piece.question, *[None] * len(runs)])
            row[number + 1] = [len(pieces), bool(correct), _plain(float(entropy))]
            pieces.append(piece)
    several = any(trajectory for _, trajectory in found)
    rows = [
        {
            "name": f"{key[0]} · {key[1]}" if several else key[0],
            "question": _beginning(found[key][0]),
            "runs": found[key][1:],
        }
        for key in first
        if key in found
    ]
    if not rows:
        return {}
    return {
        "labels": list(runs),
        "pairs": _script_text({"labels": list(runs), "rows": rows}),
        "pieces": [Markup(piece.data) for piece in pieces],
        "left_out": len(first) - len(kept),
    }


def _keys(data: ReportData) -> Iterator[tuple[str, int]]:
    """Problem id and trajectory of each trajectory."""
    for problem_id, trajectory in zip(data.trajectories["problem_id"], data.trajectories["trajectory"], strict=True):
        yield str(problem_id), int(trajectory)


def _write(path: Path | str, name: str, template: str, context: Mapping[str, Any]) -> Path:
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        path = path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(_generate(template, context))
    return path


def _generate(template: str, context: Mapping[str, Any], connect: str = "") -> Iterator[str]:
    """A page, part by part. connect: where its scripts may connect to."""
    style = _asset("report.css")
    own = ["report"] if template == "report.html" else ["pair"] if context.get("pairs") else []
    scripts = [_asset(f"{name}.js") for name in ("shared", "figures", *own)]
    allowed = " ".join(f"'{_digest(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src {allowed}; "
        f"{f'connect-src {connect}; ' if connect else ''}base-uri 'none'; form-action 'none'"
    )
    parts = {"style": Markup(style), "scripts": list(map(Markup, scripts))}
    return _environment().get_template(template).generate(**context, **parts, policy=policy)


def _asset(name: str) -> str:
    return resources.files("fastsia.report").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """The source expression with which the page's policy allows exactly this inline text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "count": counted,
        "interval": format_interval,
        "number": format_number,
        "percent": format_percent,
        "percents": format_percents,
    }
    return environment


def _inline(drawings: Sequence[Drawing]) -> list[dict[str, Any]]:
    return [
        {
            "name": each.name,
            "title": each.title,
            "caption": each.caption,
            "svg": Markup(inline_svg(each)),
            "numbers": _script_text(each.numbers.head(MOST_ROWS).to_csv(index=False, float_format="%.6g")),
        }
        for each in drawings
    ]


def _numbers(data: ReportData) -> dict[str, Any]:
    """The numbers of the cards: estimates by their keys in the summary, and the values to compare them with."""
    keys = ("accuracy", "null_rate", "cut_rate", "entropy_first", "entropy_final", "gain", "misalignment")
    best = (data.summary.get("rho") or {}).get("recommended")
    others = ("cross_fitted", "undefined_fraction", "share_moving", "expected_from_noise")
    return {
        **{key: Estimate.of_summary(data.summary, key) for key in keys},
        "rho": {name: Estimate.of_summary(data.summary, f"rho.{name}") for name in others},
        "alignments": [_alignment(data, key) for key in ("pearson", best) if key],
        "auc": auc_at(data.summary, 0.5) or Estimate(None),
        "published": None
        if data.summary.get("off_policy")
        else published_rho(str(data.summary.get("model")), str(data.summary.get("task"))),
    }


def _alignment(data: ReportData, key: str) -> dict[str, Any]:
    """A mean rho, by outcome, with what accuracy alone would give, and the number of trajectories of each."""
    frame = data.trajectories
    correct = frame["correct"].fillna(False).astype(bool)
    rho = frame["rho" if key == "pearson" else f"rho_{key}"]
    defined = rho.notna()

    def part(name: str, found: Estimate, n: int, look: str) -> dict[str, Any]:
        return {"name": name, "value": found.value, "bounds": found.bounds, "n": f"n = {n:,}", "look": look}

    parts = [
        part(f"ends {group}", Estimate.of_summary(data.summary, f"rho.{key}_{group}"), int(member.sum()), group)
        for group, member in (("correct", defined & correct), ("incorrect", defined & ~correct))
    ]
    if not data.summary.get("off_policy"):
        baseline = Estimate.of_summary(data.summary, "rho.baseline" if key == "pearson" else f"rho.baseline_{key}")
        if baseline.value is None:
            baseline = Estimate(outcome_baseline(frame.assign(rho=rho)))
        parts.append(part("2·accuracy − 1", baseline, int(defined.sum()), "baseline"))
    return {
        "key": key,
        "name": "the paper's ρ" if key == "pearson" else recommended_name(key),
        "all": Estimate.of_summary(data.summary, f"rho.{key}"),
        "n": int(defined.sum()),
        "parts": parts,
    }


def _index(data: ReportData, questions: Questions, served: bool) -> Markup:
    """The table of trajectories as JSON, escaped for a script element."""
    largest = _largest_steps(data)
    frame = data.trajectories.assign(largest_step=[math.nan if each is None else each[0] for each in largest])
    missing = {column for column in ("token_entropy",) if column not in frame}
    missing |= set() if any(each is not None for each in largest) else {"largest_step"}
    shown = [column for column in _COLUMNS if column[1] not in missing]
    several = bool(len(frame)) and bool((frame["trajectory"] != 0).any())
    rows = []
    for record, step in zip(frame.to_dict("records"), largest, strict=True):
        key = (str(record["problem_id"]), int(record["trajectory"]))
        place, question = questions.get(key, (-1, ""))
        row: list[Any] = [place]
        for _, column, _ in shown:
            if column is None:
                row.append(_beginning(question))
            elif column == "problem_id":
                row.append(f"{key[0]} · {key[1]}" if several else key[0])
            else:
                row.append(_plain(record.get(column)))
        row += [bool(record.get("misaligned", False)), step is not None and step[1]]
        rows.append(row)
    columns, forking = [[name, hint] for name, _, hint in shown], _plain(forking_of(data.summary))
    index = {"columns": columns, "rows": rows, "forking": forking, "served": served}
    return _script_text(index)


def _largest_steps(data: ReportData) -> list[tuple[float, bool] | None]:
    """Of each trajectory's largest step the share of the answers that it changes above chance, and whether it is
    decisive; None where there is no step."""
    points = dict(iter(data.checkpoints.groupby(["problem_id", "trajectory"], sort=False)))
    found: list[tuple[float, bool] | None] = []
    for key in zip(data.trajectories["problem_id"], data.trajectories["trajectory"], strict=True):
        steps = steps_of(points[key]) if key in points else []
        step = None if (place := largest_step(steps)) is None else steps[place]
        found.append(None if step is None else (step[0] - step[1], bool(step[2] <= LEVEL)))
    return found


def _decisive_steps(data: ReportData) -> dict[str, Any] | None:
    """The run's decisive steps to read, the surest first, and how many steps there are; None where there is none."""
    frame = data.checkpoints
    if "step_q_value" not in frame or frame["step_q_value"].isna().all():
        return None
    places = {key: place for place, key in enumerate(_keys(data))}
    several = any(trajectory for _, trajectory in places)
    rows = []
    for step in decisive_steps(frame).to_dict("records"):
        key = (str(step["problem_id"]), int(step["trajectory"]))
        if key not in places:
            continue
        end = int(step["step_end"])
        rows.append(
            {
                "name": f"{key[0]} · {key[1]}" if several else key[0],
                "link": step_link(places[key], end),
                "tokens": f"tokens {step['checkpoint']} to {end}",
                "text": data.step_texts.get((*key, int(step["checkpoint"]))),
                **{
                    name: f"{step[f'mode{side}']} ({_in_percent(step[f'mode_share{side}'])})"
                    if isinstance(step[f"mode{side}"], str)
                    else f"no answer ({_in_percent(step[f'null_rate{side}'])})"
                    for name, side in (("before", ""), ("after", "_after"))
                },
                "changed": _in_percent(step["step_total_variation"]),
                "by_chance": _in_percent(step["step_by_chance"]),
                "q": format_q(step["step_q_value"]),
                "gold": f"{100 * step['step_gold_change']:+.0f}".replace("-", "−"),
            }
        )
    decisive = frame["step_q_value"] <= LEVEL
    return {
        "rows": rows,
        "decisive": int(decisive.sum()),
        "number": int(frame["step_q_value"].notna().sum()),
        "without": len(places) - len(frame.loc[decisive, ["problem_id", "trajectory"]].drop_duplicates()),
    }


def _in_percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _script_text(value: Any) -> Markup:
    """A value as JSON inside a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # A "<" would let a text close the element; JSON reads the escape as the same character.
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _beginning(text: str, most: int = 160) -> str:
    """The beginning of a text on one line, cut between words."""
    whole = " ".join(text.split())
    return whole if len(whole) <= most else f"{whole[:most].rpartition(' ')[0] or whole[:most]} …"


def _plain(value: Any) -> Any:
    """A value of a frame for JSON, rounded to 4 digits."""
    if value is None or value is pd.NA:
        return None
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (float, np.floating)):
        return round(float(value), 4) if math.isfinite(value) else None
    if isinstance(value, (int, np.integer)):
        return int(value)
    return str(value)


def _settings(summary: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Heading, then names and values: of where the run comes from, its counts, and its settings."""
    names = {
        "generated_tokens": "rollout tokens",
        "row_steps": "computed tokens",
        "num_truncated_trajectories": "cut trajectories",
        "num_left_out_checkpoints": "checkpoints left out",
    }
    facts = [
        (names.get(key, key.removeprefix("num_").replace("_", " ")), _as_text(summary[key]))
        for key in (
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
        )
        if summary.get(key) is not None
    ]
    if summary.get("seconds") is not None:
        facts.append(("time", time_spent(summary)))
    config = summary.get("config")
    settings = (
        [(key, _setting_text(key, value)) for key, value in config.items()] if isinstance(config, Mapping) else []
    )
    parts = (("Where it comes from", _provenance(summary)), ("Counts", facts), ("Settings", settings))
    return [(heading, rows) for heading, rows in parts if rows]


def _provenance(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Model, task, date, command, versions, device and dtype of a run, as far as they are known."""
    known = known_model(str(summary.get("model")))
    origin, machine = summary.get("provenance") or {}, summary.get("machine") or {}
    versions = {"fastsia": summary.get("version"), **(origin.get("versions") or {})}
    processor = machine.get("processor") or {}
    found = {
        "model": summary.get("model"),
        "training stage": None if known is None else known.stage,
        "task": summary.get("task"),
        "finished": origin.get("date"),
        "command": origin.get("command"),
        "backend": summary.get("backend"),
        "device": machine.get("device"),
        "dtype": machine.get("dtype"),
        "processor": processor.get("name"),
        "platform": origin.get("platform"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "commit of fastsia": origin.get("commit"),
    }
    return [(name, _as_text(value)) for name, value in found.items() if value]


def _setting_text(name: str, value: Any) -> str:
    """A setting's value as the help words it: on, off, or what applies where it is not given."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return (SETTINGS[name].unset if name in SETTINGS else "") or "none"
    return _as_text(value)


def _as_text(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
