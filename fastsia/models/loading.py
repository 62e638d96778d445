"""From a resolved model to its weights and tokenizer. Weights are read from safetensors or GGUF files only."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastsia import processor
from fastsia.errors import FastsiaError, one_line
from fastsia.models import adapter, gguf
from fastsia.models.resolve import ModelRef, hub_has, resolve_model
from fastsia.models.weights import check_finite, check_keys, in_report, quiet_load_report

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_DTYPE_ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16", "float": "float32"}
_HUB_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Below this number of parameters a step's time is not in its products, and bfloat16 would only cost accuracy.
_BFLOAT16_FROM = 50_000_000
# A subfolder that no repository has: with it transformers does not merge an adapter by itself where peft is installed.
_NO_ADAPTER = {"subfolder": "no-adapter"}


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """The given device; None selects CUDA if it is available, else the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise FastsiaError(f'device must be a name such as "cpu" or "cuda:0", got {device!r}.') from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise FastsiaError(f"device is {device!r}, but this torch ({torch.__version__}) sees no CUDA device.")
    return resolved


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype | str:
    """A torch dtype, or "auto" for the stored one. None selects float32 on the CPU, bfloat16 on an accelerator."""
    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if isinstance(dtype, torch.dtype):
        return dtype
    name = _DTYPE_ALIASES.get(str(dtype), str(dtype)).removeprefix("torch.")
    if name == "auto":
        return "auto"
    if name not in DTYPES:
        raise FastsiaError(f"dtype must be one of auto, {', '.join(DTYPES)}, got {dtype!r}.")
    return DTYPES[name]


@dataclass(frozen=True)
class Origin:
    """Facts about a loaded model that its weights and configuration do not show.

    Attributes:
        peft: the adapter that was merged into it, by the name that was given.
        quantization: the quantisation of its file before loading, such as "gguf Q4_K_M".
        dtype_reason: why its weights have the dtype that they have, a clause; None where it was asked for.
        notes: warnings for readers of its numbers, one sentence each.
    """

    peft: str | None = None
    quantization: str | None = None
    dtype_reason: str | None = None
    notes: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """The known facts, ready for JSON."""
        return {
            key: value for key in ("peft", "quantization", "dtype_reason") if (value := getattr(self, key)) is not None
        }


def origin_of(model: Any) -> Origin:
    """The facts that `load_model` attached to a model; an empty `Origin` for a model loaded elsewhere."""
    origin = getattr(model, "_fastsia_origin", None)
    return origin if isinstance(origin, Origin) else Origin()


def load_model(
    model: str | os.PathLike[str] | ModelRef,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    peft: str | os.PathLike[str] | None = None,
) -> tuple[Any, Any]:
    """Load a causal language model.

    With accelerate installed, each weight goes straight to the device (transformers requires the package for this);
    without it, by way of host memory.

    Args:
        model: a name, a path, or a `ModelRef`.
        device: None selects CUDA if it is available.
        dtype: None is bfloat16 on an accelerator. On a CPU it is float32, but bfloat16 where the weights are stored in
            16 bits, are at least 50 million, and bfloat16 is faster on this processor. "auto" is the stored dtype.
        trust_remote_code: run the repository's own code.
        revision: of a Hub model.
        peft: folder or Hub id of a LoRA adapter to merge into the weights.

    Returns:
        The model in eval mode on `device`, and its tokenizer (None if the folder has none).

    Raises:
        FastsiaError: the model cannot be found or loaded; its files lack a weight, have one that the architecture does
            not have, or one that is not finite; its folder has an adapter that `peft` does not name.
    """
    target = resolve_device(device)
    ref = resolve_model(model)
    chooses = dtype is None and target.type == "cpu" and ref.gguf_file is None
    weights_dtype = resolve_dtype("auto" if chooses else dtype, target)
    common = _common_arguments(ref, trust_remote_code, revision)
    if peft is not None:
        adapter.resolve_adapter(peft)  # before anything large is read
    _check_adapter(ref, common, peft)
    facts = None if ref.gguf_file is None else gguf.read_facts(ref.gguf_file)
    straight = target.type != "cpu" and importlib.util.find_spec("accelerate") is not None
    placement = {"device_map": {"": target}} if straight else {}
    placement |= {} if ref.gguf_file is None else gguf.loading(ref.gguf_file)

    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    if ref.path is not None:  # progress bars are useful for downloads; a local read takes milliseconds
        transformers_logging.disable_progress_bar()
    report: list[str] = []
    try:
        with quiet_load_report() as report, nullcontext() if facts is None else gguf.quiet_bar():
            loaded, info = AutoModelForCausalLM.from_pretrained(
                ref.repository,
                dtype=weights_dtype,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # `check_keys` reports them by name
                adapter_kwargs=_NO_ADAPTER,
                **placement,
                **{key: value for key, value in common.items() if key != "gguf_file"},
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = _one_sentence(error)
        if (keys := in_report(report)) is not None:
            reason = f"its files lack a part of {keys}, or have it in other shapes."
        raise FastsiaError(f"model {ref.name!r} cannot be loaded: {reason}") from error
    except Exception as error:
        # A torn safetensors file raises an error type that cannot be imported everywhere; a torn GGUF file any type.
        if (fault := _fault_of_config(error)) is not None:
            raise FastsiaError(f"model {ref.name!r} cannot be loaded: {fault}") from error
        if facts is None and type(error).__module__.partition(".")[0] not in ("safetensors", "safetensors_rust"):
            raise
        raise FastsiaError(f"model {ref.name!r}: its weights are damaged: {_one_sentence(error)}") from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    check_keys(ref.name, loaded, info)
    check_finite(ref.name, loaded.named_parameters())
    notes = []
    if any("we will NOT tie" in text for text in report):
        notes.append(
            f"model {ref.name!r} has an output head of its own in its files, although its config.json ties the head to "
            "the embedding; the stored head is used."
        )
    if facts is not None:
        gguf.forget_file(loaded, facts)
        loaded.config._name_or_path = ref.source
    loaded = loaded.to(target)
    why = None
    if chooses:
        chosen, why = _default_dtype(loaded)
        for parameter in loaded.parameters():  # not buffers: rotary frequencies stay float32
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(chosen)
    tokenizer = _load_tokenizer(ref.repository, common)
    if peft is not None:
        loaded = adapter.merge_adapter(loaded, peft)
        notes += _notes_on_adapter(ref, peft, tokenizer)
    loaded._fastsia_origin = Origin(
        peft=None if peft is None else os.fspath(peft),
        quantization=None if facts is None else f"gguf {facts.quantization}",
        dtype_reason=why,
        notes=tuple(notes),
    )
    return loaded.eval(), tokenizer


def _default_dtype(model: Any) -> tuple[torch.dtype, str]:
    """The dtype to run a model on a CPU in, by the dtype that it is stored in; and the reason, a clause."""
    stored = model.dtype
    name, is_large = str(stored).removeprefix("torch."), model.num_parameters() >= _BFLOAT16_FROM
    faster = is_large and processor.prefers_bfloat16()
    if stored.itemsize > 2:
        return torch.float32, f"stored in {name}" + ("; --dtype bfloat16 is faster on this processor" if faster else "")
    if not is_large:
        return torch.float32, f"stored in {name}; below {_BFLOAT16_FROM // 10**6} million parameters float32 is used"
    if not faster:
        return torch.float32, f"stored in {name}; float32 is faster on this processor"
    return torch.bfloat16, f"stored in {name}; bfloat16 is faster than float32 on this processor"


@dataclass(frozen=True)
class Description:
    """A model without its weights.

    Attributes:
        config: the configuration, as a loaded model has it.
        generation_config: the generation settings, as a loaded model has them; None without any in the folder.
        tokenizer: None if the folder has none.
    """

    config: Any
    generation_config: Any
    tokenizer: Any


def load_description(
    model: str | os.PathLike[str] | ModelRef, *, trust_remote_code: bool = False, revision: str | None = None
) -> Description:
    """Load a model's configuration and tokenizer; its weights are neither read nor needed.

    Args and Raises as in `load_model`.
    """
    ref = resolve_model(model)
    common = _common_arguments(ref, trust_remote_code, revision)

    from transformers import AutoConfig, GenerationConfig

    try:
        config = AutoConfig.from_pretrained(ref.repository, **common)
    except Exception as error:
        fault = _fault_of_config(error)
        if fault is None and not isinstance(error, (OSError, ValueError, KeyError, ImportError)):
            raise
        raise FastsiaError(f"model {ref.name!r} cannot be read: {fault or _one_sentence(error)}") from error
    reading = {key: value for key, value in common.items() if key != "trust_remote_code"}
    try:
        if ref.gguf_file is not None:
            ids = gguf.read_facts(ref.gguf_file).eos_token_ids
            generation_config = GenerationConfig(eos_token_id=list(ids) or None)
        else:
            generation_config = GenerationConfig.from_pretrained(ref.source, **reading)
    except (OSError, ValueError):
        generation_config = None
    return Description(config, generation_config, _load_tokenizer(ref.repository, common))


def eos_ids(model: Any, tokenizer: Any = None) -> tuple[int, ...]:
    """The ids that end a sequence by default: the generation settings', the configuration's and the tokenizer's."""
    found: list[int] = []
    for owner in (getattr(model, "generation_config", None), getattr(model, "config", None), tokenizer):
        ids = getattr(owner, "eos_token_id", None)
        found += [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    return tuple(dict.fromkeys(i for i in found if i >= 0))


def context_length(model: Any) -> int | None:
    """The number of positions in the model's configuration; None if it does not state one."""
    value = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return int(value) if value else None


def _common_arguments(ref: ModelRef, trust_remote_code: bool, revision: str | None) -> dict[str, Any]:
    """The arguments that every `from_pretrained` call of a model shares."""
    if not isinstance(trust_remote_code, bool):  # the text "false" would be true
        raise FastsiaError(f"trust_remote_code must be true or false, got {trust_remote_code!r}.")
    common: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if ref.path is None:
        common["revision"] = revision
        common["local_files_only"] = not hub_has(ref.source, revision)
        return common
    if revision not in (None, "main"):  # other tools pass "main" by default
        kind = "folder" if ref.gguf_file is None else "file"
        raise FastsiaError(f"revision {revision!r} applies to Hub models only, not to the {kind} {ref.source!r}.")
    if ref.gguf_file is not None:
        common["gguf_file"] = str(ref.gguf_file.resolve())
    return common


def _load_tokenizer(repository: str, common: Mapping[str, Any]) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(repository, **common)
    except (OSError, ValueError, KeyError, ImportError):
        return None
    # If the files are missing, transformers 5 makes up a tokenizer that has special tokens only.
    return tokenizer if len(tokenizer) > len(tokenizer.all_special_ids) else None


def _check_adapter(ref: ModelRef, common: Mapping[str, Any], peft: str | os.PathLike[str] | None) -> None:
    """Refuse an adapter in the model's own folder unless `peft` names it: it is never applied or ignored silently."""
    if ref.gguf_file is not None:
        return
    if ref.path is not None:
        found = adapter.has_adapter(ref.path)
        named = peft is not None and Path(peft).expanduser().resolve() == ref.path.resolve()
    else:
        from transformers.utils.peft_utils import find_adapter_config_file

        reading = {key: common[key] for key in ("revision", "local_files_only")}
        found = find_adapter_config_file(ref.source, **reading) is not None
        named = peft is not None and os.fspath(peft) == ref.source
    if found and not named:
        raise FastsiaError(
            f"model {ref.name!r} has a LoRA adapter ({adapter.CONFIG}) beside its own weights: --peft {ref.name} "
            "merges the adapter; to evaluate the weights without it, take them from a folder that has no adapter."
        )


def _notes_on_adapter(ref: ModelRef, peft: str | os.PathLike[str], tokenizer: Any) -> list[str]:
    """Reasons why an adapter that fits may still be the wrong one for this model."""
    folder, name, notes = adapter.resolve_adapter(peft), os.fspath(peft), []
    base = adapter.base_of(folder)
    is_hub = ref.path is None and base is not None and _HUB_REPOSITORY.fullmatch(base) and not Path(base).exists()
    if is_hub and base is not None and base.lower() != ref.source.lower():
        notes.append(f"the adapter {name!r} states {base} as its base model; it is merged into {ref.name}.")
    own = _load_tokenizer(str(folder), {}) if (folder / "tokenizer_config.json").is_file() else None
    # Another vocabulary would show in the shapes.
    if own is not None and tokenizer is not None and own.chat_template != tokenizer.chat_template:
        notes.append(
            f"the adapter {name!r} has a tokenizer with another chat template; the tokenizer of {ref.name} is used."
        )
    return notes


def _fault_of_config(error: BaseException) -> str | None:
    """A sentence on a config.json whose values contradict each other; None for another error.

    The error type is not a ValueError and cannot be imported from every version of huggingface_hub.
    """
    if not type(error).__name__.startswith("StrictDataclass"):
        return None
    return f"its config.json contradicts itself: {_one_sentence(error.__cause__ or error)}"


def _one_sentence(error: BaseException) -> str:
    text = one_line(error) or type(error).__name__
    head, stop, _ = text.partition(". ")
    return (head[:300] + ("..." if len(head) > 300 else "")).rstrip(".") + "." if stop or head else text
