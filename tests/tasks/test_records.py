"""Every error in a file names file and row; everything legal in JSON lines is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastsia.errors import FastsiaError
from fastsia.tasks.records import Record, read_records

GOOD = '{"question": "1 + 1?", "answer": 2}'


def write(folder: Path, content: bytes, name: str = "mine.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_crlf_bom_blank_lines_and_a_missing_last_newline_read(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + GOOD.encode() + b"\r\n\r\n" + GOOD.encode()
    assert [row.number for row in read_records(write(tmp_path, content))] == [1, 3]


def test_a_line_separator_inside_a_text_is_no_line_end(tmp_path: Path) -> None:
    """str.splitlines would cut the row in two."""
    content = '{"question": "a\u2028b\x85c", "answer": 2}\n'.encode()
    assert [row.fields["question"] for row in read_records(write(tmp_path, content))] == ["a\u2028b\x85c"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"question": ', "not valid JSON"),
        (b'["question", "answer"]', "expected a JSON object"),
        (b"17", "expected a JSON object"),
        (b'{"question": "caf\xe9", "answer": 2}', "not valid UTF-8"),
        (b"[" * 100_000, "nested too deeply|not valid JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = write(tmp_path, GOOD.encode() + b"\n" + line + b"\n" + GOOD.encode())
    with pytest.raises(FastsiaError, match=rf"mine\.jsonl, row 2: .*({message})"):
        list(read_records(path))


def test_an_array_file_counts_its_elements(tmp_path: Path) -> None:
    path = write(tmp_path, f"[{GOOD}, 3]".encode(), "mine.json")
    with pytest.raises(FastsiaError, match=r"mine\.json, row 2: expected a JSON object"):
        list(read_records(path))
    with pytest.raises(FastsiaError, match="one JSON array"):
        list(read_records(write(tmp_path, GOOD.encode(), "object.json")))


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FastsiaError, match="cannot be read"):
        list(read_records(tmp_path / "absent.jsonl"))


@pytest.mark.parametrize(
    ("value", "message"),
    [(None, "is null"), (7, "must be a text"), ("  ", "is empty"), (["a"], "must be a text")],
)
def test_text_fields(value: object, message: str) -> None:
    with pytest.raises(FastsiaError, match=f"f, row 3: field 'question' {message}"):
        Record("f", 3, {"question": value}).text("question")


def test_a_missing_field_suggests_the_nearest() -> None:
    with pytest.raises(FastsiaError, match=r"f, row 3: field 'question' is missing; did you mean qestion"):
        Record("f", 3, {"qestion": "?"}).text("question")


@pytest.mark.parametrize(
    ("value", "text"),
    [(51.0, "51.0"), (1e22, "10000000000000000000000"), (1e-7, "0.0000001"), (-3, "-3"), (" 4 ", "4")],
)
def test_numbers_become_plain_digits(value: object, text: str) -> None:
    """repr(1e22) is "1e+22", which no answer format reads."""
    assert Record("f", 1, {"answer": value}).text_or_number("answer") == text


@pytest.mark.parametrize("value", [True, float("nan"), float("inf"), ["4"], {}])
def test_what_is_no_text_or_number(value: object) -> None:
    with pytest.raises(FastsiaError, match="f, row 1: field 'answer'"):
        Record("f", 1, {"answer": value}).text_or_number("answer")
