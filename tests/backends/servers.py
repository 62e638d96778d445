"""Servers that tests own: a small one of the completions protocol over the engine, and a proxy that spoils answers."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from fastsia import Engine, Rollout, SamplingParams

HOST = "127.0.0.1"


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The base URL of a server on a free port."""
    server = ThreadingHTTPServer((HOST, 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def reply_json(self, status: int, value: Any) -> None:
        self.reply(status, json.dumps(value).encode())


class SmallServer:
    """The protocol as vLLM speaks it, over an engine; less of it where told so. What it has drawn once it remembers.

    takes_ids: prompts as token ids, answers with them. knows_n: n choices; else one whatever n is.
    key: the only one it lets in; it repeats what it was sent. is_seeded: False draws all choices alike.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        takes_ids: bool = True,
        knows_n: bool = True,
        key: str | None = None,
        is_seeded: bool = True,
        seconds: float = 0.0,
    ) -> None:
        self.name = "small"
        self.bodies: list[dict[str, Any]] = []
        self.most_at_once = 0
        self._engine = Engine(model, tokenizer)
        self._tokenizer = tokenizer
        self._takes_ids, self._knows_n, self._key, self._is_seeded = takes_ids, knows_n, key, is_seeded
        self._seconds = seconds
        self._turn = threading.Lock()
        self._count = threading.Lock()
        self._at_once = 0
        self._drawn: dict[Any, list[Rollout]] = {}

    @contextmanager
    def serve(self) -> Iterator[str]:
        own = self

        class Handler(_Handler):
            def do_GET(self) -> None:
                if own.lets_in(self):
                    self.reply_json(200, {"data": [{"id": own.name, "max_model_len": 400}]})

            def do_POST(self) -> None:
                body = json.loads(self.read())
                if own.lets_in(self):
                    self.reply_json(*own.answer(body))

        with serving(Handler) as url:
            yield url

    def lets_in(self, handler: _Handler) -> bool:
        sent = handler.headers.get("Authorization")
        if self._key is None or sent == f"Bearer {self._key}":
            return True
        handler.reply_json(401, {"error": f"{sent} is not a key"})
        return False

    def answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        """(status, answer) to a completion."""
        with self._count:
            self.bodies.append(body)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            time.sleep(self._seconds)
            return self._answer(body)
        finally:
            with self._count:
                self._at_once -= 1

    def _answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        prompt = body["prompt"]
        if body["model"] != self.name:
            return 404, {"error": f"The model {body['model']} does not exist."}
        if not self._takes_ids and not isinstance(prompt, str):
            return 400, {"detail": "prompt must be a string."}
        assert body["top_k"] == -1
        assert (body["min_p"], body["repetition_penalty"]) == (0.0, 1.0)
        ids = self._tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
        sampling = SamplingParams(
            body["temperature"],
            body["top_p"],
            body["max_tokens"],
            tuple(body.get("stop", ())),
            tuple(body["stop_token_ids"]),
        )
        count = body["n"] if self._knows_n else 1
        asked = (tuple(ids), count, sampling, body.get("seed", 0))
        with self._turn:
            if asked not in self._drawn:
                self._drawn[asked] = self._engine.rollout(ids, count, sampling, seed=asked[-1])
            rollouts = self._drawn[asked]
        if not self._is_seeded:
            rollouts = [rollouts[0]] * count
        choices = [self._choice(i, rollout, sampling) for i, rollout in enumerate(rollouts)]
        return 200, {"choices": choices[::-1], "usage": {"prompt_tokens": len(ids)}}

    def _choice(self, index: int, rollout: Rollout, sampling: SamplingParams) -> dict[str, Any]:
        text = self._tokenizer.decode(rollout.token_ids, skip_special_tokens=True)
        found = [stop for stop in sampling.stop if stop in text]
        choice: dict[str, Any] = {
            "index": index,
            "text": text.partition(found[0])[0] if found else text,
            "finish_reason": "length" if rollout.finish_reason == "length" else "stop",
        }
        if self._takes_ids:
            choice |= {
                "token_ids": rollout.token_ids,
                "logprobs": {"token_logprobs": rollout.logprobs},
                "stop_reason": found[0] if found else None,
            }
        return choice


class Proxy:
    """Passes calls on, and spoils completions: `fault(number)` names what becomes of the number-th, from 0.

    Faults: "429", "503" (a status, to be tried again at once), "drop" (closes without a word), "torn" (closes in the
    middle), "malformed" (half of the JSON), "nested" (brackets only), "short" (a choice fewer), "hang" (until the
    proxy ends), None.
    """

    def __init__(self, upstream: str, fault: Callable[[int], str | None]) -> None:
        self.num_completions = 0
        self.num_faults = 0
        self._upstream = upstream.removesuffix("/v1")
        self._fault = fault
        self._count = threading.Lock()
        self._ended = threading.Event()
        # `verify` would have it read all certificates.
        self._client = httpx.Client(trust_env=False, timeout=60, verify=False)

    @contextmanager
    def serve(self) -> Iterator[str]:
        own = self

        class Handler(_Handler):
            def do_GET(self) -> None:
                own.pass_on(self, None)

            def do_POST(self) -> None:
                own.pass_on(self, self.read())

        with self._client, serving(Handler) as url:
            try:
                yield url
            finally:
                self._ended.set()

    def pass_on(self, handler: _Handler, content: bytes | None) -> None:
        fault = None
        if content is not None:
            with self._count:
                fault = self._fault(self.num_completions)
                self.num_completions += 1
                self.num_faults += fault is not None
        if fault == "hang":
            self._ended.wait()
        if fault in ("drop", "hang"):
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault in ("429", "503"):
            handler.reply(int(fault), b'{"error": "later"}', {"Retry-After": "0"})
            return
        headers = {"Content-Type": "application/json"}
        if key := handler.headers.get("Authorization"):
            headers["Authorization"] = key
        answer = self._client.request(handler.command, self._upstream + handler.path, content=content, headers=headers)
        whole = answer.content
        if fault == "short":
            value = json.loads(whole)
            value["choices"].pop()
            whole = json.dumps(value).encode()
        if fault == "malformed":
            whole = whole[: len(whole) // 2]
        if fault == "nested":
            whole = b"[" * 100_000
        if fault == "torn":
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(whole)))
            handler.end_headers()
            handler.wfile.write(whole[: len(whole) // 2])
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        handler.reply(answer.status_code, whole)
