"""Any server of the completions protocol (vLLM, SGLang, llama.cpp, transformers serve) behind the backend protocol."""

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

from fastsia.answers.vocabulary import Vocabulary
from fastsia.backends.base import config_bytes
from fastsia.backends.completions_api import DIALECTS, Choice, Dialect, body, num_prompt_tokens, read_choices
from fastsia.backends.completions_client import Client, Denied, LoopThread, Refused, Unanswered, Unsound
from fastsia.backends.continuations import (
    NO_ROW,
    Continuation,
    Drawn,
    Row,
    assemble,
    checkpoint_start,
    cut,
    eos_of,
    given,
    trajectory_of,
    trajectory_start,
)
from fastsia.config import SamplingParams, integer_from, real
from fastsia.engine.run import checkpoints_of
from fastsia.engine.sequence import Counters, FinishReason, Request, Trajectory
from fastsia.errors import FastsiaError
from fastsia.models.loading import context_length, eos_ids, load_description
from fastsia.models.resolve import resolve_model

_PROBE = "1 + 1 ="
# llama.cpp draws at random where a seed is 2^32 - 1.
_SEED_BITS = 31
# Fewer checkpoints may agree by chance.
_LEAST_COMPARED = 3


@dataclass
class _Seen:
    """What the server showed of itself while it drew."""

    num_calls: int = 0
    num_retries: int = 0
    gives_token_ids: bool = True
    gives_logprobs: bool = True
    num_prefixes: int = 0
    num_retokenized: int = 0
    num_compared: int = 0
    num_varied: int = 0


class OpenAIServerBackend:
    """A server's draws as trajectories and rollouts; the model's folder or Hub id gives the tokenizer, no weights.

    Prompts go as token ids where the server takes them, else as text. `share` has no meaning here, `answer_stop` is
    ignored: what a rollout says after its answer is drawn to its end and does not count. Each call carries a seed
    of its own; whether equal seeds draw the same is the server's affair.

    Args:
        name_or_path: of the model whose tokenizer and configuration the server's model has.
        base_url: as other clients take it: "http://localhost:8000/v1".
        api_key_env: name of the environment variable that holds the key; no other is read.
        served_model: the model's name there; None is `name_or_path` as the server lists it, or its folder.
        send_seed: False leaves all draws to the server's own randomness: vLLM draws a seeded request row by row.
        num_concurrent: calls under way at once. max_retries: further tries of a failed call. timeout: seconds.

    Raises:
        FastsiaError: the server cannot be reached, denies the key, or completes nothing.
    """

    name = "openai"

    def __init__(
        self,
        name_or_path: str,
        *,
        base_url: str,
        api_key_env: str | None = None,
        served_model: str | None = None,
        send_seed: bool = True,
        num_concurrent: int = 16,
        max_retries: int = 8,
        timeout: float = 600.0,
        trust_remote_code: bool = False,
        revision: str | None = None,
    ) -> None:
        self.base_url = _checked_url(base_url)
        self._key = _key(api_key_env)
        self._num_concurrent = integer_from(1, "num_concurrent", num_concurrent)
        self._max_retries = integer_from(0, "max_retries", max_retries)
        if not real(timeout) > 0:
            raise FastsiaError(f"timeout must be a number of seconds > 0, got {timeout!r}.")
        self._timeout = float(timeout)
        if not isinstance(send_seed, bool):
            raise FastsiaError(f"send_seed must be true or false, got {send_seed!r}.")
        self._send_seed = send_seed
        model = load_description(name_or_path, trust_remote_code=trust_remote_code, revision=revision)
        if model.tokenizer is None:
            raise FastsiaError(f"model {name_or_path!r} has no tokenizer, which prompts and answers need.")
        self.model_name = name_or_path
        self.tokenizer = model.tokenizer
        self.vocabulary = Vocabulary.from_tokenizer(model.tokenizer)
        self.eos_token_ids = eos_ids(model, model.tokenizer)
        self.context_length = context_length(model)
        self.counters = Counters()
        self._config = config_bytes(model.config)
        self._seen = _Seen()
        self._texts = _Texts(model.tokenizer)
        # Choices a call: None until the first checkpoint has been asked for all of its own at once.
        self._at_once: int | None = None
        with LoopThread() as loop:
            self.served_model, self._dialect = loop.submit(self._meet(served_model, api_key_env)).result()

    def describe(self) -> dict[str, Any]:
        seen = self._seen
        return {
            "device": "server",
            "server": self.base_url,
            "served_model": self.served_model,
            "sampler_settings": self._dialect.fields,
            "prompts": "token ids" if self._dialect.token_ids else "text",
            "completions": "token ids" if seen.gives_token_ids else "text",
            "logprobs": "the server's" if seen.gives_logprobs else None,
            "seeds": self._send_seed,
            "choices_per_call": self._at_once,
            "num_calls": seen.num_calls,
            "num_retries": seen.num_retries,
            "num_prefixes": seen.num_prefixes,
            "num_retokenized_prefixes": seen.num_retokenized,
        }

    @property
    def warnings(self) -> list[str]:
        """What the draws of the last `generate` give cause to say."""
        seen, found = self._seen, []
        if seen.num_compared >= _LEAST_COMPARED and not seen.num_varied:
            found.append(
                "the rollouts of a checkpoint have always been the same although the temperature is not 0: "
                "does the server ignore the temperature, or seed all choices alike?"
            )
        if seen.num_retokenized:
            found.append(
                "the server takes text only, and reads some prefixes as other tokens than were drawn "
                "(num_retokenized_prefixes in the summary says how many)."
            )
        return found

    def fingerprint(self) -> str:
        """Of the configuration and the served name: a server does not show its weights."""
        digest = hashlib.blake2b(self._config, digest_size=8)
        digest.update(self.served_model.encode())
        return digest.hexdigest()

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        """As many trajectories in flight as calls; the calls of one trajectory's checkpoints go out together."""
        if self._seen.num_calls:  # of an earlier run, whose summary has them
            self._seen = _Seen(gives_token_ids=self._seen.gives_token_ids, gives_logprobs=self._seen.gives_logprobs)
        waiting = iter(requests)
        request = next(waiting, None)
        running: set[Future[Trajectory]] = set()
        client = self._client()
        with LoopThread() as loop:
            try:
                if request is not None and request.num_rollouts > 1 and self._at_once is None:
                    first = checkpoint_start(request, np.zeros(0, np.int32), 0)
                    self._at_once = loop.submit(self._most_at_once(client, first)).result()
                while request is not None or running:
                    while request is not None and len(running) < self._num_concurrent:
                        running.add(loop.submit(self._run(client, request)))
                        request = next(waiting, None)
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    # What is finished is not lost to what failed beside it.
                    for future in sorted(done, key=lambda future: future.exception() is not None):
                        yield future.result()
            finally:
                loop.cancel()
                loop.submit(client.close()).result()

    # --- the server, once --------------------------------------------------------------------------------------

    def _client(self) -> Client:
        return Client(
            self.base_url,
            self._key,
            num_concurrent=self._num_concurrent,
            max_retries=self._max_retries,
            timeout=self._timeout,
            on_retry=self._count_retry,
        )

    def _count_retry(self) -> None:
        self._seen.num_retries += 1

    async def _meet(self, served_model: str | None, api_key_env: str | None) -> tuple[str, Dialect]:
        """(the model's name there, the most exact dialect that the server answers)."""
        client = self._client()
        try:
            listed = await self._listed(client)
            folder = resolve_model(self.model_name)
            served = served_model or next((name for name in (self.model_name, folder) if name in listed), folder)
            return served, await self._probe(client, served, listed)
        except Denied as error:
            which = f"the key in {api_key_env} was sent" if api_key_env else "no key was sent: name one by api_key_env"
            raise Denied(f"{str(error).rstrip('.')} ({which}).") from error
        finally:
            await client.close()

    async def _listed(self, client: Client) -> list[str]:
        """The names that the server lists; nothing where it lists none. Takes note of a shorter context."""

        def read(answer: Any) -> list[dict[str, Any]]:
            data = answer.get("data") if isinstance(answer, dict) else None
            return [entry for entry in data or () if isinstance(entry, dict)] if isinstance(data, list) else []

        try:
            # The first call: a wrong address is said within seconds.
            entries = await client.call("models", None, read, "the list of models", max_retries=2)
        except (Denied, Unanswered):
            raise
        except FastsiaError:  # transformers serve fails at it where there is no cache of the Hub
            return []
        lengths = [entry["max_model_len"] for entry in entries if isinstance(entry.get("max_model_len"), int)]
        if len(lengths) == 1:
            self.context_length = min(filter(None, (self.context_length, lengths[0])))
        return [str(entry.get("id")) for entry in entries]

    async def _probe(self, client: Client, served: str, listed: list[str]) -> Dialect:
        ids = list(self.tokenizer(_PROBE)["input_ids"])
        sampling = SamplingParams(temperature=1.0, top_p=1.0)
        refused: Refused | None = None
        for dialect in DIALECTS:
            prompt = ids if dialect.token_ids else self._texts.of(ids)[0]
            question = body(dialect, served, prompt, sampling, n=1, max_tokens=1, seed=None, eos=self.eos_token_ids)

            def read(answer: Any) -> int | None:
                (choice,) = read_choices(answer, 1)
                self._seen.gives_token_ids = choice.token_ids is not None
                self._seen.gives_logprobs = choice.logprobs is not None
                return num_prompt_tokens(answer)

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

    async def _run(self, client: Client, request: Request) -> Trajectory:
        trajectory = given(request) or await self._trajectory(client, request)
        checkpoints = checkpoints_of(request, len(trajectory.token_ids))
        starts = [checkpoint_start(request, trajectory.token_ids, int(checkpoint)) for checkpoint in checkpoints]
        parts = await asyncio.gather(*(self._rollouts(client, start) for start in starts))
        self.counters.generated_tokens += sum(len(row.token_ids) for part in parts for row in part)
        return assemble(request, trajectory, checkpoints, parts)

    async def _trajectory(self, client: Client, request: Request) -> Drawn:
        (row,) = await self._call(client, trajectory_start(request), 0, 1)
        eos = eos_of(request.sampling, self.eos_token_ids)
        return trajectory_of(row, request.sampling.stop, eos, self.vocabulary)

    async def _rollouts(self, client: Client, start: Continuation) -> list[Row]:
        if start.max_tokens == 0 or start.count == 0:
            return [NO_ROW] * start.count
        step = min(self._at_once or 1, start.count)
        calls = [
            self._call(client, start, first, min(step, start.count - first)) for first in range(0, start.count, step)
        ]
        rows = [row for part in await asyncio.gather(*calls) for row in part]
        if start.count > 1 and start.sampling.temperature > 0:
            self._seen.num_compared += 1
            self._seen.num_varied += any(not np.array_equal(row.token_ids, rows[0].token_ids) for row in rows[1:])
        return rows

    async def _most_at_once(self, client: Client, start: Continuation) -> int:
        """How many choices one call gives: all of a checkpoint's, or 1 where the server knows no n, or not this one."""

        def read(answer: Any) -> int:
            try:
                return len(read_choices(answer, start.count))
            except Unsound:
                return len(read_choices(answer, 1))

        question, _ = self._question(start, 0, start.count, max_tokens=1)
        try:
            return await client.call("completions", question, read, start.name, max_retries=2)
        except Denied:
            raise
        except FastsiaError:  # llama.cpp fails where n exceeds its slots
            return 1

    async def _call(self, client: Client, start: Continuation, first: int, count: int) -> list[Row]:
        """Sequences first to first + count - 1 of a continuation."""
        question, retokenized = self._question(start, first, count)
        name = start.name if count == start.count else f"{start.name}, rollout {first}"
        choices = await client.call("completions", question, partial(read_choices, n=count), name)
        self._seen.num_calls += 1
        if first == 0:
            self._seen.num_prefixes += 1
            self._seen.num_retokenized += retokenized
        return [self._row(choice, start) for choice in choices]

    def _question(
        self, start: Continuation, first: int, count: int, max_tokens: int | None = None
    ) -> tuple[dict[str, Any], bool]:
        """(the call's body, whether the server will read other tokens than the prefix has)."""
        eos = eos_of(start.sampling, self.eos_token_ids)
        if not eos and self._dialect.fields != "sampler":
            raise FastsiaError("eos_token_id must not be empty here: this server always ends at its own EOS.")
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
            seed=start.number(first, _SEED_BITS) if self._send_seed else None,
            eos=eos,
        )
        return question, retokenized

    def _row(self, choice: Choice, start: Continuation) -> Row:
        sampling = start.sampling
        eos = eos_of(sampling, self.eos_token_ids)
        text, stop = choice.text, choice.stop_text
        if choice.token_ids is None:
            self._seen.gives_token_ids = False
            ends = [at for at in (text.find(pattern) for pattern in sampling.stop) if at >= 0 and choice.is_stopped]
            at_stop = bool(ends or stop)
            tokens = np.array(self._texts.behind(start.prefix, text[: min(ends)] if ends else text), dtype=np.int32)
        else:
            tokens = np.array(choice.token_ids, dtype=np.int32)
            at_stop = choice.is_stopped and bool(sampling.stop)  # an EOS, if there is one, comes first
        known = choice.logprobs is not None
        self._seen.gives_logprobs &= known
        logprobs = np.array(choice.logprobs if known else [np.nan] * len(tokens), dtype=np.float32)
        row = cut(tokens, logprobs, eos, len(tokens) if at_stop else None)
        if choice.is_stopped and row.reason is FinishReason.LENGTH:
            # An EOS that is not among the tokens: servers of text leave it out.
            return Row(row.token_ids, row.logprobs, FinishReason.EOS)
        return row


class _Texts:
    """Token ids as text for a server that takes no ids, and its text as ids."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # Tokens that a tokenizer puts before every text, and so will the server.
        self._before = list(tokenizer("")["input_ids"])

    def of(self, ids: list[int]) -> tuple[str, bool]:
        """(the text of a prompt, whether it reads as other tokens)."""
        count = len(self._before)
        own = ids[count:] if count and ids[:count] == self._before else ids
        text = self._decode(own)
        return text, list(self._tokenizer(text)["input_ids"]) != ids

    def behind(self, prefix: list[int], text: str) -> list[int]:
        """A continuation's tokens: as they stand behind the prefix, where that keeps its own tokens there."""
        whole = self._encode(self._decode(prefix) + text)
        return whole[len(prefix) :] if whole[: len(prefix)] == prefix else self._encode(text)

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def _checked_url(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0  # a bad port raises
    except (ValueError, TypeError, AttributeError):
        valid = False
    if valid and (parts.username or parts.password or parts.query):
        raise FastsiaError("base_url must hold no key; api_key_env names the environment variable that does.")
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
        raise FastsiaError(f"api_key_env: {api_key_env!r} holds characters that no key has.")
    return key
