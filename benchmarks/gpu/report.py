"""`python -m benchmarks.gpu.report FILE...`: the tables of measured rows, in Markdown.

A ratio is printed only between peers whose draws agree. Rows of the CPU are toys: they are shown, and say so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.ledger import Ledger
from fastsia.report.headline import as_markdown
from fastsia.report.tables import ShownTable

Row = Mapping[str, Any]
TOY = "Toy sizes on a CPU: these show that the suite runs, and measure nothing."
# By kind of rows a heading and the columns, each with a format of the row's fields, of its result's, and of `derived`.
TABLES = {
    "tests": ("Tests", "part {name} | tests {counted} | failed {failed}"),
    "case": (
        "Kernels and products",
        "kernel {kernel} | model {short} | case {name} | µs {us[p50]:,.1f} | floor µs {floor_us:,.1f} | "
        "× floor {times_floor:.2f}",
    ),
    "engine": (
        "A step of the engine",
        "model {short} | rows {rows} | ms {ms_per_step:.2f} | of which in kernels {kernel_ms_per_step:.2f} | "
        "made in s {make_seconds:.0f} | graphs {captures}",
    ),
    "steady": (
        "Steady state",
        "model {short} | rows {rows} | trunk {prefix} | row-steps/s {decode[computed_tokens_per_s]:,.0f} | "
        "of the floor {fraction_of_floor:.0%} | with its own products {fraction_of_own_floor:.0%} | "
        "work: row-steps/s {work[computed_tokens_per_s]:,.0f} | work: tokens/s {work[tokens_per_s]:,.0f} | "
        "GB in use {gb_used:.1f} | GB peak {gb_peak:.1f} | ms of a profiled step {parts}",
    ),
    "peer": (
        "The same work",
        "model {short} | weights {sureness} | peer {peer} | seconds {whole_seconds:.2f} | "
        "tokens/s {tokens_per_s:,.0f} | tokens per computed token {merged:.2f} | "
        "× naive {times_naive:.1f} | × continuous {times_continuous:.1f} | draws {draws}",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.report", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    options = parser.parse_args(arguments)
    rows = [row for file in options.files for row in Ledger(file).rows()]
    if not rows:
        print(f"no rows in {', '.join(map(str, options.files))}", file=sys.stderr)
        return 1
    print(render(rows))
    return 0


def render(rows: Sequence[Row]) -> str:
    """All tables, and what did not run."""
    ok = [row for row in rows if row["status"] == "ok"]
    last, engines = rows[-1], [row for row in ok if row["kind"] == "engine"]
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    where = last["gpu"] if last["device"] == "cuda" else f"{last['cpu']}, {last['cpus']} cores"
    parts = [f"{where}; commit {last['commit']}; {versions}.", TOY if any(row["toy"] for row in rows) else ""]
    for kind, (title, columns) in TABLES.items():
        parts.append(table(title, columns, [derived(row, ok) for row in ok if row["kind"] == kind]))
    kernels = "kernel {name} | calls {calls:.0f} | ms {ms:.3f}"
    parts += [table(f"Kernels of {row['key']}", kernels, row["result"]["kernels"]) for row in engines]
    warned = [{"key": row["key"], "warning": warning} for row in ok for warning in _engine(row).get("warnings", ())]
    parts.append(table("Ran without", "row {key} | warning {warning}", warned))
    missing = [row for row in rows if row["status"] != "ok"]
    parts.append(table("Did not run", "row {key} | status {status} | why {reason}", missing))
    return "\n\n".join(filter(None, parts))


def table(title: str, columns: str, rows: Iterable[Row]) -> str:
    """Rows in Markdown; "–" where a format has no value."""

    def cell(form: str, row: Row) -> str:
        try:
            return form.format_map(row)
        except (KeyError, TypeError):
            return "–"

    named = [column.partition(" {") for column in columns.split(" | ")]
    cells = [[cell("{" + form, row) for _, _, form in named] for row in rows]
    return as_markdown(ShownTable(title, "", [name for name, _, _ in named], cells)) if cells else ""


def derived(row: Row, rows: Sequence[Row]) -> Row:
    """A row with its result's fields, and with what its kind's table shows beside these."""
    one = row["result"]
    found = {**row, **one, "short": row["model"] and Path(row["model"]).name, "kernel": row["key"].split("/")[-2]}
    if row["kind"] == "tests":
        failed = [line for line in one["output"].splitlines() if line.startswith(("FAILED", "ERROR"))]
        counts = [*(f"{number} {what}" for what, number in one["counts"].items()), *["cut"] * one["cut"]]
        found |= {"counted": ", ".join(counts), "failed": "; ".join(failed)}
    elif row["kind"] == "steady":
        gigabytes = {name: number / 1e9 for name, number in one["memory"].items()}
        found["gb_used"] = gigabytes["weight_bytes"] + gigabytes["kv_used_bytes"]
        found["gb_peak"] = gigabytes["peak_bytes"]
        found["parts"] = ", ".join(f"{name} {ms:.2f}" for name, ms in one["parts_ms_per_step"].items())
    elif row["kind"] == "peer":
        fault, counters, entropy = one["details"].get("fault"), one["details"].get("counters"), one["head_entropy"]
        found["peer"] = row["name"] + (" (scaled)" if one["part"]["scale"] != 1 else "")
        found["sureness"] = one["weights"] + ("" if entropy is None else f", {entropy:.3f} nats per token")
        found["draws"] = ("agree" if one["agreement"]["agrees"] else "DISAGREE") + (f"; {fault}" if fault else "")
        if counters:
            found["merged"] = counters["generated_tokens"] / max(counters["computed_tokens"], 1)
        for other in [other for other in rows if (other["kind"], other["model"]) == ("peer", row["model"])]:
            if one["agreement"]["agrees"] and other["result"]["agreement"]["agrees"]:
                found[f"times_{other['name']}"] = other["result"]["whole_seconds"] / one["whole_seconds"]
    return found


def _engine(row: Row) -> dict[str, Any]:
    return row["result"].get("engine") or row["result"].get("details", {}).get("engine") or {}


if __name__ == "__main__":
    sys.exit(main())
