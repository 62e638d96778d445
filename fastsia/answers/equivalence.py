"""Groups a trajectory's answers into classes of equal answers, by their spelling or with the package math-verify.

Math-Verify compares a gold answer with another one. Its comparison is neither symmetric nor transitive, so the classes
are the closure of both directions over the sorted distinct answers and do not depend on the order of the draws.
"""

from __future__ import annotations

import atexit
import json
import re
import select
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from fastsia.answers.spelling import FUNCTIONS
from fastsia.config import EQUIVALENCES, Equivalence
from fastsia.errors import FastsiaError

TIMEOUT_SECONDS = 5.0  # for one comparison
MAX_TIMEOUTS = 4  # for one answer in a trajectory; afterwards it is not compared again
_START_SECONDS = 120.0

Verify = Callable[[str, str], bool | None]


@dataclass(frozen=True)
class Classes:
    """The classes of a trajectory's answers.

    Attributes:
        representative: the representative of each distinct answer, including the gold: the gold for its class, else the
            first answer of the class in sorted order.
        num_timeouts: comparisons that took too long or exhausted the memory; their answers count as different.
    """

    representative: Mapping[str, str]
    num_timeouts: int = 0


def classes(answers: Sequence[str], gold: str, *, method: Equivalence, verify: Verify | None = None) -> Classes:
    """Return the classes of one trajectory's answers.

    Args:
        answers: canonical answers of the boxed format, in any order, without nulls.
        gold: the canonical gold answer.
        method: "spelling" compares texts. "math_verify" uses the package math-verify in a child process, so that any
            thread may call it and a comparison that takes too long can be ended.
        verify: replaces the package: (gold, target) -> whether they are equal, None after a time-out.

    Raises:
        FastsiaError: for an unknown method, or if the package is missing.
    """
    if method not in EQUIVALENCES:
        raise FastsiaError(f"equivalence must be one of {', '.join(EQUIVALENCES)}, got {method!r}.")
    distinct = sorted({*answers, gold})
    if method == "spelling":
        return Classes({answer: answer for answer in distinct})
    compare = verify or _math_verify()

    root = {answer: answer for answer in distinct}

    def find(answer: str) -> str:
        while root[answer] != answer:
            answer = root[answer]
        return answer

    num_timeouts = 0
    late: Counter[str] = Counter()
    for i, first in enumerate(distinct):
        for second in distinct[i + 1 :]:
            a, b = find(first), find(second)
            if a == b or not _are_comparable(first, second) or max(late[first], late[second]) >= MAX_TIMEOUTS:
                continue
            for one, other in ((first, second), (second, first)):
                equal = compare(one, other)
                if equal is None:
                    num_timeouts += 1
                    late.update((one, other))
                if equal:
                    root[max(a, b)] = min(a, b)
                    break
    of_gold = find(gold)
    roots = {answer: find(answer) for answer in distinct}
    return Classes({answer: gold if own == of_gold else own for answer, own in roots.items()}, num_timeouts)


_COMMAND = re.compile(r"\\[A-Za-z]+(?:\{[a-z]*matrix\})?")
_WORD = re.compile(r"[A-Za-z]{3,}|[^\W\d_a-zA-Z]")
_BASE = re.compile(r"\d_")
_SPOKEN = {"and", *(name.decode() for name in FUNCTIONS)}


def is_comparable(answer: str) -> bool:
    """Return whether Math-Verify can read an answer. It reads words as products of letters and drops number bases."""
    words = _WORD.findall(_COMMAND.sub(" ", answer))
    return all(word in _SPOKEN for word in words) and not _BASE.search(answer)


def _are_comparable(first: str, second: str) -> bool:
    """Whether both are comparable and no symbol differs only in its case: Math-Verify reads X as x."""
    symbols = [set(re.findall("[A-Za-z]", _COMMAND.sub(" ", answer))) for answer in (first, second)]
    differ = symbols[0] ^ symbols[1]
    return is_comparable(first) and is_comparable(second) and not any(symbol.swapcase() in differ for symbol in differ)


# The package --------------------------------------------------------------------------------------------------------


@dataclass
class _Worker:
    """The child process that compares. It is started on demand, and again after a time-out."""

    process: subprocess.Popen[str] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def compare(self, gold: str, target: str) -> bool | None:
        with self.lock:
            process = self.process or self._start()
            stdin: IO[str] = process.stdin  # type: ignore[assignment]
            try:
                stdin.write(json.dumps([gold, target, TIMEOUT_SECONDS]) + "\n")
                stdin.flush()
                answer = _line(process, TIMEOUT_SECONDS)
            except BrokenPipeError:
                answer = None
            if not answer:
                self._end()
                return None
            return bool(json.loads(answer))

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("verify_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            bufsize=1,
        )
        self.process = process
        if not _line(process, _START_SECONDS):
            self._end()
            raise FastsiaError("equivalence 'math_verify': the package math-verify could not be imported.")
        return process

    def _end(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.communicate()

    def close(self) -> None:
        with self.lock:
            self._end()


def _line(process: subprocess.Popen[str], seconds: float) -> str | None:
    """Read the next line of a process: "" if it has ended, None after a time-out."""
    stdout: Any = process.stdout
    ready, _, _ = select.select([stdout], [], [], seconds)
    return stdout.readline() if ready else None


_worker = _Worker()
atexit.register(_worker.close)


@lru_cache(maxsize=1 << 16)
def _compared(gold: str, target: str) -> bool | None:
    return _worker.compare(gold, target)


def _math_verify() -> Verify:
    if find_spec("math_verify") is None:
        raise FastsiaError(
            "equivalence 'math_verify' needs the package math-verify: pip install 'fastsia[math-verify]'."
        )
    return _compared
