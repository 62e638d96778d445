"""vLLM in a process of its own, driven over pipes; vllm_worker.py is the other side."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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
        work: what vllm_worker.py reads.
        folder: for the work file and the results.
        environment: variables of the process; they replace OMP_NUM_THREADS.
        log: where its standard error goes. With a log it gets a process group of its own, so that `halted` can stop
            all of vLLM's processes; without one it shares this process's standard error and group.

    Attributes:
        versions: of vLLM and its torch.
    """

    def __init__(
        self,
        python: str,
        work: Mapping[str, Any],
        folder: Path,
        environment: Mapping[str, str],
        log: Path | None = None,
    ) -> None:
        self._result, self._log, self._own_group = folder / "result.json", log, log is not None
        work_file = folder / "work.json"
        work_file.write_text(json.dumps(work))
        inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        self._process = subprocess.Popen(
            [python, str(REPOSITORY / "benchmarks" / "vllm_worker.py"), str(work_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w") if log else None,
            text=True,
            env=inherited | dict(environment),
            cwd=folder,
            start_new_session=self._own_group,
        )
        try:
            self.versions: dict[str, str] = json.loads(self._answer())
        except BaseException:
            self.close()
            raise

    def run(self) -> dict[str, Any]:
        """Roll out the whole work once: {"seconds", "token_ids", "finish_reasons"}, rollouts in order of prompts."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{self._result}\n")
        self._process.stdin.flush()
        self._answer()
        found: dict[str, Any] = json.loads(self._result.read_text())
        return found

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Stop its processes for a while: they spin while they wait for each other, which costs others their cores."""
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it, and with a group of its own everything it started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=30)
        if self._own_group:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise FastsiaError(f"vLLM's process ended early; its log is {self._log or 'above'}.")
        return line
