"""What the streaming stop saves: the same evaluation with it and without, answers compared rollout by rollout.

Three models: demo:sft and demo:base, which end soon after their answer by themselves, and demo:sft with its end tokens
taken away, which rambles on to the length limit as models without a trained end do. Or one model of yours on a task.

    python benchmarks/bench_stop.py --problems 32
    python benchmarks/bench_stop.py --model DIR --task gsm8k --data_dir DATA --problems 4 --num_rollouts 4 --stride 60
"""

from __future__ import annotations

import argparse
from typing import Any

from common import emit
from rich.console import Console
from rich.table import Table

from fastsia import Engine, evaluate
from fastsia.errors import FastsiaError
from fastsia.results import SIAResult


def rambling(name: str) -> Engine:
    """The model without an end: its end tokens are drawn and written like any other."""
    engine = Engine.from_pretrained(name)
    assert engine.tokenizer is not None
    for config in (engine.model.config, engine.model.generation_config):
        config.eos_token_id = None
    engine.tokenizer.eos_token = None
    if engine.eos_token_ids:
        raise FastsiaError(f"{name} still has end tokens: {engine.eos_token_ids}")
    return engine


def measure(engine: Engine, problems: int, options: argparse.Namespace, stop: bool) -> SIAResult:
    drawing = {"num_rollouts": options.num_rollouts, "stride": options.stride, "max_tokens": options.max_tokens}
    where = {} if options.data_dir is None else {"data_dir": options.data_dir}
    return evaluate(engine, options.task, limit=problems, stop_at_answer=stop, **drawing, **where)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--rambling_problems", type=int, default=4, help="without the stop each is minutes of work")
    parser.add_argument("--max_tokens", type=int, default=120, help="solutions of the demo task end within 100")
    parser.add_argument("--model", help="one of your own in place of the three")
    parser.add_argument("--task", default="demo")
    parser.add_argument("--data_dir")
    parser.add_argument("--num_rollouts", type=int, default=20)
    parser.add_argument("--stride", type=int, help="the task's own by default")
    options = parser.parse_args()
    models = [
        ("demo:sft", lambda: Engine.from_pretrained("demo:sft"), options.problems),
        ("demo:base", lambda: Engine.from_pretrained("demo:base"), options.problems),
        ("demo:sft without an end", lambda: rambling("demo:sft"), options.rambling_problems),
    ]
    if options.model is not None:
        models = [
            (f"{options.model} on {options.task}", lambda: Engine.from_pretrained(options.model), options.problems)
        ]
    table = Table("model", "stop", "rollout tokens", "rows", "s", "stopped", "tokens saved", "rows saved")
    for label, load, problems in models:
        engine = load()
        runs = {stop: measure(engine, problems, options, stop) for stop in (False, True)}
        answers = {stop: run.rollouts[["answer_strict", "answer_lenient"]] for stop, run in runs.items()}
        if not answers[True].equals(answers[False]):
            raise FastsiaError(f"{label}: the stop changed an answer.")
        row: dict[str, Any] = {"benchmark": "stop_at_answer", "model": label, "problems": problems}
        for stop, run in runs.items():
            name = "on" if stop else "off"
            for key in ("generated_tokens", "row_steps", "seconds", "num_stopped_at_answer"):
                row[f"{key}_{name}"] = run.summary[key]
        saved = {key: 1 - row[f"{key}_on"] / row[f"{key}_off"] for key in ("generated_tokens", "row_steps")}
        for name in ("off", "on"):
            table.add_row(
                label,
                name,
                f"{row[f'generated_tokens_{name}']:,}",
                f"{row[f'row_steps_{name}']:,}",
                f"{row[f'seconds_{name}']:.1f}",
                f"{row[f'num_stopped_at_answer_{name}']:,}",
                *([f"{100 * saved[key]:.1f} %" for key in saved] if name == "on" else ["", ""]),
            )
        row |= {"num_rollouts": len(answers[True]), "answers_identical": True, "max_tokens": options.max_tokens}
        emit(row | {f"saved_{key}": share for key, share in saved.items()})
    Console().print(table)


if __name__ == "__main__":
    main()
