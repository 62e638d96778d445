"""`python -m benchmarks.gpu.report FILE...`: the tables of measured rows, in Markdown.

A ratio is printed only between peers whose draws agree. Rows of the CPU are toys: they are shown, and say so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.ledger import Ledger

Rows = Sequence[dict[str, Any]]
TOY = "Toy sizes on a CPU: these show that the suite runs, and measure nothing."


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.report", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    options = parser.parse_args(arguments)
    rows = [row for file in options.files for row in Ledger([file]).rows()]
    if not rows:
        print(f"no rows in {', '.join(map(str, options.files))}", file=sys.stderr)
        return 1
    print(render(rows))
    return 0


def render(rows: Rows) -> str:
    """All tables, and what did not run."""
    tables = (_machine, _tests, _kernels, _engine, _steady, _peers, _warned, _missing)
    parts = [make(rows) for make in tables]
    return "\n\n".join(part for part in parts if part)


def ok(rows: Rows, kind: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["kind"] == kind and row["status"] == "ok"]


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown; columns of numbers to the right."""
    columns = zip(*lines, strict=True)
    rule = ["---:" if all(cell[:1].isdigit() or cell == "–" for cell in column) else "---" for column in columns]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def _machine(rows: Rows) -> str:
    last = rows[-1]
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    where = last["gpu"] if last["device"] == "cuda" else f"{last['cpu']}, {last['cpus']} cores"
    toy = f"\n\n{TOY}" if any(row["toy"] for row in rows) else ""
    return f"{where}; commit {last['commit']}; {versions}.{toy}"


def _peers(rows: Rows) -> str:
    peers = ok(rows, "peer")
    if not peers:
        return ""
    lines = []
    for model in dict.fromkeys(row["model"] for row in peers):
        of = {row["name"]: row["result"] for row in peers if row["model"] == model}
        lines += [
            [
                Path(model).name,
                name + (" (scaled)" if one["part"]["scale"] != 1 else ""),
                f"{one['whole_seconds']:.2f}",
                f"{one['tokens_per_s']:,.0f}",
                _merged(one),
                ratio(of, "naive", name),
                ratio(of, "continuous", name),
                _draws(one),
            ]
            for name, one in sorted(of.items(), key=lambda item: -float(item[1]["whole_seconds"]))
        ]
    head = ["model", "peer", "seconds", "tokens/s", "tokens per computed token", "× naive", "× continuous", "draws"]
    return "\n\n".join(["### The same work", table(head, lines), _weights(peers)])


def _weights(peers: Rows) -> str:
    """Of every model, and how sure random ones were made."""
    found = {}
    for row in peers:
        weights, entropy = row["result"]["weights"], row["result"]["head_entropy"]
        found[Path(row["model"]).name] = weights if entropy is None else f"{weights}, {entropy:.3f} nats per token"
    return "Weights: " + "; ".join(f"{name} {weights}" for name, weights in found.items()) + "."


def ratio(of: dict[str, dict[str, Any]], base: str, name: str) -> str:
    """How many times as fast a peer is, where both draw what they should."""
    if base not in of or not (of[base]["agreement"]["agrees"] and of[name]["agreement"]["agrees"]):
        return "–"
    return f"{of[base]['whole_seconds'] / of[name]['whole_seconds']:.1f}"


def _draws(one: dict[str, Any]) -> str:
    fault = one["details"].get("fault")
    return ("agree" if one["agreement"]["agrees"] else "DISAGREE") + (f"; {fault}" if fault else "")


def _merged(one: dict[str, Any]) -> str:
    counters = one["details"].get("counters")
    return f"{counters['generated_tokens'] / max(counters['computed_tokens'], 1):.2f}" if counters else "–"


def _steady(rows: Rows) -> str:
    lines, parts = [], []
    for row in ok(rows, "steady"):
        one = row["result"]
        cells = [Path(row["model"]).name, str(one["rows"])]
        lines.append(
            [
                *cells,
                str(one["prefix"]),
                f"{one['decode']['computed_tokens_per_s']:,.0f}",
                f"{100 * one['fraction_of_floor']:.0f} %",
                f"{100 * one['fraction_of_own_floor']:.0f} %",
                *(
                    f"{one['work'][name]:,.0f}" if one["work"] else "–"
                    for name in ("computed_tokens_per_s", "tokens_per_s")
                ),
                f"{(one['memory']['weight_bytes'] + one['memory']['kv_used_bytes']) / 1e9:.1f}",
                f"{one['memory']['peak_bytes'] / 1e9:.1f}",
            ]
        )
        shares = ", ".join(f"{name} {ms:.2f}" for name, ms in one["parts_ms_per_step"].items())
        parts.append([*cells, shares])
    if not lines:
        return ""
    head = [
        "model",
        "rows",
        "trunk",
        "row-steps/s",
        "of the floor",
        "with its own products",
        "work: row-steps/s",
        "work: tokens/s",
        "GB in use",
        "GB peak",
    ]
    return "\n\n".join(
        [
            "### Steady state",
            table(head, lines),
            "Milliseconds of a profiled step:",
            table(["model", "rows", "parts"], parts),
        ]
    )


def _tests(rows: Rows) -> str:
    lines = []
    for row in ok(rows, "tests"):
        one = row["result"]
        counts = ", ".join(f"{number} {what}" for what, number in one["counts"].items())
        failed = [line for line in one["output"].splitlines() if line.startswith(("FAILED", "ERROR"))]
        lines.append([row["name"], counts + (", cut" if one["cut"] else ""), "; ".join(failed)])
    return "### Tests\n\n" + table(["part", "tests", "failed"], lines) if lines else ""


def _kernels(rows: Rows) -> str:
    lines = [
        [
            row["key"].split("/")[-2],
            Path(row["model"]).name,
            row["name"],
            f"{row['result']['us']['p50']:,.1f}",
            f"{row['result']['floor_us']:,.1f}",
            f"{row['result']['times_floor']:.2f}",
        ]
        for row in ok(rows, "case")
    ]
    head = ["kernel", "model", "case", "µs", "floor µs", "× floor"]
    return "### Kernels and products\n\n" + table(head, lines) if lines else ""


def _engine(rows: Rows) -> str:
    parts = []
    for row in ok(rows, "engine"):
        one = row["result"]
        kernels = [[kernel["name"], f"{kernel['calls']:.0f}", f"{kernel['ms']:.3f}"] for kernel in one["kernels"]]
        parts.append(
            f"### A step of {one['rows']} rows, {Path(row['model']).name}\n\n{one['ms_per_step']:.2f} ms, of which"
            f" {one['kernel_ms_per_step']:.2f} in kernels; made in {one['make_seconds']:.0f} s, with"
            f" {one['captures']} graphs.\n\n" + table(["kernel", "calls", "ms"], kernels)
        )
    return "\n\n".join(parts)


def _warned(rows: Rows) -> str:
    """Rows whose engine did without something, and would be faster with it."""
    lines = []
    for row in rows:
        result = row["result"] or {}
        engine = result.get("engine") or result.get("details", {}).get("engine") or {}
        lines += [[row["key"], warning] for warning in engine.get("warnings", ())]
    return "### Ran without\n\n" + table(["row", "warning"], lines) if lines else ""


def _missing(rows: Rows) -> str:
    lines = [[row["key"], row["status"], row["reason"] or ""] for row in rows if row["status"] != "ok"]
    return "### Did not run\n\n" + table(["row", "status", "why"], lines) if lines else ""


if __name__ == "__main__":
    sys.exit(main())
