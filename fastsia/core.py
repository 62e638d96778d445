"""The compiled core, `fastsia._C`."""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from types import ModuleType


@cache
def extension() -> ModuleType | None:
    """The compiled core; None, with one warning, if it was not built: the Python reference is used instead."""
    try:
        return importlib.import_module("fastsia._C")
    except ImportError as error:
        warnings.warn(
            f"fastsia's C++ core is not available ({error}); answers are read by the slower Python reference. "
            "Reinstall with a C++17 compiler to build it.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
