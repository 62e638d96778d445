"""The completions protocol: request bodies, and strict reading of responses. No network access."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from fastsia.backends.completions_client import Unsound
from fastsia.config import SamplingParams, is_text, real

Fields = Literal["sampler", "generation_config", "plain"]

# Token ids are stored with this many bits; no vocabulary is that large.
_ID_BITS = 24
_LARGEST_FLOAT32 = 3.4028234e38


@dataclass(frozen=True)
class Dialect:
    """The fields that a server accepts beyond OpenAI's own, and the form of a prompt.

    Attributes:
        fields: "sampler" (vLLM, SGLang, llama.cpp: each setting by name), "generation_config" (transformers serve: one
            JSON text) or "plain". With "plain" the server's defaults apply to settings outside OpenAI's fields: top-k,
            min-p, penalties.
        token_ids: whether prompts are token ids; else they are text.
    """

    fields: Fields
    token_ids: bool


# The most exact first; text for servers that do not read ids.
DIALECTS = tuple(
    Dialect(fields, token_ids) for fields in ("sampler", "generation_config", "plain") for token_ids in (True, False)
)


def body(
    dialect: Dialect,
    model: str,
    prompt: list[int] | str,
    sampling: SamplingParams,
    *,
    n: int,
    max_tokens: int,
    seed: int | None,
    eos: tuple[int, ...],
) -> dict[str, Any]:
    """The body of a call for n continuations of a prompt. Only temperature and top-p shape the distribution.

    Args:
        dialect: the server's fields and form of prompts.
        model: the server's name of the model.
        prompt: token ids or text.
        sampling: temperature, top-p and stop texts.
        n: number of continuations.
        max_tokens: most new tokens of each.
        seed: None leaves the seed to the server.
        eos: ids that end a sequence.
    """
    found: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "n": n,
        "max_tokens": max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "logprobs": 1,
    }
    if seed is not None:
        found["seed"] = seed
    if sampling.stop:
        found["stop"] = list(sampling.stop)
    if dialect.fields == "sampler":
        found |= {
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            # By default llama.cpp applies top-p before the temperature.
            "samplers": ["temperature", "top_p"],
            "stop_token_ids": list(eos),
            "ignore_eos": not eos,
            "return_token_ids": True,
        }
    elif dialect.fields == "generation_config":
        own = {
            "do_sample": sampling.temperature > 0,
            "top_k": 0,
            "min_p": 0.0,
            "typical_p": 1.0,
            "repetition_penalty": 1.0,
            "eos_token_id": list(eos),
            "pad_token_id": eos[0] if eos else 0,
        }
        found["generation_config"] = json.dumps(own)
    return found


@dataclass(frozen=True)
class Choice:
    """One continuation in a server's response.

    Attributes:
        text: the continuation as text.
        token_ids: None if the server returns text only.
        logprobs: of `token_ids`, in nats; None if the server returns none.
        is_stopped: whether an EOS or a stop text ended it; else the length limit did.
        stop_text: the stop text that ended it, if the server names it.
    """

    text: str
    token_ids: list[int] | None
    logprobs: list[float] | None
    is_stopped: bool
    stop_text: str | None


def read_choices(response: Any, n: int) -> list[Choice]:
    """The n choices, by index.

    Raises:
        Unsound: the response does not contain n complete continuations.
    """
    choices = response.get("choices") if isinstance(response, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise Unsound("a response without choices")
    if len(choices) != n:
        raise Unsound(f"{len(choices)} choices where {n} were asked for")
    # A single choice may lack its index.
    indices = [choice.get("index", 0) for choice in choices]
    if sorted(indices, key=str) != sorted(range(n), key=str):
        raise Unsound(f"choices numbered {indices!r:.80}")
    return [_read_choice(choice) for _, choice in sorted(zip(indices, choices, strict=True), key=lambda pair: pair[0])]


def num_prompt_tokens(response: Any) -> int | None:
    """The number of prompt tokens that the server reports; None if it reports none."""
    usage = response.get("usage") if isinstance(response, dict) else None
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else None


def _read_choice(choice: dict[str, Any]) -> Choice:
    text, reason = choice.get("text"), choice.get("finish_reason")
    if not isinstance(text, str):
        raise Unsound("a choice without text")
    if reason not in ("stop", "length"):
        raise Unsound(f"a choice that ended by {reason!r:.80}")
    found = choice.get("logprobs")
    logprobs: dict[str, Any] = found if isinstance(found, dict) else {}
    content = logprobs.get("content")  # llama.cpp returns one object per token
    if not (isinstance(content, list) and all(isinstance(token, dict) for token in content)):
        content = None
    ids = choice.get("token_ids")
    if ids is None and content is not None:
        ids = [token.get("id") for token in content]
    if ids is not None and not (isinstance(ids, list) and all(type(i) is int and 0 <= i < 1 << _ID_BITS for i in ids)):
        raise Unsound("token ids that are not integers of a vocabulary")
    if ids is None and not is_text(text):
        raise Unsound("a text with an unpaired surrogate")
    values = [token.get("logprob") for token in content] if content is not None else logprobs.get("token_logprobs")
    known = None
    if ids is not None and isinstance(values, list) and len(values) == len(ids):
        known = [_logprob(value) for value in values]
    stop = choice.get("stop_reason", choice.get("matched_stop"))  # of vLLM, SGLang; an id if a token ended it
    return Choice(
        text=text,
        token_ids=ids,
        logprobs=known,
        is_stopped=reason == "stop",
        stop_text=stop if isinstance(stop, str) else None,
    )


def _logprob(value: Any) -> float:
    """The value as a finite float32, else NaN (unknown). Several servers return -0.0 for 0."""
    number = real(value) + 0.0
    return number if abs(number) <= _LARGEST_FLOAT32 else math.nan
