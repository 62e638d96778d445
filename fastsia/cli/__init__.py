"""The command line. Options are spelled as lm-evaluation-harness spells them; `-` and `_` are the same."""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import sys
from typing import Annotated, Any, NoReturn

import typer

from fastsia import __version__, renamed
from fastsia.cli import commands, doctor, run
from fastsia.cli.options import GroupedCommand
from fastsia.cli.render import Plain, printable
from fastsia.cli.run import Terminated
from fastsia.errors import FastsiaError

# Errors of writing to an open file, which name no file. Other OSErrors without a file name are bugs of fastsia.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG}


def current_name(name: str) -> str:
    """The name of an option or command with `_` for `-`; for an old name the current one, after a line that says so."""
    name = name.replace("-", "_")
    new = (renamed.SETTINGS | renamed.COMMANDS).get(name, name)
    if new != name:
        print(f"fastsia: {renamed.sentence(name, new)}", file=sys.stderr)
    return new


app = typer.Typer(
    name="fastsia",
    help="Measure how a language model's answer uncertainty changes while it reasons.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"token_normalize_func": current_name},
)
for command in (
    *(
        run.run,
        commands.ls,
        commands.show,
        commands.report,
        commands.view,
        commands.export,
        commands.compare,
        commands.reproduce,
        commands.plan,
    ),
    *(commands.loglikelihood, commands.steps, commands.forks, commands.analyze, doctor.doctor),
):
    app.command(cls=GroupedCommand)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fastsia {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Entry point. Exit codes: 2 for an input error (one sentence), 130 for Ctrl-C, 143 for SIGTERM, 141 for a closed
    pipe."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell (>&-); the next file to be opened would take its place
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if not sys.stderr.isatty():  # must be set before these are imported: in a file their bars are a line per step
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack characters that a model writes
            stream.reconfigure(errors="replace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Plain("fastsia: %(message)s"))
    logging.getLogger("fastsia").addHandler(handler)
    try:
        try:
            code = _run(sys.argv[1:])
        finally:
            _ignore_signals()
    except KeyboardInterrupt:  # raised while `_run` was reporting an error
        code = 130
    except Terminated:
        code = 143
    sys.exit(code)


def _ignore_signals() -> None:
    """A second signal would only interrupt the interpreter's own shutdown."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _terminate(*_: Any) -> NoReturn:
    raise Terminated


def _run(arguments: list[str]) -> int:
    """The exit code of `fastsia ARGUMENTS`."""
    try:
        code = app(arguments or ["--help"], standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except FastsiaError as error:
        return _complain(str(error))
    except Terminated:
        return 143
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except (BrokenPipeError, SystemExit):
        # The reader of the output is gone; typer and rich exit then. The interpreter flushes the streams once more.
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 141
    except OSError as error:
        if error.filename is not None:
            return _complain(f"{error.filename}: {error.strerror}.")
        if error.errno in _DISK_ERRORS:
            return _complain(f"a file cannot be read or written: {os.strerror(error.errno)}.")
        raise
    except Exception as error:
        # Some versions of typer have their own copy of click, others import it: a usage error is known by this method.
        if hasattr(error, "format_message"):
            return _complain(str(error.format_message()))
        raise


def _complain(sentence: str) -> int:
    print(f"fastsia: error: {printable(sentence)}", file=sys.stderr)
    return 2
