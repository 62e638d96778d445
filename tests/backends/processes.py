"""Real servers in processes of their own, for as long as a test needs them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests.backends.servers import HOST


@contextmanager
def running(command: Sequence[str], log: Path, *, seconds: float, **environment: str) -> Iterator[str]:
    """The base URL of a server that is started with `--host` and `--port`, once its /health answers.

    Raises RuntimeError with the end of its log where it ends before, or is not ready in time.
    """
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--host", HOST, "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + seconds
        while not _is_ready(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not become ready: {log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield f"http://{HOST}:{port}/v1"
    finally:
        for end in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, end)
                process.wait(timeout=20)


def _is_ready(port: int) -> bool:
    try:
        with httpx.Client(trust_env=False, timeout=2, verify=False) as client:
            return client.get(f"http://{HOST}:{port}/health").status_code == 200
    except httpx.TransportError:
        return False
