"""The `openai` backend: any server of the completions protocol (vLLM, SGLang, llama.cpp, transformers serve)."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from anyio.from_thread import start_blocking_portal

from fastsia.backends.base import DescribedModel, config_bytes
from fastsia.backends.completions_api import DIALECTS, Choice, Dialect, body, num_prompt_tokens, read_choices
from fastsia.backends.completions_client import Client, Denied, Refused, Unanswered, Unsound
from fastsia.backends.continuations import Continuation, DrawnSequence, PendingRequest
from fastsia.config import SamplingParams, ServerOptions
from fastsia.engine.sequence import FinishReason, Request, Trajectory
from fastsia.errors import FastsiaError
from fastsia.models.resolve import ModelRef

_PROBE = "1 + 1 ="
_THREAD = "fastsia-server"
# llama.cpp treats the seed 2^32 - 1 as "random".
_SEED_BITS = 31
# Checkpoints needed for a warning on identical rollouts; fewer may agree by chance.
_MIN_COMPARED = 3


@dataclass
class _Observed:
    """Observations of the server's behaviour during one `generate`."""

    num_calls: int = 0
    num_retries: int = 0
    gives_token_ids: bool = True
    gives_logprobs: bool = True
    num_prefixes: int = 0
    num_retokenized: int = 0
    num_compared: int = 0
    num_varied: int = 0


class OpenAIServerBackend(DescribedModel):
    """Trajectories and rollouts drawn by a server. The model's folder or Hub id provides the tokenizer; no weights.

    Prompts are sent as token ids if the server accepts them, else as text. `share` and `answer_stop` are ignored: a
    rollout is drawn to its end, and its text after the answer is not read. Each call has a seed of its own; the server
    decides whether equal seeds draw the same.

    Args:
        model: the model whose tokenizer and configuration the server's model has: a name, a path or a `ModelRef`.
        trust_remote_code, revision: as in `load_model`.
        **options: fields of `ServerOptions`. base_url is needed, with its /v1; without served_model, `model` or its
            folder is asked for, as the server lists it. vLLM draws a request with a seed sequence by sequence.

    Raises:
        FastsiaError: the server cannot be reached, denies the key, or completes no prompt.
    """

    name = "openai"

    def __init__(
        self,
        model: str | os.PathLike[str] | ModelRef,
        *,
        trust_remote_code: bool = False,
        revision: str | None = None,
        **options: Any,
    ) -> None:
        self._options = ServerOptions(**options)
        self.base_url = _checked_url(self._options.base_url)
        self._key = _key(self._options.api_key_env)
        super().__init__(model, trust_remote_code=trust_remote_code, revision=revision)
        self._observed = _Observed()
        self._texts = _Texts(self.tokenizer)
        # Choices per call; None until the first call for all rollouts of a checkpoint.
        self._choices_per_call: int | None = None
        with start_blocking_portal(name=_THREAD) as portal:
            self.served_model, self._dialect = portal.call(self._connect)

    def describe(self) -> dict[str, Any]:
        observed = self._observed
        return {
            "device": "server",
            "server": self.base_url,
            "served_model": self.served_model,
            "sampler_settings": self._dialect.fields,
            "prompts": "token ids" if self._dialect.token_ids else "text",
            "completions": "token ids" if observed.gives_token_ids else "text",
            "logprobs": "the server's" if observed.gives_logprobs else None,
            "seeds": self._options.send_seed,
            "choices_per_call": self._choices_per_call,
            "num_calls": observed.num_calls,
            "num_retries": observed.num_retries,
            "num_prefixes": observed.num_prefixes,
            "num_retokenized_prefixes": observed.num_retokenized,
        }

    @property
    def warnings(self) -> list[str]:
        """Warnings about the draws of the last `generate`."""
        observed, found = self._observed, []
        if observed.num_compared >= _MIN_COMPARED and not observed.num_varied:
            found.append(
                "the rollouts of a checkpoint have always been the same although the temperature is not 0: "
                "the server may ignore the temperature or seed all choices alike."
            )
        if observed.num_retokenized:
            found.append(
                "the server takes text only and reads some prefixes as other tokens than were drawn "
                "(num_retokenized_prefixes in the summary counts them)."
            )
        return found

    def fingerprint(self) -> str:
        """A hash of the configuration and the served name; a server does not show its weights."""
        digest = hashlib.blake2b(config_bytes(self.model_config), digest_size=8)
        digest.update(self.served_model.encode())
        return digest.hexdigest()

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        """As many trajectories in flight as calls; the calls of all checkpoints of a trajectory go out together."""
        if self._observed.num_calls:  # counts of an earlier run are in its own summary
            kept = self._observed.gives_token_ids, self._observed.gives_logprobs
            self._observed = _Observed(gives_token_ids=kept[0], gives_logprobs=kept[1])
        waiting = iter(requests)
        request = next(waiting, None)
        running: set[Future[Trajectory]] = set()
        with start_blocking_portal(name=_THREAD) as portal, portal.wrap_async_context_manager(self._client()) as client:
            try:
                if request is not None and request.num_rollouts > 1 and self._choices_per_call is None:
                    self._choices_per_call = portal.call(self._most_choices, client, self._pending(request).at(0))
                while request is not None or running:
                    while request is not None and len(running) < self._options.num_concurrent:
                        running.add(portal.start_task_soon(self._run, client, request))
                        request = next(waiting, None)
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    # Finished trajectories are yielded before the error of another one is raised.
                    for future in sorted(done, key=lambda future: future.exception() is not None):
                        yield future.result()
            finally:
                for future in running:
                    future.cancel()

    # --- the first calls ---------------------------------------------------------------------------------------

    def _client(self) -> Client:
        return Client(
            self.base_url,
            self._key,
            num_concurrent=self._options.num_concurrent,
            max_retries=self._options.max_retries,
            timeout=self._options.timeout,
            on_retry=self._count_retry,
        )

    def _count_retry(self) -> None:
        self._observed.num_retries += 1

    async def _connect(self) -> tuple[str, Dialect]:
        """(the server's name of the model, the most exact dialect that the server accepts)."""
        async with self._client() as client:
            try:
                listed = await self._listed(client)
                candidates = (name for name in (self.ref.name, self.ref.source) if name in listed)
                served = self._options.served_model or next(candidates, self.ref.source)
                return served, await self._probe(client, served, listed)
            except Denied as error:
                name = self._options.api_key_env
                sent = f"the key in {name} was sent" if name else "no key was sent: name one by api_key_env"
                raise Denied(f"{str(error).rstrip('.')} ({sent}).") from error

    async def _listed(self, client: Client) -> list[str]:
        """The model names that the server lists; may be none. Shortens `context_length` to the server's limit."""

        def read(response: Any) -> list[dict[str, Any]]:
            data = response.get("data") if isinstance(response, dict) else None
            return [entry for entry in data or () if isinstance(entry, dict)] if isinstance(data, list) else []

        try:
            # Few tries: this is the first call, and a wrong address should be reported within seconds.
            entries = await client.call("models", None, read, "the list of models", max_retries=2)
        except (Denied, Unanswered):
            raise
        except FastsiaError:  # transformers serve fails here without a Hub cache
            return []
        lengths = [entry["max_model_len"] for entry in entries if isinstance(entry.get("max_model_len"), int)]
        if len(lengths) == 1:
            self.limit_context(lengths[0])
        return [str(entry.get("id")) for entry in entries]

    async def _probe(self, client: Client, served: str, listed: list[str]) -> Dialect:
        ids = list(self.tokenizer(_PROBE)["input_ids"])
        sampling = SamplingParams(temperature=1.0, top_p=1.0)
        refused: Refused | None = None
        for dialect in DIALECTS:
            prompt = ids if dialect.token_ids else self._texts.of(ids)[0]
            question = body(dialect, served, prompt, sampling, n=1, max_tokens=1, seed=None, eos=self.eos_token_ids)

            def read(response: Any) -> int | None:
                (choice,) = read_choices(response, 1)
                self._observed.gives_token_ids = choice.token_ids is not None
                self._observed.gives_logprobs = choice.logprobs is not None
                return num_prompt_tokens(response)

            try:
                count = await client.call("completions", question, read, "a first completion")
            except Refused as error:
                refused = error
                continue
            if not dialect.token_ids or count in (None, len(ids)):
                return dialect
        assert refused is not None
        names = f" The server lists {', '.join(listed)}; served_model names one." if listed else ""
        hint = names if served not in listed else ""
        raise FastsiaError(f"{refused}{hint}")

    # --- drawing -----------------------------------------------------------------------------------------------

    def _pending(self, request: Request) -> PendingRequest:
        return PendingRequest(request, self.eos_token_ids, self.vocabulary)

    async def _run(self, client: Client, request: Request) -> Trajectory:
        pending = self._pending(request)
        if pending.start is not None:
            (trajectory,) = await self._call(client, pending.start, 0, 1)
            pending.take(trajectory)
        parts = await asyncio.gather(*(self._rollouts(client, start) for start in pending.starts()))
        self.counters.generated_tokens += sum(len(sequence.token_ids) for part in parts for sequence in part)
        return pending.finish(parts)

    async def _rollouts(self, client: Client, start: Continuation) -> list[DrawnSequence]:
        step = min(self._choices_per_call or 1, start.count)
        calls = [
            self._call(client, start, first, min(step, start.count - first)) for first in range(0, start.count, step)
        ]
        drawn = [sequence for part in await asyncio.gather(*calls) for sequence in part]
        if start.count > 1 and start.sampling.temperature > 0:
            self._observed.num_compared += 1
            self._observed.num_varied += any(
                not np.array_equal(other.token_ids, drawn[0].token_ids) for other in drawn[1:]
            )
        return drawn

    async def _most_choices(self, client: Client, start: Continuation) -> int:
        """Choices that one call returns: all of a checkpoint, or 1 if the server does not support this n."""

        def read(response: Any) -> int:
            try:
                return len(read_choices(response, start.count))
            except Unsound:
                return len(read_choices(response, 1))

        question, _ = self._question(start, 0, start.count, max_tokens=1)
        try:
            return await client.call("completions", question, read, start.name, max_retries=2)
        except Denied:
            raise
        except FastsiaError:  # llama.cpp fails if n exceeds its slots
            return 1

    async def _call(self, client: Client, start: Continuation, first: int, count: int) -> list[DrawnSequence]:
        """Sequences first to first + count - 1 of a continuation."""
        question, retokenized = self._question(start, first, count)
        name = start.name if count == start.count else f"{start.name}, rollout {first}"
        choices = await client.call("completions", question, partial(read_choices, n=count), name)
        self._observed.num_calls += 1
        if first == 0:
            self._observed.num_prefixes += 1
            self._observed.num_retokenized += retokenized
        return [self._sequence(choice, start) for choice in choices]

    def _question(
        self, start: Continuation, first: int, count: int, max_tokens: int | None = None
    ) -> tuple[dict[str, Any], bool]:
        """(the call's body, whether the server will read other tokens than the prefix has)."""
        if not start.eos and self._dialect.fields != "sampler":
            raise FastsiaError("eos_token_id must not be empty: this server always ends a sequence at its own EOS.")
        prompt: list[int] | str = start.prefix
        retokenized = False
        if not self._dialect.token_ids:
            prompt, retokenized = self._texts.of(start.prefix)
        question = body(
            self._dialect,
            self.served_model,
            prompt,
            start.sampling,
            n=count,
            max_tokens=max_tokens or start.max_tokens,
            seed=start.number(first, _SEED_BITS) if self._options.send_seed else None,
            eos=start.eos,
        )
        return question, retokenized

    def _sequence(self, choice: Choice, start: Continuation) -> DrawnSequence:
        sampling = start.sampling
        text, stop = choice.text, choice.stop_text
        if choice.token_ids is None:
            self._observed.gives_token_ids = False
            ends = [at for at in (text.find(pattern) for pattern in sampling.stop) if at >= 0 and choice.is_stopped]
            at_stop = bool(ends or stop)
            tokens = np.array(self._texts.after(start.prefix, text[: min(ends)] if ends else text), dtype=np.int32)
        else:
            tokens = np.array(choice.token_ids, dtype=np.int32)
            at_stop = choice.is_stopped and bool(sampling.stop)  # an EOS among the tokens comes first
        known = choice.logprobs is not None
        self._observed.gives_logprobs &= known
        logprobs = np.array(choice.logprobs if known else [np.nan] * len(tokens), dtype=np.float32)
        drawn = DrawnSequence.cut(tokens, logprobs, start.eos, len(tokens) if at_stop else None)
        if choice.is_stopped and drawn.reason is FinishReason.LENGTH:
            # Servers of text leave the EOS out of the tokens.
            return DrawnSequence(drawn.token_ids, drawn.logprobs, FinishReason.EOS)
        return drawn


class _Texts:
    """Conversion between token ids and text for a server that takes text only."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # Tokens that the tokenizer, and so the server, puts before every text.
        self._before = list(tokenizer("")["input_ids"])

    def of(self, ids: list[int]) -> tuple[str, bool]:
        """(the text of a prompt, whether the text is read as other tokens)."""
        count = len(self._before)
        own = ids[count:] if count and ids[:count] == self._before else ids
        text = self._decode(own)
        return text, list(self._tokenizer(text)["input_ids"]) != ids

    def after(self, prefix: list[int], text: str) -> list[int]:
        """A continuation's tokens: read together with the prefix if this preserves the prefix's tokens, else alone."""
        whole = self._encode(self._decode(prefix) + text)
        return whole[len(prefix) :] if whole[: len(prefix)] == prefix else self._encode(text)

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def _checked_url(base_url: str | None) -> str:
    base_url = base_url or ""
    try:
        parts = urlsplit(base_url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0  # a bad port raises
    except ValueError:
        valid = False
    if valid and (parts.username or parts.password or parts.query):
        raise FastsiaError("base_url must not contain a key; api_key_env names an environment variable with the key.")
    if not valid:
        raise FastsiaError(f"base_url must be a URL such as http://localhost:8000/v1, got {base_url!r}.")
    return base_url.rstrip("/")


def _key(api_key_env: str | None) -> str | None:
    if api_key_env is None:
        return None
    key = os.environ.get(api_key_env, "").strip()
    if not key:
        raise FastsiaError(f"api_key_env: the environment variable {api_key_env!r} is not set.")
    if not key.isascii() or not key.isprintable():
        raise FastsiaError(f"api_key_env: {api_key_env!r} contains characters other than printable ASCII.")
    return key
