"""A process that has imported what fastsia's programs import, and forks for each of them.

Importing torch, transformers and fastsia takes longer than what most programs of the tests do then. A forked program is
a process like any other, with its own id, folder, environment, streams, signals and exit code. Three things differ: all
have the same hash seed, they end without taking apart what was imported (`end`), and variables that are read while
modules are imported were read before. A program whose environment differs in one of these is refused, and must be
started as usual (`tests.programs` does so).

`pytest` starts the server (conftest.py), which imports when it is first asked.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import re
import runpy
import selectors
import signal
import socket
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

ADDRESS = "WARM_SERVER"
"""The variable with the address of the server's socket."""
MODULES = ("fastsia.cli", "fastsia.demo", "fastsia.evaluation", "fastsia.comparison", "fastsia.report")
EARLY = re.compile(
    "ACCELERATE|ATEN|COVERAGE|CUDA|DNNL|FASTSIA|GOMP|HF_(?!DATASETS)|HUGGINGFACE|KMP|LANG|LC_|LD_|MALLOC|MKL|MPL|NUMEXPR"
    "|OMP|ONEDNN|OPENBLAS|PYTHON|PYTORCH|TOKENIZERS|TORCH(?!INDUCTOR_CACHE)|TRANSFORMERS|TRITON|XDG"
)
"""How variables begin that may be read while `MODULES` are imported.

They do not import `datasets`; torch sets and reads its inductor's cache folder when it compiles.
"""

SURVIVOR = "jemalloc_bg_thd"
"""The name of the one thread that imports may start: that of Arrow's allocator, which starts it anew after a fork."""

STREAMS: dict[str, dict[str, Any]] = {
    "stdin": {"mode": "r"},
    "stdout": {"mode": "w"},
    "stderr": {"mode": "w", "buffering": 1, "errors": "backslashreplace"},
}
"""How Python opens its standard streams where they are files or pipes."""


class Command(NamedTuple):
    """What follows `python` on a command line, and where it runs. Of the standard streams, the numbers of open ones."""

    arguments: list[str]
    folder: str
    environment: dict[str, str]
    streams: list[int]


def ask(command: Command, descriptors: list[int]) -> tuple[socket.socket, int] | None:
    """Have the server run a command.

    Args:
        command: What to run.
        descriptors: What the program's open standard streams are, in the order of `command.streams`.

    Returns:
        A connection on which the exit code will come, and the id of the process; None where the server refuses, or
        there is none. The process is killed when the connection is closed.
    """
    address = os.environ.get(ADDRESS)
    if address is None:
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(address)
    socket.send_fds(connection, [json.dumps(command._asdict()).encode()], descriptors)
    answer = connection.recv(64)
    if not answer:
        raise RuntimeError("The server of warm programs has ended.")
    if pid := int(answer):
        return connection, pid
    connection.close()
    return None


def _threads() -> set[str]:
    """The names of this process's threads, "python" for its first."""
    own = str(os.getpid())
    return {
        "python" if number == own else Path(f"/proc/self/task/{number}/comm").read_text().strip()
        for number in os.listdir("/proc/self/task")
    }


def early(environment: dict[str, str]) -> dict[str, str]:
    """The variables that may be read while modules are imported."""
    return {name: value for name, value in environment.items() if EARLY.match(name)}


class _Child:
    """A running program."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid, self.connection = pid, connection
        self.handle = os.pidfd_open(pid)

    def close(self) -> None:
        os.close(self.handle)
        self.connection.close()


class Server:
    """Forks a process for each command that it is asked to run, and says how the process ended."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(sys.stdin, selectors.EVENT_READ, self._end)
        self._children: set[_Child] = set()
        self._given = dict(os.environ)
        self._added: dict[str, str] = {}
        self._has_imported = False

    def serve(self) -> Command:
        """Returns in the process of each program, with its command, and never in the server."""
        while True:
            for key, _ in self._selector.select():
                command = key.data()
                if command is not None:
                    return command

    def _accept(self) -> Command | None:
        connection, _ = self._listener.accept()
        message, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        command = Command(**json.loads(message))
        if not self._is_warm_for(command.environment):
            connection.sendall(b"0")
            connection.close()
        else:
            pid = os.fork()
            if pid == 0:
                self._leave(connection)
                _settle(command, descriptors, self._added)
                return command
            child = _Child(pid, connection)
            self._children.add(child)
            self._selector.register(child.handle, selectors.EVENT_READ, partial(self._ended, child))
            self._selector.register(connection, selectors.EVENT_READ, partial(self._left, child))
            connection.sendall(str(pid).encode())
        for descriptor in descriptors:
            os.close(descriptor)
        return None

    def _is_warm_for(self, environment: dict[str, str]) -> bool:
        """Whether imports in that environment give what they gave here, and have started no thread, which a fork lacks.

        Variables that the imports set themselves may have the same value, or be absent.
        """
        if not self._has_imported:
            self._import()
        is_alike = self._added | early(environment) == self._added | early(self._given)
        return is_alike and _threads() <= {"python", SURVIVOR}

    def _import(self) -> None:
        # As the command line does before it imports them: the streams of programs are files and pipes.
        os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        for name in MODULES:
            importlib.import_module(name)
        self._added = {name: value for name, value in os.environ.items() if name not in self._given}
        gc.freeze()  # a collection in a program would visit, and so copy, every page of what was imported
        self._has_imported = True

    def _leave(self, connection: socket.socket) -> None:
        """In a new process: close what is the server's."""
        connection.close()
        self._listener.close()
        self._selector.close()
        for child in self._children:
            child.close()

    def _ended(self, child: _Child) -> None:
        _, status = os.waitpid(child.pid, 0)
        self._selector.unregister(child.handle)
        if child.connection in self._selector.get_map():
            self._selector.unregister(child.connection)
            with suppress(BrokenPipeError):  # nobody waits for it any more
                child.connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
        self._children.remove(child)
        child.close()

    def _left(self, child: _Child) -> None:
        """Whoever asked for a program has closed the connection."""
        if child in self._children:
            self._selector.unregister(child.connection)
            os.kill(child.pid, signal.SIGKILL)

    def _end(self) -> None:
        """Whoever started the server has ended."""
        for child in self._children:
            os.kill(child.pid, signal.SIGKILL)
        os._exit(0)  # an ordinary exit takes apart what was imported, which lasts, and calls what is frozen a leak


def _settle(command: Command, descriptors: list[int], added: dict[str, str]) -> None:
    """Give this process a program's streams, signals, folder and environment."""
    places = dict(zip(command.streams, descriptors, strict=True))
    for number, (name, options) in enumerate(STREAMS.items()):
        if number in places:
            os.dup2(places[number], number)
            os.close(places[number])
            stream = os.fdopen(number, closefd=False, **options)
        else:  # as Python has it when the shell closed the stream
            os.close(number)
            stream = None
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(command.folder)
    os.environ.clear()
    os.environ.update(added | command.environment)
    sys.modules["numpy"].random.seed()  # a fork has its parent's generators; Python's own is seeded anew by itself


def run(command: Command) -> None:
    """What `python ARGUMENTS` does, of a module, a text or a script."""
    kind, *rest = command.arguments
    if kind == "-m":
        sys.path[0], sys.argv = command.folder, rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path[0], sys.argv = "", ["-c", *rest[1:]]
        module = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(module))
    else:
        sys.path[0], sys.argv = str(Path(kind).absolute().parent), command.arguments
        runpy.run_path(kind, run_name="__main__")


def end(code: int) -> None:
    """End this process as Python does, except that it does not take apart what was imported: a second or more.

    Returns if an output stream cannot be written, which Python then says in its own way.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        gc.unfreeze()
    else:
        os._exit(code)


def main(listener: socket.socket) -> None:
    """The server; and, in each process that it forks, a program from its start to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the programs and for who started the server
    command = Server(listener).serve()
    try:
        run(command)
    except SystemExit as asked:
        if asked.code is None or isinstance(asked.code, int):
            end((asked.code or 0) & 0xFF)
        gc.unfreeze()
        raise  # with a text, which Python writes
    except KeyboardInterrupt:
        gc.unfreeze()
        raise  # Python ends by a signal
    except BaseException:
        sys.excepthook(*sys.exc_info())
        end(1)
        sys.exit(1)
    end(0)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
