"""A release and a fresh clone are complete: the wheel, its data files, the constraints, the make targets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_constraints_are_exact_public_versions() -> None:
    """A "+cpu" version or a file URL would install on no other machine."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin) for pin in pins)
    assert len({normal(pin.partition("==")[0]) for pin in pins}) == len(pins)


def test_every_dependency_is_constrained() -> None:
    pinned = {
        normal(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    }
    wanted = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]
    names = {normal(re.match(r"[A-Za-z0-9._-]+", requirement).group()) for requirement in wanted}  # type: ignore[union-attr]
    assert names - pinned <= {"setuptools"}  # not listed by `pip freeze`


def test_every_data_file_is_in_the_wheel() -> None:
    """Weights or templates that no pattern matches would be missing only after `pip install`."""
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["fastsia"]
    package = ROOT / "fastsia"
    files = [path.relative_to(package) for path in package.rglob("*") if path.is_file()]
    data = [path.as_posix() for path in files if path.suffix not in (".py", ".pyc", ".so")]
    assert "py.typed" in data
    assert [name for name in data if not any(fnmatch(name, pattern) for pattern in patterns)] == []


def test_every_module_has_its_layer() -> None:
    """import-linter does not report a module that is in no layer."""
    layers = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    named = {name.strip() for layer in layers for name in layer.split("|")}
    package = ROOT / "fastsia"
    modules = {path.stem for path in package.glob("*.py")} | {
        path.parent.name for path in package.glob("*/__init__.py")
    }
    assert {f"fastsia.{module}" for module in modules - {"__init__", "__main__"}} <= named


def test_every_make_target_is_phony_described_and_finds_its_script() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    described = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
    phony = set(re.search(r"^\.PHONY:((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE).group(1).replace("\\", " ").split())  # type: ignore[union-attr]
    assert targets == described == phony
    modules = re.findall(r"-m ((?:benchmarks|tests)\.[\w.]+)", MAKEFILE.replace("$(BENCH)", "-m benchmarks"))
    assert len(modules) > 8
    places = [ROOT.joinpath(*module.split(".")) for module in modules]
    assert [place for place in places if not (place.is_dir() or place.with_suffix(".py").is_file())] == []


def test_ci_runs_the_checks_and_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert {"make check", "make test", "set -euo pipefail"} <= set(script.read_text(encoding="utf-8").splitlines())


def test_version_is_said_once_over() -> None:
    import fastsia

    assert fastsia.__version__ == PROJECT["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {PROJECT['project']['version']}" in changelog


@pytest.mark.slow
def test_the_wheel_builds_from_the_sdist_and_runs_in_a_clean_environment(tmp_path: Path) -> None:
    """The sdist must contain the C++ headers, the wheel the extension and the weights; the checkout is out of reach."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def do(*command: str | Path) -> str:
        done = subprocess.run(
            [str(part) for part in command], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    source = tmp_path / "source"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    do(sys.executable, "-m", "build", "--outdir", tmp_path / "dist", source)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    do(sys.executable, "-m", "venv", tmp_path / "clean")
    python = tmp_path / "clean" / "bin" / "python"
    do(python, "-m", "pip", "install", "--quiet", wheel, "--constraint", ROOT / "constraints.txt")
    where = do(python, "-c", "import fastsia, fastsia._C; print(fastsia.__file__)")
    assert str(tmp_path / "clean") in where
    fastsia = tmp_path / "clean" / "bin" / "fastsia"
    do(fastsia, "run", "--model", "demo:sft", "--tasks", "demo", "--limit", "2", "--num_rollouts", "2", "-o", "out")
    assert (tmp_path / "out" / "summary.json").is_file()
    assert (tmp_path / "out" / "report.html").is_file()
