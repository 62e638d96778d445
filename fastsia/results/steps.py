"""The steps of a stored run with their texts, and what the model writes in their place."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fastsia.answers.boundaries import sentence_ends, widen
from fastsia.answers.vocabulary import Vocabulary
from fastsia.errors import FastsiaError
from fastsia.report.tables import format_p
from fastsia.results.reader import Store
from fastsia.sia.two_samples import compare_counts, total_variation

SAME_WORDS = 0.5
"""Two texts differ in meaning, for the purpose of steps, if they share less than this part of their words and numbers.
Chosen by fastsia."""

_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"\d+(?:[.,]\d+)*|\w+")


def overlap(one: str, other: str) -> float:
    """The words and numbers that two texts share, as a part of all that either has; each counts as often as it occurs
    (Jaccard's index of multisets). Case does not matter. 1 where neither has any."""
    first, second = (Counter(_WORD.findall(text.lower())) for text in (one, other))
    whole = (first | second).total()
    return (first & second).total() / whole if whole else 1.0


def refuse_shuffled(store: Store) -> None:
    """Raise FastsiaError if the run's prefixes are shuffled, so that no rollout continues its trajectory."""
    if store.identity()["config"].get("shuffle_prefix"):
        raise FastsiaError(f"{store.path} is a run with shuffled prefixes: its rollouts do not continue trajectories.")


def continued(store: Store) -> Iterator[tuple[dict[Any, Any], pd.DataFrame]]:
    """Each trajectory of a run, as a row of `Store.trajectories`, with its rollouts that did not fail.

    Args:
        store: A snapshot of the run.

    Raises:
        FastsiaError: The run's prefixes are shuffled, so that no rollout continues its trajectory.
    """
    refuse_shuffled(store)
    trajectories: dict[Any, Any] = {
        (row["problem_id"], row["trajectory"]): row for row in store.trajectories().to_dict("records")
    }
    for chunk in store.rollouts():
        drawn = chunk[chunk["finish_reason"] != "error"]
        for key, rollouts in drawn.groupby(["problem_id", "trajectory"], sort=False):
            yield trajectories[key], rollouts


def read_steps(store: Store, steps: pd.DataFrame) -> pd.DataFrame:
    """Add texts to steps, and the comparison with those rollouts whose replacement differs in meaning.

    A rollout that leaves the trajectory within a step writes something else in its place: as many tokens as the step
    has, from where the step begins, or fewer if it ends before.

    Args:
        store: A snapshot of the run.
        steps: Rows of `SIAResult.checkpoints` with a step.

    Returns:
        The rows with `text`, what the step says; `text_before` and `text_after`, the rest of its sentences;
        `replacement`, the first text in its place that differs in meaning
        (None: no rollout has one); `num_different`, rollouts with such a text, by `SAME_WORDS`; and of these
        `different_gold`, the share with the gold answer, `different_importance`, the total variation to the answers
        after the step, its value `different_by_chance` if it made no difference, and its `different_p_value` (NaN
        where there are none). In the order given.

    Raises:
        FastsiaError: The run's prefixes are shuffled, so that no rollout continues its trajectory.
    """
    vocabulary = store.vocabulary()
    wanted: dict[Any, list[int]] = {}
    for place, owner in enumerate(zip(steps["problem_id"], steps["trajectory"], strict=True)):
        wanted.setdefault(owner, []).append(place)
    alone = store.identity()["config"].get("rollout_budget") == "new"
    found: list[dict[str, Any]] = [{} for _ in range(len(steps))]
    for trajectory, rollouts in continued(store):
        for place in wanted.get((trajectory["problem_id"], trajectory["trajectory"]), ()):
            step = steps.iloc[place]
            span = int(step["checkpoint"]), int(step["step_end"])
            found[place] = _read_step(span, trajectory, rollouts, vocabulary, alone)
    return pd.concat([steps.reset_index(drop=True), pd.DataFrame(found)], axis=1)


def step_texts(store: Store, steps: pd.DataFrame) -> dict[tuple[str, int, int], tuple[str, str, str]]:
    """What steps say, by problem id, trajectory and checkpoint: `_in_sentences`.

    Args:
        store: A snapshot of the run.
        steps: Rows of `SIAResult.checkpoints` with a step.
    """
    vocabulary, trajectories = store.vocabulary(), store.trajectories()
    ids = dict(
        zip(
            zip(trajectories["problem_id"], trajectories["trajectory"], strict=True),
            trajectories["token_ids"],
            strict=True,
        )
    )
    return {
        (str(step["problem_id"]), int(step["trajectory"]), int(step["checkpoint"])): _in_sentences(
            (int(step["checkpoint"]), int(step["step_end"])), ids[step["problem_id"], step["trajectory"]], vocabulary
        )
        for step in steps.to_dict("records")
    }


def _in_sentences(span: tuple[int, int], token_ids: Sequence[int], vocabulary: Vocabulary) -> tuple[str, str, str]:
    """What the sentences of a step say before it, the step's own text, and what they say after it."""
    begin, end = span
    before, text, after = map(vocabulary.decode, (token_ids[:begin], token_ids[begin:end], token_ids[end:]))
    whole = before + text + after
    first, last = widen(whole, sentence_ends(whole), len(before), len(before) + len(text))
    return whole[first : len(before)], text, whole[len(before) + len(text) : last]


def describe_step(step: Mapping[Any, Any]) -> list[str]:
    """A row of `read_steps` as lines to read."""
    change, low, high = (step[f"step_gold_change{end}"] for end in ("", "_low", "_high"))
    before, after = (
        f"“{name}”" if isinstance(name, str) else "no answer" for name in (step["mode"], step["mode_after"])
    )
    where = f"{step['problem_id']}, trajectory {step['trajectory']}"
    answer = f"stays {after}" if before == after else f"goes from {before} to {after}"
    lines = [
        f"{where}, tokens {step['checkpoint']} to {step['step_end']:.0f}: the most frequent answer {answer}",
        f"  changes {100 * step['step_total_variation']:.0f} % of the answers ({100 * step['step_by_chance']:.0f} % by "
        f"chance, q = {format_p(step['step_q_value'])}); gold "
        f"{100 * change:+.0f} points [{100 * low:.0f}, {100 * high:.0f}]",
    ]
    if not isinstance(step.get("text"), str):
        return lines
    lines.append(f"  it says: {_quoted(step['text'], step.get('text_before', ''), step.get('text_after', ''))}")
    if step["num_different"]:
        lines += [
            f"  instead: {_quoted(step['replacement'])}",
            f"  of {step['num_different']} rollouts with other words there {100 * step['different_gold']:.0f} % are "
            f"right; importance {step['different_importance']:.2f} ({step['different_by_chance']:.2f} by chance, "
            f"p = {format_p(step['different_p_value'])})",
        ]
    return lines


def format_answer(answer: object) -> str:
    """An answer for reading."""
    return f"“{answer}”" if isinstance(answer, str) else "no answer"


def _quoted(text: str, before: str = "", after: str = "") -> str:
    """A text in one line and in quotation marks, its middle left out where it is long, with the nearest words before
    and after it."""
    before, text, after = (_SPACE.sub(" ", each) for each in (before.lstrip(), text, after.rstrip()))
    opening = " “" if before and " " in (before[-1], text[:1]) else "“"
    closing = "” " if after and " " in (after[0], text[-1:]) else "”"
    before, text, after = before.strip(), text.strip(), after.strip()
    if len(before) > 40:
        before = f"… {before[-40:].partition(' ')[2]}"
    if len(after) > 40:
        after = f"{after[:40].rpartition(' ')[0]} …"
    most = 200 - len(before) - len(after)
    if len(text) > most:
        text = f"{text[: most // 2]} … {text[-most // 2 :]}"
    return f"{before}{opening}{text}{closing}{after}"


def _read_step(
    span: tuple[int, int], trajectory: Any, rollouts: pd.DataFrame, vocabulary: Vocabulary, alone: bool
) -> dict[str, Any]:
    """`read_steps` of one step; alone: whether only rollouts from where it begins replace it."""
    begin, end = span
    before, text, after = _in_sentences(span, trajectory["token_ids"], vocabulary)
    start = rollouts["checkpoint"].to_numpy(np.int64)
    leave = start + rollouts["matched_tokens"].to_numpy(np.int64)
    leaves = (begin <= leave) & (leave < end) & ((start == begin) if alone else (start <= begin))
    # Stopped on the trajectory's own tokens, since its answer is decided: nothing was written in its place.
    stopped = rollouts["finish_reason"] == "answer"
    leaves &= ~(stopped & (rollouts["matched_tokens"] == rollouts["num_tokens"])).to_numpy(bool)
    different, replacement = [], None
    for row in np.flatnonzero(leaves).tolist():
        written = vocabulary.decode(rollouts["token_ids"].iloc[row][begin - start[row] : end - start[row]])
        if overlap(text, written) < SAME_WORDS:
            different.append(row)
            replacement = written if replacement is None else replacement
    answers = rollouts["answer"].where(rollouts["answer"].notna(), None)
    kept = answers[start == end].tolist()
    instead = answers.iloc[different].tolist()
    names = sorted({*kept, *instead}, key=str)
    counts = [np.array([[given.count(name) for name in names]]) for given in (kept, instead)]
    p_value, by_chance = compare_counts(counts[0], counts[1])
    gold = trajectory["gold"]
    return {
        "text": text,
        "text_before": before,
        "text_after": after,
        "replacement": replacement,
        "num_different": len(different),
        "different_gold": instead.count(gold) / len(instead) if instead else np.nan,
        "different_importance": total_variation(counts[0], counts[1])[0],
        "different_by_chance": by_chance[0],
        "different_p_value": p_value[0],
    }
