"""Kernel tests are left out where triton is not installed: it is a dependency on Linux only."""

from __future__ import annotations

import importlib.util
import os

KERNEL_TESTS = ["sampling", "prefix_attention", "kv_cache", "engine", "interpreter", "ahead_of_time", "launches"]

collect_ignore = [] if importlib.util.find_spec("triton") else [f"test_{name}.py" for name in KERNEL_TESTS]

if os.environ.get("TRITON_INTERPRET") == "1":
    from tests.ops.interpreter import make_faster

    make_faster()
