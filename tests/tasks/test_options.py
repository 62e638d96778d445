"""The right option of a record: labels decide, indices need answer_base, and ambiguous answers are refused."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from fastsia.cli.options import pairs_in
from fastsia.config import Problem
from fastsia.errors import FastsiaError
from fastsia.tasks import load_task
from tests.pages import DOCS

COLOURS = ["red", "green", "blue", "yellow"]
LENGTHS = ["2 cm", "4 cm", "8 cm", "16 cm"]


def gold(folder: Path, row: dict[str, Any], **settings: Any) -> tuple[str, str]:
    """The letter and the text of a record's right option."""
    path = folder / "mine.jsonl"
    path.write_text(json.dumps({"question": "?"} | row) + "\n", encoding="utf-8")
    (problem,) = load_task(path, **settings).problems
    assert problem.choices is not None
    assert problem.answer_format == "choice"
    return problem.gold, problem.choices["ABCDEFGHIJKLMNOPQRSTUVWXYZ".index(problem.gold)]


def labelled(labels: list[Any], texts: list[Any] = COLOURS) -> dict[str, Any]:
    return {"text": texts, "label": labels}


# --- labels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["answer", "answerKey", "key"])
@pytest.mark.parametrize(
    ("labels", "answer", "right"),
    [
        (["0", "1", "2", "3"], "1", "green"),
        (["0", "1", "2", "3"], "0", "red"),
        (["B", "A", "C", "D"], "A", "green"),
        (["D", "C", "B", "A"], "A", "yellow"),
        (["1", "2", "3", "4"], "1", "red"),
        (["1", "2", "3", "4"], "4", "yellow"),
        (["4", "3", "2", "1"], "4", "red"),
        (["a", "b", "c", "d"], "b", "green"),
        (["a", "b", "c", "d"], "B", "green"),
        (["A", "B", "C", "D"], "b", "green"),
        (["(A)", "(B)", "(C)", "(D)"], "B", "green"),
        (["A", "B", "C", "D"], "(B)", "green"),
        (["A", "B", "C", "D"], "B.", "green"),
        (["A", "B", "C", "D"], "B. green", "green"),
        (["A", "B", "C", "D"], "blue", "blue"),
        ([0, 1, 2, 3], 1, "green"),
        ([0, 1, 2, 3], "1", "green"),
        (["0", "1", "2", "3"], 1, "green"),
        (["0", "1", "2", "3"], 1.0, "green"),
        ([0.0, 1.0, 2.0, 3.0], 2, "blue"),
        (["i", "ii", "iii", "iv"], "iii", "blue"),
        (["E", "F", "G", "H"], "F", "green"),
        (["a", "A", "b", "B"], "A", "green"),
        (["10", "20", "30", "40"], 20, "green"),
    ],
)
def test_labels_decide(field: str, labels: list[Any], answer: Any, right: str, tmp_path: Path) -> None:
    """Labels were once dropped unless the field was answerKey: labels 0 to 3 and the answer "1" gave A."""
    columns = {"answer": "key"} if field == "key" else None
    letter = "ABCD"[COLOURS.index(right)]
    forms: list[dict[str, Any]] = [
        {"choices": labelled(labels)},
        {"choices": [{"text": text, "label": label} for text, label in zip(COLOURS, labels, strict=True)]},
        {"choices": {"choices": COLOURS, "labels": labels}},
        {"choices": COLOURS, "labels": labels},
    ]
    for form in forms:
        assert gold(tmp_path, form | {field: answer}, columns=columns) == (letter, right), form


def test_a_labels_own_reading_comes_before_texts(tmp_path: Path) -> None:
    assert gold(tmp_path, {"choices": labelled(["1", "2", "3", "4"], ["4", "3", "2", "1"]), "answer": "4"}) == (
        "D",
        "1",
    )
    assert gold(tmp_path, {"choices": labelled(list("ABCD"), ["B", "A", "D", "C"]), "answer": "A"}) == ("A", "B")


def test_labels_through_renamed_columns(tmp_path: Path) -> None:
    row = {"question_stem": "?", "choices": labelled(["D", "C", "B", "A"]), "answerKey": "A"}
    columns = {"question": "question_stem", "answer": "answerKey"}
    assert gold(tmp_path, row, columns=columns) == ("D", "yellow")
    row = {"options": COLOURS, "keys": ["x", "y", "z", "w"], "right": "z"}
    assert gold(tmp_path, row, columns={"choices": "options", "labels": "keys", "answer": "right"}) == ("C", "blue")


@pytest.mark.parametrize(
    ("choices", "answer", "right"),
    [
        (["B. red", "A. blue"], "A", "A. blue"),
        (["B)red", "A)blue"], "A", "A)blue"),
        (["(b) red", "(a) blue"], "A", "(a) blue"),
        (["0: red", "1: blue"], 1, "1: blue"),
        (["2. red", "1. blue"], "1", "1. blue"),
        (["A) 2", "B) 1"], "B", "B) 1"),
        (["A) 2", "B) 1"], "2", "A) 2"),
        (["A) 2", "B) 1"], "B) 1", "B) 1"),
        (["A. red", "B. blue"], "blue", "B. blue"),
    ],
)
def test_labels_in_the_texts_decide(choices: list[str], answer: Any, right: str, tmp_path: Path) -> None:
    assert gold(tmp_path, {"choices": choices, "answer": answer})[1] == right


@pytest.mark.parametrize("choices", [["2.5", "1.5"], ["2:1", "1:2"], ["1) a", "3) b"], ["D: x", "A: y"], ["2. a", "b"]])
def test_texts_that_only_look_like_labels(choices: list[str], tmp_path: Path) -> None:
    assert gold(tmp_path, {"choices": choices, "answer": "A"}) == ("A", choices[0])
    with pytest.raises(FastsiaError, match="the bare number 1"):
        gold(tmp_path, {"choices": choices, "answer": "1"})


def test_a_mapping_from_labels_to_texts(tmp_path: Path) -> None:
    assert gold(tmp_path, {"choices": {"A": "red", "B": "green"}, "answer": "B"}) == ("B", "green")
    assert gold(tmp_path, {"choices": {"B": "red", "A": "green", "C": None}, "answer": "A"}) == ("B", "green")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": labelled(["A", "A", "B", "C"]), "answer": "A"}, "needs one label of its own .* got A, A, B, C"),
        ({"choices": labelled([1, "1", 2, 3]), "answer": "1"}, "needs one label of its own"),
        ({"choices": labelled(["A", "B", "C"]), "answer": "A"}, "needs one label of its own"),
        ({"choices": labelled(["A", "B", "C", None]), "answer": "A"}, "needs one label of its own"),
        ({"choices": labelled(["A", "B", "C", ""]), "answer": "A"}, "needs one label of its own"),
        ({"choices": COLOURS, "labels": ["A", "B"], "answer": "A"}, "needs one label of its own"),
        ({"choices": COLOURS, "labels": "ABCD", "answer": "A"}, "a list of labels"),
        ({"choices": labelled(list("ABCD")), "answer": "E"}, "'E', which is not one of the labels A, B, C, D"),
        ({"choices": labelled(list("ABCD")), "answerKey": "E"}, "'E', which is not one of the labels A, B, C, D"),
        ({"choices": labelled(list("ABCD")), "answer": "2"}, "'2', which .* labels A, B, C, D.* answer_base"),
        ({"choices": labelled(["0", "1", "2", "3"]), "answer": "4"}, "'4', which is not one of the labels 0, 1, 2, 3"),
        ({"choices": labelled(["0", "1", "2", "3"]), "answer": "B"}, "'B', which is not one of the labels 0, 1, 2, 3"),
        ({"choices": labelled(["a", "A", "b", "B"], ["p", "q", "r", "s"]), "answer": "(a)"}, "not one of the labels"),
        ({"choices": labelled(list("ABCD"), LENGTHS), "answer": 4}, "'4', which is not one of the labels A, B, C, D"),
        ({"choices": labelled(list("ABCD")), "answer": ["A"]}, "'answer' must be a text or a number"),
        ({"choices": labelled(list("ABCD"))}, "field 'answer' is missing"),
    ],
)
def test_labels_that_name_no_option(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(FastsiaError, match=rf"mine\.jsonl, row 1: .*{message}"):
        gold(tmp_path, row)


# --- no labels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "answer", "right"),
    [
        (COLOURS, "B", "green"),
        (COLOURS, "b", "green"),
        (COLOURS, "(b)", "green"),
        (COLOURS, "B) green", "green"),
        (COLOURS, "(B) Green", "green"),
        (COLOURS, "Green", "green"),
        (LENGTHS, "4 cm", "4 cm"),
        (LENGTHS, "4  CM", "4 cm"),
        (["2", "4", "6", "8"], "4", "4"),
        ([2, 4, 6, 8], 4, "4"),
        ([1.5, 2.5], 2.5, "2.5"),
        (["R", "rr", "Rr", "RR"], "R", "R"),
        (["R", "rr", "Rr", "RR"], "RR", "RR"),
        (["A", "B", "C", "D"], "C", "C"),
        (["0", "1"], "0", "0"),
    ],
)
def test_letters_and_own_texts(choices: list[Any], answer: Any, right: str, tmp_path: Path) -> None:
    assert gold(tmp_path, {"choices": choices, "answer": answer})[1] == right


@pytest.mark.parametrize(
    ("choices", "answer", "message"),
    [
        (COLOURS, "1", "the bare number 1, .* set answer_base"),
        (COLOURS, "0", "the bare number 0"),
        (COLOURS, 1, "the bare number 1"),
        (COLOURS, 1.0, "the bare number 1"),
        (COLOURS, "1.0", "the bare number 1.0"),
        (COLOURS, "(2)", "the bare number"),
        (COLOURS, "2.", "the bare number"),
        (COLOURS, "#2", "the bare number"),
        (COLOURS, "7", "the bare number 7"),
        (COLOURS, "-1", "the bare number -1"),
        (COLOURS, "option 2", "not one of the 4 options"),
        (COLOURS, "E", "not one of the 4 options"),
        (COLOURS, "B) blue", "not one of the 4 options"),
        (COLOURS, "purple", "not one of the 4 options"),
        (COLOURS, ".5", "not one of the 4 options"),
        (COLOURS, True, "must be a text or a number"),
        (LENGTHS, "4", "the bare number 4, which may be an index from 0 or from 1, or a value"),
        (LENGTHS, 2, "the bare number 2"),
        (["B", "A", "C", "D"], "A", "the text of option 2 and the letter of option 1"),
        (["b", "a"], "A", "the text of option 2 and the letter of option 1"),
        (["rr", "Rr"], "RR", "the text of 2 options in another case"),
    ],
)
def test_what_may_be_two_things_or_none_is_refused(
    choices: list[Any], answer: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(FastsiaError, match=rf"mine\.jsonl, row 1: field 'answer' .*{message}"):
        gold(tmp_path, {"choices": choices, "answer": answer})


@pytest.mark.parametrize("answer", ["2", "2)", "7"])
def test_a_problem_of_ones_own_is_read_by_the_same_rules(answer: str) -> None:
    with pytest.raises(FastsiaError, match=r"dataset\[0\] \(id 'a'\): the gold answer is the bare number"):
        load_task([Problem("a", "?", answer, choices=tuple(COLOURS))])
    with pytest.raises(FastsiaError, match="not one of the 4 options"):
        load_task([Problem("a", "?", "AB", choices=tuple(COLOURS))])
    assert load_task([Problem("a", "?", "green", choices=tuple(COLOURS))]).problems[0].gold == "B"


# --- indices ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "base", "right"),
    [(0, 0, "red"), ("3", 0, "yellow"), (1, 1, "red"), ("4", 1, "yellow"), (2.0, 0, "blue"), ("B", 0, "green")],
)
def test_indices_that_are_said(answer: Any, base: int, right: str, tmp_path: Path) -> None:
    assert gold(tmp_path, {"choices": COLOURS, "answer": answer}, answer_base=base)[1] == right


def test_an_index_that_is_said_comes_before_texts(tmp_path: Path) -> None:
    row = {"choices": ["0", "4", "2", "6"], "answer": 2}
    assert gold(tmp_path, row) == ("C", "2")
    assert gold(tmp_path, row, answer_base=1) == ("B", "4")
    assert gold(tmp_path, {"choices": LENGTHS, "answer": "2"}, answer_base=0) == ("C", "8 cm")
    assert gold(tmp_path, {"choices": labelled(list("ABCD")), "answer": 2}, answer_base=0) == ("C", "blue")
    assert gold(tmp_path, {"choices": labelled(["0", "1", "2", "3"]), "answer": "2"}, answer_base=0) == ("C", "blue")


@pytest.mark.parametrize(
    ("row", "base", "message"),
    [
        ({"choices": COLOURS, "answer": 4}, 0, "4', which with answer_base=0 is not one of the 4 options"),
        ({"choices": COLOURS, "answer": "0"}, 1, "0', which with answer_base=1 is not one of the 4 options"),
        ({"choices": COLOURS, "answer": -1}, 0, "-1', which with answer_base=0 is not one of the 4 options"),
        ({"choices": labelled(["1", "2", "3", "4"]), "answer": "2"}, 0, "label of option 2.* omit answer_base"),
        ({"choices": labelled(["0", "1", "2", "3"]), "answer": "0"}, 1, "label of option 1.* omit answer_base"),
        ({"choices": labelled(list("ABCD")), "answer": "9"}, 0, "answer_base=0 is not one .* labels A, B, C, D"),
    ],
)
def test_indices_that_fit_no_option(row: dict[str, Any], base: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(FastsiaError, match=rf"mine\.jsonl, row 1: field 'answer' is .*{message}"):
        gold(tmp_path, row, answer_base=base)


@pytest.mark.parametrize("base", [2, -1, True, "0", 0.5, [0]])
def test_answer_base_is_0_or_1(base: Any, tmp_path: Path) -> None:
    with pytest.raises(FastsiaError, match="answer_base must be 0 or 1"):
        gold(tmp_path, {"choices": COLOURS, "answer": 1}, answer_base=base)


def test_answer_base_where_it_means_nothing(tmp_path: Path) -> None:
    with pytest.raises(FastsiaError, match="answer_base does not apply to the task gsm8k"):
        load_task("gsm8k", answer_base=0)
    with pytest.raises(FastsiaError, match="answer_base does not apply to Problem objects"):
        load_task([Problem("a", "?", "1")], answer_base=1)
    path = tmp_path / "open.jsonl"
    path.write_text('{"question": "?", "answer": 3}\n')
    with pytest.raises(FastsiaError, match=r"answer_base=0 does not apply to .*open\.jsonl: no problem has options"):
        load_task(path, answer_base=0)


# --- options in columns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("choices", ["sol1+sol2", "sol1 + sol2", ["sol1", "sol2"], ("sol1", "sol2")])
def test_options_in_columns_of_their_own(choices: Any, tmp_path: Path) -> None:
    columns = {"question": "goal", "choices": choices, "answer": "label"}
    row = {"goal": "?", "sol1": "push", "sol2": "pull"}
    assert gold(tmp_path, row | {"label": 1}, columns=columns, answer_base=0) == ("B", "pull")
    assert gold(tmp_path, row | {"label": "B"}, columns=columns) == ("B", "pull")
    assert gold(tmp_path, row | {"label": "pull"}, columns=columns) == ("B", "pull")
    assert gold(tmp_path, row | {"label": "sol2"}, columns=columns) == ("B", "pull")
    with pytest.raises(FastsiaError, match=r"field 'answer' \(column 'label'\) is the bare number 1"):
        gold(tmp_path, row | {"label": 1}, columns=columns)


def test_options_in_columns_that_are_left_empty_or_absent(tmp_path: Path) -> None:
    columns = {"choices": "a+b+c"}
    row = {"a": "red", "b": "green", "answer": "B"}
    assert gold(tmp_path, row | {"c": None}, columns=columns) == ("B", "green")
    assert gold(tmp_path, row | {"c": ""}, columns=columns) == ("B", "green")
    with pytest.raises(FastsiaError, match="field 'c' is missing"):
        gold(tmp_path, row, columns=columns)
    with pytest.raises(FastsiaError, match=r"field 'choices' \(columns a, b, c\) contains an option that is empty"):
        gold(tmp_path, row | {"b": "", "c": "blue"}, columns=columns)
    with pytest.raises(FastsiaError, match="the column of option 1 and the letter of option 2"):
        gold(tmp_path, {"B": "red", "A": "green", "answer": "B"}, columns={"choices": "B+A"})
    plus = {"a+b": ["red", "green"], "answer": "B"}
    assert gold(tmp_path, plus, columns={"choices": "a+b"}) == ("B", "green")  # a column with this name


@pytest.mark.parametrize("choices", [[], ["a"], [1, 2], {"a": 1}, 5, None])
def test_columns_that_are_no_columns(choices: Any, tmp_path: Path) -> None:
    with pytest.raises(FastsiaError, match="columns must map names of fields to names of columns"):
        gold(tmp_path, {"a": "x", "answer": "A"}, columns={"choices": choices})
    with pytest.raises(FastsiaError, match="columns must map names of fields to names of columns"):
        gold(tmp_path, {"a": "x", "answer": "A"}, columns={"question": ["a", "b"]})


def test_where_the_right_option_always_comes_first_the_order_is_another_one(tmp_path: Path) -> None:
    """Otherwise a model that always answers A would always be right. The order depends only on the record."""
    rows = [{"question": f"{i}?", "Correct Answer": f"x{i}", "w1": "y", "w2": "z", "w3": "w"} for i in range(200)]
    path = tmp_path / "gpqa.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"columns": {"choices": "Correct Answer+w1+w2+w3", "answer": "Correct Answer"}}
    problems = load_task(path, **settings).problems  # type: ignore[arg-type]
    for i, problem in enumerate(problems):
        assert problem.choices is not None
        assert problem.choices["ABCD".index(problem.gold)] == f"x{i}"
        assert sorted(problem.choices) == ["w", f"x{i}", "y", "z"]
    counts = [sum(problem.gold == letter for problem in problems) for letter in "ABCD"]
    assert min(counts) > 30
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[::-1]))
    again = load_task(path, **settings).problems[::-1]  # type: ignore[arg-type]
    assert [problem.choices for problem in again] == [problem.choices for problem in problems]


@pytest.mark.parametrize(
    ("marks", "message"),
    [([1, 1, 0, 0], "marks 2 options as right"), ([0, 0, 0, 0], "marks 0 options as right"), ([1, 0], "one label")],
)
def test_marks_of_several_or_no_right_options(marks: list[int], message: str, tmp_path: Path) -> None:
    with pytest.raises(FastsiaError, match=rf"row 1: field 'choices' .*{message}"):
        gold(tmp_path, {"choices": {"choices": COLOURS, "labels": marks}})


# --- layouts of known data sets --------------------------------------------------------------------------------

CORRECT = "Correct Answer"
WRONG = [f"Incorrect Answer {i}" for i in (1, 2, 3)]
KNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "cais/mmlu": ({"question": "?", "subject": "anatomy", "choices": COLOURS, "answer": 1}, "green"),
    "TIGER-Lab/MMLU-Pro": (
        {"question_id": 70, "question": "?", "options": [*COLOURS, "x", "y"], "answer": "E", "answer_index": 4},
        "x",
    ),
    "Rowan/hellaswag": ({"ind": 4, "ctx": "A man", "endings": COLOURS, "label": "3"}, "yellow"),
    "baber/piqa": ({"goal": "?", "sol1": "push", "sol2": "pull", "label": 1}, "pull"),
    "allenai/winogrande": ({"sentence": "The _", "option1": "cup", "option2": "jug", "answer": "2"}, "jug"),
    "allenai/openbookqa": (
        {"id": "7", "question_stem": "?", "choices": labelled(list("DCBA")), "answerKey": "A"},
        "yellow",
    ),
    "tau/commonsense_qa": ({"id": "7", "question": "?", "choices": labelled(list("ABCD")), "answerKey": "C"}, "blue"),
    "Idavidrein/gpqa": (
        {"Record ID": "rec1", "Question": "?", CORRECT: "4", **dict(zip(WRONG, ("A", "2\n", "1"), strict=True))},
        "4",
    ),
    "truthfulqa/truthful_qa": (
        {"question": "?", "mc1_targets": {"choices": COLOURS, "labels": [1, 0, 0, 0]}, "mc2_targets": {}},
        "red",
    ),
}


def commands() -> dict[str, list[str]]:
    """The commands of the how-to, by the data set that they read."""
    page = (DOCS / "howto/own_dataset.md").read_text(encoding="utf-8")
    found = [shlex.split(line) for line in re.findall(r"^    (fastsia run .*hub:.*)$", page, re.MULTILINE)]
    return {words[words.index("--tasks") + 1].removeprefix("hub:").partition(":")[0]: words for words in found}


def test_the_how_to_names_every_layout() -> None:
    assert commands().keys() == KNOWN.keys()


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_layout_is_read_by_its_command(name: str, tmp_path: Path) -> None:
    words = commands()[name]
    settings: dict[str, Any] = {}
    if "--columns" in words:
        settings["columns"] = pairs_in("--columns", words[words.index("--columns") + 1])
    if "--answer_base" in words:
        settings["answer_base"] = int(words[words.index("--answer_base") + 1])
    row, right = KNOWN[name]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (problem,) = load_task(path, **settings).problems
    assert problem.choices is not None
    assert problem.choices["ABCDEF".index(problem.gold)] == right
    assert problem.question in ("?", "A man", "The _")
    assert problem.id == str(row.get("id") or row.get("question_id") or row.get("Record ID") or "row-1")


def test_ai2s_own_arc_layout(tmp_path: Path) -> None:
    """This file was once refused with "field 'choices' is missing", under the name that --data_dir asks for."""
    stem = {
        "stem": "Which?",
        "choices": [{"text": c, "label": label} for c, label in zip(COLOURS, "1234", strict=True)],
    }
    rows = [{"id": "Mercury_1", "question": stem, "answerKey": "3"}, {"id": "b", "question": stem, "answerKey": "1"}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    found = []
    for name in ("arc/ARC-Challenge-Test.jsonl", "ARC-Challenge/ARC-Challenge-Test.jsonl"):
        file = tmp_path / name
        file.parent.mkdir()
        file.write_text(text)
        found += [load_task("arc_challenge", data_dir=tmp_path).problems, load_task(file).problems]
        file.unlink()
    for problems in found:
        assert [(p.id, p.question, p.choices, p.gold) for p in problems] == [
            ("Mercury_1", "Which?", tuple(COLOURS), "C"),
            ("b", "Which?", tuple(COLOURS), "A"),
        ]
    with pytest.raises(FastsiaError, match=r"has no file arc/ARC-Easy-Test\.jsonl or ARC-Easy/ARC-Easy-Test\.jsonl"):
        load_task("arc_easy", data_dir=tmp_path)


def test_ids_do_not_depend_on_golds(tmp_path: Path) -> None:
    """After a correction of a gold the stored draws of its problem must still be found."""
    for rows in (
        [{"question": "?", "answer": 1}, {"question": "?", "answer": 1, "id": "a"}],
        [{"problem": "?", "answer": 1, "unique_id": "u"}, {"problem": "?", "answer": 1}],
        [{"question": "?", "choices": COLOURS, "answer": "A"}, {"question": "?", "choices": COLOURS, "answer": "B"}],
        [{"question": "?", "answer": "#### 1"}, {"question": "?", "answer": "#### 1", "id": "a"}],
    ):
        corrected = [row | {"answer": {1: 2, "A": "C", "B": "D", "#### 1": "#### 2"}[row["answer"]]} for row in rows]  # type: ignore[index]
        path = tmp_path / "rows.jsonl"
        seen = []
        for version in (rows, corrected):
            path.write_text("".join(json.dumps(row) + "\n" for row in version))
            seen.append(load_task(path).problems)
        assert [(p.id, p.question, p.choices) for p in seen[0]] == [(p.id, p.question, p.choices) for p in seen[1]]
        assert all(old.gold != new.gold for old, new in zip(*seen, strict=True))
