"""Classes of answers, with a stub of math-verify and with the package."""

from __future__ import annotations

import importlib.util
import random
import threading

import pytest

from fastsia.answers import equivalence
from fastsia.answers.equivalence import Classes, classes, is_comparable
from fastsia.errors import FastsiaError

needs_math_verify = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="the package math-verify is not installed"
)


class Stub:
    """A stub in which some ordered pairs are equal and some time out."""

    def __init__(self, equal: set[tuple[str, str]] = frozenset(), late: set[tuple[str, str]] = frozenset()) -> None:  # type: ignore[assignment]
        self.equal, self.late = equal, late
        self.asked: list[tuple[str, str]] = []

    def __call__(self, gold: str, target: str) -> bool | None:
        self.asked.append((gold, target))
        return None if (gold, target) in self.late else (gold, target) in self.equal


def test_spelling_is_the_identity() -> None:
    assert classes(["b", "a", "b"], "c", method="spelling") == Classes({"a": "a", "b": "b", "c": "c"}, 0)


def test_closure_of_a_relation_that_is_not_transitive() -> None:
    found = classes(["r", "p", "q", "s"], "t", method="math_verify", verify=Stub({("p", "q"), ("q", "r")}))
    assert found.representative == {"p": "p", "q": "p", "r": "p", "s": "s", "t": "t"}


@pytest.mark.parametrize("pair", [("p", "q"), ("q", "p")])
def test_one_direction_is_enough(pair: tuple[str, str]) -> None:
    assert classes(["p", "q"], "t", method="math_verify", verify=Stub({pair})).representative["q"] == "p"


def test_gold_stands_for_its_class() -> None:
    found = classes(["p", "q", "r"], "r", method="math_verify", verify=Stub({("q", "r"), ("q", "p")}))
    assert set(found.representative.values()) == {"r"}
    apart = classes(["p", "q"], "z", method="math_verify", verify=Stub({("q", "p")}))
    assert apart.representative == {"p": "p", "q": "p", "z": "z"}


def test_order_and_number_of_draws_change_nothing() -> None:
    rng = random.Random(0)
    letters = list("abcdefghij")
    equal = {(rng.choice(letters), rng.choice(letters)) for _ in range(8)}
    late = {(rng.choice(letters), rng.choice(letters)) for _ in range(20)} - equal
    wanted = classes(letters, "e", method="math_verify", verify=Stub(equal, late))
    assert len(set(wanted.representative.values())) < len(letters)
    assert wanted.num_timeouts > 0
    for _ in range(10):
        draws = rng.sample(letters, len(letters)) + rng.choices(letters, k=5)
        stub = Stub(equal, late)
        assert classes(draws, "e", method="math_verify", verify=stub) == wanted
        assert len(set(stub.asked)) == len(stub.asked)


def test_a_timeout_counts_as_different() -> None:
    found = classes(["p", "q"], "p", method="math_verify", verify=Stub(late={("p", "q"), ("q", "p")}))
    assert found == Classes({"p": "p", "q": "q"}, 2)
    found = classes(["p", "q"], "p", method="math_verify", verify=Stub({("q", "p")}, late={("p", "q")}))
    assert found == Classes({"p": "p", "q": "p"}, 1)


def test_an_answer_that_is_always_late_is_given_up() -> None:
    letters = list("abcdefghij")
    stub = Stub(late={(one, other) for one in letters for other in letters if "a" in (one, other)})
    found = classes(letters, "a", method="math_verify", verify=stub)
    assert found.num_timeouts == equivalence.MAX_TIMEOUTS
    assert len(set(found.representative.values())) == len(letters)


def test_words_and_bases_are_not_compared() -> None:
    """Math-Verify reads a word as a product of letters, so east equals seat; it drops number bases."""
    assert not any(map(is_comparable, ("east", "New York", "x or even", "52_8", "été", "3 apples")))
    assert all(
        map(is_comparable, ("x+1", r"\frac{x}{2}", r"\sin x", "3ab", "a_1", r"\begin{pmatrix}1\\2\end{pmatrix}"))
    )
    stub = Stub()
    classes(["east", "seat", "52_8", "52"], "x", method="math_verify", verify=stub)
    assert stub.asked == [("52", "x"), ("x", "52")]


def test_mistakes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FastsiaError, match=r"equivalence must be one of spelling, math_verify, got 'sympy'"):
        classes(["1"], "1", method="sympy")  # type: ignore[arg-type]
    monkeypatch.setattr(equivalence, "find_spec", lambda name: None)
    with pytest.raises(FastsiaError, match=r"needs the package math-verify: pip install 'fastsia\[math-verify\]'"):
        classes(["1"], "1", method="math_verify")


EQUAL = [
    ("x+1", "1+x"),
    (r"\{1,2\}", r"\{2,1\}"),
    ("0.5", r"\frac{1}{2}"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    ("(x+1)(x+2)", "x^2+3x+2"),
    ("x\u22121", "-1+x"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\\frac{4}{2}\end{pmatrix}"),
]
APART = [
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("x+1", "y+1"),
    ("x+1", "x-1"),
    ("A", "a"),
    ("X+1", "x+1"),
    (r"\sqrt{2}", "1.4"),
    ("east", "seat"),
    ("52_8", "52"),
    ("52_8", "52_7"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
]


@needs_math_verify
def test_math_verify() -> None:
    for one, other in EQUAL:
        assert classes([one, other], "77", method="math_verify").representative[max(one, other)] == min(one, other)
        assert classes([one], other, method="math_verify").representative == {one: other, other: other}
    for one, other in APART:
        assert classes([one, other], "77", method="math_verify") == classes([one, other], "77", method="spelling")


@needs_math_verify
def test_any_thread_may_ask() -> None:
    found: list[Classes] = []
    thread = threading.Thread(target=lambda: found.append(classes(["z+2"], "2+z", method="math_verify")))
    thread.start()
    thread.join()
    assert found == [Classes({"z+2": "2+z", "2+z": "2+z"}, 0)]


@needs_math_verify
def test_a_comparison_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call of the interpreter evaluates a power of a power, and no signal interrupts it. The next comparison
    works."""
    monkeypatch.setattr(equivalence, "TIMEOUT_SECONDS", 1.0)
    tower = "9^{9^{9^{9}}}x"
    found = classes([tower], "w+1", method="math_verify")
    assert found.representative == {tower: tower, "w+1": "w+1"}
    assert found.num_timeouts > 0
    monkeypatch.undo()
    assert classes(["1+w"], "w+1", method="math_verify").representative["1+w"] == "w+1"
