"""Files written in one step, whole or not at all, and never through a link; and the JSON and parquet written so."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastsia.errors import FastsiaError, one_line

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that replaces it if the block succeeds, so that no half file is ever seen.

    Raises:
        FastsiaError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # it may be a link if others can write to the folder
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise FastsiaError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one step. NaN is refused: an undefined number must be null."""
    write_lines(path, [json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file in one step."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def write_parquet(path: Path, frames: pd.DataFrame | Iterable[pd.DataFrame]) -> Path:
    """Write a parquet file in one step, from one frame or from chunks of one; its path."""
    import pandas as pd  # slow to import, like pyarrow
    import pyarrow as pa
    import pyarrow.parquet as pq

    def typed(schema: pa.Schema) -> pa.Schema:
        """A column that is all null in the first chunk is text in later ones."""
        return pa.schema([pa.field(f.name, pa.string() if pa.types.is_null(f.type) else f.type) for f in schema])

    chunks = [frames] if isinstance(frames, pd.DataFrame) else frames
    with replacing(path) as temporary:
        writer: pq.ParquetWriter | None = None
        try:
            for chunk in chunks:
                schema = None if writer is None else writer.schema
                table = pa.Table.from_pandas(chunk, schema=schema, preserve_index=False)
                if writer is None:
                    writer = pq.ParquetWriter(temporary, typed(table.schema))
                writer.write_table(table.cast(writer.schema))
        except FastsiaError:
            raise
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise FastsiaError(f"{path} cannot be written: {one_line(' '.join(map(str, error.args)))}.") from error
        finally:
            if writer is not None:
                writer.close()
    return path


def refuse_links(directory: Path, names: Iterable[str]) -> None:
    """Raise if any of these names in a folder is a symbolic link, which could lead a write out of the folder.

    Raises:
        FastsiaError: naming the link.
    """
    for name in names:
        if (directory / name).is_symlink():
            raise FastsiaError(f"{directory / name} is a symbolic link; results are not written through links.")


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= flatten(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {f"{prefix}{key}": item}
    return found
