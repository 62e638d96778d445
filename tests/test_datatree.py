"""Export to xarray; the package is optional."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

import fastsia
from fastsia import FastsiaError
from tests.sia.simulate import draw, frame, moving

FEW = fastsia.SIAConfig(num_bootstrap=2, num_splits=2)


def result() -> fastsia.SIAResult:
    """Three trajectories of different lengths, with checkpoints at any distance."""
    rng = np.random.default_rng(0)
    table = frame(draw(moving(3, 6, rng), 8, rng), null=4, lengths=np.array([6, 4, 5]))
    return fastsia.analyze(table.assign(checkpoint=table["checkpoint"] ** 2), config=FEW)


def test_without_the_package_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(FastsiaError, match=r"needs the package xarray: pip install xarray"):
        result().to_datatree()


def test_every_number_is_at_its_place() -> None:
    pytest.importorskip("xarray")
    run = result()
    tree = run.to_datatree()
    points = tree["checkpoints"]
    assert dict(points.sizes) == {"trajectory": 3, "checkpoint": 6}
    for place, problem in enumerate(points["problem_id"].values.tolist()):
        rows = run.checkpoints[run.checkpoints["problem_id"] == problem]
        for name, column in (("position", "checkpoint"), ("entropy", "entropy"), ("mode_share", "mode_share")):
            values = points[name].values[place]
            np.testing.assert_array_equal(values[: len(rows)], rows[column])
            assert np.isnan(values[len(rows) :]).all()
    numbers = [name for name in run.trajectories if pd.api.types.is_numeric_dtype(run.trajectories[name])]
    assert {*map(str, numbers)} - {"trajectory"} <= {*tree["trajectories"].data_vars}
    np.testing.assert_array_equal(tree["trajectories"]["rho"].values, run.trajectories["rho"])
    for row in run.curves.iloc[::37].to_dict("records"):
        where = {name: row[name] for name in ("curve", "group", "axis", "position")}
        np.testing.assert_equal(float(tree["curves"]["value"].sel(where)), row["value"])
    assert tree.attrs["num_problems"] == 3
