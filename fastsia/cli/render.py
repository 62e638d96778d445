"""Output of the command line: safe text, tables, the headline numbers of a run, and its progress."""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastsia.callbacks import Callback
from fastsia.errors import counted

if TYPE_CHECKING:
    from fastsia.callbacks import Progress
    from fastsia.report import ShownTable
    from fastsia.results import SIAResult
    from fastsia.results.schema import FinishedProblem
    from fastsia.sia import Estimate

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
    """Print lines as they are, without markup."""
    for text in lines:
        console().print(printable(text), markup=False, highlight=False, soft_wrap=True)


def print_table(shown: ShownTable, *below: str) -> None:
    """Print a table with each interval under its value, then its caption and more lines."""
    cells = [[plain(escape(cell)) for cell in row] for row in shown.lines()]
    table = Table(show_lines=any("\n" in cell for row in cells for cell in row))
    for name in shown.columns:
        table.add_column(plain(escape(name)))
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


class Shown(Callback):
    """A run's progress on standard error: a bar, or lines where that is not a terminal.

    A thread moves the clock while a step computes. `last` is the last progress that was reported.

    Args:
        name: of the task.
        how: where and how the run computes; said before its progress.
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
            if self._how and self._bar.format_dict["elapsed"] >= SECONDS_BEFORE_PROGRESS:
                self._bar.write(f"fastsia: {printable(self._how)}.", file=sys.stderr)
                self._how = ""
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
    parts = [f"{progress.done}/{progress.total} problems", f"{progress.rollouts:,}{expected} rollouts"]
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


def show(result: SIAResult, written: list[str]) -> None:
    """Print the headline numbers with their intervals, then the cost, the warnings and the files written."""
    from fastsia.report import show_readings  # imports matplotlib, which is slow
    from fastsia.sia import Estimate
    from fastsia.sia.compare import auc_at

    summary = result.summary
    names = [str(summary[key]) for key in ("model", "task") if summary.get(key)]
    # Not the table's own title, which would wrap at the table's width.
    say(f"{' · '.join(names) or 'table of rollouts'}: {counted(summary['num_problems'], 'problem')}")
    table = Table()
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column("95 % interval")

    def row(name: str, found: Estimate, percent: bool = False) -> None:
        spell = (lambda x: f"{100 * x:.1f} %") if percent else (lambda x: f"{x:.3f}")
        shown, bounds = "undefined" if found.value is None else spell(found.value), found.bounds
        table.add_row(name, shown, "" if bounds is None else f"{spell(bounds[0])} to {spell(bounds[1])}")

    def numbers(rows: Mapping[str, str], percent: bool = False) -> None:
        for key, name in rows.items():
            row(name, Estimate.of_summary(summary, key), percent)

    numbers({"accuracy": "accuracy", "null_rate": "null rate (rollouts without an answer)"}, percent=True)
    if summary.get("cut_rate") is not None:
        numbers({"cut_rate": "cut rollouts (ended by the token limit)"}, percent=True)
    for name, found in rho_rows(result):
        row(name, found)
    numbers({"rho.undefined_fraction": "ρ undefined (share of trajectories)"}, percent=True)
    if summary["rho"].get("share_moving") is not None:
        numbers({"rho.share_moving": "distribution probably changes (share of trajectories)"}, percent=True)
    for name, at in (("AUC of -H half way", 0.5), ("AUC of -H at the end", 1.0)):
        if (auc := auc_at(summary, at)) is not None:
            row(name, auc)
    numbers({"entropy_first": "H at the start, nats", "entropy_final": "H at the end, nats"})
    if summary.get("off_policy"):
        numbers({"gain": "information gain, nats"})
    console().print(table)
    readings = show_readings(summary)
    if readings is not None:
        print_table(readings)
    say(*_cost(summary), *(f"Note: {warning}" for warning in summary["warnings"]), *written)


def rho_rows(result: SIAResult) -> Iterator[tuple[str, Estimate]]:
    """The paper's and the recommended mean rho, over all trajectories and by outcome, and what to compare them with."""
    from fastsia.report import recommended_name  # imports matplotlib, which is slow
    from fastsia.sia import Estimate, outcome_baseline

    frame, rho = result.trajectories, result.summary["rho"]
    best = rho.get("recommended")
    kinds = {"pearson": "ρ, the paper's"} | ({} if best is None else {best: recommended_name(best)})
    for key, name in kinds.items():
        defined = frame["rho" if key == "pearson" else f"rho_{key}"].notna()
        correct = frame["correct"].astype(bool)
        yield f"{name}: {counted(int(defined.sum()), 'trajectory')}", Estimate.of_summary(result.summary, f"rho.{key}")
        for group, member in (("correct", defined & correct), ("incorrect", defined & ~correct)):
            yield f"   ends {group}: {member.sum()}", Estimate.of_summary(result.summary, f"rho.{key}_{group}")
    if not result.summary.get("off_policy"):
        baseline = Estimate.of_summary(result.summary, "rho.baseline")
        yield "2·accuracy − 1 where ρ is defined", baseline if best else Estimate(outcome_baseline(frame))
    if rho.get("expected_from_noise") is not None:
        expected = Estimate.of_summary(result.summary, "rho.expected_from_noise")
        yield "the paper's ρ if the distribution did not change", expected


def _cost(summary: Mapping[str, Any]) -> list[str]:
    if summary.get("generated_tokens") is None:
        return []
    line = f"{summary['generated_tokens']:,} rollout tokens"
    if summary.get("row_steps"):
        tokens = counted(summary["row_steps"], "token")
        line += f" from {tokens} computed for rollouts (merge factor {summary['merge_factor']:.1f})"
    if summary.get("seconds") is not None:
        line += f", {summary['seconds']:.1f} s"
    return [line + "."]
