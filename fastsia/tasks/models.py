"""The checkpoints that the paper evaluates, and the demo models: what the code and docs/models.md say about them.

The numbers are those of the checkpoints' published config.json and generation_config.json. They serve planning and
config-faithful small models in tests; a run reads everything from the checkpoint itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from fastsia.errors import FastsiaError

Stage = Literal["Base", "SFT", "SFT+RL"]
STAGES: tuple[str, ...] = get_args(Stage)
ALIGNED: tuple[str, ...] = ("SFT", "SFT+RL")
"""The stages whose models the paper calls aligned; a base model is non-aligned."""


@dataclass(frozen=True)
class Shape:
    """The size of a decoder, in the names of transformers' configurations.

    rope_parameters: as transformers 5 spells them ("rope_type", "rope_theta", ...).
    sliding_window: tokens that a windowed layer sees, its own included; None where every layer sees all.
    full_attention_every: with a window, every how many layers one sees all (2: Gemma2, 4: Olmo3).
    attn_logit_softcapping, final_logit_softcapping: Gemma2's caps, of attention scores and of logits.
    attention_bias: on q, k and v (Qwen2). norms: normalisation weights of hidden size a layer. qk_norm: Olmo3's, over
    the whole projections.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool
    rope_parameters: Mapping[str, Any]
    rms_norm_eps: float
    sliding_window: int | None = None
    full_attention_every: int | None = None
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    attention_bias: bool = False
    norms: int = 2
    qk_norm: bool = False

    @property
    def num_parameters(self) -> int:
        """Weights, tied embeddings counted once."""
        queries, keys = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        attention = self.hidden_size * (2 * queries + 2 * keys)
        attention += (queries + 2 * keys) * self.attention_bias + (queries + keys) * self.qk_norm
        layer = attention + 3 * self.hidden_size * self.intermediate_size + self.norms * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * layer + embeddings + self.hidden_size

    @property
    def kv_values_per_token(self) -> int:
        """Numbers in the KV cache for one token, all layers; times the bytes of the cache's dtype."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim


@dataclass(frozen=True)
class ModelInfo:
    """One checkpoint.

    name: as the paper's Table 1 writes it, or the demo model's. hub_id: what `evaluate` and `--model` take.
    model_type: transformers' name of the architecture.
    stage: of training, as the paper gives it.
    chat_template: the model is asked through its tokenizer's template; the bases are asked in plain text, even where
        their tokenizer ships a template (Qwen2.5's does).
    opens_think: the template's generation prompt ends inside a <think> block.
    eos_token_ids: any of them ends a sequence.
    gated: the Hub wants an accepted licence and a token.
    shape: None for the demo models, whose configurations are in the package.
    note: what to know before trusting the row.
    """

    name: str
    hub_id: str
    model_type: str
    stage: Stage
    chat_template: bool
    opens_think: bool
    eos_token_ids: tuple[int, ...]
    gated: bool
    shape: Shape | None
    note: str = ""

    @property
    def is_demo(self) -> bool:
        return self.hub_id.startswith("demo:")

    @property
    def family(self) -> str:
        """What its name begins with: "Qwen2.5", "Gemma", "demo"."""
        return self.name.partition(":" if self.is_demo else "-")[0]


def _rope(rope_theta: float, rope_type: str = "default", **scaling: float) -> Mapping[str, Any]:
    return MappingProxyType({"rope_type": rope_type, "rope_theta": rope_theta, **scaling})


_QWEN_3B = Shape(
    hidden_size=2048,
    intermediate_size=11008,
    num_hidden_layers=36,
    num_attention_heads=16,
    num_key_value_heads=2,
    head_dim=128,
    vocab_size=151936,
    max_position_embeddings=32768,
    tie_word_embeddings=True,
    rope_parameters=_rope(1_000_000.0),
    rms_norm_eps=1e-6,
    attention_bias=True,
)
_QWEN_MATH_1_5B = Shape(
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
    head_dim=128,
    vocab_size=151936,
    max_position_embeddings=4096,
    tie_word_embeddings=True,
    rope_parameters=_rope(10_000.0),
    rms_norm_eps=1e-6,
    attention_bias=True,
)
_QWEN_7B_DISTILLED = Shape(
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    head_dim=128,
    vocab_size=152064,
    max_position_embeddings=131072,
    tie_word_embeddings=False,
    rope_parameters=_rope(10_000.0),
    rms_norm_eps=1e-6,
    attention_bias=True,
)
_DEEPSEEK_7B = Shape(
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=30,
    num_attention_heads=32,
    num_key_value_heads=32,
    head_dim=128,
    vocab_size=102400,
    max_position_embeddings=4096,
    tie_word_embeddings=False,
    rope_parameters=_rope(10_000.0),
    rms_norm_eps=1e-6,
)
_GEMMA_2B = Shape(
    hidden_size=2304,
    intermediate_size=9216,
    num_hidden_layers=26,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=256,
    vocab_size=256000,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
    rope_parameters=_rope(10_000.0),
    rms_norm_eps=1e-6,
    sliding_window=4096,
    full_attention_every=2,
    attn_logit_softcapping=50.0,
    final_logit_softcapping=30.0,
    norms=4,
)
_LLAMA_3B = Shape(
    hidden_size=3072,
    intermediate_size=8192,
    num_hidden_layers=28,
    num_attention_heads=24,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=128256,
    max_position_embeddings=131072,
    tie_word_embeddings=True,
    rope_parameters=_rope(
        500_000.0,
        "llama3",
        factor=32.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    ),
    rms_norm_eps=1e-5,
)
_OLMO_7B = Shape(
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    head_dim=128,
    vocab_size=100278,
    max_position_embeddings=65536,
    tie_word_embeddings=False,
    rope_parameters=_rope(
        500_000.0,
        "yarn",
        factor=8.0,
        beta_fast=32.0,
        beta_slow=1.0,
        attention_factor=1.2079441541679836,
        original_max_position_embeddings=8192,
    ),
    rms_norm_eps=1e-6,
    sliding_window=4096,
    full_attention_every=4,
    qk_norm=True,
)

MODELS: tuple[ModelInfo, ...] = (
    ModelInfo("Qwen2.5-3B", "Qwen/Qwen2.5-3B", "qwen2", "Base", False, False, (151643,), False, _QWEN_3B),
    ModelInfo(
        "Qwen2.5-3B-it", "Qwen/Qwen2.5-3B-Instruct", "qwen2", "SFT", True, False, (151645, 151643), False, _QWEN_3B
    ),
    ModelInfo(
        "Qwen2.5-Math-1.5B",
        "Qwen/Qwen2.5-Math-1.5B",
        "qwen2",
        "SFT",
        False,
        False,
        (151643,),
        False,
        _QWEN_MATH_1_5B,
        note="The name is the base model's (taken here), the stage that of Qwen/Qwen2.5-Math-1.5B-Instruct.",
    ),
    ModelInfo(
        "DeepSeek-Chat-7B",
        "deepseek-ai/deepseek-llm-7b-chat",
        "llama",
        "SFT",
        True,
        False,
        (100001,),
        False,
        _DEEPSEEK_7B,
        note="Published as pickled .bin files only: convert it to safetensors first; fastsia loads nothing else.",
    ),
    ModelInfo(
        "DeepSeek-R1-Distilled",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
        "qwen2",
        "SFT+RL",
        True,
        True,
        (151643,),
        False,
        _QWEN_7B_DISTILLED,
        note="No size is given: 7B (taken here) is that of the other DeepSeek model; 1.5B and Llama 8B exist too.",
    ),
    ModelInfo("Gemma-2-2B", "google/gemma-2-2b", "gemma2", "Base", False, False, (1,), True, _GEMMA_2B),
    ModelInfo("Gemma-2-2B-it", "google/gemma-2-2b-it", "gemma2", "SFT", True, False, (1, 107), True, _GEMMA_2B),
    ModelInfo("LLaMA-3.2-3B", "meta-llama/Llama-3.2-3B", "llama", "Base", False, False, (128001,), True, _LLAMA_3B),
    ModelInfo(
        "LLaMA-3.2-3B-it",
        "meta-llama/Llama-3.2-3B-Instruct",
        "llama",
        "SFT",
        True,
        False,
        (128001, 128008, 128009),
        True,
        _LLAMA_3B,
    ),
    ModelInfo(
        "Olmo-3-7B-Think-SFT",
        "allenai/Olmo-3-7B-Think-SFT",
        "olmo3",
        "SFT",
        True,
        True,
        (100257,),
        False,
        _OLMO_7B,
    ),
    ModelInfo(
        "Olmo-3-7B-Think",
        "allenai/Olmo-3-7B-Think",
        "olmo3",
        "SFT+RL",
        True,
        True,
        (100257,),
        False,
        _OLMO_7B,
    ),
    ModelInfo("demo:base", "demo:base", "qwen2", "Base", False, False, (0,), False, None),
    ModelInfo("demo:sft", "demo:sft", "qwen2", "SFT", True, False, (2, 0), False, None),
    ModelInfo("demo:rl", "demo:rl", "qwen2", "SFT+RL", True, False, (2, 0), False, None),
)
"""The paper's eleven checkpoints in the order of its Table 1, then the demo models."""

PAPER_MODELS: tuple[ModelInfo, ...] = tuple(model for model in MODELS if not model.is_demo)


def model_label(name: str, peft: str | None = None) -> str:
    """What results call a model: its name, with that of the adapter that was merged into it."""
    return name if peft is None else f"{name} + {peft}"


def known_model(name: str) -> ModelInfo | None:
    """The row whose paper's name or Hub id is `name`, whatever the case, if there is one."""
    names = {key.lower(): model for model in MODELS for key in (model.name, model.hub_id)}
    return names.get(name.lower())


def find_model(name: str) -> ModelInfo:
    """As `known_model`; FastsiaError with the nearest names where there is none."""
    known = known_model(name)
    if known is not None:
        return known
    names = {key.lower(): model for model in MODELS for key in (model.name, model.hub_id)}
    near = difflib.get_close_matches(name.lower(), names, n=2, cutoff=0.5)
    hint = f" (did you mean {' or '.join(names[key].name for key in near)}?)" if near else ""
    raise FastsiaError(f"Unknown model {name!r}{hint}: the table of models has {', '.join(m.name for m in MODELS)}.")


def markdown_table() -> str:
    """docs/models.md's table."""
    head = (
        "| name | Hub id | architecture | stage | parameters | asked by | opens `<think>` | EOS ids | gated |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    )
    rows = (
        f"| {m.name} | `{m.hub_id}` | {m.model_type} | {m.stage} | {_billions(m.shape)} "
        f"| {'chat template' if m.chat_template else 'plain text'} | {'yes' if m.opens_think else 'no'} "
        f"| {', '.join(map(str, m.eos_token_ids))} | {'yes' if m.gated else 'no'} |"
        for m in MODELS
    )
    return "\n".join((*head, *rows)) + "\n"


def shape_table() -> str:
    """docs/models.md's table of sizes."""
    head = (
        "| name | layers | hidden | heads | KV heads | head size | vocabulary | context | window | softcaps "
        "| KV cache a token (bf16) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    )
    rows = (
        f"| {m.name} | {s.num_hidden_layers} | {s.hidden_size} | {s.num_attention_heads} | {s.num_key_value_heads} "
        f"| {s.head_dim} | {s.vocab_size:,} | {s.max_position_embeddings:,} | {_window(s)} | {_caps(s)} "
        f"| {2 * s.kv_values_per_token / 1024:.0f} KiB |"
        for m in PAPER_MODELS
        if (s := m.shape) is not None
    )
    return "\n".join((*head, *rows)) + "\n"


def _billions(shape: Shape | None) -> str:
    return f"{shape.num_parameters / 1e9:.2f} B" if shape else "in the package"


def _window(shape: Shape) -> str:
    if shape.sliding_window is None:
        return "none"
    return f"{shape.sliding_window:,}; 1 layer in {shape.full_attention_every} full"


def _caps(shape: Shape) -> str:
    if shape.attn_logit_softcapping is None:
        return "none"
    return f"{shape.attn_logit_softcapping:g} (attention), {shape.final_logit_softcapping:g} (logits)"
