"""Compares LaTeX answers with Math-Verify, one pair per line, in its own process.

equivalence.py starts this file and ends it if a comparison takes too long: the time-outs of the package are signals,
which work only in a main thread and do not interrupt arithmetic on large integers. This file does not import fastsia,
so that the process starts fast.

Input: a JSON line [gold, target, seconds]. Output: the JSON line "ready", then true or false for each input.
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

MAX_MEMORY = 4 << 30  # bytes of address space; evaluating a power of a power could exhaust the memory


def main() -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # output of the packages must not be read as an answer
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))

    @lru_cache(maxsize=4096)
    def parsed(text: str) -> Any:
        # Only LaTeX: the other parser evaluates. It does not read U+2212 as a minus sign.
        config = [LatexExtractionConfig()]
        found = parse(f"${text.replace(chr(0x2212), '-')}$", config, fallback_mode="no_fallback", parsing_timeout=None)
        return found[0] if found else None

    print(json.dumps("ready"), file=out, flush=True)
    for line in sys.stdin:
        gold, target, seconds = json.loads(line)
        signal.alarm(int(seconds) + 5)  # ends this process even if the parent has died
        try:
            first, second = parsed(gold), parsed(target)
            equal = first is not None and second is not None and bool(verify(first, second, timeout_seconds=None))
        except (Exception, RecursionError):
            equal = False
        signal.alarm(0)
        print(json.dumps(equal), file=out, flush=True)


if __name__ == "__main__":
    main()
