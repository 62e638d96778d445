"""A run through a server: the draws that it gives, whatever goes wrong on the way, and nothing in silence."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fastsia
from fastsia import FastsiaError, SamplingParams, SIAResult, cli
from fastsia.backends import open_backend
from fastsia.backends.openai_server import OpenAIServerBackend
from fastsia.engine.sequence import Request, Trajectory
from tests.backends.servers import Proxy, SmallServer
from tests.tiny import PROBLEMS, save_tiny, shared_model

SETTINGS: dict[str, Any] = {
    "num_rollouts": 4,
    "stride": 6,
    "max_tokens": 16,
    "temperature": 1.0,
    "num_bootstrap": 10,
    "num_splits": 2,
}
KEY = "sk-0123456789"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def small() -> SmallServer:
    return SmallServer(*shared_model())


@pytest.fixture(scope="module")
def url(small: SmallServer) -> Iterator[str]:
    with small.serve() as url:
        yield url


@pytest.fixture(scope="module")
def undisturbed(folder: str, url: str) -> SIAResult:
    return run(folder, url)


def run(folder: str, url: str, limit: int = 4, **changes: Any) -> SIAResult:
    settings = {**SETTINGS, "served_model": "small", **changes}
    return fastsia.evaluate(folder, PROBLEMS, limit=limit, backend="openai", base_url=url, **settings)


def backend(folder: str, url: str, **options: Any) -> OpenAIServerBackend:
    return OpenAIServerBackend(folder, base_url=url, **{"served_model": "small", **options})


@contextmanager
def serving(**settings: Any) -> Iterator[tuple[SmallServer, str]]:
    server = SmallServer(*shared_model(), **settings)
    with server.serve() as url:
        yield server, url


def request(**changes: Any) -> Request:
    _, tokenizer = shared_model()
    sampling = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=12)
    plain = Request("k", tuple(tokenizer("1 + 1 = ")["input_ids"]), sampling, num_rollouts=3, seed=7, stride=4)
    return dataclasses.replace(plain, **changes)


def one(found: OpenAIServerBackend, **changes: Any) -> Trajectory:
    (trajectory,) = found.generate([request(**changes)])
    return trajectory


def assert_same_draws(one: SIAResult, other: SIAResult) -> None:
    columns = ["problem_id", "trajectory", "checkpoint", "rollout", "answer", "token_ids", "finish_reason"]
    pd.testing.assert_frame_equal(one.rollouts[columns], other.rollouts[columns])
    pd.testing.assert_frame_equal(one.checkpoints, other.checkpoints)


# --- what is drawn ---------------------------------------------------------------------------------------------


def test_prefixes_are_token_exact_and_draws_are_whole(folder: str, small: SmallServer, url: str) -> None:
    found = backend(folder, url)
    begin = len(small.bodies)
    trajectory = one(found)
    eos = found.eos_token_ids[0]
    bodies = [body for body in small.bodies[begin:] if body["max_tokens"] > 1]
    prompt = list(request().prompt_ids)
    assert bodies[0]["prompt"] == prompt
    rest = [body["prompt"] for body in bodies[1:]]
    assert sorted(map(len, rest)) == [len(prompt) + c for c in trajectory.checkpoints]
    assert all(ids == [*prompt, *trajectory.token_ids.tolist()][: len(ids)] for ids in rest)
    assert len({body["seed"] for body in bodies}) == len(bodies)
    assert eos not in trajectory.token_ids
    assert np.isfinite(trajectory.logprobs).all()
    assert len(trajectory.logprobs) == len(trajectory.token_ids) == len(trajectory.token_entropies)
    assert np.isnan(trajectory.token_entropies).all(), "no server tells them"
    rollouts = trajectory.rollouts
    assert rollouts is not None
    assert rollouts.checkpoint.tolist() == np.repeat(trajectory.checkpoints, 3).tolist()
    assert rollouts.index.tolist() == [0, 1, 2] * len(trajectory.checkpoints)
    for r in range(len(rollouts)):
        row = rollouts.row(r)
        ends = row.token_ids[-1] == eos
        assert row.finish_reason == ("eos" if ends else "length")
        assert ends or len(row.token_ids) == 12
    again = one(backend(folder, url))
    assert again.rollouts is not None
    np.testing.assert_array_equal(again.rollouts.token_ids, rollouts.token_ids)
    described = found.describe()
    assert (described["prompts"], described["completions"], described["choices_per_call"]) == (
        "token ids",
        "token ids",
        3,
    )
    assert found.context_length == 400, "the server's own is the shorter one"


def test_a_run_says_how_it_was_drawn(undisturbed: SIAResult, url: str) -> None:
    summary = undisturbed.summary
    assert summary["backend"] == "openai"
    assert summary["row_steps"] is summary["merge_factor"] is None, "a server shows no rows"
    assert summary["generated_tokens"] > 0
    assert summary["machine"]["server"] == url
    assert summary["machine"]["num_retries"] == 0
    assert not any("server" in warning for warning in summary["warnings"])
    json.dumps(summary, allow_nan=False)


def test_a_server_of_text_is_recorded(folder: str) -> None:
    with serving(takes_ids=False) as (server, url):
        result = run(folder, url)
    machine = result.summary["machine"]
    assert (machine["prompts"], machine["completions"], machine["logprobs"]) == ("text", "text", None)
    assert isinstance(server.bodies[-1]["prompt"], str)
    assert machine["num_prefixes"] > 0
    warned = [warning for warning in result.summary["warnings"] if "takes text only" in warning]
    assert len(warned) == (machine["num_retokenized_prefixes"] > 0)
    assert set(result.rollouts["finish_reason"]) == {"eos", "length"}


def test_prefixes_that_text_cannot_carry_are_counted(folder: str) -> None:
    """Half of a character is no text: the server reads something else there."""
    with serving(takes_ids=False) as (_, url):
        found = backend(folder, url)
        whole, half = (found.tokenizer("é")["input_ids"][:length] for length in (2, 1))
        one(found, prompt_ids=tuple(whole), trajectory_ids=(), num_rollouts=1)
        assert found.describe()["num_retokenized_prefixes"] == 0
        one(found, prompt_ids=tuple(half), trajectory_ids=(), num_rollouts=1)
        assert found.describe()["num_retokenized_prefixes"] == 1
        assert "reads some prefixes as other tokens" in found.warnings[0]


def test_a_server_without_n_gets_a_call_a_rollout(folder: str) -> None:
    with serving(knows_n=False) as (server, url):
        result = run(folder, url)
    assert result.summary["machine"]["choices_per_call"] == 1
    assert (result.rollouts.groupby(["problem_id", "checkpoint"]).size() == 4).all()
    asked = [(tuple(body["prompt"]), body["seed"]) for body in server.bodies if body["max_tokens"] > 1]
    assert len(set(asked)) == len(asked), "equal seeds after one prefix would draw the same twice"


def test_identical_draws_are_warned_of(folder: str, url: str, caplog: pytest.LogCaptureFixture) -> None:
    with serving(is_seeded=False) as (_, alike), caplog.at_level(logging.WARNING, logger="fastsia"):
        result = run(folder, alike)
    assert any("have always been the same" in warning for warning in result.summary["warnings"])
    assert sum("have always been the same" in record.message for record in caplog.records) == 1
    greedy = run(folder, url, temperature=0)
    assert not any("always been the same" in warning for warning in greedy.summary["warnings"])


def test_stop_texts_end_sequences(folder: str, url: str) -> None:
    for settings in ({}, {"takes_ids": False}):
        with serving(**settings) as (_, own):
            found = backend(folder, own)
            reasons = set()
            for seed in range(4):
                sampling = SamplingParams(1.0, 1.0, 30, stop=("8", "9"))
                trajectory = one(found, sampling=sampling, seed=seed)
                assert not set("89") & set(found.tokenizer.decode(trajectory.token_ids))
                reasons.add(trajectory.finish_reason)
                assert trajectory.rollouts is not None
                reasons |= {trajectory.rollouts.row(r).finish_reason for r in range(len(trajectory.rollouts))}
            # A server that leaves the stop text out and does not name it does not tell a stop from an EOS.
            assert ("stop" in reasons) == (settings == {})


def test_budget_and_permutation_are_the_engines(folder: str, small: SmallServer, url: str) -> None:
    given = tuple(range(30, 42))
    begin = len(small.bodies)
    changes: dict[str, Any] = {"trajectory_ids": given, "checkpoints": (0, 5, 12), "rollout_budget": "total"}
    trajectory = one(backend(folder, url), **changes)
    assert trajectory.finish_reason == "given"
    assert trajectory.rollouts is not None
    lengths = np.diff(trajectory.rollouts.offsets).reshape(3, 3)
    assert (lengths[2] == 0).all(), "the budget is used up at 12"
    asked = {len(body["prompt"]): body["max_tokens"] for body in small.bodies[begin:]}
    prompt = len(request().prompt_ids)
    assert asked[prompt + 5] == 12 - 5
    assert prompt + 12 not in asked

    greedy = SamplingParams(temperature=0.0, max_tokens=8)
    changes = {"trajectory_ids": given, "checkpoints": (12,), "shuffle_prefix": True, "sampling": greedy}
    theirs = one(backend(folder, url), num_rollouts=1, **changes)
    (native,) = fastsia.Engine(*shared_model()).run([request(num_rollouts=1, **changes)])
    assert theirs.rollouts is not None
    assert native.rollouts is not None
    assert theirs.rollouts.token_ids.tolist() == native.rollouts.token_ids.tolist()


def test_seeds_can_be_left_to_the_server(folder: str, small: SmallServer, url: str) -> None:
    begin = len(small.bodies)
    with pytest.raises(FastsiaError, match="send_seed must be true or false"):
        backend(folder, url, send_seed="no")
    result = run(folder, url, limit=1, send_seed=False)
    assert result.summary["machine"]["seeds"] is False
    assert not any("seed" in body for body in small.bodies[begin:])


def test_calls_at_once_are_bounded(folder: str) -> None:
    with serving(seconds=0.02) as (server, url):
        run(folder, url, limit=6, num_concurrent=3)
    assert 1 < server.most_at_once <= 3


def test_it_works_inside_a_running_loop(folder: str, url: str, undisturbed: SIAResult) -> None:
    """As in a notebook."""

    async def cell() -> SIAResult:
        return run(folder, url)

    assert_same_draws(asyncio.run(cell()), undisturbed)


def test_an_abandoned_run_leaves_nothing_behind(folder: str, url: str) -> None:
    before = threading.active_count()
    proxy = Proxy(url, lambda number: "hang" if number == 3 else None)  # the second trajectory
    with proxy.serve() as own:
        drawn = backend(folder, own, num_concurrent=2).generate(request(key=i, seed=i) for i in range(50))
        next(drawn)
        started = time.perf_counter()
        drawn.close()  # type: ignore[attr-defined]
        assert time.perf_counter() - started < 5
    assert proxy.num_faults == 1
    deadline = time.perf_counter() + 10
    while threading.active_count() > before and time.perf_counter() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before


# --- what goes wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["429", "503", "malformed", "torn", "short", "drop"])
def test_a_passing_fault_changes_nothing(fault: str, folder: str, url: str, undisturbed: SIAResult) -> None:
    proxy = Proxy(url, lambda number: fault if number in (4, 9) else None)
    with proxy.serve() as own:
        result = run(folder, own)
    assert proxy.num_faults == 2
    assert result.summary["machine"]["num_retries"] == 2
    assert_same_draws(result, undisturbed)


def test_a_slow_server_is_asked_again(folder: str, url: str, undisturbed: SIAResult) -> None:
    proxy = Proxy(url, lambda number: "hang" if number == 5 else None)
    with proxy.serve() as own:
        result = run(folder, own, timeout=2.0)
    assert result.summary["machine"]["num_retries"] == 1
    assert_same_draws(result, undisturbed)


def test_a_run_counts_what_happened_in_it(folder: str, url: str) -> None:
    """One backend draws many tasks, and a summary is of one."""
    found = OpenAIServerBackend(folder, base_url=url, served_model="small")
    first = fastsia.evaluate(found, PROBLEMS[:2], **SETTINGS).summary["machine"]
    again = fastsia.evaluate(found, PROBLEMS[:2], **SETTINGS).summary["machine"]
    assert again["num_prefixes"] == first["num_prefixes"] > 0
    assert again["logprobs"] == first["logprobs"]
    assert again["completions"] == first["completions"]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("short", "3 choices where 4 were asked for"),
        ("malformed", "malformed JSON"),
        ("nested", "malformed JSON"),
        ("429", "HTTP 429"),
        ("drop", "disconnected"),
    ],
)
def test_a_lasting_fault_is_an_error_and_the_run_resumes(
    fault: str, sentence: str, folder: str, url: str, undisturbed: SIAResult, tmp_path: Path
) -> None:
    """Never a checkpoint with fewer rollouts than asked for; what is finished is kept."""
    out = tmp_path / "run"
    proxy = Proxy(url, lambda number: fault if number > 12 else None)
    with proxy.serve() as own, pytest.raises(FastsiaError) as caught:
        run(folder, own, output=out, max_retries=1, num_concurrent=1)
    assert sentence in str(caught.value)
    assert "of request (" in str(caught.value), "it names the request"
    assert "failed 2 times" in str(caught.value)
    kept = fastsia.load(out)
    assert 0 < len(kept.trajectories) < 4
    assert_same_draws(run(folder, url, output=out), undisturbed)
    other = pytest.raises(FastsiaError, match=r"model\.fingerprint")
    with serving() as (server, elsewhere), other:
        server.name = "another"
        run(folder, elsewhere, output=out, served_model="another")


def test_a_request_to_wait_is_kept(folder: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.backends import servers

    reply = servers._Handler.reply

    def later(self: Any, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        reply(self, status, content, {"Retry-After": "2"} if status == 429 else headers)

    monkeypatch.setattr(servers._Handler, "reply", later)
    proxy = Proxy(url, lambda number: "429" if number == 0 else None)
    started = time.perf_counter()
    with proxy.serve() as own:
        backend(folder, own)
    assert 2 <= time.perf_counter() - started < 10


# --- whom it talks to ------------------------------------------------------------------------------------------


def test_a_key_opens_the_server_and_no_other_is_read(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(key=KEY) as (_, url):
        assert backend(folder, url, api_key_env="MY_KEY").served_model == "small"
        with pytest.raises(FastsiaError, match=r"HTTP 401.*no key was sent: name one by api_key_env"):
            backend(folder, url)


def test_a_wrong_key_fails_at_once_and_is_not_shown(
    folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", "wrong-" + KEY)
    with serving(key=KEY) as (server, url):
        started = time.perf_counter()
        with pytest.raises(FastsiaError) as caught:
            backend(folder, url, api_key_env="MY_KEY")
        assert time.perf_counter() - started < 5
        arguments = ["run", "--model", folder, "--tasks", "demo", "--backend", "openai", "--base-url", url]
        assert cli._run([*arguments, "--api_key_env", "MY_KEY"]) == 2
        assert server.bodies == []
    said = str(caught.value) + capsys.readouterr().err
    assert KEY not in said
    assert "HTTP 401" in said
    assert "Bearer *** is not a key" in said
    assert "the key in MY_KEY was sent" in said


def test_a_redirect_is_not_followed(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is for the server that was named."""
    from tests.backends.servers import _Handler
    from tests.backends.servers import serving as serve

    monkeypatch.setenv("MY_KEY", KEY)
    seen: list[str] = []

    class Thief(_Handler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.reply_json(200, {})

        do_POST = do_GET

    with serve(Thief) as elsewhere:

        class Redirect(_Handler):
            def do_GET(self) -> None:
                self.read()
                self.reply(307, b"", {"Location": f"{elsewhere}/completions"})

            do_POST = do_GET

        with serve(Redirect) as url, pytest.raises(FastsiaError, match=r"HTTP 307"):
            backend(folder, url, api_key_env="MY_KEY")
    assert seen == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "needs base_url"),
        ({"base_url": "localhost:8000"}, "base_url must be a URL such as"),
        ({"base_url": "http://localhost:99999/v1"}, "base_url must be a URL such as"),
        ({"base_url": "http://user:secret@localhost/v1"}, "base_url must not contain a key; api_key_env"),
        ({"base_url": "http://localhost/v1", "api_key_env": "NOT_SET_AT_ALL"}, "'NOT_SET_AT_ALL' is not set"),
        ({"base_url": "http://localhost/v1", "num_concurrent": 0}, "num_concurrent must be an integer >= 1"),
        ({"base_url": "http://localhost/v1", "timeout": 0}, "timeout must be a number of seconds > 0"),
        (
            {"base_url": "http://localhost/v1", "dtype": "float32"},
            "dtype applies to backend='native' or 'hf' or 'vllm' only, got backend='openai'",
        ),
        ({"base_url": "http://127.0.0.1:9/v1"}, "the list of models: the server at http://127.0.0.1:9/v1 failed 3"),
    ],
)
def test_what_cannot_work_is_said_at_once(folder: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FastsiaError, match=sentence) as caught:
        open_backend(folder, "openai", options)
    assert "secret" not in str(caught.value)


def test_other_backends_take_no_server(folder: str) -> None:
    with pytest.raises(FastsiaError, match="base_url applies to backend='openai' only, got backend='native'"):
        open_backend(folder, "native", {"base_url": "http://localhost/v1"})
    with pytest.raises(FastsiaError, match="no backend has an option 'max_seqs'; did you mean max_num_seqs"):
        open_backend(folder, "native", {"max_seqs": 3})
    with pytest.raises(FastsiaError, match="openai backend needs a model's name or path, got tuple"):
        open_backend(shared_model(), "openai", {"base_url": "http://localhost/v1"})


def test_an_unknown_model_is_named_beside_those_served(folder: str, url: str) -> None:
    with pytest.raises(FastsiaError, match=r"HTTP 404.*does not exist.*The server lists small; served_model names one"):
        backend(folder, url, served_model=None)


def test_no_weights_are_needed(tmp_path: Path, url: str) -> None:
    bare = save_tiny(tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    assert backend(str(bare), url).eos_token_ids


def test_the_command_line_runs_it(
    folder: str, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], undisturbed: SIAResult
) -> None:
    questions = tmp_path / "sums.jsonl"
    questions.write_text("".join(f'{{"question": "{i} + 1?", "answer": "{i + 1}"}}\n' for i in range(2)))
    options = [part for name, value in SETTINGS.items() for part in (f"--{name}", str(value))]
    arguments = ["run", "--model", folder, "--tasks", str(questions), "--backend", "openai", "--base_url", url]
    arguments += ["--served_model", "small", "--num_concurrent", "2", "-o", str(tmp_path / "run"), "--no_report"]
    assert cli._run([*arguments, *options]) == 0
    assert "2 problems" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["backend"] == "openai"
