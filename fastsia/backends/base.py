"""The backend protocol: requests in, finished trajectories with their rollouts out. Facts about models for it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

from fastsia.answers.vocabulary import Vocabulary
from fastsia.engine.forecast import Remaining
from fastsia.engine.products import values_of
from fastsia.engine.sequence import Counters, Drawn, Request, Trajectory
from fastsia.errors import FastsiaError
from fastsia.models.loading import context_length, eos_ids, load_description, origin_of
from fastsia.models.resolve import ModelRef, demo_models, resolve_model

_SAMPLED_VALUES = 512


class Backend(Protocol):
    """Draws trajectories and rollouts.

    Backends that load the weights in this process also have `notes`, warnings about the model itself, and
    `recommended`, the sampling that its settings recommend (`recommended_sampling`).

    A backend with `can_be_watched` uses `Request.drawn` and takes a second argument of `generate`, a `Watch` that it
    calls often; `evaluate` then stores the draws of unfinished problems. With other backends it stores finished
    problems only.

    Attributes:
        name: the value of `--backend`.
        model_name: the name that the model was loaded by, for labels.
        vocabulary, tokenizer: None if the model has none.
        context_length: positions of the model; None if unknown.
        eos_token_ids: the model's own end-of-sequence ids; may be empty.
        counters: cumulative over the backend's life. `computed_tokens` stays 0 in a backend that cannot count them.
        warnings: warnings about the draws of the last `generate`, one sentence each.
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
        """Device, dtype, kernels and limits, ready for JSON; counts are those of the last `generate`."""
        ...

    def fingerprint(self) -> str:
        """Equal for equal weights and configuration, whatever their location."""
        ...

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        """Finished requests in any order; requests are pulled lazily."""
        ...


class Running(Protocol):
    """A run of fastsia's own engine, as a `Watch` sees it.

    Attributes:
        num_ended_rollouts: rollouts that have ended in this run.
        num_active: requests that have begun and are not finished.
    """

    num_ended_rollouts: int

    @property
    def num_active(self) -> int: ...

    def take_drawn(self) -> list[tuple[Request, Drawn]]:
        """The draws of the active requests since the last call."""
        ...

    def remaining(self, queued: int) -> Remaining | None:
        """Forecast the rest of the run, with `queued` requests to come; None if it is not known."""
        ...


Watch = Callable[[Running], None]


class LocalModel:
    """The members of a backend that has its model in this process.

    Attributes:
        model: transformers' model.
        model_name: as in `Backend`.
    """

    model: Any
    model_name: str

    @property
    def notes(self) -> Sequence[str]:
        return origin_of(self.model).notes

    @property
    def recommended(self) -> dict[str, Any]:
        return recommended_sampling(self.model)

    def fingerprint(self) -> str:
        return model_fingerprint(self.model)


class DescribedModel:
    """The members of a backend whose weights are elsewhere: a server's, or those of other processes.

    Attributes:
        ref: the resolved name.
        model_config: the model's configuration.
    """

    def __init__(
        self, model: str | os.PathLike[str] | ModelRef, *, trust_remote_code: bool, revision: str | None
    ) -> None:
        self.ref = resolve_model(model)
        described = load_description(self.ref, trust_remote_code=trust_remote_code, revision=revision)
        if described.tokenizer is None:
            raise FastsiaError(f"model {self.ref.name!r} has no tokenizer; prompts and answers need one.")
        self.model_name = self.ref.name
        self.model_config = described.config
        self.tokenizer = described.tokenizer
        self.vocabulary = Vocabulary.from_tokenizer(described.tokenizer)
        self.eos_token_ids = eos_ids(described, described.tokenizer)
        self.context_length = context_length(described)
        self.counters = Counters()

    def limit_context(self, length: int) -> None:
        """Shorten the context length to that of the process with the weights."""
        self.context_length = min(filter(None, (self.context_length, length)))


def model_fingerprint(model: Any) -> str:
    """16 hex digits over the architecture, every parameter's name, shape and dtype, and values sampled from each.

    Reading 512 evenly spaced values of each tensor takes milliseconds, reading a whole 7B model many seconds. A
    training step changes nearly every value, so the sample detects it.
    """
    digest = hashlib.blake2b(config_bytes(model.config) if hasattr(model, "config") else b"{}", digest_size=8)
    with torch.no_grad():
        for name, value in model.named_parameters():
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            flat = values_of(value).reshape(-1)
            count = min(_SAMPLED_VALUES, flat.numel())
            index = torch.linspace(0, max(flat.numel() - 1, 0), count, dtype=torch.float64, device=flat.device).long()
            digest.update(flat[index].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def config_bytes(config: Any) -> bytes:
    """A model's configuration as JSON, without its origin and the settings of its execution."""
    irrelevant = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"}
    kept = {
        key: value for key, value in config.to_dict().items() if key not in irrelevant and not key.startswith("_attn")
    }
    return json.dumps(kept, sort_keys=True, default=str).encode()


# transformers' generation settings that change the draws, with the value that has no effect.
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
    """The sampling settings in a model's generation_config.json that have an effect.

    Settings that the file does not state, or that equal transformers' default, are left out.
    """
    config = getattr(model, "generation_config", None)
    if config is None:
        return {}
    unset = type(config)()
    found = {}
    for name, neutral in _NEUTRAL.items():
        value = getattr(config, name, None)
        # A temperature or top-p of 1 is a recommendation too, since this package has other defaults.
        is_neutral = name not in _APPLIED and (value == neutral or value in ([], 0, False))
        if value is not None and not is_neutral and value != getattr(unset, name, None):
            found[name] = value if isinstance(value, (int, float, str, bool)) else "..."
    return found


def note_on_sampling(recommended: Mapping[str, Any], temperature: float, top_p: float) -> str | None:
    """A sentence on the recommended settings that differ from this run's; None without any."""
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
    """The name of a model that is given as an object: the name it was loaded by, else its class."""
    name = getattr(getattr(model, "config", None), "_name_or_path", "") or getattr(tokenizer, "name_or_path", "")
    demo = next((demo for demo, folder in demo_models().items() if str(folder) == name), None)
    return str(demo or name or type(model).__name__)
