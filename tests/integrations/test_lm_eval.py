"""lm-evaluation-harness itself, from its command line and in Python, on the demo model: `make test-lm-eval`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm-eval has an environment of its own: make test-lm-eval")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.result_schema import EvalResults, SampleResult
from lm_eval.tasks import TaskManager
from lm_eval.utils import (
    get_file_task_name,
    handle_non_serializable,
    hash_string,
    make_table,
    sanitize_model_name,
)

from fastsia import Engine, FastsiaError, answer_entropy, evaluate, extract_answers
from fastsia.integrations.lm_eval import FastsiaLM
from tests.tiny import tiny_model

from ..pages import programs
from ..programs import offline, run_shell
from .demo import WEIGHTS, problems

COUNT = 16
GREEDY = """
task: demo_greedy
include: base.yaml
output_type: generate_until
generation_kwargs: {until: ["\\n\\n"], do_sample: false, max_gen_toks: 120}
filter_list: [{name: strict, filter: [{function: regex, regex_pattern: "#### (-?[0-9.,]+)"}, {function: take_first}]}]
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
SAMPLED = GREEDY.replace("demo_greedy", "demo_sampled").replace("do_sample: false", "do_sample: true, temperature: 0.8")
SAMPLED += "repeats: 6\n"
CHOICE = """
task: demo_choice
include: base.yaml
output_type: multiple_choice
doc_to_text: "{{question}}\\nThe answer is"
doc_to_choice: ["{{gold}}", "{{gold}}0", "17", "none of these"]
doc_to_target: 0
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ROLLING = """
task: demo_rolling
include: base.yaml
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of task files on local data."""
    folder = tmp_path_factory.mktemp("tasks")
    lines = [json.dumps(problem) for problem in problems(COUNT)]
    (folder / "demo.jsonl").write_text("\n".join(lines), encoding="utf-8")
    base = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "demo.jsonl")}}}
    base |= {"test_split": "test", "doc_to_text": "{{question}}", "doc_to_target": "{{gold}}"}
    (folder / "base.yaml").write_text(json.dumps(base), encoding="utf-8")
    for text in (GREEDY, SAMPLED, CHOICE, ROLLING):
        name = text.split()[1]
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def run(model: str, arguments: str, task: str, tasks: Path, output: Path, *more: str) -> dict[str, Any]:
    """The harness's command line; its results file."""
    command = [sys.executable, "-m", "fastsia.integrations.lm_eval", "run", "--model", model, "--tasks", task]
    command += ["--model_args", arguments, "--include_path", str(tasks), "--output_path", str(output), "--log_samples"]
    done = subprocess.run(
        [*command, "--device", "cpu", *more], env=offline(), cwd=output.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert task in done.stdout
    (results,) = output.rglob("results_*.json")
    return json.loads(results.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def samples(output: Path) -> list[dict[str, Any]]:
    (path,) = output.rglob("samples_*.jsonl")
    return sorted(
        (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()), key=lambda s: s["doc_id"]
    )


@cache
def both() -> tuple[FastsiaLM, HFLM]:
    return FastsiaLM("demo:sft", num_kv_blocks=2048, seed=0), HFLM(pretrained=str(WEIGHTS), device="cpu", batch_size=4)


def instances(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, found, 0, ("t", i, 1)) for i, found in enumerate(arguments)]  # type: ignore[arg-type]


def test_greedy_generation_equals_hf(tasks: Path, tmp_path: Path) -> None:
    more = ("--apply_chat_template", "--batch_size", "auto")
    ours = run("fastsia", "pretrained=demo:sft", "demo_greedy", tasks, tmp_path / "ours", *more)
    theirs = run(
        "hf", f"pretrained={WEIGHTS}", "demo_greedy", tasks, tmp_path / "theirs", *more[:1], "--batch_size", "4"
    )
    assert [s["resps"] for s in samples(tmp_path / "ours")] == [s["resps"] for s in samples(tmp_path / "theirs")]
    assert ours["results"]["demo_greedy"] == theirs["results"]["demo_greedy"] | {"name": "demo_greedy"}
    assert ours["results"]["demo_greedy"]["exact_match,strict"] > 0.5
    for field in ("chat_template", "eot_token_id", "max_length", "tokenizer_eos_token"):
        assert ours[field] == theirs[field]
    assert ours["config"]["fastsia_engine"]["kernels"] in ("native", "reference")


def test_multiple_choice_equals_hf(tasks: Path, tmp_path: Path) -> None:
    ours = run("fastsia", "pretrained=demo:sft", "demo_choice", tasks, tmp_path / "ours")
    theirs = run("hf", f"pretrained={WEIGHTS}", "demo_choice", tasks, tmp_path / "theirs")
    for own, other in zip(samples(tmp_path / "ours"), samples(tmp_path / "theirs"), strict=True):
        for (((score, greedy),),), (((expected, is_greedy),),) in zip(
            [[r] for r in own["resps"]], [[r] for r in other["resps"]], strict=True
        ):
            assert float(score) == pytest.approx(float(expected), abs=1e-3)
            assert greedy == is_greedy
    for name in ("acc,none", "acc_norm,none"):
        assert ours["results"]["demo_choice"][name] == theirs["results"]["demo_choice"][name]


def test_perplexity_equals_hf(tasks: Path, tmp_path: Path) -> None:
    ours = run("fastsia", "pretrained=demo:sft", "demo_rolling", tasks, tmp_path / "ours")
    theirs = run("hf", f"pretrained={WEIGHTS}", "demo_rolling", tasks, tmp_path / "theirs")
    for name in ("word_perplexity,none", "bits_per_byte,none"):
        assert ours["results"]["demo_rolling"][name] == pytest.approx(theirs["results"]["demo_rolling"][name], rel=1e-4)


def test_repeats_are_one_prompt_and_their_entropies_are_beside_the_samples(tasks: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ours"
    arguments = f"pretrained=demo:sft,entropies_path={folder},num_rollouts=4,stride=16,max_tokens=120"
    more = ("--apply_chat_template", "--batch_size", "auto", "--limit", "5")
    run("fastsia", arguments, "demo_sampled", tasks, folder, *more)
    (path,) = folder.glob("entropies_demo_sampled_*.jsonl")
    records = {r["doc_id"]: r for r in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    found = samples(folder)
    assert len(found) == len(records) == 5
    for sample in found:
        record = records[sample["doc_id"]]
        (responses,) = sample["resps"]
        assert len(responses) == record["num_answers"] == 6
        assert record["answers"] == extract_answers(responses)
        assert record["entropy"] == pytest.approx(answer_entropy(record["answers"]))
        assert record["temperature"] == 0.8
        assert len(record["curves"]) == 6
        for curve in record["curves"]:
            assert curve["checkpoints"][:2] == [0, 16]
            assert len(curve["entropy"]) == len(curve["checkpoints"])
            assert curve["num_rollouts"] == 4
    assert any(record["entropy"] > 0 for record in records.values())
    # The same seed gives the same responses, whatever the batch size; another one does not.
    run("fastsia", "pretrained=demo:sft", "demo_sampled", tasks, tmp_path / "again", *more[:1], *more[3:])
    run("fastsia", "pretrained=demo:sft", "demo_sampled", tasks, tmp_path / "other", *more, "--seed", "5")
    assert [s["resps"] for s in samples(tmp_path / "again")] == [s["resps"] for s in found]
    assert [s["resps"] for s in samples(tmp_path / "other")] != [s["resps"] for s in found]


def test_a_prompt_is_prefilled_once_for_all_its_repeats() -> None:
    ours, _ = both()
    prompt = ours.apply_chat_template([{"role": "user", "content": problems(1)[0]["question"]}])
    settings = {"until": [], "do_sample": True, "temperature": 1.0, "max_gen_toks": 40}
    (request,) = instances("generate_until", (prompt, settings))
    before = ours.engine.counters.prefill_tokens
    texts = ours.generate_until([request] * 8, disable_tqdm=True)
    assert len(texts) == 8
    assert len(set(texts)) > 1
    assert ours.engine.counters.prefill_tokens - before == len(ours.tok_encode(prompt))
    assert ours.generate_until([request] * 3, disable_tqdm=True) == texts[:3]


@pytest.mark.parametrize("until", [["\n"], ["####"], ["equals", "="], ["<|im_end|>"], ["apples", " so"]])
def test_stop_texts_cut_as_hf_does(until: list[str]) -> None:
    ours, theirs = both()
    prompts = [ours.apply_chat_template([{"role": "user", "content": p["question"]}]) for p in problems(6)]
    settings = {"until": until, "do_sample": False, "max_gen_toks": 100}
    requests = instances("generate_until", *((prompt, settings) for prompt in prompts))
    assert ours.generate_until(requests, disable_tqdm=True) == theirs.generate_until(requests, disable_tqdm=True)


def test_loglikelihoods_of_long_and_empty_contexts_equal_hf() -> None:
    """Texts longer than the context in windows, contexts cut from the left, and no context at all."""
    ours, theirs = both()
    long = " ".join(problem["question"] for problem in problems(120))
    assert len(ours.tok_encode(long)) > 2 * ours.max_length > 0
    pairs = [
        ("", "Ada has 5 apples."),
        (long, " The answer is 5"),
        (long, " The answer is 7"),
        ("Ada has ", "3"),
        ("A", "B"),
    ]
    requests = instances("loglikelihood", *pairs)
    for own, other in zip(
        ours.loglikelihood(requests, disable_tqdm=True), theirs.loglikelihood(requests, disable_tqdm=True), strict=True
    ):
        assert own[0] == pytest.approx(other[0], abs=1e-3)
        assert own[1] == other[1]
    rolling = instances("loglikelihood_rolling", (long,), ("Ada has 5 apples.",))
    own_totals = ours.loglikelihood_rolling(rolling, disable_tqdm=True)
    assert own_totals == pytest.approx(theirs.loglikelihood_rolling(rolling, disable_tqdm=True), rel=1e-5)


def test_options_of_a_question_share_its_context() -> None:
    ours, _ = both()
    context = problems(1)[0]["question"]
    before = ours.engine.counters.prefill_tokens
    ours.loglikelihood(instances("loglikelihood", *((context, f" {n}") for n in range(8))), disable_tqdm=True)
    assert ours.engine.counters.prefill_tokens - before < 2 * len(ours.tok_encode(context))


def test_a_setting_that_the_engine_does_not_have_is_refused() -> None:
    ours, _ = both()

    def generate(**settings: Any) -> list[str]:
        return ours.generate_until(instances("generate_until", ("Ada", {"max_gen_toks": 2, **settings})), True)

    generate(top_k=5, do_sample=False)  # says nothing about greedy decoding
    with pytest.raises(FastsiaError, match="does not support top_k=5"):
        generate(top_k=5, do_sample=True, temperature=1.0)
    with pytest.raises(FastsiaError, match=r"does not support repetition_penalty=1\.1"):
        generate(repetition_penalty=1.1)
    with pytest.raises(FastsiaError, match="leaves no room"):
        generate(max_gen_toks=2048)


def test_marks_of_think_blocks_that_are_special_tokens_are_read(tmp_path: Path) -> None:
    """The harness's texts leave them out, so that the first number of a draft was the answer."""
    model, tokenizer = tiny_model(special=("[THINK]", "[/THINK]"))
    arguments = ("Question[THINK]", {"until": [], "do_sample": True, "temperature": 0.5, "max_gen_toks": 40})
    asked = [
        Instance("generate_until", {}, arguments, 0, ("marks", 0, 128))  # type: ignore[arg-type]
        for _ in range(128)
    ]
    responses = {}
    for name, token in (("plain", None), ("marked", "[/THINK]")):
        ours = FastsiaLM(Engine(model, tokenizer), entropies_path=str(tmp_path / name), think_end_token=token, seed=1)
        responses[name] = ours.generate_until(asked, disable_tqdm=True)
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(tmp_path.glob("*/*.jsonl"))]
    answers, also = (record["answers"] for record in records)
    assert answers == also
    # After its closing mark a response is shorter.
    after = [text.replace("[THINK]", "") for text in responses["marked"]]
    was_closed = [one.strip() != other.strip() for one, other in zip(responses["plain"], after, strict=True)]
    assert 3 < sum(was_closed) < 125
    assert all(answer is None or closed for answer, closed in zip(answers, was_closed, strict=True))
    assert sum(answer is not None for answer in answers) > 3


def test_curves_need_a_place() -> None:
    with pytest.raises(FastsiaError, match="num_rollouts needs entropies_path"):
        FastsiaLM("demo:sft", num_rollouts=4)


def test_in_python_an_engine_of_ones_own_and_the_cache_of_responses(tasks: Path, tmp_path: Path) -> None:
    """What the cache holds is not computed again."""
    engine = Engine.from_pretrained("demo:sft", num_kv_blocks=1024)
    task_manager = TaskManager(include_path=str(tasks))

    def evaluate() -> dict[str, Any]:
        found = lm_eval.simple_evaluate(
            model=FastsiaLM(engine),
            tasks=["demo_greedy", "demo_choice"],
            task_manager=task_manager,
            limit=3,
            use_cache=str(tmp_path / "cache"),
            apply_chat_template=True,
            bootstrap_iters=0,
        )
        assert found is not None
        return found["results"]  # type: ignore[no-any-return]

    first = evaluate()
    drawn = engine.counters.generated_tokens, engine.counters.forced_tokens
    assert evaluate() == first
    assert (engine.counters.generated_tokens, engine.counters.forced_tokens) == drawn


def test_an_unknown_model_ends_as_the_harness_ends_it(tasks: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "fastsia.integrations.lm_eval",
        "run",
        "--model",
        "fastsia",
        "--tasks",
        "demo_greedy",
    ]
    command += ["--include_path", str(tasks), "--model_args", "pretrained=demo:stf"]
    done = subprocess.run(command, env=offline(), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "'demo:stf' is not a demo model; there are:" in done.stderr


def test_a_run_of_fastsias_own_is_exported_as_the_harness_would_write_it(tmp_path: Path) -> None:
    """Every field is one that the harness has, and its table reads the file."""
    settings = {"num_rollouts": 4, "stride": 16, "num_bootstrap": 20, "num_splits": 2}
    result = evaluate("demo:sft", "demo", limit=6, **settings)  # type: ignore[arg-type]
    file = result.to_lm_eval(tmp_path)
    assert file.parent.name == sanitize_model_name("demo:sft")
    results = json.loads(file.read_text(encoding="utf-8"))
    assert set(results) - {"fastsia"} <= set(EvalResults.__annotations__)
    table = make_table(results)
    assert re.search(rf"\| *0\|exact_match +\|↑ +\| *{result.summary['accuracy']:.4f}\|", table), table
    assert get_file_task_name(next(tmp_path.rglob("samples_*")).name) == "demo"
    for sample in samples(tmp_path):
        assert set(sample) - set(sample["metrics"]) == set(SampleResult.__annotations__)
        doc = json.dumps(sample["doc"], indent=2, default=handle_non_serializable, ensure_ascii=False)
        assert sample["doc_hash"] == hash_string(doc)
        assert sample["prompt_hash"] == hash_string(sample["arguments"]["gen_args_0"]["arg_0"])


def test_the_pages_commands_run(tmp_path: Path) -> None:
    (text,) = programs("lm_eval.md", "sh")
    done = run_shell(text, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "demo_self_consistency" in done.stdout
    (path,) = (tmp_path / "results").glob("entropies_demo_self_consistency_*.jsonl")
    assert len(path.read_text(encoding="utf-8").splitlines()) == 16
    assert len(list((tmp_path / "results").rglob("results_*.json"))) == 1
