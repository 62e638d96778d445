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

from fastsia import FastsiaError


def vllm_python() -> str:
    """A Python that has vLLM: this one, or the one in the environment $FASTSIA_VLLM."""
    if importlib.util.find_spec("vllm") is not None:
        return sys.executable
    if "FASTSIA_VLLM" not in os.environ:
        raise FastsiaError("no environment with vLLM: run `make bench-vllm`, or name one in FASTSIA_VLLM.")
    return str(Path(os.environ["FASTSIA_VLLM"]) / "bin" / "python")


class VLLM:
    """vLLM, loaded and warmed up on its work, in a process group of its own.

    Args:
        work: see vllm_worker.py.
        environment: variables of the process; they replace OMP_NUM_THREADS.
        log: where its output goes.

    Attributes:
        versions: of vLLM and its torch.
        seconds, num_tokens: of the last run.
    """

    def __init__(self, work: Any, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        log.parent.mkdir(exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        with Listener() as listener, log.open("w") as output:
            self._process = subprocess.Popen(
                [vllm_python(), str(Path(__file__).with_name("vllm_worker.py")), str(listener.address)],
                stdout=output,
                stderr=output,
                env={**inherited, **environment},
                start_new_session=True,
            )
            self._worker = listener.accept()
        try:
            self.versions: dict[str, str] = self._ask(work)
        except BaseException:
            self.close()
            raise

    def run(self) -> list[tuple[list[int], bool]]:
        """Roll out the whole work once: each rollout's tokens, and whether the limit cut it, in order of prompts."""
        self.seconds, drawn = self._ask("run")
        self.num_tokens = sum(len(token_ids) for token_ids, _ in drawn)
        return list(drawn)

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Stop its processes for a while: they spin while they wait for each other, which takes cores from others."""
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it, and everything it started."""
        self._worker.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=30)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _ask(self, message: Any) -> Any:
        try:
            self._worker.send(message)
            return self._worker.recv()
        except (EOFError, ConnectionError) as error:
            raise FastsiaError(f"vLLM's process ended early; its log is {self._log}.") from error
