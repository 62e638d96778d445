"""`python -m benchmarks.gpu`: measure what is missing in a file of results. See docs/performance.md."""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.peers import PEERS
from benchmarks.gpu.plan import KINDS, measure, plan
from benchmarks.gpu.runner import Row, outcome, run
from benchmarks.harness import REPOSITORY


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--model", action="append", default=[], help="a name of the suite, or a folder with weights")
    parser.add_argument("--peer", action="append", default=[], choices=list(PEERS), help="only this one's rows")
    parser.add_argument("--kind", action="append", default=[], choices=KINDS)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/gpu-DATE.jsonl")
    parser.add_argument("--budget_s", type=float, default=float("inf"), help="start no row after so many seconds")
    parser.add_argument("--row_s", type=float, default=240.0, help="the limit of one row")
    parser.add_argument("--retry", action="store_true", help="run failed rows again, and those out of time")
    parser.add_argument("--list", action="store_true", help="print the rows in order and stop")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        one(**json.loads(given.measure))
        return
    rows = [row for row in plan(given.model, given.peer, given.device) if row.kind in (given.kind or KINDS)]
    if given.list:
        print("\n".join(row.key for row in rows))
        return
    kept = REPOSITORY / "benchmarks" / ("results" if given.device == "cuda" else ".work")
    output = given.output or kept / f"gpu-{datetime.date.today().isoformat()}.jsonl"
    left = run(rows, output, given.row_s, given.budget_s, ("failed", "timeout") if given.retry else ())
    print(f"{output}: {left} rows left" if left else f"{output}: all rows are there", flush=True)


def one(row: dict[str, Any], output: str, limit_s: float, result: str) -> None:
    """Measure one row in this process and write what came of it."""
    found = outcome(lambda: measure(Row(**row), Path(output), limit_s))
    Path(result).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
