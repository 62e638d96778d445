"""vLLM in a process of its own; vllm_worker.py is the other side."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any

from benchmarks.machine import REPOSITORY
from fastsia import FastsiaError


def vllm_python() -> str | None:
    """A Python that has vLLM: this one, or the one in the environment $FASTSIA_VLLM."""
    if importlib.util.find_spec("vllm") is not None:
        return sys.executable
    folder = os.environ.get("FASTSIA_VLLM")
    return str(Path(folder) / "bin" / "python") if folder else None


class VLLM:
    """vLLM, loaded and warmed up on its work.

    Args:
        python: the interpreter that has vLLM.
        work: see vllm_worker.py.
        environment: variables of the process; they replace OMP_NUM_THREADS.
        log: where its output goes. With a log it gets a process group of its own, so that `halted` can stop all of
            vLLM's processes; without one it shares this process's output and group.

    Attributes:
        versions: of vLLM and its torch.
    """

    def __init__(self, python: str, work: Any, environment: Mapping[str, str], log: Path | None = None) -> None:
        self._log = log
        output = log.open("w") if log else None
        inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        with Listener() as listener:
            self._process = subprocess.Popen(
                [python, str(REPOSITORY / "benchmarks" / "vllm_worker.py"), str(listener.address)],
                stdout=output,
                stderr=output,
                env={**inherited, **environment},
                start_new_session=log is not None,
            )
            self._worker = listener.accept()
        try:
            self.versions: dict[str, str] = self._ask(work)
        except BaseException:
            self.close()
            raise

    def run(self) -> dict[str, Any]:
        """Roll out the whole work once: {"seconds", "token_ids", "finish_reasons"}, rollouts in order of prompts."""
        return self._ask("run")

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Stop its processes for a while: they spin while they wait for each other, which takes cores from others."""
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it, and with a group of its own everything it started."""
        self._worker.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=30)
        if self._log is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _ask(self, message: Any) -> Any:
        try:
            self._worker.send(message)
            return self._worker.recv()
        except (EOFError, ConnectionError) as error:
            raise FastsiaError(f"vLLM's process ended early; its log is {self._log or 'above'}.") from error
