"""benchmarks/gpu/run.sh with a stub in Python's place: what is measured, in which order, and what a call leaves."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
STUB = """#!/usr/bin/env bash
case "$*" in
    *"import fastsia._C"*) [ -e "$CORE" ] && echo "$CORE" ;;
    "-m benchmarks.gpu.report"*) echo "| a table |" ;;
    "-m benchmarks.gpu "*) echo "${@: -1}" >> "$LOG"; echo '{"measured": 1}' >> "$4" ;;
esac
"""


@pytest.fixture
def call(tmp_path: Path) -> dict[str, str]:
    """The environment of a call whose extension is newer than its sources."""
    python, core = tmp_path / "python", tmp_path / "core.so"
    python.write_text(STUB)
    python.chmod(0o755)
    core.touch()
    paths = {"PYTHON": python, "CORE": core, "LOG": tmp_path / "log", "RESULTS": tmp_path / "kept.jsonl"}
    return {**os.environ, **{name: str(path) for name, path in paths.items()}}


def run(call: dict[str, str], out: Path, *arguments: str) -> int:
    command = ["bash", str(REPOSITORY / "benchmarks/gpu/run.sh"), *arguments]
    return subprocess.run(command, env=call | {"OUT": str(out)}, stdout=subprocess.DEVNULL).returncode


def test_a_call_goes_on_from_both_files_and_leaves_them_alike(call: dict[str, str], tmp_path: Path) -> None:
    """On a machine that is lent for minutes, $OUT is empty in every call; elsewhere a killed call leaves more there."""
    out, kept = tmp_path / "out", Path(call["RESULTS"])
    out.mkdir()
    kept.write_text('{"before": 1}\n{"before": 2}\n{"cut in tw')
    (out / "gpu.jsonl").write_text('{"before": 1}\n{"killed": 1}\n')
    assert run(call, out, "--retry") == 0
    assert Path(call["LOG"]).read_text() == "--retry\n"
    lines = ['{"before": 1}', '{"before": 2}', '{"cut in tw', '{"killed": 1}', '{"measured": 1}']
    assert kept.read_text().splitlines() == (out / "gpu.jsonl").read_text().splitlines() == lines
    assert sorted(file.name for file in out.iterdir()) == ["gpu.jsonl", "gpu.md", "logs.tgz"]
    assert (out / "gpu.md").read_text() == "| a table |\n"


@pytest.mark.parametrize("core", ["missing", "older than its sources"])
def test_nothing_is_measured_without_the_core(call: dict[str, str], tmp_path: Path, core: str) -> None:
    """The extension is optional: setup.py exits with 0 where it could not be built."""
    if core == "missing":
        Path(call["CORE"]).unlink()
    else:
        os.utime(call["CORE"], (0, 0))
    assert run(call, tmp_path / "out") == 1
    assert not Path(call["LOG"]).exists()
