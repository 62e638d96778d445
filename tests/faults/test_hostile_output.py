"""A model that writes what attacks its reader: markup, terminal escapes, marks that turn text round, broken bytes."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import fastsia
from fastsia import Problem
from fastsia.cli import _run
from fastsia.cli.render import Plain, plain
from tests.tiny import tiny_model

MARKUP = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
ESCAPES = "\x1b[2J\x1b]0;title\x07\x9b31m"
TURNED = "\u202e\u2066\u200f\u061c"
LONG = "x" * (1 << 20)
SETTINGS: dict[str, Any] = {
    "num_rollouts": 3,
    "stride": 4,
    "max_tokens": 8,
    "temperature": 1.0,
    "top_p": 1.0,
    "num_bootstrap": 20,
    "num_splits": 2,
}
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def hostile_model(pieces: list[str], invalid: bool = True) -> tuple[Any, Any]:
    """Writes almost only these pieces and digits, and, where `invalid`, single bytes that are no UTF-8."""
    model, tokenizer = tiny_model(seed=3)
    tokenizer.add_tokens(pieces)
    model.resize_token_embeddings(len(tokenizer))
    spoken = tokenizer.convert_tokens_to_ids([*pieces, "1", "2"]) + list(range(120, 128)) * invalid
    with torch.no_grad():
        torch.manual_seed(0)
        model.lm_head.weight[:] *= 0.02
        model.lm_head.weight[spoken] = torch.randn(len(spoken), 32) * 0.5
    return model, tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model, problem, options and task name are all hostile."""
    folder = tmp_path_factory.mktemp("hostile") / "run"
    problems = [
        Problem(MARKUP + ESCAPES + TURNED, f"{MARKUP}{ESCAPES}{TURNED} 1 + 1?", "2"),
        Problem("options", "Which?", "B", choices=(MARKUP, ESCAPES + "b"), answer_format="choice"),
    ]
    model = hostile_model([MARKUP, ESCAPES, TURNED, "\\boxed{9**9**9**9}", "#### "])
    fastsia.evaluate(model, problems, output=folder, **SETTINGS)
    return folder


def test_the_texts_are_stored_as_they_were_drawn(folder: Path) -> None:
    found = fastsia.load(folder)
    text = "".join(found.trajectories["text"])
    assert MARKUP in text or ESCAPES in text or TURNED in text
    assert found.trajectories["problem_id"][0] == MARKUP + ESCAPES + TURNED


def test_the_report_shows_them_as_text(folder: Path) -> None:
    page = fastsia.load(folder).report(folder).read_text(encoding="utf-8")
    assert MARKUP not in page
    assert "<img" not in page
    assert not re.search(r"<script[^>]*>\s*alert", page)
    assert "default-src 'none'" in page.replace("&#39;", "'")


@pytest.mark.parametrize("command", ["report", "compare", "analyze"])
def test_the_terminal_is_not_steered(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No escape sequence and no mark that turns text round, on either stream."""
    copy = folder.with_name("copy")
    if command == "compare" and not copy.exists():
        fastsia.load(folder).save(copy)
    arguments = {
        "report": ["report", str(folder)],
        "compare": ["compare", str(folder), str(copy)],
        "analyze": ["analyze", str(folder / "rollouts.parquet"), "--num_bootstrap", "20"],
    }[command]
    assert _run(arguments) == 0
    out, err = capsys.readouterr()
    assert not STEERING.search(out + err)


def test_errors_and_warnings_are_plain_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = tmp_path / f"{ESCAPES.replace('/', '')}{TURNED}\nfastsia: all is well.jsonl"
    name.write_text('{"question": "?", "answer": "' + "\\u001b[2J" + '"}\n')
    assert _run(["run", "--model", "demo:sft", "--tasks", str(name)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("fastsia: error: ")
    assert err.count("\n") == 1, "a name's own line break is none of the terminal's"
    assert not STEERING.search(err)
    warning = logging.LogRecord("fastsia", logging.WARNING, "", 0, "%s is damaged.", (name,), None)
    assert "\n" not in Plain("fastsia: %(message)s").format(warning)
    assert plain("\ud800 \u200f") == "\ufffd \ufffd"


def test_lines_of_a_megabyte(tmp_path: Path) -> None:
    """A token of 1 MB, drawn again and again: read, stored, and shortened in a report that stays small."""
    model = hostile_model([LONG], invalid=False)
    found = fastsia.evaluate(model, [Problem("long", "How long?", "1")], output=tmp_path, **SETTINGS)
    assert found.trajectories["text"].str.len().max() > 1 << 20
    page = found.report(tmp_path)
    assert page.stat().st_size < 30 << 20
    assert fastsia.load(tmp_path).summary["num_problems"] == 1
