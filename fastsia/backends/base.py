"""What `evaluate` needs of a generator: requests in, finished trajectories with their rollouts out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch

from fastsia.answers.vocabulary import Vocabulary
from fastsia.engine.checkpoint import demo_models
from fastsia.engine.sequence import Counters, Request, Trajectory

_SAMPLED_VALUES = 512


class Backend(Protocol):
    """A generator.

    name: as `--backend` spells it. model_name: what the model was loaded as, for labels.
    vocabulary, tokenizer: None where the model came without one.
    context_length: positions the model can take; None where unknown.
    eos_token_ids: the model's own end-of-sequence ids; may be empty.
    counters: cumulative over the backend's life. A backend that cannot see transformer rows counts none.
    warnings: what the draws of the last `generate` give cause to say, one sentence each.
    """

    name: str
    model_name: str

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

    @property
    def warnings(self) -> Sequence[str]: ...

    def describe(self) -> dict[str, Any]:
        """Device, dtype, kernels and limits, ready for JSON; what it counts is of the last `generate`."""
        ...

    def fingerprint(self) -> str:
        """Equal for equal weights and configuration, wherever they lie."""
        ...

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        """Finished requests in any order; requests are pulled lazily."""
        ...


def model_fingerprint(model: Any) -> str:
    """16 hex digits over the architecture, every parameter's name, shape and dtype, and values sampled from each.

    Reading 512 evenly spaced values a tensor costs milliseconds where all of a 7B model would cost many seconds, and
    any training step moves nearly every value.
    """
    digest = hashlib.blake2b(config_bytes(model.config) if hasattr(model, "config") else b"{}", digest_size=8)
    with torch.no_grad():
        for name, value in model.named_parameters():
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            flat = value.detach().reshape(-1)
            count = min(_SAMPLED_VALUES, flat.numel())
            index = torch.linspace(0, max(flat.numel() - 1, 0), count, dtype=torch.float64, device=flat.device).long()
            digest.update(flat[index].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def config_bytes(config: Any) -> bytes:
    """A model's configuration, but for what says where it came from and how it is run."""
    irrelevant = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"}
    kept = {
        key: value for key, value in config.to_dict().items() if key not in irrelevant and not key.startswith("_attn")
    }
    return json.dumps(kept, sort_keys=True, default=str).encode()


def model_name(model: Any, tokenizer: Any = None) -> str:
    """What to call a model that came as an object: what it was loaded as, else its class."""
    name = getattr(getattr(model, "config", None), "_name_or_path", "") or getattr(tokenizer, "name_or_path", "")
    demo = next((demo for demo, folder in demo_models().items() if str(folder) == name), None)
    return str(demo or name or type(model).__name__)
