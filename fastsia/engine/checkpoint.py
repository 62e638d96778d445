"""From a model's name to its weights: demo names, local folders, GGUF files, Hub ids. Safetensors or GGUF only."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastsia.engine import adapter, gguf
from fastsia.engine.weights import check_finite, check_keys, in_report, quiet_load_report
from fastsia.errors import FastsiaError
from fastsia.tasks.hub import hub_status
from fastsia.tasks.models import MODELS

DEMO_PREFIX = "demo:"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_DTYPE_ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16", "float": "float32"}
_POINTER = b"version https://git-lfs"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def demo_models() -> dict[str, Path]:
    """The demo checkpoints shipped with the package, by name ("demo:sft"). Found without importing anything."""
    spec = importlib.util.find_spec("fastsia")
    if spec is None or not spec.submodule_search_locations:
        return {}
    root = Path(next(iter(spec.submodule_search_locations))) / "demo" / "weights"
    folders = sorted(root.iterdir()) if root.is_dir() else []
    return {DEMO_PREFIX + folder.name: folder for folder in folders if (folder / "config.json").is_file()}


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, or CUDA where there is one, else the CPU."""
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
    """A torch dtype, or "auto" for the stored one. None: float32 on the CPU, bfloat16 on an accelerator."""
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


def resolve_model(name_or_path: str | os.PathLike[str]) -> str:
    """A local folder, a GGUF file or a Hub id for a name, the paper's names included; nothing is downloaded here.

    Raises:
        FastsiaError: an unknown demo name, a path that does not exist or holds no model, or no legal Hub id;
            the nearest known names are given.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise FastsiaError(f"model must be a name or a path, got {type(name_or_path).__name__}.")
    name = os.fspath(name_or_path)
    if name.startswith(DEMO_PREFIX):
        demos = demo_models()
        if name not in demos:
            have = ", ".join(demos) or "none (this installation has no demo weights)"
            raise FastsiaError(f"model {name!r} is not a demo model; there are: {have}.")
        return str(demos[name])
    path = Path(name).expanduser()
    if path.is_dir():
        _refuse_folder(path, name)
        return str(path)
    if path.is_file():
        if gguf.is_gguf(path):
            return str(path)
        raise FastsiaError(f"model {name!r} is a file; give the Hugging Face folder that holds it, or a .gguf file.")
    if gguf.is_gguf(path):
        raise FastsiaError(f"model {name!r} does not exist: no such file.")
    published = next((model.hub_id for model in MODELS if model.name.lower() == name.lower()), None)
    if published is not None:
        return published
    if not _HUB_ID.fullmatch(name):
        raise FastsiaError(f"model {name!r} does not exist: no such folder, and not a Hub id.{_suggest(name)}")
    return name


@dataclass(frozen=True)
class Origin:
    """What a loaded model cannot say of itself.

    peft: the adapter that was merged into it, as it was named. quantization: what its file was quantised as before it
    was loaded, such as "gguf Q4_K_M". notes: what a reader of its numbers should know, one sentence each.
    """

    peft: str | None = None
    quantization: str | None = None
    notes: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """What is known, ready for JSON."""
        return {key: value for key in ("peft", "quantization") if (value := getattr(self, key)) is not None}


def origin_of(model: Any) -> Origin:
    """Where `load_model` took a model from; of a model that came as an object nothing is known."""
    origin = getattr(model, "_fastsia_origin", None)
    return origin if isinstance(origin, Origin) else Origin()


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    peft: str | os.PathLike[str] | None = None,
) -> tuple[Any, Any]:
    """The causal language model, in eval mode on `device`, and its tokenizer (None where the folder has none).

    Weights are read from safetensors or a GGUF file only; a repository's own code runs only with `trust_remote_code`.
    dtype None: float32 on the CPU, bfloat16 on an accelerator, whatever the file stores; "auto": as stored. Each weight
    goes straight to the device where accelerate is installed, which transformers asks for, else by way of host memory.
    peft: a LoRA adapter's folder or Hub id, merged into the weights.

    Raises:
        FastsiaError: the model cannot be found or loaded; its files lack a weight, have one that the architecture does
            not have, or one that is not finite; it has an adapter beside its weights that `peft` does not name.
    """
    target = resolve_device(device)
    weights_dtype = resolve_dtype(dtype, target)
    source, common = _source(name_or_path, trust_remote_code, revision)
    name = os.fspath(name_or_path)
    if peft is not None:
        adapter.resolve_adapter(peft)  # before anything large is read
    _refuse_adapter_beside(source, name, common, peft)
    facts = gguf.read_facts(Path(source)) if gguf.is_gguf(source) else None
    straight = target.type != "cpu" and importlib.util.find_spec("accelerate") is not None
    placement = {"device_map": {"": target}} if straight else {}
    placement |= gguf.loading(Path(source)) if facts is not None else {}

    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    if Path(source).exists():  # a bar is for a download, not for the milliseconds a local read takes
        transformers_logging.disable_progress_bar()
    report: list[str] = []
    try:
        with quiet_load_report() as report, nullcontext() if facts is None else gguf.quiet_bar():
            model, info = AutoModelForCausalLM.from_pretrained(
                _place(source),
                dtype=weights_dtype,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # `check_keys` names them
                adapter_kwargs={"subfolder": _NOWHERE},
                **placement,
                **{key: value for key, value in common.items() if key != "gguf_file"},
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = _one_sentence(error)
        if (keys := in_report(report)) is not None:
            reason = f"its files lack a part of {keys}, or have it in other shapes."
        raise FastsiaError(f"model {name!r} cannot be loaded: {reason}") from error
    except Exception as error:
        # A torn safetensors file has an error type of its own, not importable everywhere; a GGUF file's may be any.
        if (fault := _fault_of_config(error)) is not None:
            raise FastsiaError(f"model {name!r} cannot be loaded: {fault}") from error
        if facts is None and type(error).__module__.partition(".")[0] not in ("safetensors", "safetensors_rust"):
            raise
        raise FastsiaError(f"model {name!r}: its weights are damaged: {_one_sentence(error)}") from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    check_keys(name, model, info)
    check_finite(name, model.named_parameters())
    notes = [_UNTIED_NOTE.format(name)] if any("we will NOT tie" in text for text in report) else []
    if facts is not None:
        gguf.forget_file(model, facts)
        model.config._name_or_path = source
    model = model.to(target)
    tokenizer = _load_tokenizer(source, common)
    if peft is not None:
        model = adapter.merge_adapter(model, peft)
        notes += _notes_on_adapter(name, source, peft, tokenizer)
    model._fastsia_origin = Origin(
        peft=None if peft is None else os.fspath(peft),
        quantization=None if facts is None else f"gguf {facts.quantization}",
        notes=tuple(notes),
    )
    return model.eval(), tokenizer


# A subfolder that no repository has: transformers merges nothing by itself where peft is installed.
_NOWHERE = "no-adapter"
_UNTIED_NOTE = (
    "model {!r} has an output head of its own in its files, although its config.json ties the head to the embedding; "
    "the stored head is used."
)


def _refuse_adapter_beside(
    source: str, name: str, common: Mapping[str, Any], peft: str | os.PathLike[str] | None
) -> None:
    """An adapter in the model's own folder is neither applied nor ignored in silence."""
    folder = Path(source)
    if folder.is_file():
        return
    if folder.is_dir():
        found = adapter.beside(folder)
        named = peft is not None and Path(peft).expanduser().resolve() == folder.resolve()
    else:
        from transformers.utils.peft_utils import find_adapter_config_file

        reading = {key: common[key] for key in ("revision", "local_files_only") if key in common}
        found = find_adapter_config_file(source, **reading) is not None
        named = peft is not None and os.fspath(peft) == source
    if found and not named:
        raise FastsiaError(
            f"model {name!r} has a LoRA adapter ({adapter.CONFIG}) beside its own weights: --peft {name} merges the "
            "adapter; to evaluate the weights without it, take them from a folder that has no adapter."
        )


def _notes_on_adapter(name: str, source: str, peft: str | os.PathLike[str], tokenizer: Any) -> list[str]:
    """What may make an adapter the wrong one for this model, though it fits."""
    folder, notes = adapter.resolve_adapter(peft), []
    base = adapter.base_of(folder)
    is_hub = not Path(source).exists() and base is not None and _HUB_ID.fullmatch(base) and not Path(base).exists()
    if is_hub and base is not None and base.lower() != source.lower():
        notes.append(f"the adapter {os.fspath(peft)!r} says that it was trained on {base}; it is merged into {name}.")
    own = _load_tokenizer(str(folder), {}) if (folder / "tokenizer_config.json").is_file() else None
    # Of other vocabularies the shapes tell.
    if own is not None and tokenizer is not None and own.chat_template != tokenizer.chat_template:
        notes.append(
            f"the adapter {os.fspath(peft)!r} has a tokenizer with another chat template; the tokenizer of {name} is "
            "used."
        )
    return notes


@dataclass(frozen=True)
class Description:
    """A model without its weights, which are elsewhere: `config` and `generation_config` as a loaded model has them.

    tokenizer: None where the folder has none. generation_config: None where it has none of its own.
    """

    config: Any
    generation_config: Any
    tokenizer: Any


def load_description(
    name_or_path: str | os.PathLike[str], *, trust_remote_code: bool = False, revision: str | None = None
) -> Description:
    """A model's configuration and tokenizer; no weights are read or needed. Arguments and errors as `load_model`."""
    source, common = _source(name_or_path, trust_remote_code, revision)

    from transformers import AutoConfig, GenerationConfig

    try:
        config = AutoConfig.from_pretrained(_place(source), **common)
    except Exception as error:
        fault = _fault_of_config(error)
        if fault is None and not isinstance(error, (OSError, ValueError, KeyError, ImportError)):
            raise
        raise FastsiaError(
            f"model {os.fspath(name_or_path)!r} cannot be read: {fault or _one_sentence(error)}"
        ) from error
    reading = {key: value for key, value in common.items() if key != "trust_remote_code"}
    try:
        if "gguf_file" in common:
            generation_config = GenerationConfig(eos_token_id=list(gguf.read_facts(Path(source)).eos_token_ids) or None)
        else:
            generation_config = GenerationConfig.from_pretrained(source, **reading)
    except (OSError, ValueError):
        generation_config = None
    return Description(config, generation_config, _load_tokenizer(source, common))


def _source(
    name_or_path: str | os.PathLike[str], trust_remote_code: bool, revision: str | None
) -> tuple[str, dict[str, Any]]:
    """(folder, GGUF file or Hub id, how transformers is to load from it)."""
    source = resolve_model(name_or_path)
    if not isinstance(trust_remote_code, bool):  # the text "false" would run the code
        raise FastsiaError(f"trust_remote_code must be true or false, got {trust_remote_code!r}.")
    common: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if Path(source).exists():
        if revision not in (None, "main"):  # what other tools say by default is no wish
            kind = "folder" if Path(source).is_dir() else "file"
            raise FastsiaError(f"revision {revision!r} has no meaning for the {kind} {source!r}.")
        if gguf.is_gguf(source) and Path(source).is_file():
            common["gguf_file"] = str(Path(source).resolve())
    else:
        common["revision"] = revision
        common["local_files_only"] = not _hub_has(source, revision)
    return source, common


def _place(source: str) -> str:
    """What transformers takes for the repository: of a GGUF file, which is named apart, its folder."""
    path = Path(source)
    return str(path.resolve().parent) if path.is_file() else source


def _load_tokenizer(source: str, common: Mapping[str, Any]) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(_place(source), **common)
    except (OSError, ValueError, KeyError, ImportError):
        return None
    # Without its files transformers 5 makes up a tokenizer that knows nothing but special tokens.
    return tokenizer if len(tokenizer) > len(tokenizer.all_special_ids) else None


def _refuse_folder(path: Path, name: str) -> None:
    """A folder that is no model, with what it is instead."""
    own = [file for file in path.glob("*.safetensors") if file.name != adapter.WEIGHTS]
    pickled = [file for file in path.glob("*.bin") if not file.name.startswith(("adapter_", "training_args"))]
    if adapter.beside(path) and not own and not pickled:
        base = adapter.base_of(path)
        raise FastsiaError(
            f"model folder {name!r} has only a LoRA adapter: give its base model"
            f"{f' ({base})' if base else ''} by --model and the adapter by --peft {name}."
        )
    if not (path / "config.json").is_file():
        files = sorted(file.name for file in path.iterdir() if gguf.is_gguf(file))
        other = f"; it has the GGUF file {files[0]}, which --model {path / files[0]} reads" if files else ""
        raise FastsiaError(
            f"model folder {name!r} has no config.json{other}"
            + ("." if files else "; a Hugging Face model folder is needed.")
        )
    for file in own:
        with file.open("rb") as opened:
            if opened.read(len(_POINTER)) == _POINTER:
                raise FastsiaError(
                    f"model folder {name!r}: {file.name} is a Git LFS pointer, not the weights: "
                    "`git lfs pull` gets them."
                )
    if pickled and not own:
        raise FastsiaError(
            f"model folder {name!r} has only .bin (pickle) weights, which are never loaded; convert them to "
            "safetensors."
        )


def _hub_has(repo: str, revision: str | None) -> bool:
    """True: ask the Hub. False: it cannot be reached, and the local cache has the model. Else one clear error."""
    cached, status = _reach(repo, revision)
    reason = _why_absent(cached, status, revision)
    if reason is not None and status == 404 and (hub_status(_hub_file(repo, revision, adapter.CONFIG)) or 404) < 400:
        raise FastsiaError(
            f"model {repo!r} has only a LoRA adapter: give its base model by --model and the adapter by --peft {repo}."
        )
    if reason is not None:
        raise FastsiaError(f"model {repo!r}: {reason}.{_suggest(repo)}")
    return status is not None and status < 400


def why_absent(name_or_path: str | os.PathLike[str], revision: str | None = None) -> str | None:
    """Why a model's weights are not at hand; None where they are in a folder or the local cache, or the Hub gives them.

    Raises FastsiaError: as `resolve_model`.
    """
    source = resolve_model(name_or_path)
    return None if Path(source).exists() else _why_absent(*_reach(source, revision), revision)


def _reach(repo: str, revision: str | None) -> tuple[bool, int | None]:
    """Whether the local cache has the model, and the Hub's status for it (None: it cannot be reached)."""
    from huggingface_hub import try_to_load_from_cache

    cached = isinstance(try_to_load_from_cache(repo, "config.json", revision=revision), str)
    return cached, hub_status(_hub_file(repo, revision, "config.json"))


def _hub_file(repo: str, revision: str | None, name: str) -> str:
    return f"{repo}/resolve/{revision or 'main'}/{name}"


def _why_absent(cached: bool, status: int | None, revision: str | None) -> str | None:
    if cached:
        return None
    reasons = {
        None: "no local folder, not in the local cache, and the Hub cannot be reached",
        401: "the Hub has no such public model (a private one needs HF_TOKEN)",
        403: "the Hub gives it only to accounts that accepted its terms (HF_TOKEN)",
        404: f"the Hub has no such model{f' at revision {revision!r}' if revision else ''}",
    }
    return reasons.get(status)


def _suggest(name: str) -> str:
    known = {model.hub_id.lower(): model.hub_id for model in MODELS if not model.is_demo}
    known |= {model.hub_id.rpartition("/")[2].lower(): model.hub_id for model in MODELS if not model.is_demo}
    known |= {demo: demo for demo in demo_models()}
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)
    names = list(dict.fromkeys(known[entry] for entry in near))
    return f" Did you mean {' or '.join(names)}?" if names else " `fastsia ls` shows the known models."


def _fault_of_config(error: BaseException) -> str | None:
    """What a config.json whose values contradict each other is refused for; None for another error. Its error type is
    no ValueError, and not importable from every version of huggingface_hub."""
    if not type(error).__name__.startswith("StrictDataclass"):
        return None
    return f"its config.json contradicts itself: {_one_sentence(error.__cause__ or error)}"


def _one_sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    head, stop, _ = text.partition(". ")
    return (head[:300] + ("..." if len(head) > 300 else "")).rstrip(".") + "." if stop or head else text


def eos_ids(model: Any, tokenizer: Any = None) -> tuple[int, ...]:
    """Every id that ends a sequence by default: the generation settings', the configuration's and the tokenizer's."""
    found: list[int] = []
    for owner in (getattr(model, "generation_config", None), getattr(model, "config", None), tokenizer):
        ids = getattr(owner, "eos_token_id", None)
        found += [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    return tuple(dict.fromkeys(i for i in found if i >= 0))


def context_length(model: Any) -> int | None:
    """Positions the model was configured for; None where its configuration does not say."""
    value = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return int(value) if value else None
