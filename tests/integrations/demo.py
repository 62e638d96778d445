"""The demo model and problems, as the tests of the tools use them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from fastsia.engine.checkpoint import demo_models
from fastsia.tasks import load_task

WEIGHTS = demo_models()["demo:sft"]


def problems(count: int) -> list[dict[str, str]]:
    """question and gold of the first problems of the demo task."""
    return [{"question": p.question, "gold": p.gold} for p in load_task("demo").problems[:count]]


def offline(**more: Any) -> dict[str, str]:
    """An environment in which nothing is fetched, and one thread is used."""
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **{name: str(value) for name, value in more.items()},
    }


def script(name: str) -> str:
    """A console script of the running environment."""
    return str(Path(sys.executable).parent / name)


def programs(page: str, language: str) -> list[str]:
    """The blocks of a page of the documentation that are marked as a language."""
    text = (Path(__file__).resolve().parents[2] / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run_shell(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A page's commands, with the programs of the running environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.run(["bash", "-euc", text], cwd=folder, env=offline(PATH=path), capture_output=True, text=True)
