"""The report: one HTML file that needs no network, no server and no model."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from fastsia.report.data import ReportData
from fastsia.report.figures import Drawing, draw, inline_svg


def write_report(path: Path | str, data: ReportData, drawings: Sequence[Drawing] | None = None) -> Path:
    """Writes the report to `path` (a folder gets report.html in it) and returns the file.

    drawings: what `draw_figures` returned, where it was called already.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        path.mkdir(parents=True, exist_ok=True)
        path = path / "report.html"
    drawings = draw(data) if drawings is None else drawings
    style, script = _asset("report.css"), _asset("report.js")
    page = (
        _environment()
        .get_template("report.html")
        .render(
            data=data,
            summary=data.summary,
            figures=[(drawing, Markup(inline_svg(drawing))) for drawing in drawings],
            style=Markup(style),
            script=Markup(script),
            policy=f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src data:; "
            "base-uri 'none'; form-action 'none'",
        )
    )
    path.write_text(page, encoding="utf-8")
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
    environment.filters["num"] = format_number
    environment.filters["interval"] = format_interval
    return environment


def format_number(value: Any, digits: int = 3) -> str:
    """A number for reading; "undefined" where there is none."""
    return "undefined" if value is None else f"{value:.{digits}f}".replace("-", "−")


def format_interval(value: Any, digits: int = 3) -> str:
    return "" if value is None else f"[{format_number(value[0], digits)}, {format_number(value[1], digits)}]"
