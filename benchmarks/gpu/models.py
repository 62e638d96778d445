"""The models of the suite: published architectures with seeded random weights, or real weights from a folder.

Random weights cost a GPU what trained ones cost it. What they must share with trained ones is how soon rollouts part,
so the head is made for it: after each token it favours one successor, and some rivals of it by chance, over noise from
the whole context; and its scale is set so that the mean entropy of a token is about 0.3 nats.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel

from fastsia.models.loading import load_model

TARGET_ENTROPY = 0.3
# The successor's mean logit, in units of what the largest of all noise is expected to be: with less of a lead, a capped
# head (Gemma 2) cannot be made as sharp as the target asks. Each rival has a random part of it.
_LEAD, _RIVALS = 1.8, 3
# Of the card's memory, for weights; the rest is for KV and activations.
_WEIGHTS_SHARE = 0.75


class DoesNotFitError(RuntimeError):
    """The card's memory cannot hold the model with room to work."""


# As their authors publish them. Heads that share the embedding's weight get one of their own: a step reads as much.
ARCHITECTURES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).resolve().parents[2] / "tests" / "data" / "architectures.json").read_text(encoding="utf-8")
)


def toy(fields: dict[str, Any]) -> dict[str, Any]:
    """The same architecture, small: its ratio of heads, its caps and kinds of layers stay."""
    heads = 4
    kv_heads = max(1, heads * fields["num_key_value_heads"] // fields["num_attention_heads"])
    small = {
        **fields,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 64,
        "vocab_size": 1024,
        "max_position_embeddings": 2048,
    }
    if "sliding_window" in fields:
        small["sliding_window"] = 48
    return small


@dataclass(frozen=True)
class Model:
    """A loaded model. weights: "random", or their folder. entropy: nats per token that the head was set to."""

    name: str
    module: PreTrainedModel
    tokenizer: Any
    weights: str
    entropy: float | None

    @property
    def device(self) -> str:
        return self.module.device.type


def architecture(name: str, small: bool) -> PretrainedConfig:
    """The config of a model of the suite, or of a folder."""
    if name not in ARCHITECTURES:
        return AutoConfig.from_pretrained(name)
    fields = toy(ARCHITECTURES[name]) if small else ARCHITECTURES[name]
    return AutoConfig.for_model(**fields | {"tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None})


def skeleton(config: PretrainedConfig) -> PreTrainedModel:
    """The model without memory for its weights: for counting them."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def load(name: str, device: str, small: bool, seed: int = 0) -> Model:
    """A model of the suite with random weights, or the weights of the folder `name`.

    Raises:
        DoesNotFitError: it is too large for the card.
    """
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    config = architecture(name, small)
    if device == "cuda":
        needed = sum(p.numel() * dtype.itemsize for p in skeleton(config).parameters())
        free = torch.cuda.mem_get_info()[0]
        if needed > _WEIGHTS_SHARE * free:
            raise DoesNotFitError(f"{name} has {needed / 1e9:.1f} GB of weights; {free / 1e9:.1f} GB are free.")
    if name not in ARCHITECTURES:
        module, tokenizer = load_model(name, device=device, dtype=dtype)
        module.generation_config = GenerationConfig()
        return Model(Path(name).name, module, tokenizer, name, None)
    with torch.device(device):
        module = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    module.generation_config = GenerationConfig()
    entropy = _initialise(module, seed)
    return Model(name, module, None, "random", entropy)


@torch.inference_mode()
def _initialise(module: PreTrainedModel, seed: int) -> float:
    """Random weights in place, the same for the same seed and kind of device; gives the entropy that was reached."""
    device = module.device
    generator = torch.Generator(device).manual_seed(seed)
    embedding, head = module.get_input_embeddings().weight, module.get_output_embeddings().weight
    config = module.config
    # As much of the stream from the token as from the layers; Gemma multiplies its embedding by sqrt(hidden_size).
    stream = math.sqrt(2 * config.num_hidden_layers)
    embedding_std = stream / (math.sqrt(config.hidden_size) if config.model_type.startswith("gemma") else 1.0)
    for name, weight in module.named_parameters():
        # Attention that looks at something needs scores larger than those of plain random weights.
        gain = 2.0 if any(part in name for part in ("q_proj", "k_proj", "q_norm", "k_norm")) else 1.0
        if weight is embedding:
            weight.normal_(0.0, embedding_std, generator=generator)
        elif name.endswith("bias"):
            weight.normal_(0.0, 0.1, generator=generator)
        elif weight.ndim == 2:
            weight.normal_(0.0, gain / math.sqrt(weight.shape[1]), generator=generator)
        elif gain != 1.0:
            weight.fill_(gain)
    hidden, tokens = _hidden_states(module, generator)
    return _make_head(head, embedding, hidden, tokens, getattr(config, "final_logit_softcapping", None), generator)


def _hidden_states(module: PreTrainedModel, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(final hidden states [n, hidden_size], their tokens [n]) of random texts, without their first part."""
    shape = (4, 256)
    tokens = torch.randint(module.config.vocab_size, shape, generator=generator, device=module.device)
    hidden = module.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    late = slice(shape[1] // 2, None, 2)
    return hidden[:, late].flatten(0, 1), tokens[:, late].flatten()


def _make_head(
    head: Tensor, embedding: Tensor, hidden: Tensor, tokens: Tensor, cap: float | None, generator: torch.Generator
) -> float:
    """Fill the head: noise, and for each token the embedding of the one that it succeeds; then its scale."""
    vocab, size = head.shape
    directions = torch.nn.functional.normalize(hidden.float(), dim=1)
    own = (directions * torch.nn.functional.normalize(embedding[tokens].float(), dim=1)).sum(dim=1).mean().item()
    # In units of the noise, whose largest value over the vocabulary is about sqrt(2 ln V).
    lead, most = _LEAD * math.sqrt(2 * math.log(vocab)), own * math.sqrt(size)
    power = 1 + _RIVALS / 3
    if power * lead**2 >= most**2:
        raise RuntimeError(f"the token itself is too faint in the hidden states: {most:.1f} times the noise.")
    weight = lead / math.sqrt(most**2 - power * lead**2) / embedding.float().std().item()
    head.normal_(generator=generator)
    for rival in range(1 + _RIVALS):
        before = torch.randperm(vocab, generator=generator, device=head.device)
        strength = torch.rand(vocab, 1, generator=generator, device=head.device) if rival else 1.0
        head.add_(embedding[before] * (weight * strength))
    scale, entropy = _scale(directions @ head.float().T, cap)
    head.mul_(scale / hidden.float().norm(dim=1).mean().item())
    return entropy


def _scale(logits: Tensor, cap: float | None) -> tuple[float, float]:
    """The smallest factor by which logits have a mean entropy of the target, and the entropy that they have then.

    Where a cap keeps them from it, the factor that comes nearest.
    """

    def entropy(factor: float) -> float:
        scaled = logits * factor
        return mean_entropy(scaled if cap is None else cap * torch.tanh(scaled / cap))

    low, high = 0.0, 0.1 / logits.std().item()
    now = entropy(high)
    while now > TARGET_ENTROPY:
        following = entropy(1.1 * high)
        if following > now:
            return high, now
        low, high, now = high, 1.1 * high, following
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if entropy(middle) > TARGET_ENTROPY else (low, middle)
    return high, entropy(high)


def mean_entropy(logits: Tensor) -> float:
    """Of softmax(logits), nats, over rows [n, vocab]; a chunk at a time."""
    parts = [torch.special.entr(torch.softmax(chunk.float(), dim=-1)).sum(dim=-1) for chunk in logits.split(64)]
    return torch.cat(parts).mean().item()
