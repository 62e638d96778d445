"""The models of the suite: published architectures with seeded random weights, or real weights from a folder.

Random weights cost a GPU what trained ones cost it. What they must share with trained ones is how soon rollouts part,
so the head is made for it: after each token it favours one successor, and some rivals of it by chance, over noise from
the whole context; and its scale is set so that the mean entropy of a token is about 0.3 nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel

from benchmarks.gpu.runner import CannotRunError
from fastsia.models.loading import load_model
from tests.models.architectures import ARCHITECTURES, architecture

TARGET_ENTROPY = 0.3
# The successor's mean logit, in units of what the largest of all noise is expected to be: with less of a lead, a capped
# head (Gemma 2) cannot be made as sharp as the target asks. Each rival has a random part of it.
_LEAD, _RIVALS = 1.8, 3
# Of the card's memory, for weights; the rest is for KV and activations.
_WEIGHTS_SHARE = 0.75


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

    @property
    def head(self) -> dict[str, Any]:
        """What a row says about its weights."""
        return {"weights": self.weights, "head_entropy": self.entropy}


def skeleton(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The model without memory for its weights: for counting them."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def load(name: str, device: str, seed: int = 0) -> Model:
    """A model of the suite with random weights, small on a CPU, or the weights of the folder `name`."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    config = architecture(name, small=device == "cpu")
    if device == "cuda":
        needed = sum(p.nbytes for p in skeleton(config, dtype).parameters())
        free = torch.cuda.mem_get_info()[0]
        if needed > _WEIGHTS_SHARE * free:
            raise CannotRunError(f"{name} has {needed / 1e9:.1f} GB of weights; {free / 1e9:.1f} GB are free.")
    if name in ARCHITECTURES:
        with torch.device(device):
            module = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        model = Model(name, module, None, "random", _initialise(module, seed))
    else:
        model = Model(Path(name).name, *load_model(name, device=device, dtype=dtype), name, None)
    model.module.generation_config = GenerationConfig()
    return model


@torch.inference_mode()
def _initialise(module: PreTrainedModel, seed: int) -> float:
    """Random weights in place, the same for the same seed and kind of device; gives the entropy that was reached."""
    generator = torch.Generator(module.device).manual_seed(seed)
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
    # Every second hidden state [n, hidden_size] of the later halves of random texts, and its token [n].
    texts = torch.randint(config.vocab_size, (4, 256), generator=generator, device=module.device)
    hidden = module.base_model(input_ids=texts, use_cache=False).last_hidden_state[:, 128::2].flatten(0, 1)
    directions, tokens = normalize(hidden.float(), dim=1), texts[:, 128::2].flatten()
    _make_head(head, embedding, directions, tokens, generator)
    factor, entropy = _scale(directions @ head.float().T, getattr(config, "final_logit_softcapping", None))
    head.mul_(factor / hidden.float().norm(dim=1).mean().item())
    return entropy


def _make_head(head: Tensor, embedding: Tensor, directions: Tensor, tokens: Tensor, generator: torch.Generator) -> None:
    """Fill the head: noise, and for each token the embeddings of the one that it succeeds and of some rivals."""
    vocab, size = head.shape
    own = (directions * normalize(embedding[tokens].float(), dim=1)).sum(dim=1).mean().item()
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


def _scale(logits: Tensor, cap: float | None) -> tuple[float, float]:
    """The smallest factor by which logits have a mean entropy of the target, and the entropy that they have then.

    Where a cap keeps them from it, the factor that comes nearest.
    """

    def entropy(factor: float) -> float:
        scaled = factor * logits if cap is None else cap * torch.tanh(factor * logits / cap)
        return torch.special.entr(torch.softmax(scaled, dim=-1)).sum(dim=-1).mean().item()

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
