"""A table, a figure and a statistic are one registration each; files, pages and comparisons follow from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

import fastsia
from fastsia.comparison import compare
from fastsia.config import SIAConfig
from fastsia.report import FIGURES, ReportData, figure
from fastsia.sia import registry
from fastsia.sia.scored import Scored
from tests.sia.simulate import draw, frame, moving

QUICK = SIAConfig(num_bootstrap=100, num_splits=2)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = [(each, dict(each)) for each in (registry.TABLES, registry.QUANTITIES, FIGURES)]
    yield
    for each, kept in before:
        each.clear()
        each.update(kept)  # type: ignore[arg-type]


def result(seed: int = 0) -> fastsia.SIAResult:
    rng = np.random.default_rng(seed)
    return fastsia.analyze(frame(draw(moving(12, 6, rng), 8, rng), null=4), config=QUICK)


def test_a_registered_table_is_computed_exported_read_back_and_shown(tmp_path: Path) -> None:
    @registry.table("lengths", columns="shortest longest", place=55)
    def lengths(scored: Scored) -> pd.DataFrame:
        """Lengths of the trajectories

        In tokens, over the whole run.

        Returns:
            One row.
        """
        return pd.DataFrame({"shortest": [scored.length.min()], "longest": [scored.length.max()]})

    found = result()
    assert found.tables["lengths"]["longest"].tolist() == [100]
    found.save(tmp_path)
    assert pd.read_parquet(tmp_path / "tables" / "lengths.parquet")["longest"].tolist() == [100]
    assert fastsia.load(tmp_path).tables["lengths"]["longest"].tolist() == [100]
    FIGURES.clear()  # to draw them takes seconds
    page = found.report(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<summary>Lengths of the trajectories</summary>\n<p>In tokens, over the whole run.</p>" in page
    assert page.index("Lengths of the traj") < page.index("Early stopping, simulated</summary>"), "in its place"


def test_a_table_of_a_run_that_is_registered_no_more_is_not_deleted(tmp_path: Path) -> None:
    """Files of unknown names in tables/ are the user's."""
    result().save(tmp_path)
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "tables" / "mine.parquet")
    result().save(tmp_path)
    assert (tmp_path / "tables" / "mine.parquet").exists()


def test_a_registered_figure_is_drawn_and_on_the_page(tmp_path: Path) -> None:
    FIGURES.clear()

    @figure("first_and_last", lambda data: f" {data.summary['num_problems']} problems.")
    def first_and_last(data: ReportData, axes: Axes) -> pd.DataFrame:
        """First against last entropy

        One mark per trajectory.
        """
        numbers = data.trajectories[["first_entropy", "final_entropy"]]
        axes.scatter(*numbers.to_numpy().T)
        return numbers

    page = result().report(tmp_path)
    assert (tmp_path / "figures" / "first_and_last.svg").exists()
    assert len(pd.read_parquet(tmp_path / "figures" / "first_and_last.parquet")) == 12
    text = page.read_text(encoding="utf-8")
    assert "<h3>First against last entropy</h3>" in text
    assert "<figcaption>One mark per trajectory. 12 problems." in text


def test_a_registered_quantity_is_in_summary_estimates_and_comparisons(tmp_path: Path) -> None:
    registry.add_quantity(registry.Quantity("entropy_spent", column="first_entropy"))
    folders = [result(seed).save(tmp_path / str(seed)) for seed in (0, 1)]
    found = result()
    mean = found.trajectories["first_entropy"].mean()
    assert found.summary["entropy_spent"] == pytest.approx(mean)
    low, high = found.summary["ci"]["entropy_spent"]
    assert low < mean < high
    both = compare(folders)
    assert both.table["entropy_spent"].tolist()[0] == pytest.approx(mean)
    assert both.table["entropy_spent_low"].tolist()[0] == pytest.approx(low)
    assert "entropy_spent" in both.differences["quantity"].tolist()


def test_estimates_are_the_summary_in_long_form() -> None:
    rng = np.random.default_rng(0)
    found = fastsia.sia.analyze_rollouts(frame(draw(moving(12, 6, rng), 8, rng), null=4), config=QUICK)
    assert list(found.estimates) == ["quantity", "group", "position", "value", "low", "high", "n"]
    assert not found.estimates.duplicated(["quantity", "group", "position"]).any()
    rows = found.estimates.set_index(["quantity", "group"]).sort_index()
    (row,) = rows.loc[[("rho_pearson", "all")]].to_dict("records")
    summary = found.summary
    assert [row["value"], [row["low"], row["high"]]] == [summary["rho"]["pearson"], summary["ci"]["rho"]["pearson"]]
    assert row["n"] == found.trajectories["rho"].notna().sum()
    auc = rows.loc[[("auc", "all")]]
    assert auc["position"].tolist() == [point["position"] for point in summary["auc"]]
    assert auc["value"].fillna(-1).tolist() == [
        -1 if point["auc"] is None else point["auc"] for point in summary["auc"]
    ]
    assert rows.loc[[("gain", "correct")], "value"].tolist() == [summary["gain_correct"]]


def test_every_table_has_its_registered_columns_and_words() -> None:
    tables = result().tables
    for name, entry in registry.TABLES.items():
        assert entry.title
        assert entry.caption
        assert name not in tables or set(entry.columns) <= set(tables[name])
    assert all(entry.title and entry.caption for entry in FIGURES.values())
