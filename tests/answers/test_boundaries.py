"""Where sentences, lines and steps end: texts as models write them, and properties of every text."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsia.answers.boundaries import line_ends, sentence_ends, step_ends, widen


def parts(text: str, ends: Callable[[str], list[int]]) -> list[str]:
    """The parts of a text, without the white space around them."""
    places = [0, *ends(text)]
    return [text[a:b].strip() for a, b in zip(places, [*places[1:], len(text)], strict=True) if text[a:b].strip()]


PROSE = [
    ["Mr. Smith paid $3.50.", "He got $1.50 back...", "Then he left with Dr. Lee and 3.5 kg."],
    ["It costs $3.50.", "She pays $4 and gets $0.50.", "Is that all?", "Yes!"],
    ["He lives in the U.S. Army base in the U.S.", "The rent is due at 5 p.m. on Monday."],
    ["See Fig. 3 and Eq. 2, e.g. the first, approx. five, etc. of them.", "J. F. Kennedy wrote No. 5."],
    ["The answer is B.", "Then we stop."],
    ["We add 1, 2, ..., 10 and 1 + 2 + ... + 10.", "Wait...", "I see… now.", "Done."],
    ['She said "Stop."', "Then she left.", '"Why?" he asked.', "(It was late.)", "**It is bold.**", "End"],
    ["Let $x = 1. Then$ be it.", r"\[a. B\] and \(c. D\) are whole.", r"So \boxed{a. B}."],
    [r"Use \begin{align*} a &= 1. \\ B &= 2. \end{align*} here.", "Then $$x.\n\nY$$ is one.", "`a. B` too."],
    ["An open $x.", "Then \\[ y.", "No mathematics."],
    ["See https://a.b/c.d?e=F.", "Next v1.2.3 runs."],
]
LINES = [
    ["1. First add 3.", "2. Then take 4.", "(a) One of them.", "Step 3. Divide.", "- item one", "- item two"],
    ["A line without a stop", "Another one", "12*6=72", "#### 72"],
]
CHINESE_AND_JAPANESE = ["我有3.5个苹果。", "他说「好。走吧。」", "真的？", "「わかった。」と言った。", "３．５円です。"]


@pytest.mark.parametrize(
    ("separator", "sentences"),
    [*((" ", one) for one in PROSE), *(("\n", one) for one in (*PROSE, *LINES)), ("", CHINESE_AND_JAPANESE)],
)
def test_sentences(separator: str, sentences: list[str]) -> None:
    assert parts(separator.join(sentences), sentence_ends) == sentences


@pytest.mark.parametrize(
    ("part", "sentences"),
    [
        ("3 = 1", "So 4 * 3 = 12 eggs."),
        (" eggs. She", "So 4 * 3 = 12 eggs. She sold some."),
        (" She sold some.", "She sold some."),
        ("The end", "The end"),
    ],
)
def test_a_part_is_widened_to_its_sentences(part: str, sentences: str) -> None:
    text = "First, 2.5 and more. So 4 * 3 = 12 eggs. She sold some. The end"
    begin = text.index(part)
    first, last = widen(text, sentence_ends(text), begin, begin + len(part))
    assert text[first:last].strip() == sentences
    assert first <= begin + (len(part) - len(part.lstrip()))
    near = widen(text, [], begin, begin + len(part), most=3)
    assert begin - 3 <= near[0] <= begin + 1
    assert near[1] == min(begin + len(part) + 3, len(text))


def test_a_line_that_goes_on_in_lower_case_ends_no_sentence() -> None:
    assert parts("She makes nine\ndollars.\nThen\n\nshe rests", sentence_ends) == [
        "She makes nine\ndollars.",
        "Then",
        "she rests",
    ]


def test_lines_end_after_their_breaks_and_not_inside_of_code_or_mathematics() -> None:
    text = "\na\n\nb\n```\nc\n\nd\n```\n$$\ne\n$$\n"
    assert [text[a:b] for a, b in zip([0, *line_ends(text)], line_ends(text), strict=False)] == [
        "\na\n\n",
        "b\n",
        "```\nc\n\nd\n```\n",
        "$$\ne\n$$\n",
    ]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("One\ntwo\n\nthree\n#### 4", ["One\ntwo", "three", "#### 4"]),
        ("Plan:\n1. a\n2. b\nand c\n- d", ["Plan:", "1. a", "2. b\nand c", "- d"]),
        ("**Step 1:** a\nb\nStep 2. c\n## So\nd", ["**Step 1:** a\nb", "Step 2. c", "## So\nd"]),
        ("2+3=5\n5+1=6\n#### 6", ["2+3=5", "5+1=6", "#### 6"]),  # nothing but lines
        ("It is 2. So it is 4. #### 4", ["It is 2.", "So it is 4.", "#### 4"]),  # a single line
        ("", []),
    ],
)
def test_steps(text: str, steps: list[str]) -> None:
    assert parts(text, step_ends) == steps


PIECES = [
    "a",
    "B",
    " ",
    "\n",
    "\n\n",
    ".",
    "...",
    "?",
    "。",
    "「",
    "」",
    "$",
    "$$",
    "\\[",
    "\\]",
    "```",
    "1",
    "- ",
    "#",
    "Mr",
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_ends_ascend_and_every_part_has_text(pieces: list[str]) -> None:
    """The last part is a part too: no text comes after the last end."""
    text = "".join(pieces)
    for find in (sentence_ends, line_ends, step_ends):
        ends = find(text)
        assert all(text[a:b].strip() for a, b in zip([0, *ends], ends, strict=False))
        assert not text[ends[-1] if ends else 0 :].strip()
