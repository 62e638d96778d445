"""`fastsia view`: the report from a server on this machine."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastsia import Engine, FastsiaError, evaluate, load
from fastsia.report.embed import record_text
from fastsia.viewing import HOST, Server
from tests.programs import begin_python, run_python
from tests.report.browser import chromium, page

FEW: dict[str, Any] = {"num_rollouts": 3, "stride": 24, "num_bootstrap": 2, "num_splits": 2}
ENGINE = Engine.from_pretrained("demo:sft")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    evaluate(ENGINE, "demo", limit=3, num_trajectories=2, output=folder, **FEW)
    return folder


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[Server]:
    with Server(run) as opened:
        thread = threading.Thread(target=opened.serve_forever)
        thread.start()
        yield opened
        opened.shutdown()
        thread.join()


def get(server: Server, path: str, host: str | None = None, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=60)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_each_trajectory_is_that_of_the_report_file(server: Server, run: Path) -> None:
    assert get(server, "/")[0] == 200
    result = load(run)
    threshold = result.summary["forking_threshold"]["run"]
    views = {(view.problem_id, view.trajectory): view for view in result.report_data().views}
    for place, row in enumerate(result.trajectories[["problem_id", "trajectory"]].itertuples(index=False, name=None)):
        status, text = get(server, f"/trajectory/{place}")
        assert status == 200
        assert json.loads(text) == json.loads(record_text(views[row], threshold))
    assert get(server, "/trajectory/6") == (404, "the run has no trajectory 6.")


def test_texts_are_searched(server: Server, run: Path) -> None:
    get(server, "/")
    result = load(run)
    texts = result.texts()
    word = max(texts["text"], key=len).split()[0].lower()
    mine = texts[texts["text"].str.lower().str.contains(word, regex=False)]
    keys = {*mine[["problem_id", "trajectory"]].itertuples(index=False, name=None)}
    questions = {row["problem_id"]: row["question"] for row in result._store.problems().to_dict("records")}  # type: ignore[union-attr]
    expected = [
        place
        for place, row in enumerate(result.trajectories.to_dict("records"))
        if (row["problem_id"], row["trajectory"]) in keys
        or word in row["text"].lower()
        or word in questions[row["problem_id"]].lower()
    ]
    assert get(server, f"/search?q={word.upper()}") == (200, json.dumps(expected))
    assert get(server, "/search?q=no+such+text") == (200, "[]")


def test_only_pages_of_this_machine_and_only_reading(server: Server, run: Path) -> None:
    """Another site's page could ask by a name of its own that leads here."""
    assert server.server_address[0] == "127.0.0.1"
    assert get(server, "/", host="example.com:80")[0] == 403
    assert get(server, "/", host=f"localhost:{server.server_port}")[0] == 200
    for path in ("/run.sqlite", "/../run.sqlite", "/trajectory/-1", "/trajectory/x", "//etc/passwd"):
        assert get(server, path)[0] == 404
    assert get(server, "/", method="POST")[0] == 501
    names = {file.name for file in run.iterdir()}
    get(server, "/")
    assert {file.name for file in run.iterdir()} == names


def test_a_reload_shows_what_was_finished_since(tmp_path: Path) -> None:
    evaluate(ENGINE, "demo", limit=1, output=tmp_path, **FEW)
    with Server(tmp_path) as opened:
        assert "demo-0001" not in opened.viewing.page()
        evaluate(ENGINE, "demo", limit=2, output=tmp_path, **FEW)
        assert "demo-0001" in opened.viewing.page()
        assert opened.viewing.page() is opened.viewing.page()  # drawn once


def test_ports_and_folders_that_cannot_be_served(run: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_python("-m", "fastsia", "view", run, "--port", port)
    assert done.returncode == 2
    assert f"error: port {port} cannot be used: Address already in use; give another with --port" in done.stderr
    with pytest.raises(FastsiaError, match="contains no run"):
        Server(tmp_path)


def test_ctrl_c_ends_it(run: Path) -> None:
    process, line = begin_python("-m", "fastsia", "view", run, "--port", "0")
    assert f"{run}: http://127.0.0.1:" in line
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


@pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine (Debian: apt install chromium)")
def test_the_served_page_in_a_browser(server: Server, tmp_path: Path) -> None:
    with page(tmp_path) as tab:
        tab.open(server.url)
        tab.wait("document.querySelectorAll('#list tbody tr').length === 6")
        assert tab.evaluate("document.querySelectorAll('[id^=piece-]').length") == 0
        tab.evaluate("document.querySelectorAll('#list button.name')[4].click()")
        tab.wait("document.getElementById('viewer').open")
        assert "demo-0002" in tab.evaluate("document.getElementById('viewer-title').textContent")
        assert tab.evaluate("document.querySelectorAll('#text .token').length") > 10
        tab.press("Escape")
        tab.evaluate("document.getElementById('deep').click()")
        tab.evaluate("$ = document.getElementById('search'); $.value = '####'; $.dispatchEvent(new Event('input'))")
        tab.wait("document.querySelectorAll('#list tbody tr').length === 6")
        tab.evaluate("$.value = 'no such text'; $.dispatchEvent(new Event('input'))")
        tab.wait("document.querySelectorAll('#list tbody tr').length === 0")
        assert tab.complaints == []
