"""The Hugging Face Hub: whether it can be reached, and data sets from it through the optional `datasets` package."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastsia.errors import FastsiaError
from fastsia.tasks.records import Record, dataset_records

PREFIX = "hub:"

_PROBE_SECONDS = 4.0
_SPEC = re.compile(r"([^:@]+)(?:@([^:]+))?(?::([^:]*))?(?::(.+))?")


@dataclass(frozen=True)
class HubData:
    """A data set of the Hub, or a folder that is laid out as one, and which part of it. revision None: the newest."""

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
        """What its task is called: the split only where it is not the usual one."""
        split = "" if self.splits == ("test",) else ",".join(self.splits)
        parts = (Path(self.path).name if self.is_folder else self.path, self.config or "", split)
        return ":".join(parts).rstrip(":")

    @property
    def is_folder(self) -> bool:
        """`datasets` takes a folder of this name before it asks the Hub."""
        return Path(self.path).is_dir()


def hub_status(path: str) -> int | None:
    """The Hub's HTTP status for a path below its address; None where it cannot be reached, or must not be asked.

    Asked once: transformers and datasets retry for half a minute, file by file, before they say the same. In a thread,
    because name servers and each of a host's addresses have time limits of their own, which add up.
    """
    import httpx
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        return None
    token = get_token()
    headers = {"authorization": f"Bearer {token}"} if token else {}
    status: list[int] = []

    def ask() -> None:
        with suppress(httpx.HTTPError):
            answer = httpx.head(
                f"{constants.ENDPOINT}/{path}", headers=headers, timeout=_PROBE_SECONDS, follow_redirects=True
            )
            status.append(answer.status_code)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return status[0] if status else None


def hub_records(source: HubData, instead: str = "") -> Iterator[Record]:
    """The rows of the splits, one after the other; each split counts its rows from 1.

    Where the Hub cannot be reached, from the copies that `datasets` keeps. instead: ends an error, as what to do then.
    """
    try:
        import datasets
    except ImportError as error:
        raise FastsiaError(
            f"{source.path} is read by the package 'datasets', which is not installed: pip install 'fastsia[datasets]'."
            f"{instead and ' ' + instead}"
        ) from error
    probe = f"datasets/{source.path}/resolve/{source.revision or 'main'}/README.md"
    offline = not source.is_folder and (datasets.config.HF_HUB_OFFLINE or hub_status(probe) is None)
    for split in source.splits:
        try:
            data = _load(datasets, source, split, offline)
        except Exception as error:  # its errors share no base class: no network, no such data set, a broken cache, ...
            reason = _reason(error)
            if offline and isinstance(error, ConnectionError):
                reason = "the Hub cannot be reached, and there is no copy in the local cache"
            where = "" if source.is_folder else " from the Hub"
            raise FastsiaError(
                f"{source.path} ({split}) could not be loaded{where}: {reason}.{instead and ' ' + instead}"
            ) from error
        yield from dataset_records(data, f"{source.path} ({split})")


def _reason(error: Exception) -> str:
    """What `datasets` says, without its examples and the lines below."""
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
