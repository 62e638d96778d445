"""The C++ core agrees with the reference on texts and token ids; golds; refused arguments."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsia.answers import reference
from fastsia.answers.extraction import canonical_gold, extract_answers, extract_rollouts
from fastsia.answers.spec import Spec
from fastsia.answers.vocabulary import Vocabulary
from fastsia.config import ANSWER_FORMATS, AnswerFormat
from fastsia.core import extension
from fastsia.errors import FastsiaError
from tests.answers import generate
from tests.core import needs_core

FORMATS: tuple[AnswerFormat, ...] = ANSWER_FORMATS


def read_with_core(texts: list[bytes], spec: Spec, cut: bool = False) -> list[tuple[str | None, str | None]]:
    """(strict, lenient) of each text by the C++ core; any bytes."""
    core = extension()
    assert core is not None
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    spec_of_text, is_cut = np.zeros(len(texts), dtype=np.int32), np.full(len(texts), cut)
    both = core.extract_texts(b"".join(texts), offsets, [spec.native(core)], spec_of_text, is_cut)
    return list(zip(*both, strict=True))


def random_spec(rng: random.Random, answer_format: AnswerFormat) -> Spec:
    """A format with some options, sometimes in a think block."""
    return Spec.of(answer_format, rng.choice(generate.OPTION_SETS), rng.random() < 0.2, stop_texts=rng.random() < 0.7)


def check_agreement(num_texts: int, seed: int, real: list[bytes]) -> None:
    """Each text is read in all three formats. Enough of them must have an answer for the test to be meaningful."""
    rng = random.Random(seed)
    num_answers = 0
    for _ in range(num_texts // 100):
        texts = [generate.text(rng, real) for _ in range(100)]
        for answer_format in FORMATS:
            spec = random_spec(rng, answer_format)
            cut = rng.random() < 0.3
            for text, ours in zip(texts, read_with_core(texts, spec, cut), strict=True):
                assert ours == reference.read_answer(text, spec, cut=cut), (text, spec, cut)
                num_answers += ours[1] is not None
    assert num_answers > num_texts / 2


@needs_core
def test_core_agrees_with_reference() -> None:
    check_agreement(10_000, 1, generate.rationales(None))


@needs_core
def test_core_agrees_on_mutated_rationales(shared_data: Path) -> None:
    check_agreement(10_000, 2, generate.rationales(shared_data))


@needs_core
@pytest.mark.slow
def test_core_agrees_on_200_000_texts(shared_data: Path) -> None:
    check_agreement(200_000, 3, generate.rationales(shared_data))


def check_numbers(num_texts: int, seed: int) -> None:
    """The agreement on many forms of numbers."""
    rng = random.Random(seed)
    texts = [generate.number_text(rng) for _ in range(num_texts)]
    for answer_format in ("number", "boxed"):
        spec = Spec.of(answer_format)
        for text, ours in zip(texts, read_with_core(texts, spec), strict=True):
            assert ours == reference.read_answer(text, spec), (text, spec)
    contents = [text.partition(b"\n")[0].decode(errors="replace") for text in texts]
    golds = [canonical_gold(text, "number") for text in contents]
    assert extract_answers([f"\\fbox{{{text}}}" for text in contents if is_balanced(text)]) == [
        gold for text, gold in zip(contents, golds, strict=True) if is_balanced(text)
    ]


def is_balanced(text: str) -> bool:
    """Whether a text without its own marker can be the content of a box."""
    return not set(text) & set("{}\\#") and "nswer" not in text and "\0" not in text


@needs_core
def test_core_agrees_on_numbers() -> None:
    check_numbers(10_000, 4)


@needs_core
@pytest.mark.slow
def test_core_agrees_on_100_000_numbers() -> None:
    check_numbers(100_000, 5)


def check_any_text(text: str, options: list[str] | None, starts_in_think: bool) -> None:
    for answer_format in FORMATS:
        spec = Spec.of(answer_format, options, starts_in_think)
        encoded = text.encode("utf-8", "surrogatepass")
        for cut in (False, True):
            assert read_with_core([encoded], spec, cut) == [reference.read_answer(encoded, spec, cut=cut)]


fragments = st.sampled_from([fragment.decode(errors="replace") for fragment in generate.FRAGMENTS])
texts_of_parts = st.lists(st.one_of(st.text(max_size=8), fragments), max_size=12).map("".join)
any_options = st.none() | st.lists(st.text(max_size=6), max_size=5)


@needs_core
@settings(max_examples=1000, deadline=None, derandomize=True)
@given(texts_of_parts, any_options, st.booleans())
def test_core_agrees_on_hypothesis_texts(text: str, options: list[str] | None, starts_in_think: bool) -> None:
    check_any_text(text, options, starts_in_think)


@needs_core
@pytest.mark.slow
@settings(max_examples=20_000, deadline=None)
@given(texts_of_parts, any_options, st.booleans())
def test_core_agrees_on_many_hypothesis_texts(text: str, options: list[str] | None, starts_in_think: bool) -> None:
    check_any_text(text, options, starts_in_think)


def rows_of(rng: random.Random, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Ragged rows over a byte vocabulary, including ids outside it."""
    rows = [generate.ids_of(generate.text(rng, list(map(str.encode, generate.RATIONALES)))) for _ in range(num_rows)]
    for row in rows:
        row[[bool(rng.random() < 0.01) for _ in row]] = rng.choice((-1, 256, 257, 10**9))
    return np.concatenate([*rows, np.zeros(0, np.int32)]), np.cumsum([0, *map(len, rows)], dtype=np.int64)


@pytest.mark.parametrize("answer_format", FORMATS)
@pytest.mark.parametrize("fallback", [b"", generate.HIGH_BYTES + b"5#\n"])
def test_rollouts_read_as_their_texts(answer_format: AnswerFormat, fallback: bytes, either: str) -> None:
    """The answer of a row is that of the decoded text of prefix and row: for any order and lengths of prefixes,
    byte-fallback runs across the border, and ids without text."""
    rng = random.Random(len(fallback))
    vocabulary = generate.byte_vocabulary(fallback, num_special=2)
    prefix = generate.ids_of("<think>Höhe 5\n</think> so the answer is −4, ####".encode() + b"\xe2\x88")
    ids, offsets = rows_of(rng, 120)
    lens = np.array(sorted(rng.choices(range(len(prefix) + 1), k=60)) + rng.choices(range(len(prefix) + 1), k=60))
    options = ("a rock", "water") if answer_format == "choice" else None
    strict, lenient = extract_rollouts(vocabulary, prefix, lens, ids, offsets, answer_format, options=options)
    whole = [np.concatenate([prefix[:n], ids[a:b]]) for n, a, b in zip(lens, offsets[:-1], offsets[1:], strict=True)]
    texts = [vocabulary.decode(row) for row in whole]
    assert strict == extract_answers(texts, answer_format, options=options)
    assert lenient == extract_answers(texts, answer_format, options=options, answer_reading="lenient")


@needs_core
def test_threads_change_nothing() -> None:
    rng = random.Random(4)
    vocabulary = generate.byte_vocabulary()
    prefix = generate.ids_of(b"Let me see. 5 and 6 make 11.\n")
    ids, offsets = rows_of(rng, 301)
    lens = np.array(rng.choices(range(len(prefix) + 1), k=301))
    answers = [
        extract_rollouts(vocabulary, prefix, lens, ids, offsets, "number", num_threads=threads)
        for threads in (1, 2, 3, 7, 400, None)
    ]
    assert all(other == answers[0] for other in answers)


def test_empty_batches(either: str) -> None:
    vocabulary = generate.byte_vocabulary()
    assert extract_answers([]) == []
    assert extract_answers([], "choice", options=[]) == []
    assert extract_rollouts(vocabulary, [], [], [], [0], "number") == ([], [])
    assert extract_rollouts(vocabulary, generate.ids_of(b"5"), [1, 0], [], [0, 0, 0], "number").strict == ["5", None]


def test_options_of_each_text(either: str) -> None:
    texts = ["Answer: water", "Answer: water", "Answer: D"]
    options = [("rock", "water"), ("water", "rock", "ice"), None]
    assert extract_answers(texts, "choice", options=options) == ["B", "A", "D"]


@pytest.mark.parametrize("file", ["gsm8k/test.jsonl", "svamp/test.jsonl", "svamp/SVAMP.json"])
def test_every_number_gold_is_read(file: str, shared_data: Path) -> None:
    """The gold is also read from a rationale that ends with it. SVAMP writes 51.0, GSM8K 1,234."""
    text = (shared_data / file).read_text(encoding="utf-8")
    rows = json.loads(text) if file.endswith(".json") else [json.loads(line) for line in text.splitlines()]
    stated = [str(row.get("answer", row.get("Answer"))) for row in rows]
    golds = [canonical_gold(gold, "number") for gold in stated]
    values = [float(gold.rpartition("####")[2].replace(",", "")) for gold in stated]
    assert [float(gold) for gold in golds if gold is not None] == values
    assert all(gold == str(int(value)) for gold, value in zip(golds, values, strict=True))
    endings = [gold if "####" in gold else f"Some 7 steps.\n#### {gold}" for gold in stated]
    assert extract_answers(endings) == golds
    for answer_format in ("The answer is ${}.", "**Final answer:** {} dollars", "$\\boxed{{{}}}$", "so it is {}"):
        assert extract_answers([answer_format.format(gold) for gold in golds]) == golds


@pytest.mark.parametrize("file", ["arc/ARC-Challenge-Test.jsonl", "arc/ARC-Easy-Test.jsonl"])
def test_every_choice_gold_is_read(file: str, shared_data: Path) -> None:
    """A gold may be a label (letters and digits), a letter, or the text of an option."""
    rows = [json.loads(line) for line in (shared_data / file).read_text(encoding="utf-8").splitlines()]
    options = [tuple(row["choices"]["text"]) for row in rows]
    places = [row["choices"]["label"].index(row["answerKey"]) for row in rows]
    letters = ["ABCDE"[place] for place in places]
    own = [texts[place] for texts, place in zip(options, places, strict=True)]

    assert extract_answers([f"Answer: {letter}" for letter in letters], "choice", options=options) == letters
    assert extract_answers([f"So ({letter}) it is." for letter in letters], "choice", options=options) == letters
    assert [canonical_gold(letter, "choice", texts) for letter, texts in zip(letters, options, strict=True)] == letters

    for answer_format in ("Answer: {}", "answer: **{}** because", "\\boxed{{\\text{{{}}}}}"):
        assert extract_answers([answer_format.format(text) for text in own], "choice", options=options) == letters
    assert [canonical_gold(text, "choice", texts) for text, texts in zip(own, options, strict=True)] == letters
    keys = extract_answers([f"Answer: {row['answerKey']}" for row in rows], "choice")
    assert keys == letters


def test_a_gold_number() -> None:
    assert [canonical_gold(text, "number") for text in ("$1,234.50", "29 apples", "3 or 4", "x", "1/3", "")] == [
        *("1234.5", "29", None, None, "1/3", None)
    ]


def test_canonical_gold() -> None:
    options = ("rock", "water", "2")
    assert canonical_gold("steps 5\n#### 1,234", "number") == "1234"
    assert canonical_gold("5 and 6", "number") is None
    many = tuple(f"thing {i}" for i in range(30))
    assert [canonical_gold(gold, "choice", many) for gold in ("thing 25", "thing 26", "THING 29")] == ["Z", None, None]
    assert [canonical_gold(gold, "choice", options) for gold in ("b", "(C)", "Water.", "2", "1", "D", "steam")] == [
        *("B", "C", "B", "C", "A", None, None)
    ]
    assert canonical_gold("so \\boxed{\\frac{1}{2}}", "boxed") == canonical_gold("\\frac12", "boxed") == "0.5"
    assert canonical_gold("x + 1", "boxed") == "x+1"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: extract_answers(["5"], "roman"), "answer_format must be one of"),
        (lambda v: extract_answers(["5"], answer_reading="loose"), "answer_reading must be"),
        (lambda v: extract_answers("5"), "texts must be a sequence"),
        (lambda v: extract_answers(["5", None]), r"texts\[1\] must be a text, got None"),
        (lambda v: extract_answers(["5"], "choice", options="rock"), "options must be a sequence of texts"),
        (lambda v: extract_answers(["5"], "choice", options=["a", 3]), "options must be texts, or one sequence"),
        (lambda v: extract_answers(["5"], "choice", options=[("a",), ("b",)]), "each of the 1 texts, got 2"),
        (lambda v: extract_answers(["5"], "choice", options=[("a", 3)]), r"options\[1\] must be a text"),
        (lambda v: extract_rollouts(v, [], [0, 0], [], [0, 0], "number"), "each of the 1 rows, got 2"),
        (lambda v: extract_rollouts(v, [5], [2], [], [0, 0], "number"), "must be from 0 to 1"),
        (lambda v: extract_rollouts(v, [5], [-1], [], [0, 0], "number"), "must be from 0 to 1"),
        (lambda v: extract_rollouts(v, [], [0], [5], [0, 2], "number"), "offsets must be non-decreasing"),
        (lambda v: extract_rollouts(v, [], [0, 0], [5], [0, 1, 0], "number"), "offsets must be non-decreasing"),
        (lambda v: extract_rollouts(v, [], [0], [5], [0, 1], "number", num_threads=0), "num_threads must be"),
        (lambda v: canonical_gold(5, "number"), "gold must be a text, got 5"),
    ],
)  # fmt: skip
def test_mistakes_are_named(call: object, message: str, either: str) -> None:
    vocabulary: Vocabulary = generate.byte_vocabulary()
    with pytest.raises(FastsiaError, match=message):
        call(vocabulary)  # type: ignore[operator]
