"""The whole pipeline on a tiny model: what it returns, what it keeps, what it refuses."""

from __future__ import annotations

import json
import logging
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fastsia
from fastsia import FastsiaError, Problem, SIAConfig, SIAResult, analyze, evaluate, load
from fastsia.backends.hf_generate import HFGenerateBackend
from fastsia.callbacks import Callback, Progress
from fastsia.engine.sequence import Request, Trajectory
from fastsia.evaluation import _Recorder
from fastsia.results.schema import FinishedProblem
from fastsia.results.writer import StoreWriter
from tests.backends.test_hf_generate import broken_after
from tests.tiny import PROBLEMS, shared_model, tiny_model

SMALL: dict[str, Any] = {
    "num_rollouts": 4,
    "stride": 6,
    "max_tokens": 18,
    "num_bootstrap": 50,
    "num_splits": 4,
    "top_p": 1.0,
}


def small(dataset: Any = PROBLEMS, **changes: Any) -> SIAResult:
    return evaluate(changes.pop("model", shared_model()), dataset, **SMALL | changes)


@pytest.fixture(scope="module")
def result() -> SIAResult:
    return small()


class Counting(HFGenerateBackend):
    """Remembers which problems it was asked for."""

    def __init__(self) -> None:
        super().__init__(*shared_model())
        self.asked: list[Any] = []

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        for request in requests:
            self.asked.append(request.key)
            yield from super().generate([request])


def same_draws(one: SIAResult, other: SIAResult) -> None:
    """Ids, answers, counts and entropies are equal."""
    for name in ("token_ids", "prompt_token_ids"):
        assert [x.tolist() for x in one.trajectories[name]] == [x.tolist() for x in other.trajectories[name]]
    assert [x.tolist() for x in one.rollouts["token_ids"]] == [x.tolist() for x in other.rollouts["token_ids"]]
    columns = ["problem_id", "trajectory", "checkpoint", "rollout", "answer", "gold", "num_tokens"]
    pd.testing.assert_frame_equal(one.rollouts[columns], other.rollouts[columns])
    pd.testing.assert_frame_equal(one.checkpoints, other.checkpoints)


# --- what it returns -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["native", "hf"])
def test_the_tables_hold_what_the_design_promises(backend: str) -> None:
    result = small(PROBLEMS[:5], backend=backend)
    promised = {
        "trajectories": "problem_id trajectory prompt_token_ids token_ids text answer gold correct finish_reason "
        "num_answers rho",
        "checkpoints": "problem_id trajectory checkpoint num_rollouts entropy entropy_miller_madow entropy_chao_shen "
        "gold_surprisal null_rate mode",
        "rollouts": "problem_id trajectory checkpoint rollout answer token_ids finish_reason",
    }
    for table, names in promised.items():
        assert set(names.split()) <= set(getattr(result, table).columns), table
    assert result.trajectories["problem_id"].tolist() == [f"p{i}" for i in range(5)]
    counts = result.rollouts.groupby(["problem_id", "trajectory", "checkpoint"]).size()
    assert (counts == SMALL["num_rollouts"]).all()
    assert len(counts) == len(result.checkpoints)
    for row in result.trajectories.itertuples():
        mine = result.checkpoints[result.checkpoints["problem_id"] == row.problem_id]["checkpoint"].tolist()
        length = len(row.token_ids)
        assert mine == sorted({*range(0, length, SMALL["stride"]), length})


def test_the_summary_is_json_and_complete(result: SIAResult) -> None:
    text = json.dumps(result.summary, allow_nan=False)
    summary = json.loads(text)
    keys = "model task num_problems accuracy null_rate rho auc ci generated_tokens row_steps seconds config version"
    assert set(keys.split()) <= set(summary)
    rho = "pearson spearman cross_fitted cross_fitted_corrected undefined_fraction"
    assert set(rho.split()) <= set(summary["rho"])
    assert set(rho.split()) <= set(summary["ci"]["rho"])
    assert set(summary["auc"][0]) >= {"position", "auc", "num_correct", "num_incorrect"}
    assert summary["config"]["stride"] == SMALL["stride"], "what the task or the model decided is written down"
    assert summary["config"]["apply_chat_template"] is False
    assert summary["num_problems"] == len(PROBLEMS)
    assert summary["generated_tokens"] == sum(map(len, result.rollouts["token_ids"]))
    assert summary["counters"]["generated_tokens"] == summary["generated_tokens"]
    assert summary["row_steps"] > 0


def test_answers_are_those_of_prefix_and_continuation(result: SIAResult) -> None:
    tokenizer = shared_model()[1]
    trajectories = result.trajectories.set_index("problem_id")
    texts = []
    for row in result.rollouts.itertuples():
        prefix = trajectories["token_ids"][row.problem_id][: row.checkpoint]
        texts.append(tokenizer.decode([*prefix, *row.token_ids], skip_special_tokens=True))
    cut = (result.rollouts["finish_reason"] == "length").tolist()
    expected = fastsia.extract_answers(texts, "number", cut=cut)
    assert result.rollouts["answer"].tolist() == expected
    assert result.rollouts["answer"].notna().any()
    assert result.rollouts["answer"].isna().any()
    cut = (result.trajectories["finish_reason"] == "length").tolist()
    own = fastsia.extract_answers(result.trajectories["text"].tolist(), "number", cut=cut)
    assert result.trajectories["answer"].tolist() == own
    assert result.trajectories["correct"].tolist() == [
        answer == gold for answer, gold in zip(own, result.trajectories["gold"], strict=True)
    ]
    assert result.summary["accuracy"] == pytest.approx(result.trajectories["correct"].mean())
    assert result.summary["null_rate_strict"] == pytest.approx(result.rollouts["answer"].isna().mean())


def test_entropies_are_those_of_the_answers(result: SIAResult) -> None:
    for key, rows in list(result.rollouts.groupby(["problem_id", "trajectory", "checkpoint"]))[::5]:
        at = (result.checkpoints[["problem_id", "trajectory", "checkpoint"]] == list(key)).all(axis=1)
        assert result.checkpoints["entropy"][at].item() == pytest.approx(
            fastsia.answer_entropy(rows["answer"].tolist())
        )


def test_a_run_follows_from_its_seed() -> None:
    same_draws(small(PROBLEMS[:4]), small(PROBLEMS[:4]))
    one, other = small(PROBLEMS[:4], seed=1), small(PROBLEMS[:4], seed=2)
    assert one.rollouts["token_ids"].map(list).tolist() != other.rollouts["token_ids"].map(list).tolist()


def test_draws_do_not_depend_on_order_or_rows(result: SIAResult) -> None:
    """A problem's draws follow from its id: not from its place, its company, or the row limit."""
    backwards = small(PROBLEMS[::-1], max_num_seqs=5, max_concurrent_trajectories=3)
    order = [f"p{i}" for i in range(len(PROBLEMS))]

    def sorted_rollouts(found: SIAResult) -> pd.DataFrame:
        place = found.rollouts["problem_id"].map(order.index)
        return found.rollouts.assign(place=place).sort_values(["place", "checkpoint", "rollout"], kind="stable")

    one, other = sorted_rollouts(result), sorted_rollouts(backwards)
    assert one["token_ids"].map(list).tolist() == other["token_ids"].map(list).tolist()
    assert one["answer"].tolist() == other["answer"].tolist()


def test_stopping_at_the_answer_changes_no_answer() -> None:
    stopped, whole = (small(PROBLEMS[:6], stop_at_answer=on, max_tokens=40) for on in (True, False))
    assert stopped.rollouts["answer"].tolist() == whole.rollouts["answer"].tolist()
    pd.testing.assert_frame_equal(stopped.checkpoints, whole.checkpoints)


def test_several_trajectories_a_problem() -> None:
    result = small(PROBLEMS[:3], num_trajectories=3)
    assert result.trajectories[["problem_id", "trajectory"]].to_numpy().tolist() == [
        [f"p{i}", j] for i in range(3) for j in range(3)
    ]
    first = result.trajectories[result.trajectories["problem_id"] == "p0"]
    assert len({tuple(ids) for ids in first["token_ids"]}) > 1, "each trajectory has draws of its own"
    single = small(PROBLEMS[:3])
    mine = result.trajectories[result.trajectories["trajectory"] == 0]
    assert [x.tolist() for x in mine["token_ids"]] == [x.tolist() for x in single.trajectories["token_ids"]]


def test_a_shuffled_prefix_answers_from_the_continuation_alone() -> None:
    result = small(PROBLEMS[:6], shuffle_prefix=True)
    tokenizer = shared_model()[1]
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in result.rollouts["token_ids"]]
    cut = (result.rollouts["finish_reason"] == "length").tolist()
    assert result.rollouts["answer"].tolist() == fastsia.extract_answers(texts, "number", cut=cut)
    cut = (result.trajectories["finish_reason"] == "length").tolist()
    own = fastsia.extract_answers(result.trajectories["text"].tolist(), "number", cut=cut)
    assert result.trajectories["answer"].tolist() == own


def test_a_total_budget_leaves_out_what_has_no_token_left(tmp_path: Path) -> None:
    """Such a checkpoint has no row, so its trajectory's row says that there was one: also when scored again."""
    result = small(PROBLEMS[:8], rollout_budget="total", max_tokens=6, stride=2, output=tmp_path)
    cut = result.trajectories["finish_reason"] == "length"
    assert cut.any()
    assert result.trajectories["num_left_out_checkpoints"].tolist() == cut.astype(int).tolist()
    (tmp_path / "summary.json").unlink()
    again = fastsia.load(tmp_path).trajectories["num_left_out_checkpoints"]
    assert again.tolist() == result.trajectories["num_left_out_checkpoints"].tolist()
    assert result.summary["num_left_out_checkpoints"] == int(cut.sum())
    for row in result.trajectories[cut].itertuples():
        assert result.checkpoints[result.checkpoints["problem_id"] == row.problem_id]["checkpoint"].max() < 6


def test_think_blocks_are_scored_both_ways() -> None:
    """A prompt that opens a thinking block which never closes: strict has no answer, lenient reads it."""
    model, tokenizer = tiny_model()
    tokenizer.chat_template = "{{ messages[0]['content'] }}{% if add_generation_prompt %}<think>\n{% endif %}"
    strict = small(PROBLEMS[:4], model=(model, tokenizer))
    assert strict.summary["config"]["apply_chat_template"] is True
    assert strict.summary["null_rate"] == strict.summary["null_rate_strict"] == 1.0
    assert strict.summary["null_rate_lenient"] < 1.0
    assert any("no rollout has an answer" in note for note in strict.summary["warnings"])
    assert (strict.checkpoints["entropy"] == 0).all()
    lenient = small(PROBLEMS[:4], model=(model, tokenizer), answer_reading="lenient")
    assert lenient.rollouts["answer"].tolist() == strict.rollouts["answer_lenient"].tolist()
    shuffled = small(PROBLEMS[:4], model=(model, tokenizer), shuffle_prefix=True)
    assert shuffled.summary["null_rate_strict"] == 1.0
    assert shuffled.summary["null_rate_lenient"] < 1.0


def test_problems_of_several_formats_in_one_dataset() -> None:
    mixed = [
        Problem("n", "1 + 1", "2"),
        Problem("c", "Which?", "B", choices=("one", "two"), answer_format="choice"),
        Problem("b", "x", "3", answer_format="boxed"),
    ]
    result = small(mixed)
    assert result.trajectories["gold"].tolist() == ["2", "B", "3"]


# --- what it keeps ---------------------------------------------------------------------------------------------


def test_nothing_is_left_behind_without_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = small(PROBLEMS[:2])
    assert len(list(tmp_path.iterdir())) == 1, "a temporary database, as long as the result lives"
    assert len(result.rollouts) > 0
    del result
    assert list(tmp_path.iterdir()) == []


def test_an_output_holds_everything_and_loads_again(tmp_path: Path, result: SIAResult) -> None:
    kept = small(output=tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    tables = {f"{name}.parquet" for name in ("problems", "trajectories", "checkpoints", "curves", "rollouts")}
    assert {"run.sqlite", "summary.json", *tables} <= names
    assert "report.html" not in names
    same_draws(kept, result)
    again = load(tmp_path / "run")
    same_draws(kept, again)
    assert again.summary == kept.summary
    assert kept.tables
    for name, table in kept.tables.items():
        pd.testing.assert_frame_equal(again.tables[name], table, check_dtype=False)
    assert again.trajectories.columns.tolist() == kept.trajectories.columns.tolist()
    rollouts = pd.read_parquet(tmp_path / "run" / "rollouts.parquet")
    assert [list(ids) for ids in rollouts["token_ids"]] == [list(ids) for ids in kept.rollouts["token_ids"]]

    (tmp_path / "run" / "checkpoints.parquet").unlink()
    scored = load(tmp_path / "run")
    pd.testing.assert_frame_equal(scored.checkpoints, kept.checkpoints)
    assert scored.summary["row_steps"] == kept.summary["row_steps"], "costs are remembered by the summary"
    for name in ("run.sqlite", "run.sqlite-wal", "run.sqlite-shm"):
        (tmp_path / "run" / name).unlink(missing_ok=True)
    with pytest.raises(FastsiaError, match=r"checkpoints.parquet.* cannot be read"):
        load(tmp_path / "run")
    with pytest.raises(FastsiaError, match="does not exist"):
        load(tmp_path / "absent")
    with pytest.raises(FastsiaError, match=r"contains neither run.sqlite nor"):
        load(tmp_path)


def test_save_copies_a_run_that_was_not_kept(tmp_path: Path, result: SIAResult) -> None:
    again = load(result.save(tmp_path / "copy"))
    same_draws(result, again)
    with pytest.raises(FastsiaError, match="contains a run already"):
        small(PROBLEMS[:2]).save(tmp_path / "copy")


def test_the_same_command_resumes_and_does_only_what_is_missing(tmp_path: Path) -> None:
    first = Counting()
    evaluate(first, PROBLEMS, backend="hf", limit=3, output=tmp_path, **SMALL)
    assert [key[0] for key in first.asked] == [0, 1, 2]
    second = Counting()
    resumed = evaluate(second, PROBLEMS, backend="hf", limit=6, output=tmp_path, **SMALL)
    assert [key[0] for key in second.asked] == [3, 4, 5], "a larger limit extends the run"
    same_draws(resumed, small(PROBLEMS[:6], backend="hf"))
    assert resumed.summary["num_computed_problems"] == 6
    assert resumed.summary["counters"]["generated_tokens"] == resumed.summary["generated_tokens"]
    third = Counting()
    again = evaluate(third, PROBLEMS, backend="hf", limit=2, output=tmp_path, **SMALL)
    assert third.asked == []
    same_draws(again, resumed)
    assert again.summary["row_steps"] == resumed.summary["row_steps"]


class Recording(Callback):
    """Everything a run tells."""

    def __init__(self) -> None:
        self.run: dict[str, Any] = {}
        self.progress: list[Progress] = []
        self.problems: list[FinishedProblem] = []
        self.result: SIAResult | None = None

    def run_started(self, run: Mapping[str, Any], progress: Progress) -> None:
        self.run = dict(run)
        self.progress.append(progress)

    def problem_finished(self, problem: FinishedProblem, progress: Progress) -> None:
        self.problems.append(problem)
        self.progress.append(progress)

    def run_finished(self, result: SIAResult) -> None:
        self.result = result


def test_callbacks_are_told_of_everything() -> None:
    first, second = Recording(), Recording()
    result = small(callbacks=[first, second])
    assert first.run["config"]["num_rollouts"] == result.summary["config"]["num_rollouts"]
    assert (first.run["task"], first.run["backend"]) == (result.summary["task"], "native")
    assert [progress.done for progress in first.progress] == list(range(len(PROBLEMS) + 1))
    assert {problem.problem.id for problem in first.problems} == {problem.id for problem in PROBLEMS}
    stored = result.trajectories.set_index("problem_id")["answer"]
    for problem in first.problems:
        assert problem.trajectories[0].answer == stored[problem.problem.id]
    assert first.result is second.result is result
    assert first.progress[-1].generated_tokens == result.summary["generated_tokens"]


def test_an_interrupted_run_keeps_what_is_done(tmp_path: Path) -> None:
    """Ctrl-C in the middle: the finished problems stay, load reads them, and the next run ends like a whole one."""

    class Interrupting(Callback):
        def problem_finished(self, problem: FinishedProblem, progress: Progress) -> None:
            if progress.done == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small(output=tmp_path, callbacks=[Interrupting()], max_concurrent_trajectories=2)
    kept = load(tmp_path).summary["num_problems"]
    assert 4 <= kept <= len(PROBLEMS), "those told of, and what was done by then"
    seen = Recording()
    whole = small(output=tmp_path, callbacks=[seen], max_concurrent_trajectories=2)
    first = seen.progress[0]
    assert (first.done, first.resumed, first.total) == (kept, kept, len(PROBLEMS))
    assert seen.progress[-1].done == len(PROBLEMS)
    same_draws(whole, small(max_concurrent_trajectories=2))


def test_a_failure_to_store_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is another thread that stores; its error is the run's, and what was stored before is kept."""
    add, calls = StoreWriter.add, []

    def failing(writer: StoreWriter, finished: FinishedProblem) -> None:
        calls.append(threading.current_thread())
        if len(calls) == 3:
            raise FastsiaError("the disk is full")
        add(writer, finished)

    monkeypatch.setattr(StoreWriter, "add", failing)
    with pytest.raises(FastsiaError, match="the disk is full"):
        small(output=tmp_path, max_concurrent_trajectories=2)
    assert threading.main_thread() not in calls
    assert not any(thread.is_alive() for thread in calls)
    assert 2 <= load(tmp_path).summary["num_problems"] < len(PROBLEMS)


def test_an_engine_stays_usable_after_an_interruption() -> None:
    engine = fastsia.Engine(*shared_model())

    class Interrupting(Callback):
        def problem_finished(self, problem: FinishedProblem, progress: Progress) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small(model=engine, callbacks=[Interrupting()])
    before = replace(engine.counters)
    result = small(PROBLEMS[:2], model=engine)
    spent = engine.counters.generated_tokens - before.generated_tokens
    assert result.summary["counters"]["generated_tokens"] == spent, "only this run's share of a living engine's counts"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "config.seed was 0, is now 1"),
        ({"temperature": 0.5}, "config.temperature was 0.7, is now 0.5"),
        ({"num_rollouts": 5}, "config.num_rollouts was 4, is now 5"),
        ({"stride": 7}, "config.stride was 6, is now 7"),
        ({"num_fewshot": 1}, "config.num_fewshot was 0, is now 1"),
        ({"backend": "hf"}, 'backend was "native", is now "hf"'),
        ({"model": tiny_model(seed=5)}, r"model.fingerprint was"),
        ({"dataset": [Problem("p0", "Another question?", "1")]}, "question of problem 1 was"),
    ],
)
def test_a_folder_of_another_run_is_refused(
    tmp_path_factory: pytest.TempPathFactory, change: dict[str, Any], named: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "refusals"
    if not folder.exists():
        small(PROBLEMS[:2], output=folder)
    change = dict(change)
    with pytest.raises(FastsiaError, match=named):
        small(change.pop("dataset", PROBLEMS[:2]), output=folder, **change)


def test_what_does_not_change_the_draws_may_change(tmp_path: Path) -> None:
    small(PROBLEMS[:2], output=tmp_path)
    small(PROBLEMS[:3], output=tmp_path, max_num_seqs=3, max_concurrent_trajectories=1)


# --- what it says ----------------------------------------------------------------------------------------------


def test_temperature_zero_warns(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="fastsia"):
        result = small(PROBLEMS[:2], temperature=0.0)
    assert "temperature is 0" in caplog.text
    assert any("temperature is 0" in note for note in result.summary["warnings"])
    assert (result.checkpoints["entropy"] == 0).all()


def test_failed_draws_are_counted_and_left_out() -> None:
    model, tokenizer = tiny_model()
    token = tokenizer.convert_tokens_to_ids("8")
    with broken_after(model, token):
        result = small(model=(model, tokenizer), backend="hf", temperature=1.0)
    failed = result.trajectories["finish_reason"] == "error"
    assert failed.any()
    assert not failed.all()
    assert result.summary["num_failed_trajectories"] == int(failed.sum())
    assert any(re.match(r"\d+ trajector(y|ies) failed", note) for note in result.summary["warnings"])
    errors = result.rollouts["finish_reason"] == "error"
    assert result.summary["num_failed_rollouts"] == int(errors.sum()) > 0
    assert result.checkpoints["num_rollouts"].sum() == (~errors).sum()
    assert set(result.checkpoints["problem_id"]).isdisjoint(result.trajectories["problem_id"][failed])


def test_a_run_in_which_everything_fails_says_why() -> None:
    model, tokenizer = tiny_model()
    model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(FastsiaError, match="every trajectory failed; the first: logits were NaN"):
        small(PROBLEMS[:2], model=(model, tokenizer), backend="hf")


def test_a_prompt_over_the_context_is_refused_before_anything_runs(tmp_path: Path) -> None:
    long = Problem("long", "word " * 80, "1")
    with pytest.raises(FastsiaError, match=r"problem 'long': its prompt of \d+ tokens and max_tokens=18 .* is 512"):
        small([*PROBLEMS[:2], long], output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    cut = small([*PROBLEMS[:2], long], truncate_prompt=True)
    assert cut.summary["num_cut_prompts"] == 1
    assert len(cut.trajectories["prompt_token_ids"][2]) == 512 - 36
    assert small(PROBLEMS[:1], max_tokens=300, rollout_budget="total").summary["num_problems"] == 1


@pytest.mark.parametrize(
    ("words", "settings", "advice"),
    [
        (76, {}, "lower max_tokens, or set truncate_prompt"),
        (2, {"max_tokens": 300}, "lower max_tokens"),
        (2, {"max_tokens": 300, "truncate_prompt": True}, "lower max_tokens"),
        (200, {}, "set truncate_prompt"),
        (200, {"max_tokens": 300}, "lower max_tokens and set truncate_prompt"),
        (200, {"max_tokens": 300, "truncate_prompt": True}, "lower max_tokens"),
    ],
)
def test_only_what_can_help_is_advised(words: int, settings: dict[str, Any], advice: str) -> None:
    """A cut makes no room where what may be drawn fills the context alone; fewer drawn tokens shorten no prompt."""
    with pytest.raises(FastsiaError, match=rf"context is 512; {advice}\.$"):
        small([Problem("long", "word " * words, "1")], **settings)


def test_shorter_rollouts_are_advised_where_they_fit_after_a_long_given_trajectory() -> None:
    """The given trajectory takes its positions whatever max_tokens is."""
    problem = Problem("p", "word " * 9, "1")
    prompt = len(small([problem]).trajectories["prompt_token_ids"][0])
    given = [{"problem_id": "p", "token_ids": [5] * (505 - prompt)}]
    with pytest.raises(FastsiaError, match=r"context is 512; lower max_tokens, or set truncate_prompt\.$"):
        small([problem], trajectories=given, max_tokens=30)
    small([problem], trajectories=given, max_tokens=7)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_rollout": 3}, r"evaluate has no setting 'num_rollout'; did you mean num_rollouts\?"),
        ({"config": {"sed": 3}}, r"SIAConfig has no field 'sed'; did you mean seed\?"),
        ({"config": 3}, "config must be a SIAConfig or a mapping, got int"),
        ({"stride": 0}, "stride must be an integer >= 1, got 0"),
        ({"num_rollouts": 0}, "num_rollouts must be an integer >= 1"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\]"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\]"),
        ({"temperature": float("nan")}, "temperature must be a finite number"),
        ({"temperature": -1.0}, "temperature must be a finite number"),
        ({"limit": 0}, "limit must be"),
        ({"limit": -3}, "limit must be"),
        ({"dataset": []}, "no problems"),
        ({"dataset": "gsm8l"}, "did you mean gsm8k"),
        ({"dataset": ["x"]}, "must be a Problem"),
        ({"backend": "vlm"}, "backend must be one of"),
        ({"model": "demo:none"}, "is not a demo model"),
        ({"model": 3}, "model must be a name"),
        ({"model": (shared_model()[0], None)}, "needs the model's tokenizer"),
        ({"apply_chat_template": True}, "has no chat template"),
        ({"num_fewshot": 10_000}, "num_fewshot|exemplars"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], sentence: str) -> None:
    change = dict(change)
    with pytest.raises(FastsiaError, match=sentence) as error:
        small(change.pop("dataset", PROBLEMS[:2]), **change)
    assert "\n" not in str(error.value)


def test_a_config_object_and_overrides_go_together() -> None:
    config = SIAConfig(**SMALL)
    result = evaluate(shared_model(), PROBLEMS[:2], config=config, seed=3)
    assert result.summary["config"]["seed"] == 3
    assert result.summary["config"]["num_rollouts"] == 4


# --- scoring again ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_table_of_rollouts_scores_like_its_run(tmp_path: Path, result: SIAResult, suffix: str) -> None:
    """A null answer must survive every file format: an empty CSV field is not an answer."""
    columns = ["problem_id", "trajectory", "checkpoint", "rollout", "answer", "gold", "finish_reason", "num_tokens"]
    table = result.rollouts[columns].merge(result.trajectories[["problem_id", "trajectory", "correct"]])
    path = tmp_path / f"rollouts{suffix}"
    if suffix == ".parquet":
        table.to_parquet(path)
    elif suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_json(path, orient="records", lines=True)
    config = SIAConfig(**SMALL)
    again = analyze(path, config=config)
    assert again.summary["null_rate"] == pytest.approx(result.summary["null_rate"])
    assert again.summary["accuracy"] == result.summary["accuracy"]
    np.testing.assert_allclose(again.checkpoints["entropy"], result.checkpoints["entropy"], atol=1e-12)
    np.testing.assert_allclose(again.checkpoints["gold_surprisal"], result.checkpoints["gold_surprisal"], atol=1e-12)
    assert again.summary["ci"]["accuracy"] == result.summary["ci"]["accuracy"]
    saved = load(again.save(tmp_path / "saved"))
    np.testing.assert_allclose(saved.checkpoints["entropy"], again.checkpoints["entropy"])
    assert len(saved.rollouts) == len(table)


def test_tables_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(FastsiaError, match="is not a file"):
        analyze(tmp_path / "absent.csv")
    (tmp_path / "t.xlsx").write_text("")
    with pytest.raises(FastsiaError, match=r"must be .parquet, .csv or .jsonl"):
        analyze(tmp_path / "t.xlsx")
    (tmp_path / "t.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(FastsiaError, match="row 2: not valid JSON"):
        analyze(tmp_path / "t.jsonl")
    (tmp_path / "t.parquet").write_text("nonsense")
    with pytest.raises(FastsiaError, match="cannot be read"):
        analyze(tmp_path / "t.parquet")
    with pytest.raises(FastsiaError, match="lacks column"):
        analyze(pd.DataFrame({"answer": ["1"]}))
    with pytest.raises(FastsiaError, match="rollouts must be a DataFrame or the path of a table, got list"):
        analyze([{"answer": "1"}])  # type: ignore[arg-type]


@pytest.mark.usefixtures("one_figure")
def test_the_report_is_drawn_from_what_is_stored(tmp_path: Path, result: SIAResult) -> None:
    page = result.report(tmp_path / "r")
    assert page == tmp_path / "r" / "report.html"
    assert page.stat().st_size > 10_000
    assert list((tmp_path / "r" / "figures").iterdir())
    assert result.report(tmp_path / "not" / "there" / "only.html").is_file()
    assert not (tmp_path / "not" / "there" / "figures").exists()


def test_saved_tables_are_exactly_the_results_tables(tmp_path: Path) -> None:
    """A table of an earlier save must not be read back as one of this result."""
    result = small(PROBLEMS[:2], output=tmp_path)
    # No failure_detection: both trajectories have one outcome.
    kept = {"sensitivity", "coarse_ablation", "token_level", "early_stop", "explored"}
    kept |= {"calibration", "calibration_bins", "steps"}
    assert {path.stem for path in (tmp_path / "tables").iterdir()} == kept | {"estimates"}
    numbers = {name: [1.5, None] for name in ("original", "shuffled", "difference")}
    result.tables["shuffled_prefix"] = pd.DataFrame({"quantity": ["a", None], **numbers})
    result.save(tmp_path)
    again = load(tmp_path)
    assert set(again.tables) == kept | {"shuffled_prefix"}
    assert again.tables["shuffled_prefix"]["quantity"].tolist() == ["a", None]
    del again.tables["shuffled_prefix"]
    again.save(tmp_path)
    assert set(load(tmp_path).tables) == kept


# --- the front door --------------------------------------------------------------------------------------------


def test_importing_the_package_is_quick_and_complete() -> None:
    """`import fastsia` must not import torch; every public name must resolve, `evaluate` to the function."""
    import subprocess
    import sys

    code = (
        "import sys, fastsia; heavy = {'torch', 'pandas', 'transformers', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy; import fastsia.evaluation; assert callable(fastsia.evaluate); "
        "assert all(getattr(fastsia, name) is not None for name in fastsia.__all__); print(fastsia.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == fastsia.__version__
    assert set(fastsia.__all__) <= set(dir(fastsia))
    with pytest.raises(AttributeError, match="no attribute 'evaluat'"):
        _ = fastsia.evaluat


def test_a_folder_without_a_name_is_refused() -> None:
    with pytest.raises(FastsiaError, match="output must be a folder's name"):
        small(output="")


def test_an_interrupted_end_does_not_leave_the_recorder_waiting() -> None:
    """A second Ctrl-C while the queue is full: what is under way is ended, what waits is not begun."""
    recorded: list[int] = []

    def record(position: int) -> None:
        time.sleep(0.3)
        recorded.append(position)

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    recorder = _Recorder(lambda _: None)
    recorder.__enter__()
    try:
        for position in range(6):
            recorder.add(partial(record, position))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            recorder.__exit__(None, None, None)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    recorder._thread.join(timeout=10)
    assert not recorder._thread.is_alive()
    assert 0 < len(recorded) < 6


def test_a_problem_that_comes_as_the_wait_ends_is_recorded() -> None:
    """The end is looked at before the wait, so that nothing comes between the two."""

    class Late(Queue):  # type: ignore[type-arg]
        is_late = True

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            if self.is_late:
                self.is_late = False
                self.put(lambda: recorded.append(0))
                recorder._is_over = True
                raise Empty
            return super().get(block, 0.05)

    recorded: list[int] = []
    recorder = _Recorder(lambda _: None)
    recorder._waiting = Late()
    recorder._run()
    assert recorded == [0]


# --- given trajectories and checkpoints ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def again(result: SIAResult) -> SIAResult:
    """The trajectories of `result`, given."""
    given = result.trajectories[["problem_id", "text", "token_ids"]]
    return small(trajectories=given.assign(text=None))


def test_given_trajectories_are_scored_as_drawn_ones_are(result: SIAResult, again: SIAResult) -> None:
    """The same prefixes, so the same rollouts; and the model's own probabilities of the given tokens."""
    assert (again.trajectories["finish_reason"] == "given").all()
    for name in ("problem_id", "checkpoint", "rollout", "answer", "num_tokens", "matched_tokens"):
        assert again.rollouts[name].tolist() == result.rollouts[name].tolist()
    for name in ("logprobs", "token_entropies"):
        drawn, given = (np.concatenate(run.trajectories[name].tolist()) for run in (result, again))
        np.testing.assert_allclose(given, drawn, atol=1e-5)
    np.testing.assert_allclose(
        again.checkpoints["entropy_decomposed"], result.checkpoints["entropy_decomposed"], atol=1e-4
    )
    assert again.summary["off_policy"]
    assert not result.summary["off_policy"]
    assert again.summary["rho"].get("baseline") is None


def test_the_naive_backend_scores_given_trajectories_alike(again: SIAResult) -> None:
    given = again.trajectories[["problem_id", "token_ids"]].head(2)
    naive = small(trajectories=given, backend="hf", num_rollouts=1, checkpoints="stride:18", stride=None)
    for name in ("logprobs", "token_entropies"):
        np.testing.assert_allclose(
            np.concatenate(naive.trajectories[name].tolist()),
            np.concatenate(again.trajectories[name].tolist()[:2]),
            atol=1e-4,
        )


def test_problems_may_have_unequal_numbers_of_given_trajectories(tmp_path: Path) -> None:
    rows = [
        {"problem_id": "p3", "text": "1 2 3\n"},
        {"problem_id": "p1", "text": "7#"},
        {"problem_id": "p3", "text": "4"},
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"checkpoints": "line", "stride": None, "num_rollouts": 2, "output": tmp_path / "run"}
    found = small(trajectories=tmp_path / "mine.jsonl", **options)
    frame = found.trajectories
    keys = list(zip(frame["problem_id"], frame["trajectory"], frame["text"], strict=True))
    assert keys == [("p1", 0, "7#"), ("p3", 0, "1 2 3\n"), ("p3", 1, "4")]
    assert found.summary["config"]["trajectories"].startswith("mine.jsonl sha256:")
    resumed = small(trajectories=tmp_path / "mine.jsonl", **options)
    assert resumed.summary["num_computed_problems"] == 2
    assert load(tmp_path / "run").summary["off_policy"]
    (tmp_path / "mine.jsonl").write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(FastsiaError, match=r"config\.trajectories was \"mine\.jsonl sha256:"):
        small(trajectories=tmp_path / "mine.jsonl", **options)


def middle(text: str, offsets: list[int]) -> list[int]:
    return [len(offsets) // 2]


def test_a_function_places_checkpoints() -> None:
    found = small(PROBLEMS[:2], checkpoints=middle, stride=None, num_rollouts=1)
    lengths = found.trajectories["num_tokens"].tolist()
    wanted = [sorted({0, (length + 1) // 2, length}) for length in lengths]
    assert found.checkpoints.groupby("problem_id")["checkpoint"].apply(list).tolist() == wanted
    assert found.summary["config"]["checkpoints"].startswith("tests.test_evaluate.middle sha256:")


def test_checkpoints_before_the_answer_of_a_solution() -> None:
    problems = [Problem("a", "What is it?", "12", solution="5+7.\n\nIt is 12.")]
    found = small(problems, trajectories="gold", checkpoints="step", stride=None, num_rollouts=1)
    text = found.trajectories["text"].iloc[0]
    assert text == " 5+7.\n\nIt is 12.\n#### 12"
    assert found.trajectories["correct"].all()
    assert found.checkpoints["checkpoint"].tolist() == [0, text.index("It"), text.index("####")]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"checkpoints": "line"}, "stride=6 and checkpoints='line' exclude each other."),
        ({"checkpoints": middle}, "stride=6 and checkpoints exclude each other."),
        ({"trajectories": [{"id": "p1", "text": "1"}], "num_trajectories": 2}, "num_trajectories=2 does not apply"),
        ({"trajectories": [{"id": "p1", "token_ids": [999]}]}, "trajectories, row 1: token id 999 is outside"),
        ({"trajectories": [{"id": "p1", "text": "1" * 600}]}, "the given trajectory of 600 and rollouts"),
        ({"max_checkpoints": 1}, "max_checkpoints must be an integer >= 2, got 1."),
    ],
)
def test_wrong_things_given(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FastsiaError) as error:
        small(**changes)
    assert sentence in str(error.value)


def test_given_checkpoints_must_lie_inside_of_the_trajectory(result: SIAResult, tmp_path: Path) -> None:
    longest = result.trajectories.sort_values("num_tokens").iloc[-1]
    problems = [problem for problem in PROBLEMS if problem.id == longest["problem_id"]]
    end, path = int(longest["num_tokens"]), tmp_path / "cuts.jsonl"
    options: dict[str, Any] = {"checkpoints": path, "stride": None, "num_rollouts": 1}

    def cut(*positions: int) -> SIAResult:
        path.write_text(json.dumps({"id": problems[0].id, "checkpoints": positions}))
        return small(problems, **options)

    assert cut(1, 3).checkpoints["checkpoint"].tolist() == [0, 1, 3, end]
    with pytest.raises(FastsiaError, match=r"cuts\.jsonl, row 1: position 19 is beyond max_tokens=18\.$"):
        cut(19)
    options["trajectories"] = [{"id": problems[0].id, "text": "12"}]
    with pytest.raises(FastsiaError, match=r"row 1: position 19 is beyond the trajectory's 2 tokens\.$"):
        cut(19)


def test_a_demo_model_on_other_questions_is_said_to_know_only_its_own_task() -> None:
    """A stranger's first own questions came out 0 % right without a word."""
    found = evaluate("demo:sft", PROBLEMS[:1], num_rollouts=1, stride=64, max_tokens=8, num_bootstrap=2, num_splits=1)
    assert any("was trained on the demo task only" in warning for warning in found.summary["warnings"])
