from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fastsia.errors import counted
from fastsia.report import ReportData, decisive_steps, write_comparison, write_report
from fastsia.report.data import largest_step
from fastsia.report.headline import headline_table
from fastsia.report.html import FIRST_STEPS
from fastsia.report.tables import format_cell, format_interval, format_number, format_p, format_q, show_table
from fastsia.sia import differences, tabulate
from tests.report.synthetic import report_data, rollouts

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def data() -> ReportData:
    return report_data(rollouts(12, 6))


def test_a_folder_gets_report_html_and_a_file_is_taken_as_named(tmp_path: Path) -> None:
    assert write_report(tmp_path / "run", report_data(rollouts(5, 4)), []) == tmp_path / "run" / "report.html"
    for path in (tmp_path / "x.html", tmp_path / "not" / "there" / "x.html"):
        assert write_report(path, report_data(rollouts(5, 4)), []) == path
        assert path.is_file()


def test_policy_allows_exactly_the_pages_own_style_and_script(tmp_path: Path) -> None:
    page = write_report(tmp_path, report_data(rollouts(6, 4))).read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    allowed = policy[1].replace("&#39;", "'")
    assert "default-src 'none'" in allowed
    assert "unsafe" not in allowed
    for kind, pattern, count in (("style", r"<style>(.*?)</style>", 1), ("script", r"<script>(.*?)</script>", 3)):
        inline = re.findall(pattern, page, flags=re.S)
        assert len(inline) == count
        given = re.search(f"{kind}-src ([^;]+)", allowed)
        assert given is not None
        digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inline]
        assert set(given[1].split()) == {f"'sha256-{digest}'" for digest in digests}
    assert not re.findall(r'\s(?:src|href)="(?!#)', page)


def test_hostile_text_is_escaped_wherever_it_comes_from(tmp_path: Path) -> None:
    table = rollouts(6, 4)
    table["problem_id"] = table["problem_id"] + HOSTILE
    found = report_data(table, hostile=HOSTILE)
    found.tables["other"] = found.tables["sensitivity"].assign(value=HOSTILE)  # type: ignore[index]
    page = write_report(tmp_path, found, []).read_text()
    assert HOSTILE not in page
    assert "<img" not in page
    assert len(re.findall(r"<script[ >]", page)) == 4 + len(found.trajectories)
    index = re.search(r'<script type="application/json" id="index">(.*?)</script>', page, flags=re.S)
    assert index is not None
    rows = json.loads(index[1])["rows"]
    assert all(row[1].endswith(HOSTILE) for row in rows)


def test_undefined_numbers_are_said_to_be(tmp_path: Path, data: ReportData) -> None:
    summary = dict(data.summary)
    summary["rho"] = dict.fromkeys(summary["rho"])
    summary["auc"] = [{**point, "auc": None} for point in summary["auc"]]
    empty = ReportData(summary, data.trajectories, data.checkpoints, data.curves)
    page = write_report(tmp_path, empty, []).read_text()
    assert page.count("undefined</p>") >= 4
    assert "NaN" not in re.sub(r"<script>.*?</script>", "", page, flags=re.S)


def test_rho_stands_beside_what_accuracy_alone_gives(tmp_path: Path, data: ReportData) -> None:
    page = write_report(tmp_path, data, []).read_text()
    settled = data.trajectories[data.trajectories["rho"].notna()]
    baseline = 2 * settled["correct"].mean() - 1
    assert f"<th>2·accuracy − 1</th><td>{format_number(baseline, 2)}</td>" in page
    by_outcome = [settled.loc[settled["correct"] == correct, "rho"].mean() for correct in (True, False)]
    for name, value, member in zip(("correct", "incorrect"), by_outcome, (True, False), strict=True):
        assert f"<th>ends {name}</th><td>{format_number(value, 2)}</td>" in page
        assert f'<td class="n">n = {int((settled["correct"] == member).sum())}</td>' in page
    assert "too close to 0 where it does" in " ".join(page.split())
    assert "<h3>recommended ρ (change-point)</h3>" in page
    named = replace(data, summary={**data.summary, "model": "demo:base"})
    assert "<th>training stage</th><td>Base</td>" in write_report(tmp_path, named, []).read_text()
    assert "training stage" not in page


def test_the_decisive_steps_are_listed_with_their_texts(tmp_path: Path, data: ReportData) -> None:
    points = data.checkpoints
    points = points.assign(step_q_value=points["step_q_value"].mask(points["step_total_variation"] > 0.2, 0.01))
    steps = decisive_steps(points)
    assert len(steps) > FIRST_STEPS
    first = steps.iloc[0]
    texts = {(first["problem_id"], 0, first["checkpoint"]): ("It is 4", "<b>2", ".")}
    page = write_report(tmp_path, replace(data, checkpoints=points, step_texts=texts), []).read_text()
    assert page.count('<li><a href="#t') == len(steps)
    assert page.count("<q>") == 1
    assert "nan %" not in page
    assert "no answer (" in page
    assert "<q>It is 4<mark>&lt;b&gt;2</mark>.</q>" in page
    assert f"{len(steps)} of {data.summary['steps']['number']} steps are decisive" in " ".join(page.split())
    bare = replace(data, checkpoints=data.checkpoints.drop(columns=["step_q_value"]))
    assert 'id="decisive"' not in write_report(tmp_path / "bare", bare, []).read_text()


def test_a_q_value_is_on_the_side_of_the_level_that_it_is_marked_for() -> None:
    """q = 0.050 was printed beside steps that are not decisive."""
    given = [0.05, 0.0499, 0.0504, 0.05004, 0.2, 0.0004]
    assert [format_p(value) for value in given] == ["0.050", "0.050", "0.0504", "0.05004", "0.200", "4e-04"]
    assert [format_q(value) for value in (0.0504, 0.0004)] == ["q = 0.0504", "q < 0.001"]
    shown = show_table("anything_else", pd.DataFrame({"q_value": [0.0504, 1e-18, None]}))
    assert shown.rows == [("0.0504",), ("1e-18",), ("–",)]


def test_the_largest_step_is_a_decisive_one_if_there_is_one() -> None:
    assert largest_step([None, (0.9, 0.2, 0.06), (0.5, 0.1, 0.01), (0.6, 0.3, 0.01), None]) == 2
    assert largest_step([(0.9, 0.5, 0.2), (0.9, 0.2, 0.06), None]) == 1
    assert largest_step([None]) is None


def test_an_interval_of_no_width_is_explained(data: ReportData) -> None:
    def wide(ci: Any) -> Any:
        if isinstance(ci, dict):
            return {name: wide(below) for name, below in ci.items()}
        return [0.2, 0.6] if isinstance(ci, list) and len(ci) == 2 and not isinstance(ci[0], dict) else ci

    summary = {**data.summary, "ci": wide(data.summary["ci"])}
    assert "no width" not in headline_table(summary, data.trajectories).caption
    summary["ci"]["accuracy"] = [1.0, 1.0]
    assert "no width" in headline_table(summary, data.trajectories).caption


def test_where_a_run_comes_from_is_on_the_page(tmp_path: Path, data: ReportData) -> None:
    """Date, command, versions, device, dtype and commit, as far as the run has stored them."""
    origin = {"date": "2026-01-02T03:04:05+00:00", "command": "fastsia run -o <x>", "versions": {"torch": "2.9"}}
    machine = {"device": "cpu", "dtype": "float32", "processor": {"name": "Xeon"}}
    page = write_report(tmp_path, replace(data, summary={**data.summary, "provenance": origin, "machine": machine}), [])
    for name, value in (("finished", origin["date"]), ("command", "fastsia run -o &lt;x&gt;"), ("dtype", "float32")):
        assert f"<th>{name}</th><td>{value}</td>" in page.read_text()
    assert "torch 2.9" in page.read_text()


def test_a_summary_of_an_older_run_still_makes_a_report(tmp_path: Path, data: ReportData) -> None:
    """Only the number of problems is certain to be there."""
    bare = ReportData({"num_problems": 12}, data.trajectories, data.checkpoints, data.curves)
    assert "table of rollouts" in write_report(tmp_path, bare, []).read_text()


def test_comparison(tmp_path: Path, data: ReportData) -> None:
    runs = {"one": data, HOSTILE: report_data(rollouts(12, 6, seed=1))}
    tables = {
        "runs": tabulate({label: run.summary for label, run in runs.items()}),
        "differences": differences({label: run.trajectories for label, run in runs.items()}),
    }
    path = write_comparison(tmp_path / "new", runs, tables, notes=[HOSTILE])
    page = path.read_text()
    assert path == tmp_path / "new" / "comparison.html"
    assert HOSTILE not in page
    assert page.count("<svg") == 6
    assert "Differences between runs" in page


def test_a_table_to_read_has_its_intervals_in_brackets() -> None:
    frame = pd.DataFrame(
        {
            "quantity": ["rho_pearson", "rho_smoothed"],
            "num_problems": [8.0, None],
            "rho": [0.5, None],
            "rho_low": [0.25, None],
            "rho_high": [-0.125, None],
            "difference": [1.5, 2.5],
            "low": [1.0, None],
            "high": [2.0, 3.0],
        }
    )
    table = show_table("anything_else", frame)
    assert (table.title, table.caption) == ("anything else", "")
    assert table.columns == ["quantity", "problems", "ρ", "difference"]
    assert show_table("runs", pd.DataFrame({"x": [1.0, 0.5]})).rows == [("1.000",), ("0.500",)]
    assert table.rows == [
        ("the paper's ρ", "8", "0.500 [0.250, −0.125]", "1.500 [1.000, 2.000]"),
        ("change-point ρ", "–", "–", "2.500"),
    ]


def test_numbers_are_spelled_for_reading() -> None:
    assert format_number(-0.1234, 2) == "−0.12"
    assert format_number(None) == "undefined"
    assert format_interval([0.1, 0.25], 2) == "[0.10, 0.25]"
    assert format_interval(None) == ""
    counts = [counted(1, "problem"), counted(0, "problem"), counted(1319, "trajectory")]
    assert counts == ["1 problem", "0 problems", "1,319 trajectories"]
    assert [format_cell(value) for value in (True, None, float("nan"), 3, 3.0, 0.5, "x")] == [
        *("yes", "–", "–", "3", "3", "0.500", "x"),
    ]
