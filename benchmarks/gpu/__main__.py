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
from benchmarks.gpu.rows import KINDS, CannotRunError, Row, measure, plan
from benchmarks.machine import REPOSITORY


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--model", action="append", default=[], help="a name of the suite, or a folder with weights")
    parser.add_argument("--peer", action="append", default=[], choices=list(PEERS), help="only this one's rows")
    parser.add_argument("--kind", action="append", default=[], choices=KINDS)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--toy", action="store_true", help="small shapes; always so on the CPU")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/gpu-DATE.jsonl")
    parser.add_argument("--budget_s", type=float, help="start no row when this many seconds are over")
    parser.add_argument("--row_s", type=float, default=240.0, help="the limit of one row")
    parser.add_argument("--retry", action="store_true", help="run failed rows again")
    parser.add_argument("--list", action="store_true", help="print the rows in order and stop")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    toy = options.toy or options.device == "cpu"
    if options.measure:
        one(Row(*json.loads(options.measure)), options.device, toy, options.row_s, options.result)
        return 0
    rows = [row for row in plan(options.model, options.peer, toy=toy) if row.kind in (options.kind or KINDS)]
    if options.list:
        print("\n".join(row.key for row in rows))
        return 0
    kept = REPOSITORY / "benchmarks" / ("results" if options.device == "cuda" else ".work")
    output = options.output or kept / f"gpu-{datetime.date.today().isoformat()}.jsonl"
    left = runner.run(rows, runner.Options(output, options.device, toy, options.row_s, options.budget_s, options.retry))
    print(f"{output}: {left} rows left" if left else f"{output}: all rows are there", flush=True)
    return 0


def one(row: Row, device: str, toy: bool, limit_s: float, result: Path) -> None:
    """Measure one row in this process and write what came of it."""
    try:
        found = {"status": "ok", "reason": None, "result": measure(row, device, toy, runner.WORK, limit_s)}
    except (CannotRunError, DoesNotFitError) as error:
        found = {"status": "skipped", "reason": str(error), "result": None}
    except Exception as error:
        traceback.print_exc()
        found = {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:1000], "result": None}
    result.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
