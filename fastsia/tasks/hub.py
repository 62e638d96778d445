"""The Hugging Face Hub: whether it can be reached, and data sets from it through the optional `datasets` package."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from fastsia.config import FastsiaError
from fastsia.tasks.rows import Row, dataset_rows

_PROBE_SECONDS = 4.0


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


def hub_rows(path: str, config: str | None, splits: tuple[str, ...]) -> Iterator[Row]:
    """The rows of the splits, one after the other; each split counts its rows from 1.

    Where the Hub cannot be reached, from the copies that `datasets` keeps.
    """
    try:
        import datasets
    except ImportError as error:
        raise FastsiaError(
            f"{path} comes from the Hub through the package 'datasets', which is not installed: "
            "pip install 'fastsia[datasets]', or give data_dir, a folder with the files."
        ) from error
    offline = datasets.config.HF_HUB_OFFLINE or hub_status(f"datasets/{path}/resolve/main/README.md") is None
    for split in splits:
        try:
            data = _load(datasets, path, config, split, offline)
        except Exception as error:  # its errors share no base class: no network, no such data set, a broken cache, ...
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            if offline and isinstance(error, ConnectionError):
                reason = "the Hub cannot be reached, and there is no copy in the local cache"
            raise FastsiaError(
                f"{path} ({split}) could not be loaded from the Hub: {reason.rstrip('.')}. "
                "Without a network give data_dir, a folder with the files."
            ) from error
        yield from dataset_rows(data, f"{path} ({split})")


def _load(datasets: Any, path: str, config: str | None, split: str, offline: bool) -> Any:
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = offline
    try:
        return datasets.load_dataset(path, config, split=split)
    finally:
        datasets.config.HF_HUB_OFFLINE = before
