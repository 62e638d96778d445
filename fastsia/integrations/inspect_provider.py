"""Inspect's model provider on fastsia's engine: num_choices responses to one prompt, and their answers' entropies."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

import anyio
import anyio.to_thread
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    StopReason,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from fastsia.config import SamplingParams
from fastsia.engine.engine import Engine
from fastsia.engine.seeding import request_seed
from fastsia.engine.sequence import FINISH_REASONS, Request, Rollouts, Trajectory
from fastsia.errors import FastsiaError
from fastsia.integrations.answers import (
    PromptFacts,
    ResponseReader,
    check_drawn,
    content,
    responses_request,
    special_stops,
    summary,
)
from fastsia.renamed import renamed

# Used if neither the task nor the command line sets max_tokens; Inspect's own providers use their servers' defaults.
_MAX_TOKENS = 2048
# Wait after the first request of a pass (s), so that samples that start together are drawn together.
_PAUSE = 0.01
# Settings that change the distribution or the output and that the engine does not have: refused, never ignored.
_UNSUPPORTED = (
    "best_of",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "top_k",
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "response_schema",
)


class FastsiaAPI(ModelAPI):
    """`fastsia/MODEL`: a Hub id, a folder, "demo:sft".

    Args (`-M name=value`):
        answer_format, answer_reading, num_rollouts, stride, rollout_temperature, rollout_top_p, rollout_max_tokens:
            content of the output's metadata, see `ResponseReader.of`.
        chat_template_args: further variables of the chat template, such as enable_thinking.
        device, dtype, revision, trust_remote_code, max_num_seqs, ...: as in `Engine.from_pretrained`.
    """

    @renamed(think="answer_reading")
    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - the base class's own signature
        *,
        chat_template_args: dict[str, Any] | None = None,
        **engine: Any,
    ) -> None:
        super().__init__(model_name=model_name, base_url=base_url, api_key=api_key, config=config)
        self.reader = ResponseReader.taken_from(engine, prefix="rollout_")
        self.engine = Engine.from_pretrained(model_name, **engine)
        if self.engine.tokenizer is None:
            raise FastsiaError(f"model {model_name!r} has no tokenizer; Inspect needs one.")
        self.chat_template_args = dict(chat_template_args or {})
        self._worker = _Worker(self.engine)
        self._num_calls: Counter[tuple[Any, ...]] = Counter()

    def max_tokens(self) -> int | None:
        return _MAX_TOKENS

    def max_connections(self) -> int:
        """Most prompts in flight."""
        return self.engine.max_concurrent_trajectories

    def collapse_user_messages(self) -> bool:
        return True

    def close(self) -> None:
        self._worker.close()

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """num_choices responses to a conversation.

        A repeated prompt (epochs) gets new draws: they depend on the seed, the prompt, the settings, and the number of
        earlier calls with the same ones.

        Raises:
            FastsiaError: tools, an image, an unsupported setting, a prompt as long as the context, or a response that
                failed (NaN logits).
        """
        if tools:
            raise FastsiaError("the provider fastsia does not support tools.")
        refused = next((name for name in _UNSUPPORTED if getattr(config, name) not in (None, False, 0, {})), None)
        if refused is not None:
            raise FastsiaError(f"fastsia's engine does not support {refused}.")
        started = time.monotonic()
        prompt = self._render(input)
        request, is_cut = self._request(prompt, config)
        drawn = check_drawn(await self._worker.run(request), "a response")
        responses = [drawn.row(r) for r in range(len(drawn))]
        texts = [self._text(response.token_ids, request.sampling.stop) for response in responses]
        metadata: dict[str, Any] = await self._metadata(request, drawn, self._facts_of(prompt))
        num_drawn = sum(len(response.token_ids) for response in responses)
        return ModelOutput(
            model=self.model_name,
            choices=[
                ChatCompletionChoice(
                    message=ChatMessageAssistant(content=text, model=self.model_name, source="generate"),
                    stop_reason=_stop_reason(response.finish_reason, is_cut),
                )
                for text, response in zip(texts, responses, strict=True)
            ],
            usage=ModelUsage(
                input_tokens=len(request.prompt_ids),
                output_tokens=num_drawn,
                total_tokens=len(request.prompt_ids) + num_drawn,
            ),
            time=time.monotonic() - started,
            metadata=metadata,
        )

    def _render(self, messages: Sequence[ChatMessage]) -> str:
        """The conversation in the model's template; without one as lines of "role: text", as in Inspect's `hf`."""
        for message in messages:
            parts = [] if isinstance(message.content, str) else message.content
            unread = next((part.type for part in parts if part.type not in ("text", "reasoning")), None)
            if unread is not None:
                raise FastsiaError(f"the provider fastsia does not read content of the type {unread}.")
        turns = [{"role": message.role, "content": message.text} for message in messages]
        tokenizer = self.engine.tokenizer
        assert tokenizer is not None
        if not getattr(tokenizer, "chat_template", None):
            return "".join(f"{turn['role']}: {turn['content']}\n" for turn in turns)
        text: str = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, **self.chat_template_args
        )
        return text

    def _request(self, prompt: str, config: GenerateConfig) -> tuple[Request, bool]:
        """(the responses to draw, whether the context limits them below the requested max_tokens)."""
        tokenizer, context = self.engine.tokenizer, self.engine.context_length
        assert tokenizer is not None
        bos = tokenizer.bos_token
        ids = tokenizer.encode(prompt, add_special_tokens=not (bos and prompt.startswith(bos)))
        wanted = config.max_tokens or _MAX_TOKENS
        room = wanted if context is None else context - len(ids)
        if room < 1:
            raise FastsiaError(f"the prompt has {len(ids)} tokens, which leaves no room in a context of {context}.")
        stop, special = special_stops(tokenizer, config.stop_seqs or ())
        sampling = SamplingParams(
            temperature=1.0 if config.temperature is None else config.temperature,
            top_p=1.0 if config.top_p is None else config.top_p,
            max_tokens=min(wanted, room),
            stop=stop,
            eos_token_id=tuple(dict.fromkeys((*self.engine.eos_token_ids, *special))),
        )
        count = config.num_choices or 1
        call = (prompt, sampling, count)
        self._num_calls[call] += 1
        seed = request_seed(config.seed or 0, prompt, self._num_calls[call])
        return responses_request(None, ids, sampling, count, seed), room < wanted

    def _text(self, token_ids: Sequence[int], stop: Sequence[str]) -> str:
        assert self.engine.tokenizer is not None
        text: str = self.engine.tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return _before(text, stop)

    def _facts_of(self, prompt: str) -> PromptFacts:
        is_chat = bool(getattr(self.engine.tokenizer, "chat_template", None))
        return PromptFacts.of(prompt, self.engine.vocabulary, is_chat=is_chat)

    async def _metadata(self, request: Request, drawn: Rollouts, prompt: PromptFacts) -> dict[str, Any]:
        """The answers of the choices, their entropies, and the curve along each choice if curves are enabled."""
        vocabulary, eos = self.engine.vocabulary, request.sampling.eos_token_id
        assert vocabulary is not None
        assert isinstance(eos, tuple)
        # The tokenizer's own decoding leaves out think marks that are special tokens.
        texts = [
            _before(vocabulary.decode(drawn.row(number).token_ids), request.sampling.stop)
            for number in range(len(drawn))
        ]
        answers = self.reader.read(texts, prompt)
        metadata: dict[str, Any] = {"answers": answers, **summary(answers)}
        if self.reader.config is None:
            return metadata
        curves: list[dict[str, Any] | None] = [None] * len(texts)

        async def follow(number: int) -> None:
            curve = self.reader.curve_request(
                None,
                request.prompt_ids,
                content(vocabulary, drawn.row(number).token_ids, request.sampling.stop, eos),
                request_seed(request.seed, "response", number),
                prompt,
                context_length=self.engine.context_length,
                stop=request.sampling.stop,
                eos_token_id=eos,
            )
            found = await self._worker.run(curve)
            curves[number] = self.reader.curve(found, vocabulary, "a curve", prompt)

        async with anyio.create_task_group() as group:
            for number in range(len(texts)):
                group.start_soon(follow, number)
        return {**metadata, "curves": curves}


class _Worker:
    """A thread that runs the engine for all of Inspect's concurrent samples; waiting requests share one pass."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: SimpleQueue[tuple[Request, Future[Trajectory]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(self, request: Request) -> Trajectory:
        """Draw a request and return its result. The worker replaces its key."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="fastsia-engine", daemon=True)
            self._thread.start()
        future: Future[Trajectory] = Future()
        self._waiting.put((request, future))
        # A limiter of its own, so that waiting threads do not use up the default limiter.
        return await anyio.to_thread.run_sync(future.result, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))

    def close(self) -> None:
        """End the thread after the requests in progress."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            time.sleep(_PAUSE)
            taken: dict[int, Future[Trajectory]] = {}
            try:
                for trajectory in self._engine.run(self._take(first, taken)):
                    assert isinstance(trajectory.key, int)
                    taken.pop(trajectory.key).set_result(trajectory)
            except BaseException as error:
                for future in taken.values():
                    future.set_exception(error)

    def _take(
        self, first: tuple[Request, Future[Trajectory]], taken: dict[int, Future[Trajectory]]
    ) -> Iterator[Request]:
        """The waiting requests, numbered; the engine pulls the next one whenever it has room."""
        number = 0
        item: tuple[Request, Future[Trajectory]] | None = first
        while item is not None:
            request, future = item
            taken[number] = future
            yield replace(request, key=number)
            number += 1
            try:
                item = self._waiting.get_nowait()
            except Empty:
                return
        self._waiting.put(None)  # the end mark is for the thread, not for this pass


def _before(text: str, stop: Sequence[str]) -> str:
    """The text up to the first stop text in it."""
    found = [at for at in (text.find(one) for one in stop) if at >= 0]
    return text[: min(found)] if found else text


def _stop_reason(finish_reason: str, is_cut: bool) -> StopReason:
    assert finish_reason in FINISH_REASONS
    if finish_reason != "length":
        return "stop"
    return "model_length" if is_cut else "max_tokens"
