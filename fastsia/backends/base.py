"""What `evaluate` needs of a generator: requests in, finished trajectories with their rollouts out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

from fastsia.answers.vocabulary import Vocabulary
from fastsia.engine.sequence import Counters, Request, Trajectory
from fastsia.models.resolve import demo_models

_SAMPLED_VALUES = 512


class Backend(Protocol):
    """A generator.

    name: as `--backend` spells it. model_name: what the model was loaded as, for labels.
    vocabulary, tokenizer: None where the model came without one.
    context_length: positions the model can take; None where unknown.
    eos_token_ids: the model's own end-of-sequence ids; may be empty.
    counters: cumulative over the backend's life. A backend that cannot see transformer rows counts none.
    warnings: what the draws of the last `generate` give cause to say, one sentence each.

    Backends that load the weights here also have `notes`, what there is to say of the model itself, and
    `recommended`, the sampling that its own settings recommend (`recommended_sampling`).
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


# Which of transformers' generation settings change what is drawn, with the value that changes nothing.
_NEUTRAL: dict[str, Any] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "top_h": None,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "exponential_decay_length_penalty": None,
    "penalty_alpha": 0.0,
    "dola_layers": None,
    "guidance_scale": 1.0,
    "num_beams": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "bad_words_ids": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "stop_strings": None,
    "watermarking_config": None,
}
_APPLIED = ("temperature", "top_p")


def recommended_sampling(model: Any) -> dict[str, Any]:
    """What a model's generation_config.json states of sampling, but for values that change nothing.

    transformers leaves unset what the file does not state; what equals its own default is not counted either.
    """
    config = getattr(model, "generation_config", None)
    if config is None:
        return {}
    unset = type(config)()
    found = {}
    for name, neutral in _NEUTRAL.items():
        value = getattr(config, name, None)
        # Temperature and top-p of 1 are a recommendation too: this package's own defaults are other ones.
        is_neutral = name not in _APPLIED and (value == neutral or value in ([], 0, False))
        if value is not None and not is_neutral and value != getattr(unset, name, None):
            found[name] = value if isinstance(value, (int, float, str, bool)) else "..."
    return found


def note_on_sampling(recommended: Mapping[str, Any], temperature: float, top_p: float) -> str | None:
    """One sentence on what a model's own settings recommend and this run does not do; None where there is nothing."""
    not_applied = [f"{name}={value}" for name, value in recommended.items() if name not in _APPLIED]
    run = {"temperature": temperature, "top_p": top_p}
    others = [name for name in _APPLIED if name in recommended and recommended[name] != run[name]]
    parts = []
    if not_applied:
        parts.append(f"{', '.join(not_applied)}, which fastsia does not apply")
    if others:
        wanted = ", ".join(f"{name}={recommended[name]}" for name in others)
        parts.append(f"{wanted}, where this run has {', '.join(f'{name}={run[name]}' for name in others)}")
    return f"the model's generation_config.json recommends {'; and '.join(parts)}." if parts else None


def model_name(model: Any, tokenizer: Any = None) -> str:
    """What to call a model that came as an object: what it was loaded as, else its class."""
    name = getattr(getattr(model, "config", None), "_name_or_path", "") or getattr(tokenizer, "name_or_path", "")
    demo = next((demo for demo, folder in demo_models().items() if str(folder) == name), None)
    return str(demo or name or type(model).__name__)
