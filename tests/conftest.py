"""Fixtures for the tests of several packages."""

from __future__ import annotations

import contextlib
import gc
import os
from pathlib import Path

import pytest

from tests.programs import warm_server


def pytest_configure(config: pytest.Config) -> None:
    """One server of warm programs for all processes of a session: the first of them opens it."""
    opened = contextlib.ExitStack()
    opened.enter_context(warm_server())
    config.add_cleanup(opened.close)
    config.add_cleanup(gc.unfreeze)


def pytest_collection_finish() -> None:
    """What all tests have imported stays: a full garbage collection need not visit it again and again."""
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real test splits: $FASTSIA_SHARED/data, or ../shared/data beside the checkout."""
    root = os.environ.get("FASTSIA_SHARED")
    folder = (Path(root) if root else Path(__file__).resolve().parents[2] / "shared") / "data"
    if not folder.is_dir():
        pytest.skip(f"the real data sets are not at {folder}")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a saved tiny model."""
    from tests.tiny import save_tiny  # imports torch; the process that starts the workers need not wait for it

    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data file with `NUM_PROBLEMS` questions."""
    from tests.tiny import NUM_PROBLEMS

    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    path.write_text("".join(f'{{"question": "{i} + 1?", "answer": "{i % 10}"}}\n' for i in range(NUM_PROBLEMS)))
    return path


@pytest.fixture
def one_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have one figure: all of them take seconds, and are drawn in tests/report."""
    from fastsia.report import figures

    monkeypatch.setattr(figures, "FIGURES", dict(list(figures.FIGURES.items())[:1]))
