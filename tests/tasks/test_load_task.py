"""`load_task`: names, files, lists and data sets; distinct ids; clear errors."""

from __future__ import annotations

import builtins
import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fastsia.config import Problem
from fastsia.errors import FastsiaError
from fastsia.models.hub import hub_status
from fastsia.tasks import TASKS, load_task

COMPETITION = ("math500", "aime24", "aime25")


def write(folder: Path, rows: Sequence[object], name: str = "mine.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_own_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        [
            {"question": " What is 2 + 3? ", "answer": 5},
            {"question": "Price?", "answer": "$1,234.00", "id": "price"},
            {"question": "Sky?", "choices": ["green", "blue"], "answer": "b"},
            {"question": "Sky?", "choices": ["green", "blue"], "answer": "blue", "id": 7},
        ],
    )
    task = load_task(path)
    assert (task.name, task.answer_format, task.stride) == ("mine", "number", 20)
    assert [(p.id, p.question, p.gold, p.answer_format) for p in task.problems] == [
        ("row-1", "What is 2 + 3?", "5", None),
        ("price", "Price?", "1234", None),
        ("row-3", "Sky?", "B", "choice"),
        ("7", "Sky?", "B", "choice"),
    ]
    assert task.format_of(task.problems[2]) == "choice"
    assert load_task(str(path)).problems == task.problems


@pytest.mark.parametrize(
    ("answer", "options", "gold"),
    [
        ("yes", ("Yes", "No"), "A"),
        ("No.", ("Yes", "No"), "B"),
        ("TRUE", ("True", "False"), "A"),
        (False, ("True", "False"), "B"),
    ],
)
def test_yes_or_no_without_choices_has_two_options(
    tmp_path: Path, answer: object, options: tuple[str, ...], gold: str
) -> None:
    """A file of questions with numbers and with yes or no was refused at its first "yes"."""
    path = write(tmp_path, [{"question": "2 + 3?", "answer": 5}, {"question": "Is 17 prime?", "answer": answer}])
    number, decision = load_task(path).problems
    assert (number.gold, number.choices, number.answer_format) == ("5", None, None)
    assert (decision.gold, decision.choices, decision.answer_format) == (gold, options, "choice")
    with pytest.raises(FastsiaError, match="row 2: "):
        load_task(path, answer_format="number")
    rows = [{"question": "Is 17 prime?", "answer": str(answer)}]
    assert load_task(write(tmp_path, rows), answer_format="boxed").problems[0].choices is None
    assert load_task(write(tmp_path, rows), answer_format="choice").problems[0].choices == options


def test_boxed_answers_are_any_text(tmp_path: Path) -> None:
    path = write(tmp_path, [{"question": "Factor.", "answer": "(x+1)^2"}])
    assert load_task(path, answer_format="boxed").answer_format == "boxed"
    with pytest.raises(FastsiaError, match=r"gold answer '\(x\+1\)\^2' is not a number; .*answer_format='boxed'"):
        load_task(path)


def test_a_format_is_that_of_the_questions_without_options(tmp_path: Path) -> None:
    """A file of formulas and options was refused with answer_format="boxed", against the docstring of load_task."""
    options = {"question": "Sky?", "choices": ["green", "blue"], "answer": "b"}
    task = load_task(write(tmp_path, [options, {"question": "Factor.", "answer": "(x+1)^2"}]), answer_format="boxed")
    assert [task.format_of(problem) for problem in task.problems] == ["choice", "boxed"]
    with pytest.raises(FastsiaError, match=r"answer_format='boxed' does not apply to .*: every problem has options"):
        load_task(write(tmp_path, [options]), answer_format="boxed")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?"}, "field 'answer' is missing"),
        ({"question": "?", "answer": None}, "field 'answer' is null"),
        ({"qestion": "?", "answer": 1}, "field 'question' is missing; did you mean qestion"),
        ({"question": "?", "answer": "many"}, "is not a number"),
        ({"question": "?", "choices": ["a"], "answer": "A"}, "must have 2 to 26 options, got 1"),
        ({"question": "?", "choices": ["red", "blue"], "answer": "C"}, "not one of the 2 options"),
        ({"question": "?", "choices": ["red", "blue"], "answer": "green"}, "not one of the 2 options"),
        ({"question": "?", "choices": ["red", "blue"], "answer": 1}, "bare number 1"),
        ({"question": "?", "choices": ["red", "red"], "answer": "A"}, "same option twice"),
        ({"question": "?", "choices": ["red", ""], "answer": "A"}, "empty or not a text"),
        ({"question": "?", "choices": "AB", "answer": "A"}, "must be a list of texts"),
        ({"question": "?", "choices": ["\ud800x", "b"], "answer": "B"}, "choices. contains an unpaired surrogate"),
        ({"question": "?", "choices": {"text": ["a", "b"], "label": ["A"]}, "answerKey": "A"}, "one label"),
        ({"question": "?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "E"}, "labels A, B"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: object, message: str) -> None:
    path = write(tmp_path, [{"question": "fine", "answer": 1}, row])
    with pytest.raises(FastsiaError, match=rf"mine\.jsonl, row 2: .*{message}"):
        load_task(path)


def test_an_options_text_comes_before_its_number(tmp_path: Path) -> None:
    """With the options 2, 4, 6, 8 the answer 4 is the second one, not the fourth."""
    rows = [{"question": "?", "choices": ["2", "4", "6", "8"], "answer": answer} for answer in ("4", 4, 4.0, "D")]
    assert [p.gold for p in load_task(write(tmp_path, rows)).problems] == ["B", "B", "B", "D"]


def test_repeated_ids_and_questions_get_distinct_keys_that_no_limit_changes(tmp_path: Path) -> None:
    rows = [{"question": "same", "answer": 1, "id": key} for key in ("a", "a", "a-2", "a", "b")]
    path = write(tmp_path, [*rows, {"question": "same", "answer": 1}, {"question": "same", "answer": 1}])
    ids = [p.id for p in load_task(path).problems]
    assert ids == ["a", "a-2", "a-2-2", "a-3", "b", "row-6", "row-7"]
    for limit in range(1, 8):
        assert [p.id for p in load_task(path, limit=limit).problems] == ids[:limit]


@pytest.mark.parametrize("limit", [0, -1, True, 2.0, "3"])
def test_a_limit_below_one_is_refused(limit: Any) -> None:
    with pytest.raises(FastsiaError, match="limit must be an integer >= 1"):
        load_task("demo", limit=limit)


@pytest.mark.parametrize("content", ["", "\n\r\n", "\ufeff"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(FastsiaError, match=r"empty\.jsonl contains no problems"):
        load_task(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gsm8", "Unknown task 'gsm8'; did you mean gsm8k"),
        ("GSM8K", "did you mean gsm8k"),
        ("arc_chalenge", "did you mean arc_challenge"),
        ("xyz", "Unknown task 'xyz'; there are demo, gsm8k"),
        ("folder/absent.jsonl", r"folder/absent\.jsonl is not a file"),
    ],
)
def test_unknown_names_get_suggestions(name: str, message: str) -> None:
    with pytest.raises(FastsiaError, match=message):
        load_task(name)


def test_a_misspelt_file_gets_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, [{"question": "?", "answer": 1}], "problems.jsonl")
    with pytest.raises(FastsiaError, match=r"problms\.jsonl is not a file; did you mean problems\.jsonl"):
        load_task(tmp_path / "problms.jsonl")


def test_data_dir_without_the_file(tmp_path: Path) -> None:
    with pytest.raises(FastsiaError, match=r"has no file gsm8k/test\.jsonl, which the task gsm8k needs"):
        load_task("gsm8k", data_dir=tmp_path)
    with pytest.raises(FastsiaError, match="is not a folder"):
        load_task("gsm8k", data_dir=tmp_path / "absent")


@pytest.mark.parametrize(("name", "answer_format"), [("gsm8k", "choice"), ("arc_easy", "number"), ("demo", "boxed")])
def test_a_format_that_does_not_fit_the_task(name: str, answer_format: Any, tmp_path: Path) -> None:
    with pytest.raises(FastsiaError, match="format"):
        load_task(name, answer_format=answer_format, data_dir=tmp_path)
    with pytest.raises(FastsiaError, match="answer_format must be one of"):
        load_task(name, answer_format="letters", data_dir=tmp_path)  # type: ignore[arg-type]


def test_list_of_problems() -> None:
    problems = [Problem("a", "2 + 2?", "4.0"), Problem("a", "Sky?", "blue", choices=("green", "blue"))]
    task = load_task(problems)
    assert [(p.id, p.gold, p.answer_format) for p in task.problems] == [("a", "4", "number"), ("a-2", "B", "choice")]
    assert load_task(task, limit=1).problems == task.problems[:1]


@pytest.mark.parametrize(
    ("problems", "message"),
    [
        ([], "contains no problems"),
        ([Problem("a", "?", "1"), "text"], r"dataset\[1\] must be a Problem, got str"),
        ([Problem("a", "?", "lots")], r"dataset\[0\] \(id 'a'\): the gold answer 'lots' is not a number"),
        ([Problem("a", "?", "A", answer_format="choice")], "are incompatible"),
        (17, "dataset must be"),
        ({"train": [], "test": []}, "several splits"),
    ],
)
def test_bad_lists(problems: Any, message: str) -> None:
    with pytest.raises(FastsiaError, match=message):
        load_task(problems)


def test_datasets_of_every_known_layout() -> None:
    datasets = pytest.importorskip("datasets")
    own = datasets.Dataset.from_list([{"question": "?", "answer": "3", "choices": None, "id": "x"}])
    gsm8k = datasets.Dataset.from_list([{"question": "?", "answer": "2 * 600 = 1,200\n#### 1,200"}])
    svamp = datasets.Dataset.from_list(
        [{"ID": "chal-9", "Body": "If she ate 3", "Question": "How many are left?", "Answer": "2.0", "Type": "x"}]
    )
    arc = datasets.Dataset.from_list(
        [{"id": "q", "question": "?", "choices": {"text": ["r", "s", "t"], "label": ["1", "2", "3"]}, "answerKey": "3"}]
    )
    found = [load_task(data).problems[0] for data in (own, gsm8k, svamp, arc)]
    assert [(p.id, p.gold) for p in found] == [("x", "3"), ("gsm8k-1", "1200"), ("chal-9", "2"), ("q", "C")]
    assert found[2].question == "If she ate 3, how many are left?"
    with pytest.raises(FastsiaError, match="several splits"):
        load_task(datasets.DatasetDict({"train": own}))
    with pytest.raises(FastsiaError, match="row 1: field 'answer' is missing"):
        load_task(datasets.Dataset.from_list([{"question": "?", "reply": "3"}]))


def fake_hub(monkeypatch: pytest.MonkeyPatch, rows: dict[tuple[str, str | None, str], Any]) -> None:
    """A stub of the package `datasets` and its network."""

    def load_dataset(path: str, config: str | None, split: str, revision: str | None) -> Any:
        result = rows[path, config, split]
        if isinstance(result, Exception):
            raise result
        return result

    settings = SimpleNamespace(HF_HUB_OFFLINE=False)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset, config=settings))
    monkeypatch.setattr("fastsia.tasks.hub.hub_status", lambda path: 200)


def test_named_tasks_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def story(number: int) -> dict[str, str]:
        return {"ID": f"chal-{number}", "Body": "He has 3.", "Question": "How many?", "Answer": f"{number}.0"}

    fake_hub(
        monkeypatch,
        {
            ("openai/gsm8k", "main", "test"): [{"question": "?", "answer": "#### 5"}],
            ("ChilleD/SVAMP", None, "train"): [story(3), story(1)],
            ("ChilleD/SVAMP", None, "test"): [story(4), story(2)],
            ("allenai/ai2_arc", "ARC-Easy", "test"): [
                {"id": "x", "question": "?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}
            ],
        },
    )
    assert [p.gold for p in load_task("gsm8k").problems] == ["5"]
    assert [p.gold for p in load_task("svamp").problems] == ["4", "2"]
    assert [p.gold for p in load_task("svamp_full", limit=3).problems] == ["1", "2", "3"]
    assert [p.gold for p in load_task("arc_easy").problems] == ["B"]


def test_a_refusal_of_the_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, {("openai/gsm8k", "main", "test"): ConnectionError("Couldn't reach the Hub\nlong trace")})
    with pytest.raises(FastsiaError, match=r"Couldn't reach the Hub\. Without a network, set data_dir") as caught:
        load_task("gsm8k")
    assert "\n" not in str(caught.value)


def no_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Any:
    """The package `datasets` with an unreachable Hub and an empty cache; any retry is an error."""
    datasets = pytest.importorskip("datasets")

    def retry(*_: Any, **__: Any) -> None:
        raise AssertionError("the Hub was asked again")

    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    monkeypatch.setattr("huggingface_hub.HfApi.hf_hub_download", retry)
    return datasets


def test_no_network_is_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The package alone retries for half a minute, with a line for each attempt, before the same error."""
    datasets = no_hub(monkeypatch, tmp_path)
    with pytest.raises(FastsiaError, match=r"cannot be reached.*no copy in the local cache\. Without .*data_dir"):
        load_task("gsm8k")
    assert datasets.config.HF_HUB_OFFLINE is False, "the switch is the caller's"


def test_without_a_network_the_cache_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = no_hub(monkeypatch, tmp_path)
    from datasets.arrow_writer import ArrowWriter

    rows = datasets.Dataset.from_list([{"question": "?", "answer": "#### 5"}])
    folder = tmp_path / "openai___gsm8k" / "main" / "0.0.0" / "0123abcd"
    folder.mkdir(parents=True)
    with ArrowWriter(path=str(folder / "gsm8k-test.arrow"), features=rows.features) as writer:
        writer.write(rows[0])
        writer.finalize()
    splits = {"test": {"name": "test", "num_examples": 1, "dataset_name": "gsm8k"}}
    datasets.DatasetInfo(
        features=rows.features, config_name="main", dataset_name="gsm8k", version="0.0.0", splits=splits
    ).write_to_directory(str(folder))
    assert [p.gold for p in load_task("gsm8k").problems] == ["5"]


def test_a_hub_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall that drops packets does not answer, so connecting would take minutes."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("fastsia.models.hub._PROBE_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert hub_status("datasets/openai/gsm8k/resolve/main/README.md") is None


def test_without_the_package_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def blocked(name: str, *args: Any, **kwargs: Any) -> ModuleType:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(FastsiaError, match=r"pip install 'fastsia\[datasets\]'"):
        load_task("gsm8k")


def test_every_task_is_described() -> None:
    assert list(TASKS) == ["demo", "gsm8k", "svamp", "svamp_full", "arc_challenge", "arc_easy", *COMPETITION]
    assert all(TASKS.values())


def test_the_demo_task() -> None:
    task = load_task("demo", limit=3)
    assert (task.name, task.stride, task.instruction, len(task)) == ("demo", 4, "", 3)
    assert len(load_task("demo", limit=5000)) == 2000
