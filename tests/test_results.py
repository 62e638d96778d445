"""What a stored run of the demo model says without a new rollout: token level, early stopping, failure detection."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fastsia import Engine, FastsiaError, SIAResult, analyze, evaluate, load
from fastsia.cli.render import show
from fastsia.comparison import compare
from fastsia.loglikelihood import score_answers
from fastsia.results.reader import Store
from tests.report.synthetic import rollouts
from tests.stores import rewritten

QUICK: dict[str, Any] = {"num_bootstrap": 20, "num_splits": 2}
SMALL: dict[str, Any] = {"num_rollouts": 6, "stride": 12, "num_bootstrap": 50, "num_splits": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    evaluate("demo:sft", "demo", limit=10, output=folder, **SMALL)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> SIAResult:
    return load(folder)


def test_token_columns_are_those_of_the_stored_entropies(run: SIAResult) -> None:
    entropies = np.concatenate(run.trajectories["token_entropies"].tolist())
    threshold = run.summary["forking_threshold"]["run"]
    assert threshold == pytest.approx(np.quantile(entropies, 0.8))
    for row in run.trajectories.to_dict("records"):
        own, turn = row["token_entropies"], row["num_thinking_tokens"]
        assert row["token_entropy"] == pytest.approx(own.mean(), abs=1e-6)
        assert row["forking_share"] == pytest.approx((own > np.float64(threshold)).mean())
        assert row["token_entropy_thinking"] == pytest.approx(own[:turn].mean(), abs=1e-6)
        assert row["token_entropy_answer_part"] == pytest.approx(own[turn:].mean(), abs=1e-6)


def test_the_answer_part_is_the_text_from_the_marker_on(folder: Path, run: SIAResult) -> None:
    tokenizer = Engine.from_pretrained("demo:sft").tokenizer
    assert tokenizer is not None
    for row in run.trajectories.to_dict("records"):
        stated = tokenizer.decode(row["token_ids"][row["num_thinking_tokens"] :])
        assert stated.lstrip("\n").startswith("####")
        assert "####" not in tokenizer.decode(row["token_ids"][: row["num_thinking_tokens"]])


def test_early_stopping_replays_the_stored_checkpoints(run: SIAResult) -> None:
    """H <= 0 by hand, from the tables that a reader has."""
    saved, right, full = 0, 0, 0
    for _, points in run.checkpoints.groupby(["problem_id", "trajectory"], sort=False):
        sure = points[(points["entropy"] <= 1e-9) & points["mode"].notna()]
        stop = sure.iloc[0] if len(sure) else points.iloc[-1]
        gold = run.trajectories.set_index("problem_id").loc[stop["problem_id"], "gold"]
        saved += points["checkpoint"].iloc[-1] - stop["checkpoint"]
        full += points["checkpoint"].iloc[-1]
        right += stop["mode"] == gold
    table = run.tables["early_stop"]
    row = table[(table["rule"] == "entropy") & (table["threshold"] == 0)].iloc[0]
    assert row["saved"] == pytest.approx(saved / full)
    assert row["accuracy"] == pytest.approx(right / 10)


def test_all_of_it_is_in_the_report_and_side_by_side(folder: Path, run: SIAResult, tmp_path: Path) -> None:
    page = run.report(tmp_path / "page.html").read_text(encoding="utf-8")
    for title in ("Token level and answer level", "Early stopping, simulated", "Failure prediction"):
        assert title in page
    assert re.search(r"\d times those of the trajectories", page)
    evaluate("demo:base", "demo", limit=10, output=tmp_path / "base", max_tokens=60, **SMALL)
    found = compare([folder, tmp_path / "base"])
    assert found.token_level is not None
    assert found.token_level[["run", "group"]].value_counts().max() == 1
    quantities = set(found.differences["quantity"])
    assert {"token_entropy", "token_entropy_thinking", "entropy_mean", "forking_share_fixed"} <= quantities
    assert (found.save(tmp_path / "both").parent / "figures" / "token_and_answer_entropy.png").is_file()


def test_a_run_whose_entropies_nobody_gave(folder: Path, tmp_path: Path) -> None:
    """A server says nothing of them: NaN is stored, and what would be made of it is left out, not NaN everywhere."""
    Store(folder / "run.sqlite").copy_to(tmp_path / "run.sqlite")
    with rewritten(tmp_path / "run.sqlite") as connection:
        rows = connection.execute("SELECT id, num_tokens FROM trajectories").fetchall()
        blobs = [(np.full(number, np.nan, dtype="<f4").tobytes(), row) for row, number in rows]
        connection.executemany("UPDATE trajectories SET token_entropies = ? WHERE id = ?", blobs[1:])
    some = load(tmp_path)
    assert some.trajectories["token_entropy"].notna().tolist() == [True] + [False] * 9
    assert some.tables["token_level"].set_index("group").loc["all", "token_entropy"] == pytest.approx(
        some.trajectories["token_entropy"].iloc[0]
    )
    with rewritten(tmp_path / "run.sqlite") as connection:
        connection.executemany("UPDATE trajectories SET token_entropies = ? WHERE id = ?", blobs)
    none = load(tmp_path)
    assert "token_level" not in none.tables
    assert "token_entropy" not in none.trajectories
    assert {"early_stop", "failure_detection"} <= set(none.tables)
    none.report(tmp_path / "page.html")


def test_files_of_others_in_tables_are_kept(tmp_path: Path) -> None:
    """The input among them: only a run's own tables are replaced, removed or read back."""
    own = tmp_path / "tables"
    own.mkdir()
    rollouts(4, 3).to_parquet(own / "my_rollouts.parquet")
    for name in ("notes", "shuffled_prefix"):
        (own / f"{name}.parquet").write_text(f"my {name}")
    before = (own / "my_rollouts.parquet").read_bytes()
    analyze(own / "my_rollouts.parquet", config=QUICK).save(tmp_path)
    assert (own / "my_rollouts.parquet").read_bytes() == before
    assert (own / "notes.parquet").read_text() == "my notes"
    assert not (own / "shuffled_prefix.parquet").exists(), "a table of an earlier run"
    assert {"early_stop"} <= set(load(tmp_path).tables) < {path.stem for path in own.iterdir()}


@pytest.mark.parametrize("place", ["rollouts", "tables/early_stop", "figures/early_stop"])
def test_a_table_is_not_written_over_by_its_own_analysis(place: str, tmp_path: Path) -> None:
    file = tmp_path / f"{place}.parquet"
    file.parent.mkdir(exist_ok=True)
    rollouts(4, 3).to_parquet(file)
    before = file.read_bytes()
    with pytest.raises(FastsiaError, match="was analysed and would be written over"):
        analyze(file, config=QUICK).save(tmp_path)
    assert file.read_bytes() == before
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


EXPORTS = ("summary.json", "trajectories.parquet", "checkpoints.parquet", "curves.parquet")
FURTHER = ("token_level", "early_stop", "failure_detection", "sensitivity", "coarse_ablation")


@pytest.mark.parametrize("damage", ["empty", "garbage", "{}"])
@pytest.mark.parametrize("name", [*EXPORTS, "manifest.json", *(f"tables/{name}.parquet" for name in FURTHER)])
def test_damaged_exports_are_scored_again(name: str, damage: str, folder: Path, run: SIAResult, tmp_path: Path) -> None:
    """The database beside them is whole. Without one, the file is named."""
    shutil.copytree(folder, tmp_path / "run")
    file = tmp_path / "run" / name
    if damage == "{}" and file.suffix == ".parquet":
        pd.DataFrame({"a": [1]}).to_parquet(file)
    else:
        file.write_bytes({"empty": b"", "garbage": b"PAR1 nonsense", "{}": b"{}"}[damage])
    found = load(tmp_path / "run")
    costs = {"seconds", "num_computed_problems", "num_cut_prompts", "row_steps", "merge_factor", "counters", "machine"}
    lost = costs if name == "manifest.json" else set()
    assert {key: value for key, value in found.summary.items() if key not in lost} == {
        key: value for key, value in run.summary.items() if key not in lost
    }
    assert set(found.tables) == set(run.tables) > set(FURTHER)
    pd.testing.assert_frame_equal(found.trajectories, run.trajectories, check_dtype=False)
    (tmp_path / "run" / "run.sqlite").unlink()
    if name == "manifest.json":
        assert load(tmp_path / "run").summary["num_rollouts"] == run.summary["num_rollouts"]
        return
    with pytest.raises(FastsiaError, match=file.name):
        load(tmp_path / "run")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rho", {}),
        ("ci", {}),
        ("num_problems", "many"),
        ("num_problems", 10**400),
        ("merge_factor", None),
        ("auc", [{}]),
        ("warnings", "text"),
        ("config", {"temperature": "hot"}),
        ("config", {}),
        ("seconds", "soon"),
        ("machine", "x"),
        ("task", None),
    ],
)
def test_a_summary_that_is_none_is_made_again(
    field: str, value: Any, folder: Path, run: SIAResult, tmp_path: Path
) -> None:
    """Each is what a report, an export or a comparison would come to grief over."""
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text(json.dumps(run.summary | {field: value}))
    found = load(tmp_path / "run")
    assert found.summary == run.summary, "costs are in the manifest"
    (tmp_path / "run" / "manifest.json").rename(tmp_path / "manifest.json")  # as in a folder of fastsia 0.1.0
    found = load(tmp_path / "run")
    assert found.summary[field] == (None if field in ("seconds", "machine") else run.summary[field])
    found.to_lm_eval(tmp_path / "out")
    assert len(compare([folder, tmp_path / "run"]).table) == 2
    (tmp_path / "run" / "run.sqlite").unlink()
    if field != "config" or not value:
        assert load(tmp_path / "run").summary["accuracy"] == run.summary["accuracy"], "of the rollouts' table"
    (tmp_path / "manifest.json").rename(tmp_path / "run" / "manifest.json")
    with pytest.raises(FastsiaError, match=r"summary\.json cannot be read: its content is not what fastsia wrote"):
        load(tmp_path / "run")


@pytest.mark.parametrize(
    "text",
    [
        '{"model": null, "counters": null}',
        '{"model": "", "counters": {"row_steps": "x", "merge_factor": "y"}}',
        "[" * 200_000,
    ],
)
def test_nothing_odd_is_taken_over_from_a_summary(text: str, folder: Path, run: SIAResult, tmp_path: Path) -> None:
    """In a folder of fastsia 0.1.0, which has no manifest: costs are known from there only, names are not."""
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "manifest.json").unlink()
    (tmp_path / "run" / "summary.json").write_text(text)
    found = load(tmp_path / "run")
    assert found.summary["model"] == run.summary["model"]
    assert found.summary["row_steps"] is None
    assert show(found, []) is None


def test_numbers_and_texts_in_one_column_are_saved(tmp_path: Path) -> None:
    """Scoring takes them as text, and any other column for nothing: saving must not then fail."""
    rows = rollouts(4, 3).to_dict("records")
    rows[0] |= {"answer": 7, "trajectory": "0", "other": {}}
    rows[1] |= {"answer": True, "gold": int(rows[1]["gold"]) if rows[1]["gold"].isdigit() else rows[1]["gold"]}
    rows[2] |= {"answer": None, "other": "x", "huge": 2**70}
    failed = {"finish_reason": "error", "checkpoint": 10**400, "rollout": None, "answer": ["a"]}
    rows.append(rows[0] | failed)
    file = tmp_path / "rollouts.jsonl"
    file.write_text("".join(json.dumps({"finish_reason": "eos", "correct": 1} | row) + "\n" for row in rows))
    found = analyze(file, config=QUICK)
    again = load(found.save(tmp_path / "out"))
    assert again.summary == json.loads(json.dumps(found.summary))
    assert again.rollouts["answer"][:3].tolist() == ["7", "True", None]
    assert "other" not in again.rollouts
    same = analyze(again.rollouts, config=QUICK)
    assert same.summary == found.summary


def test_the_folder_of_several_runs_names_them(tmp_path: Path) -> None:
    """A run of several tasks has a folder for each; show of the outer one did not say so."""
    for name in ("gsm8k", "arc_easy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.sqlite").touch()
    with pytest.raises(FastsiaError, match=r"summary\.json; there are runs in .*/arc_easy, .*/gsm8k\.$"):
        load(tmp_path)


def test_a_failed_save_leaves_no_mixture(tmp_path: Path) -> None:
    """The tables of a second analysis stand beside some of the first: they are no result."""
    analyze(rollouts(4, 3), config=QUICK).save(tmp_path)
    second = analyze(rollouts(6, 3).assign(seed=[*[1] * 40, "x", *[1] * (len(rollouts(6, 3)) - 41)]), config=QUICK)
    with pytest.raises(FastsiaError, match=r"rollouts\.parquet cannot be written: .*column seed"):
        second.save(tmp_path)
    with pytest.raises(FastsiaError, match=r"contains neither run\.sqlite nor a readable summary"):
        load(tmp_path)
    analyze(rollouts(6, 3), config=QUICK).save(tmp_path)
    assert load(tmp_path).summary["num_problems"] == 6


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"num_prefixes": 3},
            r"run\.sqlite was written by another version of fastsia: SIAConfig has no field 'num_prefixes'",
        ),
        ({"temperature": "hot"}, r"run\.sqlite was written by another version of fastsia: temperature must be"),
        (None, r"run\.sqlite contains no settings"),
    ],
)
def test_a_run_of_another_version_is_named(config: Any, message: str, folder: Path, tmp_path: Path) -> None:
    """Its settings are checked as anybody's are."""
    Store(folder / "run.sqlite").copy_to(tmp_path / "run.sqlite")
    identity = Store(tmp_path / "run.sqlite").identity() | {"config": config}
    with rewritten(tmp_path / "run.sqlite") as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'identity'", (json.dumps(identity),))
    for read in (load, score_answers):
        with pytest.raises(FastsiaError, match=message):
            read(tmp_path)


def test_unequal_numbers_of_rollouts_are_said_of_stored_results_too(tmp_path: Path) -> None:
    table = rollouts(6, 4)
    short = (table["checkpoint"] == 20) & (table["rollout"] >= 5)
    analyze(table, config=QUICK).save(tmp_path / "equal")
    analyze(table[~short], config=QUICK).save(tmp_path / "unequal")

    def said(folder: Path) -> list[str]:
        return [note for note in load(folder).summary["warnings"] if "a shortage at one checkpoint looks like" in note]

    assert said(tmp_path / "equal") == []
    assert len(said(tmp_path / "unequal")) == 1
    file = tmp_path / "unequal" / "summary.json"
    summary = json.loads(file.read_text())
    file.write_text(json.dumps(summary | {"warnings": []}))  # as an earlier version stored it
    file.with_name("manifest.json").unlink()
    assert len(said(tmp_path / "unequal")) == 1


def test_a_table_without_correct_says_how_it_was_decided() -> None:
    rows = [("a", 0, 0, r, "5", "5") for r in range(2)] + [("a", 0, 4, r, "5", "5") for r in range(2)]
    table = pd.DataFrame(rows, columns=["problem_id", "trajectory", "checkpoint", "rollout", "answer", "gold"])
    said = "most frequent answer at its last checkpoint is the gold answer"
    assert any(said in warning for warning in analyze(table).summary["warnings"])
    assert not any(said in warning for warning in analyze(table.assign(correct=True)).summary["warnings"])


def test_a_result_shows_and_plots_itself(run: SIAResult) -> None:
    """In a notebook: the table of numbers, a figure, one trajectory with the texts of its rollouts."""
    page = run._repr_html_()
    assert "<td>accuracy</td>" in page
    assert "<td>– ends correct</td>" in page
    assert len(repr(run)) < 150
    assert run.plot("entropy").axes[0].get_ylabel() == "answer entropy H (nats)"
    with pytest.raises(FastsiaError, match="no figure 'entrop'; did you mean entropy"):
        run.plot("entrop")
    first = run.trajectories.iloc[0]
    one = run.trajectory(first["problem_id"])
    assert repr(one).startswith(f"<TrajectoryResult: {first['problem_id']!r} (0), ends ")
    assert len(one.plot().axes[0].lines[0].get_xdata()) == len(one.checkpoints) > 1
    assert one.rollouts["checkpoint"].nunique() == len(one.checkpoints)
    ids = one.rollouts["token_ids"].iloc[0]
    assert run._store is not None
    assert one.rollouts["text"].iloc[0] == run._store.vocabulary().decode(ids)
    with pytest.raises(FastsiaError, match="has no trajectory 7; it has 0"):
        run.trajectory(first["problem_id"], 7)
    with pytest.raises(FastsiaError, match="the run has no problem 'nothing'"):
        run.texts("nothing")
