"""From texts, or from batches of token ids, to answers: in C++ where it is built, else by the Python reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsia.answers import reference
from fastsia.answers.native import extension
from fastsia.answers.number import whole_number
from fastsia.answers.spec import Spec, encode
from fastsia.answers.vocabulary import Vocabulary, ragged
from fastsia.config import AnswerFormat, FastsiaError, Think

Answers = list[str | None]
Options = Sequence[str] | None


def extract_answers(
    texts: Sequence[str],
    format: AnswerFormat = "number",
    *,
    options: Options | Sequence[Options] = None,
    think: Think = "strict",
    starts_in_think: bool = False,
) -> Answers:
    """The answer of each text, in canonical form; None where there is none. docs/answers.md has the rules.

    Args:
        texts: completions (without their prompts).
        format: "number", "choice" or "boxed".
        options: the texts of the options A, B, ..., the same for all texts, or one sequence of them for each text. None
            means the letters A to E without texts.
        think: a think block that never closes has no answer ("strict") or is read like any text ("lenient").
        starts_in_think: the prompt opened a think block.

    Raises:
        FastsiaError: for an unknown format, a text that is none, or options that fit neither one nor all texts.
    """
    _check_think(think, ("strict", "lenient"))
    if isinstance(texts, str):
        raise FastsiaError(f"texts must be a sequence of texts, got the text {texts!r:.60}.")
    encoded = [encode(text, f"texts[{i}]") for i, text in enumerate(texts)]
    specs, spec_of_text = _specs(format, options, starts_in_think, len(encoded))
    core = extension()
    if core is None:
        return [
            reference.read_answer(text, specs[i].format, specs[i].options, starts_in_think)[think == "lenient"]
            for text, i in zip(encoded, spec_of_text, strict=True)
        ]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    return core.extract_texts(b"".join(encoded), offsets, [spec.native(core) for spec in specs], spec_of_text)[
        think == "lenient"
    ]


@overload
def extract_rollouts(
    vocabulary: Vocabulary,
    prefix_ids: ArrayLike,
    prefix_lens: ArrayLike,
    token_ids: ArrayLike,
    offsets: ArrayLike,
    format: AnswerFormat,
    *,
    options: Options = ...,
    think: Think = ...,
    starts_in_think: bool = ...,
    num_threads: int | None = ...,
) -> Answers: ...


@overload
def extract_rollouts(
    vocabulary: Vocabulary,
    prefix_ids: ArrayLike,
    prefix_lens: ArrayLike,
    token_ids: ArrayLike,
    offsets: ArrayLike,
    format: AnswerFormat,
    *,
    options: Options = ...,
    think: Literal["both"],
    starts_in_think: bool = ...,
    num_threads: int | None = ...,
) -> tuple[Answers, Answers]: ...


def extract_rollouts(
    vocabulary: Vocabulary,
    prefix_ids: ArrayLike,
    prefix_lens: ArrayLike,
    token_ids: ArrayLike,
    offsets: ArrayLike,
    format: AnswerFormat,
    *,
    options: Options = None,
    think: Think | Literal["both"] = "strict",
    starts_in_think: bool = False,
    num_threads: int | None = None,
) -> Answers | tuple[Answers, Answers]:
    """The answers of one problem's rollouts: row r is read as the text of prefix_ids[:prefix_lens[r]] + its tokens.

    Args:
        prefix_ids: int32 [T], the trajectory that the rollouts continue.
        prefix_lens: int32 [R], how much of it each one continues; 0 reads the continuation alone. Fastest where equal
            lengths lie together.
        token_ids, offsets: int32, and int64 [R + 1]: row r is token_ids[offsets[r]:offsets[r + 1]].
        options: of this problem.
        think: "both" gives (strict, lenient) from one pass.
        num_threads: None takes one for small batches and at most four for large ones.

    Raises:
        FastsiaError: where the arrays do not fit together.
    """
    _check_think(think, ("strict", "lenient", "both"))
    spec = Spec.of(format, options, starts_in_think)
    prefix = np.ascontiguousarray(prefix_ids, dtype=np.int32).reshape(-1)
    lens = np.ascontiguousarray(prefix_lens, dtype=np.int32).reshape(-1)
    ids, rows = ragged(token_ids, offsets)
    if len(lens) != len(rows) - 1:
        raise FastsiaError(f"prefix_lens must have one entry for each of the {len(rows) - 1} rows, got {len(lens)}.")
    if len(lens) and (lens.min() < 0 or lens.max() > len(prefix)):
        raise FastsiaError(f"prefix_lens must lie between 0 and {len(prefix)}, the number of prefix_ids.")
    if num_threads is not None and num_threads < 1:
        raise FastsiaError(f"num_threads must be at least 1, got {num_threads}.")
    core = extension()
    if core is not None:
        strict, lenient = core.extract_rollouts(
            vocabulary.native, prefix, lens, ids, rows, spec.native(core), num_threads or 0
        )
    else:
        texts = [
            vocabulary.decode_bytes(np.concatenate([prefix[:length], ids[begin:end]]))
            for length, begin, end in zip(lens, rows[:-1], rows[1:], strict=True)
        ]
        pairs = [reference.read_answer(text, format, spec.options, starts_in_think) for text in texts]
        strict, lenient = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if think == "both":
        return strict, lenient
    return strict if think == "strict" else lenient


def canonical_number(text: str) -> str | None:
    """The canonical spelling of a text that is one number and its units ("$1,234.50" is "1234.5"); None else."""
    return whole_number(encode(text, "text"))[0]


def canonical_gold(text: str, format: AnswerFormat, options: Options = None) -> str | None:
    """A data set's gold answer in the form that extraction gives; None where it has none.

    number: what follows the last "####", if there is one. choice: a letter, an option's own text or a digit label.
    boxed: the content of the last \\boxed, or the whole text as if it stood in one.
    """
    spec = Spec.of(format, options)
    gold = encode(text, "gold")
    if format == "number":
        return whole_number(gold.rpartition(b"####")[2])[0]
    if format == "choice":
        return reference.whole_choice(gold, spec.options)
    if b"\\boxed" in gold:
        return reference.read_answer(gold, format, spec.options)[0]
    return reference.boxed_value(gold, format, spec.options)


def _check_think(think: str, allowed: tuple[str, ...]) -> None:
    if think not in allowed:
        raise FastsiaError(f"think must be one of {allowed}, got {think!r}.")


def _specs(
    format: AnswerFormat, options: Options | Sequence[Options], starts_in_think: bool, count: int
) -> tuple[list[Spec], NDArray[np.int32]]:
    """The different specs of the texts, and which of them each text has."""
    if options is None or isinstance(options, str) or all(isinstance(option, str) for option in options):
        return [Spec.of(format, cast(Options, options), starts_in_think)], np.zeros(count, dtype=np.int32)
    if len(options) != count:
        raise FastsiaError(f"options must be texts, or one sequence for each of the {count} texts, got {len(options)}.")
    specs: dict[Spec, int] = {}
    each = [Spec.of(format, own, starts_in_think) for own in options]
    of_text = np.array([specs.setdefault(spec, len(specs)) for spec in each], dtype=np.int32)
    return list(specs), of_text
