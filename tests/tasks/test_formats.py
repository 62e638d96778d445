"""Tables and compressed files give the same problems as JSON lines; every error names file and row."""

from __future__ import annotations

import csv
import gzip
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastsia.errors import FastsiaError
from fastsia.tasks import load_task
from fastsia.tasks.records import read_records

ROWS: list[dict[str, Any]] = [
    {"id": "001", "question": "NA", "answer": "007", "note": ""},
    {"id": "nan", "question": 'She says "2, 3".\nWhat is 2 + 3?', "answer": "5", "note": "None"},
    {"id": "1.0", "question": "Was ist ½ · 84?\u2028", "answer": "42.0", "note": "#N/A"},
]


def table(rows: list[dict[str, Any]], separator: str, end: str = "\n") -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, rows[0], delimiter=separator, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


BOM = b"\xef\xbb\xbf"
FILES = {
    "mine.csv": table(ROWS, ","),
    "mine.CSV": table(ROWS, ",", "\r\n"),
    "mine.tsv": table(ROWS, "\t"),
    "mine.jsonl.gz": gzip.compress(json_lines(ROWS), mtime=0),
    "mine.ndjson": json_lines(ROWS),
    "mine.csv.gz": gzip.compress(BOM + table(ROWS, ","), mtime=0),
    "mine.tsv.gz": gzip.compress(table(ROWS, "\t"), mtime=0),
    "mine.json": json.dumps(ROWS, indent=1).encode(),
    "mine.json.gz": gzip.compress(BOM + json.dumps(ROWS).encode(), mtime=0),
    "mine.parquet": parquet(ROWS),
}


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_problems(name: str, tmp_path: Path) -> None:
    """pandas would read "NA" and "nan" as null, "007" as 7 and "001" as 1."""
    path = write(tmp_path, name, FILES[name])
    assert [dict(row.fields) for row in read_records(path)] == ROWS
    task = load_task(path)
    assert task.name == "mine"
    assert [(p.id, p.question, p.gold) for p in task.problems] == [
        ("001", "NA", "7"),
        ("nan", 'She says "2, 3".\nWhat is 2 + 3?', "5"),
        ("1.0", "Was ist ½ · 84?", "42"),
    ]
    assert load_task(path, limit=2).problems == task.problems[:2]


def test_empty_cells_are_no_values(tmp_path: Path) -> None:
    content = b'id,question,choices,answer\n,How many?,,4\nsky,Sky?,"[""green"", ""blue""]",B\n\n,Last?,,5\n'
    problems = load_task(write(tmp_path, "mine.csv", content)).problems
    assert [(p.id, p.choices, p.gold) for p in problems] == [
        ("row-1", None, "4"),
        ("sky", ("green", "blue"), "B"),
        ("row-4", None, "5"),  # a blank line counts
    ]


def test_options_in_a_cell_and_in_columns(tmp_path: Path) -> None:
    mapping = json.dumps({"text": ["red", "green"], "label": ["1", "0"]})
    path = write(tmp_path, "cell.tsv", table([{"question": "?", "choices": mapping, "answer": "0"}], "\t"))
    assert [(p.choices, p.gold) for p in load_task(path).problems] == [(("red", "green"), "B")]
    path = write(tmp_path, "numpy.csv", table([{"question": "?", "choices": "['red' 'green']", "answer": "B"}], ","))
    with pytest.raises(
        FastsiaError, match=r"numpy\.csv, row 1: field 'choices' must be a list of texts, got \"\['red'"
    ):
        load_task(path)
    rows = [
        {"q": "?", "opa": "1", "opb": "01", "opc": "", "cop": "1"},
        {"q": "!", "opa": "a", "opb": "b", "opc": "c", "cop": "2"},
    ]
    columns = {"question": "q", "choices": "opa+opb+opc", "answer": "cop"}
    problems = load_task(write(tmp_path, "columns.csv", table(rows, ",")), columns=columns, answer_base=0).problems
    assert [(p.choices, p.gold) for p in problems] == [(("1", "01"), "B"), (("a", "b", "c"), "C")]


def test_parquet_values_keep_their_types_or_are_refused(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": 7, "question": "?", "answer": 5, "choices": None, "extra": None},
        {"id": None, "question": "?", "answer": None, "choices": ["red", "green"], "extra": None},
    ]
    path = write(tmp_path, "mine.parquet", parquet(rows))
    with pytest.raises(FastsiaError, match=r"mine\.parquet, row 2: field 'answer' is null"):
        load_task(path)
    assert [(p.id, p.gold) for p in load_task(path, limit=1).problems] == [("7", "5")]
    rows = [{"question": "?", "answer": Decimal("2.50")}]
    assert load_task(write(tmp_path, "decimal.parquet", parquet(rows))).problems[0].gold == "2.5"
    rows = [{"question": "?", "answer": b"\xff"}]
    with pytest.raises(FastsiaError, match=r"bytes\.parquet, row 1: field 'answer' must be a text or a number"):
        load_task(write(tmp_path, "bytes.parquet", parquet(rows)))
    frame = pd.DataFrame({"question": ["?", "?"], "answer": [1.0, None], "choices": [["a", "b"], ["a", "b"]]})
    frame.to_parquet(tmp_path / "gap.parquet")
    with pytest.raises(FastsiaError, match=r"gap\.parquet, row 2: field 'answer' is null"):
        load_task(tmp_path / "gap.parquet", answer_base=0)
    assert load_task(tmp_path / "gap.parquet", answer_base=0, limit=1).problems[0].gold == "B"


ROW = b'{"question": "1 + 1?", "answer": 2}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"question,answer\n1 + 1?,2\n1,2,3\n", r"a\.csv, row 2: 3 cells, but the header has 2"),
        ("a.csv", b"question,answer\n1 + 1?\n", r"a\.csv, row 1: 1 cells, but the header has 2"),
        ("a.csv", b'question,answer\n"a" b,2\n', r"a\.csv, row 1: not valid csv \(',' expected after '\"'\)"),
        ("a.csv", b'question,answer\na,1\n"b,2\nc,3\n', r"a\.csv, row 2: not valid csv \(unexpected end of data\)"),
        ("a.csv", b"question,answer\na,1\ncaf\xe9,2\n", r"a\.csv, row 2: not valid UTF-8"),
        ("a.csv", b"question,answer,answer\n?,1,2\n", r"a\.csv has 2 columns named 'answer'"),
        (
            "a.csv",
            b"question;answer\n?;1\n",
            r"a\.csv has one column, 'question;answer': cells must be separated by commas",
        ),
        ("a.tsv", b"question,answer\n?,1\n", r"a\.tsv has one column, 'question,answer': .* by tabs in \.tsv"),
        ("a.csv", b"question,answer\n?,\n", r"a\.csv, row 1: field 'answer' is empty"),
        (
            "a.csv",
            b"question,anser\n?,1\n",
            r"a\.csv, row 1: field 'answer' is missing; did you mean anser",
        ),
        ("a.csv", b"question,answer\n", r"a\.csv contains no problems"),
        ("a.csv", b"", r"a\.csv contains no problems"),
        ("a.parquet", b"", r"a\.parquet cannot be read as parquet: [^\n]*\.$"),
        ("a.parquet", b"PAR1" * 20, r"a\.parquet cannot be read as parquet: [^\n]*\.$"),
        ("a.parquet", ROW, r"a\.parquet cannot be read as parquet: [^\n]*\.$"),
        ("a.jsonl.gz", ROW, r"a\.jsonl\.gz cannot be read: Not a gzipped file"),
        (
            "a.jsonl.gz",
            gzip.compress(ROW * 99, mtime=0)[:-9],
            r"a\.jsonl\.gz cannot be read: its compressed data is damaged",
        ),
        ("a.jsonl.gz", gzip.compress(ROW + b"{\n", mtime=0), r"a\.jsonl\.gz, row 2: not valid JSON"),
        ("a.jsonl", b"[" + ROW + b"]", r"a\.jsonl, row 1: a JSON array begins here; .* name the file \.json"),
        ("a.jsonl", b"\n [\n" + ROW + b"]", r"a\.jsonl, row 2: a JSON array begins here"),
        ("a.json", ROW + ROW, r"a\.json must contain one JSON array of objects; JSON lines belong in a \.jsonl file"),
        ("a.txt", ROW, r"a\.txt must be a \.jsonl, \.ndjson, \.json, \.csv, \.tsv or \.parquet file"),
        ("a.xlsx", ROW, r"a\.xlsx must be a \.jsonl"),
        ("a.parquet.gz", ROW, r"a\.parquet\.gz must be a \.jsonl"),
        ("a.gz", gzip.compress(ROW, mtime=0), r"a\.gz must be a \.jsonl"),
        ("jsonl", ROW, r"jsonl must be a \.jsonl"),
    ],
)
def test_a_mistake_is_one_sentence_with_file_and_row(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(FastsiaError, match=message) as error:
        load_task(path)
    assert "\n" not in str(error.value)


def test_two_columns_of_one_name_in_parquet(tmp_path: Path) -> None:
    names = pa.schema([("answer", pa.int64()), ("answer", pa.int64())])
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], schema=names), tmp_path / "twice.parquet")
    with pytest.raises(FastsiaError, match=r"twice\.parquet has 2 columns named 'answer'"):
        load_task(tmp_path / "twice.parquet")


@pytest.mark.parametrize("name", ["absent.csv", "absent.parquet", "absent.jsonl.gz"])
def test_a_file_that_is_not_there_is_no_unknown_task(name: str) -> None:
    with pytest.raises(FastsiaError, match=rf"dataset {name} is not a file"):
        load_task(name)
    with pytest.raises(FastsiaError, match=rf"dataset folder/{name} is not a file\.$"):
        load_task(f"folder/{name}")
