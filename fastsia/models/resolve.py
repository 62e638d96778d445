"""From a model's name to its files: demo names, local folders, GGUF files, the paper's names, Hub ids."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from fastsia.errors import FastsiaError, did_you_mean
from fastsia.models import adapter
from fastsia.models.gguf import is_gguf
from fastsia.models.hub import hub_status
from fastsia.models.registry import MODELS

DEMO_PREFIX = "demo:"
_LFS_POINTER = b"version https://git-lfs"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class ModelRef:
    """A resolved model name. `evaluate`, the backends and the loaders pass it on instead of resolving the name again.

    Attributes:
        name: the name as it was given; results are labelled with it.
        source: a local folder, a GGUF file, or a Hub id.
        path: `source` as a path; None for a Hub id.
    """

    name: str
    source: str
    path: Path | None

    @property
    def gguf_file(self) -> Path | None:
        """The GGUF file; None for a folder or a Hub id."""
        return self.path if self.path is not None and self.path.is_file() else None

    @property
    def repository(self) -> str:
        """The first argument of transformers' `from_pretrained`: for a GGUF file, which is named apart, its folder."""
        return self.source if self.gguf_file is None else str(self.gguf_file.resolve().parent)


def resolve_model(model: str | os.PathLike[str] | ModelRef) -> ModelRef:
    """Resolve a name; the paper's names are known too. Nothing is downloaded. A `ModelRef` is returned unchanged.

    Raises:
        FastsiaError: an unknown demo name, a path that does not exist or has no model, or an invalid Hub id; the
            message suggests the nearest known names.
    """
    if isinstance(model, ModelRef):
        return model
    if not isinstance(model, (str, os.PathLike)):
        raise FastsiaError(f"model must be a name or a path, got {type(model).__name__}.")
    name = os.fspath(model)
    if name.startswith(DEMO_PREFIX):
        demos = demo_models()
        if name not in demos:
            available = ", ".join(demos) or "none (this installation has no demo weights)"
            raise FastsiaError(f"model {name!r} is not a demo model; available: {available}.")
        return ModelRef(name, str(demos[name]), demos[name])
    path = Path(name).expanduser()
    if path.is_dir():
        _check_folder(path, name)
        return ModelRef(name, str(path), path)
    if path.is_file():
        if is_gguf(path):
            return ModelRef(name, str(path), path)
        raise FastsiaError(f"model {name!r} is a file; give the Hugging Face folder that contains it, or a .gguf file.")
    if is_gguf(path):
        raise FastsiaError(f"model {name!r} does not exist: no such file.")
    published = next((info.hub_id for info in MODELS if info.name.lower() == name.lower()), None)
    if published is None and not _HUB_ID.fullmatch(name):
        raise FastsiaError(f"model {name!r} does not exist: no such folder, and not a Hub id{_suggest(name)}")
    return ModelRef(name, published or name, None)


def demo_models() -> dict[str, Path]:
    """The demo checkpoints in the package, by name ("demo:sft"). Nothing is imported to find them."""
    spec = importlib.util.find_spec("fastsia")
    if spec is None or not spec.submodule_search_locations:
        return {}
    root = Path(next(iter(spec.submodule_search_locations))) / "demo" / "weights"
    folders = sorted(root.iterdir()) if root.is_dir() else []
    return {DEMO_PREFIX + folder.name: folder for folder in folders if (folder / "config.json").is_file()}


def _check_folder(path: Path, name: str) -> None:
    """Raise FastsiaError for a folder without a model; the message says what the folder contains instead."""
    own = [file for file in path.glob("*.safetensors") if file.name != adapter.WEIGHTS]
    pickled = [file for file in path.glob("*.bin") if not file.name.startswith(("adapter_", "training_args"))]
    if adapter.has_adapter(path) and not own and not pickled:
        base = adapter.base_of(path)
        raise FastsiaError(
            f"model folder {name!r} has only a LoRA adapter: give its base model"
            f"{f' ({base})' if base else ''} by --model and the adapter by --peft {name}."
        )
    if not (path / "config.json").is_file():
        files = sorted(file.name for file in path.iterdir() if is_gguf(file))
        other = f"; it has the GGUF file {files[0]}, which --model {path / files[0]} reads" if files else ""
        raise FastsiaError(
            f"model folder {name!r} has no config.json{other}"
            + ("." if files else "; a Hugging Face model folder is needed.")
        )
    for file in own:
        with file.open("rb") as opened:
            if opened.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise FastsiaError(
                    f"model folder {name!r}: {file.name} is a Git LFS pointer, not the weights: "
                    "`git lfs pull` downloads them."
                )
    if pickled and not own:
        raise FastsiaError(
            f"model folder {name!r} has only .bin (pickle) weights, which are never loaded; convert them to "
            "safetensors."
        )


# --- the Hub ---------------------------------------------------------------------------------------------------


def hub_has(repo: str, revision: str | None) -> bool:
    """True if the Hub has the model, False if it cannot be reached and the local cache has the model.

    Raises:
        FastsiaError: neither has it; the message says why.
    """
    cached, status = _reach(repo, revision)
    reason = _why_absent(cached, status, revision)
    if reason is not None and status == 404 and (hub_status(_hub_file(repo, revision, adapter.CONFIG)) or 404) < 400:
        raise FastsiaError(
            f"model {repo!r} has only a LoRA adapter: give its base model by --model and the adapter by --peft {repo}."
        )
    if reason is not None:
        raise FastsiaError(f"model {repo!r}: {reason}{_suggest(repo)}")
    return status is not None and status < 400


def why_absent(model: str | os.PathLike[str] | ModelRef, revision: str | None = None) -> str | None:
    """The reason why a model's weights are unavailable; None if they are local, cached, or on the Hub.

    Raises:
        FastsiaError: as `resolve_model`.
    """
    ref = resolve_model(model)
    return None if ref.path is not None else _why_absent(*_reach(ref.source, revision), revision)


def _reach(repo: str, revision: str | None) -> tuple[bool, int | None]:
    """(whether the local cache has the model, the Hub's status for it; None if the Hub cannot be reached)."""
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
        403: "the Hub requires an account that accepted the model's terms (HF_TOKEN)",
        404: f"the Hub has no such model{f' at revision {revision!r}' if revision else ''}",
    }
    return reasons.get(status)


def _suggest(name: str) -> str:
    known = [*(info.hub_id for info in MODELS if not info.is_demo), *demo_models()]
    return did_you_mean(name, known, n=3, otherwise=". `fastsia ls` lists the known models.")
