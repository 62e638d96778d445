from __future__ import annotations

import re
import warnings
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fastsia.report import (
    Overlay,
    ReportData,
    draw_comparison,
    draw_families,
    draw_figures,
    draw_outcomes,
    draw_overlay,
)
from fastsia.report.drawing import Drawing, inline_svg
from fastsia.report.figures import draw
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
    assert {"early_stop", "failure_detection"} <= names
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
        references = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', svg))
        own = re.findall(r'\bid="([^"]+)"', svg)
        assert references <= set(own)
        ids += own
    assert len(ids) == len(set(ids))


def test_colours_follow_the_page(drawings: list[Drawing]) -> None:
    svg = inline_svg(drawings[0])
    assert 'class="f-ink"' in svg
    assert not re.search(r'(?:fill|stroke)="#', svg)


def test_figures_are_reproducible(data: ReportData, drawings: list[Drawing]) -> None:
    assert [inline_svg(drawing) for drawing in draw(data)] == [inline_svg(drawing) for drawing in drawings]


def test_degenerate_runs_draw_what_they_can() -> None:
    for answers in (np.zeros((1, 1, 1), dtype=np.int64), np.ones((3, 4, 2), dtype=np.int64)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for drawing in draw(report_data(frame(answers, null=1))):
                inline_svg(drawing)


def test_a_run_without_a_recommended_rho_draws_the_other(data: ReportData) -> None:
    """As where nothing changes; the mean of nothing would be a warning on the terminal."""
    column = f"rho_{data.summary['rho']['recommended']}"
    without = replace(data, trajectories=data.trajectories.assign(**{column: np.nan}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = {drawing.name: drawing for drawing in draw(without)}
    assert drawn["rho_histogram"].numbers[column].sum() == 0 < drawn["rho_histogram"].numbers["rho_correct"].sum()


def test_a_run_of_an_older_version_has_a_cross_fitted_rho_beside_the_papers(data: ReportData) -> None:
    older = replace(data, summary=data.summary | {"rho": {"pearson": 0.5}})
    drawn = {drawing.name: drawing for drawing in draw(older)}
    assert "rho_cross_fitted" in drawn["rho_histogram"].numbers


def test_no_figure_is_empty_and_no_legend_lies_on_data(data: ReportData) -> None:
    """A Fano bound of 0 from end to end was drawn, and what rho depends on without a rho."""
    curves = data.curves.assign(value=data.curves["value"].where(data.curves["curve"] != "fano_bound", 0.0))
    sensitivity = data.tables["sensitivity"].assign(rho_pearson=np.nan, rho_cross_fitted=np.nan)
    without = replace(data, curves=curves, tables={**data.tables, "sensitivity": sensitivity})
    drawn = {drawing.name: drawing.figure for drawing in draw(without)}
    assert not {"fano", "sensitivity"} & set(drawn)
    for figure in drawn.values():
        axes = figure.axes[0]
        if (legend := axes.get_legend()) is not None:
            figure.draw_without_rendering()
            overlap = legend.get_window_extent().y1 - axes.get_window_extent().y0
            assert overlap <= 1 or legend.get_window_extent().y0 >= axes.get_window_extent().y1 - 1


def test_labels_are_text_not_mathematics(data: ReportData, tmp_path: Path) -> None:
    """A model called a$b$ must neither crash matplotlib nor be typeset."""
    for drawing in draw_comparison({"a$\\frac{b$": data, "<b>&": data}, tmp_path):
        svg = inline_svg(drawing)
        ElementTree.fromstring(svg)
    assert "a$\\frac{b$" in svg
    assert "&lt;b&gt;&amp;" in svg
    assert (tmp_path / "rho.parquet").exists()


def test_decisive_steps_link_to_their_trajectories(data: ReportData) -> None:
    """From within the report, and from the file in figures/."""
    (drawing,) = [one for one in draw(data) if one.name == "steps"]
    frame, keys = data.checkpoints, list(data.trajectories["problem_id"])
    decisive = frame[frame["step_q_value"] <= 0.05]
    wanted = [f"#t{keys.index(row.problem_id)}-{row.step_end:.0f}" for row in decisive.itertuples()]
    assert len(wanted) >= 2
    assert sorted(re.findall(r'<a href="(#t[^"]+)"', inline_svg(drawing))) == sorted(wanted)
    assert sorted(re.findall(r'"\.\./report\.html(#t[^"]+)"', drawing.svg())) == sorted(wanted)


def test_trajectories_that_never_lock_in_are_not_drawn_as_locked_in(data: ReportData) -> None:
    trajectories = data.trajectories.assign(lock_in_relative=np.nan, correct=False)
    trajectories.loc[trajectories.index[:3], "lock_in_relative"] = [0.2, 0.5, 0.5]
    (drawing,) = [one for one in draw(replace(data, trajectories=trajectories)) if one.name == "lock_in"]
    assert drawing.numbers["position"].tolist() == [0.0, 0.2, 0.5, 1.0]
    assert drawing.numbers["share"].tolist() == pytest.approx(np.array([0, 1, 3, 3]) / len(trajectories))


def test_overlays_leave_out_what_a_run_has_not(data: ReportData) -> None:
    """A run in which nothing ends correct has no gain of correct trajectories; a share of no gain means nothing."""
    flat = report_data(frame(np.ones((6, 4, 8), dtype=np.int64)))
    look = Overlay("gain", "Gain", "gain", "correct", "nats")
    drawn = draw_overlay(look, {"moves": data, "flat": flat})
    assert drawn is not None
    assert set(drawn.numbers["run"]) == {"moves"}
    assert draw_overlay(look, {"flat": flat}) is None
    right = report_data(frame(np.zeros((6, 4, 8), dtype=np.int64)))
    assert draw_overlay(look, {"right": right}) is not None
    assert draw_overlay(replace(look, curve="gain_share"), {"right": right}) is None
    many = draw_overlay(look, {f"run {i}": data for i in range(11)})
    assert many is not None
    assert many.figure.get_size_inches()[1] > drawn.figure.get_size_inches()[1], "room for a legend below"


def test_lines_that_coincide_are_drawn_once(drawings: list[Drawing]) -> None:
    """Where all trajectories have one outcome, and where pooling changes nothing."""
    several = {one.name: one.figure.axes[0].get_legend_handles_labels()[1] for one in drawings}
    assert len(several["fig3_entropy"]) == 3
    flat = {one.name: one for one in draw(report_data(frame(np.ones((6, 4, 8), dtype=np.int64))))}
    assert flat["fig3_entropy"].figure.axes[0].get_legend_handles_labels()[1] == ["ends incorrect (6)"]
    assert set(flat["fig3_entropy"].numbers["group"]) == {"all", "incorrect"}, "the data has both"


def test_what_the_rollouts_cost_is_said_beside_what_stopping_saves(data: ReportData) -> None:
    (figure,) = (each for each in draw(data) if each.name == "early_stop")
    table = data.tables["early_stop"]
    by_tau = table[table["rule"] == "entropy"].sort_values("saved")
    (drawn,) = (line for line in figure.figure.axes[0].get_lines() if line.get_label() == "entropy")
    np.testing.assert_allclose(drawn.get_data(), [100 * by_tau["saved"], -100 * by_tau["lost"]])
    assert "Tokens of the rollouts are not counted." in figure.caption
    costs = {"generated_tokens": 60_000, "mean_trajectory_tokens": 100.0, "num_trajectories": 20}
    (figure,) = (each for each in draw(replace(data, summary={**data.summary, **costs})) if each.name == "early_stop")
    assert "this run drew 60,000 tokens (30 times those of the trajectories)" in figure.caption


def test_token_level_is_drawn_where_two_runs_have_it(data: ReportData, tmp_path: Path) -> None:
    bare = replace(data, tables={name: table for name, table in data.tables.items() if name != "token_level"})
    three = draw_comparison({"one": data, "bare": bare, "two": data}, tmp_path)
    assert three[-1].name == "token_and_answer_entropy"
    assert three[-1].numbers["run"].unique().tolist() == ["one", "two"]
    inline_svg(three[-1])
    level = data.tables["token_level"].iloc[0]
    for mark in three[-1].figure.axes[0].get_lines():
        assert np.ravel(mark.get_data()).tolist() == [level["token_entropy"], level["answer_entropy_mean"]]
    assert "token_and_answer_entropy" not in {each.name for each in draw_comparison({"one": data, "bare": bare})}


def test_families_have_a_panel_each(data: ReportData) -> None:
    drawn = draw_families("fig3", {"one": {"a": data, "b": data}, "other": {"c": data}})
    assert drawn is not None
    assert [axes.get_title(loc="left") for axes in drawn.figure.axes] == ["one", "other"]
    assert drawn.numbers.groupby("family")["run"].unique().map(list).to_dict() == {"one": ["a", "b"], "other": ["c"]}
    inline_svg(drawn)
    assert draw_families("fig3", {}) is None


def test_outcomes_have_a_panel_for_each_run_and_both_lines_in_it(data: ReportData) -> None:
    drawn = draw_outcomes("fig1_gain", "Gain", "gain", "G", {"a (SFT)": data, "b (Base)": data})
    assert drawn is not None
    assert [axes.get_title(loc="left") for axes in drawn.figure.axes] == ["a (SFT)", "b (Base)"]
    wanted = data.curves[(data.curves["curve"] == "gain") & (data.curves["axis"] == "relative")]
    for axes in drawn.figure.axes:
        lines = {str(line.get_label()).partition(" (")[0]: line for line in axes.get_lines()}
        for group, label in (("correct", "ends correct"), ("incorrect", "ends incorrect")):
            value = wanted.loc[wanted["group"] == group, "value"].to_numpy()
            np.testing.assert_allclose(lines[label].get_ydata(), value)
    assert set(drawn.numbers["group"]) == {"correct", "incorrect"}
    inline_svg(drawn)
    assert draw_outcomes("fig1_gain", "Gain", "gain", "G", {}) is None


def test_a_share_of_a_gain_that_may_be_0_is_not_drawn(data: ReportData) -> None:
    unsure = data.curves.copy()
    final = (unsure["curve"] == "gain") & (unsure["group"] == "incorrect") & (unsure["position"] == 1)
    unsure.loc[final, ["low", "high"]] = [-1.0, 1.0]
    drawn = draw_outcomes("fig1_gain_share", "Early", "gain_share", "share", {"a": replace(data, curves=unsure)})
    assert drawn is not None
    assert set(drawn.numbers["group"]) == {"correct"}
