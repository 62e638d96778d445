"""Every record of the real test splits has a gold and a prompt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastsia.answers.extraction import extract_answers
from fastsia.tasks import build_prompt, load_task
from fastsia.tasks.prompt import INSTRUCTIONS
from tests.tasks.tokenizers import word_tokenizer

NUM_PROBLEMS = {
    "gsm8k": 1319,
    "svamp": 300,
    "svamp_full": 1000,
    "arc_challenge": 1172,
    "arc_easy": 2376,
    "math500": 500,
}


@pytest.mark.parametrize("name", NUM_PROBLEMS)
def test_every_row(name: str, shared_data: Path) -> None:
    task = load_task(name, data_dir=shared_data)
    assert len(task) == NUM_PROBLEMS[name]
    assert len({problem.id for problem in task.problems}) == len(task)
    tokenizer = word_tokenizer()
    for problem in task.problems:
        if task.answer_format == "choice":
            assert problem.choices is not None
            assert 3 <= len(problem.choices) <= 5
            assert problem.gold in "ABCDE"[: len(problem.choices)]
        elif task.answer_format == "number":
            assert problem.gold.lstrip("-").isdecimal()
            assert str(int(problem.gold)) == problem.gold
        prompt = build_prompt(task, problem, tokenizer, num_fewshot=1)
        assert prompt.text.startswith(INSTRUCTIONS[task.answer_format])
        assert problem.question in prompt.text
        assert prompt.text.endswith("\nAnswer:")
        assert prompt.token_ids


def test_gsm8k_golds_are_the_files_own(shared_data: Path) -> None:
    lines = (shared_data / "gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines()
    golds = [json.loads(line)["answer"].split("####")[-1].strip().replace(",", "") for line in lines]
    assert [problem.gold for problem in load_task("gsm8k", data_dir=shared_data).problems] == golds


def test_svamp_golds_and_joints(shared_data: Path) -> None:
    rows = json.loads((shared_data / "svamp/SVAMP.json").read_text(encoding="utf-8"))
    problems = load_task("svamp_full", data_dir=shared_data).problems
    assert [int(problem.gold) for problem in problems] == [row["Answer"] for row in rows]
    commas = 0
    for problem, row in zip(problems, rows, strict=True):
        body, question = row["Body"].strip(), row["Question"].strip()
        assert problem.id == row["ID"]
        assert problem.question.startswith(body)
        assert problem.question.lower().endswith(question.lower())
        joint = problem.question[len(body) : len(problem.question) - len(question)]
        assert joint == (" " if body.endswith(".") else ", " if joint == ", " else ". ")
        commas += joint == ", "
    assert commas == 345


def test_svamp_is_part_of_svamp_full(shared_data: Path) -> None:
    full = {problem.id: problem for problem in load_task("svamp_full", data_dir=shared_data).problems}
    assert all(full[problem.id] == problem for problem in load_task("svamp", data_dir=shared_data).problems)


def test_every_gold_of_math500_is_read_and_reads_as_itself(shared_data: Path) -> None:
    """Under the task's name and by the file's path."""
    lines = (shared_data / "math500/test.jsonl").read_text(encoding="utf-8").splitlines()
    golds = [json.loads(line)["answer"] for line in lines]
    named = load_task("math500", data_dir=shared_data)
    assert (named.answer_format, named.stride) == ("boxed", 20)
    boxes = [f"So it is $\\boxed{{{gold}}}$." for gold in golds]
    assert extract_answers(boxes, "boxed") == [problem.gold for problem in named.problems]
    assert load_task(shared_data / "math500/test.jsonl", answer_format="boxed").problems == named.problems


def test_arc_digit_labels_become_letters(shared_data: Path) -> None:
    """22 Challenge records have labels 1 to 4; their golds are letters, too."""
    lines = (shared_data / "arc/ARC-Challenge-Test.jsonl").read_text(encoding="utf-8").splitlines()
    digits = 0
    for problem, line in zip(load_task("arc_challenge", data_dir=shared_data).problems, lines, strict=True):
        row = json.loads(line)
        index = row["choices"]["label"].index(row["answerKey"])
        assert problem.gold == "ABCDE"[index]
        assert problem.choices == tuple(text.strip() for text in row["choices"]["text"])
        digits += row["answerKey"].isdecimal()
    assert digits == 22
