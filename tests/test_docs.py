"""The programs that the documentation shows run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM

import fastsia

DOCS = Path(__file__).parent.parent / "docs"


def programs(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


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
