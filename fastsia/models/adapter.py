"""LoRA adapters, merged into a model's weights when it is loaded."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastsia.errors import FastsiaError, one_line

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SIZES = re.compile(r"size mismatch for (\S+): .*?torch\.Size\((\[[^]]*\])\).*?torch\.Size\((\[[^]]*\])\)", re.DOTALL)


def has_adapter(folder: Path) -> bool:
    """Whether a folder contains an adapter."""
    return any((folder / name).is_file() for name in (CONFIG, WEIGHTS, "adapter_model.bin"))


def base_of(folder: Path) -> str | None:
    """The base model that an adapter names; None if it names none."""
    try:
        name = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None
    return name if isinstance(name, str) and name else None


def resolve_adapter(name_or_path: str | os.PathLike[str]) -> Path:
    """The adapter's folder, downloaded from the Hub if it is not local.

    Raises:
        FastsiaError: no such folder or Hub id; a folder without an adapter; weights that are not safetensors; an
            adapter of a type other than LoRA.
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
        raise FastsiaError(f"peft {name!r} is not an adapter: it has no {CONFIG}.")
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
        raise FastsiaError(f"peft {name!r} cannot be downloaded from the Hub: {one_line(error)[:200]}") from error
    return found.parent


def merge_adapter(model: Any, name_or_path: str | os.PathLike[str]) -> Any:
    """Add an adapter's changes to a model's weights, as peft's `merge_and_unload` does.

    Returns:
        The merged model in eval mode.

    Raises:
        FastsiaError: as in `resolve_adapter`; the adapter is for other modules or shapes, lacks weights, has some that
            peft does not use, or has values that are not finite.
    """
    folder, name = resolve_adapter(name_or_path), os.fspath(name_or_path)

    import peft
    from safetensors.torch import load_file

    from fastsia.models.weights import check_finite  # brings torch

    try:
        stored = load_file(folder / WEIGHTS)
    except Exception as error:  # safetensors' own error type cannot be imported everywhere
        raise FastsiaError(f"peft {name!r}: its weights are damaged: {one_line(error)[:200]}.") from error
    check_finite(name, stored.items())
    tied = _is_tied(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `_check_keys` reports the same
            config = peft.PeftConfig.from_pretrained(str(folder))
            device = str(next(model.parameters()).device)
            wrapped = peft.PeftModel.from_pretrained(model, str(folder), config=config, torch_device=device)
            _check_keys(name, wrapped, stored)
            _untie(wrapped)
            merged = wrapped.merge_and_unload(safe_merge=True)
    except FastsiaError:
        raise
    except Exception as error:  # peft does not limit the types: KeyError, TypeError, RuntimeError, ValueError, ...
        raise FastsiaError(f"peft {name!r} does not fit this model: {_reason(error)}") from error
    if tied and not _is_tied(merged):
        merged.config.tie_word_embeddings = False
    check_finite(f"{getattr(model.config, '_name_or_path', '')} with {name}", merged.named_parameters())
    return merged.eval()


def _check_keys(name: str, wrapped: Any, stored: dict[str, Tensor]) -> None:
    """Refuse missing and unknown weights. peft itself leaves missing ones as initialised, and drops unknown ones."""
    from peft import get_peft_model_state_dict

    wanted = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    absent = sorted(wanted - set(stored))
    # An adapter may contain the whole embedding beside its change.
    extra = sorted(set(stored) - wanted - set(wrapped.state_dict()))
    for keys, what in ((absent, "lacks"), (extra, "has weights that this model does not have:")):
        if keys:
            more = f" and {len(keys) - 2} more" if len(keys) > 2 else ""
            raise FastsiaError(f"peft {name!r} {what} {', '.join(keys[:2])}{more}.")


def _is_tied(model: Any) -> bool:
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    return outputs is not None and getattr(inputs, "weight", None) is getattr(outputs, "weight", 0)


def _untie(wrapped: Any) -> None:
    """Give a changed embedding or head a weight of its own; the merge is in place and would change both."""
    import torch
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
    text = one_line(text) or type(error).__name__
    head, stop, _ = text.partition(". ")
    return head[:300].rstrip(".") + "." if stop or not text.endswith(".") else text[:300]
