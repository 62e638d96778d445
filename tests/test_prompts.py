"""Settings that change a run's prompts and the reading of its texts: dates, variables, stop texts, think marks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastsia import FastsiaError, Problem, SIAConfig, SIAResult, evaluate, load
from fastsia.answers.extraction import extract_answers
from fastsia.answers.think import KNOWN_TAGS
from fastsia.backends.hf_generate import HFGenerateBackend
from fastsia.backends.native import NativeBackend
from fastsia.comparison import compare
from fastsia.engine.engine import Engine
from fastsia.engine.sequence import Request, Rollouts, Trajectory
from fastsia.evaluation import make_requests
from fastsia.results import stored_config
from fastsia.results.reader import Store
from fastsia.results.schema import DATABASE
from fastsia.tasks import load_task, template
from tests.stores import rewritten
from tests.tasks.test_template import GRANITE, LLAMA_3_1, LLAMA_3_2
from tests.tiny import PROBLEMS, shared_model, tiny_model

SMALL: dict[str, Any] = {"num_rollouts": 3, "stride": 6, "max_tokens": 12, "num_bootstrap": 20, "num_splits": 2}
CHAT = (
    "{% for m in messages %}{{ m.content }}{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)
DROPS_SYSTEM = "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}"


def run(source: str | None, count: int = 2, special: tuple[str, ...] = (), **settings: Any) -> SIAResult:
    model, tokenizer = tiny_model(special=special) if special else shared_model()
    tokenizer.chat_template = source
    try:
        return evaluate((model, tokenizer), PROBLEMS[:count], **SMALL | settings)
    finally:
        tokenizer.chat_template = None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the date."""
    return lambda day: monkeypatch.setattr(template, "today", lambda: day)


def prompts(result: SIAResult) -> list[str]:
    return [shared_model()[1].decode(ids) for ids in result.trajectories["prompt_token_ids"]]


def num_drawn(folder: Path, count: int, source: str | None, **settings: Any) -> int:
    """Number of problems that the same run draws again."""
    before = load(folder).summary["num_computed_problems"]
    return int(run(source, count, output=folder, **settings).summary["num_computed_problems"] - before)


def same_draws(one: SIAResult, other: SIAResult) -> None:
    for table in ("trajectories", "rollouts"):
        ids = [[row.tolist() for row in getattr(result, table)["token_ids"]] for result in (one, other)]
        assert ids[0] == ids[1]
    assert prompts(one) == prompts(other)


# --- dates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "written"), [(LLAMA_3_2, "26 Nov 2026"), (GRANITE, "November 26, 2026")])
def test_a_run_keeps_the_date_of_its_prompts(source: str, written: str, clock: Any, tmp_path: Path) -> None:
    """Without a stored date, a run resumed on another day was refused, and a run across midnight had two prompts."""
    clock("2026-11-26")
    whole = run(source, 2)
    run(source, 1, output=tmp_path)
    clock("2026-11-27")
    resumed = run(source, 2, output=tmp_path)
    same_draws(resumed, whole)
    assert all(written in prompt for prompt in prompts(resumed))
    assert resumed.summary["config"]["template_date"] == "2026-11-26"
    assert load(tmp_path).summary["config"]["template_date"] == "2026-11-26"
    assert num_drawn(tmp_path, 2, source, template_date="2026-11-26") == 0


def test_another_date_is_refused_and_compared(clock: Any, tmp_path: Path) -> None:
    clock("2026-11-26")
    run(GRANITE, 2, output=tmp_path / "one")
    with pytest.raises(FastsiaError, match=r'config\.template_date was "2026-11-26", is now "2026-11-27"'):
        run(GRANITE, 2, output=tmp_path / "one", template_date="2026-11-27")
    run(GRANITE, 2, output=tmp_path / "two", template_date="2026-11-27")
    (note,) = compare([tmp_path / "one", tmp_path / "two"]).notes
    assert "template_date (2026-11-26, 2026-11-27)" in note


@pytest.mark.parametrize("source", [None, CHAT, LLAMA_3_1])
def test_where_no_date_is_asked_for_there_is_none(source: str | None, clock: Any, tmp_path: Path) -> None:
    clock("2026-11-26")
    result = run(source, 1, output=tmp_path)
    assert result.summary["config"]["template_date"] is None
    clock("2026-11-27")
    assert num_drawn(tmp_path, 1, source) == 0


def test_a_constant_date_changes_when_it_is_given(tmp_path: Path) -> None:
    assert "26 Jul 2024" in prompts(run(LLAMA_3_1, 1))[0]
    assert "06 May 2026" in prompts(run(LLAMA_3_1, 1, template_date="2026-05-06", output=tmp_path))[0]
    assert num_drawn(tmp_path, 1, LLAMA_3_1) == 0


def test_a_run_of_an_earlier_version_is_gone_on_with(clock: Any, tmp_path: Path) -> None:
    """An old run stored none of these settings, so its date is unknown: prompts are compared and differences named."""
    clock("2026-11-26")
    run(GRANITE, 1, output=tmp_path)
    with rewritten(tmp_path / DATABASE) as database:
        (text,) = database.execute("SELECT value FROM meta WHERE key = 'identity'").fetchone()
        identity = json.loads(text)
        added = ("template_date", "enable_thinking", "chat_template_args", "system_instruction", "think_tags")
        for name in added:
            del identity["config"][name]
        database.execute("UPDATE meta SET value = ? WHERE key = 'identity'", (json.dumps(identity),))
        database.execute("DELETE FROM meta WHERE key = 'checksum'")  # the first databases had no checksum
    assert stored_config(Store(tmp_path / DATABASE)).template_date is None
    assert load(tmp_path).summary["num_problems"] == 1
    assert run(GRANITE, 2, output=tmp_path).summary["num_problems"] == 2
    clock("2026-11-27")
    with pytest.raises(FastsiaError, match=r"another prompt .*: it was '.*26, 2026.*', is now '.*27, 2026.*'; use"):
        run(GRANITE, 2, output=tmp_path)
    assert num_drawn(tmp_path, 2, GRANITE, template_date="2026-11-26") == 0
    with pytest.raises(FastsiaError, match=r"config\.enable_thinking was null, is now true"):
        run(GRANITE, 2, output=tmp_path, template_date="2026-11-26", enable_thinking=True)


# --- variables and system turns --------------------------------------------------------------------------------


def test_variables_reach_the_template() -> None:
    assert prompts(run(CHAT, 1, enable_thinking=False))[0].endswith("<think>\n\n</think>")
    assert prompts(run(CHAT, 1, chat_template_args={"enable_thinking": False}))[0].endswith("</think>")
    assert "</think>" not in prompts(run(CHAT, 1, enable_thinking=True))[0]


def test_a_setting_that_the_template_does_not_read_is_said(caplog: pytest.LogCaptureFixture) -> None:
    unread = run(
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        1,
        enable_thinking=True,
        chat_template_args={"effort": "low"},
        template_date="2026-11-26",
    )
    same_draws(unread, run("{% for m in messages %}{{ m.content }}{% endfor %}", 1))
    for name in ("enable_thinking", "effort", "template_date"):
        sentence = f"the chat template does not use {name}: the prompts are the same without it."
        assert sentence in unread.summary["warnings"]
        assert sentence in caplog.messages
    assert run(CHAT, 1, enable_thinking=True).summary["warnings"] == run(CHAT, 1).summary["warnings"]


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"enable_thinking": False}, "enable_thinking"),
        ({"chat_template_args": {"effort": "low"}}, "effort"),
        ({"template_date": "2026-11-26"}, "template_date"),
    ],
)
@pytest.mark.parametrize("source", [None, CHAT])
def test_plain_text_has_no_template_to_tell(setting: dict[str, Any], name: str, source: str | None) -> None:
    with pytest.raises(FastsiaError, match=f"{name} is for a chat template, but the prompts are plain text"):
        run(source, 1, apply_chat_template=False, **setting)


def test_a_system_instruction_stands_first() -> None:
    assert prompts(run(CHAT, 1, system_instruction="Be brief."))[0].startswith("Be brief.What is 0 modulo 10?")
    assert prompts(run(None, 1, system_instruction="Be brief."))[0].startswith("Be brief.\n\nReason step by step")
    with pytest.raises(FastsiaError, match=r"no system turn \(System role not supported\)"):
        run(NO_SYSTEM, 1, system_instruction="Be brief.")
    with pytest.raises(FastsiaError, match=r"no system turn \(System role not supported\)"):
        run(NO_SYSTEM + "{{ strftime_now('%Y') }}", 1, system_instruction="Be brief.")
    with pytest.raises(FastsiaError, match="drops the system turn"):
        run(DROPS_SYSTEM, 1, system_instruction="Be brief.")
    with pytest.raises(FastsiaError, match="chat template failed: at all"):
        run("{{ raise_exception('at all') }}", 1, system_instruction="Be brief.")


def test_all_of_it_is_part_of_a_runs_identity(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "enable_thinking": False,
        "chat_template_args": {"effort": "low", "tools_in_user_message": False},
        "system_instruction": "Be brief.",
        "think_tags": ("<mull>", "</mull>"),
    }
    run(CHAT, 1, output=tmp_path / "one", **settings)
    assert num_drawn(tmp_path / "one", 1, CHAT, **settings) == 0
    config = stored_config(Store(tmp_path / "one" / DATABASE))
    assert config == SIAConfig(**SMALL | settings, apply_chat_template=True)
    changed = {"enable_thinking": True, "chat_template_args": None, "system_instruction": None, "think_tags": None}
    for name, value in changed.items():
        with pytest.raises(FastsiaError, match=rf"contains another run: config\.{name} was"):
            run(CHAT, 1, output=tmp_path / "one", **settings | {name: value})
    run(CHAT, 1, output=tmp_path / "two")
    (note,) = compare([tmp_path / "one", tmp_path / "two"]).notes
    for part in ("enable_thinking (False, None)", 'effort": "low"', "Be brief.", "think_tags (<mull>,</mull>, None)"):
        assert part in note


# --- stop texts --------------------------------------------------------------------------------------------------


class Saying(HFGenerateBackend):
    """A backend that draws the same text for every trajectory, and empty rollouts."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Trajectory]:
        assert self.tokenizer is not None
        ids = np.array(self.tokenizer.encode("I think of 3.\nQuestion: is it?\n#### 5"), dtype=np.int32)
        unknown, count = np.zeros(len(ids), dtype=np.float32), 3
        for request in requests:
            rollouts = Rollouts(
                np.full(count, len(ids), dtype=np.int32),
                np.arange(count, dtype=np.int32),
                np.zeros(count + 1, dtype=np.int64),
                np.zeros(0, dtype=np.int32),
                np.zeros(0, dtype=np.float32),
                np.zeros(count, dtype=np.int8),
            )
            prompt, checkpoints = np.array(request.prompt_ids, dtype=np.int32), np.array([len(ids)])
            yield Trajectory(request.key, prompt, ids, unknown, unknown, "eos", request.seed, checkpoints, rollouts)


@pytest.mark.parametrize(("source", "answer"), [(None, "3"), (CHAT, "5")])
def test_a_chat_model_may_repeat_the_question(source: str | None, answer: str) -> None:
    """The text is cut at the stop text, like that of a base model that continues with another question."""
    model, tokenizer = tiny_model()
    tokenizer.chat_template = source
    result = evaluate(Saying(model, tokenizer), PROBLEMS[:1], **SMALL)
    assert result.rollouts["answer"].tolist() == 3 * [answer]
    assert result.trajectories["answer"].tolist() == [answer]


# --- think marks -----------------------------------------------------------------------------------------------


THINKING: dict[str, Any] = {"max_tokens": 40, "temperature": 0.5, "top_p": 1.0}
"""Sampling settings with which the tiny model draws some marks."""


def texts_and_answers(result: SIAResult, special: tuple[str, ...]) -> list[tuple[str, str | None]]:
    """Texts of all rollouts, decoded with special tokens written out."""
    tokenizer = tiny_model(special=special)[1]
    trajectories = {row.problem_id: row.token_ids for row in result.trajectories.itertuples()}
    found = []
    for row in result.rollouts.itertuples():
        ids = np.concatenate([trajectories[row.problem_id][: row.checkpoint], row.token_ids]).tolist()
        ids = [i for i in ids if i != tokenizer.eos_token_id]
        found.append((tokenizer.decode(ids, skip_special_tokens=False), row.answer))
    return found


@pytest.mark.parametrize(
    ("marks", "tags"), [(("[THINK]", "[/THINK]"), None), (("<mull>", "</mull>"), ("<mull>", "</mull>"))]
)
def test_drafts_between_special_tokens_are_no_answers(
    marks: tuple[str, str], tags: tuple[str, str] | None, tmp_path: Path
) -> None:
    """Marks that are special tokens decoded to nothing, and the first number of the draft became the answer."""
    opens = "{% for m in messages %}{{ m.content }}{% endfor %}" + marks[0]
    result = run(opens, 12, marks, **THINKING, think_tags=tags, output=tmp_path)
    read = texts_and_answers(result, marks)
    closed = [answer for text, answer in read if marks[1] in text]
    still_open = [answer for text, answer in read if marks[1] not in text]
    assert sum(answer is not None for answer in closed) > 5
    assert still_open == [None] * len(still_open)
    assert len(still_open) > 5
    texts = [text for text, _ in read]
    mine = extract_answers(texts, think_tags=tags, starts_in_think=True, stop_texts=False)
    # A text cut by the token limit may be read more strictly.
    assert all(answer in (own, None) for (_, answer), own in zip(read, mine, strict=True))
    kept = Store(tmp_path / DATABASE).vocabulary()
    assert kept.decode(result.trajectories["token_ids"][0]) == result.trajectories["text"][0]


def test_a_vocabulary_that_was_stored_without_its_marks_is_said(tmp_path: Path) -> None:
    run(CHAT, 1, ("[THINK]", "<mull>"), output=tmp_path)
    with pytest.raises(FastsiaError, match=r"config\.think_tags was null"):
        run(CHAT, 1, ("[THINK]", "<mull>"), output=tmp_path, think_tags=("<mull>", "</mull>"))


@pytest.mark.parametrize(
    ("special", "source", "settings", "expects"),
    [
        ((), CHAT, {}, False),
        ((), None, {}, False),
        ((), None, {"system_instruction": "Think in <thought> marks."}, True),
        ((), CHAT, {"think_tags": ("<mull>", "</mull>")}, True),
        ((), CHAT, {"system_instruction": "[THINK] first [/THINK]"}, True),
        ((), CHAT + "Between <think> and </think>, please: ", {}, True),
        (("[THINK]", "[/THINK]"), CHAT, {}, True),
        (("[THINK]", "[/THINK]"), CHAT, {"enable_thinking": False}, False),
        (("[THINK]", "[/THINK]"), None, {}, True),
    ],
)
def test_nothing_stops_early_before_a_block_that_may_come(
    special: tuple[str, ...], source: str | None, settings: dict[str, Any], expects: bool
) -> None:
    """A draft that was stopped at its "####" cannot be read again, because the rest was not drawn."""
    model, tokenizer = tiny_model(special=special)
    tokenizer.chat_template = source
    engine = Engine(model, tokenizer)
    config = SIAConfig(**SMALL | settings)
    stops = [r.answer_stop for r in make_requests(NativeBackend(engine), load_task(PROBLEMS[:2]), config)[1]]
    for stop in stops:
        assert stop is not None
        assert stop.expects_think is expects
        assert stop.stop_texts is (source is None)
        known = [tuple(mark.encode() for mark in tags) for tags in KNOWN_TAGS]
        own = [tuple(mark.encode() for mark in settings["think_tags"])] if "think_tags" in settings else []
        assert [tags for tags in stop.think_tags if tags not in known] == own


def test_a_mark_in_the_question_is_no_reason_to_wait() -> None:
    model, tokenizer = shared_model()
    task = load_task([Problem("p", "What does <think> mean?", "4")])
    (request,) = make_requests(NativeBackend(Engine(model, tokenizer)), task, SIAConfig(**SMALL))[1]
    assert request.answer_stop is not None
    assert not request.answer_stop.expects_think


@pytest.mark.parametrize("special", [(), ("[THINK]", "[/THINK]")])
@pytest.mark.parametrize("source", [CHAT, CHAT + "[THINK]"])
def test_stopping_early_changes_no_answer(special: tuple[str, ...], source: str) -> None:
    one, other = (run(source, 6, special, **THINKING, stop_at_answer=stop) for stop in (True, False))
    for name in ("answer_strict", "answer_lenient"):
        assert one.rollouts[name].tolist() == other.rollouts[name].tolist()


def test_a_shuffled_prefix_thinks_where_its_trajectory_does() -> None:
    """Any marks count, also those of a second block after the first."""
    opening, closing = special = ("[THINK]", "[/THINK]")
    source = "{% for m in messages %}{{ m.content }}{% endfor %}[THINK]"
    result = run(source, 12, special, **THINKING, shuffle_prefix=True)
    tokenizer = tiny_model(special=special)[1]

    def written(ids: list[int]) -> str:
        kept = [i for i in ids if i != tokenizer.eos_token_id]
        return str(tokenizer.decode(kept, skip_special_tokens=False))

    def is_inside(prefix: str) -> bool:
        while closing in prefix:
            prefix = prefix.split(closing, 1)[1].lstrip(" \t\n\r\f\v")
            if not prefix.startswith(opening):
                return False
        return True

    found = {True: 0, False: 0}
    trajectories = {row.problem_id: row.token_ids.tolist() for row in result.trajectories.itertuples()}
    for row in result.rollouts[result.rollouts["finish_reason"] != "length"].itertuples():
        inside = is_inside(written(trajectories[row.problem_id][: row.checkpoint]))
        text = written(row.token_ids.tolist())
        assert [row.answer_strict] == extract_answers([text], starts_in_think=inside, stop_texts=False)
        found[inside] += 1
    assert min(found.values()) > 5
