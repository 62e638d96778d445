"""What every benchmark states: where it ran, of which commit, and one JSON line a row."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parents[1]
ROWS = REPOSITORY / "benchmarks" / ".work" / "rows.jsonl"
PACKAGES = ("torch", "triton", "transformers", "flashinfer-python", "vllm", "numpy")


@cache
def provenance() -> dict[str, Any]:
    """Machine, versions and commit."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda,
        "versions": versions,
    }


def emit(row: dict[str, Any], path: Path = ROWS) -> None:
    """Print a row with its provenance as one JSON line, and append it to a file (benchmarks/.work/rows.jsonl)."""
    line = json.dumps(row | provenance())
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)


def percentiles(values: list[float]) -> dict[str, float]:
    """The 20th, 50th and 80th percentile."""
    cuts = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64))
    return {name: round(float(cut), 3) for name, cut in zip(("p20", "p50", "p80"), cuts, strict=True)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
