"""A text is decided only if no continuation can change its answer; forks of slots; both implementations."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsia.answers import reference
from fastsia.answers import stream as stream_module
from fastsia.answers.extraction import extract_answers, extract_rollouts
from fastsia.answers.spec import Spec
from fastsia.answers.stream import AnswerStream
from fastsia.answers.vocabulary import Vocabulary
from fastsia.config import AnswerFormat
from fastsia.errors import FastsiaError
from tests.answers import generate
from tests.core import needs_core

FALLBACKS = (b"", generate.HIGH_BYTES, generate.HIGH_BYTES + b"02468\n .AB")

# Continuations that could change an answer that was decided too early.
_HOSTILE = (
    "|0|5|.5|,000|{,}000|e9|/3| / 3| 1/2|\\frac12| million|million|^2|**2|%| = 8|= 8| + 3 = 99|) * 2 = 7|x 10^3| x 5"
    "|km|</think> 3|<think>|</think>\n#### 3\n|\n#### 7\n|#### 7\n| #### 7 #### 8\n|\nAnswer: C\n|Answer: B|\\boxed{7}"
    "|}|\nFinal answer: 9|\nQuestion: 9|Question: 9|uestion: 9|:|\nQ: 4\n#### 5\n|ock|rock| a rock|'s|’s|-x| is| rock"
    "|s|</thi|[/THINK] 5|nk>\n#### 4\n|. |. So 3. |é|\u0301|°| energy|eat energy|\nis|answer is 4|swer: C\n|## 4\n"
)
HOSTILE = (*(text.encode() for text in _HOSTILE.split("|")), b"\x80", b"\x99s", b"\x92\x35", b"\xff")
MARKERS = {
    "number": (b"#### ", b"####", b"\n####\n", b"####: **"),
    "choice": (b"Answer: ", b"answer:", b"**Answer**: ("),
}


def begun(rng: random.Random, answer_format: AnswerFormat) -> bytes:
    """A text whose answer is likely to be decided, if its format allows it."""
    marker = rng.choice(MARKERS.get(answer_format, (b"\\boxed{",)))
    parts = [rng.choice(generate.FRAGMENTS) for _ in range(rng.randint(1, 4))]
    opening = rng.choice((b"", b"Let me see. ", b"<think> 4 </think>", b"#### x\n"))
    return opening + marker + b"".join(parts) + b" so\nand"


def check_decided(text: bytes, vocabulary: Vocabulary, answer_format: AnswerFormat, options: tuple[str, ...] | None,
                  starts_in_think: bool, others: list[bytes]) -> bool:  # fmt: skip
    """Whether the text's answer is decided; if so, every continuation must have it, strict and lenient."""
    stream = AnswerStream(vocabulary)
    spec = stream.open(answer_format, options, starts_in_think)
    ids = generate.ids_of(text)
    length = stream.decided_at(spec, ids)
    if length is None:
        return False
    rows = [ids, *(np.concatenate([ids[:length], generate.ids_of(other)]) for other in others)]
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    strict, lenient = extract_rollouts(
        vocabulary, [], np.zeros(len(rows), dtype=np.int32), np.concatenate(rows), offsets, answer_format,
        options=options, starts_in_think=starts_in_think,
    )  # fmt: skip
    assert strict[0] is not None
    assert set(strict) == set(lenient) == {strict[0]}, (text[:length], options, strict)
    return True


def check_lossless(num_texts: int, seed: int, fallback: bytes) -> None:
    rng = random.Random(seed)
    real = [text.encode() for text in generate.RATIONALES]
    vocabulary = generate.byte_vocabulary(fallback, num_special=1)
    num_decided = 0
    for _ in range(num_texts):
        answer_format: AnswerFormat = rng.choice(("number", "choice"))
        text = begun(rng, answer_format) if rng.random() < 0.8 else generate.text(rng, real)
        options = rng.choice(generate.OPTION_SETS) if answer_format == "choice" else None
        others = [*HOSTILE, *(rng.choice(HOSTILE) + generate.text(rng, real) for _ in range(30))]
        num_decided += check_decided(text, vocabulary, answer_format, options, rng.random() < 0.1, others)
    assert num_decided > num_texts / 20


@pytest.mark.parametrize("fallback", FALLBACKS)
def test_decided_means_decided(fallback: bytes, either: str) -> None:
    """One token for each byte; also with byte fallback, where a later byte can invalidate a run of earlier ones."""
    check_lossless(1500 if either == "core" else 150, len(fallback), fallback)


@needs_core
@pytest.mark.slow
def test_decided_means_decided_on_many_texts() -> None:
    for fallback in FALLBACKS:
        check_lossless(20_000, 1 + len(fallback), fallback)


@needs_core
@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    st.sampled_from(["#### 42", "#### 1,234", "#### 3/4 ", "#### x = 5 ", "Answer: B", "answer: (a)", "Answer: water"]),
    st.lists(st.sampled_from(generate.FRAGMENTS), max_size=4).map(b"".join),
    st.lists(st.binary(max_size=6) | st.sampled_from(generate.FRAGMENTS), max_size=8),
)  # fmt: skip
def test_decided_means_decided_to_hypothesis(begin: str, middle: bytes, others: list[bytes]) -> None:
    text = begin.encode() + middle + b"\n"
    for answer_format in ("number", "choice"):
        check_decided(text, generate.byte_vocabulary(), answer_format, ("a rock", "water", "4"), False, others)


DECIDED_AT: dict[tuple[AnswerFormat, str], str | None] = {
    ("number", "so #### 42\nmore"): "so #### 42\n",
    ("number", "#### 42 eggs\nmore"): "#### 42 eggs\n",
    ("number", "#### 42 eggs. So it is."): "#### 42 eggs. ",
    ("number", "#### 42. So it is. Yes"): "#### 42. So it is. ",
    ("number", "#### 42, so\nmore"): "#### 42, so\n",
    ("number", "**#### 42**\n"): "**#### 42**\n",
    ("number", "#### 5 + 3 = 8 eggs\n"): "#### 5 + 3 = 8 eggs\n",
    ("number", "#### x\n#### 5\n"): "#### x\n#### 5\n",
    ("number", "<think>#### 5\n</think>#### 6\n"): "<think>#### 5\n</think>#### 6\n",
    ("number", "[THINK]#### 5\n[/THINK]#### 6\n"): "[THINK]#### 5\n[/THINK]#### 6\n",
    (
        "number",
        "<think>1</think>\n<think>#### 5\n</think>#### 6\n",
    ): "<think>1</think>\n<think>#### 5\n</think>#### 6\n",
    ("number", "<think>1</think>#### 6\n</think>"): "<think>1</think>#### 6\n",
    ("number", "#### 5\n</think>#### 6\n"): "#### 5\n",
    ("number", "#### 42 " + "x" * 420): "#### 42 " + "x" * 397,
    ("choice", "Answer: B. Water"): "Answer: B. ",
    ("choice", "Answer: C\n"): "Answer: C\n",
    ("choice", "Answer: a rock!\n"): "Answer: a rock!\n",
    ("choice", "Wrong answer: A\nAnswer: C\n"): "Wrong answer: A\nAnswer: C\n",
    # cases in which the value or a block may still continue
    ("number", "#### 42"): None,
    ("number", "#### 42."): None,
    ("number", "#### 42 eggs"): None,
    ("number", "#### 42. So it is"): None,
    ("number", "#### 1. Count the apples\n"): None,
    ("number", 'I end with "#### 5"\n'): None,
    ("number", "the answer is 42.\n\n"): None,
    ("number", "\\boxed{42}\n\n"): None,
    ("number", "<think>#### 5\n#### 6\n"): None,
    ("number", "#### 5 </think>\n#### 6\n"): None,
    ("number", "5\nQuestion: 4\n#### 6\n"): None,
    ("number", "####\nQuestion: 4\n"): None,
    ("choice", "Answer: B"): None,
    ("choice", "Answer: B."): None,
    ("choice", "Answer: A is right"): None,
    ("choice", "Answer: E\n"): None,
    ("boxed", "\\boxed{42}\n#### 5\nAnswer: 5\n"): None,
}


@pytest.mark.parametrize(("answer_format", "text"), DECIDED_AT)
def test_where_answers_are_decided(answer_format: AnswerFormat, text: str, either: str) -> None:
    """An answer is decided as soon as the end of the value has been read, and not before."""
    stream = AnswerStream(generate.byte_vocabulary())
    spec = stream.open(answer_format, ("a rock", "water", "heat", "4") if answer_format == "choice" else None)
    expected = DECIDED_AT[answer_format, text]
    assert stream.decided_at(spec, generate.ids_of(text.encode())) == (None if expected is None else len(expected))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#### 5\n", None),
        ("so 3 </think>\n#### 5\n", None),  # the text before a lone mark may or may not be a block
        ("<think>1</think>#### 5\n", "<think>1</think>#### 5\n"),
        ("◁think▷1◁/think▷#### 5\n", "◁think▷1◁/think▷#### 5\n"),
    ],
)
def test_nothing_is_decided_before_an_expected_block_closes(text: str, expected: str | None, either: str) -> None:
    stream = AnswerStream(generate.byte_vocabulary())
    spec = stream.open("number", expects_think=True)
    decided = stream.decided_at(spec, generate.ids_of(text.encode()))
    assert decided == (None if expected is None else len(expected.encode()))


def test_tags_of_ones_own(either: str) -> None:
    stream = AnswerStream(generate.byte_vocabulary())
    own = stream.open("number", think_tags=("<<", ">>"))
    text = b"<<#### 5\n>>#### 6\n"
    assert stream.decided_at(own, generate.ids_of(text)) == len(text)
    assert stream.decided_at(stream.open("number"), generate.ids_of(text)) == len(b"<<#### 5\n")


def test_without_stop_texts_a_question_decides_nothing_and_ends_nothing(either: str) -> None:
    stream = AnswerStream(generate.byte_vocabulary())
    text = generate.ids_of(b"Question: how many?\n#### 5\n")
    assert stream.decided_at(stream.open("number", stop_texts=False), text) == len(text)
    assert stream.decided_at(stream.open("number"), text) is None


@needs_core
def test_core_and_reference_decide_at_the_same_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """At that length, and not before, the strict reading of the cut text has the answer (except for think blocks)."""
    rng = random.Random(9)
    real = [text.encode() for text in generate.RATIONALES]
    vocabulary = generate.byte_vocabulary()
    core = AnswerStream(vocabulary)
    monkeypatch.setattr(stream_module, "extension", lambda: None)
    slow = AnswerStream(vocabulary)
    specs = [(core.open(f), slow.open(f), f) for f in ("number", "choice", "boxed")]
    num_decided = 0
    for _ in range(700):
        for ours, theirs, answer_format in specs:
            text = begun(rng, answer_format) + generate.text(rng, real)
            ids = generate.ids_of(text)
            late, early = slow.decided_at(theirs, ids), core.decided_at(ours, ids)
            assert early == late, text
            if early is not None:
                num_decided += 1
                spec = Spec.of(answer_format)
                whole = reference.read_answer(text, spec)[0]
                assert reference.read_answer(text[:early], spec, cut=True)[0] == whole
    assert num_decided > 150


def test_feeding_is_decided_at(either: str) -> None:
    """Reading token by token, from starts at every length and with forks at every step, equals reading the whole
    text."""
    rng = random.Random(6)
    real = [text.encode() for text in generate.RATIONALES]
    vocabulary = generate.byte_vocabulary(generate.HIGH_BYTES + b"5\n", num_special=1)
    stream = AnswerStream(vocabulary)
    for _ in range(40 if either == "core" else 8):
        answer_format: AnswerFormat = rng.choice(("number", "choice"))
        spec = stream.open(answer_format)
        ids = generate.ids_of((begun(rng, answer_format) + generate.text(rng, real))[:60])
        decided = stream.decided_at(spec, ids)
        expected = [decided is not None and length >= decided for length in range(len(ids) + 1)]
        lens = rng.sample(range(len(ids) + 1), k=len(ids) + 1)
        slots = rng.sample(range(200), k=len(lens))
        assert stream.start(slots, spec, ids, lens).tolist() == [expected[length] for length in lens]
        # all continue to the end, each through another slot at every step
        at = dict(zip(slots, lens, strict=True))
        while any(length < len(ids) for length in at.values()):
            at = {slot: length for slot, length in at.items() if length < len(ids)}
            free = rng.sample(sorted(set(range(200)) - set(at)), k=len(at))
            stream.fork(list(at), free)
            at = dict(zip(free, at.values(), strict=True))
            fed = stream.feed(list(at), [ids[length] for length in at.values()])
            at = {slot: length + 1 for slot, length in at.items()}
            assert fed.tolist() == [expected[length] for length in at.values()]


def test_forks_part(either: str) -> None:
    stream = AnswerStream(generate.byte_vocabulary())
    spec = stream.open("number")
    stream.start([3], spec, generate.ids_of(b"#### 4"), [6])
    stream.fork([3, 3], [0, 7])
    assert stream.feed([3, 0, 7], [ord("2"), ord("\n"), ord("x")]).tolist()[1:2] == [True]
    assert stream.feed([3, 0], [ord("\n"), ord("9")]).tolist() == [True, True]
    stream.fork([3], [3])
    stream.start([3], spec, [], [0])
    assert stream.feed([3], [ord("\n")]).tolist() == [False]


def test_specials_and_unknown_ids_are_silent(either: str) -> None:
    """An EOS between a number and its next digit does not decide it."""
    stream = AnswerStream(generate.byte_vocabulary(num_special=1))
    spec = stream.open("number")
    ids = generate.ids_of(b"#### 4")
    assert stream.decided_at(spec, [*ids, 256, 9999, -5]) is None
    assert stream.decided_at(spec, [*ids, 256, ord("2"), ord("\n")]) == len(ids) + 3


def test_bytes_of_a_run_wait_for_its_end(either: str) -> None:
    """A run of byte-fallback tokens that becomes invalid is all U+FFFD, including its line break."""
    vocabulary = generate.byte_vocabulary(bytes(range(256)))
    stream = AnswerStream(vocabulary)
    spec = stream.open("number")
    assert stream.decided_at(spec, generate.ids_of(b"#### 42\n\n")) is None
    assert extract_answers([vocabulary.decode(generate.ids_of(b"#### 42\n\xff"))]) == [None]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, n: s.feed([5], [1]), "slot 5 was not started"),
        (lambda s, n: s.fork([5], [1]), "slot 5 was not started"),
        (lambda s, n: s.feed([-1], [1]), "slots must not be negative"),
        (lambda s, n: s.feed([1, 2], [1]), "one token for each slot, got 1 for 2"),
        (lambda s, n: s.fork([1, 2], [1]), "as many dst_slots"),
        (lambda s, n: s.start([1], n, [5], [2]), "one length from 0 to 1 for each of the 1 slots"),
        (lambda s, n: s.start([1], n + 1, [5], [1]), "spec 1 was not opened"),
        (lambda s, n: s.decided_at(-1, [5]), "spec -1 was not opened"),
        (lambda s, n: s.open("roman"), "answer_format must be one of"),
    ],
)
def test_mistakes_are_named(call: Callable[[AnswerStream, int], object], message: str, either: str) -> None:
    stream = AnswerStream(generate.byte_vocabulary())
    spec = stream.open("number")
    with pytest.raises(FastsiaError, match=message):
        call(stream, spec)
