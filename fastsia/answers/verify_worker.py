"""Compares LaTeX answers with Math-Verify, one pair a line, in a process of its own.

equivalence.py starts this file and ends it where a comparison takes too long: the package's own time-outs are signals,
which work in a main thread only and do not interrupt arithmetic on large integers. Imports nothing of fastsia, so that
the process starts soon.

In: a JSON line [gold, target, seconds]. Out: a JSON line, true or false; first of all "ready".
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from functools import lru_cache
from typing import Any

MAX_MEMORY = 4 << 30  # bytes of address space; a power of a power would take all there is


def main() -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the packages print is no answer
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))

    @lru_cache(maxsize=4096)
    def parsed(text: str) -> Any:
        # Only LaTeX: the other reader evaluates. U+2212 is no minus for it.
        config = [LatexExtractionConfig()]
        found = parse(f"${text.replace(chr(0x2212), '-')}$", config, fallback_mode="no_fallback", parsing_timeout=None)
        return found[0] if found else None

    print(json.dumps("ready"), file=out, flush=True)
    for line in sys.stdin:
        gold, target, seconds = json.loads(line)
        signal.alarm(int(seconds) + 5)  # ends this process even where nobody is left to do so
        try:
            first, second = parsed(gold), parsed(target)
            equal = first is not None and second is not None and bool(verify(first, second, timeout_seconds=None))
        except (Exception, RecursionError):
            equal = False
        signal.alarm(0)
        print(json.dumps(equal), file=out, flush=True)


if __name__ == "__main__":
    main()
