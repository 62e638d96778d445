"""The gallery: reports of stored real runs, drawn when the site is built from small files in docs/gallery/.

`python docs/_gallery.py RUN NAME OLD=NEW ...` packs the folder RUN as docs/gallery/NAME.tar.xz: its database, its
costs, and the rollouts after forced tokens if there are any. Each OLD is replaced by NEW where the run says what it
was made with (its model and command), so that no path of the machine is published.
"""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import sys
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path

import fastsia
from fastsia.results import schema
from fastsia.results.alternatives import ALTERNATIVES
from fastsia.results.manifest import Manifest, costs_of
from fastsia.results.reader import Store
from fastsia.results.schema import DATABASE

FOLDER = Path(__file__).parent / "gallery"
MOST_BYTES = 1_000_000
"""The largest packed run that is kept in the repository."""


def pack(run: Path, name: str, replaced: dict[str, str]) -> Path:
    """Write docs/gallery/NAME.tar.xz from a results folder; its path."""

    def rename(text: str) -> str:
        for old, new in replaced.items():
            text = text.replace(old, new)
        return text

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        Store(run / DATABASE).copy_to(folder / DATABASE)
        with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as connection:
            meta = schema.read_meta(connection)
            meta["identity"] = rename(meta["identity"])
            for key, value in (("identity", meta["identity"]), ("checksum", schema.head_checksum(meta))):
                connection.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("VACUUM")
        Manifest(None, {}, json.loads(rename(json.dumps(costs_of(run)[0])))).write(folder)
        if (run / ALTERNATIVES).exists():
            shutil.copyfile(run / ALTERNATIVES, folder / ALTERNATIVES)
        Store(folder / DATABASE).check()
        FOLDER.mkdir(exist_ok=True)
        target = FOLDER / f"{name}.tar.xz"
        with tarfile.open(target, "w:xz", preset=9) as archive:
            for file in sorted(folder.iterdir()):
                entry = archive.gettarinfo(file, file.name)
                entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, 0, "", ""
                archive.addfile(entry, io.BytesIO(file.read_bytes()))
    if target.stat().st_size > MOST_BYTES:
        target.unlink()
        sys.exit(f"{name} would take more than {MOST_BYTES:,} bytes: pack a smaller run.")
    return target


def reports() -> dict[str, str]:
    """The report of each packed run, by name."""
    found = {}
    for packed in sorted(FOLDER.glob("*.tar.xz")):
        with tempfile.TemporaryDirectory() as temporary, tarfile.open(packed) as archive:
            archive.extractall(temporary, filter="data")
            page = fastsia.load(temporary).report(Path(temporary) / "report.html")
            found[packed.name.removesuffix(".tar.xz")] = page.read_text(encoding="utf-8")
    return found


if __name__ == "__main__":
    run, name, *pairs = sys.argv[1:]
    print(pack(Path(run), name, dict(pair.split("=", 1) for pair in pairs)))
