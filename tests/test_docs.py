"""The programs that the documentation shows run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM

import fastsia

DOCS = Path(__file__).parent.parent / "docs"


def programs(page: str, language: str = "python") -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_rl_loop_trains_the_demo_model(tmp_path: Path) -> None:
    (program,) = programs("rl.md")
    assert len(program.splitlines()) < 70
    script = tmp_path / "rl.py"
    script.write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "trained"), "2", "3", "3"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert re.findall(r"step (\d): reward 0?[01]?\.\d{3}", done.stdout) == ["1", "2"], done.stdout
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    before = fastsia.Engine.from_pretrained("demo:sft").model
    assert not trained.lm_head.weight.equal(before.get_output_embeddings().weight)


def test_the_exports_are_made_and_read(tmp_path: Path) -> None:
    """By the page's commands, in its order."""
    (commands,), (program,) = programs("exports.md", "sh"), programs("exports.md")
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    places = os.environ | {"PATH": beside, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(["bash", "-euc", commands], capture_output=True, check=True, cwd=tmp_path, env=places)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path, env=places
    )
    assert re.search(r"^\d\.\d+ \d\.\d+$", done.stdout, re.MULTILINE)
