"""The paper's published mean alignments, to print ours beside. The numbers are facts, the reading of them ours.

Source: The Stepwise Informativeness Assumption, arXiv 2604.06192v1, Tables 1, 2 and 3. Its text gives up to 600
generated tokens; temperature, top-p, rollouts and stride are not in the text we hold, nor which ARC subset was used.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SOURCE = "The Stepwise Informativeness Assumption, arXiv 2604.06192v1"

TABLE1: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        model: MappingProxyType(dict(zip(("gsm8k", "svamp", "arc"), rho, strict=True)))
        for model, rho in (
            ("Qwen2.5-3B", (0.682, 0.603, 0.344)),
            ("Qwen2.5-3B-it", (0.744, 0.835, 0.666)),
            ("Qwen2.5-Math-1.5B", (0.499, 0.802, 0.676)),
            ("DeepSeek-Chat-7B", (0.346, 0.295, 0.143)),
            ("DeepSeek-R1-Distilled", (0.795, 0.593, 0.783)),
            ("Gemma-2-2B", (-0.530, 0.169, -0.208)),
            ("Gemma-2-2B-it", (0.522, 0.462, 0.578)),
            ("LLaMA-3.2-3B", (-0.361, 0.424, -0.366)),
            ("LLaMA-3.2-3B-it", (0.576, 0.399, 0.545)),
            ("Olmo-3-7B-Think-SFT", (0.964, 0.884, 0.960)),
            ("Olmo-3-7B-Think", (0.885, 0.778, 0.887)),
        )
    }
)
"""Mean rho by model and dataset."""

TABLE2: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "Qwen2.5-3B": (0.682, -0.132),
        "Qwen2.5-3B-it": (0.744, -0.005),
        "DeepSeek-R1-Distilled": (0.795, 0.020),
        "Gemma-2-2B-it": (0.522, -0.063),
    }
)
"""Mean rho on GSM8K with the prefix as written and shuffled."""

TABLE3: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "Qwen2.5-3B": (0.682, 0.635),
        "Qwen2.5-3B-it": (0.744, 0.831),
        "DeepSeek-R1-Distilled": (0.795, 0.711),
        "Gemma-2-2B-it": (0.522, 0.506),
    }
)
"""Mean rho on GSM8K as estimated and with fewer rollouts at a coarser stride."""

_DATASETS = {
    "gsm8k": "gsm8k",
    "svamp": "svamp",
    "svamp_full": "svamp",
    "arc": "arc",
    "arc_challenge": "arc",
    "arc_easy": "arc",
}


def published_rho(model: str, task: str) -> float | None:
    """Table 1's value for a model, named as in `tasks.models`, and one of our tasks; None where it has none.

    Both ARC subsets stand beside its one column "arc", since the paper does not say which it is.
    """
    row = TABLE1.get(model)
    dataset = _DATASETS.get(task)
    return None if row is None or dataset is None else row[dataset]
