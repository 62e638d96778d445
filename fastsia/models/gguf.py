"""GGUF files: their metadata, and how transformers loads them."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastsia.errors import FastsiaError, one_line

SUFFIX = ".gguf"
_MAGIC = b"GGUF"


@dataclass(frozen=True)
class GGUFFacts:
    """Metadata of a file.

    Attributes:
        quantization: such as "Q4_K_M", "Q8_0" or "F32".
        eos_token_ids: the ids that end a text or a turn.
    """

    quantization: str
    eos_token_ids: tuple[int, ...]


def is_gguf(path: str | Path) -> bool:
    """Whether a path has the suffix of a GGUF file."""
    return str(path).lower().endswith(SUFFIX)


def read_facts(path: Path) -> GGUFFacts:
    """Read a GGUF file's metadata.

    Raises:
        FastsiaError: a needed package is not installed; the file is damaged, or one of several parts.
    """
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise FastsiaError(
            f"model {str(path)!r} is a GGUF file, which needs the packages gguf and accelerate "
            f"({' and '.join(missing)} missing): pip install 'fastsia[gguf]'."
        )
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise FastsiaError(f"model {str(path)!r} is not a GGUF file: it does not begin with {_MAGIC.decode()!r}.")

    from gguf import GGUFReader, LlamaFileType

    try:
        reader = GGUFReader(path)
        parts = _value(reader, "split.count")
        kinds = Counter[str]()
        for tensor in reader.tensors:
            kinds[tensor.tensor_type.name] += int(tensor.n_elements)
        stated = _value(reader, "general.file_type")
        ids = [_value(reader, f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom")]
    except Exception as error:  # in a damaged file the numbers are arbitrary
        reason = one_line(error)[:200] or type(error).__name__
        raise FastsiaError(f"model {str(path)!r}: this GGUF file is damaged ({reason}).") from error
    if isinstance(parts, int) and parts > 1:
        raise FastsiaError(
            f"model {str(path)!r} is one of {parts} parts of a GGUF file; join them first (llama.cpp's gguf-split "
            "--merge)."
        )
    if not kinds:
        raise FastsiaError(f"model {str(path)!r}: this GGUF file has no weights in it.")
    most = kinds.most_common(1)[0][0]
    try:
        named = LlamaFileType(stated).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:  # not stated, or a type unknown to this version of gguf
        named = most
    # The type that a converter states by default may differ from the tensors' type.
    plain = {"F32", "F16", "BF16"}
    quantization = most if named == "GUESSED" or (named in plain) != (most in plain) else named
    return GGUFFacts(quantization, tuple(dict.fromkeys(i for i in ids if isinstance(i, int))))


def _value(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def loading(path: Path) -> dict[str, Any]:
    """Arguments of `from_pretrained` that load a GGUF file's weights, dequantised."""
    arguments: dict[str, Any] = {"gguf_file": str(path.resolve())}
    try:
        from transformers import GgufConfig
    except ImportError:  # before transformers 5.20 every file is dequantised
        return arguments
    return arguments | {"quantization_config": GgufConfig(dequantize=True)}


@contextmanager
def quiet_bar() -> Iterator[None]:
    """Show transformers' progress bar of the dequantisation on terminals only; elsewhere it prints a line per step."""
    from transformers import modeling_gguf_pytorch_utils as reading

    own = getattr(reading, "tqdm", None)
    if own is None or sys.stderr.isatty():
        yield
        return
    reading.tqdm = partial(own, disable=True)
    try:
        yield
    finally:
        reading.tqdm = own


def forget_file(model: Any, facts: GGUFFacts) -> None:
    """Remove the file's marks from the configuration: a dequantised model has the fingerprint of an ordinary one."""
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    if facts.eos_token_ids and getattr(model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = list(facts.eos_token_ids)
