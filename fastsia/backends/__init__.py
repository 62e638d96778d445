"""Generators behind one protocol: this package's engine, the naive baseline, and other engines."""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING, Any

from fastsia.errors import FastsiaError

if TYPE_CHECKING:
    from fastsia.backends.base import Backend

BACKENDS = ("native", "hf", "openai", "vllm")
LOAD_OPTIONS = ("device", "dtype", "trust_remote_code", "revision")
ENGINE_OPTIONS = (
    "max_num_seqs",
    "num_kv_blocks",
    "block_size",
    "max_concurrent_trajectories",
    "max_num_batched_tokens",
    "kernels",
    "compile",
    "gpu_memory_utilization",
)
SERVER_OPTIONS = ("base_url", "api_key_env", "served_model", "send_seed", "num_concurrent", "max_retries", "timeout")
VLLM_OPTIONS = ("tensor_parallel_size", "model_args")
# What each backend takes; all that `evaluate` passes on.
_TAKEN = {
    "native": (*LOAD_OPTIONS, "peft", *ENGINE_OPTIONS),
    "hf": (*LOAD_OPTIONS, "peft"),
    "openai": ("trust_remote_code", "revision", *SERVER_OPTIONS),
    "vllm": ("dtype", "trust_remote_code", "revision", "max_num_seqs", "gpu_memory_utilization", *VLLM_OPTIONS),
}
BACKEND_OPTIONS = tuple(dict.fromkeys(option for taken in _TAKEN.values() for option in taken))


def open_backend(model: Any, name: str | None = None, options: dict[str, Any] | None = None) -> Backend:
    """A backend for a model: a name or path, (model, tokenizer), an `Engine`, or a backend, which is returned as is.

    name: one of `BACKENDS`; None is "native", or what a loaded backend is. "openai" and "vllm" take a name or path.
    options: what that backend takes of `BACKEND_OPTIONS`; None values are left to their defaults.
    """
    options = {key: value for key, value in (options or {}).items() if value is not None}
    if name is not None and name not in BACKENDS:
        near = difflib.get_close_matches(str(name), BACKENDS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise FastsiaError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}.{hint}")
    if hasattr(model, "generate") and hasattr(model, "fingerprint"):
        _refuse(options, "a backend that is already loaded")
        loaded: Backend = model
        if name is not None and name != loaded.name:
            raise FastsiaError(f"backend is {name!r}, but the model given is a loaded backend {loaded.name!r}.")
        return loaded
    name = name or "native"
    foreign = {key: value for key, value in options.items() if key not in _TAKEN[name]}
    _refuse(foreign, f"the {name} backend")
    if name in ("openai", "vllm"):
        return _open_elsewhere(model, name, options)

    from fastsia.backends.hf_generate import HFGenerateBackend
    from fastsia.backends.native import NativeBackend
    from fastsia.engine.engine import Engine

    engine_options = {key: options.pop(key) for key in ENGINE_OPTIONS if key in options}
    if isinstance(model, Engine):
        _refuse(options | engine_options, "an Engine that is already loaded")
        return NativeBackend(model) if name == "native" else HFGenerateBackend(model.model, model.tokenizer)
    if isinstance(model, (str, os.PathLike)):
        if name == "native":
            return NativeBackend.load(os.fspath(model), **options, **engine_options)
        return HFGenerateBackend.load(os.fspath(model), **options)
    if isinstance(model, (tuple, list)) and len(model) == 2:
        _refuse(options, "a model that is already loaded")
        if name == "native":
            return NativeBackend(Engine(model[0], model[1], **engine_options))
        return HFGenerateBackend(model[0], model[1])
    raise FastsiaError(
        f"model must be a name, a path, (model, tokenizer) or an Engine, got {type(model).__name__}; "
        "a bare model lacks the tokenizer that prompts and answers need."
    )


def _open_elsewhere(model: Any, name: str, options: dict[str, Any]) -> Backend:
    """A generator that holds the weights itself: a name is all it can be given."""
    if not isinstance(model, (str, os.PathLike)):
        raise FastsiaError(f"the {name} backend needs a model's name or path, got {type(model).__name__}.")
    if name == "vllm":
        from fastsia.backends.vllm import VLLMBackend

        return VLLMBackend(os.fspath(model), **options)
    if "base_url" not in options:
        raise FastsiaError("the openai backend needs base_url, such as http://localhost:8000/v1.")
    from fastsia.backends.openai_server import OpenAIServerBackend

    return OpenAIServerBackend(os.fspath(model), **options)


def _refuse(options: dict[str, Any], what: str) -> None:
    if options:
        raise FastsiaError(f"{next(iter(options))} has no meaning for {what}.")
