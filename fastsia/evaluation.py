"""One evaluation from a model and a dataset to results: resolve, render prompts, draw, record, score."""

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any, NoReturn, Unpack, cast

import numpy as np

from fastsia.answers.placement import CheckpointFunction
from fastsia.answers.spec import Spec
from fastsia.answers.vocabulary import Vocabulary
from fastsia.backends import open_executor
from fastsia.backends.base import Backend, Running, note_on_sampling
from fastsia.callbacks import Callback, Progress
from fastsia.config import Problem, SamplingParams, SIAConfig, split_settings
from fastsia.engine.forecast import Remaining
from fastsia.engine.seeding import request_seed
from fastsia.engine.sequence import Counters, Drawn, Request, Rollouts, Trajectory, positions_needed
from fastsia.errors import FastsiaError, counted
from fastsia.models.registry import known_model, model_label
from fastsia.models.resolve import ModelRef, resolve_model
from fastsia.overrides import Overrides
from fastsia.provenance import provenance
from fastsia.results import SIAResult, drop_partial_costs, score, stored_config
from fastsia.results.manifest import costs_of, is_count
from fastsia.results.reader import Store
from fastsia.results.reading import AnswerReader, Reading, name_of
from fastsia.results.schema import (
    DATABASE,
    DrawnProblem,
    FinishedProblem,
    NumberedTrajectories,
    Part,
    request_checksum,
)
from fastsia.results.writer import StoreWriter, check_output
from fastsia.rounds import Rounds
from fastsia.tasks import Prompt, Task, build_prompt, load_task
from fastsia.tasks.given import GivenTrajectories, RunPlacement, read_run_placement, read_trajectories, with_answer
from fastsia.tasks.prompt import date_of_prompts, prompt_options, reading_options, unread_settings

logger = logging.getLogger("fastsia")

_NO_ROUNDS = "target_se and max_total_tokens need the native backend, which can add rollouts to a trajectory, got {!r}."


def evaluate(
    model: Any,
    dataset: Any,
    *,
    config: SIAConfig | Mapping[str, Any] | None = None,
    limit: int | None = None,
    output: str | os.PathLike[str] | None = None,
    backend: str | None = None,
    executor: str | None = None,
    num_workers: int | None = None,
    worker_timeout: float | None = None,
    callbacks: Sequence[Callback] = (),
    answer_reader: AnswerReader | None = None,
    checkpoints: str | os.PathLike[str] | CheckpointFunction | None = None,
    trajectories: Any = None,
    **overrides: Unpack[Overrides],
) -> SIAResult:
    """Draw trajectories, roll out at every checkpoint, and score how informative the prefixes are.

    Args:
        model: a Hub id, a path, "demo:sft", (model, tokenizer), an `Engine`, or a loaded backend.
        dataset: a task's name, a path to a file, "hub:OWNER/NAME", a `datasets.Dataset`, a list of `Problem`, or
            a `Task`; see `load_task`.
        config: the settings.
        limit: evaluate only the first `limit` problems.
        output: folder for the results. An unfinished run of the same settings in it is resumed; None keeps nothing.
        backend: "native" (this package's engine), "hf" (transformers' generate), "openai" (a server at `base_url`) or
            "vllm" (in this process). None is "native", or the loaded backend that `model` is.
        executor: "local" (this process, the default) or "ray" (the workers of a Ray cluster). It does not change the
            draws.
        num_workers, worker_timeout: options of "ray"; see `RayBackend`.
        callbacks: called when the run starts, after each finished problem, and at the end.
        answer_reader: a function from a text to its answer or None, which replaces the rules of the answer format. It
            disables `stop_at_answer`; its name and the hash of its source are stored with the run.
        checkpoints: where trajectories are cut: a text as in the field of `SIAConfig`, or a function
            `(text, offsets) -> positions`, where offsets[t] is the number of characters that the first t tokens have
            written. The name of a function and the hash of its source are stored with the run.
        trajectories: trajectories to roll out from instead of drawn ones: a file, a DataFrame or an iterable of records
            with problem_id (or id) and text or token_ids, or "gold"; see `fastsia.tasks.given.read_trajectories`. Their
            problems only are evaluated. Their finish_reason is "given", and the summary has `off_policy`.
        **overrides: single fields of `SIAConfig`, backend options (the fields of `fastsia.config.BACKEND_OWNERS`:
            device, dtype, peft, max_num_seqs, base_url, ...), and options of `load_task` (data_dir, answer_format,
            columns, answer_base).

    Returns:
        The results over every problem in the folder. It draws no figures; `SIAResult.report` does.

    Raises:
        FastsiaError: a wrong argument, dataset or model; raised before anything is drawn wherever possible.
    """
    if output is not None and not os.fspath(output):
        raise FastsiaError("output must be a folder's name, got ''.")
    named: dict[str, Any] = {**overrides}
    for name, value in (("checkpoints", checkpoints), ("trajectories", trajectories)):
        if isinstance(value, (str, os.PathLike)):
            named[name] = os.fspath(value)
    settings, load_options, task_options = split_settings(config, named)
    if isinstance(model, (str, os.PathLike)):
        model = resolve_model(model)
    reading = Reading(settings, answer_reader)
    if reading.find_classes is not None:
        reading.find_classes(["1"], "1", "boxed")  # raises now, not after the draws, if a package is missing
    task = load_task(dataset, limit=limit, **task_options)
    inputs = _Inputs.read(settings, task, checkpoints, trajectories)
    task, settings = inputs.restrict(task), inputs.named(settings)
    if output is not None:
        check_output(output, _known_identity(task, settings, reading))
    if executor in (None, "local") and backend in (None, "native", "hf") and isinstance(model, ModelRef):
        load_options = keep_dtype(load_options, [output])
    if settings.allocates_rollouts and backend not in (None, "native"):
        raise FastsiaError(_NO_ROUNDS.format(backend))
    loaded = open_executor(
        executor, model, backend, load_options, num_workers=num_workers, worker_timeout=worker_timeout
    )
    if settings.allocates_rollouts and not getattr(loaded, "can_be_watched", False):
        raise FastsiaError(_NO_ROUNDS.format(loaded.name))
    started = time.perf_counter()
    settings = _resolve(settings, task, loaded, answer_reader, output)
    reading = Reading(settings, answer_reader)
    vocabulary = _vocabulary(loaded, settings)
    prompts = _prompts(task, settings, loaded, inputs, vocabulary)
    identity = _identity(loaded, task, settings)
    warnings = _warnings(loaded, task, settings)
    temporary = tempfile.TemporaryDirectory(prefix="fastsia-") if output is None else None
    directory = Path(temporary.name if temporary is not None else os.fspath(output or ""))
    counters_before = dataclasses.replace(loaded.counters)
    with StoreWriter(directory, identity, vocabulary, reading=reading.facts(), durable=output is not None) as writer:
        warnings += writer.notes
        golds = {
            position: task.problems[position].gold
            for position in sorted(writer.done)
            if position < len(task.problems)
            and not writer.check_problem(position, task.problems[position], *prompts[position].compared())
        }
        warnings += _reread(writer, reading, vocabulary, identity, golds)
        for note in warnings:
            logger.warning("%s", note)
        resumed, before = len(writer.done), writer.done | writer.begun
        reporter = _Reporter(callbacks, loaded, writer, len(task.problems))
        for callback in callbacks:
            callback.run_started(identity, reporter.progress())
        _Drawing(loaded, task, settings, reading, prompts, vocabulary, writer, reporter, inputs.run_placement).run()
        if reading.find_classes is not None:
            writer.store_classes(reading.find_classes)
        warnings += reporter.warnings()
        computed = len(writer.done - before)
    run = {
        "model": model_label(loaded.model_name, identity["model"].get("peft")),
        "task": task.name,
        "backend": loaded.name,
        "num_computed_problems": computed,
        "num_cut_prompts": sum(prompt.cut > 0 for prompt in prompts),
        "counters": _counted(counters_before, loaded.counters),
        "machine": loaded.describe(),
        "provenance": provenance(),
    }
    costs, notes = costs_of(directory)
    with Store(directory / DATABASE).snapshot() as store:
        result = score(store, settings, run, [*notes, *warnings], temporary)
        result.summary["seconds"] = time.perf_counter() - started
        if output is not None:
            _add_earlier(result.summary, costs if resumed else {}, computed)
            drop_partial_costs(result.summary, store)
    if output is not None:
        result.save(directory)
    for callback in callbacks:
        callback.run_finished(result)
    return result


def _warnings(backend: Backend, task: Task, config: SIAConfig) -> list[str]:
    """Warnings about the model and the settings, known before anything is drawn."""
    found = list(getattr(backend, "notes", ()))
    sampling = note_on_sampling(getattr(backend, "recommended", {}), config.temperature, config.top_p)
    if sampling is not None:
        found.append(sampling)
    if config.temperature == 0:
        found.append("temperature is 0: all rollouts of a checkpoint are the same, entropies are 0.")
    found += unread_settings(task, backend.tokenizer, config)
    known = known_model(backend.model_name)
    if known is not None and known.is_demo and task.name != "demo":
        found.append(
            f"{backend.model_name} was trained on the demo task only; on other tasks it is almost always wrong."
        )
    return found


def _reread(
    writer: StoreWriter,
    reading: Reading,
    vocabulary: Vocabulary,
    identity: Mapping[str, Any],
    golds: Mapping[int, str],
) -> list[str]:
    """Read stored problems again if the reading or gold answers changed, so that no table mixes two readings.

    Returns:
        Notes of what changed.
    """
    needs_reread = writer.stored_reading != reading.facts()
    if not golds and not needs_reread:
        return []
    found = reading.reread(writer, vocabulary, identity, golds)
    notes = []
    if needs_reread and writer.done:
        notes.append(f"The stored texts were read again: {found}")
    if golds:
        notes.append(
            f"Gold answers corrected in the data since: {len(golds):,}. These problems were scored again, without new "
            "draws."
        )
    return notes


# --- settings --------------------------------------------------------------------------------------------------


def _resolve(
    config: SIAConfig,
    task: Task,
    backend: Backend,
    answer_reader: AnswerReader | None = None,
    output: str | os.PathLike[str] | None = None,
) -> SIAConfig:
    """Fill in the settings that default to values of the task, the model or the current date.

    Args:
        output: a run in this folder keeps the date of its prompts.
    """
    if backend.tokenizer is None or backend.vocabulary is None:
        raise FastsiaError("evaluate needs the model's tokenizer for prompts and answers; this model has none.")
    template = config.apply_chat_template
    if template is None:
        template = bool(getattr(backend.tokenizer, "chat_template", None))
        # A base model may have its family's template, which it was not trained on.
        known = known_model(backend.model_name)
        if known is not None and not known.is_demo:
            template = template and known.chat_template
    settings = dataclasses.replace(
        config,
        stride=None if config.checkpoints is not None else config.stride or task.stride,
        apply_chat_template=template,
        # Only the rules of the answer format can tell that an answer is complete.
        stop_at_answer=config.stop_at_answer and not Reading(config, answer_reader).is_custom,
    )
    if template and config.template_date is None:
        day = _date_of_run(output) or date_of_prompts(task, backend.tokenizer, settings)
        settings = dataclasses.replace(settings, template_date=day)
    return settings


def keep_dtype(load_options: Mapping[str, Any], outputs: Iterable[str | os.PathLike[str] | None]) -> dict[str, Any]:
    """Loading options with the dtype of the first run in these folders, unless another is asked for.

    The default depends on the processor, but a run is resumed in the dtype that it began with, on any machine.
    """
    options = dict(load_options)
    for output in outputs:
        if output is not None and options.get("dtype") is None:
            with suppress(FastsiaError):  # no run yet, or a damaged one, which the writer reports
                options["dtype"] = Store(Path(output) / DATABASE).identity()["model"].get("dtype")
    return options


def _date_of_run(output: str | os.PathLike[str] | None) -> str | None:
    """The date in the prompts of the run in a folder; None without one."""
    if output is None:
        return None
    with suppress(FastsiaError):  # no run yet, or a damaged one, which the writer reports
        return stored_config(Store(Path(output) / DATABASE)).template_date
    return None


def _vocabulary(backend: Backend, config: SIAConfig) -> Vocabulary:
    """The backend's vocabulary; the run's own think marks have a text even if they are special tokens."""
    assert backend.vocabulary is not None
    if config.think_tags is None:
        return backend.vocabulary
    return Vocabulary.from_tokenizer(backend.tokenizer, config.think_tags)


def _identity(backend: Backend, task: Task, config: SIAConfig) -> dict[str, Any]:
    """The facts that a resumed run must share with the stored one. The model's name is only a label."""
    facts = backend.describe()
    return {
        "model": {
            "name": backend.model_name,
            "dtype": facts.get("dtype"),
            "fingerprint": backend.fingerprint(),
            **{key: facts[key] for key in ("peft", "quantization") if key in facts},
        },
        "task": task.name,
        "backend": backend.name,
        "config": dataclasses.asdict(config),
    }


def _known_identity(task: Task, config: SIAConfig, reading: Reading) -> dict[str, Any]:
    """The part of the identity that does not depend on the model."""
    stride = None if config.checkpoints is not None else config.stride or task.stride
    settings = dataclasses.replace(config, stride=stride)
    known = {name: value for name, value in dataclasses.asdict(settings).items() if value is not None}
    known["stop_at_answer"] = config.stop_at_answer and not reading.is_custom
    return {"task": task.name, "config": known}


# --- inputs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Inputs:
    """Inputs that are not settings: positions of checkpoints, and given trajectories."""

    run_placement: RunPlacement
    trajectories: GivenTrajectories | None

    @classmethod
    def read(cls, config: SIAConfig, task: Task, checkpoints: Any = None, trajectories: Any = None) -> _Inputs:
        """Read the files that the settings name, or the objects that were passed instead."""
        checkpoints = config.checkpoints if config.checkpoints is not None else checkpoints
        trajectories = config.trajectories if config.trajectories is not None else trajectories
        if checkpoints is not None and config.stride is not None:
            raise FastsiaError(f"stride={config.stride} and checkpoints exclude each other.")
        if trajectories is not None and config.num_trajectories != 1:
            raise FastsiaError(f"num_trajectories={config.num_trajectories} does not apply to given trajectories.")
        found = None if trajectories is None else read_trajectories(trajectories, task)
        if found is not None:
            task = found.restrict(task)
        stride = config.stride or task.stride
        run_placement = read_run_placement(
            checkpoints, task, stride=stride, most=config.max_checkpoints, name_of=name_of
        )
        if found is not None and found.are_solutions:
            run_placement = dataclasses.replace(
                run_placement, base=dataclasses.replace(run_placement.base, before_answer=True)
            )
        return cls(run_placement, found)

    def restrict(self, task: Task) -> Task:
        """The task with only the problems that are evaluated."""
        return task if self.trajectories is None else self.trajectories.restrict(task)

    def named(self, config: SIAConfig) -> SIAConfig:
        """The settings as they are stored: files and functions by their name and a digest."""
        return dataclasses.replace(
            config,
            checkpoints=self.run_placement.name,
            stride=config.stride if self.run_placement.name is not None else self.run_placement.base.stride,
            trajectories=None if self.trajectories is None else self.trajectories.name,
        )

    def encoded(
        self, task: Task, problem: Problem, prompt: Prompt, backend: Backend, vocabulary: Vocabulary
    ) -> tuple[np.ndarray, ...] | None:
        """The token ids of a problem's given trajectories, int32; None where trajectories are drawn."""
        if self.trajectories is None:
            return None
        rows = (
            with_answer(row, task, problem, prompt.text, prompt.starts_in_think)
            for row in self.trajectories.rows[problem.id]
        )
        eos = backend.eos_token_ids
        return tuple(np.array(row.encode(backend.tokenizer, vocabulary, eos), dtype=np.int32) for row in rows)


# --- prompts ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Prepared:
    """A prompt that fits into the context. Its ids are an array, since thousands of prompts are kept in memory.

    Attributes:
        token_ids: int32.
        text: the rendered prompt.
        starts_in_think: whether it ends inside a think block.
        expects_think: whether the response may contain a think block.
        stop: texts that end a response.
        cut: number of tokens cut from its left.
        trajectory_ids: int32, of each given trajectory; None where trajectories are drawn.
    """

    token_ids: np.ndarray
    text: str
    starts_in_think: bool
    expects_think: bool
    stop: tuple[str, ...]
    cut: int
    trajectory_ids: tuple[np.ndarray, ...] | None = None

    def num_trajectories(self, config: SIAConfig) -> int:
        return config.num_trajectories if self.trajectory_ids is None else len(self.trajectory_ids)

    def spec(self, task: Task, problem: Problem, config: SIAConfig) -> Spec:
        """How a response to it is read."""
        return response_spec(task, problem, self.starts_in_think, self.expects_think, config)

    def compared(self) -> tuple[list[int], str]:
        """The part that a resumed run compares."""
        return self.token_ids.tolist(), self.text


def _prompts(
    task: Task, config: SIAConfig, backend: Backend, inputs: _Inputs, vocabulary: Vocabulary
) -> list[_Prepared]:
    """Every problem's prompt and given trajectories. A prompt without room for the new tokens is refused, or cut from
    the left."""
    prepared = []
    for problem in task.problems:
        prompt = build_prompt(task, problem, backend.tokenizer, **prompt_options(config))
        found = _fit(prompt, problem, inputs.encoded(task, problem, prompt, backend, vocabulary), config, backend)
        _check_placement(inputs.run_placement, task, problem, found, config, vocabulary)
        prepared.append(found)
    return prepared


def _check_placement(
    run_placement: RunPlacement,
    task: Task,
    problem: Problem,
    prompt: _Prepared,
    config: SIAConfig,
    vocabulary: Vocabulary,
) -> None:
    """Raise FastsiaError for checkpoints that cannot be placed, as far as this is known before drawing."""
    if run_placement.name is None:
        return
    for number in range(prompt.num_trajectories(config)):
        placement = run_placement.placement(problem.id, number)
        if prompt.trajectory_ids is not None:
            placement = dataclasses.replace(placement, spec=prompt.spec(task, problem, config))
            placement.positions(prompt.trajectory_ids[number], vocabulary)
        elif placement.fixed and placement.fixed[-1] > config.max_tokens:
            raise FastsiaError(
                f"{placement.where}: position {placement.fixed[-1]} is beyond max_tokens={config.max_tokens}."
            )


def _fit(
    prompt: Prompt, problem: Problem, given: tuple[np.ndarray, ...] | None, config: SIAConfig, backend: Backend
) -> _Prepared:
    """Prepare a problem's prompt, cut from the left where that is asked for and needed."""
    ids, cut, context = prompt.token_ids, 0, backend.context_length
    trajectory = config.max_tokens if given is None else max(map(len, given))
    needed = positions_needed(len(ids), trajectory, config.max_tokens, config.rollout_budget)
    if context is not None and needed > context:
        room = context - (needed - len(ids))
        bos = getattr(backend.tokenizer, "bos_token_id", None)
        head = ids[:1] if bos is not None and ids[0] == bos else ()
        can_cut = room > len(head)
        if not config.truncate_prompt or not can_cut:
            _refuse_prompt(problem, len(ids), None if given is None else trajectory, config, context, can_cut)
        cut = len(ids) - room
        ids = head + ids[cut + len(head) :]
    return _Prepared(
        np.array(ids, dtype=np.int32),
        prompt.text,
        prompt.starts_in_think,
        expects_think(prompt, config, backend),
        prompt.stop,
        cut,
        given,
    )


def _refuse_prompt(
    problem: Problem, prompt: int, given: int | None, config: SIAConfig, context: int, can_cut: bool
) -> NoReturn:
    """Raise FastsiaError for a prompt that leaves too little of the model's context, with what helps.

    Args:
        prompt, given: tokens of the prompt and of the longest given trajectory.
        can_cut: whether the new tokens leave room for a part of the prompt.
    """
    is_new = config.rollout_budget == "new"
    drawn = f" and max_tokens={config.max_tokens} for the trajectory{' and for each rollout' if is_new else ''}"
    if given is not None:
        drawn = f", the given trajectory of {given} and rollouts (max_tokens={config.max_tokens})"
    trajectory, least = (config.max_tokens, 1) if given is None else (given, given)
    needed = positions_needed(prompt, trajectory, config.max_tokens, config.rollout_budget)
    ways = []
    if positions_needed(prompt, least, 1, config.rollout_budget) <= context:
        ways.append("lower max_tokens")
    if can_cut:
        ways.append("set truncate_prompt")
    if not ways:
        ways.append("lower max_tokens" if config.truncate_prompt else "lower max_tokens and set truncate_prompt")
    raise FastsiaError(
        f"problem {problem.id!r}: its prompt of {counted(prompt, 'token')}{drawn} need {needed} positions, but the "
        f"model's context is {context}; {', or '.join(ways)}."
    )


def response_spec(task: Task, problem: Problem, starts_in_think: bool, expects_think: bool, config: SIAConfig) -> Spec:
    """How a response is read while it is drawn. The booleans: see `_Prepared`."""
    return Spec.of(
        task.format_of(problem),
        problem.choices,
        starts_in_think,
        expects_think=expects_think,
        **reading_options(config),
    )


def expects_think(prompt: Prompt, config: SIAConfig, backend: Backend) -> bool:
    """Whether a think block may follow: the model or the prompt has think marks, and the prompt has not closed one."""
    assert backend.vocabulary is not None
    known = config.think_tags is not None or backend.vocabulary.has_think_marks or prompt.mentions_think
    return known and not prompt.closes_think


# --- drawing ---------------------------------------------------------------------------------------------------


# Finished problems that wait for the recorder; bounds their memory.
_MAX_WAITING = 4
# Seconds between two reports of progress.
_REPORT_SECONDS = 1.0
# Poll interval of the recorder while its queue is empty (s).
_POLL_SECONDS = 1.0


class _Drawing:
    """Draws the trajectories and rollouts of a run's unfinished problems.

    A problem is read and committed when its last trajectory ends, by a thread, so that drawing waits for neither.
    """

    def __init__(
        self,
        backend: Backend,
        task: Task,
        config: SIAConfig,
        reading: Reading,
        prompts: Sequence[_Prepared],
        vocabulary: Vocabulary,
        writer: StoreWriter,
        reporter: _Reporter,
        run_placement: RunPlacement,
    ) -> None:
        self._backend, self._task, self._config = backend, task, config
        self._reading, self._prompts, self._vocabulary = reading, prompts, vocabulary
        self._writer, self._reporter, self._run_placement = writer, reporter, run_placement
        self._recorder = _Recorder(reporter.finished)
        self._can_be_watched = getattr(backend, "can_be_watched", False)
        self._unfinished = [position for position in range(len(task.problems)) if position not in writer.done]
        self._num_trajectories = {position: prompts[position].num_trajectories(config) for position in self._unfinished}

    def run(self) -> None:
        with self._recorder:
            if self._config.allocates_rollouts:
                self._draw_rounds(Rounds(self._config, self._writer))
            else:
                self._complete(self._unfinished, None)

    def _draw_rounds(self, rounds: Rounds) -> None:
        """Draw uniform rounds until every checkpoint's number of rollouts is decided, then complete the problems."""
        undecided = [
            position
            for position in self._unfinished
            if any(rounds.counts(position, number) is None for number in range(self._num_trajectories[position]))
        ]
        if len(undecided) < len(self._unfinished):
            self._complete(sorted(set(self._unfinished) - set(undecided)), rounds)
        self._recorder.wait()
        if not undecided:
            return

        def measure(position: int, trajectories: NumberedTrajectories) -> None:
            rounds.measure(self._read(position, trajectories))

        spent, is_decided = self._writer.num_tokens(), False
        while not is_decided:
            self._reporter.begin_round("uniform round, ")
            config = dataclasses.replace(self._config, num_rollouts=rounds.uniform)
            requests = _requests(self._task, undecided, self._prompts, config, self._run_placement)
            self._draw(requests, undecided, measure, stores_whole_problems=True)
            self._recorder.wait()
            is_decided = rounds.decide(spent)
        self._complete(undecided, rounds)

    def _complete(self, positions: Sequence[int], rounds: Rounds | None) -> None:
        """Draw what problems lack and commit them; rounds: the numbers of rollouts, None for `num_rollouts`."""
        if rounds is not None:
            self._reporter.begin_round("allocated round, ", rounds.total_rollouts)

        def commit(position: int, trajectories: NumberedTrajectories) -> None:
            self._recorder.add(lambda: self._commit(position, trajectories))

        requests = _requests(self._task, positions, self._prompts, self._config, self._run_placement, rounds)
        self._draw(requests, positions, commit)

    def _draw(
        self,
        requests: Iterator[Request],
        positions: Sequence[int],
        done: Callable[[int, NumberedTrajectories], None],
        *,
        stores_whole_problems: bool = False,
    ) -> None:
        """Draw the requests of some problems and call `done` with each problem whose trajectories are all finished.

        Args:
            stores_whole_problems: whether trajectories of such problems are also stored as parts of an unfinished one.
        """
        if self._can_be_watched:
            requests = _resumed(requests, self._writer, self._task)
        stores_parts = self._writer.is_durable or self._config.allocates_rollouts
        store = self._store_parts if stores_parts else None
        num_requests = sum(self._num_trajectories[position] for position in positions)
        watch = _Watch(self._task, self._config, store, self._reporter, num_requests)
        waiting: dict[int, list[tuple[int, Trajectory]]] = {}
        backend = cast(Any, self._backend)
        generated = backend.generate(requests, watch) if self._can_be_watched else backend.generate(requests)
        with closing(_closable(generated)) as drawn, watch:
            for trajectory in drawn:
                position, number = cast(tuple[int, int], trajectory.key)
                finished = waiting.setdefault(position, [])
                finished.append((number, trajectory))
                watch.num_finished += 1
                is_whole = len(finished) == self._num_trajectories[position]
                if self._can_be_watched and (stores_whole_problems or not is_whole):
                    watch.store_trajectory(trajectory)
                if is_whole:
                    done(position, sorted(waiting.pop(position), key=lambda pair: pair[0]))

    def _store_parts(self, parts: Sequence[Part]) -> None:
        if parts:
            self._recorder.add(lambda: self._writer.add_parts(parts))

    def _commit(self, position: int, trajectories: NumberedTrajectories) -> FinishedProblem:
        finished = self._read(position, trajectories)
        self._writer.add(finished)
        return finished

    def _read(self, position: int, trajectories: NumberedTrajectories) -> FinishedProblem:
        """Read the answers of a problem's trajectories and rollouts."""
        problem, prompt = self._task.problems[position], self._prompts[position]
        answer_format = self._task.format_of(problem)
        drawn = DrawnProblem(position, problem, answer_format, prompt.starts_in_think, trajectories)
        answered = self._reading.read(drawn, self._vocabulary)
        return FinishedProblem(
            position, problem, answer_format, prompt.text, prompt.starts_in_think, prompt.cut, answered
        )


def _resumed(requests: Iterable[Request], writer: StoreWriter, task: Task) -> Iterator[Request]:
    """The requests, each with its draws of earlier runs."""
    for request in requests:
        position, number = cast(tuple[int, int], request.key)
        drawn = writer.drawn(
            position, number, request_checksum(task.problems[position], request.prompt_ids, request.seed)
        )
        yield request if drawn is None else dataclasses.replace(request, drawn=drawn)


class _Watch:
    """Called after every step of the engine: stores new draws every `save_interval` seconds and reports the progress
    every second.

    As a context manager it also stores the draws since the last time when an exception ends the run.

    Args:
        store: stores new draws of unfinished problems; None: they are not stored.
        num_requests: to be drawn.

    Attributes:
        num_finished: requests that are finished.
    """

    def __init__(
        self,
        task: Task,
        config: SIAConfig,
        store: Callable[[Sequence[Part]], None] | None,
        reporter: _Reporter,
        num_requests: int,
    ) -> None:
        self._task, self._store, self._reporter = task, store, reporter
        self._save_interval = config.save_interval
        self._num_requests, self.num_finished = num_requests, 0
        self._run: Running | None = None
        self._stored = self._reported = time.monotonic()

    def __call__(self, run: Running) -> None:
        self._run, self._reporter.run, now = run, run, time.monotonic()
        if now - self._stored >= self._save_interval:
            self._stored = now
            self._store_new(run)
        if now - self._reported >= _REPORT_SECONDS:
            self._reported = now
            self._reporter.progressed(run.remaining(self._num_requests - self.num_finished - run.num_active))

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._run is not None:
            with suppress(FastsiaError):  # the recorder's own, which ends the run
                self._store_new(self._run)

    def store_trajectory(self, trajectory: Trajectory) -> None:
        """Store a finished trajectory of an unfinished problem."""
        if self._store is not None:
            self._store([self._part(trajectory.key, _drawn(trajectory), trajectory, is_whole=True)])

    def _store_new(self, run: Running) -> None:
        if self._store is not None:
            self._store([self._part(request.key, drawn, request) for request, drawn in run.take_drawn()])

    def _part(self, key: Any, drawn: Drawn, source: Request | Trajectory, is_whole: bool = False) -> Part:
        position, number = key
        problem = self._task.problems[position]
        checksum = request_checksum(problem, [int(token) for token in source.prompt_ids], source.seed)
        return Part(position, problem.id, number, checksum, drawn, is_whole)


def _drawn(trajectory: Trajectory) -> Drawn:
    return Drawn(
        len(trajectory.token_ids),
        trajectory.token_ids,
        trajectory.logprobs,
        trajectory.token_entropies,
        trajectory.finish_reason,
        Rollouts.join([]) if trajectory.rollouts is None else trajectory.rollouts,
    )


class _Recorder:
    """Runs calls in a thread of its own, one at a time and in order; `add` blocks while several wait.

    An exception of a call or of `report` is raised by a later `add`, or on leaving the context. Leaving waits until all
    calls have run.

    Args:
        report: called with each finished problem that a call returns, in the thread that adds.
    """

    def __init__(self, report: Callable[[FinishedProblem], None]) -> None:
        self._report = report
        self._waiting: Queue[Callable[[], FinishedProblem | None] | None] = Queue(_MAX_WAITING)
        self._recorded: deque[FinishedProblem] = deque()
        self._error: BaseException | None = None
        self._is_over = False
        # A daemon thread does not keep the process alive after a second Ctrl-C.
        self._thread = Thread(target=self._run, name="fastsia-record", daemon=True)

    def __enter__(self) -> _Recorder:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, raised: BaseException | None, *_: object) -> None:
        self._is_over = True
        try:
            self._waiting.put(None)
            self._thread.join()
        except BaseException as again:  # a second Ctrl-C: the current problem is finished, no other is begun
            self._error = self._error or again
            raise
        if kind is None:
            self._report_all()
        elif self._error is not None and self._error is not raised:
            logger.warning("%s", self._error)

    def add(self, call: Callable[[], FinishedProblem | None]) -> None:
        self._waiting.put(call)
        self._report_all()

    def wait(self) -> None:
        """Wait until all calls that were added have run."""
        done = Event()
        self._waiting.put(done.set)
        while self._error is None and self._thread.is_alive() and not done.wait(_POLL_SECONDS):
            pass
        self._report_all()

    def _run(self) -> None:
        while (call := self._next()) is not None:
            if self._error is None:
                try:
                    finished = call()
                    if finished is not None:
                        self._recorded.append(finished)
                except BaseException as error:
                    self._error = error

    def _next(self) -> Callable[[], FinishedProblem | None] | None:
        while True:
            is_over = self._is_over  # read before the wait: nothing is added after it is set
            try:
                return self._waiting.get(timeout=_POLL_SECONDS)
            except Empty:
                if is_over:  # set, but an interrupt came before the end was put into the queue
                    return None

    def _report_all(self) -> None:
        while self._recorded:
            self._report(self._recorded.popleft())
        if self._error is not None:
            raise self._error


class _Reporter:
    """Reports each finished problem and the progress: new warnings of the backend to the log, the rest to callbacks."""

    def __init__(self, callbacks: Sequence[Callback], backend: Backend, writer: StoreWriter, num_problems: int) -> None:
        self._callbacks, self._backend = callbacks, backend
        self._done = self._resumed = len(writer.done)
        self._total = self._resumed + sum(position not in writer.done for position in range(num_problems))
        self._before = dataclasses.replace(backend.counters)
        self._started = time.perf_counter()
        self._logged: set[str] = set()
        self._rollouts_before, self._rollouts_finished = writer.num_rollouts(), 0
        self._writer, self._round, self._expected = writer, "", cast(int | None, None)
        self.run: Running | None = None
        self._remaining: Remaining | None = None
        self._forecast_at = self._started

    def begin_round(self, name: str, expected: int | None = None) -> None:
        """Begin a round: progress counts from the rollouts stored so far. expected: rollouts at its end."""
        self._round, self._expected, self.run, self._remaining = name, expected, None, None
        self._rollouts_before, self._rollouts_finished = self._writer.num_rollouts(), 0

    def progress(self) -> Progress:
        cost, before, now = self._backend.counters, self._before, time.perf_counter()
        ended = self._rollouts_finished if self.run is None else self.run.num_ended_rollouts
        rollouts, remaining = self._rollouts_before + ended, self._remaining
        expected = seconds_left = None
        if remaining is not None:
            expected = rollouts + remaining.rollouts
            seconds = remaining.seconds
            if self._expected is not None:  # the engine does not know the numbers of requests to come
                seconds = (
                    None if seconds is None else seconds * (self._expected - rollouts) / max(remaining.rollouts, 1.0)
                )
                expected = float(self._expected)
            seconds_left = None if seconds is None else max(seconds - (now - self._forecast_at), 0.0)
        elif self._done > self._resumed:
            seconds_left = (now - self._started) * (self._total - self._done) / (self._done - self._resumed)
        return Progress(
            self._done,
            self._total,
            self._resumed,
            cost.generated_tokens - before.generated_tokens,
            cost.computed_tokens - before.computed_tokens,
            now - self._started,
            rollouts,
            expected,
            seconds_left,
            cost.trajectory_tokens - before.trajectory_tokens,
            self._round,
        )

    def progressed(self, remaining: Remaining | None) -> None:
        """Report between two steps of the engine."""
        self._remaining, self._forecast_at = remaining, time.perf_counter()
        progress = self.progress()
        for callback in self._callbacks:
            callback.progressed(progress)

    def warnings(self) -> list[str]:
        """Warnings of the backend about these draws."""
        count = self._backend.counters.out_of_memory - self._before.out_of_memory
        found = list(self._backend.warnings)
        if count:
            found.append(
                f"device memory ran out {counted(count, 'time')}; smaller batches, or the same again, were tried."
            )
        return found

    def finished(self, problem: FinishedProblem) -> None:
        self._done += 1
        self._rollouts_finished += sum(len(answered.rollout_answers.chosen) for answered in problem.trajectories)
        for warning in [warning for warning in self.warnings() if warning not in self._logged]:
            self._logged.add(warning)
            logger.warning("%s", warning)
        if self._callbacks:
            progress = self.progress()
            for callback in self._callbacks:
                callback.problem_finished(problem, progress)


def _closable(trajectories: Iterator[Trajectory]) -> Generator[Trajectory, None, None]:
    """A generator around any iterator; closing it closes a generator inside."""
    yield from trajectories


def make_requests(backend: Backend, task: Task, config: SIAConfig) -> tuple[SIAConfig, Iterator[Request]]:
    """(settings with all defaults filled in, all requests of the evaluation in order)."""
    inputs = _Inputs.read(config, task)
    task = inputs.restrict(task)
    settings = _resolve(inputs.named(config), task, backend)
    prompts = _prompts(task, settings, backend, inputs, _vocabulary(backend, settings))
    return settings, _requests(task, range(len(task.problems)), prompts, settings, inputs.run_placement)


def _requests(
    task: Task,
    positions: Sequence[int],
    prompts: Sequence[_Prepared],
    config: SIAConfig,
    run_placement: RunPlacement,
    rounds: Rounds | None = None,
) -> Iterator[Request]:
    """The requests of some problems, with the numbers of rollouts that `rounds` has decided on."""
    num_rollouts = config.num_rollouts if rounds is None else rounds.mean_left(positions)
    for position in positions:
        problem, prompt = task.problems[position], prompts[position]
        spec = prompt.spec(task, problem, config)
        # The answer stream reads a prefix as it was drawn; with a permuted prefix it would have seen another text.
        stop = spec if config.stop_at_answer and not config.shuffle_prefix else None
        for trajectory in range(prompt.num_trajectories(config)):
            ids = None if prompt.trajectory_ids is None else tuple(prompt.trajectory_ids[trajectory].tolist())
            yield Request(
                key=(position, trajectory),
                prompt_ids=tuple(prompt.token_ids.tolist()),
                sampling=SamplingParams(config.temperature, config.top_p, config.max_tokens, prompt.stop),
                num_rollouts=num_rollouts,
                allocation=None if rounds is None else rounds.counts(position, trajectory),
                seed=request_seed(config.seed, problem.id, trajectory),
                stride=run_placement.base.stride,
                placement=dataclasses.replace(run_placement.placement(problem.id, trajectory), spec=spec),
                trajectory_ids=ids,
                given_logprobs=ids is not None,
                rollout_budget=config.rollout_budget,
                share=config.share,
                shuffle_prefix=config.shuffle_prefix,
                answer_stop=stop,
            )


# --- cost -------------------------------------------------------------------------------------------------------


def _counted(before: Counters, after: Counters) -> dict[str, Any]:
    """The costs of this run. peak_kv_blocks is not reset between runs of one backend."""
    counts = {
        field.name: getattr(after, field.name) - getattr(before, field.name)
        for field in dataclasses.fields(Counters)
        if field.name != "peak_kv_blocks"
    }
    rows, matched = counts.pop("computed_tokens"), counts.pop("matched_tokens")
    if not rows and counts["generated_tokens"] > matched:
        rows = None  # tokens without computed rows: the backend cannot count its rows
    merge = counts["generated_tokens"] / rows if rows else None
    return (
        counts | {"row_steps": rows, "rides": matched} | {"peak_kv_blocks": after.peak_kv_blocks, "merge_factor": merge}
    )


def _add_earlier(summary: dict[str, Any], costs: Mapping[str, Any], computed: int) -> None:
    """Add the costs that an earlier run of the same folder stored; those of a killed run are not known."""
    if costs.get("counters") is None:
        return
    counters, before = summary["counters"], costs["counters"]
    for name, value in before.items():
        if is_count(value) and is_count(counters.get(name)):
            peak = name == "peak_kv_blocks"
            counters[name] = max(counters[name], value) if peak else counters[name] + value
    rows = counters.get("row_steps")
    counters["merge_factor"] = counters["generated_tokens"] / rows if rows else None
    known = costs.get("row_steps") is not None  # else the earlier figure was incomplete, and so is the sum
    summary["row_steps"], summary["merge_factor"] = (rows, counters["merge_factor"]) if known else (None, None)
    summary["seconds"] += costs.get("seconds") or 0.0
    summary["num_computed_problems"] = computed + (costs.get("num_computed_problems") or 0)
