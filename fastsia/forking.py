"""Forking paths: rollouts after the most probable tokens at forking positions of a stored run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fastsia.backends import open_for_run
from fastsia.backends.native import NativeBackend
from fastsia.config import MAX_COUNT, SamplingParams, SIAConfig, integer_from
from fastsia.engine.loop import Run
from fastsia.engine.seeding import request_seed
from fastsia.engine.sequence import UNFINISHED, Drawn, Request, Rollouts
from fastsia.errors import FastsiaError
from fastsia.evaluation import expects_think, response_spec
from fastsia.report.html import forking_of
from fastsia.results import load, stored_config
from fastsia.results.alternatives import (
    MOST_FORCED,
    AlternativeStore,
    ForcedToken,
    checksum_of,
    read_alternatives,
)
from fastsia.results.reader import Store, open_run, problem_of
from fastsia.results.steps import refuse_shuffled
from fastsia.tasks import build_prompt, prompt_options, stored_task

LEAST_PROBABILITY = 0.01
"""A token that is less probable than this is no alternative. Chosen by fastsia."""

_SAVE_SECONDS = 5.0


def draw_alternatives(
    directory: str | os.PathLike[str],
    most: int,
    *,
    model: Any = None,
    problem_id: str | None = None,
    positions: int = 3,
    num_rollouts: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **load_options: Any,
) -> pd.DataFrame:
    """Draw rollouts after the trajectory's own token and after its most probable alternatives, at forking tokens.

    The rollouts are stored in alternatives.sqlite beside the run and count in none of its other numbers. What is stored
    already is not drawn again: an interrupted call goes on, and a call for more alternatives, positions or rollouts
    draws the rest. Draws depend on the run's seed, the position, the token's place there and the rollout's number only.

    Args:
        directory: a results folder, finished or not.
        most: the alternatives per position, at most; those under `LEAST_PROBABILITY` are left out.
        model: the run's model, loaded; None loads it.
        problem_id: of this problem only; None: of all.
        positions: the forking tokens per trajectory, at most: those with the highest token entropy
            that have an alternative.
        num_rollouts: per token; None: as many as the run has per checkpoint.
        progress: called with (rollouts done, all) now and then.
        load_options: device, dtype, ... as in `evaluate`.

    Returns:
        The table `alternatives` of the run, of `problem_id` only if given.

    Raises:
        FastsiaError: no such run or problem; shuffled prefixes; no token entropies; answers that a function read; other
            weights than the run's.
    """
    path, store = Path(directory), open_run(directory)
    most = integer_from(1, "fork_top", most, MOST_FORCED - 1)
    positions = integer_from(1, "fork_positions", positions, MAX_COUNT)
    result = load(path)
    result.check_problem(problem_id)
    refuse_shuffled(store)
    identity, config = store.identity(), stored_config(store)
    if (store.reading() or {}).get("answer_reader"):
        raise FastsiaError(f"the answers of {path} were read by a function, which is not stored.")
    if config.temperature == 0:
        raise FastsiaError("the run was drawn at temperature 0, where no token has an alternative.")
    threshold = forking_of(result.summary)
    if threshold is None:
        raise FastsiaError(f"{path} has no token entropies, which say where the forking tokens are.")
    num_rollouts = integer_from(1, "num_rollouts", num_rollouts or config.num_rollouts, MAX_COUNT)
    trajectories = store.trajectories()
    trajectories = trajectories[trajectories["finish_reason"] != "error"]
    if problem_id is not None:
        trajectories = trajectories[trajectories["problem_id"] == problem_id]
    loaded = open_for_run(identity["model"], model, load_options, "alternatives are drawn")
    if loaded.fingerprint() != identity["model"]["fingerprint"]:
        raise FastsiaError(f"{loaded.model_name} is not, or no longer, the model that wrote this run.")
    drawing = _AlternativeDrawing(loaded, store, AlternativeStore(path), config, identity, num_rollouts, progress)
    for row in trajectories.to_dict("records"):
        drawing.plan(row, threshold, positions, most)
    drawing.draw()
    with store.snapshot() as now:
        return read_alternatives(now, problem_id)


class _AlternativeDrawing:
    """Draws rollouts after forced tokens and stores them.

    A rollout after a token is drawn as one that an earlier run has begun with it. So the engine computes each
    trajectory once, and rollouts on the same tokens once. Its index in the engine is its number times
    MOST_FORCED, plus the place of its token.
    """

    def __init__(
        self,
        model: NativeBackend,
        store: Store,
        alternatives: AlternativeStore,
        config: SIAConfig,
        identity: Mapping[str, Any],
        num_rollouts: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._model, self._store, self._alternatives = model, store, alternatives
        self._config, self._num_rollouts, self._progress = config, num_rollouts, progress
        self._task, self._fingerprint = str(identity["task"]), str(identity["model"]["fingerprint"])
        self._problems: dict[Any, Any] = {row["problem_id"]: row for row in store.problems().to_dict("records")}
        self._planned: list[Request] = []
        self._tokens: dict[Any, dict[tuple[int, int], int]] = {}  # by request: the token by position and place
        self._parts: dict[Any, list[Rollouts]] = {}
        self._stored: dict[Any, set[tuple[int, int]]] = {}
        self._done = self._total = 0
        self._run: Run | None = None

    def plan(self, row: Mapping[Any, Any], threshold: float, positions: int, most: int) -> None:
        """Add the rollouts that one trajectory lacks, after at most `most` alternatives at each of `positions` tokens.

        Args:
            row: of `Store.trajectories`.
            threshold: nats; a token of a higher entropy is a forking token.
        """
        key = (str(row["problem_id"]), int(row["trajectory"]))
        own = row["token_ids"].tolist()
        at = np.flatnonzero(row["token_entropies"] > threshold)
        at = at[np.argsort(-row["token_entropies"][at], kind="stable")]  # the most uncertain first
        if not len(at):
            return
        sampling = SamplingParams(self._config.temperature, self._config.top_p, self._config.max_tokens)
        engine, prompt = self._model.engine, row["prompt_token_ids"].tolist()
        found = engine.next_tokens(prompt, own, at.tolist(), min(most + 1, engine.runner.vocab_size), sampling)
        wanted: list[tuple[int, int, float]] = []
        left = positions
        for i, position in enumerate(at.tolist()):
            others = [
                (position, token, logprob)
                for token, logprob in zip(found.token_ids[i].tolist(), found.logprobs[i].tolist(), strict=True)
                if token != own[position] and np.exp(logprob) >= LEAST_PROBABILITY
            ]
            if others and left:
                wanted += [(position, own[position], float(found.own_logprobs[i])), *others[:most]]
                left -= 1
        forced = self._alternatives.begin(*key, checksum_of(row, self._fingerprint), wanted)
        done = self._alternatives.finished(*key)
        self._total += len(forced) * self._num_rollouts
        missing = {
            (one.position, number * MOST_FORCED + one.place): one
            for one in forced
            for number in range(self._num_rollouts)
            if (one.position, one.token, number) not in done
        }
        self._done += len(forced) * self._num_rollouts - len(missing)
        if missing:
            self._tokens[key] = {(one.position, one.place): one.token for one in forced}
            self._planned.append(self._request(key, row, missing))

    def _request(self, key: tuple[str, int], row: Mapping[Any, Any], missing: dict[Any, ForcedToken]) -> Request:
        problem = problem_of(self._problems[key[0]])
        task = stored_task(self._task, [problem])
        prompt = build_prompt(task, problem, self._model.tokenizer, **prompt_options(self._config))
        stop = None
        if self._config.stop_at_answer:
            stop = response_spec(
                task, problem, prompt.starts_in_think, expects_think(prompt, self._config, self._model), self._config
            )
        names = sorted(missing)
        forced = [missing[name] for name in names]
        rollouts = Rollouts(
            checkpoint=np.array([position for position, _ in names], dtype=np.int32),
            index=np.array([index for _, index in names], dtype=np.int32),
            offsets=np.arange(len(names) + 1),
            token_ids=np.array([one.token for one in forced], dtype=np.int32),
            logprobs=np.array([one.logprob for one in forced], dtype=np.float32),
            finish_reason=np.full(len(names), UNFINISHED, dtype=np.int8),
        )
        self._parts[key] = [rollouts]
        self._stored[key] = set()
        own = row["token_ids"]
        drawn = Drawn(len(own), own, row["logprobs"], row["token_entropies"], str(row["finish_reason"]), rollouts)
        return Request(
            key=key,
            prompt_ids=tuple(row["prompt_token_ids"].tolist()),
            sampling=SamplingParams(self._config.temperature, self._config.top_p, self._config.max_tokens, prompt.stop),
            num_rollouts=self._num_rollouts,
            seed=request_seed(self._config.seed, f"{key[0]}\x1falternatives", key[1]),
            trajectory_ids=tuple(own.tolist()),
            checkpoints=tuple(sorted({position for position, _ in names})),
            rollout_budget=self._config.rollout_budget,
            share=self._config.share,
            answer_stop=stop,
            drawn=drawn,
            rollouts=tuple(names),
        )

    def draw(self) -> None:
        """Draw what is planned; on an interrupt, what has ended is stored."""
        self._report_progress()
        saved = time.monotonic()

        def watch(run: Run) -> None:
            nonlocal saved
            self._run = run
            if time.monotonic() - saved >= _SAVE_SECONDS:
                self._save()
                saved = time.monotonic()

        try:
            for trajectory in self._model.engine.run(iter(self._planned), watch):
                assert trajectory.rollouts is not None
                self._keep(trajectory.key, trajectory.rollouts)
                del self._parts[trajectory.key]
        finally:
            self._save()

    def _save(self) -> None:
        """Store the rollouts that have ended in the unfinished trajectories."""
        for request, part in [] if self._run is None else self._run.take_drawn():
            if request.key in self._parts:
                self._parts[request.key] = [Rollouts.join([*self._parts[request.key], part.rollouts])]
                whole = self._parts[request.key][0]
                self._keep(request.key, whole.take(whole.finish_reason != UNFINISHED))
        self._report_progress()

    def _keep(self, key: Any, rollouts: Rollouts) -> None:
        """Store rollouts that have ended and are not stored."""
        rows, stored = list[tuple[int, int, int, str, np.ndarray]](), self._stored[key]
        for r in range(len(rollouts)):
            position, index = int(rollouts.checkpoint[r]), int(rollouts.index[r])
            if (position, index) in stored:
                continue
            stored.add((position, index))
            one = rollouts.row(r)
            if one.finish_reason != "error":
                token = self._tokens[key][position, index % MOST_FORCED]
                rows.append((position, token, index // MOST_FORCED, one.finish_reason, np.array(one.token_ids)))
        if rows:
            self._done += self._alternatives.add(key[0], key[1], rows)

    def _report_progress(self) -> None:
        if self._progress is not None:
            self._progress(self._done, self._total)
