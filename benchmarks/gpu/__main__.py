"""`python -m benchmarks.gpu`: measure what is missing in a file of results. See docs/performance.md."""

from __future__ import annotations

import argparse
import datetime
import json
import traceback
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.models import CannotRunError
from benchmarks.gpu.peers import PEERS
from benchmarks.gpu.plan import KINDS, measure, plan
from benchmarks.gpu.runner import Row, run
from benchmarks.machine import REPOSITORY


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--model", action="append", default=[], help="a name of the suite, or a folder with weights")
    parser.add_argument("--peer", action="append", default=[], choices=list(PEERS), help="only this one's rows")
    parser.add_argument("--kind", action="append", default=[], choices=KINDS)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--output", type=Path, nargs="+", help="files alike; default: benchmarks/results/gpu-DATE.jsonl"
    )
    parser.add_argument("--budget_s", type=float, default=float("inf"), help="start no row after so many seconds")
    parser.add_argument("--row_s", type=float, default=240.0, help="the limit of one row")
    parser.add_argument("--retry", action="store_true", help="run failed rows again, and those out of time")
    parser.add_argument("--list", action="store_true", help="print the rows in order and stop")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        one(**json.loads(given.measure))
        return
    planned = plan(given.model, given.peer, given.device)
    rows = [row for row in planned if row.kind in (given.kind or KINDS)]
    if given.list:
        print("\n".join(row.key for row in rows))
        return
    kept = REPOSITORY / "benchmarks" / ("results" if given.device == "cuda" else ".work")
    outputs = given.output or [kept / f"gpu-{datetime.date.today().isoformat()}.jsonl"]
    left = run(rows, outputs, given.row_s, given.budget_s, ("failed", "timeout") if given.retry else ())
    print(f"{outputs[0]}: {left} rows left" if left else f"{outputs[0]}: all rows are there", flush=True)


def one(row: dict[str, Any], outputs: list[str], limit_s: float, result: str) -> None:
    """Measure one row in this process and write what came of it."""
    try:
        measured = measure(Row(**row), [Path(path) for path in outputs], limit_s)
        found: dict[str, Any] = {"status": "ok", "reason": None, "result": measured}
    except CannotRunError as error:
        found = {"status": "skipped", "reason": str(error), "result": None}
    except Exception as error:
        traceback.print_exc()
        found = {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:1000], "result": None}
    Path(result).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
