"""Typical and hostile texts for the readers of answers."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np

from fastsia.answers.vocabulary import Vocabulary

RATIONALES = (
    "Janet sells 16 - 3 - 4 = <<16-3-4=9>>9 duck eggs a day.\nShe makes 9 * 2 = $<<9*2=18>>18 every day.\n#### 18",
    "The house was 80,000+50,000=$<<80000+50000=130000>>130,000\nIts value rose by 80,000*1.5=120,000\n#### 70,000",
    "It takes 2/2=<<2/2=1>>1 bolt of white fiber\nSo the total is 2+1=<<2+1=3>>3 bolts. The answer is 3.",
    "Planets that rotate faster have shorter days. Option A is about density, B about years.\n\nAnswer: C",
    "<think>\nLet me see: 12 * 3 = 36.\n</think>\n\nThe perimeter is \\boxed{36 \\text{ cm}}.",
    "We get $x^2 = 16$, so $x = \\frac{8}{2}$. The final answer is $\\boxed{\\dfrac{8}{2}}$.",
)

_WORDS = (
    "####|#### |#####|###|\\boxed{|\\boxed {|}|{|Answer:|answer :|**Answer:** |Answer|final answer is |the |best "
    "|The final answer: |the answer is |The correct answer is |final  answer\nis|42|1,234|1{,}024|1,2,3|0,123|3/4"
    "|3 / 4|1 1/2|3/4/2020|\\frac{3}{4}|\\dfrac12|\\frac{-1}{3}|-7|−7|$|\\$|€|£|50%|\\%|1.5e3|e|E+5|10^6|10^{-2}"
    "|^|**|×| x 10^| million|10|000|,|.|0.50|.5| billion|thousandth|1e999999999|9**9**9**9|0|00|22/7|1/0|007"
    "|A|B|C|D|E|(B)|b|a| a rock|A rock|water|heat| energy|option |Option B|choice: |2|1|5|\n|\r|\n\n| |\t|  "
    "|Question:|Q:|\nQuestion: |\n  Q:|<think>|</think>|<thi|</thi|\\text{|\\mathrm{|\\circ|°| °C|km| km/h| m^2"
    "|=|+|-|*|/|≈|“|’|'|\u202f|\u2009|é|语|_|x = |\\left(|\\right)|\\,|\\!|\\ |~|:|;|?|!|is| is| because|U.S.A"
    "|I think| (ducks) * 3| x 150%|vs. |\\times|\\cdot|\\div|<<16-3-4=9>>|x2|CO2|Ā|\ufffd|\0"
)
_TORN = (b"\xff", b"\xe2", b"\x88", b"\x92", b"\xc3", b"\xc2", b"\xe4\xb8")
FRAGMENTS = (*(word.encode() for word in _WORDS.split("|")), *_TORN)

OPTION_SETS: tuple[tuple[str, ...] | None, ...] = (
    None,
    ("a rock", "water", "sunlight  energy.", "4"),
    ("1", "2", "3"),
    ("A", "B", "C", "D", "E"),
    ("heat", "heat energy", "a", "é", "cold."),
    (),
    tuple(f"opt{i}" for i in range(30)),
    ("3.5", "35 m", "5%", "1/2"),
)


_NUMBER_PARTS = (
    "0|1|2|3|5|7|10|12|18|20|30|42|100|234|500|000|1,234|12,34,567|1,00,000|1'234|1_000|10 000|1\\,234|1{,}234"
    "|1 {,} 234"
    "|0.5|.5|2.50|1/2|3/4|-1/-2|1/3|2½|½|10²|10⁻³|x₁|m²|٤|४|４|𝟒|９|%|\\%|٪|％|-|−|–|—|- |+|±|$|\\$|€|₹|Rs. |USD "
    "|£ |\u00a0|\u202f|~"
    "|\\,|\\ |\\!| | | | |  |\t|k|K|M|MM|bn|B|m|s|kg| kg| km/h|cm^2| cm²| thousand| million| hundred|x|X| x | y"
    "|abc|n |e5|E-2|e"
    "|^2|^{3}|**2|^\\circ|°C|°|\\pi|π|√|\\sqrt{2}|\\sqrt |\\frac{1}{2}|\\frac12|\\frac{-1}{3}|\\cfrac {3} {4}"
    "|\\nicefrac{\\$1}{-2}"
    "|\\overline{3}|.\\overline{6}|.(3)|(6)|\\bar 1|:|: |,|, |;|.|...|…|/| / |=| = |==|\\approx|≈| is | equals "
    "|->|→|=>|>|<|<=|≤"
    "|*| * |×| × |\\times |\\cdot|·|÷|\\div|+ | + | - | of | plus | minus | times | divided by | and | or | to "
    "| & |--|!|!!"
    "|(|)|)(|[|]|{|}|\\{|\\(|\\)|\\left(|\\right)|\\text{ cm}|\\text{and }|\\text{Total} = |\\mathrm{km}"
    "|\\underline{|_|_8|_{2}|*|**"
    "|x = |x_1 = |f(2) = |\\theta = |total cost = |Total = |y=|minus |negative |about |therefore |thus, "
    "|exactly |it is |it's "
    "|a total of |not |apples|bolts|bolts/bolt| hours | minutes| feet |in|dozen|per hour|/month|/x|a day|sin x"
    "|pi|sqrt(2)|log 2"
    "|1. |1) |(2) |2nd |1st|3rd|Step|Count the |Add|. So|. |st|th|<<3+4=7>>|<<|>>|because y = |so x = |'|\"|`|”"
    "|’|元|個|개|é|Ω|θ| м"
    "| lakhs| crore|s|\\text{ million}|\\text{~thousands per year}|\\text{Rs. }|\\text{\\$}|\\mathrm{approx. }"
    "|/egg|/h| / day|\ufe0f\u20e3|^{\\text{th}}|^{st}|, which is |which equals |,which gives | rounded up to "
    "|, round to |, which rounds to | (rounded to | decimal places|, no, |... wait, | (wait it |— no wait |100, 200"
    "|3,5|1.234,56|1.000.000"
    "|\nStep 3: |(step |equation (|\n1. |\n- **2)** |\n3. Add|\n12) é|answer| here|your |\\dots|?"
    "| and a half|between |infinity|\\infty|\\boxed{|\\n|\\quad|,\\!|,\\,|. Then|is|was|be|at|= - |= minus |is minus "
)
NUMBER_PARTS = (*(part.encode() for part in _NUMBER_PARTS.split("|")), *_TORN)
_NUMBER_FRAMES = (
    *(
        "#### {}",
        "#### **{}",
        "#### ${}",
        "####\n- {}",
        "The answer is {}",
        "Final answer: {}.",
        "\\boxed{{{}}}",
        "so {}",
        "{}",
    ),
    *("5 {}\n", "#### {}\n#### 77", "{}\n\\boxed{{x}} 6", "\\boxed{{{}}} {}", "x = {}"),
)


def number_text(rng: random.Random) -> bytes:
    """Forms of numbers after a marker, in a box, or anywhere."""
    frame = rng.choice(_NUMBER_FRAMES).encode()
    pieces = frame.replace(b"{{", b"\1").replace(b"}}", b"\2").split(b"{}")
    text = pieces[0]
    for piece in pieces[1:]:
        text += b"".join(rng.choices(NUMBER_PARTS, k=rng.randint(1, 9))) + piece
    return text.replace(b"\1", b"{").replace(b"\2", b"}")


def rationales(shared_data: Path | None) -> list[bytes]:
    """The rationales of GSM8K's test split; without the file, a few of our own."""
    if shared_data is None:
        return [text.encode() for text in RATIONALES]
    lines = (shared_data / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["answer"].encode() for line in lines]


def text(rng: random.Random, real: list[bytes]) -> bytes:
    """Fragments that the rules react to, random bytes, symbols of numbers, and mutations of a real rationale."""
    kind = rng.random()
    if kind < 0.45:
        return b"".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(1, 14)))
    if kind < 0.55:
        return rng.randbytes(rng.randint(0, 40))
    if kind < 0.65:
        return "".join(rng.choices("0123456789.,/-+ $%eExX^*{}()\\ =\n#ABC", k=rng.randint(1, 30))).encode()
    mutated = bytearray(rng.choice(real))
    for _ in range(rng.randint(0, 6)):
        begin = rng.randrange(len(mutated) + 1)
        end = min(len(mutated), begin + rng.randint(0, 12))
        change = rng.random()
        if change < 0.4:
            mutated[begin:end] = rng.choice(FRAGMENTS)
        elif change < 0.6:
            del mutated[begin:end]
        elif change < 0.8:
            mutated[begin:begin] = mutated[end : end + 30]
        else:
            mutated[begin:begin] = rng.randbytes(1)
    return bytes(mutated)


HIGH_BYTES = bytes(range(128, 256))


def byte_vocabulary(fallback: bytes = b"", num_special: int = 0) -> Vocabulary:
    """One token for each byte, with its value as id; those in `fallback` are byte-fallback tokens; then special
    tokens."""
    kinds = np.zeros(256 + num_special, dtype=np.uint8)
    kinds[list(fallback)] = 1
    kinds[256:] = 2
    offsets = np.minimum(np.arange(257 + num_special, dtype=np.int64), 256)
    return Vocabulary(bytes(range(256)), offsets, kinds)


def ids_of(data: bytes) -> np.ndarray:
    """The ids of a text under `byte_vocabulary`."""
    return np.frombuffer(data, dtype=np.uint8).astype(np.int32)
