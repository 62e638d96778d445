"""Whatever is given, the answer is a right result or one sentence (`FastsiaError`), never a traceback."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastsia import FastsiaError, Problem, SamplingParams, SIAConfig, analyze
from fastsia.sia.table import storable
from fastsia.tasks import load_task

FUZZ = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
LONG = "9" * 5000
HEAD = "problem_id,trajectory,checkpoint,rollout,answer,gold"
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["A", "1", "#### 3", ""])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(["text", "label", "stem", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = ["question", "answer", "choices", "id", "answerKey", "Body", "Question", "Answer", "ID", "Equation"]
FIELDS += ["labels", "problem", "unique_id", "solution"]
ROWS = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=7)


def one_sentence(error: BaseException, begins: str = "") -> None:
    text = str(error)
    assert text.startswith(begins or text[0])
    assert "\n" not in text
    assert len(text) < 2000, text[:200]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "rows.jsonl"


def load(path: Path, data: bytes, answer_format: Any = None) -> None:
    path.write_bytes(data)
    try:
        task = load_task(path, answer_format=answer_format)
    except FastsiaError as error:
        one_sentence(error)
        return
    assert len({problem.id for problem in task.problems}) == len(task) > 0
    for problem in task.problems:
        problem.question.encode(), problem.id.encode()


@FUZZ
@given(
    rows=st.lists(ROWS, min_size=1, max_size=4),
    answer_format=st.sampled_from([None, "number", "choice", "boxed", 3, []]),
)
@example(rows=[{"question": "?", "choices": {"text": ["a", "b"], "label": 5}, "answerKey": "A"}], answer_format=None)
@example(rows=[{"question": "?", "choices": ["a", "b"], "answer": "A", "id": "\ud800"}], answer_format=None)
@example(rows=[{"question": "half \udc00", "answer": "1"}], answer_format=None)
@example(rows=[{"question": "?", "answer": "x" * 10**6}], answer_format=None)
@example(rows=[{"question": "?", "answer": ["y" * 10**6]}], answer_format=None)
@example(rows=[{"question": "\x00", "answer": "1"}], answer_format=None)
def test_rows_of_any_shape(rows: list[dict[str, Any]], answer_format: Any, file: Path) -> None:
    load(file, "".join(json.dumps(row) + "\n" for row in rows).encode(), answer_format)


@FUZZ
@given(data=st.binary(max_size=200))
@example(data=b'{"question": "?", "answer": ' + LONG.encode() + b"}")
@example(data=b"[" * 100_000)
@example(data=b'{"question": "?", "answer": 1e400}')
@example(data=b'\xff\xfe{"question": "utf-16"}')
@example(data=b'{"question": "?", "answer": NaN}')
def test_bytes_of_any_kind(data: bytes, file: Path) -> None:
    load(file, data)
    for ending in (".json", ".csv", ".tsv", ".jsonl.gz", ".parquet"):
        load(file.with_suffix(ending), data)


@FUZZ
@given(at=st.integers(0, 2000), with_=st.binary(min_size=1, max_size=3))
def test_packed_files_with_a_few_bytes_changed(at: int, with_: bytes, file: Path) -> None:
    rows = pd.DataFrame({"question": ["?", "!"], "choices": [["a", "b"], None], "answer": ["B", "3"]})
    packed = {
        ".parquet": rows.to_parquet(),
        ".jsonl.gz": gzip.compress(rows.to_json(orient="records", lines=True).encode(), mtime=0),
    }
    for ending, data in packed.items():
        at %= len(data)
        load(file.with_suffix(ending), data[:at] + with_ + data[at + len(with_) :])


@FUZZ
@given(text=st.text(max_size=30), at=st.integers(0, 200), with_=st.binary(max_size=3))
def test_a_good_file_with_a_few_bytes_changed(text: str, at: int, with_: bytes, file: Path) -> None:
    rows = [{"question": text or "?", "answer": 3, "id": i} for i in range(3)]
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogatepass")
    load(file, data[:at] + with_ + data[at + len(with_) :])


ODD = st.one_of(
    VALUES,
    st.sampled_from(
        [
            math.nan,
            math.inf,
            -1,
            0,
            1 << 70,
            1e308,
            "true",
            b"x",
            object(),
            np.float32(0.5),
            np.array([1, 2]),
            np.array(["new", "total"]),
            {1},
            print,
        ]
    ),
)


@FUZZ
@given(field=st.sampled_from([*SIAConfig.__dataclass_fields__]), value=ODD)
def test_any_value_of_any_setting(field: str, value: Any) -> None:
    try:
        SIAConfig(**{field: value})
    except FastsiaError as error:
        one_sentence(error, field)


@FUZZ
@given(field=st.sampled_from([*SamplingParams.__dataclass_fields__]), value=ODD)
def test_any_value_of_any_sampling_parameter(field: str, value: Any) -> None:
    try:
        SamplingParams(**{field: value})
    except FastsiaError as error:
        one_sentence(error, field)


@FUZZ
@given(field=st.sampled_from([*Problem.__dataclass_fields__]), value=ODD)
def test_any_value_of_any_field_of_a_problem(field: str, value: Any) -> None:
    try:
        load_task([Problem(**({"id": "p", "question": "?", "gold": "1"} | {field: value}))])
    except FastsiaError as error:
        one_sentence(error)


# --- tables of others ------------------------------------------------------------------------------------------

CELLS: dict[str, Any] = {
    "problem_id": st.sampled_from(["p", "q", 1, 1.0, "", None, [1], "\u202e"]),
    "trajectory": st.sampled_from([0, 1, "0", 0.5, None, -1, 10**30, [0]]),
    "checkpoint": st.sampled_from([0, 4, 8, 10**12, 2**70, "4", 1e300, math.inf, None, True]),
    "rollout": st.sampled_from([0, 1, 2, 3, 7, "1", -2, math.nan]),
    "answer": st.sampled_from(["1", "2", None, "", 1, 1.0, math.nan, {"a": 1}, "<b>", "x" * 100_000]),
    "gold": st.sampled_from(["1", 1, 1.0, None, "", "2"]),
    "correct": st.sampled_from([True, False, "true", "no", 1, None, 2]),
    "finish_reason": st.sampled_from(["eos", "length", "error", None, 3]),
    "num_tokens": st.sampled_from([0, 3, -1, None, "x"]),
    "ride_tokens": st.sampled_from([0, 2, -1, None]),
}
PLAIN: dict[str, Any] = {
    "problem_id": st.sampled_from(["p", "q", 1]),
    "trajectory": st.integers(0, 1),
    "checkpoint": st.sampled_from([0, 4, 8, 10**9]),
    "rollout": st.integers(0, 3),
    "answer": st.sampled_from(["1", "2", None]),
    "gold": st.just("1"),
    "finish_reason": st.sampled_from(["eos", "length", "error"]),
    "num_tokens": st.integers(0, 3),
}


@st.composite
def tables(draw: Any) -> pd.DataFrame:
    """Mostly right rows, some columns odd or absent."""
    odd = draw(st.sets(st.sampled_from([*CELLS]), max_size=2))
    columns = {name: (CELLS if name in odd else PLAIN)[name] for name in CELLS if name in odd or name in PLAIN}
    for name in draw(st.sets(st.sampled_from([*columns]), max_size=1)):
        del columns[name]
    rows = draw(st.lists(st.fixed_dictionaries(columns), max_size=14))
    frame = pd.DataFrame(rows, columns=[*columns])
    if draw(st.booleans()) and {"problem_id", "trajectory", "checkpoint", "rollout"} <= set(columns):
        keys = ["problem_id", "trajectory", "checkpoint", "rollout"]
        frame = frame.loc[~frame[keys].astype(str).duplicated()]
    return frame


def score(table: Any) -> None:
    try:
        found = analyze(table, config={"num_bootstrap": 4, "num_splits": 2})
    except FastsiaError as error:
        one_sentence(error)
        return
    json.dumps(found.summary, allow_nan=False)
    assert (found.checkpoints["entropy"] >= 0).all()
    assert found.checkpoints["num_rollouts"].sum() <= len(found.rollouts)
    pa.Table.from_pandas(storable(found.rollouts))


@FUZZ
@given(table=tables(), suffix=st.sampled_from(["", ".csv", ".jsonl", ".parquet"]))
def test_tables_of_any_content(table: pd.DataFrame, suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    if not suffix:
        return score(table)
    path = tmp_path_factory.getbasetemp() / f"table{suffix}"
    try:
        if suffix == ".csv":
            table.to_csv(path, index=False)
        elif suffix == ".jsonl":
            path.write_text("".join(json.dumps(row, default=str) + "\n" for row in table.to_dict("records")))
        else:
            table.to_parquet(path)
    except (ValueError, TypeError, OverflowError, NotImplementedError):
        return None  # pandas does not write mixed columns to parquet
    return score(path)


@FUZZ
@given(data=st.binary(max_size=300), suffix=st.sampled_from([".csv", ".jsonl", ".parquet"]))
@example(data=b"[" * 100_000, suffix=".jsonl")
@example(data=b'{"a": ' + LONG.encode() + b"}", suffix=".jsonl")
@example(data=b"PAR1" + b"\x00" * 60 + b"PAR1", suffix=".parquet")
@example(data=b'a,b\n"unclosed', suffix=".csv")
@example(data=f"{HEAD}\np,0,0,0,{LONG},1\n".encode(), suffix=".csv")
def test_files_of_any_bytes(data: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / f"bytes{suffix}"
    path.write_bytes(data)
    score(path)


@FUZZ
@given(cut=st.integers(0, 4000), flip=st.integers(0, 4000))
def test_a_damaged_parquet_file(cut: int, flip: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.parquet"
    keys = [(p, c, r) for p in "ab" for c in (0, 4, 8) for r in range(4)]
    frame = pd.DataFrame(keys, columns=["problem_id", "checkpoint", "rollout"])
    frame.assign(trajectory=0, answer="1", gold="1").to_parquet(path)
    data = bytearray(path.read_bytes())
    data[flip % len(data)] ^= 0x10
    path.write_bytes(data[: len(data) - cut % 50 * (cut > 2000)])
    score(path)
