"""A run in other tools' formats: the files of lm-evaluation-harness, and a folder for `datasets`."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fastsia import __version__
from fastsia.files import flatten, refuse_links, write_json, write_lines
from fastsia.sia import Estimate

FORMATS = ("lm_eval", "datasets")

# By the name in the harness's files: the trajectories' column, the summary's key, and whether higher is better.
_METRICS: dict[str, tuple[str, str, bool | None]] = {
    "exact_match": ("correct", "accuracy", True),
    "rho_pearson": ("rho", "rho.pearson", None),
    "rho_spearman": ("rho_spearman", "rho.spearman", None),
    "rho_cross_fitted": ("rho_cross_fitted", "rho.cross_fitted", None),
    "entropy_first": ("first_entropy", "entropy_first", None),
    "entropy_final": ("final_entropy", "entropy_final", None),
    "gain": ("gain", "gain", None),
}
# The harness names a metric after the filter that reads the answer; here fastsia reads it.
_FILTER = "fastsia"
# The harness's own filters return this if they find no answer.
_NO_ANSWER = "[invalid]"

_CONFIGS = {
    "trajectories": "one row per trajectory: tokens, text, answer, gold, correct, token entropies, ρ",
    "checkpoints": "one row per checkpoint: answer entropy, gold surprisal, gain, null rate, mode",
    "rollouts": "one row per rollout: answer, tokens, why it ended",
    "curves": "the points of every curve, with intervals",
    "problems": "one row per problem: question, gold, prompt",
}


def write_lm_eval(
    directory: Path, summary: Mapping[str, Any], problems: pd.DataFrame, trajectories: pd.DataFrame, finished: datetime
) -> Path:
    """Write MODEL/results_DATE.json and MODEL/samples_TASK_DATE.jsonl as lm-evaluation-harness 0.4.13 names its fields.

    Failed trajectories are left out, and problems without another one.

    Args:
        directory: the folder to write to.
        summary: of the run.
        problems: as `Store.problems`.
        trajectories: as `SIAResult.trajectories`.
        finished: the DATE, so that the same run is always exported under the same names.

    Returns:
        The results file.
    """
    samples = list(_samples(summary, problems, trajectories))
    folder, date = directory / _file_name(summary["model"]), finished.isoformat().replace(":", "-")
    results = folder / f"results_{date}.json"
    details = folder / f"samples_{_file_name(summary['task'])}_{date}.jsonl"
    directory.mkdir(parents=True, exist_ok=True)
    refuse_links(directory, (folder.name,))
    folder.mkdir(exist_ok=True)
    refuse_links(folder, (results.name, details.name))
    write_lines(details, (json.dumps(sample, ensure_ascii=False, allow_nan=False) for sample in samples))
    write_json(results, _results(summary, samples, finished))
    return results


def write_card(directory: Path, summary: Mapping[str, Any], title: str) -> Path:
    """Write the README.md of a `datasets` folder: a configuration for every table in its data/, and numbers of the run.

    Returns:
        The folder.
    """
    from huggingface_hub import DatasetCardData

    title = _one_line(title)
    there = {name: line for name, line in _CONFIGS.items() if (directory / "data" / f"{name}.parquet").is_file()}
    head = DatasetCardData(
        pretty_name=f"{title}, by fastsia",
        tags=["fastsia", "reasoning", "uncertainty"],
        configs=[
            {"config_name": name, "data_files": f"data/{name}.parquet"} | ({"default": True} if first else {})
            for name, first in zip(there, [True, *[False] * len(there)], strict=False)
        ],
    ).to_yaml()
    keys = {"accuracy": "accuracy", "null_rate": "null_rate", **_summary_keys()}
    shown = [f"| {name} | {_cells(Estimate.of_summary(summary, key))} |" for name, key in keys.items()]
    text = [
        f"---\n{head.strip()}\n---\n",
        f"# {_as_text(title)}\n",
        f"Reasoning trajectories, rollouts from their checkpoints, and the entropy of the rollouts' answers: "
        f"{summary['num_problems']:,} problems, {summary['num_trajectories']:,} trajectories, "
        f"{summary['num_checkpoints']:,} checkpoints, {summary['num_rollouts']:,} rollouts. "
        f"Evaluated by fastsia {_as_text(summary['version'])}; `summary.json` has every number and setting.\n",
        "```python\nimport datasets\n\n"
        + "\n".join(f'{name} = datasets.load_dataset(FOLDER, "{name}", split="train")' for name in there)
        + "\n```\n",
        "| configuration | |\n| --- | --- |",
        *(f"| `{name}` | {line} |" for name, line in there.items()),
        "\nEntropies and logarithms are natural (nats); a null answer means that there was none.\n",
        "| | value | 95 % interval |\n| --- | --- | --- |",
        *shown,
    ]
    write_lines(directory / "README.md", text)
    return directory


def _one_line(text: str) -> str:
    """A name on one line, without characters that control a terminal or the direction of text."""
    steering = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return " ".join("".join(" " if unicodedata.category(char) in steering else char for char in text).split())


def _as_text(name: str) -> str:
    """A name on one line, escaped so that Markdown shows it as text: no markup, link or picture."""
    escaped = re.sub(r"([\\`*_\[\]<>&|~$#!@])", r"\\\1", _one_line(name))
    return re.sub(r"(?i)(www)\.", r"\1\.", escaped.replace("://", "\\://"))


def _summary_keys() -> dict[str, str]:
    return {name: key for name, (_, key, _) in _METRICS.items() if name != "exact_match"}


def _cells(found: Estimate) -> str:
    value = "undefined" if found.value is None else f"{found.value:.3f}"
    return f"{value} | " + ("" if found.bounds is None else "{:.3f} to {:.3f}".format(*found.bounds))


# --- the harness's records -------------------------------------------------------------------------------------


def _samples(
    summary: Mapping[str, Any], problems: pd.DataFrame, trajectories: pd.DataFrame
) -> Iterator[dict[str, Any]]:
    """A record of the samples file for every problem; each trajectory is one of its responses."""
    config = summary["config"]
    settings = {
        "do_sample": config["temperature"] > 0,
        "temperature": config["temperature"],
        "top_p": config["top_p"],
        "max_gen_toks": config["max_tokens"],
    }
    drawn = trajectories[trajectories["finish_reason"] != "error"]
    responses = dict(iter(drawn.groupby("problem_id", sort=False)))
    for problem in problems.to_dict("records"):
        rows = responses.get(problem["problem_id"])
        if rows is None:
            continue
        doc = {"id": problem["problem_id"], "question": problem["question"], "answer": problem["gold"]}
        doc |= {} if problem["choices"] is None else {"choices": list(problem["choices"])}
        answers = [_NO_ANSWER if answer is None else answer for answer in rows["answer"]]
        yield {
            "doc_id": problem["position"],
            "doc": doc,
            "target": problem["gold"],
            "arguments": {"gen_args_0": {"arg_0": problem["prompt"], "arg_1": settings}},
            "resps": [rows["text"].tolist()],
            "filtered_resps": answers if len(answers) == 1 else [answers],
            "filter": _FILTER,
            "metrics": list(_METRICS),
            "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
            "prompt_hash": _hash(problem["prompt"]),
            "target_hash": _hash(problem["gold"]),
        } | {name: _mean(rows[column]) for name, (column, _, _) in _METRICS.items()}


def _results(summary: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], finished: datetime) -> dict[str, Any]:
    """The results file, without the fields that fastsia does not know (git_hash, the tokenizer's tokens)."""
    task, config, numbers = summary["task"], summary["config"], flatten(summary)
    metrics: dict[str, Any] = {}
    for name, (_, key, _) in _METRICS.items():
        metrics[f"{name},{_FILTER}"] = numbers[key]
        metrics[f"{name}_stderr,{_FILTER}"] = _stderr([sample[name] for sample in samples])
    settings = samples[0]["arguments"]["gen_args_0"]["arg_1"]
    return {
        "results": {task: {"name": task, "alias": task, "sample_len": len(samples), **metrics}},
        "group_subtasks": {},
        "configs": {
            task: {
                "task": task,
                "output_type": "generate_until",
                "num_fewshot": config["num_fewshot"],
                "repeats": config["num_trajectories"],
                "generation_kwargs": settings,
                "metric_list": [{"metric": name} for name in _METRICS],
                "metadata": {"version": __version__},
            }
        },
        "versions": {task: __version__},
        "n-shot": {task: config["num_fewshot"]},
        "higher_is_better": {task: {name: better for name, (_, _, better) in _METRICS.items()}},
        "n-samples": {task: {"original": summary["num_problems"], "effective": len(samples)}},
        "config": {
            "model": "fastsia",
            "model_args": {"pretrained": summary["model"]},
            "fastsia_version": summary["version"],
            "fastsia_backend": summary["backend"],
            "fastsia_engine": summary["machine"],
            "fastsia_config": dict(config),
            "gen_kwargs": settings,
            "random_seed": config["seed"],
        },
        "date": finished.timestamp(),
        "task_hashes": {
            task: _hash("".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in samples)),
        },
        "model_source": "fastsia",
        "model_name": summary["model"],
        "model_name_sanitized": _file_name(summary["model"]),
        "fewshot_as_multiturn": config["apply_chat_template"],
        # A killed run stored no time.
        **({} if summary["seconds"] is None else {"total_evaluation_time_seconds": str(summary["seconds"])}),
        "fastsia": dict(summary),
    }


def _file_name(name: str) -> str:
    """A model's name as a folder's name, as the harness makes it. It never leads out of the folder it is in."""
    safe = re.sub(r'["<>:/|\\?*\[\]\x00-\x1f]+', "__", name)
    return safe if safe.strip(".") else "run"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _mean(values: pd.Series) -> float | None:
    """The mean of the values that are defined."""
    mean = float(values.astype(float).mean())
    return None if np.isnan(mean) else mean


def _stderr(values: Sequence[float | None]) -> float | str:
    """The standard error of the mean over the defined values; "N/A", as in the harness, if there are fewer than two."""
    defined = np.array([value for value in values if value is not None])
    return float(defined.std(ddof=1) / np.sqrt(len(defined))) if len(defined) > 1 else "N/A"
