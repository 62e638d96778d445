"""Data sets of the Hugging Face Hub, read by the optional `datasets` package."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastsia.errors import FastsiaError
from fastsia.models.hub import hub_status
from fastsia.tasks.records import Record, dataset_records

PREFIX = "hub:"

_SPEC = re.compile(r"([^:@]+)(?:@([^:]+))?(?::([^:]*))?(?::(.+))?")


@dataclass(frozen=True)
class HubData:
    """A part of a data set of the Hub, or of a folder with the layout of one.

    Attributes:
        path: the Hub id or the folder.
        config: the data set's configuration; None is its only one.
        splits: read one after the other.
        revision: None is the newest.
    """

    path: str
    config: str | None = None
    splits: tuple[str, ...] = ("test",)
    revision: str | None = None

    @classmethod
    def parse(cls, name: str) -> HubData:
        """From `hub:OWNER/NAME[@REVISION][:CONFIG[:SPLIT]]`."""
        found = _SPEC.fullmatch(name.removeprefix(PREFIX))
        path, revision, config, split = found.groups() if found is not None else (None,) * 4
        if path is None or not ("/" in path or Path(path).is_dir()):
            raise FastsiaError(f"dataset {name!r} must be {PREFIX}OWNER/NAME[@REVISION][:CONFIG[:SPLIT]].")
        return cls(path, config or None, (split or "test",), revision)

    @property
    def name(self) -> str:
        """The name of its task; a split other than "test" is part of the name."""
        split = "" if self.splits == ("test",) else ",".join(self.splits)
        parts = (Path(self.path).name if self.is_folder else self.path, self.config or "", split)
        return ":".join(parts).rstrip(":")

    @property
    def is_folder(self) -> bool:
        """`datasets` prefers a folder of this name to the Hub."""
        return Path(self.path).is_dir()


def hub_records(source: HubData, instead: str = "") -> Iterator[Record]:
    """The records of the splits, one after the other; each split counts its records from 1.

    Without a connection to the Hub they are read from the cache of `datasets`.

    Args:
        source: the data set.
        instead: advice at the end of an error message.
    """
    try:
        import datasets
    except ImportError as error:
        raise FastsiaError(
            f"{source.path} needs the package 'datasets', which is not installed: pip install 'fastsia[datasets]'."
            f"{instead and ' ' + instead}"
        ) from error
    probe = f"datasets/{source.path}/resolve/{source.revision or 'main'}/README.md"
    offline = not source.is_folder and (datasets.config.HF_HUB_OFFLINE or hub_status(probe) is None)
    for split in source.splits:
        try:
            data = _load(datasets, source, split, offline)
        except Exception as error:  # its errors share no base class: no network, no such data set, a broken cache
            reason = _reason(error)
            if offline and isinstance(error, ConnectionError):
                reason = "the Hub cannot be reached, and there is no copy in the local cache"
            where = "" if source.is_folder else " from the Hub"
            raise FastsiaError(
                f"{source.path} ({split}) could not be loaded{where}: {reason}.{instead and ' ' + instead}"
            ) from error
        yield from dataset_records(data, f"{source.path} ({split})")


def _reason(error: Exception) -> str:
    """The first sentence of an error of `datasets`, without its examples."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    first = lines[0]
    if "pick one among" in (after := "".join(lines[1:2])):
        first = f"{first} {after}"
    return first.rstrip(".")


def _load(datasets: Any, source: HubData, split: str, offline: bool) -> Any:
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = offline
    try:
        return datasets.load_dataset(source.path, source.config, split=split, revision=source.revision)
    finally:
        datasets.config.HF_HUB_OFFLINE = before
