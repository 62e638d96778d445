"""The rules of extraction, case by case, on the C++ core and on the reference. docs/answers.md explains them."""

from __future__ import annotations

import pytest

from fastsia.answers.extraction import extract_answers
from fastsia.answers.reference import is_decided
from fastsia.answers.spec import Spec
from fastsia.config import AnswerFormat
from fastsia.errors import FastsiaError

# (text, starts_in_think): (strict, lenient)
THINK = {
    ("<think>5</think> 6", False): ("6", "6"),
    ("\n<think>5</think> 6", False): ("6", "6"),
    ("<think>#### 5", False): (None, "5"),
    ("<think>5", False): (None, "5"),
    ("5</think> 6", True): ("6", "6"),
    ("<think>5</think> 6", True): ("6", "6"),
    ("5", True): (None, "5"),
    ("5</think> 6 </think> x", True): ("6", "6"),
    # later marks are text
    ("7 <think>5", False): ("5", "5"),
    ("<think>1</think> 2 <think> 3", False): ("3", "3"),
    # but a block right after a closed one counts
    ("<think>1</think>\n<think>#### 4\n</think>#### 18", False): ("18", "18"),
    ("#### 1\n</think><think>#### 4\n</think>#### 18", True): ("18", "18"),
    ("<think>1</think><thought>#### 4\n</thought>#### 18\n</think>#### 19", False): ("18", "18"),
    ("<think>1</think><think>#### 4", False): (None, "4"),
    # every usual pair of marks
    ("[THINK]#### 3\n[/THINK]#### 18", False): ("18", "18"),
    ("<thinking>#### 3\n</thinking>#### 18", False): ("18", "18"),
    ("<thought>#### 3\n</thought>#### 18", False): ("18", "18"),
    ("<reasoning>#### 3\n</reasoning>#### 18", False): ("18", "18"),
    ("<seed:think>#### 3\n</seed:think>#### 18", False): ("18", "18"),
    ("<|begin_of_thought|>#### 3\n<|end_of_thought|>#### 18", False): ("18", "18"),
    ("◁think▷#### 3\n◁/think▷#### 18", False): ("18", "18"),
    ("<|channel|>analysis<|message|>#### 3\n<|end|><|start|>assistant<|channel|>final<|message|>#### 18", False): (
        "18",
        "18",
    ),
    ("#### 3\n[/THINK]#### 18", True): ("18", "18"),
    ("<think>#### 3\n[/THINK]#### 18", False): (None, "3"),  # its own mark closes a block
    # a closing mark alone
    ("3 * 6 = 18 </think> 5", False): ("5", "5"),
    ("The draft says #### 3 </think> #### 18", False): ("18", "18"),
    ("#### 3\n</think>\n#### 18", False): ("3", "3"),  # a complete marked answer stands before it
    ("The answer is 3. </think> 18", False): ("3", "3"),
    ("\\boxed{3} </think> 18", False): ("3", "3"),
    ("so 3 [/THINK] <think>4</think> 18", False): ("18", "18"),
    # a stop text inside a closed block is part of the block
    ("<think>\nQuestion: 1\n</think> 2", False): ("2", "2"),
    ("<think>4\nQuestion: 1", False): (None, "4"),
    ("<think></think>", False): (None, None),
    ("<Think>5", False): ("5", "5"),
}


@pytest.mark.parametrize(("text", "starts_in_think"), THINK)
def test_think(text: str, starts_in_think: bool, either: str) -> None:
    strict, lenient = THINK[text, starts_in_think]
    assert extract_answers([text], starts_in_think=starts_in_think) == [strict]
    assert extract_answers([text], answer_reading="lenient", starts_in_think=starts_in_think) == [lenient]


def test_think_tags_of_ones_own(either: str) -> None:
    texts = ["<<5>> 6", "<think>5</think> 6", "<<5"]
    assert extract_answers(texts, think_tags=("<<", ">>")) == ["6", "6", None]
    for tags in (("<<", "<<"), ("<<",), ("a b", "c"), ("", ">>"), "<<>>", 5):
        with pytest.raises(FastsiaError, match="think_tags must be two different marks without white space"):
            extract_answers(["5"], think_tags=tags)  # type: ignore[arg-type]


# text: (strict, lenient) of a text that its token limit ended
CUT: dict[tuple[AnswerFormat, str], tuple[str | None, str | None]] = {
    # no marker: the lenient reading reads up to the last complete word
    ("number", "3. **Calculate the bolts:** we add the number"): (None, "3"),
    ("number", "The value is $80,000 + $50,000 = $1"): (None, "50000"),
    ("number", "we multiply 1"): (None, None),
    ("number", "5 eggs and 6 pens"): (None, "6"),
    ("number", "5 eggs and 6"): (None, "5"),
    ("choice", "A. red\nSo it is B. I think"): (None, "B"),
    # a marked answer whose end has been read
    ("number", "#### 42\nSo"): ("42", "42"),
    ("number", "#### 42 eggs. Let me"): ("42", "42"),
    ("number", "The final answer is 42. Let me"): ("42", "42"),
    ("number", "The answer is 42.\n\nLet"): ("42", "42"),
    ("number", "so \\boxed{42}"): ("42", "42"),
    ("number", "so \\boxed{42} and \\boxed{4"): ("42", "42"),
    ("choice", "Answer: B. Breathing masks protect"): ("B", "B"),
    ("choice", "Answer: B\n"): ("B", "B"),
    ("boxed", "\\boxed{x+1}"): ("x+1", "x+1"),
    ("boxed", "\\boxed{x+1} then \\boxed{x+"): ("x+1", "x+1"),
    # one that may continue
    ("number", "6 * 7 = 42\n#### 4"): (None, "42"),
    ("number", "#### 42"): (None, None),
    ("number", "#### 42."): (None, None),
    ("number", "\\(\\boxed{0"): (None, None),
    ("number", "The answer is 1"): (None, None),
    ("number", "The answer is 5 + 3"): (None, "5"),
    ("choice", "Answer: B"): (None, None),
    ("choice", "Answer: A"): (None, None),
    ("boxed", "\\boxed{x+"): (None, None),
    # a think block that was cut
    ("number", "<think>#### 5\n 6"): (None, "5"),
    ("number", "<think>5 and 6"): (None, "5"),
    ("number", "<think>5</think>#### 6\n"): ("6", "6"),
    ("number", ""): (None, None),
}


@pytest.mark.parametrize(("answer_format", "text"), CUT)
def test_cut(answer_format: AnswerFormat, text: str, either: str) -> None:
    strict, lenient = CUT[answer_format, text]
    assert extract_answers([text], answer_format, cut=True) == [strict]
    assert extract_answers([text], answer_format, answer_reading="lenient", cut=True) == [lenient]


def test_each_text_is_cut_or_not(either: str) -> None:
    texts = ["#### 42", "#### 42"]
    assert extract_answers(texts, cut=[True, False]) == [None, "42"]
    with pytest.raises(FastsiaError, match="cut must have one entry for each of the 2 texts, got 3"):
        extract_answers(texts, cut=[True, False, True])
    with pytest.raises(FastsiaError, match="cut must be true or false"):
        extract_answers(texts, cut=["yes", "no"])  # type: ignore[list-item]


# Texts that are markers, and texts that are not. (number, choice with four colours)
MARKERS = {
    "Wrong answer: 1\nCorrect answer: 3": "3",
    "Incorrect answer: 2. Answer: 3": "3",
    "The student's answer: 1, which is wrong.\nAnswer: 3": "3",
    "Possible answer: 1 (too small).\nPossible answer: 2 (fits).\nAnswer: 2": "2",
    "My first answer: 4\nFinal answer: 3": "3",
    "Another answer: 5\nAnswer: 3": "3",
    "Wrong answer: 5": "5",  # the last number
    "My answer: 42 in 3 steps": "42",
    "My answer is 42 in 3 steps.": "42",
    "so answer is 42 in 3 steps.": "42",
    "Answer = 42. I checked 3 times": "42",
    "Final answer - 42 (in 3 steps)": "42",
    "Final answer — 42 (in 3 steps)": "42",
    "Ans: 42 (checked 2 ways)": "42",
    "The answer to the question is 42, in 3 steps": "42",
    "The answer for part two must be 42, in 3 steps": "42",
    "The answer would be 42 after 3 days": "42",
    "The answer should be 42 after 3 days": "42",
    "The correct choice is 42, not 3": "42",
    "The most likely answer is 42, not 3": "42",
    '{"answer": 42, "confidence": 0.9}': "42",
    '{"final_answer": "42", "confidence": 0.9}': "42",
    "{'answer': 42, 'n': 3}": "42",
    "<answer>10 apples</answer> (question 3)": "10",
    "<answer>\n10\n</answer> (question 3)": "10",
    "\\#\\#\\#\\# 42 with 3": "42",
    "## Final Answer\n\n**42**\n\n3 steps": "42",
    "**Final answer**\n42\n3 steps": "42",
    "**Answer**\n\n42 after 3 days": "42",
    "Answer：42，not 3": "42",
    'I will end with "#### 5" style.\n#### 7': "7",
    "I will end with `#### 5`.\n#### 7": "7",
    "“#### 5” is how it ends\n#### 7": "7",
    "The answers: 5 and 6": "6",  # another word
    "Unanswered: 5 of 6": "6",
    "See final_answers: 5 of 6": "6",
}


@pytest.mark.parametrize("text", MARKERS)
def test_markers(text: str, either: str) -> None:
    assert extract_answers([text]) == [MARKERS[text]]


# The text counts up to a stop text, unless there is no answer before it. (with stop texts, without them)
STOPS = {
    "5 eggs\nQuestion: 6": ("5", "6"),
    "5 eggs\n  Q: 6": ("5", "6"),
    "5 eggs. Question: 6": ("6", "6"),
    "FAQ: 6": ("6", "6"),
    "5\nQuestion: 6\n#### 7": ("5", "7"),
    "#### 5\n\nQuestion: 6\n#### 7": ("5", "5"),
    # a question that is restated
    "Question: What is 2 + 3?\n\n2 + 3 = 5\n#### 5": ("5", "5"),
    "Q: 2+3?\nA: 5": ("5", "5"),
    "Let me restate.\nQuestion: how many?\n...\n#### 5": ("5", "5"),
    "<think>a</think>\nQuestion: x\n#### 5": ("5", "5"),
    "Question: 2+3?\nA: 5\n\nQuestion: 7+8?\nA: 15": ("5", "15"),
    "Question: 6": ("6", "6"),
}


@pytest.mark.parametrize("text", STOPS)
def test_stop_texts(text: str, either: str) -> None:
    cut, whole = STOPS[text]
    assert extract_answers([text]) == [cut]
    assert extract_answers([text], stop_texts=False) == [whole]


@pytest.mark.parametrize(
    ("text", "answer_format", "decided"),
    [
        ("#### 42\nmore", "number", True),
        ("#### 42", "number", False),
        ("so 42\n", "number", False),
        ("#### x\n", "number", False),
        ("<think>#### 42\n", "number", False),
        ("<think>x</think>#### 42\n", "number", True),
        ("Question: ?\n#### 42\n", "number", False),
        ("Answer: B\n", "choice", True),
        ("Answer: F\n", "choice", False),
        ("\\boxed{42}\n", "boxed", False),
    ],
)
def test_what_is_decided(text: str, answer_format: AnswerFormat, decided: bool) -> None:
    assert is_decided(text.encode(), Spec.of(answer_format)) is decided


def test_hostile_texts_end(either: str) -> None:
    """A reader that backtracks or nests would not finish on these; the test has a timeout of a minute."""
    size = 20_000 if either == "core" else 2_000
    texts = ["\\boxed{" * size, "#### " * size, "1/" * size, "9**" * size, "-$" * size, "answer " * size, "(" * size]
    texts += [
        "#### " + "1," * size,
        "1 1/" * size,
        "\n" * size + "Q",
        "the answer is " * size,
        "{,}" * size,
        "1.5e" * size,
        "#### x " * size,
        "\\#" * size,
        "answer option " * size,
        "Q:\n" * size,
        "</think" * size,
    ]
    assert len(extract_answers(texts)) == len(texts)
    assert len(extract_answers(texts, "choice", options=("a a a a", "b"))) == len(texts)
    assert len(extract_answers(texts, "boxed")) == len(texts)
