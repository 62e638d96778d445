"""Empirical answer distributions: counts, entropies in nats, gold surprisal.

Estimators for counts c_a of N draws with K distinct answers, where a missing answer is a class like any other:

- plug-in: H = -sum_a p_a ln p_a with p_a = c_a / N.
- Miller-Madow (Miller 1955): H + (K - 1) / (2 N).
- Chao-Shen (Chao and Shen 2003): -sum_a C p_a ln(C p_a) / (1 - (1 - C p_a)^N) with the coverage C = 1 - f_1 / N
  and f_1 the number of answers seen once. If every answer was seen once, f_1 is N - 1, so that C = 1 / N.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsia.errors import FastsiaError

Estimator = Literal["plugin", "miller_madow", "chao_shen"]
NULL_CODE = -1
ABSENT_CODE = -2


@dataclass(frozen=True)
class AnswerSummary:
    """Statistics of groups of answers, in columns [G].

    Attributes:
        count: int64, draws of the group (N).
        entropy: float64, nats; NaN for an empty group, as the two below.
        entropy_miller_madow: float64, nats.
        entropy_chao_shen: float64, nats.
        gold_surprisal: float64, -ln((gold_count + alpha) / (N + alpha V)), nats.
        gold_count: int64.
        null_count: int64.
        mode: int32, the most frequent code, the first drawn of a tie; -1 if that is no answer or the group is empty.
        num_distinct: int64, number of distinct codes, where no answer counts as one (K).
    """

    count: NDArray[np.int64]
    entropy: NDArray[np.float64]
    entropy_miller_madow: NDArray[np.float64]
    entropy_chao_shen: NDArray[np.float64]
    gold_surprisal: NDArray[np.float64]
    gold_count: NDArray[np.int64]
    null_count: NDArray[np.int64]
    mode: NDArray[np.int32]
    num_distinct: NDArray[np.int64]


def summarize(
    codes: ArrayLike, offsets: ArrayLike, gold: ArrayLike, num_answers: ArrayLike, alpha: float
) -> AnswerSummary:
    """Summarize groups of interned answers in one call.

    Args:
        codes: int32 [R], -1 for no answer, else any non-negative id; the rows of a group are adjacent and in draw
            order.
        offsets: int64 [G + 1]; group g is codes[offsets[g]:offsets[g + 1]].
        gold: int32 [G], the code of the gold answer, -2 if it is not among the codes.
        num_answers: int32 [G], V of the smoothed gold probability.
        alpha: the additive smoothing.

    Raises:
        FastsiaError: if the shapes do not match.
    """
    codes = np.ascontiguousarray(codes, dtype=np.int32)
    offsets = np.ascontiguousarray(offsets, dtype=np.int64)
    gold = np.ascontiguousarray(gold, dtype=np.int32)
    num_answers = np.ascontiguousarray(num_answers, dtype=np.int32)
    _check(codes, offsets, gold, num_answers)
    return AnswerSummary(**_summarize(codes, offsets, gold, num_answers, float(alpha)))


def answer_entropy(answers: Iterable[Hashable | None], estimator: Estimator = "plugin") -> float:
    """Return the entropy, in nats, of the empirical distribution of `answers`. None (no answer) is a class of its own.

    Raises:
        FastsiaError: for an empty list or an unknown estimator.
    """
    names = {"plugin": "entropy", "miller_madow": "entropy_miller_madow", "chao_shen": "entropy_chao_shen"}
    if estimator not in names:
        raise FastsiaError(f"estimator must be one of {', '.join(names)}, got {estimator!r}.")
    interned: dict[Hashable, int] = {}
    codes = [NULL_CODE if answer is None else interned.setdefault(answer, len(interned)) for answer in answers]
    if not codes:
        raise FastsiaError("answers must not be empty: the entropy of no draws is undefined.")
    summary = summarize(codes, [0, len(codes)], [ABSENT_CODE], [1], 0.5)
    return float(getattr(summary, names[estimator])[0])


def _check(
    codes: NDArray[np.int32], offsets: NDArray[np.int64], gold: NDArray[np.int32], num_answers: NDArray[np.int32]
) -> None:
    if offsets.ndim != 1 or len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != codes.size:
        raise FastsiaError(f"offsets must run from 0 to {codes.size}, the number of codes.")
    if np.any(np.diff(offsets) < 0):
        raise FastsiaError("offsets must be non-decreasing.")
    if gold.shape != (len(offsets) - 1,) or num_answers.shape != (len(offsets) - 1,):
        raise FastsiaError(f"gold and num_answers must have one entry for each of the {len(offsets) - 1} groups.")


def _summarize(
    codes: NDArray[np.int32],
    offsets: NDArray[np.int64],
    gold: NDArray[np.int32],
    num_answers: NDArray[np.int32],
    alpha: float,
) -> dict[str, NDArray]:
    """The columns of `summarize`. Rows are sorted by (group, code); each run of equal rows is one class."""
    num_groups = len(offsets) - 1
    sizes = np.diff(offsets)
    group = np.repeat(np.arange(num_groups), sizes)
    order = np.lexsort((codes, group))
    sorted_group, sorted_code = group[order], codes[order]
    new_class = np.ones(len(codes), dtype=bool)
    new_class[1:] = (sorted_group[1:] != sorted_group[:-1]) | (sorted_code[1:] != sorted_code[:-1])
    starts = np.flatnonzero(new_class)
    class_group, class_code = sorted_group[starts], sorted_code[starts]
    class_first = order[starts]  # lexsort is stable: the first row of a run was drawn first
    class_count = np.diff(np.append(starts, len(codes)))

    def total(values: NDArray) -> NDArray[np.float64]:
        return np.bincount(class_group, weights=values, minlength=num_groups).astype(np.float64)

    def count_where(keep: NDArray[np.bool_]) -> NDArray[np.int64]:
        return total(class_count * keep).astype(np.int64)

    n = sizes[class_group].astype(np.float64)
    p = class_count / n
    num_distinct = np.bincount(class_group, minlength=num_groups)
    singletons = total(class_count == 1)
    singletons = np.where(singletons == sizes, singletons - 1, singletons)
    covered = (1.0 - singletons[class_group] / n) * p
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = np.where(sizes > 0, np.maximum(total(-p * np.log(p)), 0.0), np.nan)
        miller_madow = entropy + (num_distinct - 1) / (2.0 * sizes)
        seen = -np.expm1(n * np.log1p(-covered))
        chao_shen = np.where(sizes > 0, np.maximum(total(-covered * np.log(covered) / seen), 0.0), np.nan)

    mode = np.full(num_groups, NULL_CODE, dtype=np.int32)
    by_rank = np.lexsort((class_first, -class_count, class_group))
    ranked_group = class_group[by_rank]
    leads = np.ones(len(by_rank), dtype=bool)
    leads[1:] = ranked_group[1:] != ranked_group[:-1]
    mode[ranked_group[leads]] = class_code[by_rank[leads]]

    gold_count = count_where(class_code == gold[class_group])
    return {
        "count": sizes,
        "entropy": entropy,
        "entropy_miller_madow": miller_madow,
        "entropy_chao_shen": chao_shen,
        "gold_surprisal": -np.log((gold_count + alpha) / (sizes + alpha * num_answers)),
        "gold_count": gold_count,
        "null_count": count_where(class_code == NULL_CODE),
        "mode": mode,
        "num_distinct": num_distinct,
    }
