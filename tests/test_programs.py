"""A program that is started warm is a process like any other."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm
from tests.programs import Program, begin_python, offline, run_python, run_shell

pytestmark = pytest.mark.skipif(warm.ADDRESS not in os.environ, reason="there are no warm programs on this system")

SAYS = """
import os, sys
print(sys.argv, os.getcwd(), os.environ.get("RAY_TMPDIR"), "transformers" in sys.modules)
print(sys.stdin.read(), file=sys.stderr)
sys.exit(7)
"""


def waiting() -> Program:
    """A warm program that has begun, and does not end."""
    process, line = begin_python("-c", "import time; print('waits', flush=True); time.sleep(600)")
    assert isinstance(process, Program)
    assert line == "waits\n"
    return process


def test_arguments_folder_environment_streams_and_exit_code(tmp_path: Path) -> None:
    done = run_python("-c", SAYS, "a", "-b", folder=tmp_path, RAY_TMPDIR="here")
    assert (done.returncode, done.stderr) == (7, "\n")
    assert done.stdout == f"['-c', 'a', '-b'] {tmp_path} here True\n"
    (tmp_path / "script.py").write_text("import beside, sys; sys.exit(f'{sys.argv} {beside.__name__} {__name__}')")
    (tmp_path / "beside.py").write_text("")
    done = run_python("script.py", "c", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "['script.py', 'c'] beside __main__\n")


def test_a_module_is_run_as_python_does_it() -> None:
    warmly = run_python("-m", "fastsia", "ls")
    coldly = subprocess.run([sys.executable, "-m", "fastsia", "ls"], capture_output=True, text=True, env=offline())
    assert (warmly.returncode, warmly.stdout, warmly.stderr) == (0, coldly.stdout, coldly.stderr)


def test_what_happens_at_the_end() -> None:
    """Exit functions run, buffers are written, an error is told with its traceback."""
    done = run_python("-c", "import atexit; atexit.register(print, 'ends'); print('begins'); 1 / 0")
    assert (done.returncode, done.stdout) == (1, "begins\nends\n")
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_signals_are_real(how: signal.Signals) -> None:
    process = waiting()
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=0.01)
    assert process.poll() is None
    process.send_signal(how)
    _, err = process.communicate()
    assert process.returncode == -how
    assert err.endswith("KeyboardInterrupt\n") == (how is signal.SIGINT)
    process.kill()  # it has ended: its id may be another's


def test_a_program_ends_with_whoever_asked_for_it() -> None:
    process = waiting()
    handle = os.pidfd_open(process.pid)
    assert not select.select([handle], [], [], 0)[0]
    process.close()
    assert select.select([handle], [], [], 60)[0], "its handle is readable once it has ended"
    os.close(handle)


def test_streams_that_are_closed_or_given(tmp_path: Path) -> None:
    program = (
        "import os, sys; print(sys.stdin, sys.stdout, sys.stderr, os.open('new', os.O_CREAT), file=open('out', 'w'))"
    )
    for closed, said in (((), "3"), ((1,), "1"), ((0, 1, 2), "0")):
        assert run_python("-c", program, closed=closed, folder=tmp_path).returncode == 0
        assert (tmp_path / "out").read_text().split()[-1] == said
        assert (tmp_path / "out").read_text().count("None") == len(closed)
    read, write = os.pipe()
    assert run_python("-c", "print(5)", stdout=write).stdout == ""
    os.close(write)
    with open(read) as file:
        assert file.read() == "5\n"


def test_variables_that_imports_read_need_a_cold_start() -> None:
    done = run_python("-c", "import sys; print('transformers' in sys.modules)", HF_HOME="/nowhere")
    assert done.stdout == "False\n"


def test_a_shells_fastsia_is_warm(tmp_path: Path) -> None:
    done = run_shell("fastsia ls | head -1; fastsia report nothing 2> said || echo $?; fastsia ls >&-", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2"
    assert (tmp_path / "said").read_text().startswith("fastsia: error: ")
