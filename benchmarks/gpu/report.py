"""`python -m benchmarks.gpu.report FILE...`: the tables (Markdown) and figures of measured rows.

A ratio is printed only between peers whose draws agree. Rows of the CPU are toys: they are drawn, and say so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.gpu import results
from benchmarks.gpu.growth import AXES

Rows = Sequence[dict[str, Any]]
TOY = "Toy sizes on a CPU: these show that the suite runs, and measure nothing."


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.report", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--figures", type=Path, help="folder for the figures")
    options = parser.parse_args(arguments)
    rows = [row for file in options.files for row in results.read(file)]
    if not rows:
        print(f"no rows in {', '.join(map(str, options.files))}", file=sys.stderr)
        return 1
    print(render(rows))
    if options.figures:
        for path in draw(rows, options.figures):
            print(f"\nwrote {path}", file=sys.stderr)
    return 0


def render(rows: Rows) -> str:
    """All tables, and what did not run."""
    parts = [_machine(rows), _peers(rows), _steady(rows), _growth(rows), _kernels(rows), _warned(rows), _missing(rows)]
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
                f"{one['decode']['computed_tokens_per_s']:,.0f}",
                f"{100 * one['fraction_of_floor']:.0f} %",
                f"{100 * one['fraction_of_own_floor']:.0f} %",
                f"{one['work']['computed_tokens_per_s']:,.0f}",
                f"{one['work']['tokens_per_s']:,.0f}",
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


def _growth(rows: Rows) -> str:
    lines = [
        [
            Path(row["model"]).name,
            one["axis"],
            ", ".join(f"{p['value']}: {p['seconds']:.2f}" for p in one["points"]),
            f"{one['slope']:.2f}",
            f"{one['slope_last3']:.2f}",
            f"{one['slope_computed_tokens']:.2f}",
            verdict(one),
        ]
        for row in ok(rows, "growth")
        for one in [row["result"]]
    ]
    head = ["model", "size", "seconds at each", "slope", "of the last three", "of row-steps", "wanted"]
    return "### Growth\n\nSlopes of the logarithms.\n\n" + table(head, lines) if lines else ""


def verdict(one: dict[str, Any]) -> str:
    """Linear in problems (once they fill the steps) and less than linear in N: what is asked of the engine."""
    if one["axis"] == "problems":
        return f"about 1: {'yes' if abs(one['slope_last3'] - 1) <= 0.15 else 'no'}"
    return f"under 1: {'yes' if one['slope'] < 1 else 'no'}" if one["axis"] == "N" else "–"


def _kernels(rows: Rows) -> str:
    lines = [
        [
            case["benchmark"],
            case["path"],
            ", ".join(str(value) for value in case["shape"].values()),
            f"{case['us']['p50']:,.1f}",
            f"{case['floor_us']:,.1f}",
            f"{case['times_floor']:.2f}",
        ]
        for row in ok(rows, "kernels")
        for case in row["result"]["cases"]
    ]
    head = ["kernel", "path", "shape", "µs", "floor µs", "× floor"]
    return "### Kernels\n\n" + table(head, lines) if lines else ""


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


# --- figures ---------------------------------------------------------------------------------------------------


def draw(rows: Rows, folder: Path) -> list[Path]:
    """peers.png and growth.png, where there are rows for them."""
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    return [path for path in (_draw_peers(rows, folder), _draw_growth(rows, folder)) if path]


def _draw_peers(rows: Rows, folder: Path) -> Path | None:
    """Tokens per second of every peer whose draws agree."""
    import matplotlib.pyplot as plt

    peers = [row for row in ok(rows, "peer") if row["result"]["agreement"]["agrees"]]
    models = list(dict.fromkeys(row["model"] for row in peers))
    if not models:
        return None
    count = [sum(row["model"] == model for row in peers) for model in models]
    figure, axes = plt.subplots(
        len(models), 1, figsize=(7, 0.6 + 0.32 * sum(count) + 0.5 * len(models)), height_ratios=count, squeeze=False
    )
    for model, axis in zip(models, axes[:, 0], strict=True):
        own = sorted((row for row in peers if row["model"] == model), key=lambda row: row["result"]["tokens_per_s"])
        names, rates = [row["name"] for row in own], [row["result"]["tokens_per_s"] for row in own]
        colours = ["tab:blue" if name.startswith("fastsia") else "tab:gray" for name in names]
        bars = axis.barh(names, rates, color=colours)
        axis.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=3, fontsize=8)
        axis.set_title(Path(model).name, loc="left", fontsize=9)
        axis.margins(x=0.15)
    axes[-1, 0].set_xlabel("rollout tokens per second")
    return _save(figure, rows, folder / "gpu_peers.png")


def _draw_growth(rows: Rows, folder: Path) -> Path | None:
    """Seconds over each size, both logarithmic, with the fitted line."""
    import matplotlib.pyplot as plt

    grown = {row["result"]["axis"]: row["result"] for row in ok(rows, "growth")}
    if not grown:
        return None
    figure, axes = plt.subplots(1, len(grown), figsize=(3.2 * len(grown), 3), squeeze=False)
    for name, axis in zip((name for name in AXES if name in grown), axes[0], strict=True):
        one = grown[name]
        values, seconds = (np.array([p[key] for p in one["points"]], dtype=float) for key in ("value", "seconds"))
        axis.loglog(values, seconds, "o")
        middle = np.exp(np.log(seconds).mean() - one["slope"] * np.log(values).mean())
        axis.loglog(values, middle * values ** one["slope"], "-", label=f"slope {one['slope']:.2f}")
        axis.set_xticks(values, [f"{value:g}" for value in values])
        axis.set_yticks(seconds, [f"{value:.2g}" for value in seconds])
        axis.minorticks_off()
        axis.set_xlabel(name)
        axis.legend(fontsize=8)
    axes[0, 0].set_ylabel("seconds")
    return _save(figure, rows, folder / "gpu_growth.png")


def _save(figure: Any, rows: Rows, path: Path) -> Path:
    if any(row["toy"] for row in rows):
        figure.suptitle(TOY, fontsize=8, color="tab:red")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    matplotlib.pyplot.close(figure)
    return path


if __name__ == "__main__":
    sys.exit(main())
