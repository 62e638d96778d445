"""The pages of the documentation, and running the code on them as a reader would."""

from __future__ import annotations

import contextlib
import doctest
import re
from pathlib import Path
from typing import Any

from .programs import ROOT, run_shell

DOCS = ROOT / "docs"


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of every fenced block of a page that names its language, in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def programs(page: str, language: str) -> list[str]:
    """The blocks of a page of the documentation that are marked as a language."""
    return [text for marked, text in blocks(page) if marked == language]


def follow(page: str, folder: Path) -> None:
    """Do what a page says, from its top to its end: commands in a shell, Python in one session, both in `folder`."""
    session: dict[str, Any] = {"__name__": "__main__"}
    for number, (language, text) in enumerate(blocks(page)):
        where = f"{page}, block {number + 1}"
        if language == "sh":
            done = run_shell(text, folder)
            assert done.returncode == 0, f"{where}:\n{done.stdout}\n{done.stderr}"
        elif language == "python":
            with contextlib.chdir(folder):
                _type(text, session, where)


def _type(text: str, session: dict[str, Any], where: str) -> None:
    """Run a block; one that shows a prompt must also answer as the page says."""
    if not text.startswith(">>>"):
        exec(compile(text, where, "exec"), session)
        return
    said: list[str] = []
    example = doctest.DocTestParser().get_doctest(text, session, where, None, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    failed = runner.run(example, out=said.append, clear_globs=False).failed
    assert not failed, "".join(said)
    session.update(example.globs)
