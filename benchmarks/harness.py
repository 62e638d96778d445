"""What every benchmark shares: options, times and memory, a table on the screen, a JSON line with provenance."""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch

from fastsia import processor
from fastsia.config import SETTINGS
from fastsia.provenance import provenance as of_package

REPOSITORY = Path(__file__).resolve().parents[1]
WORK = REPOSITORY / "benchmarks" / ".work"
ROWS = WORK / "rows.jsonl"
_Result = TypeVar("_Result")


def parse(doc: str | None, *settings: str, **options: Any) -> argparse.Namespace:
    """Parse the command line.

    Args:
        doc: the help text; it explains the options that need explaining.
        settings: fields of `SIAConfig`, with their defaults there.
        options: each option's default, which also gives its type. A type stands for "not given" (None), a list takes
            several values, False is a flag.
    """
    declared = [SETTINGS[name] for name in settings]
    options = {one.name: one.type if one.default is None else one.default for one in declared} | options
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in options.items():
        if default is False:
            parser.add_argument(f"--{name}", action="store_true")
        elif isinstance(default, type):
            parser.add_argument(f"--{name}", type=default)
        elif isinstance(default, list):
            parser.add_argument(f"--{name}", type=type(default[0]), nargs="*", default=default)
        else:
            parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default: {default}")
    return parser.parse_args()


def timed(work: Callable[[], _Result], device: str = "cpu") -> tuple[_Result, float]:
    """What `work` returns, and its wall seconds, until the device has finished."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    begin = time.perf_counter()
    result = work()
    wait()
    return result, time.perf_counter() - begin


def seconds(work: Callable[[], object], repeats: int, device: str = "cpu") -> list[float]:
    """Wall time of each of `repeats` calls, after one warm-up call."""
    return [timed(work, device)[1] for _ in range(repeats + 1)][1:]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The 20th, 50th and 80th percentile."""
    return {f"p{share}": round(float(np.percentile(values, share)), 3) for share in (20, 50, 80)}


def peak_bytes(device: str = "cpu") -> int:
    """Peak of torch's allocator on a GPU (the whole KV pool is included), else of the resident process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def free_memory(device: str) -> None:
    """Return unreferenced memory to the driver, and count peaks anew."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@cache
def provenance() -> dict[str, Any]:
    """Machine, versions and commit; $COMMIT where there is no repository."""
    package = of_package()
    for name in ("triton", "vllm"):
        with suppress(importlib.metadata.PackageNotFoundError):
            package["versions"][name] = importlib.metadata.version(name)
    status = ["git", "status", "--porcelain", "--untracked-files=no"]
    return {
        "commit": package["commit"] or os.environ.get("COMMIT"),
        "modified": bool(package["commit"] and subprocess.check_output(status, cwd=REPOSITORY)),
        "cpu": processor.name(),
        "cpu_flags": processor.flags(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda,
        "versions": package["versions"],
    }


def show(rows: Sequence[Mapping[str, Any]], formats: Mapping[str, str] | None = None, title: str = "") -> None:
    """Print rows as a table below a title; the first row names the columns.

    Numbers are formatted as `formats` says of their column, else with ",.4g", and integers with ",".
    """

    def cell(value: Any, spec: str | None) -> str:
        if value is None or isinstance(value, str):
            return value or ""
        return format(value, spec or ("," if isinstance(value, int) else ",.4g"))

    names = {name: name.replace("_", " ") for name in rows[0]}
    cells = {names[name]: [cell(row.get(name), (formats or {}).get(name)) for row in rows] for name in names}
    print(title, pd.DataFrame(cells).to_string(index=False), sep="\n")


def emit(row: Mapping[str, Any], path: Path | None = ROWS) -> str:
    """Print a row with its provenance as one JSON line, append it to a file, and return it."""
    line = json.dumps({**row, **provenance()})
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(line + "\n")
    print(line, flush=True)
    return line
