"""Retries without the waits that a real server is given."""

from __future__ import annotations

import pytest
from tenacity import wait_exponential


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastsia.backends.completions_client._backoff", wait_exponential(multiplier=0.01, max=0.1))
