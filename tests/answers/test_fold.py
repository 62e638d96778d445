"""Normalization of texts. The core does not expose it, so options show that it folds in the same way."""

from __future__ import annotations

import pytest

from fastsia.answers import fold
from fastsia.answers.extraction import extract_answers

FOLDED = {
    "“it’s” ‘so’": "\"it's\" 'so'",
    "5\u00a0cm, 12\u00a0500, 1\u202f000": "5 cm, 12500, 1000",
    "A–B — C": "A-B - C",
    "Ｂ Ⓑ ⓑ 𝐁 𝗯 🅱 ①": "B (B) (b) B b (B) (1)",
    "é e\u0301 ế Ñ ø ß": "e e e N ø ß",
    "CO₂ CO_2 CO_{2} CO<sub>2</sub> \\text{CO}_2": "CO2 CO2 CO2 CO2 CO2",
    "10²³ m² x^{2}": "10^23 m^2 x^2",
    "$\\frac{1}{2}$ \\dfrac12 \\(\\tfrac{ 1 }{ 2 }\\) ½ 1⁄2": "1/2 1/2 1/2 1/2 1/2",
    "\\frac{a+b}{2}": "\\frac a+b\x012",
    "20^\\circ C, 20^{\\circ} C, 20\\degree C": "20° C, 20° C, 20° C",
    "2 \\times 3, 2 × 3, 2 * 3, 2*3, 2x3": "2  x  3, 2 x 3, 2  x  3, 2 x 3, 2 x 3",
    "**A** rock, `A` rock, $A$ rock, \\text{A} rock, _A_, <b>A</b>": "A\1 rock, A\1 rock, A\1 rock, A\1 rock, A\1, A\1",
    "**green** $x+y$ \\mathrm{kg}": "green x+y\1 kg",
    "snake_case __init__": "snake_case init",
    "1,000 1,234,567.50 4.00 .5 0.50 1{,}000": "1000 1234567.5 4 0.5 0.5 1000",
    "1,2,3 12,34 3.50.1 1,0000 0,123": "1,2,3 12,34 3.50.1 1,0000 0,123",
    "4cm 10m/s H2O v2b": "4 cm 10 m/s H2O v2b",
    "-> => --> ⇒": " →   →   →  →",
    "a\\,b\\;c~d\\ e\\!f": "a b c d ef",
    "\\left( 1 \\right) \\% \\leftarrow": "( 1 ) % \\leftarrow",
    "a\u200bb\ufeff\u00ad": "ab",
    "B。": "B.",
}


@pytest.mark.parametrize("text", FOLDED)
def test_fold(text: str) -> None:
    assert fold.fold(text.encode()).decode() == FOLDED[text]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("U.S.A. has A's, B-12", ["U.S.A", ".", "has", "A's", ",", "B-12"]),
        ("B.green B.C. D", ["B", ".", "green", "B.C", ".", "D"]),
        ("3.5, 1/2 7:30 A/B", ["3.5", ",", "1/2", "7:30", "A", "/", "B"]),
        ("答案是B。", ["答", "案", "是", "B", "."]),
        ("one\ntwo", ["one", "\n", "two"]),
        ("Größe λ", ["Große", "λ"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    t = fold.words_of(text.encode())
    assert [word.decode() for word in t.texts] == words
    assert t.lows == [word.lower() for word in t.texts]
    assert (t.text(-1), t.low(len(t)), t.is_adjacent(0)) == (b"", b"", False)


def test_invalid_text_stays() -> None:
    assert fold.fold(b"\xff\xe2\x80 \xc3 \xf0\x80\x81\x81") == b"\xff\xe2\x80 \xc3 \xf0\x80\x81\x81"


def test_every_character_is_folded_by_both(either: str) -> None:
    """An option with a character's usual spelling is found in a text that has the character."""
    characters = [c.decode() for c, spelling in fold._CHARACTERS.items() if spelling.strip() not in (b"", b".", b",")]
    characters += list("⁰¹²³⁴⁵⁶⁷⁸⁹")
    options = [("other", f"see {fold.fold(c.encode()).decode()} there") for c in characters]
    answers = extract_answers([f"Answer: see {c} there" for c in characters], "choice", options=options)
    assert [c for c, answer in zip(characters, answers, strict=True) if answer != "B"] == []
