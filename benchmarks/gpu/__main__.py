"""`python -m benchmarks.gpu`: measure what is missing in a file of results. See docs/performance.md."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import traceback
from pathlib import Path

import torch

from benchmarks.gpu import runner
from benchmarks.gpu.models import DoesNotFitError
from benchmarks.gpu.peers import PEERS
from benchmarks.gpu.runner import KINDS, CannotRunError, Options, Row, measure, plan
from benchmarks.machine import REPOSITORY


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--model", action="append", default=[], help="a name of the suite, or a folder with weights")
    parser.add_argument("--peer", action="append", default=[], choices=list(PEERS), help="only this one's rows")
    parser.add_argument("--kind", action="append", default=[], choices=KINDS)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--toy", action="store_true", help="small shapes; always so on the CPU")
    parser.add_argument(
        "--output", type=Path, nargs="+", help="files alike; default: benchmarks/results/gpu-DATE.jsonl"
    )
    parser.add_argument("--budget_s", type=float, help="start no row when this many seconds are over")
    parser.add_argument("--row_s", type=float, default=240.0, help="the limit of one row")
    parser.add_argument("--retry", action="store_true", help="run failed rows again, and those out of time")
    parser.add_argument("--list", action="store_true", help="print the rows in order and stop")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    toy = given.toy or given.device == "cpu"
    kept = REPOSITORY / "benchmarks" / ("results" if given.device == "cuda" else ".work")
    outputs = given.output or [kept / f"gpu-{datetime.date.today().isoformat()}.jsonl"]
    options = Options(outputs, given.device, toy, given.row_s, given.budget_s, given.retry)
    if given.measure:
        one(Row(*json.loads(given.measure)), options, given.result)
        return 0
    rows = [row for row in plan(given.model, given.peer, toy=toy) if row.kind in (given.kind or KINDS)]
    if given.list:
        print("\n".join(row.key for row in rows))
        return 0
    left = runner.run(rows, options)
    print(f"{outputs[0]}: {left} rows left" if left else f"{outputs[0]}: all rows are there", flush=True)
    return 0


def one(row: Row, options: Options, result: Path) -> None:
    """Measure one row in this process and write what came of it."""
    try:
        found = {"status": "ok", "reason": None, "result": measure(row, options, options.row_seconds)}
    except (CannotRunError, DoesNotFitError) as error:
        found = {"status": "skipped", "reason": str(error), "result": None}
    except Exception as error:
        traceback.print_exc()
        found = {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:1000], "result": None}
    result.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
