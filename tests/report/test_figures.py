from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fastsia.report import ReportData, draw_comparison, draw_figures
from fastsia.report.figures import Drawing, draw, inline_svg
from tests.report.synthetic import report_data, rollouts
from tests.sia.simulate import frame


@pytest.fixture(scope="module")
def data() -> ReportData:
    return report_data(rollouts(20, 8))


@pytest.fixture(scope="module")
def drawings(data: ReportData) -> list[Drawing]:
    return draw(data)


def test_every_figure_is_saved_three_ways(data: ReportData, tmp_path: Path) -> None:
    drawings = draw_figures(data, tmp_path)
    names = {drawing.name for drawing in drawings}
    assert {"fig1_gain", "fig1_gain_share", "fig2_auc", "fig2_auc_tokens", "fig3_entropy"} <= names
    for name in names:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        ElementTree.parse(tmp_path / f"{name}.svg")
        assert len(pd.read_parquet(tmp_path / f"{name}.parquet")) > 0


def test_inline_svg_obeys_a_policy_without_inline_styles(drawings: list[Drawing]) -> None:
    """A style attribute would be dropped by the browser: black boxes instead of a figure."""
    ids: list[str] = []
    for drawing in drawings:
        svg = inline_svg(drawing)
        ElementTree.fromstring(svg)
        assert "style=" not in svg
        assert "<style" not in svg
        references = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
        own = re.findall(r'\bid="([^"]+)"', svg)
        assert references <= set(own)
        ids += own
    assert len(ids) == len(set(ids))


def test_colours_follow_the_page(drawings: list[Drawing]) -> None:
    svg = inline_svg(drawings[0])
    assert 'class="f-ink"' in svg
    assert not re.search(r'(?:fill|stroke)="#', svg)


def test_figures_are_reproducible(data: ReportData) -> None:
    assert [inline_svg(drawing) for drawing in draw(data)] == [inline_svg(drawing) for drawing in draw(data)]


def test_degenerate_runs_draw_what_they_can() -> None:
    for answers in (np.zeros((1, 1, 1), dtype=np.int64), np.ones((3, 4, 2), dtype=np.int64)):
        for drawing in draw(report_data(frame(answers, null=1))):
            inline_svg(drawing)


def test_labels_are_text_not_mathematics(data: ReportData, tmp_path: Path) -> None:
    """A model called a$b$ must neither crash matplotlib nor be typeset."""
    for drawing in draw_comparison({"a$\\frac{b$": data, "<b>&": data}, tmp_path):
        svg = inline_svg(drawing)
        ElementTree.fromstring(svg)
    assert "a$\\frac{b$" in svg
    assert "&lt;b&gt;&amp;" in svg
    assert (tmp_path / "rho.parquet").exists()
