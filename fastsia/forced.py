"""Forced answers: how probable a model finds each answer at every checkpoint of a stored run, without a rollout.

Behind a prefix stands the cue that opens an answer in the task's format ("####", "Answer:", "\\boxed{"), and the
probability of each answer is read by teacher forcing. This is another quantity than the run's: what the model would say
if it had to answer now, not what it arrives at by reasoning on. The model may be another than the one that wrote.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fastsia.answers.reference import is_thinking
from fastsia.answers.spec import Spec
from fastsia.answers.think import closing_mark
from fastsia.answers.vocabulary import Vocabulary
from fastsia.backends import open_backend
from fastsia.backends.native import NativeBackend
from fastsia.config import Problem, SIAConfig
from fastsia.engine.forcing import Forced
from fastsia.errors import FastsiaError
from fastsia.models.loading import origin_of
from fastsia.models.registry import model_label
from fastsia.results import FORCED, read_forced, stored_config
from fastsia.store import DATABASE, Store, refuse_links, write_parquet
from fastsia.tasks import Prompt, Task, build_prompt, prompt_options, reading_options, stored_task
from fastsia.tasks.options import letters
from fastsia.tasks.prompt import render_answer

_DIGITS = frozenset(b"0123456789")


def force_answers(
    directory: str | os.PathLike[str],
    scorer: Any = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    **load_options: Any,
) -> pd.DataFrame:
    """Forced answers at every checkpoint of the run in `directory`, kept there as forced.parquet.

    The candidates are a problem's options, else the gold answer and every answer that a rollout of the trajectory gave.
    Where an answer is a number, what is asked for is the number and then no further digit.

    Args:
        directory: a results folder, finished or not.
        scorer: the model that is asked, as in `evaluate`; None loads the run's own.
        progress: called with (trajectories done, all) after each.
        load_options: device, dtype, ... as in `evaluate`.

    Returns:
        One row a checkpoint: problem_id, trajectory, checkpoint, scorer; gold_logprob (nats); entropy (nats, over the
        candidates, their probabilities divided by `mass`); mass, the candidates' total probability; num_candidates;
        mode, the most probable candidate; num_tokens, transformer rows spent behind the prefix.

    Raises:
        FastsiaError: no such run; its model's weights are no longer those that wrote it (name them as `scorer`).
    """
    path = Path(directory)
    if not (path / DATABASE).is_file():
        raise FastsiaError(f"results folder {str(path)!r} holds no run ({DATABASE}).")
    store = Store(path / DATABASE)
    identity, config = store.identity(), stored_config(store)
    refuse_links(path, (FORCED,))
    kept = read_forced(path)
    if scorer is None and load_options.get("peft") is None:  # the run's own model, with its adapter
        load_options["peft"] = identity["model"].get("peft")
    model = open_backend(identity["model"]["name"] if scorer is None else scorer, "native", load_options)
    if not isinstance(model, NativeBackend) or model.tokenizer is None or model.vocabulary is None:
        raise FastsiaError("forced answers need a model with its tokenizer in fastsia's own engine.")
    is_own = model.fingerprint() == identity["model"]["fingerprint"]
    if scorer is None and not is_own:
        raise FastsiaError(f"{model.model_name} is no longer the model that wrote this run; name a scorer to use it.")
    reader = _Reader(model, store.vocabulary(), config, is_own)
    rows = _score(store, reader, identity["task"], progress)
    if kept is not None:
        rows = pd.concat([kept[kept["scorer"] != reader.scorer], rows], ignore_index=True)
    write_parquet(path / FORCED, rows)
    return rows[rows["scorer"] == reader.scorer].reset_index(drop=True)


def _score(store: Store, reader: _Reader, task_name: str, progress: Callable[[int, int], None] | None) -> pd.DataFrame:
    problems = {row["problem_id"]: row for row in store.problems().to_dict("records")}
    trajectories = store.trajectories()
    trajectories = trajectories[trajectories["finish_reason"] != "error"]
    rollouts = store.rollout_columns()[["problem_id", "trajectory", "checkpoint", "answer"]]
    drawn = dict(iter(rollouts.groupby(["problem_id", "trajectory"], sort=False)))
    rows: list[dict[str, Any]] = []
    for done, trajectory in enumerate(trajectories.to_dict("records"), start=1):
        mine = drawn.get((trajectory["problem_id"], trajectory["trajectory"]))
        if mine is not None:
            problem = _problem(problems[trajectory["problem_id"]])
            task = stored_task(task_name, [problem])
            answers = [answer for answer in mine["answer"].unique() if answer is not None]
            rows += reader.read(task, problem, trajectory, np.unique(mine["checkpoint"]), answers)
        if progress is not None:
            progress(done, len(trajectories))
    return pd.DataFrame(rows)


def _problem(row: dict[Any, Any]) -> Problem:
    choices = None if row["choices"] is None else tuple(row["choices"])
    return Problem(row["problem_id"], row["question"], row["gold"], choices, row["format"])


@dataclass(frozen=True)
class _Reader:
    """A model that is asked. is_own: it wrote the trajectories, so that their token ids are its own."""

    model: NativeBackend
    writer: Vocabulary
    config: SIAConfig
    is_own: bool

    @property
    def scorer(self) -> str:
        """What its rows are kept under."""
        return model_label(self.model.model_name, origin_of(self.model.engine.model).peft)

    def read(
        self, task: Task, problem: Problem, trajectory: dict[Any, Any], checkpoints: np.ndarray, answers: Sequence[str]
    ) -> list[dict[str, Any]]:
        """The rows of one trajectory's checkpoints."""
        format = task.format_of(problem)
        options = letters(len(problem.choices)) if problem.choices is not None else (problem.gold, *answers)
        candidates = tuple(dict.fromkeys(options))
        prompt_ids, prompt = self._prompt(task, problem, trajectory)
        spec = Spec.of(format, problem.choices, prompt.starts_in_think, **reading_options(self.config))
        ids = [int(i) for i in trajectory["token_ids"]]
        texts = [self.writer.decode(ids[:t]) for t in checkpoints]
        trunk = ids if self.is_own else self._encode(self.writer.decode(ids))
        forced: list[Forced] = []
        for t, text in zip(checkpoints.tolist(), texts, strict=True):
            position, tail = (t, ()) if self.is_own else _fork(trunk, self._encode(text))
            opening = "\n"
            if is_thinking(text.encode(), spec):
                opening = f"\n{closing_mark(prompt.text + text, self.config.think_tags)}\n\n"
            for cue, scored in self._continuations(opening, candidates, format):
                forced.append(Forced(position, (*tail, *cue), scored))
        counters = self.model.engine.counters
        before = counters.forced_tokens
        continuing = self._digits() if format == "number" else None
        scores = self.model.engine.loglikelihood(prompt_ids, trunk, forced, continuing=continuing)
        rows_each = (counters.forced_tokens - before) / len(checkpoints)
        logprobs = np.array([score.logprobs.sum() + score.end for score in scores]).reshape(len(checkpoints), -1)
        return [
            {
                "problem_id": problem.id,
                "trajectory": trajectory["trajectory"],
                "checkpoint": t,
                "scorer": self.scorer,
                **_summarize(row, candidates, problem.gold),
                "num_tokens": rows_each,
            }
            for t, row in zip(checkpoints.tolist(), logprobs, strict=True)
        ]

    def _prompt(self, task: Task, problem: Problem, trajectory: dict[Any, Any]) -> tuple[Sequence[int], Prompt]:
        """(the ids that the model is asked with, the prompt). Another model is asked in its own template."""
        options = prompt_options(self.config)
        if not self.is_own:
            has_template = bool(getattr(self.model.tokenizer, "chat_template", None))
            day = self.config.template_date if has_template else None
            options |= {"apply_chat_template": None, "template_args": None, "template_date": day}
        prompt = build_prompt(task, problem, self.model.tokenizer, **options)
        stored = [int(i) for i in trajectory["prompt_token_ids"]]  # perhaps cut from the left
        return (stored if self.is_own else prompt.token_ids), prompt

    def _encode(self, text: str) -> list[int]:
        return list(self.model.tokenizer.encode(text, add_special_tokens=False))

    def _continuations(
        self, opening: str, candidates: Sequence[str], format: Any
    ) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """(ids of the cue, ids of the answer) of each candidate: what all share with the bare cue is the cue."""
        rendered = [render_answer(answer, format) for answer in candidates]
        bare = self._encode(opening + render_answer("", format).rstrip("} "))
        found = []
        for text in rendered:
            ids = self._encode(opening + text)
            shared = min(_common(bare, ids), len(ids) - 1)
            found.append((tuple(ids[:shared]), tuple(ids[shared:])))
        return found

    def _digits(self) -> np.ndarray:
        """Tokens that would go on with a number: those whose text starts with a digit, or with a separator and one."""
        vocabulary = self.model.vocabulary
        assert vocabulary is not None
        mask = np.zeros(self.model.engine.runner.vocab_size, dtype=bool)
        for i in range(min(len(vocabulary), len(mask))):
            text = vocabulary.token_bytes(i)
            mask[i] = bool(text) and (text[0] in _DIGITS or (text[:1] in (b".", b",") and text[1:2].isdigit()))
        return mask


def _summarize(logprobs: np.ndarray, candidates: Sequence[str], gold: str) -> dict[str, Any]:
    probs = np.exp(logprobs)
    mass = float(probs.sum())
    shares = np.exp(logprobs - np.logaddexp.reduce(logprobs))
    entropy = float(-(shares * np.log(np.where(shares > 0, shares, 1.0))).sum())
    return {
        "gold_logprob": float(logprobs[candidates.index(gold)]),
        "entropy": entropy,
        "mass": mass,
        "num_candidates": len(candidates),
        "mode": candidates[int(np.argmax(logprobs))],
    }


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _fork(trunk: Sequence[int], ids: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """Where a prefix, encoded for itself, leaves the trunk, and what it holds from there on."""
    position = _common(trunk, ids)
    return position, tuple(ids[position:])
