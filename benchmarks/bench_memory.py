"""Does memory grow with the number of problems? Peak resident size of whole evaluations, each in a process of its own.

    python benchmarks/bench_memory.py --problems 50 500

Prints a table and ends in one JSON line. The pool of KV blocks is bounded by construction; its peak is shown beside.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.common import emit, provenance


def measure(model: str, problems: int, num_kv_blocks: int | None) -> dict[str, Any]:
    """Evaluate in this process; peak resident bytes, from the operating system's own account."""
    import fastsia

    settings: dict[str, Any] = {} if num_kv_blocks is None else {"num_kv_blocks": num_kv_blocks}
    result = fastsia.evaluate(fastsia.Engine.from_pretrained(model, **settings), "demo", limit=problems)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    counters = result.summary["counters"]
    return {
        "problems": problems,
        "peak_rss_bytes": peak,
        "peak_kv_blocks": counters["peak_kv_blocks"],
        "num_kv_blocks": result.summary["machine"]["num_kv_blocks"],
        "generated_tokens": counters["generated_tokens"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo:sft")
    parser.add_argument("--problems", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--num_kv_blocks", type=int)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.model, options.one, options.num_kv_blocks)))
        return
    rows = []
    for problems in options.problems:
        command = [sys.executable, "-m", "benchmarks.bench_memory", "--model", options.model, "--one", str(problems)]
        command += [] if options.num_kv_blocks is None else ["--num_kv_blocks", str(options.num_kv_blocks)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    table = Table("problems", "peak RSS (MiB)", "against the first", "peak KV blocks", "of")
    for row in rows:
        ratio = row["peak_rss_bytes"] / rows[0]["peak_rss_bytes"]
        table.add_row(
            str(row["problems"]),
            f"{row['peak_rss_bytes'] / 2**20:,.0f}",
            f"{ratio:.3f}",
            f"{row['peak_kv_blocks']:,}",
            f"{row['num_kv_blocks']:,}",
        )
    Console().print(table)
    emit({"benchmark": "memory", "model": options.model, "rows": rows, **provenance()})


if __name__ == "__main__":
    main()
