"""What the streaming stop saves: the same evaluation with and without it, answers compared rollout by rollout.

Three models: demo:sft and demo:base, which end soon after their answer by themselves, and demo:sft without its end
tokens, which goes on to the length limit like a model without a trained end. Or --model, on --task.

    python -m benchmarks.bench_stop --problems 32
    python -m benchmarks.bench_stop --model DIR --task gsm8k --data_dir DATA --problems 4 --num_rollouts 4 --stride 60

--rambling_problems is for the model without an end, which takes minutes per problem without the stop. Solutions of the
demo task end within 100 tokens, so --max_tokens is 120 by default.
"""

from __future__ import annotations

from typing import Any

from benchmarks.frame import emit, parse, show
from fastsia import Engine, FastsiaError, evaluate

KEYS = ("generated_tokens", "row_steps", "seconds", "num_stopped_at_answer")


def load(name: str, end: bool) -> Engine:
    """A model; without `end` its end tokens are drawn and written like any other."""
    engine = Engine.from_pretrained(name)
    if not end:
        assert engine.tokenizer is not None
        model: Any = engine.model
        for config in (model.config, model.generation_config):
            config.eos_token_id = None
        engine.tokenizer.eos_token = None
        if engine.eos_token_ids:
            raise FastsiaError(f"{name} still has end tokens: {engine.eos_token_ids}.")
    return engine


def main() -> None:
    counts_of = {"problems": 32, "rambling_problems": 4, "max_tokens": 120}
    options = parse(__doc__, "num_rollouts", "stride", model=str, task="demo", data_dir=str, **counts_of)
    settings = {name: getattr(options, name) for name in ("num_rollouts", "stride", "max_tokens", "data_dir")}
    models = [("demo:sft", True), ("demo:base", True), ("demo:sft", False)]
    shown: list[dict[str, Any]] = []
    for name, end in models if options.model is None else [(options.model, True)]:
        engine, problems = load(name, end), options.problems if end else options.rambling_problems
        label = f"{name} on {options.task}" + ("" if end else ", without an end")

        runs = {
            name: evaluate(engine, options.task, limit=problems, stop_at_answer=stop, **settings)
            for name, stop in (("off", False), ("on", True))
        }
        answers = {name: run.rollouts[["answer_strict", "answer_lenient"]] for name, run in runs.items()}
        if not answers["on"].equals(answers["off"]):
            raise FastsiaError(f"{label}: the stop changed an answer.")
        counts = {name: {key: run.summary[key] for key in KEYS} for name, run in runs.items()}
        saved = {f"saved_{key}": 1 - counts["on"][key] / counts["off"][key] for key in KEYS[:2]}
        shown += [{"model": label, "stop": name, **counts[name], **saved} for name in counts]
        row = {f"{key}_{name}": value for name, found in counts.items() for key, value in found.items()}
        row |= {"num_rollouts": len(answers["on"]), "answers_identical": True, "max_tokens": options.max_tokens}
        emit({"benchmark": "stop_at_answer", "model": label, "problems": problems, **row, **saved})
    show(shown, {f"saved_{key}": ".1%" for key in KEYS[:2]})


if __name__ == "__main__":
    main()
