"""The table of rollouts as arrays: who drew what, where. Everything in `sia` reads this, never the frame again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, time, timedelta
from typing import Any

import numpy as np
import pandas as pd

from fastsia.errors import FastsiaError

MATCHED = ("matched_tokens", "ride_tokens")
"""The column of matched tokens, and its old name."""
COLUMNS = ("problem_id", "trajectory", "checkpoint", "rollout", "answer", "gold")
"""Columns that a table of rollouts must have."""

NULL = -1
"""Code of "no answer could be read", a class of its own."""

# Positions, numbers and counts; a float represents every integer up to here.
_LARGEST = 1 << 53


@dataclass(frozen=True)
class LocalAnswers:
    """Answers numbered within their trajectory, by first appearance: 0 (no answer) to V - 1.

    Attributes:
        code: int64 [R], of each rollout.
        gold: int64 [T], of the gold answer.
        number: int64 [T], V.
        global_code: int32 [sum of V], the code in `RolloutTable.answers`, trajectory after trajectory.
        offsets: int64 [T + 1]; trajectory i owns global_code[offsets[i]:offsets[i + 1]].
    """

    code: np.ndarray
    gold: np.ndarray
    number: np.ndarray
    global_code: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True)
class RolloutTable:
    """Rollouts in columns, ordered by (problem, trajectory, checkpoint, rollout).

    The letters of shapes, here and in all of `fastsia.sia`: P problems, T trajectories, G checkpoints over all
    trajectories, R rollouts, A distinct answers; also K half-splits or positions of a curve, Q positions of
    `curves.GRID` and B bootstrap resamples. In `decomposition`: V answers of a trajectory, M checkpoints of a chunk, K
    the largest V in it, and S sets of rollouts.

    Attributes:
        problem_ids: object [P], in order of first appearance.
        problem_offsets: int64 [P + 1]; problem p owns trajectories problem_offsets[p]:problem_offsets[p + 1].
        trajectory: int64 [T], the trajectory's number within its problem.
        trajectory_offsets: int64 [T + 1]; trajectory i owns checkpoints
            trajectory_offsets[i]:trajectory_offsets[i + 1].
        checkpoint: int64 [G], the token position.
        checkpoint_offsets: int64 [G + 1]; checkpoint g owns rollouts checkpoint_offsets[g]:checkpoint_offsets[g + 1].
        rollout: int64 [R], the rollout's index within its checkpoint.
        code: int32 [R], index into `answers`, NULL for none.
        answers: object [A], the distinct answers (golds included).
        gold: int32 [T], index into `answers`.
        correct: bool [T]; given with the table, else whether the mode at the last checkpoint is the gold answer.
        num_answers: int32 [T], V: the distinct answers over all checkpoints of the trajectory, with gold and null.
        num_left_out: int64 [T], checkpoints left out because no token was left to draw (rollout_budget "total").
        matched: int64 [R] or None, how many tokens of each rollout agree with its trajectory from the checkpoint on.
        cut: bool [R] or None, whether the token limit ended the rollout.
        tokens: int64 [R] or None, how many tokens each rollout has.
        decided: bool [R] or None, whether the rollout was stopped because no continuation could change its answer.
        logprob: float64 [R] or None, nats, of each rollout's text; NaN where it is not known.
        num_errors: rows left out because their rollout failed (finish_reason "error").
        correct_given: whether `correct` came with the table.
    """

    problem_ids: np.ndarray
    problem_offsets: np.ndarray
    trajectory: np.ndarray
    trajectory_offsets: np.ndarray
    checkpoint: np.ndarray
    checkpoint_offsets: np.ndarray
    rollout: np.ndarray
    code: np.ndarray
    answers: np.ndarray
    gold: np.ndarray
    correct: np.ndarray
    num_answers: np.ndarray
    num_left_out: np.ndarray
    matched: np.ndarray | None = None
    cut: np.ndarray | None = None
    tokens: np.ndarray | None = None
    decided: np.ndarray | None = None
    logprob: np.ndarray | None = None
    num_errors: int = 0
    correct_given: bool = False

    @property
    def num_problems(self) -> int:
        return len(self.problem_ids)

    @property
    def num_trajectories(self) -> int:
        return len(self.trajectory)

    @property
    def num_checkpoints(self) -> int:
        return len(self.checkpoint)

    @property
    def num_rollouts(self) -> int:
        return len(self.code)

    @property
    def problem_of_trajectory(self) -> np.ndarray:
        """int64 [T]."""
        return np.repeat(np.arange(self.num_problems), np.diff(self.problem_offsets))

    @property
    def trajectory_of_checkpoint(self) -> np.ndarray:
        """int64 [G]."""
        return np.repeat(np.arange(self.num_trajectories), np.diff(self.trajectory_offsets))

    @property
    def checkpoint_of_rollout(self) -> np.ndarray:
        """int64 [R], the index of the checkpoint's row (not its position)."""
        return np.repeat(np.arange(self.num_checkpoints), np.diff(self.checkpoint_offsets))

    @property
    def count(self) -> np.ndarray:
        """int64 [G], rollouts at each checkpoint."""
        return np.diff(self.checkpoint_offsets)

    @property
    def last(self) -> np.ndarray:
        """int64 [T], each trajectory's last checkpoint row."""
        return self.trajectory_offsets[1:] - 1

    @property
    def first(self) -> np.ndarray:
        """int64 [T], each trajectory's first checkpoint row."""
        return self.trajectory_offsets[:-1]

    def index_in_checkpoint(self) -> np.ndarray:
        """int64 [R]: the rollout's index, or its place within the checkpoint where indices are not 0..N-1."""
        widest = int(self.count.max(initial=0))
        if self.num_rollouts and self.rollout.min() >= 0 and self.rollout.max() < widest:
            return self.rollout
        return np.arange(self.num_rollouts) - np.repeat(self.checkpoint_offsets[:-1], self.count)

    def local_answers(self) -> LocalAnswers:
        """Numbers the answers of each trajectory's rollouts, together with no answer and the gold answer."""
        width, number = len(self.answers) + 1, self.num_trajectories
        owner = np.repeat(self.trajectory_of_checkpoint, self.count)
        drawn, gold = (
            of * width + (code.astype(np.int64) - NULL)
            for of, code in ((owner, self.code), (np.arange(number), self.gold))
        )
        keys = np.concatenate([np.arange(number) * width, drawn, gold])
        distinct, first, place = np.unique(keys, return_index=True, return_inverse=True)
        order = np.lexsort((first, distinct // width))  # by first appearance, whatever the codes are
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        place = rank[place]
        offsets = np.searchsorted(distinct, np.arange(number + 1) * width)
        global_code = (distinct[order] % width + NULL).astype(np.int32)
        local = place[number:-number] - offsets[owner], place[-number:] - offsets[:-1]
        return LocalAnswers(*local, np.diff(offsets), global_code, offsets)

    def keep(self, rollouts: np.ndarray) -> RolloutTable:
        """The table of some rollouts only (bool [R]), as if no other had been drawn: V is counted again.

        Checkpoints, trajectories and problems left empty go. `correct` stays the trajectory's own.
        """
        kept_of_checkpoint = np.add.reduceat(rollouts.astype(np.int64), self.checkpoint_offsets[:-1])
        alive = kept_of_checkpoint > 0
        of_trajectory = np.add.reduceat(alive.astype(np.int64), self.trajectory_offsets[:-1])
        traced = of_trajectory > 0
        of_problem = np.add.reduceat(traced.astype(np.int64), self.problem_offsets[:-1])
        if not traced.any():
            raise FastsiaError("no rollout is left to analyse.")
        table = replace(
            self,
            problem_ids=self.problem_ids[of_problem > 0],
            problem_offsets=_offsets(of_problem[of_problem > 0]),
            trajectory=self.trajectory[traced],
            trajectory_offsets=_offsets(of_trajectory[traced]),
            checkpoint=self.checkpoint[alive],
            checkpoint_offsets=_offsets(kept_of_checkpoint[alive]),
            rollout=self.rollout[rollouts],
            code=self.code[rollouts],
            gold=self.gold[traced],
            correct=self.correct[traced],
            num_left_out=self.num_left_out[traced],
            matched=None if self.matched is None else self.matched[rollouts],
            cut=None if self.cut is None else self.cut[rollouts],
            tokens=None if self.tokens is None else self.tokens[rollouts],
            decided=None if self.decided is None else self.decided[rollouts],
            logprob=None if self.logprob is None else self.logprob[rollouts],
        )
        return replace(table, num_answers=_count_answers(table))


def encode(rollouts: pd.DataFrame) -> RolloutTable:
    """Read a table of rollouts, one row per rollout, in any order.

    Columns: `COLUMNS`, and where there: `correct` (one value a trajectory), `finish_reason` ("error" rows are dropped
    and counted), `num_tokens` (with finish_reason, finds checkpoints that had no token left), `matched_tokens`.
    A null or empty `answer` is the null class. Numeric answers and golds are compared as text, 42.0 being "42".

    Raises FastsiaError naming the column, and the row (0 is the first) where one is at fault.
    """
    missing = [name for name in COLUMNS if name not in rollouts.columns]
    if missing:
        raise FastsiaError(f"the table of rollouts lacks column {missing[0]!r}; it must have {', '.join(COLUMNS)}.")
    if len(rollouts) == 0:
        raise FastsiaError("the table of rollouts is empty.")
    require_single(rollouts.columns, "the table of rollouts")

    frame_row = np.arange(len(rollouts))
    finish = finish_reasons(rollouts["finish_reason"]) if "finish_reason" in rollouts.columns else None
    num_errors = 0
    if finish is not None:
        failed = finish == "error"
        num_errors = int(failed.sum())
        if num_errors == len(rollouts):
            raise FastsiaError("every rollout of the table failed (finish_reason 'error'); nothing is left to analyse.")
        if num_errors:
            frame_row = frame_row[~failed]
            finish = finish[~failed]
            rollouts = rollouts.loc[~failed]

    for name in ("problem_id", "answer", "gold"):
        _require_text(rollouts[name], name, frame_row)
    problem, ids = _factorize(rollouts["problem_id"], "problem_id", frame_row, null_allowed=False)
    trajectory = _integers(rollouts["trajectory"], "trajectory", frame_row)
    checkpoint = _integers(rollouts["checkpoint"], "checkpoint", frame_row)
    rollout = _integers(rollouts["rollout"], "rollout", frame_row)
    code, answers = _factorize(rollouts["answer"], "answer", frame_row, null_allowed=True)
    gold, golds = _factorize(rollouts["gold"], "gold", frame_row, null_allowed=False)
    correct = _booleans(rollouts["correct"], "correct", frame_row) if "correct" in rollouts.columns else None
    column = next((name for name in MATCHED if name in rollouts.columns), None)
    matched = None if column is None else _integers(rollouts[column], column, frame_row)
    cut = None if finish is None else finish == "length"
    decided = None if finish is None else finish == "answer"
    logprob = _numbers(rollouts["logprob"]) if "logprob" in rollouts.columns else None
    tokens = _integers(rollouts["num_tokens"], "num_tokens", frame_row) if "num_tokens" in rollouts.columns else None

    keys = (problem, trajectory, checkpoint, rollout)
    if not _sorted(keys):
        order = np.lexsort(keys[::-1])
        problem, trajectory, checkpoint, rollout = (key[order] for key in keys)
        code, gold, frame_row = code[order], gold[order], frame_row[order]
        correct = None if correct is None else correct[order]
        matched = None if matched is None else matched[order]
        cut = None if cut is None else cut[order]
        tokens = None if tokens is None else tokens[order]
        decided = None if decided is None else decided[order]
        logprob = None if logprob is None else logprob[order]

    new_trajectory = _changes(problem, trajectory)
    new_checkpoint = new_trajectory | _changes(checkpoint)
    repeated = ~(new_checkpoint | _changes(rollout))
    if repeated.any():
        row = int(np.flatnonzero(repeated)[0])
        raise FastsiaError(
            f"row {frame_row[row]} repeats rollout {rollout[row]} at checkpoint {checkpoint[row]} "
            f"of trajectory {trajectory[row]} of problem {ids[problem[row]]!r}."
        )
    starts = np.flatnonzero(new_trajectory)
    owner = np.cumsum(new_trajectory) - 1
    _require_constant(gold, starts, owner, "gold", frame_row)

    known = {answer: i for i, answer in enumerate(answers)}
    unseen = [text for text in golds if text not in known]
    known |= {text: len(answers) + i for i, text in enumerate(unseen)}
    vocabulary = np.array([*answers, *unseen], dtype=object)
    gold_code = np.array([known[text] for text in golds], dtype=np.int32)[gold[starts]]
    if correct is not None:
        _require_constant(correct, starts, owner, "correct", frame_row)

    checkpoint_rows = np.flatnonzero(new_checkpoint)
    table = RolloutTable(
        problem_ids=np.array(ids, dtype=object),
        problem_offsets=_boundaries(_changes(problem[starts]), len(starts)),
        trajectory=trajectory[starts],
        trajectory_offsets=_boundaries(new_trajectory[checkpoint_rows], len(checkpoint_rows)),
        checkpoint=checkpoint[checkpoint_rows],
        checkpoint_offsets=np.append(checkpoint_rows, len(code)).astype(np.int64),
        rollout=rollout,
        code=code,
        answers=vocabulary,
        gold=gold_code,
        correct=np.zeros(len(starts), dtype=bool) if correct is None else correct[starts],
        num_answers=np.zeros(len(starts), dtype=np.int32),
        num_left_out=np.zeros(len(starts), dtype=np.int64),
        matched=matched,
        cut=cut,
        tokens=tokens,
        decided=decided,
        logprob=logprob,
        num_errors=num_errors,
        correct_given=correct is not None,
    )
    if tokens is not None and cut is not None:
        spent = np.logical_and.reduceat(cut & (tokens == 0), table.checkpoint_offsets[:-1])
        if spent.any():
            left_out = np.add.reduceat(spent.astype(np.int64), table.trajectory_offsets[:-1])
            table = replace(table, num_left_out=left_out).keep(~np.repeat(spent, table.count))
    return replace(table, num_answers=_count_answers(table))


# Names that other engines and servers give to the end by a token limit, in lower case.
_CUT = {
    "length",
    "max_tokens",
    "max_length",
    "max_new_tokens",
    "max_output_tokens",
    "model_length",
    "model_context_window_exceeded",
}


def finish_reasons(column: pd.Series) -> np.ndarray:
    """The reasons of a table's rollouts, object [R]: "length" and "error" spelled so, whatever engine wrote them
    ("MAX_TOKENS", "FinishReason.LENGTH"); any other as it is."""
    try:
        code, reasons = pd.factorize(column)
    except TypeError:  # a list or the like has no spelling
        return column.to_numpy(object)
    spelled: list[Any] = [None] * (len(reasons) + 1)  # code -1, a null, is the last
    for i, reason in enumerate(reasons):
        name = str(reason).strip().lower().rpartition(".")[2]
        spelled[i] = "length" if name in _CUT else name if name == "error" else reason
    return np.array(spelled, dtype=object)[code]


_TEXTS = ("problem_id", "answer", "gold", "finish_reason", "answer_strict", "answer_lenient")
_NUMBERS = ("trajectory", "checkpoint", "rollout", "num_tokens", *MATCHED, "logprob")
_AS_THEY_ARE = ("seed", "token_ids")
_FLAGS = ("correct", "correct_strict", "correct_lenient")
_READ = {*_TEXTS, *_NUMBERS, *_AS_THEY_ARE, *_FLAGS}


def storable(rollouts: pd.DataFrame) -> pd.DataFrame:
    """A table that `encode` takes, as a file can hold it: each column of one type, with what `encode` reads in it.

    Of columns, those that a run's own rollouts have, and `correct` with its two readings.
    """
    columns: dict[str, Any] = {}
    for name in rollouts.columns:
        column = rollouts[name]
        if name in _TEXTS:
            is_text = pd.api.types.infer_dtype(column, skipna=True) in ("string", "empty")
            columns[name] = column if is_text else [None if _is_null(value) else _text(value) for value in column]
        elif name in _NUMBERS:
            columns[name] = column if column.dtype.kind in "iuf" else _whole(_numbers(column))
        elif name in _FLAGS:
            is_flag = column.dtype.kind == "b"
            columns[name] = column if is_flag else [_TRUTH.get(_text(value).lower()) for value in column]
        elif name in _AS_THEY_ARE:
            columns[name] = column
    return pd.DataFrame(columns, index=rollouts.index)


def _is_null(value: Any) -> bool:
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _whole(numbers: np.ndarray) -> np.ndarray:
    """As int64 where all of them are integers."""
    return numbers.astype(np.int64) if (np.abs(numbers) <= _LARGEST).all() and not (numbers % 1).any() else numbers


def _count_answers(table: RolloutTable) -> np.ndarray:
    """V of each trajectory, int32 [T]."""
    width = len(table.answers)
    owner = np.repeat(table.trajectory_of_checkpoint, table.count)
    drawn = table.code != NULL
    pairs = np.concatenate(
        [owner[drawn] * width + table.code[drawn], np.arange(table.num_trajectories) * width + table.gold]
    )
    distinct = np.unique(pairs) // max(width, 1)
    return (np.bincount(distinct, minlength=table.num_trajectories) + 1).astype(np.int32)


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _boundaries(new: np.ndarray, length: int) -> np.ndarray:
    return np.append(np.flatnonzero(new), length).astype(np.int64)


def _changes(*columns: np.ndarray) -> np.ndarray:
    """bool [R]: where any of the columns differs from the row before; True at the first row."""
    changed = np.zeros(len(columns[0]), dtype=bool)
    changed[0] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return changed


def _sorted(keys: Sequence[np.ndarray]) -> bool:
    """Whether the rows are in lexicographic order of the keys."""
    tied = np.ones(len(keys[0]) - 1, dtype=bool)
    for key in keys:
        if bool((tied & (key[1:] < key[:-1])).any()):
            return False
        tied &= key[1:] == key[:-1]
    return True


def require_single(columns: Iterable[Any], what: str) -> None:
    """Refuse a name that two of the columns that are read have: which of them is meant?"""
    count = Counter(name for name in columns if name in _READ)
    twice = next((name for name in count if count[name] > 1), None)
    if twice is not None:
        raise FastsiaError(f"{what} has {count[twice]} columns named {twice!r}.")


_NO_TEXT = (bytes, bytearray, date, time, timedelta)
_ARE_TEXT = {"string", "integer", "floating", "mixed-integer-float", "boolean", "decimal", "empty"}


def _require_text(column: pd.Series, name: str, frame_row: np.ndarray) -> None:
    """Bytes and dates have a spelling too, but none that equals an answer's."""
    if pd.api.types.infer_dtype(column, skipna=True) in _ARE_TEXT:
        return
    for row, value in enumerate(column):
        if isinstance(value, _NO_TEXT) and value is not pd.NaT:
            kind = type(value).__name__
            raise FastsiaError(
                f"row {frame_row[row]}: {name} must be a text or a number, got {value!r:.60} of type {kind}."
            )


def _factorize(
    column: pd.Series, name: str, frame_row: np.ndarray, *, null_allowed: bool
) -> tuple[np.ndarray, list[str]]:
    """Codes int32 in order of first appearance (NULL for none) and the distinct texts."""
    codes, uniques = _distinct(column, name, frame_row, "a text or a number")
    texts = [_text(value) for value in uniques]
    distinct = {text: i for i, text in enumerate(dict.fromkeys(text for text in texts if text))}
    if len(distinct) != len(texts):  # 42 and 42.0 in one column, or empty texts
        remap = np.array([distinct.get(text, NULL) for text in texts] + [NULL], dtype=np.int64)
        codes = remap[codes]
    if not null_allowed and bool((codes < 0).any()):
        row = int(np.flatnonzero(codes < 0)[0])
        raise FastsiaError(f"row {frame_row[row]} of the table of rollouts has no {name}.")
    return codes.astype(np.int32), list(distinct)


def _distinct(column: pd.Series, name: str, frame_row: np.ndarray, rule: str) -> tuple[np.ndarray, Any]:
    """`pd.factorize`; what it does not take is named with its row."""
    try:
        return pd.factorize(column)
    except TypeError as error:
        row = next((i for i, value in enumerate(column) if not isinstance(value, Hashable)), 0)
        raise FastsiaError(f"row {frame_row[row]}: {name} must be {rule}, got {column.iloc[row]!r:.60}.") from error


def _text(value: Any) -> str:
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value).strip() if isinstance(value, str) else str(value)


def _integers(column: pd.Series, name: str, frame_row: np.ndarray) -> np.ndarray:
    """int64, none null and none negative."""
    if column.dtype.kind in "iu":
        values = column.to_numpy(np.int64)
    else:
        numbers = _numbers(column)
        wrong = ~((np.abs(numbers) <= _LARGEST) & (numbers == np.floor(numbers)))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise FastsiaError(f"row {frame_row[row]}: {name} must be an integer, got {column.iloc[row]!s:.60}.")
        values = numbers.astype(np.int64)
    if values.size and values.min() < 0:
        row = int(np.argmax(values < 0))
        raise FastsiaError(f"row {frame_row[row]}: {name} must be at least 0, got {values[row]}.")
    return values


def _numbers(column: pd.Series) -> np.ndarray:
    """float64, NaN where there is no number, or none that is meant."""
    try:
        found = pd.to_numeric(column, errors="coerce")
    except OverflowError:  # an integer beyond every float
        small = column.map(lambda value: None if isinstance(value, int) and abs(value) > _LARGEST else value)
        found = pd.to_numeric(small, errors="coerce")
    return found.to_numpy(np.float64, na_value=np.nan)


_TRUTH = {"true": True, "false": False, "1": True, "0": False}


def _booleans(column: pd.Series, name: str, frame_row: np.ndarray) -> np.ndarray:
    if column.dtype.kind == "b":
        return column.to_numpy(bool)
    codes, uniques = _distinct(column, name, frame_row, "true or false")
    truth = np.array([_TRUTH.get(_text(value).lower(), -1) for value in uniques] + [-1], dtype=np.int64)[codes]
    if bool((truth < 0).any()):
        row = int(np.flatnonzero(truth < 0)[0])
        raise FastsiaError(f"row {frame_row[row]}: {name} must be true or false, got {column.iloc[row]}.")
    return truth.astype(bool)


def _require_constant(
    values: np.ndarray, starts: np.ndarray, owner: np.ndarray, name: str, frame_row: np.ndarray
) -> None:
    differs = values != values[starts][owner]
    if differs.any():
        row = int(np.flatnonzero(differs)[0])
        raise FastsiaError(f"row {frame_row[row]}: {name} differs from that of an earlier row of its trajectory.")
