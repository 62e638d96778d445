"""How a language model's uncertainty about the answer moves while it reasons."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

# Threads of OpenMP spin between small products, which costs several times the work on a machine that does anything
# else. It is read as torch is imported.
if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from fastsia.answers.distribution import answer_entropy as answer_entropy
    from fastsia.answers.extraction import extract_answers as extract_answers
    from fastsia.config import Problem as Problem
    from fastsia.config import SamplingParams as SamplingParams
    from fastsia.config import SIAConfig as SIAConfig
    from fastsia.engine.engine import Engine as Engine
    from fastsia.engine.sequence import Request as Request
    from fastsia.engine.sequence import Rollout as Rollout
    from fastsia.errors import FastsiaError as FastsiaError
    from fastsia.evaluation import evaluate as evaluate
    from fastsia.results import SIAResult as SIAResult
    from fastsia.results import analyze as analyze
    from fastsia.results import load as load
    from fastsia.results import reread as reread
    from fastsia.tasks import load_task as load_task

# Where each public name lives. They are imported when first used: torch alone takes seconds.
_HOMES = {
    "answer_entropy": "fastsia.answers.distribution",
    "extract_answers": "fastsia.answers.extraction",
    "FastsiaError": "fastsia.config",
    "Problem": "fastsia.config",
    "SamplingParams": "fastsia.config",
    "SIAConfig": "fastsia.config",
    "Engine": "fastsia.engine.engine",
    "Request": "fastsia.engine.sequence",
    "Rollout": "fastsia.engine.sequence",
    "evaluate": "fastsia.evaluation",
    "SIAResult": "fastsia.results",
    "analyze": "fastsia.results",
    "load": "fastsia.results",
    "reread": "fastsia.results",
    "load_task": "fastsia.tasks",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
