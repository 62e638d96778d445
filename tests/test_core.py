"""Without the compiled core everything still works, after one warning."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import warnings

import pytest

from fastsia import core

SCRIPT = """
import sys, warnings
sys.modules["fastsia._C"] = None  # as if it had not been built
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    from fastsia.answers.distribution import answer_entropy
    from fastsia.answers.extraction import extract_answers
    assert extract_answers(["#### 1,234", "so 5"]) == ["1234", "5"]
    assert extract_answers(["Answer: B"], "choice") == ["B"]
    assert answer_entropy(["1", "1"]) == 0
print([str(warning.message) for warning in seen if "core" in str(warning.message)])
"""


def test_one_warning_and_the_reference() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONWARNINGS": ""},
    )
    (message,) = ast.literal_eval(done.stdout)
    assert "C++ core is not available" in message
    assert "compiler" in message


def test_extension_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = core.extension()
    monkeypatch.setattr(core.importlib, "import_module", lambda name: pytest.fail("looked for again"))
    assert core.extension() is first
