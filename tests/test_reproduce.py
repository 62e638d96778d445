"""The paper's tables and figures: what is planned, run, resumed, and put beside the published values."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fastsia import FastsiaError, SIAConfig, load
from fastsia import reproduce as paper
from fastsia.evaluation import evaluate
from fastsia.reproduce import Reproduction, family, plan, reproduce
from fastsia.sia.paper import TABLE1, TABLE3
from tests.tiny import save_tiny

pytestmark = pytest.mark.usefixtures("one_figure")

# Most of its rollouts are cut: the lenient reading has answers all the same.
QUICK = SIAConfig(
    num_rollouts=8,
    stride=4,
    max_tokens=12,
    num_bootstrap=50,
    num_splits=2,
    temperature=1.0,
    top_p=1.0,
    answer_reading="lenient",
)
DEMO = SIAConfig(num_rollouts=4, stride=16, max_tokens=40, num_bootstrap=50, num_splits=2)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model of the Hub is out of reach, wherever the tests run."""
    monkeypatch.setattr("fastsia.models.resolve._reach", lambda repo, revision: (False, None))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two tiny models that are called as two of the paper's are, and a GSM8K of four problems."""
    root = tmp_path_factory.mktemp("place")
    for seed, name in ((1, "Qwen2.5-3B"), (3, "Gemma-2-2B-it")):
        save_tiny(root / name, seed=seed, context=2048)
    (root / "data" / "gsm8k").mkdir(parents=True)
    rows = [{"question": f"What is {i} modulo 10?", "answer": f"So it is\n#### {i}"} for i in (2, 4, 5, 7)]
    (root / "data" / "gsm8k" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def run(target: str, **changes: Any) -> Reproduction:
    arguments: dict[str, Any] = {"models": ["Qwen2.5-3B", "Gemma-2-2B-it"], "tasks": ["gsm8k"], "data_dir": "data"}
    return reproduce(plan(target, **arguments | {"config": QUICK} | changes))


# --- the plan --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_hub")
def test_with_no_model_at_hand_the_plan_says_what_it_would_cost(tmp_path: Path) -> None:
    planned = plan("table1", output=tmp_path / "runs")
    assert list(planned.missing) == list(TABLE1)
    assert set(planned.missing.values()) == {"no local folder, not in the local cache, and the Hub cannot be reached"}
    assert planned.ready == []
    assert [job.task for job in planned.jobs[:3]] == ["gsm8k", "svamp", "arc_challenge"]
    assert [job.num_problems for job in planned.jobs[:3]] == [1319, 300, 1172]
    job = planned.jobs[0]
    assert (job.num_checkpoints, job.num_rollouts) == (31, 1319 * 31 * 20)  # 0, 20, ..., 600
    assert job.max_generated_tokens == 1319 * (1 + 31 * 20) * 600
    assert not (tmp_path / "runs").exists()
    second = plan("table2", output=tmp_path, limit=100)
    assert [(job.config.shuffle_prefix, job.folder.name) for job in second.jobs[:2]] == [
        (False, "gsm8k"),
        (True, "shuffled"),
    ]
    assert {job.num_problems for job in second.jobs} == {100}
    assert {job.model for job in second.jobs} == set(TABLE3)


def test_a_hub_that_gives_the_weights_leaves_nothing_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fastsia.models.resolve._reach", lambda repo, revision: (False, 401 if "llama" in repo else 200)
    )
    planned = plan("fig3")
    assert list(planned.missing) == ["LLaMA-3.2-3B", "LLaMA-3.2-3B-it"]
    assert len(planned.ready) == 9 * 3


def test_families() -> None:
    assert [family(name) for name in ("Qwen2.5-Math-1.5B", "google/gemma-2-2b", "demo:sft", "runs/my-model")] == [
        *("Qwen2.5", "Gemma", "demo", "my-model"),
    ]


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    ("target", "arguments", "sentence"),
    [
        (
            "tabel1",
            {},
            "'tabel1' cannot be reproduced: it must be one of table1, table2, table3, fig1",
        ),
        ("table1", {"models": ["demo:stf"]}, "'demo:stf' is not a demo model"),
        ("table1", {"models": ["no/such/folder"]}, "no such folder, and not a Hub id"),
        ("table1", {"tasks": ["gsm8j"]}, "did you mean gsm8k"),
        ("table1", {"tasks": ["gsm8k"], "limit": 0}, "limit must be an integer >= 1"),
        ("table1", {"data_dir": "/absent"}, "is not a folder"),
        ("table1", {"models": ["a b", "a_b"]}, "would share the folder 'a_b'"),
    ],
)
def test_mistakes_are_found_before_anything_is_loaded(
    target: str, arguments: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a b", "a_b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    with pytest.raises(FastsiaError, match=sentence) as error:
        plan(target, output=tmp_path / "runs", **arguments)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


# --- ours beside the paper's ----------------------------------------------------------------------------------


def test_table1_is_ours_minus_published_and_a_second_call_computes_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    first = run("table1", output=tmp_path)
    assert (first.num_computed, first.failed) == (8, {})
    assert first.table["published"].tolist() == [0.682, 0.522]
    assert first.table["stage"].tolist() == ["Base", "SFT"]
    for i, model in enumerate(("Qwen2.5-3B", "Gemma-2-2B-it")):
        folder = tmp_path / model / "gsm8k"
        ours = load(folder).summary["rho"]["pearson"]
        assert first.table.loc[i, "rho"] == ours
        assert first.table.loc[i, "difference"] == ours - TABLE1[model]["gsm8k"]
        assert (folder / "report.html").is_file()
    assert first.files == [tmp_path / "tables" / "table1.parquet"]
    assert pd.read_parquet(first.files[0])["difference"].tolist() == first.table["difference"].tolist()

    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "tables"]
    before = {path: path.stat().st_mtime_ns for path in files}
    monkeypatch.setattr(paper, "evaluate", lambda *_, **__: pytest.fail("a finished run is not run again"))
    second = run("table1", output=tmp_path)
    assert second.num_computed == 0
    pd.testing.assert_frame_equal(second.table, first.table)
    assert {path: path.stat().st_mtime_ns for path in files} == before

    with pytest.raises(FastsiaError, match=r"contains another run: config\.seed was 0, is now 1"):
        run("table1", output=tmp_path, config=SIAConfig(**vars(QUICK) | {"seed": 1}))


def test_a_larger_limit_does_only_what_is_missing(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert run("fig5", output=tmp_path, models=["Qwen2.5-3B"], limit=1).num_computed == 1
    more = run("table3", output=tmp_path, models=["Qwen2.5-3B"], limit=3)
    assert more.num_computed == 2
    assert more.table["published"].tolist() == [0.682, 0.635]
    assert more.table["num_rollouts"].tolist() == [8, 4]
    assert more.table["stride"].tolist() == [4, 8]


def test_the_rest_goes_on_without_a_model_that_fails(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_hub: None
) -> None:
    shutil.copytree(place, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    (tmp_path / "there" / "Gemma-2-2B-it" / "model.safetensors").write_bytes(b"torn")
    found = run("table1", models=["Qwen2.5-3B", "Gemma-2-2B-it", "Olmo-3-7B-Think"])
    assert list(found.failed) == ["Gemma-2-2B-it"]
    assert found.table["rho"].notna().tolist() == [True, False, False]
    assert found.table["published"].tolist() == [0.682, 0.522, 0.885]
    with pytest.raises(FastsiaError, match="weights are damaged"):
        run("table1", models=["Gemma-2-2B-it"])

    # Weights that are gone leave their finished run; weights that changed do not.
    assert (tmp_path / "there" / "runs" / "reproduce" / "Qwen2.5-3B" / "gsm8k" / "run.sqlite").is_file()
    save_tiny(tmp_path / "there" / "Qwen2.5-3B", seed=7, context=2048)
    with pytest.raises(FastsiaError, match=r"contains another run: model\.fingerprint was"):
        run("table1", models=["Qwen2.5-3B"])
    shutil.rmtree(tmp_path / "there" / "Qwen2.5-3B")
    again = run("table1", models=["Qwen2.5-3B"])
    assert again.num_computed == 0
    assert again.table["rho"].tolist() == found.table["rho"].tolist()[:1]


_STAGES = {"Qwen2.5-3B": "Base", "Gemma-2-2B-it": "SFT"}


@pytest.mark.parametrize(
    ("target", "models", "kinds"),
    [
        ("fig1", ["Gemma-2-2B-it"], ["gain_share", "gain", "entropy_drop"]),
        ("fig2", ["Gemma-2-2B-it"], ["auc_tokens", "auc"]),
        ("fig3", ["Qwen2.5-3B", "Gemma-2-2B-it"], ["entropy"]),
        ("fig4", ["Qwen2.5-3B"], ["gain_share", "gain", "entropy_drop"]),
        ("fig5", ["Qwen2.5-3B"], ["auc_tokens", "auc"]),
    ],
)
def test_every_figure_is_drawn_of_the_models_of_its_stages(
    target: str,
    models: list[str],
    kinds: list[str],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Figures 1 and 2 are of aligned models, 4 and 5 the same plots of base models (the paper's appendix B.1)."""
    monkeypatch.chdir(place)
    output = tmp_path_factory.getbasetemp() / "figures"
    found = run(target, output=output, models=list(_STAGES))
    assert list(dict.fromkeys(found.table["model"])) == models
    assert found.table["stage"].tolist() == [_STAGES[model] for model in found.table["model"]]
    assert [model for model, _ in found.results] == models
    drawn = [file for file in found.files if file.suffix == ".png"]
    assert {file.stem for file in drawn} <= {f"{target}_{kind}_gsm8k" for kind in kinds}
    for file in drawn:
        assert file.is_file()
        runs = set(pd.read_parquet(file.with_suffix(".parquet"))["run"])
        assert runs <= {f"{model} ({_STAGES[model]})" for model in models}
    if target == "fig3":
        assert len(found.files) == 2
        summary = found.results["Qwen2.5-3B", "gsm8k"].summary
        assert found.table.loc[0, ["level", "onset", "rebound"]].tolist() == list(summary["saturation"].values())


@pytest.mark.parametrize(
    ("target", "counterpart", "models", "other"),
    [("fig1", "fig4", 8, 3), ("fig2", "fig5", 8, 3), ("fig4", "fig1", 3, 8), ("fig5", "fig2", 3, 8)],
)
@pytest.mark.usefixtures("no_hub")
def test_figures_are_split_by_training_stage(
    target: str, counterpart: str, models: int, other: int, tmp_path: Path
) -> None:
    aligned = target in ("fig1", "fig2")
    assert len({job.model for job in plan(target, output=tmp_path).jobs}) == models
    every = plan(target, output=tmp_path, models=list(TABLE1))
    assert len({job.model for job in every.jobs}) == models
    assert len(every.left_out) == other
    (note,) = every.notes
    assert note.startswith(f"{target} shows {'aligned' if aligned else 'non-aligned'} models")
    assert note.endswith(f"{counterpart} shows them.")
    assert ("Gemma-2-2B (Base)" if aligned else "Gemma-2-2B-it (SFT)") in note
    wrong = "demo:base" if aligned else "demo:rl"
    with pytest.raises(FastsiaError, match=rf"{target} shows .*aligned models .*{wrong}.*{counterpart} shows them"):
        plan(target, output=tmp_path, models=[wrong])
    right = plan(target, output=tmp_path, models=["demo:base", "demo:sft", "demo:rl"])
    assert {job.model for job in right.jobs} == ({"demo:sft", "demo:rl"} if aligned else {"demo:base"})
    assert plan("table1", output=tmp_path).left_out == plan("fig3", output=tmp_path).left_out == []


def test_the_stage_of_a_model_of_ones_own_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is derived from its template or name: unknown, and shown where it is asked for, until it is stated."""
    save_tiny(tmp_path / "mine", context=2048)
    monkeypatch.chdir(tmp_path)
    for target in ("fig1", "fig4"):
        planned = plan(target, models=["./mine"], tasks=["demo"])
        assert (planned.stages, planned.left_out) == ({"./mine": "unknown"}, [])
        assert planned.notes == ["The training stage of ./mine is unknown; state it with --stage MODEL=STAGE."]
    planned = plan("fig1", models=["./mine"], tasks=["demo"], stages={"./mine": "SFT"})
    assert (planned.stages, planned.notes) == ({"./mine": "SFT"}, [])
    with pytest.raises(FastsiaError, match=r"fig4 shows non-aligned models \(Base\), got \./mine \(SFT\)"):
        plan("fig4", models=["./mine"], tasks=["demo"], stages={"./mine": "SFT"})
    # What is stated is taken, also against the table: a name of the paper's may be another checkpoint here.
    assert plan("fig4", models=["demo:sft"], tasks=["demo"], stages={"demo:sft": "Base"}).stages["demo:sft"] == "Base"
    with pytest.raises(FastsiaError, match=r"stage of './mine' must be one of Base, SFT, SFT\+RL, got 'sft'"):
        plan("fig1", models=["./mine"], tasks=["demo"], stages={"./mine": "sft"})
    with pytest.raises(FastsiaError, match=r"stated for './other', which is not among the models: ./mine"):
        plan("fig1", models=["./mine"], tasks=["demo"], stages={"./other": "SFT"})


def test_both_outcomes_are_in_figures_1_and_4(tmp_path: Path) -> None:
    config = SIAConfig(**vars(DEMO) | {"stride": 16, "max_tokens": 100})
    for target, stage in (("fig1", "SFT"), ("fig4", "Base")):
        planned = plan(
            target,
            models=["demo:base", "demo:sft"] if target == "fig1" else ["demo:sft"],
            tasks=["demo"],
            output=tmp_path,
            limit=16,
            config=config,
            stages={"demo:sft": stage},
        )
        found = reproduce(planned)
        assert found.table[["model", "stage", "ends"]].to_numpy().tolist() == [
            ["demo:sft", stage, "correct"],
            ["demo:sft", stage, "incorrect"],
        ]
        assert found.table["num_trajectories"].sum() == 16
        gain = pd.read_parquet(tmp_path / "figures" / f"{target}_gain_demo.parquet")
        assert set(gain["group"]) == {"correct", "incorrect"}
        assert set(gain["run"]) == {f"demo:sft ({stage})"}
        total = gain[gain["position"] == 1].set_index("group")["value"]
        assert found.table.set_index("ends")["gain"].to_dict() == pytest.approx(total.to_dict())


# --- the shuffled run beside the plain one --------------------------------------------------------------------


def test_table2_on_the_demo_model_puts_both_ablations_into_the_report(tmp_path: Path) -> None:
    found = reproduce(plan("table2", models=["demo:sft"], tasks=["demo"], output=tmp_path, limit=3, config=DEMO))
    assert found.num_computed == 6
    assert found.table["published"].isna().all()
    folder = tmp_path / "demo_sft" / "demo"
    page = (folder / "report.html").read_text()
    assert "Shuffled prefix" in page
    assert "Coarser estimate" in page
    plain, shuffled = load(folder), load(folder / "shuffled")
    assert shuffled.summary["config"]["shuffle_prefix"]
    table = plain.tables["shuffled_prefix"].set_index("quantity")
    for name, result in (("original", plain), ("shuffled", shuffled)):
        ours = result.summary["rho"]["pearson"]
        assert table.loc["rho_pearson", name] == (pytest.approx(ours) if ours is not None else None)
    assert found.table["num_problems"].tolist() == [3, 3]
    assert (folder / "tables" / "shuffled_prefix.parquet").is_file()
    assert (
        reproduce(
            plan("table2", models=["demo:sft"], tasks=["demo"], output=tmp_path, limit=3, config=DEMO)
        ).num_computed
        == 0
    )

    # More problems of the plain run: its results are written anew, and the table with them.
    more = evaluate("demo:sft", "demo", config=DEMO, limit=4, output=folder)
    assert more.tables["shuffled_prefix"]["num_problems"].tolist() == [3, 3, 3]
    # Another run in that place is no ablation of this one: left out, and said; its stale table goes.
    shutil.rmtree(folder / "shuffled")
    evaluate("demo:sft", "demo", config=DEMO, limit=1, output=folder / "shuffled", seed=5, shuffle_prefix=True)
    again = evaluate("demo:sft", "demo", config=DEMO, limit=4, output=folder)
    assert "shuffled_prefix" not in again.tables
    assert any(
        "is not this run with shuffled prefixes (config.seed differ)" in note for note in again.summary["warnings"]
    )
    assert not (folder / "tables" / "shuffled_prefix.parquet").exists()
