"""What a row of the GPU suite's results must contain. Further fields are allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

Seconds = Annotated[float, Field(gt=0)]
_strict = with_config(ConfigDict(strict=True))


@_strict
class Row(TypedDict):
    key: str
    kind: Literal["tests", "kernels", "case", "engine", "steady", "peer"]
    model: str | None
    name: str
    device: Literal["cuda", "cpu"]
    toy: bool
    status: Literal["ok", "skipped", "failed", "timeout"]
    reason: str | None
    wall_seconds: float
    result: Any
    commit: Any
    versions: dict[str, Any]


@_strict
class Part(TypedDict):
    problems: Any
    checkpoints: Any
    scale: Any


@_strict
class Agreement(TypedDict):
    excess_nats: Any
    excess_nats_generate: Any
    excess_error: Any
    outside: Any
    p_value: Annotated[float, Field(le=1)]
    agrees: bool


@_strict
class Peer(TypedDict):
    weights: str
    head_entropy: float | None
    work: Any
    part: Part
    seconds: Seconds
    whole_seconds: Seconds
    tokens_per_s: Any
    agreement: Agreement
    all_seconds: NotRequired[Annotated[list[float], Field(min_length=1)]]


@_strict
class Run(TypedDict):
    seconds: Seconds
    computed_tokens_per_s: float
    tokens_per_s: float
    counters: dict[str, int]


@_strict
class Steady(TypedDict):
    rows: Any
    prefix: Any
    suffix: Any
    rates: Any
    fraction_of_floor: Seconds
    fraction_of_own_floor: Seconds
    product_ms_per_step: Seconds
    decode: Run
    work: Run | None
    parts_ms_per_step: dict[str, float]
    memory: dict[str, int]


@_strict
class Case(TypedDict):
    us: dict[str, float]
    floor_us: Seconds
    times_floor: Seconds


@_strict
class Kernels(TypedDict):
    cases: int
    failures: list[str]


@_strict
class Engine(TypedDict):
    engine: dict[str, Any]
    rows: int
    make_seconds: Seconds
    captures: int
    ms_per_step: Seconds
    kernel_ms_per_step: float
    kernels: Annotated[list[dict[str, Any]], Field(min_length=1)]


@_strict
class Tests(TypedDict):
    counts: dict[str, int]
    exit: int
    cut: bool
    output: str


_ROW = TypeAdapter(Row)
_RESULTS: Mapping[str, TypeAdapter[Any]] = {
    "peer": TypeAdapter(Peer),
    "steady": TypeAdapter(Steady),
    "kernels": TypeAdapter(Kernels),
    "case": TypeAdapter(Case),
    "engine": TypeAdapter(Engine),
    "tests": TypeAdapter(Tests),
}


def validate(row: Mapping[str, Any]) -> None:
    """Raise pydantic's ValidationError for a row that lacks a field or has one of another type."""
    _ROW.validate_json(json.dumps(row))
    if row["status"] == "ok":
        _RESULTS[row["kind"]].validate_json(json.dumps(row["result"]))
