"""How a run's answers are read: cut texts, stored runs read again, corrected golds, a reader of one's own."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fastsia
from fastsia import FastsiaError, Problem, SIAConfig, SIAResult, evaluate, load, reread
from fastsia.answers.equivalence import Classes
from fastsia.answers.extraction import RULES_VERSION
from fastsia.answers.vocabulary import Vocabulary
from fastsia.backends.hf_generate import HFGenerateBackend
from fastsia.engine.sequence import FinishReason, Request, Rollouts, Trajectory
from fastsia.results import reading
from fastsia.results.reader import Store
from fastsia.results.reading import Reading
from fastsia.results.schema import DrawnProblem, pack_ids
from fastsia.results.writer import StoreWriter
from tests.stores import rewritten
from tests.tiny import PROBLEMS, shared_model, tiny_tokenizer

OLD = Path(__file__).parent / "data" / "run_0_1_0"
"""Two problems of the demo task as fastsia 0.1.0 drew, read and stored them."""
OF_OLD: dict[str, Any] = {"num_rollouts": 4, "stride": 20, "max_tokens": 60, "num_bootstrap": 100}
SMALL: dict[str, Any] = {"num_rollouts": 4, "stride": 6, "max_tokens": 18, "num_bootstrap": 20, "num_splits": 2}


def small(dataset: Any = PROBLEMS[:4], **changes: Any) -> SIAResult:
    return evaluate(changes.pop("model", shared_model()), dataset, **SMALL | {"top_p": 1.0} | changes)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def rows(folder: Path) -> dict[str, list[Any]]:
    with closing(sqlite3.connect(folder / "run.sqlite")) as connection:
        return {
            name: connection.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall()
            for name in ("problems", "trajectories", "rollouts")
        }


class NoDraws(HFGenerateBackend):
    """Fails where anything is drawn."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        assert not list(requests), "something was drawn again"
        return iter(())


# --- cut texts -------------------------------------------------------------------------------------------------


def test_cut_rollouts_have_no_unmarked_answer_and_are_counted() -> None:
    """21 of 24 cut rollouts of real models had their last number as an answer, and the null rate was 0."""
    result = small(PROBLEMS, max_tokens=8)
    cut = result.rollouts["finish_reason"] == "length"
    # The tiny model writes few marks.
    unmarked = np.array(["#" not in text for text in _texts(result, shared_model()[1])])
    assert (cut & unmarked).any()
    assert result.rollouts["answer_strict"][cut & unmarked].isna().all()
    assert result.rollouts["answer_lenient"][cut & unmarked].notna().any()
    assert (result.rollouts["answer"].fillna("") == result.rollouts["answer_strict"].fillna("")).all()
    assert result.summary["num_cut_rollouts"] == int(cut.sum())
    assert result.summary["cut_rate"] == pytest.approx(cut.mean())
    assert result.summary["null_rate"] == result.summary["readings"]["strict"]["null_rate"]
    assert any(f"The token limit cut {cut.sum()} of {len(cut)} rollouts" in note for note in result.summary["warnings"])


def test_both_readings_are_scored() -> None:
    """The other reading gives a second value of accuracy, null rate, H and ρ: those of a run of that setting."""
    strict, lenient = small(PROBLEMS), small(PROBLEMS, answer_reading="lenient")
    assert strict.rollouts["answer"].tolist() != lenient.rollouts["answer"].tolist()
    assert strict.summary["readings"] == lenient.summary["readings"]
    for result, name in ((strict, "strict"), (lenient, "lenient")):
        found, summary = result.summary["readings"][name], result.summary
        assert found["accuracy"] == pytest.approx(summary["accuracy"])
        assert found["null_rate"] == pytest.approx(summary["null_rate"])
        assert found["rho"] == (None if summary["rho"]["pearson"] is None else pytest.approx(summary["rho"]["pearson"]))
        assert found["entropy"] == pytest.approx(result.trajectories["mean_entropy"].mean())
        rows = result.tables["sensitivity"].set_index(["factor", "value"])
        assert (
            rows.loc[("answer_reading", name), "undefined_fraction"] == rows.loc[("as run", ""), "undefined_fraction"]
        )


def test_the_report_shows_both_readings_where_they_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fastsia.cli.render import show

    result = small(PROBLEMS)
    show(result, [])
    out = capsys.readouterr().out
    assert re.search(r"cut by the token limit +│ +\d", out)
    assert "strict (this run's)" in out
    assert "The two readings" in result.report(tmp_path / "page.html").read_text(encoding="utf-8")
    table = result.rollouts.drop(columns=["answer_strict", "answer_lenient", "finish_reason"])
    plain = fastsia.analyze(table, config={"num_bootstrap": 20, "num_splits": 2})
    assert plain.summary["cut_rate"] is None
    show(plain, [])
    out = capsys.readouterr().out
    assert "│ cut by the token limit" not in out
    assert "The two readings" not in out


@pytest.mark.parametrize(
    ("opening", "closing", "starts_in_think"),
    [("<think>", "</think>", False), ("[THINK]", "[/THINK]", False), ("", "</reasoning>", True)],
)
def test_shuffled_rollouts_from_inside_a_think_block_are_read_as_such(
    opening: str, closing: str, starts_in_think: bool
) -> None:
    """Whatever marks the block: a draft in it is no answer, as where the prefix stands before the rollout. One from the
    very beginning is read by itself."""
    tokenizer = tiny_tokenizer()
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    whole = tokenizer.encode(f"{opening} #### 3\n{closing}\n#### 4\n")
    closed = len(tokenizer.encode(f"{opening} #### 3\n{closing}"))
    row = tokenizer.encode("#### 5\n")
    checkpoints = np.array([0, closed - 1, closed, len(whole)], dtype=np.int32)
    drawn = Trajectory(
        key=(0, 0),
        prompt_ids=np.zeros(1, dtype=np.int32),
        token_ids=np.array(whole, dtype=np.int32),
        logprobs=np.zeros(len(whole), dtype=np.float32),
        token_entropies=np.zeros(len(whole), dtype=np.float32),
        finish_reason="eos",
        seed=0,
        checkpoints=checkpoints,
        rollouts=Rollouts(
            checkpoint=checkpoints,
            index=np.zeros(4, dtype=np.int32),
            offsets=np.arange(5) * len(row),
            token_ids=np.array(row * 4, dtype=np.int32),
            logprobs=np.zeros(4 * len(row), dtype=np.float32),
            finish_reason=np.full(4, FinishReason.EOS, dtype=np.int8),
        ),
    )
    shuffled = Reading(SIAConfig(shuffle_prefix=True))
    asked = DrawnProblem(0, Problem("p", "?", "4"), "number", starts_in_think, [(0, drawn)])
    (answered,) = shuffled.read(asked, vocabulary)
    assert answered.answer == "4"
    assert answered.rollout_answers.strict == [None if starts_in_think else "5", None, "5", "5"]
    assert answered.rollout_answers.lenient == ["5"] * 4


def _texts(result: SIAResult, tokenizer: Any) -> list[str]:
    whole = result.trajectories.set_index(["problem_id", "trajectory"])["token_ids"]
    return [
        tokenizer.decode([*whole[row.problem_id, row.trajectory][: row.checkpoint], *row.token_ids])
        for row in result.rollouts.itertuples()
    ]


# --- stored runs -----------------------------------------------------------------------------------------------


def test_a_run_of_an_older_version_loads_as_it_was_read(old: Path) -> None:
    result = load(old)
    assert result.summary["reading"]["rules"] == 1
    assert result.summary["null_rate"] == 0
    notes = [note for note in result.summary["warnings"] if "were read in another way" in note]
    assert notes == [
        f"The answers of this run were read in another way (rules 1, now {RULES_VERSION}); "
        f"`fastsia report {old}` reads the stored texts again."
    ]
    result.save(old)
    assert [note for note in load(old).summary["warnings"] if "read in another way" in note] == notes


def test_an_older_run_read_again_is_a_run_of_today(old: Path, tmp_path: Path) -> None:
    before = rows(old)
    found = reread(old)
    assert found is not None
    assert str(found) == f"6 of 34 answers changed: rules 1 → {RULES_VERSION}."
    Store(old / "run.sqlite").check()
    assert reread(old) is None, "nothing is left to do"
    again = load(old)
    assert not any("another way" in note for note in again.summary["warnings"])
    today = evaluate("demo:sft", "demo", limit=2, output=tmp_path / "today", **OF_OLD)
    answers = ["answer", "answer_strict", "answer_lenient", "finish_reason"]
    pd.testing.assert_frame_equal(again.rollouts[answers], today.rollouts[answers])
    pd.testing.assert_frame_equal(again.trajectories[[*answers, "correct"]], today.trajectories[[*answers, "correct"]])
    pd.testing.assert_frame_equal(again.checkpoints, today.checkpoints)
    assert again.summary["readings"] == today.summary["readings"]
    assert again.summary["row_steps"] == today.summary["row_steps"], "costs are remembered"
    exported = pd.read_parquet(old / "rollouts.parquet")
    assert exported["answer"].isna().sum() == 5
    after = rows(old)
    kept = [0, 1, 2, 3, 4, 5, 6, *range(10, 14)]
    assert [[row[i] for i in kept] for row in after["rollouts"]] == [
        [row[i] for i in kept] for row in before["rollouts"]
    ]


def test_an_older_run_is_resumed_in_one_reading(old: Path) -> None:
    """Old answers beside new ones in one table would be of two rules."""
    drawn = [row[13] for row in rows(old)["rollouts"]]
    result = evaluate("demo:sft", "demo", limit=3, output=old, **OF_OLD)
    assert result.summary["num_problems"] == 3
    assert [pack_ids(ids) for ids in result.rollouts["token_ids"]][: len(drawn)] == drawn
    note = f"The stored texts were read again: 6 of 34 answers changed: rules 1 → {RULES_VERSION}."
    assert note in result.summary["warnings"]
    assert result.rollouts["answer"][result.rollouts["finish_reason"] == "length"].isna().all()
    assert Store(old / "run.sqlite").reading() == Reading(SIAConfig()).facts()
    Store(old / "run.sqlite").check()


def test_another_reading_and_back(old: Path) -> None:
    reread(old)
    before = rows(old)
    lenient = reread(old, answer_reading="lenient")
    assert str(lenient) == "6 of 34 answers changed: answer_reading strict → lenient."
    result = load(old)
    assert result.summary["config"]["answer_reading"] == "lenient"
    assert result.summary["null_rate"] == 0
    assert rows(old) != before
    reread(old, answer_reading="strict")
    assert rows(old) == before, "checksums included"


def test_what_only_changes_the_reading_does_not_refuse_a_resumed_run(tmp_path: Path) -> None:
    strict = small(output=tmp_path)
    lenient = small(output=tmp_path, answer_reading="lenient", backend="native")
    assert lenient.rollouts["answer"].tolist() == strict.rollouts["answer_lenient"].tolist()
    assert any("answer_reading strict → lenient" in note for note in lenient.summary["warnings"])
    assert small(output=tmp_path).checkpoints.equals(strict.checkpoints)


def test_a_reading_that_fails_changes_nothing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Reading.read
    seen: list[int] = []

    def failing(self: Reading, stored: Any, vocabulary: Any) -> Any:
        seen.append(stored.position)
        if stored.position == 1:
            raise KeyboardInterrupt
        return read(self, stored, vocabulary)

    before = rows(old)
    monkeypatch.setattr(Reading, "read", failing)
    with pytest.raises(KeyboardInterrupt):
        reread(old)
    assert seen == [0, 1]
    after = rows(old)
    assert [row[:-1] for row in after.pop("problems")] == [row[:-1] for row in before.pop("problems")]
    assert after == before
    Store(old / "run.sqlite").check()
    assert Store(old / "run.sqlite").reading()["rules"] == 1  # type: ignore[index]
    monkeypatch.undo()
    assert reread(old) is not None, "the folder is free again"


def test_a_damaged_run_is_not_read_again(old: Path) -> None:
    path = old / "run.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE rollouts SET answer = 'x' WHERE id = 0")
    before = path.read_bytes()
    with pytest.raises(FastsiaError, match=r"is damaged .*the same `fastsia run` command repairs it"):
        reread(old)
    assert path.read_bytes() == before


def test_what_a_repair_reads_back_keeps_its_reading(old: Path) -> None:
    """A repaired old database would else say that its answers were read by today's rules."""
    with closing(sqlite3.connect(old / "run.sqlite")) as connection, connection:
        connection.execute("UPDATE rollouts SET answer = 'x' WHERE id = 0")
    result = evaluate("demo:sft", "demo", limit=2, output=old, **OF_OLD)
    assert any("is damaged" in note for note in result.summary["warnings"])
    assert any("The stored texts were read again" in note for note in result.summary["warnings"])
    assert result.rollouts["answer"].isna().sum() == 5


def test_a_reading_that_is_not_known_is_no_damage(old: Path) -> None:
    """It can be made again from the texts."""
    reread(old)
    before = rows(old)
    with closing(sqlite3.connect(old / "run.sqlite")) as connection, connection:
        connection.execute("UPDATE meta SET value = replace(value, 'strict', 'lenient') WHERE key = 'reading'")
    assert Store(old / "run.sqlite").reading() is None
    assert any("is not known; `fastsia report" in note for note in load(old).summary["warnings"])
    assert str(reread(old)) == "0 of 34 answers changed: how they had been read is not known."
    assert rows(old) == before


def test_the_shuffled_run_is_read_the_same_way(tmp_path: Path) -> None:
    """Two runs of different readings are no pair."""
    small(output=tmp_path)
    small(output=tmp_path / "shuffled", shuffle_prefix=True)
    reread(tmp_path, answer_reading="lenient")
    shuffled = load(tmp_path / "shuffled")
    assert shuffled.summary["config"]["answer_reading"] == "lenient"
    assert shuffled.rollouts["answer"].tolist() == shuffled.rollouts["answer_lenient"].tolist()
    assert "shuffled_prefix" in load(tmp_path).tables


def test_a_folder_that_cannot_be_read_again_is_named(tmp_path: Path, old: Path) -> None:
    with pytest.raises(FastsiaError, match=r"contains no run \(run\.sqlite\)"):
        reread(tmp_path)
    with pytest.raises(FastsiaError, match="answer_reading must be"):
        reread(old, answer_reading="both")  # type: ignore[arg-type]
    store = Store(old / "run.sqlite")
    held = StoreWriter(old, store.identity(), store.vocabulary())
    with pytest.raises(FastsiaError, match="is locked"):
        reread(old)
    held.close()


def test_stopped_rollouts_whose_answer_is_another_now_are_counted(old: Path) -> None:
    """What they would have gone on to say was not drawn."""
    with rewritten(old / "run.sqlite") as connection:
        connection.execute(
            "UPDATE rollouts SET finish_reason = 'answer', answer_lenient = '7', answer_strict = '7', "
            "answer = '7' WHERE id < 3"
        )
    found = str(reread(old))
    assert "3 of them are of rollouts that were stopped early" in found


# --- corrected golds -------------------------------------------------------------------------------------------


def test_a_corrected_gold_needs_no_new_draws(tmp_path: Path) -> None:
    backend = HFGenerateBackend(*shared_model())
    first = small(output=tmp_path, model=backend, backend="hf")
    answer = first.trajectories["answer_lenient"].dropna().iloc[0]
    place = first.trajectories["answer_lenient"].tolist().index(answer)
    small(output=tmp_path, model=NoDraws(*shared_model()), backend="hf", answer_reading="lenient")
    corrected = [
        Problem(problem.id, problem.question, answer if i == place else problem.gold)
        for i, problem in enumerate(PROBLEMS[:4])
    ]
    result = small(corrected, output=tmp_path, model=NoDraws(*shared_model()), backend="hf", answer_reading="lenient")
    assert result.trajectories["gold"].tolist() == [problem.gold for problem in corrected]
    assert result.trajectories["correct"][place]
    assert any("Gold answers corrected in the data since: 1." in note for note in result.summary["warnings"])
    assert Store(tmp_path / "run.sqlite").problems()["gold"].tolist() == [problem.gold for problem in corrected]
    Store(tmp_path / "run.sqlite").check()
    fresh = small(corrected, model=HFGenerateBackend(*shared_model()), backend="hf", answer_reading="lenient")
    pd.testing.assert_frame_equal(result.checkpoints, fresh.checkpoints)
    again = small(corrected, output=tmp_path, model=NoDraws(*shared_model()), backend="hf", answer_reading="lenient")
    assert not any("corrected" in note for note in again.summary["warnings"])


def test_a_gold_corrected_in_an_older_run(old: Path) -> None:
    """Both at once: all texts are read again, with the new gold."""
    task = fastsia.load_task("demo", limit=2)
    first = task.problems[0]
    problems = (Problem(first.id, first.question, "184", first.choices, first.answer_format), *task.problems[1:])
    result = evaluate("demo:sft", _with(task, problems), output=old, **OF_OLD)
    assert result.trajectories["correct"].tolist() == [True, False]
    notes = " ".join(result.summary["warnings"])
    assert "rules 1" in notes
    assert "Gold answers corrected in the data since: 1." in notes


def _with(task: Any, problems: tuple[Problem, ...]) -> Any:
    import dataclasses

    return dataclasses.replace(task, problems=problems)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (Problem("c0", "Which?", "A", ("one", "three"), "choice"), "choices of problem 1 was"),
        (Problem("c0", "What?", "A", ("one", "two"), "choice"), "question of problem 1 was"),
        (Problem("c1", "Which?", "A", ("one", "two"), "choice"), "id of problem 1 was"),
    ],
)
def test_another_problem_is_refused_as_before(change: Problem, named: str, tmp_path: Path) -> None:
    small([Problem("c0", "Which?", "B", ("one", "two"), "choice")], output=tmp_path)
    with pytest.raises(FastsiaError, match=named):
        small([change], output=tmp_path)


# --- a reader of one's own -------------------------------------------------------------------------------------


def first_digit(text: str) -> str | None:
    found = re.search(r"\d", text)
    return found and found.group()


def test_a_regex_reads_the_answers() -> None:
    result = small(PROBLEMS, answer_regex=r"(\d)\D*$")
    assert result.summary["config"]["stop_at_answer"] is False
    assert result.summary["reading"]["answer_regex"] == r"(\d)\D*$"
    texts = _texts(result, shared_model()[1])
    expected = [found[-1] if (found := re.findall(r"\d", text)) else None for text in texts]
    assert result.rollouts["answer_lenient"].tolist() == expected
    cut = result.rollouts["finish_reason"] == "length"
    assert cut.any()
    assert result.rollouts["answer_strict"].tolist() == [
        None if is_cut else answer for is_cut, answer in zip(cut, expected, strict=True)
    ]
    assert not (result.rollouts["finish_reason"] == "answer").any()


@pytest.mark.parametrize(
    ("pattern", "text", "answer"),
    [
        (r"x=(?P<answer>\d+)|y=(\d+)", "x=1 x=2", "2"),
        (r"x=(\d+),(\d+)", "x=1,2", "1"),
        (r"\d+", "1 and 2 ", "2"),
        (r"x=\d+", "y=1", None),
        (r"x=(?P<answer>\d*)", "x=", None),
        (r"= (\$[\d,]+)", "= $1,234", "1234"),
        (r"is (.*)$", "it is a bird ", "a bird"),
    ],
)
def test_what_a_regex_gives(pattern: str, text: str, answer: str | None) -> None:
    """Its named group, its first one, or all of it; one number in the spelling of a gold answer."""
    read = reading._regex_reader(pattern)
    asked = DrawnProblem(0, Problem("p", "?", "1"), "number", False, ())
    assert reading._read_one(read, text, asked) == answer


def test_a_choice_may_be_read_by_its_text() -> None:
    problem = Problem("p", "?", "B", ("red", "green"))
    asked = DrawnProblem(0, problem, "choice", False, ())
    assert reading._read_one(lambda text: " green ", "", asked) == "B"


def test_a_function_reads_the_answers(tmp_path: Path) -> None:
    result = small(output=tmp_path, answer_reader=first_digit)
    expected = [first_digit(text) for text in _texts(result, shared_model()[1])]
    assert result.rollouts["answer_lenient"].tolist() == expected
    facts = result.summary["reading"]
    assert re.fullmatch(r"tests\.test_reading\.first_digit sha256:[0-9a-f]{16}", facts["answer_reader"])
    assert not any("another way" in note for note in load(tmp_path).summary["warnings"])
    small(output=tmp_path, answer_reader=first_digit, backend="native")
    assert reread(tmp_path) is None, "the function is not at hand, and was not asked to change"
    with pytest.raises(FastsiaError, match=r"read by the function tests\.test_reading\.first_digit"):
        reread(tmp_path, answer_reading="lenient")
    with pytest.raises(FastsiaError, match=r"config\.stop_at_answer was false, is now true \(answer_regex and"):
        small(output=tmp_path)
    changed = reread(tmp_path, answer_reader=lambda text: "7")
    assert changed is not None
    assert "answer_reader tests.test_reading.first_digit" in str(changed)
    assert set(load(tmp_path).rollouts["answer_lenient"]) == {"7"}
    assert reread(tmp_path, answer_regex=r"\d") is not None
    assert load(tmp_path).summary["config"]["answer_regex"] == r"\d"
    assert reread(tmp_path, answer_regex="") is not None
    rules = small(stop_at_answer=False)
    assert load(tmp_path).rollouts["answer"].tolist() == rules.rollouts["answer"].tolist()


def test_a_reader_after_early_stops_is_warned_of(old: Path) -> None:
    with rewritten(old / "run.sqlite") as connection:
        connection.execute("UPDATE rollouts SET finish_reason = 'answer' WHERE id < 3")
    reread(old, answer_regex=r"\d+")
    assert any("3 rollouts stopped early at an answer" in note for note in load(old).summary["warnings"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"answer_regex": "("}, r"answer_regex '\(' is not a regular expression: missing \), unterminated"),
        ({"answer_regex": ""}, "answer_regex must be a regular expression"),
        ({"answer_regex": 3}, "answer_regex must be a regular expression, got 3"),
        ({"answer_reader": "first"}, "answer_reader must be a function"),
        ({"answer_reader": first_digit, "answer_regex": "x"}, "are two readers"),
        ({"answer_reader": lambda text: 3}, "must return a text or None, got 3 for problem 'p0'"),
        ({"answer_reader": lambda text: "\ud800"}, "must return a text or None"),
        (
            {"answer_reader": lambda text: text.nothing},
            "answer_reader failed on a text of problem 'p0': AttributeError",
        ),
        ({"equivalence": "sympy"}, 'equivalence must be "spelling" or "math_verify", got \'sympy\''),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FastsiaError, match=sentence) as error:
        small(PROBLEMS[:1], **change)
    assert "\n" not in str(error.value)


def test_the_source_of_a_reader_is_known_by_its_hash() -> None:
    one, other = (Reading(SIAConfig(), reader).facts()["answer_reader"] for reader in (first_digit, lambda text: text))
    assert one != other
    namespace: dict[str, Any] = {}
    exec("def same(text): return text[:1]\ndef another(text): return text[:2]", namespace)
    names = [reading.name_of(namespace[name]).rpartition("sha256:") for name in ("same", "another")]
    assert names[0][2] != names[1][2], "without a source, by what it does"


# --- which answers are equal -----------------------------------------------------------------------------------


BOXED: dict[str, Any] = {"answer_format": "boxed", "answer_regex": r"\d+"}
"""The tiny model writes numbers, and no boxes."""


def by_length(answers: Sequence[str], gold: str, *, method: str) -> Classes:
    """Stands in for Math-Verify: all answers of an odd number of characters are equal, and all of an even one."""
    assert method == "math_verify"
    names = {len(gold) % 2: gold}
    return Classes({answer: names.setdefault(len(answer) % 2, answer) for answer in [*sorted(answers), gold]}, 1)


def test_equal_answers_are_one_and_can_be_told_apart_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "classes", by_length)
    plain = small(output=tmp_path / "plain", answer_reading="lenient", **BOXED)
    grouped = small(output=tmp_path / "grouped", answer_reading="lenient", equivalence="math_verify", **BOXED)
    assert grouped.summary["reading"]["equivalence"] == "math_verify"
    golds = plain.rollouts["gold"]
    for name in ("answer", "answer_lenient"):
        one, other = plain.rollouts[name], grouped.rollouts[name]
        assert other.isna().equals(one.isna())
        odd = one.str.len() % 2 == 1
        assert (other == golds)[odd].all(), "the gold answer's own class has its spelling"
        assert not (other == golds)[~odd].any()
    right = plain.trajectories["answer"].str.len() % 2 == 1
    assert grouped.trajectories["correct"].tolist() == right.tolist()
    assert right.any()
    assert (
        grouped.summary["accuracy"] == grouped.summary["readings"]["lenient"]["accuracy"] == pytest.approx(right.mean())
    )
    assert (grouped.checkpoints["entropy"] <= plain.checkpoints["entropy"] + 1e-12).all()
    assert rows(tmp_path / "grouped") == rows(tmp_path / "plain"), "what is stored are the spellings"
    assert any("4 comparisons of two answers by Math-Verify took too long" in n for n in grouped.summary["warnings"])
    assert reread(tmp_path / "grouped", equivalence="spelling") is not None
    pd.testing.assert_frame_equal(load(tmp_path / "grouped").checkpoints, plain.checkpoints)
    found = str(reread(tmp_path / "plain", equivalence="math_verify"))
    assert re.fullmatch(r"\d+ of \d+ answers changed: equivalence spelling → math_verify\.", found)
    assert not found.startswith("0 ")
    pd.testing.assert_frame_equal(load(tmp_path / "plain").checkpoints, grouped.checkpoints)


def test_a_resumed_run_groups_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def noting(answers: Sequence[str], gold: str, *, method: str) -> Classes:
        asked.append(gold)
        return by_length(answers, gold, method=method)

    monkeypatch.setattr(reading, "classes", noting)
    settings = {"output": tmp_path, "equivalence": "math_verify", "answer_reading": "lenient", **BOXED}
    small(PROBLEMS[:2], **settings)
    asked.clear()
    result = small(PROBLEMS[:3], **settings)
    assert asked == ["1", "2"], "the try at the start, and the new problem"
    again = small(PROBLEMS[:3], equivalence="math_verify", answer_reading="lenient", **BOXED)
    pd.testing.assert_frame_equal(result.checkpoints, again.checkpoints)


def test_a_run_that_was_killed_before_it_grouped_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "classes", by_length)
    with monkeypatch.context() as context:
        context.setattr(StoreWriter, "store_classes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            small(output=tmp_path, equivalence="math_verify", **BOXED)
    note = "The answers of 4 trajectories are grouped by their spelling only; `fastsia report"
    assert any(note in said for said in load(tmp_path).summary["warnings"])
    assert reread(tmp_path) is not None
    assert not any("spelling only" in said for said in load(tmp_path).summary["warnings"])
    pd.testing.assert_frame_equal(load(tmp_path).checkpoints, small(equivalence="math_verify", **BOXED).checkpoints)


def test_numbers_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has one spelling already; only the try at the start asks."""
    asked: list[str] = []
    monkeypatch.setattr(reading, "classes", lambda answers, gold, method: asked.append(gold) or Classes({}))
    grouped, plain = small(equivalence="math_verify"), small()
    assert asked == ["1"]
    pd.testing.assert_frame_equal(grouped.checkpoints, plain.checkpoints)
    assert not any("spelling only" in note for note in grouped.summary["warnings"])
    assert any("'math_verify' changes nothing here" in note for note in grouped.summary["warnings"])
    boxed = small(equivalence="math_verify", **BOXED)
    assert not any("changes nothing" in note for note in [*plain.summary["warnings"], *boxed.summary["warnings"]])


# --- the command line ------------------------------------------------------------------------------------------


def test_report_reads_an_older_run_again(
    old: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    from fastsia.cli import _run

    assert _run(["report", str(old), "-o", str(old / "page.html")]) == 0
    assert f"Read again: 6 of 34 answers changed: rules 1 → {RULES_VERSION}." in capsys.readouterr().out
    assert json.loads((old / "summary.json").read_text())["reading"]["rules"] == RULES_VERSION
    request.getfixturevalue("one_figure")
    assert _run(["report", str(old), "-o", str(old / "page.html")]) == 0
    assert "Read again" not in capsys.readouterr().out
    assert _run(["report", str(old), "-o", str(old / "page.html"), "--answer_regex", r"=(\d+)"]) == 0
    assert r"answer_regex none → =(\d+)" in capsys.readouterr().out
    assert _run(["report", str(old), "--answer_regex", "("]) == 2
    assert "is not a regular expression" in capsys.readouterr().err


@pytest.mark.usefixtures("one_figure")
def test_report_of_a_run_under_way_shows_what_is_stored(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fastsia.cli import _run

    store = Store(old / "run.sqlite")
    held = StoreWriter(old, store.identity(), store.vocabulary())
    assert _run(["report", str(old), "-o", str(old / "page.html")]) == 0
    assert "Note: the stored texts were not read again: output folder" in capsys.readouterr().out
    assert _run(["report", str(old), "--answer_reading", "lenient"]) == 2
    held.close()


def test_renewing_by_hand_reads_only_what_was_corrected(tmp_path: Path) -> None:
    small(output=tmp_path)
    store = Store(tmp_path / "run.sqlite")
    identity, vocabulary = store.identity(), store.vocabulary()
    with StoreWriter(tmp_path, identity, vocabulary) as writer:
        found = Reading(SIAConfig(**identity["config"])).reread(writer, vocabulary, identity, {2: "99"})
    whole = store.rollout_columns().groupby("problem_id").size()
    assert found.num_answers == whole["p2"] + 1
    assert store.problems()["gold"].tolist() == ["0", "1", "99", "3"]
    store.check()


def test_runs_of_different_rules_are_named_where_they_are_compared(old: Path, tmp_path: Path) -> None:
    from fastsia.comparison import compare

    shutil.copytree(old, tmp_path / "other")
    reread(tmp_path / "other")
    notes = compare([old, tmp_path / "other"]).notes
    (note,) = notes
    assert f"were read by different rules (versions 1, {RULES_VERSION}); `fastsia report DIR` reads" in note
    reread(old)
    assert compare([old, tmp_path / "other"]).notes == []


def test_reproduce_reads_a_finished_run_again(tmp_path: Path) -> None:
    """It is neither refused for a setting that its version did not have, nor shown in its old reading."""
    from fastsia.reproduce import plan, reproduce

    folder = tmp_path / "demo_sft" / "demo"
    shutil.copytree(OLD, folder)
    planned = plan("table1", models=["demo:sft"], tasks=["demo"], limit=2, output=tmp_path, config=SIAConfig(**OF_OLD))
    assert [job.finished for job in planned.jobs] == [True]
    assert reproduce(planned).num_computed == 0
    assert load(folder).summary["reading"] == Reading(SIAConfig()).facts()
