"""Where the answer part of a completion begins: by hand, and compared with the text that the answer is read from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsia.answers.parts import answer_token
from fastsia.answers.reference import answer_begin, read_answer
from fastsia.answers.spec import Spec
from fastsia.answers.vocabulary import BYTE, NOTHING, TEXT, Vocabulary

NUMBER, CHOICE, BOXED = "number", "choice", "boxed"


@pytest.mark.parametrize(
    ("text", "answer_format", "answer_part"),
    [
        ("3+4=7.\n#### 7", NUMBER, "#### 7"),
        ("#### none yet. So 3+4=7.\n#### 7 done", NUMBER, "#### 7 done"),  # an incomplete marker does not count
        ("#### 7\nNo: #### 8", NUMBER, "#### 7\nNo: #### 8"),  # the first complete one counts
        ("The answer is 3. Wait, the answer is 4.", NUMBER, "the answer is 4."),
        (r"So \boxed{3}, or \boxed{4}", BOXED, r"\boxed{4}"),
        (r"So \boxed{3}.", NUMBER, r"\boxed{3}."),
        ("It must be the second. Answer: B", CHOICE, "Answer: B"),
        ("<think>3+4 is 7, the answer is 7</think>It is seven.", NUMBER, "It is seven."),
        ("\n<think>a</think> Then 3. #### 7", NUMBER, " Then 3. #### 7"),
        ("3 and 4 make 7.", NUMBER, None),  # read by the last number, without a marker
        ("<think>#### 7", NUMBER, None),
        ("thinking\nQuestion: x\n#### 7", NUMBER, None),  # nothing counts after a stop text
        ("", NUMBER, None),
    ],
)
def test_the_answer_part_begins_where_the_answer_is_announced(
    text: str, answer_format: str, answer_part: str | None
) -> None:
    begin = answer_begin(text.encode(), Spec.of(answer_format))  # type: ignore[arg-type]
    assert (None if begin is None else text.encode()[begin:].decode()) == answer_part


def test_a_block_that_the_prompt_opened() -> None:
    text = b"3+4=7</think>#### 7"
    spec = Spec.of("number", starts_in_think=True)
    assert answer_begin(text, spec) == text.index(b"####")
    assert answer_begin(b"3+4=7 #### 7", spec) is None


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_the_answer_part_alone_has_the_same_answer(data: st.DataObject) -> None:
    """The text before it is only thinking: without it the same answer is read, except for the block that contains
    it."""
    answer_format = data.draw(st.sampled_from([NUMBER, CHOICE, BOXED]))
    markers = ["#### ", "the answer is ", "Answer: ", r"\boxed{", "final answer is "]
    pieces = [*markers, "7", " 12", "\n", "B", "(C)", "}", "so "]
    text = "".join(data.draw(st.lists(st.sampled_from(pieces), max_size=12))).encode()
    spec = Spec.of(answer_format)  # type: ignore[arg-type]
    begin = answer_begin(text, spec)
    if begin is not None:
        answer = read_answer(text, spec)
        assert answer[0] is not None
        assert read_answer(text[begin:], spec) == answer


def vocabulary(pieces: list[str], nothing: tuple[int, ...] = (), joiner: bytes = b"") -> Vocabulary:
    blobs = [piece.encode() for piece in pieces]
    kinds = np.full(len(pieces), TEXT, dtype=np.uint8)
    kinds[list(nothing)] = NOTHING
    return Vocabulary(b"".join(blobs), np.cumsum([0, *map(len, blobs)]), kinds, joiner)


def test_the_token_that_holds_the_markers_first_byte() -> None:
    """A marker may begin inside a token, span several tokens, or follow tokens without text."""
    words = vocabulary(["3+4", "=7", ".\n##", "##", " 7", "<s>"], nothing=(5,))
    spec = Spec.of("number")
    assert answer_token(words, [0, 1, 2, 3, 4], spec) == 2
    assert answer_token(words, [5, 0, 5, 1, 2, 3, 4], spec) == 4
    assert answer_token(words, [0, 1], spec) is None
    assert answer_token(words, [], spec) is None
    assert answer_token(words, [0, 99, 2, 3, 4], spec) == 2, "an unknown id has no text"


def test_joiners_are_part_of_the_text() -> None:
    spec = Spec.of("number")
    assert answer_token(vocabulary(["so", "the", "answer", "is", "7"], joiner=b" "), [0, 1, 2, 3, 4], spec) == 1
    assert answer_token(vocabulary(["so", "the", "answer", "is", "7"]), [0, 1, 2, 3, 4], spec) is None


def test_nothing_may_follow_the_think_block() -> None:
    words = vocabulary(["<think>", "hm", "</think>", "7"])
    assert answer_token(words, [0, 1, 2], Spec.of("number")) == 3
    assert answer_token(words, [0, 1, 2, 3], Spec.of("number")) == 3
    assert answer_token(words, [1, 2, 3], Spec.of("number", None, True)) == 2


def test_bytes_of_one_letter_lie_in_several_tokens() -> None:
    letter = "é".encode()
    blobs = [letter[:1], letter[1:], b"#### 7"]
    kinds = np.array([BYTE, BYTE, TEXT], dtype=np.uint8)
    words = Vocabulary(b"".join(blobs), np.cumsum([0, *map(len, blobs)]), kinds)
    assert answer_token(words, [0, 1, 2], Spec.of("number")) == 2
