"""Data sets from the Hugging Face Hub, through the optional `datasets` package."""

from __future__ import annotations

from collections.abc import Iterator

from fastsia.config import FastsiaError
from fastsia.tasks.rows import Row, dataset_rows


def hub_rows(path: str, config: str | None, splits: tuple[str, ...]) -> Iterator[Row]:
    """The rows of the splits, one after the other; each split counts its rows from 1."""
    try:
        import datasets
    except ImportError as error:
        raise FastsiaError(
            f"{path} comes from the Hub through the package 'datasets', which is not installed: "
            "pip install 'fastsia[datasets]', or give data_dir, a folder with the files."
        ) from error
    for split in splits:
        try:
            data = datasets.load_dataset(path, config, split=split)
        except Exception as error:  # its errors share no base class: no network, no such data set, a broken cache, ...
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise FastsiaError(
                f"{path} ({split}) could not be loaded from the Hub: {reason.rstrip('.')}. "
                "Without a network give data_dir, a folder with the files."
            ) from error
        yield from dataset_rows(data, f"{path} ({split})")
