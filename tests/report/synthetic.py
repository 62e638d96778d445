"""A made-up run with texts, to draw and to read reports of."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from fastsia.config import SIAConfig
from fastsia.report import AnswerView, CheckpointView, ReportData, RolloutView, TrajectoryView, distinct_answers
from fastsia.report.data import best_of, steps_of
from fastsia.report.spans import units
from fastsia.sia import Analysis, TokenTraces, analyze_table
from fastsia.sia.table import encode
from tests.sia.simulate import draw, frame, moving

TEXT = (
    "She starts with the apples that are left over and adds what the market had brought in so we take total minus sold "
    "then divide by number of days which gives about half per basket therefore next step multiply price"
)
WORDS = TEXT.split()


def rollouts(num_problems: int = 40, num_checkpoints: int = 12, num_rollouts: int = 20, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(max(2, num_checkpoints // 2), num_checkpoints + 1, num_problems)
    answers = draw(moving(num_problems, num_checkpoints, rng), num_rollouts, rng)
    return frame(answers, null=4, lengths=lengths)


def traces(table: pd.DataFrame, seed: int = 0) -> TokenTraces:
    """Token entropies: every second token is sure. The last tenth of each trajectory states its answer."""
    rng = np.random.default_rng(seed)
    lengths = table.groupby("problem_id", sort=False)["checkpoint"].max().to_numpy()
    entropy = rng.exponential(0.5, lengths.sum()) * (rng.random(lengths.sum()) < 0.5)
    return TokenTraces(entropy.astype(np.float32), np.concatenate([[0], np.cumsum(lengths)]), lengths * 9 // 10)


def views(
    table: pd.DataFrame, analysis: Analysis, words_a_rollout: int = 60, hostile: str = "", seed: int = 0
) -> Iterator[TrajectoryView]:
    """One view a trajectory; `hostile` goes wherever a model or a dataset could put a text."""
    recorded = traces(table)
    rng = np.random.default_rng(seed)
    points = dict(tuple(analysis.checkpoints.groupby("problem_id")))
    rows = dict(tuple(table.groupby("problem_id")))
    for number, record in enumerate(analysis.trajectories.to_dict("records")):
        mine, scores = rows[record["problem_id"]], points[record["problem_id"]]
        found = zip(scores["entropy"], scores["gold_surprisal"], best_of(scores), steps_of(scores), strict=True)
        length = int(record["last_checkpoint"])
        tokens = [" " + WORDS[i] for i in rng.integers(0, len(WORDS), length)]
        checkpoints = []
        drawn = distinct_answers(mine["checkpoint"].to_numpy(), mine["answer"].tolist())
        for (position, answers), (entropy, surprisal, best, step) in zip(drawn, found, strict=True):
            shown = []
            for answer, count, _ in answers:
                words = " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), words_a_rollout))
                text = f" {words}{hostile}. #### {answer}"
                place = (units(text) - units(str(answer)), units(text))
                shown.append(AnswerView(answer, count, [RolloutView(text, place)]))
            whole = (0, sum(map(units, tokens)))
            checkpoints.append(CheckpointView(position, entropy, surprisal, shown, best, step, whole))
        yield TrajectoryView(
            problem_id=record["problem_id"],
            trajectory=int(record["trajectory"]),
            question=f"How many {WORDS[length % len(WORDS)]} are there after {length} days?{hostile}",
            gold=record["gold"],
            answer=record["final_mode"],
            correct=record["correct"],
            prompt=f"Question: how many?{hostile}\nAnswer:",
            tokens=[*tokens[:-1], hostile or " end"],
            token_entropies=recorded.entropy[recorded.offsets[number] : recorded.offsets[number + 1]].tolist(),
            finish_reason="eos",
            checkpoints=checkpoints,
        )


def report_data(table: pd.DataFrame, *, hostile: str = "", words_a_rollout: int = 60) -> ReportData:
    analysis = analyze_table(encode(table), SIAConfig(num_bootstrap=400), traces=traces(table))
    summary = {**analysis.summary, "model": f"demo:made-up{hostile}", "task": "simulated", "version": "test"}
    return ReportData(
        summary,
        analysis.trajectories,
        analysis.checkpoints,
        analysis.curves,
        analysis.tables,
        views(table, analysis, words_a_rollout, hostile),
    )
