"""LoRA adapters: merged into a model's weights when it is loaded."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from fastsia.errors import FastsiaError
from fastsia.models.weights import check_finite

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SIZES = re.compile(r"size mismatch for (\S+): .*?torch\.Size\((\[[^]]*\])\).*?torch\.Size\((\[[^]]*\])\)", re.DOTALL)


def has_adapter(folder: Path) -> bool:
    """Whether a folder has an adapter in it."""
    return any((folder / name).is_file() for name in (CONFIG, WEIGHTS, "adapter_model.bin"))


def base_of(folder: Path) -> str | None:
    """The model that an adapter says it was trained on."""
    try:
        name = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None
    return name if isinstance(name, str) and name else None


def resolve_adapter(name_or_path: str | os.PathLike[str]) -> Path:
    """The adapter's folder: a local one, or the local cache's after its two files were taken from the Hub.

    Raises:
        FastsiaError: no such folder or Hub id; no adapter in it; weights that are not safetensors; no LoRA.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise FastsiaError(f"peft must be a folder or a Hub id, got {type(name_or_path).__name__}.")
    name = os.fspath(name_or_path)
    if importlib.util.find_spec("peft") is None:
        raise FastsiaError("a LoRA adapter needs the package peft: pip install 'fastsia[peft]'.")
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if folder.exists() or not _HUB_ID.fullmatch(name):
            raise FastsiaError(f"peft {name!r} does not exist: no such folder, and not a Hub id (OWNER/NAME).")
        folder = _from_hub(name)
    if not (folder / CONFIG).is_file():
        raise FastsiaError(f"peft {name!r} is no adapter: it has no {CONFIG}.")
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        raise FastsiaError(
            f"peft {name!r} has "
            + ("only .bin (pickle) weights, which are never loaded; convert them to" if pickled else "no weights:")
            + f" {WEIGHTS}{'' if pickled else ' is missing'}."
        )
    try:
        kind = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FastsiaError(f"peft {name!r}: its {CONFIG} cannot be read or has no peft_type.") from error
    if str(kind).upper() != "LORA":
        raise FastsiaError(f"peft {name!r} is an adapter of type {kind}; only LORA can be merged.")
    return folder


def _from_hub(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        found = Path(hf_hub_download(name, CONFIG))
        hf_hub_download(name, WEIGHTS)
    except LocalEntryNotFoundError as error:
        raise FastsiaError(f"peft {name!r}: not in the local cache, and the Hub cannot be reached.") from error
    except EntryNotFoundError as error:
        raise FastsiaError(f"peft {name!r}: the Hub has no {CONFIG} or no {WEIGHTS} there.") from error
    except (OSError, ValueError) as error:
        raise FastsiaError(
            f"peft {name!r} cannot be taken from the Hub: {' '.join(str(error).split())[:200]}"
        ) from error
    return found.parent


def merge_adapter(model: Any, name_or_path: str | os.PathLike[str]) -> Any:
    """The model with the adapter's changes added to its weights, as peft's `merge_and_unload` adds them.

    Raises:
        FastsiaError: as `resolve_adapter`; the adapter is for other modules or shapes, lacks weights, has some that
            peft does not use, or has values that are not finite.
    """
    folder, name = resolve_adapter(name_or_path), os.fspath(name_or_path)

    import peft
    from safetensors.torch import load_file

    try:
        stored = load_file(folder / WEIGHTS)
    except Exception as error:  # safetensors' own error type cannot be imported everywhere
        raise FastsiaError(f"peft {name!r}: its weights are damaged: {' '.join(str(error).split())[:200]}.") from error
    check_finite(name, stored.items())
    tied = _is_tied(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what peft warns of is checked below
            config = peft.PeftConfig.from_pretrained(str(folder))
            device = str(next(model.parameters()).device)
            wrapped = peft.PeftModel.from_pretrained(model, str(folder), config=config, torch_device=device)
            _check_keys(name, wrapped, stored)
            _untie(wrapped)
            merged = wrapped.merge_and_unload(safe_merge=True)
    except FastsiaError:
        raise
    except Exception as error:  # peft raises whatever its parts do: KeyError, TypeError, RuntimeError, ValueError, ...
        raise FastsiaError(f"peft {name!r} does not fit this model: {_reason(error)}") from error
    if tied and not _is_tied(merged):
        merged.config.tie_word_embeddings = False
    check_finite(f"{getattr(model.config, '_name_or_path', '')} with {name}", merged.named_parameters())
    return merged.eval()


def _check_keys(name: str, wrapped: Any, stored: dict[str, torch.Tensor]) -> None:
    """peft itself goes on with what is missing as it was initialised, and drops what it does not know."""
    from peft import get_peft_model_state_dict

    wanted = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    absent = sorted(wanted - set(stored))
    # The embeddings may be stored whole beside their change.
    extra = sorted(set(stored) - wanted - set(wrapped.state_dict()))
    for keys, what in ((absent, "lacks"), (extra, "has weights that this model has no place for:")):
        if keys:
            more = f" and {len(keys) - 2} more" if len(keys) > 2 else ""
            raise FastsiaError(f"peft {name!r} {what} {', '.join(keys[:2])}{more}.")


def _is_tied(model: Any) -> bool:
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    return outputs is not None and getattr(inputs, "weight", None) is getattr(outputs, "weight", 0)


def _untie(wrapped: Any) -> None:
    """Give a changed embedding or head a weight of its own: merging changes in place what both would share."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    owners = Counter(id(weight) for module in wrapped.modules() for weight in module.parameters(recurse=False))
    for layer in [module.get_base_layer() for module in wrapped.modules() if isinstance(module, BaseTunerLayer)]:
        weight = getattr(layer, "weight", None)
        if weight is not None and owners[id(weight)] > 1:
            layer.weight = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)


def _reason(error: Exception) -> str:
    text = str(error)
    sizes = _SIZES.search(text)
    if sizes:
        key, found, wanted = sizes.groups()
        return f"{key} has the shape {found} in the adapter, where the model needs {wanted}."
    text = " ".join(text.split()) or type(error).__name__
    head, stop, _ = text.partition(". ")
    return head[:300].rstrip(".") + "." if stop or not text.endswith(".") else text[:300]
