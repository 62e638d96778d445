"""vLLM in a process of its own; vllm_worker.py is the other side."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np

from fastsia import FastsiaError
from fastsia.backends.continuations import DrawnSequence
from fastsia.engine.sequence import FinishReason


def vllm_python() -> str:
    """A Python that has vLLM: this one, or the one in the environment $FASTSIA_VLLM."""
    if importlib.util.find_spec("vllm") is not None:
        return sys.executable
    if "FASTSIA_VLLM" not in os.environ:
        raise FastsiaError("no environment with vLLM: run `make bench-vllm`, or name one in FASTSIA_VLLM.")
    return str(Path(os.environ["FASTSIA_VLLM"]) / "bin" / "python")


class VLLM:
    """vLLM, loaded and warmed up on its work (see vllm_worker.py), in a process group of its own.

    Its processes are halted while it is not asked: they spin while they wait for each other, which takes cores from
    others. The variables of its environment replace OMP_NUM_THREADS.

    Attributes:
        settings: of the engine and its environment, and versions.
        seconds, num_tokens: of the last run.
    """

    def __init__(self, work: Any, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        log.parent.mkdir(exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        self._worker, theirs = Pipe()
        with theirs, log.open("w") as output:
            self._process = subprocess.Popen(
                [vllm_python(), str(Path(__file__).with_name("vllm_worker.py")), str(theirs.fileno())],
                stdout=output,
                stderr=output,
                env={**inherited, **environment},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        try:
            self.settings = work["engine"] | dict(environment) | {"versions": self._ask(work)}
        except BaseException:
            self.close()
            raise

    def run(self) -> list[DrawnSequence]:
        """Roll out the whole work once, in order of prompts; log-probabilities are unknown."""
        self.seconds, drawn = self._ask("run")
        self.num_tokens = sum(len(ids) for ids, _ in drawn)
        reasons = {True: FinishReason.LENGTH, False: FinishReason.EOS}
        return [DrawnSequence(np.array(ids), np.full(len(ids), np.nan), reasons[is_cut]) for ids, is_cut in drawn]

    def close(self) -> None:
        """End it, and everything it started."""
        self._signal(signal.SIGCONT)
        self._worker.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=30)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _ask(self, message: Any) -> Any:
        self._signal(signal.SIGCONT)
        try:
            self._worker.send(message)
            return self._worker.recv()
        except (EOFError, ConnectionError) as error:
            raise FastsiaError(f"vLLM's process ended early; its log is {self._log}.") from error
        finally:
            self._signal(signal.SIGSTOP)
