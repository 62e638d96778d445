"""Real faults of the disk under a whole run: full, damaged, held by another process."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import fastsia
from fastsia.engine.profile import StepProfile
from tests.faults.disks import small_disk
from tests.programs import Running, run_python, start_python
from tests.test_resume import SETTINGS, assert_equal, finished, run_arguments, start, stop_at, tables
from tests.tiny import NUM_PROBLEMS


@pytest.fixture(scope="module")
def whole(model: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    fastsia.evaluate(str(model), str(questions), output=folder, **SETTINGS)
    return folder


def complaint(process: Running) -> str:
    """What a run says that must fail: one sentence with exit code 2."""
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 2, err
    assert "Traceback" not in err
    (sentence,) = [line for line in err.splitlines() if line.startswith("fastsia: error:")]
    assert err.count(sentence.removeprefix("fastsia: error: ")) == 1, "said once"
    return sentence


def test_a_full_disk_keeps_what_is_stored(model: Path, questions: Path, whole: Path, tmp_path: Path) -> None:
    """A tmpfs too small for the run; moved to where there is room, the same command goes on."""
    room = (whole / "run.sqlite").stat().st_size // 1024
    with small_disk(tmp_path / "small", room) as disk:
        sentence = complaint(start(model, questions, disk / "run"))
        assert "run.sqlite cannot be written" in sentence
        kept = {row["position"] for row in tables(disk / "run")["problems"]}
        assert 0 < len(kept) < NUM_PROBLEMS
        assert f"Finished problems are kept ({len(kept)} problem" in sentence
        shutil.copytree(disk / "run", tmp_path / "run")
    process = start(model, questions, tmp_path / "run")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert_equal(tables(tmp_path / "run"), tables(whole))


def test_a_full_disk_does_not_set_a_good_database_aside(
    model: Path, questions: Path, whole: Path, tmp_path: Path
) -> None:
    """A finished run cannot even be opened for want of room, however often it is tried; that is no damage."""
    with small_disk(tmp_path / "small", (whole / "run.sqlite").stat().st_size // 1024 + 4096) as disk:
        shutil.copytree(whole, disk / "run")
        room = shutil.disk_usage(disk).free - (8 << 10)
        (disk / "ballast").write_bytes(bytes(room))
        for _ in range(2):
            sentence = complaint(start(model, questions, disk / "run"))
            assert "run.sqlite cannot be written" in sentence
            assert "nothing in it was changed" in sentence
        assert not list((disk / "run").glob("*damaged*"))
        shutil.copytree(disk / "run", tmp_path / "run")
    found = fastsia.evaluate(str(model), str(questions), output=tmp_path / "run", **SETTINGS)
    assert found.summary["num_computed_problems"] == NUM_PROBLEMS, "all of them before"
    assert_equal(tables(tmp_path / "run"), tables(whole))


# sqlite waits 5 seconds for a lock, each time.
HASTY = """
import functools, sqlite3, sys
sqlite3.connect = functools.partial(sqlite3.connect, timeout=0.2)
from fastsia import cli
sys.argv[0] = "fastsia"
cli.main()
"""


@pytest.mark.parametrize("how", ["EXCLUSIVE", "IMMEDIATE"])
def test_a_database_that_another_program_holds(
    how: str, model: Path, questions: Path, whole: Path, tmp_path: Path
) -> None:
    """Somebody's sqlite shell in the middle of a transaction: a sentence, and nothing is set aside."""
    shutil.copytree(whole, tmp_path / "run")
    holding = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "c.execute('BEGIN ' + sys.argv[2]); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", holding, str(tmp_path / "run" / "run.sqlite"), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        process = start_python("-c", HASTY, *run_arguments(model, questions, tmp_path / "run"))
        assert "run.sqlite cannot be written (database is locked)" in complaint(process)
    finally:
        holder.communicate("")
    assert not list((tmp_path / "run").glob("*damaged*"))
    assert_equal(tables(tmp_path / "run"), tables(whole))


def test_a_disk_that_fills_while_tables_are_written(model: Path, questions: Path, whole: Path, tmp_path: Path) -> None:
    """All is drawn and stored; an export does not fit. No half file, and `load` needs none of them."""
    database = (whole / "run.sqlite").stat().st_size
    shutil.copytree(whole, tmp_path / "run")
    for path in (tmp_path / "run").glob("*.parquet"):
        path.unlink()
    with small_disk(tmp_path / "small", database // 1024 + 190) as disk:
        shutil.copytree(tmp_path / "run", disk / "run")
        sentence = complaint(start(model, questions, disk / "run"))
        assert "cannot be written" in sentence
        assert "No space left on device" in sentence
        assert not [path for path in (disk / "run").iterdir() if path.name.endswith(".tmp")]
        assert fastsia.load(disk / "run").summary["num_problems"] == NUM_PROBLEMS


# The limit goes before the end: a coverage run has the program write a file of its own there.
LIMITED = """
import atexit, resource, signal, sys
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), most))
atexit.register(resource.setrlimit, resource.RLIMIT_FSIZE, (most, most))
from fastsia import cli
sys.argv[0] = "fastsia"
cli.main()
"""


def test_a_file_that_may_grow_no_further(model: Path, questions: Path, whole: Path, tmp_path: Path) -> None:
    """The kernel refuses a write (RLIMIT_FSIZE), as a quota does; it is the whole program that meets it."""
    size = (whole / "run.sqlite").stat().st_size // 2
    process = start_python("-c", LIMITED, size, *run_arguments(model, questions, tmp_path))
    assert "cannot be written" in complaint(process)
    assert 0 < len(tables(tmp_path)["problems"]) < NUM_PROBLEMS
    fastsia.evaluate(str(model), str(questions), output=tmp_path, **SETTINGS)
    assert_equal(tables(tmp_path), tables(whole))


@pytest.mark.parametrize("damage", ["page", "torn", "flipped", "nonsense"])
def test_a_damaged_database_is_set_aside_and_the_run_completed(
    damage: str, model: Path, questions: Path, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Real bytes of a real run: a page overwritten, the file torn off, one bit, all of it."""
    shutil.copytree(whole, tmp_path / "run")
    path = tmp_path / "run" / "run.sqlite"
    data = bytearray(path.read_bytes())
    if damage == "page":
        at = len(data) // 2 // 4096 * 4096
        data[at : at + 4096] = os.urandom(4096)
    elif damage == "torn":
        del data[len(data) * 3 // 4 :]
    elif damage == "flipped":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            (ids,) = connection.execute("SELECT token_ids FROM rollouts ORDER BY num_tokens DESC LIMIT 1").fetchone()
        data[data.index(ids) + len(ids) // 2] ^= 4
    else:
        data[:] = b"not a database\n" * 500
    path.write_bytes(data)
    found = fastsia.evaluate(str(model), str(questions), output=tmp_path / "run", **SETTINGS)
    assert "run.sqlite.damaged-1" in caplog.text
    assert any("was set aside" in note for note in found.summary["warnings"])
    assert path.with_name("run.sqlite.damaged-1").read_bytes() == bytes(data)
    assert_equal(tables(tmp_path / "run"), tables(whole))


def test_a_flipped_bit_is_said_by_readers(whole: Path, tmp_path: Path) -> None:
    """A number from rows that are not what was drawn would be worse than none."""
    shutil.copytree(whole, tmp_path / "run")
    path = tmp_path / "run" / "run.sqlite"
    data = bytearray(path.read_bytes())
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (ids,) = connection.execute("SELECT token_ids FROM rollouts ORDER BY num_tokens DESC LIMIT 1").fetchone()
    data[data.index(ids) + len(ids) // 2] ^= 4
    path.write_bytes(data)
    for command in (
        ["report", str(path.parent)],
        ["export", str(path.parent), "--to", "datasets", "-o", str(tmp_path)],
    ):
        done = run_python("-m", "fastsia", *command)
        assert done.returncode == 2, done.stderr
        assert "run.sqlite is damaged (the rows of problem" in done.stderr
        assert "do not match their checksum); the same `fastsia run` command repairs it." in done.stderr


def test_a_torn_log_loses_its_last_problem_at_most(model: Path, questions: Path, whole: Path, tmp_path: Path) -> None:
    """A killed run's database is its file and its log; the log's end never reached the disk (a power cut)."""
    folder = tmp_path / "run"
    stop_at(start(model, questions, folder), folder, 6, signal.SIGKILL)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    before = len(tables(folder)["problems"])
    log = copy / "run.sqlite-wal"
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - 5000)
    after = len(tables(copy)["problems"])
    assert before - 3 <= after < before
    fastsia.evaluate(str(model), str(questions), output=copy, **SETTINGS)
    assert_equal(tables(copy), tables(whole))


def test_a_second_run_on_a_folder_exits_locked(model: Path, questions: Path, whole: Path, tmp_path: Path) -> None:
    """Two programs, one folder: the second says who holds it and changes nothing; a reader is let in."""
    first = start(model, questions, tmp_path)
    try:
        while not (tmp_path / "run.sqlite").exists():
            assert first.poll() is None, first.communicate()[1]
            time.sleep(0.01)
        first.send_signal(signal.SIGSTOP)
        second = start(model, questions, tmp_path)
        assert f"is locked: process {first.pid} is writing to it" in complaint(second)
    finally:
        first.send_signal(signal.SIGCONT)
    _, err = first.communicate(timeout=120)
    assert first.returncode == 0, err
    assert_equal(tables(tmp_path), tables(whole))


def test_ctrl_c_twice_still_keeps_what_is_done(model: Path, questions: Path, whole: Path, tmp_path: Path) -> None:
    """The impatient second Ctrl-C may cost the sentence, never the results."""
    process = start(model, questions, tmp_path)
    before = tables(whole)
    while not (tmp_path / "run.sqlite").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    fastsia.evaluate(str(model), str(questions), output=tmp_path, **SETTINGS)
    assert_equal(tables(tmp_path), before)


IMPATIENT = """
import os, signal, sys, threading, time
from fastsia import cli
from fastsia.results import schema
insert, calls, how = schema.insert, [], int(sys.argv[1])
def slowly(rows):
    for row in rows:
        time.sleep(0.02)
        yield row
def signals():
    for _ in range(2):
        os.kill(os.getpid(), how)
        time.sleep(0.3)
def slow_insert(connection, rows):
    calls.append(rows)
    if len(calls) == 2:
        threading.Thread(target=signals, daemon=True).start()
        rows = rows._replace(rollouts=slowly(rows.rollouts))
    insert(connection, rows)
schema.insert = slow_insert
sys.argv = ["fastsia", *sys.argv[2:]]
cli.main()
"""


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_while_a_problem_is_written(
    how: signal.Signals, code: int, model: Path, questions: Path, whole: Path, tmp_path: Path
) -> None:
    """A large problem is being stored when both signals come: it is stored whole, and the process ends as always."""
    ended = run_python("-c", IMPATIENT, int(how), *run_arguments(model, questions, tmp_path / "run"))
    assert ended.returncode == code, ended.stderr
    assert len(finished(tmp_path / "run")) >= 2
    fastsia.evaluate(str(model), str(questions), output=tmp_path / "run", **SETTINGS)
    assert_equal(tables(tmp_path / "run"), tables(whole))


def test_links_in_the_output_folder_lead_nowhere(model: Path, questions: Path, tmp_path: Path) -> None:
    """Whatever of the folder is a link to a file outside: that file stays as it was."""
    outside = tmp_path / "outside"
    settings: dict[str, Any] = SETTINGS | {"num_rollouts": 2}
    names = ("run.sqlite", ".lock", "summary.json", "rollouts.parquet", "tables", "report.html", "figures")
    for name in names:
        folder = tmp_path / f"out-{name.partition(chr(46))[0]}-{len(name)}"
        folder.mkdir()
        if name in ("tables", "figures"):
            outside.mkdir()
        else:
            outside.write_text("precious")
        (folder / name).symlink_to(outside)
        with pytest.raises(fastsia.FastsiaError, match="symbolic link"):
            fastsia.evaluate(str(model), str(questions), limit=1, output=folder, **settings).report(folder)
        if outside.is_dir():
            assert not list(outside.iterdir())
            outside.rmdir()
        else:
            assert outside.read_text() == "precious"
            outside.unlink()
    folder = tmp_path / "whole"
    fastsia.evaluate(str(model), str(questions), limit=1, output=folder, **settings).report(folder)
    inside = [*sorted((folder / "figures").iterdir()), folder / "trace.json"]
    assert {path.suffix for path in inside} == {".png", ".svg", ".parquet", ".json"}
    for path in inside:
        path.unlink(missing_ok=True)
        outside.write_text("precious")
        path.symlink_to(outside)
    fastsia.load(folder).report(folder)
    StepProfile(torch.device("cpu")).write_trace(folder / "trace.json")
    assert outside.read_text() == "precious"
    assert not [path for path in inside if path.is_symlink()]


def test_a_report_on_a_full_disk(whole: Path, tmp_path: Path) -> None:
    """The results fit, the figures do not: one sentence, and no file that is half there or empty."""
    used = sum(path.stat().st_size // 4096 * 4 + 8 for path in whole.rglob("*"))
    with small_disk(tmp_path / "small", used + 200) as disk:
        shutil.copytree(whole, disk / "run")
        sentence = complaint(start_python("-m", "fastsia", "report", disk / "run"))
        assert "figures" in sentence
        assert "cannot be written: No space left on device" in sentence
        figures = [*(disk / "run" / "figures").iterdir()]
        assert figures
        assert not [path for path in figures if path.name.endswith(".tmp") or not path.stat().st_size]
