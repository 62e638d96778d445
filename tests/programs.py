"""Programs that tests run: `python ARGUMENTS` in a process of its own, started warm where that is the same."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from tests import warm

ROOT = Path(__file__).resolve().parents[1]


def offline(**more: Any) -> dict[str, str]:
    """An environment in which nothing is fetched, and one thread is used."""
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **{name: str(value) for name, value in more.items()},
    }


class Program:
    """A program of the warm server; as much of `subprocess.Popen` as the tests use. Its output goes to files."""

    def __init__(self, connection: socket.socket, pid: int, files: list[IO[str]]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._connection = connection
        self._files = files

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            self.returncode = int(self._connection.recv(64))
            self._connection.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; what it wrote to the streams that were left to this class."""
        self.wait(timeout)
        for file in self._files:
            file.seek(0)
        out, err = (file.read() for file in self._files)
        return out, err

    def close(self) -> None:
        """Give it up: it is killed if it has not ended."""
        self._connection.close()
        for file in self._files:
            file.close()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Running = Program | subprocess.Popen[str]


def start_python(
    *arguments: object,
    folder: Path | None = None,
    stdout: int | None = None,
    closed: Collection[int] = (),
    **environment: Any,
) -> Running:
    """Start `python ARGUMENTS` with an empty standard input.

    Args:
        arguments: "-m" and a module, "-c" and a program's text, or a script; then the program's own.
        folder: Where it runs, if not here.
        stdout: A descriptor in place of a stream that `communicate` reads.
        closed: The numbers of standard streams that it does not have.
        environment: Variables besides those of `offline`.
    """
    texts = [str(argument) for argument in arguments]
    variables = offline(**environment)
    with open(os.devnull) as nothing, contextlib.ExitStack() as failed:
        files = [failed.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2)]
        streams = {0: nothing.fileno(), 1: files[0].fileno() if stdout is None else stdout, 2: files[1].fileno()}
        streams = {number: descriptor for number, descriptor in streams.items() if number not in closed}
        command = warm.Command(texts, str((folder or Path()).absolute()), variables, list(streams))
        asked = warm.ask(command, list(streams.values()))
        if asked is not None:
            failed.pop_all()
            return Program(*asked, files)
    return subprocess.Popen(
        [sys.executable, *texts],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=variables,
        preexec_fn=(lambda: [os.close(number) for number in closed]) if closed else None,
    )


def begin_python(*arguments: object, **settings: Any) -> tuple[Running, str]:
    """As `start_python`, until it has written the first line of its output, which is given too."""
    read, write = os.pipe()
    process = start_python(*arguments, stdout=write, **settings)
    os.close(write)
    with open(read) as output:
        return process, output.readline()


def run_python(*arguments: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    """As `start_python`, to its end."""
    process = start_python(*arguments, **settings)
    out, err = process.communicate()
    assert process.returncode is not None
    return subprocess.CompletedProcess(list(arguments), process.returncode, out, err)


def run_shell(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Commands of a shell, with the programs of the running environment; `fastsia` is started warm."""
    places = [str(warm_python().parent), str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    return subprocess.run(
        ["bash", "-euc", text],
        cwd=folder,
        env=offline(PATH=os.pathsep.join(places)),
        capture_output=True,
        text=True,
    )


def warm_python() -> Path:
    """What is to be called as `python` for programs that are started warm; beside it is `fastsia`."""
    return Path(os.environ[warm.ADDRESS]).with_name("python") if warm.ADDRESS in os.environ else Path(sys.executable)


def become(*arguments: str) -> None:
    """Be `python ARGUMENTS` to whoever started this process: with its streams, until its end, with its exit code."""
    streams = [number for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)) if stream is not None]
    asked = warm.ask(warm.Command(list(arguments), os.getcwd(), dict(os.environ), streams), streams)
    if asked is None:
        os.execv(sys.executable, [sys.executable, *arguments])
    code = Program(*asked, []).wait()
    sys.exit(code if code >= 0 else 128 - code)


_COMMAND = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests import programs; programs.become(*sys.argv[1:])"


@contextlib.contextmanager
def warm_server() -> Iterator[None]:
    """A server of warm programs for this process and those that it starts.

    Without effect where there is one already, and where the system has no handles of processes.
    """
    if warm.ADDRESS in os.environ or not hasattr(os, "pidfd_open"):
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    for name, first in (("python", ()), ("fastsia", ("-m", "fastsia"))):
        words = [sys.executable, "-SEc", _COMMAND, *first]
        (folder / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        (folder / name).chmod(0o755)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(64)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", str(listener.fileno())],
            stdin=subprocess.PIPE,  # closed with this process, however it ends
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
            env=offline(),
            pass_fds=[listener.fileno()],
        )
    os.environ[warm.ADDRESS] = str(folder / "socket")
    try:
        yield
    finally:
        del os.environ[warm.ADDRESS]
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        shutil.rmtree(folder)
