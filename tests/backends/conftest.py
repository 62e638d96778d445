"""Retries that first wait a tenth of what a real server is given; they wait as long as it in the end."""

from __future__ import annotations

import pytest
from tenacity import wait_exponential


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastsia.backends.completions_client._backoff", wait_exponential(multiplier=0.05, max=60))
