"""A local Hugging Face Hub that serves repositories from folders."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Hub(ThreadingHTTPServer):
    """Serves folders by kind ("models" or "datasets"), repository name and revision."""

    daemon_threads = True

    def __init__(self, repositories: dict[tuple[str, str, str], Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serve(repositories: dict[tuple[str, str, str], Path]) -> Iterator[Hub]:
    hub = Hub(repositories)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


def commit_of(folder: Path) -> str:
    return hashlib.sha1(str(folder).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0].strip("/").split("/")
        if path[0] == "api" and path[1] in ("models", "datasets"):
            kind, name, what = path[1], "/".join(path[2:4]), path[4:]
            folder = self._revision(kind, name, what[1] if len(what) > 1 else "main")
            if folder is None:
                return
            match what[:1]:
                case [] | ["revision"]:
                    self._send(self._info(name, folder))
                case ["tree"]:
                    below = folder.joinpath(*what[2:])
                    self._send(self._entries(folder, sorted(below.rglob("*"))))
                case ["paths-info"]:
                    asked = json.loads(self._body)["paths"]
                    self._send(self._entries(folder, [folder / name for name in asked if (folder / name).exists()]))
                case _:
                    self._fail(404, "EntryNotFound")
            return
        kind = "datasets" if path[0] == "datasets" else "models"
        parts = path[1:] if kind == "datasets" else path
        if len(parts) < 5 or parts[2] != "resolve":
            self._fail(404, "EntryNotFound")
            return
        folder = self._revision(kind, "/".join(parts[:2]), parts[3])
        if folder is None:
            return
        file = folder.joinpath(*parts[4:])
        if not file.is_file():
            self._fail(404, "EntryNotFound", commit_of(folder))
            return
        self._send(file.read_bytes(), commit_of(folder))

    def _revision(self, kind: str, name: str, revision: str) -> Path | None:
        folders = {rev: folder for (k, n, rev), folder in self.server.repositories.items() if (k, n) == (kind, name)}
        by_commit = {commit_of(folder): folder for folder in folders.values()}
        found = folders.get(revision) or by_commit.get(revision)
        if not folders:
            self._fail(401, "RepoNotFound")  # the Hub's answer for a name that may be private
        elif found is None:
            self._fail(404, "RevisionNotFound")
        return found

    def _info(self, name: str, folder: Path) -> dict[str, Any]:
        siblings = [
            {"rfilename": str(file.relative_to(folder))} for file in sorted(folder.rglob("*")) if file.is_file()
        ]
        return {"id": name, "sha": commit_of(folder), "private": False, "tags": [], "siblings": siblings}

    def _entries(self, folder: Path, paths: list[Path]) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": str(path.relative_to(folder)), "size": path.stat().st_size, "oid": _etag(path)}
            if path.is_file()
            else {"type": "directory", "path": str(path.relative_to(folder)), "size": 0, "oid": "0" * 40}
            for path in paths
        ]

    def _send(self, content: Any, commit: str | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        if commit is None:
            self.send_header("content-type", "application/json")
        else:
            self.send_header("x-repo-commit", commit)
            self.send_header("etag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("accept-ranges", "bytes")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _fail(self, status: int, code: str, commit: str | None = None) -> None:
        self.send_response(status)
        self.send_header("x-error-code", code)
        if commit is not None:
            self.send_header("x-repo-commit", commit)
        self.send_header("content-length", "0")
        self.end_headers()


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
