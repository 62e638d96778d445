"""Given trajectories and checkpoints: what is read, and the sentence for what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fastsia import Problem
from fastsia.answers.vocabulary import Vocabulary
from fastsia.errors import FastsiaError
from fastsia.tasks import Task, load_task
from fastsia.tasks.given import GivenTrajectory, read_run_placement, read_trajectories, with_answer
from tests.tiny import tiny_tokenizer

TASK = Task("t", (Problem("a", "Is it?", "1", solution="It is."), Problem("b", "Is it not?", "2")))
TOKENIZER = tiny_tokenizer()
VOCABULARY = Vocabulary.from_tokenizer(TOKENIZER)
EOS = (TOKENIZER.eos_token_id,)


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def encode(**row: Any) -> tuple[int, ...]:
    return GivenTrajectory("f, row 1", **row).encode(TOKENIZER, VOCABULARY, EOS)


def test_files_and_frames_have_several_trajectories_of_a_problem(tmp_path: Path) -> None:
    rows = [
        {"problem_id": "b", "text": "x"},
        {"problem_id": "a", "text": "y", "token_ids": [3, 4]},
        {"id": "b", "text": "z"},
    ]
    path = lines(tmp_path / "mine.jsonl", *rows)
    frame = pd.DataFrame([{"problem_id": row.get("problem_id", row.get("id")), **row} for row in rows])
    frame.to_parquet(tmp_path / "mine.parquet")
    found = read_trajectories(path, TASK)
    assert [(row.text, row.token_ids) for row in found.rows["b"]] == [("x", None), ("z", None)]
    assert found.rows["a"][0].token_ids == (3, 4)
    assert found.name.startswith("mine.jsonl sha256:")
    digests = {read_trajectories(source, TASK).name.split()[1] for source in (path, frame, tmp_path / "mine.parquet")}
    assert len(digests) == 1
    assert read_trajectories(rows[:1], TASK).restrict(TASK).problems == TASK.problems[1:]


def test_problems_that_the_limit_leaves_out_are_ignored(tmp_path: Path) -> None:
    rows = [{"problem_id": "a", "text": "x"}, {"problem_id": "b", "text": "x"}]
    assert set(read_trajectories(rows, TASK.head(1)).rows) == {"a"}


GOOD = {"problem_id": "a", "text": "x"}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"text": "x"}, "row 2: field 'problem_id' is missing."),
        ({"problem_id": "a"}, "row 2: field 'text' or 'token_ids' is missing."),
        ({"problem_id": "c", "text": "x"}, "row 2: the task t has no problem 'c'."),
        ({"problem_id": "a", "text": 3}, "row 2: field 'text' must be a text, got 3."),
        ({"problem_id": "a", "text": ""}, "row 2: the trajectory is empty."),
        ({"problem_id": "a", "token_ids": "12"}, "row 2: field 'token_ids' must be a list of integers, got '12'."),
        ({"problem_id": "a", "token_ids": [1, 2.5]}, "row 2: field 'token_ids' must contain only integers, got 2.5."),
    ],
)
def test_wrong_rows_of_trajectories(row: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    path = lines(tmp_path / "mine.jsonl", GOOD, row)
    with pytest.raises(FastsiaError) as error:
        read_trajectories(path, TASK)
    assert str(error.value) == f"{path}, {sentence}"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("no.jsonl", "trajectories 'no.jsonl' is not a file"),
        (7, "got int."),
        ([], "trajectories contains no trajectory of a problem of the task t."),
        ([3], "trajectories, row 1: expected a mapping of fields, got 3."),
    ],
)
def test_what_is_no_source_of_trajectories(source: Any, sentence: str) -> None:
    with pytest.raises(FastsiaError) as error:
        read_trajectories(source, TASK)
    assert sentence in str(error.value)


def test_texts_and_ids_become_tokens_without_a_last_eos() -> None:
    ids = encode(text="ab")
    assert VOCABULARY.decode(ids) == "ab"
    assert encode(token_ids=(*ids, *EOS)) == ids == encode(token_ids=ids, text="ab")
    assert encode(token_ids=EOS) == ()  # a model may end at once


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"token_ids": (1, 400)}, "f, row 1: token id 400 is outside the model's vocabulary (0 to 256)."),
        ({"token_ids": (1, *EOS, 2)}, "f, row 1: token 1 of 3 is an end-of-sequence token."),
        (
            {"text": "abc", "token_ids": (1, 2)},
            "f, row 1: token_ids decode to another text than the given one (character 0: 'abc' becomes '!\"'); they "
            "may be those of another tokenizer: leave them out.",
        ),
        (
            {"text": "a<eos>b"},
            "f, row 1: the tokens of the text decode to another one (character 1: '<eos>b' becomes 'b'); give "
            "token_ids.",
        ),
    ],
)
def test_wrong_tokens(row: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FastsiaError) as error:
        encode(**row)
    assert str(error.value) == sentence


def test_solutions_get_the_line_of_their_answer() -> None:
    (given,) = read_trajectories("gold", TASK).rows["a"]
    first = TASK.problems[0]
    assert with_answer(given, TASK, first, "Answer:", False).text == " It is.\n#### 1"
    assert with_answer(given, TASK, first, "<|assistant|>\n", False).text == "It is.\n#### 1"
    assert with_answer(given, TASK, first, "<think>\n", True).text == "It is.\n</think>\n\n#### 1"
    assert read_trajectories("gold", TASK).restrict(TASK).problems == (first,)
    with pytest.raises(FastsiaError, match=r"^trajectories='gold': the task t has no solutions\.$"):
        read_trajectories("gold", Task("t", TASK.problems[1:]))


def test_gsm8ks_calculator_annotations_are_no_part_of_a_solution(tmp_path: Path) -> None:
    answer = "She sells 9 - 3 = <<9-3=6>>6 eggs.\nThat is 6 * 2 = $<<6*2=12>>12.\n#### 12"
    (problem,) = load_task(lines(tmp_path / "gsm8k.jsonl", {"question": "How much?", "answer": answer})).problems
    assert problem.solution == "She sells 9 - 3 = 6 eggs.\nThat is 6 * 2 = $12."


# --- checkpoints -----------------------------------------------------------------------------------------------


def run_placement(checkpoints: Any, task: Task = TASK) -> Any:
    return read_run_placement(checkpoints, task, stride=20, most=None, name_of=lambda function: function.__name__)


def test_kinds_of_checkpoints(tmp_path: Path) -> None:
    def mine(text: str, offsets: list[int]) -> list[int]:
        return []

    assert run_placement(None).base.stride == 20
    assert run_placement("stride:7").base.stride == 7
    assert run_placement("step").placement("a", 0).boundary == "step"
    assert run_placement(mine).name == "mine"
    rows = [{"problem_id": "a", "checkpoints": [3, 5]}, {"id": "b", "trajectory": 1, "checkpoints": []}]
    found = run_placement(lines(tmp_path / "cuts.jsonl", *rows))
    assert found.placement("a", 4).fixed == (3, 5)
    assert found.placement("b", 1).fixed == ()
    assert found.name.startswith("cuts.jsonl sha256:")
    with pytest.raises(FastsiaError, match=r"cuts\.jsonl has no row for trajectory 0 of problem 'b'\.$"):
        found.placement("b", 0)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"problem_id": "c", "checkpoints": [1]}, "the task t has no problem 'c'."),
        ({"problem_id": "b"}, "field 'checkpoints' is missing."),
        ({"problem_id": "b", "checkpoints": [5, 3]}, "checkpoints must ascend, but 3 follows 5."),
        ({"problem_id": "b", "checkpoints": [3, 3]}, "checkpoints must ascend, but 3 follows 3."),
        ({"problem_id": "b", "checkpoints": [-1]}, "checkpoints must be >= 0, got -1."),
        ({"problem_id": "b", "checkpoints": ["1"]}, "field 'checkpoints' must contain only integers, got '1'."),
        (
            {"problem_id": "b", "checkpoints": [1], "trajectory": -1},
            "field 'trajectory' must be an integer >= 0, got -1.",
        ),
        ({"problem_id": "a", "checkpoints": [1]}, "problem 'a' has checkpoints already."),
    ],
)
def test_wrong_rows_of_checkpoints(row: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    path = lines(tmp_path / "cuts.jsonl", {"problem_id": "a", "checkpoints": [3]}, row)
    with pytest.raises(FastsiaError) as error:
        run_placement(path)
    assert str(error.value) == f"{path}, row 2: {sentence}"


@pytest.mark.parametrize(
    ("checkpoints", "sentence"),
    [
        ("sentense", "checkpoints 'sentense' is no kind of checkpoints and no file; did you mean sentence?"),
        ("stride:0", "checkpoints must be stride:N with an integer N >= 1, got 'stride:0'."),
        (3, "checkpoints must be a text, a file or a function, got int."),
    ],
)
def test_what_is_no_kind_of_checkpoints(checkpoints: Any, sentence: str) -> None:
    with pytest.raises(FastsiaError) as error:
        run_placement(checkpoints)
    assert str(error.value) == sentence
