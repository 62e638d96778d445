"""Backends that draw trajectories and rollouts: this package's engine, a naive baseline, and other engines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastsia.config import BACKENDS, EXECUTORS, SETTINGS, EngineOptions, fields_of
from fastsia.errors import FastsiaError, did_you_mean
from fastsia.models.resolve import ModelRef, resolve_model

if TYPE_CHECKING:
    from fastsia.backends.base import Backend
    from fastsia.backends.native import NativeBackend

_ACCEPTED = {name: [s.name for s in SETTINGS.values() if name in s.backends] for name in BACKENDS}


def open_executor(
    executor: str | None,
    model: Any,
    backend: str | None = None,
    options: dict[str, Any] | None = None,
    *,
    num_workers: int | None = None,
    worker_timeout: float | None = None,
) -> Backend:
    """Open a backend in this process, or one that is spread over the workers of a Ray cluster.

    Args:
        executor: "local" (None is the same) or "ray".
        model, backend, options: as in `open_backend`; "ray" needs a name or path.
        num_workers, worker_timeout: as in `RayBackend`, for "ray" only.
    """
    if executor not in (None, *EXECUTORS):
        raise FastsiaError(f"executor must be one of {', '.join(EXECUTORS)}, got {executor!r}.")
    if executor == "ray":
        from fastsia.backends.ray import RayBackend

        return RayBackend(model, backend, options, num_workers=num_workers, worker_timeout=worker_timeout)
    for option, value in (("num_workers", num_workers), ("worker_timeout", worker_timeout)):
        if value is not None:
            raise FastsiaError(f"{option} applies to executor='ray' only.")
    return open_backend(model, backend, options)


def open_backend(model: Any, name: str | None = None, options: dict[str, Any] | None = None) -> Backend:
    """Open a backend for a model.

    Args:
        model: a name, a path, a `ModelRef`, (model, tokenizer), an `Engine`, or a backend, which is returned unchanged.
        name: one of `BACKENDS`; None selects "native", or keeps a loaded backend. "openai" and "vllm" need a name or
            path.
        options: options of that backend, by name; None values select the defaults.

    Raises:
        FastsiaError: an unknown backend, an option of another backend, or a model that the backend cannot use.
    """
    options = {key: value for key, value in (options or {}).items() if value is not None}
    if name is not None and name not in BACKENDS:
        raise FastsiaError(
            f"backend must be one of {', '.join(BACKENDS)}, got {name!r}{did_you_mean(str(name), BACKENDS)}"
        )
    if hasattr(model, "generate") and hasattr(model, "fingerprint"):
        _refuse(options, "a backend that is already loaded")
        loaded: Backend = model
        if name is not None and name != loaded.name:
            raise FastsiaError(f"backend is {name!r}, but the model is a loaded backend {loaded.name!r}.")
        return loaded
    name = name or "native"
    for option in options:
        if option not in _ACCEPTED[name]:
            owners = [repr(owner) for owner, accepted in _ACCEPTED.items() if option in accepted]
            if not owners:
                raise FastsiaError(f"no backend has an option {option!r}{did_you_mean(option, _ACCEPTED[name])}")
            raise FastsiaError(f"{option} applies to backend={' or '.join(owners)} only, got backend={name!r}.")
    if isinstance(model, (str, os.PathLike, ModelRef)):
        return _open_named(resolve_model(model), name, options)
    if name in ("openai", "vllm"):
        raise FastsiaError(f"the {name} backend needs a model's name or path, got {type(model).__name__}.")

    from fastsia.backends.hf_generate import HFGenerateBackend
    from fastsia.backends.native import NativeBackend
    from fastsia.engine.engine import Engine

    if isinstance(model, Engine):
        _refuse(options, "an Engine that is already loaded")
        return NativeBackend(model) if name == "native" else HFGenerateBackend(model.model, model.tokenizer)
    if not isinstance(model, (tuple, list)) or len(model) != 2:
        raise FastsiaError(
            f"model must be a name, a path, (model, tokenizer) or an Engine, got {type(model).__name__}; "
            "a model alone lacks the tokenizer that prompts and answers need."
        )
    loading = {key: value for key, value in options.items() if key not in fields_of(EngineOptions)}
    _refuse(loading, "a model that is already loaded")
    return HFGenerateBackend(*model) if name == "hf" else NativeBackend(Engine(*model, **options))


def _open_named(ref: ModelRef, name: str, options: dict[str, Any]) -> Backend:
    if name == "native":
        from fastsia.backends.native import NativeBackend

        return NativeBackend.load(ref, **options)
    if name == "hf":
        from fastsia.backends.hf_generate import HFGenerateBackend

        return HFGenerateBackend.load(ref, **options)
    if name == "vllm":
        from fastsia.backends.vllm import VLLMBackend

        return VLLMBackend(ref, **options)
    if "base_url" not in options:
        raise FastsiaError("the openai backend needs base_url, such as http://localhost:8000/v1.")
    from fastsia.backends.openai_server import OpenAIServerBackend

    return OpenAIServerBackend(ref, **options)


def open_for_run(facts: Mapping[str, Any], model: Any, options: Mapping[str, Any], what: str) -> NativeBackend:
    """Open the native backend, with a tokenizer, for more work on a stored run.

    Args:
        facts: `model` of the run's identity.
        model: as in `open_backend`; None opens the run's own, with its adapter and dtype unless `options` name others.
        options: as in `open_backend`.
        what: is done, as the error about another backend begins.

    Raises:
        FastsiaError: as `open_backend`; another backend, or no tokenizer.
    """
    from fastsia.backends.native import NativeBackend

    given = dict(options)
    if model is None:
        for name in ("peft", "dtype"):
            given[name] = facts.get(name) if given.get(name) is None else given[name]
    loaded = open_backend(facts["name"] if model is None else model, "native", given)
    if not isinstance(loaded, NativeBackend) or loaded.tokenizer is None or loaded.vocabulary is None:
        raise FastsiaError(f"{what} by the native backend with a tokenizer, got {loaded.name}.")
    return loaded


def _refuse(options: dict[str, Any], subject: str) -> None:
    if options:
        raise FastsiaError(f"{next(iter(options))} does not apply to {subject}.")
