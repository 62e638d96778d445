"""The registry of models: facts about the paper's eleven checkpoints and the demo models.

The values are those of the published config.json and generation_config.json. A run reads everything it computes with
from the checkpoint itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Stage = Literal["Base", "SFT", "SFT+RL"]
STAGES: tuple[str, ...] = get_args(Stage)
ALIGNED: tuple[str, ...] = ("SFT", "SFT+RL")
"""The stages whose models the paper calls aligned; a base model is non-aligned."""


@dataclass(frozen=True)
class ModelInfo:
    """One checkpoint.

    Attributes:
        name: the name in the paper's Table 1, or the name of the demo model.
        hub_id: the value that `evaluate` and `--model` accept.
        model_type: transformers' name of the architecture.
        stage: training stage, as the paper states it.
        eos_token_ids: each of these ids ends a sequence.
        num_parameters: weights, tied embeddings counted once; None for the demo models, whose files are in the package.
        chat_template: whether prompts are rendered by the tokenizer's chat template. Base models get plain text, even
            if their tokenizer has a template (Qwen2.5's does).
        opens_think: whether the template's generation prompt ends inside a <think> block.
        gated: whether the Hub requires an accepted licence and a token.
    """

    name: str
    hub_id: str
    model_type: str
    stage: Stage
    eos_token_ids: tuple[int, ...]
    num_parameters: int | None = None
    chat_template: bool = False
    opens_think: bool = False
    gated: bool = False

    @property
    def is_demo(self) -> bool:
        return self.hub_id.startswith("demo:")

    @property
    def family(self) -> str:
        """The first part of the name: "Qwen2.5", "Gemma", "demo"."""
        return self.name.partition(":" if self.is_demo else "-")[0]


MODELS: tuple[ModelInfo, ...] = (
    ModelInfo("Qwen2.5-3B", "Qwen/Qwen2.5-3B", "qwen2", "Base", (151643,), 3_085_938_688),
    ModelInfo(
        "Qwen2.5-3B-it", "Qwen/Qwen2.5-3B-Instruct", "qwen2", "SFT", (151645, 151643), 3_085_938_688, chat_template=True
    ),
    # The paper's name is the base model's, which is used here; its stage is that of Qwen/Qwen2.5-Math-1.5B-Instruct.
    ModelInfo("Qwen2.5-Math-1.5B", "Qwen/Qwen2.5-Math-1.5B", "qwen2", "SFT", (151643,), 1_543_714_304),
    # Published as pickled .bin files only, which fastsia does not load: convert them to safetensors first.
    ModelInfo(
        "DeepSeek-Chat-7B",
        "deepseek-ai/deepseek-llm-7b-chat",
        "llama",
        "SFT",
        (100001,),
        6_910_365_696,
        chat_template=True,
    ),
    # The paper gives no size: 7B, used here, is that of the other DeepSeek model; 1.5B and Llama 8B exist too.
    ModelInfo(
        "DeepSeek-R1-Distilled",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
        "qwen2",
        "SFT+RL",
        (151643,),
        7_615_616_512,
        chat_template=True,
        opens_think=True,
    ),
    ModelInfo("Gemma-2-2B", "google/gemma-2-2b", "gemma2", "Base", (1,), 2_614_341_888, gated=True),
    ModelInfo(
        "Gemma-2-2B-it",
        "google/gemma-2-2b-it",
        "gemma2",
        "SFT",
        (1, 107),
        2_614_341_888,
        chat_template=True,
        gated=True,
    ),
    ModelInfo("LLaMA-3.2-3B", "meta-llama/Llama-3.2-3B", "llama", "Base", (128001,), 3_212_749_824, gated=True),
    ModelInfo(
        "LLaMA-3.2-3B-it",
        "meta-llama/Llama-3.2-3B-Instruct",
        "llama",
        "SFT",
        (128001, 128008, 128009),
        3_212_749_824,
        chat_template=True,
        gated=True,
    ),
    ModelInfo(
        "Olmo-3-7B-Think-SFT",
        "allenai/Olmo-3-7B-Think-SFT",
        "olmo3",
        "SFT",
        (100257,),
        7_298_011_136,
        chat_template=True,
        opens_think=True,
    ),
    ModelInfo(
        "Olmo-3-7B-Think",
        "allenai/Olmo-3-7B-Think",
        "olmo3",
        "SFT+RL",
        (100257,),
        7_298_011_136,
        chat_template=True,
        opens_think=True,
    ),
    ModelInfo("demo:base", "demo:base", "qwen2", "Base", (0,)),
    ModelInfo("demo:sft", "demo:sft", "qwen2", "SFT", (2, 0), chat_template=True),
    ModelInfo("demo:rl", "demo:rl", "qwen2", "SFT+RL", (2, 0), chat_template=True),
)
"""The paper's eleven checkpoints in the order of its Table 1, then the demo models."""

PAPER_MODELS: tuple[ModelInfo, ...] = tuple(model for model in MODELS if not model.is_demo)

_BY_NAME = {key.lower(): model for model in MODELS for key in (model.name, model.hub_id)}


def known_model(name: str) -> ModelInfo | None:
    """The entry whose name in the paper or whose Hub id is `name`, ignoring case; None without one."""
    return _BY_NAME.get(name.lower())


def model_label(name: str, peft: str | None = None) -> str:
    """The name of a model in results: its own, plus that of the adapter that was merged into it."""
    return name if peft is None else f"{name} + {peft}"
