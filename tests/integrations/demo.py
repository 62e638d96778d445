"""The demo model and problems, as the tests of the tools use them."""

from __future__ import annotations

import sys
from pathlib import Path

from fastsia.models.resolve import demo_models
from fastsia.tasks import load_task

WEIGHTS = demo_models()["demo:sft"]


def problems(count: int) -> list[dict[str, str]]:
    """question and gold of the first problems of the demo task."""
    return [{"question": p.question, "gold": p.gold} for p in load_task("demo").problems[:count]]


def script(name: str) -> str:
    """A console script of the running environment."""
    return str(Path(sys.executable).parent / name)
