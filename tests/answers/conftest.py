"""Tests of answers run on the C++ core and on the Python reference."""

from __future__ import annotations

import pytest

from fastsia.answers import extraction, stream, vocabulary
from fastsia.core import extension


@pytest.fixture
def without_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the C++ core, as on a machine without a compiler."""
    for module in (extraction, stream, vocabulary):
        monkeypatch.setattr(module, "extension", lambda: None)


@pytest.fixture(params=["core", "reference"])
def either(request: pytest.FixtureRequest) -> str:
    """Runs a test twice: on the C++ core and on the reference."""
    if request.param == "reference":
        request.getfixturevalue("without_core")
    elif extension() is None:
        pytest.skip("the C++ core is not built")
    return request.param
