"""A model of lm-evaluation-harness on fastsia's engine.

    python -m fastsia.integrations.lm_eval run --model fastsia --model_args pretrained=demo:sft --tasks gsm8k

is the harness's own command line with the model `fastsia` registered. In Python, importing this module registers it.
Releases of the harness with plugin support (after 0.4.13) find it by its entry point. See docs/lm_eval.md.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import lm_eval.models  # fills the registry, which would else contain only names registered before  # noqa: F401
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import model_registry
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    maybe_truncate,
    normalize_gen_kwargs,
    postprocess_generated_text,
    resolve_max_length,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

import fastsia
from fastsia.answers.vocabulary import Vocabulary
from fastsia.config import SamplingParams
from fastsia.engine.engine import Engine
from fastsia.engine.forcing import Forced
from fastsia.engine.seeding import request_seed
from fastsia.engine.sequence import Request, Trajectory
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

logger = logging.getLogger("fastsia")

NAME = "fastsia"
# Settings of generate with the values that have no effect; other values are not supported by the engine.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "top_k": (None, 0, -1),
    "min_p": (None, 0),
    "typical_p": (None, 1),
    "repetition_penalty": (None, 1),
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "use_cache": (None, True),
}
_CUTS = ("top_k", "min_p", "typical_p")


@dataclass(frozen=True, eq=False)
class _Group:
    """Adjacent equal requests: one prompt, `count` responses.

    Attributes:
        task_name, doc_id: the harness's names of task and document.
        context, gen_kwargs: the harness's arguments.
        count: number of responses.
        prompt_ids: token ids of the context.
        until: stop texts.
        sampling: the engine's settings for these arguments.
        seed: of the responses.
        facts: about the prompt.
    """

    task_name: str | None
    doc_id: int | None
    context: str
    gen_kwargs: dict[str, Any]
    count: int
    prompt_ids: list[int]
    until: list[str]
    sampling: SamplingParams
    seed: int
    facts: PromptFacts

    @property
    def name(self) -> str:
        return f"{self.task_name}, document {self.doc_id}"


class FastsiaLM(TemplateLM):
    """lm-evaluation-harness's interface to an `Engine`.

    Args:
        pretrained: a Hub id, a folder, "demo:sft", a name of the paper's Table 1, or a loaded `Engine`.
        batch_size: prompts in flight, each with all its repeats; "auto" is the engine's default. It does not change
            results.
        max_batch_size: upper bound of "auto".
        max_length: context length; None is the model's.
        max_gen_toks: most new tokens for tasks that set no limit.
        add_bos_token, prefix_token_id, chat_template_args, enable_thinking, think_end_token: as in the harness's own
            `hf` and `vllm` models.
        seed: of every draw; None uses the harness's `--seed`.
        entropies_path: folder for one JSON-lines file a task with the answers, their entropies and the curves.
        answer_format, answer_reading, num_rollouts, stride, temperature, top_p, max_tokens: content of that file,
            see `ResponseReader.of`. The last four apply to the curves' rollouts; the task determines the responses.
        device, dtype, revision, trust_remote_code, **engine: as in `Engine.from_pretrained`.
    """

    @renamed(think="answer_reading")
    def __init__(
        self,
        pretrained: str | Engine,
        *,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        batch_size: int | str | None = "auto",
        max_batch_size: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        chat_template_args: dict[str, Any] | None = None,
        enable_thinking: bool | None = None,
        think_end_token: str | None = None,
        seed: int | None = None,
        entropies_path: str | None = None,
        **engine: Any,
    ) -> None:
        super().__init__()
        self.reader = ResponseReader.taken_from(engine)
        if self.reader.config is not None and entropies_path is None:
            raise FastsiaError("num_rollouts needs entropies_path, where curves are written.")
        if isinstance(pretrained, Engine):
            self.engine = pretrained
        else:
            if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
                logger.warning("This torch sees no CUDA device: %s becomes the CPU.", device)
                device = None  # the harness's command line passes cuda:0 by default
            engine.setdefault("max_concurrent_trajectories", _max_concurrent_trajectories(batch_size, max_batch_size))
            self.engine = Engine.from_pretrained(
                pretrained,
                device=device,
                dtype=dtype,
                revision=revision,
                trust_remote_code=trust_remote_code,
                **{name: value for name, value in engine.items() if value is not None},
            )
        if self.engine.tokenizer is None:
            raise FastsiaError(f"model {pretrained!r} has no tokenizer; the harness needs one.")
        self.pretrained, self.revision = pretrained, revision
        self.tokenizer = self.engine.tokenizer
        self.batch_size = self.engine.max_concurrent_trajectories
        self.max_gen_toks = max_gen_toks
        self.add_bos_token = add_bos_token
        self.custom_prefix_token_id = prefix_token_id
        self.chat_template_args = dict(chat_template_args or {})
        if enable_thinking is not None:
            self.chat_template_args["enable_thinking"] = enable_thinking
        self.think_end_token = think_end_token
        # The harness seeds torch with --seed before it makes the model.
        self.seed = torch.initial_seed() if seed is None else seed
        self._max_length = max_length
        self._is_chat = False  # until the harness has a conversation rendered
        self._device = self.engine.runner.device
        self._entropies = _Entropies(Path(entropies_path)) if entropies_path is not None else None

    @property
    def config(self) -> Any:
        return self.engine.model.config

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without context."""
        if self.custom_prefix_token_id is not None:
            return self.custom_prefix_token_id
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def max_length(self) -> int:
        return self._max_length or resolve_max_length(self.config, self.tokenizer)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """Facts for the harness's results file."""
        return {
            "model_num_parameters": sum(p.numel() for p in self.engine.model.parameters()),
            "model_revision": self.revision or "main",
            "fastsia_version": fastsia.__version__,
            "fastsia_engine": self.engine.describe(),
            "fastsia_seed": self.seed,
        }

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation in the model's template; system turns are left out if the template refuses them."""
        self._is_chat = True

        def render(turns: list[dict[str, str]]) -> str:
            text: str = self.tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **self.chat_template_args,
            )
            return text

        try:
            return render(chat_history)
        except jinja2.exceptions.TemplateError:
            logger.warning("The chat template refuses this conversation; its system turns are left out.")
            return render([turn for turn in chat_history if turn["role"] != "system"])

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids; no special tokens are added to a text that begins with a BOS."""
        if add_special_tokens is None:
            add_special_tokens = self.add_bos_token
            if has_bos_prefix(string, self.tokenizer.decode([self.prefix_token_id])):
                add_special_tokens = False
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **options))

    # -- log-likelihoods

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """(log-probability in nats, whether greedy decoding produces it) of each continuation.

        Adjacent continuations of one context (the options of a question) share its computation.
        """
        found: list[tuple[float, bool]] = []
        cut = [self._fit(context, continuation) for _, context, continuation in requests]
        bar = tqdm(total=len(requests), disable=disable_tqdm, desc="Running loglikelihood requests")
        for context, group in groupby(zip(requests, cut, strict=True), key=lambda pair: pair[1][0]):
            members = list(group)
            continuations = [continuation for _, (_, continuation) in members]
            # The first one extends the context, so that a single continuation is scored in one pass.
            scores = self.engine.loglikelihood(context, continuations[0], [Forced(0, (), ids) for ids in continuations])
            for (request, _), score in zip(members, scores, strict=True):
                answer = (float(score.logprobs.sum()), score.is_greedy)
                if request[0] is not None:  # a window of a longer text has no cache key
                    self.cache_hook.add_partial("loglikelihood", request[0], answer)
                found.append(answer)
                bar.update()
        bar.close()
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of whole texts, in windows of the context length with minimal overlap."""
        totals = []
        for request in tqdm(requests, disable=disable_tqdm, desc="Running loglikelihood_rolling requests"):
            (text,) = request.args
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            parts = [(None, *make_disjoint_window(window)) for window in windows]
            total = sum(score for score, _ in self._loglikelihood_tokens(parts, disable_tqdm=True))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
            totals.append(total)
        return totals

    def _fit(self, context: list[int], continuation: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Both, with the context cut from the left if they are too long; the last token needs no position."""
        length = self.max_length + 1
        if len(context) + len(continuation) > length:
            logger.warning("Context of %d and continuation of %d tokens: cut.", len(context), len(continuation))
        kept = [*context, *continuation][-length:]
        split = len(kept) - len(continuation)
        if split < 1:
            raise FastsiaError(f"a continuation of {len(continuation)} tokens exceeds max_length {self.max_length}.")
        return tuple(kept[:split]), tuple(kept[split:])

    # -- generation

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The response to each request, cut at its stop texts.

        Adjacent equal requests (a task's repeats) are drawn as rollouts of one prompt. The draws are a function of the
        seed, the task, the document and the repeat's number.

        Raises:
            FastsiaError: an unsupported setting, or a response that failed (NaN logits).
        """
        groups = list(self._groups(requests))
        texts: list[list[str]] = [[] for _ in groups]
        bar = tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests")
        drawn = self.engine.run(
            responses_request(i, group.prompt_ids, group.sampling, group.count, group.seed)
            for i, group in enumerate(groups)
        )
        for trajectory in drawn:
            number = _position(trajectory)
            group, rollouts = groups[number], check_drawn(trajectory, groups[number].name)
            responses = [rollouts.row(r).token_ids for r in range(len(rollouts))]
            whole = [self._text(ids) for ids in responses]
            texts[number] = [postprocess_generated_text(text, group.until, self.think_end_token) for text in whole]
            for text in texts[number]:
                self.cache_hook.add_partial("generate_until", (group.context, group.gen_kwargs), text)
            if self._entropies is not None:
                # The reader handles think blocks itself; without them text after a stop text is not read.
                read = [self.vocabulary.decode(ids) for ids in responses]
                if not self.think_end_token:
                    read = [postprocess_generated_text(text, group.until, None) for text in read]
                answers = self.reader.read(read, group.facts, drawn=rollouts)
                self._entropies.take(group, answers, responses, has_curves=self.reader.config is not None)
            bar.update(group.count)
        bar.close()
        if self._entropies is not None:
            self._draw_curves(self._entropies, disable_tqdm)
        return [text for responses in texts for text in responses]

    def _text(self, token_ids: Sequence[int]) -> str:
        """A response's text, including think marks that are special tokens if the harness looks for them."""
        if self.think_end_token:
            return self.vocabulary.decode(token_ids)
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True))

    @property
    def vocabulary(self) -> Vocabulary:
        assert self.engine.vocabulary is not None
        return self.engine.vocabulary

    def _groups(self, requests: Sequence[Instance]) -> Iterator[_Group]:
        def same(request: Instance) -> tuple[Any, ...]:
            return request.task_name, request.doc_id, request.idx, request.args

        eos = self.tokenizer.decode([self.eot_token_id])
        for (task_name, doc_id, idx, (context, gen_kwargs)), members in groupby(requests, key=same):
            settings: dict[str, Any] = dict(normalize_gen_kwargs(gen_kwargs, self.max_gen_toks))
            until = handle_stop_sequences(settings.pop("until"), eos=eos)
            max_tokens = settings.pop("max_gen_toks")
            if max_tokens >= self.max_length:
                raise FastsiaError(
                    f"max_gen_toks {max_tokens} leaves no room for a prompt in {self.max_length} tokens."
                )
            prompt_ids, _ = maybe_truncate(
                self.tok_encode(context) or [self.prefix_token_id], max_tokens, self.max_length
            )
            yield _Group(
                task_name,
                doc_id,
                context,
                gen_kwargs,
                len(list(members)),
                prompt_ids,
                until,
                self._sampling(settings, until, max_tokens),
                request_seed(self.seed, f"{task_name}\x1f{doc_id}\x1f{idx}", 0),
                PromptFacts.of(context, self.vocabulary, is_chat=self._is_chat),
            )

    def _sampling(self, settings: dict[str, Any], until: Sequence[str], max_tokens: int) -> SamplingParams:
        """Sampling parameters from normalised settings without stop texts and length; empties `settings`."""
        del settings["do_sample"]  # the harness has adapted the temperature to it
        temperature, top_p = settings.pop("temperature", 0.0), settings.pop("top_p", None)
        for name, value in settings.items():
            cuts_only = name in _CUTS and temperature == 0  # none of them removes the most probable token
            if value not in _NEUTRAL.get(name, ()) and not cuts_only:
                raise FastsiaError(f"generation_kwargs: fastsia's engine does not support {name}={value!r}.")
        # A task's stop texts do not end a think block; they are applied to the text after it.
        texts, ids = special_stops(self.tokenizer, () if self.think_end_token else until)
        return SamplingParams(
            temperature=temperature,
            top_p=1.0 if top_p is None else top_p,
            max_tokens=max_tokens,
            stop=texts,
            eos_token_id=tuple(dict.fromkeys((*self.engine.eos_token_ids, *ids))),
        )

    def _draw_curves(self, entropies: _Entropies, disable_tqdm: bool) -> None:
        """Draw the curve along every waiting response."""
        vocabulary = self.vocabulary
        waiting = entropies.waiting()

        def requests() -> Iterator[Request]:
            for at, (group, number, response) in enumerate(waiting):
                eos = group.sampling.eos_token_id
                assert isinstance(eos, tuple)
                yield self.reader.curve_request(
                    at,
                    group.prompt_ids,
                    content(vocabulary, response, group.sampling.stop, eos),
                    request_seed(group.seed, "response", number),
                    group.facts,
                    context_length=self.engine.context_length,
                    stop=group.sampling.stop,
                    eos_token_id=eos,
                )

        bar = tqdm(total=len(waiting), disable=disable_tqdm or not waiting, desc="Running entropy curves")
        for trajectory in self.engine.run(requests()):
            group, number, _ = waiting[_position(trajectory)]
            curve = self.reader.curve(trajectory, vocabulary, group.name, group.facts)
            entropies.take_curve(group, number, curve)
            bar.update()
        bar.close()


class _Entropies:
    """One JSON-lines file per task, named like the harness's samples files; a line is written when it is complete."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._date = datetime.now().isoformat().replace(":", "-")
        self._started: set[Path] = set()
        self._open: dict[_Group, tuple[dict[str, Any], list[list[int]], dict[int, Any]]] = {}

    def take(self, group: _Group, answers: list[str | None], responses: list[list[int]], *, has_curves: bool) -> None:
        sampling = group.sampling
        record = {
            "task_name": group.task_name,
            "doc_id": group.doc_id,
            **summary(answers),
            "answers": answers,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_gen_toks": sampling.max_tokens,
            "seed": group.seed,
        }
        if has_curves:
            self._open[group] = (record, responses, {})
        else:
            self._write(group, record)

    def waiting(self) -> list[tuple[_Group, int, list[int]]]:
        """(group, response's number, its tokens) of every response that waits for its curve."""
        return [(group, i, ids) for group, (_, responses, _) in self._open.items() for i, ids in enumerate(responses)]

    def take_curve(self, group: _Group, number: int, curve: dict[str, Any]) -> None:
        record, responses, curves = self._open[group]
        curves[number] = curve
        if len(curves) == len(responses):
            self._write(group, {**record, "curves": [curves[i] for i in range(len(responses))]})
            del self._open[group]

    def _write(self, group: _Group, record: dict[str, Any]) -> None:
        name = re.sub(r"[^\w.-]", "_", str(group.task_name))
        path = self._folder / f"entropies_{name}_{self._date}.jsonl"
        # The first line creates the file; an existing file or link is never written to.
        with open(path, "a" if path in self._started else "x", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        self._started.add(path)


def _position(trajectory: Trajectory) -> int:
    assert isinstance(trajectory.key, int)
    return trajectory.key


def _max_concurrent_trajectories(batch_size: int | str | None, max_batch_size: int | None) -> int | None:
    """Prompts in flight; None is the engine's default."""
    if batch_size is None or str(batch_size).startswith("auto"):
        return None if max_batch_size is None else min(64, int(max_batch_size))
    try:
        return int(batch_size)
    except ValueError:
        raise FastsiaError(f'batch_size must be a number or "auto", got {batch_size!r}.') from None


def register() -> None:
    """Register the model by a reference to this module: run as a program, the file is another module (__main__)."""
    if NAME not in model_registry:
        model_registry.register(NAME, target="fastsia.integrations.lm_eval:FastsiaLM")


def main() -> None:
    """The harness's command line."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


register()

if __name__ == "__main__":
    main()
