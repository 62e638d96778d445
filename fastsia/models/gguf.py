"""GGUF files: what transformers needs to read one, and what the file says of itself."""

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

from fastsia.errors import FastsiaError

SUFFIX = ".gguf"
_MAGIC = b"GGUF"


@dataclass(frozen=True)
class GGUFFacts:
    """What a file says of itself.

    quantization: such as "Q4_K_M", "Q8_0" or "F32". eos_token_ids: every id that ends a text or a turn.
    """

    quantization: str
    eos_token_ids: tuple[int, ...]


def is_gguf(path: str | Path) -> bool:
    """By name: whether the path is to be read as a GGUF file."""
    return str(path).lower().endswith(SUFFIX)


def read_facts(path: Path) -> GGUFFacts:
    """What a GGUF file's metadata say.

    Raises:
        FastsiaError: the packages that reading needs are not installed; the file is damaged, or one of several parts.
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
    except Exception as error:  # of a damaged file its numbers may be anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
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
    except ValueError:  # not stated, or a type that this package does not know yet
        named = most
    # What a converter states by default is not what the tensors are.
    plain = {"F32", "F16", "BF16"}
    quantization = most if named == "GUESSED" or (named in plain) != (most in plain) else named
    return GGUFFacts(quantization, tuple(dict.fromkeys(i for i in ids if isinstance(i, int))))


def _value(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def loading(path: Path) -> dict[str, Any]:
    """Arguments with which transformers loads a GGUF file's weights, dequantised."""
    arguments: dict[str, Any] = {"gguf_file": str(path.resolve())}
    try:
        from transformers import GgufConfig
    except ImportError:  # before 5.20 every file was dequantised
        return arguments
    return arguments | {"quantization_config": GgufConfig(dequantize=True)}


@contextmanager
def quiet_bar() -> Iterator[None]:
    """transformers' bar of the dequantisation, on a terminal only: elsewhere it would be a line for every step."""
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
    """A dequantised model is an ordinary one: no mark of the file is left in its configuration or fingerprint."""
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    if facts.eos_token_ids and getattr(model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = list(facts.eos_token_ids)
