"""Output of the command line: safe text, tables, the headline numbers of a run, and its progress."""

from __future__ import annotations

import json
import logging
import re
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastsia.callbacks import Callback
from fastsia.errors import counted

if TYPE_CHECKING:
    from fastsia.callbacks import Progress
    from fastsia.comparison import Comparison
    from fastsia.report import ShownTable
    from fastsia.results import SIAResult
    from fastsia.results.schema import FinishedProblem

SECONDS_BEFORE_PROGRESS = 2.0
SECONDS_BETWEEN_LINES = 15.0  # where standard error is not a terminal
SECONDS_BETWEEN_TICKS = 1.0  # of the clock, while a step computes


def plain(text: str) -> str:
    """Text from a file or a model without control characters, bidirectional marks and surrogates."""
    return re.sub(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", "\ufffd", text
    )


def printable(text: str) -> str:
    """Plain text on one line: a file's name must not start a line that looks like one of fastsia's own."""
    return " ".join(part.strip() for part in plain(text).splitlines())


class Plain(logging.Formatter):
    """Log messages on one line each: they name files, problems and the words of servers."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def console() -> Console:
    """The console of standard output; 140 columns where that is not a terminal."""
    return Console() if sys.stdout.isatty() else Console(width=140)


def say(*lines: str) -> None:
    """Print lines without markup; on a terminal wrapped between words, and never within a path. Indents are kept."""
    width = console().width if sys.stdout.isatty() else 0
    for line in lines:
        text, indent = printable(line), " " * (len(line) - len(line.lstrip(" ")))
        if width:
            text = textwrap.fill(text, max(width - len(indent), 1), break_long_words=False, break_on_hyphens=False)
        whole = textwrap.indent(text, indent)
        console().print(whole, markup=False, highlight=False, soft_wrap=True)


def print_table(shown: ShownTable, *below: str) -> None:
    """Print a table with each interval under its value, then its caption and more lines.

    Cells are folded, never cut.
    """
    cells = [[plain(escape(cell)) for cell in row] for row in shown.lines()]
    table = Table(show_lines=any("\n" in cell for row in cells for cell in row))
    for name in shown.columns:
        table.add_column(plain(escape(name)), overflow="fold")
    for row in cells:
        table.add_row(*row)
    say(shown.title)
    console().print(table)
    say(*filter(None, (shown.caption, *below)))


# --- progress --------------------------------------------------------------------------------------------------


class _Lines:
    """A stream for tqdm off a terminal: each state of the bar becomes a line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=self._stream)

    def flush(self) -> None:
        self._stream.flush()


def progress_bar(name: str, unit: str = "", **settings: Any) -> Any:
    """A bar on standard error, or lines where that is not a terminal; nothing for two seconds."""
    from tqdm import tqdm

    on_terminal = sys.stderr.isatty()
    counts = "{n_fmt}/{total_fmt} " + unit + "{postfix}, {remaining} left"
    return tqdm(
        desc=printable(name),
        delay=SECONDS_BEFORE_PROGRESS,
        mininterval=0.1 if on_terminal else SECONDS_BETWEEN_LINES,
        smoothing=0,
        leave=False,
        dynamic_ncols=on_terminal,
        file=sys.stderr if on_terminal else _Lines(sys.stderr),
        **{
            "bar_format": "{desc} {bar} {elapsed} " + counts if on_terminal else "{desc}: " + counts,
            "miniters": 1,
            **settings,
        },
    )


@contextmanager
def counting_bar(name: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A `progress_bar`, moved by calls with how many are done and how many there are."""
    with progress_bar(name, unit=unit) as bar:

        def show_progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show_progress


class Shown(Callback):
    """A run's progress on standard error: a bar, or lines where that is not a terminal.

    A thread moves the clock while a step computes. `last` is the last progress that was reported.

    Args:
        name: of the task.
        how: where and how the run computes; said as it starts.
    """

    def __init__(self, name: str, how: str = "") -> None:
        self._name, self._how = name, how
        self._bar: Any = None
        self._at = 0.0
        self._showing = threading.Lock()
        self._is_over = threading.Event()
        self._ticker: threading.Thread | None = None
        self.last: Progress | None = None

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        if self._ticker is not None:
            self._ticker.join()
        if self._bar is not None:
            self._bar.close()

    def run_started(self, run: Mapping[str, Any], progress: Progress) -> None:
        already = f", {progress.resumed:,} of them stored already" if progress.resumed else ""
        parts = [f"{self._name}: {counted(progress.total, 'problem')}{already}", *filter(None, [self._how])]
        print(f"fastsia: {printable('; '.join(parts))}.", file=sys.stderr)
        shown = "{desc} {bar} {elapsed}" if sys.stderr.isatty() else "{desc}"
        self._bar = progress_bar(self._name, total=1.0, miniters=0, bar_format=shown)
        self.progressed(progress)
        self._ticker = threading.Thread(target=self._tick, name="fastsia-clock", daemon=True)
        self._ticker.start()

    def problem_finished(self, problem: FinishedProblem | None, progress: Progress) -> None:
        self.progressed(progress)

    def progressed(self, progress: Progress) -> None:
        self.last, self._at = progress, self._bar.format_dict["elapsed"]
        self._show()

    def _tick(self) -> None:
        while not self._is_over.wait(SECONDS_BETWEEN_TICKS):
            self._show()

    def _show(self) -> None:
        """Show the last progress; the time left falls while nothing is reported."""
        assert self.last is not None
        with self._showing:
            waited = self._bar.format_dict["elapsed"] - self._at
            self._bar.set_description_str(f"{printable(self._name)}: {status(self.last, waited)}", refresh=False)
            self._bar.update(share_done(self.last) - self._bar.n)


def status(progress: Progress, waited: float = 0.0) -> str:
    """The progress in a line: problems, rollouts, tokens per second, time left.

    Args:
        waited: seconds since it was reported.
    """
    from tqdm import tqdm

    expected = "" if progress.expected_rollouts is None else f" of about {_rounded(progress.expected_rollouts):,}"
    parts = [f"{progress.round}{progress.done}/{progress.total} problems", f"{progress.rollouts:,}{expected} rollouts"]
    tokens = progress.generated_tokens + progress.trajectory_tokens
    parts.append(f"{tokens:,} tokens, {tokens / max(progress.seconds, 1e-9):,.0f}/s")
    left = "?" if progress.seconds_left is None else tqdm.format_interval(max(progress.seconds_left - waited, 0))
    return ", ".join([*parts, f"{left} left"])


def share_done(progress: Progress) -> float:
    """The share of the run's time that is over, 0 to 1."""
    if progress.seconds_left is None:
        return progress.done / max(progress.total, 1)
    return progress.seconds / max(progress.seconds + progress.seconds_left, 1e-9)


def _rounded(number: float) -> int:
    """Three digits: a forecast has no more."""
    return int(float(f"{number:.3g}"))


# --- the table of a run ----------------------------------------------------------------------------------------


def show(result: SIAResult, written: list[str], form: str = "text") -> None:
    """Print the headline numbers with their intervals, then the cost, the warnings and the files written.

    Args:
        result: the run.
        written: lines about what was written.
        form: "text", "markdown", or "json": one object and nothing else on standard output.
    """
    from fastsia.report import headline_object, headline_table, show_readings  # matplotlib is slow

    summary = result.summary
    if form == "json":
        _print_object(headline_object(summary, result.trajectories), written)
        return
    tables = [headline_table(summary, result.trajectories), *filter(None, [show_readings(summary)])]
    _print_tables(tables, form)
    say(*_cost(summary), *(f"Note: {warning}" for warning in summary["warnings"]), *written)


def _cost(summary: Mapping[str, Any]) -> list[str]:
    from fastsia.report import time_spent

    if summary.get("generated_tokens") is None:
        return []
    line = f"{summary['generated_tokens']:,} rollout tokens"
    if summary.get("row_steps"):
        tokens = counted(summary["row_steps"], "token")
        line += f" from {tokens} computed for rollouts (merge factor {summary['merge_factor']:.1f})"
    if summary.get("seconds") is not None:
        line += f", {time_spent(summary)}"
    return [line + "."]


def _print_object(found: Mapping[str, Any], written: list[str]) -> None:
    """Print one JSON object on standard output, and the lines about what was written on standard error."""
    print(json.dumps(found, ensure_ascii=False, indent=1))
    print(*map(printable, written), sep="\n", end="\n" * bool(written), file=sys.stderr)


def _print_tables(tables: Iterable[ShownTable], form: str) -> None:
    from fastsia.report import as_markdown

    if form == "markdown":
        print(*(plain(as_markdown(table)) for table in tables), sep="\n\n", end="\n\n")
    else:
        for table in tables:
            print_table(table)


# --- runs side by side -----------------------------------------------------------------------------------------

_RUNS_ACROSS = 3  # fit a terminal of 80 columns
_MOST_RUNS_IN_PAIRS = 4
_LEVELS = ("run", "token_entropy", "answer_entropy_mean", "forking_share_fixed")
_DIFFERENCES = ("accuracy", "rho_pearson", "rho_cross_fitted", "token_entropy", "entropy_mean")


def print_comparison(found: Comparison, written: list[str], form: str = "text") -> None:
    """Print the runs, their differences and the notes; `written` and `form` as of `show`."""
    from fastsia.report import show_runs, show_table

    first, across = next(iter(found.runs)), _RUNS_ACROSS if form == "text" else len(found.runs)
    levels, differences = found.token_level, found.differences
    differences = differences[differences["quantity"].isin(_DIFFERENCES)]
    notes = list(found.notes)
    if len(found.runs) > _MOST_RUNS_IN_PAIRS:
        differences = differences[differences["minus"] == first]
        notes.append(f"only differences from {first} are shown; -o DIR writes those of every pair.")
    if form == "json":
        frames = {"runs": found.table, "differences": found.differences}
        if levels is not None:
            frames["token_level"] = levels
        # pandas writes what JSON lacks, such as NaN, as null.
        shown = {name: json.loads(frame.to_json(orient="records")) for name, frame in frames.items()}
        _print_object({**shown, "notes": list(found.notes)}, written)
        return
    parts = [found.table.iloc[begin : begin + across] for begin in range(0, len(found.table), across)]
    tables = [show_runs(part, only_headline=True) for part in parts]
    if levels is not None:
        columns = rf"^({'|'.join(_LEVELS)})(_low|_high)?$"
        rows = levels[levels["group"] == "all"].filter(regex=columns)
        tables.append(replace(show_table("token_level", rows), caption=""))  # it explains more columns than these
    tables.append(show_table("differences", differences))
    _print_tables(tables, form)
    say(*(f"Note: {note}" for note in notes), *written)
