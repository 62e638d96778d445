"""Headless Chromium by its debugging pipe: enough to open a page, click, and read what it shows and complains of."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def chromium() -> str | None:
    """The browser's path, where one is installed."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page:
    """One tab. `complaints` are console errors, uncaught exceptions and refusals by the page's policy."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write, self._number, self._buffer = read, write, 0, b""
        self.complaints: list[str] = []
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._read], [], [], 120)[0], "the browser says nothing any more"
            part = os.read(self._read, 1 << 20)
            assert part, "the browser closed its pipe"
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        event = json.loads(text)
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(parameters["exceptionDetails"]))
        if event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.complaints.append(parameters["entry"]["text"])
        if event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] == "error":
            self.complaints.append(json.dumps(parameters["args"]))
        return event

    def open(self, page: Path | str, fragment: str = "") -> None:
        """A file, or an address."""
        address = page if isinstance(page, str) else page.resolve().as_uri()
        self.call("Page.navigate", url=address + fragment)
        self.wait("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 30) -> None:
        """Until the expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.05)

    def press(self, *keys: str) -> None:
        """Keys by their names, one after the other: "Tab", "Enter", "ArrowDown", "n", ..."""
        for key in keys:
            more = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
            code = {
                "Tab": 9,
                "Enter": 13,
                "Escape": 27,
                "ArrowLeft": 37,
                "ArrowUp": 38,
                "ArrowRight": 39,
                "ArrowDown": 40,
            }
            number = code.get(key, ord(key.upper()[0]))
            for kind in ("keyDown", "keyUp"):
                given = more if kind == "keyDown" else {}
                self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=number, **given)

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )


@contextmanager
def page(profile: Path) -> Iterator[Page]:
    """A fresh browser with an empty profile."""
    path = chromium()
    assert path is not None
    to_read, to_write = os.pipe(), os.pipe()  # the browser reads commands on 3 and writes answers on 4

    def place() -> None:
        ours = (os.dup(to_read[0]), os.dup(to_write[1]))
        os.dup2(ours[0], 3)
        os.dup2(ours[1], 4)
        os.set_inheritable(3, True)
        os.set_inheritable(4, True)

    process = subprocess.Popen(
        [path, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=place,
        close_fds=False,
    )
    os.close(to_read[0])
    os.close(to_write[1])
    try:
        yield Page(to_write[0], to_read[1])
    finally:
        process.kill()
        process.wait()
        os.close(to_read[1])
        os.close(to_write[0])
