"""Inspect itself, from its command line and in Python, on the demo model: `make test-inspect`."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("inspect_ai", reason="inspect-ai has an environment of its own: make test-inspect")

import anyio
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import ChatMessageUser, ContentImage, ContentText, GenerateConfig, Model, get_model
from inspect_ai.scorer import pattern
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import tool

from fastsia import FastsiaError, answer_entropy, extract_answers
from fastsia.integrations.inspect_provider import FastsiaAPI

from ..pages import programs
from ..programs import offline, run_shell
from .demo import WEIGHTS, problems, script

COUNT = 8
TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import pattern
from inspect_ai.solver import generate

@task
def demo():
    samples = {samples!r}
    return Task(MemoryDataset([Sample(**s) for s in samples]), solver=generate(), scorer=pattern(r"#### (-?[0-9.,]+)"))
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inspect writes its logs where it is run."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    samples = [{"input": p["question"], "target": p["gold"], "id": str(i)} for i, p in enumerate(problems(COUNT))]
    (tmp_path / "task.py").write_text(TASK.format(samples=samples), encoding="utf-8")
    return tmp_path


def inspect(folder: Path, model: str, *more: str, returncode: int = 0) -> EvalLog | str:
    """The command line's log; what it wrote where it failed."""
    command = [script("inspect"), "eval", "task.py", "--model", model, "--log-dir", "logs", "--display", "plain", *more]
    done = subprocess.run(command, cwd=folder, env=offline(), capture_output=True, text=True)
    assert done.returncode == returncode, done.stdout + done.stderr
    if returncode:
        return done.stdout + done.stderr
    (path,) = (folder / "logs").iterdir()
    log = read_eval_log(str(path))
    path.unlink()
    return log


@cache
def model() -> Model:
    return get_model("fastsia/demo:sft", num_kv_blocks=1024)


def task(count: int = COUNT, **more: object) -> Task:
    samples = [Sample(input=p["question"], target=p["gold"], id=str(i)) for i, p in enumerate(problems(count))]
    return Task(MemoryDataset(samples), solver=generate(), scorer=pattern(r"#### (-?[0-9.,]+)"), **more)  # type: ignore[arg-type]


def completions(log: EvalLog) -> Iterator[list[str]]:
    assert log.samples is not None
    for sample in sorted(log.samples, key=lambda sample: (int(sample.id), sample.epoch)):
        yield [choice.message.text for choice in sample.output.choices]


def test_the_log_holds_choices_entropies_and_curves(folder: Path) -> None:
    more = ("--num-choices", "6", "--temperature", "0.8", "--max-tokens", "120", "--seed", "3")
    curves = ("-M", "num_rollouts=4", "-M", "stride=16", "-M", "rollout_max_tokens=120")
    log = inspect(folder, "fastsia/demo:sft", *more, *curves)
    assert isinstance(log, EvalLog)
    assert log.status == "success"
    assert log.samples is not None
    assert len(log.samples) == COUNT
    for sample in log.samples:
        output = sample.output
        texts = [choice.message.text for choice in output.choices]
        metadata = output.metadata
        assert metadata is not None
        assert len(texts) == 6
        assert metadata["answers"] == extract_answers(texts)
        assert metadata["entropy"] == pytest.approx(answer_entropy(metadata["answers"]))
        assert len(metadata["curves"]) == 6
        for curve in metadata["curves"]:
            assert curve["checkpoints"][:2] == [0, 16]
            assert len(curve["entropy"]) == len(curve["checkpoints"])
        assert {choice.stop_reason for choice in output.choices} <= {"stop", "max_tokens"}
        assert output.usage is not None
        assert output.usage.total_tokens == output.usage.input_tokens + output.usage.output_tokens > 6
    assert any(sample.output.metadata["entropy"] > 0 for sample in log.samples if sample.output.metadata)
    again = inspect(folder, "fastsia/demo:sft", *more, "--max-connections", "2")
    assert isinstance(again, EvalLog)
    assert list(completions(again)) == list(completions(log))


def test_greedy_generation_equals_hf(folder: Path) -> None:
    """Inspect's own provider, on the same weights."""
    more = ("--max-tokens", "120")
    ours = inspect(folder, "fastsia/demo:sft", *more, "--temperature", "0")
    theirs = inspect(folder, "hf/demo", *more, "-M", f"model_path={WEIGHTS}", "-M", "do_sample=false")
    assert isinstance(ours, EvalLog)
    assert isinstance(theirs, EvalLog)
    assert list(completions(ours)) == list(completions(theirs))
    assert ours.results is not None
    assert theirs.results is not None
    assert ours.results.scores[0].metrics["accuracy"].value == theirs.results.scores[0].metrics["accuracy"].value > 0.5


def test_epochs_ask_again_and_are_answered_by_other_draws() -> None:
    config = {"temperature": 1.0, "max_tokens": 120, "seed": 1, "display": "none"}
    (log,) = eval(task(4, epochs=3), model=get_model("fastsia/demo:sft", num_kv_blocks=1024, memoize=False), **config)  # type: ignore[arg-type]
    assert log.status == "success"
    drawn = [texts[0] for texts in completions(log)]
    assert len(drawn) == 12
    assert len(set(drawn)) > 4


def test_stop_texts_and_the_reasons_of_an_end() -> None:
    async def ask(**settings: object) -> tuple[str, str]:
        question = [ChatMessageUser(content=problems(1)[0]["question"])]
        output = await model().generate(question, config=GenerateConfig(temperature=0, **settings))  # type: ignore[arg-type]
        return output.completion, output.stop_reason

    whole, reason = anyio.run(lambda: ask(max_tokens=200))
    assert reason == "stop"
    assert "####" in whole
    assert anyio.run(lambda: ask(max_tokens=200, stop_seqs=["####"])) == (whole.partition("####")[0], "stop")
    cut, reason = anyio.run(lambda: ask(max_tokens=5))
    assert whole.startswith(cut)
    assert reason == "max_tokens"


def test_what_the_engine_does_not_have_is_refused() -> None:
    @tool
    def add():  # type: ignore[no-untyped-def]
        async def execute(x: int, y: int) -> int:
            """Add.

            Args:
                x: one.
                y: other.
            """
            return x + y

        return execute

    (log,) = eval(task(1), model=model(), top_k=5, display="none")
    assert log.status == "error"
    assert log.error is not None
    assert "does not support top_k" in log.error.message
    (log,) = eval(Task(task(1).dataset, solver=[use_tools(add()), generate()]), model=model(), display="none")
    assert log.error is not None
    assert "does not support tools" in log.error.message


def test_an_image_is_refused_and_not_left_out() -> None:
    question = ChatMessageUser(content=[ContentText(text="What is it?"), ContentImage(image="data:image/png;base64,")])

    async def ask() -> None:
        await model().generate([question])

    with pytest.raises(FastsiaError, match="does not read content of the type image"):
        anyio.run(ask)


def test_a_prompt_as_long_as_the_context_is_refused_and_the_next_one_answered() -> None:
    async def ask(text: str) -> str:
        return (await model().generate(text, config=GenerateConfig(temperature=0, max_tokens=5))).completion

    with pytest.raises(FastsiaError, match="leaves no room in a context of 2048"):
        anyio.run(ask, "apples " * 3000)
    assert anyio.run(ask, "Ada has 5 apples.")


def test_an_unknown_model_ends_as_inspect_ends_it(folder: Path) -> None:
    text = inspect(folder, "fastsia/demo:stf", returncode=1)
    assert isinstance(text, str)
    assert "'demo:stf' is not a demo model; there are:" in " ".join(text.split())


def test_a_closed_model_has_no_thread_left() -> None:
    other = get_model("fastsia/demo:sft", num_kv_blocks=256, memoize=False)

    async def ask() -> None:
        async with other:
            await other.generate("Ada has 5 apples.", config=GenerateConfig(max_tokens=3))
            assert isinstance(other.api, FastsiaAPI)
            assert other.api._worker._thread in threading.enumerate()

    anyio.run(ask)
    assert isinstance(other.api, FastsiaAPI)
    assert other.api._worker._thread is None


def test_the_pages_commands_run(tmp_path: Path) -> None:
    for text in programs("inspect_ai.md", "sh"):
        done = run_shell(text, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    (program,) = programs("inspect_ai.md", "python")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=offline(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 16
