"""The architectures of the paper's checkpoints, as in their published config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastsia.models.registry import ModelInfo

ARCHITECTURES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).resolve().parents[1] / "data" / "architectures.json").read_text(encoding="utf-8")
)
_NAMES = {
    "Qwen2.5-3B": "qwen2.5-3b",
    "Qwen2.5-3B-it": "qwen2.5-3b",
    "Qwen2.5-Math-1.5B": "qwen2.5-math-1.5b",
    "DeepSeek-Chat-7B": "deepseek-llm-7b",
    "DeepSeek-R1-Distilled": "r1-distill-qwen-7b",
    "Gemma-2-2B": "gemma-2-2b",
    "Gemma-2-2B-it": "gemma-2-2b",
    "LLaMA-3.2-3B": "llama-3.2-3b",
    "LLaMA-3.2-3B-it": "llama-3.2-3b",
    "Olmo-3-7B-Think-SFT": "olmo-3-7b",
    "Olmo-3-7B-Think": "olmo-3-7b",
}


def architecture_of(model: ModelInfo) -> dict[str, Any]:
    """The keyword arguments of `AutoConfig.for_model`."""
    return ARCHITECTURES[_NAMES[model.name]]
