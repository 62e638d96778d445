"""Runs side by side: what they are called, and which problems are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fastsia import FastsiaError, SIAConfig, analyze
from fastsia.comparison import compare, labels
from tests.report.synthetic import rollouts

QUICK = SIAConfig(num_bootstrap=50, num_splits=2)


def saved(folder: Path, *, seed: int = 0, config: SIAConfig = QUICK, **summary: Any) -> Path:
    """A results folder of a made-up table."""
    result = analyze(rollouts(12, 6, seed=seed), config=config)
    result.summary.update(summary)
    return result.save(folder)


@pytest.mark.parametrize(
    ("summaries", "expected"),
    [
        ([("Qwen/Qwen2.5-3B", "gsm8k"), ("demo:sft", "gsm8k")], ["Qwen2.5-3B", "demo:sft"]),
        ([("/models/a/ckpt-1/", "gsm8k"), ("/models/a/ckpt-2", "gsm8k")], ["ckpt-1", "ckpt-2"]),
        ([("demo:sft", "demo"), ("demo:sft", "svamp")], ["demo", "svamp"]),
        (
            [("demo:sft", "demo"), ("demo:sft", "svamp"), ("demo:rl", "demo")],
            ["demo:sft · demo", "demo:sft · svamp", "demo:rl · demo"],
        ),
        ([("demo:sft", "demo"), ("demo:sft", "demo", True)], ["demo:sft · demo", "demo:sft · demo, shuffled"]),
        ([("demo:sft", "demo"), ("demo:sft", "demo")], ["0", "1"]),
        ([(None, None), (None, None)], ["0", "1"]),
    ],
)
def test_labels_are_as_short_as_they_can_be(summaries: list[Any], expected: list[str]) -> None:
    found = labels(
        [Path(f"/runs/{i}/x/{i}") for i in range(len(summaries))],
        [{"model": s[0], "task": s[1], "config": {"shuffle_prefix": len(s) > 2}} for s in summaries],
    )
    assert found == expected


def test_a_run_against_itself_and_another(tmp_path: Path) -> None:
    one, other = (saved(tmp_path / name, seed=i, model=name, task="made-up") for i, name in enumerate("ab"))
    found = compare([one, other])
    assert list(found.runs) == ["a", "b"]
    row = found.differences.set_index("quantity").loc["rho_pearson"]
    rho = [result.summary["rho"]["pearson"] for result in found.runs.values()]
    assert row["difference"] == pytest.approx(rho[1] - rho[0])
    assert (row["num_problems"], row["paired"]) == (12, True)
    assert found.notes == []
    page = found.save(tmp_path / "out")
    assert page == tmp_path / "out" / "comparison.html"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"comparison.html", "figures", "tables"}
    again = pd.read_parquet(tmp_path / "out" / "tables" / "differences.parquet")
    assert again["difference"].tolist() == found.differences["difference"].tolist()
    assert found.save(tmp_path / "new" / "page.html").is_file()
    assert not (tmp_path / "new" / "figures").exists()


def test_problems_of_different_tasks_are_never_the_same(tmp_path: Path) -> None:
    """Both number their problems p0, p1, ...: paired, strangers would be subtracted from each other."""
    folders = [saved(tmp_path / task, model="m", task=task) for task in ("one", "other")]
    assert not compare(folders).differences["paired"].any()


def test_settings_that_differ_are_said(tmp_path: Path) -> None:
    one = saved(tmp_path / "a", model="a", task="t")
    other = saved(tmp_path / "b", model="b", task="t", config=SIAConfig(num_bootstrap=50, num_splits=2, smoothing=1.0))
    assert compare([one, other]).notes == [
        "The runs differ in smoothing (0.5, 1.0); H and ρ depend on these settings too."
    ]


def test_runs_that_differ_in_temperature_only_are_a_sweep(tmp_path: Path) -> None:
    folders = []
    for k, temperature in enumerate((1.0, 0.3, 0.7)):
        config = SIAConfig(num_bootstrap=50, num_splits=2, temperature=temperature)
        folders.append(saved(tmp_path / str(k), seed=k, config=config, task="made-up", model="m"))
    found = compare(folders)
    assert found.temperature_sweep is not None
    assert found.temperature_sweep["temperature"].tolist() == [0.3, 0.7, 1.0]
    assert found.entropy_performance is not None
    assert found.entropy_performance["num_runs"].tolist() == [3]
    page = found.save(tmp_path / "out").read_text(encoding="utf-8")
    assert "Temperature sweep" in page
    assert (tmp_path / "out" / "tables" / "entropy_performance.parquet").exists()
    other = saved(tmp_path / "other", task="made-up", model="another", config=QUICK)
    assert compare([folders[0], other]).temperature_sweep is None


def test_what_cannot_be_compared_is_one_sentence(tmp_path: Path) -> None:
    one = saved(tmp_path / "a")
    with pytest.raises(FastsiaError, match="two or more results folders, got 1"):
        compare([one])
    with pytest.raises(FastsiaError, match="is given twice"):
        compare([one, tmp_path / "." / "a"])
    with pytest.raises(FastsiaError, match="does not exist"):
        compare([one, tmp_path / "b"])
    with pytest.raises(FastsiaError, match=r"contains neither run.sqlite nor"):
        compare([one, tmp_path])


def test_a_run_folder_is_no_place_for_a_comparison(tmp_path: Path) -> None:
    """Its tables have names of the comparison's; a comparison's own folder may be written again."""
    folders = [saved(tmp_path / name, seed=i, model=name, task="made-up") for i, name in enumerate("ab")]
    before = {file: file.read_bytes() for file in folders[0].rglob("*") if file.is_file()}
    found = compare(folders)
    with pytest.raises(FastsiaError, match="contains a run; save the comparison to another folder"):
        found.save(folders[0])
    assert {file: file.read_bytes() for file in folders[0].rglob("*") if file.is_file()} == before
    for _ in range(2):
        found.save(tmp_path / "out")
