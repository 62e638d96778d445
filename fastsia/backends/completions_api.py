"""The completions protocol as servers speak it: request bodies, and answers read strictly. No network."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from fastsia.backends.completions_client import Unsound
from fastsia.config import SamplingParams, is_text, real

Fields = Literal["sampler", "generation_config", "plain"]

# What is stored of an id; no vocabulary is near it.
_ID_BITS = 24
_LARGEST_FLOAT32 = 3.4028234e38


@dataclass(frozen=True)
class Dialect:
    """What a server takes beyond OpenAI's own fields, and how it takes a prompt.

    fields: "sampler" (vLLM, SGLang, llama.cpp: each setting by name), "generation_config" (transformers serve: as one
        JSON text) or "plain". Without the first two a server's own defaults apply to all that OpenAI's fields do not
        name: top-k, min-p, penalties.
    token_ids: prompts as token ids; else as text.
    """

    fields: Fields
    token_ids: bool


# The most exact first; text where a server reads no ids.
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
    """A request for n continuations of a prompt: temperature and top-p, and nothing else that shapes a distribution.

    seed: None leaves it to the server.
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
            # llama.cpp takes top-p before the temperature where nobody says otherwise.
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
    """One continuation as a server tells it.

    token_ids: None where the server gives text only. logprobs: of those ids; None where it gives none.
    is_stopped: by an EOS or a stop text; else by the length limit.
    stop_text: the stop text, where the server says that it was one.
    """

    text: str
    token_ids: list[int] | None
    logprobs: list[float] | None
    is_stopped: bool
    stop_text: str | None


def read_choices(answer: Any, n: int) -> list[Choice]:
    """The n choices, by index. Raises Unsound: what is there is not n whole continuations."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise Unsound("an answer without choices")
    if len(choices) != n:
        raise Unsound(f"{len(choices)} choices where {n} were asked for")
    # One choice may come without its index.
    indices = [choice.get("index", 0) for choice in choices]
    if sorted(indices, key=str) != sorted(range(n), key=str):
        raise Unsound(f"choices numbered {indices!r:.80}")
    return [_read_choice(choice) for _, choice in sorted(zip(indices, choices, strict=True), key=lambda pair: pair[0])]


def num_prompt_tokens(answer: Any) -> int | None:
    """How many tokens the server says that it read; None where it does not say."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else None


def _read_choice(choice: dict[str, Any]) -> Choice:
    text, reason = choice.get("text"), choice.get("finish_reason")
    if not isinstance(text, str):
        raise Unsound("a choice without text")
    if reason not in ("stop", "length"):
        raise Unsound(f"a choice that ended by {reason!r:.80}")
    told = choice.get("logprobs")
    logprobs: dict[str, Any] = told if isinstance(told, dict) else {}
    content = logprobs.get("content")  # llama.cpp: one object a token
    if not (isinstance(content, list) and all(isinstance(token, dict) for token in content)):
        content = None
    ids = choice.get("token_ids")
    if ids is None and content is not None:
        ids = [token.get("id") for token in content]
    if ids is not None and not (isinstance(ids, list) and all(type(i) is int and 0 <= i < 1 << _ID_BITS for i in ids)):
        raise Unsound("token ids that are none")
    if ids is None and not is_text(text):
        raise Unsound("a text with half of a surrogate pair, which is no character")
    values = [token.get("logprob") for token in content] if content is not None else logprobs.get("token_logprobs")
    known = None
    if ids is not None and isinstance(values, list) and len(values) == len(ids):
        known = [_logprob(value) for value in values]
    stop = choice.get("stop_reason", choice.get("matched_stop"))  # vLLM's, SGLang's; an id where it was a token
    return Choice(
        text=text,
        token_ids=ids,
        logprobs=known,
        is_stopped=reason == "stop",
        stop_text=stop if isinstance(stop, str) else None,
    )


def _logprob(value: Any) -> float:
    """NaN, not known, for all that is no finite float32; the 0 of several servers is -0.0."""
    number = real(value) + 0.0
    return number if abs(number) <= _LARGEST_FLOAT32 else math.nan
