"""A run's tables as an xarray DataTree: curves along the trajectories, with a dimension for what varies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fastsia.errors import FastsiaError

if TYPE_CHECKING:
    import xarray

    from fastsia.results.result import SIAResult

_KEYS = ("problem_id", "trajectory")


def to_datatree(result: SIAResult) -> xarray.DataTree:
    """As `SIAResult.to_datatree`."""
    try:
        import xarray as xr
    except ImportError as error:
        raise FastsiaError("to_datatree needs the package xarray: pip install xarray (or fastsia[xarray]).") from error

    trajectories, checkpoints = result.trajectories, result.checkpoints
    owner = pd.MultiIndex.from_frame(trajectories[list(_KEYS)])
    row = owner.get_indexer(pd.MultiIndex.from_frame(checkpoints[list(_KEYS)]))
    number = checkpoints.groupby(list(_KEYS), sort=False).cumcount().to_numpy()
    shape = (len(trajectories), int(number.max(initial=-1)) + 1)

    def spread(values: np.ndarray) -> np.ndarray:
        filled = np.full(shape, np.nan)
        filled[row, number] = values
        return filled

    names = {
        "problem_id": ("trajectory", trajectories["problem_id"].to_numpy(str)),
        "trajectory_number": ("trajectory", trajectories["trajectory"].to_numpy(np.int64)),
    }
    along = {name: (("trajectory", "checkpoint"), spread(values)) for name, values in _numbers(checkpoints).items()}
    position = along.pop("checkpoint")
    where = names | {"checkpoint": np.arange(shape[1]), "position": position}
    ends = {name: ("trajectory", values) for name, values in _numbers(trajectories).items()}
    groups: dict[str, Any] = {
        "checkpoints": xr.Dataset(along, coords=where, attrs=_ATTRIBUTES["checkpoints"]),
        "trajectories": xr.Dataset(ends, coords=names, attrs=_ATTRIBUTES["trajectories"]),
    }
    if len(result.curves):
        groups["curves"] = xr.Dataset.from_dataframe(_curves(result.curves)).assign_attrs(_ATTRIBUTES["curves"])
    tree = xr.DataTree.from_dict(groups)
    facts = ("model", "task", "num_problems", "num_trajectories", "version")
    tree.attrs.update({name: result.summary[name] for name in facts if result.summary.get(name) is not None})
    return tree


_ATTRIBUTES = {
    "checkpoints": {"description": "one value per trajectory and checkpoint; NaN after a trajectory's last checkpoint"},
    "trajectories": {"description": "one value per trajectory"},
    "curves": {"description": "means over trajectories with 95 % intervals over problems"},
}


def _numbers(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """The columns of numbers and of yes or no, but the keys, as float64."""
    kept = [name for name in frame.columns if name not in _KEYS and frame[name].dtype.kind in "biuf"]
    return {str(name): frame[name].to_numpy(np.float64) for name in kept}


def _curves(curves: pd.DataFrame) -> pd.DataFrame:
    """The curves by name, group, axis and position."""
    keys = [name for name in ("curve", "group", "axis", "position") if name in curves]
    return curves.set_index(keys).select_dtypes("number")
