"""The one place that looks for the compiled core, `fastsia._C`."""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from types import ModuleType


@cache
def extension() -> ModuleType | None:
    """The compiled core, or None (with one warning) where it was not built: then the Python reference runs."""
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
