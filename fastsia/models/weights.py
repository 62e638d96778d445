"""Checks of a checkpoint's weights: those that its architecture needs, in its shapes, and finite."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from fastsia.errors import FastsiaError, one_line

_NAMED = 3
# Parts of a checkpoint that a text decoder does not use: towers of other modalities, heads that predict several tokens
# at once, and tables that are computed. transformers itself lists more for single architectures.
_HARMLESS = re.compile(
    r"(^|\.)(vision_tower|vision_model|vision_encoder|visual|vision|image_newline|audio_tower|audio_model|audio_encoder"
    r"|speech_encoder|multi_modal_projector|mm_projector|embed_vision|embed_audio|vision_embed_tokens|img_processor"
    r"|mtp|mtp_layers|mtp_block)\."
    r"|(^|\.)image_newline$|(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$"
)
# Text that tools add in front of or between the parts of a key, and how to save the model without it.
_REMEDIES = {
    "_orig_mod.": "it is torch.compile's; save the model inside, model._orig_mod",
    "_fsdp_wrapped_module.": "it is FSDP's; save the full state dict of the model inside",
    "_checkpoint_wrapped_module.": "it is activation checkpointing's; save the model inside",
    "base_model.model.": "it is peft's; save what merge_and_unload() returns",
    "module.": "it is DataParallel's or DeepSpeed's; save the model inside, model.module",
}


def check_keys(name: str, model: Any, info: Mapping[str, Any]) -> None:
    """Refuse weights that are missing, left over, or of another shape.

    Tied weights and buffers that are never stored do not count as missing. Weights that transformers or `_HARMLESS`
    lists as unused by the decoder do not count as left over.

    Args:
        name: the model's name in messages.
        model: the loaded model.
        info: transformers' `output_loading_info`.

    Raises:
        FastsiaError: the message names the first keys and their number, and a prefix that explains all of them.
    """
    missing = sorted(info.get("missing_keys") or ())
    unexpected = sorted(key for key in info.get("unexpected_keys") or () if not _HARMLESS.search(key))
    mismatched = sorted((key, tuple(found), tuple(wanted)) for key, found, wanted in info.get("mismatched_keys") or ())
    errors = list(info.get("error_msgs") or ())
    kind = type(model).__name__
    if missing and unexpected and (extra := _explaining(missing, unexpected)) is not None:
        changed, was = extra
        remedy = _REMEDIES.get(changed, "rename the keys in the safetensors files") if was == "has" else "add it"
        verb = "have the extra prefix" if was == "has" else "lack the prefix"
        raise FastsiaError(
            f"model {name!r}: the names of its weights {verb} {changed!r} ({unexpected[0]}, where {kind} has "
            f"{_counterpart(unexpected[0], changed, was)}), so {len(missing)} weights were not found: {remedy}."
        )
    if any(".lora_" in key for key in unexpected):
        raise FastsiaError(
            f"model {name!r}: its files have LoRA weights that are not merged ({_named(unexpected)}); save what "
            "peft's merge_and_unload() returns, or give the base model and the adapter's folder by --peft."
        )
    if missing:
        head = _of_untied_head(model, missing)
        also = f", and its files have {_named(unexpected)}, which {kind} does not have" if unexpected else ""
        raise FastsiaError(
            f"model {name!r}: its files lack {_named(missing)}, which {kind} needs{also}; "
            + (
                "its config.json says tie_word_embeddings: false, so the head is a weight of its own."
                if head
                else "random values would take their place."
            )
        )
    if mismatched:
        key, found, wanted = mismatched[0]
        others = f", and {len(mismatched) - 1} more weights differ" if len(mismatched) > 1 else ""
        raise FastsiaError(
            f"model {name!r}: {key} has the shape {list(found)} in its files, where its config.json asks {kind} for "
            f"{list(wanted)}{others}."
        )
    if unexpected:
        raise FastsiaError(
            f"model {name!r}: its files have {_named(unexpected)}, which {kind} does not have and would ignore; its "
            "config.json may be of another architecture or size."
        )
    if errors:
        raise FastsiaError(f"model {name!r}: {one_line(errors[0])[:300]}")


def check_finite(name: str, parameters: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Refuse weights that are NaN or infinite; the message names the first.

    One pass over the memory: the sum of a tensor is finite only if all its values are.
    """
    found = non_finite(parameters)
    if found is not None:
        raise FastsiaError(f"model {name!r}: {found}.")


def non_finite(parameters: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """A clause on the first weight that is not finite and the number of such values; None if all are finite."""
    named = [
        (key, value.detach()) for key, value in parameters if value.is_floating_point() and value.element_size() > 1
    ]
    named = [(key, value) for key, value in named if value.device.type != "meta" and value.numel()]
    if not named:
        return None
    with torch.inference_mode():
        sums = [value.sum(dtype=torch.promote_types(value.dtype, torch.float32)) for _, value in named]
        wrong = []
        for (key, value), total in zip(named, _to_host(sums), strict=True):
            if not torch.isfinite(total) and not bool(torch.isfinite(value).all()):  # a sum may overflow
                wrong.append((key, value))
        if not wrong:
            return None
        key, value = wrong[0]
        nans, count = int(value.isnan().sum()), int((~value.isfinite()).sum())
    what = "NaN" if nans == count else "infinite" if nans == 0 else "NaN or infinite"
    others = f", and {len(wrong) - 1} more weights have such values" if len(wrong) > 1 else ""
    narrow = " (float16 ends at 65504: try bfloat16 or float32)" if value.dtype == torch.float16 and not nans else ""
    return f"the weight {key} is {what} in {count:,} of its {value.numel():,} values{narrow}{others}"


def _to_host(sums: list[torch.Tensor]) -> list[torch.Tensor]:
    """Copy the sums to the host together; one copy for each weight would wait for the device every time."""
    if len({(total.device, total.dtype) for total in sums}) == 1:
        return list(torch.stack(sums).cpu())
    return [total.cpu() for total in sums]


@contextmanager
def quiet_load_report() -> Iterator[list[str]]:
    """Keep transformers' report of missing weights out of the log, since `check_keys` reports them; yields its text."""
    logger = logging.getLogger("transformers.modeling_utils")
    level, was_enabled = logger.level, logger.isEnabledFor(logging.WARNING)
    kept: list[str] = []

    class NoReport(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            text = record.getMessage()
            if not any(mark in text for mark in ("LOAD REPORT", "This checkpoint seem corrupted", "we will NOT tie")):
                return was_enabled or record.levelno > logging.WARNING
            kept.append(text)
            return False

    keeping = NoReport()
    logger.addFilter(keeping)
    if not was_enabled:  # the report is the only place that names a weight that cannot be converted
        logger.setLevel(logging.WARNING)
    try:
        yield kept
    finally:
        logger.setLevel(level)
        logger.removeFilter(keeping)


def in_report(report: Iterable[str]) -> str | None:
    """The weights that transformers' report marks as not convertible, as text; None without any."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(report))
    keys = [line.partition("|")[0].strip() for line in plain.splitlines() if "CONVERSION" in line]
    return _named([key for key in keys if "." in key and " " not in key]) or None


def _named(keys: list[str]) -> str:
    if not keys:
        return ""
    shown = ", ".join(keys[:_NAMED])
    return shown if len(keys) <= _NAMED else f"{shown} and {len(keys) - _NAMED} more"


def _of_untied_head(model: Any, missing: list[str]) -> bool:
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    names = {key for key, module in model.named_modules() if module is head} if head is not None else set()
    return {key.rpartition(".")[0] for key in missing} <= names


def _explaining(missing: list[str], unexpected: list[str]) -> tuple[str, str] | None:
    """(text, "has" or "lacks"): the text that all left-over names have, or lack, compared with the missing ones."""
    for text in _REMEDIES:
        if _explains(missing, unexpected, lambda key, text=text: key.replace(text, "")):  # type: ignore[misc]
            return text, "has"
    first = unexpected[0]
    for key in missing:
        if first.endswith(key) and first != key:
            prefix = first.removesuffix(key)
            if _explains(missing, unexpected, lambda key, prefix=prefix: key.removeprefix(prefix)):  # type: ignore[misc]
                return prefix, "has"
        if key.endswith(first) and first != key:
            prefix = key.removesuffix(first)
            if _explains(missing, unexpected, lambda key, prefix=prefix: prefix + key):  # type: ignore[misc]
                return prefix, "lacks"
    return None


def _explains(missing: list[str], unexpected: list[str], rename: Callable[[str], str]) -> bool:
    """Whether every missing weight is a left-over one under another name (a tied head may be stored once)."""
    renamed = {rename(key) for key in unexpected if rename(key) != key}
    absent = set(missing) - renamed
    tied = len(absent) <= 1 and len(missing) > 1 and all("head" in key or "embed" in key for key in absent)
    return bool(renamed & set(missing)) and (not absent or tied) and all(rename(key) != key for key in unexpected)


def _counterpart(key: str, changed: str, was: str) -> str:
    if was == "lacks":
        return changed + key
    return key.replace(changed, "") if changed in _REMEDIES else key.removeprefix(changed)
