"""A run's report from a server on this machine: for runs too large for one file, and while they are drawn."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fastsia.errors import FastsiaError
from fastsia.report.embed import record_text
from fastsia.report.figures import draw
from fastsia.report.html import forking_of, served_report
from fastsia.report.views import trajectory_views
from fastsia.results import SIAResult, load
from fastsia.results.alternatives import alternative_views
from fastsia.results.manifest import database_digest
from fastsia.results.reader import open_run

HOST = "127.0.0.1"


class Viewing:
    """The run that the pages show, scored again after its database has changed. Nothing is written.

    Raises:
        FastsiaError: the folder has no run with texts.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._path, self._store = Path(directory), open_run(directory)
        self._lock = threading.Lock()
        self._state: str | None = None
        self._result: SIAResult = load(self._path)
        self._keys: list[tuple[str, int]] = []
        self._page = ""

    def page(self) -> str:
        """The report, of the run as it is now."""
        with self._lock:
            state = database_digest(self._store.path)
            if state != self._state:
                if self._state is not None:
                    self._result = load(self._path)
                self._page, self._state = self._render(), state
            return self._page

    def _render(self) -> str:
        with self._store.snapshot() as store:
            asked = store.problems().set_index("problem_id")["question"].to_dict()
        data = self._result.report_data()
        self._keys = [_key(row) for row in data.trajectories[["problem_id", "trajectory"]].to_dict("records")]
        questions = {key: (place, asked[key[0]]) for place, key in enumerate(self._keys)}
        return served_report(data, draw(data), questions)

    def trajectory(self, place: int) -> str:
        """One trajectory with all of its texts, as JSON.

        Raises:
            FastsiaError: the run has no such trajectory.
        """
        if not 0 <= place < len(self._keys):
            raise FastsiaError(f"the run has no trajectory {place}.")
        key, checkpoints = self._keys[place], self._result.checkpoints
        mine = checkpoints[(checkpoints["problem_id"] == key[0]) & (checkpoints["trajectory"] == key[1])]
        with self._store.of_problem(key[0]) as store:
            views = list(trajectory_views(store, mine, alternative_views(store)))
        if not views:
            raise FastsiaError(f"all rollouts of problem {key[0]!r}, trajectory {key[1]}, failed.")
        return record_text(views[0], forking_of(self._result.summary))

    def search(self, text: str) -> list[int]:
        """The places of the trajectories in whose question, text or rollouts a text occurs, whatever its case."""
        wanted = text.lower()
        places = {key: place for place, key in enumerate(self._keys)}
        return sorted({places[key] for key, part in self._texts() if key in places and wanted in part.lower()})

    def _texts(self) -> Iterator[tuple[tuple[str, int], str]]:
        with self._store.snapshot() as store:
            asked = store.problems().set_index("problem_id")["question"].to_dict()
            for row in store.trajectories()[["problem_id", "trajectory", "text"]].to_dict("records"):
                yield _key(row), f"{asked[row['problem_id']]}\n{row['text']}"
            vocabulary = store.vocabulary()
            for chunk in store.rollouts():
                for row in chunk[["problem_id", "trajectory", "token_ids"]].to_dict("records"):
                    yield _key(row), vocabulary.decode(row["token_ids"])


def _key(row: Mapping[Any, Any]) -> tuple[str, int]:
    return str(row["problem_id"]), int(row["trajectory"])


class _Handler(BaseHTTPRequestHandler):
    """Answers GET for the page, a trajectory, and a search; nothing else."""

    server_version = "fastsia"
    server: Server

    def do_GET(self) -> None:
        if self.headers.get("Host", "").partition(":")[0] not in (HOST, "localhost"):
            self._answer(403, "text/plain", "This page is for this machine only.")  # another site's name for it
            return
        asked = urlsplit(self.path)
        try:
            if asked.path == "/":
                self._answer(200, "text/html", self.server.viewing.page())
            elif asked.path == "/search":
                text = parse_qs(asked.query).get("q", [""])[0]
                self._answer(200, "application/json", json.dumps(self.server.viewing.search(text)))
            elif asked.path.startswith("/trajectory/") and asked.path.removeprefix("/trajectory/").isdecimal():
                place = int(asked.path.removeprefix("/trajectory/"))
                self._answer(200, "application/json", self.server.viewing.trajectory(place))
            else:
                self._answer(404, "text/plain", "There is no such page.")
        except FastsiaError as error:
            self._answer(404, "text/plain", str(error))

    def _answer(self, status: int, kind: str, text: str) -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        for name, value in (
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: each click would be a line."""


class Server(ThreadingHTTPServer):
    """Serves a run on this machine's own address.

    Args:
        directory: a results folder with a run, finished or not.
        port: 0 takes a free one.

    Raises:
        FastsiaError: no run, or the port is in use.
    """

    daemon_threads = True

    def __init__(self, directory: str | os.PathLike[str], port: int = 0) -> None:
        self.viewing = Viewing(directory)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise FastsiaError(
                f"port {port} cannot be used: {error.strerror}; give another with --port, or 0 for a free one."
            ) from error

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves before its answer is no error; others are raised to the log of the process."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)
