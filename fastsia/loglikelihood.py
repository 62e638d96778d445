"""Score the answers of a stored run by teacher forcing: their log-likelihood at every checkpoint, without rollouts.

A prefix is followed by the cue that opens an answer in the task's format ("####", "Answer:", "\\boxed{"), the cue by
each candidate answer. This measures what the model would answer now; the run measures what it arrives at by reasoning
on. The scorer may be another model than the one that wrote the run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import entr, softmax

from fastsia.answers.reference import is_thinking
from fastsia.answers.spec import Spec
from fastsia.answers.think import closing_mark
from fastsia.answers.vocabulary import Vocabulary
from fastsia.backends import open_for_run
from fastsia.backends.native import NativeBackend
from fastsia.config import Problem, SIAConfig
from fastsia.engine.forcing import Forced
from fastsia.errors import FastsiaError
from fastsia.files import refuse_links, write_parquet
from fastsia.models.loading import origin_of
from fastsia.models.registry import model_label
from fastsia.results import FORCED, read_forced, stored_config
from fastsia.results.reader import Store, open_run, problem_of
from fastsia.tasks import Prompt, Task, build_prompt, prompt_options, reading_options, stored_task
from fastsia.tasks.options import letters
from fastsia.tasks.prompt import render_answer

_DIGITS = frozenset(b"0123456789")


def score_answers(
    directory: str | os.PathLike[str],
    scorer: Any = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    **load_options: Any,
) -> pd.DataFrame:
    """Score the answers at every checkpoint of the run in `directory`, and store the scores there as forced.parquet.

    The candidates are the options of a problem, else the gold answer and every answer that a rollout of the trajectory
    gave. A number counts only if no further digit follows it.

    Args:
        directory: a results folder, finished or not.
        scorer: the model, as in `evaluate`; None loads the run's own.
        progress: called with (trajectories done, all) after each.
        load_options: device, dtype, ... as in `evaluate`.

    Returns:
        One row per checkpoint: problem_id, trajectory, checkpoint, scorer; gold_logprob (nats); entropy (nats, over the
        candidates, their probabilities divided by `mass`); mass, the total probability of the candidates;
        num_candidates; mode, the most probable candidate; num_tokens, tokens computed after the prefix.

    Raises:
        FastsiaError: no such run; the weights of its model have changed (name them as `scorer`).
    """
    path, store = Path(directory), open_run(directory)
    identity, config = store.identity(), stored_config(store)
    refuse_links(path, (FORCED,))
    kept = read_forced(path)
    model = open_for_run(identity["model"], scorer, load_options, "answers are scored")
    is_own = model.fingerprint() == identity["model"]["fingerprint"]
    if scorer is None and not is_own:
        raise FastsiaError(
            f"{model.model_name} is no longer the model that wrote this run; name it as scorer to use it."
        )
    scoring = _Scorer(model, store.vocabulary(), config, is_own)
    rows = _score(store, scoring, identity["task"], progress)
    if kept is not None:
        rows = pd.concat([kept[kept["scorer"] != scoring.label], rows], ignore_index=True)
    write_parquet(path / FORCED, rows)
    return rows[rows["scorer"] == scoring.label].reset_index(drop=True)


def _score(store: Store, scoring: _Scorer, task_name: str, progress: Callable[[int, int], None] | None) -> pd.DataFrame:
    problems = {row["problem_id"]: row for row in store.problems().to_dict("records")}
    trajectories = store.trajectories()
    trajectories = trajectories[trajectories["finish_reason"] != "error"]
    rollouts = store.rollout_columns()[["problem_id", "trajectory", "checkpoint", "answer"]]
    drawn = dict(iter(rollouts.groupby(["problem_id", "trajectory"], sort=False)))
    rows: list[dict[str, Any]] = []
    for done, trajectory in enumerate(trajectories.to_dict("records"), start=1):
        mine = drawn.get((trajectory["problem_id"], trajectory["trajectory"]))
        if mine is not None:
            problem = problem_of(problems[trajectory["problem_id"]])
            task = stored_task(task_name, [problem])
            answers = [answer for answer in mine["answer"].unique() if answer is not None]
            rows += scoring.score(task, problem, trajectory, np.unique(mine["checkpoint"]), answers)
        if progress is not None:
            progress(done, len(trajectories))
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Scorer:
    """A model that scores.

    Attributes:
        model: the model.
        writer: vocabulary of the model that wrote the run.
        config: settings of the run.
        is_own: whether the model wrote the run, so that the stored token ids are its own.
    """

    model: NativeBackend
    writer: Vocabulary
    config: SIAConfig
    is_own: bool

    @property
    def label(self) -> str:
        """Label of its rows."""
        return model_label(self.model.model_name, origin_of(self.model.engine.model).peft)

    def score(
        self, task: Task, problem: Problem, trajectory: dict[Any, Any], checkpoints: np.ndarray, answers: Sequence[str]
    ) -> list[dict[str, Any]]:
        """The rows of the checkpoints of one trajectory."""
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
                "scorer": self.label,
                **_summarize(row, candidates, problem.gold),
                "num_tokens": rows_each,
            }
            for t, row in zip(checkpoints.tolist(), logprobs, strict=True)
        ]

    def _prompt(self, task: Task, problem: Problem, trajectory: dict[Any, Any]) -> tuple[Sequence[int], Prompt]:
        """(token ids of the prompt, the prompt). Another model than the writer is asked in its own template."""
        options = prompt_options(self.config)
        if not self.is_own:
            has_template = bool(getattr(self.model.tokenizer, "chat_template", None))
            day = self.config.template_date if has_template else None
            options |= {"apply_chat_template": None, "template_args": None, "template_date": day}
        prompt = build_prompt(task, problem, self.model.tokenizer, **options)
        stored = [int(i) for i in trajectory["prompt_token_ids"]]  # may be cut from the left
        return (stored if self.is_own else prompt.token_ids), prompt

    def _encode(self, text: str) -> list[int]:
        return list(self.model.tokenizer.encode(text, add_special_tokens=False))

    def _continuations(
        self, opening: str, candidates: Sequence[str], format: Any
    ) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """(token ids of the cue, of the answer) of each candidate. Tokens shared with the bare cue are the cue."""
        rendered = [render_answer(answer, format) for answer in candidates]
        bare = self._encode(opening + render_answer("", format).rstrip("} "))
        found = []
        for text in rendered:
            ids = self._encode(opening + text)
            shared = min(_common(bare, ids), len(ids) - 1)
            found.append((tuple(ids[:shared]), tuple(ids[shared:])))
        return found

    def _digits(self) -> np.ndarray:
        """Mask of tokens that continue a number: their text starts with a digit, or with a separator and a digit."""
        vocabulary = self.model.vocabulary
        assert vocabulary is not None
        mask = np.zeros(self.model.engine.runner.vocab_size, dtype=bool)
        for i in range(min(len(vocabulary), len(mask))):
            text = vocabulary.token_bytes(i)
            mask[i] = bool(text) and (text[0] in _DIGITS or (text[:1] in (b".", b",") and text[1:2].isdigit()))
        return mask


def _summarize(logprobs: np.ndarray, candidates: Sequence[str], gold: str) -> dict[str, Any]:
    return {
        "gold_logprob": float(logprobs[candidates.index(gold)]),
        "entropy": float(entr(softmax(logprobs)).sum()),
        "mass": float(np.exp(logprobs).sum()),
        "num_candidates": len(candidates),
        "mode": candidates[int(np.argmax(logprobs))],
    }


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common prefix."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _fork(trunk: Sequence[int], ids: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """Where the tokens of a prefix, encoded by itself, diverge from the trajectory, and the tokens from there on."""
    position = _common(trunk, ids)
    return position, tuple(ids[position:])
