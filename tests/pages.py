"""The pages of the documentation, and running the code on them as a reader would."""

from __future__ import annotations

import contextlib
import doctest
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of every fenced block of a page that names its language, in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def programs(page: str, language: str) -> list[str]:
    """The blocks of a page of the documentation that are marked as a language."""
    return [text for marked, text in blocks(page) if marked == language]


def offline(**more: Any) -> dict[str, str]:
    """An environment in which nothing is fetched, and one thread is used."""
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **{name: str(value) for name, value in more.items()},
    }


def run_shell(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A page's commands, with the programs of the running environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.run(["bash", "-euc", text], cwd=folder, env=offline(PATH=path), capture_output=True, text=True)


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
