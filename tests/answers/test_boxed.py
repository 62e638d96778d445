"""The content of a box, and answers after other markers in the boxed format."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from fastsia.answers import reference
from fastsia.answers.extraction import canonical_gold, extract_answers
from fastsia.answers.spec import Spec
from fastsia.answers.spelling import spelled
from tests.answers.respell import DIFFERENT, SAME, content
from tests.answers.test_extraction import needs_core, read_with_core

BOXED = {
    "\\boxed{1} \\boxed{2}": "2",
    "\\boxed{1} \\boxed{": "1",
    "\\boxed{1} \\boxed{}": "1",
    "\\boxed{\\boxed{5}}": "5",
    "\\boxed {7}": "7",
    "\\boxed{x + 1}": "x+1",
    "\\boxed{ \\left( 1, 2 \\right) }": "(1,2)",
    "\\boxed{\\dfrac{\\pi}{2}}": "\\frac{\\pi}{2}",
    "\\boxed{\\text{New  York}.}": "New York",
    "\\boxed{3x}": "3x",
    "\\boxed{x = 5}": "5",
    "\\boxed{12\\%}": "12",
    "\\boxed{\\{1\\}}": "\\{1\\}",
    "\\boxed{9**9**9**9}": None,
    "\\boxed{2 + 3}": None,
    "\\boxed{1e999999999}": None,
    "#### 5": "5",
    "Answer: 5 or \\boxed{": None,
    "The answer is 5": None,
    "5": None,
    "\\boxed{" + "x" * 512 + "}": None,
    "\\boxed{" + "x" * 513 + "}": None,
    "\\boxed{" + "x" * 256 + "}": "x" * 256,
    "\\boxed{" + "x" * 257 + "}": None,
    "\\fbox{7x}": "7x",
    "\\boxed{\\fbox{7x}}": "7x",
    # not numbers
    r"\boxed{5 x}": "5x",
    r"\boxed{3ab}": "3ab",
    r"\boxed{5xy}": "5xy",
    r"\boxed{5 i}": "5i",
    r"\boxed{4 n}": "4n",
    r"\boxed{2pi}": r"2\pi",
    r"\boxed{3sinx}": "3sinx",
    r"\boxed{3 ab/cd}": "3ab/cd",
    r"\boxed{x = 5 y}": "5y",
    r"\boxed{5 \text{ and } x}": "5 and x",
    r"\boxed{5x - 7y + 11z + 4 = 0}": "5x-7y+11z+4=0",
    r"\boxed{3x + 4y = 12}": "3x+4y=12",
    r"\boxed{a+b=7}": "a+b=7",
    "\\boxed{3²}": "3²",
    "\\boxed{10³}": "1000",
    r"\boxed{7 y}": "7y",
    r"\boxed{5\ x}": "5x",
    r"\boxed{4 sin x}": r"4\sin x",
    r"\boxed{2x = 8}": "2x=8",
    r"\boxed{12 \text{ or } 13}": "12 or 13",
    # numbers in other notations
    r"\boxed{\bf 7}": "7",
    r"\boxed{\large 7}": "7",
    r"\boxed{\mathbf{7}}": "7",
    r"\boxed{\frac{1}{-3}}": "-1/3",
    r"\boxed{\cfrac 1 4}": "0.25",
    r"\boxed{45\degree}": "45",
    r"\boxed{45^{\circ}}": "45",
    r"\boxed{0.\overline{3}}": "1/3",
    r"\boxed{-0.1\overline{6}}": "-1/6",
    r"\boxed{1.\overline{9}}": "2",
    r"\boxed{2 + 3 = 5}": "5",
    r"\boxed{2 \cdot 3 = 6}": "6",
    # contents that render as nothing
    r"\boxed{\,}": None,
    r"\boxed{$$}": None,
    # placeholders copied from the instruction
    r"\boxed{...}": None,
    r"\boxed{?}": None,
    r"\boxed{answer}": None,
    r"\boxed{\text{Your answer here}}": None,
    r"\boxed{[ANSWER]}": None,
    r"I put it in \boxed{\text{answer}}. So \boxed{7}. In \boxed{\ldots} as asked.": "7",
    r"\boxed{\text{answers}}": "answers",
    # a list of numbers is not a number with groups
    r"\boxed{100, 200}": "100, 200",
    r"\boxed{-1,\ 100,\ 200}": "-1, 100, 200",
    r"\boxed{3,\quad 100}": "3, 100",
    r"\boxed{100,200}": "100200",
    r"\boxed{100,\!200}": "100200",
    r"\boxed{10, 15}": "10,15",
    r"\boxed{(100,200)}": "(100,200)",
    r"\boxed{\left[100,200\right]}": "[100,200]",
    r"\boxed{(1{,}234)}": "1234",
    r"\boxed{(1,000)}": "1000",
    # multiples and ordinals
    r"\boxed{\$18\text{ million}}": "18000000",
    r"\boxed{2.5\,\text{billion dollars}}": "2500000000",
    r"\boxed{5\text{ millionths}}": "5",
    r"\boxed{5^{\text{th}}}": "5",
    r"\boxed{21^{st}}": "21",
    r"\boxed{x^{th}}": "x^{th}",
    r"\boxed{\text{Rs. }500}": "500",
    r"\boxed{.}": None,
    r"\boxed{\phantom{5}}": None,
}

# All texts of a line have one meaning; the first is the normalized spelling.
ONE_SPELLING = [
    [r"\sqrt2", r"\sqrt{2}", r"\sqrt 2", "√2", r"\sqrt{ 2 }", "sqrt(2)", r"\sqrt(2)"],
    ["52_8", "52_{8}", "52_{ 8 }", r"52_{\text{8}}", "52₈"],
    ["x^2", "x^{2}", "x^{ 2 }", "x²", "x ^ 2", "x**2"],
    ["p - q", "p-q", r"\text{p - q}", "(p-q)", "p−q", "x = p - q"],
    [r"\text{(C)}", "C", "(C)", r"\textbf{(C)}", r"\mathrm{C}", r"\text{C}."],
    [
        r"\frac x2",
        r"\frac{x}2",
        r"\frac{x}{2}",
        r"\dfrac{x}{2}",
        r"\tfrac x 2",
        r"\cfrac{x}{2}",
        r"\frac {x} {2}",
        "x/2",
    ],
    [r"-\frac{\pi}{6}", r"\frac{-\pi}{6}", r"\frac{\pi}{-6}", r"-\pi/6", r"-\dfrac{\pi}6"],
    [r"\lbrace 1, 2\rbrace", r"\{1,2\}", r"\left\{ 1,\,2 \right\}", r"\{1,\quad 2\}"],
    [r"1,\quad 2", "1,2", "1 , 2"],
    [r"\bf x", r"{\large x}", "x", r"\mathbf{x}"],
    [
        r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
        r"\begin{pmatrix}1\\2\end{pmatrix}",
        r"\begin{pmatrix}1\\ 2\\\end{pmatrix}",
        r"\left(\begin{array}{c}1\\2\end{array}\right)",
        r"\begin{pmatrix} 1 \\[2pt] 2 \end{pmatrix}",
    ],
    ["y = 2x+1", "2x+1", "2x + 1", r"2\cdot x+1", "2*x+1", r"y=2\,x+1"],
    [r"\text{New  York}.", "New York", r"New\ York", "New~York", r"\textbf{New York}"],
    [r"x \in [-2,7]", "[-2,7]", r"x\in\left[-2,7\right]"],
    [r"(-\infty, 2) \cup (3, \infty)", "(-∞,2)∪(3,∞)", r"(-\infty,2)\cup(3,+\infty)"],
    [r"\left(\frac{3}{5},\frac{8}{3}\right]", "(3/5,8/3]", r"(\frac35,\frac83]"],
    [r"10{,}000\pi", r"10,\!000\pi", r"10\,000\pi", r"10000\pi"],
    [r"12\pi \text{ cm}^2", r"12\pi", r"12\pi\text{ square units}", r"12\pi cm", r"12\pi\ \mathrm{cm}^{2}"],
    [r"1 \text{ and } 2", "1 and 2", r"1\text{ and }2"],
    ["5x - 7y + 11z + 4 = 0", "5x-7y+11z+4=0"],
    [r"\cot x", r"\cot{x}", "cot x", r"\cot\,x"],
    ["2^3y", "2^{3}y"],
    ["x^{10}", "x^10"],
    ["2^{n+1}", "2^(n+1)"],
    [r"\overline{AB}", r"\overline {AB}"],
    [r"\mathbb R", r"\mathbb{R}", "ℝ"],
    ["f'(x)", r"f^\prime(x)", r"f^{\prime}(x)", "f′(x)"],
    ["x_1^2", "x^2_1", "x_{1}^{2}"],
    ["$x$", r"\(x\)", r"\displaystyle x"],
    [r"\sqrt[3]{2}", r"\sqrt[ 3 ]2"],
    ["（1，2）", "(1,2)"],
    [r"\{\}", r"\emptyset", "∅"],
    [r"x\ge5", "x≥5", r"x \geq 5", "x>=5"],
    [r"1\pm\sqrt{19}", "1±√19", r"1 +/- \sqrt{19}"],
    [r"\left[ \frac{\pi^2}{8}, \frac{5 \pi^2}{4} \right]", r"[\frac{\pi^{2}}8,\frac{5\pi^2}4]"],
    [r"\binom{n}{2}", r"\dbinom n2", r"\tbinom{n}{2}"],
    [r"\{1\pm\sqrt{5},-2\}", r"\{1±√5, −2\}", r"\left\lbrace 1 \pm \sqrt5, -2 \right\rbrace"],
    ["|x|", r"\left|x\right|", r"\lvert x \rvert", r"\vert x\vert"],
    [r"\frac{\sqrt{3}}{2}", r"\sqrt{3}/2", r"\frac{\sqrt3}2", r"\sqrt3/2"],
    [r"\frac{2\pi}{3}", r"2\pi/3", r"\dfrac{2\,\pi}{3}", "2π/3"],
    ["(0.5,1)", "(.5, 1)", "(0.50, 1.0)"],
    [r"x\ne1", r"x \neq 1", "x≠1", "x != 1"],
    ["a<b", r"a \lt b"],
    [r"\sin x", r"\sin{x}", "sin x", r"\operatorname{sin} x", r"\mathrm{sin}\,x"],
    [r"\vec{v}", r"\vec v"],
    [
        r"\begin{bmatrix}1&0\\0&1\end{bmatrix}",
        r"\begin{bmatrix} 1 & 0 \\ 0 & 1 \end{bmatrix}",
        r"\left[\begin{array}{cc} 1 & 0 \\ 0 & 1 \\ \end{array}\right]",
    ],
    ["x^{-1}", "x^-1", "x^{ - 1 }", "x⁻¹"],
    ["-x", "- x", "−x", "–x"],
    [r"\sqrt{x+1}", r"\sqrt {x + 1}", "√(x+1)", "sqrt(x+1)"],
    [r"\pi r^2", r"\pi{r}^{2}", r"A = \pi r^2", "πr²"],
    [r"\sin x", r"\sin(x)", "sin(x)", r"\sin{\left(x\right)}"],
    [r"\ln2", r"\ln(2)", "ln 2", r"\ln{2}"],
    [r"\log_{2}3", r"\log_2(3)", r"\log_2{3}", "log_2 3"],
    [r"\cos2x+1", r"\cos(2x)+1", r"\cos 2x + 1"],
    [r"\frac{x-1}{2}", r"\frac{(x-1)}{2}", r"\frac{\left( x - 1 \right)}2"],
]

APART = [
    [r"\sqrt{2}", r"\sqrt{3}", r"\sqrt[3]{2}", "2", r"-\sqrt{2}", r"2\sqrt{2}"],
    ["52_8", "52_7", "52", "528", "52^8"],
    ["(1,2)", "[1,2)", "(1,2]", "[1,2]", "(2,1)", r"\{1,2\}", "1,2", "12", "1 2", "(1,2,3)"],
    ["x^2", "x^3", "x2", "x_2", "2x", "x", "y^2", "-x^2", "x^{2x}", "x^2x"],
    ["x^{10}", "x^{1}0", "10x"],
    ["p-q", "q-p", "p+q", "-p-q", "p"],
    [r"\frac{x}{2}", r"\frac{2}{x}", r"\frac{x}{3}", "2x", r"-\frac{x}{2}", r"\binom{x}{2}"],
    [r"\frac{x+1}{2}", r"x+\frac{1}{2}", r"\frac{x}{2}+1"],
    [
        r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
        r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}",
        r"\begin{pmatrix} 1 & 2 \end{pmatrix}",
        r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}",
        r"\begin{vmatrix} 1 \\ 2 \end{vmatrix}",
        r"\begin{pmatrix} 12 \end{pmatrix}",
    ],
    [r"1 \\, 2", r"1 \, 2", "12"],
    ["x<1", r"x \le 1", "x>1", r"x \ge 1", r"x \ne 1", "x=1"],
    [r"A \cup B", r"A \cap B", "AB", r"A \setminus B"],
    [r"1 \pm x", "1+x", "1-x", r"1 \mp x"],
    ["New York", "new york", "York", "NewYork", "York New"],
    ["C", "c", "D", "CD", r"\mathbb{C}"],
    [r"\phi", r"\varphi", r"\Phi"],
    ["3²", "3", "2", "32"],
    ["f(x)", "f'(x)", "fx"],
    [r"\frac{-a-b}{c}", r"-\frac{a-b}{c}", r"\frac{a-b}{c}"],
    [r"2\cdot\frac{x}{2}x", r"2\frac{x}{2}"],
    ["(x+1)(x+2)", "x+1)(x+2", "(x+1)(x-2)"],
    ["|x|", "x", "(|x|,1)"],
    [r"1,2,\dots", "1,2", "1,2,3"],
    [r"\sin x", r"\cos x", r"\sin 2x", r"\sin^2 x"],
    ["n!", "n", "(n!)!"],
    [r"\ln(2)x", r"\ln(2x)", r"\ln(x)2", r"\ln x"],
    [r"\sin(x+1)", r"\sin x+1"],
    ["f^{(2)}", "f^2", "f(2)"],
]

AFTER_MARKERS = {
    r"Answer: 2\pi": r"2\pi",
    "Final answer: 5x + 3": "5x+3",
    "Answer: (1, 2)": "(1,2)",
    "Answer: $[2,5)$": "[2,5)",
    r"The final answer is $\frac{\pi}{2}$.": r"\frac{\pi}{2}",
    "Answer: 12 or 13": None,
    "Answer: 42 apples": "42",
    "Answer: 42": "42",
    "Answer: see above": None,
    "Answer: $x$ or $y$": None,
    r"Answer: 5 or \boxed{": None,
    "Answer: **5x+3**": "5x+3",
    "**Answer:** $(1,2)$": "(1,2)",
    r"**Answer: 2\pi**": r"2\pi",
    "Answer: east": "east",
    r"Answer: \text{(C)}": "C",
    "Answer: 16 - 3 - 4 = 9": "9",
    "Answer: x = 5": "5",
    "Answer: $5$ apples": "5",
    "Answer: **42** apples": "42",
    r"Answer: \(\frac{1}{2}\)": "0.5",
    "Answer: 1, 2": "1,2",
    "Answer: 42, since 6*7 = 42": "42",
    "Answer: $29.00": "29",
    "Answer: 2.5 million": "2500000",
    "Answer: 2 1/2 cups": "2.5",
    '{"answer": "x+1", "c": 3}': "x+1",
    '{"answer": 42, "confidence": 0.9}': "42",
    "<answer>x+1</answer>": "x+1",
    "Answer: [2, 5)": "[2,5)",
    r"Answer: \{1, 2\}": r"\{1,2\}",
    "Answer: 5x +": None,
    "Answer: The value is 5x": None,
    "Answer: 5 x is the length": None,
    r"Answer: \begin{pmatrix} 1 \\ 2 \end{pmatrix}": r"\begin{pmatrix}1\\2\end{pmatrix}",
    "Answer: y = 2x + 3": "2x+3",
    "(Final answer: 5x)": "5x",
    "Answer: 3/4": "0.75",
    "Answer: √2": r"\sqrt{2}",
    "Answer: 答案": None,
    "Answer: 3 ≤ x": r"3\le x",
    "Answer: 1, 2 and 3": None,
    r"Answer: $2\pi$ because r = 1": r"2\pi",
    r"Answer: $12\pi$ square units": r"12\pi",
    "Answer: 42 (6 × 7)": "42",
    "Answer: -7": "-7",
    "Answer: - 7x": "-7x",
    r"Answer: -\frac{\pi}{6}": r"-\frac{\pi}{6}",
    "Answer: 60% of 50 = 30": "30",
    "Answer: 42 and 43": None,
    "Answer: 10^6": "1000000",
    "Answer: below": None,
    "Answer: $p - q$, as shown": "p-q",
    "Answer: `2x`": "2x",
    "Answer: 5, 6": "5,6",
    "Answer: 5 to 6": None,
    r"Answer: 90^\circ": "90",
    "Answer: 52_8": "52_8",
    "Answer: $$x^2$$": "x^2",
    "Answer:\n\n$$(1,2)$$": "(1,2)",
    "Answer:\n(1, 2)": "(1,2)",
    "Answer: 5!": None,
    r"Final answer: \left( 3, \frac{\pi}{2} \right).": r"(3,\frac{\pi}{2})",
    "Answer: x > 5": "x>5",
    "Answer: I do not know": None,
    "Answer: 3 boxes * 4 = 12": "12",
    "The final answer is 5 x + 2 y": "5x+2y",
    "The final answer is not clear.": None,
    "The final answer is clear": None,
    "Answer: f(x) = 2x": "f(x)=2x",
    "Answer: -2 + 7i": "-2+7i",
    "Answer: 2x3": "2x3",
    "Answer: 3ab": "3ab",
    "Answer: sin x": r"\sin x",
    "Answer: $$": None,
    "Answer: $": None,
    r"Answer: $\text{east}$": "east",
    r"Answer: \$29": "29",
    "Answer: 5x and 3": None,
    "Answer: x or y": None,
    "Answer: 5 or 6": None,
    "Answer: $5$ or $6$": None,
    "Answer: **5** or **6**": None,
    "Answer: between 5 and 6": None,
    "Answer: 10 000": "10000",
    "Answer: 2^{10}": None,
    "Answer: ($1$, $2$)": None,
    r"Answer: It is 2\pi": None,
    "Answer: $x = 2$ and $y = 3$": None,
    "Answer: unknown": None,
    "Answer: ": None,
    "Answer: +": None,
    r"Answer: $\frac{1}{2": None,
    "Final Answer: The final answer is $11\\sqrt2$. I hope it is correct.": "11\\sqrt{2}",
    "Answer: (1, 2": None,
    "Final answer\n": None,
    r"The final answer is: $11\sqrt2$": r"11\sqrt{2}",
    r"**Final Answer:** \[ 3\sqrt{13} \]": r"3\sqrt{13}",
    "The final answer is $(3,4]$. I hope it is correct.": "(3,4]",
}


@pytest.mark.parametrize("text", BOXED)
def test_boxes(text: str, either: str) -> None:
    assert extract_answers([text], "boxed") == [BOXED[text]]


@pytest.mark.parametrize("contents", ONE_SPELLING, ids=lambda contents: contents[0])
def test_one_spelling(contents: list[str], either: str) -> None:
    answers = extract_answers([f"\\boxed{{{content}}}" for content in contents], "boxed")
    assert answers[0] is not None
    assert answers == answers[:1] * len(contents)
    assert extract_answers([f"\\boxed{{{answers[0]}}}"], "boxed") == answers[:1]


@pytest.mark.parametrize("contents", APART, ids=lambda contents: contents[0])
def test_different_answers_stay_apart(contents: list[str], either: str) -> None:
    answers = extract_answers([f"\\boxed{{{content}}}" for content in contents], "boxed")
    stated = [answer for answer in answers if answer is not None]
    assert len(set(stated)) == len(stated) >= len(contents) - 1


@pytest.mark.parametrize("text", AFTER_MARKERS)
def test_after_other_markers(text: str, either: str) -> None:
    assert extract_answers([text], "boxed") == [AFTER_MARKERS[text]]


def test_boxed_choices(either: str) -> None:
    """If the problem has options, a box contains one of them."""
    options = ("a rock", "water", "Sunlight energy.", "4")
    texts = ["\\boxed{water}", "\\boxed{b}", "\\boxed{x+1}"]
    assert extract_answers(texts, "boxed", options=options) == ["B", "B", None]


@pytest.mark.parametrize(
    "content",
    [
        "{" * 200 + "x" + "}" * 200,
        "^" * 400,
        "\\sqrt" * 80,
        "\\frac" * 80,
        "\\text" * 80,
        "(\\frac){" * 30 + "x" + "}" * 30,
        "\\sqrt[\\frac]{" * 16 + "x" + "}" * 16,
        "x^(" * 100 + ")" * 100,
        "\\begin{" * 60,
        "\\left" * 80,
        "\\" * 401,
        "_" * 100 + "^" * 100,
        "/" * 400,
        "1/" * 200,
        "{,}" * 100,
        "\\," * 200,
        "\x00\x01\x02",
        "\ufffd" * 80,
        "²" * 100,
        "₂" * 100,
    ],
    ids=lambda content: content[:12],
)  # fmt: skip
def test_hostile_contents(content: str, either: str) -> None:
    """Readers terminate quickly, and a normalized spelling normalizes to itself."""
    (answer,) = extract_answers([f"\\boxed{{{content}}}"], "boxed")
    if answer is not None:
        assert len(answer.encode()) <= 256


_MARKERS = (
    "Answer: ",
    "Final answer: ",
    "The final answer is $",
    "**Answer:** ",
    "Answer: **",
    '{"answer": "',
    "<answer>",
)
_ENDS = ("", "$", ".", "**", " cm", " apples", "\n", '"}', "</answer>", " or 5", "}", "! Then")


def check_expressions(num_texts: int, seed: int) -> None:
    """The C++ core reads boxes and answers after other markers as the reference does."""
    rng = random.Random(seed)
    known = [*(content for contents in ONE_SPELLING for content in contents), *(text[8:] for text in AFTER_MARKERS)]
    spec = Spec.of("boxed")
    num_answers = 0
    for _ in range(num_texts // 100):
        contents = [content(rng, known) for _ in range(100)]
        texts = [
            f"\\boxed{{{text}}}" if rng.random() < 0.6 else rng.choice(_MARKERS) + text + rng.choice(_ENDS)
            for text in contents
        ]
        encoded = [text.encode() for text in texts]
        for text, ours in zip(encoded, read_with_core(encoded, spec), strict=True):
            assert ours == reference.read_answer(text, spec), text
            num_answers += ours[0] is not None
    assert num_answers > num_texts / 3


@needs_core
def test_core_agrees_on_expressions() -> None:
    check_expressions(10_000, 1)


@needs_core
@pytest.mark.slow
def test_core_agrees_on_200_000_expressions() -> None:
    check_expressions(200_000, 2)


def test_contents_of_any_kind_are_read() -> None:
    """Also golds that a box could not contain: unclosed braces, long texts."""
    rng = random.Random(3)
    num_read = sum(spelled(content(rng, ["x^{2}"]).encode()) is not None for _ in range(5000))
    assert num_read > 2500
    assert spelled(b"x" + b" " * 4000) == b"x"
    assert spelled(b"x" + b" " * 5000) is None


def golds_of(shared_data: Path) -> list[str]:
    lines = (shared_data / "math500" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["answer"] for line in lines]


def test_golds_of_math500(shared_data: Path, either: str) -> None:
    """Each gold is read, also from a completion."""
    golds = golds_of(shared_data)
    canonical = [canonical_gold(gold, "boxed") for gold in golds]
    assert len(golds) == 500
    assert None not in canonical
    assert extract_answers([f"So it is $\\boxed{{{gold}}}$." for gold in golds], "boxed") == canonical
    assert extract_answers([f"The final answer is ${gold}$." for gold in golds], "boxed") == canonical
    assert canonical == [canonical_gold(str(gold), "boxed") for gold in canonical]


@pytest.mark.parametrize(("table", "num_texts"), [("same", 7726), ("different", 5761)])
def test_respelled_golds_of_math500(table: str, num_texts: int, shared_data: Path, either: str) -> None:
    """At least ten re-spellings of each gold read as the gold, and at least ten changes of meaning do not."""
    golds = list(dict.fromkeys(golds_of(shared_data)))
    respellings = SAME if table == "same" else DIFFERENT
    texts = [(gold, name, respell(gold)) for gold in golds for name, respell in respellings.items()]
    texts = [entry for entry in texts if entry[2] is not None]
    answers = extract_answers([f"\\boxed{{{text}}}" for _, _, text in texts], "boxed")
    own = {gold: canonical_gold(gold, "boxed") for gold in golds}
    wrong = [
        (text, answer, own[gold])
        for (gold, _, text), answer in zip(texts, answers, strict=True)
        if (answer == own[gold]) is (table == "different")
    ]
    assert wrong == []
    assert len(golds) == 301
    assert len(texts) == num_texts
    assert {name for _, name, _ in texts} == set(respellings)
    assert min(sum(entry[0] == gold for entry in texts) for gold in golds) >= 10
