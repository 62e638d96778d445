"""What `evaluate` needs of a generator: requests in, finished trajectories with their rollouts out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch

from fastsia.answers.vocabulary import Vocabulary
from fastsia.engine.sequence import Counters, Request, Trajectory

_SAMPLED_VALUES = 512


class Backend(Protocol):
    """A generator.

    name: as `--backend` spells it.
    vocabulary, tokenizer: None where the model came without one.
    context_length: positions the model can take; None where unknown.
    eos_token_ids: the model's own end-of-sequence ids; may be empty.
    counters: cumulative over the backend's life.
    """

    name: str

    @property
    def vocabulary(self) -> Vocabulary | None: ...

    @property
    def tokenizer(self) -> Any: ...

    @property
    def context_length(self) -> int | None: ...

    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...

    @property
    def counters(self) -> Counters: ...

    def describe(self) -> dict[str, Any]:
        """Device, dtype, kernels and limits, ready for JSON."""
        ...

    def fingerprint(self) -> str:
        """Equal for equal weights and configuration, wherever they lie."""
        ...

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        """Finished requests in any order; requests are pulled lazily."""
        ...


def model_fingerprint(model: torch.nn.Module) -> str:
    """16 hex digits over the architecture, every parameter's name, shape and dtype, and values sampled from each.

    Reading 512 evenly spaced values a tensor costs milliseconds where all of a 7B model would cost many seconds, and
    any training step moves nearly every value.
    """
    digest = hashlib.blake2b(digest_size=8)
    config = model.config.to_dict() if hasattr(model, "config") else {}
    irrelevant = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"}
    kept = {key: value for key, value in config.items() if key not in irrelevant and not key.startswith("_attn")}
    digest.update(json.dumps(kept, sort_keys=True, default=str).encode())
    with torch.no_grad():
        for name, value in model.named_parameters():
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            flat = value.detach().reshape(-1)
            count = min(_SAMPLED_VALUES, flat.numel())
            index = torch.linspace(0, max(flat.numel() - 1, 0), count, dtype=torch.float64, device=flat.device).long()
            digest.update(flat[index].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def eos_ids(model: Any) -> tuple[int, ...]:
    """The model's end-of-sequence ids: those of its generation settings, else of its configuration."""
    for holder in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        value = getattr(holder, "eos_token_id", None)
        if value is not None:
            return (int(value),) if isinstance(value, int) else tuple(int(v) for v in value)
    return ()


def context_length(model: Any) -> int | None:
    """Positions the model was configured for; None where its configuration does not say."""
    value = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return int(value) if value else None
