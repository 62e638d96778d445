from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from fastsia import Engine, FastsiaError, SamplingParams, load_task
from fastsia.early_exit import EarlyExit, ExitRule, generate_with_early_exit
from fastsia.tasks import build_prompt

SAMPLING = SamplingParams(max_tokens=120)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.from_pretrained("demo:sft", dtype="float32")


@pytest.fixture(scope="module")
def prompts(engine: Engine) -> list[tuple[int, ...]]:
    task = load_task("demo")
    return [build_prompt(task, problem, engine.tokenizer).token_ids for problem in task.problems[:4]]


def no_answer(texts: Sequence[str], cut: Sequence[bool]) -> list[None]:
    return [None] * len(texts)


def lengths(found: Sequence[EarlyExit]) -> list[int]:
    return [len(one.token_ids) for one in found]


def test_it_stops_where_rollouts_agree(engine: Engine, prompts: list[tuple[int, ...]]) -> None:
    rule = ExitRule(0.0, num_rollouts=4, stride=16)
    found = generate_with_early_exit(engine, prompts, rule, SAMPLING)
    whole = generate_with_early_exit(engine, prompts, rule, SAMPLING, read=no_answer)
    assert any(one.exited for one in found)
    for early, full in zip(found, whole, strict=True):
        assert early.token_ids == full.token_ids[: len(early.token_ids)]
        assert not full.exited
        checks = list(early.entropy)
        assert checks == list(range(16, len(early.token_ids) + early.exited, 16))
        if early.exited:
            assert checks[-1] == len(early.token_ids)
            assert early.entropy[checks[-1]] == 0
            assert early.answer is not None
        assert all(h > 0 for h in list(early.entropy.values())[: -1 if early.exited else None])


def test_a_text_does_not_depend_on_the_rollouts_that_decide(engine: Engine, prompts: list[tuple[int, ...]]) -> None:
    few, many = (
        generate_with_early_exit(engine, prompts[:2], ExitRule(0.0, number), SAMPLING, read=no_answer)
        for number in (1, 3)
    )
    assert [one.token_ids for one in few] == [one.token_ids for one in many]
    assert sum(one.rollout_tokens for one in few) < sum(one.rollout_tokens for one in many)
    other = generate_with_early_exit(engine, prompts[:2], ExitRule(0.0, 1), SAMPLING, read=no_answer, seed=1)
    assert [one.token_ids for one in few] != [one.token_ids for one in other]


def test_a_probe_makes_rollouts_short(engine: Engine, prompts: list[tuple[int, ...]]) -> None:
    heard: list[str] = []

    def read(texts: Sequence[str], cut: Sequence[bool]) -> list[str | None]:
        heard.extend(texts)
        assert not any(cut)
        return [None if (last := re.search(r"#### *(\d+)", text)) is None else last[1] for text in texts]

    rule = ExitRule(0.7, num_rollouts=3, stride=16, probe="\n#### ", max_probe_tokens=6)
    found = generate_with_early_exit(engine, prompts, rule, SAMPLING, read=read)
    assert all(text.startswith("\n####") for text in heard[:3])
    for one in found:
        assert one.rollout_tokens <= 3 * 6 * len(one.entropy)


def test_the_token_limit_ends_a_text(engine: Engine, prompts: list[tuple[int, ...]]) -> None:
    found = generate_with_early_exit(engine, prompts, ExitRule(0.0, 2), SamplingParams(max_tokens=30), read=no_answer)
    assert lengths(found) == [30] * len(prompts)
    assert [list(one.entropy) for one in found] == [[20]] * len(prompts)
    assert generate_with_early_exit(engine, [], ExitRule(0.0)) == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"threshold": -0.1}, "threshold must be at least 0 nats, got -0.1"),
        ({"threshold": float("nan")}, "threshold must be at least 0"),
        ({"threshold": 0.1, "stride": 0}, "stride must be at least 1, got 0"),
        ({"threshold": 0.1, "num_rollouts": 0}, "num_rollouts must be at least 1"),
    ],
)
def test_a_wrong_rule_is_named(settings: dict[str, float], says: str) -> None:
    with pytest.raises(FastsiaError, match=says):
        ExitRule(**settings)  # type: ignore[arg-type]


def test_an_engine_without_a_tokenizer_is_refused(engine: Engine) -> None:
    with pytest.raises(FastsiaError, match="needs an engine with a tokenizer"):
        generate_with_early_exit(Engine(engine.model), [[1, 2]], ExitRule(0.0))
